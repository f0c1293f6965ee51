"""Clients that are not there, or do not read: the service parts with them, and says so in one line of its log."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.proxy import CuttingProxy
from tests.running import PATIENCE, Service
from tests.service.client import (
    JSON,
    JSON_RELIABLE,
    PROTOBUF,
    PROTOBUF_RELIABLE,
    Sdk,
    Target,
    group_message,
    opened,
    publish,
    reliable,
)

Start = Callable[..., Service]


@pytest.fixture(params=["uvicorn", "daphne"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """`start(KEEP_ALIVE_SECS="2")`: a service of the test's own."""
    started: list[Service] = []

    def begin(**env: str) -> Service:
        service = Service(tmp_path, server=request.param, env=env).set_up()
        started.append(service)
        return service.start()

    yield begin
    for service in started:
        service.stop()
        assert "Traceback" not in service.log.read_text()


def _evictions(service: Service, user: str) -> list[str]:
    """Why connections of a user were cut off, as the log has it."""
    return re.findall(rf"Connection [0-9a-f]{{32}} \(hub chat, user {user}\) is cut off: (.*)", service.log.read_text())


async def _until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not reached():
            await asyncio.sleep(0.05)


async def test_a_client_whose_network_has_vanished_is_noticed(start: Start) -> None:
    service = await asyncio.to_thread(start, KEEP_ALIVE_SECS="2")
    target = Target(service.connection_string)
    rest, plain = Sdk(target), {"simple": None, "json": JSON, "protobuf": PROTOBUF}
    kept = {"json-reliable": JSON_RELIABLE, "protobuf-reliable": PROTOBUF_RELIABLE}
    with CuttingProxy(service.port) as proxy:

        def url(user: str) -> str:
            return target.url(user=user, groups=["room"]).replace(f":{service.port}/", f":{proxy.port}/")

        async with AsyncExitStack() as stack:
            for user, subprotocol in plain.items():
                # What the client still would say at its end gets nowhere.
                client = await stack.enter_async_context(opened(url(user), *filter(None, [subprotocol])))
                stack.callback(client.socket.transport.abort)
            back = [await stack.enter_async_context(reliable(url(user), kept[user])) for user in kept]
            for each in back:
                stack.callback(each.socket.transport.abort)
            assert proxy.freeze() == 5
            for user in (*plain, *kept):
                await _until(lambda user=user: bool(_evictions(service, user)))  # type: ignore[misc]
            for user in plain:
                assert not await rest.user_exists(user)
            # Those of reliable subprotocols are away, and miss nothing.
            await rest.send_to_group("room", "meanwhile", content_type="text/plain")
            for user, client in zip(kept, back, strict=True):
                assert await rest.user_exists(user)
                await client.recover()
                assert await client.hear() == group_message("room", "meanwhile", "text")
            for user in plain:
                [line] = _evictions(service, user)
                assert line.startswith("The client did not answer a ping. Waiting: ")


async def test_a_client_that_does_not_read_is_closed_in_time(start: Start) -> None:
    # Long before it is known that it does not answer.
    service = await asyncio.to_thread(start, KEEP_ALIVE_SECS="120", WRITE_TIMEOUT_SECS="4")
    target, megabyte = Target(service.connection_string), "x" * 1_000_000
    rest = Sdk(target)
    async with (
        opened(target.url(), JSON) as publisher,
        opened(target.url(user="plain", groups=["room"]), PROTOBUF) as slow,
        reliable(target.url(user="reliable", groups=["room"])) as away,
    ):
        for client in (slow, away):
            client.stop_reading()
        # More than the sockets' own buffers take, and less than may wait.
        await publish(publisher, "room", *[megabyte] * 12, dataType="text")
        for user in ("plain", "reliable"):
            await _until(lambda user=user: bool(_evictions(service, user)))  # type: ignore[misc]
        async with asyncio.timeout(PATIENCE):
            while await rest.user_exists("plain"):
                pass
        assert await rest.user_exists("reliable")
        slow.go_on_reading()
        _, close = await slow.hear_out()
        assert close in (None, (1008, "The client did not read what was sent to it."))
        away.socket.transport.abort()
        await away.recover()
        for _ in range(12):
            assert await away.hear() == group_message("room", megabyte, "text")
        for user in ("plain", "reliable"):
            [line] = _evictions(service, user)
            assert re.fullmatch(
                r"The client did not read what was sent to it\. Waiting: \d+ messages, [0-9,]+ bytes, for \d+\.\d s\.",
                line,
            )
