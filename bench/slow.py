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
from collections.abc import AsyncIterator, Iterator, Sequence

import jwt
import psutil
import uvloop
from rich.table import Table

from bench import command, figures
from bench.clients import PATIENCE_SECS, Client, connect, disconnect, join
from bench.command import say, seconds, whole
from bench.contestants import CONTESTANTS
from bench.machine import Meter, Usage, at_rest, need_files
from bench.servers import Server, Wrong
from bench.timed import LOOK_SECS as TICK_SECS
from bench.timed import Numbered, Reader, drained

# Slow ones in a wave.
CLIENTS = 5
BUSY, SLOW = "busy", "slow"
CLOSED_CODE = 1008

# A whole wave has to be closed within this time.
WAVE_SECS = 90.0
LOOK_SECS = 0.25

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
        clients = await self._connect(self._options.readers + 1)
        try:
            self._publisher, *readers = clients
            self._readers = [Reader(client) for client in readers]
            await self._join(readers, BUSY)
            yield self
        finally:
            await disconnect(clients)

    async def _connect(self, count: int) -> list[Client]:
        return await connect(self._server.door, [next(self._targets) for _ in range(count)])

    async def _join(self, clients: Sequence[Client], group: str) -> None:
        await join(clients, [group] * len(clients), self._server.contestant.dialect)

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
            p50_ms=figures.percentile(ordered, 0.5) * 1000,
            p99_ms=figures.percentile(ordered, 0.99) * 1000,
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
        audience = f"http://localhost:{self._server.port}{target}"
        token = jwt.encode({"aud": audience, "exp": int(time.time()) + 60}, self._server.access_key, algorithm="HS256")
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
        clients = await self._connect(self._options.slow)
        try:
            await self._join(clients, SLOW)
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

    async def _join_and_hang(self, client: Client) -> None:
        await self._join([client], BUSY)
        client.stop_reading()


class Slow(command.Bench):
    """The three phases, one after the other on the same server."""

    name = "slow"
    summary = "What clients that stop reading do to a busy group."
    quick = {"readers": 10, "slow": 2, "waves": 1, "bytes": 16 * 1024, "secs": 1.0}

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.phases: list[Phase] = []
        self.waves: list[Wave] = []

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--readers", type=whole(1, 1000), default=50, help="default: %(default)s")
        parser.add_argument(
            "--slow", type=whole(1, 100), default=CLIENTS, help="slow clients per wave (default: %(default)s)"
        )
        parser.add_argument("--waves", type=whole(1, 100), default=3, help="default: %(default)s")
        parser.add_argument("--rate", type=whole(1, 10_000), default=400, help="messages a second (%(default)s)")
        parser.add_argument("--bytes", type=whole(32, 500_000), default=2048, help="of each message (%(default)s)")
        parser.add_argument("--secs", type=seconds(1, 120), default=10.0, help="of each phase without (%(default)g)")

    def measure(self) -> None:
        need_files(self.options.readers + self.options.slow + 1)
        with Server(CONTESTANTS["hubwire"], self.cores.servers) as server:
            # Asked once, before the loop runs: it starts a process.
            assert server.access_key
            uvloop.run(self._look_at(server))
        check_memory(self.phases, self.options.slow)

    async def _look_at(self, server: Server) -> None:
        secs = self.options.secs
        async with Group(server, self.options).opened() as group:
            self.waves = group.waves
            await at_rest(server)
            await group.phase("warming up", min(2.0, secs))
            for name, lasting in (("without", secs), ("with slow clients", None), ("without, after", secs)):
                self.phases.append(await group.phase(name, lasting))

    def usages(self) -> Iterator[Usage]:
        return (phase.usage for phase in self.phases)

    def raw(self) -> dict[str, object]:
        return {"phases": self.phases, "waves": self.waves}

    def tables(self) -> Iterator[Table]:
        options = self.options
        readers = figures.table(
            f"{options.readers} readers, {options.rate:g} messages of {options.bytes:,} bytes a second",
            "phase",
            right=(
                *("p50 ms", "p99 ms", "worst ms", "delivered / expected", "server MiB: least", "most", "at the end"),
                *("server's core", "generator's core"),
            ),
        )
        for phase in self.phases:
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
        slow = figures.table(
            f"Waves of {options.slow} clients that do not read",
            "wave",
            right=("all closed after s", "with", "server MiB: most", "after"),
        )
        for number, wave in enumerate(self.waves, 1):
            slow.add_row(
                str(number),
                f"{wave.closed_after_secs:.1f}",
                ", ".join(f"{code} × {count}" for code, count in wave.codes.items()),
                *(f"{size / (1 << 20):.0f}" for size in (wave.memory_most, wave.memory_after)),
            )
        if self.phases:
            yield readers
        if self.waves:
            yield slow


def check_memory(phases: Sequence[Phase], slow: int) -> None:
    """Raises Wrong when memory grew beyond what may wait for the slow clients of one wave."""
    grown = max(phase.memory_most for phase in phases) - phases[0].memory_end
    allowed = slow * OUTBOX_BYTES + SLACK_BYTES
    if grown > allowed:
        raise Wrong(
            f"the server grew by {grown / (1 << 20):.0f} MiB, beyond the {allowed / (1 << 20):.0f} that may wait"
        )


if __name__ == "__main__":
    sys.exit(command.main(Slow))
