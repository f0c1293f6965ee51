"""The log's contract over every kind of layer: what is appended is applied everywhere, once and in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis as Client

from hubs.cluster import log as room
from hubs.cluster.entries import VERSION, Change, Ended, Entry
from hubs.cluster.records import Records
from hubs.errors import NotFound, Unavailable
from hubs.layers.positions import ms_of
from tests.cluster.conftest import Process, Processes, soon, through, until
from tests.proxy import CuttingProxy
from tests.running import PATIENCE, Redis

EVERY = pytest.mark.parametrize("kind", ["memory", "ours", "pubsub", "queues"], indirect=True)
SHARED = pytest.mark.parametrize("kind", ["ours", "pubsub", "queues"], indirect=True)
AT_MOST_ONCE = pytest.mark.parametrize("kind", ["pubsub", "queues"], indirect=True)


# On every layer


@EVERY
async def test_what_is_appended_has_been_applied_here_when_that_is_known(process: Processes, kind: str) -> None:
    here = await process().open("l")
    assert (here.log.alone, here.log.keeps) == (kind == "memory", kind == "ours")
    for number in range(5):
        await here.append(str(number))
        assert here.ids() == [str(each) for each in range(number + 1)]
    assert {origin for _, _, origin, _ in here.taken} == {here.name}
    positions = [position for _, position, _, _ in here.taken]
    assert positions == sorted(set(positions)) if here.log.keeps else positions == [0] * 5
    assert here.log.position("l") == positions[-1]


@SHARED
async def test_a_fault_in_applying_one_entry_is_not_one_of_the_next(
    process: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    here = await process().open("l")

    def fail(entry: Entry) -> None:
        if entry == Ended("bad"):
            raise ZeroDivisionError

    here.on_take = fail
    await here.append("bad")
    await here.append("good")
    assert here.ids() == ["bad", "good"]
    assert "could not be applied" in caplog.text


def _has_all(process: Process, name: str) -> bool:
    return len(process.ids(name)) == 30


@SHARED
async def test_every_process_applies_what_each_appends_in_order(process: Processes, kind: str) -> None:
    processes = [await process().open("l", "m") for _ in range(3)]
    futures = [
        one.log.append(name, Ended(f"{who} {number}"))
        for number in range(10)
        for who, one in enumerate(processes)
        for name in ("l", "m")
    ]
    await soon(asyncio.gather(*[future for future in futures if future is not None]))
    for one in processes:
        for name in ("l", "m"):
            await until(partial(_has_all, one, name))
            for who in range(3):
                of_one = [text for text in one.ids(name) if text.startswith(f"{who} ")]
                assert of_one == [f"{who} {number}" for number in range(10)]
    if kind == "ours":
        for name in ("l", "m"):
            # One order for all, by positions that are the same everywhere.
            [first, *others] = [[row for row in one.taken if row[0] == name] for one in processes]
            assert others == [first, first]
            assert [position for _, position, _, _ in first] == sorted({position for _, position, _, _ in first})


@SHARED
async def test_what_is_appended_to_a_log_that_is_not_read_here_is_read_elsewhere(process: Processes) -> None:
    here, there = await process().open(), await process().open("l")
    await here.append("one")
    await there.reads("one")
    assert here.taken == []


@SHARED
async def test_from_when_a_log_is_served_all_is_applied(process: Processes) -> None:
    here = await process().open("l")
    for number in range(5):
        there = await process().open("l")
        await here.append(str(number))
        await there.reads(str(number))
        assert there.ids() == [str(number)]


@SHARED
async def test_those_who_want_a_log_at_once_wait_for_the_same_task(process: Processes) -> None:
    here = await process().open()
    others = [asyncio.create_task(here.log.serve("l")) for _ in range(5)]
    others[0].cancel()
    await soon(asyncio.wait(others))
    assert [task.cancelled() for task in others] == [True] + [False] * 4
    await here.append("one")
    assert here.ids() == ["one"]


@SHARED
async def test_a_log_is_left_a_while_after_nobody_wants_it(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LINGER_SECS", 0.05)
    here, there = await process().open(), await process().open("own", "wanted", "not", own=["own"])
    there.wants = {"wanted"}
    for name in ("own", "wanted", "not"):
        there.log.release(name)
    await until(lambda: not there.log._leaving and "not" not in there.log._positions)  # type: ignore[attr-defined]
    await until(lambda: not [task for task in there.log._tasks if task.get_coro().__name__ == "_leave"])  # type: ignore[attr-defined]
    for name in ("not", "wanted", "own"):
        await here.append("one", name)
    await there.reads("one", "own")
    await there.reads("one", "wanted")
    assert there.ids("not") == []
    # And is read again when it is wanted again.
    await soon(there.log.serve("not"))
    await here.append("two", "not")
    await there.reads("two", "not")
    assert there.ids("not") == ["two"]


@SHARED
async def test_a_log_that_is_wanted_again_in_vain_is_left_all_the_same(
    process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LINGER_SECS", 0.1)
    here = await process().open("l", "m")
    for name in ("l", "m"):
        here.log.release(name)
        # As for a client that asks for a connection which has ended.
        await soon(here.log.serve(name))
    here.wants = {"m"}
    await until(lambda: not here.log._leaving)  # type: ignore[attr-defined]
    assert set(here.log._positions) == {"m"}  # type: ignore[attr-defined]


@SHARED
async def test_entries_that_this_version_does_not_know_are_passed_over(
    process: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = await process().open("l"), await process().open("l")
    for number, body in enumerate((["new kind", 1], ["e"], "no entry")):
        message = {"type": room.MESSAGE_TYPE, "v": VERSION + 1, "origin": there.name, "n": -number, "log": "l"}
        await soon(there.layer.group_send("l", message | {"body": msgspec.msgpack.encode(body)}))
    await soon(there.layer.group_send("l", {"type": "something else", "log": "l"}))
    # A newer version's entry of a kind that is known is read.
    message = {"type": room.MESSAGE_TYPE, "v": VERSION + 1, "origin": there.name, "n": 1, "log": "l"}
    await soon(there.layer.group_send("l", message | {"body": msgspec.msgpack.encode(["e", "new", "field"])}))
    await here.reads("new")
    await here.append("old")
    assert here.ids() == ["new", "old"]

    def warnings() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    # Once in each process.
    await until(lambda: len(warnings()) == 2)
    assert f"written in format {VERSION + 1}; this is {VERSION}" in warnings()[0]


@SHARED
async def test_after_the_end_nothing_is_appended_or_read(process: Processes) -> None:
    here, there = await process().open("l"), await process().open("l")
    await soon(there.log.close())
    with pytest.raises(Unavailable):
        await there.append("late")
    await here.append("one")
    assert (here.ids(), there.ids()) == (["one"], [])


@SHARED
async def test_where_there_is_no_redis_everything_says_so(process: Processes, kind: str, free_port: int) -> None:
    here = process(f"redis://127.0.0.1:{free_port}/0")
    with pytest.raises(Unavailable):
        await soon(here.log.open(["own"]))
    with pytest.raises(Unavailable):
        await soon(here.log.serve("l"))
    with pytest.raises(Unavailable):
        await here.append("one")
    assert here.taken == []


# A layer that delivers at most once


@AT_MOST_ONCE
async def test_who_waits_for_what_was_lost_on_its_way_is_told(
    process: Processes, webpubsub: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SWEEP_SECS", 0.05)
    here = await process().open("l")
    webpubsub(ANSWER_SECS=0.2)
    send = here.layer.group_send

    async def lose(group: str, message: Any) -> None:
        """Redis took it, and had nobody to give it to."""

    here.layer.group_send = lose
    appended = here.log.append("l", Ended("lost"))
    assert appended is not None
    with pytest.raises(Unavailable) as problem:
        await soon(appended)
    assert problem.value.outcome is not None
    # It was not applied here, so nobody is told that it was done: it may be published again.
    assert not await soon(problem.value.outcome)
    webpubsub()
    here.layer.group_send = send
    await here.append("one")
    assert here.ids() == ["one"]


@AT_MOST_ONCE
async def test_nothing_can_be_read_again(process: Processes) -> None:
    here = await process().open("l")
    await here.append("one")
    assert here.log.position("l") == 0


# A layer that keeps logs


async def replayed(here: Process, *arguments: Any, **options: Any) -> list[tuple[int, str]]:
    return [
        (position, entry.connection)
        async for position, _, entry in here.log.replay(*arguments, **options)
        if isinstance(entry, Ended)
    ]


async def is_back(here: Process) -> None:
    """Wait until a process can append and read again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(Unavailable):
                return await here.append("are you there", "another")
            await asyncio.sleep(0.02)


