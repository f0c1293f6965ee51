"""Two server processes on one Redis: what one client does in one is seen in the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.running import PATIENCE, Redis, Service
from tests.service.client import JSON, Client, Target, group_message, ok, opened
from tests.service.rest import call


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


class People:
    """Clients of both processes, and the official SDK talking to the first one alone."""

    def __init__(self, pair: tuple[Target, Target], hub: str, stack: AsyncExitStack) -> None:
        self.pair, self.hub, self._stack = pair, hub, stack
        self.sdk = stack.enter_context(pair[0].service_client(hub))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(asyncio.to_thread, getattr(self.sdk, name))

    async def connect(self, process: int, user: str | None = None, *groups: str) -> tuple[Client, str]:
        client = await self._stack.enter_async_context(
            opened(self.pair[process].url(self.hub, user=user, groups=groups), JSON, connected=False)
        )
        return client, (await client.hear())["connectionId"]

    async def on_both(self, user: str | None = None, *groups: str) -> list[tuple[Client, str]]:
        return [await self.connect(process, user, *groups) for process in (0, 1)]

    async def listed(self, group: str, **options: int) -> list[str]:
        found = await asyncio.to_thread(lambda: list(self.sdk.list_connections(group=group, **options)))
        return [member.connection_id for member in found]

    async def act(self, verb: str, body: Any) -> None:
        answer = await call(
            self.pair[0], "POST", f"/api/hubs/{self.hub}/:{verb}", json.dumps(body), Content_Type="application/json"
        )
        assert answer.status == 200


@pytest.fixture
async def people(pair: tuple[Target, Target], unique: Callable[[str], str]) -> AsyncIterator[People]:
    async with AsyncExitStack() as stack:
        yield People(pair, unique("people").replace("-", "_"), stack)


async def test_rest_sends_reach_every_process(people: People) -> None:
    ann, ben = await people.on_both("ann", "g"), await people.on_both(None, "g")
    everybody = [client for client, _ in (*ann, *ben)]

    async def heard(clients: list[Client], message: dict[str, Any]) -> None:
        for client in clients:
            assert await client.hear() == message

    def server(data: Any) -> dict[str, Any]:
        return {"type": "message", "from": "server", "dataType": "json", "data": data}

    await people.send_to_all(1)
    await heard(everybody, server(1))
    await people.send_to_all(2, excluded=[ann[1][1], ben[0][1]])
    await heard([ann[0][0], ben[1][0]], server(2))
    await people.send_to_all(3, filter="userId eq null and 'g' in groups")
    await heard([client for client, _ in ben], server(3))
    await people.send_to_user("ann", 4)
    await heard([client for client, _ in ann], server(4))
    await people.send_to_user("ann", 5, filter=f"connectionId eq '{ann[1][1]}'")
    await heard([ann[1][0]], server(5))
    for client, connection_id in (*ann, *ben):
        await people.send_to_connection(connection_id, 6)
        await heard([client], server(6))
    await people.send_to_group("g", 7, excluded=[ann[1][1]])
    await heard([ann[0][0], ben[0][0], ben[1][0]], group_message("g", 7))
    await people.send_to_group("g", 8, filter="userId ne null")
    await heard([client for client, _ in ann], group_message("g", 8))
    # And nothing besides: what comes last is the very next thing everybody hears.
    await people.send_to_all("last")
    await heard(everybody, server("last"))


async def test_rest_memberships_are_read_as_written_on_every_process(people: People) -> None:
    ann, ben = await people.on_both("ann"), await people.on_both("ben")
    ids = {"ann": [name for _, name in ann], "ben": [name for _, name in ben]}
    everybody = sorted([*ids["ann"], *ids["ben"]])
    for connection_id in everybody:
        await people.add_connection_to_group("g", connection_id)
    assert await people.listed("g") == everybody
    await people.send_to_group("g", "in")
    for client, _ in (*ann, *ben):
        assert await client.hear() == group_message("g", "in")
    await people.remove_connection_from_group("g", ids["ann"][1])
    assert await people.listed("g") == sorted(set(everybody) - {ids["ann"][1]})
    await people.remove_connection_from_all_groups(ids["ben"][1])
    assert await people.listed("g") == sorted([ids["ann"][0], ids["ben"][0]])
    await people.add_user_to_group("h", "ann")
    assert await people.listed("h") == sorted(ids["ann"])
    await people.add_user_to_group("i", "ann")
    await people.remove_user_from_group("h", "ann")
    assert not await people.group_exists("h")
    await people.remove_user_from_all_groups("ann")
    assert not await people.group_exists("i")
    await people.act("addToGroups", {"groups": ["j", "k"], "filter": "userId eq 'ben'"})
    assert await people.listed("j") == await people.listed("k") == sorted(ids["ben"])
    await people.act("removeFromGroups", {"groups": ["j"]})
    assert not await people.group_exists("j")
    await people.send_to_group("k", "still")
    for client, _ in ben:
        assert await client.hear() == group_message("k", "still")


async def test_existence_is_exact(people: People) -> None:
    for process in (0, 1):
        user, group = f"user {process}", f"group {process}"
        assert not await people.user_exists(user)
        assert not await people.group_exists(group)
        _, connection_id = await people.connect(process, user, group)
        assert await people.connection_exists(connection_id)
        assert await people.user_exists(user)
        assert await people.group_exists(group)
        await people.close_connection(connection_id)
        assert not await people.connection_exists(connection_id)
        assert not await people.user_exists(user)
        assert not await people.group_exists(group)


async def test_listings_are_exact_over_pages_and_processes(people: People) -> None:
    members = [await people.connect(number % 2, f"user {number}", "g") for number in range(21)]
    expected = sorted(name for _, name in members)
    assert await people.listed("g") == expected
    assert await people.listed("g", maxpagesize=4) == expected
    assert await people.listed("g", maxpagesize=5, top=13) == expected[:13]
    for _, connection_id in members[::3]:
        await people.close_connection(connection_id)
    assert await people.listed("g", maxpagesize=1) == sorted(name for at, (_, name) in enumerate(members) if at % 3)


async def test_rest_closes_on_every_process(people: People) -> None:
    async def ended(client: Client, reason: str) -> None:
        message = f"Application server closed the connection. Reason: {reason}"
        assert (await client.hear())["message"] == message
        assert await client.closed() == (1000, "")

    ann, ben, cid = await people.on_both("ann"), await people.on_both("ben", "g"), await people.on_both("cid")
    await people.close_user_connections("ann", reason="user")
    assert not await people.user_exists("ann")
    for client, _ in ann:
        await ended(client, "user")
    await people.close_group_connections("g", reason="group", excluded=[ben[1][1]])
    assert await people.listed("g") == [ben[1][1]]
    await ended(ben[0][0], "group")
    await people.close_all_connections(reason="all", excluded=[cid[0][1]])
    for client in (ben[1][0], cid[1][0]):
        await ended(client, "all")
    assert await people.connection_exists(cid[0][1])
    await cid[0][0].barrier()


async def test_rest_permissions_on_every_process(people: People) -> None:
    for client, connection_id in await people.on_both():
        await people.revoke_permission("joinLeaveGroup", connection_id, target_name="g")
        assert not await people.has_permission("joinLeaveGroup", connection_id, target_name="g")
        assert (await client.ask(type="joinGroup", group="g", ackId=1))["error"]["name"] == "Forbidden"
        await people.grant_permission("joinLeaveGroup", connection_id, target_name="g")
        await client.join("g")


async def test_sixty_members_on_both_sides_get_everything(
    pair: tuple[Target, Target], unique: Callable[[str], str]
) -> None:
    room = unique("room")
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
