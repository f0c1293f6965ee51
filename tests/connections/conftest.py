"""Fakes of what stands around a connection: a server to send through, and handlers of an application."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer

from hubs.upstream import handlers, hub
from hubs.upstream.handlers import HubHandlers
from tests.connections.world import Process, World
from tests.running import PATIENCE


async def soon(awaitable: Awaitable[Any]) -> Any:
    """Wait for something that has to happen."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def turns(count: int = 5) -> None:
    """Let the loop go round, for what must not happen in that time."""
    for _ in range(count):
        await asyncio.sleep(0)


class AloneWorld(World):
    """A world of one process that reaches no other, as where no Redis is configured."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, processes=1)

    def new_layer(self, process: Process) -> Any:
        return _MemoryLayer()

    def assert_at_rest(self, process: Process) -> None:
        assert not process.node.ownership.arrivals


class _MemoryLayer(InMemoryChannelLayer):  # type: ignore[misc]
    """Channels' own, with what a world asks of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self._loops: dict[Any, Any] = {}


class Server:
    """An ASGI server's `send`: keeps what it was handed, and waits before each while `gate` is closed."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.started = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.problem: BaseException | None = None

    async def send(self, event: dict[str, Any]) -> None:
        self.started += 1
        if not self.gate.is_set():
            await self.gate.wait()
        if self.problem is not None:
            raise self.problem
        self.events.append(event)

    @property
    def said(self) -> list[Any]:
        """What the client reads: messages, and (code, reason) of the close."""
        return [
            (event["code"], event["reason"])
            if event["type"] == "websocket.close"
            else event["text"]
            if "text" in event
            else event["bytes"]
            for event in self.events
        ]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def application() -> Iterator[HubHandlers]:
    """The event handlers of a hub that only this test has."""
    own = hub(f"hub_{secrets.token_hex(6)}")
    yield own
    del handlers._HUBS[own.hub]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a world run once with each kind of sockets; drawn from a seed, or not about sockets, with both."""
    if hasattr(metafunc.module, "World"):
        names = metafunc.fixturenames
        alike = "seed" in names or "redis_server" in names or hasattr(metafunc.module, "ANY_KIND_OF_SOCKETS")
        kinds = ["mixed"] if alike else ["asgi", "direct"]
        # Before there is a world.
        names.insert(0, "kind_of_sockets")
        metafunc.parametrize("kind_of_sockets", kinds, indirect=True)


@pytest.fixture
def kind_of_sockets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What clients of a world have for sockets."""
    monkeypatch.setattr(World, "KIND", request.param)
    kind: str = request.param
    return kind


WebPubSub = Callable[..., None]


@pytest.fixture
def webpubsub(settings: Any) -> WebPubSub:
    """Change the service's settings for a test."""

    def change(**changes: Any) -> None:
        settings.WEBPUBSUB = settings.WEBPUBSUB | changes

    return change
