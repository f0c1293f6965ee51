"""Hostile and broken clients: the right answer for them, and nothing noticed by the others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import struct
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed

from tests.running import PATIENCE
from tests.service.client import JSON, Client, Target, group_message, ok, opened, refused

INVALID = 1007


@pytest.fixture
async def bystander(target: Target, unique: Callable[[str], str]) -> AsyncIterator[Client]:
    """A well-behaved client that must notice nothing."""
    room = unique("bystanders")
    async with opened(target.url(), JSON) as client:
        await client.join(room)
        yield client
        assert await client.ask(type="sendToGroup", group=room, data="still here") == group_message(room, "still here")


@pytest.mark.parametrize(
    "message",
    [
        "",
        "null",
        "{",
        "\x00",
        '{"type":1}',
        '{"type":null}',
        '{"type":"joinGroup"}',
        '{"type":"joinGroup","group":5}',
        '{"type":"joinGroup","group":""}',
        '{"type":"joinGroup","group":"   "}',
        json.dumps({"type": "joinGroup", "group": "g" * 1025}),
        '{"type":"joinGroup","group":"g","ackId":1.5}',
        '{"type":"joinGroup","group":"g","ackId":1e400}',
        '{"type":"joinGroup","group":"g","ackId":18446744073709551616}',
        '{"type":"sendToGroup","group":"g"}',
        '{"type":"sendToGroup","group":"g","data":null}',
        '{"type":"sendToGroup","group":"g","dataType":"text","data":5}',
        '{"type":"sendToGroup","group":"g","dataType":"xml","data":"x"}',
        '{"type":"sendToGroup","group":"g","data":1,"noEcho":"yes"}',
        '{"type":"sendToGroup","group":"g","data":1,"metadata":{"a":"1","a":"2"}}',
        '{"type":"sendToGroup","group":"g","data":1,"metadata":["a"]}',
        '{"type":"event","event":"1bad","data":1}',
        '{"type":"event","event":"%s","data":1}' % ("e" * 129),
        '{"type":"sequenceAck"}',
        "[" * 200_000,
        '{"type":"sendToGroup","group":"g","data":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a":' * 50_000,
    ],
    ids=lambda message: message[:40].replace("\x00", "NUL"),
)
@pytest.mark.usefixtures("bystander")
async def test_malformed_messages_close_with_1007(target: Target, message: str) -> None:
    async with opened(target.url(), JSON) as client:
        await client.say_raw(message)
        code, reason = await client.closed()
        assert code == INVALID
        assert "Traceback" not in reason


@pytest.mark.usefixtures("bystander")
async def test_bad_utf8_closes_with_1007(target: Target) -> None:
    async with opened(target.url(), JSON) as client:
        await client.say_raw(b'{"type":"ping\xff"}', as_text=True)
        assert (await client.closed())[0] == INVALID


@pytest.mark.usefixtures("bystander")
async def test_a_message_far_over_the_limit_closes_with_1009(target: Target) -> None:
    async with opened(target.url(), JSON) as client:
        # The server may answer before all of it is sent.
        with contextlib.suppress(ConnectionClosed):
            await client.say_raw("x" * (4 * 1024 * 1024))
        code, _ = await client.closed()
        assert code == 1009


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize(
    "frame",
    [
        b"\x83\x80\x00\x00\x00\x00",  # a reserved opcode
        b"\xf1\x80\x00\x00\x00\x00",  # reserved bits
        b"\x81\x04ping",  # not masked
        b"\x80\x80\x00\x00\x00\x00",  # a continuation of nothing
    ],
)
async def test_broken_websocket_frames_close_with_1002(target: Target, frame: bytes) -> None:
    reader, writer = await _raw_socket(target)
    writer.write(frame)
    async with asyncio.timeout(PATIENCE):
        while True:
            header = await reader.readexactly(2)
            payload = await reader.readexactly(header[1] & 127)
            if header[0] & 15 == 8:
                break
    assert struct.unpack("!H", payload[:2])[0] == 1002
    writer.close()


@pytest.mark.usefixtures("bystander")
async def test_sockets_cut_off_in_the_middle(target: Target) -> None:
    for cut in (b"\x81", b"\x81\xfe\x01", b"\x81\x85\x00\x00\x00\x00ab", b"\x01\x82\x00\x00\x00\x00{}"):
        _, writer = await _raw_socket(target)
        writer.write(cut)
        await writer.drain()
        writer.transport.abort()


async def _raw_socket(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An upgraded connection with nothing of a WebSocket library on this side."""
    url = urlsplit(target.url())
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    request = (
        f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Sec-WebSocket-Protocol: {JSON}\r\n\r\n"
    )
    writer.write(request.encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101")
    return reader, writer


@pytest.mark.parametrize(
    "group", ["g" * 1024, "ünï·cødé 🎈", "tab\tand\x01control", "../..", "'; DROP TABLE", "🎈" * 1024]
)
async def test_unusual_group_names_work(target: Target, group: str) -> None:
    async with opened(target.url(), JSON) as client:
        await client.join(group)
        assert await client.ask(type="sendToGroup", group=group, data=1) == group_message(group, 1)


async def test_numbers_of_any_length_are_passed_on_as_they_are(target: Target, unique: Callable[[str], str]) -> None:
    room = unique("room")
    data = '{"big":123456789012345678901234567890,"small":1e-999,"exact":0.10000000000000000000001}'
    async with opened(target.url(), JSON) as client:
        await client.join(room)
        await client.say_raw(f'{{"type":"sendToGroup","group":"{room}","data":{data}}}')
        assert (await client.hear_raw()) == (
            f'{{"type":"message","from":"group","group":"{room}","dataType":"json","data":{data}}}'
        )


async def test_ack_ids_at_the_ends_of_the_range(target: Target) -> None:
    async with opened(target.url(), JSON) as client:
        for ack_id in (0, 2**64 - 1, 2**53 + 1):
            assert await client.ask(type="leaveGroup", group="g", ackId=ack_id) == ok(ack_id)


async def test_absurd_queries_are_400(target: Target) -> None:
    assert await refused(target.url() + "&x=1" * 1500, JSON) == 400


@pytest.mark.usefixtures("bystander")
async def test_random_messages_do_no_harm(target: Target) -> None:
    seed = int(os.environ.get("FUZZ_SEED", "20261122"))
    chance = random.Random(seed)
    pieces = [
        '{"type":',
        '"sendToGroup"',
        '"group":',
        '"g"',
        ",",
        "}",
        "[",
        "]",
        '"data":',
        "1e5",
        "null",
        '"',
        "\\u0000",
        "é",
    ]
    for _ in range(60):
        async with opened(target.url(), JSON) as client:
            for _ in range(5):
                try:
                    await client.say_raw("".join(chance.choices(pieces, k=chance.randrange(1, 20))))
                except ConnectionClosed:
                    break


async def test_a_client_that_does_not_read_hurts_nobody(target: Target, unique: Callable[[str], str]) -> None:
    """Its queue is bounded: it is dropped, while others get every message."""
    room = unique("room")
    data = "x" * 500_000
    async with opened(target.url(), JSON) as publisher, opened(target.url(), JSON) as reader:
        await reader.join(room)
        _, stuck = await _raw_socket(target)
        payload = json.dumps({"type": "joinGroup", "group": room, "ackId": 1}).encode()
        stuck.write(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
        stuck.transport.pause_reading()
        for number in range(80):
            assert await publisher.ask(type="sendToGroup", group=room, dataType="text", data=data, ackId=number) == ok(
                number
            )
            assert (await reader.hear())["data"] == data
        stuck.transport.abort()


async def test_a_long_token_opens_and_an_endless_address_is_refused(target: Target) -> None:
    """An address of tens of kilobytes is legal: tokens may name many groups."""
    roles = [f"webpubsub.sendToGroup.group-{number:04}" for number in range(500)]
    async with opened(target.url(roles=roles), JSON) as client:
        await client.barrier()
    assert await refused(target.url() + "&long=" + "x" * 200_000, JSON) in (400, 414, 431)
