"""`python -m bench.slow`: what clients that stop reading do to a busy group.

A group is sent messages at a steady pace and every delivery to its readers is timed: first without slow
clients, then while wave after wave of them joins the group and stops reading, then without again. The
service has to close each slow client with 1008 when what waits for it grows too long, and forget what
waited; its memory must not grow with every wave, and the readers should not notice.

Whether a slow client was closed cannot be seen on its socket as long as it does not read. So all of a
wave are in a second group too, and the service is asked by REST whether that group still exists, all
the time in all three phases. Then they read on, and have to find a close frame with 1008. A reader that
misses a message, a slow client that is not closed, or closed with something else, ends the bench with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import sys
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import jwt
import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from bench.holding import (
    PATIENCE_SECS,
    Door,
    Held,
    Meter,
    Numbered,
    Reader,
    Usage,
    Wrong,
    allow_files,
    at_rest,
    disturbed,
    drained,
    hold,
    interruptible,
    join,
    keep_to_own_core,
    let_go,
    read_options,
    say,
    seconds,
    whole,
    write_raw,
)
from bench.report import percentile
from bench.servers import CONTESTANTS, CannotStart, Server
from bench.wire import Unexpected

BUSY, SLOW = "busy", "slow"
CLOSED_CODE = 1008

# A whole wave has to be closed within this time.
WAVE_SECS = 90.0
LOOK_SECS = 0.25
TICK_SECS = 0.001

# What the service lets wait for one client at most (MAX_OUTBOX_BYTES), and what may come on top of all that
# waits without being a leak: one more of everything, and the allocator's own.
OUTBOX_BYTES = 16 << 20
SLACK_BYTES = 48 << 20


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stretch of traffic."""

    name: str
    expected: int
    delivered: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    memory_least: int
    memory_most: int
    memory_end: int
    usage: Usage


@dataclasses.dataclass(frozen=True)
class Wave:
    """Some clients that stopped reading, and what became of them."""

    clients: int
    closed_after_secs: float
    codes: dict[str, int]
    memory_most: int
    memory_after: int


