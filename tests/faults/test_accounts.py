"""The checker sees every fault that a transcript can have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.accounts import MAX_EXAMPLES, Published, Session, Verdict, judge, mark, unmark

# Two publishers, three and two messages; the last of the second was never acknowledged. The hundreds are seconds.
SENT = [Published([100, 200, 300], {1, 2, 3}), Published([100, 200], {1})]
GOOD = [mark(0, 1), mark(1, 1), mark(0, 2), mark(0, 3), mark(1, 2)]


def verdict(*transcripts: list[int]) -> Verdict:
    """Of members with one session each."""
    return judge(SENT, [[Session(0, transcript)] for transcript in transcripts])


def test_a_good_transcript_has_no_fault() -> None:
    assert verdict(GOOD) == Verdict(expected=4, delivered=4)


def test_what_was_not_acknowledged_may_be_missing() -> None:
    assert verdict(GOOD[:-1]) == Verdict(expected=4, delivered=4)


def test_publishers_may_come_in_any_order_among_each_other() -> None:
    assert verdict([mark(1, 1), mark(1, 2), mark(0, 1), mark(0, 2), mark(0, 3)]) == Verdict(expected=4, delivered=4)


@pytest.mark.parametrize("missing", range(4))
def test_one_that_is_missing_is_lost(missing: int) -> None:
    assert verdict(GOOD[:missing] + GOOD[missing + 1 :]) == Verdict(expected=4, delivered=3, lost=1)


def test_an_empty_transcript_lost_everything() -> None:
    assert verdict([]) == Verdict(expected=4, lost=4)


@pytest.mark.parametrize("again", range(5))
@pytest.mark.parametrize("at_once", [True, False])
def test_one_that_comes_twice_is_a_duplicate_and_nothing_else(again: int, at_once: bool) -> None:
    doubled = GOOD[: again + 1] + GOOD[again:] if at_once else [*GOOD, GOOD[again]]
    assert verdict(doubled) == Verdict(expected=4, delivered=4, duplicated=1)


def test_a_duplicate_does_not_make_up_for_a_loss() -> None:
    assert verdict([mark(0, 1), mark(0, 1), mark(0, 3), mark(1, 1)]) == Verdict(4, 3, lost=1, duplicated=1)


def test_one_behind_a_later_one_is_out_of_order() -> None:
    assert verdict([mark(0, 1), mark(0, 3), mark(1, 1), mark(0, 2)]) == Verdict(4, 4, out_of_order=1)
    # Also one that was never acknowledged.
    assert judge([Published([1, 2], {2})], [[Session(0, [mark(0, 2), mark(0, 1)])]]) == Verdict(1, 1, out_of_order=1)


def test_one_that_was_refused_first_may_come_behind_later_ones() -> None:
    sent = [Published([1, 2, 3], {1, 2, 3}, unordered={1})]
    assert judge(sent, [[Session(0, [mark(0, 2), mark(0, 1), mark(0, 3)])]]) == Verdict(3, 3)
    # The others are still in order among each other.
    assert judge(sent, [[Session(0, [mark(0, 3), mark(0, 1), mark(0, 2)])]]) == Verdict(3, 3, out_of_order=1)


@pytest.mark.parametrize("message", [mark(0, 0), mark(0, 4), mark(2, 1), mark(1, 3)])
def test_one_that_nobody_sent_is_strange(message: int) -> None:
    assert verdict([*GOOD, message]) == Verdict(4, 4, strange=1)


def test_members_are_added_up_and_do_not_make_up_for_each_other() -> None:
    assert verdict(GOOD, GOOD[1:], [*GOOD, GOOD[0]]) == Verdict(expected=12, delivered=11, lost=1, duplicated=1)


def test_what_is_missing_at_the_end_of_a_session_that_was_told_of_its_end_is_told() -> None:
    sessions = [Session(0, [mark(0, 1), mark(1, 1)], told_at=250), Session(260, [mark(0, 3)])]
    assert judge(SENT, [sessions]) == Verdict(expected=4, delivered=3, told=1)


def test_what_is_sent_between_two_sessions_is_told() -> None:
    sessions = [Session(0, [mark(0, 1), mark(1, 1)], told_at=150), Session(260, [mark(0, 3)])]
    assert judge(SENT, [sessions]) == Verdict(expected=4, delivered=3, told=1)


def test_what_a_session_passed_over_is_lost_even_if_it_is_told_of_its_end_later() -> None:
    sessions = [Session(0, [mark(0, 1), mark(1, 1), mark(0, 3)], told_at=350), Session(400, [])]
    assert judge(SENT, [sessions]) == Verdict(expected=4, delivered=3, lost=1)
    # Not so one that was refused first: it may have been taken when the session was over.
    refused = [Published([100, 200, 300], {1, 2, 3}, unordered={2}), SENT[1]]
    assert judge(refused, [sessions]) == Verdict(expected=4, delivered=3, told=1)


def test_what_a_later_session_lacks_is_lost() -> None:
    sessions = [Session(0, [mark(1, 1)], told_at=90), Session(95, [mark(1, 1)])]
    assert judge(SENT, [sessions]) == Verdict(expected=4, delivered=1, lost=3, duplicated=1)


def test_a_message_of_two_sessions_is_doubled() -> None:
    sessions = [Session(0, GOOD[:3], told_at=250), Session(260, GOOD[2:])]
    assert judge(SENT, [sessions]) == Verdict(expected=4, delivered=4, duplicated=1)


@given(st.integers(0, 2**31), st.integers(0, 2**32 - 1))
def test_marks_are_read_as_written(publisher: int, number: int) -> None:
    assert unmark(mark(publisher, number)) == (publisher, number)


def test_the_first_that_are_lost_are_described() -> None:
    passed = Session(1.0, [mark(0, 1), mark(0, 3)], told_at=9.0, name="c1")
    [example] = judge([Published([2.0, 3.0, 4.0], {1, 2, 3})], [[passed]]).examples
    assert example == (
        "message 2 of publisher 0, sent 2.0 s after connection c1 had joined, "
        "which was told after 8.0 s and got later ones"
    )
    many = [Published([2.0] * 50, range(1, 51))]
    assert len(judge(many, [[Session(1.0, [])]]).examples) == MAX_EXAMPLES
