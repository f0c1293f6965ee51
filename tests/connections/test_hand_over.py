"""Connections that change process, while everything else goes on.

The random tests have publishers in every process, clients that lose their sockets and come back
anywhere, and servers that change memberships; whatever the order in which processes get their turns,
each client is told each message once, and each publisher's in order.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from hubs import operations
from hubs.connections import recovery
from hubs.errors import NotFound, Refusal
from hubs.messaging.envelope import EVERYBODY, Audience, Moved, Publication, group_address, hub_address, process_address
from hubs.messaging.switchboard import ANSWERS
from hubs.protocols.frames import Payload
from hubs.upstream import EventContext, UserEventRequest
from hubs.upstream.handlers import HubHandlers
from tests.connections.conftest import WebPubSub
from tests.connections.world import RELIABLE, Client, Process, RedisWorld, World
from tests.running import Redis


async def _as_a_client_does(hub: str, text: str) -> None:
    posted = operations.post_to_group(hub, "g", _payload(text))
    if posted is not None:
        await posted


def _payload(text: str) -> Payload:
    return Payload("text", text.encode())


class Publishers:
    """Streams of messages: each has one process and one kind of audience, and waits for a message before the next."""

    KINDS = ("group", "group now", "hub", "user", "connection")

    def __init__(self, world: World, hub: str, clients: list[Client], count: int) -> None:
        self.world = world
        self.hub = hub
        self.clients = clients
        self.count = count
        self.sent: dict[str, list[str]] = defaultdict(list)
        self.refused: set[str] = set()
        self.tasks = [process.spawn(self._stream(process, kind)) for process in world.processes for kind in self.KINDS]

    @property
    def done(self) -> bool:
        return all(task.done() for task in self.tasks)

    async def _stream(self, process: Process, kind: str) -> None:
        for number in range(self.count):
            stream = f"{process.name} {kind}"
            text = f"{stream} {number}"
            self.sent[stream].append(text)
            try:
                await self._send(kind, text)
            except Refusal:
                self.refused.add(text)
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self.world.random.choice((0, 0.001, 0.02, 0.1)))

    async def _send(self, kind: str, text: str) -> None:
        if kind == "group":
            await operations.send_to_group(self.hub, "g", _payload(text))
        elif kind == "group now":
            await _as_a_client_does(self.hub, text)
        elif kind == "hub":
            await operations.send_to_all(self.hub, _payload(text))
        elif kind == "user":
            await operations.send_to_user(self.hub, "u", _payload(text))
        else:
            for client in self.clients:
                await operations.send_to_connection(self.hub, client.id, _payload(text))


def _stream_of(text: str) -> str:
    return text.rsplit(" ", 1)[0]


def _by_stream(texts: list[str]) -> dict[str, list[str]]:
    streams: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        streams[_stream_of(text)].append(text)
    return streams


@pytest.mark.parametrize("seed", range(12))
def test_each_message_arrives_once_and_in_order(seed: int) -> None:
    dice = random.Random(seed)
    with World(seed, processes=3) as world:
        for process in world.processes:
            layer = process.board._trunk.layer
            layer.slow_out, layer.slow_in, layer.slow_to_subscribe = (dice.choice((0, 0.002, 0.05)) for _ in range(3))
            layer.slow_to_confirm = dice.choice((0, 0.05, 0.5))
        _restless(world, dice, messages=15)


def test_each_message_arrives_once_and_in_order_over_redis(redis_server: Redis) -> None:
    with RedisWorld(redis_server.url, processes=3) as world:
        _restless(world, random.Random(0), messages=6)


def _restless(world: World, dice: random.Random, *, messages: int) -> None:
    """Publish in all processes while clients come and go, and look at what they heard."""
    clients = [Client(world, "chat", acks=number != 1) for number in range(3)]
    for client in clients:
        client.connect(dice.choice(world.processes), "g", "h")
    # Redis does not say when a subscription is in force.
    world.settle()
    publishers = Publishers(world, "chat", clients, messages)
    while not publishers.done:
        client = dice.choice(clients)
        if dice.random() < 0.7:
            client.socket.lose()
        world.pass_time(dice.choice((0, 0.001, 0.01)))
        client.come_back(dice.choice(world.processes))
        world.pass_time(dice.choice((0, 0.001, 0.01, 0.1, 0.3)))
    # Sockets that were lost before they were open may still fetch their connections.
    world.settle()
    for client in clients:
        process = dice.choice(world.processes)
        client.recover(process)
        assert client.at(process)
    world.settle()
    assert publishers.refused == set()
    for client in clients:
        heard = _by_stream(client.texts)
        assert set(heard) == set(publishers.sent)
        for stream, texts in publishers.sent.items():
            if stream.endswith("connection"):
                # Passed on from process to process while it moves, and then perhaps overtaken.
                assert sorted(heard[stream]) == sorted(texts), stream
            else:
                assert heard[stream] == texts, stream


# One step at a time. A has the connection, B gets it; C is somebody else.


@pytest.fixture
def world() -> Iterator[World]:
    with World(processes=3) as world:
        yield world


@dataclass
class Told:
    """What the event handler of a hub was told."""

    hub: str
    disconnected: list[tuple[str, str]]


@pytest.fixture
def told(application: HubHandlers) -> Told:
    told = Told(application.hub, [])

    @application.on_disconnected
    async def disconnected(context: EventContext, reason: str) -> None:
        told.disconnected.append((context.connection_id, reason))

    return told


def _at_last(client: Client, *processes: Process) -> None:
    """The connection is nowhere any more."""
    assert [process.name for process in processes if process.connection(client)] == []


def _group(process: Process, text: str, group: str = "g", **options: Any) -> None:
    process.run(operations.send_to_group("chat", group, _payload(text), **options))


def _during(world: World, process: Process, verb: str, call: int, what: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Have something done in `process` when it has been asked `verb` for the given time, before it answers."""
    original = ANSWERS[verb]
    asked = 0

    async def answer(members: Any, arguments: Any) -> Any:
        nonlocal asked
        if asyncio.get_running_loop() is process.loop:
            asked += 1
            if asked == call:
                await what()
        return await original(members, arguments)

    world.answers[verb] = answer


