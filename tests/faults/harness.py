"""The experiment: many reliable clients, a service in which something fails, and nothing may be missing.

An audience of reliable clients is in all groups, and a few plain ones are beside them. Publishers, reliable as well,
send them numbered messages at a steady pace, and so do servers by REST, in all the ways there are (senders.py).
Meanwhile something fails: connections of clients (cuts.py), processes, or Redis (lanes.py). Who loses its
connection for good begins a new one, as the official clients do.

When the time is over nothing fails any more. Once every message has been acknowledged, each publisher
sends a last one; when a member has all the last ones and the answer to a ping behind them, nothing more can be
under way to it. Then everybody leaves, and the accounts are made: every acknowledged message exactly once at every
member, in each publisher's order, and for each connection that ended one `disconnected` at the event handler.

What fails is drawn from a seed. What comes of it depends on the machine's timing too, so a seed repeats the faults, not
the run.
"""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from tests.faults.accounts import MAX_EXAMPLES, Published, Session, Verdict, judge, mark
from tests.faults.client import Gone, Pace, ReliableClient
from tests.faults.dialects import DIALECTS, PLAIN
from tests.faults.disconnects import Disconnects
from tests.faults.senders import AUDIENCE, WAYS, Sender
from tests.running import Service
from tests.service.client import Target

CONNECTING_AT_ONCE = 32

# What no log of the service may say. The last two: something that a process, perhaps of another version, wrote cannot
# be read.
COMPLAINTS = ("Traceback", "Passed over an entry of the log", "The record of connection")


@dataclass(frozen=True)
class Plan:
    """One experiment."""

    clients: int = 200
    # Members without recovery.
    plain: int = 0
    publishers: int = 20
    # Servers that publish by REST, by turns in all the ways there are.
    senders: int = 6
    ways: tuple[str, ...] = WAYS
    # Messages a second of each publisher, to all members.
    rate: float = 2.0
    groups: int = 2
    # Characters that each message has besides its number.
    padding: int = 0
    # Clients take turns in them.
    dialects: tuple[str, ...] = ("json", "protobuf")
    pace: Pace = field(default_factory=Pace)
    # How long it may take, after the end, until everything has arrived.
    settle_secs: float = 60.0
    seed: int = 0


@dataclass(frozen=True)
class Promise:
    """What a kind of failure may cost; nothing, where it does not say so."""

    # A publication or a request may be refused for a while.
    refusals: bool = True
    # Reliable connections may be lost, if their clients are told.
    sessions: bool = False


@dataclass(frozen=True)
class Ended:
    """Connections that ended, and for how many of them `disconnected` was told once, more than once, not at all."""

    ended: int = 0
    once: int = 0
    repeated: int = 0
    missing: int = 0
    # Told of connections that no client knows: its socket was lost before it had heard of it.
    unknown: int = 0
    # Those of which it was not told once.
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    recovered_after: tuple[float, ...]
    elsewhere: int
    replayed: int
    sent: int
    acknowledged: int
    # Acks that refused, after which the message was sent again or given up.
    refused: int
    # By REST: sent, answered with 503 or not at all, which claims nothing; and with what nobody expects.
    sent_by_rest: int
    refused_by_rest: int
    answers: Counter[str]
    skipped: int
    verdict: Verdict
    plain: Verdict
    disconnected: Ended | None
    # Why reliable connections were lost for good, one entry for each; and how many there were.
    failures: tuple[str, ...]
    connections: int
    # Members that could not be brought to rest.
    restless: int
    # Lines of the service's logs that must not be there.
    complaints: int
    seconds: float

    def violations(self, promise: Promise) -> list[str]:
        """Everything that must not be, in words; empty if all is well."""
        counts: list[tuple[int, str]] = [
            (self.skipped, "sequence ids skipped"),
            (self.restless, "members that did not come to rest"),
            (self.complaints, "tracebacks, and records that could not be read, in the service's logs"),
        ]
        for verdict, whose in ((self.verdict, ""), (self.plain, " of plain clients")):
            counts += [
                (verdict.lost, f"deliveries{whose} lost silently"),
                (verdict.duplicated, f"deliveries{whose} doubled"),
                (verdict.out_of_order, f"deliveries{whose} out of order"),
                (verdict.strange, f"deliveries{whose} of messages that nobody sent"),
            ]
        if not promise.sessions:
            counts.append((self.verdict.told, "deliveries lost, which clients were told"))
        if not promise.refusals:
            counts += [
                (self.sent - self.acknowledged - self.refused_by_rest, "messages not acknowledged"),
                (self.refused, "messages refused"),
            ]
        if self.disconnected is not None:
            counts += [
                (self.disconnected.missing, "connections that ended, of which `disconnected` was never told"),
                (self.disconnected.repeated, "connections that ended, of which `disconnected` was told again"),
            ]
        found = [f"{count:,} {what}" for count, what in counts if count]
        found += [f"lost silently: {example}" for verdict in (self.verdict, self.plain) for example in verdict.examples]
        if self.disconnected is not None and self.disconnected.wrong:
            found.append(f"`disconnected` not told once: {', '.join(self.disconnected.wrong[:MAX_EXAMPLES])}")
        found += [f"{count} answers to REST: {what}" for what, count in self.answers.items()]
        if not promise.sessions:
            found += [f"{count} connections lost: {reason}" for reason, count in Counter(self.failures).items()]
        if not self.verdict.expected:
            found.append("nothing was acknowledged, so nothing was shown")
        return found


