"""How much of a request's body is taken in, and whose, decided before Django sees the request.

Django reads a body to its end, into memory and then onto the disk, before any view can say no. So the ASGI application
is wrapped, and looks at the head first:

    data plane          the body of who holds a key, up to the size of a message. Other bodies are left unread, and the
                        request goes on without: the view refuses it in the order the API promises
    views with a bound  a view that has `max_body_bytes` takes so many from anybody (hubs/upstream/mount.py)
    everything else     MAX_ANONYMOUS_BYTES, which is enough for signing in and for negotiate; of people who are signed
                        in, or whose API token is good, Django's DATA_UPLOAD_MAX_MEMORY_SIZE

A body whose length is not told (chunked, or HTTP/2) is read here, within the same bound, and goes on with its length;
what reads it later need not know. What is refused is not read, and a client that sent `Expect: 100-continue` is never
asked for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from importlib import import_module
from io import BytesIO
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth import get_user
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError, close_old_connections
from django.urls import Resolver404, resolve
from rest_framework.exceptions import APIException
from rest_framework.request import Request

from hubs import conf, database, hub_settings
from hubs.errors import DatabaseUnavailable, Unavailable
from hubs.rest import table
from hubs.rest.authentication import ApiTokens, key_holder
from hubs.rest.bodies import LEFT_UNREAD
from hubs.rest.paths import below_root, raw_path, segments

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

# What somebody may send who is nobody the service knows: a form with a name and a password, a few parameters.
MAX_ANONYMOUS_BYTES = 16 * 1024

_DATA_PLANE = "/api/hubs/"


class BoundedBodies:
    """An ASGI application that keeps bodies it would not take from the HTTP application behind it."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Handle one request."""
        length = announced(scope)
        if length == 0:
            await self._application(scope, receive, send)
        elif below_root(scope).lower().startswith(_DATA_PLANE):
            await self._data_plane(scope, receive, send, length)
        else:
            await self._other(scope, receive, send, length)

    async def _data_plane(self, scope: dict[str, Any], receive: Receive, send: Send, length: int | None) -> None:
        most = conf.settings.MAX_MESSAGE_BYTES
        if not await _holds_key(scope):
            scope, receive = scope | {LEFT_UNREAD: True}, _Body(b"")
        elif length is None:
            body = await read(receive, most)
            if body is None:
                return
            # Without the part that was read if it is too large, which the view finds by its length.
            scope, receive = _with_length(scope, len(body)), _Body(body if len(body) <= most else b"")
        elif length > most:
            receive = _Body(b"")
        await self._application(scope, receive, send)

    async def _other(self, scope: dict[str, Any], receive: Receive, send: Send, length: int | None) -> None:
        most = MAX_ANONYMOUS_BYTES
        if length is None or length > most:
            try:
                most = max(most, await _most_of(scope))
            except DatabaseUnavailable as unavailable:
                await _refuse(send, HTTPStatus.SERVICE_UNAVAILABLE, unavailable.message, unavailable.retry_after_secs)
                return
        if length is None:
            body = await read(receive, most)
            if body is None:
                return
            length = len(body)
            scope, receive = _with_length(scope, length), _Body(body)
        if length > most:
            text = f"The body of this request is larger than {most} bytes."
            await _refuse(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
        else:
            await self._application(scope, receive, send)


def announced(scope: Mapping[str, Any]) -> int | None:
    """The length of the body that a request announces; None for one whose length is not told."""
    length, told = 0, scope.get("http_version", "1.1") in ("1.0", "1.1")
    for name, value in scope.get("headers", ()):
        match name.lower():
            case b"content-length":
                # Servers let one length pass; with several, the largest is the careful reading.
                length, told = max(length, int(value[:20]) if value.isdigit() else 0), True
            case b"transfer-encoding":
                return None
    return length if told else None


async def read(receive: Receive, most: int) -> bytes | None:
    """Read a body, of one that is longer than `most` a little more than that; None: the client has gone."""
    body, more = bytearray(), True
    while more and len(body) <= most:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


class _Body:
    """The receive side of a request whose body is known: all of it, and then nothing ever happens."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            # Django listens for a disconnect while the view works, and stops listening when it answered.
            await asyncio.get_running_loop().create_future()
        return {"type": "http.request", "body": body, "more_body": False}


def _with_length(scope: dict[str, Any], length: int) -> dict[str, Any]:
    told = (b"transfer-encoding", b"content-length")
    headers = [header for header in scope["headers"] if header[0].lower() not in told]
    return scope | {"headers": [*headers, (b"content-length", str(length).encode())]}


async def _holds_key(scope: dict[str, Any]) -> bool:
    """Whether the request has a token of the hub that it names, for this address."""
    try:
        request = ASGIRequest(scope, BytesIO())
        found = table.match(segments(raw_path(request)))
        if found is None or "hub" not in found[1]:
            return False
        snapshot = await hub_settings.acurrent()
        key_holder(request, found[1]["hub"], lambda: snapshot)
    except (UnicodeDecodeError, Unavailable, APIException):
        # The view comes upon the same, and has an answer for it.
        return False
    return True


async def _most_of(scope: dict[str, Any]) -> int:
    """How many bytes a request outside the data plane may have, by where it goes and whom it is from.

    Raises DatabaseUnavailable where that cannot be known.
    """
    try:
        request = ASGIRequest(scope, BytesIO())
        view = resolve(request.path_info).func
    except (UnicodeDecodeError, Resolver404):
        return 0
    bound = getattr(view, "max_body_bytes", None)
    if bound is not None:
        return int(bound)
    # None is Django's word for no bound; bodies are read into memory, so there is one.
    most = django_settings.DATA_UPLOAD_MAX_MEMORY_SIZE or conf.settings.MAX_MESSAGE_BYTES
    return most if await _is_known(request) else 0


async def _is_known(request: ASGIRequest) -> bool:
    """Whether a request is from somebody who is signed in, or has an API token. Raises DatabaseUnavailable."""
    if not request.COOKIES.get(django_settings.SESSION_COOKIE_NAME) and "HTTP_AUTHORIZATION" not in request.META:
        return False
    if hub_settings.is_away():
        # All such requests share a thread here, so none may make the others wait for a database that is away.
        raise DatabaseUnavailable
    return await sync_to_async(_looks_known)(request)


def _looks_known(request: ASGIRequest) -> bool:
    # Django does this at both ends of a request, which this is not.
    close_old_connections()
    try:
        session_key = request.COOKIES.get(django_settings.SESSION_COOKIE_NAME)
        if session_key:
            request.session = import_module(django_settings.SESSION_ENGINE).SessionStore(session_key)
            if get_user(request).is_authenticated:
                return True
        return ApiTokens().authenticate(Request(request)) is not None
    except APIException:
        return False
    except DatabaseError as problem:
        if not database.is_unavailable(problem):
            raise
        database.report("who sends a long body", problem)
        raise DatabaseUnavailable from None
    finally:
        close_old_connections()


async def _refuse(send: Send, status: HTTPStatus, text: str, retry_after_secs: int | None = None) -> None:
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    if retry_after_secs is not None:
        headers.append((b"retry-after", str(retry_after_secs).encode()))
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})
