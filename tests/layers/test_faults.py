"""Redis goes, is cut off, stands still, forgets or refuses: what is claimed is true, and reading goes on."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis import Redis as SyncClient
from redis.asyncio import Redis as Client
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from hubs.layers.errors import LayerAway, LayerFull, LayerInDoubt, LogTrimmed
from hubs.layers.positions import Position, position_of
from hubs.layers.redis import KEY, RedisLayer
from tests.layers.conftest import Claims, Ear, Layers, answering, in_log, soon
from tests.proxy import CuttingProxy
from tests.running import PATIENCE, Redis, free_port


@pytest.fixture
def proxy(redis_server: Redis) -> Iterator[CuttingProxy]:
    """A way to the shared Redis that can be cut."""
    with CuttingProxy(redis_server.port) as way:
        yield way


def through(proxy: CuttingProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


@contextmanager
def stopped(redis: Redis) -> Iterator[None]:
    """Redis stands still. Connections can be made, since that is the kernel's part."""
    assert redis.process is not None
    os.kill(redis.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(redis.process.pid, signal.SIGCONT)


# How often the line breaks in a test. A way that is frozen is noticed only when patience ends.
TIMES = {"abort": 3, "cut": 3, "freeze": 1, "freeze one way": 1}


def faults(proxy: CuttingProxy) -> dict[str, Callable[[], Any]]:
    return {
        "abort": proxy.abort,
        "cut": lambda: proxy.cut(0.1),
        "freeze": proxy.freeze,
        "freeze one way": lambda: proxy.freeze(one_way=True),
    }


async def away(layer: RedisLayer, group: str = "g") -> LayerAway:
    """Wait until a post fails; gives why."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await layer.post(group, {"type": "are you there"})
            except LayerAway as problem:
                return problem
            await asyncio.sleep(0.01)


async def back(layer: RedisLayer, group: str = "back") -> None:
    """Wait until a post is taken."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await layer.post(group, {"type": "are you there"})
            except (LayerAway, LayerFull):
                await asyncio.sleep(0.01)
            else:
                return


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.02)


# Posting


async def test_the_first_posts_wait_for_the_connection(layers: Layers, proxy: CuttingProxy) -> None:
    layer = layers(through(proxy))
    assert all(await soon(asyncio.gather(*(layer.post("g", {"n": number}) for number in range(10)))))
    proxy.refuse()
    other = layers(through(proxy))
    results = await soon(
        asyncio.gather(*(other.post("g", {"n": number}) for number in range(10)), return_exceptions=True)
    )
    assert {type(result) for result in results} == {LayerAway}


@pytest.mark.parametrize("fault", TIMES)
async def test_what_is_claimed_is_true(
    layers: Layers, proxy: CuttingProxy, asked: Client, prefix: str, fault: str
) -> None:
    here, ear, claims = layers(through(proxy)), await Ear(layers()).open("g"), Claims()
    await back(here)
    for _ in range(TIMES[fault]):
        for _ in range(20):
            claims.post(here, 10)
            await asyncio.sleep(0)
        faults(proxy)[fault]()
        claims.post(here, 100)
        await claims.all_said()
        # Not waiting for the outcomes: what is posted now comes behind whatever may be in the log.
        await back(here)
    assert LayerInDoubt in claims.kinds()
    await claims.are_true(asked, prefix)
    await soon(here.post("g", {"n": -1}))
    assert [message["n"] for message in await ear.hears_up_to({"n": -1})][:-1] == list(await in_log(asked, prefix))[:-1]


async def test_connections_are_killed_while_ten_thousand_are_posted(layers: Layers, asked: Client, prefix: str) -> None:
    here, ear, claims = layers(), await Ear(layers()).open("g"), Claims()
    await back(here)
    while len(claims.futures) < 10_000:
        for _ in range(5):
            claims.post(here, 100)
            await asyncio.sleep(0)
        if len(claims.futures) % 2000 == 0:
            # Not whoever asks for it.
            killed = await asked.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert killed >= 1
            await claims.all_said()
            await back(here)
    await claims.all_said()
    await claims.are_true(asked, prefix)
    await soon(here.post("g", {"n": -1}))
    heard = [message["n"] for message in await ear.hears_up_to({"n": -1})]
    assert heard == list(await in_log(asked, prefix))
    assert ear.gaps.empty()


