"""What dead processes leave, in worlds of three: told once, or kept for whoever comes for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from hubs import close_codes, operations
from hubs.cluster.entries import hub_log
from hubs.cluster.records import Records
from hubs.connections import recovery
from hubs.errors import Unavailable
from hubs.node.takeovers import SWEEP_SECS, Takeovers
from hubs.protocols.frames import Payload
from hubs.upstream import EventContext, dispatch, handlers, hub
from tests.connections.simulated_redis import READING, WRITING
from tests.connections.world import Client, Process, World

EXPIRED = "The connection recovery timeout expired."
PROCESS_DIED = close_codes.PROCESS_DIED.reason
LOST = (1008, "Messages for this connection were lost; connect anew.")
NOT_RECOVERED = (1008, "The connection could not be recovered.")


class PlainClient(Client):
    """A client that does not come back to its connection."""

    subprotocol = "json.webpubsub.azure.v1"

    def connect(self, process: Process, *groups: str) -> Any:
        socket = self.start(process, *groups)
        self.world.until(lambda: socket.frames)
        return socket

    def _take(self, socket: Any, frame: dict[str, Any]) -> None:
        if frame.get("type") == "message":
            self.told.append(frame)


@pytest.fixture
def world() -> Iterator[World]:
    with World(processes=3) as world:
        yield world


@dataclass
class Told:
    """What the event handler of a hub was told."""

    hub: str
    disconnected: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def told() -> Iterator[Told]:
    own = hub("takeovers")
    told = Told(own.hub)

    @own.on_disconnected
    async def disconnected(context: EventContext, reason: str) -> None:
        told.disconnected.append((context.connection_id, reason))

    yield told
    del handlers._HUBS[own.hub]


def _publish(process: Process, hub: str, text: str) -> None:
    process.run(operations.send_to_group(hub, "g", Payload("text", text.encode())))


def _places(world: World, client: Client) -> list[Process]:
    return [process for process in world.processes if not process.dead and process.connection(client) is not None]


def _stop(process: Process) -> None:
    """As when the service is stopped."""

    async def stop() -> None:
        recovery.stop()
        await process.node.stop()

    process.run(stop())
    process.die()


def test_connections_that_ended_with_a_dead_process_are_told_of_once(world: World, told: Told) -> None:
    a, b, c = world.processes
    lost, left, elsewhere = (PlainClient(world, told.hub) for _ in range(3))
    lost.connect(a, "g")
    left.connect(a, "g").leave()
    elsewhere.connect(b, "g")
    world.pass_time(1)
    assert [connection_id for connection_id, _ in told.disconnected] == [left.id]
    told.disconnected.clear()
    a.die()
    world.until(lambda: told.disconnected)
    world.settle(SWEEP_SECS)
    assert told.disconnected == [(lost.id, PROCESS_DIED)]
    assert not c.run(operations.connection_exists(told.hub, lost.id))
    assert c.run(operations.connection_exists(told.hub, elsewhere.id))


def test_reliable_ones_wait_for_their_clients_with_all_they_have(world: World, told: Told) -> None:
    a, b, c = world.processes
    clients = [Client(world, told.hub) for _ in range(4)]
    for client in clients:
        client.connect(a, "g")
    _publish(c, told.hub, "1")
    for client in clients:
        client.hears("1")
    a.die()
    # Nobody has them, and still nothing is lost.
    _publish(c, told.hub, "2")
    world.until(lambda: all(_places(world, client) for client in clients))
    assert c.run(operations.connection_exists(told.hub, clients[0].id))
    _publish(b, told.hub, "3")
    for client, process in zip(clients[:3], (b, c, world.join()), strict=True):
        client.recover(process)
        client.hears("3")
        assert client.texts == ["1", "2", "3"]
        assert _places(world, client) == [process]
    world.settle(30)
    # Who does not come has as long as always.
    assert told.disconnected == [(clients[3].id, EXPIRED)]


def test_a_client_that_comes_before_anybody_knows_has_its_connection_at_once(world: World, told: Told) -> None:
    a, b, c = world.processes
    client = Client(world, told.hub)
    client.connect(a, "g")
    a.die()
    _publish(c, told.hub, "1")
    client.recover(b)
    client.hears("1")
    world.settle()
    assert _places(world, client) == [b]
    assert client.at(b)
    assert told.disconnected == []


def test_where_the_heir_dies_too_the_next_one_has_all(world: World, told: Told) -> None:
    a, b, c = world.processes
    plain, client = PlainClient(world, told.hub), Client(world, told.hub)
    plain.connect(a, "g")
    client.connect(a, "g")
    _publish(c, told.hub, "1")
    a.die()
    # As soon as it has begun to look after them.
    heirs = {b.node.process: b, c.node.process: c}
    world.until(lambda: b.node.takeovers._heir_of.get(a.node.process))
    heir = heirs[b.node.takeovers._heir_of[a.node.process]]
    [other] = [process for process in (b, c) if process is not heir]
    heir.die()
    _publish(other, told.hub, "2")
    world.until(lambda: _places(world, client) == [other])
    client.recover(other)
    client.hears("2")
    world.settle(SWEEP_SECS)
    assert client.texts == ["1", "2"]
    assert told.disconnected == [(plain.id, PROCESS_DIED)]


def test_what_is_left_is_not_read_again_beside_what_was_begun(
    world: World, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis goes while it is read."""
    a, b, c = world.processes
    clients = [Client(world, told.hub) for _ in range(3)]
    for client in clients:
        client.connect(a, "g")
    fetch, under_way = Takeovers.heirs.fetch, 0
    # Of each time that it was read, how many were being fetched.
    times: list[int] = []

    async def fetch_slowly(*arguments: Any) -> None:
        nonlocal under_way
        under_way += 1
        try:
            await asyncio.sleep(2)
            if len(times) == 1:
                raise Unavailable("Redis is away.")
            await fetch(*arguments)
        finally:
            under_way -= 1

    def broken_once(records: Records) -> Any:
        whole = records.owned_by

        async def owned_by(process: str) -> Any:
            times.append(under_way)
            async for each in whole(process):
                yield each
                # The fetching begins.
                await asyncio.sleep(0.1)
                if len(times) == 1:
                    raise Unavailable("Redis is away.")

        return owned_by

    monkeypatch.setattr(Takeovers.heirs, "fetch", fetch_slowly)
    for process in (b, c):
        monkeypatch.setattr(process.node.records, "owned_by", broken_once(process.node.records))
    a.die()
    world.until(lambda: all(_places(world, client) for client in clients))
    assert times == [0, 0]


