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

A connection may change process (connections/recovery.py). While it does, its new process collects
what is published for it as an `Arrival`, and the numbers of tally.py tell which of that its old
process has taken already. Its home passes on what comes for it from then on (moves.py).

That the layer has taken a publication is success only if the others hear it. After an outage they do
not all come back in the same moment; until each has been heard to hear (peers.py), a publication goes
out as always and is said to have failed, or, where nobody may get it then, is refused.

Order: a publication reaches local members before `publish` returns, so an echo precedes the ack
that follows; to other processes it goes in the order in which this process published.

Everything here runs on one event loop. A `Switchboard` belongs to the loop it was made on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from channels.exceptions import ChannelFull
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
    Moved,
    Probe,
    Publication,
    Question,
    decode,
    encode,
    group_address,
    hub_address,
    process_address,
)
from hubs.messaging.lines import Lines
from hubs.messaging.members import Member, Members, Numbering
from hubs.messaging.moves import MAX_FORWARDS, Arrival, Notes
from hubs.messaging.peers import HELLO_SECS, Peers
from hubs.messaging.tally import Departures, Recent, Tally
from hubs.protocols.codec import Outgoing
from hubs.protocols.frames import ServerMessage
from hubs.rules.filters import compile_filter

logger = logging.getLogger(__name__)

MESSAGE_TYPE = "hubwire.envelope"
PROCESS_HEX_DIGITS = 8
CONNECTION_HEX_DIGITS = 32

MAX_OPEN_QUESTIONS = 10_000

# How often and how far apart the home of a connection is told where that is, while it cannot be reached.
TELL_HOME_TRIES = 10
TELL_HOME_SECS = 1.0

# How long a probe is waited for before the next one.
PROBE_SECS = 0.05

# How often an outage is complained of.
COMPLAINT_SECS = 1.0

