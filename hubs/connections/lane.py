"""One client's frames, one at a time and in order, without holding up its reader.

Most frames are handled while the reader waits, in no time. One that waits for an event handler may
take a hundred seconds; meanwhile the reader has to go on, or nobody would notice that the client
left. So such a frame gets a task, and what the client sends in the meantime queues behind it. The
queue is bounded: when it is full the reader waits too, and the client's own socket fills up.

A reliable client that changes sockets has two readers for a moment. What the second one brings
queues behind the frame of the first.

Two kinds of frames do not queue: an acknowledgement of what arrived, which has no business waiting
for what is sent, and the end of an invocation, which would come too late.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from hubs import conf
from hubs.errors import Disconnect
from hubs.protocols.frames import CancelInvocation, SequenceAck, Upstream, UserEvent

# Frames that wait for somebody outside this service.
SLOW_FRAMES = (UserEvent,)

# Frames that are done at once, whatever waits.
URGENT_FRAMES = (SequenceAck, CancelInvocation)


class Lane:
    """The queue of one connection. `handle` does one frame, `failed` is told of a Disconnect."""

    __slots__ = ("_busy", "_ending", "_failed", "_handle", "_room", "_stopped", "_task", "_waiting")

    def __init__(self, handle: Callable[[Upstream], Awaitable[None]], failed: Callable[[Disconnect], None]) -> None:
        self._handle = handle
        self._failed = failed
        self._waiting: deque[Upstream] = deque()
        self._task: asyncio.Task[None] | None = None
        # A reader is handling a frame.
        self._busy = False
        self._room: asyncio.Event | None = None
        self._stopped = False
        self._ending: Disconnect | None = None

    async def put(self, frame: Upstream) -> None:
        """Handle `frame` after all earlier ones; waits while too many are waiting."""
        if self._stopped:
            return
        if isinstance(frame, URGENT_FRAMES):
            await self._do(frame)
            return
        if self._is_free and not isinstance(frame, SLOW_FRAMES):
            self._busy = True
            try:
                await self._do(frame)
            finally:
                self._busy = False
                self._go_on()
            return
        self._waiting.append(frame)
        self._go_on()
        if len(self._waiting) >= conf.settings.MAX_WAITING_FRAMES:
            self._room = asyncio.Event()
            await self._room.wait()

    def fail(self, disconnect: Disconnect) -> None:
        """The client broke the protocol: what it sent before is handled, nothing behind it is, then it ends."""
        if self._stopped:
            return
        self._stopped = True
        if self._is_free:
            self._failed(disconnect)
        else:
            self._ending = disconnect

    def finish(self) -> None:
        """Handle nothing more, but let an event handler finish what it works on."""
        self._stopped = True
        self._ending = None
        self._waiting.clear()

    def stop(self) -> None:
        """The client is gone: what waits is not handled, and what an event handler works on is given up."""
        self.finish()
        if self._task is not None:
            self._task.cancel()

    def hold(self, done: asyncio.Event, secs: float) -> None:
        """Begin nothing before `done`: an earlier frame is being handled elsewhere. Nor longer than `secs`."""
        self._task = asyncio.create_task(self._work_after(done, secs), name="frames of a connection that moved")

    @property
    def busy(self) -> bool:
        """Whether a frame is being handled."""
        return not self._is_free

    @property
    def _is_free(self) -> bool:
        return self._task is None and not self._busy

    def _go_on(self) -> None:
        """Have a task do what waits, unless somebody is at work."""
        if self._is_free and (self._waiting or self._ending is not None):
            self._task = asyncio.create_task(self._work(), name="frames of a connection")

    async def _work_after(self, done: asyncio.Event, secs: float) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(secs):
                    await done.wait()
        except asyncio.CancelledError:
            self._task = None
            raise
        await self._work()

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
