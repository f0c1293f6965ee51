"""Metadata of a message, from the request's headers `X-WebPubSub-Metadata-<key>: <value>`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from django.http import HttpRequest

from hubs.protocols.metadata import MAX_KEY_BYTES, MAX_TOTAL_BYTES, MAX_VALUE_BYTES, is_metadata
from hubs.rest.exceptions import BadRequest

PREFIX = "x-webpubsub-metadata-"
_PREFIX_BYTES = PREFIX.encode()


def of_request(request: HttpRequest) -> Mapping[str, str] | None:
    """Give the metadata, keys in lower case; None when there is none. Raises BadRequest.

    A header that repeats, or lists several values with commas, says its last value. One without a key is ignored.
    """
    metadata: dict[str, str] = {}
    for key, value in _headers(request):
        if not key:
            continue
        # Taken out first, so that the order is the one of the last values too.
        metadata.pop(key, None)
        metadata[key] = value.rpartition(",")[2].strip()
    if not is_metadata(metadata.items()):
        raise BadRequest(
            f"Metadata headers have keys of 1 to {MAX_KEY_BYTES} characters and ASCII values of at most "
            f"{MAX_VALUE_BYTES}, {MAX_TOTAL_BYTES} in total."
        )
    return metadata or None


def _headers(request: HttpRequest) -> Iterator[tuple[str, str]]:
    """Keys and values as they came: Django's own mapping takes `_` and `-` for the same, and some keys have both."""
    scope = getattr(request, "scope", None)
    if scope is None:
        for name, value in request.headers.items():
            if name.lower().startswith(PREFIX):
                yield name.lower().removeprefix(PREFIX), value
        return
    for name, value in scope.get("headers", ()):
        if name[: len(PREFIX)].lower() == _PREFIX_BYTES:
            yield name[len(PREFIX) :].decode("latin-1").lower(), value.decode("latin-1")
