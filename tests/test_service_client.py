"""The service as Django apps in its own process call it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from hubs import operations
from hubs.node.node import Node, node
from hubs.protocols.codec import CODECS, Outgoing
from hubs.protocols.frames import BINARY, JSON, PROTOBUF, TEXT, GroupMessage, Payload, ServerMessage
from hubs.rules.roles import Permissions
from hubs.service import NotFound, ServiceClient


@pytest.fixture(autouse=True)
async def here() -> AsyncIterator[Node]:
    """The node of this test's loop."""
    own = node()
    yield own
    await own.stop()


class Client:
    """A connection that keeps what it is told."""

    def __init__(self, user_id: str | None = None, hub: str = "chat") -> None:
        self.id = node().new_connection_id()
        self.hub = hub
        self.user_id = user_id
        self.subprotocol: str | None = None
        self.groups: set[str] = set()
        self.permissions = Permissions()
        self.frames: list[Any] = []
        self.closed: list[str | None] = []

    socket = None
    is_reliable = False
    changes = None
    codec: Any = CODECS["json.webpubsub.azure.v1"]

    def deliver(self, outgoing: Outgoing) -> None:
        self.frames.append(outgoing.frame)

    def close(self, code: int, reason: str, *, message: str | None = None) -> None:
        self.closed.append(message)


async def attached(*groups: str, user_id: str | None = None, hub: str = "chat") -> Client:
    client = Client(user_id, hub)
    await operations.attach(client, groups)
    return client


chat = ServiceClient("Chat")


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        ("grüße", Payload(TEXT, "grüße".encode())),
        (b"\x00", Payload(BINARY, b"\x00")),
        ({"a": ["ü", 1]}, Payload(JSON, '{"a":["ü",1]}'.encode())),
        (0, Payload(JSON, b"0")),
        (Payload(PROTOBUF, b"\x0a\x01x"), Payload(PROTOBUF, b"\x0a\x01x")),
    ],
)
async def test_what_a_message_may_be(message: Any, payload: Payload) -> None:
    client = await attached("g")
    await chat.send_to_group("g", message)
    assert client.frames == [GroupMessage("g", payload)]


async def test_who_gets_a_message() -> None:
    ann, bob, elsewhere = await attached("g", user_id="ann"), await attached("g"), await attached("g", hub="other")
    clients = {"ann": ann, "bob": bob, "elsewhere": elsewhere}

    async def heard(sending: Any) -> list[str]:
        await sending
        names = [name for name, client in clients.items() if client.frames]
        for client in clients.values():
            client.frames.clear()
        return names

    assert await heard(chat.send_to_all("x")) == ["ann", "bob"]
    assert await heard(chat.send_to_all("x", excluded=[ann.id])) == ["bob"]
    assert await heard(chat.send_to_all("x", filter="userId eq 'ann'")) == ["ann"]
    assert await heard(chat.send_to_group("g", "x", excluded=[bob.id])) == ["ann"]
    assert await heard(chat.send_to_group("g", "x", filter="userId eq null")) == ["bob"]
    assert await heard(chat.send_to_user("ann", "x")) == ["ann"]
    assert await heard(chat.send_to_user("ann", "x", filter="userId eq 'bob'")) == []
    assert await heard(chat.send_to_connection(bob.id, "x")) == ["bob"]
    assert await heard(chat.send_to_connection(elsewhere.id, "x")) == []


async def test_metadata_go_along() -> None:
    client = await attached()
    await chat.send_to_all("x", metadata={"colour": "teal"}, message_ttl_seconds=5)
    await chat.send_to_connection(client.id, "x", metadata={"colour": "teal"})
    assert client.frames == [ServerMessage(Payload(TEXT, b"x"), metadata={"colour": "teal"})] * 2


async def test_memberships_and_ends() -> None:
    client = await attached(user_id="ann")
    await chat.add_connection_to_group("a", client.id)
    await chat.add_user_to_group("b", "ann")
    assert client.groups == {"a", "b"}
    await chat.remove_connection_from_group("a", client.id)
    await chat.remove_user_from_group("b", "ann")
    assert client.groups == set()
    await chat.close_connection(client.id, reason="closing time")
    assert client.closed == ["Application server closed the connection. Reason: closing time"]
    with pytest.raises(NotFound):
        await chat.add_user_to_group("b", "nobody")


async def test_plain_code_in_a_thread_reaches_the_loop() -> None:
    client = await attached("g")

    def plain() -> None:
        async_to_sync(chat.send_to_group)("g", "from a thread")

    await asyncio.wait_for(sync_to_async(plain, thread_sensitive=False)(), 10)
    assert client.frames == [GroupMessage("g", Payload(TEXT, b"from a thread"))]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"message": None}, "anything JSON can say but null"),
        ({"message": float("nan")}, "JSON compliant"),
        ({"message": "x" * (1 << 20) + "x"}, "more than 1048576 bytes"),
        ({"group": " "}, "a group's name"),
        ({"filter": "userId eq"}, "the filter cannot be read"),
        ({"metadata": {"a b": "c"}}, "metadata have keys"),
        ({"message_ttl_seconds": 301}, "from 0 to 300"),
    ],
)
async def test_an_apps_own_mistakes(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        await chat.send_to_group(**{"group": "g", "message": "x", **arguments})


def test_what_is_no_hub() -> None:
    with pytest.raises(ValueError, match="'1' is not a hub name"):
        ServiceClient("1")
