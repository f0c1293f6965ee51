"""Azure's units, counted as Azure's tables count them."""

from __future__ import annotations

import socket
from array import array

import pytest

from bench.azure import BIG, MESSAGE_BYTES, SMALL, Kind, check, search
from bench.clients import Client
from bench.servers import Wrong
from bench.timed import Numbered, Reader
from bench.wire import Handshake

# Of the tables: units, groups, members of each, messages in and out per second.
ROWS = [
    (BIG, 1, 10, 100, 30, 3_000),
    (BIG, 10, 10, 1_000, 30, 30_000),
    (SMALL, 1, 100, 10, 400, 4_000),
    (SMALL, 10, 1_000, 10, 4_000, 40_000),
]


@pytest.mark.parametrize(("kind", "units", "groups", "members", "coming_in", "going_out"), ROWS)
def test_units_are_azures(kind: Kind, units: int, groups: int, members: int, coming_in: int, going_out: int) -> None:
    connections = units * 1000
    assert kind.group_count(connections) == groups
    assert kind.messages_per_sec(units, connections) == coming_in
    assert coming_in * members == going_out
    sizes = [0] * groups
    for number in range(connections):
        sizes[kind.group_of(number)] += 1
    assert set(sizes) == {members}
    senders = kind.senders(connections, coming_in)
    assert len(set(senders)) == coming_in
    per_group = [0] * groups
    for number in senders:
        per_group[kind.group_of(number)] += 1
    assert set(per_group) == {coming_in // groups}


@pytest.mark.parametrize("kind", [BIG, SMALL])
def test_traffic_of_more_units_on_the_same_connections_is_more_messages(kind: Kind) -> None:
    assert kind.messages_per_sec(40, 19_000) * 19_000 / kind.group_count(19_000) == kind.out_per_unit * 40


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 5, 7, 8, 21, 39, 40])
async def test_the_most_that_holds_is_found(limit: int) -> None:
    asked: list[int] = []

    async def holds(units: int) -> bool:
        asked.append(units)
        return units <= limit

    assert await search(holds, 4, 40, 100) == limit
    assert len(asked) == len(set(asked)) <= 10


async def test_the_search_is_content_when_close() -> None:
    async def holds(units: int) -> bool:
        return units <= 43

    assert 39 <= await search(holds, 4, 100, 10) <= 43


def _frame_of(numbered: Numbered, number: int) -> bytes:
    return numbered.frame(number)[8:]


async def _reader(*numbers: int) -> Reader:
    with socket.socket() as unused:
        reader = Reader(Client(Handshake("/", "localhost", None), unused))
    reader.begin([0.0] * 10, array("d"))
    frames = Numbered("busy", MESSAGE_BYTES)
    reader.client.heard(reader.client, [_frame_of(frames, number) for number in numbers])
    return reader


async def test_everything_once_is_right() -> None:
    check([await _reader(0, 1, 2)], [3], [3], closed=0, stuck=False)


@pytest.mark.parametrize("numbers", [(0, 1, 2, 2), (0, 0, 2), (0, 1, 3)])
async def test_doubles_and_strangers_are_noticed(numbers: tuple[int, ...]) -> None:
    with pytest.raises(Wrong, match="other messages than the 3"):
        check([await _reader(*numbers)], [3], [3], closed=0, stuck=False)


async def test_what_is_lost_without_a_word_is_noticed() -> None:
    with pytest.raises(Wrong, match="1 deliveries did not arrive"):
        check([await _reader(0, 2)], [3], [3], closed=0, stuck=True)
    # A client that was closed has been told.
    check([await _reader(0, 2)], [3], [3], closed=1, stuck=True)


def test_a_payload_has_azures_size() -> None:
    frame = Numbered("busy", MESSAGE_BYTES).frame(7)
    assert frame.count(b"#000000007") == 1
    assert len(frame.partition(b'"data":"')[2]) == MESSAGE_BYTES + len(b'"}')
