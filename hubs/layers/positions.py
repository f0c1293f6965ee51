"""Positions: the ids of stream entries as numbers that can be compared, stored and sent.

Redis gives an entry the id `<milliseconds>-<sequence>`, greater than all before it in the same stream. A position is
both in one integer, `milliseconds << 20 | sequence`, which fits 63 bits until the year 2248. Redis counts the
sequence up beyond a few thousand only if its clock was set back, for it then stays in the last millisecond that it
has used.
"""

from __future__ import annotations

Position = int

_SEQUENCE_BITS = 20
MAX_SEQUENCE = (1 << _SEQUENCE_BITS) - 1

# Of the last millisecond, what is left to processes that have not heard yet that no more should be appended.
SPARE_SEQUENCE = 1 << 16


def position_of(entry_id: bytes) -> Position:
    """The position of an entry. Raises OverflowError if its sequence has more than 20 bits."""
    ms, sequence = entry_id.split(b"-")
    number = int(sequence)
    if number > MAX_SEQUENCE:
        raise OverflowError(f"The stream entry {entry_id.decode()} has no position: was Redis' clock set back?")
    return int(ms) << _SEQUENCE_BITS | number


def id_of(position: Position) -> bytes:
    """The id of the entry at a position."""
    return b"%d-%d" % (position >> _SEQUENCE_BITS, position & MAX_SEQUENCE)


def ms_of(position: Position) -> int:
    """When an entry was appended, by Redis' clock."""
    return position >> _SEQUENCE_BITS


def first_of(ms: int) -> Position:
    """The first position of a millisecond."""
    return ms << _SEQUENCE_BITS
