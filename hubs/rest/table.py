"""The table of the data plane, and the one view that routes by it.

A row says which method on which path calls which verb. Django's URL table sends everything below
`/api/hubs` and `/api/health` here; the path is matched segment by segment against the templates, on the raw
path (hubs/rest/paths.py says why). To add an operation, add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from hubs.rest import exceptions, versions
from hubs.rest.paths import raw_path, segments
from hubs.rest.views import ClientTokens, Connections, DataPlane, Health, Permissions

_MAX_ECHOED_CHARACTERS = 256


class Row(NamedTuple):
    """One operation. `missing` is the error code when its target is not there, `too_many` the status at a bound."""

    method: str
    path: str
    view: type[DataPlane]
    verb: str
    missing: str = ""
    too_many: HTTPStatus = HTTPStatus.TOO_MANY_REQUESTS


_HUB = "/api/hubs/{hub}"
_CONNECTION = f"{_HUB}/connections/{{connection_id}}"
_PERMISSION = f"{_HUB}/permissions/{{permission}}/connections/{{connection_id}}"

ROWS = (
    Row("HEAD", "/api/health", Health, "check"),
    Row("GET", "/api/health", Health, "check"),
    Row("POST", f"{_HUB}/:generateToken", ClientTokens, "generate"),
    Row("HEAD", _CONNECTION, Connections, "exists", missing="Warning.Connection.NotExisted"),
    Row("DELETE", _CONNECTION, Connections, "close"),
    Row("HEAD", _PERMISSION, Permissions, "check", missing="Info.Connection.NotExisted"),
    Row("PUT", _PERMISSION, Permissions, "grant", "Info.Connection.NotExisted", HTTPStatus.CONFLICT),
    Row("DELETE", _PERMISSION, Permissions, "revoke", too_many=HTTPStatus.CONFLICT),
)


class Template:
    """The path of one or more rows. A segment in braces takes any text; others are the same in any letter case."""

    def __init__(self, path: str) -> None:
        self._parts = segments(path)
        self._names = {at: part[1:-1] for at, part in enumerate(self._parts) if part.startswith("{")}
        self.views: dict[str, Callable[..., HttpResponse]] = {}

    def match(self, path: tuple[str, ...]) -> dict[str, str] | None:
        """Give what stands in the braces' places; None when the path is another."""
        if len(path) != len(self._parts):
            return None
        for at, (part, given) in enumerate(zip(self._parts, path, strict=True)):
            if (not given) if at in self._names else (part.lower() != given.lower()):
                return None
        return {name: path[at] for at, name in self._names.items()}


def _templates() -> tuple[Template, ...]:
    by_path: dict[str, Template] = {}
    for row in ROWS:
        template = by_path.setdefault(row.path, Template(row.path))
        template.views[row.method] = row.view.as_view({row.method.lower(): row.verb}, row=row)
    return tuple(by_path.values())


_TEMPLATES = _templates()


def find(path: tuple[str, ...]) -> tuple[Mapping[str, Callable[..., HttpResponse]], dict[str, str]] | None:
    """Give the views of a path by method, and what its braces hold; None when no row has such a path."""
    for template in _TEMPLATES:
        arguments = template.match(path)
        if arguments is not None:
            return template.views, arguments
    return None


@csrf_exempt
def data_plane(request: HttpRequest) -> HttpResponse:
    """Answer a request by the table. Tokens, not cookies, say who asks, so there is nothing to forge across sites."""
    response = _answer(request)
    response.headers.setdefault(*versions.SUPPORTED_HEADER)
    asked_by = request.headers.get("x-ms-client-request-id", "")
    if asked_by.isascii() and asked_by.isprintable() and 0 < len(asked_by) <= _MAX_ECHOED_CHARACTERS:
        response.headers["x-ms-client-request-id"] = asked_by
    return response


def _answer(request: HttpRequest) -> HttpResponse:
    try:
        found = find(segments(raw_path(request)))
    except UnicodeDecodeError:
        return exceptions.error(HTTPStatus.BAD_REQUEST, "The path is not UTF-8.", target="Request")
    if found is None:
        return exceptions.error(HTTPStatus.NOT_FOUND, "There is no such operation. Check the path.", target="Request")
    views, arguments = found
    view: Any = views.get(request.method or "")
    if view is None:
        methods = ", ".join(sorted(views))
        return exceptions.error(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"{request.method} is not possible here; possible: {methods}.",
            target="Request",
            headers={"Allow": methods},
        )
    response: HttpResponse = view(request, **arguments)
    return response
