"""A supervisor and its workers: who is started, who accepts, who is told to go. The workers are real and small."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.running import PATIENCE, ROOT, free_port

HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Child:
    """A worker, as it tells of itself."""

    def __init__(self, number: int, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number, self.pid = number, pid
        self.born_at = asyncio.get_running_loop().time()
        self._reader, self._writer = reader, writer

    def order(self, text: str) -> None:
        """`serve`, `die STATUS` or `hang` after its birth; anything ends its draining."""
        self._writer.write(f"{text}\n".encode())

    async def hears(self) -> str:
        """What it says next; nothing when it is dead."""
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionResetError):
                return (await self._reader.readline()).decode().strip()
            return ""

    async def ended(self) -> None:
        while await self.hears():
            pass
        self._writer.close()

    def close(self) -> None:
        self._writer.close()


class Supervised:
    """A supervisor in a process of its own."""

    def __init__(self, folder: Path, workers: int, stop_secs: float) -> None:
        self.folder, self.workers, self.stop_secs = folder, workers, stop_secs
        self.port = free_port()
        self.children: list[Child] = []
        self._births: asyncio.Queue[Child] = asyncio.Queue()
        self._expected: dict[int, Child] = {}

    async def start(self, terminal: int | None = None) -> None:
        """Start it, at a terminal if one is given."""

        def belong_to_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        ear = str(self.folder / "ear")
        self._ear = await asyncio.start_unix_server(self._born, ear)
        command = [sys.executable, "-m", "tests.servers.supervising"]
        arguments = [str(self.port), str(self.workers), str(self.stop_secs), ear]
        with (self.folder / "out").open("wb") as out, (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *arguments],
                cwd=ROOT,
                stdin=terminal,
                stdout=out,
                stderr=log,
                start_new_session=True,
                preexec_fn=None if terminal is None else belong_to_terminal,
            )

    async def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._ear.close()
        for child in self.children:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            child.close()

    async def _born(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, number, pid = (await reader.readline()).split()
        self._births.put_nowait(Child(int(number), int(pid), reader, writer))

    async def birth(self, number: int | None = None) -> Child:
        """The next worker, or the next of a place."""
        async with asyncio.timeout(PATIENCE):
            while number not in self._expected:
                child = await self._births.get()
                self.children.append(child)
                if number is None:
                    return child
                self._expected[child.number] = child
        return self._expected.pop(number)

    async def up(self) -> list[Child]:
        """All workers, serving."""
        born = [await self.birth(number) for number in range(1, self.workers + 1)]
        for child in born:
            child.order("serve")
        await self.says("ALL READY", in_="out")
        return born

    async def says(self, text: str, *, in_: str = "log") -> None:
        """Wait until something has been said."""
        async with asyncio.timeout(PATIENCE):
            while text not in self.said(in_):
                await asyncio.sleep(0.02)

    def said(self, in_: str = "log") -> str:
        return (self.folder / in_).read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def status(self) -> int:
        return await asyncio.to_thread(self.process.wait, PATIENCE)

    async def who_answers(self) -> int:
        """Make a request on a connection of its own; gives the process that has answered it."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            assert answer, "hung up without an answer"
        return int(answer[-7:])

    async def refuses(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return True
        writer.close()
        return False


Supervise = Callable[..., Any]


@pytest.fixture
def supervise(tmp_path: Path) -> Supervise:
    """`async with supervise(workers=3) as supervised`: a supervisor whose workers have not been told what to do."""

    @asynccontextmanager
    async def supervised(
        workers: int = 2, stop_secs: float = PATIENCE, terminal: int | None = None
    ) -> AsyncIterator[Supervised]:
        supervisor = Supervised(tmp_path, workers, stop_secs)
        await supervisor.start(terminal)
        try:
            yield supervisor
        finally:
            await supervisor.stop()
        assert "Traceback" not in supervisor.said(), supervisor.said()

    return supervised


# Who is started


async def test_clients_are_spread_evenly(supervise: Supervise) -> None:
    async with supervise(4) as supervised:
        children = await supervised.up()
        answers = Counter([await supervised.who_answers() for _ in range(400)])
        # A hundred each, give or take; by chance it is less than sixty once in a hundred thousand runs.
        assert set(answers) == {child.pid for child in children}
        assert min(answers.values()) >= 60


async def test_when_no_worker_can_start_the_supervisor_gives_up(supervise: Supervise) -> None:
    async with supervise(3) as supervised:
        for number in (1, 2, 3):
            (await supervised.birth(number)).order("die 7")
        assert await supervised.status() == 1
        assert supervised.said("out") == "No worker could be started. What they said stands above.\n"
        assert supervised.said().count("could not start: ended with status 7") >= 3
        # A place may have had a second try, while another's first one was going on. No more than that.
        assert supervised._births.qsize() <= 2


async def test_a_worker_that_cannot_start_is_tried_again_less_and_less_often(supervise: Supervise) -> None:
    async with supervise(2) as supervised:
        works = await supervised.birth(1)
        works.order("serve")
        await supervised.says("Worker 1 is ready")
        tries = []
        for _ in range(3):
            tries.append(await supervised.birth(2))
            tries[-1].order("die 1")
        pauses = [later.born_at - earlier.born_at for earlier, later in pairwise(tries)]
        assert [pause > least for pause, least in zip(pauses, (0.5, 1), strict=True)] == [True] * 2
        await supervised.says("Worker 2 is started again in 2 seconds")
        assert supervised.process.poll() is None
        # The one that works serves both places.
        assert {await supervised.who_answers() for _ in range(20)} == {works.pid}
        (await supervised.birth(2)).order("serve")
        await supervised.says("ALL READY", in_="out")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_worker_that_dies_is_replaced_and_meanwhile_the_others_accept(
    supervise: Supervise, number: signal.Signals
) -> None:
    async with supervise(2) as supervised:
        one, two = await supervised.up()
        os.kill(one.pid, number)
        fresh = await supervised.birth(1)
        # Nobody listens in its place; those who come there would wait for ever.
        assert {await supervised.who_answers() for _ in range(40)} == {two.pid}
        fresh.order("serve")
        await supervised.says(f"Worker 1 is ready (process {fresh.pid})")
        async with asyncio.timeout(PATIENCE):
            while await supervised.who_answers() != fresh.pid:
                pass
        assert f"Worker 1 (process {one.pid}) ended by {number.name}; another takes its place" in supervised.said()
        # Nothing is left of it, not even its entry among the processes.
        with pytest.raises(ProcessLookupError):
            os.kill(one.pid, 0)


async def test_a_worker_that_is_told_to_stop_is_replaced_while_it_drains(supervise: Supervise) -> None:
    async with supervise(2) as supervised:
        one, two = await supervised.up()
        os.kill(one.pid, signal.SIGTERM)
        assert await one.hears() == "draining 0"
        fresh = await supervised.birth(1)
        assert {await supervised.who_answers() for _ in range(20)} == {two.pid}
        fresh.order("serve")
        await supervised.says(f"Worker 1 is ready (process {fresh.pid})")
        one.order("go")
        assert await one.hears() == "over"
        await one.ended()
        assert f"Worker 1 (process {one.pid}) was told to stop; another takes its place" in supervised.said()


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_has_all_workers_drain(supervise: Supervise, number: signal.Signals) -> None:
    async with supervise(3) as supervised:
        children = await supervised.up()
        supervised.signal(number)
        for child in children:
            assert await child.hears() == "draining 2"
        # Nobody waits in a queue that will not be served.
        assert await supervised.refuses()
        for child in children:
            assert supervised.process.poll() is None
            child.order("go")
            assert await child.hears() == "over"
        assert await supervised.status() == -number
        assert "another takes its place" not in supervised.said()


async def test_a_second_signal_ends_at_once(supervise: Supervise) -> None:
    async with supervise(2) as supervised:
        children = await supervised.up()
        supervised.signal(signal.SIGTERM)
        for child in children:
            assert await child.hears() == "draining 1"
        supervised.signal(signal.SIGTERM)
        assert await supervised.status() == -signal.SIGTERM
        for child in children:
            assert await child.hears() == "", "the application was ended in good order"


async def test_a_signal_while_workers_start(supervise: Supervise) -> None:
    async with supervise(2) as supervised:
        serving, starting = await supervised.birth(1), await supervised.birth(2)
        serving.order("serve")
        starting.order("hang")
        await supervised.says("Worker 1 is ready")
        supervised.signal(signal.SIGTERM)
        await starting.ended()
        assert await serving.hears() == "draining 1"
        serving.order("go")
        assert await supervised.status() == -signal.SIGTERM


async def test_a_worker_that_does_not_end_is_killed(supervise: Supervise) -> None:
    async with supervise(2, stop_secs=1) as supervised:
        one, two = await supervised.up()
        os.kill(two.pid, signal.SIGSTOP)
        supervised.signal(signal.SIGTERM)
        assert await one.hears() == "draining 1"
        one.order("go")
        assert await supervised.status() == -signal.SIGTERM
        assert f"Worker 2 (process {two.pid}) does not end, and is killed" in supervised.said()


async def test_workers_whose_supervisor_was_killed_drain_and_end(supervise: Supervise) -> None:
    async with supervise(2) as supervised:
        children = await supervised.up()
        supervised.signal(signal.SIGKILL)
        for child in children:
            assert await child.hears() == "draining 1"
        assert await supervised.refuses()
        for child in children:
            child.order("go")
            assert await child.hears() == "over"
            await child.ended()
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", supervised.port))
        assert supervised.said().count("The supervisor is gone; draining") == 2


async def test_a_terminal_that_is_closed_ends_it(supervise: Supervise) -> None:
    """It sends the same signal as somebody who wants fresh workers."""
    ours, theirs = pty.openpty()
    async with supervise(2, terminal=theirs) as supervised:
        os.close(theirs)
        children = await supervised.up()
        os.close(ours)
        for child in children:
            assert await child.hears() == "draining 1"
            child.order("go")
        assert await supervised.status() == -signal.SIGHUP


# Replacing


async def test_sighup_replaces_one_after_the_other_and_refuses_nobody(supervise: Supervise) -> None:
    async with supervise(2) as supervised:
        old = await supervised.up()
        answered: list[int] = []
        stopped = asyncio.Event()

        async def ask_on() -> None:
            while not stopped.is_set():
                answered.append(await supervised.who_answers())

        asking = [asyncio.create_task(ask_on()) for _ in range(3)]
        supervised.signal(signal.SIGHUP)
        fresh = []
        for number in (1, 2):
            child = await supervised.birth(number)
            fresh.append(child)
            # The one that was there before serves until this one does.
            before = len(answered)
            async with asyncio.timeout(PATIENCE):
                while len(answered) < before + 20:
                    await asyncio.sleep(0.01)
            assert old[number - 1].pid in answered[before:]
            child.order("serve")
            assert await old[number - 1].hears() == "draining 0"
            old[number - 1].order("go")
            assert await old[number - 1].hears() == "over"
        await supervised.says("All workers were replaced")
        stopped.set()
        await asyncio.gather(*asking)
        assert {await supervised.who_answers() for _ in range(40)} == {child.pid for child in fresh}
        assert "another takes its place" not in supervised.said()


async def test_a_replacement_that_cannot_start_leaves_everything_as_it_is(supervise: Supervise) -> None:
    async with supervise(2) as supervised:
        old = await supervised.up()
        supervised.signal(signal.SIGHUP)
        (await supervised.birth(1)).order("die 1")
        await supervised.says("The other workers are not replaced")
        assert {await supervised.who_answers() for _ in range(40)} == {child.pid for child in old}
        # And it may be tried again.
        supervised.signal(signal.SIGHUP)
        (await supervised.birth(1)).order("serve")
        assert await old[0].hears() == "draining 0"


# What a worker does with those who are there


async def test_who_was_accepted_and_asks_late_is_answered(supervise: Supervise) -> None:
    """The socket is the worker's, so nobody else could answer: a handshake gets 503, a request what it asks for."""
    async with supervise(1) as supervised:
        [child] = await supervised.up()
        quiet = [await asyncio.open_connection("127.0.0.1", supervised.port) for _ in range(2)]
        # Accepted: those before it in the queue are, too.
        await supervised.who_answers()
        supervised.signal(signal.SIGTERM)
        assert await child.hears() == "draining 0"
        async with asyncio.timeout(PATIENCE):
            (reader, writer), (other_reader, other_writer) = quiet
            writer.write(HANDSHAKE)
            assert (await reader.readline()) == b"HTTP/1.1 503 Service Unavailable\r\n"
            assert (await reader.read()).endswith(b"\r\n\r\nThe service is stopping. Try again.")
            other_writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await other_reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        child.order("go")
        assert await supervised.status() == -signal.SIGTERM
        for _, each in quiet:
            each.close()


async def test_who_was_accepted_a_moment_ago_is_let_in(supervise: Supervise) -> None:
    async with supervise(1) as supervised:
        [child] = await supervised.up()
        reader, writer = await asyncio.open_connection("127.0.0.1", supervised.port)
        await supervised.who_answers()
        supervised.signal(signal.SIGTERM)
        # It accepts nobody any more from now on.
        async with asyncio.timeout(PATIENCE):
            while not await supervised.refuses():
                pass
            writer.write(HANDSHAKE)
            assert (await reader.readline()) == b"HTTP/1.1 101 Switching Protocols\r\n"
        assert await child.hears() == "draining 0"
        # A client that is cut off answers no close frame; nobody waits for that.
        writer.close()
        child.order("go")
        assert await supervised.status() == -signal.SIGTERM


async def test_log_records_say_which_worker_and_stay_whole(supervise: Supervise) -> None:
    async with supervise(2) as supervised:
        await supervised.up()
        reader, writer = await asyncio.open_connection("127.0.0.1", supervised.port)
        writer.write(b"GET /log HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await reader.read()
        writer.close()
        number = 1 if "[worker 1]" in supervised.said() else 2
        assert f"[worker {number}] ERROR two lines\n[worker {number}] in one record\n" in supervised.said()
