"""The generator against servers that keep their word, and against those that do not."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from bench.clients import PAYLOADS
from bench.contestants import Contestant, Need, always
from bench.crowd import Crowd, Shape, Traffic
from bench.dialects import Topics
from bench.machine import CannotStart
from bench.servers import Field, Server, Wrong

HERE = Path(__file__).resolve().parent
SHAPE = Shape(2, 3)


ABSENT = Contestant("absent", "Absent", HERE, ("absent",), always("/"), needs=(Need(lambda: False, "a thing"),))


def _topics(how: str) -> Contestant:
    return Contestant(
        "topics",
        "topics",
        HERE,
        (sys.executable, "topics_server.py", "{port}", how),
        always("/"),
        dialect=Topics("/?group={group}", "/?group={group}&publish=1"),
    )


async def _flood(how: str, patience: pytest.MonkeyPatch | None = None) -> Traffic:
    with Server(_topics(how), None) as server:
        async with Crowd(server, SHAPE) as crowd:
            if patience is not None:
                # With those who connect it has as much as ever; a third of this with what does not arrive.
                patience.setattr("bench.crowd.PATIENCE_SECS", 1.5)
            return await crowd.flood(0.2, 30)


@pytest.mark.parametrize("how", ["keeps", "pings"])
async def test_what_was_sent_has_arrived(how: str) -> None:
    traffic = await _flood(how)
    assert traffic.delivered == traffic.expected > 0
    assert (traffic.surplus, traffic.problem) == (0, None)
    # Whole messages to whole groups.
    assert traffic.expected % SHAPE.members == 0


async def test_a_loss_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = await _flood("loses", monkeypatch)
    # One message in each group.
    assert (traffic.delivered, traffic.surplus) == (traffic.expected - SHAPE.groups, 0)


async def test_a_double_is_seen_and_makes_up_for_nothing() -> None:
    traffic = await _flood("doubles")
    assert (traffic.delivered, traffic.surplus) == (traffic.expected, SHAPE.groups)


@pytest.mark.parametrize(("how", "says"), [("changes", "differs from what was sent"), ("closes", "1008 enough")])
async def test_what_differs_and_who_is_closed_counts_as_lost(
    how: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic = await _flood(how, monkeypatch)
    assert traffic.delivered < traffic.expected
    assert traffic.problem is not None
    assert says in traffic.problem


async def test_each_delivery_of_a_pace_is_timed() -> None:
    with Server(_topics("keeps"), None) as server:
        async with Crowd(server, SHAPE, [PAYLOADS[2048]]) as crowd:
            assert crowd.frame_bytes == 2048 + 4
            traffic = await crowd.pace(0.2, 50)
    assert traffic.delivered == traffic.expected == 10 * SHAPE.members
    assert len(traffic.latencies) == traffic.delivered
    assert all(0 < latency < 10 for latency in traffic.latencies)


def test_what_is_not_installed_is_said() -> None:
    assert ABSENT.missing() == ["a thing"]
    with pytest.raises(CannotStart, match="Absent needs a thing"):
        Server(ABSENT, None).__enter__()


def test_one_that_fails_is_said_and_takes_no_further_part() -> None:
    failures: list[str] = []
    turns: list[str] = []

    async def turn(server: Server, problem: Exception | None) -> None:
        turns.append(server.contestant.name)
        if problem is not None:
            raise problem

    problems = iter([Wrong("a message was lost"), OSError("it is gone"), None, None])
    others = [dataclasses.replace(_topics("keeps"), name=name, title=name) for name in ("first", "second")]
    with Field([ABSENT, *others], None, failures) as field:
        for _ in range(2):
            for server in field:
                field.turn(server, turn(server, next(problems)))
        [left] = field
        assert left.processes()[0].is_running()
    assert turns == ["first", "second", "first"]
    assert failures[:2] == ["Absent needs a thing.", "a message was lost"]
    assert failures[2].startswith("second: it is gone. It takes no further part.")
