"""What dead processes leave, and who looks after it.

A process that stops says goodbye, and one that is silent for too long is taken for dead (cluster/leases.py). Those
that live say so in the log that all read, and the first one has the job: it tells `disconnected` of the ordinary
connections that ended with the process, and claims the reliable ones, which wait for their clients with it from then
on. A client may be faster and take its connection itself; that does not matter.

Who does the job may die, too. So every process looks now and then whether something has been left by one that does
not live, the first time when it starts: a service that was stopped altogether finds its connections again.

A process that reads that it was taken for dead has stood still, or was cut off. Others have its reliable connections;
it closes its sockets, which ends the ordinary ones, and begins anew under another name (node.py). Of those that they
knew the others have told already (endings.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from hubs.cluster.entries import CONTROL_LOG, Adopted, Takeover
from hubs.cluster.log import applied
from hubs.errors import Refusal, Unavailable

if TYPE_CHECKING:
    from hubs.node.node import Node
    from hubs.node.ownership import Arrival

logger = logging.getLogger(__name__)

# Not all say it at once: each waits for those whose names come before its own.
RANK_SECS = 0.1
SWEEP_SECS = 30.0
AGAIN_SECS = 0.5
TRIES = 20

# How long a process that is to tell of an ended connection may take to learn that.
DECIDING_SECS = 1.0

# Connections that are fetched at the same time.
TOGETHER = 50
MAX_REMEMBERED = 1000


class Heirs(Protocol):
    """What the rooms above do with connections that a process has left."""

    async def fetch(self, hub: str, connection_id: str, of: str | None) -> None:
        """Claim a reliable connection and have it wait here for its client. Raises Unavailable."""

    async def have(self, arrival: Arrival, of: str | None) -> None:
        """Have a reliable connection that is claimed wait here for its client."""

    def tell_of_end(self, session: dict[str, Any]) -> None:
        """Tell the event handlers that a connection ended with its process."""

    async def record_all(self) -> None:
        """Write down anew which connections are here, and how they are."""


class Takeovers:
    """What one process does when another has stopped or is dead."""

    # Put there by hubs.connections.
    heirs: Heirs | None = None

    def __init__(self, node: Node) -> None:
        self._node = node
        # Who took over, by the process that it took over from.
        self._heir_of: OrderedDict[str, str] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    def start(self) -> None:
        """Look for what was left, now and then."""
        if self._node.log.keeps:
            self._run(self._sweep(), "look for connections of dead processes")

    async def stop(self) -> None:
        """Look after nothing more."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _run(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def gone(self, process: str) -> None:
        """A process has said goodbye or is silent."""
        node = self._node
        node.leases.forget(process)
        node.questions.gone(process)
        if node.log.keeps and not self._stopped:
            self._run(self._propose(process), "take over")

    async def _propose(self, process: str) -> None:
        node = self._node
        rank = sum(other < node.process for other in node.leases.others)
        # The last one of those before this process may have gone with it.
        await asyncio.sleep(rank * RANK_SECS)
        while process in node.leases.orphaned and not self._has_heir(process):
            with suppress(Refusal):
                await applied(node.log.append(CONTROL_LOG, Takeover(process)))
            await asyncio.sleep(AGAIN_SECS)

    def _has_heir(self, process: str) -> bool:
        heir = self._heir_of.get(process)
        return heir is not None and self._node.leases.lives(heir)

    def take(self, origin: str, takeover: Takeover) -> None:
        """A process looks after what another has left."""
        node, process = self._node, takeover.process
        if self._has_heir(process):
            return
        self._heir_of[process] = origin
        if len(self._heir_of) > MAX_REMEMBERED:
            self._heir_of.popitem(last=False)
        if process == node.process:
            # It is what others say after a goodbye, too.
            if not node.stopped:
                node.declared_dead()
            return
        node.leases.bury(process)
        node.leases.forget(process)
        node.questions.gone(process)
        if origin == node.process and not self._stopped:
            self._run(self._adopt(process), "adopt connections")

    def take_adopted(self, adopted: Adopted) -> None:
        """What a process has left is looked after."""
        self._node.leases.adopted(adopted.process)

    async def _adopt(self, process: str) -> None:
        try:
            for _ in range(TRIES):
                try:
                    await self._adopt_all(process)
                    break
                except Unavailable:
                    await asyncio.sleep(AGAIN_SECS)
        except Exception:
            logger.exception("The connections of process %s could not be adopted", process)
        await self._node.append_surely(CONTROL_LOG, Adopted(process))

    async def _adopt_all(self, process: str) -> None:
        node, heirs = self._node, self.heirs
        assert heirs is not None  # noqa: S101 - hubs.connections is there wherever connections are
        ended = fetched = 0
        room = asyncio.Semaphore(TOGETHER)

        async def fetch(hub: str, connection_id: str) -> None:
            async with room:
                await heirs.fetch(hub, connection_id, process)
            node.records.disown(connection_id, process)

        fetching: list[asyncio.Task[None]] = []
        undecided: list[tuple[str, dict[str, Any]]] = []
        try:
            async for connection_id, owned in node.records.owned_by(process):
                if owned.session is None:
                    fetching.append(asyncio.create_task(fetch(owned.hub, connection_id)))
                    fetched += 1
                elif await node.records.first_to_tell(connection_id, node.process):
                    heirs.tell_of_end(owned.session)
                    ended += 1
                    node.records.disown(connection_id, process)
                else:
                    undecided.append((connection_id, owned.session))
        except Unavailable:
            # The next try does not begin beside this one.
            await asyncio.gather(*fetching, return_exceptions=True)
            raise
        failed = [result for result in await asyncio.gather(*fetching, return_exceptions=True) if result is not None]
        if failed:
            for problem in failed:
                if not isinstance(problem, Refusal):
                    logger.error("A connection could not be adopted", exc_info=problem)
            if any(isinstance(problem, Unavailable) for problem in failed):
                raise Unavailable("not all connections could be adopted")
        if undecided:
            # Who was to tell of these may have died before it knew that; else it removes its records soon.
            await asyncio.sleep(DECIDING_SECS)
        for connection_id, session in undecided:
            if await node.records.left_untold(connection_id, process, node.leases.lives):
                heirs.tell_of_end(session)
                ended += 1
        await node.records.remove(process)
        if ended or fetched:
            logger.info(
                "Process %s has left %d connections, which have ended, and %d reliable ones, which wait here",
                process,
                ended,
                fetched,
            )

    async def _record_again(self) -> None:
        """Nobody would tell of the end of connections that Redis does not know of."""
        assert self.heirs is not None  # noqa: S101 - hubs.connections is there wherever connections are
        logger.error(
            "Redis has forgotten which connections are here: it was flushed, or restarted without its data. They are "
            "written down again"
        )
        await self._node.records.begin()
        await self.heirs.record_all()

    async def _sweep(self) -> None:
        node = self._node
        former = 0
        while True:
            before, former = former, await node.log.former_processes()
            if former > before:
                logger.error(
                    "%d processes of a former version of Hubwire, which has no log, are on this Redis. They and this "
                    "one do not hear each other: stop them, and their clients will come here",
                    former,
                )
            with suppress(Refusal):
                left = await node.records.processes()
                if node.process not in left:
                    await self._record_again()
                # Who has just begun is heard before that.
                await node.leases.next_hello()
                for process in left - node.leases.others - {node.process}:
                    if not self._has_heir(process):
                        logger.info("Process %s is not there any more and has left something", process)
                        node.leases.forget(process)
                        self._run(self._propose(process), "take over")
            await asyncio.sleep(SWEEP_SECS)
