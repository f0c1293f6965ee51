"""Which connection a socket gets that asks for one, and that it is the same wherever it asks.

Processes publish, and are asked, while connections change process. Nothing is lost or doubled by that, in whatever
order the processes get their turns; storm.py has the weather for it.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from hubs import operations
from hubs.connections import reconnection, recovery
from hubs.connections.connection import Connection
from hubs.connections.outbox import AsgiOutbox
from hubs.connections.recovery import NotRecovered, bring_back
from hubs.errors import Refusal
from hubs.protocols.codec import CODECS
from hubs.protocols.frames import Payload
from hubs.rules.roles import Permissions
from hubs.upstream import EventContext, UserEventRequest
from hubs.upstream.handlers import HubHandlers
from tests.connections.conftest import Server
from tests.connections.simulated_redis import READING
from tests.connections.world import RELIABLE, Client, Process, RedisWorld, World
from tests.running import Redis

# What happens here is between processes.
ANY_KIND_OF_SOCKETS = True

NOT_RECOVERED = (1008, "The connection could not be recovered.")


@pytest.fixture
def world() -> Iterator[World]:
    """A has the connection, B gets it; C is somebody else."""
    with World(processes=3) as world:
        yield world


@dataclass
class Application:
    """The event handlers of a hub: what they were told, and one that waits until it is let go on."""

    hub: str
    disconnected: list[tuple[str, str]] = field(default_factory=list)
    begun: int = 0
    goes_on: bool = True


@pytest.fixture
def app(application: HubHandlers) -> Application:
    app = Application(application.hub)

    @application.on_disconnected
    async def disconnected(context: EventContext, reason: str) -> None:
        app.disconnected.append((context.connection_id, reason))

    @application.on_event("*")
    async def handle(request: UserEventRequest) -> str:
        app.begun += 1
        while not app.goes_on:
            await asyncio.sleep(0.01)
        return "answer"

    return app


def _payload(text: str) -> Payload:
    return Payload("text", text.encode())


def _publish(process: Process, text: str, group: str = "g", *, hub: str = "chat", **options: Any) -> None:
    process.run(operations.send_to_group(hub, group, _payload(text), **options))


def _bring_back(process: Process, connection_id: str, hub: str = "chat", token: str | None = None) -> Any:
    return process.run(bring_back(hub, connection_id, token or reconnection.token_for(hub, connection_id)))


def _acks(socket: Any, ack_id: int) -> list[str]:
    """What a client was told of a frame: `success`, or the name of the refusal."""
    acks = [frame for frame in socket.frames if frame.get("ackId") == ack_id]
    return ["success" if ack["success"] else ack["error"]["name"] for ack in acks]


def _comes_back(world: World, client: Client, process: Process) -> None:
    """As SDKs do it: try again until the connection is there."""
    client.recover(process)
    while not client.at(process):
        assert client.socket.closed is None
        assert client.socket.refused in (0, 503)
        world.pass_time(0.2)
        client.recover(process)


# Who gets what


def test_the_very_connection_is_given_while_it_is_here(world: World) -> None:
    a, *_ = world.processes
    client = Client(world, "chat")
    client.connect(a)
    connection = a.connection(client)
    assert _bring_back(a, client.id, token=client.token) is connection
    client.socket.lose()
    world.pass_time(1)
    assert _bring_back(a, client.id) is connection


def test_from_elsewhere_it_comes_without_a_socket_and_waits_for_one(world: World, app: Application) -> None:
    a, b, _ = world.processes
    client = Client(world, app.hub)
    client.connect(a)
    connection = _bring_back(b, client.id, app.hub)
    assert connection is b.connection(client)
    assert (connection.outbox, a.connection(client)) == (None, None)
    world.pass_time(29)
    assert b.connection(client) is connection
    world.pass_time(2)
    assert b.connection(client) is None
    assert app.disconnected == [(client.id, "The connection recovery timeout expired.")]
    assert client.recover(a).closed == client.recover(b).closed == NOT_RECOVERED
    world.settle(30)
    assert len(app.disconnected) == 1


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_not_to_be_had(world: World, number: int) -> None:
    a, *_ = world.processes
    process = world.processes[number]
    client = Client(world, "chat")
    old = client.connect(a)
    unknown = client.id[:-1] + ("0" if client.id[-1] != "0" else "1")
    for connection_id, hub, token in (
        (unknown, "chat", None),
        (client.id, "other", None),
        (client.id, "chat", "x"),
        (client.id, "chat", client.token[:-2] + "xx"),
        (client.id, "chat", reconnection.token_for("chat", unknown)),
        ("not hex", "chat", None),
        ("", "chat", None),
        ("f" * 32, "chat", None),
    ):
        with pytest.raises(NotRecovered):
            _bring_back(process, connection_id, hub, token)
    assert client.at(a)
    assert not old.gone


@pytest.mark.parametrize("number", [0, 1])
def test_the_connection_of_a_simple_client_is_its_socket_s(world: World, number: int) -> None:
    a, *_ = world.processes
    connection = Connection(
        a.node.new_connection_id(),
        "chat",
        CODECS["json.webpubsub.azure.v1"],
        AsgiOutbox(Server().send, lambda *_: None),
        user_id=None,
        permissions=Permissions(),
    )
    a.run(connection.begin(()))
    with pytest.raises(NotRecovered):
        _bring_back(world.processes[number], connection.id)
    assert a.node.member(connection.id) is connection

    async def end() -> None:
        connection.end("")

    a.run(end())


def test_sockets_of_one_process_get_the_same_and_nothing_is_remembered_of_it(world: World) -> None:
    a, b, _ = world.processes
    client = Client(world, "chat")
    client.connect(a)
    searches = [b.spawn(bring_back("chat", client.id, client.token)) for _ in range(5)]
    world.until(lambda: all(search.done() for search in searches))
    assert {search.result() for search in searches} == {b.connection(client)}
    processes = {a.node.process, b.node.process}
    assert [process for process, _ in recovery._wanted if process in processes] == []
    assert recovery._searches == set()
    assert (b.node.ownership.arrivals, b.node.ownership._claiming) == ({}, {})


def test_what_a_process_has_begun_for_connections_that_are_elsewhere_is_known(world: World, app: Application) -> None:
    a, b, _ = world.processes
    app.goes_on = False
    client = Client(world, app.hub)

    async def under_way() -> int:
        return recovery.under_way()

    client.connect(a, "g").say({"type": "event", "event": "slow", "dataType": "text", "data": "x", "ackId": 1})
    world.until(lambda: app.begun)
    assert a.run(under_way()) == 0
    client.socket.lose()
    new = client.come_back(b)
    world.until(lambda: b.run(under_way()) == 1)
    world.until(lambda: new.accepted is not None and client.at(b))
    assert (a.run(under_way()), b.run(under_way())) == (1, 0)
    app.goes_on = True
    client.hears("answer")
    world.until(lambda: a.run(under_way()) == 0)


# With all it has


def test_a_connection_moves_with_all_it_has(world: World) -> None:
    a, b, c = world.processes
    client = Client(world, "chat", roles=["webpubsub.sendToGroup.s"], acks=False)
    old = client.connect(a, "g", "h")
    for text in ("1", "2", "3"):
        _publish(c, text)
    client.hears("3")
    old.say({"type": "sequenceAck", "sequenceId": 1})
    old.say({"type": "sendToGroup", "group": "s", "data": "x", "ackId": 7})
    world.until(lambda: _acks(old, 7))
    c.run(operations.grant("chat", client.id, "joinLeaveGroup", "j"))
    old.lose()
    world.pass_time(1)
    _publish(c, "4")
    _publish(c, "4b", ttl_secs=0)
    _publish(c, "too late", ttl_secs=1)
    world.pass_time(2)
    new = client.recover(b)
    assert (old.closed, new.accepted) == (None, RELIABLE)
    _publish(c, "5")
    _publish(a, "6", "h")
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
    world.until(lambda: _acks(new, 7))
    assert _acks(new, 7) == ["Duplicate"]


def test_a_socket_that_is_still_open_is_closed(world: World) -> None:
    a, b, _ = world.processes
    client = Client(world, "chat")
    old = client.connect(a, "g")
    client.recover(b)
    world.until(lambda: old.done)
    assert old.closed == (1001, "The connection was recovered by another socket.")
    assert client.at(b)


def test_to_and_fro(world: World) -> None:
    a, b, c = world.processes
    client = Client(world, "chat")
    client.connect(a, "g")
    expected = []
    for number, process in enumerate((b, a, c, b, c, a, b)):
        client.socket.lose()
        _comes_back(world, client, process)
        for sender in world.processes:
            expected.append(f"{number} {sender.name}")
            sender.run(operations.send_to_connection("chat", client.id, _payload(expected[-1])))
    client.hears(expected[-1])
    assert client.texts == expected


def test_an_earlier_life_of_a_connection_has_no_say(world: World) -> None:
    a, b, _ = world.processes
    client = Client(world, "chat")
    client.connect(a, "g").lose()
    earlier = a.connection(client)
    assert earlier is not None
    client.recover(b).lose()
    client.recover(a)
    assert a.connection(client) not in (None, earlier)

    async def linger() -> None:
        # Work of then that goes on now.
        await operations.join_group(earlier, "late")
        await operations.leave_group(earlier, "g")
        operations.detach(earlier)
        earlier.end("late")
        earlier.close(1000)

    a.run(linger())
    _publish(a, "not for it", "late")
    _publish(a, "1")
    client.hears("1")
    assert client.texts == ["1"]


# While everything goes on


class Publishers:
    """Streams of messages: each has one process and one kind of audience, and waits for a message before the next."""

    KINDS = ("group", "hub", "user", "connection")

    def __init__(self, world: World, clients: list[Client], count: int) -> None:
        self.world = world
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
                await self._send(kind, _payload(text))
            except Refusal:
                self.refused.add(text)
            await asyncio.sleep(self.world.random.choice((0, 0.001, 0.02, 0.1)))

    async def _send(self, kind: str, payload: Payload) -> None:
        if kind == "group":
            await operations.send_to_group("chat", "g", payload)
        elif kind == "hub":
            await operations.send_to_all("chat", payload)
        elif kind == "user":
            await operations.send_to_user("chat", "u", payload)
        else:
            for client in self.clients:
                await operations.send_to_connection("chat", client.id, payload)


@pytest.mark.parametrize("seed", range(2))
def test_each_message_arrives_once_and_in_order(seed: int) -> None:
    with World(seed, processes=3) as world:
        _restless(world, random.Random(seed), messages=12)


def test_each_message_arrives_once_and_in_order_over_redis(redis_server: Redis) -> None:
    with RedisWorld(redis_server.url, processes=3) as world:
        _restless(world, random.Random(0), messages=6)


def _restless(world: World, dice: random.Random, *, messages: int) -> None:
    """Publish in all processes while clients come and go, and look at what they heard."""
    clients = [Client(world, "chat", acks=number != 1) for number in range(3)]
    for client in clients:
        client.connect(dice.choice(world.processes), "g")
    publishers = Publishers(world, clients, messages)
    while not publishers.done:
        client = dice.choice(clients)
        if dice.random() < 0.7:
            client.socket.lose()
        world.pass_time(dice.choice((0, 0.001, 0.01)))
        client.come_back(dice.choice(world.processes))
        world.pass_time(dice.choice((0, 0.001, 0.01, 0.1, 0.3)))
    world.settle()
    for client in clients:
        _comes_back(world, client, dice.choice(world.processes))
    for client in clients:
        client.world.until(lambda client=client: len(client.texts) >= sum(map(len, publishers.sent.values())))
    assert publishers.refused == set()
    heard = [defaultdict(list) for _ in clients]
    for client, streams in zip(clients, heard, strict=True):
        for text in client.texts:
            streams[text.rsplit(" ", 1)[0]].append(text)
        assert streams == publishers.sent


@pytest.mark.parametrize("seed", range(3))
def test_several_processes_want_it_and_one_gets_it(seed: int) -> None:
    with World(seed, processes=3) as world:
        a, b, c = world.processes
        client = Client(world, "chat")
        old = client.connect(a, "g")
        sockets = [client.come_back(process) for process in (b, c, a, b)]
        world.settle()
        assert sum(process.connection(client) is not None for process in world.processes) == 1
        assert len([socket for socket in (*sockets, old) if not socket.gone and not socket.refused]) <= 1
        for socket in sockets:
            if socket.gone:
                assert socket.refused == 503 or (socket.closed is not None and socket.closed[0] == 1001)
        _comes_back(world, client, c)
        _publish(b, "hi")
        client.hears("hi")
        assert client.texts == ["hi"]


@pytest.mark.parametrize("slower", [0, 1])
def test_the_later_handshake_has_it_in_whichever_order_the_claims_come(world: World, slower: int) -> None:
    a, b, c = world.processes
    client = Client(world, "chat")
    client.connect(a, "g").lose()
    # Both know the hub's log, so that each claims at once.
    for process in (b, c):
        Client(world, "chat", user_id="other").connect(process)
    early, late = (b, c), (c, b)
    first, second = (early, late)[slower]
    # What the one says is a second longer under way than what the other says.
    for process in (first, second):
        for socket in world.redis.of(process):
            world.redis.slow[process, socket.kind, True] = 1.0 if process is (b, c)[slower] else 0.001
    sockets = [client.come_back(first)]
    world.pass_time(0.1)
    sockets.append(client.come_back(second))
    world.until(
        lambda: all(socket.done or client.at(process) for socket, process in zip(sockets, (first, second), strict=True))
    )
    world.redis.slow.clear()
    world.settle()
    assert second.connection(client) is not None
    assert first.connection(client) is None


def test_what_the_old_process_publishes_behind_the_claim_is_void(world: World) -> None:
    """It has not read yet that its client is elsewhere, where that says everything again."""
    a, b, c = world.processes
    client, near, far = (Client(world, "chat", user_id=name) for name in "cnf")
    old = client.connect(a, "g")
    near.connect(a, "g")
    far.connect(c, "g")
    world.redis.slow[a, READING, False] = 0.5
    frame = {"type": "sendToGroup", "group": "g", "dataType": "text", "data": "1", "ackId": 1}
    join = {"type": "joinGroup", "group": "h", "ackId": 2}
    new = client.come_back(b)
    # Its claim is in the log, and A does not know.
    world.until(lambda: b.node.ownership.claims.get(client.id))
    assert a.connection(client) is not None
    for each in (frame, join):
        old.say(each)
    world.until(lambda: client.at(b))
    for each in (frame, join):
        new.say(each)
    world.until(lambda: _acks(new, 1) and _acks(new, 2))
    assert _acks(new, 1) == _acks(new, 2) == ["success"]
    world.redis.slow.clear()
    world.settle()
    assert a.connection(client) is None
    assert (client.texts, near.texts, far.texts) == (["1"], ["1"], ["1"])
    connection = b.connection(client)
    assert connection is not None
    assert connection.groups == {"g", "h"}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("verb", ["close one", "close all", "join", "leave"])
def test_whoever_asks_meanwhile_finds_it(seed: int, verb: str, app: Application) -> None:
    dice = random.Random(seed)
    with World(seed, processes=3) as world:
        a, b, c = world.processes
        client = Client(world, app.hub)
        client.connect(a, "g").lose()
        world.settle()
        client.come_back(b)
        for _ in range(dice.randrange(100)):
            world.turn()
        asker = dice.choice((a, b, c))
        asking = asker.spawn(
            {
                "close one": lambda: operations.close_connection(app.hub, client.id, "enough"),
                "close all": lambda: operations.close_user(app.hub, "u", reason="enough"),
                "join": lambda: operations.add_user_to_group(app.hub, "u", "h"),
                "leave": lambda: operations.remove_connection_from_all_groups(app.hub, client.id),
            }[verb]()
        )
        world.until(asking.done)
        assert asking.exception() is None
        world.settle()
        places = [process for process in world.processes if process.connection(client) is not None]
        if verb.startswith("close"):
            assert places == []
            assert app.disconnected == [(client.id, "Application server closed the connection. Reason: enough")]
            assert not c.run(operations.connection_exists(app.hub, client.id))
            assert client.recover(c).closed == NOT_RECOVERED
            return
        assert len(places) == 1
        connection = places[0].connection(client)
        assert connection is not None
        assert connection.groups == ({"g", "h"} if verb == "join" else set())


@pytest.mark.parametrize("trouble", ["given up", "lost", "cut", "cut here", "cut there"])
def test_whatever_fails_meanwhile_leaves_nothing_half_done(trouble: str) -> None:
    """At different moments of a recovery."""
    for turn in (5, 35, 80):
        with World(turn, processes=2) as world:
            a, b = world.processes
            client = Client(world, "chat", acks=False)
            client.connect(a, "g").lose()
            world.pass_time(1)
            _publish(a, "1")
            socket = client.come_back(b)
            for _ in range(turn):
                world.turn()
            if trouble == "given up":
                socket.lose()
                if socket.task is not None:
                    socket.task.cancel()
            elif trouble == "lost":
                socket.lose()
            else:
                places = {"cut": (a, b), "cut here": (b,), "cut there": (a,)}[trouble]
                world.redis.cut([each for process in places for each in world.redis.of(process)])
            world.pass_time(2)
            assert sum(process.connection(client) is not None for process in world.processes) == 1
            _comes_back(world, client, b)
            _publish(a, "2")
            client.hears("2")
            assert client.texts == ["1", "2"]


# A frame that an event handler works on while its connection moves

EVENT = {"type": "event", "event": "e", "dataType": "text", "data": "x", "ackId": 1}


def test_a_frame_that_is_being_handled_is_answered_where_the_connection_went(world: World, app: Application) -> None:
    a, b, _ = world.processes
    app.goes_on = False
    client = Client(world, app.hub)
    old = client.connect(a, "g")
    old.say(EVENT)
    old.say({"type": "joinGroup", "group": "never", "ackId": 2})
    world.until(lambda: app.begun)
    old.lose()
    new = client.recover(b)
    app.goes_on = True
    world.until(lambda: _acks(new, 1))
    client.hears("answer")
    assert (client.texts, _acks(new, 1)) == (["answer"], ["success"])
    # What waited behind it was not answered, and is not done: the client sends it again.
    connection = b.connection(client)
    assert connection is not None
    assert connection.groups == {"g"}
    new.say(EVENT)
    world.until(lambda: len(_acks(new, 1)) == 2)
    assert _acks(new, 1) == ["success", "Duplicate"]
    assert app.begun == 1


def test_a_frame_that_is_being_handled_two_processes_ago(world: World, app: Application) -> None:
    a, b, c = world.processes
    app.goes_on = False
    client = Client(world, app.hub)
    client.connect(a, "g").say(EVENT)
    world.until(lambda: app.begun)
    client.socket.lose()
    client.recover(b).say(EVENT)
    world.pass_time(1)
    client.socket.lose()
    new = client.recover(c)
    new.say(EVENT)
    world.pass_time(1)
    app.goes_on = True
    world.until(lambda: len(_acks(new, 1)) == 2)
    world.settle()
    assert _acks(new, 1) == ["success", "Duplicate"]
    assert (app.begun, client.texts) == (1, ["answer"])


def test_a_frame_whose_connection_is_gone_when_it_is_answered(world: World, app: Application) -> None:
    a, b, _ = world.processes
    app.goes_on = False
    client = Client(world, app.hub)
    client.connect(a, "g").say(EVENT)
    world.until(lambda: app.begun)
    client.socket.lose()
    client.recover(b)
    client.socket.leave()
    world.settle()
    app.goes_on = True
    world.settle()
    assert [connection_id for connection_id, _ in app.disconnected] == [client.id]


def test_an_answer_given_while_redis_is_away_comes_when_it_is_back(world: World, app: Application) -> None:
    """The handler has done its work: what it said must not be lost, nor be a reason to call it again."""
    a, b, _ = world.processes
    app.goes_on = False
    client = Client(world, app.hub)
    client.connect(a, "g").say(EVENT)
    world.until(lambda: app.begun)
    client.socket.lose()
    new = client.recover(b)
    new.say(EVENT)
    world.redis.part(a, refused=True)
    app.goes_on = True
    world.pass_time(1)
    assert client.texts == []
    world.redis.join(a)
    world.until(lambda: len(_acks(new, 1)) == 2)
    client.hears("answer")
    assert _acks(new, 1) == ["success", "Duplicate"]
    assert (app.begun, client.texts) == (1, ["answer"])
