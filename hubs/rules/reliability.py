"""Memory of what was done already, so that nothing is done twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator


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

    def remember(self, ack_id: int) -> None:
        """Note that the operation with `ack_id` succeeded."""
        if self._ids is None:
            self._ids = OrderedDict()
        self._ids[ack_id] = None
        if len(self._ids) > self._capacity:
            self._ids.popitem(last=False)
