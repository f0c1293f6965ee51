"""That subscriptions are in force, over layers that do not say so: a connection that comes misses nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hubs.errors import Unavailable
from hubs.messaging.envelope import process_address
from hubs.messaging.moves import Arrival
from hubs.messaging.switchboard import Switchboard
from tests.messaging.conftest import HELLO_SECS, Processes, line_of, publication, soon
from tests.messaging.processes import all_meet


def _arrival(board: Switchboard, *groups: str) -> Arrival:
    return Arrival(
        board.new_connection_id(), "chat", user_id=None, subprotocol=None, groups=groups, max_messages=9, max_bytes=999
    )


def _probes(board: Switchboard) -> list[str]:
    """The addresses that a process has tried since the last look."""
    own = process_address(board.process) + "."
    return [address for name, address in line_of(board).noted() if name == "group_send" and address.startswith(own)]


async def test_who_is_expected_is_heard_for_from_then_on(process: Processes) -> None:
    here, there = process(), process()
    await all_meet(here, there)
    line_of(here).noted()
    arrival = _arrival(there, "g")
    await soon(here.expect(arrival))
    assert set(_probes(here)) == {f"{process_address(here.process)}.1"}
    await soon(there.publish(publication("one")))
    while not arrival.not_in({}, {"g"}):
        await asyncio.sleep(0)
    here.unexpect(arrival)
    assert here._probes.open == {}


async def test_what_is_known_to_be_in_force_is_not_tried_again(process: Processes) -> None:
    here, there = process(), process()
    await all_meet(here, there)
    first, second, third = _arrival(there, "g"), _arrival(there, "g"), _arrival(there, "another")
    await soon(here.expect(first))
    line_of(here).noted()
    await soon(here.expect(second))
    assert _probes(here) == []
    await soon(here.expect(third))
    assert set(_probes(here)) == {f"{process_address(here.process)}.2"}
    for arrival in (first, second, third):
        here.unexpect(arrival)


async def test_a_probe_that_is_never_heard(process: Processes, settings: Any) -> None:
    here, there = process(), process()
    await all_meet(here, there)
    settings.WEBPUBSUB = settings.WEBPUBSUB | {"ANSWER_SECS": HELLO_SECS}
    arrival = _arrival(there, "g")
    take = here._trunk.takers.copy()
    here._trunk.takers = {kind: taker for kind, taker in take.items() if kind.__name__ != "Probe"}
    with pytest.raises(Unavailable, match="cannot be reached"):
        await soon(here.expect(arrival))
    assert here._probes.open == {}
    here._trunk.takers = take
    await soon(here.expect(arrival))
    here.unexpect(arrival)
