"""One layer on many event loops, as Django uses it; each takes its connections with it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
import uvloop
from asgiref.sync import async_to_sync
from redis import Redis as Client

from hubs.layers.errors import LayerAway
from hubs.layers.redis import RedisLayer
from tests.layers.conftest import Ear
from tests.running import PATIENCE, Redis, free_port

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    def run(main: Any) -> Any:
        async def in_time() -> Any:
            async with asyncio.timeout(PATIENCE):
                return await main

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(in_time())

    return run


async def talk(layer: RedisLayer) -> None:
    ear = await Ear(layer).open("g")
    position = await layer.post("g", {"type": "x"})
    assert await ear.hears() == {"type": "x"}
    assert ear.heard == [("g", position, {"type": "x"})]


def test_loop_after_loop(run: Callable[[Any], Any], own_redis: Redis) -> None:
    layer = RedisLayer(hosts=[own_redis.url])
    for _ in range(5):
        run(talk(layer))
    gc.collect()
    assert layer._loops == {}
    with Client.from_url(own_redis.url) as client:
        # Redis notices in its own time that a socket was closed.
        while client.info("clients")["connected_clients"] > 1:
            pass


def test_flushed_and_used_again(run: Callable[[Any], Any], own_redis: Redis) -> None:
    layer = RedisLayer(hosts=[own_redis.url])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            await talk(layer)
            await layer.flush()
            assert layer._loops == {}
        once = loop.close
        await talk(layer)
        assert loop.close == once
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())
    gc.collect()


def test_from_synchronous_code(own_redis: Redis) -> None:
    layer = RedisLayer(hosts=[own_redis.url])
    for _ in range(3):
        async_to_sync(layer.group_send)("g", {"type": "x"})
        async_to_sync(layer.send)("channel", {"type": "x"})
    assert layer._loops == {}
    gc.collect()


def test_from_several_threads(own_redis: Redis) -> None:
    layer = RedisLayer(hosts=[own_redis.url])
    problems: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                async_to_sync(layer.group_send)("g", {"type": "x"})
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert problems == []
    assert layer._loops == {}


def test_a_loop_that_ends_while_redis_is_away(run: Callable[[Any], Any]) -> None:
    layer = RedisLayer(hosts=[f"redis://127.0.0.1:{free_port()}/0"])

    async def main() -> None:
        with pytest.raises(LayerAway):
            await layer.group_send("g", {"type": "x"})
        with pytest.raises(LayerAway):
            await layer.group_add("g", await layer.new_channel())

    for _ in range(3):
        run(main())
    with pytest.raises(LayerAway):
        async_to_sync(layer.group_send)("g", {"type": "x"})
    gc.collect()
    assert layer._loops == {}


def test_a_loop_that_ends_in_the_middle(run: Callable[[Any], Any], own_redis: Redis) -> None:
    """Posts and subscriptions under way, connections half made, somebody receiving: nothing is left behind."""
    layer = RedisLayer(hosts=[own_redis.url])
    futures: list[asyncio.Future[int]] = []

    async def main(turns: int) -> None:
        channel = await layer.new_channel() if turns % 2 else ""
        futures.extend(layer.post("g", {"type": "x"}) for _ in range(10))
        tasks = [asyncio.create_task(layer.receive(channel or "general"))]
        if channel:
            tasks.append(asyncio.create_task(layer.group_add("g", channel)))
        for _ in range(turns):
            await asyncio.sleep(0)

    for turns in range(30):
        run(main(turns))
    gc.collect()
    assert all(future.done() for future in futures)
    assert layer._loops == {}


def test_a_task_cancelled_by_the_application(run: Callable[[Any], Any], own_redis: Redis) -> None:
    """Some applications cancel whatever task they find; the layer goes on with the next call."""
    layer = RedisLayer(hosts=[own_redis.url])

    async def main() -> None:
        post = layer.post("g", {"type": "x"})
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        assert await post

    run(main())


async def test_nothing_of_the_first_caller_is_kept(own_redis: Redis) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    request.set("the first caller's")
    layer = RedisLayer(hosts=[own_redis.url])
    channel, seen = await layer.new_channel(), asyncio.Queue[str]()
    layer.listen(channel, lambda *entry: seen.put_nowait(request.get()), lambda up: None, lambda group: None)
    await layer.send(channel, {"type": "x"})
    assert await asyncio.wait_for(seen.get(), PATIENCE) == "none"
    await layer.flush()
