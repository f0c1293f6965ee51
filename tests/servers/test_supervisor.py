"""A supervisor and its workers: who is started, who accepts, who is told to go. The workers are real and small."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import socket
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import psutil
import pytest

from hubs.servers import workers
from tests.running import PATIENCE
from tests.servers.conftest import Supervise
from tests.servers.supervised import HANDSHAKE

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


# Workers that stand still


async def test_a_worker_whose_loop_stands_still_is_killed_and_replaced(supervise: Supervise) -> None:
    async with supervise(2, silence_secs=2) as supervised:
        children = await supervised.up()
        reader, writer = await asyncio.open_connection("127.0.0.1", supervised.port)
        writer.write(b"GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n")
        fresh = await supervised.birth()
        hung = next(child for child in children if child.number == fresh.number)
        said = supervised.said()
        assert f"(process {hung.pid}) has said nothing for 2 seconds: its event loop stands still." in said
        # What its loop was at can be read.
        assert "in hang_for_ever" in said
        assert "in application" in said
        assert f"(process {hung.pid}) ended by SIGABRT; another takes its place" in said
        assert await reader.read() == b""
        writer.close()
        fresh.order("serve")
        await supervised.says(f"Worker {fresh.number} is ready (process {fresh.pid})")
        assert said.count("stands still") == 1


async def test_a_worker_that_cannot_even_say_where_it_stands_is_killed_too(supervise: Supervise) -> None:
    async with supervise(2, silence_secs=1) as supervised:
        one, _ = await supervised.up()
        os.kill(one.pid, signal.SIGSTOP)
        await supervised.birth(1)
        assert f"(process {one.pid}) ended by SIGKILL; another takes its place" in supervised.said()


class _Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes when nothing else is to be done, and by leaps when a test says so."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def test_time_in_which_nobody_ran_is_not_held_against_workers() -> None:
    """A supervisor that was stopped, on a machine that was asleep, or that had no time for anybody."""
    loop = _Clock()
    supervisor = workers.Supervisor([], [], {}, stop_secs=1, silence_secs=30)
    worker = SimpleNamespace(is_ready=True, silent_looks=0, number=1, pid=1, process=SimpleNamespace(sent=[]))
    worker.process.send_signal = worker.process.sent.append
    worker.process.kill = lambda: worker.process.sent.append(signal.SIGKILL)
    supervisor._started = [worker]  # type: ignore[assignment]

    async def live() -> None:
        watching = asyncio.create_task(supervisor._watch())
        for _ in range(10):
            # An hour in one go: it is looked at once, and has said nothing since. Then it gets to say something.
            loop.now += 3600
            await asyncio.sleep(11)
            assert 0 < worker.silent_looks <= 3
            worker.silent_looks = 0
        assert worker.process.sent == []
        await asyncio.sleep(29)
        assert worker.process.sent == []
        await asyncio.sleep(7)
        assert worker.process.sent == [signal.SIGABRT]
        await asyncio.sleep(5)
        assert worker.process.sent == [signal.SIGABRT, signal.SIGKILL]
        watching.cancel()

    try:
        loop.run_until_complete(live())
    finally:
        loop.close()


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


# In a process without the service


async def test_the_supervisor_becomes_a_process_that_has_not_loaded_the_service(supervise: Supervise) -> None:
    async with supervise(2, lean=True) as supervised:
        children = await supervised.up()
        process = psutil.Process(supervised.process.pid)
        assert [child.pid for child in process.children()] == [child.pid for child in children]
        # It had; its workers have.
        assert not [each.path for each in process.memory_maps() if "uvloop" in each.path]
        assert [each.path for each in psutil.Process(children[0].pid).memory_maps() if "uvloop" in each.path]
        # Who looks for the command finds it, and what it is.
        assert process.cmdline()[2].startswith("# Hubwire: the supervisor of the workers\n")
        assert "supervising.py" in " ".join(process.cmdline()[3:])
        assert {await supervised.who_answers() for _ in range(40)} == {child.pid for child in children}
        assert f"INFO Worker 1 is ready (process {children[0].pid})" in supervised.said()
        supervised.signal(signal.SIGINT)
        for child in children:
            assert await child.hears() == "draining 1"
            child.order("go")
        assert await supervised.status() == 0
        assert supervised.said("out") == "ALL READY\nStopped.\n"


async def test_a_supervisor_without_the_service_gives_up_as_a_command_does(supervise: Supervise) -> None:
    async with supervise(2, lean=True) as supervised:
        for number in (1, 2):
            (await supervised.birth(number)).order("die 7")
        assert await supervised.status() == 1
        assert "Error: No worker could be started. What they said stands above.\n" in supervised.said()


async def test_a_supervisor_whose_reader_has_gone_goes_on(supervise: Supervise) -> None:
    read, write = os.pipe()
    os.close(read)
    async with supervise(2, lean=True, out=write) as supervised:
        os.close(write)
        # When both are ready it says so, to nobody.
        children = [await supervised.birth(number) for number in (1, 2)]
        for child in children:
            child.order("serve")
            await supervised.says(f"Worker {child.number} is ready")
        os.kill(children[0].pid, signal.SIGKILL)
        (await supervised.birth(1)).order("serve")
        supervised.signal(signal.SIGTERM)
        assert await children[1].hears() == "draining 1"
        children[1].order("go")
        supervised.children[-1].order("go")
        assert await supervised.status() == -signal.SIGTERM


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
        await supervised.says("The workers that were there before go on.")
        assert {await supervised.who_answers() for _ in range(40)} == {child.pid for child in old}
        # And it may be tried again.
        supervised.signal(signal.SIGHUP)
        (await supervised.birth(1)).order("serve")
        assert await old[0].hears() == "draining 0"


async def test_a_replacement_that_cannot_serve_yet_accepts_nobody_until_it_can(supervise: Supervise) -> None:
    """In an outage the workers that were there before have clients, and know what they read before it."""
    async with supervise(2) as supervised:
        old = await supervised.up()
        supervised.signal(signal.SIGHUP)
        fresh = await supervised.birth(1)
        fresh.order("unready")
        await supervised.says("The application has started")
        assert {await supervised.who_answers() for _ in range(40)} == {child.pid for child in old}
        fresh.order("now")
        assert await old[0].hears() == "draining 0"
        old[0].order("go")
        assert fresh.pid in {await supervised.who_answers() for _ in range(40)}


async def test_a_replacement_that_cannot_serve_leaves_everything_as_it_is(
    supervise: Supervise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READY_SECS", "0.1")
    async with supervise(2) as supervised:
        old = await supervised.up()
        supervised.signal(signal.SIGHUP)
        fresh = await supervised.birth(1)
        fresh.order("unready")
        await supervised.says("New clients cannot be served here: test: it is away")
        assert await fresh.hears() == "draining 0"
        fresh.order("go")
        await supervised.says(f"Worker 1 (process {fresh.pid}) could not start: ended with status 1")
        await supervised.says("The workers that were there before go on.")
        assert {await supervised.who_answers() for _ in range(40)} == {child.pid for child in old}
        # One that was not replaced but lost is of use even so: it tells clients what is wrong.
        os.kill(old[1].pid, signal.SIGKILL)
        heir = await supervised.birth(2)
        heir.order("unready")
        await supervised.says(f"Worker 2 is ready (process {heir.pid})")


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
        await supervised.says("ERROR one line")
        worker = "[worker 1]" if "[worker 1]" in supervised.said() else "[worker 2]"
        await supervised.says(f"{worker} ERROR one line\n{worker}     Stack (most recent call last):\n{worker}     ")
