"""A crowd that is spread over several processes of a server, each client at the one where it should be.

Where each process has a port of its own, that is where a client goes. Where they listen on the same port, the kernel
decides which one gets a connection, and it is not asked to do otherwise: connections are opened until each process
has as many as it should, and the rest are closed. Whose a connection is, the operating system tells.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from bench.clients import Client, Door, connect, disconnect
from bench.crowd import Crowd, Shape
from bench.servers import Server, Wrong

# How many connections may be opened to get one where it should be.
TRIES = 8
# For processes to tell each other of new members, of which nobody is told the end.
SETTLE_SECS = 0.2

# Given the number of a member or publisher, and whether it publishes, the worker where it should be.
Place = Callable[[int, bool], int]


def evenly(shape: Shape, workers: int) -> Place:
    """Members of each group at all workers in turn, publishers too: every message has to cross."""
    return lambda number, publishes: number if publishes else number % shape.members % workers


def together(shape: Shape, workers: int) -> Place:
    """Each group, with its publisher, at one worker: no message has to cross."""
    return lambda number, publishes: (number if publishes else number // shape.members) % workers


def apart(shape: Shape, workers: int) -> Place:
    """Publishers at one worker, members at the other: every message crosses and is delivered there alone."""
    return lambda number, publishes: int(publishes)


class SpreadCrowd(Crowd):
    """A crowd whose clients are at the workers where they should be."""

    def __init__(self, server: Server, shape: Shape, workers: int, place: Place) -> None:
        super().__init__(server, shape)
        self._where = server
        self._workers = workers
        self._place = place
        # The workers' processes, in the order in which they were found to have a connection.
        self._pids: list[int] = []

    async def _connect(self, targets: list[str], publish: bool) -> list[Client]:
        wanted = [self._place(number, publish) % self._workers for number in range(len(targets))]
        if self._workers == 1:
            return await connect(self._where.door, targets)
        if len(self._where.doors) == self._workers:
            return await self._connect_to_each(targets, wanted)
        return await self._connect_until_spread(targets, wanted)

    async def _rehearse(self, names: Sequence[str], payload: str) -> list[tuple[bytes, bytes]]:
        if self._workers > 1:
            await asyncio.sleep(SETTLE_SECS)
        return await super()._rehearse(names, payload)

    async def _connect_to_each(self, targets: Sequence[str], wanted: Sequence[int]) -> list[Client]:
        clients: dict[int, Client] = {}
        try:
            for worker, door in enumerate(self._where.doors):
                numbers = [number for number, at in enumerate(wanted) if at == worker]
                opened = await connect(door, [targets[number] for number in numbers])
                clients |= zip(numbers, opened, strict=True)
        except BaseException:
            await disconnect(clients.values())
            raise
        return [clients[number] for number in range(len(wanted))]

    async def _connect_until_spread(self, targets: Sequence[str], wanted: Sequence[int]) -> list[Client]:
        door: Door = self._where.door
        missing = Counter(wanted)
        found: dict[int, list[Client]] = {worker: [] for worker in missing}
        opened: list[Client] = []
        surplus: list[Client] = []
        try:
            allowed = TRIES * (len(targets) + 8)
            while any(missing.values()):
                # A few more than are missing where few are, so that it does not take as many rounds.
                count = max(4, sum(missing.values()))
                if len(opened) + count > allowed:
                    raise Wrong(f"{len(opened)} connections were not enough to have {dict(missing)} more per worker")
                clients = await connect(door, [targets[number % len(targets)] for number in range(count)])
                opened += clients
                for client, worker in zip(clients, self.homes(clients), strict=True):
                    if missing[worker] > 0:
                        missing[worker] -= 1
                        found[worker].append(client)
                    else:
                        surplus.append(client)
        except BaseException:
            await disconnect(opened)
            raise
        await disconnect(surplus)
        return [found[worker].pop() for worker in wanted]

    def homes(self, clients: Sequence[Client]) -> list[int]:
        """The worker that each of these clients is connected to, as the operating system sees it."""
        owners: dict[tuple[str, int], int] = {}
        for process in self._where.processes():
            for connection in process.net_connections("tcp"):
                if connection.raddr and connection.laddr.port == self._where.port:
                    owners[connection.raddr.ip.removeprefix("::ffff:"), connection.raddr.port] = process.pid
        homes = []
        for client in clients:
            pid = owners.get(client.socket.getsockname()[:2])
            if pid is None:
                raise Wrong("a connection belongs to no process of the server")
            if pid not in self._pids:
                self._pids.append(pid)
            homes.append(self._pids.index(pid))
        if len(self._pids) > self._workers:
            raise Wrong(f"the server has {len(self._pids)} workers that serve, not {self._workers}")
        return homes
