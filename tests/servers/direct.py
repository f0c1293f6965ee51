"""The tests' application on a server's direct sockets: ASGI's messages again, made of a receiver's calls.

So all that is asked of an ASGI server's WebSockets is asked of the extension, too.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hubs.protocols import framing
from tests.servers.application import Event, Receive, Send, application

EXTENSION = "hubwire.direct"

_running: set[asyncio.Task[None]] = set()


class Gone(OSError):
    """The client has left."""


class Adapter:
    """A receiver that an ASGI application can talk to."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._socket: Any = None
        # What the server gave back.
        self._missed: list[bytes] = []
        self._over = False
        self.answered = asyncio.Event()

    # For the server

    def opened(self, socket: Any) -> None:
        self._socket = socket

    def receive(self, message: str | bytes) -> None:
        if message == '{"do": "fail"}':
            raise RuntimeError("the test's own")
        # As servers do it whose applications want one message at a time.
        self._socket.hold()
        self._events.put_nowait({"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message})

    def broken(self, code: int, reason: str) -> None:
        self._socket.close(code, reason)

    def full(self) -> None:
        self._room.clear()

    def missed(self, frames: bytes) -> None:
        self._missed.append(frames)

    def room(self) -> None:
        missed, self._missed = self._missed, []
        for frames in missed:
            self._socket.write(frames)
        if not self._missed:
            self._room.set()

    def gone(self, code: int, reason: str) -> None:
        assert not self._over, "told twice"
        self._over = True
        self._room.set()
        self._events.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})

    # For the application

    async def next(self) -> Event:
        if self._socket is None and not self._over:
            return await self._receive()
        event = await self._events.get()
        if self._events.empty() and not self._over:
            self._socket.read_on()
        return event

    async def send(self, event: Event) -> None:
        if event["type"] == "websocket.accept":
            await self._send(event | {EXTENSION: self})
            self.answered.set()
            return
        await self._room.wait()
        if self._over:
            raise Gone
        if event["type"] == "websocket.close":
            self._socket.close(event["code"], event["reason"])
        else:
            text = event.get("text")
            self._socket.write(framing.frames_of(event["bytes"] if text is None else text))

    def ended(self, task: asyncio.Task[None]) -> None:
        _running.discard(task)
        self.answered.set()
        if self._socket is not None and not self._over:
            self._socket.close(1000)


async def direct_application(scope: Event, receive: Receive, send: Send) -> None:
    """Serve one scope; a conversation goes on when this has returned."""
    if scope["type"] != "websocket":
        await application(scope, receive, send)
        return
    assert EXTENSION in scope["extensions"]
    adapter = Adapter(receive, send)
    conversation = asyncio.create_task(application(scope, adapter.next, adapter.send))
    _running.add(conversation)
    conversation.add_done_callback(adapter.ended)
    await adapter.answered.wait()
