"""What was taken and what is on its way, by numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hubs.messaging.tally import Departures, Tally


def test_a_tally_has_what_it_took_and_everything_below_the_floor() -> None:
    tally = Tally()
    tally.take(3, 2)
    assert [number in tally for number in range(6)] == [True, True, False, True, False, False]
    tally.take(5, 5)
    assert [number in tally for number in range(7)] == [True] * 6 + [False]
    # Nothing below the floor need be remembered singly.
    assert tally.beyond == {5}


def test_an_older_floor_says_nothing_new() -> None:
    tally = Tally()
    tally.take(9, 8)
    tally.take(6, 4)
    assert (tally.floor, 7 in tally, 8 in tally) == (8, True, False)


def test_an_empty_tally_has_nothing() -> None:
    assert 1 not in Tally()
    assert 0 not in Tally()


@given(st.integers(0, 50), st.sets(st.integers(0, 99)))
def test_it_travels_as_plain_values(floor: int, beyond: set[int]) -> None:
    tally = Tally(floor, beyond)
    moved = Tally(*tally.packed())
    assert [number in moved for number in range(100)] == [number in tally for number in range(100)]


def test_numbers_begin_at_one() -> None:
    departures = Departures()
    assert (departures.last, departures.floor) == (0, 1)
    assert departures.begin(here_first=True) == 1
    assert (departures.last, departures.floor) == (1, 1)
    departures.done(1)
    assert (departures.last, departures.floor) == (1, 2)


def test_the_floor_waits_for_the_slowest() -> None:
    departures = Departures()
    first, second, third = (departures.begin(here_first=True) for _ in range(3))
    departures.done(second)
    assert departures.floor == first
    departures.done(first)
    assert departures.floor == third
    departures.done(first)
    assert departures.floor == third


def test_what_local_members_have() -> None:
    departures = Departures()
    assert 1 not in departures.taken_here()
    at_once = departures.begin(here_first=True)
    later = departures.begin(here_first=False)
    at_once_too = departures.begin(here_first=True)
    taken = departures.taken_here()
    assert [number in taken for number in (at_once, later, at_once_too, at_once_too + 1)] == [True, False, True, False]
    departures.done(later)
    taken = departures.taken_here()
    assert [number in taken for number in (later, at_once_too, at_once_too + 1)] == [True, True, False]


# A publisher with some messages under way at once, and a reader who gets them in the order in which
# they reach the layer.
moves = st.lists(st.tuples(st.sampled_from(["begin", "send", "done"]), st.integers(0, 9)), max_size=60)


@given(moves)
def test_a_reader_knows_exactly_what_it_has_read(steps: list[tuple[str, int]]) -> None:
    departures, tally = Departures(), Tally()
    begun: list[int] = []
    sent: list[int] = []
    read: set[int] = set()
    failed: set[int] = set()
    for step, choice in steps:
        if step == "begin":
            begun.append(departures.begin(here_first=True))
        elif step == "send" and begun:
            # The floor is looked at when it is sent.
            number = begun.pop(choice % len(begun))
            tally.take(number, departures.floor)
            read.add(number)
            sent.append(number)
        elif step == "done" and sent and choice:
            departures.done(sent.pop(choice % len(sent)))
        elif step == "done" and begun:
            number = begun.pop(0)
            departures.done(number)
            failed.add(number)
        for number in range(1, departures.last + 1):
            if number not in failed:
                assert (number in tally) == (number in read)
    assert departures.last + 1 not in tally
    # Bounded by what is under way, however much there was.
    assert len(tally.beyond) <= max(0, departures.last + 1 - tally.floor)