async def test_redis_stands_still(layers: Layers, own_redis: Redis, prefix: str) -> None:
    """Posts fail while it does, and what became of them is known when it goes on; none comes late."""
    here, ear, claims = layers(own_redis.url), await Ear(layers(own_redis.url)).open("g"), Claims()
    claims.post(here, 1)
    await claims.all_said()
    with stopped(own_redis):
        claims.post(here, 10)
        await claims.all_said()
        assert claims.kinds() == {type(None), LayerInDoubt}
        assert await ear.line() is False
        # Now nothing waits any more.
        assert type(here.post("g", {"n": -1}).exception()) is LayerAway
        with pytest.raises(LayerAway):
            await soon(layers(own_redis.url).group_send("g", {"n": -1}))
    assert await ear.line() is True
    await back(here)
    async with Client.from_url(own_redis.url) as client:
        await claims.are_true(client, prefix)
    await soon(here.post("g", {"n": 11}))
    heard = [message["n"] for message in await ear.hears_up_to({"n": 11})]
    assert heard == sorted(set(heard))
    assert ear.gaps.empty()


async def test_a_command_that_is_found_late_is_not_executed(
    layers: Layers, redis_server: Redis, proxy: CuttingProxy, asked: Client, prefix: str
) -> None:
    """A way that was frozen lets through what it held when all is over; the connection has been ended by then."""
    here, claims = layers(through(proxy)), Claims()
    claims.post(here, 5)
    await claims.all_said()
    proxy.freeze()
    claims.post(here, 5)
    late = here.execute("record", "SET", KEY, "old")
    await claims.all_said()
    assert type(late.exception()) is LayerAway
    await back(here)
    await claims.are_true(asked, prefix)
    await soon(here.execute("record", "SET", KEY, "new"))
    proxy.thaw()
    claims.post(here, 1)
    await claims.all_said()
    assert await soon(here.execute("record", "GET", KEY)) == b"new"
    assert [future.exception() is None for future in claims.futures.values()] == [True] * 5 + [False] * 5 + [True]
    await claims.are_true(asked, prefix)


async def test_a_record_is_not_overwritten_late(
    layers: Layers, proxy: CuttingProxy, asked: Client, prefix: str
) -> None:
    """A connection with commands that were not answered is ended, also when no post is in doubt."""
    here = layers(through(proxy))
    await back(here)
    proxy.freeze()
    late = here.execute("record", "SET", KEY, "old")
    await soon(asyncio.wait([late]))
    await back(here)
    await soon(here.execute("record", "SET", KEY, "new"))
    proxy.thaw()

    async def is_ended() -> bool:
        return len(proxy.connections) <= 1

    await until(is_ended)
    assert await asked.get(f"{prefix}:record") == b"new"


async def test_a_redis_that_forgot_has_none_of_what_was_in_doubt(layers: Layers, own_redis: Redis, prefix: str) -> None:
    here, claims = layers(own_redis.url), Claims()
    claims.post(here, 5)
    await claims.all_said()
    claims.futures.clear()
    with stopped(own_redis):
        claims.post(here, 5)
        await claims.all_said()
        assert own_redis.process is not None
        own_redis.process.kill()
        await asyncio.to_thread(own_redis.process.wait, PATIENCE)
        own_redis.process = None
        own_redis.start()
        await back(here)
        async with Client.from_url(own_redis.url) as client:
            await claims.are_true(client, prefix)
    assert claims.kinds() == {LayerInDoubt}


async def test_what_was_in_doubt_is_not_known_once_it_is_trimmed(
    layers: Layers, proxy: CuttingProxy, asked: Client, prefix: str
) -> None:
    here, claims = layers(through(proxy)), Claims()
    claims.post(here, 1)
    await claims.all_said()
    proxy.refuse()
    proxy.freeze(one_way=True)
    claims.post(here, 1)
    await claims.all_said()
    other = layers()
    for number in range(-3, 0):
        await soon(other.post("g", {"n": number}))
    await asked.xtrim(f"{prefix}:log:g", maxlen=1, approximate=False)
    proxy.accept()
    problem = claims.futures[1].exception()
    assert isinstance(problem, LayerInDoubt)
    with pytest.raises(LogTrimmed):
        await soon(problem.outcome)


