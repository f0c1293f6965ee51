"""The experiment: many reliable clients whose connections are cut all the time, and nothing may be missing.

An audience of reliable clients is in all groups. Publishers, reliable as well, send them numbered
messages at a steady pace, and so do servers by REST, in all the ways there are (senders.py). Every client
comes through a proxy route of its own, and bad weather cuts each route at random: mostly the connection is
reset and nobody gets through for a while; now and then it goes silent instead, neither side learns of it, and
the client lets go of it by itself after a while, so that the service still believes in the old socket when the
client comes back. Half of the silent ones are so in one direction only: the service hears the client and does
what it asks, and the client, which never learns, asks again. Where there are several workers, the client comes
back to any of them.

When the time is over the weather clears. Once every message has been acknowledged, each publisher
sends a last one; when a member has all the last ones and the answer to a ping behind them,
nothing more can be under way to it. Then the accounts are made: every acknowledged message exactly
once at every member, in each publisher's order.

The weather is drawn from a seed. What comes of it depends on the machine's timing too, so a seed
repeats the cuts, not the run.
"""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.cuts.accounts import Verdict, judge, mark
from tests.cuts.client import Gone, Pace, ReliableClient
from tests.cuts.dialects import DIALECTS
from tests.cuts.senders import AUDIENCE, WAYS, Sender
from tests.proxy import CuttingProxy, Route
from tests.running import Redis, Service
from tests.service.client import Target

CONNECTING_AT_ONCE = 32


@dataclass(frozen=True)
class Plan:
    """One experiment."""

    clients: int = 200
    publishers: int = 20
    # Servers that publish by REST, by turns in all the ways there are.
    senders: int = 6
    seconds: float = 120.0
    # Messages a second of each publisher, to all members.
    rate: float = 2.0
    groups: int = 2
    # Means; each time it is between half and one and a half of it. No cuts at all with a share of 0 seconds.
    cut_every_secs: float = 10.0
    cut_secs: float = 2.0
    # How many cuts are of the silent kind.
    silent_share: float = 0.2
    # Clients take turns in them.
    dialects: tuple[str, ...] = ("json", "protobuf")
    pace: Pace = field(default_factory=Pace)
    # How long it may take, after the end, until everything has arrived.
    settle_secs: float = 60.0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    workers: int
    cuts: int
    silent_cuts: int
    recoveries: int
    elsewhere: int
    replayed: int
    sent: int
    acknowledged: int
    refused: int
    # Of those by REST: sent, and answered with 503, which claims nothing.
    sent_by_rest: int
    refused_by_rest: int
    skipped: int
    verdict: Verdict
    # Why connections were lost for good, one entry for each.
    failures: tuple[str, ...]
    # Members that could not be brought to rest.
    restless: int
    tracebacks: int
    seconds: float

    def violations(self) -> list[str]:
        """Everything that must not be, in words; empty if all is well."""
        counts = (
            (self.verdict.lost, "deliveries lost"),
            (self.verdict.duplicated, "deliveries doubled"),
            (self.verdict.out_of_order, "deliveries out of order"),
            (self.verdict.strange, "deliveries of messages that nobody sent"),
            (self.skipped, "sequence ids skipped"),
            (self.sent - self.acknowledged - self.refused_by_rest, "messages not acknowledged"),
            (self.refused, "messages refused"),
            (self.restless, "members that did not come to rest"),
            (self.tracebacks, "tracebacks in the service's logs"),
        )
        found = [f"{count:,} {what}" for count, what in counts if count]
        for reason in sorted(set(self.failures)):
            found.append(f"{self.failures.count(reason)} failed recoveries: {reason}")
        if not self.verdict.expected:
            found.append("nothing was acknowledged, so nothing was shown")
        return found


@contextmanager
def workers(folder: Path, count: int, server: str = "uvicorn") -> Iterator[list[Service]]:
    """So many processes of one service: one database and, if there are several, one Redis."""
    with ExitStack() as stack:
        env: dict[str, str] = {}
        if count > 1:
            redis = Redis(folder)
            stack.callback(redis.stop)
            env["REDIS_URL"] = redis.start().url
        first = Service(folder, server=server, env=env).set_up()
        # Behind one public address: a token opens any of them.
        rest = [Service(folder, server=server, env=env | {"EXTRA_ENDPOINTS": first.endpoint}) for _ in range(count - 1)]
        for service in (first, *rest):
            stack.callback(service.stop)
            service.start()
        yield [first, *rest]


