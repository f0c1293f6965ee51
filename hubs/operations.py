"""Every verb of the service, once.

A WebSocket frame, a REST call, an admin action and a command reach the same function here. The
callers have decided who may do what; these functions trust them. Refusals (hubs/errors.py) say
what was not done and why.

A verb about connections that may live anywhere has two halves: a function below that asks, and a
row of `ANSWERS` that says what a process does with those of its own connections that are meant.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol, TypeVar

from hubs import conf
from hubs.errors import NotFound, Refusal, TooMany, Unavailable
from hubs.messaging.envelope import Audience, Publication
from hubs.messaging.switchboard import ANSWERS, UNREACHABLE, Member, switchboard
from hubs.protocols.frames import Payload
from hubs.rules.names import canonical_hub
from hubs.rules.roles import Permissions, TooManyOverrides


class LiveConnection(Member, Protocol):
    """What operations need of a connection that lives in this process."""

    groups: set[str]
    permissions: Permissions

    def close(self, code: int, reason: str, *, message: str | None = None) -> None:
        """Say goodbye to the client and close its socket."""


# On a connection of this process


async def attach(connection: LiveConnection, groups: tuple[str, ...] = ()) -> None:
    """Make a new connection reachable, as a member of `groups`."""
    try:
        await switchboard().attach(connection)
    except Refusal:
        raise
    except Exception as problem:
        raise Unavailable(UNREACHABLE) from problem
    for group in groups:
        await join_group(connection, group)


def unreachable() -> str | None:
    """Why a client that came now could not be reached by other processes, for operators; None where it could."""
    if switchboard().is_reached:
        return None
    return "it cannot be reached, so what other processes publish would not arrive here; the log says why"


def opened(connection: LiveConnection) -> None:
    """The socket of a connection is open, which was attached before."""
    switchboard().opened(connection)


def settle() -> None:
    """Have the publications of this turn of the loop with all reliable connections of this process."""
    switchboard().settle()


def detach(connection: LiveConnection) -> None:
    """Forget a connection that ended, and all its memberships."""
    board = switchboard()
    board.detach(connection)
    for group in connection.groups:
        board.leave(connection, group)
    connection.groups.clear()


async def join_group(connection: LiveConnection, group: str) -> None:
    """Make a connection a member of a group; joining twice is joining once, and who has gone joins nothing."""
    if group in connection.groups or connection not in switchboard():
        return
    if len(connection.groups) >= conf.settings.MAX_GROUPS_PER_CONNECTION:
        raise TooMany(f"A connection can be in at most {conf.settings.MAX_GROUPS_PER_CONNECTION} groups.")
    connection.groups.add(group)
    try:
        await switchboard().join(connection, group)
    except BaseException as problem:
        # Also when cancelled: the switchboard has undone its half.
        connection.groups.discard(group)
        if isinstance(problem, Refusal) or not isinstance(problem, Exception):
            raise
        raise Unavailable(UNREACHABLE) from problem


async def leave_group(connection: LiveConnection, group: str) -> None:
    """End a membership; leaving a group one is not in succeeds."""
    connection.groups.discard(group)
    switchboard().leave(connection, group)


# Sending. Nobody there to get it is no error; `excluded` connections do not get it, nor do those
# that `filter` (text that rules/filters.py has accepted) is not true for. `ttl_secs` is how long a
# message may wait for a reliable client that is away; None or 0, as long as the client may be.
# Where the other processes cannot be reached nobody gets it: servers try again after such a refusal,
# and must not reach anybody twice.


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
    again: tuple[str, int] | None = None,
) -> asyncio.Future[None] | None:
    """Publish for a client: the members of its own process get it at once, also where others cannot be reached.

    The future, where there are other processes, tells when theirs will get it; it fails with Unavailable.
    `again`: what `Unavailable.published` said the last time; then those who have it do not get it twice.
    """
    audience = Audience(canonical_hub(hub), group=group, excluded=excluded)
    publication = _publication(audience, payload, metadata, from_user_id, None, ttl_secs)
    return switchboard().post(publication, again=again)


def posts_in_order() -> bool:
    """Whether a client's publications need not wait for each other to reach other processes in their order."""
    return switchboard().posts_in_order


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
    publication = _publication(audience, payload, metadata, from_user_id, connection, ttl_secs)
    await switchboard().publish(publication, all_or_nobody=True)


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
    pages = await switchboard().ask_everybody("list", audience, {"after": after, "limit": limit})
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
    return await switchboard().ask(verb, canonical_hub(hub), connection_id, arguments)


async def _ask_everybody(verb: str, audience: Audience, **arguments: Any) -> int:
    """Ask, and add up the numbers that come back."""
    return sum(await switchboard().ask_everybody(verb, audience, arguments))


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
        connection.close(1000, reason or "", message=message)
    return len(connections)


@answers("join")
async def _join(connections: Sequence[LiveConnection], arguments: dict[str, Any]) -> int:
    for connection in connections:
        for position, group in enumerate(arguments["groups"]):
            if connection not in switchboard():
                # It has ended meanwhile, or gone on in another process.
                with suppress(NotFound):
                    await _ask("join", connection.hub, connection.id, groups=arguments["groups"][position:])
                break
            await join_group(connection, group)
    return len(connections)


@answers("leave")
async def _leave(connections: Sequence[LiveConnection], arguments: dict[str, Any]) -> int:
    groups = arguments["groups"]
    for connection in connections:
        for group in list(connection.groups) if groups is None else groups:
            await leave_group(connection, group)
    return len(connections)


@answers("grant")
async def _grant(connections: Sequence[LiveConnection], arguments: dict[str, Any]) -> int:
    return _set_permission(connections, arguments, allowed=True)


@answers("revoke")
async def _revoke(connections: Sequence[LiveConnection], arguments: dict[str, Any]) -> int:
    return _set_permission(connections, arguments, allowed=False)


@answers("check")
async def _check(connections: Sequence[LiveConnection], arguments: dict[str, Any]) -> bool:
    return all(connection.permissions[arguments["permission"]].allows(arguments["group"]) for connection in connections)


def _set_permission(connections: Sequence[LiveConnection], arguments: dict[str, Any], *, allowed: bool) -> int:
    for connection in connections:
        try:
            connection.permissions[arguments["permission"]].set_literal(arguments["group"], allowed)
        except TooManyOverrides as problem:
            raise TooMany(str(problem)) from None
    return len(connections)