def test_a_service_that_was_stopped_altogether_finds_its_connections_again(told: Told) -> None:
    with World(processes=2) as world:
        a, b = world.processes
        plain, client, gone = PlainClient(world, told.hub), Client(world, told.hub), Client(world, told.hub)
        plain.connect(a, "g")
        for each in (client, gone):
            each.connect(b, "g")
        _publish(a, told.hub, "1")
        client.hears("1")
        # One by a fault, the other in good order.
        a.die()
        _stop(b)
        world.redis.loop.call_later(10, lambda: None)
        new = world.join()
        new.run(new.node.start())
        world.until(lambda: _places(world, client) and _places(world, gone))
        _publish(new, told.hub, "2")
        client.recover(new)
        client.hears("2")
        assert client.texts == ["1", "2"]
        world.settle(30)
        assert sorted(told.disconnected) == sorted([(plain.id, PROCESS_DIED), (gone.id, EXPIRED)])


def test_what_a_process_leaves_that_says_goodbye_is_looked_after_at_once(world: World, told: Told) -> None:
    a, b, c = world.processes
    client = Client(world, told.hub)
    client.connect(a, "g").lose()
    world.pass_time(1)
    _stop(a)
    world.until(lambda: _places(world, client), limit=1)
    assert b.node.others() == {c.node.process}
    _publish(c, told.hub, "1")
    client.recover(c)
    client.hears("1")


def test_a_process_that_stood_still_is_taken_for_dead_and_begins_anew(world: World, told: Told) -> None:
    a, b, c = world.processes
    plain, client, other = PlainClient(world, told.hub), Client(world, told.hub), Client(world, told.hub)
    sockets = [each.connect(a, "g") for each in (plain, client)]
    other.connect(b, "g")
    former = a.node.process
    a.stall(10)
    world.until(lambda: told.disconnected)
    _publish(c, told.hub, "1")
    world.until(lambda: a.node.process != former and len(a.node.others()) == 2)
    # It declares nobody dead, for it has read none of its own hellos in that time.
    assert _places(world, other) == [b]
    for socket in sockets:
        world.until(lambda socket=socket: socket.closed)
        assert socket.closed[0] == 1001
    world.until(lambda: b.node.others() == {a.node.process, c.node.process})
    # With its new name it is as good as any.
    client.recover(a)
    client.hears("1")
    assert client.texts == ["1"]
    again = PlainClient(world, told.hub)
    again.connect(a, "g")
    _publish(b, told.hub, "2")
    for each in (again, client, other):
        each.hears("2")
    world.settle()
    assert told.disconnected == [(plain.id, PROCESS_DIED)]


