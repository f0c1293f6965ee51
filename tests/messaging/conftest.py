"""Two processes of the service, as switchboards that share a channel layer and nothing else."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from hubs.messaging.envelope import EVERYBODY, Audience, Goodbye, Hello, Publication, decode
from hubs.messaging.switchboard import Switchboard
from hubs.protocols.codec import CODECS, Outgoing
from hubs.protocols.json import JsonCodec
from tests.running import PATIENCE

CODEC = JsonCodec("json.webpubsub.azure.v1")

# Processes that come and go within a test say hello faster than real ones.
HELLO_SECS = 0.1


async def soon(awaitable: Awaitable[Any]) -> Any:
    """Wait for something that has to happen."""
    return await asyncio.wait_for(awaitable, PATIENCE)


class Client:
    """A connection that keeps what it is told."""

    def __init__(self, board: Switchboard, hub: str = "chat", user_id: str | None = None) -> None:
        self.board = board
        self.hub = hub
        self.user_id = user_id
        self.subprotocol = "json.webpubsub.azure.v1"
        self.groups: set[str] = set()
        self.id = board.new_connection_id()
        self.outgoing: list[Outgoing] = []
        self._told: asyncio.Queue[str] = asyncio.Queue()
        self._heard: list[str] = []

    socket = None
    codec: Any = CODECS["json.webpubsub.azure.v1"]

    def deliver(self, outgoing: Outgoing) -> None:
        form = outgoing.form(CODEC)
        assert isinstance(form, str)
        self.outgoing.append(outgoing)
        self._told.put_nowait(form)

    async def join(self, group: str = "g") -> Client:
        await soon(self.board.attach(self))
        await soon(self.board.join(self, group))
        self.groups.add(group)
        return self

    async def hears(self, text: str) -> list[str]:
        """Wait for a publication; gives everything heard up to it."""
        while not self._heard or f'"data":"{text}"' not in self._heard[-1]:
            self._heard.append(await soon(self._told.get()))
        return self._heard

    @property
    def heard_nothing(self) -> bool:
        return not self._heard and self._told.empty()


class Line:
    """A channel layer that notes what it is asked for, and fails or waits when told to.

    What processes say to know of each other, and the addresses of hubs, are not noted: they come when they come.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.calls: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        # By method: what is awaited before the call, and after it.
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self.after: dict[str, Callable[[], Awaitable[None]]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.layer, name)

        async def call(*arguments: Any) -> Any:
            if name in ("group_add", "group_discard", "group_send") and not _is_chatter(*arguments):
                self.calls.put_nowait((name, arguments[0]))
            if name in self.before:
                await self.before[name]()
            answer = await method(*arguments)
            if name in self.after:
                await self.after[name]()
            return answer

        return call

    def noted(self) -> list[tuple[str, str]]:
        """What was asked since the last look."""
        return [self.calls.get_nowait() for _ in range(self.calls.qsize())]


def _is_chatter(address: str, message: Any) -> bool:
    if address == EVERYBODY and isinstance(message, str):
        return True
    return address.startswith("h.") or (
        isinstance(message, dict) and isinstance(decode(message["body"]), Hello | Goodbye)
    )


class Broken(Exception):
    """What a layer without its server raises."""


async def break_line() -> None:
    """What a line that fails does before or after a call."""
    raise Broken("details of the network")


Processes = Callable[[], Switchboard]


@pytest.fixture
def quick_answers(settings: Any) -> None:
    """A process that does not answer is given up sooner, but still after several of its hellos."""
    settings.WEBPUBSUB = settings.WEBPUBSUB | {"ANSWER_SECS": 4 * HELLO_SECS}


@pytest.fixture(params=["memory", "redis"])
async def process(request: pytest.FixtureRequest) -> AsyncIterator[Processes]:
    """Makes processes that can reach each other; `board._trunk.layer` is a Line."""
    prefix = f"test-{secrets.token_hex(4)}"
    boards: list[Switchboard] = []
    shared = InMemoryChannelLayer(capacity=1000)
    redis_url = request.getfixturevalue("redis_server").url if request.param == "redis" else ""

    def make() -> Switchboard:
        layer = RedisPubSubChannelLayer(hosts=[redis_url], prefix=prefix) if redis_url else shared
        boards.append(Switchboard(Line(layer), alone=False, hello_secs=HELLO_SECS))
        return boards[-1]

    yield make
    for board in boards:
        await soon(board.stop())
        await soon(board._trunk.layer.layer.flush())


def line_of(board: Switchboard) -> Line:
    """The line of a process that the fixture made."""
    line = board._trunk.layer
    assert isinstance(line, Line)
    return line


def publication(text: str, group: str | None = "g", **audience: Any) -> Publication:
    """Something short to publish."""
    return Publication(Audience(**{"hub": "chat", "group": group} | audience), "text", text.encode())
