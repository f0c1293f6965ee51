"""What our layer does beyond Channels' contract: posting, listening, reading, and counting the cost."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.asyncio import Redis as Client
from redis.exceptions import ResponseError

from hubs.layers import link, redis, wire
from hubs.layers.errors import LayerAway, LayerFull, LogTrimmed
from hubs.layers.positions import SPARE_SEQUENCE, id_of, ms_of, position_of
from hubs.layers.redis import KEY, RedisLayer
from tests.layers.conftest import Ear, Layers, soon
from tests.running import PATIENCE, Redis


def numbers(ear: Ear) -> list[int]:
    """What an ear has heard, by the numbers in it."""
    return [entry[2]["n"] for entry in ear.heard if not isinstance(entry, str)]


# Posting


async def test_it_can_be_reached(layers: Layers) -> None:
    await soon(layers().requirements())
    with pytest.raises(LayerAway, match="Connect call failed"):
        await soon(layers("redis://127.0.0.1:1/0").requirements())


async def test_a_post_is_done_with_its_position(layers: Layers, asked: Client, prefix: str) -> None:
    here = layers()
    positions = await soon(asyncio.gather(*(here.post("g", {"n": number}) for number in range(3))))
    assert positions == sorted(set(positions))
    entries = await asked.xrange(f"{prefix}:log:g")
    assert [position_of(entry_id) for entry_id, _ in entries] == positions
    assert [id_of(position) for position in positions] == [entry_id for entry_id, _ in entries]
    assert abs(ms_of(positions[0]) / 1000 - time.time()) < 3600


async def test_everybody_gets_an_entry_with_the_position_that_its_post_got(layers: Layers) -> None:
    here, there = layers(), layers()
    ears = [await Ear(layer).open("g", "h") for layer in (here, there)]
    positions = {}
    for number in range(50):
        group = "gh"[number % 2]
        positions[number] = await soon(here.post(group, {"n": number}))
    await soon(there.post("g", {"n": 50}))
    for ear in ears:
        await ear.hears_up_to({"n": 50})
        heard = [entry for entry in ear.heard if not isinstance(entry, str)][:-1]
        assert {(group, position, message["n"]) for group, position, message in heard} == {
            ("gh"[number % 2], position, number) for number, position in positions.items()
        }


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


async def test_a_loop_turn_is_one_write(layers: Layers, asked: Client) -> None:
    here = layers()
    await soon(here.group_send("g", {"type": "warm"}))
    before = (await asked.info("stats"))["total_reads_processed"]
    await soon(asyncio.wait([here.post("g", {"type": "n"}) for _ in range(200)]))
    # Redis reads 16 KiB at a time; besides it read our question, and may have read a sign of life or two.
    assert (await asked.info("stats"))["total_reads_processed"] - before < 20


async def test_many_entries_are_one_read(layers: Layers, own_redis: Redis) -> None:
    here, there = layers(own_redis.url), layers(own_redis.url)
    ear = await Ear(there).open("g")
    async with Client.from_url(own_redis.url) as client:

        async def reads() -> int:
            return int((await client.info("commandstats"))["cmdstat_xread"]["calls"])

        await soon(here.post("g", {"n": -1}))
        await ear.hears()
        before = await reads()
        await soon(asyncio.wait([here.post("g", {"n": number}) for number in range(2000)]))
        assert await ear.hears_up_to({"n": 1999}) == [{"n": number} for number in range(2000)]
        assert await reads() - before < 200


async def test_what_is_not_a_message_is_refused(layers: Layers) -> None:
    layer = layers()
    with pytest.raises(TypeError):
        layer.post("g", "text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        layer.post("g", {"type": object()})
    assert await soon(layer.post("g", {"type": "x"}))


async def test_posts_are_bounded(layers: Layers) -> None:
    few = layers(max_posted_messages=10)
    await soon(few.post("g", {"type": "x"}))
    futures = [few.post("g", {"type": "x"}) for _ in range(12)]
    assert [future.done() for future in futures] == [False] * 10 + [True] * 2
    with pytest.raises(LayerFull):
        await futures[10]
    with pytest.raises(ChannelFull):
        await few.group_send("g", {"type": "x"})
    with pytest.raises(LayerFull):
        await few.execute("k", "GET", KEY)
    assert all(await soon(asyncio.gather(*futures[:10])))
    assert await soon(few.post("g", {"type": "again"}))

    small = layers(max_posted_bytes=1000)
    futures = [small.post("g", {"b": b"x" * 400}) for _ in range(3)]
    with pytest.raises(LayerFull):
        await futures[2]
    assert all(await soon(asyncio.gather(*futures[:2])))
    assert await soon(small.post("g", {"b": b"x" * 400}))


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
    assert await soon(futures[2]) > futures[0].result()
    assert [(await ear.hears())["n"] for _ in range(3)] == [0, 1, 2]


async def test_more_groups_than_are_remembered(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "MAX_LOGS", 10)
    here, ear = layers(), await Ear(layers()).open("g0", "g24")
    for number in range(25):
        await soon(here.post(f"g{number}", {"n": number}))
        await soon(here.send(f"channel{number}", {"n": number}))
    await soon(here.post("g0", {"n": 0}))
    assert sorted([(await ear.hears())["n"] for _ in range(3)]) == [0, 0, 24]
    assert len(here._here().logs) <= 10


async def test_a_clock_that_was_set_back(layers: Layers, asked: Client, prefix: str) -> None:
    """Redis goes on in the last millisecond that it has used; it is not filled to where positions end."""
    here = layers()
    far = 1 << 42
    await asked.xadd(f"{prefix}:log:g", {"n": "1"}, id=f"{far}-1")
    assert await soon(here.post("g", {"n": 1})) == position_of(b"%d-2" % far)
    await asked.xadd(f"{prefix}:log:g", {"n": "1"}, id=f"{far}-{(1 << 20) - SPARE_SEQUENCE // 2}")
    await soon(here.post("g", {"n": 2}))
    with pytest.raises(LayerAway, match="clock"):
        await here.post("g", {"n": 3})
    assert await soon(here.post("other", {"n": 3}))
    await asked.xadd(f"{prefix}:log:g", {"n": "1"}, id=f"{far}-{1 << 20}")
    with pytest.raises(OverflowError):
        position_of(b"%d-%d" % (far, 1 << 20))


# Reading along


async def test_own_entries_come_too(layers: Layers) -> None:
    layer = layers()
    ear = await Ear(layer).open("g")
    position = await soon(layer.post("g", {"n": 1}))
    await ear.hears()
    assert ear.heard == [("g", position, {"n": 1})]


async def test_from_where_the_log_ends_or_from_a_position(layers: Layers) -> None:
    here, there = layers(), layers()
    channel = await there.new_channel()
    begun = await soon(there.group_add("g", channel))
    positions = [await soon(here.post("g", {"n": number})) for number in range(10)]
    assert begun < positions[0]
    late = Ear(there)
    await late.open()
    assert await soon(there.group_add("g", late.channel)) == positions[-1]
    early = await Ear(there).open("g", after=positions[4])
    await soon(here.post("g", {"n": 10}))
    await early.hears_up_to({"n": 10})
    assert numbers(early) == [5, 6, 7, 8, 9, 10]
    await late.hears_up_to({"n": 10})
    assert numbers(late) == [10]
    # What one reads again comes once to the others.
    await soon(there.group_add("g", early.channel, after=positions[7]))
    await soon(here.post("g", {"n": 11}))
    await early.hears_up_to({"n": 11})
    await late.hears_up_to({"n": 11})
    assert numbers(early) == [5, 6, 7, 8, 9, 10, 8, 9, 10, 11]
    assert numbers(late) == [10, 11]
    first = await Ear(there).open("g", after=begun)
    await first.hears_up_to({"n": 11})
    assert numbers(first) == list(range(12))
    assert [ear.gaps.empty() for ear in (early, late, first)] == [True] * 3


@pytest.mark.parametrize("count", [1, 20])
async def test_nothing_is_skipped_while_groups_are_added(layers: Layers, count: int) -> None:
    """Somebody posts all the time: what comes begins right behind the position that was returned."""
    here, there = layers(), layers()
    ear = await Ear(there).open()
    positions: dict[str, list[int]] = {f"g{number}": [] for number in range(count)}

    async def post() -> None:
        number = 0
        while True:
            for group in positions:
                positions[group].append(await here.post(group, {"n": number}))
            number += 1

    posting = asyncio.create_task(post())
    added = {}
    for group in positions:
        for _ in range(3):
            added[group] = await soon(there.group_add(group, ear.channel))
            await there.group_discard(group, ear.channel)
        added[group] = await soon(there.group_add(group, ear.channel))
    posted = {group: len(each) for group, each in positions.items()}
    async with asyncio.timeout(PATIENCE):
        while any(len(each) < posted[group] + 20 for group, each in positions.items()):
            await asyncio.sleep(0.01)
    posting.cancel()
    await asyncio.wait([posting])
    for group in positions:
        await soon(here.post(group, {"n": -1}))
        while not any(entry[0] == group and entry[2]["n"] == -1 for entry in ear.heard):
            await ear.hears()
        heard = [entry[1] for entry in ear.heard if entry[0] == group and entry[1] > added[group]]
        expected = [position for position in positions[group] if position > added[group]]
        assert heard[: len(expected)] == expected


async def test_nothing_is_skipped_when_entries_are_read_again(layers: Layers) -> None:
    """Somebody posts all the time, so a reply is on its way when the reader goes back."""
    here, there = layers(), layers()
    ear, positions = await Ear(there).open("g"), [await soon(here.post("g", {"n": 0}))]

    async def post() -> None:
        while True:
            positions.append(await here.post("g", {"n": len(positions)}))

    posting = asyncio.create_task(post())
    for number in range(100):
        await ear.hears()
        after = positions[-1 - number % len(positions)]
        await there.group_discard("g", ear.channel)
        # A turn or two later, when Redis may have been asked for what is behind. With a position nothing is waited for.
        await there.group_add("g", ear.channel, after=positions[-1])
        for _ in range(number % 4):
            await asyncio.sleep(0)
        ear.heard.clear()
        await there.group_add("g", ear.channel, after=after)
        async with asyncio.timeout(PATIENCE):
            while len(ear.heard) < 5:
                await asyncio.sleep(0)
        heard = [entry[1] for entry in ear.heard]
        behind = [position for position in positions if position > after]
        assert heard[: len(behind)] == behind[: len(heard)]
    posting.cancel()
    await asyncio.wait([posting])


async def test_a_group_that_is_added_while_a_read_blocks(layers: Layers) -> None:
    """The reader is woken: it need not end its present read first, which would take a quarter of patience."""
    here, there = layers(patience_secs=PATIENCE * 8), layers(patience_secs=PATIENCE * 8)
    ear = await Ear(there).open("g0")
    for number in range(1, 5):
        await soon(here.post("g0", {"n": 0}))
        await ear.hears()
        await soon(there.group_add(f"g{number}", ear.channel))
        await soon(here.post(f"g{number}", {"n": number}))
        assert await ear.hears() == {"n": number}


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
        await soon(here.post("g", {"n": number}))
        assert await ear.hears() == {"n": number}


async def test_left_before_it_was_there(layers: Layers) -> None:
    here, there = layers(), layers()
    ear = await Ear(there).open("other")
    adding = asyncio.create_task(there.group_add("g", ear.channel))
    await asyncio.sleep(0)
    await soon(there.group_discard("g", ear.channel))
    await soon(adding)
    await soon(here.post("g", {"type": "to nobody"}))
    await soon(here.post("other", {"type": "x"}))
    assert await ear.hears() == {"type": "x"}
    assert len(there._here()._subscriptions) == 2


async def test_a_cancelled_group_add_harms_nobody_else(layers: Layers) -> None:
    here, there = layers(), layers()
    ear = await Ear(there).open()
    adding = [asyncio.create_task(there.group_add("g", ear.channel)) for _ in range(3)]
    await asyncio.sleep(0)
    adding[0].cancel()
    await soon(asyncio.wait(adding))
    assert [task.cancelled() for task in adding] == [True, False, False]
    await soon(here.post("g", {"type": "x"}))
    assert await ear.hears() == {"type": "x"}
    lone = asyncio.create_task(there.group_add("h", ear.channel))
    await asyncio.sleep(0)
    lone.cancel()
    await asyncio.wait([lone])
    assert "h" not in there._here().mailboxes[ear.channel].groups


async def test_a_listener_hears_what_came_before(layers: Layers) -> None:
    here, there = layers(), layers()
    channel = await soon(there.new_channel())
    other = await Ear(there).open("g")
    await soon(there.group_add("g", channel))
    positions = [await soon(here.post("g", {"n": number})) for number in range(3)]
    for number in range(3):
        assert await other.hears() == {"n": number}
    heard: list[Any] = []
    there.listen(channel, lambda *entry: heard.append(entry), heard.append, heard.append)
    assert heard == [("g", position, {"n": number}) for number, position in enumerate(positions)]


async def test_a_listener_hears_what_is_sent_to_its_channel(layers: Layers) -> None:
    ear = await Ear(layers()).open()
    await soon(layers().send(ear.channel, {"type": "x"}))
    assert await ear.hears() == {"type": "x"}
    assert ear.heard[0][0] == ear.channel


async def test_a_listener_that_fails_hears_the_next(layers: Layers, caplog: pytest.LogCaptureFixture) -> None:
    here, there = layers(), layers()
    channel = await soon(there.new_channel())
    heard: asyncio.Queue[int] = asyncio.Queue()

    def listen(group: str, position: int, message: dict[str, Any]) -> None:
        heard.put_nowait(10 // message["n"])

    there.listen(channel, listen, lambda up: None, lambda group: None)
    await soon(there.group_add("g", channel))
    here.post("g", {"n": 0})
    here.post("g", {"n": 5})
    assert await soon(heard.get()) == 2
    assert "could not be handled" in caplog.text


async def test_a_listener_may_end_while_it_is_told(layers: Layers) -> None:
    here, there = layers(), layers()
    ears = [await Ear(there).open("g") for _ in range(3)]
    channel, ended = await soon(there.new_channel()), asyncio.Event()
    await soon(there.group_add("g", channel))
    heard = []

    def listen(group: str, position: int, message: dict[str, Any]) -> None:
        heard.append(message)
        end()
        ended.set()

    end = there.listen(channel, listen, lambda up: None, lambda group: None)
    await soon(asyncio.wait([here.post("g", {"n": 1}), here.post("g", {"n": 2})]))
    await soon(ended.wait())
    for ear in ears:
        assert [await ear.hears(), await ear.hears()] == [{"n": 1}, {"n": 2}]
    assert heard == [{"n": 1}]
    with pytest.raises(RuntimeError, match="no channel"):
        await there.group_add("g", channel)


async def test_what_cannot_be_read_is_passed_over(
    layers: Layers, asked: Client, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    layer = layers()
    ear = await Ear(layer).open("g")
    channel = await soon(layer.new_channel())
    begun = await soon(layer.group_add("g", channel))
    await asked.xadd(f"{prefix}:log:g", {"m": b"\xc1"})
    await asked.xadd(f"{prefix}:log:g", {"somebody": "else's"})
    await soon(layer.group_send("g", {"type": "good"}))
    assert await ear.hears() == {"type": "good"}
    assert await soon(layer.receive(channel)) == {"type": "good"}
    assert [message for _, message in await soon(layer.read("g", begun))] == [{"type": "good"}]
    assert caplog.text.count("cannot be read") == 3


async def test_only_channels_of_this_process_join(layers: Layers) -> None:
    here, there = layers(), layers()
    channel = await soon(there.new_channel())
    with pytest.raises(RuntimeError, match="no channel"):
        await here.group_add("g", channel)
    with pytest.raises(RuntimeError, match="no channel"):
        here.listen(channel, lambda *entry: None, lambda up: None, lambda group: None)


# Channels


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
    await soon(here.post("g", {"n": 1}))
    assert await soon(second) == {"n": 1}
    third = asyncio.create_task(there.receive(channel))
    await asyncio.sleep(0)
    third.cancel()
    async with asyncio.timeout(PATIENCE):
        while there._here()._subscriptions:
            await asyncio.sleep(0.01)
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


async def test_a_message_waits_for_whoever_receives_it_and_comes_once(layers: Layers) -> None:
    """Of a channel that many processes receive, as Channels' background workers do."""
    here, *there = layers(), layers(), layers(), layers()
    for number in range(30):
        await soon(here.send("work", {"n": number}))
    heard: list[int] = []

    async def receive(layer: RedisLayer) -> None:
        while True:
            heard.append((await layer.receive("work"))["n"])

    tasks = [asyncio.create_task(receive(layer)) for layer in there]
    for number in range(30, 60):
        await soon(here.send("work", {"n": number}))
    async with asyncio.timeout(PATIENCE):
        while len(heard) < 60:
            await asyncio.sleep(0.01)
    await soon(here.send("work", {"n": 60}))
    async with asyncio.timeout(PATIENCE):
        while 60 not in heard:
            await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert sorted(heard) == list(range(61))


