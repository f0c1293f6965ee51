"""A server that stops says so, with 1001, and does not wait for those who do not care."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from tests.running import PATIENCE, Service
from tests.servers.application import description
from tests.servers.raw import TEXT
from tests.servers.running import Running
from tests.service.client import JSON, Target, opened

AWAY = {"code": 1001, "reason": ""}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_clients_are_told(start: Callable[..., Running], number: signal.Signals) -> None:
    running = start()
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
        log = running.ended()
        heard = [json.loads(line.removeprefix("HEARD ")) for line in log.splitlines() if line.startswith("HEARD ")]
        assert heard == [[description("before"), AWAY]] * 2


async def test_with_clients_in_every_state(start: Callable[..., Running]) -> None:
    running = start()
    async with (
        running.client() as closing,
        running.client() as broken,
        running.client() as full,
        running.client(query="unanswered") as waiting,
        running.client() as idle,
    ):
        closing.order("close", code=1000, reason="")
        assert await closing.close_frame() == (1000, "")
        broken.send(3)
        assert (await broken.close_frame())[0] == 1002
        for client in (closing, broken):
            await running.ask(client.name, "release")
        full.order("flood", kind="binary", size=1 << 20, count=64)
        await full.frame()
        running.signal(signal.SIGTERM)
        assert await idle.close_frame() == (1001, "")
        await waiting.cut_off()
        running.ended()


async def test_the_service_tells_its_clients(serve: Callable[[], Service]) -> None:
    service = serve()
    async with opened(Target(service.connection_string).url(), JSON) as client:
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM if service.server == "uvicorn" else signal.SIGINT)
        assert await client.closed() == (1001, "")
        service.process.wait(PATIENCE)
