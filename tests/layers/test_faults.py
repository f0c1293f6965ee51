"""Redis goes, is cut off, or falls silent: what is claimed happened, and all is as before once it is back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis as Client
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from hubs.layers.errors import LayerAway
from hubs.layers.redis import RedisLayer
from tests.layers.conftest import Ear, Layers, soon
from tests.proxy import CuttingProxy
from tests.running import PATIENCE, Redis


@pytest.fixture
def proxy(redis_server: Redis) -> Iterator[CuttingProxy]:
    """A way to the shared Redis that can be cut."""
    with CuttingProxy(redis_server.port) as way:
        yield way


def through(proxy: CuttingProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


# How often the line breaks in a test. A way that is frozen is noticed only when patience ends.
TIMES = {"abort": 3, "cut": 3, "freeze": 1, "freeze one way": 1}


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
            except LayerAway:
                await asyncio.sleep(0.01)
            else:
                return


async def test_redis_is_stopped_and_started(layers: Layers, own_redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    here, there = layers(own_redis.url), layers(own_redis.url)
    ear = await Ear(there).open(*(f"g{number}" for number in range(100)))
    assert await soon(here.post("g7", {"n": 1})) == 1

    await asyncio.to_thread(own_redis.stop)
    assert await ear.line() is False
    await away(here)
    # Now nothing waits any more.
    posted = here.post("g7", {"n": 2})
    assert isinstance(posted.exception(), LayerAway)
    with pytest.raises(RedisConnectionError):
        await here.group_send("g7", {"n": 3})
    with pytest.raises(LayerAway):
        await there.group_add("joined meanwhile".replace(" ", "."), ear.channel)
    with pytest.raises(LayerAway):
        await there.new_channel()
    await soon(there.group_discard("g8", ear.channel))

    await asyncio.to_thread(own_redis.start)
    assert await ear.line() is True
    await back(here)
    # Confirmed: the first that is sent is heard.
    counts = [await soon(here.post(group, {"group": group})) for group in ("g7", "g8", "joined.meanwhile")]
    assert counts == [1, 0, 1]
    heard = [await ear.hears() for _ in range(3)]
    assert heard == [{"n": 1}, {"group": "g7"}, {"group": "joined.meanwhile"}]
    assert ear.lines.empty()
    # Said once each way, not with each attempt.
    said = [record.getMessage() for record in caplog.records if "to subscribe" in record.getMessage()]
    assert ["cannot be reached" in line for line in said] == [True, False]


async def test_away_from_the_beginning(layers: Layers, own_redis: Redis) -> None:
    await asyncio.to_thread(own_redis.stop)
    layer = layers(own_redis.url)
    with pytest.raises(LayerAway):
        await soon(layer.new_channel())
    with pytest.raises(LayerAway):
        await soon(layer.group_send("g", {"type": "x"}))
    with pytest.raises(LayerAway):
        await soon(layer.receive("general"))
    await asyncio.to_thread(own_redis.start)
    await back(layer)
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                ear = await Ear(layer).open("g")
                break
            except LayerAway:
                await asyncio.sleep(0.01)
    assert await soon(layer.post("g", {"type": "x"})) == 1
    assert await ear.hears() == {"type": "x"}


async def test_the_first_posts_wait_for_the_connection(layers: Layers, proxy: CuttingProxy) -> None:
    layer = layers(through(proxy))
    assert await soon(asyncio.gather(*(layer.post("g", {"n": number}) for number in range(10)))) == [0] * 10
    proxy.refuse()
    other = layers(through(proxy))
    results = await soon(
        asyncio.gather(*(other.post("g", {"n": number}) for number in range(10)), return_exceptions=True)
    )
    assert {type(result) for result in results} == {LayerAway}


@pytest.mark.parametrize("fault", TIMES)
async def test_what_is_claimed_has_happened(layers: Layers, proxy: CuttingProxy, fault: str) -> None:
    """Publisher cut off: what it was told is taken was heard, in order, and nothing twice."""
    here = layers(through(proxy))
    ear = await Ear(layers()).open("g")
    await soon(here.post("g", {"n": -1}))
    faults: dict[str, Callable[[], Any]] = {
        "abort": proxy.abort,
        "cut": lambda: proxy.cut(0.1),
        "freeze": proxy.freeze,
        "freeze one way": lambda: proxy.freeze(one_way=True),
    }
    taken, failed, number = [-1], [], 0
    for _ in range(TIMES[fault]):
        futures = {}
        for _ in range(20):
            for _ in range(10):
                futures[number] = here.post("g", {"n": number})
                number += 1
            await asyncio.sleep(0)
        faults[fault]()
        for _ in range(100):
            futures[number] = here.post("g", {"n": number})
            number += 1
        await soon(asyncio.wait(futures.values()))
        for n, future in futures.items():
            if future.exception() is None:
                assert future.result() == 1
                taken.append(n)
            else:
                assert isinstance(future.exception(), LayerAway)
                failed.append(n)
        await back(here)
    assert failed
    await soon(here.post("g", {"n": number}))
    heard: list[int] = []
    while not heard or heard[-1] != number:
        heard.append((await ear.hears())["n"])
    assert heard == sorted(set(heard))
    assert set(taken) <= set(heard)
    if fault == "freeze one way":
        # Failed says that it is not known, no more: here all of it was taken.
        assert set(heard) - set(taken) - {number}


@pytest.mark.parametrize("fault", TIMES)
async def test_a_listener_cut_off_hears_again(layers: Layers, proxy: CuttingProxy, fault: str) -> None:
    here, there = layers(), layers(through(proxy))
    ear = await Ear(there).open("a", "b")
    late = await soon(there.new_channel())
    for number in range(TIMES[fault]):
        await soon(here.post("a", {"n": number}))
        assert await ear.hears() == {"n": number}
        if fault == "abort":
            proxy.abort()
        elif fault == "cut":
            proxy.cut(0.1)
        else:
            proxy.freeze(one_way=fault == "freeze one way")
        assert await ear.line() is False
        down = asyncio.Queue[bool]()
        end = there.listen(late, lambda message: None, down.put_nowait)
        # Who begins to listen while the line is down is told so.
        assert down.get_nowait() is False
        assert await ear.line() is True
        assert down.get_nowait() is True
        end()
        late = await soon(there.new_channel())
        # Redis may not have missed the old connection yet, and count it too.
        assert await soon(here.post("b", {"n": number})) >= 1
        assert await ear.hears() == {"n": number}


async def test_a_group_is_joined_while_the_line_breaks(layers: Layers, proxy: CuttingProxy) -> None:
    here, there = layers(), layers(through(proxy))
    ear = await Ear(there).open()
    adding = asyncio.create_task(there.group_add("g", ear.channel))
    await asyncio.sleep(0)
    proxy.abort()
    confirmed = await soon(asyncio.gather(adding, return_exceptions=True))
    assert confirmed[0] is None or isinstance(confirmed[0], LayerAway)
    assert await ear.line() is False
    assert await ear.line() is True
    assert await soon(here.post("g", {"type": "x"})) == 1
    assert await ear.hears() == {"type": "x"}


async def test_redis_stands_still(layers: Layers, own_redis: Redis) -> None:
    here, ear = layers(own_redis.url), await Ear(layers(own_redis.url)).open("g")
    await soon(here.post("g", {"n": 1}))
    assert own_redis.process is not None
    os.kill(own_redis.process.pid, signal.SIGSTOP)
    try:
        # Connections can be made, since that is the kernel's part; nobody is misled by it.
        pending = [here.post("g", {"n": 2}) for _ in range(10)]
        await soon(asyncio.wait(pending))
        assert {type(future.exception()) for future in pending} == {LayerAway}
        assert await ear.line() is False
        assert isinstance(here.post("g", {"n": 3}).exception(), LayerAway)
        with pytest.raises(LayerAway):
            await soon(layers(own_redis.url).group_send("g", {"n": 4}))
    finally:
        os.kill(own_redis.process.pid, signal.SIGCONT)
    assert await ear.line() is True
    await back(here)
    await soon(here.post("g", {"n": 5}))
    heard = []
    while not heard or heard[-1] != 5:
        heard.append((await ear.hears())["n"])
    # What Redis found in its buffers when it went on it has done; 3 was never sent.
    assert set(heard) <= {1, 2, 5}


async def test_a_silence_that_others_may_not_outlast(layers: Layers, own_redis: Redis) -> None:
    """Before its connection counts as lost, a listener learns that Redis does not answer."""
    layer = layers(own_redis.url, patience_secs=2)
    channel, silent = await soon(layer.new_channel()), asyncio.Event()
    heard: asyncio.Queue[Any] = asyncio.Queue()
    layer.listen(channel, heard.put_nowait, heard.put_nowait, on_silence=silent.set)
    await soon(layer.group_add("g", channel))
    for number in range(3):
        # A line on which there is nothing to say is not silent: Redis answers when it is asked.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await silent.wait()
        assert await soon(layer.post("g", {"n": number})) == 1
        assert await soon(heard.get()) == {"n": number}
    assert own_redis.process is not None
    os.kill(own_redis.process.pid, signal.SIGSTOP)
    try:
        await soon(silent.wait())
    finally:
        os.kill(own_redis.process.pid, signal.SIGCONT)
    # The connection has lasted.
    assert await soon(layer.post("g", {"n": 3})) == 1
    assert await soon(heard.get()) == {"n": 3}


async def test_a_silence_that_is_nothing(layers: Layers, own_redis: Redis) -> None:
    """The loop itself stands still, longer than patience lasts; Redis is not blamed for it."""
    layer = layers(own_redis.url, patience_secs=0.2)
    ear = await Ear(layer).open("g")
    await soon(layer.post("g", {"n": 0}))
    for number in range(2):
        future = layer.post("g", {"n": number})
        await asyncio.sleep(0)
        time.sleep(0.5)
        assert await soon(future) == 1
    assert ear.lines.empty()


async def test_a_large_message_is_taken_in_its_time(layers: Layers) -> None:
    """Over a slow way it takes longer than Redis may be silent, and Redis is silent until it has it all."""
    size = 6_000_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for question, answer in ((b"LIB-NAME", b"+OK\r\n"), (b"LIB-VER", b"+OK\r\n"), (b"PING\r\n", b"+PONG\r\n")):
            await reader.readuntil(question)
            writer.write(answer)
        while left := max(0, size - received["bytes"]):
            received["bytes"] += len(await reader.read(min(left, 65536)))
            # The slow way itself, not a wait for something.
            await asyncio.sleep(0.01)
        writer.write(b":7\r\n")
        writer.close()

    received = {"bytes": 0}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        async with await asyncio.start_server(serve, sock=listening, limit=65536):
            layer = layers(f"redis://127.0.0.1:{listening.getsockname()[1]}/0", patience_secs=0.3)
            assert await soon(layer.post("g", {"body": b"x" * size})) == 7
            await soon(layer.flush())


async def test_a_wrong_password(layers: Layers, own_redis: Redis) -> None:
    async with Client.from_url(own_redis.url) as client:
        await client.config_set("requirepass", "right")
    for url in (own_redis.url, own_redis.url.replace("//", "//:wrong@")):
        layer = layers(url)
        with pytest.raises(LayerAway, match=r"(?i)auth|password"):
            await soon(layer.post("g", {"type": "x"}))
        with pytest.raises(LayerAway, match=r"(?i)auth|password"):
            await soon(layer.new_channel())


async def test_what_redis_does_not_allow(layers: Layers, own_redis: Redis, prefix: str) -> None:
    async with Client.from_url(own_redis.url) as client:
        await client.acl_setuser(
            "some",
            enabled=True,
            passwords=["+pw"],
            commands=["+@all"],
            # Up to version 6.2 a new user may use all channels.
            reset_channels=True,
            channels=[f"{prefix}specific.*"],
        )
    layer = layers(own_redis.url.replace("//", "//some:pw@"))
    channel = await soon(layer.new_channel())
    with pytest.raises(ResponseError):
        await soon(layer.post("g", {"type": "x"}))
    with pytest.raises(LayerAway, match="refused a subscription"):
        await soon(layer.group_add("g", channel))
    # Allowed now: the channel is in the group without being added again.
    async with Client.from_url(own_redis.url) as client:
        await client.acl_setuser("some", enabled=True, channels=[f"{prefix}__group__*"])
    async with asyncio.timeout(PATIENCE):
        while await layer.post("g", {"type": "x"}) != 1:
            await asyncio.sleep(0.01)
    assert await soon(layer.receive(channel)) == {"type": "x"}


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[str]:
    """Something that is not a Redis in good health: each thing that comes is answered with the next of these."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536) and left:
            writer.write(left.pop(0) if len(left) > 1 else left[0])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "Protocol|protocol"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "loading"),
        (b"-OK\r\n+WHAT\r\n", "WHAT|not ready|OK"),
        (b"", "does not answer"),
    ],
)
async def test_not_a_redis_in_good_health(layers: Layers, answer: bytes, text: str) -> None:
    async with answering(answer) as url:
        layer = layers(url)
        with pytest.raises(LayerAway, match=text):
            await soon(layer.post("g", {"type": "x"}))
        with pytest.raises(LayerAway, match=text):
            await soon(layer.new_channel())
        await soon(layer.flush())


