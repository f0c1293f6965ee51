"""Where connections went, and what is collected for those that come."""

from __future__ import annotations

import pytest

from hubs.messaging import moves
from hubs.messaging.moves import Arrival, Notes
from hubs.messaging.tally import Tally
from hubs.protocols.codec import Outgoing
from hubs.protocols.frames import GroupMessage, Payload, ServerMessage

ENDED = 2**62


def test_the_newest_news_counts() -> None:
    notes = Notes()
    assert notes.where("c") is None
    notes.went("c", "b", 2)
    notes.went("c", "a", 1)
    assert notes.where("c") == "b"
    notes.went("c", "d", 3)
    assert notes.where("c") == "d"
    notes.forget("c")
    notes.forget("c")
    assert notes.where("c") is None


def test_who_has_ended_is_nowhere() -> None:
    notes = Notes()
    notes.went("c", "", ENDED)
    notes.went("c", "b", 1)
    notes.went("c", "", ENDED)
    assert notes.where("c") is None


def test_notes_are_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "MAX_NOTES", 3)
    notes = Notes()
    for connection in "abcd":
        notes.went(connection, "p", 1)
    assert [notes.where(connection) for connection in "abcd"] == [None, "p", "p", "p"]


def _arrival(messages: int = 10, size: int = 1000) -> Arrival:
    return Arrival("c", "chat", user_id="u", subprotocol=None, groups=["g", "h"], max_messages=messages, max_bytes=size)


def _to_group(text: str, source: tuple[str, int] | None, group: str = "g", ttl: int | None = None) -> Outgoing:
    return Outgoing(GroupMessage(group, Payload("text", text.encode())), ttl_secs=ttl, source=source)


def _texts(held: list[Outgoing]) -> list[str]:
    return [outgoing.frame.payload.data.decode() for outgoing in held]  # type: ignore[union-attr]


def test_what_was_taken_elsewhere_is_not_delivered_again() -> None:
    arrival = _arrival()
    for number in range(1, 6):
        arrival.deliver(_to_group(f"p{number}", ("p", number)))
    arrival.deliver(_to_group("q1", ("q", 1)))
    arrival.deliver(Outgoing(ServerMessage(Payload("text", b"own"))))
    taken = {"p": Tally(3, [4])}
    assert _texts(arrival.not_in(taken, {"g"})) == ["p3", "p5", "q1", "own"]
    assert _texts(arrival.addressed()) == ["own"]


def test_what_was_for_a_group_that_was_left_is_not_delivered() -> None:
    arrival = _arrival()
    arrival.deliver(_to_group("1", ("p", 1)))
    arrival.deliver(_to_group("2", ("p", 2), "h"))
    assert _texts(arrival.not_in({}, {"h"})) == ["2"]


@pytest.mark.parametrize(("messages", "size"), [(2, 1000), (1000, 4)])
def test_both_bounds_are_exact(messages: int, size: int) -> None:
    arrival = _arrival(messages, size)
    arrival.deliver(_to_group("ab", None))
    arrival.deliver(_to_group("cd", None))
    assert not arrival.overrun
    arrival.deliver(_to_group("e", None))
    assert arrival.overrun
    # It is lost in any case, and holds no memory meanwhile.
    arrival.deliver(_to_group("f", None))
    assert arrival.addressed() == []
