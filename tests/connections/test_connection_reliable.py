"""A connection of a reliable client in one process: numbered messages, and a life longer than its sockets'."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from hubs import close_codes, operations
from hubs.connections import recovery
from hubs.protocols.codec import Outgoing
from hubs.protocols.frames import Payload, ServerMessage
from hubs.upstream import EventContext, UserEventRequest
from hubs.upstream.handlers import HubHandlers
from tests.connections.conftest import AloneWorld, WebPubSub
from tests.connections.world import RELIABLE, Client, Process, Socket, World

NOT_RECOVERED = (1008, "The connection could not be recovered.")


@pytest.fixture
def world(kind_of_sockets: str) -> Iterator[World]:
    """With its own memory alone, or with a log on Redis."""
    with AloneWorld() if kind_of_sockets == "asgi" else World(processes=1) as world:
        yield world


@pytest.fixture
def process(world: World) -> Process:
    return world.processes[0]


@dataclass
class Application:
    """The event handlers of a hub, and what they were told."""

    hub: str
    connected: list[str] = field(default_factory=list)
    disconnected: list[tuple[str, str]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    cancelled: int = 0
    answers: bool = True


@pytest.fixture
def app(application: HubHandlers) -> Application:
    app = Application(application.hub)

    @application.on_connected
    async def connected(context: EventContext) -> None:
        app.connected.append(context.connection_id)

    @application.on_disconnected
    async def disconnected(context: EventContext, reason: str) -> None:
        app.disconnected.append((context.connection_id, reason))

    @application.on_event("*")
    async def event(request: UserEventRequest) -> str:
        app.events.append(request.event)
        try:
            while not app.answers:
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            app.cancelled += 1
            raise
        return f"answer to {request.event}"

    return app


def _publish(process: Process, hub: str, text: str, **options: Any) -> None:
    process.run(operations.send_to_group(hub, "g", Payload("text", text.encode()), **options))


def _waits(world: World, socket: Socket, key: str, value: Any) -> dict[str, Any]:
    """Wait for a frame."""
    world.until(lambda: any(frame.get(key) == value for frame in socket.frames))
    return next(frame for frame in socket.frames if frame.get(key) == value)


# Numbers


def test_every_data_frame_has_the_next_number_and_no_other_frame_has_one(
    world: World, process: Process, app: Application
) -> None:
    client = Client(world, app.hub)
    socket = client.connect(process, "g")
    assert client.token
    _publish(process, app.hub, "1")
    socket.say({"type": "ping"})
    socket.say({"type": "event", "event": "e", "dataType": "text", "data": "", "ackId": 1})
    _waits(world, socket, "ackId", 1)
    process.run(operations.send_to_connection(app.hub, client.id, Payload("text", b"3")))
    client.hears("3")
    assert [(frame.get("type"), frame.get("sequenceId")) for frame in socket.frames] == [
        ("system", None),
        ("message", 1),
        ("pong", None),
        ("message", 2),
        ("ack", None),
        ("message", 3),
    ]


def test_what_is_acknowledged_is_forgotten(world: World, process: Process) -> None:
    client = Client(world, "chat", acks=False)
    socket = client.connect(process, "g")
    for text in ("1", "2", "3"):
        _publish(process, "chat", text)
    client.hears("3")
    socket.say({"type": "sequenceAck", "sequenceId": 2})
    world.pass_time(0.1)
    connection = process.connection(client)
    assert connection is not None
    assert connection.backlog is not None
    assert len(connection.backlog) == 1


# Away


@pytest.mark.parametrize("code", [1006, 1001, 1011, 1012, 4000])
def test_an_accident_is_survived(world: World, process: Process, app: Application, code: int) -> None:
    client = Client(world, app.hub)
    client.connect(process, "g").leave(code)
    world.pass_time(1)
    _publish(process, app.hub, "away")
    assert process.run(operations.connection_exists(app.hub, client.id))
    assert process.run(operations.group_exists(app.hub, "g"))
    new = client.recover(process)
    client.hears("away")
    assert (new.accepted, [frame["sequenceId"] for frame in new.frames]) == (RELIABLE, [1])
    # One connection, and so one beginning and no end.
    assert (app.connected, app.disconnected) == ([client.id], [])


@pytest.mark.parametrize("code", [1000, 1005])
def test_a_goodbye_is_the_end(world: World, process: Process, app: Application, code: int) -> None:
    client = Client(world, app.hub)
    client.connect(process, "g").leave(code)
    world.pass_time(1)
    assert process.node.members() == []
    assert client.recover(process).closed == NOT_RECOVERED
    assert [connection_id for connection_id, _ in app.disconnected] == [client.id]


def test_who_comes_back_in_time_has_the_whole_time_again(world: World, process: Process, app: Application) -> None:
    client = Client(world, app.hub)
    client.connect(process, "g").lose()
    for _ in range(3):
        world.pass_time(29)
        client.recover(process).lose()
    world.pass_time(31)
    assert app.disconnected == [(client.id, "The connection recovery timeout expired.")]
    assert client.recover(process).closed == NOT_RECOVERED


@pytest.mark.parametrize(("silent_secs", "left"), [(0, 30), (12, 18), (25, 12), (300, 12)])
def test_the_silence_of_a_client_that_was_cut_off_counts(
    world: World, process: Process, app: Application, silent_secs: float, left: float
) -> None:
    client = Client(world, app.hub)
    socket = client.connect(process)
    socket.lose(silent_secs)
    world.pass_time(left - 1)
    assert app.disconnected == []
    world.pass_time(2)
    assert app.disconnected == [(client.id, "The connection recovery timeout expired.")]


def test_a_client_with_a_socket_never_expires(world: World, process: Process) -> None:
    client = Client(world, "chat")
    client.connect(process, "g").lose()
    client.recover(process)
    world.pass_time(100)
    assert client.at(process)


def test_how_long_a_message_may_wait(world: World, process: Process) -> None:
    client = Client(world, "chat")
    client.connect(process, "g").lose()
    world.pass_time(1)
    for text, ttl_secs in (("zero", 0), ("short", 2), ("long", 20), ("always", None)):
        _publish(process, "chat", text, ttl_secs=ttl_secs)
    world.pass_time(10)
    client.recover(process)
    # To a client that is there it goes in any case.
    _publish(process, "chat", "now", ttl_secs=1)
    client.hears("now")
    assert client.texts == ["zero", "long", "always", "now"]


def test_it_may_be_closed_while_it_is_away(world: World, process: Process, app: Application) -> None:
    client = Client(world, app.hub)
    client.connect(process, "g").lose()
    world.pass_time(1)
    process.run(operations.close_connection(app.hub, client.id, "enough"))
    assert client.recover(process).closed == NOT_RECOVERED
    world.settle(30)
    assert app.disconnected == [(client.id, "Application server closed the connection. Reason: enough")]


def test_memberships_and_permissions_go_on_changing(world: World, process: Process) -> None:
    client = Client(world, "chat", roles=())
    client.connect(process, "g").lose()
    world.pass_time(1)
    process.run(operations.add_connection_to_group("chat", client.id, "h"))
    process.run(operations.remove_connection_from_group("chat", client.id, "g"))
    process.run(operations.grant("chat", client.id, "sendToGroup", "h"))
    client.recover(process).say({"type": "sendToGroup", "group": "h", "dataType": "text", "data": "echo"})
    client.hears("echo")
    assert client.texts == ["echo"]


def test_a_client_that_never_had_an_open_socket_is_not_waited_for(
    world: World, process: Process, app: Application
) -> None:
    client = Client(world, app.hub)
    # It does not know the connection's id, nor the token.
    socket = client.start(process, "g")
    socket.lose()
    world.until(lambda: socket.done)
    assert process.node.members() == []


# Sockets


def test_the_last_socket_wins_and_each_other_one_is_told(world: World, process: Process) -> None:
    client = Client(world, "chat")
    client.connect(process, "g")
    sockets = [client.come_back(process) for _ in range(4)]
    world.settle()
    assert [socket.gone for socket in client.sockets].count(False) == 1
    for socket in client.sockets:
        if socket.gone:
            assert socket.closed == (1001, "The connection was recovered by another socket.")
    _publish(process, "chat", "hi")
    client.hears("hi")
    assert sum(bool(socket.frames) for socket in sockets) == 1


def test_what_an_older_socket_still_says_is_not_heard(world: World, process: Process, app: Application) -> None:
    client = Client(world, app.hub)
    old = client.connect(process, "g")
    old.gate = lambda: asyncio.sleep(5)
    client.recover(process)
    old.say({"type": "event", "event": "old", "dataType": "text", "data": ""})
    world.pass_time(1)
    assert app.events == []
    world.pass_time(10)
    assert old.closed is not None
    assert client.at(process)


def test_a_frame_waiting_for_its_handler_is_answered_at_the_new_socket(
    world: World, process: Process, app: Application
) -> None:
    app.answers = False
    client = Client(world, app.hub)
    client.connect(process, "g").say({"type": "event", "event": "e", "dataType": "text", "data": "", "ackId": 1})
    world.until(lambda: app.events)
    client.socket.lose()
    world.pass_time(1)
    new = client.recover(process)
    app.answers = True
    assert _waits(world, new, "ackId", 1)["success"]
    assert client.texts == ["answer to e"]
    new.say({"type": "event", "event": "e", "dataType": "text", "data": "", "ackId": 1})
    world.until(lambda: new.frames[-1].get("error"))
    assert app.events == ["e"]


def test_the_end_gives_up_what_a_handler_works_on(world: World, process: Process, app: Application) -> None:
    app.answers = False
    client = Client(world, app.hub)
    client.connect(process).say({"type": "event", "event": "e", "dataType": "text", "data": ""})
    world.until(lambda: app.events)
    client.socket.lose()
    world.pass_time(31)
    assert app.cancelled == 1


def test_invocations_end_with_their_socket(world: World, process: Process, app: Application) -> None:
    app.answers = False
    client = Client(world, app.hub)
    client.connect(process).say({"type": "invoke", "invocationId": "1", "target": "event", "event": "e"})
    world.until(lambda: app.events)
    client.socket.lose()
    new = client.recover(process)
    assert app.cancelled == 1
    app.answers = True
    new.say({"type": "invoke", "invocationId": "1", "target": "event", "event": "e"})
    assert _waits(world, new, "invocationId", "1")["success"]


# Too much


@pytest.mark.parametrize("away", [True, False])
def test_a_full_buffer_is_the_end(
    world: World,
    process: Process,
    app: Application,
    webpubsub: WebPubSub,
    caplog: pytest.LogCaptureFixture,
    away: bool,
) -> None:
    caplog.set_level(logging.INFO, "hubs.connections.eviction")
    webpubsub(RELIABLE_BUFFER_MESSAGES=10)
    client = Client(world, app.hub, acks=False)
    old = client.connect(process, "g")
    if away:
        old.lose()
        world.pass_time(1)
    for number in range(11):
        _publish(process, app.hub, str(number))
    world.pass_time(1)
    assert old.closed == (None if away else (1008, "The reliable message buffer is full."))
    assert client.recover(process).closed == NOT_RECOVERED
    world.settle()
    assert app.disconnected == [(client.id, "The reliable message buffer is full.")]
    [line] = [record.getMessage() for record in caplog.records if record.name == "hubs.connections.eviction"]
    assert line.startswith(
        f"Connection {client.id} (hub {app.hub}, user u) is cut off: "
        "More waits for its client than RELIABLE_BUFFER_MESSAGES allows. Waiting: 10 messages, "
    )
    assert line.endswith(" bytes, no acknowledgement yet.")


def test_a_connection_that_has_lost_a_message_is_not_recovered(
    world: World, process: Process, webpubsub: WebPubSub
) -> None:
    webpubsub(RELIABLE_BUFFER_MESSAGES=10)
    client = Client(world, "chat", acks=False)
    client.connect(process, "g").lose()
    world.pass_time(1)
    connection = process.connection(client)
    assert connection is not None

    async def in_one_turn() -> bool:
        posted = [operations.post_to_group("chat", "g", Payload("text", b"x")) for _ in range(11)]
        await asyncio.gather(*[each for each in posted if each is not None])
        # Its close may only be due.
        return connection.recoverable

    assert not process.run(in_one_turn())


def test_what_comes_behind_a_lost_message_does_not_get_its_number(
    world: World, process: Process, webpubsub: WebPubSub
) -> None:
    webpubsub(RELIABLE_BUFFER_BYTES=1000)
    client = Client(world, "chat", acks=False)
    client.connect(process, "g")
    connection = process.connection(client)
    assert connection is not None

    async def in_one_turn() -> int:
        for size in (2000, 1):
            connection.deliver(Outgoing(ServerMessage(Payload("text", b"x" * size))))
        return connection.backlog.last

    assert process.run(in_one_turn()) == 0
    world.settle()
    assert client.texts == []


def test_a_client_that_reads_too_slowly_is_not_waited_for(
    world: World, process: Process, app: Application, webpubsub: WebPubSub
) -> None:
    webpubsub(MAX_OUTBOX_MESSAGES=10)
    client = Client(world, app.hub)
    socket = client.connect(process, "g")
    socket.gate = lambda: asyncio.sleep(1)
    for number in range(20):
        _publish(process, app.hub, str(number))
    world.until(lambda: socket.done)
    assert process.node.members() == []
    world.settle()
    assert app.disconnected == [(client.id, "The outbound message queue is full.")]
    assert client.recover(process).closed == NOT_RECOVERED


# The process stops


def test_those_who_are_away_end_with_a_process_that_is_alone(world: World, process: Process, app: Application) -> None:
    away, here = Client(world, app.hub), Client(world, app.hub)
    away.connect(process, "g").lose()
    here.connect(process, "g")
    world.pass_time(1)

    async def stop() -> None:
        recovery.stop()

    process.run(stop())
    world.pass_time(1)
    # Else another process goes on with them, or the next one to start.
    assert app.disconnected == ([] if process.node.keeps else [(away.id, close_codes.STOPPED.reason)])
    assert here.at(process)