def test_a_connection_moves_with_all_it_has(world: World) -> None:
    a, b, c = world.processes
    client = Client(world, "chat", roles=["webpubsub.sendToGroup.s"], acks=False)
    old = client.connect(a, "g", "h")
    world.settle()
    for text in ("1", "2", "3"):
        _group(c, text)
    client.hears("3")
    old.say({"type": "sequenceAck", "sequenceId": 1})
    old.say({"type": "sendToGroup", "group": "s", "data": "x", "ackId": 7})
    world.until(lambda: any(frame.get("ackId") == 7 for frame in old.frames))
    c.run(operations.grant("chat", client.id, "joinLeaveGroup", "j"))
    old.lose()
    world.pass_time(1)
    _group(c, "4")
    _group(c, "4b", ttl_secs=0)
    _group(c, "too late", ttl_secs=1)
    world.pass_time(2)
    new = client.recover(b)
    assert (old.closed, new.accepted) == (None, RELIABLE)
    _group(c, "5")
    _group(a, "6", "h")
    c.run(operations.send_to_connection("chat", client.id, _payload("7")))
    client.hears("7")
    # Unacknowledged ones again; no greeting, and nothing twice behind them.
    assert [frame["data"] for frame in new.frames] == ["2", "3", "4", "4b", "5", "6", "7"]
    assert [frame["sequenceId"] for frame in new.frames] == [2, 3, 4, 5, 6, 7, 8]
    connection = b.connection(client)
    assert connection is not None
    assert connection.user_id == "u"
    assert connection.groups == {"g", "h"}
    assert connection.permissions.may_send("s")
    assert not connection.permissions.may_send("t")
    assert c.run(operations.check("chat", client.id, "joinLeaveGroup", "j"))
    assert c.run(operations.connection_exists("chat", client.id))
    assert a.connection(client) is None
    new.say({"type": "sendToGroup", "group": "s", "data": "x", "ackId": 7})
    world.until(lambda: any(frame.get("ackId") == 7 for frame in new.frames))
    assert new.frames[-1]["error"]["name"] == "Duplicate"