class Group:
    """The busy group, its readers, and whoever hinders it."""

    def __init__(self, server: Server, options: argparse.Namespace) -> None:
        self._server = server
        self._options = options
        self._targets = iter(server.targets(options.readers + 1 + options.slow * options.waves))
        self._readers: list[Reader] = []
        self._number = 0
        # Found once, since looking for children goes through all processes of the machine.
        self._processes: list[psutil.Process] = server.processes()
        self._memory: list[int] = []
        self.waves: list[Wave] = []

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Group]:
        """Have the readers and the publisher connected."""
        clients = await self._hold(self._options.readers + 1)
        try:
            self._publisher, *readers = clients
            self._readers = [Reader(client) for client in readers]
            await join((client, BUSY) for client in readers)
            yield self
        finally:
            await let_go(clients)

    async def _hold(self, count: int) -> list[Held]:
        return await hold(Door.of(self._server), [next(self._targets) for _ in range(count)])

    # Traffic

    async def phase(self, name: str, secs: float | None) -> Phase:
        """Send for so long, or, without a time, until all waves of slow clients have passed. Raises Wrong."""
        due: list[float] = []
        arrived = array("d")
        for reader in self._readers:
            reader.begin(due, arrived)
        self._memory = []
        meter = Meter(self._server)
        hindering = asyncio.ensure_future(asyncio.sleep(secs) if secs is not None else self._hinder())
        looking = asyncio.ensure_future(self._look())
        try:
            await self._send(due, hindering)
        finally:
            looking.cancel()
            hindering.cancel()
            failures = await asyncio.gather(looking, hindering, return_exceptions=True)
        for failure in failures:
            if isinstance(failure, Exception):
                raise failure
        usage = meter.read()
        expected = len(due) * len(self._readers)
        await drained(arrived, expected)
        self._check(len(due))
        ordered = sorted(arrived)
        return Phase(
            name=name,
            expected=expected,
            delivered=len(ordered),
            p50_ms=percentile(ordered, 0.5) * 1000,
            p99_ms=percentile(ordered, 0.99) * 1000,
            worst_ms=ordered[-1] * 1000,
            memory_least=min(self._memory),
            memory_most=max(self._memory),
            memory_end=self._resident(),
            usage=usage,
        )

    async def _send(self, due: list[float], until: asyncio.Future[None]) -> None:
        frames = Numbered(BUSY, self._options.bytes)
        rate = self._options.rate
        started = time.perf_counter()
        while not until.done():
            now = time.perf_counter()
            while (at := started + len(due) / rate) <= now:
                due.append(at)
                self._publisher.send(frames.frame(len(due) - 1))
            await asyncio.sleep(TICK_SECS)

    def _check(self, sent: int) -> None:
        total = sent * (sent - 1) // 2
        for reader in self._readers:
            if not reader.client.alive:
                raise Wrong(f"a reader was closed: {reader.client.close_code} {reader.client.close_reason}")
            if (reader.received, reader.total) != (sent, total):
                raise Wrong(f"a reader got {reader.received} messages, not the {sent} that were sent")

    # What is looked at meanwhile

    def _resident(self) -> int:
        return sum(process.memory_info().rss for process in self._processes)

    async def _look(self) -> None:
        while True:
            self._memory.append(self._resident())
            await self._slow_ones_left()
            await asyncio.sleep(LOOK_SECS)

    async def _slow_ones_left(self) -> bool:
        """Ask the service whether anybody is in the group of the slow."""
        target = f"/api/hubs/bench/groups/{SLOW}?api-version=2024-12-01"
        key = dict(part.split("=", 1) for part in self._server.connection_string.split(";") if part)["AccessKey"]
        audience = f"http://localhost:{self._server.port}{target}"
        token = jwt.encode({"aud": audience, "exp": int(time.time()) + 60}, key, algorithm="HS256")
        lines = [
            f"HEAD {target} HTTP/1.1",
            f"Host: localhost:{self._server.port}",
            f"Authorization: Bearer {token}",
            "Connection: close",
        ]
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode())
            status = (await asyncio.wait_for(reader.readline(), PATIENCE_SECS)).split()[1:2]
        finally:
            writer.close()
        if status not in ([b"200"], [b"404"]):
            raise Wrong(f"the question whether a group exists was answered {status}")
        return status == [b"200"]

    # Slow clients

    async def _hinder(self) -> None:
        for _ in range(self._options.waves):
            await self._wave()

    async def _wave(self) -> None:
        looks = len(self._memory)
        clients = await self._hold(self._options.slow)
        try:
            await join((client, SLOW) for client in clients)
            await asyncio.gather(*(self._join_and_hang(client) for client in clients))
            began = time.monotonic()
            while await self._slow_ones_left():
                if time.monotonic() - began > WAVE_SECS:
                    raise Wrong(f"clients that do not read were not closed within {WAVE_SECS:g} s")
                await asyncio.sleep(LOOK_SECS)
            took = time.monotonic() - began
            for client in clients:
                client.read_on()
            await asyncio.wait([client.closed for client in clients], timeout=PATIENCE_SECS)
        finally:
            for client in clients:
                client.cut()
        codes: dict[str, int] = {}
        for client in clients:
            code = str(client.close_code or "cut off")
            codes[code] = codes.get(code, 0) + 1
        most = max(self._memory[looks:], default=self._resident())
        self.waves.append(Wave(len(clients), took, codes, most, self._resident()))
        say(f"wave {len(self.waves)}: {len(clients)} slow clients closed after {took:.1f} s with {codes}")
        if codes != {str(CLOSED_CODE): len(clients)}:
            raise Wrong(f"clients that do not read were closed with {codes}, not all with {CLOSED_CODE}")

    async def _join_and_hang(self, client: Held) -> None:
        await join([(client, BUSY)])
        client.stop_reading()


async def _measure(server: Server, options: argparse.Namespace) -> tuple[list[Phase], list[Wave]]:
    phases: list[Phase] = []
    async with Group(server, options).opened() as group:
        await at_rest(server)
        await group.phase("warming up", min(2.0, options.secs))
        phases.append(await group.phase("without", options.secs))
        phases.append(await group.phase("with slow clients", None))
        phases.append(await group.phase("without, after", options.secs))
    return phases, group.waves


