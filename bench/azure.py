"""`python -m bench.azure`: how many of Azure's units one worker holds, by Azure's own definition.

Azure's performance guide for Web PubSub measures with messages of 2,048 bytes, sent once a second by each client that
sends, and calls throughput allowed while 99 % of the messages arrive in less than a second. One unit is 1,000
connections, and by its tables:

    big groups     ten groups, a tenth of the connections in each; 30 messages a second come in,    3,000 go out
    small groups   ten connections in each group; 400 messages a second come in,                    4,000 go out

So that is what is asked of one worker here: n units are n × 1,000 connections with n times the traffic,
and n is doubled until a load is not held, then halved towards the last that was. Where the machine allows a
process no more open files, the connections stay as many as they are and only the traffic grows; the
verdict says so. Late is a result; a message that is lost without a word, or doubled, ends the bench.

How late a message is, is counted from the moment it was due, not from when the generator got round to sending
it, so a generator that falls behind makes the figure worse, never better.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import dataclasses
import math
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence

import uvloop
from rich.table import Table

from bench import command, figures
from bench.clients import connect, disconnect, join
from bench.command import one_of, say, seconds, whole
from bench.contestants import CONTESTANTS
from bench.machine import Meter, Usage, allow_files, at_rest
from bench.servers import Server, Wrong
from bench.timed import LOOK_SECS, Numbered, Reader, drained

UNIT_CONNECTIONS = 1_000
MESSAGE_BYTES = 2_048
INTERVAL_SECS = 1.0
LATE_SECS = 1.0
IN_TIME = 0.99
# Of the same traffic, before a step is counted.
WARM_UP_SECS = 2.0

MEMBERS_OF_SMALL = 10


@dataclasses.dataclass(frozen=True)
class Kind:
    """One of the two ways in which Azure fills a unit."""

    name: str
    title: str
    out_per_unit: int
    # How many groups there are, or None where each has ten members.
    groups: int | None

    def group_of(self, number: int) -> int:
        """The group of the connection with this number, so that groups are filled evenly as connections are added."""
        return number % self.groups if self.groups else number // MEMBERS_OF_SMALL

    def group_count(self, connections: int) -> int:
        """How many groups so many connections make."""
        return self.groups or connections // MEMBERS_OF_SMALL

    def messages_per_sec(self, units: int, connections: int) -> float:
        """How many messages have to come in for the traffic of so many units to go out."""
        return self.out_per_unit * units * self.group_count(connections) / connections

    def senders(self, connections: int, count: int) -> list[int]:
        """The numbers of so many connections that send, about as many in each group."""
        if self.groups:
            return list(range(min(count, connections)))
        in_turn = sorted(range(connections), key=lambda number: (number % MEMBERS_OF_SMALL, number))
        return in_turn[:count]


BIG, SMALL = Kind("big", "ten big groups", 3_000, 10), Kind("small", "groups of ten", 4_000, None)
KINDS = {kind.name: kind for kind in (BIG, SMALL)}


@dataclasses.dataclass(frozen=True)
class Step:
    """One load, for a while."""

    kind: str
    units: int
    connections: int
    groups: int
    sent: int
    expected: int
    delivered: int
    secs: float
    p50_secs: float
    p99_secs: float
    in_time: float
    usage: Usage
    # Connections that the server closed, because they or it could not keep up.
    closed: int

    @property
    def held(self) -> bool:
        """Whether Azure would call this load allowed: all arrived, 99 % in less than a second."""
        return self.delivered == self.expected and not self.closed and self.in_time >= IN_TIME


class Crowd:
    """The clients of one kind on one server; it grows and shrinks."""

    def __init__(self, server: Server, kind: Kind) -> None:
        self._server = server
        self._kind = kind
        self._members: list[Reader] = []
        self._targets: list[str] = []

    async def resize(self, connections: int) -> None:
        """Have so many connections, each in its group."""
        going, self._members = self._members[connections:], self._members[:connections]
        await disconnect(member.client for member in going)
        first = len(self._members)
        if first >= connections:
            return
        if len(self._targets) < connections:
            self._targets = self._server.targets(connections)
        new = await connect(self._server.door, self._targets[first:connections])
        members = [Reader(client, self._kind.group_of(number)) for number, client in enumerate(new, first)]
        self._members += members
        await join(new, [_name(member.group) for member in members], self._server.contestant.dialect)

    async def run(self, units: int, secs: float) -> Step:
        """Send evenly for a while and time every delivery. Raises Wrong for what is neither on time nor late."""
        members, kind = self._members, self._kind
        groups = kind.group_count(len(members))
        per_sec = kind.messages_per_sec(units, len(members))
        senders = [members[number] for number in kind.senders(len(members), math.ceil(per_sec * INTERVAL_SECS))]
        due: list[float] = []
        arrived = array("d")
        for member in members:
            member.begin(due, arrived)
        counts, totals = [0] * groups, [0] * groups
        meter = Meter(self._server)
        await self._send(senders, per_sec, secs, due, counts, totals)
        usage = meter.read()
        expected = sum(counts[member.group] for member in members)
        await drained(arrived, expected)
        closed = sum(not member.client.alive for member in members)
        check(members, counts, totals, closed, stuck=len(arrived) < expected)
        took = sorted(arrived)
        return Step(
            kind=kind.name,
            units=units,
            connections=len(members),
            groups=groups,
            sent=len(due),
            expected=expected,
            delivered=len(took),
            secs=max(usage.wall_secs, len(due) / per_sec),
            p50_secs=figures.percentile(took, 0.5),
            p99_secs=figures.percentile(took, 0.99),
            in_time=bisect.bisect_left(took, LATE_SECS) / max(1, expected),
            usage=usage,
            closed=closed,
        )

    @staticmethod
    async def _send(
        senders: Sequence[Reader], per_sec: float, secs: float, due: list[float], counts: list[int], totals: list[int]
    ) -> None:
        """Send each message when it is due, or as soon as can be, and write down when that was."""
        frames = [Numbered(_name(group), MESSAGE_BYTES) for group in range(len(counts))]
        total = max(1, round(per_sec * secs))
        started = time.perf_counter()
        while len(due) < total:
            now = time.perf_counter()
            while len(due) < total and (at := started + len(due) / per_sec) <= now:
                number = len(due)
                sender = senders[number % len(senders)]
                due.append(at)
                counts[sender.group] += 1
                totals[sender.group] += number
                if sender.client.alive:
                    sender.client.send(frames[sender.group].frame(number))
            await asyncio.sleep(LOOK_SECS)


def _name(group: int) -> str:
    return f"group-{group:05}"


def check(members: Sequence[Reader], counts: Sequence[int], totals: Sequence[int], closed: int, stuck: bool) -> None:
    """Being late is a result; being lost without a word, or doubled, is a fault. Raises Wrong."""
    for member in members:
        wanted = counts[member.group]
        if member.received > wanted or (member.received == wanted and member.total != totals[member.group]):
            raise Wrong(f"a member of group {member.group} got other messages than the {wanted} that were sent to it")
    if stuck and not closed:
        missing = sum(counts[member.group] - member.received for member in members)
        raise Wrong(f"{missing:,} deliveries did not arrive, and nobody was told")


class NoTime(Exception):
    """There is none for another step."""


class Azure(command.Bench):
    """Both kinds, one after the other, each on a fresh server."""

    name = "azure"
    summary = "How many of Azure's units one worker holds, by Azure's own definition."
    quick = {"first": 1, "most": 1, "secs": 2.0}

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        wanted = options.most * UNIT_CONNECTIONS
        self._allowed = allow_files(min(wanted, options.connections or wanted))
        self._allowed -= self._allowed % MEMBERS_OF_SMALL
        self.steps: list[Step] = []

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--kinds", type=one_of(KINDS), default=tuple(KINDS), help=f"of {', '.join(KINDS)}")
        parser.add_argument("--first", type=whole(1, 100), default=4, help="units of the first step (%(default)s)")
        parser.add_argument("--most", type=whole(1, 100), default=100, help="units of the last step (%(default)s)")
        parser.add_argument(
            "--closeness",
            type=whole(1, 100),
            default=10,
            help="stop when the first load not held is within a unit, or this part, of the last one held (%(default)s)",
        )
        parser.add_argument("--secs", type=seconds(1, 120), default=5.0, help="of each step (default: %(default)g)")
        parser.add_argument(
            "--connections",
            type=whole(MEMBERS_OF_SMALL, 100_000),
            help="never more than these, whatever the traffic (default: as many as may be open)",
        )

    def measure(self) -> None:
        for number, name in enumerate(self.options.kinds, 1):
            with Server(CONTESTANTS["hubwire"], self.cores.servers) as server:
                uvloop.run(self._climb(server, KINDS[name], number / len(self.options.kinds)))
            climbed = [step for step in self.steps if step.kind == name]
            if any(step.held for step in climbed):
                self.remarks.append(_verdict(KINDS[name], climbed, self.options.most))
            else:
                self.failures.append(f"{KINDS[name].title}: not even the first step was held.")

    async def _climb(self, server: Server, kind: Kind, share: float) -> None:
        """Step up until a load is not held, then close in on the last that is, as long as there is time."""
        options, crowd = self.options, Crowd(server, kind)

        async def holds(units: int) -> bool:
            if self.time_is_up(share) and any(step.kind == kind.name for step in self.steps):
                raise NoTime
            connections = min(units * UNIT_CONNECTIONS, self._allowed)
            await crowd.resize(connections)
            await at_rest(server)
            await crowd.run(units, min(WARM_UP_SECS, options.secs / 2))
            step = await crowd.run(units, options.secs)
            self.steps.append(step)
            say(
                f"{kind.title}, {units} units: {step.connections:,} connections, {step.expected / options.secs:,.0f}/s,"
                f" p99 {step.p99_secs * 1000:,.0f} ms, {step.in_time:.2%} in time{'' if step.held else ', NOT HELD'}"
            )
            if not step.held:
                # Begin anew: what is still on its way must not be counted in the next step.
                await crowd.resize(0)
            return step.held

        try:
            await search(holds, options.first, options.most, options.closeness)
        except NoTime:
            self.remarks.append(f"{kind.title}: there was no time for further steps.")
        finally:
            await crowd.resize(0)

    def usages(self) -> Iterator[Usage]:
        return (step.usage for step in self.steps)

    def raw(self) -> list[Step]:
        return self.steps

    def tables(self) -> Iterator[Table]:
        if not self.steps:
            return
        table = figures.table(
            "One worker, 2,048-byte messages, each sender one a second",
            "groups",
            right=(
                *("units", "connections", "in per s", "out per s", "p50 ms", "p99 ms", "under a second"),
                *("server's core", "generator's core"),
            ),
        )
        for step in sorted(self.steps, key=lambda step: (step.kind, step.units)):
            table.add_row(
                f"{step.groups:,} × {step.connections // step.groups:,}",
                f"{step.units}" + ("" if step.held else " (not held)"),
                f"{step.connections:,}",
                f"{step.sent / step.secs:,.0f}",
                f"{step.delivered / step.secs:,.0f}",
                f"{step.p50_secs * 1000:,.1f}",
                f"{step.p99_secs * 1000:,.1f}",
                f"{step.in_time:.2%}",
                f"{step.usage.server_share:.0%}",
                f"{step.usage.generator_share:.0%}",
            )
        yield table


async def search(holds: Callable[[int], Awaitable[bool]], first: int, most: int, closeness: int) -> int:
    """Find the largest number that holds, or one close to it; 0 if none does."""
    good, units = 0, min(first, most)
    while await holds(units):
        good = units
        if units == most:
            return good
        units = min(units * 2, most)
    bad = units
    while bad - good > max(1, good // closeness):
        middle = (good + bad) // 2
        if await holds(middle):
            good = middle
        else:
            bad = middle
    return good


def _verdict(kind: Kind, steps: Sequence[Step], most: int) -> str:
    best = max((step for step in steps if step.held), key=lambda step: step.units)
    more = []
    if best.connections < best.units * UNIT_CONNECTIONS:
        more.append(f"on {best.connections:,} connections, since more may not be open")
    if best.units == most:
        more.append("and more was not tried")
    elif best.usage.generator_share > 0.9 or any(not step.held and step.usage.generator_share > 0.9 for step in steps):
        more.append("where the generator had no time left, so the worker may hold more")
    units = f"{best.units} Azure unit" + ("s" if best.units > 1 else "")
    return (
        f"{kind.title}: {best.connections:,} connections and {best.delivered / best.secs:,.0f} deliveries a second "
        f"held, the traffic of {units}" + (f" ({'; '.join(more)})" if more else "") + "."
    )


if __name__ == "__main__":
    sys.exit(command.main(Azure))