async def test_answers_to_nothing_end_the_connection(layers: Layers) -> None:
    settling = b"+OK\r\n+OK\r\n+PONG\r\n"
    async with answering(b"+OK\r\n", b"+OK\r\n", b"+PONG\r\n", b":1\r\n:1\r\n:1\r\n", settling) as url:
        layer = layers(url)
        with pytest.raises(LayerAway, match=r"not asked|not ready|lost|closed"):
            await soon(layer.post("g", {"type": "x"}))
        await soon(layer.flush())


async def test_full_and_away(layers: Layers, proxy: CuttingProxy) -> None:
    layer = layers(through(proxy), max_posted_messages=100, max_posted_bytes=10_000)
    await soon(layer.post("g", {"type": "x"}))
    for _ in range(2):
        proxy.freeze()
        futures = [layer.post("g", {"body": b"x" * 80}) for _ in range(200)]
        await soon(asyncio.wait(futures))
        assert not any(future.exception() is None for future in futures)
        await back(layer)
    # Nothing of all that counts any more.
    assert await soon(asyncio.gather(*(layer.post("g", {"body": b"x" * 80}) for _ in range(90)))) == [0] * 90


async def test_several_hosts_are_one_line(layers: Layers, redis_server: Redis) -> None:
    with CuttingProxy(redis_server.port) as first, CuttingProxy(redis_server.port) as second:
        here, there = layers(), layers(hosts=[through(first), through(second)])
        groups = [f"g{number}" for number in range(20)]
        ear = await Ear(there).open(*groups)

        async def counts() -> set[int]:
            return set(await soon(asyncio.gather(*(here.post(group, {"to": group}) for group in groups))))

        assert await counts() == {1}
        for way in (first, second):
            way.refuse()
            way.abort()
        assert await ear.line() is False
        async with asyncio.timeout(PATIENCE):
            while await counts() != {0}:
                await asyncio.sleep(0.01)
            first.accept()
            # The groups of one host are back, and that is not enough.
            while await counts() != {0, 1}:
                await asyncio.sleep(0.01)
        assert ear.lines.empty()
        second.accept()
        assert await ear.line() is True
        assert await counts() == {1}
        assert ear.lines.empty()
