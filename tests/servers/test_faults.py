"""Clients that break the protocol are told what they did, can read it, and are reported with it."""

from __future__ import annotations

import asyncio

import pytest

from tests.running import PATIENCE
from tests.servers.application import description
from tests.servers.raw import BINARY, CLOSE, CONTINUATION, PING, TEXT, RawClient, frame
from tests.servers.running import Running

INVALID = (1002, "The client frame is invalid.")
TOO_LARGE = (1009, "The client message is too large.")
NO_JSON = "The client message is not a valid JSON protocol message."
NO_TEXT = "The client message is not valid UTF-8."
HARD_LIMIT = 2 * 1024 * 1024

FAULTS = {
    "not masked": frame(TEXT, b"ping", masked=False),
    "reserved bit 1": frame(TEXT, b"x", reserved=4),
    "reserved bit 2": frame(TEXT, b"x", reserved=2),
    "reserved bit 3": frame(BINARY, b"x", reserved=1),
    "reserved bit of a ping": frame(PING, b"x", reserved=4),
    "reserved opcode 3": frame(3, b"x"),
    "reserved opcode 7": frame(7, b"x"),
    "reserved opcode 11": frame(11, b"x"),
    "reserved opcode 15": frame(15, b"x"),
    "a ping of 126 bytes": frame(PING, b"x" * 126),
    "a ping of 100 kB": frame(PING, b"x" * 100_000),
    "a close of 126 bytes": frame(CLOSE, b"\x03\xe8" + b"x" * 124),
    "a ping in pieces": frame(PING, b"x", final=False),
    "a close in pieces": frame(CLOSE, b"\x03\xe8", final=False),
    "a continuation of nothing": frame(CONTINUATION, b"x"),
    "a continuation of a whole message": frame(TEXT, b"whole") + frame(CONTINUATION, b"x"),
    "a message within a message": frame(TEXT, b"x", final=False) + frame(TEXT, b"x"),
    "a binary message within a text": frame(TEXT, b"x", final=False) + frame(BINARY, b"x"),
    "a close of one byte": frame(CLOSE, b"\x03"),
    "close code 0": frame(CLOSE, b"\x00\x00"),
    "close code 999": frame(CLOSE, b"\x03\xe7"),
    "close code 1004": frame(CLOSE, b"\x03\xec"),
    "close code 1005": frame(CLOSE, b"\x03\xed"),
    "close code 1006": frame(CLOSE, b"\x03\xee"),
    "close code 1015": frame(CLOSE, b"\x03\xf7"),
    "close code 2999": frame(CLOSE, b"\x0b\xb7"),
    "close code 5000": frame(CLOSE, b"\x13\x88"),
    "a size of one byte in three": b"\x82\xfe\x00\x7d" + bytes(4 + 125),
    "a size of two bytes in nine": b"\x82\xff\x00\x00\x00\x00\x00\x00\x00\x7e" + bytes(4 + 126),
    "everything at once": b"\xff" * 100,
}


async def told(running: Running, client: RawClient, code: int, reason: str, *before: str) -> None:
    """The client reads this and the end; the application hears it, and what came before."""
    assert await client.close_frame(after=TEXT) == (code, reason)
    client.writer.write_eof()
    await client.hung_up()
    heard = await running.heard(client)
    assert heard == [*(description(text) for text in before), {"code": code, "reason": reason}]


@pytest.mark.parametrize("fault", FAULTS)
async def test_invalid_frames(running: Running, fault: str) -> None:
    async with running.client() as client:
        # In one piece: what came before is heard, what comes after is not.
        client.write(frame(TEXT, b"before") + FAULTS[fault] + frame(TEXT, b"after") + frame(CLOSE, b"\x03\xe8"))
        before = ["before", "whole"] if fault == "a continuation of a whole message" else ["before"]
        await told(running, client, *INVALID, *before)


@pytest.mark.parametrize("text", [b"\xff", b"gr\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"])
@pytest.mark.parametrize(
    ("subprotocol", "reason"),
    [
        (None, NO_TEXT),
        ("json.webpubsub.azure.v1", NO_JSON),
        ("JSON.reliable.webpubsub.azure.v1", NO_JSON),
        ("protobuf.webpubsub.azure.v1", NO_TEXT),
        ("something.else", NO_TEXT),
    ],
)
async def test_text_that_is_no_utf_8(running: Running, text: bytes, subprotocol: str | None, reason: str) -> None:
    async with running.client(subprotocol) as client:
        client.write(frame(TEXT, b"before") + frame(TEXT, text) + frame(TEXT, b"after") + frame(TEXT, b"after"))
        await told(running, client, 1007, reason, "before")


