"""The switchboard: this process's connections, and its one line to the other processes.

The obvious way to fan out with Channels gives every connection a channel of its own and adds it to
layer groups. A message to a group of a thousand then goes through a thousand queues and wakes a
thousand consumers, each of which encodes it again. Here a *process* has one channel. It joins the
layer group of an address when its first local member comes and leaves it a little after the last
one went. A publication is delivered to local members directly, encoded once per wire format, and
`group_send` carries it once to each other process that has members; that process's switchboard
fans out there. The layer may be any Channels layer. What a process sent itself comes back through
the layer as well and is dropped by its origin.

Addresses are groups and hubs. Users have none of their own: what is meant for a user goes to the
processes that serve the hub, and each looks the user up. A subscription per user would cost every
connect a round trip, for operations that are rare beside connects.

Questions have two forms. One about a single connection goes to its home, the process whose name
its id begins with. One about an audience goes to everybody, and is answered when all processes
known to live (peers.py) have answered; if one that lives does not, the answer is that it is not
known, never a wrong one. Such a question comes back to its asker too. All that was said before it
was heard before it then, the first hello of a newcomer included; and the line is known to work.

Order: a publication reaches local members before `publish` returns, so an echo precedes the ack
that follows; to other processes it goes in the order in which this process published.

Everything here runs on one event loop. A `Switchboard` belongs to the loop it was made on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import msgspec
from channels.layers import InMemoryChannelLayer, get_channel_layer

from hubs import conf
from hubs.errors import NotFound, Refusal, TooMany, Unavailable
from hubs.messaging.envelope import (
    EVERYBODY,
    Answer,
    Audience,
    Envelope,
    Goodbye,
    Hello,
    Publication,
    Question,
    decode,
    encode,
    group_address,
    hub_address,
    process_address,
)
from hubs.messaging.lines import Lines
from hubs.messaging.peers import HELLO_SECS, Peers
from hubs.protocols.codec import Outgoing
from hubs.rules.filters import compile_filter

logger = logging.getLogger(__name__)

MESSAGE_TYPE = "hubwire.envelope"
PROCESS_HEX_DIGITS = 8
CONNECTION_HEX_DIGITS = 32

MAX_OPEN_QUESTIONS = 10_000

UNREACHABLE = "The other servers of this service cannot be reached."


class Member(Protocol):
    """What the switchboard needs of a connection."""

    id: str
    hub: str
    user_id: str | None
    subprotocol: str | None

    @property
    def groups(self) -> Collection[str]:
        """The groups it is a member of."""

    def deliver(self, outgoing: Outgoing) -> None:
        """Take a frame for the client; never waits."""


# What a process does when it is asked: a row per verb, put there by the operations. A row gets the
# members that are meant (exactly one, where a connection was named) and the question's arguments,
# and gives a value that msgpack can carry.
Answering = Callable[[Sequence[Any], dict[str, Any]], Awaitable[Any]]
ANSWERS: dict[str, Answering] = {}

# Refusals that may cross between processes, by the name they travel under.
_PROBLEMS: dict[str, type[Refusal]] = {kind.__name__: kind for kind in (NotFound, TooMany, Unavailable)}


class Switchboard:
    """The connections of one process and its line to the others."""

    def __init__(self, layer: Any, *, alone: bool, hello_secs: float = HELLO_SECS) -> None:
        self._layer = layer
        # Alone: the layer reaches no other process, so there is nobody to pass anything on to.
        self._alone = alone
        self.process = secrets.token_hex(PROCESS_HEX_DIGITS // 2)
        self._connections: dict[str, Member] = {}
        self._hubs: dict[str, dict[str, Member]] = {}
        self._users: dict[tuple[str, str], dict[str, Member]] = {}
        self._groups: dict[tuple[str, str], dict[str, Member]] = {}
        self._lines = Lines(layer)
        self._peers = Peers(self.process, hello_secs)
        # Set and made anew with every hello that is heard, for those who wait to know everybody.
        self._heard_hello = asyncio.Event()
        self._questions: dict[int, _Open] = {}
        self._asked = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: list[asyncio.Task[None]] = []
        self._starting = asyncio.Lock()

    # Connections and groups

    def new_connection_id(self) -> str:
        """A fresh id: 32 hex digits, of which the first eight name the process that is its home."""
        return self.process + secrets.token_hex((CONNECTION_HEX_DIGITS - PROCESS_HEX_DIGITS) // 2)

    async def attach(self, member: Member) -> None:
        """Make a connection reachable."""
        await self.start()
        self._connections[member.id] = member
        self._hubs.setdefault(member.hub, {})[member.id] = member
        if member.user_id is not None:
            self._users.setdefault((member.hub, member.user_id), {})[member.id] = member
        try:
            await self._lines.want(hub_address(member.hub))
        except BaseException:
            self.detach(member)
            raise

    def detach(self, member: Member) -> None:
        """Forget a connection. Its groups are left by `leave`."""
        if self._connections.pop(member.id, None) is None:
            return
        if _drop(self._hubs, member.hub, member):
            self._lines.release(hub_address(member.hub))
        if member.user_id is not None:
            _drop(self._users, (member.hub, member.user_id), member)

    def __len__(self) -> int:
        return len(self._connections)

    def __contains__(self, member: Member) -> bool:
        return member.id in self._connections

    async def join(self, member: Member, group: str) -> None:
        """Add a connection to a group; when this returns, publications of every process reach it."""
        members = self._groups.setdefault((member.hub, group), {})
        members[member.id] = member
        try:
            await self._lines.want(group_address(member.hub, group))
        except BaseException:
            self.leave(member, group)
            raise

    def leave(self, member: Member, group: str) -> None:
        """Take a connection out of a group; at once for local publications."""
        if _drop(self._groups, (member.hub, group), member):
            self._lines.release(group_address(member.hub, group))

    def _meant(self, audience: Audience) -> Iterable[Member]:
        """The connections of this process that an audience means."""
        members: Iterable[Member]
        if audience.group is not None:
            members = self._groups.get((audience.hub, audience.group), {}).values()
            if audience.user_id is not None:
                members = [member for member in members if member.user_id == audience.user_id]
        elif audience.user_id is not None:
            members = self._users.get((audience.hub, audience.user_id), {}).values()
        else:
            members = self._hubs.get(audience.hub, {}).values()
        excluded = frozenset(audience.excluded)
        if excluded:
            members = [member for member in members if member.id not in excluded]
        if audience.filter is not None:
            holds = compile_filter(audience.filter)
            members = [member for member in members if holds(member)]
        return members

    # Publications

    async def publish(self, publication: Publication, *, all_or_nobody: bool = False) -> None:
        """Deliver to everybody who is meant, here and in every other process.

        Raises Unavailable when the other processes could not be reached. Members here have it then,
        unless `all_or_nobody` was asked for: then nobody has, and it may be published again.
        """
        if publication.connection is not None:
            home = publication.connection[:PROCESS_HEX_DIGITS]
            if home == self.process or not self._may_be_elsewhere(publication.connection):
                self._deliver(publication)
            else:
                await self._send(process_address(home), encode(publication))
            return
        # Usually here first: local members do not wait for the way to the others, and an echo is out
        # before its publisher's ack.
        if not all_or_nobody:
            self._deliver(publication)
        if not self._alone:
            hub, group = publication.audience.hub, publication.audience.group
            await self._send(hub_address(hub) if group is None else group_address(hub, group), encode(publication))
        if all_or_nobody:
            self._deliver(publication)

    def _deliver(self, publication: Publication) -> None:
        members: Iterable[Member]
        if publication.connection is not None:
            member = self._connections.get(publication.connection)
            members = [member] if member is not None and member.hub == publication.audience.hub else []
        else:
            members = self._meant(publication.audience)
        if not members:
            return
        outgoing = Outgoing(publication.frame)
        # `deliver` never changes membership: who overflows is closed, and leaves, in its own time.
        for member in members:
            member.deliver(outgoing)

    # Questions

    async def ask(self, verb: str, hub: str, connection_id: str, arguments: dict[str, Any]) -> Any:
        """Have the home of a connection do `verb`, wherever that is, and give its answer.

        Raises the Refusal the home answered with; NotFound when there is no such connection;
        Unavailable when its home lives and does not answer.
        """
        home = connection_id[:PROCESS_HEX_DIGITS]
        audience = Audience(hub)
        if home == self.process:
            return await self._do(verb, audience, connection_id, arguments)
        if not self._may_be_elsewhere(connection_id):
            raise _no_connection(connection_id)
        if home in await self._others():
            address, asked = process_address(home), {home}
        else:
            # Dead, most likely; but perhaps so new that its hello is still to be heard.
            address, asked = EVERYBODY, set()
        answers = await self._put(address, asked, verb, audience, connection_id, arguments)
        if not answers:
            # It is dead, and its connections with it.
            raise _no_connection(connection_id)
        return answers[0]

    async def ask_everybody(self, verb: str, audience: Audience, arguments: dict[str, Any]) -> list[Any]:
        """Have every process do `verb` for those of its connections that are meant; gives all answers.

        Raises the Refusal one of them answered with; Unavailable when a process that lives does not answer.
        """
        own = await self._do(verb, audience, None, arguments)
        if self._alone:
            return [own]
        return [own, *await self._put(EVERYBODY, await self._others(), verb, audience, None, arguments)]

    async def _others(self) -> set[str]:
        """All other processes that live. Raises Unavailable while that cannot be known."""
        try:
            await self.start()
        except Refusal:
            raise
        except Exception as problem:
            logger.error("Cannot reach the other processes: %s", problem)
            raise Unavailable(UNREACHABLE) from problem
        # A line that works is known to within this time.
        patience = conf.settings.ANSWER_SECS + self._peers.settled_secs
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not self._peers.is_complete(_now()):
                    await self._heard_hello.wait()
        if not self._peers.is_complete(_now()):
            raise Unavailable(UNREACHABLE)
        return self._peers.alive()

    async def _put(
        self,
        address: str,
        asked: set[str],
        verb: str,
        audience: Audience,
        connection_id: str | None,
        arguments: dict[str, Any],
    ) -> list[Any]:
        """Send a question and wait for `asked` to answer; those that died meanwhile are not waited for."""
        if len(self._questions) >= MAX_OPEN_QUESTIONS:
            raise Unavailable("Too many questions to other processes are unanswered; try again later.")
        self._asked += 1
        number = self._asked
        to_everybody = address == EVERYBODY
        question = encode(Question(number, self.process, verb, audience, connection_id, arguments))
        waiting = self._questions[number] = _Open(asked, returns=to_everybody)
        sent_at = _now()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(conf.settings.ANSWER_SECS):
                    await self._send(address, question, origin="" if to_everybody else None)
                    await waiting.complete.wait()
        finally:
            del self._questions[number]
        # Silent since well before the time was up: dead. Heard from meanwhile, but no answer: not known.
        # Where this process does not even hear itself, silence says nothing about others.
        if not waiting.complete.is_set() and not self._peers.hears_itself(sent_at):
            raise Unavailable(UNREACHABLE)
        if not waiting.returned or self._peers.perhaps_alive(waiting.missing, sent_at):
            raise Unavailable("Another server of this service did not answer in time; try again.")
        for answer in waiting.answers:
            if answer.problem is not None:
                raise _PROBLEMS.get(answer.problem, Refusal)(answer.message)
        return [answer.value for answer in waiting.answers]

    def _may_be_elsewhere(self, connection_id: str) -> bool:
        return not self._alone and len(connection_id) == CONNECTION_HEX_DIGITS and _is_hex(connection_id)

    async def _do(self, verb: str, audience: Audience, connection_id: str | None, arguments: dict[str, Any]) -> Any:
        if connection_id is None:
            return await ANSWERS[verb](list(self._meant(audience)), arguments)
        member = self._connections.get(connection_id)
        if member is None or member.hub != audience.hub:
            raise _no_connection(connection_id)
        return await ANSWERS[verb]([member], arguments)

    async def _answer(self, question: Question) -> None:
        number = question.number
        try:
            value = await self._do(question.verb, question.audience, question.connection, question.arguments)
            answer = encode(Answer(number, self.process, value))
        except Refusal as refusal:
            answer = encode(Answer(number, self.process, None, type(refusal).__name__, refusal.message))
        except Exception:
            logger.exception("Could not answer another process's question: %s", question.verb)
            answer = encode(Answer(number, self.process, None, "Refusal", "Internal server error"))
        # Logged where it happened; the asker's patience runs out.
        with suppress(Refusal):
            await self._send(process_address(question.asker), answer)

    # The line to the other processes

    async def start(self) -> None:
        """Open this process's channel and say hello; does nothing when that was done."""
        if self._running:
            return
        async with self._starting:
            if self._running:
                return
            await self._lines.open()
            await self._lines.want(process_address(self.process))
            if not self._alone:
                await self._lines.want(EVERYBODY)
                # Before the first connection is here: nobody may count without this process then.
                await self._hello(first=True)
            self._running.append(asyncio.create_task(self._listen(), name="switchboard"))
            if not self._alone:
                self._running.append(asyncio.create_task(self._say_hello(), name="hello to other processes"))

    async def stop(self) -> None:
        """Say goodbye, close the channel and end what still runs."""
        was_running = bool(self._running)
        tasks = [*self._tasks, *self._running, *self._lines.tasks]
        pending = set(tasks)
        while pending:
            # More than once, since a layer's client may swallow a cancellation that comes just as it got its answer.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()
        if was_running and not self._alone:
            # The last word: a hello after it would have the others wait for answers.
            with suppress(Refusal, TimeoutError):
                async with asyncio.timeout(conf.settings.ANSWER_SECS):
                    await self._send(EVERYBODY, encode(Goodbye(self.process)))

    async def _hello(self, *, first: bool) -> None:
        # Without an origin: its own hellos are for this process too.
        await self._send(EVERYBODY, encode(Hello(self.process, first)), origin="")

    async def _say_hello(self) -> None:
        first = False
        while True:
            complete = self._peers.is_complete(_now())
            await asyncio.sleep(self._peers.hello_secs / (1 if complete else 4))
            try:
                await self._hello(first=first)
                first = False
            except Unavailable:
                # Whoever answered is forgotten over a longer silence, so ask again as at first.
                first = True

    async def _listen(self) -> None:
        while True:
            try:
                self._read(await self._layer.receive(self._lines.channel))
            except Exception:
                self._peers.disturbed()
                logger.exception("The line to the other processes is disturbed; listening again in a second")
                await asyncio.sleep(1)

    def _read(self, message: Any) -> None:
        try:
            if message.get("origin") != self.process:
                self._take(decode(message["body"]))
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
            # Another version of this service may share the layer while servers are replaced one by one.
            logger.warning("Passed over a message from another process that this version cannot read")
        except Exception:
            # The fault is here, not in the line.
            logger.exception("A message from another process could not be handled")

    def _take(self, envelope: Envelope) -> None:
        if isinstance(envelope, Publication):
            self._deliver(envelope)
        elif isinstance(envelope, Question):
            home = None if envelope.connection is None else envelope.connection[:PROCESS_HEX_DIGITS]
            if envelope.asker == self.process:
                if (asking := self._questions.get(envelope.number)) is not None:
                    asking.came_back({process for process in self._peers.alive() if home in (None, process)})
            elif home in (None, self.process):
                self._in_background(self._answer(envelope), f"answer {envelope.verb}")
        elif isinstance(envelope, Hello):
            self._peers.hear(envelope.process, _now())
            self._heard_hello.set()
            self._heard_hello = asyncio.Event()
            if envelope.first and envelope.process != self.process:
                self._in_background(self._greet(envelope.process), "hello to a newcomer")
        elif isinstance(envelope, Goodbye):
            self._peers.forget(envelope.process)
            for waiting in self._questions.values():
                waiting.gone(envelope.process)
        else:
            if (asked := self._questions.get(envelope.number)) is not None:
                asked.take(envelope)

    async def _greet(self, newcomer: str) -> None:
        with suppress(Refusal):
            await self._send(process_address(newcomer), encode(Hello(self.process)))

    def _in_background(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, address: str, body: bytes, *, origin: str | None = None) -> None:
        origin = self.process if origin is None else origin
        try:
            async with asyncio.timeout(conf.settings.ANSWER_SECS):
                await self._layer.group_send(address, {"type": MESSAGE_TYPE, "origin": origin, "body": body})
        except Exception as problem:
            self._peers.disturbed()
            logger.error("Cannot reach the other processes: %s", str(problem) or type(problem).__name__)
            raise Unavailable(UNREACHABLE) from problem


