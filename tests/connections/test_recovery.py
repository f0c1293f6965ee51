"""Which connection a socket gets that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hubs.connections import reconnection, recovery
from hubs.connections.connection import Connection
from hubs.connections.outbox import AsgiOutbox
from hubs.connections.recovery import NotRecovered, bring_back
from hubs.messaging.switchboard import ANSWERS
from hubs.protocols.codec import CODECS
from hubs.rules.roles import Permissions
from tests.connections.conftest import Server
from tests.connections.world import Client, Process, World


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        yield world


def _bring_back(process: Process, connection_id: str, hub: str = "chat", token: str | None = None) -> Any:
    return process.run(bring_back(hub, connection_id, token or reconnection.token_for(hub, connection_id)))


def test_the_very_connection_is_given_while_it_is_here(world: World) -> None:
    a, _ = world.processes
    client = Client(world, "chat")
    client.connect(a)
    connection = a.connection(client)
    assert _bring_back(a, client.id, token=client.token) is connection
    client.socket.lose()
    world.pass_time(1)
    assert _bring_back(a, client.id) is connection


def test_from_elsewhere_it_comes_without_a_socket_and_waits_for_one(world: World) -> None:
    a, b = world.processes
    client = Client(world, "chat")
    client.connect(a)
    connection = _bring_back(b, client.id)
    assert connection is b.connection(client)
    assert connection.outbox is None
    world.pass_time(29)
    assert b.connection(client) is connection
    world.pass_time(2)
    assert b.connection(client) is None


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_not_to_be_had(world: World, number: int) -> None:
    a, _ = world.processes
    process = world.processes[number]
    client = Client(world, "chat")
    client.connect(a)
    unknown = client.id[:-1] + ("0" if client.id[-1] != "0" else "1")
    for connection_id, hub, token in (
        (unknown, "chat", None),
        (client.id, "other", None),
        (client.id, "chat", "x"),
        (client.id, "chat", reconnection.token_for("chat", unknown)),
        ("not hex", "chat", None),
        ("", "chat", None),
        ("f" * 32, "chat", None),
    ):
        with pytest.raises(NotRecovered):
            _bring_back(process, connection_id, hub, token)
    assert client.at(a)


@pytest.mark.parametrize("number", [0, 1])
def test_the_connection_of_a_simple_client_is_its_socket_s(world: World, number: int) -> None:
    a, _ = world.processes
    connection = Connection(
        a.board.new_connection_id(),
        "chat",
        CODECS["json.webpubsub.azure.v1"],
        AsgiOutbox(Server().send, lambda *_: None),
        user_id=None,
        permissions=Permissions(),
    )
    a.run(connection.begin(()))
    with pytest.raises(NotRecovered):
        _bring_back(world.processes[number], connection.id)
    assert a.board.member(connection.id) is connection

    async def end() -> None:
        connection.end("")

    a.run(end())


def test_sockets_of_one_process_have_it_fetched_once(world: World) -> None:
    a, b = world.processes
    client = Client(world, "chat")
    client.connect(a)
    original = ANSWERS[recovery.HAND_OVER]
    begun = 0

    async def counted(members: Any, asked: dict[str, Any]) -> Any:
        nonlocal begun
        begun += "begins" in asked
        return await original(members, asked)

    world.answers[recovery.HAND_OVER] = counted
    searches = [b.spawn(bring_back("chat", client.id, client.token)) for _ in range(5)]
    world.until(lambda: all(search.done() for search in searches))
    assert {search.result() for search in searches} == {b.connection(client)}
    assert begun == 1


def test_nothing_is_remembered_of_a_search_that_is_over(world: World) -> None:
    a, b = world.processes
    client = Client(world, "chat")
    client.connect(a)
    _bring_back(b, client.id)
    world.pass_time(recovery.PATIENCE_SECS + 1)
    processes = {a.board.process, b.board.process}
    remembered = [process for process, _ in (*recovery._wanted, *recovery._parted) if process in processes]
    assert (remembered, recovery._searches) == ([], set())
