"""A publication that reached some and perhaps not others, and is published again."""

from __future__ import annotations

import pytest

from hubs.errors import Unavailable
from hubs.messaging.switchboard import Switchboard
from hubs.messaging.tally import RECENT_NUMBERS, Recent
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
    for number in range(RECENT_NUMBERS + 1):
        recent.note(number)
        recent.note(number)
    assert 0 not in recent
    assert all(number in recent for number in range(1, RECENT_NUMBERS + 1))
