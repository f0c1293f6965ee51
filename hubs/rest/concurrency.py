"""How many requests the application behind works on at once.

Django gives each request a thread of its own (asgiref's ThreadSensitiveContext), as many as there are requests, and a
connection to the database with it. So requests take turns: MAX_CONCURRENT_REQUESTS are worked on at a time. Others wait
in their order, without a thread, and after WAIT_SECS are answered 503.

Nobody holds a turn by being slow. It begins when the body is complete, and an answer of known length, up to
MAX_HELD_BYTES, is sent after it has ended. Longer answers and streams are sent as they come, and keep their turn.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any

from hubs import conf
from hubs.rest.body_limit import Application, Message, Receive, Send

logger = logging.getLogger(__name__)

WAIT_SECS = 10.0
MAX_HELD_BYTES = 1 << 20
_RETRY_AFTER_SECS = 5


class _Busy(Exception):
    """Nobody made room in time."""


class BoundedRequests:
    """An ASGI application that lets the HTTP application behind it work on so many requests at once."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._turns = asyncio.Semaphore(conf.settings.MAX_CONCURRENT_REQUESTS)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Handle one request when it is its turn."""
        has_turn = False
        held: list[Message] = []

        async def receive_in_turn() -> Message:
            nonlocal has_turn
            message = await receive()
            if not has_turn and message["type"] == "http.request" and not message.get("more_body"):
                await self._wait()
                has_turn = True
            return message

        async def hold(message: Message) -> None:
            if held or (message["type"] == "http.response.start" and _is_short(message)):
                held.append(message)
            else:
                await send(message)

        try:
            await self._application(scope, receive_in_turn, hold)
        except _Busy:
            # Nothing was sent yet: applications read the body first.
            held = _refusal()
        finally:
            if has_turn:
                self._turns.release()
        for message in held:
            await send(message)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(WAIT_SECS):
                await self._turns.acquire()
        except TimeoutError:
            most = conf.settings.MAX_CONCURRENT_REQUESTS
            logger.warning("A request was refused: %d others were worked on for %d seconds", most, WAIT_SECS)
            raise _Busy from None


def _is_short(start: Message) -> bool:
    for name, value in start.get("headers", ()):
        if name.lower() == b"content-length":
            return int(value) <= MAX_HELD_BYTES
    return False


def _refusal() -> list[Message]:
    body = f"The service is busy. Try again in {_RETRY_AFTER_SECS} seconds.\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", str(_RETRY_AFTER_SECS).encode()),
    ]
    status = HTTPStatus.SERVICE_UNAVAILABLE.value
    return [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]