def test_a_process_that_is_cut_off_loses_its_connections_to_those_who_are_not(world: World, told: Told) -> None:
    a, b, c = world.processes
    client = Client(world, told.hub)
    old = client.connect(a, "g")
    world.redis.part(a, refused=True)
    world.until(lambda: _places(world, client)[1:])
    _publish(c, told.hub, "1")
    new = client.recover(b)
    client.hears("1")
    world.redis.join(a)
    world.until(lambda: old.closed)
    world.settle()
    assert client.at(b)
    assert not new.gone
    assert _places(world, client) == [b]
    assert told.disconnected == []


@pytest.mark.parametrize("silent", [READING, "all"])
def test_while_redis_stands_still_nobody_is_dead(world: World, told: Told, silent: str) -> None:
    names = [process.node.process for process in world.processes]
    client = Client(world, told.hub)
    client.connect(world.processes[0], "g")
    if silent == "all":
        world.redis.freeze()
    else:
        world.redis.cut([socket for process in world.processes for socket in world.redis.of(process, READING)])
    world.pass_time(10)
    world.redis.thaw()
    world.pass_time(5)
    assert [process.node.process for process in world.processes] == names
    assert [len(process.node.others()) for process in world.processes] == [2, 2, 2]
    assert client.at(world.processes[0])
    _publish(world.processes[1], told.hub, "1")
    client.hears("1")


def test_where_redis_forgets_reliable_clients_are_told_and_others_go_on(world: World, told: Told) -> None:
    a, b, _ = world.processes
    plain, client = PlainClient(world, told.hub), Client(world, told.hub)
    open_plain, socket = plain.connect(a, "g"), client.connect(b, "g")
    _publish(b, told.hub, "1")
    world.redis.die(appendonly=False)
    world.pass_time(1)
    world.redis.come_back()
    world.until(lambda: socket.closed)
    assert socket.closed == LOST
    while (again := client.recover(a)).refused == 503:
        # It does not reach Redis yet.
        world.pass_time(0.2)
    assert again.closed == NOT_RECOVERED
    # Each process says so in the log when it notices; whoever connects before the last has is told, too.
    world.pass_time(5)
    anew = Client(world, told.hub)
    anew.connect(b, "g")
    _publish(a, told.hub, "2")
    for each in (plain, anew):
        each.hears("2")
    assert not open_plain.gone
    world.until(lambda: told.disconnected)
    assert [connection_id for connection_id, _ in told.disconnected] == [client.id]


def _begin_cut_off(world: World, told: Told) -> tuple[PlainClient, PlainClient, Any]:
    """A client from before the first process was cut off, one that came then, and the socket of that."""
    process = world.processes[0]
    known, late = PlainClient(world, told.hub), PlainClient(world, told.hub)
    known.connect(process, "g")
    world.pass_time(1)
    world.redis.part(process, refused=True)
    return known, late, late.connect(process, "g")


def test_what_began_while_a_process_was_cut_off_is_told_by_itself(world: World, told: Told) -> None:
    known, late, socket = _begin_cut_off(world, told)
    world.until(lambda: told.disconnected)
    # Nobody else can know of the other one.
    assert told.disconnected == [(known.id, PROCESS_DIED)]
    world.redis.join(world.processes[0])
    world.until(lambda: socket.closed)
    world.settle()
    assert told.disconnected == [(known.id, PROCESS_DIED), (late.id, PROCESS_DIED)]


def test_what_began_while_a_process_was_cut_off_is_told_also_if_it_stops_then(world: World, told: Told) -> None:
    a, _, _ = world.processes
    known, late, _ = _begin_cut_off(world, told)
    world.pass_time(0.5)

    async def stop() -> None:
        for connection in list(a.node.registry.connections.values()):
            connection.end("stopped")
        await operations.all_told()
        await dispatch.stop()
        await a.node.stop()

    stopping = a.spawn(stop())
    world.until(stopping.done)
    stopping.result()
    a.die()
    world.until(lambda: len(told.disconnected) == 2)
    world.settle()
    assert sorted(told.disconnected) == sorted([(late.id, "stopped"), (known.id, PROCESS_DIED)])


