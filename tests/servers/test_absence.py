"""Clients that leave while nobody reads them: their messages wait for an application that is busy."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import psutil

from tests.running import PATIENCE
from tests.servers.application import description
from tests.servers.conftest import OnEach
from tests.servers.raw import BINARY, PING, PONG, TEXT, RawClient, frame
from tests.servers.running import Running

KEEP_ALIVE_SECS = 2


async def _fill(client: RawClient) -> None:
    """Send until the server takes no more."""
    message = frame(BINARY, bytes(1 << 20))
    try:
        while True:
            client.write(message)
            async with asyncio.timeout(1):
                await client.writer.drain()
    except TimeoutError:
        pass


async def _send_some(client: RawClient) -> None:
    """Send more than is read ahead, and less than the system takes."""
    client.write(frame(BINARY, bytes(50_000)) * 3)
    await client.writer.drain()


def _ends(client: RawClient) -> None:
    client.writer.write_eof()


LEAVES: list[tuple[str, Callable[[RawClient], object], Callable[[RawClient], None]]] = [
    # The system of a client that is blocked keeps its FIN back.
    ("blocked, closed", _fill, RawClient.abandon),
    ("blocked, reset", _fill, RawClient.reset),
    ("closed", _send_some, RawClient.abandon),
    ("reset", _send_some, RawClient.reset),
]
if sys.platform == "linux":
    LEAVES.append(("its side shut", _send_some, _ends))


async def test_a_client_that_leaves_unread_is_gone_before_long(on_each: OnEach) -> None:
    async def leaves(running: Running, case: int) -> None:
        name, send, leave = LEAVES[case]
        async with running.client() as client:
            own_port = client.writer.get_extra_info("sockname")[1]
            client.order("work", secs=PATIENCE)
            await send(client)  # type: ignore[misc]
            leave(client)
            process, clock = psutil.Process(running.process.pid), asyncio.get_running_loop()
            left = clock.time()
            while any(each.raddr and each.raddr.port == own_port for each in process.net_connections("tcp")):
                assert clock.time() - left < 4 * KEEP_ALIVE_SECS, name
                await asyncio.sleep(0.1)
            # The application is told when it has done what it was about.
            await running.ask(client.name, "release")

    async def story(running: Running) -> None:
        async with asyncio.TaskGroup() as cases:
            for case in range(len(LEAVES)):
                cases.create_task(leaves(running, case))

    await on_each(story, KEEP_ALIVE_SECS=KEEP_ALIVE_SECS)


async def test_a_client_that_waits_unread_stays(on_each: OnEach) -> None:
    async def story(running: Running) -> None:
        async with running.client() as client:
            client.order("work", secs=3.5)
            message = frame(BINARY, bytes(300_000))
            client.write(message * 3)
            client.send(PING, b"behind")
            # While nobody reads its answers it is sent pings all the same.
            pings = 0
            while (each := await client.frame()).opcode == PING:
                client.send(PONG, each.payload)
                pings += 1
            assert pings > 1
            assert each.opcode == TEXT
            echoes, pongs = [each], []
            while len(echoes) < 3 or not pongs:
                each = await client.frame()
                assert each.opcode in (TEXT, PING, PONG)
                (echoes if each.opcode == TEXT else pongs if each.opcode == PONG else []).append(each)
            client.send_close(1000)
            assert await client.close_frame(after=PING) == (1000, "")
            assert (await running.heard(client))[:3] == [description(bytes(300_000))] * 3

    await on_each(story, KEEP_ALIVE_SECS=2)


async def test_pings_are_answered_and_a_goodbye_is_heard_while_messages_wait(on_each: OnEach) -> None:
    async def story(running: Running) -> None:
        async with running.client() as client:
            client.order("work", secs=1)
            client.write(frame(TEXT, b"waiting") * 10)
            client.send(PING, b"there?")
            answer = await client.frame()
            assert (answer.opcode, answer.payload) == (PONG, b"there?")
            client.send_close(1000, "bye")
            assert await client.close_frame() == (1000, "bye")
            await client.hung_up()
            assert await running.heard(client) == [*[description("waiting")] * 10, {"code": 1000, "reason": "bye"}]

    await on_each(story)
