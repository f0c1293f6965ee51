"""What a reliable client has not acknowledged: numbered, bounded, and in order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hubs.connections.backlog import Backlog
from hubs.protocols.codec import Batch, Message, Outgoing, size_of
from hubs.protocols.frames import Payload, ServerMessage

NOW = 100.0

Item = tuple[Message, int | None, int]


class _Bare:
    """A codec that writes nothing but the message's data, so that sizes are plain to see."""

    wire, named, reliable = "bare", True, True

    def encode(self, frame: ServerMessage) -> Message:
        data = frame.payload.data
        return data if frame.payload.data_type == "binary" else data.decode()


BARE: Any = _Bare()


def _batch(*items: Item | Message) -> Batch:
    """Data frames, with how long they may wait and their places in the log."""
    batch = Batch()
    for item in items:
        form, ttl_secs, place = item if isinstance(item, tuple) else (item, None, 0)
        data_type = "text" if isinstance(form, str) else "binary"
        payload = Payload(data_type, form.encode() if isinstance(form, str) else form)
        batch.add(Outgoing(ServerMessage(payload), ttl_secs=ttl_secs, place=place), BARE)
    return batch


def _backlog(messages: int = 10, size: int = 1000, **options: Any) -> Backlog:
    return Backlog(messages, size, **options)


def _put(backlog: Backlog, *items: Item | Message, now: float = NOW, sent: bool = False) -> int | None:
    return backlog.put(_batch(*items), now, sent=sent)


def _held(backlog: Backlog) -> list[tuple[int, Message]]:
    return list(backlog.replay())


def test_frames_are_numbered_and_kept_until_they_are_acknowledged() -> None:
    backlog = _backlog()
    assert _put(backlog, "a", b"b") == 1
    assert _put(backlog, "c") == 3
    assert (backlog.last, backlog.sent, backlog.acknowledged) == (3, 0, (0, 0))
    assert _held(backlog) == [(1, "a"), (2, b"b"), (3, "c")]
    # To the socket that was given them.
    assert backlog.sent == 3
    backlog.acknowledge(2, NOW)
    backlog.acknowledge(1, NOW)
    assert _held(backlog) == [(3, "c")]
    assert (len(backlog), backlog.last, backlog.acknowledged[0]) == (1, 3, 2)


def test_an_acknowledgement_of_what_was_never_sent_is_one_of_the_last() -> None:
    backlog = _backlog()
    _put(backlog, "a")
    backlog.acknowledge(2**64 - 1, NOW)
    assert (len(backlog), backlog.sent) == (0, 1)
    assert _put(backlog, "b") == 2


def test_it_goes_on_where_a_snapshot_was_taken() -> None:
    backlog = _backlog(last=41, sent=43, place=7)
    assert (backlog.last, backlog.sent, backlog.acknowledged) == (41, 43, (41, 7))
    assert _put(backlog, ("a", None, 8), ("b", 1, 9), ("c", 1, 10)) == 42
    # Those that some socket has had are not left out.
    assert backlog.late(NOW + 1) == [44]
    backlog.acknowledge(42, NOW)
    assert backlog.acknowledged == (42, 8)


def test_before_the_first_acknowledgement_it_goes_on_where_it_was_empty_last() -> None:
    backlog = _backlog()
    backlog.arrived(7)
    _put(backlog, ("a", None, 8), ("b", 1, 9))
    # Not from the beginning of the log, where others' messages are.
    assert backlog.acknowledged == (0, 7)
    backlog.acknowledge(2, NOW)
    assert backlog.acknowledged == (2, 9)
    backlog.arrived(12)
    assert backlog.acknowledged == (2, 12)


def test_places_go_with_their_frames() -> None:
    backlog = _backlog()
    _put(backlog, ("a", None, 10), ("b", 1, 20), ("c", None, 30))
    assert (backlog.places([1, 3]), backlog.numbers([30, 7, 20])) == ([10, 30], [2, 3])
    backlog.skip(backlog.numbers([20]))
    backlog.acknowledge(1, NOW)
    assert backlog.acknowledged == (1, 10)
    backlog.acknowledge(2, NOW)
    assert backlog.acknowledged == (2, 30)


def test_what_is_too_late_is_left_out_and_leaves_no_gap() -> None:
    backlog = _backlog()
    _put(backlog, ("late", 5, 0), "b", ("in time", 6, 0), "d")
    assert backlog.late(NOW + 4.9) == []
    assert backlog.late(NOW + 5) == [1]
    backlog.skip([1])
    assert (len(backlog), backlog.last) == (3, 3)
    # How long the others may wait has moved up with them.
    assert backlog.late(NOW + 6) == [2]
    assert _held(backlog) == [(1, "b"), (2, "in time"), (3, "d")]
    assert _put(backlog, "e") == 4


def test_what_a_socket_has_had_is_never_too_late() -> None:
    backlog = _backlog()
    _put(backlog, ("sent at once", 1, 0), sent=True)
    _put(backlog, ("given later", 5, 0))
    _held(backlog)
    assert backlog.late(NOW + 99) == []