def test_a_process_taken_for_dead_leaves_its_records_to_its_heir(world: World, told: Told) -> None:
    a, b, _ = world.processes
    client = Client(world, told.hub)
    socket = client.connect(a, "g")
    world.pass_time(1)
    former = a.node.process

    async def read_of_own_death() -> None:
        a.node.declared_dead()

    async def left() -> list[str]:
        return [connection_id async for connection_id, _ in b.node.records.owned_by(former)]

    # Before its heir does.
    a.run(read_of_own_death())
    world.until(lambda: socket.closed)
    world.pass_time(1)
    assert b.run(left()) == [client.id]
    world.settle(40)
    assert told.disconnected == [(client.id, EXPIRED)]


def test_where_redis_forgets_who_claimed_a_connection_its_former_process_tells(world: World, told: Told) -> None:
    a, b, _ = world.processes
    client, other = Client(world, told.hub), Client(world, told.hub)
    client.connect(a, "g")
    other.connect(b, "g")
    world.pass_time(1)
    world.redis.slow[b, READING, False] = 3.0
    client.come_back(b)
    world.until(lambda: a.connection(client) is None)
    # Its new process has not read that it has it.
    assert b.connection(client) is None
    world.redis.cut(world.redis.of(b, READING))
    world.redis.slow.clear()
    world.redis.die(appendonly=False)
    world.pass_time(1)
    world.redis.come_back()
    world.settle(10)
    assert sorted(told.disconnected) == sorted([(client.id, LOST[1]), (other.id, LOST[1])])


def test_all_are_told_of_a_gap_also_if_redis_is_away_when_it_is_noticed(world: World, told: Told) -> None:
    a, b, _ = world.processes
    client, other = Client(world, told.hub), Client(world, told.hub)
    socket = client.connect(a, "g")
    other.connect(b, "g")

    async def notice() -> None:
        b.node.gap(hub_log(told.hub))

    world.redis.die()
    b.run(notice())
    world.pass_time(1)
    world.redis.come_back()
    world.until(lambda: socket.closed)
    assert socket.closed == LOST


def test_connections_that_redis_forgot_are_told_of_and_recovered_all_the_same(world: World, told: Told) -> None:
    a, b, _ = world.processes
    plain, client = PlainClient(world, told.hub), Client(world, told.hub)
    plain.connect(a, "g")
    client.connect(a, "g")
    world.settle(SWEEP_SECS)
    # As FLUSHALL does: the line stands, and nothing is unread, so nothing is missed.
    keyspace = world.redis.master.keyspace
    keyspace.values.clear()
    keyspace.expires.clear()
    _publish(b, told.hub, "1")
    world.settle(SWEEP_SECS)
    a.die()
    world.until(lambda: told.disconnected)
    assert told.disconnected == [(plain.id, PROCESS_DIED)]
    _publish(b, told.hub, "2")
    client.recover(b)
    client.hears("2")


def test_a_process_taken_for_dead_claims_nothing_that_it_would_not_learn_of(world: World, told: Told) -> None:
    a, b, _ = world.processes
    client = Client(world, told.hub)
    client.connect(b, "g")
    other = Client(world, told.hub)
    other.connect(a)
    world.pass_time(1)

    async def read_of_own_death() -> None:
        a.node.declared_dead()

    # While it looks for the record.
    world.redis.slow[a, WRITING, True] = world.redis.slow[a, WRITING, False] = 0.3
    socket = client.come_back(a)
    world.pass_time(0.01)
    a.run(read_of_own_death())
    world.until(lambda: socket.refused)
    world.pass_time(1)
    assert _places(world, client) == [b]


def test_a_process_that_has_just_begun_does_not_answer_for_those_that_it_has_not_heard_of(
    world: World, told: Told
) -> None:
    a, b, _ = world.processes
    client = Client(world, told.hub)
    client.connect(a, "g")
    world.pass_time(1)
    a.die()
    new = world.join()
    # It reads the past of the log slowly, and its own hello fast.
    world.redis.slow[new, WRITING, False] = 0.2
    asked = new.spawn(operations.connection_exists(told.hub, client.id))
    new.spawn(new.node.start())
    world.until(asked.done)
    assert asked.result()
    assert b.connection(client) is not None or _places(world, client)


def test_who_dies_before_it_knows_that_it_is_to_tell_leaves_that_to_its_heir(world: World, told: Told) -> None:
    a, _, _ = world.processes
    lost = PlainClient(world, told.hub)
    socket = lost.connect(a, "g")
    world.pass_time(1)
    # Redis hears that it is to tell; the answer does not arrive.
    world.redis.slow[a, WRITING, False] = 5.0
    socket.lose()
    world.pass_time(0.1)
    a.die()
    world.settle(SWEEP_SECS)
    assert told.disconnected == [(lost.id, PROCESS_DIED)]
