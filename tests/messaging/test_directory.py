"""Members come and go, and with them the addresses that their process hears."""

from __future__ import annotations

import asyncio

import pytest

from hubs.messaging import lines
from hubs.messaging.envelope import (
    group_address,
)
from tests.messaging.conftest import Broken, Client, Processes, break_line, line_of, publication, soon


async def test_a_layer_group_is_joined_with_the_first_and_left_after_the_last(
    process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 0.02)
    board, address = process(), group_address("chat", "g")
    first = await Client(board).join()
    assert ("group_add", address) in line_of(board).noted()
    second = await Client(board).join()
    board.leave(first, "g")
    assert line_of(board).noted() == []
    board.leave(second, "g")
    assert await soon(line_of(board).calls.get()) == ("group_discard", address)
    await Client(board).join()
    assert line_of(board).noted() == [("group_add", address)]


async def test_many_groups_are_left_in_turn(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 0.02)
    board = process()
    client = Client(board)
    for number in range(20):
        await client.join(str(number))
    line_of(board).noted()
    for number in range(20):
        board.leave(client, str(number))
    left = [await soon(line_of(board).calls.get()) for _ in range(20)]
    assert left == [("group_discard", group_address("chat", str(number))) for number in range(20)]


async def test_who_comes_back_soon_costs_nothing(process: Processes) -> None:
    here, there = process(), process()
    far = await Client(there).join()
    line_of(there).noted()
    there.leave(far, "g")
    await soon(there.join(far, "g"))
    assert line_of(there).noted() == []
    await soon(here.publish(publication("one")))
    await far.hears("one")


async def test_who_comes_back_while_the_layer_group_is_being_left(
    process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 0.0)
    here, there = process(), process()
    far = await Client(there).join()
    line, leaving, go_on = line_of(there), asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        leaving.set()
        await go_on.wait()

    line.before["group_discard"] = hold
    there.leave(far, "g")
    await soon(leaving.wait())
    joining = asyncio.create_task(there.join(far, "g"))
    await asyncio.sleep(0)
    assert not joining.done()
    go_on.set()
    await soon(joining)
    await soon(here.publish(publication("one")))
    await far.hears("one")


async def test_two_who_come_at_once_both_wait_for_the_layer(process: Processes) -> None:
    here, there = process(), process()
    line, go_on = line_of(there), asyncio.Event()
    await soon(there.start())
    line.before["group_add"] = go_on.wait  # type: ignore[assignment]
    clients = [Client(there), Client(there)]
    joins = [asyncio.create_task(there.join(client, "g")) for client in clients]
    for _ in range(5):
        await asyncio.sleep(0)
    assert [join.done() for join in joins] == [False, False]
    go_on.set()
    await soon(asyncio.gather(*joins))
    await soon(here.publish(publication("one")))
    for client in clients:
        await client.hears("one")


async def test_who_leaves_while_joining_is_no_member(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 0.0)
    board = process()
    line, go_on = line_of(board), asyncio.Event()
    client = Client(board)
    await soon(board.attach(client))
    line.noted()
    line.before["group_add"] = go_on.wait  # type: ignore[assignment]
    joining = asyncio.create_task(board.join(client, "g"))
    assert await soon(line.calls.get()) == ("group_add", group_address("chat", "g"))
    board.leave(client, "g")
    go_on.set()
    await soon(joining)
    assert await soon(line.calls.get()) == ("group_discard", group_address("chat", "g"))
    await soon(board.publish(publication("one")))
    assert client.heard_nothing


# When the layer fails


async def test_a_failed_join_leaves_nothing_behind(process: Processes) -> None:
    here, there = process(), process()
    far = Client(there)
    await soon(there.attach(far))
    line_of(there).before["group_add"] = break_line
    with pytest.raises(Broken):
        await soon(there.join(far, "g"))
    await soon(there.publish(publication("one")))
    assert far.heard_nothing
    # With the layer back, joining works.
    del line_of(there).before["group_add"]
    await soon(there.join(far, "g"))
    await soon(here.publish(publication("two")))
    assert len(await far.hears("two")) == 1


async def test_one_failed_join_does_not_take_another_with_it(process: Processes) -> None:
    here, there = process(), process()
    unlucky, lucky = Client(there), Client(there)
    await soon(there.start())
    failing, fail = asyncio.Event(), asyncio.Event()

    async def fail_once() -> None:
        del line_of(there).before["group_add"]
        failing.set()
        await fail.wait()
        raise Broken

    line_of(there).before["group_add"] = fail_once
    first = asyncio.create_task(there.join(unlucky, "g"))
    await soon(failing.wait())
    second = asyncio.create_task(there.join(lucky, "g"))
    await asyncio.sleep(0)
    fail.set()
    with pytest.raises(Broken):
        await soon(first)
    await soon(second)
    await soon(here.publish(publication("one")))
    await lucky.hears("one")
    assert unlucky.heard_nothing


async def test_a_cancelled_join_is_left_on_the_layer_again(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer may have done it all the same; without leaving, messages would come for ever."""
    monkeypatch.setattr(lines, "LINGER_SECS", 0.0)
    board, address = process(), group_address("chat", "g")
    line, client = line_of(board), Client(board)
    await soon(board.attach(client))
    line.noted()
    added = asyncio.Event()

    async def hold() -> None:
        added.set()
        await asyncio.Event().wait()

    line.after["group_add"] = hold
    joining = asyncio.create_task(board.join(client, "g"))
    await soon(added.wait())
    assert line.noted() == [("group_add", address)]
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(joining)
    assert await soon(line.calls.get()) == ("group_discard", address)


@pytest.mark.parametrize("half_done", [False, True])
async def test_after_a_failed_leave_the_group_is_heard_again(
    process: Processes, monkeypatch: pytest.MonkeyPatch, half_done: bool
) -> None:
    """A layer may forget a group although its server could not be told; taking it for held would be deafness."""
    monkeypatch.setattr(lines, "LINGER_SECS", 0.0)
    here, there = process(), process()
    far = await Client(there).join()
    line = line_of(there)
    line.noted()
    moment = line.after if half_done else line.before
    moment["group_discard"] = break_line
    there.leave(far, "g")
    assert (await soon(line.calls.get()))[0] == "group_discard"
    while there._trunk.lines._leaving or not there._trunk.lines._sweep.done():  # type: ignore[union-attr]
        await asyncio.sleep(0)
    del moment["group_discard"]
    await soon(there.join(far, "g"))
    await soon(here.publish(publication("one")))
    await far.hears("one")
    there.leave(far, "g")
    while (await soon(line.calls.get()))[0] != "group_discard":
        pass