async def test_a_layer_that_is_closed_in_doubt(layers: Layers, proxy: CuttingProxy) -> None:
    here, claims = layers(through(proxy)), Claims()
    claims.post(here, 1)
    await claims.all_said()
    proxy.refuse()
    proxy.abort()
    claims.post(here, 1)
    await claims.all_said()
    doubts = [future.exception() for future in claims.futures.values()]
    await soon(here.flush())
    for problem in doubts:
        if isinstance(problem, LayerInDoubt):
            with pytest.raises(LayerAway, match="closed"):
                await problem.outcome
    futures = [here.post("g", {"n": 1}), here.execute("k", "GET", KEY)]
    await soon(here.flush())
    assert {type(future.exception()) for future in futures} == {LayerAway}


async def test_full_and_away(layers: Layers, proxy: CuttingProxy) -> None:
    layer = layers(through(proxy), max_posted_messages=100, max_posted_bytes=10_000)
    await soon(layer.post("g", {"type": "x"}))
    for _ in range(2):
        proxy.freeze()
        futures = [layer.post("g", {"body": b"x" * 80}) for _ in range(200)]
        await soon(asyncio.wait(futures))
        assert {type(future.exception()) for future in futures} == {LayerInDoubt, LayerFull}
        await back(layer)
        # Those in doubt count until it is known what became of them.
        for future in futures:
            problem = future.exception()
            if isinstance(problem, LayerInDoubt):
                assert await soon(problem.outcome) is None
    # Nothing of all that counts any more.
    assert all(await soon(asyncio.gather(*(layer.post("g", {"body": b"x" * 80}) for _ in range(90)))))


# Reading


