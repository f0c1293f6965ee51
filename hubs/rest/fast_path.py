"""A fast path for the verbs that send, in front of Django.

A server that publishes does so thousands of times a second, and most of what a request costs on its way
through Django, its middleware and DRF has nothing to do with it: threads are entered and left,
signals sent, sessions prepared. So the rows of the table that send a message are also answered here, as an
ASGI application that wraps Django's and runs on the server's own loop from the first byte to the last.

The fast path is a way around, not a second implementation. It finds the row in the same table and judges the
same request object with the same functions, in the same order, as the view does (hubs/rest/data_plane.py);
what they raise is answered in the same place (hubs/rest/exceptions.py); and the headers that middleware
would have added are learned from that middleware (hubs/rest/middleware.py). Refusals are answered here as
well as successes, so a caller with a wrong token costs no more than one with a right one.

What the fast path does not take goes to Django as it came: other rows and methods, and whatever would make
a difference to middleware. A project need not mount the fast path; then Django gives the same answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from rest_framework.exceptions import Throttled

from hubs import conf, hub_settings
from hubs.rest import authentication, data_plane, exceptions, table, throttling, versions
from hubs.rest.body_limit import Application, Receive, Send, announced, read
from hubs.rest.middleware import Added, Middleware
from hubs.rest.parameters import Parameters
from hubs.rest.paths import raw_path, segments

_METHOD = "POST"
# How paths of rows that send end, whichever way the colon was written.
_ENDINGS = (b"send", b"send/")

Headers = list[tuple[bytes, bytes]]


class FastPath:
    """An ASGI application that answers requests to send, and hands all others to the HTTP application behind it.

    `unconcerned`: the entries of MIDDLEWARE, besides Django's own, that do nothing to REST calls.
    """

    def __init__(self, application: Application, *, unconcerned: Iterable[str] = ()) -> None:
        self._application = application
        self._middleware = Middleware(unconcerned)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Handle one request."""
        taken = self._take(scope) if scope["method"] == _METHOD else None
        if taken is None:
            await self._application(scope, receive, send)
            return
        try:
            headers, content = await _answer(taken, receive)
        except _Gone:
            return
        await send({"type": "http.response.start", "status": taken.status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _take(self, scope: dict[str, Any]) -> _Taken | None:
        """Look whether a request is one for the fast path."""
        if not (scope.get("raw_path") or scope["path"].encode()).lower().endswith(_ENDINGS):
            return None
        body = BytesIO()
        try:
            request = ASGIRequest(scope, body)
            found = table.match(segments(raw_path(request)))
        except UnicodeDecodeError:
            return None
        if found is None:
            return None
        template, named = found
        row = template.rows.get(_METHOD)
        if row is None or not row.sends:
            return None
        added = self._middleware.added(request)
        return None if added is None else _Taken(request, body, row, named, added)


class _Taken:
    """A request that the fast path answers, and the status of its answer, once there is one."""

    __slots__ = ("added", "body", "named", "request", "row", "status")

    def __init__(
        self, request: ASGIRequest, body: BytesIO, row: table.Row, named: Mapping[str, str], added: Added
    ) -> None:
        self.request, self.body, self.row, self.named, self.added = request, body, row, named, added
        self.status = int(row.ok)


class _Gone(Exception):
    """The client has left before its body was here; nobody is there to be answered."""


async def _answer(taken: _Taken, receive: Receive) -> tuple[Headers, bytes]:
    try:
        await _do(taken, receive)
    except _Gone:
        raise
    except Exception as problem:
        answer = exceptions.answer(problem, taken.request, taken.row, hub=taken.named["hub"])
        response = table.complete(taken.request, answer)
        taken.status = response.status_code
        return _encoded(taken.added.to(response)), response.content
    before, after = _headers_when_done(taken.added)
    request_id = table.request_id(taken.request)
    if request_id:
        return [*before, (_REQUEST_ID, request_id.encode()), *after], b""
    return [*before, *after], b""


async def _do(taken: _Taken, receive: Receive) -> None:
    """Judge a request, in the order that data_plane.py promises, read its body last, and send its message."""
    request, row = taken.request, taken.row
    parameters = Parameters(request.GET)
    versions.named(parameters)
    snapshot = await hub_settings.acurrent()
    holder, _ = authentication.key_holder(request, taken.named["hub"], lambda: snapshot)
    if holder.key:
        # The counts may be in Redis, which is not waited for on the loop.
        waiting = await sync_to_async(throttling.secs_to_wait, thread_sensitive=False)("REST_RATE", holder.key)
        if waiting is not None:
            raise Throttled(waiting)
    data_plane.check_names(taken.named, lambda: snapshot)
    arguments = data_plane.passed_on(row.options, parameters)
    await _read_body(taken, receive)
    await data_plane.send(row.sends, taken.named, request, arguments)


async def _read_body(taken: _Taken, receive: Receive) -> None:
    """Read what is to be sent. Of a body that is too large there is enough to see that."""
    length, most = announced(taken.request.scope), conf.settings.MAX_MESSAGE_BYTES
    if length is None or length <= most:
        body = await read(receive, most)
        if body is None:
            raise _Gone
        taken.body.write(body)
        taken.body.seek(0)


_REQUEST_ID = table.REQUEST_ID_HEADER.encode()


@lru_cache(maxsize=8)
def _headers_when_done(added: Added) -> tuple[Headers, Headers]:
    """The headers of the answer to what was done: before the caller's request id, and after it."""
    response = HttpResponse(headers={"Content-Type": ""})
    del response["Content-Type"]
    response.headers.setdefault(*versions.SUPPORTED_HEADER)
    before = len(response.headers)
    headers = _encoded(added.to(response))
    return headers[:before], headers[before:]


def _encoded(response: HttpResponse) -> Headers:
    """As Django's own ASGI handler writes them."""
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
