"""The service, for Django apps that run in its own processes: send, and see to groups, without HTTP.

    from hubs.service import ServiceClient

    chat = ServiceClient("chat")

    await chat.send_to_group("lobby", {"text": "The shop is open."})
    async_to_sync(chat.send_to_user)("ann", "Your parcel is here.")  # from plain code

The methods are called as those of the official Python SDK, so an app that moves out of the process
changes one line. They work where the service's own event loop runs them: in event handlers, views and
whatever these call. Commands, task queues and other programs use the SDK and a connection string.

This is a door, as REST is one: what comes in is checked here, with a ValueError for the app's own
mistakes. What the service cannot do raises as the operations do (hubs/errors.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hubs import conf, operations
from hubs.errors import NotFound, Unavailable
from hubs.protocols.frames import Payload
from hubs.protocols.metadata import is_metadata
from hubs.protocols.validity import MAX_TTL_SECS
from hubs.rules.filters import InvalidFilter, compile_filter
from hubs.rules.names import canonical_hub, is_group_name, is_hub_name
from hubs.upstream import Reply

__all__ = ["NotFound", "ServiceClient", "Unavailable"]


class ServiceClient:
    """One hub. A message is a text, bytes, or anything JSON can say."""

    def __init__(self, hub: str) -> None:
        if not is_hub_name(hub):
            raise ValueError(f"{hub!r} is not a hub name")
        self.hub = canonical_hub(hub)

    async def send_to_all(
        self,
        message: Any,
        *,
        excluded: Sequence[str] = (),
        filter: str | None = None,
        metadata: Mapping[str, str] | None = None,
        message_ttl_seconds: int | None = None,
    ) -> None:
        """Send to every connection of the hub, but those with an id in `excluded`."""
        await operations.send_to_all(
            self.hub,
            _payload(message),
            excluded=tuple(excluded),
            **_checked(filter, metadata, message_ttl_seconds),
        )

    async def send_to_group(
        self,
        group: str,
        message: Any,
        *,
        excluded: Sequence[str] = (),
        filter: str | None = None,
        metadata: Mapping[str, str] | None = None,
        message_ttl_seconds: int | None = None,
    ) -> None:
        """Send to the members of a group, but connections with an id in `excluded`."""
        await operations.send_to_group(
            self.hub,
            _group(group),
            _payload(message),
            excluded=tuple(excluded),
            **_checked(filter, metadata, message_ttl_seconds),
        )

    async def send_to_user(
        self,
        user_id: str,
        message: Any,
        *,
        filter: str | None = None,
        metadata: Mapping[str, str] | None = None,
        message_ttl_seconds: int | None = None,
    ) -> None:
        """Send to every connection of a user."""
        await operations.send_to_user(
            self.hub, user_id, _payload(message), **_checked(filter, metadata, message_ttl_seconds)
        )

    async def send_to_connection(
        self,
        connection_id: str,
        message: Any,
        *,
        metadata: Mapping[str, str] | None = None,
        message_ttl_seconds: int | None = None,
    ) -> None:
        """Send to one connection; where it has gone, to nobody."""
        said = _checked(None, metadata, message_ttl_seconds)
        del said["filter"]
        await operations.send_to_connection(self.hub, connection_id, _payload(message), **said)

    async def add_connection_to_group(self, group: str, connection_id: str) -> None:
        """Make a connection a member of a group. Raises NotFound where it has gone."""
        await operations.add_connection_to_group(self.hub, connection_id, _group(group))

    async def remove_connection_from_group(self, group: str, connection_id: str) -> None:
        """End a connection's membership of a group. Raises NotFound where it has gone."""
        await operations.remove_connection_from_group(self.hub, connection_id, _group(group))

    async def add_user_to_group(self, group: str, user_id: str) -> None:
        """Make the present connections of a user members of a group. Raises NotFound when there are none."""
        await operations.add_user_to_group(self.hub, user_id, _group(group))

    async def remove_user_from_group(self, group: str, user_id: str) -> None:
        """End the membership of all connections of a user in a group."""
        await operations.remove_user_from_group(self.hub, user_id, _group(group))

    async def close_connection(self, connection_id: str, *, reason: str | None = None) -> None:
        """Close a connection, and tell its client why. Raises NotFound where it has gone."""
        await operations.close_connection(self.hub, connection_id, reason)


def _payload(message: Any) -> Payload:
    payload = message if isinstance(message, Payload) else Reply.of(message).payload
    if payload is None:
        raise ValueError("a message is a text, bytes, or anything JSON can say but null")
    if len(payload.data) > conf.settings.MAX_MESSAGE_BYTES:
        raise ValueError(f"the message has more than {conf.settings.MAX_MESSAGE_BYTES} bytes")
    return payload


def _group(name: str) -> str:
    if not is_group_name(name):
        raise ValueError("a group's name has 1 to 1024 characters, not only spaces")
    return name


def _checked(filter: str | None, metadata: Mapping[str, str] | None, ttl_secs: int | None) -> dict[str, Any]:
    try:
        if filter:
            compile_filter(filter)
    except InvalidFilter as problem:
        raise ValueError(f"the filter cannot be read: {problem}") from None
    if metadata and not is_metadata(metadata.items()):
        raise ValueError("metadata have keys of letters, digits and dashes, and ASCII values; 8 KiB in all")
    if ttl_secs is not None and not 0 <= ttl_secs <= MAX_TTL_SECS:
        raise ValueError(f"message_ttl_seconds is from 0 to {MAX_TTL_SECS}")
    return {"filter": filter or None, "metadata": metadata, "ttl_secs": ttl_secs}