class Way(Protocol):
    """How one client's sockets get to the service."""

    # Which process the last one was led to.
    leads_to: int

    def port(self) -> int:
        """Where the next one goes."""
        ...


class Doors:
    """The processes of a service side by side. They take turns, as behind a load balancer, in an order that varies."""

    def __init__(self, ports: Sequence[int], choice: random.Random) -> None:
        self._ports, self._choice = ports, choice
        self._next: list[int] = []
        self.leads_to = ports[0]

    def port(self) -> int:
        if not self._next:
            self._next = self._choice.sample(self._ports, len(self._ports))
        self.leads_to = self._next.pop()
        return self.leads_to


class Person:
    """A client and those that it begins after it has lost a connection for good."""

    def __init__(
        self, name: str, reliable: bool, connect: Callable[[], ReliableClient], groups: Sequence[str], way: Way
    ) -> None:
        self.name, self.reliable, self.way = name, reliable, way
        self.clients: list[ReliableClient] = []
        self.failures: list[str] = []
        self.elsewhere = 0
        self.on_text: Callable[[str], None] = lambda text: None
        self.on_joined: Callable[[], None] = lambda: None
        self.on_lost: Callable[[], None] = lambda: None
        # Set while there is a connection that is in all groups.
        self.ready = asyncio.Event()
        self._connect, self._groups = connect, groups
        self._home = 0
        self._life: asyncio.Task[None] | None = None

    @property
    def client(self) -> ReliableClient:
        """The connection that it has, or had last."""
        return self.clients[-1]

    async def start(self) -> None:
        """Connect and join the groups. Whatever happens to that connection, there will be another."""
        client = await self._begin()
        self._life = asyncio.create_task(self._live(client))

    async def stop(self) -> None:
        """Leave for good."""
        if self._life is not None:
            self._life.cancel()
        if self.clients:
            await self.client.stop()

    def abandon(self) -> None:
        """Let go of the socket, and recover."""
        self.client.abandon()

    async def _live(self, client: ReliableClient) -> None:
        while True:
            await client.lost.wait()
            self.ready.clear()
            if self.reliable:
                self.failures.append(client.failure or "")
            self.on_lost()
            while True:
                try:
                    client = await self._begin()
                    break
                except (OSError, Gone):
                    await asyncio.sleep(client.pace.retry_secs)

    async def _begin(self) -> ReliableClient:
        client = self._connect()
        client.on_text = self.on_text
        client.on_recovered = self._recovered
        await client.start()
        self._home = self.way.leads_to
        self.clients.append(client)
        for group in self._groups:
            try:
                error = await client.join(group)
            except Gone as gone:
                if self.reliable:
                    self.failures.append(str(gone))
                raise
            if error is not None:
                await client.stop()
                raise Gone(f"joining was answered with {error}")
        self.on_joined()
        self.ready.set()
        return client

    def _recovered(self) -> None:
        self.elsewhere += self.way.leads_to != self._home
        self._home = self.way.leads_to


