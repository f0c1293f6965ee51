"""The bench of idle connections counts those that live, and says when one does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection

from bench import connections, holding
from bench.holding import Held, Wrong, hold, let_go
from tests.bench.running import LONG, run_bench, serving
from tests.running import PATIENCE


async def _until_it_leaves(connection: ServerConnection) -> None:
    await connection.wait_closed()


@pytest.mark.timeout(LONG)
def test_a_quick_run_measures_each_server_beside_plain_uvicorn(tmp_path: Path) -> None:
    few = ("--connections", "100", "--ping-rounds", "1")
    done, raw = run_bench("connections", "--quick", *few, "--servers", "hubwire,uvicorn", results=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 idle connections" in done.stdout
    assert [run["server"] for run in raw["runs"]] == ["hubwire", "uvicorn"]
    for run in raw["runs"]:
        assert run["connections"] == 100
        assert run["pings"] >= 100
        assert run["connecting"]["server_secs"] > 0
        assert run["idle"]["wall_secs"] >= 1


async def test_connections_that_are_not_pinged_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LATE_SECS", 0.1)
    async with serving(_until_it_leaves) as door:
        clients = await hold(door, ["/"] * 3)
        with pytest.raises(Wrong, match="3 of 3 idle connections were not pinged"):
            await connections._idle(clients, 1, 0.05)
        await let_go(clients)


async def test_a_connection_that_is_lost_does_not_count() -> None:
    opened: list[ServerConnection] = []

    async def handler(connection: ServerConnection) -> None:
        opened.append(connection)
        await connection.wait_closed()

    async with serving(handler) as door:
        clients = await hold(door, ["/"] * 3)
        opened[1].transport.abort()
        done, _ = await asyncio.wait(
            [client.closed for client in clients], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        assert len(done) == 1
        with pytest.raises(Wrong, match="1 of 3 idle connections were lost"):
            await connections._idle(clients, 1, 0.05)
        await let_go(clients)


async def test_pings_are_counted_and_answered() -> None:
    answered = asyncio.get_running_loop().create_future()

    async def handler(connection: ServerConnection) -> None:
        for _ in range(2):
            await (await connection.ping())
        answered.set_result(None)
        await connection.wait_closed()

    async with serving(handler) as door:
        [client] = await hold(door, ["/"])
        await asyncio.wait_for(answered, PATIENCE)
        assert client.pings == 2
        await let_go([client])


async def test_a_client_remembers_with_what_it_was_closed() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.close(1008, "enough")

    async with serving(handler) as door:
        [client] = await hold(door, ["/"])
        await asyncio.wait_for(client.closed, PATIENCE)
        assert (client.close_code, client.close_reason, client.alive) == (1008, "enough", False)


async def test_each_block_of_clients_comes_from_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "PER_ADDRESS", 2)
    monkeypatch.setattr(holding, "_made", 0)
    seen: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        seen.append(connection.remote_address[0])
        await connection.wait_closed()

    async with serving(handler) as door:
        clients = await hold(door, ["/"] * 6, at_once=1)
        await let_go(clients)
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
        before: list[Held] = await hold(door, ["/"])
        with pytest.raises(holding.Unexpected):
            # A request target with a space makes a request line that no server can read.
            await hold(door, ["/", "/", "/ x"], at_once=1)
        await let_go(before)
        await asyncio.wait_for(everybody_left, PATIENCE)


@pytest.mark.parametrize("arguments", [["--connections", "0"], ["--servers", "apache"], ["--keep-alive", "nan"]])
def test_options_that_make_no_sense_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        connections.main(arguments)
    assert exit_.value.code == 2
    assert arguments[1] in capsys.readouterr().err