@pytest.mark.parametrize("form", ["x" * 10, b"x" * 10, "ä" * 5])
def test_both_bounds_are_exact(form: Message) -> None:
    by_count, by_size = _backlog(2, 1000), _backlog(10, 20)
    for backlog, more in ((by_count, ""), (by_size, "x")):
        assert _put(backlog, form, form) == 1
        assert _put(backlog, more) is None
        assert (len(backlog), backlog.last) == (2, 2)
        backlog.acknowledge(1, NOW)
        # All or none of several.
        assert _put(backlog, form, more) is None
        assert _put(backlog, form) == 3


def test_what_is_too_late_makes_room() -> None:
    backlog = _backlog(2, 10)
    _put(backlog, ("aaaaa", 1, 0), ("b", 3, 0))
    assert _put(backlog, "c", now=NOW + 0.9) is None
    assert _put(backlog, "c" * 9, now=NOW + 1) == 3
    # It keeps its number until the log says that it is left out.
    assert (len(backlog), backlog.late(NOW + 1)) == (3, [1])
    assert _put(backlog, "d", now=NOW + 1) is None
    backlog.skip([1])
    assert _held(backlog) == [(1, "b"), (2, "c" * 9)]


class Backlogs(RuleBasedStateMachine):
    """A backlog beside what it ought to be: a list of everything, looked through each time."""

    MESSAGES, BYTES = 6, 12

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(self.MESSAGES, self.BYTES)
        self.now = 0.0
        # What was acknowledged, so many and the last one's place; and what was not: form (None: made room), when it is
        # too late for it, and its place.
        self.acknowledged = (0, 0)
        self.frames: list[tuple[Message | None, float, int]] = []
        self.sent = 0
        self.place = 0

    @property
    def size(self) -> int:
        return sum(0 if form is None else size_of(form) for form, _, _ in self.frames)

    @property
    def count(self) -> int:
        return sum(form is not None for form, _, _ in self.frames)

    @property
    def late(self) -> list[int]:
        first = self.acknowledged[0] + 1
        numbered = enumerate(self.frames, first)
        return [number for number, (_, late_at, _) in numbered if late_at <= self.now and number > self.sent]

    def _fits(self, forms: list[str]) -> bool:
        size = sum(len(form.encode()) for form in forms)
        return self.count + len(forms) <= self.MESSAGES and self.size + size <= self.BYTES

    @rule(
        items=st.lists(st.tuples(st.text(max_size=4), st.none() | st.integers(1, 4)), min_size=1, max_size=3),
        sent=st.booleans(),
    )
    def put(self, items: list[tuple[str, int | None]], sent: bool) -> None:
        forms = [form for form, _ in items]
        if not self._fits(forms):
            first = self.acknowledged[0] + 1
            for number in self.late:
                _, late_at, place = self.frames[number - first]
                self.frames[number - first] = (None, late_at, place)
        placed: list[Item] = []
        for form, ttl_secs in items:
            self.place += 1
            placed.append((form, ttl_secs, self.place))
        given = _put(self.backlog, *placed, now=self.now, sent=sent)
        if not self._fits(forms):
            assert given is None
            return
        assert given == self.acknowledged[0] + len(self.frames) + 1
        for form, ttl_secs, place in placed:
            self.frames.append((form, float("inf") if ttl_secs is None else self.now + ttl_secs, place))
        if sent:
            self.sent = self.acknowledged[0] + len(self.frames)

    @rule(sequence_id=st.integers(0, 40))
    def acknowledge(self, sequence_id: int) -> None:
        self.backlog.acknowledge(sequence_id, NOW)
        number, place = self.acknowledged
        while self.frames and number < sequence_id:
            number, place = number + 1, self.frames.pop(0)[2]
        self.acknowledged = (number, place)
        self.sent = max(self.sent, number)

    @rule(secs=st.integers(1, 3))
    def pass_time(self, secs: int) -> None:
        self.now += secs

    @rule()
    def skip_late(self) -> None:
        late = self.backlog.late(self.now)
        assert late == self.late
        self.backlog.skip(late)
        first = self.acknowledged[0] + 1
        self.frames = [frame for number, frame in enumerate(self.frames, first) if number not in late]

    @rule()
    def come_back(self) -> None:
        self.skip_late()
        first = self.acknowledged[0] + 1
        there = [(number, form) for number, (form, _, _) in enumerate(self.frames, first) if form is not None]
        assert list(self.backlog.replay()) == there
        self.sent = self.acknowledged[0] + len(self.frames)

    @invariant()
    def agree(self) -> None:
        assert len(self.backlog) == len(self.frames)
        assert self.backlog.last == self.acknowledged[0] + len(self.frames)
        assert self.backlog.acknowledged == self.acknowledged
        assert self.backlog.sent == self.sent
        assert self.backlog._bytes == self.size


TestBacklogs = Backlogs.TestCase
