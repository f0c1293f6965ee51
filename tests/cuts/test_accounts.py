"""The checker sees every fault that a transcript can have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cuts.accounts import Verdict, judge, mark, unmark

# Two publishers, three and two messages; the last of the second was never acknowledged.
SENT = [3, 2]
ACKNOWLEDGED = [{1, 2, 3}, {1}]
GOOD = [mark(0, 1), mark(1, 1), mark(0, 2), mark(0, 3), mark(1, 2)]


def verdict(*transcripts: list[int]) -> Verdict:
    return judge(SENT, ACKNOWLEDGED, transcripts)


def test_a_good_transcript_has_no_fault() -> None:
    assert verdict(GOOD) == Verdict(expected=4, delivered=4)


def test_what_was_not_acknowledged_may_be_missing() -> None:
    assert verdict(GOOD[:-1]) == Verdict(expected=4, delivered=4)


def test_publishers_may_come_in_any_order_among_each_other() -> None:
    assert verdict([mark(1, 1), mark(1, 2), mark(0, 1), mark(0, 2), mark(0, 3)]) == Verdict(expected=4, delivered=4)


@pytest.mark.parametrize("missing", range(4))
def test_one_that_is_missing_is_lost(missing: int) -> None:
    assert verdict(GOOD[:missing] + GOOD[missing + 1 :]).lost == 1


def test_an_empty_transcript_lost_everything() -> None:
    assert verdict([]) == Verdict(expected=4, delivered=0)
    assert verdict([]).lost == 4


@pytest.mark.parametrize("again", range(5))
@pytest.mark.parametrize("at_once", [True, False])
def test_one_that_comes_twice_is_a_duplicate_and_nothing_else(again: int, at_once: bool) -> None:
    doubled = GOOD[: again + 1] + GOOD[again:] if at_once else [*GOOD, GOOD[again]]
    assert verdict(doubled) == Verdict(expected=4, delivered=4, duplicated=1)


def test_a_duplicate_does_not_make_up_for_a_loss() -> None:
    assert verdict([mark(0, 1), mark(0, 1), mark(0, 3), mark(1, 1)]) == Verdict(4, 3, duplicated=1)


def test_one_behind_a_later_one_is_out_of_order() -> None:
    assert verdict([mark(0, 1), mark(0, 3), mark(1, 1), mark(0, 2)]) == Verdict(4, 4, out_of_order=1)
    # Also one that was never acknowledged.
    assert judge([2], [{2}], [[mark(0, 2), mark(0, 1)]]) == Verdict(1, 1, out_of_order=1)


@pytest.mark.parametrize("message", [mark(0, 0), mark(0, 4), mark(2, 1), mark(1, 3)])
def test_one_that_nobody_sent_is_strange(message: int) -> None:
    assert verdict([*GOOD, message]) == Verdict(4, 4, strange=1)


def test_members_are_added_up_and_do_not_make_up_for_each_other() -> None:
    assert verdict(GOOD, GOOD[1:], [*GOOD, GOOD[0]]) == Verdict(expected=12, delivered=11, duplicated=1)


@given(st.integers(0, 2**31), st.integers(0, 2**32 - 1))
def test_marks_are_read_as_written(publisher: int, number: int) -> None:
    assert unmark(mark(publisher, number)) == (publisher, number)
