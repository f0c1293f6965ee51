"""Requests as programs, proxies and attackers send them: what is read is bounded, and read as it was meant."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hubs.servers.http import MAX_HEAD_BYTES, MAX_HEADERS, MAX_REQUEST_LINE
from tests.running import PATIENCE
from tests.servers.application import LARGE, description
from tests.servers.raw import TEXT, RawClient, frame
from tests.servers.running import Running

HOST = b"Host: localhost\r\n"
READ = b"GET /some/path?read HTTP/1.1\r\n" + HOST
UPGRADE = b"Upgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
HANDSHAKE = b"GET /%s HTTP/1.1\r\n" + HOST + UPGRADE + b"Connection: Upgrade\r\n\r\n"
POST = b"POST /body?read HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

BOUNDS: dict[str, float] = {"LOOK_SECS": 0.1, "HEAD_SECS": 1, "GRACE_SECS": 1, "BODY_SECS": 2, "UNWANTED_SECS": 1}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with little patience."""
    server = Running(tmp_path_factory.mktemp("http"), "direct", http=BOUNDS, HTTP_KEEP_ALIVE_SECS=2)
    yield server
    server.stop()
    assert "Traceback" not in server.log.read_text()


class Wire(RawClient):
    """A TCP connection on which anything may be said."""

    async def status(self) -> int:
        """Read one answer; keep its headers and its body."""
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            self.head = head.lower()
            if b"\r\ntransfer-encoding: chunked\r\n" in self.head:
                text = await self.reader.readuntil(b"\r\n0\r\n\r\n")
                self.body = text.partition(b"\r\n")[2].removesuffix(b"\r\n0\r\n\r\n")
            else:
                length = re.search(rb"\r\ncontent-length: (\d+)", self.head)
                self.body = await self.reader.readexactly(int(length[1]) if length else 0)
        return int(head.split()[1])

    async def told(self) -> Any:
        """What the application tells of a request."""
        assert await self.status() == 200
        return json.loads(self.body)

    async def refused(self, status: int) -> None:
        """It is said why, and then nothing more."""
        try:
            assert await self.status() == status
            assert b"connection: close" in self.head
            assert self.body.endswith(b".\n")
        except ConnectionResetError:
            # Of a client that goes on sending; the last it said came after the socket had been closed.
            pass
        await self.cut_off()


async def sends(client: Wire, data: bytes, *, pause: float = 0, patience: float = PATIENCE) -> int:
    """Send the same again and again until the server takes it no more, or 64 MiB; gives how many bytes that were."""
    sent, loop = 0, asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    with contextlib.suppress(ConnectionError, TimeoutError):
        while sent < 64 << 20 and not client.reader.at_eof() and loop.time() < end:
            client.write(data)
            sent += len(data)
            async with asyncio.timeout(patience):
                await client.writer.drain()
            await asyncio.sleep(pause)
    return sent


@asynccontextmanager
async def wire(running: Running, said: bytes = b"", name: str = "nobody") -> AsyncIterator[Wire]:
    made = Wire(name)
    await made.connect(running.port)
    made.write(said)
    try:
        yield made
    finally:
        made.abandon()


def headers(count: int, size: int = 1) -> bytes:
    return b"".join(b"x-%d: %s\r\n" % (number, b"y" * size) for number in range(count))


