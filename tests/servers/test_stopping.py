"""A server that stops says so, with 1001, and does not wait for those who do not care."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from hubs import health
from hubs.servers import uvicorn
from tests.running import PATIENCE, Service
from tests.servers.application import description
from tests.servers.conftest import OnEach, Supervise
from tests.servers.raw import TEXT
from tests.servers.running import Running
from tests.servers.supervised import HANDSHAKE
from tests.service.client import JSON, Target, opened

AWAY = {"code": 1001, "reason": ""}


# What uvicorn says after ten seconds, which is its own bound. It is never needed.
TOO_LONG = "graceful shutdown exceeded"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_clients_are_told(on_each: OnEach, number: signal.Signals) -> None:
    async def story(running: Running) -> None:
        async with running.client() as one, running.client() as other:
            for client in (one, other):
                client.send(TEXT, b"before")
                assert await client.echo() == description("before")
            running.signal(number)
            for client in (one, other):
                assert await client.close_frame() == (1001, "")
            # One answers as it should, the other does not.
            one.send_close(1001)
            await one.cut_off()
            log = await running.ended()
            heard = [json.loads(line.removeprefix("HEARD ")) for line in log.splitlines() if line.startswith("HEARD ")]
            assert heard == [[description("before"), AWAY]] * 2

    await on_each(story)


async def test_with_clients_in_every_state(on_each: OnEach) -> None:
    async def story(running: Running) -> None:
        async with (
            running.client() as closing,
            running.client() as broken,
            running.client() as full,
            running.client() as full_and_gone,
            running.client(query="unanswered") as waiting,
            running.client() as idle,
        ):
            closing.order("close", code=1000, reason="")
            assert await closing.close_frame() == (1000, "")
            broken.send(3)
            assert (await broken.close_frame())[0] == 1002
            for client in (closing, broken):
                await running.ask(client.name, "release")
            for client in (full, full_and_gone):
                client.order("flood", kind="binary", size=1 << 20, count=64)
                await client.frame()
            full_and_gone.send_close(1000)
            # Or its application would go on listening.
            await running.ask(full_and_gone.name, "release")
            running.signal(signal.SIGTERM)
            assert await idle.close_frame() == (1001, "")
            await waiting.cut_off()
            assert TOO_LONG not in await running.ended()

    await on_each(story)


async def test_a_handshake_that_waits_for_the_application_is_refused(supervise: Supervise) -> None:
    async with supervise(1) as supervised:
        [child] = await supervised.up()
        reader, writer = await asyncio.open_connection("127.0.0.1", supervised.port)
        writer.write(HANDSHAKE.replace(b"/chat", b"/unanswered"))
        await supervised.says("A handshake waits")
        supervised.signal(signal.SIGTERM)
        assert await child.hears() == "draining 0"
        # While the process drains it may still be answered.
        child.order("go")
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readline()) == b"HTTP/1.1 503 Service Unavailable\r\n"
            assert (await reader.read()).endswith(b"\r\n\r\nThe service is stopping. Try again.")
            assert await child.hears() == "over"
        writer.close()
        assert await supervised.status() == -signal.SIGTERM
        assert TOO_LONG not in supervised.said()


@pytest.mark.parametrize("does", ["sends no more of its request", "does not read its answer", "reads half of it"])
async def test_an_http_client_that_leaves_its_part_undone_is_not_waited_for(supervise: Supervise, does: str) -> None:
    async with supervise(1) as supervised:
        [child] = await supervised.up()
        reader, writer = await asyncio.open_connection("127.0.0.1", supervised.port, limit=1000)
        if does == "sends no more of its request":
            writer.write(b"POST /whole HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
            await supervised.says("Some of a request has come")
        else:
            path = b"long" if does == "does not read its answer" else b"endless"
            writer.write(b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
            await reader.readline()
        supervised.signal(signal.SIGTERM)
        assert await child.hears() == "draining 0"
        child.order("go")
        async with asyncio.timeout(PATIENCE):
            assert await child.hears() == "over"
        assert await supervised.status() == -signal.SIGTERM
        assert TOO_LONG not in supervised.said()
        writer.transport.abort()


async def test_whoever_asks_for_its_health_hears_of_it() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    heard: list[str | None] = []

    async def drain(stopping_too: int) -> None:
        heard.append(health.reason("draining"))

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.server(application, drain)
    serving = asyncio.create_task(server._serve([listening]))
    async with asyncio.timeout(PATIENCE):
        while not server.started:
            await asyncio.sleep(0.01)
        assert health.reason("draining") is None
        server.stop()
        await serving
    assert heard == ["this process is stopping"]
    assert health.reason("draining") is None


async def test_the_service_tells_its_clients(serve: Callable[[], Service]) -> None:
    service = serve()
    async with opened(Target(service.connection_string).url(), JSON) as client:
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM if service.server == "uvicorn" else signal.SIGINT)
        assert await client.closed() == (1001, "")
        service.process.wait(PATIENCE)