async def test_a_text_in_pieces_is_refused_before_it_is_whole(running: Running) -> None:
    async with running.client() as client:
        client.write(frame(TEXT, "grü".encode(), final=False) + frame(CONTINUATION, b"\xf4\x90", final=False))
        await told(running, client, 1007, NO_TEXT)


async def test_a_character_that_is_no_utf_8_in_pieces(running: Running) -> None:
    async with running.client() as client:
        client.write(frame(TEXT, b"gr\xc3", final=False) + frame(CONTINUATION, b"(", final=True))
        await told(running, client, 1007, NO_TEXT)


async def test_a_reason_that_is_no_utf_8(running: Running) -> None:
    async with running.client() as client:
        client.send(CLOSE, b"\x03\xe8\xff")
        await told(running, client, 1007, NO_TEXT)


async def test_a_message_at_the_hard_limit_is_taken(running: Running) -> None:
    async with running.client() as client:
        client.send(BINARY, bytes(HARD_LIMIT))
        assert await client.echo() == description(bytes(HARD_LIMIT))
        await client.close(1000)


@pytest.mark.parametrize(
    "message",
    [
        frame(TEXT, b"x" * (HARD_LIMIT + 1)),
        frame(BINARY, b"x" * (4 * HARD_LIMIT)),
        frame(BINARY, size=1 << 62),
        frame(TEXT, b"x" * HARD_LIMIT, final=False) + frame(CONTINUATION, b"xy"),
        b"".join(frame(TEXT if not n else CONTINUATION, b"x" * 100_000, final=False) for n in range(30)),
    ],
    ids=["one more", "much more", "endless", "with its last piece", "in many pieces"],
)
async def test_a_message_over_the_hard_limit(running: Running, message: bytes) -> None:
    async with running.client() as client:
        client.write(message)
        # All of it is taken off the client's hands, so that the answer cannot be lost under it.
        await client.writer.drain()
        await told(running, client, *TOO_LARGE)


async def test_a_fault_after_the_application_has_closed(running: Running) -> None:
    async with running.client() as client:
        client.order("close", code=1008, reason="out")
        assert await client.close_frame() == (1008, "out")
        client.write(frame(3, b"x") + bytes(4 * HARD_LIMIT))
        await client.writer.drain()
        await client.hung_up()
        assert await running.heard(client) == [{"code": 1008, "reason": "out"}]


@pytest.mark.parametrize("ends", ["fault", "fault, answered", "close", "closed by the application"])
async def test_the_server_hangs_up_behind_the_close_frames_at_once(running: Running, ends: str) -> None:
    loop = asyncio.get_running_loop()
    took = float("inf")
    deadline = loop.time() + PATIENCE
    # Autobahn would wait for one second, each time; a busy machine takes as long now and then.
    while took > 0.9:
        assert loop.time() < deadline
        async with running.client() as client:
            if ends == "closed by the application":
                client.order("close", code=1000, reason="")
            else:
                client.send(CLOSE if ends == "close" else 3)
            await client.close_frame()
            if ends not in ("fault", "close"):
                client.send_close(1002)
            begun = loop.time()
            await client.hung_up()
            took = loop.time() - begun


async def test_who_sends_on_behind_a_close_frame_is_not_reset(running: Running) -> None:
    for ends in (CLOSE, 3):
        async with running.client() as client:
            client.write(frame(ends) + bytes(4 * HARD_LIMIT))
            await client.writer.drain()
            # Before it reads.
            client.write(bytes(4 * HARD_LIMIT))
            await client.writer.drain()
            assert await client.close_frame() == ((None, "") if ends == CLOSE else INVALID)
            await client.hung_up()


async def test_a_fault_before_the_handshake_is_answered(running: Running) -> None:
    async with running.client(query="unanswered") as client:
        await running.ask(client.name, "begun")
        client.write(frame(3, b"x"))
        # No server reads frames before it has answered; that the client is gone it notices.
        client.writer.write_eof()
        await client.cut_off()
        assert await running.heard(client) == [{"code": 1006, "reason": ""}]