async def test_processes_share_a_stream_for_their_channels(layers: Layers, asked: Client, prefix: str) -> None:
    here, there = layers(), layers()
    channels = [await there.new_channel() for _ in range(3)] + [await there.new_channel("other.")]
    for number, channel in enumerate(channels):
        await soon(here.send(channel, {"n": number}))
    for number, channel in enumerate(channels):
        assert await soon(there.receive(channel)) == {"n": number}
    assert len(await asked.keys(f"{prefix}:channel:*")) == 2


# Reading back


async def test_a_part_of_a_log(layers: Layers) -> None:
    here, there = layers(), layers()
    channel = await there.new_channel()
    begun = await soon(there.group_add("g", channel))
    positions = [await soon(here.post("g", {"n": number})) for number in range(10)]
    entries = [(position, {"n": number}) for number, position in enumerate(positions)]

    async def read(*arguments: int, **options: int) -> Any:
        return await soon(there.read("g", *arguments, **options))

    assert await read(begun) == entries
    assert await read(0) == entries
    assert await read(positions[2]) == entries[3:]
    assert await read(positions[2], positions[5]) == entries[3:6]
    assert await read(positions[2], count=2) == entries[3:5]
    assert await read(0, count=2) == entries[:2]
    assert await read(positions[-1]) == []
    assert await read(positions[3], positions[3]) == []
    assert await read(positions[3], positions[2]) == []


