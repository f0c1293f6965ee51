"""The memory of ackIds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hubs.rules.reliability import AckMemory


def test_remembers_what_succeeded() -> None:
    memory = AckMemory(10)
    assert 1 not in memory
    memory.remember(1)
    memory.remember(2**64 - 1)
    assert 1 in memory
    assert 2**64 - 1 in memory
    assert 0 not in memory


def test_the_oldest_leaves_first() -> None:
    memory = AckMemory(3)
    for ack_id in (5, 1, 9, 2):
        memory.remember(ack_id)
    assert [ack_id in memory for ack_id in (5, 1, 9, 2)] == [False, True, True, True]


def test_the_capacity_is_exact() -> None:
    memory = AckMemory(1000)
    for ack_id in range(1000):
        memory.remember(ack_id)
    assert 0 in memory
    memory.remember(1000)
    assert 0 not in memory
    assert 1 in memory


@given(st.integers(1, 5), st.lists(st.integers(0, 9), unique=True))
def test_it_holds_the_most_recent(capacity: int, ack_ids: list[int]) -> None:
    memory = AckMemory(capacity)
    for ack_id in ack_ids:
        memory.remember(ack_id)
    assert {ack_id for ack_id in range(10) if ack_id in memory} == set(ack_ids[-capacity:])


def test_it_is_told_oldest_first_and_so_can_be_made_again() -> None:
    memory = AckMemory(3)
    for ack_id in (7, 3, 9, 2**64 - 1):
        memory.remember(ack_id)
    assert list(memory) == [3, 9, 2**64 - 1]
    again = AckMemory(3)
    for ack_id in memory:
        again.remember(ack_id)
    again.remember(1)
    assert list(again) == [9, 2**64 - 1, 1]
