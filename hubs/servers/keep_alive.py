"""Pings for many sockets with one timer.

A timer per connection, cancelled and made anew with every answer, costs more memory and time than
the ping itself. Here the sockets sit on a wheel: it turns once per `secs`, a slot at a time, and a
socket is looked after when its slot comes round. All of one slot are sent the same ping, so there
is one payload to make and one to compare with.

A socket is put into the slot that has just passed, so its first ping comes after a whole turn, less
one slot at most.

A socket whose client is not read needs more than that. What the client has sent lies in front of its
close frame, its FIN and its answers to pings; where the receive buffer is full, the FIN does not even
leave the client. So such a socket is watched: at every slot it is asked what TCP knows of the client
(`peer_of`), and a few times in a turn it is sent a ping, whether one is answered or not. A client that
has closed its socket answers with a reset, which TCP knows of. Where the system has no TCP_INFO (it is
Linux's), the second of these pings fails, and the transport says so.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, NamedTuple, Protocol

SLOTS = 20
# A client that is not read is sent a ping every so many slots.
SLOTS_PER_PROBE = 4

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


class Beating(Protocol):
    """What sits on the wheel."""

    def beat(self, payload: bytes) -> None:
        """A turn is over: see whether the last ping was answered, and send the next."""


class Watched(Protocol):
    """A socket whose client is not read."""

    def probe(self, payload: bytes | None) -> None:
        """See whether the client is still there; with a payload, send it in a ping."""


class Wheel:
    """All sockets of one event loop that are kept alive."""

    def __init__(self, secs: float) -> None:
        self.secs = secs
        self._slot_secs = secs / SLOTS
        self._slots: list[dict[Beating, None]] = [{} for _ in range(SLOTS)]
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
        """Nobody reads what this client sends, until `unwatch`."""
        self._watched[socket] = None
        if self._timer is None:
            self._wait()

    def unwatch(self, socket: Watched) -> None:
        """It is read again, or gone. Doing it twice is doing it once."""
        self._watched.pop(socket, None)
        self._rest()

    def _rest(self) -> None:
        if not (self._count or self._watched) and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __len__(self) -> int:
        return self._count

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._slot_secs, self._turn)

    def _turn(self) -> None:
        self._timer = None
        self._passed = (self._passed + 1) % SLOTS
        self._turns += 1
        payload = (self._turns & 0xFFFFFFFF).to_bytes(4, "big")
        # First, so that it goes on whatever happens to one of them; and who goes may be the last.
        self._wait()
        for beating in list(self._slots[self._passed]):
            beating.beat(payload)
        probe = payload if self._turns % SLOTS_PER_PROBE == 0 else None
        for watched in list(self._watched):
            watched.probe(probe)
