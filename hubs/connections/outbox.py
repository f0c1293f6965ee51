"""Everything on its way to one client: in order, bounded, and mostly without a task.

There are two ways out. A server that offers the extension of docs/asgi-extension.md takes finished
frames, and says when it has enough; that is direct.py. For all others there is `AsgiOutbox` below.

An ASGI server takes a message through `await send(...)`. Nearly always that call finishes at once,
because there is room in the socket's buffer; only for a slow client does it wait. A writer task
per connection would pay for that rare case with a wake-up per message and memory per idle client.
So `put` starts the `send` coroutine itself and drives it one step. If it finishes there, nothing
else happens. If it stops to wait, a task is made that carries it on from exactly that point, and
messages queue behind it.

Both queues are bounded in messages and bytes. A client that lets it overflow is too slow: what waits
is thrown away and the socket is closed with 1008, which the client sees as the reason. Others are
not affected, since nobody ever waits for this client. In time they are bounded by the server: it cuts off a client
that does not take what waits for it (hubs/servers/keep_alive.py).
"""

from __future__ import annotations

import asyncio
import logging
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any

from hubs import close_codes, conf
from hubs.connections import eviction
from hubs.protocols.codec import Batch, Codec, Message, Outgoing, Stamps, size_of
from hubs.protocols.extension import Socket

logger = logging.getLogger(__name__)

Event = dict[str, Any]
Send = Callable[[Event], Awaitable[None]]

# A close frame's payload is at most 125 bytes, of which two are the code.
MAX_REASON_BYTES = 123

# How long a socket that takes nothing any more may delay the end of its connection.
CLOSING_SECS = 5.0

# Where the server closed by itself, the log says how much was waiting.
_EVICTIONS = {each.reason for each in (close_codes.NO_PONG, close_codes.UNREACHABLE, close_codes.NOT_READ)}


class Outbox:
    """The way out to one client. Corked at first: what is put waits until `uncork`."""

    __slots__ = ("_bytes", "_closing", "_corked", "_lost", "_queue", "_since", "silent_secs")

    def __init__(self) -> None:
        # What waits, and its size in bytes; None while nothing does, as for most clients most of the time.
        self._queue: deque[tuple[Any, int]] | None = None
        self._bytes = 0
        # Since when something waits.
        self._since = 0.0
        self._corked = True
        self._closing = self._lost = False
        # When its end is told: for how long the client had not been heard of.
        self.silent_secs = 0.0

    @property
    def closing(self) -> bool:
        """Whether a close was put; what is put later is dropped."""
        return self._closing

    @property
    def lost(self) -> bool:
        """Whether writing has failed: the socket is gone, and its server has yet to say so."""
        return self._lost

    @property
    def socket(self) -> Socket | None:
        """Where finished frames can be written now, for this and others alike; None where there is no such thing."""
        return None

    def put(self, message: Message) -> None:
        """Send a message after all earlier ones; never waits."""
        raise NotImplementedError

    def put_shared(self, outgoing: Outgoing, codec: Codec) -> None:
        """Send a message that others get too."""
        form = outgoing.form(codec)
        if form is not None:
            self.put(form)

    def put_stamped(self, stamps: Stamps, sequence_id: int) -> None:
        """Send a message that others get too, with a number of its own."""
        self.put(stamps.message(sequence_id))

    def put_batch(self, batch: Batch, first: int) -> None:
        """Send several such messages, numbered from `first` on."""
        for place, stamps in enumerate(batch.stamps):
            self.put_stamped(stamps, first + place)

    def close(self, code: int, reason: str = "") -> None:
        """Close the socket after what was put so far. Later puts are dropped."""
        raise NotImplementedError

    def uncork(self) -> None:
        """The handshake is done: send what waits."""
        raise NotImplementedError

    def abandon(self) -> None:
        """The socket is gone: drop what waits."""
        self._closing = True
        self._clear()

    def log_end(self, connection: eviction.Evicted, reason: str) -> None:
        """Say in the log why the server has parted with a client, if that is how its socket ended."""
        if reason in _EVICTIONS and (self._lost or not self._closing):
            eviction.log(connection, reason, self._waiting)

    def _enqueue(self, message: Any, size: int) -> None:
        if self._queue is None:
            self._queue = deque()
            self._since = asyncio.get_running_loop().time()
        self._queue.append((message, size))
        self._bytes += size
        if len(self._queue) > conf.settings.MAX_OUTBOX_MESSAGES:
            self._overflow("MAX_OUTBOX_MESSAGES")
        elif self._bytes > conf.settings.MAX_OUTBOX_BYTES:
            self._overflow("MAX_OUTBOX_BYTES")

    def _overflow(self, setting: str) -> None:
        waiting = self._waiting
        self._clear()
        # First: whose socket this is must not take its end for an accident.
        self._too_slow(eviction.exceeded(setting), waiting)
        self.close(*close_codes.QUEUE_FULL.frame)

    def _too_slow(self, cause: str, waiting: str) -> None:
        """The client has let it overflow. Called in the middle of a fan-out, so to be acted on in the next turn."""
        raise NotImplementedError

    @property
    def _waiting(self) -> str:
        """What waits, for the log."""
        count = 0 if self._queue is None else len(self._queue)
        secs = asyncio.get_running_loop().time() - self._since if count else 0.0
        return f"{count:,} messages, {self._bytes:,} bytes, for {secs:.1f} s"

    def _next(self) -> Any:
        assert self._queue is not None  # noqa: S101 - asked only when something waits
        message, size = self._queue.popleft()
        self._bytes -= size
        if not self._queue:
            self._queue = None
        return message

    def _clear(self) -> None:
        self._queue = None
        self._bytes = 0


