"""Every verb of the service, once.

A WebSocket frame, a REST call, an admin action and a command reach the same function here. The
callers have decided who may do what; these functions trust them. Refusals (hubs/errors.py) say
what was not done and why.

A verb about connections that may live anywhere has two halves: a function below that asks, and a
row of `ANSWERS` that says what a process does with those of its own connections that are meant. What changes a
reliable connection has a third, where processes share a log: a row of `CHANGES` that does it when the log says so.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol, TypeVar

import msgspec

from hubs import close_codes, conf
from hubs.cluster.entries import Change, Ended, Entry, Parted, Publication
from hubs.cluster.log import UNREACHABLE, applied
from hubs.errors import NotFound, TooMany
from hubs.node.node import ANSWERS, CHANGES, node
from hubs.node.publishing import PLACE_BITS
from hubs.protocols.frames import Payload
from hubs.registry.members import Member
from hubs.rules.audiences import Audience
from hubs.rules.names import canonical_hub
from hubs.rules.roles import Permissions, TooManyOverrides

__all__ = ["UNREACHABLE"]

# Connections in one entry of the log, and changes of one connection between two acknowledgements.
MAX_CHANGED_TOGETHER = 1000
MAX_CHANGES = 100_000


class LiveConnection(Member, Protocol):
    """What operations need of a connection that lives in this process."""

    groups: set[str]
    permissions: Permissions
    session: Any
    changes: list[tuple[int, str, bool]] | None

    @property
    def is_reliable(self) -> bool:
        """Whether its client may come back to it."""

    def close(self, code: int, reason: str, *, message: str | None = None) -> None:
        """Say goodbye to the client and close its socket."""

    def snapshot(self) -> dict[str, Any]:
        """What another process needs to go on with it."""


# On a connection of this process


async def attach(connection: LiveConnection, groups: tuple[str, ...] = ()) -> None:
    """Make a new connection reachable, as a member of `groups`. Raises TooMany, Unavailable."""
    if len(groups) > conf.settings.MAX_GROUPS_PER_CONNECTION:
        raise TooMany(f"A connection can be in at most {conf.settings.MAX_GROUPS_PER_CONNECTION} groups.")
    here = node()
    connection.groups.update(groups)
    await here.attach(connection)
    if connection.is_reliable:
        await here.records.create(connection.hub, connection.id, connection.snapshot())


def unreachable() -> str | None:
    """Why a client that came now could not be reached by other processes, for operators; None where it could."""
    if not node().log.is_away:
        return None
    return "it cannot be reached, so nothing can be published; the log says why"


def opened(connection: LiveConnection) -> None:
    """The socket of a connection is open, which was attached before."""
    node().registry.opened(connection)
    if not connection.is_reliable:
        record(connection)


def record(connection: LiveConnection) -> None:
    """Have it written down that a connection is here, with what is needed to tell of its end."""
    here = node()
    if here.keeps:
        # Of a reliable one there is a snapshot.
        session = None if connection.is_reliable else connection.session.packed()
        here.records.own(connection.hub, connection.id, session)


def state_changed(connection: LiveConnection) -> None:
    """An event handler has changed the state of a connection that cannot be recovered."""
    if connection in node() and not connection.is_reliable:
        record(connection)


def settle() -> None:
    """Have the publications of this turn of the loop with all reliable connections of this process."""
    node().settle()


def detach(connection: LiveConnection) -> None:
    """A connection can be reached no more: it has ended, or will as soon as its socket is closed."""
    here = node()
    if here.detach(connection) and connection.is_reliable and here.keeps:
        # From here on it is like any other: whoever looks after what this process leaves tells of its end.
        here.records.own(connection.hub, connection.id, connection.session.packed())
        here.append(connection.hub, Ended(connection.id))
        here.records.drop(connection.hub, connection.id)
    connection.groups.clear()


def ended(connection: LiveConnection, tell: Callable[[], None] | None = None) -> None:
    """A connection has ended here. `tell` is called if it is this process that has to tell so, and not another."""
    here = node()
    if tell is None or not here.keeps:
        here.records.disown(connection.id)
        if tell is not None:
            tell()
    else:
        here.endings.end(connection.id, tell)


async def all_told() -> None:
    """Wait until it is known of all connections that have ended here who tells so, for a few seconds at most."""
    await node().endings.all_told()


def departed(connection: LiveConnection, parted: Parted | None, tell: Callable[[], None]) -> None:
    """A connection is with another process now, or waits to be adopted.

    `parted`: what that process wants to know. `tell` is called if it turns out that nobody has the connection.
    """
    here = node()
    here.detach(connection)
    if parted is None:
        # This process was taken for dead: who adopts the connection has to find it first.
        return
    here.append(connection.hub, parted)
    here.records.disown(connection.id)
    here.endings.departed(connection.hub, connection.id, tell)


async def join_group(connection: LiveConnection, group: str, ack_id: int | None = None) -> None:
    """Make a connection a member of a group; joining twice is joining once, and who has gone joins nothing."""
    if group not in connection.groups and connection in node():
        await _join([connection], {"groups": [group]}, ack_id)


async def leave_group(connection: LiveConnection, group: str, ack_id: int | None = None) -> None:
    """End a membership; leaving a group one is not in succeeds."""
    if group in connection.groups and connection in node():
        await _leave([connection], {"groups": [group]}, ack_id)


# The log of a connection's hub


def keeps_log() -> bool:
    """Whether reliable connections can go on in other processes, by the log."""
    return node().keeps


def process() -> str:
    """The name of this process in the log."""
    return node().process


def stopped() -> bool:
    """Whether this process appends nothing more."""
    return node().stopped


def is_before(position: int, place: int) -> bool:
    """Whether an entry of a log is before a place in it."""
    return position << PLACE_BITS <= place


def place(hub: str) -> int:
    """The place in a hub's log up to which this process has applied it; 0 where none is kept."""
    return node().place(hub)


