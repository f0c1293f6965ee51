"""What members are sent is compared with what is due, whatever pieces it comes in."""

from __future__ import annotations

import json

import pytest

from bench.dialects import Expectation, Nats, Reading, ReliableJson, Repeated
from bench.wire import BINARY, CLOSE, PING, PONG, TEXT, Unexpected, client_frame, server_frame

FRAME = server_frame(TEXT, b"the same over and over")
PIECES = [1, 2, 3, 7, 26, 64, 10_000]


def _read(reading: Reading, stream: bytes, piece: int) -> int:
    return sum(reading.take(stream[at : at + piece]) for at in range(0, len(stream), piece))


def _numbered(number: int) -> bytes:
    return b'{"type":"message","sequenceId":%d,"data":"a text"}' % number


def _numbers(first: int, last: int) -> bytes:
    return b"".join(server_frame(TEXT, _numbered(number)) for number in range(first, last + 1))


@pytest.mark.parametrize("piece", PIECES)
def test_pings_stand_between_messages_and_are_answered(piece: int) -> None:
    answers: list[bytes] = []
    reading = Repeated(FRAME).reading(answers.append)
    ping = server_frame(PING, b"are you there?")
    stream = FRAME * 3 + ping + FRAME + ping + ping + FRAME * 5
    assert _read(reading, stream, piece) == 9
    assert answers == [client_frame(PONG, b"are you there?")] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        FRAME[:-1] + b"!",
        server_frame(TEXT, b"another"),
        # A ping in the middle of a message.
        FRAME[:5] + server_frame(PING, b""),
        server_frame(CLOSE, b"\x03\xf0enough"),
    ],
)
@pytest.mark.parametrize("piece", PIECES)
def test_what_is_not_due_is_an_error(wrong: bytes, piece: int) -> None:
    reading = Repeated(FRAME).reading(lambda answer: None)
    with pytest.raises(Unexpected):
        _read(reading, FRAME * 3 + wrong + FRAME, piece)


@pytest.mark.parametrize("piece", PIECES)
def test_numbers_go_on_without_a_gap_and_are_acknowledged(piece: int) -> None:
    answers: list[bytes] = []
    # From numbers of one digit to those of three.
    expected = ReliableJson(ack_every=20).expectation(_numbered(7))
    reading = expected.reading(answers.append)
    expected.published(50)
    expected.published(70)
    ping = server_frame(PING, b"")
    assert _read(reading, _numbers(8, 30) + ping + _numbers(31, 127), piece) == 120
    acks = [json.loads(answer[6:]) for answer in answers if answer != client_frame(PONG, b"")]
    assert {ack["type"] for ack in acks} == {"sequenceAck"}
    numbers = [ack["sequenceId"] for ack in acks]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] >= 108
    if piece == 1:
        assert numbers == [27, 47, 67, 87, 107, 127]


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(_numbers(8, 9) + _numbers(11, 12), id="a gap"),
        pytest.param(_numbers(8, 9) + _numbers(9, 10), id="a number twice"),
        pytest.param(_numbers(8, 13), id="more than were sent"),
    ],
)
@pytest.mark.parametrize("piece", PIECES)
def test_numbers_with_a_gap_or_too_many_are_an_error(stream: bytes, piece: int) -> None:
    expected = ReliableJson().expectation(_numbered(7))
    reading = expected.reading(lambda answer: None)
    expected.published(5)
    with pytest.raises(Unexpected):
        _read(reading, stream, piece)


def test_numbers_that_all_have_read_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.dialects.FORGET_BYTES", 1000)
    expected: Expectation = ReliableJson().expectation(_numbered(0))
    fast, slow = (expected.reading(lambda answer: None) for _ in range(2))
    read = 0
    for first in range(1, 1001, 10):
        expected.published(10)
        assert fast.take(_numbers(first, first + 9)) == 10
        if first >= 101:
            read += slow.take(_numbers(first - 100, first - 91))
    assert read == 900
    # What the slower one has not read, and little more.
    assert len(expected.stream) < len(_numbers(850, 1000)) + 1000  # type: ignore[attr-defined]


@pytest.mark.parametrize("piece", PIECES)
def test_a_plain_stream_may_be_cut_into_frames_anywhere(piece: int) -> None:
    answers: list[bytes] = []
    message = b"MSG group-0 1 4\r\ntext\r\n"
    reading = Nats().expectation(message).reading(answers.append)
    plain = message * 4 + b"PING\r\n" + message * 5 + b"PING\r\n"
    frames = b"".join(server_frame(BINARY, plain[at : at + 13]) for at in range(0, len(plain), 13))
    assert _read(reading, frames + server_frame(PING, b"x") + server_frame(BINARY, message * 40), piece) == 49
    pong = client_frame(BINARY, b"PONG\r\n")
    assert answers == [pong, pong, client_frame(PONG, b"x")]


def test_a_plain_stream_with_something_else_is_an_error() -> None:
    message = b"MSG group-0 1 4\r\ntext\r\n"
    for wrong in (b"-ERR 'Slow Consumer'\r\n", b"PINK\r\n", message[:9] + b"PING\r\n"):
        reading = Nats().expectation(message).reading(lambda answer: None)
        with pytest.raises(Unexpected):
            reading.take(server_frame(BINARY, message * 2 + wrong + message))
