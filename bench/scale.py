"""`python -m bench.scale`: what it costs to be several.

Three questions. The answers are deliveries per CPU-second, and microseconds of processor time per message:

1. **Two workers beside one.** The same fan-out on one process alone, on one with what it takes to be several (for us
   and most others: Redis), and on two, for us and for those of the others that can be several. The members of every
   group are spread evenly over both workers and the publishers too, so every message is fanned out on both sides and
   crosses once. Beside that, ours with each group kept together at one worker, where no message has to cross.
2. **Crossing.** Every publisher on one worker, every member on the other, one member per group: each message crosses
   and is delivered once.
3. **The layers alone.** Two processes that do nothing but publish and receive on a layer (`bench.layers`), ours and
   channels_redis'.

All servers are up and take turns, shape by shape in each round; a ratio is of two figures of the same round. How to
read the figures:

- The service's processor time is that of all its processes, supervisors included. Redis' stands apart, and is included
  in the columns that say so. NATS servers talk to each other directly, so theirs has it all.
- A contestant's processes share one core, Redis included, and the generator has the other. So nothing here is a rate on
  the clock. What is measured is work, and on a machine with more cores the same work is done on more of them.
- The load grows with the workers: `--under-way` is for each. Under one worker's load two would have half as much
  each to join into a write.
- Processes that take turns on one core find the caches used by others, which makes two dearer than on cores of their
  own, and find more to join when they had to wait, which makes them cheaper. The row with groups kept together has
  both and no crossing: what it differs in from one worker on Redis is owed to sharing the core.
- The generator's share of its core is printed. It has as much to do per delivery with two workers as with one, and
  less per second.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.table import Table

from bench import command, figures, layers
from bench.command import one_of, say, seconds, whole
from bench.contestants import CONTESTANTS
from bench.crowd import SHAPES, Shape
from bench.layers import LAYERS, LayerRun
from bench.machine import TICK_SECS, Meter, Usage, need_files
from bench.servers import PROBLEMS, Field, Server
from bench.spread import TRIES, SpreadCrowd, apart, evenly, together

CROSSING = Shape(32, 1)
# For what a server does after the last delivery.
AFTERWARDS_SECS = 0.05


@dataclass(frozen=True)
class Family:
    """A server alone, with what it takes to be several if that is anything, and twice."""

    title: str
    alone: str
    connected: str | None
    two: str

    @property
    def names(self) -> tuple[str, ...]:
        """Of the contestants."""
        return tuple(name for name in (self.alone, self.connected, self.two) if name)


FAMILIES = {
    family.alone: family
    for family in (
        Family("Hubwire", "hubwire", "hubwire-redis", "hubwire-two"),
        Family("stock Channels", "stock-uvicorn", "stock-redis", "stock-two"),
        Family("Socket.IO", "socketio", "socketio-redis", "socketio-two"),
        Family("NATS", "nats", None, "nats-two"),
        Family("the other version", "former", "former-redis", "former-two"),
    )
}
# Those that need not be asked for.
USUAL = {name: family for name, family in FAMILIES.items() if name != "former"}
TWO = {family.two: family for family in FAMILIES.values()}
WORKERS, TOGETHER, CROSSED = "workers", "together", "crossing"
PARTS = (WORKERS, CROSSED, "layers")
# What a title has added.
KEPT_TOGETHER = {WORKERS: "", TOGETHER: ", groups kept together"}


@dataclass(frozen=True)
class Run:
    """One shape on one server in one round."""

    # How its clients were spread: WORKERS, TOGETHER or CROSSED.
    part: str
    server: str
    round: int
    shape: str
    # Messages sent, whatever the number of members.
    sent: int
    expected: int
    delivered: int
    # What is wrong with it: then no other figure means anything.
    fault: str | None
    # Of the service's processes, and of Redis.
    cpu_secs: float
    redis_cpu_secs: float
    # Until the last delivery.
    secs: float
    usage: Usage

    @property
    def per_cpu_sec(self) -> float:
        """Deliveries for one CPU-second of the service."""
        return self.delivered / max(self.cpu_secs, TICK_SECS)

    @property
    def per_cpu_sec_with_redis(self) -> float:
        """Deliveries for one CPU-second of the service and of Redis together."""
        return self.delivered / max(self.cpu_secs + self.redis_cpu_secs, TICK_SECS)

    @property
    def micros_per_message(self) -> float:
        """Processor time of the service per message, with all of its deliveries."""
        return self.cpu_secs / max(self.sent, 1) * 1e6

    @property
    def redis_micros_per_message(self) -> float:
        """The same of Redis."""
        return self.redis_cpu_secs / max(self.sent, 1) * 1e6


class Scale(command.Bench):
    """All families in turns, and the layers."""

    name = "scale"
    summary = "What it costs to be several: two workers beside one, for us and for others."
    usual_rounds = 2
    quick = {"rounds": 1, "seconds": 0.3, "shapes": SHAPES[:1]}

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.runs: list[Run] = []
        self.layer_runs: list[LayerRun] = []

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--parts", type=one_of(PARTS), default=PARTS, help=f"of {', '.join(PARTS)}")
        parser.add_argument("--families", type=one_of(FAMILIES), default=tuple(USUAL), help=f"of {', '.join(FAMILIES)}")
        parser.add_argument("--seconds", type=seconds(0.2, 60), default=1.0, help="of each run (default: %(default)g)")
        parser.add_argument(
            "--under-way",
            type=whole(1, 1_000_000),
            default=2000,
            help="deliveries outstanding at most, per worker (%(default)s)",
        )
        parser.set_defaults(shapes=SHAPES)

    def measure(self) -> None:
        need_files(TRIES * max(shape.clients for shape in self.options.shapes))
        names = [name for family in self._families() for name in family.names]
        redis = CONTESTANTS["redis"]
        layered = "layers" in self.options.parts and not redis.missing()
        wanted = [CONTESTANTS[name] for name in names] if {WORKERS, CROSSED} & {*self.options.parts} else []
        with Field([*wanted, *([redis] if layered else [])], self.cores.servers, self.failures) as field:
            for number in self.rounds():
                for part, shape in self._turns():
                    for server in field:
                        if server.contestant.name in names and self._takes_part(server, part):
                            field.turn(server, self._flood(server, part, shape, number))
                for server in field:
                    if server.contestant is redis:
                        self._measure_layers(server, number)

    def _families(self) -> Iterator[Family]:
        """Those that are installed."""
        for name in self.options.families:
            family = FAMILIES[name]
            missing = dict.fromkeys(how for name in family.names for how in CONTESTANTS[name].missing())
            if missing:
                self.remarks.append(f"Left out: {family.title} needs {' and '.join(missing)}.")
            else:
                yield family

    def _turns(self) -> Iterator[tuple[str, Shape]]:
        if WORKERS in self.options.parts:
            for shape in self.options.shapes:
                yield WORKERS, shape
                yield TOGETHER, shape
        if CROSSED in self.options.parts:
            yield CROSSED, CROSSING

    @staticmethod
    def _takes_part(server: Server, part: str) -> bool:
        if part == TOGETHER:
            return server.contestant.name == FAMILIES["hubwire"].two
        return part == WORKERS or server.contestant.name in TWO

    async def _flood(self, server: Server, part: str, shape: Shape, number: int) -> None:
        workers = 2 if server.contestant.name in TWO else 1
        secs, under_way = self.options.seconds, self.options.under_way * workers
        place = {WORKERS: evenly, TOGETHER: together, CROSSED: apart}[part](shape, workers)
        async with SpreadCrowd(server, shape, workers, place) as crowd:
            await crowd.flood(min(1.0, secs / 2), under_way)
            await asyncio.sleep(AFTERWARDS_SECS)
            meter, own, redis = Meter(server), server.own_cpu_secs(), server.companions_cpu_secs()
            traffic = await crowd.flood(secs, under_way)
            await asyncio.sleep(AFTERWARDS_SECS)
            usage = meter.read()
            own, redis = server.own_cpu_secs() - own, server.companions_cpu_secs() - redis
        run = Run(
            part=part,
            server=server.contestant.name,
            round=number,
            shape=str(shape),
            sent=traffic.expected // shape.members,
            expected=traffic.expected,
            delivered=traffic.delivered,
            fault=traffic.fault,
            cpu_secs=own,
            redis_cpu_secs=redis,
            secs=traffic.wall_secs,
            usage=usage,
        )
        self.runs.append(run)
        if traffic.fault:
            self.failures.append(f"{server.contestant.title}, {shape}, {part}, round {number}: {traffic.fault}")
        say(
            f"{number}  {part}, {server.contestant.title}, {shape}: {run.per_cpu_sec:,.0f} per CPU-s; "
            f"server {usage.server_share:.0%}, generator {usage.generator_share:.0%}"
        )

    def _measure_layers(self, redis: Server, number: int) -> None:
        url = f"redis://127.0.0.1:{redis.port}/0"
        for layer in LAYERS:
            try:
                run = layers.measure(layer, url, redis, self.cores.servers, number, self.options.seconds)
            except PROBLEMS as problem:
                self.failures.append(str(problem))
                continue
            self.layer_runs.append(run)
            say(f"{number}  {layer.title}: {run.per_cpu_sec:,.0f} per CPU-s")

    # What came of it

    def usages(self) -> Iterator[Usage]:
        return (run.usage for run in self.runs)

    def raw(self) -> dict[str, object]:
        return {"workers": self.runs, "layers": self.layer_runs}

    def tables(self) -> Iterator[Table]:
        if any(run.part == WORKERS for run in self.runs):
            yield self._workers_table()
            yield self._ratios_table()
        if any(run.part == CROSSED for run in self.runs):
            yield self._crossing_table()
        if self.layer_runs:
            yield self._layers_table()

    def _good(self, part: str, server: str, shape: str) -> list[Run]:
        return [
            run for run in self.runs if (run.part, run.server, run.shape) == (part, server, shape) and not run.fault
        ]

    def _shapes(self, *parts: str) -> Iterable[str]:
        return dict.fromkeys(run.shape for run in self.runs if run.part in parts)

    def _workers_table(self) -> Table:
        table = figures.table(
            "Two workers beside one",
            *("groups × members", "server"),
            right=(
                *("deliveries per CPU-s", "Redis included", "µs per message", "and of Redis"),
                *("per s", "server's core", "generator's core"),
            ),
        )
        for shape in self._shapes(WORKERS):
            servers = dict.fromkeys(run.server for run in self.runs)
            for server, part in itertools.product(servers, (WORKERS, TOGETHER)):
                runs = self._good(part, server, shape)
                if not runs:
                    continue
                table.add_row(
                    shape,
                    CONTESTANTS[server].title + KEPT_TOGETHER[part],
                    figures.spread((run.per_cpu_sec for run in runs), ",.0f"),
                    figures.middle((run.per_cpu_sec_with_redis for run in runs), ",.0f"),
                    figures.middle((run.micros_per_message for run in runs), ",.1f"),
                    figures.middle((run.redis_micros_per_message for run in runs), ",.1f"),
                    figures.middle((run.delivered / run.secs for run in runs), ",.0f"),
                    figures.middle((run.usage.server_share for run in runs), ".0%"),
                    figures.middle((run.usage.generator_share for run in runs), ".0%"),
                )
            table.add_section()
        return table

    def _ratios_table(self) -> Table:
        table = figures.table(
            "What two workers do of what one does, per CPU-second",
            *("groups × members", "server"),
            right=(
                "of one alone",
                "of one connected",
                "Redis included",
                "more than alone, µs per message",
                "and of Redis",
            ),
        )
        for shape in self._shapes(WORKERS):
            for family, part in itertools.product(FAMILIES.values(), (WORKERS, TOGETHER)):
                two = {run.round: run for run in self._good(part, family.two, shape)}
                alone = {run.round: run for run in self._good(WORKERS, family.alone, shape)}
                connected = {run.round: run for run in self._good(WORKERS, family.connected or "", shape)}
                pairs = [(two[number], alone[number]) for number in two if number in alone]
                if not pairs:
                    continue
                table.add_row(
                    shape,
                    family.title + KEPT_TOGETHER[part],
                    figures.spread((one.per_cpu_sec / other.per_cpu_sec for one, other in pairs), ".2f"),
                    figures.spread(
                        (
                            run.per_cpu_sec / connected[number].per_cpu_sec
                            for number, run in two.items()
                            if number in connected
                        ),
                        ".2f",
                    ),
                    figures.middle((one.per_cpu_sec_with_redis / other.per_cpu_sec for one, other in pairs), ".2f"),
                    figures.spread((one.micros_per_message - other.micros_per_message for one, other in pairs), ".1f"),
                    figures.middle((one.redis_micros_per_message for one, _ in pairs), ".1f"),
                )
            table.add_section()
        return table

    def _crossing_table(self) -> Table:
        table = figures.table(
            "From one worker to the other, one member per group",
            "server",
            right=("messages per CPU-s", "Redis included", "µs per message", "and of Redis", "generator's core"),
        )
        for server in TWO:
            runs = self._good(CROSSED, server, str(CROSSING))
            if runs:
                table.add_row(
                    CONTESTANTS[server].title,
                    figures.spread((run.per_cpu_sec for run in runs), ",.0f"),
                    figures.middle((run.per_cpu_sec_with_redis for run in runs), ",.0f"),
                    figures.middle((run.micros_per_message for run in runs), ",.1f"),
                    figures.middle((run.redis_micros_per_message for run in runs), ",.1f"),
                    figures.middle((run.usage.generator_share for run in runs), ".0%"),
                )
        return table

    def _layers_table(self) -> Table:
        table = figures.table(
            "The layers alone, from one process to another",
            "layer",
            right=("messages per CPU-s", "× stock", "Redis included", "× stock"),
        )
        by_layer = {layer: [run for run in self.layer_runs if run.layer == layer.title] for layer in LAYERS}
        stock = by_layer[LAYERS[-1]]
        for layer, runs in by_layer.items():
            alone, included = (
                (
                    figures.median(run.per_cpu_sec for run in each),
                    figures.median(run.per_cpu_sec_with_redis for run in each),
                )
                for each in (runs, stock)
            )
            table.add_row(
                layer.title,
                figures.spread((run.per_cpu_sec for run in runs), ",.0f"),
                figures.ratio(alone[0], included[0]),
                figures.spread((run.per_cpu_sec_with_redis for run in runs), ",.0f"),
                figures.ratio(alone[1], included[1]),
            )
        return table


if __name__ == "__main__":
    sys.exit(command.main(Scale))