def is_here(connection: LiveConnection) -> bool:
    """Whether a connection can be reached in this process."""
    return connection in node()


def lives(process: str) -> bool:
    """Whether a process of the service lives, as far as this one has read."""
    return node().leases.lives(process)


def append(connection: LiveConnection, entry: Entry) -> asyncio.Future[None] | None:
    """Append an entry to the log of a connection's hub. The future fails with Unavailable."""
    return node().append(connection.hub, entry)


# Sending. Nobody there to get it is no error; `excluded` connections do not get it, nor do those
# that `filter` (text that rules/filters.py has accepted) is not true for. `ttl_secs` is how long a
# message may wait for a reliable client that is away; None or 0, as long as the client may be.
# Each returns when the message is in the log and with the members here; Unavailable means that it is not there, as
# far as is known, and servers may try again.


async def send_to_all(
    hub: str,
    payload: Payload,
    *,
    excluded: tuple[str, ...] = (),
    filter: str | None = None,
    metadata: Mapping[str, str] | None = None,
    ttl_secs: int | None = None,
) -> None:
    """Send a server message to every connection of a hub."""
    audience = Audience(canonical_hub(hub), filter=filter, excluded=excluded)
    await _publish(audience, payload, metadata, ttl_secs=ttl_secs)


async def send_to_group(
    hub: str,
    group: str,
    payload: Payload,
    *,
    from_user_id: str | None = None,
    excluded: tuple[str, ...] = (),
    filter: str | None = None,
    metadata: Mapping[str, str] | None = None,
    ttl_secs: int | None = None,
) -> None:
    """Publish to the members of a group. The sender needs no membership."""
    audience = Audience(canonical_hub(hub), group=group, filter=filter, excluded=excluded)
    await _publish(audience, payload, metadata, from_user_id, ttl_secs=ttl_secs)


def post_to_group(
    hub: str,
    group: str,
    payload: Payload,
    *,
    from_user_id: str | None = None,
    excluded: tuple[str, ...] = (),
    metadata: Mapping[str, str] | None = None,
    ttl_secs: int | None = None,
    sender: LiveConnection | None = None,
    ack_id: int | None = None,
) -> asyncio.Future[None] | None:
    """Publish for a client, without waiting; None where it has been delivered already.

    The future is done when the message is in the log and with the members here. It fails with Unavailable (see there).
    `sender`, `ack_id`: who may publish it again under the same ackId.
    """
    here = node()
    audience = Audience(canonical_hub(hub), group=group, excluded=excluded)
    publication = _publication(audience, payload, metadata, from_user_id, None, ttl_secs)
    if ack_id is not None and sender is not None and here.keeps and sender.is_reliable:
        publication = msgspec.structs.replace(publication, sender=sender.id, ack_id=ack_id)
    return here.post(publication)


