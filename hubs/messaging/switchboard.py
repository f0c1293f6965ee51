"""The switchboard: this process's connections, and its one line to the other processes.

The obvious way to fan out with Channels gives every connection a channel of its own and adds it to
layer groups. A message to a group of a thousand then goes through a thousand queues and wakes a
thousand consumers, each of which encodes it again. Here a *process* has one channel. It joins the
layer group of an address when its first local member comes and leaves it a little after the last
one went. A publication is delivered to local members directly, encoded once per wire format, and
`group_send` carries it once to each other process that has members; that process's switchboard
fans out there. The layer may be any Channels layer. What a process sent itself comes back through
the layer as well and is dropped by its origin.

Order: a publication reaches local members before `publish` returns, so an echo precedes the ack
that follows; to other processes it goes in the order in which this process published.

Everything here runs on one event loop. A `Switchboard` belongs to the loop it was made on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import msgspec
from channels.layers import InMemoryChannelLayer, get_channel_layer

from hubs import conf
from hubs.errors import NotFound, Refusal, TooMany
from hubs.messaging.envelope import (
    Answer,
    Envelope,
    Publication,
    Question,
    decode,
    encode,
    group_address,
    process_address,
)
from hubs.protocols.codec import Outgoing

logger = logging.getLogger(__name__)

MESSAGE_TYPE = "hubwire.envelope"
PROCESS_HEX_DIGITS = 8
CONNECTION_HEX_DIGITS = 32

# How long an address without members stays subscribed: clients that reload a page come right back.
LINGER_SECS = 2.0
MAX_OPEN_QUESTIONS = 10_000


class Member(Protocol):
    """What the switchboard needs of a connection."""

    id: str
    hub: str

    def deliver(self, outgoing: Outgoing) -> None:
        """Take a frame for the client; never waits."""


# What a process does when it is asked about a connection of its own: a row per verb, put there by
# the operations. A row gets the member and the question's arguments and gives the answer's value.
Answering = Callable[[Any, dict[str, str | None]], Awaitable[bool]]
ANSWERS: dict[str, Answering] = {}

# Refusals that may cross between processes, by the name they travel under.
_PROBLEMS: dict[str, type[Refusal]] = {"NotFound": NotFound, "TooMany": TooMany}


class Switchboard:
    """The connections of one process and its line to the others."""

    def __init__(self, layer: Any, *, alone: bool) -> None:
        self._layer = layer
        # Alone: the layer reaches no other process, so there is nobody to pass publications on to.
        self._alone = alone
        self.process = secrets.token_hex(PROCESS_HEX_DIGITS // 2)
        self._connections: dict[str, Member] = {}
        self._groups: dict[tuple[str, str], dict[str, Member]] = {}
        self._lines = Lines(layer)
        self._questions: dict[int, asyncio.Future[Answer]] = {}
        self._asked = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    # Connections and groups

    def new_connection_id(self) -> str:
        """A fresh id: 32 hex digits, of which the first eight name the process that is its home."""
        return self.process + secrets.token_hex((CONNECTION_HEX_DIGITS - PROCESS_HEX_DIGITS) // 2)

    async def attach(self, member: Member) -> None:
        """Make a connection reachable."""
        await self.start()
        self._connections[member.id] = member

    def detach(self, member: Member) -> None:
        """Forget a connection. Its groups are left by `leave`."""
        self._connections.pop(member.id, None)

    def __len__(self) -> int:
        return len(self._connections)

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
        key = (member.hub, group)
        members = self._groups.get(key)
        if members is None or members.pop(member.id, None) is None or members:
            return
        del self._groups[key]
        self._lines.release(group_address(member.hub, group))

    async def publish(self, publication: Publication) -> None:
        """Deliver to the group's members, here and in every other process.

        Raises Refusal when the other processes could not be reached; members here have it then.
        """
        self._deliver(publication)
        if not self._alone:
            await self._send(group_address(publication.hub, publication.group), publication)

    def _deliver(self, publication: Publication) -> None:
        members = self._groups.get((publication.hub, publication.group))
        if not members:
            return
        outgoing = Outgoing(publication.frame)
        excluded = publication.excluded
        # `deliver` never changes membership: who overflows is closed, and leaves, in its own time.
        for connection_id, member in members.items():
            if connection_id not in excluded:
                member.deliver(outgoing)

    # Questions about one connection

    async def ask(self, verb: str, hub: str, connection_id: str, arguments: dict[str, str | None]) -> bool:
        """Have the home of a connection do `verb`, wherever that is, and give its answer.

        Raises the Refusal the home answered with; NotFound when there is no such connection.
        """
        home = connection_id[:PROCESS_HEX_DIGITS]
        if home == self.process:
            return await self._do(verb, hub, connection_id, arguments)
        if self._alone or len(connection_id) != CONNECTION_HEX_DIGITS or not _is_hex(connection_id):
            raise _no_connection(connection_id)
        if len(self._questions) >= MAX_OPEN_QUESTIONS:
            raise TooMany("Too many questions to other processes are unanswered; try again later.")
        await self.start()
        self._asked += 1
        number = self._asked
        reply: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._questions[number] = reply
        try:
            question = Question(number, self.process, verb, hub, connection_id, arguments)
            await self._send(process_address(home), question)
            async with asyncio.timeout(conf.settings.ANSWER_SECS):
                answer = await reply
        except TimeoutError:
            # Nobody has that name any more: the process ended, and its connections with it.
            raise _no_connection(connection_id) from None
        finally:
            del self._questions[number]
        if answer.problem is not None:
            raise _PROBLEMS.get(answer.problem, Refusal)(answer.message)
        return answer.value

    async def _do(self, verb: str, hub: str, connection_id: str, arguments: dict[str, str | None]) -> bool:
        member = self._connections.get(connection_id)
        if member is None or member.hub != hub:
            raise _no_connection(connection_id)
        return await ANSWERS[verb](member, arguments)

    async def _answer(self, question: Question) -> None:
        try:
            value = await self._do(question.verb, question.hub, question.about, question.arguments)
            answer = Answer(question.number, value)
        except Refusal as refusal:
            answer = Answer(question.number, False, type(refusal).__name__, refusal.message)
        except Exception:
            logger.exception("Could not answer %s about connection %s", question.verb, question.about)
            answer = Answer(question.number, False, "Refusal", "Internal server error")
        # Logged where it happened; the asker's patience runs out.
        with suppress(Refusal):
            await self._send(process_address(question.asker), answer)

    # The line to the other processes

    async def start(self) -> None:
        """Open this process's channel; does nothing when it is open."""
        if self._listening is not None:
            return
        async with self._starting:
            if self._listening is None:
                await self._lines.open()
                await self._lines.want(process_address(self.process))
                self._listening = asyncio.create_task(self._listen(), name="switchboard")

    async def stop(self) -> None:
        """Close the channel and end what still runs (tests, and servers that stop in good order)."""
        tasks = [*self._tasks, *([self._listening] if self._listening else []), *self._lines.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listening = None

    async def _listen(self) -> None:
        while True:
            try:
                message = await self._layer.receive(self._lines.channel)
                if message.get("origin") != self.process:
                    self._take(decode(message["body"]))
            except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
                # Another version of this service may share the layer while servers are replaced one by one.
                logger.warning("Passed over a message from another process that this version cannot read")
            except Exception:
                logger.exception("The line to the other processes is disturbed; listening again in a second")
                await asyncio.sleep(1)

    def _take(self, envelope: Envelope) -> None:
        if isinstance(envelope, Publication):
            self._deliver(envelope)
        elif isinstance(envelope, Question):
            task = asyncio.create_task(self._answer(envelope), name=f"answer {envelope.verb}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            reply = self._questions.get(envelope.number)
            if reply is not None and not reply.done():
                reply.set_result(envelope)

    async def _send(self, address: str, envelope: Envelope) -> None:
        try:
            await self._layer.group_send(
                address, {"type": MESSAGE_TYPE, "origin": self.process, "body": encode(envelope)}
            )
        except Exception as problem:
            logger.error("Cannot reach the other processes: %s", problem)
            raise Refusal("The other servers of this service cannot be reached.") from problem


class Lines:
    """Which layer groups this process's channel is in, brought to what is wanted.

    Adding and discarding wait for the layer, while members come and go; so each address is settled
    under a lock of its own, and what is wanted is looked at again once the lock is held.

    A call to the layer that fails or is cancelled may have been half done. So besides the addresses
    that are surely held there are those that may be (all held ones among them): wanting one of
    these asks the layer again, and one that nobody wants is left again.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.channel = ""
        self._held: set[str] = set()
        self._perhaps: set[str] = set()
        self._wanted: set[str] = set()
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._leaving: dict[str, float] = {}
        self._sweep: asyncio.Task[None] | None = None

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What runs in the background."""
        return [self._sweep] if self._sweep else []

    async def open(self) -> None:
        """Get the process's channel."""
        if not self.channel:
            self.channel = await self._layer.new_channel()

    async def want(self, address: str) -> None:
        """Have the channel in the layer group `address` when this returns."""
        self._wanted.add(address)
        self._leaving.pop(address, None)
        if address not in self._held or address in self._locks:
            await self._settle(address)

    def release(self, address: str) -> None:
        """Nobody here needs `address` now; it is left after a while, unless somebody comes."""
        self._wanted.discard(address)
        self._leaving[address] = asyncio.get_running_loop().time() + LINGER_SECS
        if self._sweep is None or self._sweep.done():
            self._sweep = asyncio.create_task(self._leave_unwanted(), name="leave unwanted groups")

    async def _settle(self, address: str) -> None:
        async with self._lock(address):
            if address in self._wanted and address not in self._held:
                self._perhaps.add(address)
                await self._layer.group_add(address, self.channel)
                self._held.add(address)
            elif address not in self._wanted and address in self._perhaps:
                self._held.discard(address)
                await self._layer.group_discard(address, self.channel)
                self._perhaps.discard(address)

    async def _leave_unwanted(self) -> None:
        loop = asyncio.get_running_loop()
        while self._leaving:
            address, due = next(iter(self._leaving.items()))
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
                continue
            del self._leaving[address]
            try:
                await self._settle(address)
            except Exception as problem:
                # Staying subscribed costs a few unneeded messages; the next release tries again.
                logger.warning("Could not leave a group of the channel layer: %s", problem)

    @asynccontextmanager
    async def _lock(self, address: str) -> Any:
        lock, users = self._locks.get(address, (None, 0))
        lock = lock or asyncio.Lock()
        self._locks[address] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[address]
            if users == 1:
                del self._locks[address]
            else:
                self._locks[address] = (lock, users - 1)


_switchboards: WeakKeyDictionary[asyncio.AbstractEventLoop, Switchboard] = WeakKeyDictionary()


def switchboard() -> Switchboard:
    """This process's switchboard: one per event loop, made at first use."""
    loop = asyncio.get_running_loop()
    board = _switchboards.get(loop)
    if board is None:
        layer = get_channel_layer()
        board = _switchboards[loop] = Switchboard(layer, alone=isinstance(layer, InMemoryChannelLayer))
    return board


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)


def _no_connection(connection_id: str) -> NotFound:
    return NotFound(f"Connection `{connection_id}` is not found.")
