"""The connections of this process, by id, hub, user and group.

What is wanted of it: whom an audience means, at once, for every publication. So there is an index per kind of
audience, and what a publication for a whole group or hub takes is one look into a dictionary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hubs.registry.members import Member, Members
from hubs.rules.audiences import Audience
from hubs.rules.filters import compile_filter

NOBODY = Members()


class Registry:
    """Who can be reached in one process."""

    def __init__(self) -> None:
        self.connections: dict[str, Member] = {}
        self.hubs: dict[str, Members] = {}
        self.users: dict[tuple[str, str], Members] = {}
        self.groups: dict[tuple[str, str], Members] = {}

    # Connections and groups

    def attach(self, member: Member) -> None:
        """A connection comes, with the groups it has."""
        self.connections[member.id] = member
        _put(self.hubs, member.hub, member)
        if member.user_id is not None:
            _put(self.users, (member.hub, member.user_id), member)
        for group in member.groups:
            _put(self.groups, (member.hub, group), member)

    def detach(self, member: Member) -> bool:
        """A connection goes, from its groups too; tells whether it was here."""
        if member not in self:
            return False
        del self.connections[member.id]
        _drop(self.hubs, member.hub, member)
        if member.user_id is not None:
            _drop(self.users, (member.hub, member.user_id), member)
        for group in member.groups:
            _drop(self.groups, (member.hub, group), member)
        return True

    def join(self, member: Member, group: str) -> None:
        """A connection is a member of a group from the next publication on."""
        _put(self.groups, (member.hub, group), member)

    def leave(self, member: Member, group: str) -> None:
        """A connection is no member of a group any more."""
        _drop(self.groups, (member.hub, group), member)

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

    def clear(self) -> None:
        """Nobody is here any more."""
        for index in (self.connections, self.hubs, self.users, self.groups):
            index.clear()

    def __contains__(self, member: Member) -> bool:
        # Not another life of it: a connection may leave this process and come back while old work goes on.
        return self.connections.get(member.id) is member

    def serves(self, hub: str) -> bool:
        """Whether a connection of this hub is here."""
        return hub in self.hubs

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


def _put(index: dict[Any, Members], key: Any, member: Member) -> None:
    """Put a member into an index."""
    members = index.get(key)
    if members is None:
        members = index[key] = Members()
    members.put(member)


def _drop(index: dict[Any, Members], key: Any, member: Member) -> None:
    """Take a member out of an index."""
    members = index.get(key)
    if members is None or members.get(member.id) is not member:
        return
    members.remove(member)
    if not members:
        del index[key]