class _Open:
    """A question that is not fully answered yet. `returns`: it will be heard by its asker too."""

    def __init__(self, missing: Iterable[str], *, returns: bool) -> None:
        self.missing = set(missing)
        self.returned = not returns
        self.answers: list[Answer] = []
        self.complete = asyncio.Event()
        self._settled: set[str] = set()

    def came_back(self, alive: set[str]) -> None:
        """Everything said before it has been heard: these live, and are asked."""
        self.missing |= alive - self._settled
        self.returned = True
        self._look()

    def take(self, answer: Answer) -> None:
        """Somebody answered."""
        self.answers.append(answer)
        self.gone(answer.process)

    def gone(self, process: str) -> None:
        """Nothing more comes from a process."""
        self._settled.add(process)
        self.missing.discard(process)
        self._look()

    def _look(self) -> None:
        if self.returned and not self.missing:
            self.complete.set()


_switchboards: WeakKeyDictionary[asyncio.AbstractEventLoop, Switchboard] = WeakKeyDictionary()


def switchboard() -> Switchboard:
    """This process's switchboard: one per event loop, made at first use."""
    loop = asyncio.get_running_loop()
    board = _switchboards.get(loop)
    if board is None:
        layer = get_channel_layer()
        board = _switchboards[loop] = Switchboard(layer, alone=isinstance(layer, InMemoryChannelLayer))
    return board


def _drop(index: dict[Any, dict[str, Member]], key: Any, member: Member) -> bool:
    """Take a member out of an index; tells whether it was the last of its key."""
    members = index.get(key)
    if members is None or members.pop(member.id, None) is None or members:
        return False
    del index[key]
    return True


def _now() -> float:
    return asyncio.get_running_loop().time()


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)


def _no_connection(connection_id: str) -> NotFound:
    return NotFound(f"Connection `{connection_id}` is not found.")