class Member:
    """One of the audience, and what it heard."""

    def __init__(self, person: Person, publishers: int) -> None:
        self.person = person
        self.sessions: list[Session] = []
        self._transcript = array("Q")
        self._highest = [0] * publishers
        self._last: list[int] | None = None
        self._complete = asyncio.Event()
        person.on_text = self._hear
        person.on_joined = self._joined
        person.on_lost = self._told

    def _joined(self) -> None:
        # What came while it was joining is in it, too.
        name = self.person.client.connection_id
        self.sessions.append(Session(time.monotonic(), self._transcript, name=name))

    def _told(self) -> None:
        # If it has joined.
        if self.sessions and self.sessions[-1].transcript is self._transcript:
            self.sessions[-1] = replace(self.sessions[-1], told_at=time.monotonic())
            self._transcript = array("Q")

    def _hear(self, text: str) -> None:
        publisher, number = map(int, text.split(" ", 2)[:2])
        self._transcript.append(mark(publisher, number))
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
        self.sent_at: list[float] = []
        self.acknowledged: set[int] = set()
        self.refused = 0
        # Those that were refused first, and are behind later ones if they are taken.
        self.unordered: set[int] = set()
        self._index = index
        self._plan = plan
        self._answers: set[asyncio.Future[str | None]] = set()

    @property
    def sent(self) -> int:
        return len(self.sent_at)

    async def publish(self, over: asyncio.Event) -> None:
        """Send at the plan's pace until it is over; without a connection, wait for one."""
        loop = asyncio.get_running_loop()
        # Publishers side by side, not all at the same moment.
        due = loop.time() + self._index / self._plan.publishers / self._plan.rate
        while await lasts(over, due - loop.time()):
            await self.person.ready.wait()
            self.send()
            # Not in a burst what was not sent for a while.
            due = max(due + 1 / self._plan.rate, loop.time() - 1)

    def send(self) -> None:
        """Send the next message."""
        self.sent_at.append(time.monotonic())
        number = self.sent
        group = f"group-{number % self._plan.groups}"
        text = f"{self._index} {number} {'x' * self._plan.padding}"
        answer = self.person.client.publish(group, text, partial(self._refused, number))
        self._answers.add(answer)
        answer.add_done_callback(partial(self._answered, number))

    def _refused(self, number: int) -> None:
        self.refused += 1
        self.unordered.add(number)

    def _answered(self, number: int, answer: asyncio.Future[str | None]) -> None:
        self._answers.discard(answer)
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

    async def last(self) -> None:
        """Send until a message that is behind all others is taken."""
        await self.settled()
        while True:
            await self.person.ready.wait()
            self.send()
            await self.settled()
            if self.sent in self.acknowledged:
                return


async def lasts(over: asyncio.Event, secs: float) -> bool:
    """Wait for so long, or until it is over; gives whether it is not."""
    try:
        async with asyncio.timeout(max(secs, 0)):
            await over.wait()
    except TimeoutError:
        return not over.is_set()
    return False


