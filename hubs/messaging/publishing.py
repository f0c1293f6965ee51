"""Publications: to the members here, and once to each other process that has members.

Order: a publication reaches local members before `post` returns, so an echo precedes the ack
that follows; to other processes it goes in the order in which this process published (parcels.py).

Every publication for an audience has a number of this process. By these numbers a connection that changes
process neither misses one nor gets it twice (tally.py), and who has one already passes over its repetition.
What is sent to a single connection needs none: one process alone delivers it.

This is the way of every message. From `post`, and from what the line reads, to the members' sockets
all is plain calls, and few.
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from hubs.errors import Unavailable
from hubs.messaging.directory import NOBODY, Directory
from hubs.messaging.envelope import (
    EVERYBODY,
    Parcel,
    Publication,
    encode,
    process_address,
)
from hubs.messaging.members import Member, Numbering
from hubs.messaging.moves import MAX_FORWARDS, Arrival
from hubs.messaging.parcels import Item, Parcels
from hubs.messaging.peers import Peers
from hubs.messaging.tally import Departures, Had, Recent, Tally
from hubs.messaging.trunk import UNREACHABLE, Trunk
from hubs.messaging.whereabouts import Whereabouts
from hubs.protocols.codec import Outgoing

logger = logging.getLogger(__name__)


# How long it is known of a connection what it was given where it was before, and how many names of repetitions are.
CAME_SECS = 60.0
MAX_REPEATED = 10_000

# Of so many processes is kept what they have published, also if they are not known to live.
MAX_COUNTED = 100


class _Came(NamedTuple):
    """A connection that came from another process: what it had been given there, and since when it is given it here."""

    had: Had
    since: Mapping[str, int]
    own: int


class Publishing:
    """What one process publishes, and delivers of what all publish."""

    def __init__(self, trunk: Trunk, peers: Peers, directory: Directory, whereabouts: Whereabouts) -> None:
        self._trunk = trunk
        self._peers = peers
        self._directory = directory
        self._connections, self._arrivals = directory.connections, directory.arrivals
        self._whereabouts = whereabouts
        self._process, self._alone = trunk.process, trunk.alone
        self._numbering = Numbering()
        # Of this process: numbers, and what is on its way.
        self.departures = Departures()
        self.departed: list[asyncio.Future[None]] = []
        self._parcels = Parcels(trunk, peers, lambda: self.departures.floor, self._have_left)
        # What is said in other ways comes behind what was published before it.
        trunk.before_sending = self._parcels.send_off
        # Of the others.
        self._taken: dict[str, Tally] = {}
        self._recent: dict[str, Recent] = {}
        # More than were noted of any process that has been forgotten.
        self._forgotten = 0
        # Names under which something was repeated; the original may come late.
        self._repeated: OrderedDict[tuple[str, int], None] = OrderedDict()
        # Connections that came here from other processes a while ago.
        self._came: dict[str, _Came] = {}

    def settle(self) -> None:
        """Have what was published in this turn of the loop with all reliable members, numbered."""
        self._numbering.settle()

    # Out

    async def publish(
        self, publication: Publication, *, all_or_nobody: bool = False, again: tuple[str, int] | None = None
    ) -> None:
        """Deliver to everybody who is meant, here and in every other process.

        Raises Unavailable when the other processes could not be reached. Members here have it then,
        unless `all_or_nobody` was asked for: then nobody has, and it may be published again. `again`: the
        name under which that happened (`Unavailable.published`), so that who has it is passed over.
        """
        if publication.connection is not None:
            await self.publish_to_one(publication, publication.connection)
            return
        if not all_or_nobody or self._alone:
            posted = self.post(publication, again=again)
            if posted is not None:
                await asyncio.shield(posted)
            return
        if not self._peers.all_hear:
            raise Unavailable(UNREACHABLE)
        await asyncio.shield(self._put(publication, self.departures.begin(here_first=False), None, here_last=True))

    def post(self, publication: Publication, *, again: tuple[str, int] | None = None) -> asyncio.Future[None] | None:
        """Deliver to the members here, and start a publication for an audience on its way to those of the others.

        Here first: local members do not wait for that way, and an echo is out before its publisher's
        ack. The future, None where there are no others, is done once the publication is on the layer. It
        fails with Unavailable; one that nobody looks at fails in silence.
        """
        if self._alone:
            self._deliver(publication)
            return None
        number = self.departures.begin(here_first=True)
        source = (self._process, number)
        try:
            self._deliver(publication, source, again)
            if again is not None:
                self._note_repeated(again)
        except BaseException:
            self._gone(number)
            raise
        return self._put(publication, number, again)

    def _put(
        self, publication: Publication, number: int, again: tuple[str, int] | None, *, here_last: bool = False
    ) -> asyncio.Future[None]:
        posted = asyncio.get_running_loop().create_future()
        self._parcels.put(Item(publication, number, again, posted, here_last=here_last))
        return posted

    def _have_left(self, items: list[Item], arrived: bool) -> None:
        """Items are on the layer, or are known not to be."""
        for item in items:
            if item.here_last and arrived:
                self._try_to_deliver(item.publication, (self._process, item.number))
            self.departures.done(item.number)
        self._tell_departed()

    async def publish_to_one(self, publication: Publication, connection_id: str, *, elsewhere: bool = False) -> None:
        """Publish to one connection, wherever it is; `elsewhere`: not here, though it is arriving."""
        holder = self._whereabouts.holder(connection_id, elsewhere=elsewhere)
        if holder == self._process:
            self._deliver(publication)
        elif holder in self._peers.alive():
            address = process_address(holder)
            await self._trunk.send_heard(holder, address, encode(publication), {"forwards": MAX_FORWARDS})
        else:
            # Its home is dead, or so new that it has not been heard; wherever it is, only that process delivers.
            # Numbered, since two hear it while the connection moves.
            number = self.departures.begin(here_first=True)
            try:
                parcel = encode(Parcel([(publication, number, None)]))
                await self._trunk.send_heard(None, EVERYBODY, parcel, {"floor": self.departures.floor})
            finally:
                self._gone(number)

    # In

    def take(self, publication: Publication, message: Mapping[str, Any]) -> None:
        """Another process has sent something to a connection that is here, or was."""
        next_process = self._whereabouts.next_process(publication.connection, message)
        if next_process is None:
            self._deliver(publication)
        else:
            self._trunk.pass_on(next_process, publication, message)

    def take_parcel(self, parcel: Parcel, message: Mapping[str, Any]) -> None:
        """Another process has published."""
        origin, floor = message["origin"], message["floor"]
        recent, tally = self._recent.get(origin), self._taken.get(origin)
        if recent is None or tally is None:
            recent, tally = self._begin_to_count(origin)
        for publication, number, again in parcel.items:
            source = (origin, number)
            if again is not None:
                self._try_to_deliver(publication, source, again)
                self._note_repeated(again)
            else:
                # Redis may have stood still with it, and its repetition have come another way.
                self._try_to_deliver(publication, source, source if source in self._repeated else None)
            recent.note(number)
            tally.take(number, floor)

    def _begin_to_count(self, origin: str) -> tuple[Recent, Tally]:
        # Of processes that are no more there is nothing to be told apart; but one that was only silent may be back.
        if len(self._taken) >= MAX_COUNTED:
            alive = {*self._peers.alive(), origin}
            self._taken = {process: tally for process, tally in self._taken.items() if process in alive}
            self._forgotten = max([self._forgotten, *(recent.count for recent in self._recent.values())])
            self._recent = {process: recent for process, recent in self._recent.items() if process in alive}
        return self._recent_of(origin), self._taken.setdefault(origin, Tally())

    def _recent_of(self, process: str) -> Recent:
        recent = self._recent.get(process)
        if recent is None:
            recent = self._recent[process] = Recent(self._forgotten)
        return recent

    def _try_to_deliver(
        self, publication: Publication, source: tuple[str, int], again: tuple[str, int] | None = None
    ) -> None:
        """Deliver one of several; a fault in it is not to be one of the others too."""
        try:
            self._deliver(publication, source, again)
        except Exception:
            logger.exception("A publication could not be delivered")

    def _deliver(
        self,
        publication: Publication,
        source: tuple[str, int] | None = None,
        again: tuple[str, int] | None = None,
    ) -> None:
        """Give a publication to the members that are meant; not to those that have what it repeats."""
        audience = publication.audience
        everybody = NOBODY
        some: Iterable[Member] = ()
        if publication.connection is not None:
            member = self._connections.get(publication.connection)
            some = [member] if member is not None and member.hub == audience.hub else []
        elif again is not None:
            some = [member for member in self._directory.meant(audience) if not self._has(member, again)]
        elif audience.excluded or audience.filter is not None or (audience.group and audience.user_id) is not None:
            some = self._directory.meant(audience)
        else:
            everybody = self._directory.among(audience)
        arrivals = self._arrivals and self._directory.arriving(publication)
        if not everybody and not some and not arrivals:
            return
        # Up to version 22 November 2026 a process publishes 0 as such; it means the same as None.
        outgoing = Outgoing(publication.frame, ttl_secs=publication.ttl_secs or None, source=source)
        if everybody:
            everybody.deliver(outgoing, self._numbering)
        if some:
            self._numbering.settle()
        for member in some:
            member.deliver(outgoing)
        if arrivals:
            for arrival in arrivals:
                arrival.deliver(outgoing, again)

    # What has been given to whom

    def taken(self) -> dict[str, Tally]:
        """What members of this process have been given so far, by publishing process."""
        self.settle()
        return self._taken | {self._process: self.departures.taken_here()}

    async def all_sent(self) -> None:
        """Wait until everything this process has published so far is on the layer and with local members."""
        last = self.departures.last
        while self.departures.floor <= last:
            await self._next_departure()

    async def all_here(self) -> None:
        """Wait until local members have what this process has sent to the others first, so far."""
        last = self.departures.last
        while self.departures.is_coming_here(last):
            await self._next_departure()

    async def _next_departure(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self.departed.append(waiting)
        await waiting

    def _has(self, member: Member, published: tuple[str, int]) -> bool:
        """Whether a member has been given a publication of this name, here or where it was before."""
        process, number = published
        came = self._came.get(member.id)
        recent = self._recent.get(process)
        if came is None:
            return process == self._process or (recent is not None and recent.has(number))
        return (
            published in came.had
            or (process == self._process and number > came.own)
            or (recent is not None and recent.has(number, came.since.get(process, 0)))
        )

    def _note_repeated(self, published: tuple[str, int]) -> None:
        """Members here have been given, now at last, what was published under this name."""
        process, number = published
        self._recent_of(process).note(number)
        self._repeated[published] = None
        if len(self._repeated) > MAX_REPEATED:
            self._repeated.popitem(last=False)

    def had(self, member: Member) -> dict[str, bytes]:
        """What a connection that goes to another process has been given lately, there to be `Had`."""
        came = self._came.get(member.id) or _Came(Had({}), {}, 0)
        here = {process: recent.packed(came.since.get(process, 0)) for process, recent in self._recent.items()}
        last = self.departures.last
        own = array("Q", (came.own + 1, last)).tobytes() if last > came.own else b""
        here[self._process] = here.get(self._process, b"") + own
        return came.had.and_then(here)

    def collects(self, arrival: Arrival) -> None:
        """From now on what is published is collected for a connection that is on its way here."""
        if arrival.since is None:
            arrival.since = {process: recent.count for process, recent in self._recent.items()}
            arrival.own = self.departures.last

    def came(self, arrival: Arrival, had: Had) -> None:
        """It is here."""
        came = self._came[arrival.id] = _Came(had, arrival.since or {}, arrival.own)
        asyncio.get_running_loop().call_later(CAME_SECS, self._forget_came, arrival.id, came)

    def went(self, connection_id: str) -> None:
        """A connection is here no more."""
        self._came.pop(connection_id, None)

    def _forget_came(self, connection_id: str, came: _Came) -> None:
        if self._came.get(connection_id) is came:
            del self._came[connection_id]

    def _gone(self, number: int) -> None:
        self.departures.done(number)
        self._tell_departed()

    def _tell_departed(self) -> None:
        for waiting in self.departed:
            if not waiting.done():
                waiting.set_result(None)
        self.departed.clear()
