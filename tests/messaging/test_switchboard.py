"""The switchboard of a process: how it begins and ends, alone and per loop."""

from __future__ import annotations

import asyncio

import pytest
from channels.layers import InMemoryChannelLayer

from hubs.errors import NotFound
from hubs.messaging import lines
from hubs.messaging.switchboard import Switchboard, switchboard
from tests.messaging.conftest import Client, Line, Processes, line_of, publication, soon


async def test_alone_there_is_nobody_to_tell_or_ask() -> None:
    line = Line(InMemoryChannelLayer())
    board = Switchboard(line, alone=True)
    client = await Client(board).join()
    line.noted()
    await board.publish(publication("one"))
    await client.hears("one")
    with pytest.raises(NotFound):
        await board.ask("exists", "chat", "0" * 32, {})
    assert line.noted() == []
    await board.stop()


async def test_connections_are_counted() -> None:
    board = Switchboard(InMemoryChannelLayer(), alone=True)
    clients = [await Client(board).join() for _ in range(3)]
    assert len(board) == 3
    board.detach(clients[0])
    board.detach(clients[0])
    assert len(board) == 2
    await board.stop()


def test_connection_ids() -> None:
    board = Switchboard(InMemoryChannelLayer(), alone=True)
    ids = {board.new_connection_id() for _ in range(100)}
    assert len(ids) == 100
    assert {len(connection_id) for connection_id in ids} == {32}
    assert {connection_id[:8] for connection_id in ids} == {board.process}
    assert all(set(connection_id) <= set("0123456789abcdef") for connection_id in ids)


async def test_stopping_ends_everything(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 60.0)
    before = asyncio.all_tasks()
    board = process()
    client = await Client(board).join()
    board.leave(client, "g")
    assert {task.get_name() for task in asyncio.all_tasks() - before} >= {
        "switchboard",
        "leave unwanted groups",
        "hello to other processes",
    }
    await soon(board.stop())
    await soon(line_of(board).layer.flush())
    assert asyncio.all_tasks() - before == set()


async def test_each_loop_has_its_switchboard() -> None:
    board = switchboard()
    assert board is switchboard()

    def elsewhere() -> Switchboard:
        async def ask() -> Switchboard:
            return switchboard()

        return asyncio.run(ask())

    other = await asyncio.to_thread(elsewhere)
    assert other is not board
    assert other.process != board.process