UNREACHABLE = "The other servers of this service cannot be reached."


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
        # What only our own layer has (hubs/layers). Asked of the class: channels_redis' makes a connection when asked.
        can = type(layer)
        self._post: Callable[[str, dict[str, Any]], asyncio.Future[Any]] | None = (
            layer.post if hasattr(can, "post") else None
        )
        self._listen_directly = hasattr(can, "listen")
        self._complained_at = float("-inf")
        # Alone: the layer reaches no other process, so there is nobody to pass anything on to.
        self._alone = alone
        self.process = secrets.token_hex(PROCESS_HEX_DIGITS // 2)
        self._connections: dict[str, Member] = {}
        self._hubs: dict[str, Members] = {}
        self._users: dict[tuple[str, str], Members] = {}
        self._groups: dict[tuple[str, str], Members] = {}
        self._numbering = Numbering()
        self._lines = Lines(layer)
        self._peers = Peers(self.process, hello_secs)
        # Set and made anew with every hello that is heard, for those who wait to know everybody.
        self._heard_hello = asyncio.Event()
        # Whether this process knows that it does not hear the others.
        self._deaf = False
        self._questions: dict[int, _Open] = {}
        self._asked = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: list[asyncio.Task[None]] = []
        self._starting = asyncio.Lock()
        self._end_listening: Callable[[], None] | None = None
        # Connections that change process.
        self._notes = Notes()
        self._arrivals: dict[str, Arrival] = {}
        self._departures = Departures()
        self._departed: list[asyncio.Future[None]] = []
        self._taken: dict[str, Tally] = {}
        self._recent: dict[str, Recent] = {}
        self._probes: dict[int, asyncio.Event] = {}
        self._probed = 0
        # So many of the subscriptions made by the lines are known to be in force.
        self._in_force = 0

    # Connections and groups

    def new_connection_id(self) -> str:
        """A fresh id: 32 hex digits, of which the first eight name the process that is its home."""
        return self.process + secrets.token_hex((CONNECTION_HEX_DIGITS - PROCESS_HEX_DIGITS) // 2)

    async def attach(self, member: Member) -> None:
        """Make a connection reachable."""
        await self.start()
        self._place(member)
        try:
            await self._lines.want(hub_address(member.hub))
        except BaseException:
            self.detach(member)
            raise

    def detach(self, member: Member) -> None:
        """Forget a connection. Its groups are left by `leave`."""
        if self._remove(member) and not self.is_home_of(member.id):
            self._tell_home(Moved(member.id, "", sys.maxsize))

    def _place(self, member: Member) -> None:
        self._connections[member.id] = member
        _put(self._hubs, member.hub, member)
        if member.user_id is not None:
            _put(self._users, (member.hub, member.user_id), member)

    def _remove(self, member: Member) -> bool:
        if member not in self:
            return False
        del self._connections[member.id]
        if _drop(self._hubs, member.hub, member) and not self._is_expected(member.hub):
            self._lines.release(hub_address(member.hub))
        if member.user_id is not None:
            _drop(self._users, (member.hub, member.user_id), member)
        return True

    def settle(self) -> None:
        """Have what was published in this turn of the loop with all reliable members, numbered."""
        self._numbering.settle()

    def opened(self, member: Member) -> None:
        """The socket of a connection is open: it may be written to together with others."""
        if member in self:
            self._hubs[member.hub].changed()
            if member.user_id is not None:
                self._users[member.hub, member.user_id].changed()
            for group in member.groups:
                if (members := self._groups.get((member.hub, group))) is not None:
                    members.changed()

    def members(self) -> list[Member]:
        """All connections of this process."""
        return list(self._connections.values())

    def member(self, connection_id: str) -> Member | None:
        """The connection of this process that has this id."""
        return self._connections.get(connection_id)

    def __len__(self) -> int:
        return len(self._connections)

    def __contains__(self, member: Member) -> bool:
        # Not another life of it: a connection may leave this process and come back while old work goes on.
        return self._connections.get(member.id) is member

    async def join(self, member: Member, group: str) -> None:
        """Add a connection to a group; when this returns, publications of every process reach it."""
        _put(self._groups, (member.hub, group), member)
        try:
            await self._lines.want(group_address(member.hub, group))
        except BaseException:
            self.leave(member, group)
            raise

    def leave(self, member: Member, group: str) -> None:
        """Take a connection out of a group; at once for local publications."""
        if _drop(self._groups, (member.hub, group), member) and not self._is_expected(member.hub, group):
            self._lines.release(group_address(member.hub, group))

    def _among(self, audience: Audience) -> Members:
        """The connections of this process of which an audience means all, or some."""
        members: Members | None
        if audience.group is not None:
            members = self._groups.get((audience.hub, audience.group))
        elif audience.user_id is not None:
            members = self._users.get((audience.hub, audience.user_id))
        else:
            members = self._hubs.get(audience.hub)
        return _NOBODY if members is None else members

    def _meant(self, audience: Audience) -> Iterable[Member]:
        """The connections of this process that an audience means."""
        members: Iterable[Member] = self._among(audience).values()
        if audience.group is not None and audience.user_id is not None:
            members = [member for member in members if member.user_id == audience.user_id]
        excluded = frozenset(audience.excluded)
        if excluded:
            members = [member for member in members if member.id not in excluded]
        if audience.filter is not None:
            holds = compile_filter(audience.filter)
            members = [member for member in members if holds(member)]
        return members

    # Publications

    async def publish(
        self, publication: Publication, *, all_or_nobody: bool = False, again: tuple[str, int] | None = None
    ) -> None:
        """Deliver to everybody who is meant, here and in every other process.

        Raises Unavailable when the other processes could not be reached. Members here have it then,
        unless `all_or_nobody` was asked for: then nobody has, and it may be published again. `again`: the
        name under which that happened (`Unavailable.published`), so that who has it is passed over.
        """
        if publication.connection is not None:
            await self._publish_to_one(publication, publication.connection)
            return
        if not all_or_nobody or self._alone:
            posted = self.post(publication, again=again)
            if posted is not None:
                await asyncio.shield(posted)
            return
        with self._numbered(here_first=False) as number:
            numbers: dict[str, Any] = {"number": number, "floor": self._departures.floor}
            await self._send_heard(None, _address(publication.audience), encode(publication), numbers)
            self._deliver(publication, (self.process, number))

    def post(self, publication: Publication, *, again: tuple[str, int] | None = None) -> asyncio.Future[None] | None:
        """Deliver to the members here, and start a publication for an audience on its way to those of the others.

        Here first: local members do not wait for that way, and an echo is out before its publisher's
        ack. The future, None where there are no others, is done once the publication is on the layer. It
        fails with Unavailable; one that nobody looks at fails in silence.
        """
        if self._alone:
            self._deliver(publication)
            return None
        number = self._departures.begin(here_first=True)
        source = (self.process, number)
        try:
            if not self._has(again):
                self._deliver(publication, source)
            body = encode(publication)
        except BaseException:
            self._gone(number)
            raise
        numbers: dict[str, Any] = {"number": number, "floor": self._departures.floor}
        if again is not None:
            numbers["again"] = again
        posted = asyncio.get_running_loop().create_future()
        doubts = self._peers.doubts if self._peers.all_hear else None

        def sent(sending: asyncio.Future[Any]) -> None:
            self._gone(number)
            problem = asyncio.CancelledError() if sending.cancelled() else sending.exception()
            if posted.done():
                return
            if problem is None and doubts == self._peers.doubts:
                posted.set_result(None)
                return
            unavailable = Unavailable(UNREACHABLE)
            unavailable.published = again or source
            posted.set_exception(unavailable)
            # Looked at, if by nobody else.
            posted.exception()

        self._start_sending(_address(publication.audience), body, numbers).add_done_callback(sent)
        return posted

    @property
    def posts_in_order(self) -> bool:
        """Whether what is posted arrives in the order of posting, though nobody waits for one before the next."""
        return self._post is not None

    def _has(self, published: tuple[str, int] | None) -> bool:
        """Whether members here have been given a publication of this name."""
        if published is None:
            return False
        process, number = published
        return process == self.process or number in self._recent.get(process, ())

    @contextmanager
    def _numbered(self, *, here_first: bool) -> Iterator[int]:
        """Give a publication its number; at the end it is on the layer and with local members, or has failed."""
        number = self._departures.begin(here_first=here_first)
        try:
            yield number
        finally:
            self._gone(number)

    def _gone(self, number: int) -> None:
        self._departures.done(number)
        for waiting in self._departed:
            if not waiting.done():
                waiting.set_result(None)
        self._departed.clear()

    async def _publish_to_one(self, publication: Publication, connection_id: str, *, elsewhere: bool = False) -> None:
        holder = self._holder(connection_id, elsewhere=elsewhere)
        if holder == self.process:
            self._deliver(publication)
        elif holder in self._peers.alive():
            address = process_address(holder)
            await self._send_heard(holder, address, encode(publication), {"forwards": MAX_FORWARDS})
        else:
            # Its home is dead, or so new that it has not been heard; wherever it is, only that process delivers.
            # Numbered, since two hear it while the connection moves.
            with self._numbered(here_first=True) as number:
                numbers = {"number": number, "floor": self._departures.floor}
                await self._send_heard(None, EVERYBODY, encode(publication), numbers)

    def _deliver(self, publication: Publication, source: tuple[str, int] | None = None) -> None:
        audience = publication.audience
        everybody = _NOBODY
        some: Iterable[Member] = ()
        if publication.connection is not None:
            member = self._connections.get(publication.connection)
            some = [member] if member is not None and member.hub == audience.hub else []
        elif audience.excluded or audience.filter is not None or (audience.group and audience.user_id) is not None:
            some = self._meant(audience)
        else:
            everybody = self._among(audience)
        arrivals = self._arrivals and self._arriving(publication)
        if not everybody and not some and not arrivals:
            return
        outgoing = Outgoing(publication.frame, ttl_secs=publication.ttl_secs, source=source)
        if everybody:
            everybody.deliver(outgoing, self._numbering)
        if some:
            self._numbering.settle()
        for member in some:
            member.deliver(outgoing)
        if arrivals:
            for arrival in arrivals:
                arrival.deliver(outgoing)

    # Connections that change process

    def is_home_of(self, connection_id: str) -> bool:
        """Whether this process is asked about a connection, wherever that is; always, where there is no other."""
        return self._alone or connection_id[:PROCESS_HEX_DIGITS] == self.process

    async def expect(self, arrival: Arrival) -> None:
        """Collect from now on what is published for a connection that is coming here.

        When this returns, whatever is published from then on by any process is collected, and what this
        process published before has reached the process where the connection still is. Called again when
        there are more groups. Raises Unavailable.
        """
        await self.start()
        self._arrivals[arrival.id] = arrival
        addresses = [hub_address(arrival.hub), *(group_address(arrival.hub, group) for group in sorted(arrival.groups))]
        try:
            for address in addresses:
                await self._lines.want(address)
            await self._hears_all()
            await self.all_sent()
        except Refusal:
            raise
        except Exception as problem:
            raise Unavailable(UNREACHABLE) from problem

    async def all_sent(self) -> None:
        """Wait until everything this process has published so far is on the layer and with local members."""
        last = self._departures.last
        while self._departures.floor <= last:
            await self._next_departure()

    async def all_here(self) -> None:
        """Wait until local members have what this process has sent to the others first, so far."""
        last = self._departures.last
        while self._departures.is_coming_here(last):
            await self._next_departure()

    async def _next_departure(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._departed.append(waiting)
        await waiting

    def taken(self) -> dict[str, Tally]:
        """What members of this process have been given so far, by publishing process."""
        self.settle()
        return self._taken | {self.process: self._departures.taken_here()}

    def adopt(self, arrival: Arrival, member: Member, moves: int) -> None:
        """The connection is here: make it reachable in the place of its arrival."""
        self._place(member)
        for group in member.groups:
            _put(self._groups, (member.hub, group), member)
        self._notes.forget(member.id)
        self.unexpect(arrival)
        if not self.is_home_of(member.id):
            self._tell_home(Moved(member.id, self.process, moves))

    def unexpect(self, arrival: Arrival) -> None:
        """Collect no more for a connection, which is here or does not come."""
        arrival.settled.set()
        if self._arrivals.get(arrival.id) is not arrival:
            return
        del self._arrivals[arrival.id]
        for group in arrival.groups:
            if (arrival.hub, group) not in self._groups and not self._is_expected(arrival.hub, group):
                self._lines.release(group_address(arrival.hub, group))
        if arrival.hub not in self._hubs and not self._is_expected(arrival.hub):
            self._lines.release(hub_address(arrival.hub))

    def hand_over(self, member: Member, process: str, moves: int) -> None:
        """A connection has gone to another process: forget it, and pass on what comes for it."""
        self._remove(member)
        for group in member.groups:
            self.leave(member, group)
        self._notes.went(member.id, process, moves)

    def _arriving(self, publication: Publication) -> list[Arrival]:
        if publication.connection is not None:
            arrival = self._arrivals.get(publication.connection)
            return [arrival] if arrival is not None and arrival.hub == publication.audience.hub else []
        audience = publication.audience
        holds = None if audience.filter is None else compile_filter(audience.filter)
        return [
            arrival
            for arrival in self._arrivals.values()
            if arrival.hub == audience.hub
            and (audience.group is None or audience.group in arrival.groups)
            and (audience.user_id is None or audience.user_id == arrival.user_id)
            and arrival.id not in audience.excluded
            and (holds is None or holds(arrival))
        ]

    def _is_expected(self, hub: str, group: str | None = None) -> bool:
        return any(
            arrival.hub == hub and (group is None or group in arrival.groups) for arrival in self._arrivals.values()
        )

    async def pass_back(self, hub: str, connection_id: str, outgoing: Outgoing) -> None:
        """Send a message on that was collected for a connection which does not come here after all."""
        frame = outgoing.frame
        if isinstance(frame, ServerMessage):
            data_type, data = frame.payload.data_type, frame.payload.data
            metadata = None if frame.metadata is None else dict(frame.metadata)
            publication = Publication(Audience(hub), data_type, data, None, metadata, connection_id, outgoing.ttl_secs)
            await self._publish_to_one(publication, connection_id, elsewhere=True)

    def _holder(self, connection_id: str, *, elsewhere: bool = False) -> str:
        """The process to turn to for a connection: where it is, was told to be, or at least has its home."""
        here = connection_id in self._connections or connection_id in self._arrivals
        if self._alone or (here and not elsewhere):
            return self.process
        if not self._may_be_elsewhere(connection_id):
            return self.process
        return self._notes.where(connection_id) or connection_id[:PROCESS_HEX_DIGITS]

    def _tell_home(self, moved: Moved) -> None:
        async def tell() -> None:
            # More than once, if need be: until its home knows, it looks there for what has gone.
            for _ in range(TELL_HOME_TRIES):
                with suppress(Refusal):
                    home = moved.connection[:PROCESS_HEX_DIGITS]
                    await self._send_heard(home, process_address(home), encode(moved), {})
                    return
                await asyncio.sleep(TELL_HOME_SECS)

        self._in_background(tell(), "a connection has moved")

    async def _hears_all(self) -> None:
        """Wait until this process hears what is sent to every address it has subscribed to. Raises Unavailable.

        With Redis a subscription is asked for and not confirmed. It takes those of a process in order,
        though; so one more stands for all, and it has to be one that was never there before.
        """
        added = self._lines.added
        if self._in_force >= added:
            return
        self._probed += 1
        number = self._probed
        address = f"{process_address(self.process)}.{number}"
        await self._lines.want(address)
        try:
            await self._hears(address, number)
        finally:
            self._lines.release(address)
        # The probe's own subscription, too, if it was the only one meanwhile.
        self._in_force = max(self._in_force, added + (self._lines.added == added + 1))

    async def _hears(self, address: str, number: int) -> None:
        heard = self._probes[number] = asyncio.Event()
        try:
            async with asyncio.timeout(conf.settings.ANSWER_SECS):
                while not heard.is_set():
                    await self._send(address, encode(Probe(self.process, number)), origin="")
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PROBE_SECS):
                            await heard.wait()
        except TimeoutError:
            raise Unavailable(UNREACHABLE) from None
        finally:
            del self._probes[number]

    # Questions

    async def ask(self, verb: str, hub: str, connection_id: str, arguments: dict[str, Any]) -> Any:
        """Have the process where a connection is do `verb`, and give its answer.

        Raises the Refusal it answered with; NotFound when there is no such connection; Unavailable when
        its process lives and does not answer.
        """
        if self._holder(connection_id) == self.process:
            return await self._do(verb, Audience(hub), connection_id, arguments)
        return await self.ask_elsewhere(verb, hub, connection_id, arguments)

    async def ask_elsewhere(self, verb: str, hub: str, connection_id: str, arguments: dict[str, Any]) -> Any:
        """As `ask`, about a connection that is not here, or is only arriving."""
        audience = Audience(hub)
        holder = self._holder(connection_id, elsewhere=True)
        if holder == self.process:
            raise _no_connection(connection_id)
        if holder in (others := await self._others()):
            answers = await self._put(process_address(holder), {holder}, verb, audience, connection_id, arguments)
        else:
            # Dead, most likely, and its connections with it, unless they have moved; but perhaps so new
            # that its hello is still to be heard.
            answers = await self._put(EVERYBODY, others, verb, audience, connection_id, arguments)
        found = next((answer for answer in answers if answer.problem != NotFound.__name__), None)
        if found is None and not answers:
            raise _no_connection(connection_id)
        return _value(found or answers[0])

    async def ask_process(self, process: str, verb: str, arguments: dict[str, Any]) -> Any:
        """Ask one process something that is not about a connection it has. Raises Refusal."""
        nobody = Audience("")
        answers = await self._put(process_address(process), {process}, verb, nobody, None, arguments)
        if not answers:
            raise NotFound("The server that was asked is gone.")
        return _value(answers[0])

    async def ask_everybody(self, verb: str, audience: Audience, arguments: dict[str, Any]) -> list[Any]:
        """Have every process do `verb` for those of its connections that are meant; gives all answers.

        Raises the Refusal one of them answered with; Unavailable when a process that lives does not answer.
        """
        own = await self._do(verb, audience, None, arguments)
        if self._alone:
            return [own]
        answers = await self._put(EVERYBODY, await self._others(), verb, audience, None, arguments)
        return [own, *map(_value, answers)]

    def others(self) -> set[str]:
        """The other processes that are not known to be dead."""
        return self._peers.alive()

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
    ) -> list[Answer]:
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
                    if to_everybody:
                        await self._send(address, question, origin="")
                    else:
                        await self._send(address, question, forwards=MAX_FORWARDS)
                    await waiting.complete.wait()
        finally:
            del self._questions[number]
        # Silent since well before the time was up: dead. Heard from meanwhile, but no answer: not known.
        # Where this process does not even hear itself, silence says nothing about others.
        if not waiting.complete.is_set() and not self._peers.hears_itself(sent_at):
            raise Unavailable(UNREACHABLE)
        if not waiting.returned or self._peers.perhaps_alive(waiting.missing, sent_at):
            raise Unavailable("Another server of this service did not answer in time; try again.")
        return waiting.answers

    def _may_be_elsewhere(self, connection_id: str) -> bool:
        return not self._alone and len(connection_id) == CONNECTION_HEX_DIGITS and _is_hex(connection_id)

    async def _do(self, verb: str, audience: Audience, connection_id: str | None, arguments: dict[str, Any]) -> Any:
        # One that is just arriving is neither here nor elsewhere; soon it will be.
        for arrival in list(self._arrivals.values()):
            if arrival.id == connection_id or (connection_id is None and arrival.hub == audience.hub):
                await arrival.settled.wait()
        if connection_id is None:
            return await ANSWERS[verb](list(self._meant(audience)), arguments)
        member = self._connections.get(connection_id)
        if member is None or member.hub != audience.hub:
            raise _no_connection(connection_id)
        return await ANSWERS[verb]([member], arguments)

    async def _answer(self, question: Question) -> None:
        number, asked = question.number, question.answer_for or self.process
        try:
            value = await self._do(question.verb, question.audience, question.connection, question.arguments)
            answer = encode(Answer(number, asked, value))
        except Refusal as refusal:
            answer = encode(Answer(number, asked, None, type(refusal).__name__, refusal.message))
        except Exception:
            logger.exception("Could not answer another process's question: %s", question.verb)
            answer = encode(Answer(number, asked, None, "Refusal", "Internal server error"))
        # Logged where it happened; the asker's patience runs out.
        with suppress(Refusal):
            await self._send(process_address(question.asker), answer)

    # The line to the other processes

    async def start(self) -> None:
        """Open this process's channel and say hello; does nothing when that was done."""
        if self._running or self._end_listening is not None:
            return
        async with self._starting:
            if self._running or self._end_listening is not None:
                return
            await self._lines.open()
            await self._lines.want(process_address(self.process))
            if not self._alone:
                await self._lines.want(EVERYBODY)
                # Before the first connection is here: nobody may count without this process then.
                await self._hello(ask=True)
            if self._listen_directly:
                own = {"type": MESSAGE_TYPE, "origin": self.process}
                self._end_listening = self._layer.listen(
                    self._lines.channel,
                    self._read,
                    self._line_changed,
                    on_silence=self._line_is_silent,
                    passing_over=own,
                )
            else:
                self._running.append(asyncio.create_task(self._listen(), name="switchboard"))
            if not self._alone:
                self._running.append(asyncio.create_task(self._say_hello(), name="hello to other processes"))

    async def stop(self) -> None:
        """Say goodbye, close the channel and end what still runs."""
        was_running = bool(self._running) or self._end_listening is not None
        tasks = [*self._tasks, *self._running, *self._lines.tasks]
        pending = set(tasks)
        while pending:
            # More than once, since a layer's client may swallow a cancellation that comes just as it got its answer.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()
        if self._end_listening is not None:
            self._end_listening()
            self._end_listening = None
        if was_running and not self._alone:
            # The last word: a hello after it would have the others wait for answers.
            with suppress(Refusal, TimeoutError):
                async with asyncio.timeout(conf.settings.ANSWER_SECS):
                    await self._send(EVERYBODY, encode(Goodbye(self.process)))

    async def _hello(self, *, ask: bool) -> None:
        hello = Hello(self.process, self._peers.doubts if ask else None, deaf=self._deaf)
        # Without an origin: its own hellos are for this process too.
        await self._send(EVERYBODY, encode(hello), origin="")

    async def _say_hello(self) -> None:
        failed = False
        while True:
            certain = self._peers.is_complete(_now()) and self._peers.all_hear
            await asyncio.sleep(self._peers.hello_secs / (1 if certain else 4))
            try:
                # Whoever answered is forgotten over a longer silence, so ask again then, as at first.
                await self._hello(ask=failed or not self._peers.all_hear)
                failed = False
            except Unavailable:
                failed = True

    def _line_changed(self, up: bool) -> None:
        """The layer says that it has lost its way to this process, or has all of it back."""
        self._deaf = not up
        self._peers.disturbed()
        self._peers.doubt()
        if not self._alone:
            # It tells the others that this process does not hear them, or asks who hears it.
            self._in_background(self._hello_now(), "hello from a line that changed")
        if up:
            logger.warning("The other processes are reached again; what they published meanwhile is missed here")
        else:
            logger.error("The line from the other processes is lost")

    def _line_is_silent(self) -> None:
        """The layer says that it waits for an answer; others may have waited in vain, and not be back at once."""
        self._peers.doubt()
        if not self._alone:
            self._in_background(self._hello_now(), "hello on a silent line")

    async def _hello_now(self) -> None:
        with suppress(Refusal):
            await self._hello(ask=True)

    async def _listen(self) -> None:
        while True:
            try:
                self._read(await self._layer.receive(self._lines.channel))
            except Exception:
                self._peers.disturbed()
                self._peers.doubt()
                logger.exception("The line to the other processes is disturbed; listening again in a second")
                await asyncio.sleep(1)

    def _read(self, message: Any) -> None:
        try:
            if message.get("origin") != self.process:
                self._take(decode(message["body"]), message)
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
            # Another version of this service may share the layer while servers are replaced one by one.
            logger.warning("Passed over a message from another process that this version cannot read")
        except Exception:
            # The fault is here, not in the line.
            logger.exception("A message from another process could not be handled")

    def _take(self, envelope: Envelope, message: Mapping[str, Any]) -> None:
        if isinstance(envelope, Publication):
            self._take_publication(envelope, message)
        elif isinstance(envelope, Question):
            if envelope.asker == self.process:
                if (asking := self._questions.get(envelope.number)) is not None:
                    asking.came_back(self._peers.alive())
            elif (next_process := self._forwarded_to(envelope.connection, message)) is not None:
                passed_on = msgspec.structs.replace(envelope, answer_for=envelope.answer_for or self.process)
                self._pass_on(next_process, passed_on, message)
            else:
                self._in_background(self._answer(envelope), f"answer {envelope.verb}")
        elif isinstance(envelope, Moved):
            if envelope.connection not in self._connections:
                self._notes.went(envelope.connection, envelope.process, envelope.moves)
        elif isinstance(envelope, Probe):
            if envelope.process == self.process and (heard := self._probes.get(envelope.number)) is not None:
                heard.set()
        elif isinstance(envelope, Hello):
            self._peers.hear(envelope.process, _now())
            self._heard_hello.set()
            self._heard_hello = asyncio.Event()
            if envelope.process != self.process:
                self._take_hello(envelope)
        elif isinstance(envelope, Goodbye):
            self._peers.forget(envelope.process)
            for waiting in self._questions.values():
                waiting.gone(envelope.process)
        else:
            if (asked := self._questions.get(envelope.number)) is not None:
                asked.take(envelope)

    def _take_hello(self, hello: Hello) -> None:
        if hello.deaf:
            self._peers.doubt(hello.process)
        elif hello.answers is not None:
            self._peers.answered(hello.process, hello.answers)
        # Who has not all its subscriptions yet has heard this, and may miss the next.
        if hello.asks is not None and not self._deaf:
            self._in_background(self._greet(hello.process, hello.asks), "hello to who asked")

    def _take_publication(self, publication: Publication, message: Mapping[str, Any]) -> None:
        number = message.get("number")
        if number is None:
            next_process = self._forwarded_to(publication.connection, message)
            if next_process is None:
                self._deliver(publication)
            else:
                self._pass_on(next_process, publication, message)
            return
        origin = message["origin"]
        again = message.get("again")
        if again is None or not self._has((again[0], again[1])):
            self._deliver(publication, (origin, number))
        for process, one in ((origin, number), again or (origin, number)):
            self._recent.setdefault(process, Recent()).note(one)
        tally = self._taken.get(origin)
        if tally is None:
            # Of processes that are no more there is nothing to be told apart.
            alive = {*self._peers.alive(), origin}
            self._taken = {process: tally for process, tally in self._taken.items() if process in alive}
            self._recent = {process: recent for process, recent in self._recent.items() if process in alive}
            tally = self._taken[origin] = Tally()
        tally.take(number, message["floor"])

    def _forwarded_to(self, connection_id: str | None, message: Mapping[str, Any]) -> str | None:
        """Where to pass a message on that is about a connection which was here."""
        if connection_id is None or connection_id in self._connections or connection_id in self._arrivals:
            return None
        process = self._notes.where(connection_id) if message.get("forwards", 0) > 0 else None
        if process is not None and self._peers.is_complete(_now()) and process not in self._peers.alive():
            # It died there: nobody would ever answer.
            return None
        return process

    def _pass_on(self, process: str, envelope: Envelope, message: Mapping[str, Any]) -> None:
        async def pass_on() -> None:
            with suppress(Refusal):
                await self._send(process_address(process), encode(envelope), forwards=message["forwards"] - 1)

        self._in_background(pass_on(), "pass on")

    async def _greet(self, process: str, asked: int) -> None:
        asks = None if self._peers.hears(process) else self._peers.doubts
        with suppress(Refusal):
            await self._send(process_address(process), encode(Hello(self.process, asks, asked)))

    def _in_background(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, address: str, body: bytes, *, origin: str | None = None, **numbers: Any) -> None:
        """Send to an address. `numbers`: `number`, `floor`, `again` (tally.py), `forwards` (moves.py)."""
        message = {"type": MESSAGE_TYPE, "origin": self.process if origin is None else origin, "body": body}
        try:
            async with asyncio.timeout(conf.settings.ANSWER_SECS):
                await self._layer.group_send(address, message | numbers)
        except Exception as problem:
            self._disturbed(problem)
            raise Unavailable(UNREACHABLE) from problem

    async def _send_heard(self, process: str | None, address: str, body: bytes, numbers: dict[str, Any]) -> None:
        """As `_send`. Raises Unavailable also if a process, or without one any other, may not hear it."""
        hears = self._peers.all_hear if process is None else self._peers.hears(process)
        doubts = self._peers.doubts
        if hears:
            await self._send(address, body, **numbers)
        if not hears or doubts != self._peers.doubts:
            raise Unavailable(UNREACHABLE)

    def _start_sending(self, address: str, body: bytes, numbers: dict[str, Any]) -> asyncio.Future[Any]:
        """As `_send`, without waiting: where the layer can (hubs/layers), everything of one loop turn is one write."""
        if self._post is None:
            sending = asyncio.ensure_future(self._send(address, body, **numbers))
            # Held until it is done; the loop alone would not.
            self._tasks.add(sending)
            sending.add_done_callback(self._tasks.discard)
            return sending
        message = {"type": MESSAGE_TYPE, "origin": self.process, "body": body}
        posted: asyncio.Future[Any] = self._post(address, message | numbers)
        posted.add_done_callback(self._look_at)
        return posted

    def _look_at(self, posted: asyncio.Future[Any]) -> None:
        if not posted.cancelled() and (problem := posted.exception()) is not None:
            self._disturbed(problem)

    def _disturbed(self, problem: BaseException) -> None:
        self._peers.disturbed()
        if not isinstance(problem, ChannelFull):
            self._peers.doubt()
        now = _now()
        # Of an outage one line a second tells enough.
        if now - self._complained_at >= COMPLAINT_SECS:
            self._complained_at = now
            logger.error("Cannot reach the other processes: %s", str(problem) or type(problem).__name__)


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


_NOBODY = Members()


def _put(index: dict[Any, Members], key: Any, member: Member) -> None:
    """Put a member into an index."""
    members = index.get(key)
    if members is None:
        members = index[key] = Members()
    members.put(member)


def _drop(index: dict[Any, Members], key: Any, member: Member) -> bool:
    """Take a member out of an index; tells whether it was the last of its key."""
    members = index.get(key)
    if members is None or members.get(member.id) is not member:
        return False
    members.remove(member)
    if members:
        return False
    del index[key]
    return True


def _address(audience: Audience) -> str:
    return hub_address(audience.hub) if audience.group is None else group_address(audience.hub, audience.group)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _value(answer: Answer) -> Any:
    """What was answered. Raises the refusal, if it was one."""
    if answer.problem is not None:
        raise _PROBLEMS.get(answer.problem, Refusal)(answer.message)
    return answer.value


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)


def _no_connection(connection_id: str) -> NotFound:
    return NotFound(f"Connection `{connection_id}` is not found.")
