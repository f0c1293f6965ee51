"""Headers that become a message's metadata."""

from __future__ import annotations

import pytest
from django.test import AsyncRequestFactory, RequestFactory

from hubs.rest import metadata
from hubs.rest.exceptions import BadRequest

P = "X-WebPubSub-Metadata-"


def of(*headers: tuple[str, str]):
    """As a server gives them: every header as it came, doubles too."""
    request = AsyncRequestFactory().get("/")
    request.scope["headers"] = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return metadata.of_request(request)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([("X-WebPubSub-Meta", "a"), ("Metadata-a", "b")], None),
        ([(f"{P}Trace-Id", "7 a")], {"trace-id": "7 a"}),
        ([(f"{P.lower()}a", "1"), (f"{P.upper()}B", "2")], {"a": "1", "b": "2"}),
        ([(f"{P}a_b", "1"), (f"{P}a-b", "2")], {"a_b": "1", "a-b": "2"}),
        ([(f"{P}a", "1"), (f"{P}A", "2")], {"a": "2"}),
        ([(f"{P}a", "1, 2 ,3")], {"a": "3"}),
        ([(f"{P}a", "")], {"a": ""}),
        ([(P, "no key")], None),
        ([(P, "no key"), (f"{P}a", "1")], {"a": "1"}),
        ([(f"{P}{'k' * 256}", "v" * 1024)], {"k" * 256: "v" * 1024}),
        ([(f"{P}!#$%&'*+.^`|~1", "x")], {"!#$%&'*+.^`|~1": "x"}),
    ],
)
def test_metadata(headers, expected):
    assert of(*headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        [(f"{P}a b", "x")],
        [(f"{P}a", "ü")],
        [(f"{P}{'k' * 257}", "x")],
        [(f"{P}a", "v" * 1025)],
        [(f"{P}{n}", "v" * 1020) for n in range(9)],
    ],
)
def test_what_is_no_metadata(headers):
    with pytest.raises(BadRequest) as refused:
        of(*headers)
    assert refused.value.target == "Request"


def test_servers_without_a_scope():
    request = RequestFactory().get("/", headers={f"{P}Trace-Id": "7"})
    assert metadata.of_request(request) == {"trace-id": "7"}