async def send_to_user(
    hub: str,
    user_id: str,
    payload: Payload,
    *,
    filter: str | None = None,
    metadata: Mapping[str, str] | None = None,
    ttl_secs: int | None = None,
) -> None:
    """Send a server message to every connection of a user."""
    audience = Audience(canonical_hub(hub), user_id=user_id, filter=filter)
    await _publish(audience, payload, metadata, ttl_secs=ttl_secs)


async def send_to_connection(
    hub: str,
    connection_id: str,
    payload: Payload,
    *,
    metadata: Mapping[str, str] | None = None,
    ttl_secs: int | None = None,
) -> None:
    """Send a server message to one connection."""
    await _publish(Audience(canonical_hub(hub)), payload, metadata, connection=connection_id, ttl_secs=ttl_secs)


async def _publish(
    audience: Audience,
    payload: Payload,
    metadata: Mapping[str, str] | None,
    from_user_id: str | None = None,
    connection: str | None = None,
    ttl_secs: int | None = None,
) -> None:
    await applied(node().post(_publication(audience, payload, metadata, from_user_id, connection, ttl_secs)))


def _publication(
    audience: Audience,
    payload: Payload,
    metadata: Mapping[str, str] | None,
    from_user_id: str | None,
    connection: str | None,
    ttl_secs: int | None,
) -> Publication:
    copied = dict(metadata) if metadata else None
    return Publication(audience, payload.data_type, payload.data, from_user_id, copied, connection, ttl_secs or None)


# Closing. Each returns when the connections are gone from every process.


async def close_connection(hub: str, connection_id: str, reason: str | None = None) -> None:
    """Close one connection, wherever it lives. Raises NotFound."""
    await _ask("close", hub, connection_id, reason=reason)


async def close_all(hub: str, *, excluded: tuple[str, ...] = (), reason: str | None = None) -> None:
    """Close every connection of a hub."""
    await _ask_everybody("close", Audience(canonical_hub(hub), excluded=excluded), reason=reason)


async def close_group(hub: str, group: str, *, excluded: tuple[str, ...] = (), reason: str | None = None) -> None:
    """Close every connection that is a member of a group."""
    await _ask_everybody("close", Audience(canonical_hub(hub), group=group, excluded=excluded), reason=reason)


async def close_user(hub: str, user_id: str, *, excluded: tuple[str, ...] = (), reason: str | None = None) -> None:
    """Close every connection of a user."""
    await _ask_everybody("close", Audience(canonical_hub(hub), user_id=user_id, excluded=excluded), reason=reason)


# Who is there


async def connection_exists(hub: str, connection_id: str) -> bool:
    """Tell whether a connection is open, in any process."""
    try:
        return bool(await _ask("count", hub, connection_id))
    except NotFound:
        return False


async def group_exists(hub: str, group: str) -> bool:
    """Tell whether a group has a member."""
    return await _ask_everybody("count", Audience(canonical_hub(hub), group=group)) > 0


async def user_exists(hub: str, user_id: str) -> bool:
    """Tell whether a user has a connection."""
    return await _ask_everybody("count", Audience(canonical_hub(hub), user_id=user_id)) > 0


async def list_group(hub: str, group: str, *, after: str | None, limit: int) -> list[tuple[str, str | None]]:
    """Give connection id and user id of a group's members, in order of the id.

    At most `limit` of them, beginning behind the id `after`: members that come and go meanwhile
    neither repeat nor hide others.
    """
    audience = Audience(canonical_hub(hub), group=group)
    pages = await node().ask_everybody("list", audience, {"after": after, "limit": limit})
    # By id: a connection that changes process just now may be told of by both.
    merged: dict[str, str | None] = dict(heapq.merge(*pages, key=lambda row: row[0]))
    return list(islice(merged.items(), limit))


# Memberships given by servers; they need no role, and give none


async def add_connection_to_group(hub: str, connection_id: str, group: str) -> None:
    """Make one connection a member of a group. Raises NotFound, TooMany."""
    await _ask("join", hub, connection_id, groups=[group])


async def remove_connection_from_group(hub: str, connection_id: str, group: str) -> None:
    """End one connection's membership of a group. Raises NotFound."""
    await _ask("leave", hub, connection_id, groups=[group])


