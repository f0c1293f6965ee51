"""Several workers behind one port: one service to its clients, whichever worker dies or is replaced."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.running import PATIENCE, Redis, Service
from tests.service.client import (
    JSON,
    Client,
    Reliable,
    Sdk,
    Target,
    answered,
    group_message,
    known_members,
    ok,
    opened,
    reliable,
)

Unique = Callable[[str], str]


class Whole:
    """A service with two workers."""

    def __init__(self, data_dir: Path, redis: Redis) -> None:
        self.service = Service(data_dir, env={"REDIS_URL": redis.url, "WORKERS": "2", "DRAIN_SECS": "20"}).start()
        self.target = Target(self.service.connection_string)

    def signal(self, number: signal.Signals) -> None:
        assert self.service.process is not None
        self.service.process.send_signal(number)

    @property
    def workers(self) -> list[int]:
        """The processes of the workers, as the log has them, latest first."""
        ready = re.findall(r"Worker \d+ is ready \(process (\d+)\)", self.service.log.read_text())
        return [int(pid) for pid in reversed(ready)]

    async def all_ready(self) -> None:
        await self.says(" with 2 workers. Ctrl-C stops.")

    async def says(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE * 2):
            while text not in self.service.log.read_text():
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def whole(service: Service, redis_server: Redis) -> Iterator[Whole]:
    """A service with two workers, on the data of the shared one. Tests leave it with two, whichever they are."""
    made = Whole(service.data_dir, redis_server)
    yield made
    made.service.stop()
    log = made.service.log.read_text()
    assert "Traceback" not in log, log


@asynccontextmanager
async def some_in_each(target: Target, group: str, count: int) -> AsyncIterator[dict[str, dict[str, Client]]]:
    """Members of a group, at least so many in each of two workers: by worker and connection id."""
    found: dict[str, dict[str, Client]] = {}
    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        while len(found) < 2 or min(map(len, found.values())) < count:
            client = await stack.enter_async_context(opened(target.url(groups=[group]), JSON, connected=False))
            connection_id = (await client.hear())["connectionId"]
            # The first digits of an id name the process.
            found.setdefault(connection_id[:8], {})[connection_id] = client
        yield found


async def test_workers_are_one_service(whole: Whole, unique: Unique) -> None:
    await whole.all_ready()
    room = unique("room")
    async with some_in_each(whole.target, room, 2) as found:
        members = {connection_id: client for each in found.values() for connection_id, client in each.items()}
        for number, client in enumerate(members.values()):
            assert await client.ask(type="sendToGroup", group=room, data=number, noEcho=True, ackId=1) == ok(1)
            for other in members.values():
                if other is not client:
                    assert await other.hear() == group_message(room, number)
        assert await known_members(whole.target, room) == sorted(members)
        for connection_id, client in members.items():
            await Sdk(whole.target).send_to_connection(connection_id, "yours", content_type="text/plain")
            assert (await client.hear())["data"] == "yours"


async def test_a_worker_is_killed_and_the_others_go_on(whole: Whole, unique: Unique) -> None:
    await whole.all_ready()
    room = unique("room")
    async with some_in_each(whole.target, room, 2) as found:
        workers = whole.workers
        os.kill(workers[0], signal.SIGKILL)
        cut: list[str] = []
        here: dict[str, Client] = {}
        first: dict[asyncio.Task[Any], str] = {
            asyncio.create_task(next(iter(clients.values())).socket.wait_closed()): process
            for process, clients in found.items()
        }
        async with asyncio.timeout(PATIENCE):
            done, still = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        for waiting in still:
            waiting.cancel()
        [killed] = [first[task] for task in done]
        for process, clients in found.items():
            if process == killed:
                for connection_id, client in clients.items():
                    assert await client.hear_out() == ([], None)
                    cut.append(connection_id)
            else:
                here |= clients
        # Local traffic does not notice, and whoever comes is taken in.
        speaker, *listeners = here.values()
        assert await speaker.ask(type="sendToGroup", group=room, data="on", noEcho=True, ackId=1) == ok(1)
        for listener in listeners:
            assert await listener.hear() == group_message(room, "on")
        assert {await answered(whole.target.url()) for _ in range(10)} == {101}
        # No ghosts. Until the dead one's silence is noticed, nobody claims to know.
        assert await known_members(whole.target, room) == sorted(here)
        assert not await Sdk(whole.target).connection_exists(cut[0])
        async with asyncio.timeout(PATIENCE * 2):
            while len(whole.workers) == len(workers):
                await asyncio.sleep(0.05)
        async with some_in_each(whole.target, room, 1) as fresh:
            assert killed not in fresh
            assert await speaker.ask(type="sendToGroup", group=room, data="again", noEcho=True, ackId=2) == ok(2)
            for clients in fresh.values():
                for client in clients.values():
                    assert await client.hear() == group_message(room, "again")


class Listener:
    """A reliable client that comes back whenever it is sent away, and notes what it hears."""

    def __init__(self, client: Reliable) -> None:
        self._client = client
        self.numbers: list[int] = []
        self.endings: list[tuple[int, str] | None] = []

    async def listen(self) -> None:
        """Hear numbers, for ever."""
        while True:
            try:
                # As it comes: an acknowledgement may not have arrived, so what comes first may be known already.
                frame = await Client.hear(self._client)
                sequence_id = frame["sequenceId"]
                assert sequence_id <= len(self.numbers) + 1
                if sequence_id > len(self.numbers):
                    self.numbers.append(frame["data"])
                await self._client.say(type="sequenceAck", sequenceId=sequence_id)
            except ConnectionClosed as closed:
                self.endings.append(closed.rcvd and (closed.rcvd.code, closed.rcvd.reason))
                await self._client.recover()


async def test_all_workers_are_replaced_and_nobody_notices(whole: Whole, unique: Unique) -> None:
    """Newcomers are let in all the time, and reliable clients that move from worker to worker miss nothing."""
    await whole.all_ready()
    old = set(whole.workers)
    room = unique("room")
    over = asyncio.Event()
    published = 0
    handshakes: Counter[int] = Counter()

    async def publish() -> None:
        nonlocal published
        sdk = Sdk(whole.target)
        while not over.is_set():
            await sdk.send_to_group(room, published, content_type="application/json")
            published += 1
            # A stream, and no flood, which the workers that start would have to compete with.
            await asyncio.sleep(0.01)

    async def come() -> None:
        while not over.is_set():
            handshakes[await answered(whole.target.url())] += 1
            await asyncio.sleep(0.01)

    async with AsyncExitStack() as stack:
        url = whole.target.url(groups=[room])
        listeners = [Listener(await stack.enter_async_context(reliable(url))) for _ in range(6)]
        busy = [asyncio.create_task(publish()), asyncio.create_task(come())]
        listening = [asyncio.create_task(listener.listen()) for listener in listeners]
        whole.signal(signal.SIGHUP)
        await whole.says("All workers were replaced")
        over.set()
        await asyncio.gather(*busy)
        last = published - 1
        async with asyncio.timeout(PATIENCE):
            while any(not listener.numbers or listener.numbers[-1] < last for listener in listeners):
                for task in listening:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.02)
        for task in listening:
            task.cancel()
        assert [listener.numbers for listener in listeners] == [list(range(published))] * 6
        # Each was sent away at least once, for no worker is left that was there before.
        for listener in listeners:
            assert set(listener.endings) == {(1001, "")}
        assert not old & set(whole.workers[:2])
    assert set(handshakes) == {101}, handshakes
    assert handshakes[101] > 5
