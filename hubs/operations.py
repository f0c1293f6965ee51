"""Every verb of the service, once.

A WebSocket frame, a REST call, an admin action and a command reach the same function here. The
callers have decided who may do what; these functions trust them. Refusals (hubs/errors.py) say
what was not done and why.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from hubs import conf
from hubs.errors import NotFound, Refusal, TooMany
from hubs.messaging.envelope import Publication
from hubs.messaging.switchboard import ANSWERS, Member, switchboard
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
    await switchboard().attach(connection)
    for group in groups:
        await join_group(connection, group)


def detach(connection: LiveConnection) -> None:
    """Forget a connection that ended, and all its memberships."""
    board = switchboard()
    board.detach(connection)
    for group in connection.groups:
        board.leave(connection, group)
    connection.groups.clear()


async def join_group(connection: LiveConnection, group: str) -> None:
    """Make a connection a member of a group; joining twice is joining once."""
    if group in connection.groups:
        return
    if len(connection.groups) >= conf.settings.MAX_GROUPS_PER_CONNECTION:
        raise TooMany(f"A connection can be in at most {conf.settings.MAX_GROUPS_PER_CONNECTION} groups.")
    connection.groups.add(group)
    try:
        await switchboard().join(connection, group)
    except Refusal:
        connection.groups.discard(group)
        raise
    except Exception as problem:
        connection.groups.discard(group)
        raise Refusal("The other servers of this service cannot be reached.") from problem


async def leave_group(connection: LiveConnection, group: str) -> None:
    """End a membership; leaving a group one is not in succeeds."""
    connection.groups.discard(group)
    switchboard().leave(connection, group)


# On the service as a whole


async def send_to_group(
    hub: str,
    group: str,
    payload: Payload,
    *,
    from_user_id: str | None = None,
    metadata: Mapping[str, str] | None = None,
    excluded: tuple[str, ...] = (),
) -> None:
    """Publish to all members of a group, in every process, but the `excluded` connections.

    The sender needs no membership, and a group without members is no error.
    """
    await switchboard().publish(
        Publication(
            hub=canonical_hub(hub),
            group=group,
            data_type=payload.data_type,
            data=payload.data,
            from_user_id=from_user_id,
            metadata=dict(metadata) if metadata else None,
            excluded=excluded,
        )
    )


async def close_connection(hub: str, connection_id: str, reason: str | None = None) -> None:
    """Close one connection, wherever it lives. Raises NotFound."""
    await _ask("close", hub, connection_id, reason=reason)


async def connection_exists(hub: str, connection_id: str) -> bool:
    """Tell whether a connection is open, in any process. Never raises NotFound."""
    try:
        return await _ask("exists", hub, connection_id)
    except NotFound:
        return False


async def grant(hub: str, connection_id: str, permission: str, group: str) -> None:
    """Let a connection use `permission` on one group, from now on. Raises NotFound, TooMany."""
    await _ask("grant", hub, connection_id, permission=permission, group=group)


async def revoke(hub: str, connection_id: str, permission: str, group: str) -> None:
    """Deny a connection `permission` on one group, whatever roles it has. Raises NotFound, TooMany."""
    await _ask("revoke", hub, connection_id, permission=permission, group=group)


async def check(hub: str, connection_id: str, permission: str, group: str) -> bool:
    """Tell whether a connection may use `permission` on a group. Raises NotFound."""
    return await _ask("check", hub, connection_id, permission=permission, group=group)


async def _ask(verb: str, hub: str, connection_id: str, **arguments: str | None) -> bool:
    return await switchboard().ask(verb, canonical_hub(hub), connection_id, arguments)


# What the home of a connection does when it is asked

Answering = TypeVar("Answering", bound=Callable[[LiveConnection, dict[str, str | None]], Awaitable[bool]])


def _answers(verb: str) -> Callable[[Answering], Answering]:
    def register(function: Answering) -> Answering:
        ANSWERS[verb] = function
        return function

    return register


@_answers("exists")
async def _exists(connection: LiveConnection, arguments: dict[str, str | None]) -> bool:
    return True


@_answers("close")
async def _close(connection: LiveConnection, arguments: dict[str, str | None]) -> bool:
    reason = arguments.get("reason")
    # Applications compare this text.
    message = "Application server closed the connection." + (f" Reason: {reason}" if reason else "")
    connection.close(1000, reason or "", message=message)
    return True


@_answers("grant")
async def _grant(connection: LiveConnection, arguments: dict[str, str | None]) -> bool:
    return _set_permission(connection, arguments, allowed=True)


@_answers("revoke")
async def _revoke(connection: LiveConnection, arguments: dict[str, str | None]) -> bool:
    return _set_permission(connection, arguments, allowed=False)


@_answers("check")
async def _check(connection: LiveConnection, arguments: dict[str, str | None]) -> bool:
    return connection.permissions[arguments["permission"] or ""].allows(arguments["group"] or "")


def _set_permission(connection: LiveConnection, arguments: dict[str, str | None], *, allowed: bool) -> bool:
    try:
        connection.permissions[arguments["permission"] or ""].set_literal(arguments["group"] or "", allowed)
    except TooManyOverrides as problem:
        raise TooMany(str(problem)) from None
    return True