async def test_redis_is_started_again_and_has_forgotten(
    layers: Layers, own_redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = layers(own_redis.url), layers(own_redis.url)
    groups = [f"g{number}" for number in range(100)]
    ear = await Ear(there).open(*groups)
    await soon(here.post("g7", {"n": 1}))
    assert await ear.hears() == {"n": 1}

    await asyncio.to_thread(own_redis.stop)
    assert await ear.line() is False
    await away(here)
    # Now nothing waits any more.
    posted = here.post("g7", {"n": 2})
    assert type(posted.exception()) is LayerAway
    with pytest.raises(RedisConnectionError):
        await here.group_send("g7", {"n": 3})
    with pytest.raises(LayerAway):
        await there.group_add("joined.meanwhile", ear.channel)
    with pytest.raises(LayerAway):
        await there.read("g7", 0)
    await soon(there.group_discard("g8", ear.channel))

    await asyncio.to_thread(own_redis.start)
    assert await ear.line() is True
    await back(here)
    for group in ("g7", "g8", "joined.meanwhile", "g9"):
        await soon(here.post(group, {"group": group}))
    assert [await ear.hears() for _ in range(2)] == [{"group": "g7"}, {"group": "g9"}]
    # Once for each, and before the next entry.
    told = [each for each in ear.heard if isinstance(each, str)]
    assert sorted(told) == sorted(set(groups) - {"g8"})
    assert ear.heard.index("g9") < len(ear.heard) - 1
    assert ear.lines.empty()
    # Said once each way and for each reason, not with each attempt.
    said = [record.getMessage() for record in caplog.records if "to read" in record.getMessage()]
    assert [line for line in said if "cannot be reached" not in line] == said[-1:]
    assert 2 <= len(said) == len(set(said))


async def test_redis_is_started_again_and_has_everything(layers: Layers, keeping_redis: Redis, prefix: str) -> None:
    here, there = layers(keeping_redis.url), layers(keeping_redis.url)
    ear, claims = await Ear(there).open("g", "idle"), Claims()
    for _ in range(3):
        claims.post(here, 100)
        await asyncio.to_thread(keeping_redis.stop)
        assert await ear.line() is False
        await asyncio.to_thread(keeping_redis.start)
        assert await ear.line() is True
        await back(here)
    await claims.all_said()
    async with Client.from_url(keeping_redis.url) as client:
        await claims.are_true(client, prefix)
        await soon(here.post("g", {"n": -1}))
        heard = [message["n"] for message in await ear.hears_up_to({"n": -1})]
        assert heard == list(await in_log(client, prefix))
    assert ear.gaps.empty()


async def test_a_replica_takes_over_that_has_not_got_all(
    layers: Layers, own_redis: Redis, redis_server: Redis, prefix: str
) -> None:
    """Whoever has read what it has not got is told; of what is in doubt it has the last word."""
    with CuttingProxy(redis_server.port) as proxy:
        here, there, other = layers(), layers(through(proxy)), layers(through(proxy))
        ear, claims = await Ear(there).open("g", "idle"), Claims()
        await back(other)
        claims.post(here, 5)
        await claims.all_said()
        async with Client.from_url(own_redis.url) as replica:
            await replica.replicaof("127.0.0.1", redis_server.port)
            await until(lambda: replica.exists(f"{prefix}:log:g"))
            await until(lambda: replica.exists(f"{prefix}:log:idle"))
            await replica.replicaof("NO", "ONE")
            await soon(here.post("g", {"n": 100}))
            assert len(await ear.hears_up_to({"n": 100})) == 6
            proxy.freeze(one_way=True)
            doubt = other.post("g", {"n": 101})
            proxy.to(own_redis.port)
            assert await ear.line() is False
            await soon(asyncio.wait([doubt]))
            assert await ear.line() is True
            await back(other)
            problem = doubt.exception()
            assert isinstance(problem, LayerInDoubt)
            assert await soon(problem.outcome) is None
            claims.post(other, 5)
            await claims.all_said()
            await claims.are_true(replica, prefix)
            await ear.hears_up_to({"n": 9})
            heard = [each if isinstance(each, str) else each[2]["n"] for each in ear.heard]
            # Up to 101 it may have read before the way was frozen.
            assert [each for each in heard if each != 101] == [*range(5), 100, "g", *range(5, 10)]


async def test_away_from_the_beginning(layers: Layers, own_redis: Redis) -> None:
    await asyncio.to_thread(own_redis.stop)
    layer = layers(own_redis.url)
    ear = await Ear(layer).open()
    assert await ear.line() is False
    with pytest.raises(LayerAway):
        await soon(layer.group_add("g", ear.channel))
    with pytest.raises(LayerAway):
        await soon(layer.group_send("g", {"type": "x"}))
    receiving = asyncio.create_task(layer.receive("general"))
    await asyncio.to_thread(own_redis.start)
    await back(layer)
    assert await ear.line() is True
    await soon(layer.group_add("g", ear.channel))
    await soon(layer.post("g", {"type": "x"}))
    assert await ear.hears() == {"type": "x"}
    await soon(layer.send("general", {"type": "y"}))
    assert await soon(receiving) == {"type": "y"}
    assert ear.gaps.empty()


@pytest.mark.parametrize("fault", TIMES)
async def test_a_reader_that_was_cut_off_reads_on(layers: Layers, proxy: CuttingProxy, fault: str) -> None:
    here, there = layers(), layers(through(proxy))
    ear = await Ear(there).open("a", "b")
    number = 0
    for _ in range(TIMES[fault]):
        for _ in range(20):
            for _ in range(10):
                here.post("ab"[number % 2], {"n": number})
                number += 1
            await asyncio.sleep(0)
        faults(proxy)[fault]()
        for _ in range(500):
            await here.post("ab"[number % 2], {"n": number})
            number += 1
        assert await ear.line() is False
        assert await ear.line() is True
    for group in "ab":
        await soon(here.post(group, {"n": -1}))
        while not any(entry[0] == group and entry[2]["n"] == -1 for entry in ear.heard):
            await ear.hears()
        heard = [entry[2]["n"] for entry in ear.heard if not isinstance(entry, str) and entry[0] == group]
        assert heard[:-1] == [each for each in range(number) if "ab"[each % 2] == group]
    assert ear.gaps.empty()


async def test_who_begins_to_listen_while_the_line_is_down_is_told(layers: Layers, proxy: CuttingProxy) -> None:
    layer = layers(through(proxy))
    ear = await Ear(layer).open("g")
    proxy.refuse()
    proxy.abort()
    assert await ear.line() is False
    late = await Ear(layer).open()
    assert late.lines.get_nowait() is False
    proxy.accept()
    assert await late.line() is True
    assert await ear.line() is True


async def test_a_group_is_joined_while_the_line_breaks(layers: Layers, proxy: CuttingProxy) -> None:
    here, there = layers(), layers(through(proxy))
    ear = await Ear(there).open("other")
    adding = asyncio.create_task(there.group_add("g", ear.channel))
    await asyncio.sleep(0)
    proxy.abort()
    (added,) = await soon(asyncio.gather(adding, return_exceptions=True))
    assert await ear.line() is False
    assert await ear.line() is True
    if isinstance(added, LayerAway):
        await back(there)
        await soon(there.group_add("g", ear.channel))
    await soon(here.post("g", {"type": "x"}))
    assert await ear.hears() == {"type": "x"}


async def test_a_reader_that_stands_still_misses_nothing(layers: Layers, proxy: CuttingProxy) -> None:
    """The loop itself stands still, longer than patience lasts; Redis is not blamed for it."""
    layer = layers(patience_secs=0.2)
    ear = await Ear(layer).open("g")
    for number in range(3):
        future = layer.post("g", {"n": number})
        await asyncio.sleep(0)
        time.sleep(2 if number == 1 else 0.5)
        assert await soon(future)
        assert await ear.hears() == {"n": number}
    assert ear.lines.empty()
    assert ear.gaps.empty()


async def test_a_reader_that_was_trimmed_past_says_so(
    layers: Layers, proxy: CuttingProxy, asked: Client, prefix: str
) -> None:
    here, there = layers(), layers(through(proxy))
    ear = await Ear(there).open("g", "h")
    await soon(here.post("g", {"n": 0}))
    await soon(here.post("h", {"n": 0}))
    await ear.hears()
    await ear.hears()
    proxy.refuse()
    proxy.abort()
    assert await ear.line() is False
    for number in range(1, 6):
        await soon(here.post("g", {"n": number}))
        await soon(here.post("h", {"n": number}))
    # What was read is still there, just so.
    await asked.xtrim(f"{prefix}:log:h", maxlen=6, approximate=False)
    await asked.xtrim(f"{prefix}:log:g", maxlen=3, approximate=False)
    proxy.accept()
    assert await ear.line() is True
    await soon(here.post("g", {"n": 6}))
    await soon(here.post("h", {"n": 6}))
    while sum(entry[2] == {"n": 6} for entry in ear.heard if not isinstance(entry, str)) < 2:
        await ear.hears()
    of_g = [each if isinstance(each, str) else each[2]["n"] for each in ear.heard if each == "g" or each[0] == "g"]
    assert of_g == [0, "g", 3, 4, 5, 6]
    assert [each[2]["n"] for each in ear.heard if each[0] == "h" and not isinstance(each, str)] == list(range(7))
    assert ear.gaps.qsize() == 1


async def test_a_slow_reader_that_was_trimmed_past_says_so(layers: Layers, redis_server: Redis, prefix: str) -> None:
    """Its connection lasts. One that is handed less than there is looks whether the rest is still there."""
    here, there = layers(), layers()
    first = await soon(here.post("g", {"n": 0}))
    await soon(asyncio.wait([here.post("g", {"n": number}) for number in range(1, 2000)]))
    channel = await there.new_channel()
    heard: list[int | str] = []

    def entry(group: str, position: Position, message: dict[str, Any]) -> None:
        heard.append(message["n"])
        if len(heard) == 1:
            with SyncClient.from_url(redis_server.url) as client:
                client.xtrim(f"{prefix}:log:g", maxlen=500, approximate=False)

    there.listen(channel, entry, lambda up: None, heard.append)
    await soon(there.group_add("g", channel, after=first))
    async with asyncio.timeout(PATIENCE):
        while not heard or heard[-1] != 1999:
            await asyncio.sleep(0.01)
    gap = heard.index("g")
    assert heard[:gap] == list(range(1, gap + 1))
    assert heard[gap + 1 :] == list(range(1500, 2000))


async def test_who_reads_much_is_not_owed_more_than_redis_allows(layers: Layers, own_redis: Redis, prefix: str) -> None:
    """Redis drops a connection that it owes too much. Many who read again, and one who reads on, stay below that."""
    here, there = layers(own_redis.url), layers(own_redis.url)
    first = await soon(here.post("g", {"n": 0}))
    for number in range(1, 400):
        await soon(here.post("g", {"n": number, "body": b"x" * 20_000}))
    with SyncClient.from_url(own_redis.url) as client:
        client.config_set("client-output-buffer-limit", "normal 1mb 0 0")
        ear = await Ear(there).open("g", after=first)
        assert (await ear.hears())["n"] == 1
        await soon(there.read("g", first, count=1))
        connections = {each["id"] for each in client.client_list()}
        for found in await soon(asyncio.gather(*(there.read("g", first) for _ in range(30)))):
            assert [message["n"] for _, message in found] == list(range(1, 400))
        while (await ear.hears())["n"] != 399:
            pass
        assert {each["id"] for each in client.client_list()} == connections
    assert ear.lines.empty()
    assert ear.gaps.empty()


async def test_a_reader_that_begins_where_the_log_is_gone(layers: Layers, asked: Client, prefix: str) -> None:
    here, there = layers(), layers()
    positions = [await soon(here.post("g", {"n": number})) for number in range(5)]
    await asked.xtrim(f"{prefix}:log:g", maxlen=2, approximate=False)
    up_to_date = await Ear(there).open("g")
    ear = await Ear(there).open("g", after=positions[1])
    assert [await ear.hears() for _ in range(2)] == [{"n": 3}, {"n": 4}]
    assert ear.heard[0] == "g"
    await soon(here.post("g", {"n": 5}))
    assert await up_to_date.hears() == {"n": 5}
    # That is nothing to those who have got further.
    assert len(up_to_date.heard) == 1


# Answers that are not what was asked for


# To CLIENT ID, INFO and TIME.
GREETING = b":1\r\n$9\r\nrun_id:ab\r\n*2\r\n$1\r\n1\r\n$1\r\n1\r\n"


async def test_a_large_message_is_taken_in_its_time(layers: Layers) -> None:
    """Over a slow way it takes longer than Redis may be silent, and Redis is silent until it has it all."""
    size = 6_000_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greetings = ((b"LIB-NAME", b"+OK\r\n"), (b"LIB-VER", b"+OK\r\n"), (b"PING\r\n", b"+PONG\r\n"))
        for question, answer in (*greetings, (b"TIME\r\n", GREETING)):
            await reader.readuntil(question)
            writer.write(answer)
        while left := max(0, size - received["bytes"]):
            received["bytes"] += len(await reader.read(min(left, 65536)))
            # The slow way itself, not a wait for something.
            await asyncio.sleep(0.01)
        writer.write(b"$3\r\n7-7\r\n")
        writer.close()

    received = {"bytes": 0}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        async with await asyncio.start_server(serve, sock=listening, limit=65536):
            layer = layers(f"redis://127.0.0.1:{listening.getsockname()[1]}/0", patience_secs=0.3)
            assert await soon(layer.post("g", {"body": b"x" * size})) == position_of(b"7-7")
            await soon(layer.flush())


async def test_a_wrong_password(layers: Layers, own_redis: Redis) -> None:
    async with Client.from_url(own_redis.url) as client:
        await client.config_set("requirepass", "right")
    for url in (own_redis.url, own_redis.url.replace("//", "//:wrong@")):
        layer = layers(url)
        with pytest.raises(LayerAway, match=r"(?i)auth|password"):
            await soon(layer.post("g", {"type": "x"}))
        with pytest.raises(LayerAway, match=r"(?i)auth|password"):
            await soon(layer.requirements())


async def user(redis: Redis, **rules: Any) -> str:
    """Make a user who may do all but for some rules; gives the URL for it."""
    async with Client.from_url(redis.url) as client:
        await client.acl_setuser("some", **{"enabled": True, "passwords": ["+pw"], "keys": ["*"], **rules})
    return redis.url.replace("//", "//some:pw@")


async def test_what_redis_does_not_allow(layers: Layers, own_redis: Redis, prefix: str) -> None:
    rules: dict[str, Any] = {"commands": ["+@all"], "keys": [f"{prefix}:log:yes*", f"{prefix}:wake:*"]}
    layer = layers(await user(own_redis, **rules))
    ear = await Ear(layer).open("yes")
    with pytest.raises(LayerAway, match="NOPERM"):
        await soon(layer.post("no", {"type": "x"}))
    with pytest.raises(LayerAway, match="NOPERM"):
        await soon(layer.group_add("no", ear.channel))
    with pytest.raises(LayerAway, match="NOPERM"):
        await soon(layer.read("no", 0))
    with pytest.raises(LayerAway, match="NOPERM"):
        await soon(layer.send("no", {"type": "x"}))
    with pytest.raises(ResponseError, match="NOPERM"):
        await soon(layer.execute("no", "GET", KEY))
    await soon(layer.post("yes", {"type": "x"}))


async def test_without_permission_to_end_a_connection(
    layers: Layers, own_redis: Redis, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and things go on."""
    url = await user(own_redis, commands=["+@all", "-client", "-info", "-time", "-memory"])
    with CuttingProxy(own_redis.port) as proxy:
        here, claims = layers(url.replace(str(own_redis.port), str(proxy.port))), Claims()
        for _ in range(3):
            await back(here)
            proxy.freeze(one_way=True)
            claims.post(here, 50)
            await claims.all_said()
        await back(here)
        assert LayerInDoubt in claims.kinds()
        async with Client.from_url(own_redis.url) as client:
            await claims.are_true(client, prefix)
    assert caplog.text.count("does not let this user end a lost connection") == 1
    assert "Permit CLIENT and INFO" in caplog.text


async def test_redis_has_no_memory_left(layers: Layers, own_redis: Redis, prefix: str) -> None:
    here, there, claims = layers(own_redis.url), layers(own_redis.url), Claims()
    ear = await Ear(there).open("g")
    claims.post(here, 5)
    await claims.all_said()
    async with Client.from_url(own_redis.url) as client:
        await client.config_set("maxmemory", 1)
        claims.post(here, 5)
        await claims.all_said()
        problem = claims.futures[9].exception()
        assert type(problem) is LayerAway
        assert "used memory > 'maxmemory'" in str(problem)
        with pytest.raises(LayerAway, match="maxmemory"):
            await soon(there.group_add("new", ear.channel))
        # What is there can be read, and who may come is not kept out.
        assert len(await soon(there.read("g", 0))) == 5
        early = await Ear(there).open("g", after=claims.futures[2].result())
        assert [await early.hears() for _ in range(2)] == [{"n": 3}, {"n": 4}]
        await client.config_set("maxmemory", 0)
        claims.post(here, 5)
        await claims.all_said()
        await claims.are_true(client, prefix)
    await ear.hears_up_to({"n": 14})
    assert ear.lines.empty()


async def test_a_replica_that_can_only_be_read(
    layers: Layers, own_redis: Redis, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The master of before: the connection is given up, so that whoever knows the present one is asked."""
    caplog.set_level(logging.INFO, "hubs.layers.link")
    here, claims = layers(own_redis.url), Claims()
    claims.post(here, 5)
    await claims.all_said()
    link = here._here()._appenders[0]
    async with Client.from_url(own_redis.url) as client:
        # Of one that is not there, so it keeps what it has.
        await client.replicaof("127.0.0.1", free_port())
        before = link.wire
        claims.post(here, 5)
        await claims.all_said()
        problem = claims.futures[5].exception()
        assert type(problem) is LayerAway
        assert "READONLY" in str(problem)
        assert link.wire is not before
        with pytest.raises((LayerAway, ResponseError)):
            await soon(here.execute("k", "SET", KEY, 1))
        # It is tried again and again, and said once.
        tried = (await client.info("stats"))["total_connections_received"]
        async with asyncio.timeout(PATIENCE):
            while (await client.info("stats"))["total_connections_received"] < tried + 4:
                here.post("g", {"type": "x"})
                await asyncio.sleep(0.02)
        said = [record.getMessage() for record in caplog.records if "to append" in record.getMessage()]
        assert said == ["Redis cannot be reached, to append: This Redis is a replica that can only be read."]
        await client.replicaof("NO", "ONE")
        await back(here)
        await claims.are_true(client, prefix)


async def test_each_reason_of_an_outage_is_said_once(
    layers: Layers, own_redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has changed the password reads of the password, not of a connection that was lost alone."""
    layer = layers(own_redis.url)
    await soon(layer.post("g", {"type": "x"}))
    link = layer._here()._appenders[0]
    async with Client.from_url(own_redis.url) as client:
        await client.config_set("requirepass", "secret")
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        async with asyncio.timeout(PATIENCE):
            while "Authentication" not in str(link.away):
                await asyncio.sleep(0.02)
        tried = (await client.info("stats"))["total_connections_received"]
        async with asyncio.timeout(PATIENCE):
            while (await client.info("stats"))["total_connections_received"] < tried + 4:
                await asyncio.sleep(0.02)
        said = [record.getMessage() for record in caplog.records if "to append" in record.getMessage()]
        assert [line.rpartition(": ")[2] for line in said] == [
            "Redis closed the connection.",
            "Authentication required.",
        ]
        await client.config_set("requirepass", "")
        await back(layer)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "Protocol|protocol"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "loading"),
        (b"-OK\r\n+WHAT\r\n", "WHAT|not ready|OK|not asked"),
        (b"", "does not answer"),
    ],
)
async def test_not_a_redis_in_good_health(layers: Layers, answer: bytes, text: str) -> None:
    async with answering(answer) as url:
        layer = layers(url)
        with pytest.raises(LayerAway, match=text):
            await soon(layer.post("g", {"type": "x"}))
        with pytest.raises(LayerAway, match=text):
            await soon(layer.group_add("g", await layer.new_channel()))
        with pytest.raises(LayerAway, match=text):
            await soon(layer.requirements())
        await soon(layer.flush())


async def test_answers_to_nothing_end_the_connection(layers: Layers) -> None:
    settling = b"+OK\r\n+OK\r\n+PONG\r\n"
    async with answering(b"+OK\r\n", b"+OK\r\n", b"+PONG\r\n", GREETING, b":1\r\n" * 5, settling) as url:
        layer = layers(url)
        with pytest.raises(LayerAway, match=r"not asked|refused|answered|not ready|lost|closed"):
            await soon(layer.post("g", {"type": "x"}))
        await soon(layer.flush())
        ear = await Ear(layer).open()
        assert await ear.line() is False
        await soon(layer.flush())


# Several hosts


async def test_several_hosts_are_one_line(layers: Layers, redis_server: Redis) -> None:
    with CuttingProxy(redis_server.port) as first, CuttingProxy(redis_server.port) as second:
        here, there = layers(), layers(hosts=[through(first), through(second)])
        groups = [f"g{number}" for number in range(20)]
        ear = await Ear(there).open(*groups)

        async def post(number: int) -> None:
            await soon(asyncio.gather(*(here.post(group, {"to": group, "n": number}) for group in groups)))

        async def heard(number: int, count: int) -> None:
            async with asyncio.timeout(PATIENCE):
                while sum(each[2]["n"] == number for each in ear.heard if not isinstance(each, str)) < count:
                    await asyncio.sleep(0.01)

        await post(0)
        await heard(0, 20)
        for way in (first, second):
            way.refuse()
            way.abort()
        assert await ear.line() is False
        await post(1)
        first.accept()
        # The groups of one host are back, and that is not enough.
        await heard(1, 1)
        assert ear.lines.empty()
        second.accept()
        assert await ear.line() is True
        await heard(1, 20)
        await post(2)
        await heard(2, 20)
        assert ear.lines.empty()
        assert len(ear.heard) == 60
