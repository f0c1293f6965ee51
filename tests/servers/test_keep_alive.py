"""Silent clients are dropped; those that answer, and those that are not listened to, are not."""

from __future__ import annotations

import asyncio

import psutil

from tests.running import PATIENCE
from tests.servers.application import description
from tests.servers.conftest import OnEach
from tests.servers.raw import PING, PONG, TEXT
from tests.servers.running import Running


async def test_a_client_that_answers_stays(on_each: OnEach) -> None:
    async def story(running: Running) -> None:
        async with running.client() as client:
            for _ in range(2):
                ping = await client.frame()
                assert ping.opcode == PING
                client.send(PONG, ping.payload)
            client.send(TEXT, b"still here")
            while (answer := await client.frame()).opcode == PING:
                client.send(PONG, answer.payload)
            assert answer.opcode == TEXT
            await client.close(1000)

    await on_each(story, KEEP_ALIVE_SECS=2)


async def test_a_silent_client_is_dropped(on_each: OnEach) -> None:
    async def story(running: Running) -> None:
        async with running.client() as client:
            assert (await client.frame()).opcode == PING
            # It says nothing, and is told nothing more.
            assert await client.cut_off() == 0
            assert await running.heard(client) == [{"code": 1006, "reason": ""}]

    await on_each(story, KEEP_ALIVE_SECS=1)


async def test_a_silent_client_is_dropped_with_all_that_waits_for_it(on_each: OnEach) -> None:
    async def story(running: Running) -> None:
        async with running.client() as client:
            client.order("flood", kind="binary", size=1 << 20, count=64)
            assert await running.heard(client) == [{"code": 1006, "reason": ""}]
            assert await client.cut_off() < 64 << 20

    await on_each(story, KEEP_ALIVE_SECS=1)


async def test_a_client_is_not_dropped_because_the_application_is_busy(on_each: OnEach) -> None:
    async def story(running: Running) -> None:
        async with running.client() as client:
            # Longer than the time to a ping and the time for its answer.
            client.order("work", secs=3.5)
            client.send(TEXT, b"waiting")
            answered = False
            while not answered:
                each = await client.frame()
                if each.opcode == PING:
                    client.send(PONG, each.payload)
                else:
                    assert each.opcode == TEXT
                    answered = True
            client.send_close(1000)
            assert await running.heard(client) == [description("waiting"), {"code": 1000, "reason": ""}]

    await on_each(story, KEEP_ALIVE_SECS=1)


async def test_a_client_that_takes_nothing_cannot_hold_up_its_end(on_each: OnEach) -> None:
    async def story(running: Running) -> None:
        async with running.client() as client:
            own_port = client.writer.get_extra_info("sockname")[1]
            # It answers pings, but leaves 64 MiB where they are.
            client.order("flood", kind="binary", size=1 << 20, count=64)
            while not await running.ask(client.name, "sent"):
                pass
            # The application, which waits for room, gives up.
            await running.ask(client.name, "release")
            process = psutil.Process(running.process.pid)
            async with asyncio.timeout(PATIENCE):
                while any(each.raddr and each.raddr.port == own_port for each in process.net_connections("tcp")):
                    await running.ask("nobody", "sent")
            assert await client.cut_off() < 64 << 20

    await on_each(story, closing_secs=0.5)
