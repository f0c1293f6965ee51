"""Clients that open a connection and do not say what they want are not waited for, however many they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.running import PATIENCE
from tests.servers.running import Running

REQUEST = b"GET /nobody?sent HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    server = Running(tmp_path_factory.mktemp("silence"), "uvicorn", http={"HEAD_SECS": 1, "LOOK_SECS": 0.1})
    yield server
    server.stop()
    assert "Traceback" not in server.log.read_text()


async def test_who_does_not_say_all_of_what_it_wants_is_hung_up_on(running: Running) -> None:
    async def tries(sent: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        begun = asyncio.get_running_loop().time()
        writer.write(sent)
        async with asyncio.timeout(PATIENCE):
            answered = await reader.read()
        # Not at once, and not after the five seconds for which a connection is kept that has nothing to do.
        assert asyncio.get_running_loop().time() - begun > 0.9
        assert answered.startswith(b"HTTP/1.1 200 OK\r\n") is (len(sent) > len(REQUEST))
        writer.close()

    async with asyncio.TaskGroup() as all_tries:
        for sent in (b"", REQUEST[:1], REQUEST[:-1], REQUEST + REQUEST[:10]):
            all_tries.create_task(tries(sent))


async def test_who_speaks_slowly_is_answered(running: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    async with asyncio.timeout(PATIENCE):
        for _ in range(3):
            for byte in REQUEST:
                writer.write(bytes([byte]))
                await writer.drain()
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            await reader.readuntil(b"\r\n\r\n1\r\n0\r\n0\r\n\r\n")
    writer.close()


async def test_a_websocket_may_be_silent(running: Running) -> None:
    async with running.client() as silent:
        # Somebody who came later is hung up on; the first one is still there.
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        writer.close()
        await silent.close(1000)
