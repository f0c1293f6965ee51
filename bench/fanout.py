"""`python -m bench.fanout`: what it costs the server to hand a message to many.

The figure that counts is **deliveries per CPU-second of the server process**. Deliveries per second
of the clock depend on what else the machine does and on how fast the clients read; processor time
does not, or much less. Every message must reach every member once, or the run does not count.

All servers are up, and in each round they take turns, shape by shape, so that a slow minute of the machine slows all
of them, and ratios are of figures that were measured within a minute. Server and generator each have a
core of their own where there are two. Which servers there are says `bench.contestants`; those that are not installed
are named and left out.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from bench import command, figures
from bench.clients import PAYLOADS
from bench.command import one_of, say, seconds, several, whole
from bench.contestants import BASELINE, CONTESTANTS, PEER, Contestant, former
from bench.crowd import SHAPES, Crowd, Shape
from bench.machine import CannotStart, Meter, Usage, need_files
from bench.servers import Field, Server

SERVERS = (
    *("hubwire", "hubwire-reliable", "hubwire-redis", "stock", "stock-redis"),
    *("socketio", "nchan", "nats", "uwebsockets", "uwebsockets-json"),
)

# Bounds of the options, so that a slip of the finger does not take the machine down.
MAX_CLIENTS = 10_000
MAX_SECONDS = 120.0

# How long messages fly before they are counted, at most.
WARM_UP_SECS = 1.0
PACED_WARM_UP_SECS = 0.25
# For work that follows the last delivery, such as a consumer's own tidying.
AFTERWARDS_SECS = 0.05

# Above these shares of their cores, the generator was the limit and the server was not.
GENERATOR_BUSY = 0.9
SERVER_BUSY = 0.9


@dataclass(frozen=True)
class FanOut:
    """One run of one shape."""

    server: str
    round: int
    shape: str
    payload_bytes: int
    # One delivery on the wire.
    frame_bytes: int
    under_way: int
    expected: int
    delivered: int
    # What is wrong with it: then no other figure means anything.
    fault: str | None
    # Until the last delivery.
    secs: float
    usage: Usage

    @property
    def per_cpu_sec(self) -> float:
        """Deliveries per CPU-second of the server."""
        return self.usage.per_cpu_sec(self.delivered)

    @property
    def limited(self) -> bool:
        """Whether the generator was what made it no faster by the clock."""
        return self.usage.generator_share > GENERATOR_BUSY and self.usage.server_share < SERVER_BUSY


@dataclass(frozen=True)
class Paced:
    """One run at a pace; latencies in milliseconds."""

    server: str
    round: int
    shape: str
    expected: int
    delivered: int
    fault: str | None
    # Messages a second, and whether the server kept up with them.
    per_sec: float
    held: bool
    p50_ms: float
    p99_ms: float
    usage: Usage


class FanOutBench(command.Bench):
    """All that are installed, or those that were asked for."""

    name = "fanout"
    summary = "Fan-out and latency of Hubwire, of stock Channels consumers and of other servers."
    usual_rounds = 5
    quick = {"rounds": 1, "seconds": 0.5, "paced_seconds": 0.5, "sizes": (64,)}

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.fan_out: list[FanOut] = []
        self.paced: list[Paced] = []

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        secs = seconds(0.2, MAX_SECONDS)
        parser.add_argument(
            "--seconds", type=secs, default=1.0, help="sending per shape, size, server and round (default: %(default)g)"
        )
        parser.add_argument(
            "--shapes", type=_shapes, default=SHAPES, help="GROUPSxMEMBERS,… (default: 1x100,1x1000,100x10)"
        )
        parser.add_argument(
            "--sizes", type=several(_payload), default=tuple(PAYLOADS), help="bytes per message (default: 64,2048)"
        )
        parser.add_argument(
            "--servers",
            type=one_of(CONTESTANTS),
            help=f"of {', '.join(CONTESTANTS)} (default: those that are installed of {','.join(SERVERS)})",
        )
        parser.add_argument(
            "--under-way",
            type=several(whole(1, 1_000_000)),
            default=(2000,),
            help="deliveries outstanding at most, at least two messages' worth; several for a table (default: 2000)",
        )
        parser.add_argument(
            "--pace",
            type=whole(0, 10_000),
            default=100,
            help="messages a second to single groups, to time them; 0 for none (%(default)s)",
        )
        parser.add_argument("--paced-seconds", type=secs, default=2.0, help="of each such run (default: %(default)g)")

    def measure(self) -> None:
        options = self.options
        contestants = self._contestants()
        need_files(max(shape.clients for shape in options.shapes))
        with Field(contestants, self.cores.servers, self.failures) as field:
            for number in self.rounds():
                for shape in options.shapes:
                    for server in field:
                        field.turn(server, self._turn(server, shape, number))

    def _contestants(self) -> list[Contestant]:
        """Those that are wanted, or all that are installed. Raises CannotStart."""
        present = []
        for name in self.options.servers or SERVERS:
            contestant = CONTESTANTS[name]
            missing = contestant.missing()
            if not missing:
                present.append(contestant)
                continue
            says = f"{contestant.title} needs {' and '.join(missing)}"
            if self.options.servers:
                raise CannotStart(f"{says}.")
            self.remarks.append(f"Left out: {says}.")
        return present

    async def _turn(self, server: Server, shape: Shape, number: int) -> None:
        """Everything of one shape, with the same clients."""
        sizes = self.options.sizes
        async with Crowd(server, shape, [PAYLOADS[size] for size in sizes]) as crowd:
            for size in sizes:
                crowd.speak(PAYLOADS[size])
                for under_way in self.options.under_way:
                    await self._flood(server, crowd, shape, size, under_way, number)
            if shape.groups == 1 and self.options.pace:
                crowd.speak(PAYLOADS[sizes[0]])
                await self._pace(server, crowd, shape, number)

    async def _flood(self, server: Server, crowd: Crowd, shape: Shape, size: int, under_way: int, number: int) -> None:
        secs = self.options.seconds
        await crowd.flood(min(WARM_UP_SECS, secs / 2), under_way)
        await asyncio.sleep(AFTERWARDS_SECS)
        meter = Meter(server)
        traffic = await crowd.flood(secs, under_way)
        await asyncio.sleep(AFTERWARDS_SECS)
        usage = meter.read()
        run = FanOut(
            server=server.contestant.name,
            round=number,
            shape=str(shape),
            payload_bytes=size,
            frame_bytes=crowd.frame_bytes,
            under_way=under_way,
            expected=traffic.expected,
            delivered=traffic.delivered,
            fault=traffic.fault,
            secs=traffic.wall_secs,
            usage=usage,
        )
        self.fan_out.append(run)
        self._said(server, number, f"{shape}, {size:,} B", traffic.fault)
        say(
            f"{number}  {server.contestant.title}, {shape}, {size:,} B: {run.per_cpu_sec:,.0f} deliveries per CPU-s; "
            f"server {usage.server_share:.0%}, generator {usage.generator_share:.0%}"
        )

    async def _pace(self, server: Server, crowd: Crowd, shape: Shape, number: int) -> None:
        rate = float(self.options.pace)
        meter = Meter(server)
        traffic = await crowd.pace(PACED_WARM_UP_SECS, rate)
        if traffic.held:
            meter = Meter(server)
            traffic = await crowd.pace(self.options.paced_seconds, rate)
        usage = meter.read()
        p50, p99 = (figures.percentile(traffic.latencies, share) * 1000 for share in (0.5, 0.99))
        self.paced.append(
            Paced(
                server=server.contestant.name,
                round=number,
                shape=str(shape),
                expected=traffic.expected,
                delivered=traffic.delivered,
                fault=traffic.fault,
                per_sec=rate,
                held=traffic.held,
                p50_ms=p50,
                p99_ms=p99,
                usage=usage,
            )
        )
        self._said(server, number, f"{shape}, {rate:g} messages a second", traffic.fault)
        came = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms" if traffic.held else "does not keep up"
        say(f"{number}  {server.contestant.title}, {shape}, {rate:g} messages a second: {came}")

    def _said(self, server: Server, number: int, what: str, fault: str | None) -> None:
        if fault:
            self.failures.append(f"{server.contestant.title}, {what}, round {number}: {fault}")

    # What came of it

    def usages(self) -> Iterator[Usage]:
        yield from (run.usage for run in self.fan_out)
        yield from (run.usage for run in self.paced)

    def raw(self) -> dict[str, object]:
        return {"fan_out": self.fan_out, "paced": self.paced}

    def tables(self) -> Iterator[Table]:
        windows = list(dict.fromkeys(run.under_way for run in self.fan_out))
        for size in dict.fromkeys(run.payload_bytes for run in self.fan_out):
            for window in windows:
                yield self._fan_out_table(size, window)
        if len(windows) > 1:
            yield self._window_table(windows)
        if self.paced:
            yield self._paced_table()
        for run in self.fan_out:
            if run.limited:
                self.remarks.append(
                    f"{CONTESTANTS[run.server].title}, {run.shape}, {run.payload_bytes} B, round {run.round}: the "
                    f"generator used {run.usage.generator_share:.0%} of its core and the server "
                    f"{run.usage.server_share:.0%}, so the rate per second is the generator's limit."
                )

    def _by_server(self, shape: str, size: int, window: int) -> dict[str, list[FanOut]]:
        found: dict[str, list[FanOut]] = {}
        for run in self.fan_out:
            if (run.shape, run.payload_bytes, run.under_way) == (shape, size, window):
                found.setdefault(run.server, []).append(run)
        return found

    def _fan_out_table(self, size: int, window: int) -> Table:
        table = figures.table(
            f"Fan-out of {size}-byte messages, {window:,} under way",
            *("shape", "server"),
            right=(
                *(
                    "deliveries per CPU-s",
                    f"× {BASELINE}",
                    "× uWS",
                    "× other version",
                    "bytes each",
                    "delivered / expected",
                ),
                *("per second", "server", "generator"),
            ),
        )
        for shape in dict.fromkeys(run.shape for run in self.fan_out):
            by_server = self._by_server(shape, size, window)
            base, peer = (_speed(by_server.get(name, ())) for name in (BASELINE, PEER))
            for server, runs in by_server.items():
                good = [run for run in runs if not run.fault]
                table.add_row(
                    shape,
                    CONTESTANTS[server].title,
                    figures.spread((run.per_cpu_sec for run in good), ",.0f"),
                    figures.ratio(_speed(runs), base),
                    figures.ratio(_speed(runs), peer),
                    figures.spread(_ratios(good, by_server.get(former(server), ())), ".2f"),
                    f"{runs[0].frame_bytes:,}",
                    f"{sum(run.delivered for run in runs):,} / {sum(run.expected for run in runs):,}",
                    figures.middle((run.delivered / run.secs for run in good), ",.0f"),
                    figures.middle((run.usage.server_share for run in good), ".0%"),
                    figures.middle((run.usage.generator_share for run in good), ".0%"),
                )
            table.add_section()
        return table

    def _window_table(self, windows: Sequence[int]) -> Table:
        table = figures.table(
            "Deliveries per CPU-second by how many are under way",
            *("bytes", "shape", "server"),
            right=[f"{window:,}" for window in windows],
        )
        kinds = dict.fromkeys((run.payload_bytes, run.shape, run.server) for run in self.fan_out)
        for size, shape, server in kinds:
            speeds = [_speed(self._by_server(shape, size, window).get(server, ())) for window in windows]
            shown = [f"{speed:,.0f}" if speed else "–" for speed in speeds]
            table.add_row(f"{size:,}", shape, CONTESTANTS[server].title, *shown)
        return table

    def _paced_table(self) -> Table:
        table = figures.table(
            f"Latency at {self.paced[0].per_sec:g} messages a second",
            *("shape", "server"),
            right=("p50 ms", "p99 ms", "server", "generator"),
        )
        for shape, server in dict.fromkeys((run.shape, run.server) for run in self.paced):
            runs = [run for run in self.paced if (run.shape, run.server) == (shape, server) and not run.fault]
            late = not all(run.held for run in runs)
            table.add_row(
                shape,
                CONTESTANTS[server].title,
                "does not keep up" if late else figures.spread((run.p50_ms for run in runs), ".2f"),
                "does not keep up" if late else figures.spread((run.p99_ms for run in runs), ".2f"),
                figures.middle((run.usage.server_share for run in runs), ".0%"),
                figures.middle((run.usage.generator_share for run in runs), ".0%"),
            )
        return table


def _speed(runs: Sequence[FanOut]) -> float | None:
    """The median of the runs that count."""
    return figures.median(run.per_cpu_sec for run in runs if not run.fault)


def _ratios(runs: Iterable[FanOut], others: Iterable[FanOut]) -> Iterator[float]:
    """What each is of the other of the same round."""
    beside = {run.round: run for run in others if not run.fault}
    return (run.per_cpu_sec / beside[run.round].per_cpu_sec for run in runs if run.round in beside)


# Types of options


def _shapes(text: str) -> tuple[Shape, ...]:
    shapes = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([1-9][0-9]{0,5})[x×]([1-9][0-9]{0,5})\s*", part)
        if found is None:
            raise argparse.ArgumentTypeError(f"{part!r} is not a shape; write GROUPSxMEMBERS, such as 1x100,100x10")
        shape = Shape(int(found[1]), int(found[2]))
        if shape.clients > MAX_CLIENTS:
            raise argparse.ArgumentTypeError(
                f"{part!r} needs more than {MAX_CLIENTS:,} connections; write a smaller shape"
            )
        shapes.append(shape)
    return tuple(dict.fromkeys(shapes))


def _payload(text: str) -> int:
    if text not in map(str, PAYLOADS):
        raise argparse.ArgumentTypeError(f"{text!r}: write a size of {', '.join(map(str, PAYLOADS))}")
    return int(text)


if __name__ == "__main__":
    sys.exit(command.main(FanOutBench))
