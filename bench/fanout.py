"""`python -m bench.fanout`: what it costs the server to hand a message to many.

The figure that counts is **deliveries per CPU-second of the server process**. Deliveries per second
of the clock depend on what else the machine does and on how fast the clients read; processor time
does not, or much less. Every message must reach every member once, or the run does not count.

The servers take turns, shape by shape and round by round, so that a slow minute of the machine
slows all of them. Server and generator each have a core of their own where there are two. Which servers
there are says `bench.servers`; those that are not installed are named and left out.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import uvloop
from rich.console import Console

from bench.clients import PAYLOADS, Crowd, Shape, connect, disconnect
from bench.report import FanOut, Idle, Paced, Report, percentile
from bench.servers import CONTESTANTS, CannotStart, Contestant, Server, busy_secs, cores
from bench.wire import Unexpected

SHAPES = (Shape(1, 100), Shape(1, 1000), Shape(100, 10))
SERVERS = (
    *("hubwire", "hubwire-reliable", "hubwire-redis", "stock", "stock-redis"),
    *("socketio", "nchan", "nats", "uwebsockets", "uwebsockets-json"),
)

# Bounds of the options, so that a slip of the finger does not take the machine down.
MAX_CLIENTS = 10_000
MAX_ROUNDS = 100
MAX_SECONDS = 120.0

PACED_WARM_UP_SECS = 0.25
PACED_SHAPES = (Shape(1, 100), Shape(1, 1000))

# How long a server is given to come to rest before its memory is read.
QUIET_SECS = 15.0
LOOK_EVERY_SECS = 0.25
# For work that follows the last delivery, such as a consumer's own tidying.
AFTERWARDS_SECS = 0.05


def _shapes(text: str) -> tuple[Shape, ...]:
    shapes = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([1-9][0-9]{0,5})[x×]([1-9][0-9]{0,5})\s*", part)
        if found is None:
            raise argparse.ArgumentTypeError(f"{part!r} is not a shape; write GROUPSxMEMBERS, such as 1x100,100x10")
        shape = Shape(int(found[1]), int(found[2]))
        if shape.groups * (shape.members + 1) > MAX_CLIENTS:
            raise argparse.ArgumentTypeError(
                f"{part!r} needs more than {MAX_CLIENTS:,} connections; write a smaller shape"
            )
        shapes.append(shape)
    return tuple(dict.fromkeys(shapes))


def _servers(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in CONTESTANTS:
            raise argparse.ArgumentTypeError(f"{name!r} is not a server; choose from {', '.join(CONTESTANTS)}")
    return names


def _whole(low: int, high: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: write a whole number from {low} to {high}")
        return int(text)

    return whole


def _several(one: Callable[[str], int]) -> Callable[[str], tuple[int, ...]]:
    return lambda text: tuple(dict.fromkeys(one(part.strip()) for part in text.split(",")))


def _payload(text: str) -> int:
    if text not in map(str, PAYLOADS):
        raise argparse.ArgumentTypeError(f"{text!r}: write a size of {', '.join(map(str, PAYLOADS))}")
    return int(text)


def _secs(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0.2 <= value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r}: write a number of seconds from 0.2 to {MAX_SECONDS:g}")
    return value


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.fanout",
        description="Measure fan-out and latency of Hubwire, of stock Channels consumers and of other servers.",
    )
    parser.add_argument(
        "--rounds", type=_whole(1, MAX_ROUNDS), default=3, help="turns of each server (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=_secs, default=3.0, help="sending per shape, server and round (default: %(default)g)"
    )
    parser.add_argument(
        "--shapes", type=_shapes, default=SHAPES, help="GROUPSxMEMBERS,… (default: 1x100,1x1000,100x10)"
    )
    parser.add_argument(
        "--sizes", type=_several(_payload), default=tuple(PAYLOADS), help="bytes per message (default: 64,2048)"
    )
    parser.add_argument(
        "--servers",
        type=_servers,
        help=f"of {', '.join(CONTESTANTS)} (default: those that are installed of {','.join(SERVERS)})",
    )
    parser.add_argument(
        "--under-way",
        type=_several(_whole(1, 1_000_000)),
        default=(2000,),
        help="deliveries outstanding at most, at least two messages' worth; several for a table (default: 2000)",
    )
    parser.add_argument(
        "--pace",
        type=_whole(0, 10_000),
        default=100,
        help="messages a second for latency, 0 for none (%(default)s)",
    )
    parser.add_argument(
        "--paced-shapes", type=_shapes, default=PACED_SHAPES, help="of latency, one group each (default: 1x100,1x1000)"
    )
    parser.add_argument(
        "--idle",
        type=_whole(0, MAX_CLIENTS),
        default=0,
        help="measure so many idle connections too (default: 0)",
    )
    parser.add_argument("--quick", action="store_true", help="a short look: one round of one second, 64 bytes")
    parser.add_argument("--markdown", action="store_true", help="print the tables for a document")
    parser.add_argument("--results", type=Path, help="directory for the raw figures (default: bench/results)")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.idle = 1, 1.0, min(arguments.idle, 200)
        arguments.sizes = arguments.sizes[:1]
    return arguments


class BrokenOff(Exception):
    """A server failed in the middle; the text says which, and how."""


class Bench:
    """One run: which servers, how often, how long, and what came of it."""

    def __init__(self, arguments: argparse.Namespace, console: Console) -> None:
        self._arguments = arguments
        self._console = console
        self._contestants = _present(arguments.servers, console)
        pair = cores()
        self._core = pair[1] if pair else None
        if pair:
            os.sched_setaffinity(0, {pair[0]})
        options = vars(arguments) | {
            "servers": [contestant.name for contestant in self._contestants],
            "shapes": [str(shape) for shape in arguments.shapes],
            "paced_shapes": [str(shape) for shape in arguments.paced_shapes],
            "results": None,
        }
        self.report = Report(options, pinned=pair is not None)

    def run(self) -> None:
        """Measure everything; what was measured until an interruption is in the report."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if self._arguments.idle:
                for number in self._rounds():
                    for contestant in self._contestants:
                        # A fresh process each time: one that has worked before has memory to reuse.
                        with Server(contestant, self._core) as server:
                            self._turn(runner, server, self._idle(server, number))
            with ExitStack() as stack:
                servers = [stack.enter_context(Server(contestant, self._core)) for contestant in self._contestants]
                kinds = itertools.product(self._arguments.sizes, self._arguments.under_way, self._arguments.shapes)
                for size, under_way, shape in kinds:
                    for number in self._rounds():
                        for server in servers:
                            self._turn(runner, server, self._fan_out(server, shape, size, under_way, number))
                for shape in self._arguments.paced_shapes if self._arguments.pace else ():
                    for number in self._rounds():
                        for server in servers:
                            self._turn(runner, server, self._paced(server, shape, number))

    @staticmethod
    def _turn(runner: asyncio.Runner, server: Server, measurement: Coroutine[Any, Any, None]) -> None:
        try:
            runner.run(measurement)
        except (Unexpected, OSError, psutil.Error) as problem:
            # While its log is still there.
            wrote = server.log_end() or "(nothing)"
            raise BrokenOff(f"{server.contestant.title}: {problem}. The server wrote:\n{wrote}") from None

    def _rounds(self) -> range:
        return range(1, self._arguments.rounds + 1)

    def _say(self, server: Server, number: int, what: str) -> None:
        self._console.print(f"round {number}  {server.contestant.title:<26} {what}", markup=False, highlight=False)

    async def _idle(self, server: Server, number: int) -> None:
        count = self._arguments.idle
        targets = server.targets(count)
        # What the first clients of a process make it load and cache is not the cost of a connection.
        await disconnect(await connect(server, server.targets(max(10, count // 40))))
        await _quiet(server)
        memory, cpu, own, started = server.rss_bytes(), server.cpu_secs(), time.process_time(), time.perf_counter()
        clients = await connect(server, targets)
        own, wall = time.process_time() - own, time.perf_counter() - started
        await _quiet(server)
        cpu = server.cpu_secs() - cpu
        memory = server.rss_bytes() - memory
        alive = sum(not client.closed.done() for client in clients)
        await disconnect(clients)
        run = Idle(server.contestant.name, number, count, alive, memory, cpu, own, wall)
        self.report.idle.append(run)
        self._say(
            server,
            number,
            f"idle      {run.kib_per_connection:.1f} KiB, {run.connects_per_cpu_sec:,.0f} connects per CPU-s",
        )

    async def _fan_out(self, server: Server, shape: Shape, size: int, under_way: int, number: int) -> None:
        seconds = self._arguments.seconds
        async with Crowd(server, shape, PAYLOADS[size]) as crowd:
            frame_bytes = crowd.frame_bytes
            await crowd.flood(min(1.0, seconds / 2), under_way)
            await asyncio.sleep(AFTERWARDS_SECS)
            cpu, own, all_of_it, started = server.cpu_secs(), time.process_time(), busy_secs(), time.perf_counter()
            traffic = await crowd.flood(seconds, under_way)
            own, wall = time.process_time() - own, time.perf_counter() - started
            await asyncio.sleep(AFTERWARDS_SECS)
            cpu, all_of_it = server.cpu_secs() - cpu, busy_secs() - all_of_it
        run = FanOut(
            server=server.contestant.name,
            round=number,
            expected=traffic.expected,
            delivered=traffic.delivered,
            surplus=traffic.surplus,
            problem=traffic.problem,
            shape=str(shape),
            payload_bytes=size,
            frame_bytes=frame_bytes,
            under_way=under_way,
            server_cpu_secs=cpu,
            generator_cpu_secs=own,
            others_cpu_secs=max(0.0, all_of_it - cpu - own),
            wall_secs=wall,
        )
        self.report.fan_out.append(run)
        self._say(
            server,
            number,
            f"{shape!s:<8} {size:>5} B, {under_way:,} under way: {run.per_cpu_sec:,.0f} deliveries per CPU-s; "
            f"server {run.server_share:.0%}, generator {run.generator_share:.0%}{'' if run.counts else '  LOSS'}",
        )

    async def _paced(self, server: Server, shape: Shape, number: int) -> None:
        rate = float(self._arguments.pace)
        async with Crowd(server, shape) as crowd:
            traffic = await crowd.pace(PACED_WARM_UP_SECS, rate)
            if traffic.held:
                own, started = time.process_time(), time.perf_counter()
                traffic = await crowd.pace(self._arguments.seconds, rate)
                own, wall = time.process_time() - own, time.perf_counter() - started
            else:
                own, wall = 0.0, 1.0
        p50, p99 = (percentile(traffic.latencies, share) * 1000 for share in (0.5, 0.99))
        run = Paced(
            server=server.contestant.name,
            round=number,
            expected=traffic.expected,
            delivered=traffic.delivered,
            surplus=traffic.surplus,
            problem=traffic.problem,
            shape=str(shape),
            per_sec=rate,
            held=traffic.held,
            p50_ms=p50,
            p99_ms=p99,
            generator_share=own / wall,
        )
        self.report.paced.append(run)
        self._say(
            server,
            number,
            f"{shape!s:<8} {rate:g} messages a second: "
            + (f"p50 {p50:.2f} ms, p99 {p99:.2f} ms" if run.held else "does not keep up")
            + ("" if run.counts else "  LOSS"),
        )


def _present(wanted: Sequence[str] | None, console: Console) -> list[Contestant]:
    """The contestants to measure: those that are wanted, or all that are installed. Raises CannotStart."""
    present = []
    for name in wanted or SERVERS:
        contestant = CONTESTANTS[name]
        missing = contestant.missing()
        if not missing:
            present.append(contestant)
            continue
        says = f"{contestant.title} needs {' and '.join(missing)}"
        if wanted:
            raise CannotStart(f"{says}.")
        console.print(f"Left out: {says}.", style="yellow", markup=False)
    return present


async def _quiet(server: Server) -> None:
    """Wait until the server has nothing to do."""
    deadline = time.monotonic() + QUIET_SECS
    before = server.cpu_secs()
    still = 0
    while still < 2 and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_EVERY_SECS)
        now = server.cpu_secs()
        still = still + 1 if now == before else 0
        before = now


def _allow_sockets(arguments: argparse.Namespace) -> None:
    """Raise the limit of open files for us and the servers we start, or say that it is too low."""
    shapes = [*arguments.shapes, *arguments.paced_shapes]
    most = max([arguments.idle, *(shape.groups * (shape.members + 1) for shape in shapes)])
    needed = most + most // 40 + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(f"This needs {needed:,} open files and {hard:,} are allowed. Raise that (ulimit -n) or measure less.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _terminated(number: int, frame: FrameType | None) -> None:
    # The same way out as Ctrl-C, past every `finally` that stops a server.
    signal.raise_signal(signal.SIGINT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; 0 when every run counts."""
    arguments = _arguments(argv)
    _allow_sockets(arguments)
    # A shell starts its background jobs with Ctrl-C ignored; servers must not outlive us there either.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    # A pipe has no width of its own; 80 columns would break the tables.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    try:
        bench = Bench(arguments, console)
    except CannotStart as problem:
        console.print(str(problem), style="bold red", markup=False)
        return 2
    ended = 0
    try:
        bench.run()
    except KeyboardInterrupt:
        console.print("Interrupted; the servers are stopped. What was measured so far:")
        ended = 130
    except (BrokenOff, CannotStart, subprocess.SubprocessError) as problem:
        console.print(f"The bench broke off. {problem}", style="bold red", markup=False)
        ended = 1
    report = bench.report
    report.show(console, arguments.markdown)
    console.print(f"Raw figures: {report.write(arguments.results)}", markup=False, highlight=False, soft_wrap=True)
    return ended or (1 if report.uncounted else 0)


if __name__ == "__main__":
    sys.exit(main())