class Person:
    """A client on a route of its own, and the weather over that route."""

    def __init__(self, name: str, client: ReliableClient, route: Route, ports: Sequence[int], plan: Plan) -> None:
        self.client = client
        self.cuts = 0
        self.silent_cuts = 0
        self.elsewhere = 0
        self._route = route
        self._ports = ports
        self._plan = plan
        # Its own, so that the weather of one does not depend on when another's was drawn.
        self._random = random.Random(f"{plan.seed} {name}")
        # Which worker the route leads to, and which one has the connection.
        self._port = self._home = self._random.choice(ports)
        route.to(self._port)
        self._frozen: list[int] = []
        client.on_recovered = self._recovered

    def _recovered(self) -> None:
        self.elsewhere += self._port != self._home
        self._home = self._port

    async def endure(self, over: asyncio.Event) -> None:
        """Bad weather until it is over."""
        while await _lasts(over, self._about(self._plan.cut_every_secs)):
            secs = self._about(self._plan.cut_secs)
            silent = self._random.random() < self._plan.silent_share
            one_way = self._random.random() < 0.5
            self._port = self._random.choice(self._ports)
            # In a thread, since the proxy's answer takes its time and many are cut at once.
            if silent:
                hit = await asyncio.to_thread(self._silence, self._port, one_way)
            else:
                hit = await asyncio.to_thread(self._cut, self._port, secs)
            if hit and silent:
                self.silent_cuts += 1
                await _lasts(over, secs)
                self.client.abandon()
            elif hit:
                self.cuts += 1
                await _lasts(over, secs)
        await asyncio.to_thread(self._route.accept)

    def _about(self, mean: float) -> float:
        return mean * self._random.uniform(0.5, 1.5)

    def _bury(self) -> None:
        """Reset what was frozen the last time; by now the service knows that the client is elsewhere."""
        for number in self._frozen:
            self._route.abort(number)
        self._frozen = []

    def _cut(self, port: int, secs: float) -> int:
        self._bury()
        self._route.to(port)
        return self._route.cut(secs)

    def _silence(self, port: int, one_way: bool) -> int:
        self._bury()
        self._route.to(port)
        self._frozen = self._route.connections
        return self._route.freeze(one_way=one_way)


async def _lasts(over: asyncio.Event, secs: float) -> bool:
    """Wait for so long, or until it is over; gives whether it is not."""
    try:
        async with asyncio.timeout(secs):
            await over.wait()
    except TimeoutError:
        return True
    return False


class Member:
    """One of the audience, and what it heard."""

    def __init__(self, person: Person, publishers: int) -> None:
        self.person = person
        self.transcript = array("Q")
        self._highest = [0] * publishers
        self._last: list[int] | None = None
        self._complete = asyncio.Event()
        person.client.on_text = self._hear

    def _hear(self, text: str) -> None:
        publisher, number = map(int, text.split())
        self.transcript.append(mark(publisher, number))
        if publisher < len(self._highest):
            self._highest[publisher] = max(self._highest[publisher], number)
            if self._last is not None:
                self._check()

    def _check(self) -> None:
        assert self._last is not None
        if all(highest >= last for highest, last in zip(self._highest, self._last, strict=True)):
            self._complete.set()

    async def rest(self, last: list[int]) -> None:
        """Wait until the last message of each publisher is here, and nothing is behind it."""
        self._last = last
        self._check()
        await self._complete.wait()
        await self.person.client.barrier()