def test_a_socket_that_is_still_open_is_closed(world: World) -> None:
    a, b, _ = world.processes
    client = Client(world, "chat")
    old = client.connect(a, "g")
    client.recover(b)
    assert old.closed == (1008, "The connection was recovered by another socket.")
    world.until(lambda: old.done)
    assert client.at(b)


def test_to_and_fro(world: World) -> None:
    a, b, c = world.processes
    client = Client(world, "chat")
    client.connect(a, "g")
    for number, process in enumerate((b, a, c, b, c, a, b)):
        client.socket.lose()
        client.recover(process)
        assert client.at(process)
        for sender in world.processes:
            sender.run(operations.send_to_connection("chat", client.id, _payload(f"{number} {sender.name}")))
    client.hears("6 C")
    world.settle()
    assert sorted(client.texts) == sorted(f"{number} {name}" for number in range(7) for name in "ABC")


def test_old_news_of_moves_changes_nothing(world: World) -> None:
    a, b, c = world.processes
    client = Client(world, "chat")
    client.connect(a)
    for process in (b, c):
        client.socket.lose()
        client.recover(process)
    world.settle()
    a.board._whereabouts.take(Moved(client.id, b.board.process, 1), {})
    b.run(operations.send_to_connection("chat", client.id, _payload("hi")))
    client.hears("hi")


def test_many_frames_go_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = world.processes
    monkeypatch.setattr(recovery, "PART_BYTES", 300)
    client = Client(world, "chat", acks=False)
    client.connect(a, "g").lose()
    world.settle()
    for number in range(20):
        _group(c, str(number))
    # Comes while parts are on their way.
    _during(world, a, recovery.HAND_OVER, 3, lambda: operations.send_to_group("chat", "g", _payload("then")))
    client.recover(b)
    assert client.texts == [*map(str, range(20)), "then"]


def test_what_becomes_too_late_between_two_parts_takes_nothing_else_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch, webpubsub: WebPubSub
) -> None:
    webpubsub(RELIABLE_BUFFER_MESSAGES=10)
    monkeypatch.setattr(recovery, "PART_BYTES", 1)
    a, b, c = world.processes
    client = Client(world, "chat")
    client.connect(a, "g").lose()
    world.settle()
    _group(c, "short-lived", ttl_secs=1)
    for number in range(9):
        _group(c, str(number))
    world.settle(0)

    async def wait_and_send() -> None:
        # The buffer is full: room is made by dropping what is too late.
        await asyncio.sleep(1)
        await operations.send_to_group("chat", "g", _payload("last"))

    _during(world, a, recovery.HAND_OVER, 3, wait_and_send)
    client.recover(b)
    client.hears("last")
    assert [text for text in client.texts if text != "short-lived"] == [*map(str, range(9)), "last"]


def test_a_group_joined_meanwhile_comes_along(world: World) -> None:
    a, b, c = world.processes
    client = Client(world, "chat")
    client.connect(a, "g").lose()
    world.settle()

    async def join() -> None:
        await operations.add_connection_to_group("chat", client.id, "late")
        await operations.send_to_group("chat", "late", _payload("1"))

    _during(world, a, recovery.HAND_OVER, 2, join)
    client.recover(b)
    _group(c, "2", "late")
    client.hears("2")
    assert client.texts == ["1", "2"]


def test_a_group_left_meanwhile_is_left(world: World) -> None:
    a, b, c = world.processes
    client = Client(world, "chat")
    client.connect(a, "g", "h").lose()
    world.settle()

    async def leave() -> None:
        await operations.remove_connection_from_group("chat", client.id, "g")
        # B collects what comes then; A is told of it only after it has given the connection away.
        a.board._trunk.layer.hold = True
        c.spawn(operations.send_to_group("chat", "g", _payload("not any more")))
        await asyncio.sleep(0.5)

    _during(world, a, recovery.HAND_OVER, 2, leave)
    client.recover(b)
    a.board._trunk.layer.hold = False
    _group(c, "end", "h")
    client.hears("end")
    world.settle()
    assert client.texts == ["end"]


