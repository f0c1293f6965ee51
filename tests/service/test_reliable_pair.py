"""Reliable clients that come back to another process: two servers on one Redis.

One process runs uvicorn and one daphne, so each test that goes both ways has each of them as a
connection's home and as its new place. Sequence ids are watched over by `Reliable` (client.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ResourceNotFoundError

from tests.running import Redis, Service
from tests.service.client import (
    JSON,
    JSON_RELIABLE,
    PROTOBUF_RELIABLE,
    Client,
    Reliable,
    Sdk,
    Target,
    ask_event,
    group_message,
    hears,
    ok,
    opened,
    publish,
    reliable,
    server_message,
)

Unique = Callable[[str], str]
Come = Callable[..., AbstractAsyncContextManager[Reliable]]

HUB = "handled"
WINDOW_OVER = "disconnected: The connection recovery timeout expired."


class Pair:
    """Two processes of one service; either can be stopped and started."""

    def __init__(self, folder: Path, redis: Redis, **env: str) -> None:
        env |= {"REDIS_URL": redis.url, "EXTRA_APPS": "tests.service.handlers"}
        first = Service(folder, env=env, server="uvicorn").set_up()
        # Two machines behind one public address: a token opens either.
        second = Service(folder, env=env | {"EXTRA_ENDPOINTS": first.endpoint}, server="daphne")
        self.services = (first, second)
        whole = first.connection_string
        self.targets = (Target(whole), Target(whole.replace(first.endpoint, second.endpoint)))

    def start(self) -> Pair:
        for service in self.services:
            if service.process is None:
                service.start()
        return self

    def stop(self) -> None:
        for service in self.services:
            service.stop()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, redis_server: Redis) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("pair"), redis_server)
    try:
        yield pair.start()
        for service in pair.services:
            assert "Traceback" not in service.log.read_text(), service.log.read_text()
    finally:
        pair.stop()


@pytest.fixture(params=[(0, 1), (1, 0)], ids=["to the second", "to the first"])
def ways(request: pytest.FixtureRequest, pair: Pair) -> tuple[Target, Target]:
    """Where a connection begins, and where it goes."""
    home, away = request.param
    return pair.targets[home], pair.targets[away]


@pytest.fixture(params=[JSON_RELIABLE, PROTOBUF_RELIABLE], ids=["json", "protobuf"])
def come(request: pytest.FixtureRequest) -> Come:
    return lambda target, **options: reliable(target.url(HUB, **options), request.param)


@pytest.fixture
async def people(pair: Pair) -> AsyncIterator[Sequence[Client]]:
    """Somebody who publishes in each process."""
    async with (
        opened(pair.targets[0].url(HUB), JSON) as one,
        opened(pair.targets[1].url(HUB), JSON) as other,
    ):
        yield one, other


@pytest.mark.parametrize("loss", ["reset", "hang_up", "none"])
async def test_a_connection_is_recovered_in_the_other_process(
    ways: tuple[Target, Target], come: Come, people: Sequence[Client], unique: Unique, loss: str
) -> None:
    home, away = ways
    room, left, joined = unique("room"), unique("left"), unique("joined")
    async with come(home, user="ann", groups=[room, left], extra={"state": "kept"}) as client:
        await client.join(joined, ack_id=7)
        await client.say(type="leaveGroup", group=left)
        await client.barrier()
        await publish(people[0], room, "acknowledged")
        await hears(client, room, "acknowledged")
        await client.acknowledge()
        await publish(people[1], room, "heard")
        await hears(client, room, "heard")
        old = Client(client.socket)
        if loss != "none":
            await getattr(client, loss)()
            await publish(people[0], joined, "missed")
            await publish(people[1], left, "not meant")
            await client.recover(away)
            await hears(client, room, "heard")
            await hears(client, joined, "missed")
        else:
            await client.recover(away)
            assert (await old.closed())[0] == 1001
            await hears(client, room, "heard")
        # It is a member where it was, and is reached from both sides.
        for person in people:
            await publish(person, joined, "live")
            await hears(client, joined, "live")
            await publish(person, left, "not meant")
        answer = await client.ask(type="event", event="whoami", data=1)
        assert answer["data"] == {"user": "ann", "subprotocol": client.subprotocol, "state": "kept"}
        # What was done before is remembered.
        assert (await client.ask(type="joinGroup", group=left, ackId=7))["error"]["name"] == "Duplicate"
        await client.say(type="sendToGroup", group=joined, data="own", ackId=8)
        told = None if client.subprotocol == PROTOBUF_RELIABLE else "ann"
        assert await client.hear() == group_message(joined, "own", user=told)
        assert await client.hear() == ok(8)


async def test_rest_finds_a_connection_that_has_moved(
    pair: Pair, ways: tuple[Target, Target], come: Come, people: Sequence[Client], unique: Unique
) -> None:
    home, away = ways
    user, room, granted, revoked = unique("user"), unique("room"), unique("granted"), unique("revoked")
    async with come(home, user=user, roles=[f"webpubsub.joinLeaveGroup.{revoked}"]) as client:
        await Sdk(away, HUB).grant_permission("joinLeaveGroup", client.id, target_name=granted)
        await Sdk(home, HUB).revoke_permission("joinLeaveGroup", client.id, target_name=revoked)
        await client.reset()
        await client.recover(away)
        for number, target in enumerate(pair.targets):
            rest = Sdk(target, HUB)
            assert await rest.connection_exists(client.id)
            assert await rest.user_exists(user)
            assert await rest.has_permission("joinLeaveGroup", client.id, target_name=granted)
            assert not await rest.has_permission("joinLeaveGroup", client.id, target_name=revoked)
            group = f"{room}-{number}"
            await rest.add_connection_to_group(group, client.id)
            for asked in pair.targets:
                assert await Sdk(asked, HUB).members(group) == [client.id]
            await rest.send_to_connection(client.id, "connection")
            assert await client.hear() == server_message("connection")
            await rest.send_to_user(user, "user")
            assert await client.hear() == server_message("user")
            await rest.send_to_group(group, "group")
            await hears(client, group, "group")
            await rest.send_to_all("all", filter=f"connectionId eq '{client.id}'")
            assert await client.hear() == server_message("all")
            await rest.remove_connection_from_group(group, client.id)
            assert not await rest.group_exists(group)
        assert (await client.ask(type="joinGroup", group=revoked, ackId=1))["error"]["name"] == "Forbidden"
        await client.join(granted)
        for target in pair.targets:
            await Sdk(target, HUB).revoke_permission("joinLeaveGroup", client.id, target_name=granted)
            assert (await client.ask(type="joinGroup", group=granted, ackId=2))["error"]["name"] == "Forbidden"
            await Sdk(target, HUB).grant_permission("joinLeaveGroup", client.id, target_name=granted)
            await client.join(granted, ack_id=3 + pair.targets.index(target))


@pytest.mark.parametrize("by", [0, 1], ids=["by the first", "by the second"])
@pytest.mark.parametrize("attached", [True, False], ids=["attached", "away"])
async def test_a_rest_close_after_a_move_ends_it_for_good(
    pair: Pair,
    ways: tuple[Target, Target],
    come: Come,
    people: Sequence[Client],
    unique: Unique,
    by: int,
    attached: bool,
) -> None:
    home, away = ways
    room = unique("room")
    async with come(home, groups=[room]) as client:
        await client.reset()
        await client.recover(away)
        if not attached:
            await client.reset()
        await Sdk(pair.targets[by], HUB).close_connection(client.id, reason="enough")
        if attached:
            assert (await client.hear())["message"] == "Application server closed the connection. Reason: enough"
            assert await client.closed() == (1000, "")
        for target in pair.targets:
            assert not await Sdk(target, HUB).connection_exists(client.id)
            assert not await Sdk(target, HUB).group_exists(room)
            await client.cannot_recover(target)
        with pytest.raises(ResourceNotFoundError):
            await Sdk(home, HUB).add_connection_to_group(room, client.id)


async def test_messages_wait_whichever_process_they_are_sent_by(
    pair: Pair, ways: tuple[Target, Target], come: Come, people: Sequence[Client], unique: Unique
) -> None:
    home, away = ways
    user, room = unique("user"), unique("room")
    async with come(home, user=user, groups=[room]) as client:
        for place in (away, home, away):
            await client.hang_up()
            for target, person in zip(pair.targets, people, strict=True):
                await Sdk(target, HUB).send_to_connection(client.id, "connection")
                await Sdk(target, HUB).send_to_user(user, "user")
                await publish(person, room, "group")
                await Sdk(target, HUB).send_to_group(room, "rest group")
            await client.recover(place)
            # Each goes its own way between the processes; none waits for another.
            heard = sorted([(await client.hear())["data"] for _ in range(8)])
            assert heard == sorted(["connection", "user", "group", "rest group"] * 2)
            await client.acknowledge()


async def test_back_and_forth(pair: Pair, come: Come, people: Sequence[Client], unique: Unique) -> None:
    room, bystander_room = unique("room"), unique("bystander")
    async with (
        come(pair.targets[0], groups=[room]) as client,
        come(pair.targets[1], groups=[bystander_room]) as bystander,
    ):
        for round_ in range(12):
            await publish(people[round_ % 2], room, f"live {round_}")
            # Sometimes lost before, sometimes superseded by the new socket.
            if round_ % 3:
                await client.reset()
            await publish(people[(round_ + 1) % 2], room, f"meanwhile {round_}")
            await client.recover(pair.targets[(round_ + 1) % 2])
            assert sorted([(await client.hear())["data"] for _ in range(2)]) == [
                f"live {round_}",
                f"meanwhile {round_}",
            ]
            await client.acknowledge()
            group = f"{room}-{round_}"
            await client.join(group, ack_id=round_)
            for target in pair.targets:
                assert await Sdk(target, HUB).members(room) == [client.id]
                assert await Sdk(target, HUB).members(group) == [client.id]
        for person in people:
            await publish(person, f"{room}-0", "still")
            await hears(client, f"{room}-0", "still")
        await bystander.barrier()
        for target in pair.targets:
            assert await Sdk(target, HUB).members(bystander_room) == [bystander.id]


async def test_nothing_is_lost_or_doubled_while_it_moves(
    pair: Pair, come: Come, people: Sequence[Client], unique: Unique
) -> None:
    """Both processes publish without a pause, by frames and by REST, while the client goes back and forth."""
    room, user = unique("room"), unique("user")

    async def by_frames(at: int) -> None:
        for number in range(300):
            await publish(people[at], room, [f"frames {at}", number])

    async def by_rest(at: int, connection_id: str) -> None:
        rest = Sdk(pair.targets[at], HUB)
        for number in range(60):
            await rest.send_to_connection(connection_id, [f"connection {at}", number])
            await rest.send_to_user(user, [f"user {at}", number])

    counts = {
        f"{way} {at}": 300 if way == "frames" else 60 for at in (0, 1) for way in ("frames", "connection", "user")
    }
    total = sum(counts.values())
    async with come(pair.targets[0], user=user, groups=[room]) as client, asyncio.TaskGroup() as group:
        for at in (0, 1):
            group.create_task(by_frames(at))
            group.create_task(by_rest(at, client.id))
        heard: list[Any] = []
        place = 0
        while len(heard) < total:
            if len(heard) % 40:
                await client.reset()
            place = 1 - place
            await client.recover(pair.targets[place])
            # Nothing is acknowledged: all of it once more, as it was, and some that is new.
            assert [(await client.hear())["data"] for _ in heard] == heard
            heard += [(await client.hear())["data"] for _ in range(min(20, total - len(heard)))]
        await client.barrier()
    for name, count in counts.items():
        assert [number for sender, number in heard if sender == name] == list(range(count)), name


async def test_of_many_recoveries_in_both_processes_one_wins(
    pair: Pair, come: Come, people: Sequence[Client], unique: Unique
) -> None:
    room = unique("room")
    async with come(pair.targets[0], groups=[room]) as client:
        for round_ in range(5):
            await publish(people[0], room, [round_, 0])
            await client.hang_up()
            await publish(people[1], room, [round_, 1])
            await client.claim(*[client.recovery_url(target) for target in pair.targets] * 3)
            assert sorted([(await client.hear())["data"] for _ in range(2)]) == [[round_, 0], [round_, 1]]
            await client.acknowledge()
            for target in pair.targets:
                assert await Sdk(target, HUB).members(room) == [client.id]
        for person in people:
            await publish(person, room, "live")
            await hears(client, room, "live")


async def test_a_large_backlog_moves_whole(
    ways: tuple[Target, Target], come: Come, people: Sequence[Client], unique: Unique
) -> None:
    home, away = ways
    room, megabyte = unique("room"), "x" * 1_000_000
    async with come(home, groups=[room]) as client:
        await client.reset()
        await publish(people[0], room, *range(900))
        await publish(people[0], room, *[megabyte] * 10)
        await client.recover(away)
        await hears(client, room, *range(900), *[megabyte] * 10)
        # What was taken along counts: 90 more are as many as may be.
        await publish(people[1], room, *range(90))
        await hears(client, room, *range(90))
        await client.barrier()
        await publish(people[1], room, "one too many")
        assert (await client.hear_out())[1] == (1008, "The reliable message buffer is full.")
        for target in ways:
            await client.cannot_recover(target)


async def test_time_to_live_counts_across_a_move(
    ways: tuple[Target, Target], come: Come, people: Sequence[Client], unique: Unique
) -> None:
    home, away = ways
    room = unique("room")
    async with come(home, groups=[room]) as client:
        await publish(people[0], room, "first")
        await hears(client, room, "first")
        await client.hang_up()
        for person in people:
            for _ in range(3):
                await person.barrier()
        await publish(people[0], room, "stale", ttlSeconds=1)
        await publish(people[0], room, "fresh", ttlSeconds=300)
        await publish(people[0], room, "kept")
        await ask_event(people[0], "wait", 1.2)
        await client.recover(away)
        await hears(client, room, "first", "fresh", "kept")
        await client.barrier()


async def test_a_failed_recovery_elsewhere_harms_nothing(
    ways: tuple[Target, Target], come: Come, people: Sequence[Client], unique: Unique
) -> None:
    home, away = ways
    room = unique("room")
    async with come(home, groups=[room]) as client:
        for changed in ({"awps_reconnection_token": "x"}, {"awps_connection_id": client.id[:8] + "0" * 24}):
            await client.cannot_recover(url=client.recovery_url(away, **changed))
        await client.cannot_recover(url=client.recovery_url(away).replace(f"/{HUB}", "/other"))
        for person in people:
            await publish(person, room, "here")
            await hears(client, room, "here")
        assert await Sdk(away, HUB).members(room) == [client.id]


async def test_handlers_are_told_once_wherever_it_ends(
    pair: Pair, ways: tuple[Target, Target], come: Come, people: Sequence[Client]
) -> None:
    home, away = ways
    at_home, at_away = (people[pair.targets.index(target)] for target in ways)
    async with come(home) as client:
        await client.reset()
        await client.recover(away)
        await client.close(1000)
        told = await ask_event(at_away, "gone", client.id)
        assert len(told) == 1
        assert told[0] != WINDOW_OVER
        assert await ask_event(at_home, "history", client.id) == ["connect", "connected"]
        for target in ways:
            await client.cannot_recover(target)
            assert not await Sdk(target, HUB).connection_exists(client.id)


async def test_a_busy_handler_does_not_hold_up_a_move(
    pair: Pair, ways: tuple[Target, Target], come: Come, people: Sequence[Client], unique: Unique
) -> None:
    home, away = ways
    at_home = people[pair.targets.index(home)]
    gate, room = unique("gate"), unique("room")
    async with come(home, groups=[room]) as client:
        await client.say(type="event", event="hold", data=gate, ackId=1)
        assert await ask_event(at_home, "held", gate) == 1
        await client.reset()
        await publish(at_home, room, "meanwhile")
        await client.recover(away)
        await hears(client, room, "meanwhile")
        await at_home.say(type="event", event="free", data=gate)
        assert await client.hear() == server_message(f"{gate} is free", "text")
        assert await client.hear() == ok(1)
        # And it is known to be done, here too.
        answer = await client.ask(type="event", event="hold", data=gate, ackId=1)
        assert answer["error"]["name"] == "Duplicate"
        assert await ask_event(at_home, "held", gate) == 1


async def test_what_is_sent_again_after_a_move_is_done_once(
    pair: Pair, ways: tuple[Target, Target], come: Come, people: Sequence[Client], unique: Unique
) -> None:
    home, away = ways
    at_home, at_away = (people[pair.targets.index(target)] for target in ways)
    gate, room = unique("gate"), unique("room")
    await at_away.join(room)
    async with come(home) as client:
        await client.say(type="event", event="hold", data=gate, ackId=1)
        await client.say(type="sendToGroup", group=room, data="once", ackId=2)
        assert await ask_event(at_home, "held", gate) == 1
        await client.reset()
        await client.recover(away)
        # The handler is still busy where the client was. The client does not know, and asks again.
        await client.say(type="event", event="hold", data=gate, ackId=1)
        await client.say(type="sendToGroup", group=room, data="once", ackId=2)
        await client.say(type="sendToGroup", group=room, data="last", ackId=3)
        for person in (at_home, at_away):
            await person.say(type="event", event="free", data=gate)
        await hears(at_away, room, "once", "last")
        heard = []
        while ok(3) not in heard:
            heard.append(await client.hear())
        await client.barrier()
        assert heard.count(server_message(f"{gate} is free", "text")) == 1


# Processes that go


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory, redis_server: Redis) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("mortal"), redis_server, RECOVERY_SECS="3")
    try:
        yield pair
        for service in pair.services:
            assert "Traceback" not in service.log.read_text(), service.log.read_text()
    finally:
        pair.stop()


def reliable_of(target: Target, **options: Any) -> AbstractAsyncContextManager[Reliable]:
    """In JSON alone: starting and stopping takes its time, and the format makes no difference to it."""
    return reliable(target.url(HUB, **options))


@pytest.fixture(params=[0, 1], ids=["uvicorn goes", "daphne goes"])
def going(request: pytest.FixtureRequest, mortal: Pair) -> int:
    """Which process goes in this test; both are there when it begins."""
    mortal.start()
    return int(request.param)


async def test_it_is_reachable_when_its_home_has_stopped(mortal: Pair, going: int, unique: Unique) -> None:
    home, place = mortal.targets[going], mortal.targets[1 - going]
    user, room, rest = unique("user"), unique("room"), Sdk(place, HUB)
    async with reliable_of(home, user=user, groups=[room]) as client:
        await client.reset()
        await client.recover(place)
        await asyncio.to_thread(mortal.services[going].stop)
        await client.barrier()

        async def is_reached() -> None:
            await rest.send_to_connection(client.id, "connection")
            assert await client.hear() == server_message("connection")
            await rest.send_to_user(user, "user")
            assert await client.hear() == server_message("user")
            await rest.send_to_group(room, "group")
            await hears(client, room, "group")
            assert await rest.connection_exists(client.id)
            assert await rest.members(room) == [client.id]

        await is_reached()
        await client.acknowledge()
        await client.reset()
        await client.recover(place)
        await is_reached()
        await rest.close_connection(client.id)
        assert (await client.hear())["event"] == "disconnected"
        assert await client.closed() == (1000, "")
        await client.cannot_recover(place)


async def test_a_connection_whose_process_was_killed_goes_on(mortal: Pair, going: int, unique: Unique) -> None:
    home, place = mortal.targets[going], mortal.targets[1 - going]
    room, joined = unique("room"), unique("joined")
    async with (
        opened(place.url(HUB), JSON) as person,
        reliable_of(home, groups=[room]) as stayed,
        reliable_of(place, groups=[room]) as moved,
    ):
        # One was there from the beginning, one had moved there.
        await moved.reset()
        await moved.recover(home)
        for client in (stayed, moved):
            await client.join(joined, ack_id=7)
        await publish(person, room, "before")
        service = mortal.services[going]
        assert service.process is not None
        service.process.kill()
        await asyncio.to_thread(service.stop)
        await publish(person, joined, "meanwhile")
        for client in (stayed, moved):
            await client.recover(place)
            await hears(client, room, "before")
            await hears(client, joined, "meanwhile")
            # What it did there is remembered, too.
            assert (await client.ask(type="joinGroup", group=joined, ackId=7))["error"]["name"] == "Duplicate"
        assert await Sdk(place, HUB).members(joined) == sorted([stayed.id, moved.id])


async def test_the_window_ends_where_the_connection_is(mortal: Pair, going: int, unique: Unique) -> None:
    home, place = mortal.targets[going], mortal.targets[1 - going]
    room = unique("room")
    async with (
        opened(home.url(HUB), JSON) as at_home,
        opened(place.url(HUB), JSON) as at_place,
        reliable_of(home, groups=[room]) as client,
    ):
        await client.reset()
        await client.recover(place)
        await client.reset()
        assert await ask_event(at_place, "gone", client.id) == [WINDOW_OVER]
        assert await ask_event(at_home, "history", client.id) == ["connect", "connected"]
        for target in (home, place):
            assert not await Sdk(target, HUB).connection_exists(client.id)
            assert not await Sdk(target, HUB).group_exists(room)
            await client.cannot_recover(target)
