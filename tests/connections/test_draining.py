"""How a process parts with its clients, in the time of a world of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from hubs import operations
from hubs.connections import recovery
from hubs.connections.draining import ALONE_SECS, drain
from hubs.protocols.frames import Payload
from hubs.upstream import UserEventRequest
from hubs.upstream.handlers import HubHandlers
from tests.connections.conftest import WebPubSub
from tests.connections.world import Client, World

AWAY = (1001, "")


@pytest.fixture
def world() -> Iterator[World]:
    with World(processes=2) as world:
        yield world


def _clients(world: World, count: int, hub: str = "chat") -> list[Client]:
    """Clients of the first process."""
    clients = [Client(world, hub, user_id=None) for _ in range(count)]
    for client in clients:
        client.connect(world.processes[0], "g")
    return clients


def _told(clients: list[Client]) -> int:
    return sum(client.sockets[0].closed == AWAY for client in clients)


def _start(world: World, stopping_too: int = 0) -> Callable[[], bool]:
    """Have the first process drain; tells whether it is done."""
    return world.processes[0].spawn(drain(stopping_too)).done


def test_they_are_told_in_turn_at_the_set_rate(world: World, webpubsub: WebPubSub) -> None:
    webpubsub(DRAIN_PER_SEC=2, DRAIN_SECS=30)
    clients = _clients(world, 20)
    done = _start(world)
    for secs, least, most in ((3, 5, 7), (3, 11, 13), (5, 20, 20)):
        assert not done()
        world.pass_time(secs)
        told = _told(clients)
        assert least <= told <= most
        assert _told(clients[:told]) == told, "not in the order in which they came"
    # Nobody has come for them yet. Others look after them when this process stops.
    world.until(done, limit=1)
    for client in clients:
        client.recover(world.processes[1])
        assert client.at(world.processes[1])


def test_more_than_the_rate_allows_are_told_in_half_the_time(world: World, webpubsub: WebPubSub) -> None:
    webpubsub(DRAIN_PER_SEC=1, DRAIN_SECS=10)
    clients = _clients(world, 50)
    done = _start(world)
    world.pass_time(2.5)
    assert 23 <= _told(clients) <= 28
    world.pass_time(2.6)
    assert _told(clients) == 50
    world.until(done, limit=1)


@pytest.mark.parametrize("alone", ["with nobody", "all stop"])
def test_where_nobody_could_take_them_everybody_is_told_at_once(world: World, webpubsub: WebPubSub, alone: str) -> None:
    webpubsub(DRAIN_PER_SEC=1, DRAIN_SECS=30)
    clients = _clients(world, 20)
    if alone == "with nobody":
        world.processes[1].run(world.processes[1].node.stop())
        world.pass_time(0.1)
    done = _start(world, stopping_too=0 if alone == "with nobody" else 1)
    # Those who are away are not waited for, either.
    world.until(done, limit=0.5)
    assert _told(clients) == 20


def test_what_waits_for_an_event_handler_is_waited_for(
    world: World, application: HubHandlers, webpubsub: WebPubSub
) -> None:
    webpubsub(DRAIN_SECS=30)

    @application.on_event("slow")
    async def slow(request: UserEventRequest) -> str:
        await asyncio.sleep(request.data)
        return "done"

    quick, patient, stuck = _clients(world, 3, application.hub)
    for client, secs in ((patient, 5), (stuck, 60)):
        client.socket.say({"type": "event", "event": "slow", "dataType": "json", "data": secs, "ackId": 1})
    world.pass_time(0.1)
    # Nobody else: it does not wait for ever.
    done = _start(world, stopping_too=1)
    world.pass_time(1)
    assert (quick.socket.closed, patient.socket.closed) == (AWAY, None)
    # What is sent from now on is not taken.
    patient.socket.say({"type": "joinGroup", "group": "late", "ackId": 2})
    world.pass_time(5)
    assert patient.socket.closed == AWAY
    assert [frame["ackId"] for frame in patient.socket.frames if frame["type"] == "ack"] == [1]
    assert not done()
    world.until(done, limit=ALONE_SECS - 5)
    assert stuck.socket.closed is None


@pytest.mark.parametrize("moved", ["before", "while it drains"])
def test_a_handler_that_works_for_a_connection_that_has_moved_is_waited_for(
    world: World, application: HubHandlers, webpubsub: WebPubSub, moved: str
) -> None:
    webpubsub(DRAIN_SECS=30)

    @application.on_event("slow")
    async def slow(request: UserEventRequest) -> str:
        await asyncio.sleep(request.data)
        return "done"

    a, b = world.processes
    client, stuck = _clients(world, 2, application.hub)
    for each, secs in ((client, 8), (stuck, 60)):
        each.socket.say({"type": "event", "event": "slow", "dataType": "json", "data": secs, "ackId": 1})
    world.pass_time(0.1)
    done = _start(world) if moved != "before" else None
    for each in (client, stuck):
        each.socket.lose()
        each.recover(b)
    assert a.node.members() == []
    done = done or _start(world)
    world.pass_time(5)
    assert not done()
    world.pass_time(5)
    assert [frame["ackId"] for frame in client.socket.frames if frame["type"] == "ack"] == [1]
    # For the other one, as long as for anybody.
    assert not done()
    world.until(done, limit=21)


def test_who_is_away_when_the_process_stops_finds_all_with_another(world: World, webpubsub: WebPubSub) -> None:
    webpubsub(DRAIN_SECS=20)
    a, b = world.processes
    away, told = _clients(world, 2)
    away.socket.lose()
    world.pass_time(1)
    b.run(operations.send_to_group("chat", "g", Payload("text", b"before")))
    world.until(_start(world), limit=1)
    b.run(operations.send_to_group("chat", "g", Payload("text", b"drained")))

    async def stop() -> None:
        recovery.stop()
        await a.node.stop()

    a.run(stop())
    a.die()
    b.run(operations.send_to_group("chat", "g", Payload("text", b"after")))
    for client in (away, told):
        client.recover(b)
        client.hears("after")
        assert client.texts == ["before", "drained", "after"]


def test_there_is_nothing_to_wait_for_without_clients(world: World) -> None:
    world.until(_start(world), limit=0.1)


def test_a_client_that_comes_back_to_the_process_that_stops_is_to_try_elsewhere(
    world: World, webpubsub: WebPubSub
) -> None:
    webpubsub(DRAIN_SECS=20)
    a, b = world.processes
    [client] = _clients(world, 1)
    done = _start(world)
    world.pass_time(1)
    # Its handshake was under way when the process stopped to let anybody in.
    attempt = client.recover(a)
    world.until(lambda: attempt.refused == 503)
    client.recover(b)
    world.until(done, limit=1)
    client.socket.say({"type": "sendToGroup", "group": "g", "dataType": "text", "data": "here", "ackId": 1})
    client.hears("here")


def test_a_client_whose_handshake_is_being_answered_is_told_how_to_come_back(world: World) -> None:
    a, b = world.processes
    client = Client(world, "chat")
    client.start(a)
    # It is known to the process, and its socket is not open yet.
    world.until(lambda: a.connection(client))
    assert client.socket.accepted is None
    connection = a.connection(client)
    assert connection is not None

    async def retire() -> None:
        connection.retire()

    a.run(retire())
    world.until(lambda: client.socket.closed)
    assert (client.token != "", client.socket.closed) == (True, AWAY)
    client.recover(b)
    assert client.at(b)


def test_the_last_acks_are_sent_to_those_who_have_to_wait_for_them(world: World) -> None:
    a, _ = world.processes
    [client] = _clients(world, 1)
    connection = a.connection(client)
    assert connection is not None
    connection.ack_pause_secs = 0.005
    client.socket.say({"type": "joinGroup", "group": "h", "ackId": 7})
    world.until(lambda: "h" in connection.groups and not connection.frames.busy)
    assert client.socket.closed is None

    async def retire() -> None:
        connection.retire()
        connection.retire()

    a.run(retire())
    world.until(lambda: client.socket.closed)
    assert client.socket.closed == AWAY
    assert [frame["ackId"] for frame in client.sockets[0].frames if frame["type"] == "ack"] == [7]