def test_what_the_new_process_had_on_its_way_before_it_collected_arrives(world: World) -> None:
    a, b, _ = world.processes
    client = Client(world, "chat")
    client.connect(a, "g").lose()
    world.settle()
    layer = b.board._trunk.layer
    layer.one_by_one, layer.slow_out = False, 0

    async def slowly(address: str) -> None:
        if address == group_address("chat", "g"):
            await asyncio.sleep(1)

    layer.before = slowly
    sending = b.spawn(_as_a_client_does("chat", "1"))
    client.recover(b)
    world.until(sending.done)
    world.settle()
    assert client.texts == ["1"]


def test_what_the_new_process_sent_and_the_old_one_took_arrives_once(world: World) -> None:
    a, b, _ = world.processes
    client = Client(world, "chat")
    client.connect(a, "g").lose()
    world.settle()
    layer = b.board._trunk.layer
    layer.one_by_one = False
    sending = []

    async def slowly(address: str) -> None:
        # It is with the others, and this process does not know yet.
        if address == group_address("chat", "g"):
            await asyncio.sleep(2)

    async def publish() -> None:
        layer.after = slowly
        sending.append(b.spawn(operations.send_to_group("chat", "g", _payload("1"))))
        await asyncio.sleep(1)

    _during(world, a, recovery.HAND_OVER, 2, publish)
    client.recover(b)
    world.until(sending[0].done)
    world.settle()
    assert client.texts == ["1"]


def test_what_the_old_process_does_not_know_to_have_sent_arrives(world: World) -> None:
    """The new process has heard it and passed it over, before it knew of the connection."""
    a, b, _ = world.processes
    client, other = Client(world, "chat"), Client(world, "chat", user_id="somebody else")
    client.connect(a, "g").lose()
    other.connect(b)
    world.settle()
    layer = a.board._trunk.layer
    layer.one_by_one = False
    sent: list[str] = []

    async def slowly(address: str) -> None:
        if address == hub_address("chat"):
            sent.append(address)
            await asyncio.sleep(2)

    layer.after = slowly
    sending = a.spawn(operations.send_to_user("chat", "u", _payload("1")))
    world.until(lambda: sent)
    world.pass_time(0.5)
    client.recover(b)
    world.until(sending.done)
    world.settle()
    assert client.texts == ["1"]


def test_whoever_asks_everybody_meanwhile_finds_it(world: World, told: Told) -> None:
    a, b, c = world.processes
    client = Client(world, told.hub)
    client.connect(a, "g").lose()
    world.settle()
    closing = []

    async def answer_slowly() -> None:
        # The old process has given it away, and the new one does not know yet.
        a.board._trunk.layer.before = lambda address: asyncio.sleep(1)
        c.loop.call_later(0.3, lambda: closing.append(c.spawn(operations.close_user(told.hub, "u"))))

    _during(world, a, recovery.HAND_OVER, 2, answer_slowly)
    client.recover(b)
    a.board._trunk.layer.before = None
    world.until(lambda: closing and closing[0].done())
    assert closing[0].result() is None
    _at_last(client, *world.processes)
    world.settle()
    assert len(told.disconnected) == 1


def test_an_earlier_life_of_a_connection_has_no_say(world: World) -> None:
    a, b, _ = world.processes
    client = Client(world, "chat")
    client.connect(a, "g").lose()
    earlier = a.connection(client)
    assert earlier is not None
    client.recover(b).lose()
    client.recover(a)
    assert a.board._whereabouts.notes.where(client.id) is None

    async def linger() -> None:
        # Work of then that goes on now: a join of several groups, a failed join, an end.
        await operations.join_group(earlier, "late")
        a.board.leave(earlier, "g")
        operations.detach(earlier)
        earlier.end("late")
        earlier.close(1000)

    a.run(linger())
    _group(a, "not for it", "late")
    _group(a, "1")
    client.hears("1")
    assert client.texts == ["1"]


@pytest.mark.parametrize("call", [1, 2])
def test_a_close_meanwhile_wins(world: World, told: Told, call: int) -> None:
    a, b, c = world.processes
    client = Client(world, told.hub)
    client.connect(a, "g").lose()
    world.settle()
    _during(world, a, recovery.HAND_OVER, call, lambda: operations.close_connection(told.hub, client.id, "enough"))
    new = client.recover(b)
    world.settle()
    assert new.closed == (1008, "The connection could not be recovered.")
    _at_last(client, *world.processes)
    assert len(told.disconnected) == 1
    assert not c.run(operations.connection_exists(told.hub, client.id))


