"""Processes with a log between them, on each kind of layer that the service runs on, and real Redis."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.asyncio import Redis as Client

from hubs.cluster.entries import CONTROL_LOG, Ended, Entry, Goodbye, Hello
from hubs.cluster.leases import Leases
from hubs.cluster.log import Log, log_on
from hubs.layers.redis import RedisLayer
from tests import running
from tests.proxy import CuttingProxy
from tests.running import PATIENCE, Redis


async def soon(awaitable: Awaitable[Any]) -> Any:
    """Wait for something that has to happen."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def until(true: Callable[[], Any]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.005)


Taken = tuple[str, int, str, Entry]


class Process:
    """A process that has a log and keeps what it reads."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.name = secrets.token_hex(4)
        self.log: Log = log_on(layer, self.name, self)
        self.taken: list[Taken] = []
        self.remembered: list[Taken] = []
        self.lines: list[bool] = []
        self.gaps: list[str] = []
        self.wants: set[str] = set()
        # Until when it says to have read.
        self.read_until = 0
        # Called with each entry first.
        self.on_take: Callable[[Entry], None] = lambda entry: None

    async def open(self, *names: str, own: list[str] | None = None) -> Process:
        await soon(self.log.open(own or []))
        for name in names:
            self.wants.add(name)
            await soon(self.log.serve(name))
        return self

    def ids(self, name: str = "l") -> list[str]:
        """What `Ended` entries of a log said, in the order in which they were applied."""
        return [entry.connection for log, _, _, entry in self.taken if log == name and isinstance(entry, Ended)]

    async def reads(self, connection_id: str, name: str = "l") -> None:
        await until(lambda: connection_id in self.ids(name))

    async def append(self, connection_id: str, name: str = "l") -> None:
        appended = self.log.append(name, Ended(connection_id))
        if appended is not None:
            await soon(asyncio.shield(appended))

    # What the log calls

    def take(self, name: str, position: int, origin: str, entry: Entry) -> None:
        self.taken.append((name, position, origin, entry))
        self.on_take(entry)

    def remember(self, name: str, position: int, origin: str, entry: Entry) -> None:
        self.remembered.append((name, position, origin, entry))

    def wanted(self, name: str) -> bool:
        return name in self.wants

    def read_until_ms(self) -> int:
        return self.read_until

    def line(self, up: bool) -> None:
        self.lines.append(up)

    def gap(self, name: str) -> None:
        self.gaps.append(name)


Processes = Callable[..., Process]

# The service's own layer, and those of channels_redis.
LAYERS: dict[str, Any] = {"ours": RedisLayer, "pubsub": RedisPubSubChannelLayer, "queues": RedisChannelLayer}


@pytest.fixture
def prefix() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """Which layer; tests say so by indirect parameters."""
    name: str = getattr(request, "param", "ours")
    return name


@pytest.fixture
async def process(redis_server: Redis, prefix: str, kind: str) -> AsyncIterator[Processes]:
    """Makes processes that share a layer of this kind; on the shared Redis unless told otherwise."""
    made: list[Process] = []

    def make(url: str = redis_server.url, **options: Any) -> Process:
        layer = InMemoryChannelLayer() if kind == "memory" else LAYERS[kind](hosts=[url], prefix=prefix, **options)
        made.append(Process(layer))
        return made[-1]

    yield make
    for one in made:
        await soon(one.log.close())
        await soon(one.layer.flush() if kind in ("ours", "pubsub", "memory") else one.layer.close_pools())


# Processes that come and go within a test say hello faster than real ones.
HELLO_SECS = 0.02


class Living:
    """A process that says hello, and notes who is dead."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.name = process.name
        self.dead: list[str] = []
        self.leases = Leases(process.name, process.log, self._expired, HELLO_SECS)
        process.on_take = self._take

    def _expired(self, process: str) -> None:
        self.dead.append(process)
        self.leases.forget(process)

    def _take(self, entry: Entry) -> None:
        if isinstance(entry, Hello):
            self.leases.take_hello(entry)
        elif isinstance(entry, Goodbye):
            self.leases.forget(entry.process)

    async def start(self) -> Living:
        await self.process.open(own=[CONTROL_LOG])
        await soon(self.leases.start())
        return self

    async def hellos(self, count: int) -> None:
        """Wait until so many more of its own hellos have come back."""
        for _ in range(count):
            await soon(self.leases.next_hello())


@pytest.fixture
async def living(process: Processes) -> Any:
    """Makes processes that say hello."""
    made: list[Living] = []

    def make(*arguments: Any) -> Living:
        made.append(Living(process(*arguments)))
        return made[-1]

    yield make
    for one in made:
        await soon(one.leases.stop())


def knows(observer: Living, *others: Living) -> Callable[[], bool]:
    return lambda: observer.leases.others == {other.name for other in others}


async def all_know(everybody: Sequence[Living]) -> None:
    for one in everybody:
        await until(knows(one, *(other for other in everybody if other is not one)))


@pytest.fixture
def proxy(redis_server: Redis) -> Iterator[CuttingProxy]:
    """A way to the shared Redis that can be cut."""
    with CuttingProxy(redis_server.port) as way:
        yield way


def through(proxy: CuttingProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


@pytest.fixture
def free_port() -> int:
    """A port where nothing listens."""
    return running.free_port()


@pytest.fixture
async def asked(redis_server: Redis) -> AsyncIterator[Client]:
    """A client of the shared Redis."""
    async with Client.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def webpubsub(settings: Any) -> Callable[..., None]:
    """Change the service's settings for a test."""

    def change(**changes: Any) -> None:
        settings.WEBPUBSUB = settings.WEBPUBSUB | changes

    return change
