"""`python -m bench.connections`: what connections cost that do nothing.

A fresh server takes 10,000 connections, one after the other at a steady number of handshakes at once,
and then is left alone. Measured are the processor time of the handshakes, the growth of the server's
memory once it has come to rest, and the processor time it then spends on keeping the connections
alive, over as long as it takes until every client has been pinged twice.

In turns with ours (a signed token checked at each handshake, a greeting sent) stands plain uvicorn, with an
application that accepts everybody and echoes. A connection that is lost, or not pinged in time, ends the
bench with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence

import uvloop
from rich.table import Table

from bench import command, figures
from bench.clients import Client, connect, disconnect
from bench.command import one_of, say, seconds, whole
from bench.contestants import CONTESTANTS
from bench.machine import Memory, Meter, Usage, at_rest, memory, need_files
from bench.servers import PROBLEMS, Server, Wrong

CONNECTIONS = 10_000
PING_ROUNDS = 2
# What the service's own default is, and uvicorn's.
KEEP_ALIVE_SECS = 20.0
# A ping round may take so much longer than the pings are apart before one is held to be missing.
LATE = 1.5
# And this much more, however short a round is.
LATE_SECS = 2.0
# The first connections make the server import and compile things once; those are not counted.
FIRST = 50


USUAL = ("hubwire", "hubwire-reliable", "hubwire-reliable-redis", "uvicorn")
SERVERS = {name: CONTESTANTS[name] for name in (*USUAL, "former", "former-reliable")}


@dataclasses.dataclass(frozen=True)
class Run:
    """One server with all its connections."""

    server: str
    round: int
    connections: int
    # Until all were open and the server at rest.
    connecting: Usage
    grown: Memory
    # The same of Redis, where there is one.
    redis_grown: Memory
    # While all were idle.
    pings: int
    idle: Usage

    @property
    def connects_per_cpu_sec(self) -> float:
        """Handshakes for one CPU-second of the server."""
        return self.connecting.per_cpu_sec(self.connections)

    @property
    def resident_kib(self) -> float:
        """Growth of the server's resident memory per connection."""
        return self.grown.resident / self.connections / 1024

    @property
    def own_kib(self) -> float:
        """Growth of what is the server's alone (USS) per connection."""
        return self.grown.own / self.connections / 1024

    @property
    def redis_kib(self) -> float:
        """Growth of Redis' resident memory per connection."""
        return self.redis_grown.resident / self.connections / 1024

    @property
    def idle_share(self) -> float:
        """Share of a core spent on idle connections."""
        return self.idle.server_share


async def wait_for_pings(clients: Sequence[Client], rounds: int, keep_alive: float) -> None:
    """Wait until everybody has been pinged so often. Raises Wrong."""
    before = [client.pings for client in clients]
    latest = time.monotonic() + rounds * keep_alive * LATE + LATE_SECS
    await asyncio.sleep(rounds * keep_alive)
    while True:
        lost = sum(not client.alive for client in clients)
        if lost:
            raise Wrong(f"{lost} of {len(clients)} idle connections were lost")
        missing = sum(client.pings - had < rounds for client, had in zip(clients, before, strict=True))
        if not missing:
            return
        if time.monotonic() > latest:
            raise Wrong(f"{missing} of {len(clients)} idle connections were not pinged {rounds} times in time")
        await asyncio.sleep(min(0.25, keep_alive / 10))


class Connections(command.Bench):
    """Each server in turn, fresh each time: one that has worked before has memory to reuse."""

    name = "connections"
    summary = "What connections cost that do nothing."
    usual_rounds = 2
    quick = {"connections": 200, "keep_alive": 1.0, "rounds": 1}

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.runs: list[Run] = []

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--connections", type=whole(1, 60_000), default=CONNECTIONS, help="default: %(default)s")
        parser.add_argument("--servers", type=one_of(SERVERS), default=USUAL, help=f"of {', '.join(SERVERS)}")
        parser.add_argument(
            "--at-once", type=whole(1, 1000), default=32, help="handshakes at once (default: %(default)s)"
        )
        parser.add_argument("--ping-rounds", type=whole(1, 20), default=PING_ROUNDS, help="default: %(default)s")
        parser.add_argument(
            "--keep-alive",
            type=seconds(1, 120),
            default=KEEP_ALIVE_SECS,
            help="seconds between pings (default: %(default)g, which is the service's default)",
        )

    def measure(self) -> None:
        need_files(self.options.connections)
        keep_alive = f"{self.options.keep_alive:g}"
        for number in self.rounds():
            for name in self.options.servers:
                env, places = {"KEEP_ALIVE_SECS": keep_alive}, {"keep_alive": keep_alive}
                try:
                    with Server(SERVERS[name], self.cores.servers, env, places) as server:
                        uvloop.run(self._look_at(server, number))
                except PROBLEMS as problem:
                    self.failures.append(f"{SERVERS[name].title}: {problem}")

    async def _look_at(self, server: Server, number: int) -> None:
        count = self.options.connections
        await disconnect(await connect(server.door, server.targets(min(FIRST, count))))
        targets = server.targets(count)
        await at_rest(server)
        before, redis_before = memory(server.processes()), memory(server.companions())
        meter = Meter(server)
        clients = await connect(server.door, targets, at_once=self.options.at_once)
        try:
            await at_rest(server)
            connecting = meter.read()
            grown, redis_grown = memory(server.processes()) - before, memory(server.companions()) - redis_before
            pings, meter = sum(client.pings for client in clients), Meter(server)
            await wait_for_pings(clients, self.options.ping_rounds, self.options.keep_alive)
            idle = meter.read()
            pings = sum(client.pings for client in clients) - pings
        finally:
            await disconnect(clients)
        run = Run(server.contestant.name, number, count, connecting, grown, redis_grown, pings, idle)
        self.runs.append(run)
        say(
            f"{number}  {server.contestant.title}: {run.connects_per_cpu_sec:,.0f} connects per CPU-s, "
            f"{run.resident_kib:.1f} KiB each, {run.idle_share:.1%} of a core with pings"
        )

    def usages(self) -> Iterator[Usage]:
        return (usage for run in self.runs for usage in (run.connecting, run.idle))

    def raw(self) -> list[Run]:
        return self.runs

    def tables(self) -> Iterator[Table]:
        table = figures.table(
            f"{self.options.connections:,} idle connections, pinged every {self.options.keep_alive:g} s",
            "server",
            right=(
                "connects per CPU-s",
                "KiB each, resident",
                "of it own",
                "and of Redis",
                "of a core with pings",
                "pings per s",
            ),
        )
        for name in dict.fromkeys(run.server for run in self.runs):
            own = [run for run in self.runs if run.server == name]
            table.add_row(
                SERVERS[name].title,
                figures.spread((run.connects_per_cpu_sec for run in own), ",.0f"),
                figures.spread((run.resident_kib for run in own), ".1f"),
                figures.spread((run.own_kib for run in own), ".1f"),
                figures.spread((run.redis_kib for run in own), ".1f"),
                figures.spread((run.idle_share for run in own), ".1%"),
                figures.spread((run.pings / run.idle.wall_secs for run in own), ",.0f"),
            )
        if self.runs:
            yield table


if __name__ == "__main__":
    sys.exit(command.main(Connections))
