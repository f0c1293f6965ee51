"""What our layer does beyond Channels' contract: posting, listening, and counting the cost."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.asyncio import Redis as Client

from hubs.layers import link, redis, wire
from hubs.layers.errors import LayerAway, LayerFull
from hubs.layers.redis import RedisLayer
from tests.layers.conftest import Ear, Layers, Message, soon
from tests.running import PATIENCE, Redis


async def test_it_can_be_reached(layers: Layers) -> None:
    await soon(layers().reach())
    with pytest.raises(LayerAway, match="Connect call failed"):
        await soon(layers("redis://127.0.0.1:1/0").reach())


async def test_a_post_is_done_when_redis_has_taken_it(layers: Layers) -> None:
    here = layers()
    assert await soon(here.post("g", {"type": "nobody"})) == 0
    ears = [await Ear(layers()).open("g") for _ in range(2)]
    assert await soon(here.post("g", {"type": "two", "n": 2})) == 2
    assert [await ear.hears() for ear in ears] == [{"type": "two", "n": 2}] * 2
    ears[0].end()
    # The UNSUBSCRIBE goes another way than a PUBLISH; ended means that nothing is handed over any more.
    while await soon(here.post("g", {"type": "one"})) != 1:
        pass
    assert ears[0].messages.empty()


async def test_posts_complete_in_order_and_make_no_tasks(layers: Layers) -> None:
    here, ear = layers(), await Ear(layers()).open("g")
    await soon(here.group_send("g", {"type": "n", "n": -1}))
    before = asyncio.all_tasks()
    completed: list[int] = []
    futures = [here.post("g", {"type": "n", "n": number}) for number in range(500)]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: completed.append(number))  # type: ignore[misc]
    assert not any(future.done() for future in futures)
    assert asyncio.all_tasks() == before
    await soon(asyncio.wait(futures))
    assert completed == list(range(500))
    assert [(await ear.hears())["n"] for _ in range(501)] == list(range(-1, 500))


async def test_groups_keep_the_order_of_the_calls(layers: Layers) -> None:
    here, ear = layers(), await Ear(layers()).open("a", "b", "c")
    for number in range(300):
        here.post("abc"[number % 3], {"n": number})
    assert [(await ear.hears())["n"] for _ in range(300)] == list(range(300))


async def test_a_loop_turn_is_one_write(layers: Layers, asked: Client) -> None:
    here = layers()
    await soon(here.group_send("g", {"type": "warm"}))
    before = (await asked.info("stats"))["total_reads_processed"]
    await soon(asyncio.wait([here.post("g", {"type": "n"}) for _ in range(200)]))
    # Redis reads 16 KiB at a time; besides it read our question, and may have read a sign of life or two.
    assert (await asked.info("stats"))["total_reads_processed"] - before < 20


async def test_group_adds_of_a_loop_turn_are_one_subscribe(layers: Layers, own_redis: Redis) -> None:
    layer = layers(own_redis.url)
    ear = await Ear(layer).open()
    async with Client.from_url(own_redis.url) as asked:
        before = (await asked.info("commandstats"))["cmdstat_subscribe"]["calls"]
        await soon(asyncio.gather(*(layer.group_add(f"g{number}", ear.channel) for number in range(1000))))
        assert (await asked.info("commandstats"))["cmdstat_subscribe"]["calls"] == before + 1
        await soon(asyncio.gather(*(layer.group_discard(f"g{number}", ear.channel) for number in range(1000))))
        while len(await asked.pubsub_channels()) > 1:
            pass
        assert (await asked.info("commandstats"))["cmdstat_unsubscribe"]["calls"] == 1


async def test_an_added_group_is_confirmed(layers: Layers) -> None:
    here, there = layers(), layers()
    ear = await Ear(there).open()
    for number in range(200):
        await soon(there.group_add(f"g{number}", ear.channel))
        assert await soon(here.post(f"g{number}", {"n": number})) == 1
    assert [(await ear.hears())["n"] for _ in range(200)] == list(range(200))


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5])
async def test_left_and_wanted_again(layers: Layers, turns: int) -> None:
    here, there = layers(), layers()
    ear = await Ear(there).open("g")

    async def pause() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    for number in range(50):
        adding = []
        for _ in range(3):
            await soon(there.group_discard("g", ear.channel))
            await pause()
            adding.append(asyncio.create_task(there.group_add("g", ear.channel)))
            await pause()
        await soon(asyncio.gather(*adding))
        assert await soon(here.post("g", {"n": number})) == 1
        assert await ear.hears() == {"n": number}


async def test_left_and_wanted_again_in_one_turn(layers: Layers) -> None:
    here, there = layers(), layers()
    ear = await Ear(there).open("g")
    await soon(asyncio.gather(there.group_discard("g", ear.channel), there.group_add("g", ear.channel)))
    assert await soon(here.post("g", {"type": "x"})) == 1


async def test_left_before_it_was_there(layers: Layers) -> None:
    here, there = layers(), layers()
    ear = await Ear(there).open()
    adding = asyncio.create_task(there.group_add("g", ear.channel))
    await asyncio.sleep(0)
    await soon(there.group_discard("g", ear.channel))
    await soon(adding)
    await soon(there.group_add("other", ear.channel))
    # Redis takes the commands of a connection in order.
    assert await soon(here.post("g", {"type": "x"})) == 0


async def test_a_cancelled_group_add_harms_nobody_else(layers: Layers) -> None:
    here, there = layers(), layers()
    ear = await Ear(there).open()
    adding = [asyncio.create_task(there.group_add("g", ear.channel)) for _ in range(3)]
    await asyncio.sleep(0)
    adding[0].cancel()
    await soon(asyncio.wait(adding))
    assert [task.cancelled() for task in adding] == [True, False, False]
    assert await soon(here.post("g", {"type": "x"})) == 1


async def test_a_listener_hears_what_came_before(layers: Layers) -> None:
    here, there = layers(), layers()
    channel = await soon(there.new_channel())
    other = await Ear(there).open("g")
    await soon(there.group_add("g", channel))
    for number in range(3):
        await soon(here.post("g", {"n": number}))
    for number in range(3):
        assert await other.hears() == {"n": number}
    heard: list[Any] = []
    there.listen(channel, heard.append, heard.append)
    assert heard == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_a_listener_that_fails_hears_the_next(layers: Layers, caplog: pytest.LogCaptureFixture) -> None:
    here, there = layers(), layers()
    channel = await soon(there.new_channel())
    heard: asyncio.Queue[int] = asyncio.Queue()

    def listen(message: dict[str, Any]) -> None:
        heard.put_nowait(10 // message["n"])

    there.listen(channel, listen, lambda up: None)
    await soon(there.group_add("g", channel))
    here.post("g", {"n": 0})
    here.post("g", {"n": 5})
    assert await soon(heard.get()) == 2
    assert "could not be handled" in caplog.text


@pytest.mark.parametrize(
    "options",
    [{}, {"symmetric_encryption_keys": ["k"]}, {"serializer_format": "json"}],
    ids=["plain", "secret", "json"],
)
async def test_a_listener_passes_over_what_it_published(layers: Layers, options: dict[str, Any]) -> None:
    layer = layers(**options)
    channel, heard = await soon(layer.new_channel()), asyncio.Queue[Message]()
    layer.listen(channel, heard.put_nowait, lambda up: None, passing_over={"type": "x", "from": "me"})
    await soon(layer.group_add("g", channel))
    own = [{"type": "x", "from": "me"}, {"type": "x", "from": "me", "n": 1}]
    others = [{"type": "x", "from": "you"}, {"type": "x"}, {"n": 1}, {"type": "x", "n": 1, "from": "me"}]
    others.append({"type": "x", "from": "me"} | {f"{number}": number for number in range(20)})
    others.append({})
    for message in (*own, *others):
        layer.post("g", message)
    # Where the first bytes do not tell, it gets them all.
    for message in others if not options else (*own, *others):
        assert await soon(heard.get()) == message
    assert heard.empty()


async def test_a_listener_may_end_while_it_is_told(layers: Layers) -> None:
    here, there = layers(), layers()
    ears = [await Ear(there).open("g") for _ in range(3)]
    channel, ended = await soon(there.new_channel()), asyncio.Event()
    await soon(there.group_add("g", channel))

    def listen(message: dict[str, Any]) -> None:
        end()
        ended.set()

    end = there.listen(channel, listen, lambda up: None)
    await soon(here.post("g", {"n": 1}))
    await soon(here.post("g", {"n": 2}))
    await soon(ended.wait())
    for ear in ears:
        assert [await ear.hears(), await ear.hears()] == [{"n": 1}, {"n": 2}]
    with pytest.raises(RuntimeError, match="no channel"):
        await there.group_add("g", channel)


async def test_what_cannot_be_read_is_passed_over(
    layers: Layers, asked: Client, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    layer = layers()
    ear = await Ear(layer).open("g")
    channel = await soon(layer.new_channel())
    await soon(layer.group_add("g", channel))
    await asked.publish(f"{prefix}__group__g", b"\xc1")
    await soon(layer.group_send("g", {"type": "good"}))
    assert await ear.hears() == {"type": "good"}
    assert await soon(layer.receive(channel)) == {"type": "good"}
    assert "cannot be read" in caplog.text


async def test_what_is_not_a_message_is_refused(layers: Layers) -> None:
    layer = layers()
    with pytest.raises(TypeError):
        layer.post("g", "text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        layer.post("g", {"type": object()})
    assert await soon(layer.post("g", {"type": "x"})) == 0


async def test_only_channels_of_this_process_join(layers: Layers) -> None:
    here, there = layers(), layers()
    channel = await soon(there.new_channel())
    with pytest.raises(RuntimeError, match="no channel"):
        await here.group_add("g", channel)
    with pytest.raises(RuntimeError, match="no channel"):
        here.listen(channel, lambda message: None, lambda up: None)


async def test_a_wait_for_a_message_may_be_cut_short(layers: Layers) -> None:
    here, there = layers(), layers()
    channel = await soon(there.new_channel())
    await soon(there.group_add("g", channel))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(there.receive(channel), 0.001)
    # Still there for whoever receives again, with what came meanwhile.
    await soon(here.post("g", {"type": "between"}))
    assert await soon(there.receive(channel)) == {"type": "between"}


async def test_a_channel_that_nobody_reads_ends(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "LINGER_SECS", 0)
    here, there = layers(), layers()
    channel = await soon(there.new_channel())
    await soon(there.group_add("g", channel))
    first, second = (asyncio.create_task(there.receive(channel)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    # One still reads, also after the time for which a channel is kept.
    await soon(there.group_add("other", channel))
    assert await soon(here.post("g", {"n": 1})) == 1
    assert await soon(second) == {"n": 1}
    third = asyncio.create_task(there.receive(channel))
    await asyncio.sleep(0)
    third.cancel()
    async with asyncio.timeout(PATIENCE):
        while await here.post("g", {"n": 2}):
            pass
    with pytest.raises(RuntimeError, match="no channel"):
        await there.group_add("g", channel)


async def test_a_channel_is_bounded(layers: Layers, caplog: pytest.LogCaptureFixture) -> None:
    here, there = layers(), layers(capacity=10)
    channel, ear = await soon(there.new_channel()), await Ear(there).open("g")
    await soon(there.group_add("g", channel))
    for number in range(15):
        await soon(here.post("g", {"n": number}))
    for _ in range(15):
        await ear.hears()
    assert [(await soon(there.receive(channel)))["n"] for _ in range(10)] == list(range(10))
    assert "5 messages were lost" in caplog.text
    await soon(here.post("g", {"n": 15}))
    assert await soon(there.receive(channel)) == {"n": 15}


async def test_posts_are_bounded(layers: Layers) -> None:
    few = layers(max_posted_messages=10)
    futures = [few.post("g", {"type": "x"}) for _ in range(12)]
    assert [future.done() for future in futures] == [False] * 10 + [True] * 2
    with pytest.raises(LayerFull):
        await futures[10]
    with pytest.raises(ChannelFull):
        await few.group_send("g", {"type": "x"})
    assert await soon(asyncio.gather(*futures[:10])) == [0] * 10
    assert await soon(few.post("g", {"type": "again"})) == 0

    small = layers(max_posted_bytes=1000)
    futures = [small.post("g", {"b": b"x" * 400}) for _ in range(3)]
    with pytest.raises(LayerFull):
        await futures[2]
    assert await soon(asyncio.gather(*futures[:2])) == [0, 0]
    assert await soon(small.post("g", {"b": b"x" * 400})) == 0


async def test_a_failed_post_that_nobody_waits_for_is_silent(layers: Layers, caplog: pytest.LogCaptureFixture) -> None:
    layer = layers(max_posted_messages=1)
    for _ in range(3):
        layer.post("g", {"type": "x"})
    gc.collect()
    await soon(layer.flush())
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_cancelled_wait_leaves_the_others_theirs(layers: Layers) -> None:
    here, ear = layers(), await Ear(layers()).open("g")
    futures = [here.post("g", {"n": number}) for number in range(3)]
    futures[1].cancel()
    assert await soon(futures[2]) == 1
    assert futures[0].result() == 1
    assert [(await ear.hears())["n"] for _ in range(3)] == [0, 1, 2]


async def test_more_groups_than_are_remembered(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "MAX_ROUTES", 10)
    here, ear = layers(), await Ear(layers()).open("g0", "g24")
    assert [await soon(here.post(f"g{number}", {"n": number})) for number in range(25)] == [1, *[0] * 23, 1]
    assert await soon(here.post("g0", {"n": 0})) == 1
    assert [(await ear.hears())["n"] for _ in range(3)] == [0, 24, 0]


@pytest.mark.parametrize("keys", [None, ["new key", "old key"]], ids=["plain", "encrypted"])
@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_the_same_wire_as_channels_redis(
    layers: Layers, redis_server: Redis, prefix: str, asked: Client, keys: list[str] | None, format: str
) -> None:
    options: dict[str, Any] = {"symmetric_encryption_keys": keys, "serializer_format": format}
    ours, stock = layers(**options), RedisPubSubChannelLayer(hosts=[redis_server.url], prefix=prefix, **options)
    message = {"type": "x", "n": 2**40, "text": "é", "list": [None, True, 1.5]}
    if format == "msgpack":
        message["bytes"] = b"\xff\x00"
    ear = await Ear(ours).open("g")
    await soon(stock.group_send("g", message))
    assert await ear.hears() == message
    channel = await soon(stock.new_channel())
    await soon(stock.group_add("g", channel))
    async with asyncio.timeout(PATIENCE):
        while await ours.post("g", message) != 2:
            pass
    assert await soon(stock.receive(channel)) == message
    await soon(ours.send(channel, message | {"n": 1}))
    async with asyncio.timeout(PATIENCE):
        while await stock.receive(channel) != message | {"n": 1}:
            pass
    await soon(stock.send(ear.channel, message | {"n": 3}))
    async with asyncio.timeout(PATIENCE):
        while await ear.hears() != message | {"n": 3}:
            pass
    await soon(stock.flush())


async def test_encrypted_is_encrypted(layers: Layers, asked: Client, prefix: str) -> None:
    async with asked.pubsub() as spy:
        await spy.subscribe(f"{prefix}__group__g")
        assert (await spy.get_message(timeout=PATIENCE))["type"] == "subscribe"
        await soon(layers(symmetric_encryption_keys=["k"]).group_send("g", {"type": "the secret"}))
        assert b"secret" not in (await spy.get_message(timeout=PATIENCE))["data"]


async def test_any_database_and_password(layers: Layers, own_redis: Redis) -> None:
    async with Client.from_url(own_redis.url) as client:
        await client.config_set("requirepass", "p@ss")
    url = f"redis://:p%40ss@127.0.0.1:{own_redis.port}/3"
    ear = await Ear(layers(url)).open("g")
    assert await soon(layers(f"{url}?protocol=3&decode_responses=True").post("g", {"type": "x"})) == 1
    assert await ear.hears() == {"type": "x"}


def test_an_outage_and_its_end_are_noticed_within_a_second() -> None:
    # Heard just before it began; then so many silent beats.
    assert redis.PATIENCE_SECS / wire.BEATS * (wire.BEATS + 1) < 1
    # An attempt that began just before it ended and waits in vain; a pause; one that is answered.
    assert redis.PATIENCE_SECS + link.PAUSE_SECS[1] < 1


def test_faster_than_the_stock_layer(redis_server: Redis) -> None:
    async def cost(layer: Any, count: int) -> float:
        channel = await layer.new_channel()
        await layer.group_add("g", channel)
        await layer.group_send("g", {"body": b"x" * 300})
        started = time.process_time()
        for _ in range(count // 50):
            await asyncio.gather(*(layer.group_send("g", {"body": b"x" * 300}) for _ in range(50)))
            for _ in range(50):
                await layer.receive(channel)
        return (time.process_time() - started) / count

    ours = asyncio.run(cost(RedisLayer(hosts=[redis_server.url], prefix="speed"), 2000))
    stock = asyncio.run(cost(RedisPubSubChannelLayer(hosts=[redis_server.url], prefix="speed"), 1000))
    assert ours * 2 < stock
