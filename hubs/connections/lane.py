"""One client's frames, one at a time and in order, without holding up its reader.

Most frames are handled while the reader waits, in no time. One that waits for an event handler may
take a hundred seconds; meanwhile the reader has to go on, or nobody would notice that the client
left. So such a frame gets a task, and what the client sends in the meantime queues behind it. The
queue is bounded: when it is full the reader waits too, and the client's own socket fills up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from hubs import conf
from hubs.errors import Disconnect
from hubs.protocols.frames import Upstream, UserEvent

# Frames that wait for somebody outside this service.
SLOW_FRAMES = (UserEvent,)


class Lane:
    """The queue of one connection. `handle` does one frame, `failed` is told of a Disconnect."""

    __slots__ = ("_ending", "_failed", "_handle", "_room", "_stopped", "_task", "_waiting")

    def __init__(self, handle: Callable[[Upstream], Awaitable[None]], failed: Callable[[Disconnect], None]) -> None:
        self._handle = handle
        self._failed = failed
        self._waiting: deque[Upstream] = deque()
        self._task: asyncio.Task[None] | None = None
        self._room: asyncio.Event | None = None
        self._stopped = False
        self._ending: Disconnect | None = None

    async def put(self, frame: Upstream) -> None:
        """Handle `frame` after all earlier ones; waits while too many are waiting."""
        if self._stopped:
            return
        if self._task is None and not isinstance(frame, SLOW_FRAMES):
            await self._do(frame)
            return
        self._waiting.append(frame)
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="frames of a connection")
        if len(self._waiting) >= conf.settings.MAX_WAITING_FRAMES:
            self._room = asyncio.Event()
            await self._room.wait()

    def fail(self, disconnect: Disconnect) -> None:
        """The client broke the protocol: what it sent before is handled, nothing behind it is, then it ends."""
        if self._stopped:
            return
        self._stopped = True
        if self._task is None:
            self._failed(disconnect)
        else:
            self._ending = disconnect

    def stop(self) -> None:
        """The client is gone: what waits is not handled, and what an event handler works on is given up."""
        self._stopped = True
        self._ending = None
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    async def _work(self) -> None:
        try:
            while self._waiting:
                frame = self._waiting.popleft()
                if self._room is not None and len(self._waiting) < conf.settings.MAX_WAITING_FRAMES:
                    self._room.set()
                    self._room = None
                await self._do(frame)
            if self._ending is not None:
                self._failed(self._ending)
        finally:
            self._task = None
            if self._room is not None:
                self._room.set()
                self._room = None

    async def _do(self, frame: Upstream) -> None:
        try:
            await self._handle(frame)
        except Disconnect as disconnect:
            self._stopped = True
            self._ending = None
            self._waiting.clear()
            self._failed(disconnect)