def _tables(phases: Sequence[Phase], waves: Sequence[Wave], options: argparse.Namespace) -> list[Table]:
    title = f"{options.readers} readers, {options.rate:g} messages of {options.bytes:,} bytes a second"
    readers = Table(title=title, title_justify="left")
    readers.add_column("phase")
    for heading in ("p50 ms", "p99 ms", "worst ms", "delivered / expected", "server MiB: least", "most", "at the end"):
        readers.add_column(heading, justify="right")
    for heading in ("server's core", "generator's core"):
        readers.add_column(heading, justify="right")
    for phase in phases:
        readers.add_row(
            phase.name,
            f"{phase.p50_ms:.2f}",
            f"{phase.p99_ms:.2f}",
            f"{phase.worst_ms:.1f}",
            f"{phase.delivered:,} / {phase.expected:,}",
            *(f"{size / (1 << 20):.0f}" for size in (phase.memory_least, phase.memory_most, phase.memory_end)),
            f"{phase.usage.server_share:.0%}",
            f"{phase.usage.generator_share:.0%}",
        )
    slow = Table(title=f"Waves of {options.slow} clients that do not read", title_justify="left")
    for heading in ("wave", "all closed after s", "with", "server MiB: most", "after"):
        slow.add_column(heading, justify="right")
    for number, wave in enumerate(waves, 1):
        slow.add_row(
            str(number),
            f"{wave.closed_after_secs:.1f}",
            ", ".join(f"{code} × {count}" for code, count in wave.codes.items()),
            *(f"{size / (1 << 20):.0f}" for size in (wave.memory_most, wave.memory_after)),
        )
    return [readers, slow]


def _bounded(phases: Sequence[Phase], options: argparse.Namespace) -> None:
    """Raises Wrong when memory grew beyond what may wait for the slow clients of one wave."""
    grown = max(phase.memory_most for phase in phases) - phases[0].memory_end
    allowed = options.slow * OUTBOX_BYTES + SLACK_BYTES
    if grown > allowed:
        raise Wrong(
            f"the server grew by {grown / (1 << 20):.0f} MiB, beyond the {allowed / (1 << 20):.0f} that may wait"
        )


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.slow", description=__doc__.splitlines()[0])
    parser.add_argument("--readers", type=whole(1, 1000), default=50, help="default: %(default)s")
    parser.add_argument("--slow", type=whole(1, 100), default=5, help="slow clients per wave (default: %(default)s)")
    parser.add_argument("--waves", type=whole(1, 100), default=3, help="default: %(default)s")
    parser.add_argument("--rate", type=whole(1, 10_000), default=400, help="messages a second (default: %(default)s)")
    parser.add_argument("--bytes", type=whole(32, 500_000), default=2048, help="of each message (default: %(default)s)")
    parser.add_argument("--secs", type=seconds(1, 120), default=10.0, help="of each phase without (%(default)g)")
    parser.add_argument("--quick", action="store_true", help="ten readers, 16 KB messages, two slow clients once")
    parser.add_argument("--results", type=Path, help="directory for the raw figures (default: bench/results)")
    return read_options(parser, argv, readers=10, slow=2, waves=1, bytes=16 * 1024, secs=1.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the phases and print them side by side; 0 when nothing was lost and the slow were closed as they should."""
    options = _options(argv)
    interruptible()
    console = Console() if sys.stdout.isatty() else Console(width=160)
    allow_files(options.readers + options.slow + 1)
    both = keep_to_own_core()
    try:
        with Server(CONTESTANTS["hubwire"], both and both[1]) as server:
            # Asked once, before the loop runs: it starts a process.
            assert server.connection_string
            phases, waves = uvloop.run(_measure(server, options))
        for table in _tables(phases, waves, options):
            console.print(table)
        if warning := disturbed(phase.usage for phase in phases):
            console.print(warning, style="yellow", markup=False)
        raw = {"phases": [*map(dataclasses.asdict, phases)], "waves": [*map(dataclasses.asdict, waves)]}
        where = write_raw("slow", vars(options), raw, bool(both), options.results)
        console.print(f"Raw figures: {where}", markup=False, highlight=False, soft_wrap=True)
        _bounded(phases, options)
    except (CannotStart, OSError, Unexpected, Wrong) as problem:
        console.print(f"DOES NOT COUNT: {problem}", style="bold red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
