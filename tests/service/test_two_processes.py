"""Two server processes on one Redis: what one client does in one is seen in the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.running import PATIENCE, Redis, Service
from tests.service.client import JSON, Target, group_message, ok, opened


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_server: Redis
) -> Iterator[tuple[Target, Target]]:
    folder: Path = tmp_path_factory.mktemp("pair")
    env = {"REDIS_URL": redis_server.url}
    if request.param == "postgresql":
        env["DATABASE_URL"] = request.getfixturevalue("postgresql_url")
    first = Service(folder, env=env).set_up()
    # Two machines behind one public address: a token opens either.
    second = Service(folder, env=env | {"EXTRA_ENDPOINTS": first.endpoint})
    try:
        first.start()
        second.start()
        one = Target(first.connection_string)
        other = Target(first.connection_string.replace(first.endpoint, second.endpoint))
        yield one, other
    finally:
        second.stop()
        first.stop()


async def test_groups_span_processes(pair: tuple[Target, Target], unique: Callable[[str], str]) -> None:
    one, other = pair
    room = unique("room")
    async with opened(one.url(user="ann"), JSON) as ann, opened(other.url(user="ben"), JSON) as ben:
        await ann.join(room)
        await ben.join(room)
        for number in range(100):
            await ann.say(type="sendToGroup", group=room, data=number, noEcho=True)
        # Each once, in order, and never back to where it came from.
        for number in range(100):
            assert await ben.hear() == group_message(room, number, user="ann")
        await ben.say(type="sendToGroup", group=room, data="back")
        assert await ben.hear() == group_message(room, "back", user="ben")
        assert await ann.hear() == group_message(room, "back", user="ben")
        await ann.barrier()


async def test_leaving_is_seen_across_processes(pair: tuple[Target, Target], unique: Callable[[str], str]) -> None:
    one, other = pair
    room = unique("room")
    async with (
        opened(one.url(), JSON) as ann,
        opened(other.url(), JSON) as ben,
        opened(other.url(groups=[room]), JSON) as witness,
    ):
        await ben.join(room)
        assert await ben.ask(type="leaveGroup", group=room, ackId=2) == ok(2)
        await ann.say(type="sendToGroup", group=room, data="without ben")
        assert await witness.hear() == group_message(room, "without ben")
        await ben.join(room, ack_id=3)
        await ann.say(type="sendToGroup", group=room, data="with ben")
        assert await ben.hear() == group_message(room, "with ben")


async def test_rest_reaches_connections_of_the_other_process(pair: tuple[Target, Target]) -> None:
    one, other = pair
    service = one.service_client("chat")
    async with opened(other.url(roles=[]), JSON, connected=False) as client:
        connection_id = (await client.hear())["connectionId"]
        assert await asyncio.to_thread(service.connection_exists, connection_id)
        await asyncio.to_thread(service.grant_permission, "joinLeaveGroup", connection_id, target_name="g")
        await client.join("g")
        await asyncio.to_thread(service.close_connection, connection_id)
        assert (await client.hear())["message"] == "Application server closed the connection."
        assert await client.closed() == (1000, "")
    assert not await asyncio.to_thread(service.connection_exists, connection_id)
    assert not await asyncio.to_thread(service.connection_exists, "0" * 32)


async def test_sixty_members_on_both_sides_get_everything(
    pair: tuple[Target, Target], unique: Callable[[str], str]
) -> None:
    room = unique("room")
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE * 3):
        members = [
            await stack.enter_async_context(opened(pair[number % 2].url(groups=[room]), JSON)) for number in range(60)
        ]
        publishers = [await stack.enter_async_context(opened(target.url(), JSON)) for target in pair]
        for number in range(50):
            for publisher in publishers:
                await publisher.say(type="sendToGroup", group=room, data=number)
        for member in members:
            heard = [(await member.hear())["data"] for _ in range(100)]
            # Both publishers' messages, each publisher's in its order.
            assert sorted(heard) == sorted([*range(50), *range(50)])
            assert heard[0] == 0
            assert heard[-1] == 49
