"""Memory of what was done already, so that nothing is done twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator


class AckMemory:
    """The most recent ackIds of one connection whose operations succeeded.

    Shared by all operations of the connection. A failed operation is not remembered, so that its
    retry is executed. The oldest id leaves when the memory is full.
    """

    __slots__ = ("_capacity", "_ids")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        # None at first: many a client never asks for an ack.
        self._ids: OrderedDict[int, None] | None = None

    def __contains__(self, ack_id: int) -> bool:
        return self._ids is not None and ack_id in self._ids

    def __iter__(self) -> Iterator[int]:
        """The ids, oldest first."""
        return iter(self._ids or ())

    def ranges(self) -> list[tuple[int, int]]:
        """The ids as ranges without a gap, first and last; oldest first, as far as ranges have an order."""
        ranges: list[tuple[int, int]] = []
        for ack_id in self:
            if ranges and ranges[-1][1] + 1 == ack_id:
                ranges[-1] = (ranges[-1][0], ack_id)
            else:
                ranges.append((ack_id, ack_id))
        return ranges

    def remember_all(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Note the ids that `ranges` has given."""
        for first, last in ranges:
            for ack_id in range(max(first, last - self._capacity + 1), last + 1):
                self.remember(ack_id)

    def remember(self, ack_id: int) -> None:
        """Note that the operation with `ack_id` succeeded."""
        if self._ids is None:
            self._ids = OrderedDict()
        self._ids[ack_id] = None
        if len(self._ids) > self._capacity:
            self._ids.popitem(last=False)
