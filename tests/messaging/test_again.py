"""A publication that reached some and perhaps not others, and is published again."""

from __future__ import annotations

import pytest

from hubs.errors import Unavailable
from hubs.messaging.switchboard import Switchboard
from hubs.messaging.tally import RECENT_RUNS, Had, Recent
from tests.messaging.conftest import Client, Processes, line_of, publication, soon
from tests.messaging.processes import trusts_all


async def _break() -> None:
    raise ConnectionError("gone")


async def _fails(board: Switchboard, text: str, again: tuple[str, int] | None = None) -> tuple[str, int]:
    """Publish while the line is broken; gives the name to publish under again."""
    with pytest.raises(Unavailable) as refused:
        await soon(board.publish(publication(text), again=again))
    assert refused.value.published is not None
    return refused.value.published


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_everybody_gets_it_once(process: Processes, moment: str) -> None:
    here, there = process(), process()
    near, far = await Client(here).join(), await Client(there).join()
    # Before: the others did not get it. After: they did, and the publisher does not know.
    hooks = getattr(line_of(here), moment)
    hooks["group_send"] = _break
    name = await _fails(here, "one")
    assert await _fails(here, "one", name) == name
    del hooks["group_send"]
    await trusts_all(here)
    await soon(here.publish(publication("one"), again=name))
    await soon(here.publish(publication("two")))
    for client in (near, far):
        heard = await client.hears("two")
        assert len(heard) == 2
        assert '"one"' in heard[0]


async def test_from_another_process(process: Processes) -> None:
    """Its publisher has changed process meanwhile."""
    here, there, third = process(), process(), process()
    clients = [await Client(board).join() for board in (here, there, third)]
    line_of(here).after["group_send"] = _break
    name = await _fails(here, "one")
    del line_of(here).after["group_send"]
    await trusts_all(here)
    # Both have heard it when they hear this.
    await soon(here.publish(publication("two")))
    for client in clients:
        await client.hears("two")
    await soon(there.publish(publication("one"), again=name))
    await soon(there.publish(publication("three")))
    for client in clients:
        heard = await client.hears("three")
        assert len(heard) == 3


async def test_all_or_nobody_needs_no_name(process: Processes) -> None:
    here = process()
    near = await Client(here).join()
    line_of(here).before["group_send"] = _break
    with pytest.raises(Unavailable) as refused:
        await soon(here.publish(publication("one"), all_or_nobody=True))
    assert refused.value.published is None
    assert near.heard_nothing


def test_the_oldest_numbers_are_forgotten() -> None:
    recent = Recent()
    # None follows another.
    for number in range(0, 2 * RECENT_RUNS + 2, 2):
        recent.note(number)
    assert not recent.has(0)
    assert all(recent.has(number) for number in range(2, 2 * RECENT_RUNS + 2, 2))
    assert not any(recent.has(number) for number in range(1, 2 * RECENT_RUNS + 2, 2))


def test_numbers_that_follow_one_another_take_no_room() -> None:
    recent = Recent()
    for number in range(1, 100_000):
        recent.note(number)
    assert all(map(recent.has, (1, 5_000, 99_999)))
    assert not recent.has(100_000)
    assert len(recent.packed()) == 16


def test_what_was_read_is_known_from_a_moment_on() -> None:
    recent = Recent()
    for number in (1, 2, 3, 7, 8):
        recent.note(number)
    before = recent.count
    for number in (9, 4, 5):
        recent.note(number)
    assert [number for number in range(1, 10) if recent.has(number, before)] == [4, 5, 9]
    had = Had({"p": recent.packed(before)})
    assert [number for number in range(1, 10) if ("p", number) in had] == [4, 5, 9]
    assert ("q", 4) not in had


def test_what_a_connection_had_goes_on_from_process_to_process() -> None:
    first, second = Recent(), Recent()
    first.note(1)
    second.note(2)
    had = Had(Had({"p": first.packed(), "q": first.packed()}).and_then({"p": second.packed()}))
    assert [("p", 1) in had, ("p", 2) in had, ("q", 1) in had, ("q", 2) in had] == [True, True, True, False]
    assert [had.reaches(name) for name in (("p", 1), ("p", 0), ("r", 1))] == [True, False, False]
