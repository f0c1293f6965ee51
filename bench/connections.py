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
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench.holding import (
    Door,
    Held,
    Memory,
    Meter,
    Usage,
    Wrong,
    allow_files,
    at_rest,
    disturbed,
    hold,
    interruptible,
    keep_to_own_core,
    let_go,
    memory,
    one_of,
    read_options,
    say,
    seconds,
    whole,
    write_raw,
)
from bench.report import TICK_SECS
from bench.servers import CONTESTANTS, EMPTY, CannotStart, Contestant, Server
from bench.wire import Unexpected

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


def _any_targets(server: Server, count: int) -> Iterator[str]:
    return iter(["/"] * count)


PLAIN = Contestant(
    "uvicorn",
    "plain uvicorn, accepts everybody",
    EMPTY,
    (),
    (
        *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop"),
        *("--ws", "websockets-sansio", "--ws-ping-interval", "{keep_alive}", "--ws-ping-timeout", "{keep_alive}"),
        *("--no-access-log", "--log-level", "warning", "--lifespan", "off", "accept_app:application"),
    ),
    None,
    _any_targets,
)
_OURS = CONTESTANTS["hubwire"]
_RELIABLE = CONTESTANTS["hubwire-reliable"]
SERVERS = {contestant.name: contestant for contestant in (_OURS, _RELIABLE, PLAIN)}


@dataclasses.dataclass(frozen=True)
class Run:
    """One server with all its connections."""

    server: str
    round: int
    connections: int
    # Until all were open and the server at rest.
    connecting: Usage
    grown: Memory
    # While all were idle.
    pings: int
    idle: Usage

    @property
    def connects_per_cpu_sec(self) -> float:
        """Handshakes for one CPU-second of the server."""
        return self.connections / max(self.connecting.server_secs, TICK_SECS)

    @property
    def plain(self) -> dict[str, float]:
        """What the tables are made of, by plain names, for those who read the raw figures."""
        return {
            "connect_cpu_secs": max(self.connecting.server_secs, TICK_SECS),
            "connects_per_cpu_sec": self.connects_per_cpu_sec,
            "resident_kib": self.resident_kib,
            "idle_cpu_secs": self.idle.server_secs,
            "idle_wall_secs": self.idle.wall_secs,
            "idle_share": self.idle_share,
        }

    @property
    def resident_kib(self) -> float:
        """Growth of the server's resident memory per connection."""
        return self.grown.resident / self.connections / 1024

    @property
    def own_kib(self) -> float:
        """Growth of what is the server's alone (USS) per connection."""
        return self.grown.own / self.connections / 1024

    @property
    def idle_share(self) -> float:
        """Share of a core spent on idle connections."""
        return self.idle.server_share


async def _idle(clients: Sequence[Held], rounds: int, keep_alive: float) -> None:
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


async def _measure(server: Server, number: int, options: argparse.Namespace) -> Run:
    door, count = Door.of(server), options.connections
    clients = await hold(door, server.targets(min(FIRST, count)))
    await let_go(clients)
    targets = server.targets(count)
    await at_rest(server)
    before, meter = memory(server.processes()), Meter(server)
    clients = await hold(door, targets, at_once=options.at_once)
    try:
        await at_rest(server)
        connecting = meter.read()
        grown = memory(server.processes()) - before
        pings, meter = sum(client.pings for client in clients), Meter(server)
        await _idle(clients, options.ping_rounds, options.keep_alive)
        idle = meter.read()
        pings = sum(client.pings for client in clients) - pings
    finally:
        await let_go(clients)
    return Run(server.contestant.name, number, count, connecting, grown, pings, idle)


def _spread(runs: Sequence[Run], value: Callable[[Run], float], form: str) -> str:
    found = sorted(value(run) for run in runs)
    middle = format(statistics.median(found), form)
    return middle if len(found) == 1 else f"{middle} ({found[0]:{form}}–{found[-1]:{form}})"


