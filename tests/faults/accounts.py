"""What was sent against what arrived, message by message. Pure: numbers in, verdict out.

A message is known by its publisher and its number; publishers count from 1. A member of the audience has one
connection after the other, and of each a *transcript*: what it got, in the order in which it got it, behind its own
de-duplication.

An acknowledged message that a member never got is one of two things:

* *told*: the member's connection of that time ended against its will, and it knows (a recovery was refused with
  1008, the connection was closed with a reason), so that it can ask its application what it has missed; or it
  had no connection at that time, for the same reason.
* *lost silently*: nobody told the member. Also lost silently is what was passed over: the same connection got a
  later message of that publisher, and was told only afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

_NUMBER_BITS = 32
# So many messages that were lost silently are described.
MAX_EXAMPLES = 10


def mark(publisher: int, number: int) -> int:
    """A message as one integer, so that a transcript can be an array."""
    return publisher << _NUMBER_BITS | number


def unmark(message: int) -> tuple[int, int]:
    """Publisher and number of a message."""
    return message >> _NUMBER_BITS, message & ((1 << _NUMBER_BITS) - 1)


@dataclass(frozen=True)
class Published:
    """What one publisher sent: when it first sent each message (number 1 first), and which of them were taken.

    `unordered`: numbers for which no order is promised, such as those that were refused first and taken later.
    """

    sent_at: Sequence[float]
    acknowledged: Collection[int]
    unordered: Collection[int] = ()


@dataclass(frozen=True)
class Session:
    """One connection of a member, from when its memberships were confirmed until it was told of the end."""

    joined_at: float
    transcript: Sequence[int]
    # None: it was not told of any end.
    told_at: float | None = None
    # How it is called in the service's logs.
    name: str = ""

    def has(self, moment: float) -> bool:
        """Whether it was there at that moment."""
        return self.joined_at <= moment and (self.told_at is None or moment < self.told_at)


@dataclass(frozen=True)
class Verdict:
    """The sum over all members."""

    # Acknowledged messages times members, and how many of these arrived at least once.
    expected: int = 0
    delivered: int = 0
    # Those that did not.
    lost: int = 0
    told: int = 0
    # Arrivals beyond the first.
    duplicated: int = 0
    # First arrivals behind one with a higher number of the same publisher.
    out_of_order: int = 0
    # Arrivals that nobody sent.
    strange: int = 0
    # The first of those that were lost silently, in words.
    examples: tuple[str, ...] = field(default=(), compare=False)


def judge(streams: Sequence[Published], members: Iterable[Sequence[Session]]) -> Verdict:
    """Compare what each member got over all its sessions with what was sent.

    A message that was sent and not acknowledged may arrive or not, but once and in order.
    """
    due = {mark(publisher, number) for publisher, one in enumerate(streams) for number in one.acknowledged}
    expected = delivered = lost = told = duplicated = out_of_order = strange = 0
    examples: list[str] = []
    for sessions in members:
        seen: set[int] = set()
        highest = [0] * len(streams)
        # Of each session, the highest number of each publisher up to its end.
        reached: list[list[int]] = []
        for session in sessions:
            for message in session.transcript:
                publisher, number = unmark(message)
                if not (publisher < len(streams) and 1 <= number <= len(streams[publisher].sent_at)):
                    strange += 1
                elif message in seen:
                    duplicated += 1
                else:
                    seen.add(message)
                    out_of_order += number < highest[publisher] and number not in streams[publisher].unordered
                    highest[publisher] = max(highest[publisher], number)
            reached.append(highest.copy())
        missing = due - seen
        for message in sorted(missing):
            publisher, number = unmark(message)
            stream = streams[publisher]
            sent_at = stream.sent_at[number - 1]
            at = next((index for index, session in enumerate(sessions) if session.has(sent_at)), None)
            if at is None:
                told += 1
                continue
            passed_over = reached[at][publisher] > number and number not in stream.unordered
            if sessions[at].told_at is None or passed_over:
                lost += 1
                if len(examples) < MAX_EXAMPLES:
                    examples.append(_described(publisher, number, sent_at, sessions[at], passed_over))
            else:
                told += 1
        expected += len(due)
        delivered += len(due) - len(missing)
    return Verdict(expected, delivered, lost, told, duplicated, out_of_order, strange, tuple(examples))


def _described(publisher: int, number: int, sent_at: float, session: Session, passed_over: bool) -> str:
    told = "never told" if session.told_at is None else f"told after {session.told_at - session.joined_at:.1f} s"
    return (
        f"message {number} of publisher {publisher}, sent {sent_at - session.joined_at:.1f} s after connection "
        f"{session.name} had joined, which was {told}{' and got later ones' if passed_over else ''}"
    )
