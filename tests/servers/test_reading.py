"""What a client sends is read as the library `websockets` reads it, however it is cut on its way."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode
from websockets.protocol import Protocol, Side, State
from websockets.speedups import apply_mask

from hubs import close_codes
from hubs.servers import reading
from hubs.servers.reading import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PIECE,
    PING,
    PONG,
    TEXT,
    Fault,
    Reader,
)

MAX_BYTES = 300

# Zeros are continuations without a mask: whatever began before them comes to an end with them.
END = bytes(MAX_BYTES + 20)

# What was read: messages and control frames, and last how it ended, if it did.
Read = list[Any]


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    reserved: int = 0,
    mask: bytes | None = b"\x11\x22\x33\x44",
    size: int | None = None,
    long: int = 0,
) -> bytes:
    """A frame as a client sends it, or one that breaks a rule. `long`: its size in more bytes than it needs."""
    size = len(payload) if size is None else size
    masked = 0 if mask is None else 0x80
    head = bytes([final << 7 | reserved << 4 | opcode])
    if size < 126 and long == 0:
        head += bytes([masked | size])
    elif size < 1 << 16 and long < 2:
        head += bytes([masked | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([masked | 127]) + size.to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ key for byte, key in zip(payload, itertools.cycle(mask), strict=False))


def ours(pieces: Sequence[bytes]) -> Read:
    """What our reader makes of bytes that come in pieces."""
    reader, read = Reader(MAX_BYTES), Read()
    try:
        for piece in pieces:
            reader.feed(piece)
            while (message := reader.next()) is not None:
                if message is PIECE:
                    continue
                kind, payload = message
                if kind == CLOSE:
                    return [*read, reading.close_of(payload)]
                read.append((kind, payload.decode() if kind == TEXT else bytes(payload)))
    except Fault as fault:
        read.append(fault.code)
    except UnicodeDecodeError:
        read.append(close_codes.INVALID_DATA)
    return read


def theirs(data: bytes) -> Read:
    """What websockets makes of them, of which a server makes messages."""
    protocol, read = Protocol(Side.SERVER, state=State.OPEN, max_size=MAX_BYTES), Read()
    kind, pieces = 0, [b""]
    protocol.receive_data(data)
    for event in protocol.events_received():
        assert not isinstance(event, Exception)
        opcode, payload = int(event.opcode), bytes(event.data)  # type: ignore[union-attr]
        if opcode == CLOSE:
            close = protocol.close_rcvd
            assert close is not None
            return [*read, (close.code, close.reason)]
        if opcode in (PING, PONG):
            read.append((opcode, payload))
            continue
        if opcode != CONTINUATION:
            kind, pieces = opcode, []
        pieces.append(payload)
        if event.fin:  # type: ignore[union-attr]
            try:
                read.append((kind, b"".join(pieces).decode() if kind == TEXT else b"".join(pieces)))
            except UnicodeDecodeError:
                return [*read, close_codes.INVALID_DATA]
    if protocol.parser_exc is not None:
        if str(protocol.parser_exc) == "incomplete fragmented message":
            # A close between the pieces of a message is allowed (RFC 6455, 5.4).
            assert protocol.close_rcvd is not None
            return [*read, (protocol.close_rcvd.code, protocol.close_rcvd.reason)]
        assert protocol.close_sent is not None
        read.append(protocol.close_sent.code)
    return read


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Bytes in any pieces."""
    at = sorted(draw(st.sets(st.integers(0, len(data)), max_size=12)))
    return [data[begin:end] for begin, end in itertools.pairwise([0, *at, len(data)])]


def _texts() -> st.SearchStrategy[bytes]:
    return st.text(max_size=80).map(str.encode)


def _frames() -> st.SearchStrategy[bytes]:
    masks = st.sampled_from([b"\x11\x22\x33\x44", b"\0\0\0\0", b"\xff\0\0\x01"])
    data = st.builds(
        frame,
        st.sampled_from([TEXT, BINARY, CONTINUATION]),
        _texts() | st.binary(max_size=200),
        final=st.booleans(),
        mask=masks,
        long=st.sampled_from([0, 0, 0, 1, 2]),
    )
    closes = st.builds(
        lambda code, reason: frame(CLOSE, code.to_bytes(2, "big") + reason),
        st.sampled_from([1000, 1001, 1004, 1005, 1011, 1016, 3000, 4999, 5000, 0]),
        _texts().filter(lambda text: len(text) < 124) | st.binary(max_size=20),
    )
    control = st.builds(frame, st.sampled_from([PING, PONG, CLOSE]), st.binary(max_size=125), mask=masks)
    wrong = st.builds(
        frame,
        st.integers(0, 15),
        st.binary(max_size=400),
        final=st.booleans(),
        reserved=st.sampled_from([0, 0, 0, 1, 4]),
        mask=st.sampled_from([b"abcd", b"abcd", b"abcd", None]),
        long=st.integers(0, 2),
    )
    usual = st.one_of(data, data, control, closes)
    return st.one_of(usual, usual, usual, wrong)


