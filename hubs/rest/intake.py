"""How much of a request's body is taken in, decided before Django sees the request.

Django reads a body to its end, into memory and then onto the disk, before any view can say no. So
the ASGI application is wrapped: a body whose length is not told, or is more than the service takes,
is not read. On the data plane the request goes on without its body and the view refuses it after it
has looked at version, token and parameters, in the order the API promises; elsewhere it is
refused at once. A client that sent `Expect: 100-continue` is never asked for such a body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from django.conf import settings as django_settings

from hubs import conf

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

_DATA_PLANE = "/api/hubs/"


class BoundedBodies:
    """An ASGI application that keeps bodies it would not take from the HTTP application behind it."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Handle one request."""
        length, chunked = _announced(scope.get("headers", ()))
        if scope["path"].lower().removeprefix(scope.get("root_path", "").lower()).startswith(_DATA_PLANE):
            if chunked or length > conf.settings.MAX_MESSAGE_BYTES:
                receive = _Withheld()
        elif chunked:
            await _refuse(send, HTTPStatus.LENGTH_REQUIRED, "Send this request with a Content-Length.")
            return
        elif length > (django_settings.DATA_UPLOAD_MAX_MEMORY_SIZE or length):
            await _refuse(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request's body is too large.")
            return
        await self._application(scope, receive, send)


class _Withheld:
    """The receive side of a request whose body is left unread: empty, and then nothing ever happens."""

    def __init__(self) -> None:
        self._ended = False

    async def __call__(self) -> Message:
        if self._ended:
            # Django listens for a disconnect while the view works, and stops listening when it answered.
            await asyncio.get_running_loop().create_future()
        self._ended = True
        return {"type": "http.request", "body": b"", "more_body": False}


def _announced(headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, bool]:
    """Give the length a request announces, and whether it announces a body without one."""
    length, chunked = 0, False
    for name, value in headers:
        match name.lower():
            case b"content-length" if value.isdigit():
                # Servers let one length pass; with several, the largest is the careful reading.
                length = max(length, int(value[:20]))
            case b"transfer-encoding":
                chunked = True
    return length, chunked


async def _refuse(send: Send, status: HTTPStatus, text: str) -> None:
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})
