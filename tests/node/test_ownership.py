"""Which claims hold: the same for all who read them, wherever in the log they began."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubs.cluster.entries import Claim
from hubs.layers.positions import first_of
from hubs.node import ownership
from hubs.node.ownership import CLAIM_SECS, CLAIMING_SECS, Claims, Owner

ID = "a" * 32
START_MS = 1_800_000_000_000


def _at(ms: int) -> int:
    return first_of(START_MS + ms)


def _claim(began_ms: int, of: str | None = None) -> Claim:
    return Claim(ID, START_MS + began_ms, of)


def test_the_later_handshake_holds_in_whichever_order_claims_come() -> None:
    for first, second, owner in ((("a", 0), ("b", 10), "b"), (("b", 10), ("a", 0), "b")):
        claims = Claims()
        assert claims.take(_at(20), first[0], _claim(first[1]))
        assert claims.take(_at(30), second[0], _claim(second[1])) == (second[0] == owner)
        assert claims.is_of(ID, owner)
        assert not claims.is_of(ID, "c")


def test_a_custodian_loses_to_any_socket() -> None:
    claims = Claims()
    assert claims.take(_at(0), "a", _claim(0))
    assert claims.take(_at(1000), "b", _claim(0, of="a"))
    # A second one comes too late, and a socket that began before it does not.
    assert not claims.take(_at(1001), "c", _claim(0, of="a"))
    assert claims.take(_at(1002), "c", _claim(500))
    assert not claims.take(_at(1003), "b", _claim(0, of="a"))
    assert claims.is_of(ID, "c")


def test_a_clock_that_is_ahead_is_of_no_use_and_one_that_is_far_behind_loses() -> None:
    claims = Claims()
    assert claims.take(_at(0), "a", _claim(10_000_000))
    assert claims.take(_at(10), "b", _claim(10))
    late = int(CLAIMING_SECS * 1000) + 1
    assert not claims.take(_at(late + 20), "c", _claim(19))
    assert claims.is_of(ID, "b")


def test_who_was_never_claimed_is_of_whoever_says_so() -> None:
    claims = Claims()
    assert claims.is_of(ID, "a")
    assert claims.get(ID) is None


def test_claims_are_forgotten_after_a_while_but_not_the_last_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = Claims()
    claims.take(_at(0), "a", _claim(0))
    other = Claim("b" * 32, START_MS + int(CLAIM_SECS * 1000) + 1)
    claims.take(_at(int(CLAIM_SECS * 1000) + 1), "b", other)
    assert list(claims.owners) == ["b" * 32]
    monkeypatch.setattr(ownership, "MAX_CLAIMS", 3)
    for number in range(10):
        began = other.began + number
        claims.take(_at(int(CLAIM_SECS * 1000) + 1 + number), "c", Claim(f"{number:032x}", began))
    assert list(claims.owners) == [f"{number:032x}" for number in (7, 8, 9)]


_CLAIMS = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from("abc"), st.integers(0, 8000), st.none() | st.sampled_from("abc")),
    max_size=20,
)


@given(_CLAIMS, st.integers(0, 20))
def test_who_begins_with_a_snapshot_comes_to_the_same_result(
    rows: list[tuple[int, str, int, str | None]], at: int
) -> None:
    """Who had it at the snapshot's place is in that; what is known from before counts for others."""
    now, log = 10_000, []
    for later, process, ago, of in rows:
        now += later
        log.append((_at(now), process, Claim(ID, START_MS + now - ago, of)))
    everything = Claims()
    # Whose it was when it was new.
    everything.put(ID, Owner("a", 0, 0))
    results = []
    known = everything.get(ID)
    for number, row in enumerate(log):
        if number == at:
            known = everything.get(ID)
        results.append(everything.take(*row))
    if at >= len(log):
        return
    again = Claims(everything, log[at][0] - 1)
    assert known is not None
    again.put(ID, known)
    assert [again.take(*row) for row in log[at:]] == results[at:]
    assert again.get(ID) == everything.get(ID)


@given(_CLAIMS, st.integers(0, 20), st.integers(0, 20))
def test_what_is_known_from_before_need_not_be_taken_again(
    rows: list[tuple[int, str, int, str | None]], at: int, forgotten: int
) -> None:
    """Who reads the log again knows at each place whose a connection was, whatever was read behind that meanwhile."""
    now, log, everything = 10_000, [], Claims()
    owners: list[Owner | None] = []
    for number, (later, process, ago, of) in enumerate(rows):
        now += later
        log.append((_at(now) + number, process, Claim(ID, START_MS + now - ago, of)))
        everything.take(*log[-1])
        owners.append(everything.get(ID))
    if ID not in everything.owners or at >= len(log):
        return
    # The oldest may not be known any more, but for the one that holds.
    del everything.owners[ID][: min(forgotten, len(everything.owners[ID]) - 1)]
    again = Claims(everything, log[at][0] - 1)
    if at and owners[at - 1] is not None and again.get(ID) is None:
        again.put(ID, owners[at - 1])
    for row, owner in zip(log[at:], owners[at:], strict=True):
        again.follow(row[0])
        if not again.is_known(ID, row[0]):
            again.take(*row)
        assert again.get(ID) == owner


def test_who_had_a_connection_that_was_never_claimed_stays_known_while_it_is_rebuilt() -> None:
    before = Claims()
    rows = [(_at(1_000), "a", Claim("other", START_MS)), (_at(2_000), "b", Claim(ID, 0, "a"))]
    for row in rows:
        before.take(*row)
    again = Claims(before, _at(500))
    again.put(ID, Owner("a", 0, 0))
    again.follow(rows[0][0])
    again.take(*rows[0])
    again.follow(rows[1][0])
    assert not again.is_known(ID, rows[1][0])
    assert again.take(*rows[1])
    assert again.get(ID) == Owner("b", 0, rows[1][0])
