"""All at once: processes post, read, join and leave while their ways to Redis and Redis itself fail at random."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import ExitStack
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from hubs.layers.errors import LayerAway
from hubs.layers.positions import Position
from hubs.layers.redis import RedisLayer
from tests.layers.conftest import Claims, Layers, Message, in_log, soon
from tests.proxy import CuttingProxy
from tests.running import PATIENCE, Redis

GROUPS = ("a", "b", "c")
PROCESSES = 3
FAULTS = 8


class Membership:
    """What came from when a channel was added to a group until it left."""

    def __init__(self) -> None:
        self.after: Position | None = None
        self.numbers: list[int] = []
        self.is_over = False


class Process:
    """Posts to groups, and reads them with one channel that stays and one that comes and goes."""

    def __init__(self, layer: RedisLayer, chance: random.Random, claims: dict[str, Claims]) -> None:
        self.layer, self.chance, self.claims = layer, chance, claims
        self.memberships: dict[str, list[Membership]] = {group: [] for group in GROUPS}
        self.gaps: list[str] = []
        self.positions: list[tuple[str, Position]] = []

    async def stay(self) -> None:
        """Be in all groups from the beginning to the end."""
        channel = await self.layer.new_channel()
        stays = {group: Membership() for group in GROUPS}
        self.layer.listen(channel, self._taking(stays), lambda up: None, self.gaps.append)
        for group, membership in stays.items():
            membership.after = await soon(self.layer.group_add(group, channel))
            self.memberships[group].append(membership)

    def _taking(self, memberships: dict[str, Membership]) -> Any:
        def take(group: str, position: Position, message: Message) -> None:
            memberships[group].numbers.append(message["n"])
            self.positions = [*self.positions[-100:], (group, position)]

        return take

    async def come_and_go(self) -> None:
        channel = await self.layer.new_channel()
        now = {group: Membership() for group in GROUPS}
        self.layer.listen(channel, self._taking(now), lambda up: None, self.gaps.append)
        while True:
            await asyncio.sleep(self.chance.random() / 5)
            group, after = self.chance.choice(GROUPS), None
            earlier = [position for of, position in self.positions if of == group]
            if earlier and self.chance.random() < 0.5:
                after = self.chance.choice(earlier)
            await self.layer.group_discard(group, channel)
            now[group].is_over = True
            membership = now[group] = Membership()
            try:
                membership.after = await self.layer.group_add(group, channel, after=after)
            except LayerAway:
                continue
            self.memberships[group].append(membership)

    async def post(self) -> None:
        while True:
            for _ in range(self.chance.randrange(30)):
                group = self.chance.choice(GROUPS)
                self.claims[group].post(self.layer, 1, group)
            await asyncio.sleep(self.chance.choice((0, 0.001, 0.01, 0.05)))


async def faults(chance: random.Random, redis: Redis, ways: list[CuttingProxy]) -> None:
    for _ in range(FAULTS):
        await asyncio.sleep(chance.random() / 2)
        way, fault = chance.choice(ways), chance.randrange(7)
        assert redis.process is not None
        # In a thread: a way that ends in good order waits for this loop to read what is left.
        if fault == 0:
            await asyncio.to_thread(way.abort)
        elif fault == 1:
            await asyncio.to_thread(way.cut, chance.random() / 2)
        elif fault in (2, 3):
            await asyncio.to_thread(way.freeze, one_way=fault == 3)
        elif fault == 4:
            redis.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(chance.random() * 1.5)
            redis.process.send_signal(signal.SIGCONT)
        elif fault == 5:
            os.kill(redis.process.pid, chance.choice((signal.SIGKILL, signal.SIGTERM)))
            await asyncio.to_thread(redis.process.wait, PATIENCE)
            await asyncio.to_thread(redis.start)
        else:
            time.sleep(chance.random())
        if chance.random() < 0.5:
            # What was held goes on, however late.
            for each in ways:
                each.thaw()


@pytest.mark.parametrize("seed", range(2))
async def test_a_storm(layers: Layers, tmp_path_factory: pytest.TempPathFactory, prefix: str, seed: int) -> None:
    chance = random.Random(seed)
    redis = Redis(tmp_path_factory.mktemp("redis"), "--appendonly", "yes", "--appendfsync", "always").start()
    with ExitStack() as cleaning:
        cleaning.callback(redis.stop)
        ways = [cleaning.enter_context(CuttingProxy(redis.port)) for _ in range(PROCESSES)]
        claims = {group: Claims() for group in GROUPS}
        processes = [
            Process(layers(f"redis://127.0.0.1:{way.port}/0"), random.Random(seed * 10 + number), claims)
            for number, way in enumerate(ways)
        ]
        for process in processes:
            await process.stay()
        tasks = [asyncio.create_task(each) for process in processes for each in (process.post(), process.come_and_go())]
        await faults(chance, redis, ways)
        for task in tasks:
            task.cancel()
        assert {type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)} == {asyncio.CancelledError}
        for way in ways:
            way.thaw()
        async with Client.from_url(redis.url) as client:
            for group in GROUPS:
                await claims[group].all_said()
                # All that was said of posts is true.
                await claims[group].are_true(client, prefix, group, in_order=False)
                log = await in_log(client, prefix, group)
                for process in processes:
                    for membership in process.memberships[group]:
                        await _is_right(membership, log)
        assert [process.gaps for process in processes] == [[]] * PROCESSES


async def _is_right(membership: Membership, log: dict[int, Position]) -> None:
    """It got what is behind its position, once and in order: up to somewhere if it is over, else all."""
    assert membership.after is not None
    expected = [number for number, position in log.items() if position > membership.after]
    if membership.is_over:
        assert membership.numbers == expected[: len(membership.numbers)]
        return
    async with asyncio.timeout(PATIENCE):
        while len(membership.numbers) < len(expected):
            await asyncio.sleep(0.02)
    assert membership.numbers == expected
