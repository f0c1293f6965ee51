"""Publications: to the members here, and once to each other process that has members.

Order: a publication reaches local members before `post` returns, so an echo precedes the ack
that follows; to other processes it goes in the order in which this process published.

Every publication for an audience has a number of this process. By these numbers a connection that changes
process neither misses one nor gets it twice (tally.py), and who has one already passes over its repetition.
What is sent to a single connection needs none: one process alone delivers it.

This is the way of every message. From `post`, and from what the line reads, to the members' sockets
all is plain calls, and few.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hubs.errors import Unavailable
from hubs.messaging.directory import NOBODY, Directory
from hubs.messaging.envelope import (
    EVERYBODY,
    Audience,
    Publication,
    encode,
    group_address,
    hub_address,
    process_address,
)
from hubs.messaging.members import Member, Numbering
from hubs.messaging.moves import MAX_FORWARDS
from hubs.messaging.peers import Peers
from hubs.messaging.tally import Departures, Recent, Tally
from hubs.messaging.trunk import UNREACHABLE, Trunk
from hubs.messaging.whereabouts import Whereabouts
from hubs.protocols.codec import Outgoing


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
        # Of the others.
        self._taken: dict[str, Tally] = {}
        self._recent: dict[str, Recent] = {}

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
        with self._numbered(here_first=False) as number:
            numbers: dict[str, Any] = {"number": number, "floor": self.departures.floor}
            await self._trunk.send_heard(None, _address(publication.audience), encode(publication), numbers)
            self._deliver(publication, (self._process, number))

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
            if again is None or not self._has(again):
                self._deliver(publication, source)
            body = encode(publication)
        except BaseException:
            self._gone(number)
            raise
        numbers: dict[str, Any] = {"number": number, "floor": self.departures.floor}
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

        self._trunk.start_sending(_address(publication.audience), body, numbers).add_done_callback(sent)
        return posted

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
            with self._numbered(here_first=True) as number:
                numbers = {"number": number, "floor": self.departures.floor}
                await self._trunk.send_heard(None, EVERYBODY, encode(publication), numbers)

    # In

    def take(self, publication: Publication, message: Mapping[str, Any]) -> None:
        """Another process has published; `message` has the number."""
        number = message.get("number")
        if number is None:
            next_process = self._whereabouts.next_process(publication.connection, message)
            if next_process is None:
                self._deliver(publication)
            else:
                self._trunk.pass_on(next_process, publication, message)
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

    def _deliver(self, publication: Publication, source: tuple[str, int] | None = None) -> None:
        audience = publication.audience
        everybody = NOBODY
        some: Iterable[Member] = ()
        if publication.connection is not None:
            member = self._connections.get(publication.connection)
            some = [member] if member is not None and member.hub == audience.hub else []
        elif audience.excluded or audience.filter is not None or (audience.group and audience.user_id) is not None:
            some = self._directory.meant(audience)
        else:
            everybody = self._directory.among(audience)
        arrivals = self._arrivals and self._directory.arriving(publication)
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

    def _has(self, published: tuple[str, int]) -> bool:
        """Whether members here have been given a publication of this name."""
        process, number = published
        return process == self._process or number in self._recent.get(process, ())

    @contextmanager
    def _numbered(self, *, here_first: bool) -> Iterator[int]:
        """Give a publication its number; at the end it is on the layer and with local members, or has failed."""
        number = self.departures.begin(here_first=here_first)
        try:
            yield number
        finally:
            self._gone(number)

    def _gone(self, number: int) -> None:
        self.departures.done(number)
        for waiting in self.departed:
            if not waiting.done():
                waiting.set_result(None)
        self.departed.clear()


def _address(audience: Audience) -> str:
    return hub_address(audience.hub) if audience.group is None else group_address(audience.hub, audience.group)
