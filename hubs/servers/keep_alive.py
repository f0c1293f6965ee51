"""Which clients are still there, and which of them take what is sent to them.

TCP says nothing of a client whose network has vanished, and keeps what is sent to it for a quarter of an hour. So
a client is sent a ping every KEEP_ALIVE_SECS, and has half of that to answer; who does not is cut off (1006), one
and a half KEEP_ALIVE_SECS after its last sign of life at the latest. What counts is the pong. A client that sends but
does not read, or reads but does not answer, is not there for those who write to it. There is one exception: a client
that is sending a lot may have its pong behind all of that (UPLOAD_BYTES), for a while (MOST_UNANSWERED).

A client that does not take what it is sent gets no pings, since they would only wait behind the rest. It is given
WRITE_TIMEOUT_SECS instead, in which it has to take LEAST_BYTES_PER_SEC, as one that reads an HTTP response has to; who
does not is closed with 1008. How much may wait for it meanwhile is for the application to bound.

The kernel offers both, and neither does. SO_KEEPALIVE asks the next host, which may be a proxy, and only while nothing
is under way. TCP_USER_TIMEOUT also ends connections whose client is there and has closed its window, without a word
that could be logged. What the kernel knows is asked for below (TCP_INFO), where no ping can be answered.

Time is counted in turns of a wheel, not by a clock: after the process has stood still, answers that have arrived
meanwhile are read before anybody is judged by them. A timer per connection, cancelled and made anew with every
answer, would also cost more memory and time than the ping itself. The sockets sit on the wheel: it turns once per
`secs`, a slot at a time, and a socket is looked after when its slot comes round: to be sent a ping, and half of
KEEP_ALIVE_SECS later for the answer. All of one slot are sent the same ping.

A socket is put into the slot that has just passed, so it is first looked after a whole turn later, less one slot at
most.

A socket whose client is not read needs more than that. What the client has sent lies in front of its
close frame, its FIN and its answers to pings; where the receive buffer is full, the FIN does not even
leave the client. So such a socket is watched: at every slot it is asked what TCP knows of the client
(`peer_of`), and a few times in a turn it is sent a ping, whether one is answered or not. A client that
has closed its socket answers with a reset, which TCP knows of. Where the system has no TCP_INFO (it is
Linux's), the second of these pings fails, and the transport says so.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from typing import Any, NamedTuple, Protocol

from hubs import close_codes

# A turn has so many slots; a slot lasts a second at most where that is enough of them.
LEAST_SLOTS, MOST_SLOTS = 10, 60
SLOT_SECS = 1.0
# A client that is not read is sent so many pings in a turn, about.
PROBES_PER_TURN = 2.5

# A client that has sent so much since a ping may have its pong behind that; but not that of so many pings in a row.
UPLOAD_BYTES = 64 * 1024
MOST_UNANSWERED = 6

# What a client has to take while something waits for it.
LEAST_BYTES_PER_SEC = 1024

_TCP_INFO = getattr(socket, "TCP_INFO", None)
# Where in Linux's `struct tcp_info` is what: the state, the segments that are not acknowledged, and for how many
# milliseconds no acknowledgement has come.
_STATE, _UNACKED, _LAST_ACK = 0, 24, 56
_INFO_BYTES = 60
_ESTABLISHED = 1


class Peer(NamedTuple):
    """What TCP knows of a client: that it has closed its side or reset; for how long it has owed an acknowledgement."""

    left: bool
    silent_secs: float


def peer_of(end: Any) -> Peer | None:
    """What TCP knows of the client at the other end of a socket; None where the system does not say."""
    if _TCP_INFO is None or end is None:
        return None
    try:
        info = end.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO_BYTES)
    except OSError:
        # No TCP socket, or a closed one.
        return None
    if len(info) < _INFO_BYTES:
        return None
    [unacked], [last_ack_ms] = struct.unpack_from("=I", info, _UNACKED), struct.unpack_from("=I", info, _LAST_ACK)
    return Peer(info[_STATE] != _ESTABLISHED, last_ack_ms / 1000 if unacked else 0.0)


def reset_when_closed(end: Any) -> None:
    """Have closing a socket reset its connection.

    Else the system would keep the last megabytes that were sent to a client, and try for minutes to deliver them.
    """
    if end is not None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Beating(Protocol):
    """What sits on the wheel."""

    def beat(self, payload: bytes) -> None:
        """A turn is over: see whether the last ping was answered, and send the next."""


class Watched(Protocol):
    """A socket whose client is not read, or does not read."""

    def probe(self, payload: bytes | None) -> None:
        """A slot has passed: see how the client is; with a payload, send it in a ping."""


class Wheel:
    """Sockets of one event loop that are looked after once in `secs`.

    `write_secs`: how long a client may leave what waits for it.
    """

    def __init__(self, secs: float, write_secs: float = math.inf) -> None:
        self.secs = secs
        self.write_secs = write_secs
        slots = min(max(LEAST_SLOTS, math.ceil(secs / SLOT_SECS)), MOST_SLOTS)
        self.slot_secs = secs / slots
        self._slots_per_probe = round(slots / PROBES_PER_TURN)
        self._slots: list[dict[Beating, None]] = [{} for _ in range(slots)]
        self._passed = 0
        self._turns = 0
        self._count = 0
        self._watched: dict[Watched, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, socket: Beating) -> int:
        """Look after a socket from now on; gives its slot, for `remove`."""
        self._slots[self._passed][socket] = None
        self._count += 1
        if self._timer is None:
            self._wait()
        return self._passed

    def remove(self, socket: Beating, slot: int) -> None:
        """The socket is gone."""
        if self._slots[slot].pop(socket, socket) is None:
            self._count -= 1
            self._rest()

    def watch(self, socket: Watched) -> None:
        """Look at a socket at every slot, until `unwatch`. Doing it twice is doing it once."""
        self._watched[socket] = None
        if self._timer is None:
            self._wait()

    def unwatch(self, socket: Watched) -> None:
        """There is no need any more. Doing it twice is doing it once."""
        self._watched.pop(socket, None)
        self._rest()

    def _rest(self) -> None:
        if not (self._count or self._watched) and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __len__(self) -> int:
        return self._count

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.slot_secs, self._turn)

    def _turn(self) -> None:
        self._timer = None
        self._passed = (self._passed + 1) % len(self._slots)
        self._turns += 1
        payload = (self._turns & 0xFFFFFFFF).to_bytes(4, "big")
        # First, so that it goes on whatever happens to one of them; and who goes may be the last.
        self._wait()
        for beating in list(self._slots[self._passed]):
            beating.beat(payload)
        probe = payload if self._turns % self._slots_per_probe == 0 else None
        for watched in list(self._watched):
            watched.probe(probe)

    @property
    def time(self) -> float:
        """So many seconds it has turned; it does not while the loop stands still."""
        return self._turns * self.slot_secs


class KeptAlive:
    """What the sockets of our servers have in common: they are sent pings, and cut off when nobody is there.

    A server adds to `_heard`, sets `_unanswered` to 0 at a pong, and says when its transport is full and when it has
    room again (`_fills`, `_drains`).
    """

    __slots__ = ("_behind", "_heard", "_ping_next", "_silent", "_unanswered", "silent_secs")

    def __init__(self) -> None:
        super().__init__()
        # Bytes that have come since it was last looked after, and how many times in a row there were none.
        self._heard = self._silent = 0
        # When it is cut off: for how long nothing had come from the client, at least.
        self.silent_secs = 0.0
        # When it is looked after next it is sent a ping; else it has been sent one.
        self._ping_next = True
        # Pings in a row that were not answered.
        self._unanswered = 0
        # While the transport is full: since when the client has not taken enough, and how much waited then.
        self._behind: tuple[float, int] | None = None

    # Of a server

    @property
    def wheel(self) -> Wheel:
        """On which it sits."""
        raise NotImplementedError

    def _end(self) -> Any:
        """The socket itself, for what TCP knows of it."""
        raise NotImplementedError

    def _can_answer(self) -> bool:
        """Whether the client is read, and the conversation not over."""
        raise NotImplementedError

    def _is_unread(self) -> bool:
        """Whether it is us who do not read the client."""
        raise NotImplementedError

    def _ping(self, payload: bytes) -> None:
        """Send a ping."""
        raise NotImplementedError

    def _unsent(self) -> int:
        """How many bytes wait in the transport."""
        raise NotImplementedError

    def _look_for_goodbye(self) -> None:
        """The client has left: read what it has sent for its close frame alone."""
        raise NotImplementedError

    def _cut_off(self, reason: str) -> None:
        """Drop the connection with all that waits for its client, and tell the application why."""
        raise NotImplementedError

    def _close_unread(self) -> None:
        """Close with 1008 behind what the transport has, in case the client reads on."""
        raise NotImplementedError

    # For a server

    def _forgive(self) -> None:
        """Its answer could not be heard for a while, or not be given: ask anew."""
        self._unanswered = 0

    def _fills(self) -> None:
        """The transport takes no more."""
        self._behind = (self.wheel.time, self._unsent())
        self.wheel.watch(self)

    def _drains(self) -> None:
        """The transport has room again."""
        self._forget()
        self._forgive()

    def _forget(self) -> None:
        self._behind = None
        if not self._is_unread():
            self.wheel.unwatch(self)

    # For the wheel

    def beat(self, payload: bytes) -> None:
        """Send a ping, or see whether the last one was answered."""
        heard, self._heard = self._heard, 0
        self._silent = 0 if heard or self._is_unread() else self._silent + 1
        if self._behind is not None or not self._can_answer():
            return
        if self._ping_next:
            self._ping_next = False
            self._unanswered += 1
            self._ping(payload)
            return
        self._ping_next = True
        if self._unanswered and (heard < UPLOAD_BYTES or self._unanswered >= MOST_UNANSWERED):
            self.silent_secs = self._silent * self.wheel.secs
            self._cut_off(close_codes.NO_PONG.reason)

    def probe(self, payload: bytes | None) -> None:
        """See whether a client that is not read has left, and one that something waits for takes it."""
        if self._is_unread():
            peer = peer_of(self._end())
            if peer is not None and peer.left:
                self._look_for_goodbye()
                return
            if peer is not None and peer.silent_secs > 2 * self.wheel.secs:
                self.silent_secs = peer.silent_secs
                self._cut_off(close_codes.UNREACHABLE.reason)
                return
            if payload is not None and self._behind is None:
                # Answered or not: if the client has closed its socket, the system there answers with a reset.
                self._ping(payload)
        if self._behind is None:
            return
        now, unsent = self.wheel.time, self._unsent()
        since, waited = self._behind
        if waited - unsent >= LEAST_BYTES_PER_SEC * self.wheel.write_secs:
            self._behind = (now, unsent)
        elif now - since >= self.wheel.write_secs:
            self._forget()
            self._close_unread()
        else:
            # What was on its way into the transport as it became full has arrived there since.
            self._behind = (since, max(waited, unsent))
