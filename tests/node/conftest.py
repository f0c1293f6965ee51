"""Processes of the service as nodes that share a layer, and nothing else."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from hubs.cluster.entries import Publication
from hubs.connections import recovery
from hubs.layers.redis import RedisLayer
from hubs.node.node import Node
from hubs.protocols.codec import CODECS, Outgoing
from hubs.rules.audiences import Audience
from tests.running import PATIENCE, Redis

# It says what becomes of what a process leaves.
assert recovery.stop

# Processes that come and go within a test say hello faster than real ones.
HELLO_SECS = 0.05


async def soon(awaitable: Awaitable[Any]) -> Any:
    """Wait for something that has to happen."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def until(true: Callable[[], Any]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.005)


class Client:
    """A connection that keeps what it is told."""

    codec: Any = CODECS["json.webpubsub.azure.v1"]
    subprotocol = codec.name
    socket = owner = None

    def __init__(self, node: Node, hub: str = "chat", user_id: str | None = None) -> None:
        self.node = node
        self.id = node.new_connection_id()
        self.hub, self.user_id = hub, user_id
        self.groups: set[str] = set()
        self.outgoing: list[Outgoing] = []
        self.departed: list[bool] = []
        self.lost = 0

    async def attach(self, *groups: str) -> Client:
        self.groups.update(groups)
        member: Any = self
        await soon(self.node.attach(member))
        return self

    def deliver(self, outgoing: Outgoing) -> None:
        self.outgoing.append(outgoing)

    def depart(self, *, taken_over: bool) -> None:
        self.departed.append(taken_over)
        member: Any = self
        self.node.detach(member)

    def lose_messages(self) -> None:
        self.lost += 1

    @property
    def texts(self) -> list[str]:
        frames: list[Any] = [outgoing.frame for outgoing in self.outgoing]
        return [frame.payload.data.decode() for frame in frames]

    async def hears(self, text: str) -> None:
        await until(lambda: text in self.texts)


def publication(text: str, group: str | None = "g", connection: str | None = None, **audience: Any) -> Publication:
    """Something short to publish."""
    where = Audience(**{"hub": "chat", "group": group} | audience)
    return Publication(where, "text", text.encode(), connection=connection)


async def publish(node: Node, *publications: Publication) -> None:
    """Publish, and wait until it is known how that went."""
    posted = [node.post(each) for each in publications]
    await soon(asyncio.gather(*[each for each in posted if each is not None]))


async def meet(*nodes: Node) -> None:
    """Start processes and wait until each knows all others."""
    for node in nodes:
        await soon(node.start())
    for node in nodes:
        others = {other.process for other in nodes if other is not node and not other.log.alone}
        await until(lambda node=node, others=others: node.others() == others)


Nodes = Callable[[], Node]


@pytest.fixture(params=["memory", "ours", "pubsub"])
async def process(request: pytest.FixtureRequest, redis_server: Redis) -> AsyncIterator[Nodes]:
    """Makes processes that share a layer; with a layer in memory, one that is alone."""
    kind, prefix = request.param, f"test-{secrets.token_hex(4)}"
    made: list[tuple[Node, Any]] = []

    def make() -> Node:
        layer: Any = InMemoryChannelLayer()
        if kind != "memory":
            layer = {"ours": RedisLayer, "pubsub": RedisPubSubChannelLayer}[kind](
                hosts=[redis_server.url], prefix=prefix
            )
        made.append((Node(layer, hello_secs=HELLO_SECS), layer))
        return made[-1][0]

    yield make
    for node, layer in made:
        await soon(node.stop())
        await soon(layer.flush())
