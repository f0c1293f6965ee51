"""The application on uvicorn as it comes, without the classes of hubs/servers: less polite, but at work.

There is no extension, so everything goes the way of ASGI, on each of uvicorn's WebSocket implementations.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.running import PATIENCE, ROOT, Service, free_port
from tests.service.client import (
    JSON,
    PROTOBUF,
    Sdk,
    Target,
    group_message,
    hears,
    ok,
    opened,
    publish,
    reliable,
)


@pytest.fixture(scope="module", params=["websockets-sansio", "websockets"])
def target(
    request: pytest.FixtureRequest, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """The service, run by uvicorn's own command."""
    port = free_port()
    endpoint = f"http://localhost:{port}"
    command = [sys.executable, "-m", "uvicorn", "pubsub_site.asgi:application", "--host", "localhost"]
    log = tmp_path_factory.mktemp(request.param) / "uvicorn.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--ws", request.param],
            cwd=ROOT,
            env=service.env | {"PUBLIC_ENDPOINT": endpoint},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        _answers(f"{endpoint}/api/health", process, log)
        yield Target(service.connection_string.replace(service.endpoint, endpoint))
        # What uvicorn has to say of clients that were cut off is its own business.
        assert f"{ROOT}/hubs/" not in log.read_text()
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except (urllib.error.URLError, OSError):
            continue
        return
    raise AssertionError(f"uvicorn did not start:\n{log.read_text()}")


async def test_clients_are_served(target: Target) -> None:
    async with opened(target.url(), JSON) as client:
        await client.join("plain")
        long = "x" * 300_000
        await client.say(type="sendToGroup", group="plain", dataType="text", data=long, ackId=2)
        assert await client.hear() == group_message("plain", long, "text")
        assert await client.hear() == ok(2)


async def test_everybody_in_a_group_hears_everything_in_order(target: Target) -> None:
    async with AsyncExitStack() as stack:
        members = [
            await stack.enter_async_context(opened(target.url(groups=["many"]), subprotocol))
            for subprotocol in (JSON, JSON, JSON, JSON, PROTOBUF, PROTOBUF, PROTOBUF)
        ]
        members.append(await stack.enter_async_context(reliable(target.url(groups=["many"]))))
        publisher = await stack.enter_async_context(opened(target.url(), JSON))
        await publish(publisher, "many", *(f"message {number}" for number in range(50)))
        for member in members:
            await hears(member, "many", *(f"message {number}" for number in range(50)))


async def test_a_lost_client_comes_back_to_everything(target: Target) -> None:
    async with reliable(target.url(groups=["lost"])) as client, opened(target.url(), JSON) as publisher:
        await publish(publisher, "lost", "before")
        await hears(client, "lost", "before")
        await client.reset()
        await publish(publisher, "lost", "meanwhile")
        await client.recover()
        await publish(publisher, "lost", "behind")
        await hears(client, "lost", "before", "meanwhile", "behind")


async def test_conversations_end_as_the_protocol_has_it(target: Target) -> None:
    async with opened(target.url(), JSON) as client:
        await client.say_raw("not JSON")
        assert await client.closed() == (1007, "The client message is not a valid JSON protocol message.")
    async with opened(target.url(groups=["closing"]), JSON) as client:
        await Sdk(target).close_group_connections("closing", reason="enough")
        message = "Application server closed the connection. Reason: enough"
        assert await client.hear() == {"type": "system", "event": "disconnected", "message": message}
        assert await client.closed() == (1000, "")


async def test_a_client_that_does_not_read_is_closed_and_disturbs_nobody(target: Target) -> None:
    async with (
        opened(target.url(groups=["slow"]), JSON) as slow,
        opened(target.url(groups=["slow"]), JSON) as quick,
        opened(target.url(), JSON) as publisher,
    ):
        slow.stop_reading()
        for number in range(40):
            await publish(publisher, "slow", f"{number}".ljust(1_000_000))
            await hears(quick, "slow", f"{number}".ljust(1_000_000))
        async with asyncio.timeout(PATIENCE):
            while len(await Sdk(target).members("slow")) > 1:
                pass
        # Or its goodbye would wait for an answer that it does not read.
        await slow.reset()
