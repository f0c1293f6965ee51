"""How long entries and logs are kept, and how many bytes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from hubs.layers import reader, trimming
from hubs.layers.errors import LogTrimmed
from hubs.layers.positions import ms_of, position_of
from hubs.layers.redis import KEY, PATIENCE_SECS
from hubs.layers.wire import BEATS
from tests.layers.conftest import Ear, Layers, soon
from tests.running import PATIENCE, Redis


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "LOOK_SECS", 0.05)


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_entries_that_are_too_old_go(layers: Layers, asked: Client, prefix: str) -> None:
    key = f"{prefix}:log:g"
    layer = layers(retention_secs=1)
    ear = await Ear(layers(retention_secs=1)).open("g")
    # Nodes of a stream have a hundred entries; only whole ones go.
    positions = [await soon(layer.post("g", {"n": number})) for number in range(1000)]

    async def is_short() -> bool:
        await layer.post("g", {"n": -1})
        return await asked.xlen(key) < 500

    await until(is_short)
    await ear.hears_up_to({"n": 999})
    (seconds, _), left = await asked.time(), await soon(layer.read("g", 0))
    first = left[0][0]
    # Nothing that is younger than the retention; and of what is older, something stays.
    assert ms_of(first) < seconds * 1000
    assert [position for position in positions if position >= first] == [
        position for position, message in left if message["n"] >= 0
    ]
    with pytest.raises(LogTrimmed):
        await soon(layer.read("g", positions[0]))
    assert ear.gaps.empty()


async def test_the_last_position_of_an_idle_log_stays_valid(layers: Layers, asked: Client, prefix: str) -> None:
    """However old it is, and although everything before it goes."""
    key = f"{prefix}:log:g"
    layer = layers(retention_secs=0.5)
    ear = await Ear(layer).open("g")
    await soon(asyncio.wait([layer.post("g", {"n": number}) for number in range(450)]))
    last = await soon(layer.post("g", {"n": 450}))

    async def is_short() -> bool:
        return await asked.xlen(key) <= 100

    # Once more after all of them have become too old, though nothing is appended.
    await until(is_short)
    assert await soon(layer.read("g", last)) == []
    late = await Ear(layer).open("g", after=last)
    assert await soon(layer.post("g", {"n": 451})) > last
    assert await late.hears() == {"n": 451}
    await ear.hears_up_to({"n": 451})
    assert late.gaps.empty()
    assert ear.gaps.empty()


async def test_a_log_that_is_only_read_is_trimmed(layers: Layers, asked: Client, prefix: str) -> None:
    """Whoever appended to it may have died."""
    there = layers(retention_secs=0.5)
    await Ear(there).open("g")
    gone = layers()
    await soon(asyncio.wait([gone.post("g", {"n": number}) for number in range(450)]))
    await soon(gone.flush())

    async def is_short() -> bool:
        return await asked.xlen(f"{prefix}:log:g") <= 100

    await until(is_short)


async def test_what_redis_does_not_let_trim_keeps_nothing_else_from_it(
    layers: Layers, asked: Client, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    layer = layers(retention_secs=0.3)
    await asked.set(f"{prefix}:log:odd", 1)
    for _ in range(5):
        for group in ("g", "odd", "h"):
            await soon(asyncio.wait([layer.post(group, {"n": number}) for number in range(200)]))

    async def is_short() -> bool:
        return await asked.xlen(f"{prefix}:log:g") + await asked.xlen(f"{prefix}:log:h") <= 200

    await until(is_short)
    assert caplog.text.count("refuses to trim the log") == 1


@pytest.mark.parametrize("size", [100, 20_000])
async def test_a_log_that_is_too_large(
    layers: Layers, asked: Client, prefix: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(trimming, "SETTLED_MS", 200)
    key, most = f"{prefix}:log:g", 200_000
    layer = layers(max_log_bytes=most)
    positions = []
    for _ in range(20):
        positions += await soon(asyncio.gather(*(layer.post("g", {"b": b"x" * size}) for _ in range(100_000 // size))))
        await asyncio.sleep(0)

    async def is_small() -> bool:
        return await asked.memory_usage(key) <= most

    await until(is_small)
    # Nothing is appended any more, and not much more goes than has to.
    assert await asked.memory_usage(key) > most / 2
    with pytest.raises(LogTrimmed):
        await soon(layer.read("g", positions[0]))
    first = position_of((await asked.xrange(key, count=1))[0][0])
    assert await soon(layer.read("g", first))


async def test_what_is_young_is_not_trimmed_however_much_it_is(layers: Layers, asked: Client, prefix: str) -> None:
    layer = layers(max_log_bytes=1000)
    ear = await Ear(layer).open("g")
    first = await soon(layer.post("g", {"n": 0}))
    await soon(asyncio.wait([layer.post("g", {"n": number, "b": b"x" * 1000}) for number in range(1, 500)]))

    async def is_trimmed() -> bool:
        return len(await layer.read("g", 0)) < 500

    await until(is_trimmed)
    seconds, micros = await asked.time()
    assert seconds * 1000 + micros // 1000 - ms_of(first) >= trimming.SETTLED_MS
    while len(ear.heard) < 500:
        await ear.hears()
    assert ear.gaps.empty()


def test_a_reader_that_does_not_look_is_not_trimmed_past() -> None:
    # From one read that found all there was to the next: it blocked, its reply waited, and the next took its time.
    longest = PATIENCE_SECS / BEATS + reader.STALL_SECS + PATIENCE_SECS
    assert longest * 1000 < trimming.SETTLED_MS


async def test_a_redis_that_does_not_say_how_large_a_log_is(
    layers: Layers, own_redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client.from_url(own_redis.url) as client:
        await client.acl_setuser("some", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-memory"])
    layer = layers(own_redis.url.replace("//", "//some:pw@"), max_log_bytes=1000, retention_secs=0.3)
    first = await soon(layer.post("g", {"n": 0}))

    async def is_trimmed() -> bool:
        await asyncio.gather(*(layer.post("g", {"n": 1}) for _ in range(50)))
        try:
            await layer.read("g", first, count=1)
        except LogTrimmed:
            return True
        return False

    await until(is_trimmed)
    assert caplog.text.count("trimmed by age only") == 1


async def test_logs_that_nobody_uses_expire(layers: Layers, asked: Client, prefix: str) -> None:
    here, there = layers(), layers()
    ear = await Ear(there).open("g", "joined")
    await soon(here.post("g", {"n": 1}))
    await ear.hears()
    await soon(here.send(ear.channel, {"n": 2}))
    await ear.hears()
    await soon(here.post("h", {"n": 1}))
    await soon(here.execute("session", "SET", KEY, 1, "EX", 60))
    keys = await asked.keys(f"{prefix}:*")
    assert len(keys) == 6
    for key in keys:
        assert 0 < await asked.ttl(key) <= 3600
    assert await asked.ttl(f"{prefix}:log:h") > 3000


async def test_a_log_that_is_read_or_appended_to_does_not_expire(
    layers: Layers, asked: Client, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubs.layers.redis.MIN_LOG_EXPIRY_SECS", 0.4)
    here, there = layers(retention_secs=0.1), layers(retention_secs=0.1)
    ear = await Ear(there).open("read")
    position = await soon(here.post("read", {"n": 1}))
    await ear.hears()
    await soon(here.post("left", {"n": 1}))

    async def left_is_gone() -> bool:
        await here.post("written", {"n": 1})
        return not await asked.exists(f"{prefix}:log:left")

    await until(left_is_gone)
    for _ in range(20):
        await soon(here.post("written", {"n": 1}))
        await asyncio.sleep(0.05)
    assert await asked.exists(f"{prefix}:log:read", f"{prefix}:log:written") == 2
    assert await soon(here.read("read", position)) == []
    assert ear.gaps.empty()