async def remove_connection_from_all_groups(hub: str, connection_id: str) -> None:
    """End all memberships of one connection. Raises NotFound."""
    await _ask("leave", hub, connection_id, groups=None)


async def add_user_to_group(hub: str, user_id: str, group: str) -> None:
    """Make the present connections of a user members of a group. Raises NotFound when there are none."""
    if not await _ask_everybody("join", Audience(canonical_hub(hub), user_id=user_id), groups=[group]):
        raise NotFound(f"User `{user_id}` is not found.")


async def remove_user_from_group(hub: str, user_id: str, group: str) -> None:
    """End the membership of all connections of a user in a group."""
    await _ask_everybody("leave", Audience(canonical_hub(hub), group=group, user_id=user_id), groups=[group])


async def remove_user_from_all_groups(hub: str, user_id: str) -> None:
    """End all memberships of all connections of a user."""
    await _ask_everybody("leave", Audience(canonical_hub(hub), user_id=user_id), groups=None)


async def add_to_groups(hub: str, groups: Sequence[str], filter: str | None = None) -> None:
    """Make the present connections of a hub members of groups."""
    await _ask_everybody("join", Audience(canonical_hub(hub), filter=filter), groups=list(groups))


async def remove_from_groups(hub: str, groups: Sequence[str], filter: str | None = None) -> None:
    """End the membership of the present connections of a hub in groups."""
    await _ask_everybody("leave", Audience(canonical_hub(hub), filter=filter), groups=list(groups))


# Permissions of one connection, changed while it is open


async def grant(hub: str, connection_id: str, permission: str, group: str) -> None:
    """Let a connection use `permission` on one group, from now on. Raises NotFound, TooMany."""
    await _ask("grant", hub, connection_id, permission=permission, group=group)


async def revoke(hub: str, connection_id: str, permission: str, group: str) -> None:
    """Deny a connection `permission` on one group, whatever roles it has. Raises NotFound, TooMany."""
    await _ask("revoke", hub, connection_id, permission=permission, group=group)


async def check(hub: str, connection_id: str, permission: str, group: str) -> bool:
    """Tell whether a connection may use `permission` on a group. Raises NotFound."""
    return bool(await _ask("check", hub, connection_id, permission=permission, group=group))


async def _ask(verb: str, hub: str, connection_id: str, **arguments: Any) -> Any:
    return await node().ask(verb, canonical_hub(hub), connection_id, arguments)


async def _ask_everybody(verb: str, audience: Audience, **arguments: Any) -> int:
    """Ask, and add up the numbers that come back."""
    return sum(await node().ask_everybody(verb, audience, arguments))


# What a process does when it is asked. Each row gets the connections of this process that are
# meant; most give how many these were.

Answering = TypeVar("Answering", bound=Callable[[Sequence[LiveConnection], dict[str, Any]], Awaitable[Any]])


def answers(verb: str) -> Callable[[Answering], Answering]:
    """Have a function answer `verb`: it gets the connections of this process that are meant, and the arguments."""

    def register(function: Answering) -> Answering:
        ANSWERS[verb] = function
        return function

    return register


@answers("count")
async def _count(connections: Sequence[LiveConnection], arguments: dict[str, Any]) -> int:
    return len(connections)


@answers("list")
async def _list(connections: Sequence[LiveConnection], arguments: dict[str, Any]) -> list[tuple[str, str | None]]:
    after = arguments["after"] or ""
    rows = ((connection.id, connection.user_id) for connection in connections if connection.id > after)
    return heapq.nsmallest(arguments["limit"], rows, key=lambda row: row[0])


@answers("close")
async def _close(connections: Sequence[LiveConnection], arguments: dict[str, Any]) -> int:
    reason = arguments.get("reason")
    # Applications compare this text.
    message = "Application server closed the connection." + (f" Reason: {reason}" if reason else "")
    for connection in connections:
        connection.close(*close_codes.closed_by_service(reason or "").frame, message=message)
    return len(connections)


@answers("join")
async def _join(connections: Sequence[LiveConnection], arguments: dict[str, Any], ack_id: int | None = None) -> int:
    most = conf.settings.MAX_GROUPS_PER_CONNECTION
    for connection in connections:
        if len(connection.groups.union(arguments["groups"])) > most:
            raise TooMany(f"A connection can be in at most {most} groups.")
    return await _change("join", connections, arguments, ack_id)


