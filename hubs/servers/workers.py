"""Several server processes on one port, and the supervisor that keeps them.

The supervisor binds the sockets and serves nobody. Each worker is a fresh process of the same command, in a place
of its own: a number from 1, and the listening sockets that the kernel deals clients to (listening.py). The
supervisor keeps those open all the time, so whoever comes while a worker is being replaced waits in the queue of
its place. A client that waits there is no better off than one that is refused, if it takes long; so as long
as a place has no worker, all others accept for it.

Supervisor and worker talk over a pair of sockets, a line each:

    ready           ◄   the application has started, and clients are accepted
    alive           ◄   its event loop goes round; said again and again from then on
    leaving         ◄   clients are accepted no more; another may take the place
    serve 2,3       ►   accept for these places as well, and for no others
    drain 1         ►   stop in good order; one other worker does, too
    now             ►   stop at once

Not by signals, because service managers and terminals send theirs to whole groups of processes, and a second
signal means haste. When the pair breaks, the supervisor is gone, by whatever death, and the workers
drain and end.

A worker whose event loop stands still, because something in it waits without letting others go on, serves nobody
and says nothing. After a while of silence it is ended by SIGABRT, at which it writes down where it stood.
Silence is counted in looks of the supervisor, not by the clock: a machine that was asleep, or has no time for
anybody, has not heard of its workers for a while either, and they are not to blame.

A worker that ends unasked is started again: at once, if it had lived for a while, and after a growing
pause if it had not. Where no worker at all gets as far as serving, the supervisor gives up.

On SIGHUP the workers are replaced one after the other, each when the next one is ready. A fresh process reads
code, environment and `.env` file anew, so that is how a new version starts without refusing anybody. It accepts
nobody until it can serve them: in an outage a worker that was there before goes on with what it knows, and has clients
that a fresh one would refuse.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from hubs.servers import listening

if TYPE_CHECKING:
    # A supervisor has no server.
    from hubs.servers.stopping import StoppingServer

logger = logging.getLogger(__name__)

# Where a worker finds what it is.
VARIABLE = "HUBWIRE_WORKER"

MAX_WORKERS = 128

# A worker that lived for so long did not die of its configuration.
STEADY_SECS = 60.0
# The pause before a worker is started that died early: the first one, doubled each time, and the longest.
FIRST_PAUSE_SECS = 0.5
LONGEST_PAUSE_SECS = 30.0
# How long a worker may take until it serves.
START_SECS = 120.0
# How long one that is to replace another may take of that, once it has started, until it can serve clients.
READY_SECS = 20.0
# How long a worker that has to end at once may take.
NOW_SECS = 3.0
# How often a worker is looked at, at least: in seconds, and in the time after which its silence is enough.
LOOK_SECS = 5.0
LOOKS = 6


class WorkersFailed(Exception):
    """No worker could be started; the text says so."""


# In a worker


class Assignment(msgspec.Struct, frozen=True):
    """What a worker is told when it is started: its number, and file descriptors."""

    number: int
    control: int
    sockets: list[list[int]]
    # How often it is to say that it is alive; 0 = never.
    beat_secs: float
    # There is a worker in its place, which goes on if this one cannot serve clients.
    replaces: bool = False


@cache
def assignment() -> Assignment | None:
    """What this process is to do as a worker; None, if it is none."""
    # Not for those that a worker may start.
    text = os.environ.pop(VARIABLE, None)
    return None if text is None else msgspec.json.decode(text, type=Assignment)


class Worker:
    """This process as a worker: runs a server as its supervisor wants it."""

    def __init__(self, assigned: Assignment, server: StoppingServer) -> None:
        self._server = server
        os.set_inheritable(assigned.control, False)
        self._control = socket.socket(fileno=assigned.control)
        self._control.setblocking(False)
        self._places = dict(enumerate(listening.inherited(assigned.sockets), 1))
        self._number = assigned.number
        self._siblings = len(assigned.sockets) - 1
        self._beat_secs = assigned.beat_secs
        self._heard = b""
        self._has_started = False
        server.on_started = self._started
        server.on_stopping = self._stopping
        if assigned.replaces:
            server.ready_secs = READY_SECS

    def run(self) -> None:
        """Serve until told to stop. Raises SystemExit if it did not come to that."""
        # It is for the supervisor, but may have been sent to everybody.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # Where it stood, if it is ended for its silence; or breaks down.
        faulthandler.enable()
        self._server.run(sockets=self._places[self._number])
        if not self._has_started:
            raise SystemExit(1)

    def _started(self) -> None:
        self._has_started = True
        asyncio.get_running_loop().add_reader(self._control, self._hear)
        self._say("ready")
        if self._beat_secs:
            self._beat()

    def _beat(self) -> None:
        self._say("alive")
        asyncio.get_running_loop().call_later(self._beat_secs, self._beat)

    def _stopping(self) -> None:
        # Also those of other places: a socket that is open but not listened to keeps clients waiting.
        for sockets in self._places.values():
            listening.close(sockets)
        self._say("leaving")

    def _say(self, line: str) -> None:
        _write_line(self._control, line)

    def _hear(self) -> None:
        data = _read(self._control)
        if data is None:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(self._control)
            if not self._server.should_exit:
                logger.warning("The supervisor is gone; draining")
                self._server.stop(self._siblings)
            return
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            self._obey(*line.decode().split(" "))

    def _obey(self, word: str, argument: str = "") -> None:
        if word == "drain":
            self._server.stop(int(argument))
        elif word == "now":
            self._server.stop_now()
        elif word == "serve":
            numbers = [int(number) for number in argument.split(",") if number]
            others = {number: self._places[number] for number in numbers if number != self._number}
            self._server.listen_for(others)


# In the supervisor


class Supervisor:
    """Keeps a worker in each place. `command`: what a worker is started with, in the environment `environment`."""

    def __init__(
        self,
        places: Sequence[list[socket.socket]],
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        stop_secs: float,
        silence_secs: float,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._places = [_Place(number, sockets) for number, sockets in enumerate(places, 1)]
        self._command = list(command)
        self._environment = dict(environment)
        # What a worker that drains is given until it is killed.
        self._stop_secs = stop_secs
        # How often workers are looked at, and for how many looks one may be silent; 0 = for ever.
        self._look_secs = min(silence_secs / LOOKS, LOOK_SECS)
        self._looks = round(silence_secs / self._look_secs) if silence_secs else 0
        self._on_ready = on_ready
        self._started: set[_Started] = set()
        self._any_ready = self._all_ready = False
        self._roll_wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._over: asyncio.Future[signal.Signals]
        self._haste = asyncio.Event()

    async def run(self) -> signal.Signals:
        """Serve until a signal comes; gives that signal. Raises WorkersFailed."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        terminal = _has_terminal()
        loop.add_signal_handler(signal.SIGHUP, self._hung_up, terminal)
        self._tasks = [asyncio.create_task(self._keep(place), name=f"worker {place.number}") for place in self._places]
        self._tasks.append(asyncio.create_task(self._replace_all_when_wanted(), name="replace workers"))
        watching = asyncio.create_task(self._watch(), name="watch workers")
        for task in (*self._tasks, watching):
            task.add_done_callback(self._failed)
        try:
            return await self._over
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._end_all()
            watching.cancel()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    # Signals

    def _signalled(self, number: signal.Signals) -> None:
        if self._over.done():
            self._haste.set()
        else:
            self._over.set_result(number)

    def _hung_up(self, had_terminal: bool) -> None:
        """SIGHUP was sent by somebody who wants fresh workers, or by a terminal that was closed."""
        if had_terminal and not _has_terminal():
            self._signalled(signal.SIGHUP)
        else:
            self._roll_wanted.set()

    def _failed(self, task: asyncio.Task[None]) -> None:
        """A fault of the supervisor's own must not leave workers nobody looks after."""
        if not task.cancelled() and (problem := task.exception()) is not None and not self._over.done():
            self._over.set_exception(problem)

    # Places and workers

    async def _keep(self, place: _Place) -> None:
        """See that a place has a worker."""
        while True:
            if place.worker is None:
                await self._fill(place)
            if (worker := place.worker) is None:
                continue
            await worker.leaving.wait()
            if place.worker is not worker:
                # Replaced, not lost.
                continue
            place.worker = None
            self._share_out()
            logger.warning("Worker %d (process %d) %s; another takes its place", place.number, worker.pid, worker.fate)
            place.failures = 0 if worker.age > STEADY_SECS else place.failures + 1

    async def _fill(self, place: _Place) -> None:
        """Start a worker, and start it again until one gets as far as serving."""
        while True:
            if place.failures:
                pause = min(FIRST_PAUSE_SECS * 2 ** (place.failures - 1), LONGEST_PAUSE_SECS)
                if pause >= 1:
                    logger.warning("Worker %d is started again in %.0f seconds", place.number, pause)
                await asyncio.sleep(pause)
            async with place.starting:
                if place.worker is not None:
                    return
                if await self._start(place):
                    return
            place.failures += 1
            self._look_whether_any_works()

    async def _start(self, place: _Place) -> bool:
        """Start a worker and put it in its place when it serves; tells whether it does."""
        replaces = place.worker is not None
        try:
            worker = _Started(place.number, self._places, self._command, self._environment, self._look_secs, replaces)
        except OSError as problem:
            logger.error("Worker %d could not be started: %s", place.number, problem)
            return False
        self._started.add(worker)
        worker.ended.add_done_callback(lambda _: self._started.discard(worker))
        try:
            async with asyncio.timeout(START_SECS):
                ready = await worker.serves()
        except TimeoutError:
            ready = False
            logger.error("Worker %d (process %d) does not get ready, and is killed", place.number, worker.pid)
            worker.process.kill()
        if not ready:
            status = await worker.ended
            logger.error("Worker %d (process %d) could not start: %s", place.number, worker.pid, _said(status))
            return False
        logger.info("Worker %d is ready (process %d)", place.number, worker.pid)
        place.worker = worker
        self._any_ready = True
        self._share_out()
        if not self._all_ready and all(place.worker is not None for place in self._places):
            self._all_ready = True
            self._on_ready()
        return True

    def _share_out(self) -> None:
        """Have those who serve accept for the places that are empty."""
        empty = {place.number for place in self._places if place.worker is None}
        for place in self._places:
            if place.worker is not None:
                place.worker.serve(empty if listening.SPREADS else set())

    def _look_whether_any_works(self) -> None:
        if not self._any_ready and all(place.failures for place in self._places) and not self._over.done():
            self._over.set_exception(WorkersFailed("No worker could be started. What they said stands above."))

    async def _watch(self) -> None:
        """End workers that say nothing any more."""
        while self._looks:
            await asyncio.sleep(self._look_secs)
            # What they said meanwhile has been heard: sockets come before timers in a turn of the loop.
            for worker in self._started:
                if worker.is_ready:
                    self._look_at(worker)

    def _look_at(self, worker: _Started) -> None:
        worker.silent_looks += 1
        if worker.silent_looks == self._looks + 1:
            secs = self._looks * self._look_secs
            logger.error(
                "Worker %d (process %d) has said nothing for %g seconds: its event loop stands still. It is ended, and "
                "writes down where it stands",
                worker.number,
                worker.pid,
                secs,
            )
            worker.process.send_signal(signal.SIGABRT)
        elif worker.silent_looks > self._looks + 1:
            worker.process.kill()

    async def _replace_all_when_wanted(self) -> None:
        while True:
            await self._roll_wanted.wait()
            self._roll_wanted.clear()
            logger.info("Replacing the workers, one after the other")
            for place in self._places:
                if not await self._replace(place):
                    logger.error("The workers that were there before go on. Send SIGHUP again once that is mended")
                    break
            else:
                logger.info("All workers were replaced")

    async def _replace(self, place: _Place) -> bool:
        """Put a fresh worker in a place, and have the present one leave; tells whether it worked."""
        async with place.starting:
            old = place.worker
            if not await self._start(place):
                return False
        if old is None:
            return True
        old.tell("drain 0")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._stop_secs):
                await asyncio.shield(old.ended)
        if not old.ended.done():
            logger.error("Worker %d (process %d) does not end, and is killed", place.number, old.pid)
            old.process.kill()
        return True

    async def _end_all(self) -> None:
        """Have all workers drain, for as long as they may take."""
        for place in self._places:
            listening.close(place.sockets)
        ending = list(self._started)
        for worker in ending:
            worker.tell(f"drain {len(ending) - 1}")
            if not worker.is_ready:
                # It does not listen to its supervisor yet, and has nobody to part with.
                worker.process.terminate()
        await self._ended(self._stop_secs, self._haste)
        if self._started and self._haste.is_set():
            for worker in self._started:
                worker.tell("now")
            await self._ended(NOW_SECS)
        for worker in list(self._started):
            logger.error("Worker %d (process %d) does not end, and is killed", worker.number, worker.pid)
            worker.process.kill()
        await self._ended(None)

    async def _ended(self, secs: float | None, haste: asyncio.Event | None = None) -> None:
        """Wait until all have ended, for so many seconds and without haste."""
        ended = asyncio.gather(*(asyncio.shield(worker.ended) for worker in self._started))
        waited: set[asyncio.Future[Any]] = {ended}
        if haste is not None:
            waited.add(asyncio.create_task(haste.wait()))
        _, pending = await asyncio.wait(waited, timeout=secs, return_when=asyncio.FIRST_COMPLETED)
        for waiting in pending:
            waiting.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