class Experiment:
    """One run of a plan against the processes of one service.

    `inject` is what fails: it returns when it is over, with everything in order again. `way` gives how a client of that
    name gets to the service.
    """

    def __init__(
        self,
        services: Sequence[Service],
        plan: Plan,
        inject: Callable[[Experiment], Awaitable[None]],
        way: Callable[[str], Way] | None = None,
        disconnects: Disconnects | None = None,
    ) -> None:
        self._services, self.plan, self._inject, self._disconnects = services, plan, inject, disconnects
        target = Target(services[0].connection_string)
        ports = [service.port for service in services]

        def doors(name: str) -> Way:
            return Doors(ports, random.Random(f"{plan.seed} {name}"))

        def person(name: str, index: int, reliable: bool, groups: Sequence[str]) -> Person:
            dialect = (DIALECTS if reliable else PLAIN)[plan.dialects[index % len(plan.dialects)]]
            url = target.url(user=name if name.startswith("publisher") else AUDIENCE)
            leading = (way or doors)(name)
            return Person(
                name, reliable, lambda: ReliableClient(url, leading.port, dialect, plan.pace), groups, leading
            )

        streams = plan.publishers + plan.senders
        groups = [f"group-{group}" for group in range(plan.groups)]
        self.members = [
            Member(person(f"member-{index}", index, True, groups), streams) for index in range(plan.clients)
        ]
        self.plain = [Member(person(f"plain-{index}", index, False, groups), streams) for index in range(plan.plain)]
        self.publishers = [
            Publisher(person(f"publisher-{index}", index, True, ()), index, plan) for index in range(plan.publishers)
        ]
        self.senders = [
            Sender(
                plan.publishers + index,
                plan.ways[index % len(plan.ways)],
                services,
                self._connections,
                plan.seed,
                plan.padding,
            )
            for index in range(plan.senders)
        ]
        self.people: list[Person] = [one.person for one in (*self.members, *self.plain)]
        self.people += [publisher.person for publisher in self.publishers]
        self._streams: list[Publisher | Sender] = [*self.publishers, *self.senders]
        self._restless = 0
        self._complaints = -self._count_complaints()

    def _count_complaints(self) -> int:
        logs = [service.log.read_text() for service in self._services]
        return sum(log.count(words) for log in logs for words in COMPLAINTS)

    def _connections(self) -> list[str]:
        return [member.person.client.connection_id for member in self.members]

    async def run(self) -> Outcome:
        """Connect, send while things fail, wait until all is quiet, and make the accounts."""
        started = time.monotonic()
        try:
            await self._gather()
            await self._storm()
            await self._quiet()
        finally:
            failures = tuple(failure for person in self.people for failure in person.failures)
            await self._each(self.people, lambda person: person.stop())
        ended = await self._ended()
        return self._outcome(failures, ended, time.monotonic() - started)

    @staticmethod
    async def _each(people: Iterable[Person], do: Callable[[Person], Awaitable[None]]) -> None:
        room = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def one(person: Person) -> None:
            async with room:
                await do(person)

        async with asyncio.TaskGroup() as tasks:
            for person in people:
                tasks.create_task(one(person))

    async def _gather(self) -> None:
        async with asyncio.timeout(self.plan.settle_secs):
            await self._each(self.people, lambda person: person.start())

    async def _storm(self) -> None:
        over = asyncio.Event()
        async with asyncio.TaskGroup() as storm:
            for publisher in self.publishers:
                storm.create_task(publisher.publish(over))
            for sender in self.senders:
                storm.create_task(sender.publish(self.plan.rate, over))
            try:
                await self._inject(self)
            finally:
                over.set()

    async def _quiet(self) -> None:
        """Let everything arrive; what does not in time is missing in the accounts."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.plan.settle_secs):
                # Who begins anew has to be there for the last messages.
                await asyncio.gather(*(person.ready.wait() for person in self.people))
                # Publishers before senders: a connection that moves lets REST overtake what its client has sent again.
                await asyncio.gather(*(publisher.last() for publisher in self.publishers))
                await asyncio.gather(*(sender.last() for sender in self.senders))
        last = [max(stream.acknowledged, default=0) for stream in self._streams]

        async def rest(member: Member) -> None:
            try:
                async with asyncio.timeout(self.plan.settle_secs):
                    await member.rest(last)
            except (TimeoutError, Gone):
                self._restless += 1

        await asyncio.gather(*(rest(member) for member in (*self.members, *self.plain)))

    async def _ended(self) -> Ended | None:
        if self._disconnects is None:
            return None
        ended = {client.connection_id for person in self.people for client in person.clients}
        await self._disconnects.of_all(ended, self.plan.settle_secs)
        told = self._disconnects.told
        return Ended(
            ended=len(ended),
            once=sum(told[connection] == 1 for connection in ended),
            repeated=sum(told[connection] > 1 for connection in ended),
            missing=sum(not told[connection] for connection in ended),
            unknown=sum(count for connection, count in told.items() if connection not in ended),
            wrong=tuple(connection for connection in ended if told[connection] != 1),
        )

    def _outcome(self, failures: tuple[str, ...], ended: Ended | None, seconds: float) -> Outcome:
        clients = [client for person in self.people for client in person.clients]
        streams = [Published(stream.sent_at, stream.acknowledged, stream.unordered) for stream in self._streams]
        answers: Counter[str] = Counter()
        for sender in self.senders:
            answers += sender.answers
        return Outcome(
            recovered_after=tuple(secs for client in clients for secs in client.recovered_after),
            elsewhere=sum(person.elsewhere for person in self.people),
            replayed=sum(client.replayed for client in clients),
            sent=sum(stream.sent for stream in self._streams),
            acknowledged=sum(len(stream.acknowledged) for stream in self._streams),
            refused=sum(publisher.refused for publisher in self.publishers),
            sent_by_rest=sum(sender.sent for sender in self.senders),
            refused_by_rest=sum(sender.refused for sender in self.senders),
            answers=answers,
            skipped=sum(client.skipped for client in clients),
            verdict=judge(streams, (member.sessions for member in self.members)),
            plain=judge(streams, (member.sessions for member in self.plain)),
            disconnected=ended,
            failures=failures,
            connections=sum(len(person.clients) for person in self.people if person.reliable),
            restless=self._restless,
            complaints=self._complaints + self._count_complaints(),
            seconds=seconds,
        )