class AsgiOutbox(Outbox):
    """The way out through an ASGI server's `send`."""

    __slots__ = ("_overflowed", "_send", "_task")

    def __init__(self, send: Send, overflowed: Callable[[str, str], None]) -> None:
        """`overflowed`: called with the cause and what waited, for the log."""
        super().__init__()
        self._send = send
        self._overflowed = overflowed
        self._task: asyncio.Task[None] | None = None

    def put(self, message: Message) -> None:
        """Send a message after all earlier ones; never waits."""
        if self._closing:
            return
        event: Event = {"type": "websocket.send"}
        event["text" if isinstance(message, str) else "bytes"] = message
        if self._corked or self._task is not None:
            self._enqueue(event, size_of(message))
        else:
            self._start(event)

    def close(self, code: int, reason: str = "") -> None:
        """Close the socket after what was put so far. Later puts are dropped."""
        if self._closing:
            return
        self._closing = True
        event: Event = {"type": "websocket.close", "code": code, "reason": short(reason)}
        if self._corked or self._task is not None:
            self._queue = self._queue or deque()
            self._queue.append((event, 0))
        else:
            self._start(event)

    def uncork(self) -> None:
        """The handshake is done: send what waits."""
        self._corked = False
        while self._queue and self._task is None:
            self._start(self._next())

    def abandon(self) -> None:
        """The socket is gone: drop what waits."""
        super().abandon()
        if self._task is not None:
            self._task.cancel()

    async def drained(self) -> None:
        """Wait until everything is handed over, but not longer than a stuck socket deserves; then only close it."""
        sending = self._task
        if sending is None:
            return
        await asyncio.wait({sending}, timeout=CLOSING_SECS)
        if sending.done() or not self._queue:
            return
        event, _ = self._queue.pop()
        self._clear()
        sending.cancel()
        await asyncio.wait({sending})
        with suppress(OSError):
            # Most servers have room for a close frame; one that has not is not waited for again.
            async with asyncio.timeout(0):
                await self._send(event)

    def _too_slow(self, cause: str, waiting: str) -> None:
        self._overflowed(cause, waiting)

    def _start(self, event: Event) -> None:
        sending = self._send(event)
        if not isinstance(sending, Coroutine):
            # An awaitable that is no coroutine cannot be driven by hand.
            self._task = asyncio.create_task(self._carry_on(_waiting_for(sending)))
            return
        try:
            waits_for = sending.send(None)
        except StopIteration:
            return
        except Exception as problem:
            self._failed(problem)
            return
        self._task = asyncio.create_task(self._carry_on(_resumed(sending, waits_for)))

    async def _carry_on(self, sending: Awaitable[None]) -> None:
        try:
            await sending
            while self._queue:
                await self._send(self._next())
        except Exception as problem:
            self._failed(problem)
        finally:
            self._task = None

    def _failed(self, problem: Exception) -> None:
        # The client left while we were writing; the consumer hears of it from the server. Anything
        # but an OSError would be a fault worth reading about.
        if not isinstance(problem, OSError):
            logger.warning("A message could not be handed to the server: %r", problem)
        self._closing = self._lost = True
        self._clear()


@types.coroutine
def _waiting_for(awaitable: Awaitable[None]) -> Generator[Any, Any, None]:
    yield from awaitable.__await__()


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine whose first step gave `waits_for`, as if it had been awaited from the start."""
    while True:
        try:
            sent = yield waits_for
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as thrown:
            try:
                waits_for = coroutine.throw(thrown)
            except StopIteration:
                return
        else:
            try:
                waits_for = coroutine.send(sent)
            except StopIteration:
                return


def short(reason: str) -> str:
    """Cut a close reason to what a close frame holds, between characters."""
    return reason.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")
