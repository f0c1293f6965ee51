"""Layers of processes that share a Redis, and listeners on them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from hubs.layers.redis import RedisLayer
from tests.running import PATIENCE, Redis

Message = dict[str, Any]


async def soon(awaitable: Awaitable[Any]) -> Any:
    """Wait for something that has to happen."""
    return await asyncio.wait_for(awaitable, PATIENCE)


class Ear:
    """Listens on a channel of its own, and keeps what it hears."""

    def __init__(self, layer: RedisLayer) -> None:
        self.layer = layer
        self.channel = ""
        self.end: Callable[[], None] = lambda: None
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.lines: asyncio.Queue[bool] = asyncio.Queue()

    async def open(self, *groups: str) -> Ear:
        self.channel = await soon(self.layer.new_channel())
        self.end = self.layer.listen(self.channel, self.messages.put_nowait, self.lines.put_nowait)
        for group in groups:
            await soon(self.layer.group_add(group, self.channel))
        return self

    async def hears(self) -> Message:
        return await soon(self.messages.get())

    async def line(self) -> bool:
        return await soon(self.lines.get())


Layers = Callable[..., RedisLayer]


@pytest.fixture
def prefix() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
async def layers(redis_server: Redis, prefix: str) -> AsyncIterator[Layers]:
    """Makes layers of ours, each a process of its own; on the shared Redis unless told otherwise."""
    made: list[RedisLayer] = []

    def make(url: str = redis_server.url, **options: Any) -> RedisLayer:
        made.append(RedisLayer(**{"hosts": [url], "prefix": prefix} | options))
        return made[-1]

    yield make
    for layer in made:
        await soon(layer.flush())


@pytest.fixture
async def asked(redis_server: Redis) -> AsyncIterator[Client]:
    """A client of the shared Redis, to ask what it saw."""
    async with Client.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis for one test, to be stopped and started."""
    redis = Redis(tmp_path_factory.mktemp("redis"))
    yield redis.start()
    redis.stop()
