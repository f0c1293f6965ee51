"""Pings for many sockets with one timer.

A timer per connection, cancelled and made anew with every answer, costs more memory and time than
the ping itself. Here the sockets sit on a wheel: it turns once per `secs`, a slot at a time, and a
socket is looked after when its slot comes round. All of one slot are sent the same ping, so there
is one payload to make and one to compare with.

A socket is put into the slot that has just passed, so its first ping comes after a whole turn, less
one slot at most.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

SLOTS = 20


class Beating(Protocol):
    """What sits on the wheel."""

    def beat(self, payload: bytes) -> None:
        """A turn is over: see whether the last ping was answered, and send the next."""


class Wheel:
    """All sockets of one event loop that are kept alive."""

    def __init__(self, secs: float) -> None:
        self._secs = secs / SLOTS
        self._slots: list[dict[Beating, None]] = [{} for _ in range(SLOTS)]
        self._passed = 0
        self._turns = 0
        self._count = 0
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
            if not self._count and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def __len__(self) -> int:
        return self._count

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._secs, self._turn)

    def _turn(self) -> None:
        self._timer = None
        self._passed = (self._passed + 1) % SLOTS
        self._turns += 1
        payload = (self._turns & 0xFFFFFFFF).to_bytes(4, "big")
        # First, so that it goes on whatever happens to one of them; and who goes may be the last.
        self._wait()
        for socket in list(self._slots[self._passed]):
            socket.beat(payload)
