"""Long messages in pieces, both ways."""

from __future__ import annotations

import pytest

from tests.servers.application import description, sample_bytes, sample_text
from tests.servers.raw import BINARY, CONTINUATION, PING, PONG, TEXT
from tests.servers.running import Running

LIMIT = 65_536
SIZES = [0, 1, 125, 126, 65_535, LIMIT, LIMIT + 1, 2 * LIMIT, 300 * 1024, 3_000_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["text", "binary"])
async def test_what_goes_out(running: Running, kind: str, size: int) -> None:
    async with running.client() as client:
        client.order("send", kind=kind, size=size)
        frames = await client.message()
    payload = sample_text(size).encode() if kind == "text" else sample_bytes(size)
    assert b"".join(each.payload for each in frames) == payload
    assert frames[0].opcode == (TEXT if kind == "text" else BINARY)
    assert max(len(each.payload) for each in frames) <= LIMIT
    if size <= LIMIT:
        assert len(frames) == 1
    elif kind == "binary":
        assert len(frames) == -(-size // LIMIT)
    else:
        assert [each.payload.decode() for each in frames]


async def test_nothing_comes_between_the_frames_of_a_message(running: Running) -> None:
    async with running.client() as client:
        for number in range(20):
            client.order("two", kind="binary", size=200_000)
            client.send(PING, b"%d" % number)
        left, pongs = 40, 0
        while left or pongs < 20:
            first = await client.frame()
            if first.opcode == PONG:
                # Of several pings that came while its buffer was full a server may answer the last one alone.
                assert int(first.payload) >= pongs
                pongs = int(first.payload) + 1
                continue
            assert (first.opcode, first.final, len(first.payload)) == (BINARY, False, LIMIT)
            rest = [await client.frame() for _ in range(3)]
            assert [(each.opcode, each.final) for each in rest] == [(CONTINUATION, False)] * 2 + [(CONTINUATION, True)]
            assert first.payload + b"".join(each.payload for each in rest) == sample_bytes(200_000)
            left -= 1
        await client.close(1000)


async def test_a_close_comes_after_the_message_before_it(running: Running) -> None:
    async with running.client() as client:
        client.order("send", kind="text", size=1_000_000)
        client.order("close", code=1008, reason="enough")
        assert len(await client.message()) == 16
        assert await client.close_frame() == (1008, "enough")


@pytest.mark.parametrize("pieces", [[0], [1, 0], [0, 0, 1], [5, 70_000, 1, 300_000], [1] * 20_000])
@pytest.mark.parametrize("kind", ["text", "binary"])
async def test_what_comes_in(running: Running, kind: str, pieces: list[int]) -> None:
    size = sum(pieces)
    payload = sample_text(size).encode() if kind == "text" else sample_bytes(size)
    async with running.client() as client:
        start, opcode = 0, TEXT if kind == "text" else BINARY
        for number, piece in enumerate(pieces, 1):
            # Cut anywhere, also within characters.
            client.send(opcode, payload[start : start + piece], final=number == len(pieces))
            start, opcode = start + piece, CONTINUATION
        assert await client.echo() == description(payload.decode() if kind == "text" else payload)
        await client.close(1000)
        assert (await running.heard(client))[-1] == {"code": 1000, "reason": ""}


async def test_pings_between_the_pieces_that_come_in(running: Running) -> None:
    async with running.client() as client:
        client.send(TEXT, "gr€".encode()[:3], final=False)
        client.send(PING, b"one")
        pong = await client.frame()
        assert (pong.opcode, pong.payload) == (PONG, b"one")
        client.send(CONTINUATION, "gr€".encode()[3:], final=False)
        client.send(PING)
        client.send(PONG, b"not asked for")
        client.send(CONTINUATION, b"!")
        pong = await client.frame()
        assert (pong.opcode, pong.payload) == (PONG, b"")
        assert await client.echo() == description("gr€!")


async def test_a_client_that_does_not_read_is_waited_for(running: Running) -> None:
    count = 64
    async with running.client() as client:
        client.order("flood", kind="binary", size=1 << 20, count=count)
        # An application that need not wait hands over everything before anybody else has a turn.
        while not (taken := await running.ask(client.name, "sent")):
            pass
        assert taken < count
        for _ in range(count):
            frames = await client.message()
            assert [len(each.payload) for each in frames] == [LIMIT] * 16
        assert await running.ask(client.name, "sent") == count
        await client.close(1000)
