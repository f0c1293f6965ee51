"""Many sockets kept alive with one timer."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubs.servers.keep_alive import Wheel

SECS = 20.0
SLOT = 1.0


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose time goes on when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.problems: list[Any] = []
        self.set_exception_handler(lambda _, context: self.problems.append(context["exception"]))

    def time(self) -> float:
        return self.now

    @property
    def timers(self) -> int:
        return sum(not timer.cancelled() for timer in self._scheduled)  # type: ignore[attr-defined]

    def do(self, work: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return work()

        return self.run_until_complete(run())

    def until(self, time: float) -> None:
        """Let time pass, and everything happen at its own."""
        while self._scheduled and self._scheduled[0].when() <= time:  # type: ignore[attr-defined]
            if self._scheduled[0].cancelled():  # type: ignore[attr-defined]
                heapq.heappop(self._scheduled)  # type: ignore[attr-defined]
                continue
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
            self.do(lambda: None)
        self.now = time


class _Socket:
    def __init__(self, loop: _Loop) -> None:
        self.loop = loop
        self.beats: list[float] = []
        self.payloads: list[bytes] = []
        self.on_beat: Callable[[], None] = lambda: None
        self.slot = 0

    def beat(self, payload: bytes) -> None:
        self.beats.append(self.loop.now)
        self.payloads.append(payload)
        self.on_beat()


@pytest.fixture
def loop() -> Iterator[_Loop]:
    made = _Loop()
    yield made
    made.close()


def _add(loop: _Loop, wheel: Wheel) -> _Socket:
    socket = _Socket(loop)
    socket.slot = loop.do(lambda: wheel.add(socket))
    return socket


@given(st.lists(st.tuples(st.floats(0, 3 * SECS), st.floats(0.0, 5 * SECS)), min_size=1, max_size=12))
def test_each_is_looked_after_once_in_a_turn_as_long_as_it_is_there(stays: list[tuple[float, float]]) -> None:
    loop = _Loop()
    wheel = Wheel(SECS)
    moments = sorted(
        [(begin, True, number) for number, (begin, _) in enumerate(stays)]
        + [(begin + length, False, number) for number, (begin, length) in enumerate(stays)],
        key=lambda moment: (moment[0], not moment[1]),
    )
    sockets: dict[int, _Socket] = {}
    here = 0
    for moment, comes, number in moments:
        loop.until(moment)
        if comes:
            sockets[number] = _add(loop, wheel)
        else:
            loop.do(lambda number=number: wheel.remove(sockets[number], sockets[number].slot))
            loop.do(lambda number=number: wheel.remove(sockets[number], sockets[number].slot))
        here += 1 if comes else -1
        assert len(wheel) == here
        # One timer, however many they are; none, when there are none.
        assert loop.timers == (here > 0)
    for number, (begin, length) in enumerate(stays):
        beats = sockets[number].beats
        for before, after in zip([begin, *beats], beats, strict=False):
            assert SECS - SLOT - 1e-6 <= after - before <= SECS + 1e-6
        assert begin + length - (beats or [begin])[-1] <= SECS + 1e-6
    loop.close()


def test_pings_differ(loop: _Loop) -> None:
    socket = _add(loop, Wheel(SECS))
    loop.until(20 * SECS)
    assert len(set(socket.payloads)) == len(socket.payloads) == 20
    assert {len(payload) for payload in socket.payloads} == {4}


def test_who_goes_or_comes_while_it_turns(loop: _Loop) -> None:
    wheel = Wheel(SECS)
    first, second, third = (_add(loop, wheel) for _ in range(3))
    late = _Socket(loop)

    def change() -> None:
        wheel.remove(first, first.slot)
        wheel.remove(third, third.slot)
        late.slot = wheel.add(late)

    first.on_beat = change
    loop.until(SECS + 1e-6)
    assert (len(first.beats), len(second.beats), len(wheel)) == (1, 1, 2)
    loop.until(3 * SECS + 1e-6)
    # A whole turn later it is its own.
    assert (len(first.beats), len(second.beats), len(late.beats)) == (1, 3, 2)
    for socket in (second, late):
        wheel.remove(socket, socket.slot)
    assert loop.timers == 0


def test_the_last_one_goes_while_it_turns(loop: _Loop) -> None:
    wheel = Wheel(SECS)
    only = _add(loop, wheel)
    only.on_beat = lambda: wheel.remove(only, only.slot)
    loop.until(SECS + 1e-6)
    assert (len(only.beats), len(wheel), loop.timers) == (1, 0, 0)
    again = _add(loop, wheel)
    loop.until(3 * SECS)
    assert len(again.beats) in (1, 2)


def test_it_goes_on_when_one_fails(loop: _Loop) -> None:
    wheel = Wheel(SECS)
    failing = _add(loop, wheel)
    fault = RuntimeError("the test's own")

    def fail() -> None:
        raise fault

    failing.on_beat = fail
    loop.until(SECS / 2)
    other = _add(loop, wheel)
    loop.until(4 * SECS)
    assert len(other.beats) == 3
    assert loop.problems == [fault] * len(failing.beats)


def test_those_who_are_not_read_are_probed_in_every_slot_and_sent_a_ping_now_and_then(loop: _Loop) -> None:
    class Watched:
        def __init__(self) -> None:
            self.probes: list[bytes | None] = []

        def probe(self, payload: bytes | None) -> None:
            self.probes.append(payload)

    wheel, watched = Wheel(SECS), Watched()
    loop.do(lambda: wheel.watch(watched))
    loop.until(SECS + 1e-6)
    assert len(watched.probes) == SECS / SLOT
    assert sum(payload is not None for payload in watched.probes) == 2
    # One timer, as long as anybody is there.
    beating = _add(loop, wheel)
    loop.do(lambda: wheel.unwatch(watched))
    loop.do(lambda: wheel.unwatch(watched))
    assert loop.timers == 1
    loop.do(lambda: wheel.remove(beating, beating.slot))
    assert loop.timers == 0


@pytest.mark.parametrize(("secs", "slot"), [(0.5, 0.05), (10.0, 1.0), (10.5, 10.5 / 11), (60.0, 1.0), (6e9, 1e8)])
def test_a_slot_is_no_longer_than_a_second_if_that_is_enough(secs: float, slot: float) -> None:
    assert Wheel(secs).slot_secs == pytest.approx(slot)