def _table(runs: Sequence[Run]) -> Table:
    table = Table(title=f"{runs[0].connections:,} idle connections", title_justify="left")
    table.add_column("server")
    for heading in ("connects per CPU-s", "KiB each, resident", "of it own", "CPU with pings", "pings per s"):
        table.add_column(heading, justify="right")
    for name in dict.fromkeys(run.server for run in runs):
        own = [run for run in runs if run.server == name]
        table.add_row(
            SERVERS[name].title,
            _spread(own, lambda run: run.connects_per_cpu_sec, ",.0f"),
            _spread(own, lambda run: run.resident_kib, ".1f"),
            _spread(own, lambda run: run.own_kib, ".1f"),
            _spread(own, lambda run: run.idle_share, ".1%"),
            _spread(own, lambda run: run.pings / run.idle.wall_secs, ",.0f"),
        )
    return table


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.connections", description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=whole(1, 60_000), default=CONNECTIONS, help="default: %(default)s")
    parser.add_argument("--servers", type=one_of(SERVERS), default=tuple(SERVERS), help=f"of {', '.join(SERVERS)}")
    parser.add_argument("--rounds", type=whole(1, 20), default=1, help="turns of each server (default: %(default)s)")
    parser.add_argument("--at-once", type=whole(1, 1000), default=32, help="handshakes at once (default: %(default)s)")
    parser.add_argument("--ping-rounds", type=whole(1, 20), default=PING_ROUNDS, help="default: %(default)s")
    parser.add_argument(
        "--keep-alive",
        type=seconds(1, 120),
        default=KEEP_ALIVE_SECS,
        help="seconds between pings (default: %(default)g, which is the service's default)",
    )
    parser.add_argument("--quick", action="store_true", help="200 connections, pinged every second")
    parser.add_argument("--results", type=Path, help="directory for the raw figures (default: bench/results)")
    options = read_options(parser, argv, connections=200, keep_alive=1.0, rounds=1)
    held = allow_files(options.connections)
    if held < options.connections:
        parser.error(f"this machine allows {held:,} connections per process; raise ulimit -n or measure fewer")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the turns, print the table, write what was measured; 0 when nothing was lost."""
    options = _options(argv)
    interruptible()
    console = Console() if sys.stdout.isatty() else Console(width=140)
    both = keep_to_own_core()
    runs: list[Run] = []
    ended = 0
    keep_alive = f"{options.keep_alive:g}"
    try:
        for number in range(1, options.rounds + 1):
            for name in options.servers:
                contestant = SERVERS[name]
                command = tuple(part.replace("{keep_alive}", keep_alive) for part in contestant.command)
                contestant = dataclasses.replace(contestant, command=command)
                with Server(contestant, both and both[1], {"KEEP_ALIVE_SECS": keep_alive}) as server:
                    run = uvloop.run(_measure(server, number, options))
                runs.append(run)
                say(
                    f"{number}  {contestant.title}: {run.connects_per_cpu_sec:,.0f} connects per CPU-s, "
                    f"{run.resident_kib:.1f} KiB each, {run.idle_share:.1%} of a core with pings"
                )
    except (CannotStart, OSError, Unexpected, Wrong) as problem:
        console.print(f"DOES NOT COUNT: {problem}", style="bold red", markup=False)
        ended = 1
    except KeyboardInterrupt:
        ended = 130
    if runs:
        console.print(_table(runs))
        console.print(f"Pings every {options.keep_alive:g} s; CPU is the share of one core.")
        if warning := disturbed(usage for run in runs for usage in (run.connecting, run.idle)):
            console.print(warning, style="yellow", markup=False)
        raw = [dataclasses.asdict(run) | run.plain for run in runs]
        where = write_raw("connections", vars(options), raw, bool(both), options.results)
        console.print(f"Raw figures: {where}", markup=False, highlight=False, soft_wrap=True)
    return ended


if __name__ == "__main__":
    sys.exit(main())
