"""Every verb of the service, on connections of this process."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hubs import operations
from hubs.errors import NotFound, TooMany
from hubs.node.node import Node, node
from hubs.protocols.codec import CODECS, Outgoing
from hubs.protocols.frames import GroupMessage, Payload
from hubs.rules.roles import MAX_LITERALS, Permissions

HI = Payload("text", b"hi")


@pytest.fixture(autouse=True)
async def here() -> AsyncIterator[Node]:
    """The node that the operations of this test use."""
    own = node()
    yield own
    await own.stop()


class Client:
    """A connection that keeps what it is told."""

    def __init__(self, hub: str = "chat", user_id: str | None = None) -> None:
        self.id = node().new_connection_id()
        self.hub = hub
        self.user_id = user_id
        self.subprotocol: str | None = None
        self.groups: set[str] = set()
        self.permissions = Permissions()
        self.frames: list[Any] = []
        self.closed: list[tuple[int, str, str | None]] = []

    socket = None
    is_reliable = False
    changes = None
    codec: Any = CODECS["json.webpubsub.azure.v1"]

    def deliver(self, outgoing: Outgoing) -> None:
        self.frames.append(outgoing.frame)

    def close(self, code: int, reason: str, *, message: str | None = None) -> None:
        self.closed.append((code, reason, message))


async def _attached(*groups: str, hub: str = "chat") -> Client:
    client = Client(hub)
    await operations.attach(client, groups)
    return client


UNKNOWN = secrets.token_hex(16)


# Coming and going


async def test_attached_connections_are_there_with_their_groups(here: Node) -> None:
    client = await _attached("a", "b")
    assert client.groups == {"a", "b"}
    assert len(here) == 1
    await operations.send_to_group("chat", "b", HI)
    assert client.frames == [GroupMessage("b", HI)]


async def test_detached_connections_are_gone(here: Node) -> None:
    client = await _attached("a", "b")
    operations.detach(client)
    operations.detach(client)
    assert client.groups == set()
    assert len(here) == 0
    await operations.send_to_group("chat", "a", HI)
    assert client.frames == []
    assert not await operations.connection_exists("chat", client.id)


async def test_joining_and_leaving_are_idempotent() -> None:
    client = await _attached()
    for _ in range(2):
        await operations.join_group(client, "g")
    await operations.send_to_group("chat", "g", HI)
    assert client.frames == [GroupMessage("g", HI)]
    for _ in range(2):
        await operations.leave_group(client, "g")
    await operations.send_to_group("chat", "g", HI)
    assert len(client.frames) == 1


async def test_groups_per_connection_are_bounded(settings: Any) -> None:
    settings.WEBPUBSUB = settings.WEBPUBSUB | {"MAX_GROUPS_PER_CONNECTION": 2}
    client = await _attached("a", "b")
    with pytest.raises(TooMany, match="at most 2 groups"):
        await operations.join_group(client, "c")
    await operations.join_group(client, "a")
    await operations.leave_group(client, "b")
    await operations.join_group(client, "c")
    assert client.groups == {"a", "c"}


# Sending


async def test_sending_to_a_group() -> None:
    members = [await _attached("g") for _ in range(3)]
    other = await _attached("g", hub="other")
    await operations.send_to_group(
        "CHAT", "g", HI, from_user_id="u", metadata={"a": "b"}, excluded=(members[0].id, "unknown")
    )
    assert [client.frames for client in members] == [[], *[[GroupMessage("g", HI, "u", {"a": "b"})]] * 2]
    assert other.frames == []


async def test_what_the_caller_changes_later_is_not_sent() -> None:
    client = await _attached("g")
    metadata = {"a": "b"}
    await operations.send_to_group("chat", "g", HI, metadata=metadata)
    metadata["a"] = "changed"
    assert client.frames == [GroupMessage("g", HI, None, {"a": "b"})]
    await operations.send_to_group("chat", "g", HI, metadata={})
    assert client.frames[-1] == GroupMessage("g", HI)


async def test_sending_to_nobody() -> None:
    await operations.send_to_group("nowhere", "g", HI)


# One connection


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("too loud", (1000, "too loud", "Application server closed the connection. Reason: too loud")),
        ("", (1000, "", "Application server closed the connection.")),
        (None, (1000, "", "Application server closed the connection.")),
    ],
)
async def test_closing_a_connection(reason: str | None, told: tuple[int, str, str]) -> None:
    client, other = await _attached(), await _attached()
    await operations.close_connection("Chat", client.id, reason)
    assert client.closed == [told]
    assert other.closed == []


async def test_who_is_there() -> None:
    client = await _attached()
    assert await operations.connection_exists("CHAT", client.id)
    assert not await operations.connection_exists("other", client.id)
    for unknown in (UNKNOWN, node().new_connection_id(), "", "x", "é" * 32):
        assert not await operations.connection_exists("chat", unknown)


@pytest.mark.parametrize("permission", ["sendToGroup", "joinLeaveGroup"])
async def test_permissions_of_a_connection(permission: str) -> None:
    client = await _attached()
    other = {"sendToGroup": "joinLeaveGroup", "joinLeaveGroup": "sendToGroup"}[permission]
    assert not await operations.check("chat", client.id, permission, "g")
    await operations.grant("chat", client.id, permission, "g")
    assert await operations.check("Chat", client.id, permission, "g")
    assert not await operations.check("chat", client.id, permission, "G")
    assert not await operations.check("chat", client.id, other, "g")
    assert client.permissions[permission].allows("g")
    await operations.revoke("chat", client.id, permission, "g")
    assert not await operations.check("chat", client.id, permission, "g")


async def test_too_many_permissions() -> None:
    client = await _attached()
    for number in range(MAX_LITERALS):
        client.permissions["sendToGroup"].set_literal(str(number), True)
    with pytest.raises(TooMany, match="at most 1000 literal permissions"):
        await operations.grant("chat", client.id, "sendToGroup", "one more")


async def test_operations_on_a_connection_that_is_not_there() -> None:
    elsewhere = (await _attached(hub="other")).id
    for connection_id in (UNKNOWN, elsewhere, ""):
        for operation in (
            operations.close_connection("chat", connection_id, "r"),
            operations.grant("chat", connection_id, "sendToGroup", "g"),
            operations.revoke("chat", connection_id, "sendToGroup", "g"),
            operations.check("chat", connection_id, "sendToGroup", "g"),
        ):
            with pytest.raises(NotFound) as refused:
                await operation
            assert refused.value.message == f"Connection `{connection_id}` is not found."
