"""A process is told to stop while another one lives: its clients go there, not all at once, and lose nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError

from tests.running import PATIENCE, Redis, Service
from tests.service.client import JSON, Sdk, Target, group_message, ok, opened, publish, reliable

Unique = Callable[[str], str]

HUB = "handled"


class Pair:
    """Two machines behind one public address. The second one goes on; the first one is started and stopped."""

    def __init__(self, data_dir: Path, redis: Redis) -> None:
        env = {"REDIS_URL": redis.url, "EXTRA_APPS": "tests.service.handlers", "DRAIN_SECS": "20"}
        self.first = Service(data_dir, env=env)
        self.second = Service(data_dir, env=env | {"EXTRA_ENDPOINTS": self.first.endpoint}).start()
        whole = self.first.connection_string
        self.home, self.other = Target(whole), Target(whole.replace(self.first.endpoint, self.second.endpoint))
        self._env = self.first.env

    async def begin(self, **env: str) -> None:
        """Start the first one with these settings and a new log, and wait until the two know each other."""
        self.first.env = self._env | env
        self.first.log.unlink(missing_ok=True)
        await asyncio.to_thread(self.first.start)
        async with opened(self.home.url(HUB), JSON) as one, opened(self.other.url(HUB), JSON) as other:
            for client, number in ((one, 1), (other, 2)):
                await client.join("everybody", ack_id=number)
            async with asyncio.timeout(PATIENCE):
                # An answer from everybody is one from the other, too.
                for target in (self.home, self.other):
                    while await self._members(target, "everybody") != 2:
                        pass

    @staticmethod
    async def _members(target: Target, group: str) -> int | None:
        """How many there are, if that can be known: maybe the first one was not given the time to say goodbye."""
        try:
            return len(await Sdk(target, HUB).members(group))
        except HttpResponseError as unknown:
            if unknown.status_code != 503:
                raise
            return None

    def stop_first(self) -> None:
        assert self.first.process is not None
        self.first.process.send_signal(signal.SIGTERM)

    async def first_says(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while text not in self.first.log.read_text():
                await asyncio.sleep(0.02)

    async def first_ended(self) -> str:
        """Wait until it has ended by itself; gives its log."""
        assert self.first.process is not None
        assert await asyncio.to_thread(self.first.process.wait, PATIENCE * 2) == -signal.SIGTERM
        return self.first.log.read_text()


@pytest.fixture(scope="module")
def lasting_pair(service: Service, redis_server: Redis) -> Iterator[Pair]:
    """Two processes, of which only the second one runs; on the data of the shared service."""
    made = Pair(service.data_dir, redis_server)
    yield made
    stopped_well(made.second)


@pytest.fixture
def pair(lasting_pair: Pair) -> Iterator[Pair]:
    """The same; the first one does not outlive the test."""
    yield lasting_pair
    stopped_well(lasting_pair.first)


def stopped_well(service: Service) -> None:
    service.stop()
    assert "Traceback" not in service.log.read_text(), service.log.read_text()


async def test_clients_are_sent_away_in_turn_until_a_second_signal(pair: Pair, unique: Unique) -> None:
    """What they had asked for is finished and acknowledged first."""
    await pair.begin(DRAIN_PER_SEC="1", DRAIN_SECS="600")
    loop = asyncio.get_running_loop()
    room, gate = unique("room"), unique("gate")
    async with AsyncExitStack() as stack:
        url = pair.home.url(HUB)
        asker, second, third, fourth, *others = [await stack.enter_async_context(opened(url, JSON)) for _ in range(60)]
        elsewhere = await stack.enter_async_context(opened(pair.other.url(HUB, groups=[room]), JSON))
        await asker.say(type="event", event="hold", data=gate, dataType="text", ackId=1)
        await asker.say(type="sendToGroup", group=room, data="behind it", ackId=2)
        assert (await third.ask(type="event", event="held", data=gate, dataType="text"))["data"] == 1
        pair.stop_first()
        # They are told in the order in which they came; so the first one was, and its event still waits.
        assert await second.closed() == (1001, "")
        begun = loop.time()
        await third.say(type="event", event="free", data=gate, dataType="text")
        assert (await asker.hear())["data"] == f"{gate} is free"
        assert await asker.hear() == ok(1)
        assert await asker.hear() == ok(2)
        assert await asker.closed() == (1001, "")
        assert await elsewhere.hear() == group_message(room, "behind it")
        assert await third.closed() == (1001, "")
        assert await fourth.closed() == (1001, "")
        # One a second: two from the second to the fourth, of which the second may be heard of late on a busy machine.
        assert loop.time() - begun > 1.2
        pair.stop_first()
        # The last one's turn would not have come before the test's patience ends.
        await pair.first_ended()
        assert await others[-1].closed() == (1001, "")


async def test_reliable_clients_go_to_the_other_process_and_miss_nothing(pair: Pair, unique: Unique) -> None:
    await pair.begin(DRAIN_PER_SEC="4")
    room = unique("room")
    async with AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(opened(pair.other.url(HUB), JSON))
        url = pair.home.url(HUB, groups=[room])
        clients = [await stack.enter_async_context(reliable(url)) for _ in range(6)]
        # One is away when the process is told to stop. It is kept for its client.
        away, *present = clients
        await away.reset()
        sdk, sent = Sdk(pair.other, HUB), 0

        async def send_until(reached: asyncio.Event) -> None:
            nonlocal sent
            # No more than a client may leave unacknowledged.
            while not reached.is_set() and sent < 900:
                await sdk.send_to_group(room, sent, content_type="application/json")
                sent += 1

        moved = asyncio.Event()
        sending = asyncio.create_task(send_until(moved))
        pair.stop_first()
        heard: dict[str, list[int]] = {client.id: [] for client in clients}
        for client in present:
            frames, close = await client.hear_out()
            assert close == (1001, "")
            heard[client.id] = [frame["data"] for frame in frames]
            # What it has not acknowledged comes again, from the first number on.
            await client.recover(pair.other)
        await away.recover(pair.other)
        moved.set()
        await sending
        for client in clients:
            again = [(await client.hear())["data"] for _ in range(sent)]
            assert again == list(range(sent))
            assert heard[client.id] == again[: len(heard[client.id])]
            await client.acknowledge()
        # It stays for as long as somebody has to be handed over, and no longer.
        assert "clients told: 5, still here: 0" in await pair.first_ended()
        await publish(publisher, room, "on")
        for client in clients:
            assert await client.hear() == group_message(room, "on")


async def test_connections_that_are_left_wait_in_another_process(pair: Pair, unique: Unique) -> None:
    await pair.begin()
    room = unique("room")
    async with reliable(pair.home.url(HUB, groups=[room])) as client:
        pair.stop_first()
        assert await client.closed() == (1001, "")
        # Nobody is waited for: it does not matter which process the client comes to, nor when.
        assert "clients told: 1, still here: 0" in await pair.first_ended()
        sdk = Sdk(pair.other, HUB)
        assert await sdk.members(room) == [client.id]
        await sdk.send_to_group(room, "meanwhile", content_type="text/plain")
        await client.recover(pair.other)
        assert await client.hear() == group_message(room, "meanwhile", "text")
