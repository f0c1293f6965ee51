"""Who tells that a connection has ended.

Usually that is the process that had it, and where that has died the one that looks after what it left (takeovers.py).
Neither knows what the other does: a process that is cut off may live. So whoever comes first notes that in Redis
(`Records.first_to_tell`), and tells. Where it dies before it has learnt that it is first, its record is still there,
and its heir tells (`Records.left_untold`): twice, if it could tell and not remove the record, but not never.

Redis may forget a claim that the process that had the connection has read, and the one that made it has not. Then
nobody has it, and the former one tells.

What has ended here is noted even where this process was taken for dead meanwhile and goes by another name: nobody else
may know of a connection that began while it was cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from hubs.errors import Unavailable

if TYPE_CHECKING:
    from hubs.node.node import Node

AGAIN_SECS = 0.5

# How long a process that stops waits to know what it has to tell.
TELLING_SECS = 2.0

# How long a process remembers connections that others have claimed: those have read their claims by then, or are dead.
DEPARTED_SECS = 10.0
MAX_DEPARTED = 100_000


class Endings:
    """Connections that have ended here, of which is not known yet who tells so."""

    def __init__(self, node: Node) -> None:
        self._node = node
        # With the connection's id, and how to tell.
        self._open: dict[asyncio.Task[None], tuple[str, Callable[[], None]]] = {}
        self._leaves = False
        # By id, in the order in which they left: when, from which hub, and how to tell that one has ended.
        self._departed: dict[str, tuple[float, str, Callable[[], None]]] = {}
        self._forgetting: asyncio.TimerHandle | None = None

    def end(self, connection_id: str, tell: Callable[[], None]) -> None:
        """A connection has ended here: `tell` so, unless another process has done that, taking this one for dead.

        What ends after `all_told` is left to whoever looks after what this process leaves.
        """
        if self._leaves:
            return
        task = asyncio.create_task(self._end(connection_id, tell), name="end of a connection")
        self._open[task] = connection_id, tell
        task.add_done_callback(lambda task: self._open.pop(task, None))

    async def _end(self, connection_id: str, tell: Callable[[], None]) -> None:
        node = self._node
        records, process = node.records, node.process
        while True:
            try:
                is_first = await records.first_to_tell(connection_id, process)
                break
            except Unavailable:
                # Whoever comes first tells: this process when Redis is back, or, if it stops before that, another.
                await asyncio.sleep(AGAIN_SECS)
        node.records.disown(connection_id, process)
        if is_first:
            tell()

    def departed(self, hub: str, connection_id: str, tell: Callable[[], None]) -> None:
        """Another process has claimed a connection; `tell` that it has ended if that is lost."""
        loop = asyncio.get_running_loop()
        self._departed.pop(connection_id, None)
        self._departed[connection_id] = loop.time(), hub, tell
        if len(self._departed) > MAX_DEPARTED:
            del self._departed[next(iter(self._departed))]
        if self._forgetting is None:
            self._forgetting = loop.call_later(DEPARTED_SECS, self._forget)

    def _forget(self) -> None:
        loop = asyncio.get_running_loop()
        while self._departed:
            connection_id, (at, _, _) = next(iter(self._departed.items()))
            if (due := at + DEPARTED_SECS) > loop.time():
                self._forgetting = loop.call_at(due, self._forget)
                return
            del self._departed[connection_id]
        self._forgetting = None

    def ended_elsewhere(self, connection_id: str) -> None:
        """Whoever had a connection has ended it, and tells so."""
        self._departed.pop(connection_id, None)

    def lost(self, hub: str) -> None:
        """A part of a hub's log is lost, and with it all its reliable connections, whoever has them."""
        for connection_id, (_, of, tell) in list(self._departed.items()):
            if of == hub:
                del self._departed[connection_id]
                self.end(connection_id, tell)

    async def all_told(self) -> None:
        """Wait until it is known of all connections that have ended here who tells so, for a few seconds at most.

        Those that nobody else seems to know of, since Redis never confirmed their records, are told of then in any
        case: twice, if it had executed what it did not confirm, but not never.
        """
        self._leaves = True
        if not self._open:
            return
        _, undecided = await asyncio.wait(set(self._open), timeout=TELLING_SECS)
        for task in undecided:
            connection_id, tell = self._open[task]
            if self._node.records.is_unwritten(connection_id):
                task.cancel()
                tell()

    async def stop(self) -> None:
        """Tell nothing more."""
        if self._forgetting is not None:
            self._forgetting.cancel()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
