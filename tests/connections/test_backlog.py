"""What a reliable client has not acknowledged: numbered, bounded, and in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hubs.connections.backlog import Backlog, BacklogFull

NOW = 100.0


def _backlog(messages: int = 10, size: int = 1000) -> Backlog:
    return Backlog(messages, size)


def _forms(backlog: Backlog, now: float = NOW) -> list[tuple[int, object]]:
    return list(backlog.replay(now))


def test_frames_are_counted_and_kept_until_they_are_acknowledged() -> None:
    backlog = _backlog()
    assert [backlog.send(form) for form in ("a", b"b", "c")] == [1, 2, 3]
    assert _forms(backlog) == [(1, "a"), (2, b"b"), (3, "c")]
    backlog.acknowledge(2, now=0.0)
    backlog.acknowledge(1, now=0.0)
    assert _forms(backlog) == [(3, "c")]
    assert (len(backlog), backlog.sent, backlog.last) == (1, 1, 3)


def test_an_acknowledgement_of_what_was_never_sent_is_one_of_the_last() -> None:
    backlog = _backlog()
    backlog.send("a")
    backlog.acknowledge(2**64 - 1, now=0.0)
    assert len(backlog) == 0
    assert backlog.send("b") == 2


def test_frames_that_wait_get_their_ids_when_the_client_is_back() -> None:
    backlog = _backlog()
    backlog.send("a")
    backlog.hold("b", None, NOW)
    backlog.hold("c", 5, NOW)
    backlog.acknowledge(3, now=0.0)
    assert (len(backlog), backlog.sent, backlog.last) == (2, 0, 1)
    assert _forms(backlog, NOW + 4.9) == [(2, "b"), (3, "c")]
    assert _forms(backlog, NOW + 99) == [(2, "b"), (3, "c")]


def test_what_is_too_late_leaves_no_gap() -> None:
    backlog = _backlog()
    backlog.hold("late", 5, NOW)
    backlog.hold("b", None, NOW)
    assert len(backlog) == 2
    assert _forms(backlog, NOW + 5) == [(1, "b")]
    assert backlog.send("c") == 2


@pytest.mark.parametrize("form", ["x" * 10, b"x" * 10, "ä" * 5])
def test_both_bounds_are_exact(form: str | bytes) -> None:
    by_count, by_size = _backlog(2, 1000), _backlog(10, 20)
    for backlog in (by_count, by_size):
        backlog.send(form)
        backlog.hold(form, None, NOW)
        with pytest.raises(BacklogFull):
            backlog.hold("", None, NOW) if backlog is by_count else backlog.hold("x", None, NOW)
        with pytest.raises(BacklogFull):
            backlog.send("x")
        assert len(backlog) == 2
        backlog.acknowledge(1, now=0.0)
        assert backlog.send(form) == 2


def test_what_the_log_is_told_of_one_that_is_full() -> None:
    by_count, by_size = _backlog(2, 1000), _backlog(10, 20)
    for backlog in (by_count, by_size):
        backlog.send("x" * 10)
        backlog.send("y" * 9)
    cause, waiting = by_count.overflow(NOW)
    assert cause == "More waits for its client than RELIABLE_BUFFER_MESSAGES allows."
    assert waiting == "2 messages, 19 bytes, no acknowledgement yet"
    by_size.acknowledge(0, NOW - 2.5)
    cause, waiting = by_size.overflow(NOW)
    assert cause == "More waits for its client than RELIABLE_BUFFER_BYTES allows."
    assert waiting == "2 messages, 19 bytes, last acknowledgement 2.5 s ago"


def test_what_is_too_late_makes_room() -> None:
    backlog = _backlog(2)
    backlog.hold("a", 1, NOW)
    backlog.hold("b", 3, NOW)
    backlog.hold("c", None, NOW + 2)
    assert _forms(backlog, NOW + 2) == [(1, "b"), (2, "c")]


def test_a_part_is_as_large_as_allowed_and_never_empty() -> None:
    backlog = _backlog(10)
    for form in ("a" * 10, "b" * 10, "c" * 10, "d" * 50):
        backlog.send(form)
    assert backlog.packed(0, 20, NOW) == ([("a" * 10, None), ("b" * 10, None)], 2)
    assert backlog.packed(2, 20, NOW) == ([("c" * 10, None)], 3)
    assert backlog.packed(3, 20, NOW) == ([("d" * 50, None)], 4)
    assert backlog.packed(4, 20, NOW) == ([], 4)
    assert backlog.newest == 4


def test_the_next_part_begins_behind_the_last_whatever_was_dropped() -> None:
    backlog = _backlog(3)
    backlog.hold("short", 1, NOW)
    backlog.hold("a", None, NOW)
    backlog.hold("b", None, NOW)
    frames, upto = backlog.packed(0, 6, NOW)
    assert frames == [("short", 1.0), ("a", None)]
    backlog.hold("c", None, NOW + 2)
    assert backlog.packed(upto, 100, NOW + 2) == ([("b", None), ("c", None)], backlog.newest)


def test_dropping_the_newest_is_noticed_as_the_end() -> None:
    backlog = _backlog(2)
    backlog.hold("a", 1, NOW)
    backlog.hold("b", 1, NOW)
    _, upto = backlog.packed(0, 1, NOW)
    assert upto < backlog.newest
    backlog.hold("c", 1, NOW + 2)
    assert backlog.packed(upto, 1, NOW + 2) == ([("c", 1.0)], backlog.newest)


def test_times_travel_as_what_is_left_of_them() -> None:
    backlog = _backlog()
    backlog.hold("a", 5, NOW)
    backlog.hold("late", 1, NOW)
    frames, _ = backlog.packed(0, 100, NOW + 2)
    assert frames == [("a", 3.0), ("late", 0.0)]
    other = _backlog()
    other.unpack(frames, sent=0, last=7, now=5000)
    assert _forms(other, 5002.9) == [(8, "a")]
    other = _backlog()
    other.unpack(frames, sent=0, last=7, now=5000)
    assert _forms(other, 5003) == []


@given(
    sent=st.lists(st.text(max_size=5) | st.binary(max_size=5), max_size=8),
    held=st.lists(st.text(max_size=5), max_size=8),
    acknowledged=st.integers(0, 9),
    part=st.integers(1, 20),
)
def test_a_backlog_goes_on_elsewhere(sent: list[str | bytes], held: list[str], acknowledged: int, part: int) -> None:
    here, there = _backlog(100), _backlog(100)
    for form in sent:
        here.send(form)
    here.acknowledge(acknowledged, now=0.0)
    for form in held:
        here.hold(form, None, NOW)
    frames, upto = here.packed(0, part, NOW)
    while upto < here.newest:
        more, upto = here.packed(upto, part, NOW)
        frames += more
    there.unpack(frames, sent=here.sent, last=here.last, now=NOW)
    assert len(there) == len(here)
    assert there._bytes == here._bytes
    assert _forms(there) == _forms(here)
    assert there.send("next") == here.send("next")


class Backlogs(RuleBasedStateMachine):
    """A backlog beside what it ought to be: lists of everything, looked through each time."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(6, 12)
        self.now = 0.0
        self.last = 0
        self.away = False
        self.sent: list[tuple[int, str]] = []
        self.waiting: list[tuple[str, float]] = []

    @property
    def size(self) -> int:
        return sum(len(form.encode()) for _, form in self.sent) + sum(len(form.encode()) for form, _ in self.waiting)

    def _fits(self, form: str) -> bool:
        return len(self.sent) + len(self.waiting) < 6 and self.size + len(form.encode()) <= 12

    @precondition(lambda self: not self.away)
    @rule(form=st.text(max_size=4))
    def send(self, form: str) -> None:
        if not self._fits(form):
            with pytest.raises(BacklogFull):
                self.backlog.send(form)
            return
        self.last += 1
        assert self.backlog.send(form) == self.last
        self.sent.append((self.last, form))

    @precondition(lambda self: self.away)
    @rule(form=st.text(max_size=4), ttl=st.none() | st.integers(1, 4))
    def hold(self, form: str, ttl: int | None) -> None:
        if not self._fits(form):
            self.waiting = [(one, late_at) for one, late_at in self.waiting if late_at > self.now]
        if not self._fits(form):
            with pytest.raises(BacklogFull):
                self.backlog.hold(form, ttl, self.now)
            return
        self.backlog.hold(form, ttl, self.now)
        self.waiting.append((form, self.now + (float("inf") if ttl is None else ttl)))

    @rule(sequence_id=st.integers(0, 40))
    def acknowledge(self, sequence_id: int) -> None:
        self.backlog.acknowledge(sequence_id, now=0.0)
        self.sent = [(number, form) for number, form in self.sent if number > sequence_id]

    @rule(secs=st.integers(1, 3))
    def pass_time(self, secs: int) -> None:
        self.now += secs

    @rule()
    def go_away(self) -> None:
        self.away = True

    @precondition(lambda self: self.away)
    @rule()
    def come_back(self) -> None:
        self.away = False
        for form, late_at in self.waiting:
            if late_at > self.now:
                self.last += 1
                self.sent.append((self.last, form))
        self.waiting.clear()
        assert list(self.backlog.replay(self.now)) == self.sent

    @precondition(lambda self: self.away)
    @rule(parts=st.lists(st.integers(1, 8), max_size=3))
    def move(self, parts: list[int]) -> None:
        frames, upto = [], 0
        for room in [*parts, 1000]:
            more, upto = self.backlog.packed(upto, room, self.now)
            frames += more
        assert upto == self.backlog.newest
        moved = Backlog(6, 12)
        moved.unpack(frames, sent=self.backlog.sent, last=self.backlog.last, now=self.now)
        self.backlog = moved

    @invariant()
    def agree(self) -> None:
        assert len(self.backlog) == len(self.sent) + len(self.waiting)
        assert self.backlog.sent == len(self.sent)
        assert self.backlog.last == self.last
        assert self.backlog._bytes == self.size


TestBacklogs = Backlogs.TestCase