@given(st.data(), st.lists(_frames(), max_size=12))
def test_frames_are_read_as_websockets_reads_them(data: st.DataObject, frames: list[bytes]) -> None:
    sent = b"".join(frames) + data.draw(st.sampled_from([b"", END]))
    assert _alike(ours(data.draw(cut(sent))), sent)


@given(st.data(), st.lists(_texts() | st.binary(max_size=60), min_size=1, max_size=10), st.booleans())
def test_pieces_of_a_message_with_anything_between_them(
    data: st.DataObject, pieces: list[bytes], is_text: bool
) -> None:
    sent = bytearray()
    for place, piece in enumerate(pieces):
        opcode = (TEXT if is_text else BINARY) if place == 0 else CONTINUATION
        sent += frame(opcode, piece, final=place == len(pieces) - 1)
        if data.draw(st.booleans()):
            sent += frame(data.draw(st.sampled_from([PING, PONG])), b"between")
    sent += frame(BINARY, b"the next")
    read = ours(data.draw(cut(bytes(sent))))
    assert _alike(read, bytes(sent))
    whole = b"".join(pieces)
    if len(whole) > MAX_BYTES:
        assert read[-1] in ((close_codes.TOO_LARGE, close_codes.INVALID_DATA) if is_text else (close_codes.TOO_LARGE,))
    elif not is_text:
        assert [message for message in read if message[0] == BINARY] == [(BINARY, whole), (BINARY, b"the next")]


@given(st.data(), st.binary(max_size=80))
def test_any_bytes_are_read_as_websockets_reads_them(data: st.DataObject, noise: bytes) -> None:
    sent = noise + END
    assert _alike(ours(data.draw(cut(sent))), sent)


@pytest.mark.parametrize(
    "noise", [b"\x81\xff" + b"\xff" * 20, b"\x89\x7e\xff\xff", b"\x88\x81aaaa\0", b"\x89\xfe\x01\x00", b"\x83"]
)
def test_bytes_that_are_wrong_in_several_ways(noise: bytes) -> None:
    assert _alike(ours([noise + END]), noise + END)


def _alike(read: Read, sent: bytes) -> bool:
    if read == theirs(sent):
        return True
    # We name another of several faults than the size, want a size in as few bytes as it takes (RFC 6455, 5.2), and
    # read no further than to the first piece that is no UTF-8.
    at, code = _unlike(sent)
    assert read == [*theirs(sent[:at]), code], f"{read} is not {theirs(sent)}"
    return True


def _unlike(sent: bytes) -> tuple[int, int]:
    """Where the first frame begins of which we say something else than websockets does, and what we say."""
    at, begun, total = 0, False, 0
    text: codecs.IncrementalDecoder | None = None
    while True:
        first, bits, start = sent[at], sent[at + 1] & 0x7F, at + 2
        size, control, continued = bits, bool(first & 0x8), first & 0xF == CONTINUATION
        if bits > 125:
            wide = 2 if bits == 126 else 8
            size, start = int.from_bytes(sent[start : start + wide], "big"), start + wide
            if control or size < (126 if wide == 2 else 1 << 16):
                return at, close_codes.PROTOCOL_ERROR
        if not control and size + (total if begun else 0) > MAX_BYTES:
            assert first & 0x70 or size >> 63 or continued is not begun
            return at, close_codes.PROTOCOL_ERROR
        mask, payload = sent[start : start + 4], sent[start + 4 : start + 4 + size]
        if not control:
            final = bool(first & 0x80)
            if not begun and not final:
                text = codecs.getincrementaldecoder("utf-8")() if first & 0xF == TEXT else None
            if text is not None:
                try:
                    text.decode(apply_mask(payload, mask), final)
                except UnicodeDecodeError:
                    return at, close_codes.INVALID_DATA
            begun = not final
            total = total + size if begun else 0
            text = text if begun else None
        at = start + 4 + size