async def test_a_part_from_an_entry_on_or_from_any_position(layers: Layers, asked: Client, prefix: str) -> None:
    layer = layers()
    positions = [await soon(layer.post("g", {"n": number})) for number in range(10)]
    entries = [(position, {"n": number}) for number, position in enumerate(positions)]
    assert await soon(layer.read("g", positions[2], including=True)) == entries[2:]
    assert await soon(layer.read("g", positions[2], positions[2], including=True)) == entries[2:3]
    assert await soon(layer.read("g", positions[2], count=2, including=True)) == entries[2:5]
    await asked.xtrim(f"{prefix}:log:g", maxlen=4, approximate=False)
    with pytest.raises(LogTrimmed):
        await soon(layer.read("g", positions[2], including=True))
    assert await soon(layer.read("g", positions[2], checked=False)) == entries[6:]
    assert await soon(layer.read("g", positions[2], count=2, checked=False)) == entries[6:9]
    assert await soon(layer.read("g", positions[-1] + 1, checked=False)) == []


async def test_a_part_that_may_be_gone(layers: Layers, asked: Client, prefix: str) -> None:
    layer = layers()
    positions = [await soon(layer.post("g", {"n": number})) for number in range(5)]
    assert await asked.xtrim(f"{prefix}:log:g", maxlen=2, approximate=False) == 3
    with pytest.raises(LogTrimmed, match="'g' does not reach back"):
        await soon(layer.read("g", positions[2]))
    assert await soon(layer.read("g", positions[3])) == [(positions[4], {"n": 4})]
    await asked.delete(f"{prefix}:log:g")
    with pytest.raises(LogTrimmed):
        await soon(layer.read("g", positions[4]))
    assert await soon(layer.read("g", 0)) == []


