"""What every Channels layer does: ours, the in-memory one, and channels_redis' as the yardstick."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from hubs.layers.redis import RedisLayer
from tests.layers.conftest import soon
from tests.running import Redis

Kind = Callable[[], Any]


@pytest.fixture(params=["memory", "channels_redis", "ours", "ours, two hosts"])
async def process(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[Kind]:
    """Makes the layers of processes that reach each other."""
    made: list[Any] = []
    shared = InMemoryChannelLayer()
    redis: Redis | None = None if request.param == "memory" else request.getfixturevalue("redis_server")

    def make() -> Any:
        if redis is None:
            layer: Any = shared
        elif request.param == "channels_redis":
            layer = RedisPubSubChannelLayer(hosts=[redis.url], prefix=prefix)
        elif request.param == "ours":
            layer = RedisLayer(hosts=[redis.url], prefix=prefix)
        else:
            # One server under two names is two hosts to a layer: half of the names belongs to each.
            layer = RedisLayer(hosts=[redis.url, ("127.0.0.1", redis.port)], prefix=prefix)
        made.append(layer)
        return layer

    yield make
    for layer in made:
        await soon(layer.flush())


async def joined(layer: Any, *groups: str) -> str:
    """A channel that is in groups, and gets what is sent to them from now on."""
    channel: str = await soon(layer.new_channel())
    for group in groups:
        await soon(layer.group_add(group, channel))
        if isinstance(layer, RedisPubSubChannelLayer):
            # It does not wait for Redis to confirm.
            arrived = asyncio.Event()
            knocking = asyncio.create_task(_knock(layer, group, arrived))
            while await soon(layer.receive(channel)) != {"knock": group}:
                pass
            arrived.set()
            await soon(knocking)
    return channel


async def _knock(layer: Any, group: str, arrived: asyncio.Event) -> None:
    while not arrived.is_set():
        await layer.group_send(group, {"knock": group})
        await asyncio.sleep(0.01)


async def heard(layer: Any, channel: str) -> Any:
    """The next message of a channel that is no knock."""
    while "knock" in (message := await soon(layer.receive(channel))):
        pass
    return message


async def test_a_message_to_a_channel(process: Kind) -> None:
    here, there = process(), process()
    channel = await joined(there, "g")
    await soon(here.send(channel, {"type": "hello", "n": 1}))
    assert await heard(there, channel) == {"type": "hello", "n": 1}


async def test_a_group_in_order_and_once(process: Kind) -> None:
    here, there = process(), process()
    channels = [
        (here, await joined(here, "g", "h")),
        (there, await joined(there, "g")),
        (there, await joined(there, "i")),
    ]
    for number in range(50):
        await soon(here.group_send("g", {"type": "n", "n": number}))
    await soon(there.group_send("h", {"type": "end"}))
    await soon(here.send(channels[2][1], {"type": "end"}))
    await soon(here.send(channels[1][1], {"type": "end"}))
    for layer, channel in channels[:2]:
        assert [(await heard(layer, channel))["n"] for _ in range(50)] == list(range(50))
    for layer, channel in channels:
        assert await heard(layer, channel) == {"type": "end"}


async def test_each_member_has_a_message_of_its_own(process: Kind) -> None:
    layer = process()
    first, second = await joined(layer, "g"), await joined(layer, "g")
    await soon(layer.group_send("g", {"type": "list", "items": [1]}))
    (await heard(layer, first))["items"].append(2)
    assert await heard(layer, second) == {"type": "list", "items": [1]}


async def test_leaving_a_group(process: Kind) -> None:
    here, there = process(), process()
    stays, leaves = await joined(there, "g"), await joined(there, "g", "h")
    await soon(there.group_discard("g", leaves))
    await soon(there.group_discard("g", leaves))
    await soon(there.group_discard("never", leaves))
    await soon(here.group_send("g", {"type": "to those who stay"}))
    await soon(here.group_send("h", {"type": "to both"}))
    assert await heard(there, stays) == {"type": "to those who stay"}
    assert await heard(there, leaves) == {"type": "to both"}


async def test_joining_twice_is_joining_once(process: Kind) -> None:
    layer = process()
    channel = await joined(layer, "g", "g")
    await soon(layer.group_send("g", {"type": "one"}))
    await soon(layer.group_send("g", {"type": "two"}))
    assert [(await heard(layer, channel))["type"] for _ in range(2)] == ["one", "two"]


async def test_a_group_that_nobody_is_in(process: Kind) -> None:
    layer = process()
    await soon(layer.group_send("nobody", {"type": "lost"}))
    channel = await joined(layer, "nobody")
    await soon(layer.group_send("nobody", {"type": "heard"}))
    assert await heard(layer, channel) == {"type": "heard"}


async def test_all_that_a_message_may_hold(process: Kind) -> None:
    here, there = process(), process()
    channel = await joined(there, "g")
    message = {
        "type": "all",
        "bytes": b"\x00\xff\r\n",
        "text": "é\r\n\U0001f600",
        "numbers": [0, -1, 2**63 - 1, -(2**63), 1.5, True, False, None],
        "nested": {"a": {"b": [{}]}},
        "large": b"x" * 1_000_000,
    }
    await soon(here.group_send("g", message))
    assert await heard(there, channel) == message


async def test_many_channels_at_once(process: Kind) -> None:
    layer = process()
    channels = [await soon(layer.new_channel()) for _ in range(50)]
    assert len(set(channels)) == 50
    channels = [await joined(layer, f"g{number}") for number in range(10)]
    receiving = [asyncio.create_task(heard(layer, channel)) for channel in channels]
    for number in reversed(range(10)):
        await soon(layer.group_send(f"g{number}", {"type": "n", "n": number}))
    assert [message["n"] for message in await soon(asyncio.gather(*receiving))] == list(range(10))


async def test_a_flushed_layer_is_as_new(process: Kind) -> None:
    layer = process()
    old = await joined(layer, "g")
    await soon(layer.flush())
    new = await joined(layer, "g")
    assert new != old
    await soon(layer.group_send("g", {"type": "hello"}))
    assert await heard(layer, new) == {"type": "hello"}


def test_extensions(prefix: str) -> None:
    assert set(RedisLayer(prefix=prefix).extensions) == {*InMemoryChannelLayer.extensions, "log"}


@pytest.mark.parametrize("name", ["", "with space", "é", "x" * 100, 7, None])
async def test_names(process: Kind, name: Any) -> None:
    layer = process()
    if isinstance(layer, RedisPubSubChannelLayer):
        # It lets anything pass; the others do as Channels documents.
        return
    channel = await soon(layer.new_channel())
    for call in (
        layer.group_add(name, channel),
        layer.group_discard(name, channel),
        layer.group_send(name, {"type": "x"}),
        layer.send(name, {"type": "x"}),
        layer.receive(name),
    ):
        with pytest.raises(TypeError, match="name must be a valid unicode string"):
            await soon(call)
