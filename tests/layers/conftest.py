"""Layers of processes that share a Redis, and listeners on them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis as Client

from hubs.layers.errors import LayerAway, LayerFull, LayerInDoubt
from hubs.layers.positions import Position, position_of
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
        self.gaps: asyncio.Queue[str] = asyncio.Queue()
        # All that came: the group, the position and the message of an entry, or the group of a gap.
        self.heard: list[tuple[str, Position, Message] | str] = []

    async def open(self, *groups: str, after: Position | None = None) -> Ear:
        self.channel = await soon(self.layer.new_channel())
        self.end = self.layer.listen(self.channel, self._entry, self.lines.put_nowait, self._gap)
        for group in groups:
            await soon(self.layer.group_add(group, self.channel, after=after))
        return self

    def _entry(self, group: str, position: Position, message: Message) -> None:
        self.heard.append((group, position, message))
        self.messages.put_nowait(message)

    def _gap(self, group: str) -> None:
        self.heard.append(group)
        self.gaps.put_nowait(group)

    async def hears(self) -> Message:
        return await soon(self.messages.get())

    async def hears_up_to(self, last: Message) -> list[Message]:
        """All messages that come, up to one."""
        messages = [await self.hears()]
        while messages[-1] != last:
            messages.append(await self.hears())
        return messages

    async def line(self) -> bool:
        return await soon(self.lines.get())

    async def gap(self) -> str:
        return await soon(self.gaps.get())


async def in_log(client: Client, prefix: str, group: str = "g") -> dict[int, Position]:
    """The numbers of the entries that a log has, with their positions, in order. None is there twice."""
    entries: Any = await client.xrange(f"{prefix}:log:{group}")
    found = [(msgspec.msgpack.decode(fields[b"m"]), position_of(key)) for key, fields in entries if b"m" in fields]
    numbers = [message["n"] for message, _ in found if "n" in message]
    assert len(set(numbers)) == len(numbers)
    return {message["n"]: position for message, position in found if "n" in message}


class Claims:
    """What was said of posts, by their numbers, and whether it is true."""

    def __init__(self) -> None:
        self.futures: dict[int, asyncio.Future[Position]] = {}

    def post(self, layer: RedisLayer, count: int, group: str = "g") -> None:
        for _ in range(count):
            number = len(self.futures)
            self.futures[number] = layer.post(group, {"n": number})

    async def all_said(self) -> None:
        await soon(asyncio.wait(self.futures.values()))

    def kinds(self) -> set[type]:
        return {type(future.exception()) for future in self.futures.values()}

    async def are_true(self, client: Client, prefix: str, group: str = "g", *, in_order: bool = True) -> None:
        """Hold what was said, then and later, against the log."""
        expected: dict[int, Position] = {}
        for number, future in self.futures.items():
            problem = future.exception()
            if problem is None:
                expected[number] = future.result()
            elif isinstance(problem, LayerInDoubt):
                position = await soon(problem.outcome)
                if position is not None:
                    expected[number] = position
            else:
                assert type(problem) in (LayerAway, LayerFull)
        found = await in_log(client, prefix, group)
        assert found == expected
        assert not in_order or list(found) == sorted(found)


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[str]:
    """Something that is not a Redis in good health: each thing that comes is answered with the next of these."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536) and left:
            writer.write(left.pop(0) if len(left) > 1 else left[0])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


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


@pytest.fixture
def keeping_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis for one test that has everything again when it is started again."""
    redis = Redis(tmp_path_factory.mktemp("redis"), "--appendonly", "yes")
    yield redis.start()
    redis.stop()