def test_a_close_asked_for_right_behind_finds_it(world: World, told: Told) -> None:
    a, b, c = world.processes
    client = Client(world, told.hub)
    client.connect(a, "g").lose()
    world.settle()
    closing = []

    async def close_soon() -> None:
        closing.append(c.spawn(operations.close_connection(told.hub, client.id, "enough")))
        closing.append(b.spawn(operations.close_connection(told.hub, client.id, "enough")))

    _during(world, a, recovery.HAND_OVER, 2, close_soon)
    client.recover(b)
    world.until(lambda: len(closing) == 2 and all(task.done() for task in closing))
    world.settle()
    assert {type(task.exception()) for task in closing} <= {type(None), NotFound}
    assert None in [task.exception() for task in closing]
    _at_last(client, *world.processes)
    assert [client_id for client_id, _ in told.disconnected] == [client.id]


@pytest.mark.parametrize("seed", range(20))
def test_two_processes_want_it_and_one_gets_it(seed: int, application: HubHandlers) -> None:
    with World(seed, processes=3) as world:
        a, b, c = world.processes
        client = Client(world, "chat")
        old = client.connect(a, "g")
        world.settle()
        sockets = [client.come_back(process) for process in (b, c, a, b)]
        world.settle()
        assert sum(process.connection(client) is not None for process in world.processes) == 1
        assert len([socket for socket in (*sockets, old) if not socket.gone]) <= 1
        for socket in sockets:
            if socket.gone:
                assert socket.closed is not None
                assert socket.closed[0] == 1008
        client.recover(c)
        _group(b, "hi")
        client.hears("hi")
        assert client.texts == ["hi"]


def test_a_false_token_asks_nobody(world: World) -> None:
    a, b, _ = world.processes
    client = Client(world, "chat")
    old = client.connect(a, "g")
    new = client.come_back(b, token=client.token[:-2] + "xx")
    world.until(lambda: new.done)
    assert (new.accepted, new.closed) == (RELIABLE, (1008, "The connection could not be recovered."))
    assert not old.gone


def test_its_home_is_dead_and_it_lives_on(world: World) -> None:
    a, b, c = world.processes
    client = Client(world, "chat")
    client.connect(a, "g").lose()
    client.recover(b)
    a.die()
    world.pass_time(6)
    _group(c, "1")
    c.run(operations.send_to_connection("chat", client.id, _payload("2")))
    assert b.run(operations.connection_exists("chat", client.id))
    assert c.run(operations.connection_exists("chat", client.id))
    client.hears("2")
    # What nobody can pass on is said to everybody, and both its processes hear that.
    client.socket.lose()
    _during(world, b, recovery.HAND_OVER, 2, lambda: _told_to_everybody(client, b, c))
    client.recover(c)
    _group(b, "4")
    client.hears("4")
    assert client.texts == ["1", "2", "3", "4"]


async def _told_to_everybody(client: Client, old: Process, new: Process) -> None:
    # From a process that has neither the connection nor its arrival.
    d = client.world.join()
    sending = d.spawn(_to_connection(d, client))
    while not sending.done():
        await asyncio.sleep(0.1)
    # And heard by both.
    await asyncio.sleep(0.1)


async def _to_connection(process: Process, client: Client) -> None:
    await process.board.start()
    await operations.send_to_connection("chat", client.id, _payload("3"))


def test_its_process_is_dead_and_it_is_lost(world: World) -> None:
    a, b, c = world.processes
    client = Client(world, "chat")
    client.connect(b, "g").lose()
    client.recover(a)
    a.die()
    # At first nobody can tell: it may be tried again.
    assert client.recover(c).refused == 503
    world.pass_time(5)
    new = client.recover(c)
    assert new.closed == (1008, "The connection could not be recovered.")
    assert not c.run(operations.connection_exists("chat", client.id))


def test_who_stays_away_too_long_is_gone_once(world: World, told: Told) -> None:
    a, b, _ = world.processes
    client = Client(world, told.hub)
    client.connect(a, "g").lose()
    client.recover(b)
    client.socket.lose()
    world.pass_time(29)
    assert told.disconnected == []
    world.pass_time(2)
    assert told.disconnected == [(client.id, "The connection recovery timeout expired.")]
    new = client.recover(b)
    assert new.closed == (1008, "The connection could not be recovered.")
    world.settle(30)
    assert len(told.disconnected) == 1