# Commands


async def test_commands_go_with_posts_in_order(layers: Layers, asked: Client, prefix: str) -> None:
    here, ear = layers(), await Ear(layers()).open("g")
    futures: list[Any] = []
    for number in range(10):
        futures.append(here.execute("counter", "INCR", KEY))
        futures.append(here.post("g", {"n": number}))
    futures.append(here.execute("sessions:ü", "HSET", KEY, "field", b"\xff\r\n", b"n", 5))
    futures.append(here.execute("sessions:ü", "HGETALL", KEY))
    done: list[int] = []
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: done.append(number))
    results = await soon(asyncio.gather(*futures))
    assert done == list(range(22))
    assert results[0:20:2] == list(range(1, 11))
    assert results[20:] == [2, [b"field", b"\xff\r\n", b"n", b"5"]]
    assert await asked.get(f"{prefix}:counter") == b"10"
    await ear.hears_up_to({"n": 9})
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await soon(here.execute("counter", "HGETALL", KEY))
    with pytest.raises(ResponseError, match="unknown command"):
        await soon(here.execute("counter", "NO-SUCH", KEY))
    with pytest.raises(TypeError, match="bytes, text or an integer"):
        here.execute("counter", "SET", KEY, 1.5)  # type: ignore[arg-type]


# Configuration


