"""Clients that are not there are cut off; those that answer, and those that are not listened to, are not."""

from __future__ import annotations

import asyncio

import psutil

from tests.proxy import CuttingProxy
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

    await on_each(story, KEEP_ALIVE_SECS=3)


SILENT = {"code": 1006, "reason": "The client did not answer a ping."}
UNREAD = {"code": 1008, "reason": "The client did not read what was sent to it."}


async def test_a_silent_client_is_cut_off(on_each: OnEach) -> None:
    async def story(running: Running) -> None:
        async with running.client() as client:
            assert (await client.frame()).opcode == PING
            # It says nothing, and is told nothing more.
            assert await client.cut_off() == 0
            assert await running.heard(client) == [SILENT]

    await on_each(story, KEEP_ALIVE_SECS=0.4)


async def test_a_client_that_sends_and_does_not_answer_is_cut_off(on_each: OnEach) -> None:
    async def story(running: Running) -> None:
        async with running.client() as reads, running.client() as does_not:
            # One that reads, and one that does not even do that.
            does_not.writer.transport.pause_reading()
            over = {asyncio.create_task(running.heard(client)): client for client in (reads, does_not)}
            async with asyncio.timeout(PATIENCE):
                while over:
                    for client in over.values():
                        client.send(TEXT, b"here I am")
                    done, _ = await asyncio.wait(over, timeout=0.05)
                    for each in done:
                        assert each.result()[-1] == SILENT
                        assert each.result()[0] == description("here I am")
                        del over[each]

    await on_each(story, KEEP_ALIVE_SECS=0.4)


async def test_a_client_whose_network_has_vanished_is_cut_off(on_each: OnEach) -> None:
    async def story(running: Running) -> None:
        with CuttingProxy(running.port) as proxy:
            async with running.client(port=proxy.port) as client:
                assert (await client.frame()).opcode == PING
                client.send(TEXT, b"the last word")
                await client.echo()
                assert proxy.freeze() == 1
                assert await running.heard(client) == [description("the last word"), SILENT]

    await on_each(story, KEEP_ALIVE_SECS=0.4)


async def test_a_client_that_does_not_read_is_cut_off_with_all_that_waits_for_it(on_each: OnEach) -> None:
    async def story(running: Running) -> None:
        with CuttingProxy(running.port) as proxy:
            async with running.client() as client, running.client(port=proxy.port) as vanishes:
                for each in (client, vanishes):
                    each.order("flood", kind="binary", size=1 << 20, count=64)
                while not await running.ask(vanishes.name, "sent"):
                    pass
                proxy.freeze()
                assert await running.heard(client) == await running.heard(vanishes) == [UNREAD]
                assert await client.cut_off() < 64 << 20

    # For their silence they would be cut off much later.
    await on_each(story, KEEP_ALIVE_SECS=100, WRITE_TIMEOUT_SECS=1)


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

    await on_each(story, KEEP_ALIVE_SECS=2)


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
