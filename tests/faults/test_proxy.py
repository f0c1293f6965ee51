"""The proxy forwards faithfully, and fails exactly as it was told."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.proxy import CuttingProxy
from tests.running import PATIENCE


class Parrot:
    """A TCP server that says everything back behind its name, and knows how each connection ended."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.ends: asyncio.Queue[str] = asyncio.Queue()
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Parrot:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(self.name + data)
                await writer.drain()
            self.ends.put_nowait("end")
        except ConnectionError:
            self.ends.put_nowait("reset")
        finally:
            writer.close()

    async def next_end(self) -> str:
        async with asyncio.timeout(PATIENCE):
            return await self.ends.get()


@pytest.fixture
async def parrot() -> AsyncIterator[Parrot]:
    async with Parrot(b"") as server:
        yield server


@pytest.fixture
def proxy(parrot: Parrot) -> Iterator[CuttingProxy]:
    with CuttingProxy(parrot.port) as running:
        yield running
    assert "cutting-proxy" not in [thread.name for thread in threading.enumerate()]


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def hear(self, count: int) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(count)

    async def ask(self, data: bytes) -> bytes:
        self.say(data)
        return await self.hear(len(data))

    async def is_reset(self) -> bool:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectionResetError):
                await self.reader.read(1)
        return True


@asynccontextmanager
async def calling(port: int) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def refused(port: int) -> bool:
    """Whether a connection is reset instead of served; it depends on the hour whether connecting sees it already."""
    try:
        async with calling(port) as caller:
            return await caller.ask(b"?") != b"?"
    except (ConnectionResetError, asyncio.IncompleteReadError):
        return True


async def forgotten(proxy: CuttingProxy) -> None:
    """Wait until the proxy has no connection any more."""
    async with asyncio.timeout(PATIENCE):
        while proxy.connections:
            await asyncio.sleep(0)


async def test_bytes_go_both_ways_unchanged(proxy: CuttingProxy) -> None:
    text = bytes(range(256)) * 40_000
    async with calling(proxy.port) as caller:
        # Ten megabytes, many times what the proxy may hold, while nobody reads yet.
        caller.say(text)
        assert await caller.hear(len(text)) == text


async def test_an_orderly_end_stays_one(proxy: CuttingProxy, parrot: Parrot) -> None:
    async with calling(proxy.port) as caller:
        assert await caller.ask(b"hello") == b"hello"
        caller.say(b"bye")
        caller.writer.write_eof()
        # Half closed: the answer still comes, and the end behind it.
        assert await caller.hear(3) == b"bye"
        assert await caller.reader.read() == b""
    assert await parrot.next_end() == "end"
    await forgotten(proxy)


async def test_a_side_that_does_not_read_is_not_read_for(proxy: CuttingProxy, parrot: Parrot) -> None:
    async with calling(proxy.port) as idle, calling(proxy.port) as other:
        idle.writer.transport.pause_reading()
        idle.say(b"x" * 50_000_000)
        # The flood has nowhere to go, so it waits at its source, and another connection does not notice.
        assert await other.ask(b"unhurt") == b"unhurt"
        assert idle.writer.transport.get_write_buffer_size() > 10_000_000
        proxy.abort(proxy.connections[0])
        idle.writer.transport.resume_reading()
        with pytest.raises(ConnectionResetError):
            await idle.hear(50_000_000)


async def test_abort_resets_both_sides(proxy: CuttingProxy, parrot: Parrot) -> None:
    async with calling(proxy.port) as one, calling(proxy.port) as other:
        await one.ask(b"1")
        await other.ask(b"2")
        first, second = proxy.connections
        assert proxy.abort(first) == 1
        assert await one.is_reset()
        assert await parrot.next_end() == "reset"
        assert proxy.connections == [second]
        assert await other.ask(b"still") == b"still"
        assert proxy.abort() == 1
        assert await other.is_reset()
        assert await parrot.next_end() == "reset"
    async with calling(proxy.port) as again:
        assert await again.ask(b"back") == b"back"


async def test_a_cut_lets_nobody_through_until_it_is_over(proxy: CuttingProxy) -> None:
    async with calling(proxy.port) as caller:
        await caller.ask(b"1")
        began = time.monotonic()
        assert proxy.cut(0.2) == 1
        assert await caller.is_reset()
    refusals = 0
    async with asyncio.timeout(PATIENCE):
        while await refused(proxy.port):
            refusals += 1
    assert time.monotonic() - began >= 0.2
    assert refusals


async def test_refuse_and_accept(proxy: CuttingProxy) -> None:
    async with calling(proxy.port) as before:
        await before.ask(b"1")
        proxy.refuse()
        assert await refused(proxy.port)
        assert await before.ask(b"2") == b"2"
        # A cut does not end a refusal; accept() ends both.
        proxy.cut(0)
        assert await refused(proxy.port)
        proxy.cut(3600)
        proxy.accept()
        async with calling(proxy.port) as after:
            assert await after.ask(b"3") == b"3"


