"""Plain ASGI on a direct socket, for applications that do not take the extension (docs/asgi-extension.md).

A receiver of calls makes ASGI's messages of them. So there is one reader of frames, one way to end and one
watch over clients that are not read, whether an application names a receiver of its own or not.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.utils import ClientDisconnected

from hubs.protocols import framing
from hubs.protocols.extension import Socket
from hubs.servers import endings
from hubs.servers.endings import Event


class AsgiReceiver:
    """Puts what a client says into an application's queue, and writes what the application says."""

    def __init__(self, queue: asyncio.Queue[Event]) -> None:
        self._queue = queue
        self._socket: Socket | None = None
        self._room = asyncio.Event()
        self._room.set()
        # What the socket gave back.
        self._missed: list[bytes] = []
        self._over = False

    # For the socket

    def opened(self, socket: Socket) -> None:
        """The handshake is answered."""
        self._socket = socket

    def receive(self, message: str | bytes) -> None:
        """A message has come; the next one is taken when the application has this one."""
        self._queue.put_nowait({"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message})
        if self._socket is not None:
            self._socket.hold()

    def broken(self, code: int, reason: str) -> None:
        """The client broke the protocol."""
        if self._socket is not None:
            self._socket.close(code, reason)

    def full(self) -> None:
        """The client does not keep up: the application waits in `send`."""
        self._room.clear()

    def missed(self, frames: bytes) -> None:
        """These were written while it was full."""
        self._missed.append(frames)

    def room(self) -> None:
        """The client has caught up."""
        missed, self._missed = self._missed, []
        for frames in missed:
            if self._socket is not None:
                # It may become full again, and give back the rest.
                self._socket.write(frames)
        if not self._missed:
            self._room.set()

    def gone(self, code: int, reason: str) -> None:
        """It is over. Who waits for room need not any more."""
        self._over = True
        self._room.set()
        silent_secs = 0.0 if self._socket is None else self._socket.silent_secs
        self._queue.put_nowait(endings.disconnected(code, reason, silent_secs))

    # For the application

    async def next(self) -> Event:
        """What the client has said, or how it ended."""
        event = await self._queue.get()
        if self._queue.empty() and self._socket is not None:
            self._socket.read_on()
        return event

    async def send(self, message: Event) -> None:
        """Send or close. Raises OSError when the conversation is over, RuntimeError for any other message."""
        if message["type"] != "websocket.close" or self._missed:
            await self._room.wait()
        if self._over or self._socket is None:
            raise ClientDisconnected
        if message["type"] == "websocket.close":
            self._socket.close(message.get("code") or 1000, message.get("reason") or "")
        elif message["type"] == "websocket.send":
            text = message.get("text")
            self._socket.write(framing.frames_of(message["bytes"] if text is None else text))
        else:
            raise RuntimeError(f"{message['type']!r} is no message for an open WebSocket.")

    def ended(self) -> None:
        """The application is done; nobody would hear the client."""
        if self._socket is not None:
            self._socket.close(1000)
