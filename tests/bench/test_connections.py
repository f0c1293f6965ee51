"""Clients of the bench notice what becomes of them, and the bench of idle connections says when one is lost."""

from __future__ import annotations

import asyncio

import pytest
from websockets.asyncio.server import ServerConnection

from bench import clients, command, connections
from bench.clients import connect, disconnect
from bench.connections import Connections, wait_for_pings
from bench.servers import Wrong
from bench.wire import Unexpected
from tests.bench.running import serving
from tests.running import PATIENCE


async def _until_it_leaves(connection: ServerConnection) -> None:
    await connection.wait_closed()


async def test_connections_that_are_not_pinged_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LATE_SECS", 0.1)
    async with serving(_until_it_leaves) as door:
        held = await connect(door, ["/"] * 3)
        with pytest.raises(Wrong, match="3 of 3 idle connections were not pinged"):
            await wait_for_pings(held, 1, 0.05)
        await disconnect(held)


async def test_a_connection_that_is_lost_does_not_count() -> None:
    opened: list[ServerConnection] = []

    async def handler(connection: ServerConnection) -> None:
        opened.append(connection)
        await connection.wait_closed()

    async with serving(handler) as door:
        held = await connect(door, ["/"] * 3)
        opened[1].transport.abort()
        done, _ = await asyncio.wait(
            [client.closed for client in held], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        assert len(done) == 1
        with pytest.raises(Wrong, match="1 of 3 idle connections were lost"):
            await wait_for_pings(held, 1, 0.05)
        await disconnect(held)


async def test_pings_are_counted_and_answered() -> None:
    answered = asyncio.get_running_loop().create_future()

    async def handler(connection: ServerConnection) -> None:
        for _ in range(2):
            await (await connection.ping())
        answered.set_result(None)
        await connection.wait_closed()

    async with serving(handler) as door:
        [client] = await connect(door, ["/"])
        await asyncio.wait_for(answered, PATIENCE)
        assert client.pings == 2
        await disconnect([client])


async def test_a_client_remembers_with_what_it_was_closed() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.close(1008, "enough")

    async with serving(handler) as door:
        [client] = await connect(door, ["/"])
        await asyncio.wait_for(client.closed, PATIENCE)
        assert (client.close_code, client.close_reason, client.alive) == (1008, "enough", False)
        # And whoever asks it something is told at once.
        with pytest.raises(Unexpected, match="1008 enough"):
            await client.ask({"type": "joinGroup", "group": "g"})


async def test_a_refusal_is_no_answer() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send('{"type":"message","data":"an \\"ackId\\" in a text"}')
        await connection.send('{"type":"ack","ackId":1,"success":false}')
        await connection.wait_closed()

    async with serving(handler) as door:
        [client] = await connect(door, ["/"])
        with pytest.raises(Unexpected, match=r"joinGroup was answered .*false"):
            await client.ask({"type": "joinGroup", "group": "g"})
        await disconnect([client])


async def test_each_block_of_clients_comes_from_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "PER_ADDRESS", 2)
    monkeypatch.setattr(clients, "_made", 0)
    seen: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        seen.append(connection.remote_address[0])
        await connection.wait_closed()

    async with serving(handler) as door:
        await disconnect(await connect(door, ["/"] * 6, at_once=1))
    assert sorted(seen) == ["127.0.0.1"] * 2 + ["127.0.1.1"] * 2 + ["127.0.2.1"] * 2


async def test_a_refused_handshake_closes_those_that_were_opened() -> None:
    opened: list[ServerConnection] = []
    everybody_left = asyncio.get_running_loop().create_future()

    async def handler(connection: ServerConnection) -> None:
        opened.append(connection)
        await connection.wait_closed()
        opened.remove(connection)
        if not opened:
            everybody_left.set_result(None)

    async with serving(handler) as door:
        before = await connect(door, ["/"])
        with pytest.raises(Unexpected):
            # A request target with a space makes a request line that no server can read.
            await connect(door, ["/", "/", "/ x"], at_once=1)
        await disconnect(before)
        await asyncio.wait_for(everybody_left, PATIENCE)


@pytest.mark.parametrize("arguments", [["--connections", "0"], ["--servers", "apache"], ["--keep-alive", "nan"]])
def test_options_that_make_no_sense_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main(Connections, arguments)
    assert exit_.value.code == 2
    assert arguments[1] in capsys.readouterr().err
