"""The directory of a process: its connections by id, hub, user and group, and those on their way here.

What is wanted of it: whom an audience means, at once, for every publication. So there is an index per kind of
audience, and what a publication for a whole group or hub takes is one look into a dictionary.

Addresses of the layer are groups and hubs. The directory wants one when its first member comes, here or on
the way, and releases it after the last one went (lines.py). Users have none of their own: what is meant for a
user goes to the processes that serve the hub, and each looks the user up. A subscription per user would cost every
connect a round trip, for operations that are rare beside connects.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hubs.messaging.envelope import Audience, Publication, group_address, hub_address
from hubs.messaging.lines import Lines
from hubs.messaging.members import Member, Members
from hubs.messaging.moves import Arrival
from hubs.rules.filters import compile_filter

NOBODY = Members()


class Directory:
    """Who can be reached in one process."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self.connections: dict[str, Member] = {}
        self.hubs: dict[str, Members] = {}
        self.users: dict[tuple[str, str], Members] = {}
        self.groups: dict[tuple[str, str], Members] = {}
        # Those that are coming from another process, by id.
        self.arrivals: dict[str, Arrival] = {}

    # Connections and groups

    async def attach(self, member: Member) -> None:
        """A connection comes. When this returns, publications of every process for its hub reach it."""
        self._place(member)
        try:
            await self._lines.want(hub_address(member.hub))
        except BaseException:
            self.detach(member)
            raise

    def detach(self, member: Member) -> bool:
        """A connection goes, its groups apart; tells whether it was here."""
        if member not in self:
            return False
        del self.connections[member.id]
        if _drop(self.hubs, member.hub, member):
            self._release_hub(member.hub)
        if member.user_id is not None:
            _drop(self.users, (member.hub, member.user_id), member)
        return True

    async def join(self, member: Member, group: str) -> None:
        """Add a connection to a group; when this returns, publications of every process reach it."""
        _put(self.groups, (member.hub, group), member)
        try:
            await self._lines.want(group_address(member.hub, group))
        except BaseException:
            self.leave(member, group)
            raise

    def leave(self, member: Member, group: str) -> None:
        """Take a connection out of a group; at once for local publications."""
        if _drop(self.groups, (member.hub, group), member):
            self._release_group(member.hub, group)

    def opened(self, member: Member) -> None:
        """The socket of a connection is open: it may be written to together with others."""
        if member not in self:
            return
        self.hubs[member.hub].changed()
        if member.user_id is not None:
            self.users[member.hub, member.user_id].changed()
        for group in member.groups:
            if (members := self.groups.get((member.hub, group))) is not None:
                members.changed()

    def __contains__(self, member: Member) -> bool:
        # Not another life of it: a connection may leave this process and come back while old work goes on.
        return self.connections.get(member.id) is member

    def _place(self, member: Member) -> None:
        self.connections[member.id] = member
        _put(self.hubs, member.hub, member)
        if member.user_id is not None:
            _put(self.users, (member.hub, member.user_id), member)

    # Connections that come from another process

    async def expect(self, arrival: Arrival) -> None:
        """One is on its way. When this returns its addresses are subscribed to; again, if it has more groups now."""
        self.arrivals[arrival.id] = arrival
        await self._lines.want(hub_address(arrival.hub))
        for group in sorted(arrival.groups):
            await self._lines.want(group_address(arrival.hub, group))

    def adopt(self, arrival: Arrival, member: Member) -> None:
        """It is here, with its groups, in the place of its arrival."""
        self._place(member)
        for group in member.groups:
            _put(self.groups, (member.hub, group), member)
        self.unexpect(arrival)

    def unexpect(self, arrival: Arrival) -> None:
        """It is here or does not come."""
        arrival.settled.set()
        if self.arrivals.get(arrival.id) is not arrival:
            return
        del self.arrivals[arrival.id]
        for group in arrival.groups:
            if (arrival.hub, group) not in self.groups:
                self._release_group(arrival.hub, group)
        if arrival.hub not in self.hubs:
            self._release_hub(arrival.hub)

    def _release_hub(self, hub: str) -> None:
        if not any(arrival.hub == hub for arrival in self.arrivals.values()):
            self._lines.release(hub_address(hub))

    def _release_group(self, hub: str, group: str) -> None:
        if not any(arrival.hub == hub and group in arrival.groups for arrival in self.arrivals.values()):
            self._lines.release(group_address(hub, group))

    # Audiences

    def among(self, audience: Audience) -> Members:
        """The connections of this process of which an audience means all, or some."""
        members: Members | None
        if audience.group is not None:
            members = self.groups.get((audience.hub, audience.group))
        elif audience.user_id is not None:
            members = self.users.get((audience.hub, audience.user_id))
        else:
            members = self.hubs.get(audience.hub)
        return NOBODY if members is None else members

    def meant(self, audience: Audience) -> Iterable[Member]:
        """The connections of this process that an audience means."""
        members: Iterable[Member] = self.among(audience).values()
        if audience.group is not None and audience.user_id is not None:
            members = [member for member in members if member.user_id == audience.user_id]
        excluded = frozenset(audience.excluded)
        if excluded:
            members = [member for member in members if member.id not in excluded]
        if audience.filter is not None:
            holds = compile_filter(audience.filter)
            members = [member for member in members if holds(member)]
        return members

    def arriving(self, publication: Publication) -> list[Arrival]:
        """Those on their way here that a publication is for."""
        audience = publication.audience
        if publication.connection is not None:
            arrival = self.arrivals.get(publication.connection)
            return [arrival] if arrival is not None and arrival.hub == audience.hub else []
        holds = None if audience.filter is None else compile_filter(audience.filter)
        return [
            arrival
            for arrival in self.arrivals.values()
            if arrival.hub == audience.hub
            and (audience.group is None or audience.group in arrival.groups)
            and (audience.user_id is None or audience.user_id == arrival.user_id)
            and arrival.id not in audience.excluded
            and (holds is None or holds(arrival))
        ]


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