async def test_a_frozen_connection_is_silent_and_open(proxy: CuttingProxy, parrot: Parrot) -> None:
    async with calling(proxy.port) as frozen:
        await frozen.ask(b"1")
        [number] = proxy.connections
        assert proxy.freeze() == 1
        frozen.say(b"held")
        # Later connections are not frozen: the phone in its next network.
        async with calling(proxy.port) as later:
            assert await later.ask(b"later") == b"later"
        assert await parrot.next_end() == "end"
        assert parrot.ends.empty()
        assert number in proxy.connections
        assert proxy.thaw(number) == 1
        assert await frozen.hear(4) == b"held"
        assert proxy.freeze(number) == 1
        assert proxy.abort(number) == 1
        assert await frozen.is_reset()
        assert await parrot.next_end() == "reset"


async def test_a_frozen_route_holds_who_comes_later_too(proxy: CuttingProxy) -> None:
    held, free = proxy.route("held"), proxy.route("free")
    async with calling(held.port) as earlier:
        await earlier.ask(b"1")
        assert held.freeze_route() == 1
        async with calling(held.port) as later, calling(free.port) as other:
            later.say(b"held")
            assert await other.ask(b"2") == b"2"
            # Its connection is there, and nothing of it goes on.
            async with asyncio.timeout(PATIENCE):
                while len(held.connections) < 2:
                    await asyncio.sleep(0.01)
            earlier.say(b"held too")
            assert held.thaw() == 2
            assert await later.hear(4) == b"held"
            assert await earlier.hear(8) == b"held too"
            async with calling(held.port) as after:
                assert await after.ask(b"3") == b"3"


async def test_frozen_one_way_the_client_is_heard_and_not_answered(proxy: CuttingProxy, parrot: Parrot) -> None:
    async with calling(proxy.port) as caller:
        await caller.ask(b"1")
        assert proxy.freeze(one_way=True) == 1
        caller.say(b"heard")
        caller.writer.write_eof()
        # All that it said has gone through, its end included.
        assert await parrot.next_end() == "end"
        assert not caller.reader.at_eof()
        assert proxy.thaw() == 1
        assert await caller.hear(5) == b"heard"


async def test_routes_fail_one_by_one_and_change_their_target(proxy: CuttingProxy) -> None:
    async with Parrot(b"other:") as other:
        ann, ben = proxy.route("ann"), proxy.route("ben")
        assert proxy.route("ann") is ann
        assert len({proxy.port, ann.port, ben.port, proxy.route().port}) == 4
        async with calling(ann.port) as one, calling(ben.port) as two:
            await one.ask(b"1")
            await two.ask(b"2")
            assert proxy.connections == sorted(ann.connections + ben.connections)
            ann.refuse()
            ann.to(other.port)
            assert await one.ask(b"where I was") == b"where I was"
            assert ann.abort() == 1
            assert await one.is_reset()
            assert await two.ask(b"unhurt") == b"unhurt"
            ann.accept()
            async with calling(ann.port) as moved:
                moved.say(b"me")
                assert await moved.hear(8) == b"other:me"


async def test_a_cut_of_one_connection_closes_its_route_alone(proxy: CuttingProxy) -> None:
    ann = proxy.route("ann")
    async with calling(ann.port) as one, calling(ann.port) as two, calling(proxy.port) as three:
        for caller in (one, two, three):
            await caller.ask(b"1")
        assert proxy.cut(3600, ann.connections[0]) == 1
        assert await one.is_reset()
        assert await two.ask(b"2") == b"2"
        assert await refused(ann.port)
        async with calling(proxy.port) as four:
            assert await four.ask(b"4") == b"4"
        assert proxy.cut(1, 10**9) == 0


async def test_a_server_that_is_not_there_is_a_reset(proxy: CuttingProxy) -> None:
    async with Parrot(b"") as gone:
        port = gone.port
    proxy.to(port)
    assert await refused(proxy.port)
    await forgotten(proxy)


def test_stopping_ends_everything(recwarn: pytest.WarningsRecorder) -> None:
    async def use() -> None:
        async with Parrot(b"") as parrot:
            proxy = CuttingProxy(parrot.port).start()
            async with calling(proxy.port) as one, calling(proxy.route().port) as two:
                await one.ask(b"1")
                await two.ask(b"2")
                proxy.freeze()
                proxy.stop()
                proxy.stop()
                assert await one.is_reset()
                assert await two.is_reset()
                assert [await parrot.next_end(), await parrot.next_end()] == ["reset", "reset"]
        with pytest.raises(RuntimeError, match="not running"):
            proxy.route()

    threads = threading.active_count()
    asyncio.run(use())
    gc.collect()
    assert threading.active_count() == threads
    assert not list(recwarn)


async def test_connections_are_aborted_in_every_moment_of_their_making(parrot: Parrot, proxy: CuttingProxy) -> None:
    """Also before the proxy's own call to the server has begun, or just as it is answered."""
    for number in range(400):
        pairs = [await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(3)]
        await asyncio.sleep((number % 40) * 2e-5)
        await asyncio.to_thread(proxy.abort)
        for _, writer in pairs:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