TOO_LARGE = {
    "headers of many bytes": READ + headers(150, MAX_HEAD_BYTES // 140) + b"\r\n",
    "many headers": READ + headers(MAX_HEADERS) + b"\r\n",
    "many bytes without an end": READ + headers(100_000),
    "one value without an end": READ + b"x: " + b"y" * (MAX_HEAD_BYTES + 1),
    "one name without an end": READ + b"y" * (MAX_HEAD_BYTES + 1),
    "a line without an end": b"GET /" + b"y" * MAX_REQUEST_LINE,
    "a long line": b"GET /" + b"y" * MAX_REQUEST_LINE + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a long target": b"GET /" + b"y" * 66_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a handshake with headers of many bytes": HANDSHAKE[:-2] % b"" + headers(150, MAX_HEAD_BYTES // 140) + b"\r\n",
    "a handshake with many headers": HANDSHAKE[:-2] % b"" + headers(MAX_HEADERS) + b"\r\n",
    "a handshake with a long line": HANDSHAKE % (b"y" * MAX_REQUEST_LINE),
}


@pytest.mark.parametrize("name", TOO_LARGE)
async def test_heads_that_are_too_large(running: Running, name: str) -> None:
    async with wire(running, TOO_LARGE[name]) as whole, wire(running) as pieces:
        for at in range(0, len(TOO_LARGE[name]), 50_000):
            pieces.write(TOO_LARGE[name][at : at + 50_000])
            await asyncio.sleep(0)
        await whole.refused(431)
        await pieces.refused(431)


async def test_nothing_is_read_of_a_head_after_it_was_refused(running: Running) -> None:
    async with wire(running, READ) as client:
        assert await sends(client, headers(1000, 50)) < 16 << 20
        await client.cut_off()


async def test_the_largest_heads_that_are_taken(running: Running) -> None:
    long = b"y" * (MAX_REQUEST_LINE - 100)
    async with wire(running, READ + headers(MAX_HEADERS - 1) + b"\r\n") as many:
        assert len((await many.told())["headers"]) == MAX_HEADERS
    async with wire(
        running, b"GET /%s?read HTTP/1.1\r\n" % long[:65000] + HOST + headers(10, 12_000) + b"\r\n"
    ) as large:
        assert len((await large.told())["path"]) == 65001
    async with wire(running, HANDSHAKE[:-2] % long + headers(MAX_HEADERS - 6) + b"\r\n") as client:
        assert await client.status() == 101


CONNECTION_TWICE = b"Connection: keep-alive\r\nConnection: Upgrade\r\n\r\n"
HANDSHAKES = {
    "two Connection headers": b"GET /%s HTTP/1.1\r\n" + HOST + UPGRADE + CONNECTION_TWICE,
    "the other way round": b"GET /%s HTTP/1.1\r\n"
    + HOST
    + b"Connection: Upgrade\r\nConnection: close\r\n"
    + UPGRADE
    + b"\r\n",
    "a list": b"GET /%s HTTP/1.1\r\n" + HOST + UPGRADE + b"Connection: keep-alive, Upgrade\r\n\r\n",
    "an absolute target": HANDSHAKE.replace(b"/%s", b"http://localhost/%s"),
    "an absolute target of WebSocket": HANDSHAKE.replace(b"/%s", b"WSS://localhost:1/%s"),
    "behind an empty line": b"\r\n" + HANDSHAKE,
    "behind a request": READ + b"\r\n" + HANDSHAKE,
    "behind a request that takes its time": b"GET /?late HTTP/1.1\r\n" + HOST + b"\r\n" + HANDSHAKE,
    "behind a body": POST + b"Content-Length: 3\r\n\r\nabc" + HANDSHAKE,
    "behind chunks": CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + HANDSHAKE,
}


@pytest.mark.parametrize("name", HANDSHAKES)
@pytest.mark.parametrize("early", [False, True])
async def test_handshakes(running: Running, name: str, early: bool) -> None:
    """`early`: with a frame behind it, before it was answered."""
    path = re.sub(r"\W", "", name) + str(early)
    said = HANDSHAKES[name] % path.encode() + (frame(TEXT, b"early") if early else b"")
    async with wire(running, said, path) as client:
        if name.startswith("behind") and "line" not in name:
            assert (await client.told())["path"] != f"/{path}"
        assert await client.status() == 101
        if not early:
            client.send(TEXT, b"early")
        assert await client.echo() == description("early")
        await client.close(1000)
        assert (await running.heard(client))[0] == description("early")


REFUSED = {
    "a handshake in HTTP/1.0": (400, HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0") % b""),
    "a handshake without a host": (400, HANDSHAKE.replace(HOST, b"") % b""),
    "a handshake with a body": (400, HANDSHAKE.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi") % b""),
    "no host": (400, READ.replace(HOST, b"") + b"\r\n"),
    "two hosts": (400, READ + HOST + b"\r\n"),
    "no path": (400, READ.replace(b"/some/path?read", b"some/path") + b"\r\n"),
    "credentials in the target": (400, READ.replace(b"/some", b"http://a:b@localhost/some") + b"\r\n"),
    "a tunnel": (400, b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a tunnel to a path": (400, READ.replace(b"GET", b"CONNECT") + b"\r\n"),
    "a tunnel with an offer": (400, READ.replace(b"GET", b"CONNECT") + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
    "another version": (505, READ.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n"),
    "length and chunks": (400, POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunks and length": (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "a negative length": (400, POST + b"Content-Length: -3\r\n\r\nabc"),
    "a length of 30 digits": (400, POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nabc"),
    "a chunk of no size": (400, CHUNKED + b"x\r\nabc\r\n0\r\n\r\n"),
    "a chunk of a negative size": (400, CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n"),
    "a chunk of 17 digits": (400, CHUNKED + b"F" * 17 + b"\r\nabc"),
    "a chunk longer than it says": (400, CHUNKED + b"2\r\nabc\r\n0\r\n\r\n"),
    "another coding": (501, POST + b"Transfer-Encoding: gzip\r\n\r\nabc"),
    "another coding besides": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunks in HTTP/1.0": (400, CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n"),
    "endless extensions": (400, CHUNKED + b"1;" + b"x" * 70_000),
    "endless trailers": (400, CHUNKED + b"1\r\nx\r\n0\r\n" + headers(10_000)),
    "endless trailers of a long body": (400, CHUNKED + b"8000\r\n%s\r\n0\r\n" % (b"x" * 0x8000) + headers(99_999)),
    "a body before it was asked for": (400, CHUNKED[:-2] + b"Expect: 100-continue\r\n\r\nx\r\n"),
    "empty lines": (400, b"\r\n\r\n\n"),
    "empty lines without end": (400, b"\r\n" * 100_000),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "no HTTP": (400, b"hello\r\n\r\n"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_request(running: Running, name: str) -> None:
    status, said = REFUSED[name]
    async with wire(running, said) as client:
        await client.refused(status)


async def test_an_absolute_target_names_the_host(running: Running) -> None:
    for target in (b"http://other:81/some/path?read", b"HTTPS://other:81?read"):
        async with wire(running, READ.replace(b"/some/path?read", target) + b"\r\n") as client:
            told = await client.told()
            assert told["host"] == "other:81"
            assert told["path"] == ("/some/path" if b"some" in target else "/")
            assert told["headers"].count("host") == 1


PIPELINED = (
    READ + b"\r\n"
    + POST + b"Content-Length: 5\r\n\r\n\r\n\r\nX"
    + CHUNKED + b"3;a=b\r\n\r\n\r\r\n4\r\n\n\r\n\r\r\n0\r\nx-trailer: 9\r\nHost: trailer\r\n\r\n"
    + b"\r\n"
    + POST + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\nContent-Length: 2\r\n\r\nab"
    + CHUNKED.replace(b"Host", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nHost")
    + b"2\r\nab\r\n0\r\n\r\n"
    + b"HEAD /?late HTTP/1.1\r\n" + HOST + b"\r\n"
    + b"DELETE /last?read HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n"
)  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 7, 50, 100_000])
async def test_requests_one_behind_the_other(running: Running, size: int) -> None:
    """However they are cut: answered in order, each with its own body, and nothing of one is taken for another's."""
    async with wire(running) as client:
        for at in range(0, len(PIPELINED), size):
            client.write(PIPELINED[at : at + size])
            if size < 10:
                await client.writer.drain()
        sizes = []
        for number in range(7):
            if number == 5:
                assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                continue
            told = await client.told()
            sizes.append(told["size"])
            assert told["host"] == "localhost"
        assert sizes == [0, 5, 7, 2, 2, 0]
        assert told["path"] == "/last"


async def test_a_few_empty_lines_before_a_request(running: Running) -> None:
    async with wire(running) as client:
        for size in (1, 4, 100):
            said = b"\r\n\r\n" + READ + b"\r\n"
            for at in range(0, len(said), size):
                client.write(said[at : at + size])
                await client.writer.drain()
            await client.told()


async def test_who_sends_empty_lines_without_end_is_cut_off(running: Running) -> None:
    async with wire(running, READ + b"\r\n") as client:
        await client.told()
        assert await sends(client, b"\r\n" * 32_768) < 16 << 20


async def test_many_small_chunks_are_read_in_parts(running: Running) -> None:
    count = 100_000
    async with wire(running, CHUNKED + b"1\r\nx\r\n" * count + b"0\r\n\r\n" + READ + b"\r\n") as client:
        assert (await client.told())["size"] == count
        await client.told()


async def test_who_shuts_its_side_is_answered(running: Running) -> None:
    asked = POST + b"Content-Length: 2\r\n\r\nab"
    for said, answers in ((READ + b"\r\n", 1), (asked, 1), (CHUNKED + b"1\r\na\r\n0\r\n\r\n" + asked * 3, 4)):
        async with wire(running, said) as client:
            client.writer.write_eof()
            for _ in range(answers):
                await client.told()
            await client.cut_off()
    # What is not complete is not answered.
    for said in (b"", READ, asked[:-1], CHUNKED + b"1\r\na\r\n"):
        async with wire(running, said) as client:
            client.writer.write_eof()
            await client.cut_off()


async def test_what_is_sent_ahead_waits_unread(running: Running) -> None:
    async with wire(running, b"GET /never-over HTTP/1.1\r\n" + HOST + b"\r\n") as client:
        # What the buffers of both kernels hold.
        assert await sends(client, (READ + b"\r\n") * 2000, patience=0.5) < 32 << 20


@pytest.mark.parametrize(
    "head",
    [
        POST + b"Content-Length: 100000\r\n\r\n",
        CHUNKED + b"FFFF\r\n",
        POST.replace(b"?read", b"?sent") + b"Content-Length: 100000\r\n\r\n",
    ],
    ids=["of a known length", "chunked", "unwanted"],
)
async def test_who_sends_a_body_too_slowly(running: Running, head: bytes) -> None:
    unwanted = b"?sent" in head
    path = f"/slow{len(head)}"
    async with wire(running, head.replace(b"/body", path.encode())) as client:
        began = time.monotonic()
        if unwanted:
            assert await client.status() == 200
        sending = asyncio.create_task(sends(client, b"x", pause=0.05))
        if not unwanted:
            assert await client.status() == 408
            assert b"too slowly" in client.body
        await client.cut_off()
        assert 1 < time.monotonic() - began < PATIENCE
        await sending
    # The application is not left waiting either.
    deadline = time.monotonic() + PATIENCE
    while not unwanted and f"READ {path} null" not in running.log.read_text():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_who_sends_a_body_slowly_is_answered(running: Running) -> None:
    """Longer than the grace, at three times the rate."""
    async with wire(running, POST + b"Content-Length: 6000\r\n\r\n") as client:
        for _ in range(20):
            client.write(b"x" * 300)
            await asyncio.sleep(0.08)
        assert (await client.told())["size"] == 6000


async def test_who_does_not_take_an_answer(running: Running) -> None:
    async with wire(running, b"GET /?large HTTP/1.1\r\n" + HOST + b"\r\n") as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        began = time.monotonic()
        # It reads nothing, and is told by what it sends.
        await sends(client, b"x", pause=0.1)
        assert 0.9 < time.monotonic() - began < PATIENCE


async def test_who_takes_an_answer_slowly_gets_it(running: Running) -> None:
    async with wire(running, b"GET /?large HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n") as client:
        size = 0
        async with asyncio.timeout(PATIENCE):
            while data := await client.reader.read(1 << 20):
                size += len(data)
                await asyncio.sleep(0.03)
        assert size > LARGE


async def test_an_answer_before_the_body(running: Running) -> None:
    """The rest of a body that nobody wants is thrown away, so that its sender can read the answer."""
    unread = POST.replace(b"?read", b"?sent")
    async with wire(running, unread + b"Content-Length: 1000\r\n\r\n") as client:
        assert await client.status() == 200
        client.write(b"x" * 1000 + READ + b"\r\n")
        assert (await client.told())["size"] == 0
    chunks = unread + b"Transfer-Encoding: chunked\r\n\r\n"
    for head in (chunks, unread + b"Content-Length: 90000000\r\n\r\n"):
        async with wire(running, head) as client:
            assert await client.status() == 200
            assert b"connection: close" in client.head
            for _ in range(50):
                client.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await client.writer.drain()
            # Nothing more comes from there; and the connection was not reset.
            await client.hung_up()


async def test_a_body_that_was_not_asked_for(running: Running) -> None:
    expecting = b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    async with wire(running, POST + expecting) as client:
        assert await client.status() == 100
        client.write(b"abc" + READ + b"\r\n")
        assert (await client.told())["size"] == 3
        assert (await client.told())["size"] == 0
    async with wire(running, POST.replace(b"?read", b"?sent") + expecting) as client:
        assert await client.status() == 200
        # It may send its body now or not; what would come next would not be known.
        assert b"connection: close" in client.head
        await client.hung_up()


async def test_an_idle_connection_is_kept(running: Running) -> None:
    """For HTTP_KEEP_ALIVE_SECS; not for as long as a first request has."""
    async with wire(running, READ + b"\r\n") as client:
        for _ in range(2):
            assert (await client.told())["size"] == 0
            await asyncio.sleep(1.5)
            client.write(READ + b"\r\n")
        assert (await client.told())["size"] == 0
        began = time.monotonic()
        await client.hung_up()
        assert 1.5 < time.monotonic() - began < PATIENCE
