"""What was sent against what arrived, message by message. Pure: numbers in, verdict out.

A message is known by its publisher and its number; publishers count from 1. A transcript is what one
member of the audience got, in the order in which it got it, behind its own de-duplication.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

_NUMBER_BITS = 32


def mark(publisher: int, number: int) -> int:
    """A message as one integer, so that a transcript can be an array."""
    return publisher << _NUMBER_BITS | number


def unmark(message: int) -> tuple[int, int]:
    """Publisher and number of a message."""
    return message >> _NUMBER_BITS, message & ((1 << _NUMBER_BITS) - 1)


@dataclass(frozen=True)
class Verdict:
    """The sum over all members."""

    # Acknowledged messages times members, and how many of these arrived at least once.
    expected: int = 0
    delivered: int = 0
    # Arrivals beyond the first.
    duplicated: int = 0
    # First arrivals behind one with a higher number of the same publisher.
    out_of_order: int = 0
    # Arrivals that nobody sent.
    strange: int = 0

    @property
    def lost(self) -> int:
        return self.expected - self.delivered


def judge(
    sent: Sequence[int],
    acknowledged: Sequence[Collection[int]],
    transcripts: Iterable[Sequence[int]],
    unordered: Collection[int] = (),
) -> Verdict:
    """Compare transcripts with what was sent.

    `sent` has how many messages each publisher sent, `acknowledged` the numbers of those that the service said
    it has taken. One that was sent and not acknowledged may arrive or not, but once and in order. `unordered`: the
    publishers to whom no order is promised.
    """
    due = {mark(publisher, number) for publisher, numbers in enumerate(acknowledged) for number in numbers}
    expected = delivered = duplicated = out_of_order = strange = 0
    for transcript in transcripts:
        seen: set[int] = set()
        highest = [0] * len(sent)
        for message in transcript:
            publisher, number = unmark(message)
            if not (publisher < len(sent) and 1 <= number <= sent[publisher]):
                strange += 1
            elif message in seen:
                duplicated += 1
            else:
                seen.add(message)
                out_of_order += number < highest[publisher] and publisher not in unordered
                highest[publisher] = max(highest[publisher], number)
        expected += len(due)
        delivered += len(due & seen)
    return Verdict(expected, delivered, duplicated, out_of_order, strange)
