"""A WebSocket without ASGI's messages, for applications that ask for it (docs/asgi-extension.md).

ASGI gives every connection a coroutine that waits for the next event, a queue in front of it, and a
coroutine call per message and receiver on the way out. For a service that hands one message to a
thousand clients these cost more than everything else. So an application may name a receiver when it
accepts; then its coroutine may end, and the socket goes on as one small object:

    the socket gives ──► frames are read (reading.py) ──► receiver.receive(message), at once
    socket.write(finished frames) ──► collected ──► one write when this turn of the loop is over

What one turn of the loop has for a client leaves in one system call, whoever it came from: that is
where most of the speed is. It adds no latency to speak of, since the turn ends when all that had
arrived is handled.

A turn with a thousand writes takes milliseconds, and who answers to the last of them is heard a moment
after it has ended. So behind such a turn the loop goes round a few times, for a few hundredths of the
time it was busy, before it writes again. Then what comes in answer leaves together, where it would else
leave one by one; under load that halves the number of writes. A loop with little to do does not wait at all.

Most of what leaves goes to many at once. So sockets can be written to together: what a turn has for
the same audience is put together once for all of them, as long as nothing else is written to one of
them in between. Then it is laid down with each, so that every client gets everything in the order
in which it was written.

A receiver that is busy holds its socket. Then messages are kept here, up to a bound, and the socket is
still read: pings are answered, and a client that says goodbye or leaves is noticed. Past the bound it is
not read, and the wheel of `keep_alive.py` watches whether the client is there.

A client that sends as fast as it can gets no more than its part of the loop. A read may hold tens of thousands of
frames, and libuv reads a socket again, up to 32 times, as long as it fills the buffer. So after FRAMES_PER_TURN frames,
or a read that may have filled it, the socket is not read for REST_SECS, in which the loop serves the others. A turn of
the loop would do for the other sockets, but not for threads: a loop that never waits takes the GIL back before
a thread has woken up to take it, and what Django does in threads would stand still.

How a conversation ends is as `endings.py` has it for every server: the receiver is told once, when
it is decided. The socket follows at once: behind the close frame this side is shut (FIN), and what the
client still sends is read and thrown away until it has shut its own. To close with bytes unread would
reset the connection, and the client might never see the close frame.

Everything here runs on one event loop, and nothing waits.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from hubs import close_codes
from hubs.protocols.extension import Receiver
from hubs.servers import endings, reading
from hubs.servers.keep_alive import KeptAlive, Wheel, reset_when_closed
from hubs.servers.reading import Fault, Reader

logger = logging.getLogger(__name__)

# More than this is not collected for one client: the transport shall say whether it takes it.
MAX_COLLECTED_BYTES = 128 * 1024

# Of messages for a receiver that holds so many bytes are read ahead, and one message; each counts for more than it has.
MAX_AHEAD_BYTES = 64 * 1024
AHEAD_BYTES_EACH = 64

# So many frames of one client are handled in one turn of the loop; the others wait in its reader. A read of so many
# bytes is the last of its turn: it is as much as uvloop's buffer has, and libuv repeats only a read that fills it.
FRAMES_PER_TURN = 256
LARGE_READ_BYTES = 256_000
# For how long a client that has had as much as that is not read.
REST_SECS = 0.001

# After a turn with many writes the loop looks for what has arrived once more for so many of them, and at most so
# often, before it writes again. A look takes a few microseconds, a write about four.
WRITES_PER_LOOK = 32
MOST_LOOKS = 64

_FINAL = 0x80


class Sockets:
    """All direct sockets of one server. `connections` is the server's own list, in which each of them stands."""

    def __init__(
        self, connections: set[Any], max_bytes: int, keep_alive_secs: float, write_secs: float = math.inf
    ) -> None:
        self.connections = connections
        self.max_bytes = max_bytes
        # Two looks to a ping: for sending it, and for the answer.
        self.wheel = Wheel(keep_alive_secs / 2, write_secs)
        # What this turn of the loop has for audiences, in order: each with its frames.
        self.entries: list[tuple[Audience, list[bytes]]] = []
        self._size = 0
        # Sockets with something of their own to write when the turn is over.
        self._collecting: list[DirectSocket] = []
        self._scheduled = False
        # Sockets that rest; all of them at the same time, so that the loop does.
        self._resting: list[DirectSocket] = []
        # How many writes the last turn made, and how often the sockets are looked at again before the next are made.
        self._writes = 0
        self._looks = 0
        loop = asyncio.get_running_loop()
        self.call_soon, self.call_later = loop.call_soon, loop.call_later

    def collect(self, socket: DirectSocket) -> None:
        """Have a socket write when this turn of the loop is over."""
        self._collecting.append(socket)
        if not self._scheduled:
            self._schedule()

    def rest(self, socket: DirectSocket) -> None:
        """Have a socket go on reading in REST_SECS."""
        self._resting.append(socket)
        if len(self._resting) == 1:
            self.call_later(REST_SECS, self._end_rest)

    def _end_rest(self) -> None:
        sockets, self._resting = self._resting, []
        for socket in sockets:
            try:
                socket.go_on()
            except Exception:
                socket.drop("Frames could not be read")

    def write(self, audience: Audience, frames: bytes) -> None:
        """Write to many when this turn of the loop is over."""
        entries = self.entries
        if entries and entries[-1][0] is audience:
            entries[-1][1].append(frames)
        else:
            entries.append((audience, [frames]))
            if not self._scheduled:
                self._schedule()
        self._size += len(frames)
        if self._size > MAX_COLLECTED_BYTES:
            self.lay_down()

    def concerns(self, socket: DirectSocket) -> bool:
        """Whether something is, or may be, still to be written to a socket together with others."""
        entries = self.entries
        # Of several it would take longer to find out than to have them written.
        return len(entries) > 1 or (len(entries) == 1 and socket in entries[0][0].members)

    def lay_down(self) -> None:
        """Have what is for audiences written now, because something is that has to come behind it."""
        entries, self.entries = self.entries, []
        self._size = 0
        for audience, collected in entries:
            frames = collected[0] if len(collected) == 1 else b"".join(collected)
            self._writes += len(audience.sockets)
            for socket in audience.sockets:
                write = socket.ready
                try:
                    if write is not None:
                        # A transport of uvloop collects, too: it makes one system call when the turn is over.
                        write(frames)
                    else:
                        socket.take(frames)
                except Exception:
                    socket.drop()

    def _schedule(self) -> None:
        self._scheduled = True
        self._looks = min(self._writes // WRITES_PER_LOOK, MOST_LOOKS)
        self._writes = 0
        self.call_soon(self._end_of_turn)

    def _end_of_turn(self) -> None:
        if self._looks:
            # It has just been busy for long; what has arrived by now may leave together with what is here.
            self._looks -= 1
            self.call_soon(self._end_of_turn)
            return
        self._scheduled = False
        if self.entries:
            self.lay_down()
        if self._collecting:
            sockets, self._collecting = self._collecting, []
            self._writes += len(sockets)
            for socket in sockets:
                try:
                    socket.flush()
                except Exception:
                    socket.drop()


class Audience:
    """Sockets that are written to together."""

    __slots__ = ("_shared", "members", "sockets")

    def __init__(self, shared: Sockets, sockets: Sequence[DirectSocket]) -> None:
        self._shared = shared
        self.sockets = tuple(sockets)
        self.members = frozenset(sockets)

    def write(self, frames: bytes) -> None:
        """Send finished frames to all."""
        self._shared.write(self, frames)


class DirectSocket(KeptAlive, asyncio.Protocol):
    """One WebSocket after its handshake."""

    __slots__ = (
        "_agreed",
        "_ahead",
        "_ahead_bytes",
        "_collected",
        "_deaf",
        "_discards",
        "_full",
        "_held",
        "_lost",
        "_lost_by",
        "_over",
        "_paused",
        "_pong",
        "_reader",
        "_receiver",
        "_rest",
        "_size",
        "_slot",
        "_sockets",
        "_timer",
        "_transport",
        "_write",
        "_yields",
        "ready",
    )

    def __init__(
        self, sockets: Sockets, transport: asyncio.Transport, receiver: Receiver, agreed: str | None, early: bytes
    ) -> None:
        super().__init__()
        self._sockets = sockets
        self._transport = transport
        self._receiver = receiver
        # The subprotocol, for the wording of a fault.
        self._agreed = agreed
        self._reader = Reader(sockets.max_bytes)
        self._collected: list[bytes] = []
        self._size = 0
        # The receiver takes no message now; what was read for it all the same, and counts so much.
        self._held = False
        self._ahead: deque[str | bytes] | None = None
        self._ahead_bytes = 0
        # The transport does not read; its buffer is full.
        self._paused = self._full = False
        # The receiver knows of the end, or is about to. Deaf: it gets no message that is read from now on.
        self._over = self._deaf = False
        # Whatever comes is thrown away: it cannot be read any more, or our side is shut.
        self._discards = False
        # It has had its part of the loop for now, and is not read.
        self._yields = False
        # The transport was lost meanwhile; and why, if that was our own doing.
        self._lost = False
        self._lost_by = ""
        # Of that so much is known to come, and worth waiting for.
        self._rest = 0
        # To a ping that came while it was full; the last one is enough (RFC 6455, section 5.5.3).
        self._pong: bytes | None = None
        self._timer: asyncio.TimerHandle | None = None
        # The transport's own `write`, while there is nothing to be minded.
        self._write: Callable[[bytes], None] = transport.write
        self.ready: Callable[[bytes], None] | None = self._write
        self._slot = sockets.wheel.add(self)
        sockets.connections.add(self)
        transport.set_protocol(self)
        if early:
            # What the client sent before it had the answer to its handshake. More may come before this turn is over.
            self._reader.feed(early)
            sockets.call_soon(self._read_more)
        try:
            receiver.opened(self)
        except Exception:
            logger.exception("A conversation could not be begun")
            self.fail()

    # For the receiver

    @property
    def server(self) -> object:
        """Whose it is."""
        return self._sockets

    def together(self, sockets: Sequence[DirectSocket]) -> Audience:
        """Several sockets of this server, to be written to together."""
        return Audience(self._sockets, sockets)

    def write(self, frames: bytes) -> None:
        """Send finished frames; those of one turn of the loop leave together."""
        sockets = self._sockets
        if sockets.entries and sockets.concerns(self):
            # They come first, and may fill it.
            sockets.lay_down()
        if self._full or self._over:
            self.take(frames)
            return
        collected = self._collected
        if not collected:
            self.ready = None
            sockets.collect(self)
        collected.append(frames)
        self._size += len(frames)
        if self._size > MAX_COLLECTED_BYTES:
            self.flush()

    def settle(self) -> None:
        """Have everything written so far laid down here, or given back, before something that has to come behind it."""
        if self._sockets.entries and self._sockets.concerns(self):
            self._sockets.lay_down()

    def close(self, code: int, reason: str = "") -> None:
        """Close, behind everything written so far. `gone` follows in the next turn of the loop."""
        if not self._over:
            self._close(code, reason, endings.CLOSING_SECS)

    def hold(self) -> None:
        """Give the receiver no more messages, until `read_on`."""
        # After the end there is the client's part of it to be read.
        if not self._over:
            self._held = True

    def read_on(self) -> None:
        """Give it messages again."""
        if self._held:
            self._held = False
            if self._ahead or self._reader.waits:
                # Not now: perhaps it is a receiver that asks, in the middle of a message.
                self._sockets.call_soon(self._read_more)
            elif self._paused:
                self._resume()

    # For the transport

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client; whatever they are, it gets an answer."""
        self._heard += len(data)
        if len(data) >= LARGE_READ_BYTES:
            self._yield()
        if self._discards:
            if self._rest > 0:
                self._rest = max(0, self._rest - len(data))
                if not self._rest and self._over:
                    self._shut()
            return
        self._reader.feed(data)
        self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        if self._yields and not self._over:
            # What was read is handled first.
            self._lost = True
            self._write = _nowhere
            self._look()
            return
        self._hand_on(all_of_it=True)
        self._tell(close_codes.CONNECTION_LOST, self._lost_by)
        self._collected.clear()
        self._read_nothing()
        if self._timer is not None:
            self._timer.cancel()
        self._paused = False
        self._sockets.wheel.unwatch(self)
        self._sockets.wheel.remove(self, self._slot)
        self._sockets.connections.discard(self)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._full = True
        self._look()
        if not self._over:
            self._fills()
            self._receiver.full()

    def resume_writing(self) -> None:
        """The transport's buffer has emptied."""
        # What was written while it was full comes behind what the receiver holds back since then.
        self.settle()
        self._full = False
        self._look()
        self._drains()
        if not self._over:
            if self._pong is not None:
                self._insert(self._pong)
                self._pong = None
            self._receiver.room()

    # For the server

    def take(self, frames: bytes) -> None:
        """Frames that cannot simply be written, as `ready` says."""
        if self._full and not self._over:
            self._receiver.missed(frames)
        elif not self._over:
            # Behind what is its own; `entries` are being laid down, and hold nothing back.
            self._collected.append(frames)
            self.flush()

    def drop(self, what: str = "Frames could not be written") -> None:
        """Something failed that should not: the others are not to suffer from it. Called where it is caught."""
        logger.exception(what)
        self._transport.abort()

    def flush(self) -> None:
        """Write what was collected."""
        collected = self._collected
        if collected:
            frames = collected[0] if len(collected) == 1 else b"".join(collected)
            collected.clear()
            self._size = 0
            write = self._write
            if not (self._full or self._over):
                self.ready = write
            write(frames)

    def _look(self) -> None:
        """Find out anew whether it is ready."""
        self.ready = None if self._full or self._over or self._collected else self._write

    def shutdown(self) -> None:
        """The server stops: say so with 1001, which makes clients look for another or come back later."""
        if not self._over:
            self._close(*close_codes.STOPPING.frame, endings.STOPPING_SECS)
        else:
            # Whatever time it was given for its end before: now everybody waits for it.
            self._expire(endings.STOPPING_SECS)

    def fail(self) -> None:
        """The application failed."""
        if not self._over:
            self._close(*close_codes.FAILED.frame, endings.CLOSING_SECS)

    # For keeping it alive

    @property
    def wheel(self) -> Wheel:
        """On which it sits."""
        return self._sockets.wheel

    def _end(self) -> Any:
        return self._transport.get_extra_info("socket")

    def _can_answer(self) -> bool:
        return not (self._over or self._paused or self._yields)

    def _is_unread(self) -> bool:
        return self._paused

    def _ping(self, payload: bytes) -> None:
        self._insert(_control(reading.PING, payload))

    def _unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    def _look_for_goodbye(self) -> None:
        self._deaf = True
        self._resume()
        self._sockets.call_soon(self._read_more)

    def _cut_off(self, reason: str) -> None:
        self._lost_by = reason
        self._abort()

    def _close_unread(self) -> None:
        self.close(*close_codes.NOT_READ.frame)

    def _abort(self) -> None:
        reset_when_closed(self._end())
        self._transport.abort()

    # Reading

    def _yield(self) -> None:
        """Leave the loop to others for a while."""
        if not self._yields:
            self._yields = True
            if not self._transport.is_closing():
                self._transport.pause_reading()
            self._sockets.rest(self)

    def go_on(self) -> None:
        """Read on after a rest."""
        self._yields = False
        self._read()
        if self._yields:
            return
        if self._lost:
            self.connection_lost(None)
        elif not self._paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def _read_more(self) -> None:
        """Read what is here, unless that is done after a rest."""
        if not self._yields:
            self._read()

    def _read(self) -> None:
        if self._ahead:
            self._hand_on()
        reader = self._reader
        for _ in range(FRAMES_PER_TURN):
            if self._ahead_bytes >= MAX_AHEAD_BYTES and not self._deaf:
                self._pause()
                return
            try:
                message = reader.next()
                if message is None:
                    if self._paused:
                        self._resume()
                    return
                kind, payload = message
                if kind == reading.TEXT:
                    told: str | bytes = payload.decode()
                elif kind == reading.BINARY:
                    told = bytes(payload)
                elif kind == reading.CLOSE:
                    self._closed(payload)
                    return
                else:
                    if kind == reading.PONG:
                        self._unanswered = 0
                    elif kind == reading.PING and not self._deaf:
                        self._answer(payload)
                    continue
            except Fault as fault:
                self._rest = fault.rest
                self._break_off(fault.code)
                return
            except UnicodeDecodeError:
                self._break_off(close_codes.INVALID_DATA)
                return
            if self._deaf:
                continue
            if self._held:
                if self._ahead is None:
                    self._ahead = deque()
                self._ahead.append(told)
                self._ahead_bytes += len(payload) + AHEAD_BYTES_EACH
                continue
            self._give(told)
        self._yield()

    def _answer(self, ping: bytes | bytearray) -> None:
        pong = _control(reading.PONG, ping)
        if self._full:
            self._pong = pong
        else:
            self._insert(pong)

    def _give(self, message: str | bytes) -> None:
        try:
            self._receiver.receive(message)
        except Exception:
            logger.exception("A message could not be handled")
            self.fail()

    def _hand_on(self, *, all_of_it: bool = False) -> None:
        """Give the receiver what was read ahead, as far as it takes it; before the end, all of it."""
        while self._ahead and not self._over and (all_of_it or not self._held):
            self._give(self._ahead.popleft())
        if not self._ahead or self._over:
            # Not counted down one by one: nothing more is read before all of it is given.
            self._ahead = None
            self._ahead_bytes = 0

    def _pause(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()
            self._sockets.wheel.watch(self)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            # Its answer to a ping may lie behind what was not read.
            self._forgive()
            if self._behind is None:
                self._sockets.wheel.unwatch(self)
            if not self._yields and not self._transport.is_closing():
                self._transport.resume_reading()

    def _closed(self, payload: bytes | bytearray) -> None:
        """The client closes, or answers our close frame. Raises Fault."""
        code, reason = reading.close_of(payload)
        self._hand_on(all_of_it=True)
        self.settle()
        if not self._over:
            self._tell(code, reason)
            self._insert(_control(reading.CLOSE, payload))
        # In case it takes nothing that is left for it.
        self._hang_up(2 * endings.CLOSING_SECS)

    # How it ends

    def _close(self, code: int, reason: str, secs: float) -> None:
        """Close by ourselves; the client has so many seconds to answer."""
        self.settle()
        if self._over:
            # It missed something just now, and its receiver has closed it for that.
            return
        self._over = self._deaf = True
        self._look()
        self._sockets.call_soon(self._receiver.gone, code, reason)
        self._insert(_control(reading.CLOSE, code.to_bytes(2, "big") + reason.encode()))
        if self._discards:
            # No answer of the client's could be read.
            self._hang_up(secs)
        else:
            self._expire(secs)
            self._resume()
            self._sockets.call_soon(self._read_more)

    def _break_off(self, code: int) -> None:
        """The client broke the protocol: have it closed, by the receiver, behind what is done for it still."""
        self._hand_on(all_of_it=True)
        self._read_nothing()
        self._resume()
        if self._over:
            self._hang_up(endings.CLOSING_SECS)
            return
        try:
            self._receiver.broken(code, endings.reason(code, self._agreed))
        except Exception:
            logger.exception("A fault could not be handled")
            self.fail()

    def _hang_up(self, secs: float) -> None:
        """Shut our side behind the close frame. The client has so many seconds to take it, and to shut its own."""
        self.flush()
        self._read_nothing()
        if self._transport.is_closing():
            return
        self._expire(secs)
        self._resume()
        if self._rest > 0:
            self._sockets.call_later(endings.QUIET_SECS, self._shut)
        else:
            self._shut()

    def _shut(self) -> None:
        """Shut our side. Doing it twice is doing it once."""
        if self._transport.is_closing() or self._rest < 0:
            return
        self._rest = -1
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _insert(self, frame: bytes) -> None:
        """Collect a control frame, full or not; a message's frames come in one piece, so it interrupts none."""
        if not self._collected:
            self.ready = None
            self._sockets.collect(self)
        self._collected.append(frame)
        self._size += len(frame)
        if self._size > MAX_COLLECTED_BYTES:
            self.flush()

    def _read_nothing(self) -> None:
        """Whatever the client has sent, and may still send, is of no interest any more."""
        self._discards = True
        self._held = False
        self._ahead = None
        self._ahead_bytes = 0
        self._reader = Reader(0)

    def _tell(self, code: int, reason: str = "") -> None:
        if not self._over:
            self._over = self._deaf = True
            self._look()
            try:
                self._receiver.gone(code, reason)
            except Exception:
                logger.exception("The end of a conversation could not be handled")

    def _expire(self, secs: float) -> None:
        """See that it is gone in so many seconds, or earlier, if that was said before."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + secs:
                return
            self._timer.cancel()
        self._timer = loop.call_later(secs, self._abort)


def _control(opcode: int, payload: bytes | bytearray) -> bytes:
    return bytes((_FINAL | opcode, len(payload))) + payload


def _nowhere(frames: bytes) -> None:
    """Where a socket writes whose transport is lost."""


class HandedOver:
    """Stands where uvicorn's protocol had its transport, once that has gone to a direct socket."""

    def close(self) -> None:
        """Nothing: the application's coroutine may end, and its socket lives."""

    abort = close

    def is_closing(self) -> bool:
        """It is, for this protocol."""
        return True


NOT_THERE = cast(asyncio.Transport, HandedOver())
