"""The process stops: its clients are told to go elsewhere, not all at once.

Ten thousand clients that are told in one moment come back in one moment, and the processes that are left
have to look at ten thousand tokens. So they are told a few at a time (`DRAIN_PER_SEC`). Each connection takes no
more frames, has those it took finished and acknowledged, and closes its socket with 1001
(`Connection.retire`). An ordinary one ends with that. The connection of a reliable client stays here, away, until
another process has claimed it; those that are left when this one stops are looked after by another
(node/takeovers.py), or by the next one to start. An event handler that still works here for a connection that has gone
elsewhere is waited for, and so are connections that are just being fetched.

All of it takes `DRAIN_SECS` at most. Half of that is for telling: where there are too many for the rate, it is
higher. What is still here in the end is closed by the server as it is.

A process that is alone has nobody to go gently on: everybody is told at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable

from hubs import conf
from hubs.connections import recovery
from hubs.connections.connection import Connection
from hubs.node.node import Node, node

logger = logging.getLogger(__name__)

TICK_SECS = 0.05

# What the share of DRAIN_SECS is in which everybody is told.
TELLING = 0.5

# How long a process that is alone waits for what its clients have asked for. Whoever stops it sits and waits, too.
ALONE_SECS = 10.0


async def drain(stopping_too: int = 0) -> None:
    """Part with all clients of this process. `stopping_too`: so many of the other processes stop as well."""
    await _Draining(node(), stopping_too).run()


class _Draining:
    """How far it has come."""

    def __init__(self, here: Node, stopping_too: int) -> None:
        self._node = here
        self._gently = len(here.others()) > stopping_too
        self._secs = conf.settings.DRAIN_SECS if self._gently else min(conf.settings.DRAIN_SECS, ALONE_SECS)
        self._begun = _now()
        self._told: set[str] = set()

    async def run(self) -> None:
        """Tell everybody, and wait until they have gone."""
        count = len(self._connections())
        if count:
            logger.info("Draining %d connections, for at most %g seconds", count, self._secs)
        await self._tell_all(self._secs * TELLING)
        while ((left := self._left()) or recovery.under_way()) and self._age < self._secs:
            # A handshake that was going on may bring somebody new.
            self._tell(left)
            await asyncio.sleep(TICK_SECS)
        if count or self._told:
            told, left_here = len(self._told), len(self._left())
            logger.info("Drained in %.1f seconds; clients told: %d, still here: %d", self._age, told, left_here)

    async def _tell_all(self, secs: float) -> None:
        """Tell those who are here, at the set rate."""
        waiting = deque(connection for connection in self._connections() if connection.outbox is not None)
        rate = max(conf.settings.DRAIN_PER_SEC, len(waiting) / secs) if self._gently and secs else float("inf")
        begun, told = self._age, 0
        while waiting:
            due = min(len(waiting), (self._age - begun + TICK_SECS) * rate - told)
            now_told = [waiting.popleft() for _ in range(int(due))]
            # Who has left meanwhile costs nobody anything.
            told += self._tell(connection for connection in now_told if connection in self._node)
            if waiting:
                await asyncio.sleep(TICK_SECS)

    def _tell(self, connections: Iterable[Connection]) -> int:
        """Send those away who have a socket and were not told yet; gives their number."""
        before = len(self._told)
        for connection in connections:
            if connection.outbox is not None and connection.id not in self._told:
                self._told.add(connection.id)
                connection.retire()
        return len(self._told) - before

    def _left(self) -> list[Connection]:
        """Those for whom this process has to stay: they have a socket, or what they sent before is being done.

        Who is closing has all it asked for.
        """
        return [
            connection
            for connection in self._connections()
            if (connection.frames.busy if connection.outbox is None else not connection.closing)
        ]

    def _connections(self) -> list[Connection]:
        return [member for member in self._node.members() if isinstance(member, Connection)]

    @property
    def _age(self) -> float:
        return _now() - self._begun


def _now() -> float:
    return asyncio.get_running_loop().time()