class _Place:
    """Where a worker is to be."""

    def __init__(self, number: int, sockets: list[socket.socket]) -> None:
        self.number = number
        self.sockets = sockets
        self.worker: _Started | None = None
        # How often in a row a worker has died early here.
        self.failures = 0
        # Held by whoever starts one.
        self.starting = asyncio.Lock()


class _Started:
    """A worker process, as its supervisor sees it."""

    def __init__(
        self,
        number: int,
        places: Sequence[_Place],
        command: Sequence[str],
        environment: Mapping[str, str],
        beat_secs: float,
        replaces: bool,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.leaving = asyncio.Event()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.is_ready = False
        # How often it was looked at since it was last heard of.
        self.silent_looks = 0
        self._began = loop.time()
        self._ready: asyncio.Future[bool] = loop.create_future()
        self._serving: set[int] = set()
        self._heard = b""
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        with theirs:
            sockets = [[listening.fileno() for listening in place.sockets] for place in places]
            assigned = Assignment(number, theirs.fileno(), sockets, beat_secs, replaces)
            self.process = subprocess.Popen(  # noqa: S603  # our own command line
                command,
                env={**environment, VARIABLE: msgspec.json.encode(assigned).decode()},
                pass_fds=[theirs.fileno(), *{each for place in sockets for each in place}],
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for the supervisor.
                process_group=0,
            )
        self.pid = self.process.pid
        loop.add_reader(self._control, self._hear)
        threading.Thread(target=self._wait, args=(loop,), daemon=True, name=f"wait for worker {number}").start()

    @property
    def age(self) -> float:
        """For how long it has been there."""
        return asyncio.get_running_loop().time() - self._began

    @property
    def fate(self) -> str:
        """What became of it."""
        return _said(self.ended.result()) if self.ended.done() else "was told to stop"

    async def serves(self) -> bool:
        """Wait until it is ready, or has ended without."""
        return await asyncio.shield(self._ready)

    def serve(self, places: set[int]) -> None:
        """Have it accept for these places as well."""
        if places != self._serving:
            self._serving = set(places)
            self.tell("serve " + ",".join(map(str, sorted(places))))

    def tell(self, line: str) -> None:
        """Tell it something; if it is dead, that is known in another way."""
        _write_line(self._control, line)

    def _hear(self) -> None:
        data = _read(self._control)
        if data is None:
            return
        if not data:
            # It is dead, or about to be: its end says more.
            asyncio.get_running_loop().remove_reader(self._control)
            return
        self.silent_looks = 0
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            if line == b"ready":
                self.is_ready = True
                if not self._ready.done():
                    self._ready.set_result(True)
            elif line == b"leaving":
                self.leaving.set()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        status = self.process.wait()
        # The loop may be over, if this was not waited for.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._gone, status)

    def _gone(self, status: int) -> None:
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        if not self._ready.done():
            self._ready.set_result(False)
        self.ended.set_result(status)
        self.leaving.set()


def _write_line(control: socket.socket, line: str) -> None:
    """Say something at one end of the line between supervisor and worker; who is dead does not hear it."""
    with suppress(OSError):
        control.send(f"{line}\n".encode())


def _read(control: socket.socket) -> bytes | None:
    """What the other end has said: None if nothing yet, and no bytes if it is gone."""
    try:
        return control.recv(4096)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _said(status: int) -> str:
    """What an exit status says."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended by signal {-status}"


def _has_terminal() -> bool:
    """Whether this process belongs to a terminal that is there."""
    try:
        os.close(os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