@answers("leave")
async def _leave(connections: Sequence[LiveConnection], arguments: dict[str, Any], ack_id: int | None = None) -> int:
    return await _change("leave", connections, arguments, ack_id)


@answers("grant")
async def _grant(connections: Sequence[LiveConnection], arguments: dict[str, Any]) -> int:
    _try_permission(connections, arguments, allowed=True)
    return await _change("grant", connections, arguments)


@answers("revoke")
async def _revoke(connections: Sequence[LiveConnection], arguments: dict[str, Any]) -> int:
    _try_permission(connections, arguments, allowed=False)
    return await _change("revoke", connections, arguments)


@answers("check")
async def _check(connections: Sequence[LiveConnection], arguments: dict[str, Any]) -> bool:
    return all(connection.permissions[arguments["permission"]].allows(arguments["group"]) for connection in connections)


# What changes a connection. That of a reliable one is an entry of its hub's log, where there is one, and happens when
# that is read; so it has a place among the publications, the same one for whoever goes on with the connection.


async def _change(
    verb: str, connections: Sequence[LiveConnection], arguments: dict[str, Any], ack_id: int | None = None
) -> int:
    here = node()
    logged: dict[str, list[LiveConnection]] = {}
    for connection in connections:
        if here.keeps and connection.is_reliable:
            logged.setdefault(connection.hub, []).append(connection)
        else:
            CHANGES[verb](connection, arguments, 0)
    for hub, together in logged.items():
        for start in range(0, len(together), MAX_CHANGED_TOGETHER):
            some = together[start : start + MAX_CHANGED_TOGETHER]
            await applied(here.append(hub, Change(verb, [connection.id for connection in some], arguments, ack_id)))
        for connection in together:
            if connection not in here:
                # It has ended meanwhile, or gone on in another process.
                with suppress(NotFound):
                    await _ask(verb, connection.hub, connection.id, **arguments)
    return len(connections)


Changing = TypeVar("Changing", bound=Callable[[Any, dict[str, Any], int], None])


def changes(verb: str) -> Callable[[Changing], Changing]:
    """Have a function do `verb` with a connection: it gets that, the arguments, and the place in the log or 0."""

    def register(function: Changing) -> Changing:
        CHANGES[verb] = function
        return function

    return register


@changes("join")
def _joined(connection: LiveConnection, arguments: dict[str, Any], place: int) -> None:
    here = node()
    for group in arguments["groups"]:
        if group in connection.groups or len(connection.groups) >= conf.settings.MAX_GROUPS_PER_CONNECTION:
            continue
        connection.groups.add(group)
        if connection in here:
            here.registry.join(connection, group)
        _note(connection, place, group, joined=True)


@changes("leave")
def _left(connection: LiveConnection, arguments: dict[str, Any], place: int) -> None:
    here = node()
    groups = arguments["groups"]
    for group in list(connection.groups) if groups is None else groups:
        if group not in connection.groups:
            continue
        # What was published before is numbered first: who leaves has had it.
        here.settle()
        connection.groups.discard(group)
        if connection in here:
            here.registry.leave(connection, group)
        _note(connection, place, group, joined=False)


def _note(connection: LiveConnection, place: int, group: str, *, joined: bool) -> None:
    if place:
        if connection.changes is None:
            connection.changes = []
        connection.changes.append((place, group, joined))
        if len(connection.changes) > MAX_CHANGES:
            connection.close(*close_codes.TOO_MANY_CHANGES.frame)


@changes("grant")
def _granted(connection: LiveConnection, arguments: dict[str, Any], place: int) -> None:
    _set_permission(connection.permissions, arguments, allowed=True)


@changes("revoke")
def _revoked(connection: LiveConnection, arguments: dict[str, Any], place: int) -> None:
    _set_permission(connection.permissions, arguments, allowed=False)


def _try_permission(connections: Sequence[LiveConnection], arguments: dict[str, Any], *, allowed: bool) -> None:
    """Raises TooMany if a connection has no room for it."""
    for connection in connections:
        _set_permission(Permissions.unpacked(connection.permissions.packed()), arguments, allowed=allowed)


def _set_permission(permissions: Permissions, arguments: dict[str, Any], *, allowed: bool) -> None:
    try:
        permissions[arguments["permission"]].set_literal(arguments["group"], allowed)
    except TooManyOverrides as problem:
        raise TooMany(str(problem)) from None