@pytest.mark.parametrize("call", [1, 2])
def test_what_is_too_much_meanwhile_ends_it_with_a_reason(
    world: World, told: Told, webpubsub: WebPubSub, call: int
) -> None:
    webpubsub(RELIABLE_BUFFER_MESSAGES=10)
    a, b, _ = world.processes
    client = Client(world, told.hub)
    client.connect(a, "g").lose()
    world.settle()

    async def flood() -> None:
        for number in range(12):
            await operations.send_to_group(told.hub, "g", _payload(str(number)))

    _during(world, a, recovery.HAND_OVER, call, flood)
    new = client.recover(b)
    world.settle()
    assert new.closed == (1008, "The connection could not be recovered.")
    _at_last(client, *world.processes)
    assert told.disconnected == [(client.id, "The reliable message buffer is full.")]


@pytest.mark.parametrize("size", [1, 40_000])
def test_an_arrival_that_is_overrun_ends_with_a_reason(
    world: World, told: Told, webpubsub: WebPubSub, size: int
) -> None:
    webpubsub(RELIABLE_BUFFER_MESSAGES=10, RELIABLE_BUFFER_BYTES=1 << 16)
    a, b, c = world.processes
    client = Client(world, told.hub)
    client.connect(a, "g").lose()
    world.settle()
    # A hears of it only after it has given the connection away.
    a.board._trunk.layer.slow_in = 1

    async def flood() -> None:
        a.board._trunk.layer.hold = True
        for _ in range(12):
            c.spawn(operations.send_to_group(told.hub, "g", _payload("x" * size)))
        await asyncio.sleep(2)
        a.board._trunk.layer.hold = False

    _during(world, a, recovery.HAND_OVER, 2, flood)
    new = client.recover(b)
    world.settle()
    assert new.closed == (1008, "The connection could not be recovered.")
    _at_last(client, *world.processes)
    assert told.disconnected == [(client.id, "The reliable message buffer is full.")]


def test_a_process_of_an_older_version_publishes_ttl_0_as_such(world: World) -> None:
    """It means the same there as here: the message does not expire."""
    a, b, c = world.processes
    client = Client(world, "chat")
    client.connect(a, "g").lose()
    world.settle()
    for number, audience in enumerate((Audience("chat", group="g"), Audience("chat"))):
        publication = Publication(audience, "text", f"old {number}".encode(), ttl_secs=0)
        c.run(c.board.publish(publication, all_or_nobody=True))
    world.pass_time(2)
    client.recover(b)
    client.hears("old 1")
    assert client.texts == ["old 0", "old 1"]


# A frame that an event handler works on while its connection moves


@dataclass
class Slow:
    """An event handler that waits until it is let go on."""

    hub: str
    begun: int = 0
    go_on: bool = False


@pytest.fixture
def slow(application: HubHandlers) -> Slow:
    slow = Slow(application.hub)

    @application.on_event("slow")
    async def handle(request: UserEventRequest) -> str:
        slow.begun += 1
        while not slow.go_on:
            await asyncio.sleep(0.01)
        return "answer"

    return slow


def test_a_frame_that_is_being_handled_is_answered_where_the_connection_went(world: World, slow: Slow) -> None:
    a, b, _ = world.processes
    client = Client(world, slow.hub)
    old = client.connect(a, "g")
    old.say({"type": "event", "event": "slow", "dataType": "text", "data": "x", "ackId": 1})
    old.say({"type": "joinGroup", "group": "never", "ackId": 2})
    world.until(lambda: slow.begun)
    old.lose()
    new = client.recover(b)
    slow.go_on = True
    world.until(lambda: new.frames and new.frames[-1].get("ackId") == 1)
    assert client.texts == ["answer"]
    assert new.frames[-1]["success"]
    # What waited behind it was not answered, and is not done: the client sends it again.
    assert b.connection(client).groups == {"g"}
    new.say({"type": "event", "event": "slow", "dataType": "text", "data": "x", "ackId": 1})
    world.until(lambda: new.frames[-1].get("error"))
    assert new.frames[-1]["error"]["name"] == "Duplicate"
    assert slow.begun == 1