@pytest.mark.parametrize("keys", [None, ["new key", "old key"]], ids=["plain", "encrypted"])
@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_channels_redis_serializers(layers: Layers, keys: list[str] | None, format: str) -> None:
    options: dict[str, Any] = {"symmetric_encryption_keys": keys, "serializer_format": format}
    here, there = layers(**options), layers(**options)
    message: dict[str, Any] = {"type": "x", "n": 2**40, "text": "é", "list": [None, True, 1.5]}
    if format == "msgpack":
        message["bytes"] = b"\xff\x00"
    ear = await Ear(there).open("g")
    position = await soon(here.post("g", message))
    assert await ear.hears() == message
    assert await soon(there.read("g", 0)) == [(position, message)]
    await soon(here.send(ear.channel, message | {"n": 1}))
    assert await ear.hears() == message | {"n": 1}


async def test_encrypted_is_encrypted(layers: Layers, asked: Client, prefix: str) -> None:
    layer = layers(symmetric_encryption_keys=["k"])
    await soon(layer.group_send("g", {"type": "the secret"}))
    await soon(layer.send("c", {"type": "the secret"}))
    for key in ("log:g", "channel:c"):
        ((_, fields),) = await asked.xrange(f"{prefix}:{key}")
        assert b"secret" not in b"".join(fields.values())


async def test_any_database_and_password(layers: Layers, own_redis: Redis) -> None:
    async with Client.from_url(own_redis.url) as client:
        await client.config_set("requirepass", "p@ss")
    url = f"redis://:p%40ss@127.0.0.1:{own_redis.port}/3"
    ear = await Ear(layers(url)).open("g")
    await soon(layers(f"{url}?protocol=3&decode_responses=True").post("g", {"type": "x"}))
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