async def test_a_part_of_the_log_can_be_read_again(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CHUNK", 3)
    here, there = await process().open("l"), await process().open()
    for number in range(10):
        await here.append(str(number))
    rows = [(position, entry.connection) for _, position, _, entry in here.taken if isinstance(entry, Ended)]
    at = [position for position, _ in rows]
    for one in (here, there):
        assert await replayed(one, "l", at[0], at[9]) == rows[1:]
        assert await replayed(one, "l", at[0], at[9], including=True) == rows
        assert await replayed(one, "l", at[2], at[5]) == rows[3:6]
        assert await replayed(one, "l", at[2], at[5], including=True) == rows[2:6]
        assert await replayed(one, "l", at[2], at[2], including=True) == rows[2:3]
        assert await replayed(one, "l", at[2], at[2]) == []
        assert await replayed(one, "l", at[2] - 1, at[3], checked=False) == rows[2:4]


async def test_what_is_not_kept_any_more_is_not_passed_over_in_silence(
    process: Processes, asked: Client, prefix: str
) -> None:
    here = await process().open("l")
    for number in range(10):
        await here.append(str(number))
    at = [position for _, position, _, _ in here.taken]
    await asked.xtrim(f"{prefix}:log:l", maxlen=5, approximate=False)
    with pytest.raises(NotFound):
        await replayed(here, "l", at[4], at[9])
    assert [text for _, text in await replayed(here, "l", at[5], at[9])] == list("6789")
    # Who only wants what there is gets that.
    assert [text for _, text in await replayed(here, "l", at[0], at[9], checked=False)] == list("56789")
    await asked.delete(f"{prefix}:log:l")
    with pytest.raises(NotFound):
        await replayed(here, "l", at[5], at[9])


async def test_of_a_log_that_is_read_anew_the_last_while_is_remembered(
    process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await process().open("l")
    for number in range(3):
        await here.append(str(number))
    there = await process().open("l")
    assert there.taken == []
    assert there.remembered == here.taken
    monkeypatch.setattr(room, "HISTORY_SECS", 0.0)
    assert (await process().open("l")).remembered == []


async def test_what_was_under_way_while_the_line_was_lost_is_known_afterwards(
    process: Processes, proxy: CuttingProxy
) -> None:
    """Redis does what it was asked, and nobody hears so: it may not be done twice, nor be taken for undone."""
    here, there = await process(through(proxy)).open("l"), await process().open("l")
    await here.append("before")
    proxy.freeze(one_way=True)
    appended = here.log.append("l", Ended("in doubt"))
    assert appended is not None
    await there.reads("in doubt")
    with pytest.raises(Unavailable) as problem:
        await soon(appended)
    assert problem.value.outcome is not None
    assert await soon(problem.value.outcome)
    # A line that is lost says so, and is back; what was read meanwhile elsewhere is read here, once.
    await is_back(here)
    await here.append("after")
    await there.reads("after")
    for one in (here, there):
        assert one.ids() == ["before", "in doubt", "after"]
    assert here.lines[:2] == [False, True]


async def test_what_is_appended_without_knowing_the_last_seconds_is_void_for_all(process: Processes) -> None:
    here, there = await process().open("l"), await process().open("l")
    await here.append("first")
    [(_, position, _, _)] = here.taken
    change = Change("leave_group", ["c"], {"group": "g"})
    # As if it had been under way for so long, or its process had stood still.
    here.read_until = ms_of(position) - int(room.HISTORY_SECS * 1000) - 1
    appended = here.log.append("l", change)
    assert appended is not None
    with pytest.raises(Unavailable) as problem:
        await soon(appended)
    # It is known that it does not count, so it can be appended again.
    assert problem.value.outcome is None
    # Also where it is appended by a process that does not read it.
    elsewhere = await process().open()
    elsewhere.read_until = here.read_until
    appended = elsewhere.log.append("l", change)
    assert appended is not None
    with pytest.raises(Unavailable) as problem:
        await soon(appended)
    assert problem.value.outcome is None
    # Not so what is about nobody who may have moved.
    await here.append("last")
    here.read_until = ms_of(here.log.position("l")) - 1000
    appended = here.log.append("l", change)
    assert appended is not None
    await soon(appended)
    expected = [Ended("first"), Ended("last"), change]
    await until(lambda: len(there.taken) == len(expected))
    for one in (here, there):
        assert [entry for _, _, _, entry in one.taken] == expected
    assert [entry async for _, _, entry in here.log.replay("l", 0, here.log.position("l"))] == expected


async def test_what_did_not_get_through_never_will(process: Processes, proxy: CuttingProxy) -> None:
    here, there = await process(through(proxy)).open("l"), await process().open("l")
    await here.append("before")
    proxy.freeze()
    appended = here.log.append("l", Ended("in doubt"))
    assert appended is not None
    with pytest.raises(Unavailable) as problem:
        await soon(appended)
    assert problem.value.outcome is not None
    assert not await soon(problem.value.outcome)
    await is_back(here)
    await here.append("after")
    await there.reads("after")
    assert here.ids() == there.ids() == ["before", "after"]


async def test_while_redis_is_away_nothing_is_appended_or_served_and_afterwards_all_is_well(
    process: Processes, tmp_path: Any
) -> None:
    redis = Redis(tmp_path, "--appendonly", "yes").start()
    try:
        here, there = [await process(redis.url).open("l") for _ in range(2)]
        await here.append("before")
        redis.stop()
        await until(lambda: here.log.is_away)
        with pytest.raises(Unavailable) as problem:
            await here.append("lost")
        # It is not in the log, for sure.
        assert problem.value.outcome is None
        for name in ("l", "m"):
            with pytest.raises(Unavailable):
                await soon(here.log.serve(name))
        with pytest.raises(Unavailable):
            await replayed(here, "l", here.log.position("l") - 1, here.log.position("l"), checked=False)
        redis.start()
        await is_back(here)
        await soon(here.log.serve("m"))
        await here.append("after")
        await there.reads("after")
        assert here.ids() == there.ids() == ["before", "after"]
        assert here.gaps == there.gaps == []
    finally:
        redis.stop()


async def test_a_redis_that_forgot_makes_a_gap_and_goes_on(process: Processes, tmp_path: Any) -> None:
    redis = Redis(tmp_path).start()
    try:
        here, there = [await process(redis.url).open("l") for _ in range(2)]
        await here.append("before")
        await there.reads("before")
        redis.stop()
        await until(lambda: here.log.is_away)
        redis.start()
        await is_back(here)
        await here.append("after")
        await there.reads("after")
        for one in (here, there):
            assert "l" in one.gaps
            assert one.ids() == ["before", "after"]
    finally:
        redis.stop()


async def test_that_redis_is_away_is_said_once(process: Processes, caplog: pytest.LogCaptureFixture) -> None:
    """Not with each attempt, of which a process that was started meanwhile makes one each second."""
    here = process("redis://127.0.0.1:1/0")
    records = Records(here.name, here.log)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await here.open(own=["l"])
        with pytest.raises(Unavailable):
            await records.begin()

    def said() -> list[str]:
        return [record.getMessage().partition(":")[0] for record in caplog.records if "hubs.cluster" in record.name]

    await until(lambda: "Redis cannot be used" in said())
    with pytest.raises(Unavailable):
        await records.begin()
    assert sorted(said()) == ["A log cannot be read", "Redis cannot be used", "The records in Redis cannot be used"]
