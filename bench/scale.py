"""`python -m bench.scale`: what it costs to be several.

Three questions, each with deliveries or publications per CPU-second as its answer:

1. **Two workers beside one.** The same fan-out on `serve`, on `serve` with a Redis, and on `serve --workers 2`, where
   the members of every group are spread evenly over both workers and the publishers take turns between them. So
   every message is fanned out locally and crosses once. Counted is the processor time of the service's
   processes; Redis' own is shown apart, and the ratio with it included stands beside.
2. **Crossing.** Every publisher on one worker, every member on the other, one member per group: each message crosses
   and is delivered once. The same with stock Channels on channels_redis' pub/sub layer, uvicorn with two workers.
3. **The layers alone.** Two processes that do nothing but publish and receive on a layer (bench/layer_ends.py),
   ours and channels_redis'.

Which worker a client is at, the kernel decides, and it is not asked to do otherwise: the bench opens connections until
each worker has as many as it should, and closes the rest. Whose a connection is, the operating system tells.
All processes of a contestant share one core, Redis included, so nothing here is a rate on the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from bench.clients import Client, Crowd, Shape, connect, disconnect
from bench.holding import (
    Wrong,
    allow_files,
    interruptible,
    keep_to_own_core,
    one_of,
    read_options,
    say,
    seconds,
    whole,
    write_raw,
)
from bench.layer_ends import PATIENCE_SECS
from bench.servers import CONTESTANTS, ROOT, CannotStart, Contestant, Server
from bench.wire import Unexpected

SHAPES = (Shape(1, 100), Shape(1, 1000), Shape(100, 10))
CROSSING = Shape(32, 1)
UNDER_WAY = 2000
# For what a server does after the last delivery.
AFTERWARDS_SECS = 0.05

# How many connections may be opened to get one where it should be.
TRIES = 8
REDIS = "redis-server"

OURS, STOCK = "hubs.layers.redis.RedisLayer", "channels_redis.pubsub.RedisPubSubChannelLayer"


def _with_workers(name: str, title: str, count: int) -> Contestant:
    base = CONTESTANTS[name]
    return dataclasses.replace(
        base, name=f"{name}-{count}", title=title, command=(*base.command, "--workers", str(count))
    )


ALONE, ON_REDIS = CONTESTANTS["hubwire"], CONTESTANTS["hubwire-redis"]
TWO = _with_workers("hubwire-redis", "Hubwire on Redis, two workers", 2)
STOCK_TWO = _with_workers("stock-redis", "stock Channels on Redis, two workers", 2)

LAYERS = (
    ("Hubwire's layer, 16 published per turn", OURS, 16),
    ("Hubwire's layer, one per turn", OURS, 1),
    ("Hubwire's layer, each awaited", OURS, 0),
    ("channels_redis pub/sub, each awaited", STOCK, 0),
)
PARTS = ("workers", "crossing", "layers")


@dataclasses.dataclass(frozen=True)
class Run:
    """One shape, crossing or layer, once."""

    part: str
    what: str
    round: int
    shape: str
    expected: int
    delivered: int
    # Messages sent, whatever the number of members.
    sent: int
    # Of the service's processes, and of Redis.
    cpu_secs: float
    redis_cpu_secs: float
    wall_secs: float
    generator_share: float

    @property
    def per_cpu_sec(self) -> float:
        """Deliveries for one CPU-second of the service."""
        return self.delivered / self.cpu_secs

    @property
    def per_cpu_sec_with_redis(self) -> float:
        """Deliveries for one CPU-second of the service and of Redis together."""
        return self.delivered / (self.cpu_secs + self.redis_cpu_secs)


@dataclasses.dataclass(frozen=True)
class Spent:
    """Processor time so far."""

    service: float
    redis: float

    @classmethod
    def by(cls, processes: Sequence[psutil.Process]) -> Spent:
        """Of these processes."""
        service = redis = 0.0
        for process in processes:
            times = process.cpu_times()
            if process.name().startswith(REDIS):
                redis += times.user + times.system
            else:
                service += times.user + times.system
        return cls(service, redis)

    def __sub__(self, before: Spent) -> Spent:
        return Spent(self.service - before.service, self.redis - before.redis)


# Given the number of a member or publisher, and whether it publishes, the worker where it should be.
Place = Callable[[int, bool], int]


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
                clients = await connect(self._where, [targets[number % len(targets)] for number in range(count)])
                opened += clients
                for client, worker in zip(clients, self._homes(clients), strict=True):
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

    def _homes(self, clients: Sequence[Client]) -> list[int]:
        """The worker that each of these clients is connected to, as the operating system sees it."""
        owners: dict[tuple[str, int], int] = {}
        for process in self._where.processes():
            if process.name().startswith(REDIS):
                continue
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


def _evenly(shape: Shape, workers: int) -> Place:
    """Members of each group at all workers in turn, publishers too."""
    return lambda number, publishes: number if publishes else number % shape.members % workers


def _apart(number: int, publishes: bool) -> int:
    """Publishers at one worker, members at the other."""
    return 1 if publishes else 0


async def _flood(
    server: Server, shape: Shape, workers: int, place: Place, part: str, number: int, options: argparse.Namespace
) -> Run:
    async with SpreadCrowd(server, shape, workers, place) as crowd:
        await crowd.flood(min(1.0, options.seconds / 2), UNDER_WAY)
        await asyncio.sleep(AFTERWARDS_SECS)
        processes = server.processes()
        before, own, began = Spent.by(processes), time.process_time(), time.perf_counter()
        traffic = await crowd.flood(options.seconds, UNDER_WAY)
        own, wall = time.process_time() - own, time.perf_counter() - began
        await asyncio.sleep(AFTERWARDS_SECS)
        spent = Spent.by(processes) - before
    run = Run(
        part=part,
        what=server.contestant.title,
        round=number,
        shape=str(shape),
        expected=traffic.expected,
        delivered=traffic.delivered,
        sent=traffic.expected // shape.members,
        cpu_secs=spent.service,
        redis_cpu_secs=spent.redis,
        wall_secs=traffic.wall_secs,
        generator_share=own / wall,
    )
    say(f"{number}  {part}: {run.what}, {shape}: {run.per_cpu_sec:,.0f} per CPU-s")
    if traffic.delivered != traffic.expected or traffic.surplus:
        raise Wrong(
            f"{run.what}, {shape}: {traffic.delivered:,} of {traffic.expected:,} delivered, {traffic.surplus:,} too "
            f"many{f' ({traffic.problem})' if traffic.problem else ''}"
        )
    return run


# The layers alone


@contextmanager
def _redis(core: int | None) -> Iterator[tuple[str, psutil.Process]]:
    """A Redis of our own; gives its URL and process."""
    redis = ON_REDIS.companions[0]
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        # On a socket in its directory, so that no port has to be found.
        path = f"{directory}/redis.sock"
        command = [part.format(side_port=0, directory=directory) for part in redis]
        with _on(core):
            process = subprocess.Popen([*command, "--unixsocket", path], stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + PATIENCE_SECS
            while not Path(path).exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise CannotStart("Redis did not start.")
                time.sleep(0.02)
            yield f"unix://{path}", psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _on(core: int | None) -> Iterator[None]:
    own = os.sched_getaffinity(0) if core is not None else set()
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        if own:
            os.sched_setaffinity(0, own)


def _layer(title: str, path: str, per_turn: int, url: str, redis: psutil.Process, number: int, secs: float) -> Run:
    reading, writing = os.pipe()
    ends: list[subprocess.Popen[str]] = []
    own, began = time.process_time(), time.perf_counter()

    def end(name: str, pipe: int, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bench.layer_ends", name, path, url, str(secs), str(pipe), *more]
        try:
            ends.append(
                subprocess.Popen(
                    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=(pipe,)
                )
            )
        finally:
            # Theirs alone, so that each sees when the other is gone.
            os.close(pipe)
        return ends[-1]

    def heard(process: subprocess.Popen[str]) -> dict[str, float]:
        assert process.stdout is not None
        if line := process.stdout.readline():
            return dict(json.loads(line))
        # Where the receiver fails, the publisher does too, and the receiver knows why.
        _, problem = ends[0].communicate(timeout=PATIENCE_SECS)
        if ends[0].returncode == 0:
            _, problem = process.communicate(timeout=PATIENCE_SECS)
        raise Wrong(f"{title}: {(problem.strip().splitlines() or ['it ended'])[-1]}")

    try:
        receiver = end("receive", writing)
        heard(receiver)
        spent = Spent.by([redis])
        publisher = end("publish", reading, str(per_turn))
        published, received = heard(publisher), heard(receiver)
        spent = Spent.by([redis]) - spent
    finally:
        if len(ends) < 2:
            os.close(reading)
        for process in ends:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()
            process.communicate(timeout=PATIENCE_SECS)
    run = Run(
        part="layers",
        what=title,
        round=number,
        shape="",
        expected=int(published["count"]),
        delivered=int(received["count"]),
        sent=int(published["count"]),
        cpu_secs=published["cpu_secs"] + received["cpu_secs"],
        redis_cpu_secs=spent.redis,
        wall_secs=published["wall_secs"],
        generator_share=(time.process_time() - own) / (time.perf_counter() - began),
    )
    say(f"{number}  {title}: {run.per_cpu_sec:,.0f} per CPU-s")
    if run.delivered != run.expected:
        raise Wrong(f"{title}: {run.delivered:,} of {run.expected:,} received")
    return run


# What came of it


def _median(runs: Sequence[Run], value: Callable[[Run], float]) -> float | None:
    return statistics.median(map(value, runs)) if runs else None


def _spread(runs: Sequence[Run], value: Callable[[Run], float]) -> str:
    found = sorted(map(value, runs))
    middle = f"{statistics.median(found):,.0f}"
    return middle if len(found) == 1 else f"{middle} ({found[0]:,.0f}–{found[-1]:,.0f})"


def _table(part: str, title: str, unit: str, yardstick: str, runs: Sequence[Run]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("groups × members" if any(run.shape for run in runs) else "")
    table.add_column("what")
    for heading in (
        *(f"{unit} per CPU-s", "×", "Redis included", "×", "delivered / expected"),
        *("per s", "generator's core"),
    ):
        table.add_column(heading, justify="right")
    for shape in dict.fromkeys(run.shape for run in runs):
        own = [run for run in runs if run.shape == shape]
        base = _median([run for run in own if run.what == yardstick], lambda run: run.per_cpu_sec)
        both = _median([run for run in own if run.what == yardstick], lambda run: run.per_cpu_sec_with_redis)
        for what in dict.fromkeys(run.what for run in own):
            group = [run for run in own if run.what == what]
            speed, with_redis = (
                _median(group, lambda run: run.per_cpu_sec),
                _median(group, lambda run: run.per_cpu_sec_with_redis),
            )
            table.add_row(
                shape,
                what,
                _spread(group, lambda run: run.per_cpu_sec),
                f"{speed / base:.2f}" if speed and base else "",
                _spread(group, lambda run: run.per_cpu_sec_with_redis),
                f"{with_redis / both:.2f}" if with_redis and both else "",
                f"{sum(run.delivered for run in group):,} / {sum(run.expected for run in group):,}",
                _spread(group, lambda run: run.delivered / run.wall_secs),
                f"{statistics.median(run.generator_share for run in group):.0%}",
            )
        table.add_section()
    return table


_TABLES = {
    "workers": ("Two workers beside one", "deliveries", ALONE.title),
    "crossing": ("From one worker to the other, one member per group", "messages", STOCK_TWO.title),
    "layers": ("The layers alone, from one process to another", "messages", LAYERS[-1][0]),
}


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=one_of(PARTS), default=PARTS, help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=whole(1, 20), default=3, help="turns of each (default: %(default)s)")
    parser.add_argument("--seconds", type=seconds(0.2, 60), default=4.0, help="of each run (default: %(default)g)")
    parser.add_argument("--quick", action="store_true", help="one round, half a second, groups of 10, two contestants")
    parser.add_argument("--results", type=Path, help="directory for the raw figures (default: bench/results)")
    parser.set_defaults(shapes=SHAPES)
    return read_options(parser, argv, rounds=1, seconds=0.5, shapes=(Shape(1, 10), Shape(5, 10)))


# Who takes part in what, and with how many workers. Two workers of ours do both, crossing first: there the other
# contestant is freshly started, too.
ROWS = (
    (ALONE, 1, ("workers",)),
    (ON_REDIS, 1, ("workers",)),
    (TWO, 2, ("crossing", "workers")),
    (STOCK_TWO, 2, ("crossing",)),
)


def _measure(options: argparse.Namespace, core: int | None, runs: list[Run]) -> None:
    for number in range(1, options.rounds + 1):
        for contestant, workers, parts in ROWS:
            wanted = [part for part in parts if part in options.parts]
            if not wanted or (options.quick and contestant is ON_REDIS):
                continue
            with Server(contestant, core) as server:
                for part in wanted:
                    for shape in (CROSSING,) if part == "crossing" else options.shapes:
                        place = _apart if part == "crossing" else _evenly(shape, workers)
                        runs.append(uvloop.run(_flood(server, shape, workers, place, part, number, options)))
    if "layers" in options.parts:
        with _redis(core) as (url, redis):
            for number in range(1, options.rounds + 1):
                for title, path, per_turn in LAYERS:
                    with _on(core):
                        runs.append(_layer(title, path, per_turn, url, redis, number, options.seconds))


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts, print a table for each, write what was measured; 0 when nothing was lost."""
    options = _options(argv)
    interruptible()
    console = Console() if sys.stdout.isatty() else Console(width=170)
    if missing := ON_REDIS.missing():
        console.print(f"Left out, since it needs {' and '.join(missing)}.", markup=False)
        return 0
    allow_files(TRIES * max(shape.groups * (shape.members + 1) for shape in options.shapes))
    both = keep_to_own_core()
    runs: list[Run] = []
    ended = 0
    try:
        _measure(options, both and both[1], runs)
    except (CannotStart, OSError, Unexpected, Wrong, subprocess.SubprocessError) as problem:
        console.print(f"DOES NOT COUNT: {problem}", style="bold red", markup=False)
        ended = 1
    except KeyboardInterrupt:
        ended = 130
    if runs:
        for part, (title, unit, yardstick) in _TABLES.items():
            own = [run for run in runs if run.part == part]
            if own:
                console.print(_table(part, title, unit, yardstick, own))
        raw = [dataclasses.asdict(run) for run in runs]
        where = write_raw("scale", vars(options), raw, bool(both), options.results)
        console.print(f"Raw figures: {where}", markup=False, highlight=False, soft_wrap=True)
    return ended


if __name__ == "__main__":
    sys.exit(main())