class Publisher:
    """One that sends numbered messages, and which of them the service has taken."""

    def __init__(self, person: Person, index: int, plan: Plan) -> None:
        self.person = person
        self.sent = 0
        self.acknowledged: set[int] = set()
        self.refused = 0
        self._index = index
        self._plan = plan
        self._answers: list[asyncio.Future[str | None]] = []

    async def publish(self) -> None:
        """Send at the plan's pace for as long as the plan says."""
        loop = asyncio.get_running_loop()
        # Publishers side by side, not all at the same moment.
        began = loop.time() + self._index / self._plan.publishers / self._plan.rate
        for number in range(max(1, round(self._plan.seconds * self._plan.rate))):
            await asyncio.sleep(began + number / self._plan.rate - loop.time())
            self.send()

    def send(self) -> None:
        """Send the next message."""
        self.sent += 1
        number = self.sent
        group = f"group-{number % self._plan.groups}"
        answer = self.person.client.publish(group, f"{self._index} {number}")
        answer.add_done_callback(lambda done: self._answered(number, done))
        self._answers.append(answer)

    def _answered(self, number: int, answer: asyncio.Future[str | None]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return
        if answer.result() is None:
            self.acknowledged.add(number)
        else:
            self.refused += 1

    async def settled(self) -> None:
        """Wait until each message has an answer, or the connection is lost for good."""
        if self._answers:
            await asyncio.wait(self._answers)


async def experiment(services: Sequence[Service], plan: Plan) -> Outcome:
    """Run a plan against the workers of one service."""
    with CuttingProxy(services[0].port) as proxy:
        return await Experiment(services, plan, proxy).run()


class Experiment:
    """One run of a plan."""

    def __init__(self, services: Sequence[Service], plan: Plan, proxy: CuttingProxy) -> None:
        self._services, self._plan = services, plan
        target = Target(services[0].connection_string)
        ports = [service.port for service in services]

        def person(name: str, index: int) -> Person:
            dialect = DIALECTS[plan.dialects[index % len(plan.dialects)]]
            route = proxy.route(name)
            return Person(
                name,
                ReliableClient(
                    target.url(user=AUDIENCE if name.startswith("member") else name), route.port, dialect, plan.pace
                ),
                route,
                ports,
                plan,
            )

        streams = plan.publishers + plan.senders
        self._members = [Member(person(f"member-{index}", index), streams) for index in range(plan.clients)]
        self._publishers = [
            Publisher(person(f"publisher-{index}", index), index, plan) for index in range(plan.publishers)
        ]
        self._senders = [
            Sender(plan.publishers + index, WAYS[index % len(WAYS)], services, self._connections, plan.seed)
            for index in range(plan.senders)
        ]
        self._people = [one.person for one in (*self._members, *self._publishers)]
        self._streams: list[Publisher | Sender] = [*self._publishers, *self._senders]
        self._restless = 0

    def _connections(self) -> list[str]:
        return [member.person.client.connection_id for member in self._members]

    async def run(self) -> Outcome:
        """Connect, send in bad weather, wait until all is quiet, and make the accounts."""
        started = time.monotonic()
        try:
            await self._gather()
            await self._storm()
            await self._quiet()
        finally:
            room = asyncio.Semaphore(CONNECTING_AT_ONCE)

            async def leave(person: Person) -> None:
                async with room:
                    await person.client.stop()

            failures = tuple(person.client.failure for person in self._people if person.client.failure is not None)
            await asyncio.gather(*(leave(person) for person in self._people))
        return self._outcome(failures, time.monotonic() - started)

    async def _gather(self) -> None:
        room = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def arrive(person: Person, groups: int) -> None:
            async with room:
                await person.client.start()
                for group in range(groups):
                    error = await person.client.join(f"group-{group}")
                    if error is not None:
                        raise Gone(f"joining was answered with {error}")

        async with asyncio.timeout(self._plan.settle_secs), asyncio.TaskGroup() as arriving:
            for member in self._members:
                arriving.create_task(arrive(member.person, self._plan.groups))
            for publisher in self._publishers:
                arriving.create_task(arrive(publisher.person, 0))

    async def _storm(self) -> None:
        over = asyncio.Event()
        async with asyncio.TaskGroup() as storm:
            if self._plan.cut_secs:
                for person in self._people:
                    storm.create_task(person.endure(over))
            try:
                await asyncio.gather(
                    *(publisher.publish() for publisher in self._publishers),
                    *(sender.publish(self._plan.seconds, self._plan.rate) for sender in self._senders),
                )
            finally:
                over.set()

    async def _quiet(self) -> None:
        """Let everything arrive; what does not in time is missing in the accounts."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._plan.settle_secs):
                for publisher in self._publishers:
                    await publisher.settled()
                for publisher in self._publishers:
                    publisher.send()
                for publisher in self._publishers:
                    await publisher.settled()
                for sender in self._senders:
                    await sender.last()
        last = [max(stream.acknowledged, default=0) for stream in self._streams]

        async def rest(member: Member) -> None:
            try:
                async with asyncio.timeout(self._plan.settle_secs):
                    await member.rest(last)
            except (TimeoutError, Gone):
                self._restless += 1

        await asyncio.gather(*(rest(member) for member in self._members))

    def _outcome(self, failures: tuple[str, ...], seconds: float) -> Outcome:
        clients = [person.client for person in self._people]
        verdict = judge(
            [stream.sent for stream in self._streams],
            [stream.acknowledged for stream in self._streams],
            (member.transcript for member in self._members),
            {sender.index for sender in self._senders if not sender.ordered},
        )
        return Outcome(
            workers=len(self._services),
            cuts=sum(person.cuts for person in self._people),
            silent_cuts=sum(person.silent_cuts for person in self._people),
            recoveries=sum(client.recoveries for client in clients),
            elsewhere=sum(person.elsewhere for person in self._people),
            replayed=sum(client.replayed for client in clients),
            sent=sum(stream.sent for stream in self._streams),
            acknowledged=sum(len(stream.acknowledged) for stream in self._streams),
            refused=sum(publisher.refused for publisher in self._publishers),
            sent_by_rest=sum(sender.sent for sender in self._senders),
            refused_by_rest=sum(sender.refused for sender in self._senders),
            skipped=sum(client.skipped for client in clients),
            verdict=verdict,
            failures=failures,
            restless=self._restless,
            tracebacks=sum(service.log.read_text().count("Traceback") for service in self._services),
            seconds=seconds,
        )