# What is kept


def _pieces_of(message: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(message), size):
        yield message[at : at + size]


def test_a_frame_that_is_too_large_is_refused_by_its_head() -> None:
    head = frame(BINARY, b"x" * (MAX_BYTES + 1))[:4]
    assert ours([head]) == [close_codes.TOO_LARGE]
    assert ours([frame(BINARY, size=1 << 62)[:10]]) == [close_codes.TOO_LARGE]
    assert ours([frame(TEXT, b"x" * MAX_BYTES, final=False) + frame(CONTINUATION, b"y")[:2]]) == [close_codes.TOO_LARGE]
    assert ours([frame(BINARY, b"x" * MAX_BYTES)]) == [(BINARY, b"x" * MAX_BYTES)]


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_nothing_is_kept_of_what_has_been_read(size: int) -> None:
    reader, read = Reader(MAX_BYTES), 0
    sent = frame(TEXT, b"x" * 200) + frame(PING) + frame(BINARY, b"y" * 130, final=False) + frame(CONTINUATION)
    for piece in _pieces_of(sent * 5, size):
        reader.feed(piece)
        while (message := reader.next()) is not None:
            read += message is not PIECE
        assert len(reader._data) <= MAX_BYTES + 20 + size
    assert read == 15
    assert (reader._data, reader._pieces, reader.waits) == (b"", None, False)


def test_small_pieces_of_a_long_message_are_looked_at_when_all_are_there() -> None:
    reader = Reader(1 << 20)
    sent = frame(BINARY, bytes(1 << 20))
    looked = 0
    for piece in _pieces_of(sent, 1000):
        reader.feed(piece)
        looked += reader.waits
        message = reader.next()
    assert message == (BINARY, bytes(1 << 20))
    # At its head, and when it was complete.
    assert looked == 2


@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONTINUATION])
def test_a_size_in_more_bytes_than_it_takes_is_refused(opcode: int) -> None:
    begin = frame(BINARY, final=False) if opcode == CONTINUATION else b""
    for size, long in ((0, 1), (125, 1), (125, 2), (126, 2)):
        assert ours([begin + frame(opcode, b"x" * size, long=long)]) == [close_codes.PROTOCOL_ERROR]
    for size in (125, 126):
        assert ours([begin + frame(opcode, b"x" * size)])[0][1] in (b"x" * size, "x" * size)
    # By its head.
    assert ours([begin + frame(opcode, size=65_535, long=2)[:10]]) == [close_codes.PROTOCOL_ERROR]


def test_a_text_in_pieces_is_refused_at_the_first_that_is_no_text() -> None:
    good, bad = "κόσμε".encode(), b"\xf4\x90"
    begin = frame(TEXT, good[:3], final=False)
    assert ours([begin + frame(CONTINUATION, good[3:] + bad, final=False)]) == [close_codes.INVALID_DATA]
    assert ours([begin + frame(PING) + frame(CONTINUATION, good[3:])]) == [(PING, b""), (TEXT, good.decode())]
    # Cut off within a character, and only in the end.
    assert ours([begin + frame(CONTINUATION, good[3:-1], final=False)]) == []
    assert ours([begin + frame(CONTINUATION, good[3:-1])]) == [close_codes.INVALID_DATA]
    # The next message is none of it, and a binary one has no text.
    assert ours([begin + frame(CONTINUATION, good[3:]) + frame(BINARY, bad, final=False)]) == [(TEXT, good.decode())]


def test_close_frames() -> None:
    assert ours([frame(CLOSE)]) == [(1005, "")]
    assert ours([frame(CLOSE, b"\x03")]) == [close_codes.PROTOCOL_ERROR]
    assert ours([frame(CLOSE, b"\x03\xe8" + "ü".encode())]) == [(1000, "ü")]
    assert ours([frame(CLOSE, b"\x03\xe8\xff")]) == [close_codes.INVALID_DATA]
    assert ours([frame(CLOSE, b"\x03\xed")]) == [close_codes.PROTOCOL_ERROR]
    # Behind it nothing is read, and between the pieces of a message it is.
    assert ours([frame(TEXT, b"a", final=False) + frame(CLOSE) + b"\xff\xff"]) == [(1005, "")]


def test_the_opcodes_are_those_of_websockets() -> None:
    assert [int(opcode) for opcode in Opcode] == [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG]
