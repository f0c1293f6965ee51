"""A node: one process of the service, its connections, and its place among the others.

The obvious way to fan out with Channels gives every connection a channel of its own and adds it to layer groups. A
message to a group of a thousand then goes through a thousand queues and wakes a thousand consumers, each of
which encodes it again. Here a *process* has one channel, and a hub one layer group, which is an ordered log
(cluster/log.py). A process reads the logs of the hubs that it has connections of; it applies what it reads to its own
connections, and a publication is encoded once per wire format.

    Registry       the connections here, and whom of them an audience means
    Log            what all processes read, in one order
    Leases         which processes live
    Questions      what processes ask each other
    Records        what Redis keeps of connections
    Publishing     publications, out and in
    Ownership      which process has a reliable connection
    Takeovers      what becomes of the connections of dead processes
    Endings        who tells that a connection has ended

Everything here runs on one event loop. A `Node` belongs to the loop it was made on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from channels.layers import get_channel_layer

from hubs.cluster.entries import (
    CONTROL_LOG,
    Adopted,
    Answer,
    Begun,
    Change,
    Claim,
    Done,
    Ended,
    Entry,
    Gap,
    Goodbye,
    Hello,
    Parted,
    Publications,
    Question,
    Skipped,
    Takeover,
    hub_log,
    process_log,
)
from hubs.cluster.leases import HELLO_SECS, Leases
from hubs.cluster.log import UNREACHABLE, Log, applied, log_on
from hubs.cluster.questions import Questions
from hubs.cluster.records import Records
from hubs.errors import NotFound, Refusal, Unavailable
from hubs.layers.positions import first_of, ms_of
from hubs.node.endings import Endings
from hubs.node.ownership import Arrival, Ownership
from hubs.node.publishing import PLACE_BITS, Publishing
from hubs.node.takeovers import Takeovers
from hubs.registry.members import Member
from hubs.registry.registry import Registry
from hubs.rules.audiences import Audience

logger = logging.getLogger(__name__)

PROCESS_HEX_DIGITS = 8
CONNECTION_HEX_DIGITS = 32

# The log's clock is taken from as many hellos: the one that came back fastest tells it best.
CLOCK_HELLOS = 40

# How often this process appends again what has to be in the log.
AGAIN_SECS = 0.5

# What a process does when it is asked. Operations put a row per verb there: it gets the members that are meant
# (exactly one, where a connection was named) and the question's arguments, and gives a value that msgpack can carry.
Answering = Callable[[Sequence[Any], dict[str, Any]], Awaitable[Any]]
ANSWERS: dict[str, Answering] = {}

# What a `Change` does to a connection, by its verb; the last argument is its place in the log.
Changing = Callable[[Any, dict[str, Any], int], None]
CHANGES: dict[str, Changing] = {}


class Node:
    """The connections of one process and its place among the others."""

    def __init__(self, layer: Any, *, hello_secs: float = HELLO_SECS) -> None:
        self._layer = layer
        self._hello_secs = hello_secs
        self.registry = Registry()
        self._starting: asyncio.Task[None] | None = None
        # Milliseconds that the log's clock is ahead of the loop's, as the last hellos told.
        self._ahead: deque[int] = deque(maxlen=CLOCK_HELLOS)
        # Hubs by the names of their logs.
        self._hubs: dict[str, str] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.stopped = False
        # Called with True and False as the line is back or lost.
        self.on_line: list[Callable[[bool], None]] = []
        self.endings = Endings(self)
        self._join()
        # The way of every message: without a call between.
        self.post = self.publishing.post
        self.settle = self.publishing.settle

    def _join(self) -> None:
        """Be a process of the service, under a name that no other has or had."""
        self.process = secrets.token_hex(PROCESS_HEX_DIGITS // 2)
        self.log: Log = log_on(self._layer, self.process, self)
        self.leases = Leases(self.process, self.log, self._expired, self._hello_secs)
        self.questions = Questions(self.process, self.log, self.leases, self._do, self._moved, self.start)
        self.records = Records(self.process, self.log)
        self.ownership = Ownership(self)
        self.takeovers = Takeovers(self)
        self.publishing = Publishing(self)
        self._takers: dict[type, Callable[[str, int, str, Any], None]] = {
            Publications: lambda name, position, origin, entry: self.publishing.take(position, origin, entry),
            Change: self._take_change,
            Claim: self.ownership.take,
            Parted: self._take_parted,
            Begun: self._take_begun,
            Done: self._take_done,
            Skipped: self._take_skipped,
            Ended: self._take_ended,
            Gap: lambda name, position, origin, entry: self._lost(name),
            Hello: self._take_hello,
            Goodbye: lambda name, position, origin, entry: self._take_goodbye(entry),
            Takeover: lambda name, position, origin, entry: self.takeovers.take(origin, entry),
            Adopted: lambda name, position, origin, entry: self.takeovers.take_adopted(entry),
            Question: lambda name, position, origin, entry: self.questions.take_question(position, origin, entry),
            Answer: lambda name, position, origin, entry: self.questions.take_answer(origin, entry),
        }

    @property
    def keeps(self) -> bool:
        """Whether reliable connections can go on in other processes."""
        return self.log.keeps

    # Coming and going

    async def start(self) -> None:
        """Be there for the others, and know them; does nothing when that was done. Raises Unavailable."""
        if self._starting is None or (self._starting.done() and _failed(self._starting)):
            if self.stopped:
                raise Unavailable(UNREACHABLE)
            self._starting = asyncio.create_task(self._start(), name="join the other processes")
        elif self._starting.done():
            return
        try:
            await asyncio.shield(self._starting)
        except asyncio.CancelledError:
            if not self._starting.cancelled():
                raise
            raise Unavailable(UNREACHABLE) from None

    async def _start(self) -> None:
        if self.log.alone:
            return
        await self.log.open([CONTROL_LOG, process_log(self.process)])
        await self.leases.start()
        await self.records.begin()
        self.takeovers.start()

    async def stop(self) -> None:
        """Take leave. Reliable connections that are still here wait for their clients elsewhere."""
        self.stopped = True
        await self.endings.stop()
        await self._leave()
        self.registry.clear()

    async def _leave(self) -> None:
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        started, self._starting = self._starting, None
        await self.takeovers.stop()
        await self.leases.stop()
        for task in list(self._tasks):
            task.cancel()
        await self.questions.stop()
        if started is not None and not started.cancelled() and not self.log.alone and not self.log.is_away:
            with suppress(Refusal, TimeoutError):
                async with asyncio.timeout(1):
                    await applied(self.log.append(CONTROL_LOG, Goodbye(self.process)))
        await self.records.stop()
        await self.log.close()

    def declared_dead(self) -> None:
        """Others have taken this process for dead: part with everything, and begin anew."""
        logger.error(
            "The other processes took this one (%s) for dead: it stood still, or was cut off from Redis, for too long. "
            "Its clients are sent away, and it begins anew",
            self.process,
        )
        for member in list(self.registry.connections.values()):
            member.depart(taken_over=True)
        self._background(self._begin_anew(), "begin anew")

    async def _begin_anew(self) -> None:
        await asyncio.shield(asyncio.create_task(self._change_name()))

    async def _change_name(self) -> None:
        leases, takeovers, questions = self.leases, self.takeovers, self.questions
        records, log, starting = self.records, self.log, self._starting
        self._starting = None
        self._join()
        self.post, self.settle = self.publishing.post, self.publishing.settle
        if starting is not None and not starting.done():
            starting.cancel()
        await takeovers.stop()
        await leases.stop()
        await questions.stop()
        await records.stop()
        await log.close()
        while not self.stopped:
            with suppress(Refusal):
                await self.start()
                return
            await asyncio.sleep(1)

    def _background(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def hub_of(self, name: str) -> str | None:
        """The hub whose log has a name, if it is read here."""
        return self._hubs.get(name)

    def fetch_late(self, arrival: Arrival, of: str | None) -> None:
        """A claim of this process holds that nobody here waits for any more: have the connection all the same."""
        if self.takeovers.heirs is not None:
            self._background(self.takeovers.heirs.have(arrival, of), "fetch a connection late")

    def others(self) -> set[str]:
        """The other processes that live."""
        return self.leases.others

    # Connections

    def new_connection_id(self) -> str:
        """A fresh id: 32 hex digits, of which the first eight name the process that made it."""
        return self.process + secrets.token_hex((CONNECTION_HEX_DIGITS - PROCESS_HEX_DIGITS) // 2)

    async def attach(self, member: Member) -> None:
        """Make a connection reachable, with the groups it has. Raises Unavailable."""
        await self.serve(member.hub)
        self.registry.attach(member)

    async def serve(self, hub: str) -> None:
        """Read a hub's log from now on. Raises Unavailable."""
        await self.start()
        if not self.log.alone:
            self._hubs[hub_log(hub)] = hub
            await self.log.serve(hub_log(hub))

    def detach(self, member: Member) -> bool:
        """Forget a connection, in its groups too; tells whether it was here."""
        was_here = self.registry.detach(member)
        if was_here and not self.registry.serves(member.hub):
            self.log.release(hub_log(member.hub))
        return was_here

    def members(self) -> list[Member]:
        """All connections of this process."""
        return list(self.registry.connections.values())

    def member(self, connection_id: str) -> Member | None:
        """The connection of this process that has this id."""
        return self.registry.connections.get(connection_id)

    def __len__(self) -> int:
        return len(self.registry.connections)

    def __contains__(self, member: Member) -> bool:
        return member in self.registry

    def place(self, hub: str) -> int:
        """The place in a hub's log up to which it has been applied."""
        return (self.log.position(hub_log(hub)) + 1 << PLACE_BITS) - 1 if self.log.keeps else 0

    def clock_ms(self, at: float | None = None) -> int:
        """Milliseconds by the log's clock, which is one for all processes, now or at a time of the loop."""
        time = asyncio.get_running_loop().time() if at is None else at
        return int(time * 1000) + max(self._ahead, default=0)

    def read_until_ms(self) -> int:
        """Until when this process has read what was appended: its own hellos come several times a second."""
        return ms_of(self.log.position(CONTROL_LOG))

    async def append_surely(self, name: str, entry: Entry) -> None:
        """Append an entry to a log, again until it has been applied; what comes twice has to mean nothing."""
        while True:
            try:
                return await applied(self.log.append(name, entry))
            except Refusal:
                await asyncio.sleep(AGAIN_SECS)

    def append(self, hub: str, entry: Entry) -> asyncio.Future[None] | None:
        """Append an entry to a hub's log, behind what was published before."""
        self.publishing.send_off(hub)
        return self.log.append(hub_log(hub), entry)

    # Questions

    async def ask(self, verb: str, hub: str, connection_id: str, arguments: dict[str, Any]) -> Any:
        """Have the process that has a connection do `verb`, and give its answer.

        Raises the Refusal it answered with, NotFound when there is no such connection, Unavailable.
        """
        audience = Audience(hub)
        if self.log.alone or connection_id in self.registry.connections:
            return await self._do(Question(0, verb, audience, connection_id, arguments))
        if not _is_connection_id(connection_id):
            raise _no_connection(connection_id)
        [answer] = await self.questions.ask(verb, audience, arguments, connection_id)
        return answer

    async def ask_everybody(self, verb: str, audience: Audience, arguments: dict[str, Any]) -> list[Any]:
        """Have every process do `verb` for those of its connections that are meant; gives all answers.

        Raises the Refusal one of them answered with; Unavailable when a process that lives does not answer.
        """
        return await self.questions.ask(verb, audience, arguments)

    async def _do(self, question: Question) -> Any:
        audience, arguments = question.audience, question.arguments
        arriving = list(self.ownership.arrivals.get(audience.hub, {}).values())
        if question.connection is not None:
            for arrival in arriving:
                if arrival.id == question.connection and arrival.id not in self.registry.connections:
                    await arrival.settled.wait()
            member = self.registry.connections.get(question.connection)
            if member is None or member.hub != audience.hub:
                raise _no_connection(question.connection)
            return await ANSWERS[question.verb]([member], arguments)
        members = list(self.registry.meant(audience))
        value = await ANSWERS[question.verb](members, arguments)
        if not arriving:
            return value
        # Those that were on their way here when it was asked.
        met = {member.id for member in members}
        for arrival in arriving:
            await arrival.settled.wait()
        ids = {arrival.id for arrival in arriving} - met
        late = [member for member in self.registry.meant(audience) if member.id in ids]
        if late:
            more = await ANSWERS[question.verb](late, arguments)
            # A number, or rows in order.
            value = sorted([*value, *more]) if isinstance(value, list) else value + more
        return value

    def _moved(self, question: Question, position: int) -> bool:
        # Questions and claims are in different logs; what happened in the same millisecond may be after it.
        since = first_of(ms_of(position))
        if question.connection is not None:
            owner = self.ownership.claims.get(question.connection)
            return (
                owner is not None and owner.position >= since and question.connection not in self.registry.connections
            )
        return self.ownership.moved.get(hub_log(question.audience.hub), 0) >= max(since, 1)

    # What is read

    def take(self, name: str, position: int, origin: str, entry: Entry) -> None:
        """Apply an entry."""
        if self.ownership.arrivals:
            self.ownership.hold(self._hubs.get(name, ""), position, origin, entry)
        self._takers[type(entry)](name, position, origin, entry)

    def remember(self, name: str, position: int, origin: str, entry: Entry) -> None:
        """Look at an entry from before this process read that log."""
        if isinstance(entry, Claim):
            known = self.ownership.claims.get(entry.connection)
            if known is None or known.position < position:
                self.ownership.claims.take(position, origin, entry)
        elif isinstance(entry, Hello) and entry.process != self.process:
            self.leases.take_hello(Hello(entry.process, entry.number))
        elif isinstance(entry, Goodbye | Takeover):
            self.leases.bury(entry.process)

    def wanted(self, name: str) -> bool:
        """Whether a log is to be read on."""
        hub = self._hubs.get(name, "")
        if self.registry.serves(hub) or hub in self.ownership.arrivals:
            return True
        self._hubs.pop(name, None)
        return False

    def line(self, up: bool) -> None:
        """The line was lost, or is back."""
        for tell in self.on_line:
            tell(up)

    def gap(self, name: str) -> None:
        """Entries may have been lost: this process says so to all, itself included."""
        if name == CONTROL_LOG or name == process_log(self.process):
            return
        logger.error("Redis has lost a part of the log; reliable clients are told, and begin anew")
        self._lost(name)
        # Whoever goes on with a connection from its snapshot has to read of it, and Redis has only just come back.
        self._background(self.append_surely(name, Gap()), "say that a part of the log is lost")

    def _lost(self, name: str) -> None:
        hub = self._hubs.get(name, "")
        for member in list(self.registry.hubs.get(hub, {}).values()):
            member.lose_messages()
        self.endings.lost(hub)

    def _take_hello(self, name: str, position: int, origin: str, hello: Hello) -> None:
        if hello.process == self.process and position:
            now_ms = int(asyncio.get_running_loop().time() * 1000)
            self._ahead.append(ms_of(position) - now_ms)
        self.leases.take_hello(hello)

    def _take_goodbye(self, goodbye: Goodbye) -> None:
        if goodbye.process != self.process:
            self.leases.bury(goodbye.process)
            self.takeovers.gone(goodbye.process)

    def _expired(self, process: str) -> None:
        self.takeovers.gone(process)

    def _take_change(self, name: str, position: int, origin: str, change: Change) -> None:
        for connection_id in change.connections:
            member = self.registry.connections.get(connection_id)
            if member is None or not self.ownership.claims.is_of(connection_id, origin):
                continue
            with suppress(Refusal):
                CHANGES[change.verb](member, change.arguments, position << PLACE_BITS)
                if change.ack_id is not None:
                    member.published(change.ack_id)

    def _take_parted(self, name: str, position: int, origin: str, parted: Parted) -> None:
        self.ownership.take_parted(parted)
        member = self.registry.connections.get(parted.connection)
        if member is not None:
            member.parted(parted, just_now=True)

    def _take_begun(self, name: str, position: int, origin: str, begun: Begun) -> None:
        member = self.registry.connections.get(begun.connection)
        if member is not None and self.ownership.claims.is_of(begun.connection, origin):
            member.event_begun(begun, origin)

    def _take_skipped(self, name: str, position: int, origin: str, skipped: Skipped) -> None:
        member = self.registry.connections.get(skipped.connection)
        if member is not None and self.ownership.claims.is_of(skipped.connection, origin):
            member.skip([position << PLACE_BITS | which for position, which in skipped.frames])

    def _take_ended(self, name: str, position: int, origin: str, ended: Ended) -> None:
        self.endings.ended_elsewhere(ended.connection)
        member = self.registry.connections.get(ended.connection)
        # Not what a process says that was taken for dead: others have its connections.
        if member is not None and origin != self.process and self.leases.lives(origin):
            member.ended_elsewhere()

    def _take_done(self, name: str, position: int, origin: str, done: Done) -> None:
        member = self.registry.connections.get(done.connection)
        if member is not None:
            member.event_done(done, origin, position << PLACE_BITS)


def _failed(task: asyncio.Task[None]) -> bool:
    return task.cancelled() or task.exception() is not None


def _is_connection_id(text: str) -> bool:
    return len(text) == CONNECTION_HEX_DIGITS and all(character in "0123456789abcdef" for character in text)


def _no_connection(connection_id: str) -> NotFound:
    return NotFound(f"Connection `{connection_id}` is not found.")


_nodes: WeakKeyDictionary[asyncio.AbstractEventLoop, Node] = WeakKeyDictionary()


def node() -> Node:
    """This process's node: one per event loop, made at first use."""
    loop = asyncio.get_running_loop()
    here = _nodes.get(loop)
    if here is None:
        here = _nodes[loop] = Node(get_channel_layer())
    return here
