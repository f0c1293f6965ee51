"""The table of the data plane, and the one view that routes by it.

Rows that send a message are also answered by hubs/rest/fast_path.py, which stands in front of Django.

A row says which method on which path calls which verb. Django's URL table sends everything below
`/api/hubs` and `/api/health` here; the path is matched segment by segment against the templates, on the raw
path (hubs/rest/paths.py says why). To add an operation, add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from hubs.rest import exceptions, versions
from hubs.rest.data_plane import DataPlane
from hubs.rest.paths import raw_path, segments
from hubs.rest.views import ClientTokens, Connections, Everybody, Groups, Health, Permissions, Users

REQUEST_ID_HEADER = "x-ms-client-request-id"
_MAX_ECHOED_CHARACTERS = 256


class Row(NamedTuple):
    """One operation. `ok` is its status when done, `options` the query parameters that go on to its verb.

    `missing` is the error code when its target is not there, `too_many` the status at a bound. `sends`: what
    the body's message is handed to, a verb of `hubs.operations`; such a row is also answered by the fast path.
    """

    method: str
    path: str
    view: type[DataPlane]
    verb: str
    ok: HTTPStatus = HTTPStatus.OK
    missing: str = ""
    options: tuple[str, ...] = ()
    too_many: HTTPStatus = HTTPStatus.TOO_MANY_REQUESTS
    sends: str = ""


_ACCEPTED, _NO_CONTENT, _CONFLICT = HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT, HTTPStatus.CONFLICT

_TO_ONE = ("messageTtlSeconds",)
_TO_A_USER = ("filter", *_TO_ONE)
_TO_MANY = ("excluded", *_TO_A_USER)
_CLOSE_ONE = ("reason",)
_CLOSE_MANY = ("excluded", *_CLOSE_ONE)

# Error codes, as the cloud service words them.
_NO_CONNECTION = "Error.Connection.NotExisted"
_CONNECTION_GONE = "Warning.Connection.NotExisted"
_PERMISSION_GONE = "Info.Connection.NotExisted"
_GROUP_GONE = "Warning.Group.NotExisted"
_USER_GONE = "Warning.User.NotExisted"

_HUB = "/api/hubs/{hub}"
_CONNECTION = f"{_HUB}/connections/{{connection_id}}"
_GROUP = f"{_HUB}/groups/{{group}}"
_MEMBER = f"{_GROUP}/connections/{{connection_id}}"
_PERMISSION = f"{_HUB}/permissions/{{permission}}/connections/{{connection_id}}"
_USER = f"{_HUB}/users/{{user_id}}"
_USER_GROUP = f"{_USER}/groups/{{group}}"

ROWS = (
    Row("HEAD", "/api/health", Health, "check"),
    Row("GET", "/api/health", Health, "check"),
    Row("POST", f"{_HUB}/:generateToken", ClientTokens, "generate"),
    Row("POST", f"{_HUB}/:send", Everybody, "send", _ACCEPTED, options=_TO_MANY, sends="send_to_all"),
    Row("POST", f"{_HUB}/:closeConnections", Everybody, "close", _NO_CONTENT, options=_CLOSE_MANY),
    Row("POST", f"{_HUB}/:addToGroups", Everybody, "add_to_groups", too_many=_CONFLICT),
    Row("POST", f"{_HUB}/:removeFromGroups", Everybody, "remove_from_groups"),
    Row("HEAD", _CONNECTION, Connections, "exists", missing=_CONNECTION_GONE),
    Row("DELETE", _CONNECTION, Connections, "close", _NO_CONTENT, options=_CLOSE_ONE),
    Row("POST", f"{_CONNECTION}/:send", Connections, "send", _ACCEPTED, options=_TO_ONE, sends="send_to_connection"),
    Row("DELETE", f"{_CONNECTION}/groups", Connections, "leave_all", _NO_CONTENT),
    Row("HEAD", _GROUP, Groups, "exists", missing=_GROUP_GONE),
    Row("POST", f"{_GROUP}/:send", Groups, "send", _ACCEPTED, options=_TO_MANY, sends="send_to_group"),
    Row("POST", f"{_GROUP}/:closeConnections", Groups, "close", _NO_CONTENT, options=_CLOSE_MANY),
    Row("GET", f"{_GROUP}/connections", Groups, "connections"),
    Row("PUT", _MEMBER, Groups, "add", missing=_NO_CONNECTION, too_many=_CONFLICT),
    Row("DELETE", _MEMBER, Groups, "remove", _NO_CONTENT),
    Row("PUT", _PERMISSION, Permissions, "grant", missing=_PERMISSION_GONE, too_many=_CONFLICT),
    Row("DELETE", _PERMISSION, Permissions, "revoke", _NO_CONTENT, too_many=_CONFLICT),
    Row("HEAD", _PERMISSION, Permissions, "check", missing=_PERMISSION_GONE),
    Row("HEAD", _USER, Users, "exists", missing=_USER_GONE),
    Row("POST", f"{_USER}/:send", Users, "send", _ACCEPTED, options=_TO_A_USER, sends="send_to_user"),
    Row("POST", f"{_USER}/:closeConnections", Users, "close", _NO_CONTENT, options=_CLOSE_MANY),
    Row("PUT", _USER_GROUP, Users, "join", missing=_USER_GONE, too_many=_CONFLICT),
    Row("DELETE", _USER_GROUP, Users, "leave", _NO_CONTENT),
    Row("DELETE", f"{_USER}/groups", Users, "leave_all", _NO_CONTENT),
)


class Template:
    """The path of one or more rows. A segment in braces takes any text; others are the same in any letter case."""

    def __init__(self, path: str) -> None:
        parts = segments(path)
        self.length = len(parts)
        self._names = [(at, part[1:-1]) for at, part in enumerate(parts) if part.startswith("{")]
        # The last first: there the paths of one length differ most.
        self._fixed = [(at, part.lower()) for at, part in reversed([*enumerate(parts)]) if not part.startswith("{")]
        self.rows: dict[str, Row] = {}
        self.views: dict[str, Callable[..., HttpResponse]] = {}

    def match(self, path: tuple[str, ...]) -> dict[str, str] | None:
        """Give what stands in the braces' places of a path of this length; None when the path is another."""
        for at, part in self._fixed:
            if path[at].lower() != part:
                return None
        named = {name: path[at] for at, name in self._names}
        return named if all(named.values()) else None


