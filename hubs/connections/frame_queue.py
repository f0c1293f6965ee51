"""One client's frames, one at a time and in order, without holding up its reader.

Most frames are done when `put_nowait` returns: `begin` handles them at once. What cannot be done without
waiting (an event handler may take a hundred seconds) leaves a rest, and that gets a task; meanwhile
the reader goes on, or nobody would notice that the client left. What the client sends in the
meantime queues behind it. The queue is bounded in frames and in bytes: when it is full the reader
waits too, and the client's own socket fills up.

A reliable client that changes sockets has two readers for a moment. What the second one brings
queues behind the frame of the first.

Two kinds of frames do not queue: an acknowledgement of what arrived, which has no business waiting
for what is sent, and the end of an invocation, which would come too late. They never leave a rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from hubs import conf
from hubs.errors import Disconnect
from hubs.protocols.frames import CancelInvocation, Payload, SequenceAck, Upstream, UserEvent

# Frames that wait for somebody outside this service: no reader waits until they are done.
SLOW_FRAMES = (UserEvent,)

# Frames that are done at once, whatever waits.
URGENT_FRAMES = (SequenceAck, CancelInvocation)

# What of a frame is still to be done, and has to be waited for.
Continuation = Callable[[], Awaitable[None]]


class FrameQueue:
    """The queue of one connection. `begin` handles one frame or its first part, `failed` is told of a Disconnect."""

    __slots__ = (
        "_begin",
        "_bytes",
        "_closed",
        "_ending",
        "_failed",
        "_finished",
        "_room",
        "_stopped",
        "_task",
        "_waiting",
    )

    def __init__(self, begin: Callable[[Upstream], Continuation | None], failed: Callable[[Disconnect], None]) -> None:
        self._begin = begin
        self._failed = failed
        # None where nothing waits, as for most clients most of the time.
        self._waiting: deque[Upstream] | None = None
        # What is in the payloads of those that wait.
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None
        # Who waits until there is room, and until all is done.
        self._room: list[Callable[[], None]] | None = None
        self._finished: Callable[[], None] | None = None
        # Closed: takes nothing more. Stopped: nor does anything that waits.
        self._closed = self._stopped = False
        self._ending: Disconnect | None = None

    def put_nowait(self, frame: Upstream) -> bool:
        """Handle `frame` after all earlier ones. False: so many wait that the reader should too (`when_room`)."""
        if self._closed:
            return True
        if self._task is None or isinstance(frame, URGENT_FRAMES):
            rest = self._started(frame)
            if rest is not None:
                self._task = asyncio.create_task(self._work(rest), name="frames of a connection")
            return True
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(frame)
        self._bytes += _payload_bytes(frame)
        return self._has_room

    def when_room(self, call: Callable[[], None]) -> None:
        """After `put_nowait` gave False: have `call` called once, when the reader may go on."""
        # There may be two readers (see above).
        self._room = [*(self._room or ()), call]

    async def put(self, frame: Upstream) -> None:
        """As `put_nowait`, but wait until there is room, and for what was begun now and takes no time."""
        was_free = self._task is None
        if not self.put_nowait(frame):
            room = asyncio.get_running_loop().create_future()
            self.when_room(lambda: None if room.done() else room.set_result(None))
            await room
        elif was_free and self._task is not None and not isinstance(frame, SLOW_FRAMES):
            await asyncio.wait({self._task})

    def fail(self, disconnect: Disconnect) -> None:
        """The client broke the protocol: what it sent before is handled, nothing behind it is, then it ends."""
        if self._closed:
            return
        self._closed = True
        if self._task is None:
            self._failed(disconnect)
        else:
            self._ending = disconnect

    def close(self, finished: Callable[[], None]) -> None:
        """Take nothing more; `finished` is called when all that was taken is done."""
        self._closed = True
        if self._task is None:
            finished()
        else:
            self._finished = finished

    def finish(self) -> None:
        """Handle nothing more, but let what is being worked on come to its end."""
        self._closed = self._stopped = True
        self._ending = None
        self._waiting = None
        self._bytes = 0
        self._make_room()

    def stop(self) -> None:
        """The client is gone: what waits is not handled, and what is being worked on is given up."""
        self.finish()
        if self._task is not None:
            self._task.cancel()
        # Whose they are holds this queue, too; without them both are freed at once, and not by the collector.
        self._begin, self._failed = _nothing, _nothing

    @property
    def busy(self) -> bool:
        """Whether a frame is being handled."""
        return self._task is not None

    async def _work(self, rest: Continuation | None) -> None:
        try:
            while rest is not None:
                await self._ended(rest)
                rest = self._next()
            if self._ending is not None:
                self._failed(self._ending)
        finally:
            self._task = None
            self._make_room()
            finished, self._finished = self._finished, None
            if finished is not None:
                finished()

    def _next(self) -> Continuation | None:
        """Handle what waits until something of it leaves a rest, or nothing waits any more."""
        while self._waiting and not self._stopped:
            frame = self._waiting.popleft()
            self._bytes -= _payload_bytes(frame)
            if self._has_room:
                self._make_room()
            rest = self._started(frame)
            if rest is not None:
                return rest
        self._waiting = None
        return None

    def _started(self, frame: Upstream) -> Continuation | None:
        try:
            return self._begin(frame)
        except Disconnect as disconnect:
            self._broke_off(disconnect)
            return None

    async def _ended(self, rest: Continuation) -> None:
        try:
            await rest()
        except Disconnect as disconnect:
            self._broke_off(disconnect)

    def _broke_off(self, disconnect: Disconnect) -> None:
        self.finish()
        self._failed(disconnect)

    @property
    def _has_room(self) -> bool:
        waiting = 0 if self._waiting is None else len(self._waiting)
        return waiting < conf.settings.MAX_WAITING_FRAMES and self._bytes < conf.settings.MAX_WAITING_BYTES

    def _make_room(self) -> None:
        readers, self._room = self._room, None
        for read_on in readers or ():
            read_on()


def _payload_bytes(frame: Upstream) -> int:
    payload: Payload | None = getattr(frame, "payload", None)
    return 0 if payload is None else len(payload.data)


def _nothing(_: object) -> None:
    """What is done for a client that is gone."""