def test_a_frame_that_is_being_handled_two_processes_ago(world: World, slow: Slow) -> None:
    a, b, c = world.processes
    client = Client(world, slow.hub)
    frame = {"type": "event", "event": "slow", "dataType": "text", "data": "x", "ackId": 1}
    client.connect(a, "g").say(frame)
    world.until(lambda: slow.begun)
    client.socket.lose()
    client.recover(b).say(frame)
    world.pass_time(1)
    client.socket.lose()
    new = client.recover(c)
    new.say(frame)
    world.pass_time(1)
    slow.go_on = True
    world.until(lambda: sum("ackId" in frame for frame in new.frames) == 2)
    first, second = (frame for frame in new.frames if "ackId" in frame)
    assert (first["success"], second["error"]["name"]) == (True, "Duplicate")
    assert (slow.begun, client.texts) == (1, ["answer"])


def test_a_frame_whose_connection_is_gone_when_it_is_answered(world: World, slow: Slow) -> None:
    a, b, _ = world.processes
    client = Client(world, slow.hub)
    client.connect(a, "g").say({"type": "event", "event": "slow", "dataType": "text", "data": "x", "ackId": 1})
    world.until(lambda: slow.begun)
    client.socket.lose()
    client.recover(b)
    client.socket.leave()
    world.settle()
    slow.go_on = True
    world.settle()


def test_an_answer_given_while_the_others_cannot_be_reached_comes_when_they_can(world: World, slow: Slow) -> None:
    """The handler has done its work: what it said must not be lost, nor be a reason to call it again."""
    a, b, _ = world.processes
    client = Client(world, slow.hub)
    frame = {"type": "event", "event": "slow", "dataType": "text", "data": "x", "ackId": 1}
    client.connect(a, "g").say(frame)
    world.until(lambda: slow.begun)
    client.socket.lose()
    new = client.recover(b)
    new.say(frame)

    async def fail(address: str) -> None:
        raise Broken

    a.board._trunk.layer.before = fail
    slow.go_on = True
    world.pass_time(15)
    assert client.texts == []
    a.board._trunk.layer.before = None
    world.until(lambda: sum("ackId" in frame for frame in new.frames) == 2)
    first, second = (frame for frame in new.frames if "ackId" in frame)
    assert (first["success"], second["error"]["name"]) == (True, "Duplicate")
    assert (slow.begun, client.texts) == (1, ["answer"])


def test_what_some_got_before_the_move_they_get_no_second_time(world: World) -> None:
    a, b, c = world.processes
    publisher, near, far = (Client(world, "chat", user_id=name) for name in "pnf")
    old = publisher.connect(a)
    near.connect(a, "g")
    far.connect(c, "g")
    world.settle()
    held: list[str] = []

    async def fail_later(address: str) -> None:
        if address == group_address("chat", "g"):
            held.append(address)
            await asyncio.sleep(2)
            raise Broken

    a.board._trunk.layer.after = fail_later
    a.board._trunk.layer.one_by_one = False
    frame = {"type": "sendToGroup", "group": "g", "dataType": "text", "data": "1", "ackId": 1}
    old.say(frame)
    world.until(lambda: held)
    old.lose()
    new = publisher.recover(b)
    new.say(frame)
    # It failed where it was published, after the connection had gone; and so the client says it again.
    world.until(lambda: any(frame.get("ackId") == 1 for frame in new.frames))
    a.board._trunk.layer.after = None
    world.settle()
    new.say(frame)
    world.until(lambda: new.frames[-1].get("success"))
    world.settle()
    assert (near.texts, far.texts) == (["1"], ["1"])


def test_its_home_stops_while_it_moves(world: World) -> None:
    a, b, c = world.processes
    client = Client(world, "chat")
    client.connect(a, "g").lose()
    client.recover(c).lose()
    world.settle()

    async def stop_home() -> None:
        # It has passed the question on, and says goodbye before it is answered.
        stopping = a.spawn(a.board.stop())
        while not stopping.done():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)

    _during(world, c, recovery.HAND_OVER, 2, stop_home)
    client.recover(b)
    assert client.at(b)
    _group(b, "1")
    client.hears("1")
    a.die()