def _templates() -> Mapping[int, Sequence[Template]]:
    by_path: dict[str, Template] = {}
    for row in ROWS:
        template = by_path.setdefault(row.path, Template(row.path))
        template.rows[row.method] = row
        template.views[row.method] = row.view.as_view({row.method.lower(): row.verb}, row=row)
    by_length: dict[int, list[Template]] = {}
    for template in by_path.values():
        by_length.setdefault(template.length, []).append(template)
    return by_length


# By their number of segments.
_TEMPLATES = _templates()


def match(path: tuple[str, ...]) -> tuple[Template, dict[str, str]] | None:
    """Give the template of a path, and what its braces hold; None when no row has such a path."""
    for template in _TEMPLATES.get(len(path), ()):
        named = template.match(path)
        if named is not None:
            return template, named
    return None


def find(path: tuple[str, ...]) -> tuple[Mapping[str, Callable[..., HttpResponse]], dict[str, str]] | None:
    """Give the views of a path by method, and what its braces hold; None when no row has such a path."""
    found = match(path)
    return None if found is None else (found[0].views, found[1])


@csrf_exempt
def data_plane(request: HttpRequest) -> HttpResponse:
    """Answer a request by the table. Tokens, not cookies, say who asks, so there is nothing to forge across sites."""
    return complete(request, _answer(request))


def complete(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Add the headers that every answer of the data plane has; a problem document names no versions."""
    if not response.headers.get("Content-Type", "").startswith(exceptions.PROBLEM_DOCUMENT):
        response.headers.setdefault(*versions.SUPPORTED_HEADER)
    if asked_by := request_id(request):
        response.headers[REQUEST_ID_HEADER] = asked_by
    return response


def request_id(request: HttpRequest) -> str:
    """What the caller calls its request; empty when it says nothing that could be said back."""
    asked_by = str(request.META.get("HTTP_X_MS_CLIENT_REQUEST_ID", ""))
    good = asked_by.isascii() and asked_by.isprintable() and len(asked_by) <= _MAX_ECHOED_CHARACTERS
    return asked_by if good else ""


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
