"""A message becomes frames of 64 KiB at most, whole characters in each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubs.protocols import framing
from tests.servers.application import sample_bytes, sample_text
from tests.servers.raw import BINARY, CONTINUATION, TEXT, Frame

LIMIT = 65_536
SIZES = [0, 1, 125, 126, 65_535, LIMIT, LIMIT + 1, LIMIT + 2, 2 * LIMIT, 2 * LIMIT + 1, 300 * 1024, 5_000_000]


def read(data: bytes) -> list[Frame]:
    """What a receiver makes of it, by the letter of RFC 6455."""
    frames = []
    while data:
        assert not data[1] & 0x80
        start, size = 2, data[1]
        if size == 126:
            start, size = 4, int.from_bytes(data[2:4], "big")
            assert size > 125
        elif size == 127:
            start, size = 10, int.from_bytes(data[2:10], "big")
            assert size > 0xFFFF
        assert len(data) >= start + size
        frames.append(Frame(bool(data[0] & 0x80), (data[0] >> 4) & 7, data[0] & 15, data[start : start + size]))
        data = data[start + size :]
    return frames


def well_formed(frames: list[Frame], opcode: int, payload: bytes) -> None:
    assert [each.opcode for each in frames] == [opcode] + [CONTINUATION] * (len(frames) - 1)
    assert [each.final for each in frames] == [False] * (len(frames) - 1) + [True]
    assert not any(each.reserved for each in frames)
    assert max(len(each.payload) for each in frames) <= LIMIT
    assert b"".join(each.payload for each in frames) == payload


@pytest.mark.parametrize("size", SIZES)
def test_binary(size: int) -> None:
    payload = sample_bytes(size)
    frames = read(framing.binary_frames(payload))
    well_formed(frames, BINARY, payload)
    assert len(frames) == max(1, -(-size // LIMIT))


@pytest.mark.parametrize("size", SIZES)
def test_text(size: int) -> None:
    payload = sample_text(size).encode()
    frames = read(framing.text_frames(payload))
    well_formed(frames, TEXT, payload)
    assert (len(frames) == 1) == (size <= LIMIT)
    for each in frames:
        each.payload.decode()


@given(
    st.text(st.sampled_from("aü€🎈"), min_size=1, max_size=8),
    st.integers(LIMIT - 4, LIMIT + 4),
    st.text(st.sampled_from("aü€🎈"), max_size=8),
)
def test_every_cut_falls_between_characters(before: str, size: int, after: str) -> None:
    payload = (before + "." * (size - len(before.encode())) + after).encode()
    frames = read(framing.text_frames(payload))
    well_formed(frames, TEXT, payload)
    for each in frames:
        each.payload.decode()