def test_what_a_process_has_begun_for_connections_that_are_elsewhere_is_known(world: World, slow: Slow) -> None:
    a, b, _ = world.processes
    client = Client(world, slow.hub)

    async def under_way() -> int:
        return recovery.under_way()

    client.connect(a, "g").say({"type": "event", "event": "slow", "dataType": "text", "data": "x", "ackId": 1})
    world.until(lambda: slow.begun)
    assert a.run(under_way()) == 0
    client.socket.lose()
    new = client.come_back(b)
    world.until(lambda: b.run(under_way()) == 1)
    world.until(lambda: new.accepted is not None and client.at(b))
    assert (a.run(under_way()), b.run(under_way())) == (1, 0)
    slow.go_on = True
    client.hears("answer")
    world.until(lambda: a.run(under_way()) == 0)


def test_a_socket_that_failed_and_was_not_heard_of_yet_keeps_no_client_out(world: World) -> None:
    """The server says so only when it is asked for more, and nobody asks while a frame is being handled."""
    a, *_ = world.processes
    client = Client(world, "chat")
    old = client.connect(a, "g")
    world.settle()
    a.board._trunk.layer.slow_to_confirm = 5
    old.say({"type": "sendToGroup", "group": "g", "dataType": "text", "data": "1", "ackId": 1})
    client.hears("1")
    old.lose()
    _group(world.processes[1], "2")
    world.pass_time(0.5)
    client.recover(a)
    client.hears("2")
    assert client.texts == ["1", "2"]


# Whatever step fails


class Broken(Exception):
    """The layer is away."""


@pytest.mark.parametrize("told_of", ["nothing", "everything"])
@pytest.mark.parametrize("who", ["A", "B"])
def test_a_step_that_fails_leaves_nothing_half_done(who: str, told_of: str) -> None:
    """Each layer call of a hand-over fails in turn: before the message has left, or after it."""
    for call in range(1, 12):
        with World(call, processes=3) as world:
            a, b, c = world.processes
            client = Client(world, "chat", acks=False)
            client.connect(a, "g").lose()
            world.settle()
            _group(c, "1")
            layer = (a if who == "A" else b).board._trunk.layer
            calls = 0

            async def fail(address: str, call: int = call) -> None:
                nonlocal calls
                if address != EVERYBODY:
                    calls += 1
                    if calls == call:
                        raise Broken

            if told_of == "nothing":
                layer.before = fail
            else:
                layer.after = fail
            client.recover(b)
            world.settle(5)
            layer.before = layer.after = None
            places = [process for process in world.processes if process.connection(client)]
            assert len(places) == 1
            _group(c, "2")
            if not client.at(places[0]):
                client.recover(c)
            client.hears("2")
            assert client.texts == ["1", "2"]
        if calls < call:
            return
    raise AssertionError("a hand-over needs fewer calls")


def test_a_group_told_of_in_an_answer_that_was_lost_comes_along(world: World) -> None:
    a, b, c = world.processes
    client = Client(world, "chat")
    client.connect(a, "g").lose()
    world.settle()

    async def lose_once(address: str) -> None:
        if address == process_address(b.board.process):
            a.board._trunk.layer.before = None
            raise Broken

    async def join() -> None:
        await operations.add_connection_to_group("chat", client.id, "late")
        a.board._trunk.layer.before = lose_once

    _during(world, a, recovery.HAND_OVER, 2, join)
    client.recover(b)
    assert client.at(b)
    _group(c, "1", "late")
    client.hears("1")


def test_a_socket_that_is_given_up_at_any_moment() -> None:
    for turn in range(0, 400, 7):
        with World(1, processes=2) as world:
            a, b = world.processes
            client = Client(world, "chat", acks=False)
            client.connect(a, "g").lose()
            world.settle()
            _group(a, "1")
            socket = client.come_back(b)
            for _ in range(turn):
                world.turn()
            socket.lose()
            socket.task.cancel()
            world.settle()
            client.recover(b)
            assert client.at(b)
            _group(a, "2")
            client.hears("2")
            assert client.texts == ["1", "2"]
