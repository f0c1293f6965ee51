"""The machine that is measured on: its cores, its limits, and who spends what on it.

Generator and server have a core each where there are two, so that neither waits for the other. What is
measured is processor time, which a busy machine spoils much less than times on the clock do; how busy everybody
else was meanwhile is measured too, and said.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

import psutil

# Files of a process that are not connections: logs, database, loop, listening sockets.
OTHER_FILES = 300
# Above this share of one core, other programs disturbed the measurement enough to say so.
OTHERS_BUSY = 0.1
# No run takes less processor time than this, where something is divided by it.
TICK_SECS = 0.001
# At rest: less than this share of a core, in two looks one after the other.
REST_SHARE = 0.04
LOOK_SECS = 0.5


class CannotStart(Exception):
    """Something that is needed is not there, or did not come up; the text says what, and how to get it."""


class Spender(Protocol):
    """Whoever spends processor time."""

    def cpu_secs(self) -> float:
        """Processor time so far, user and system."""


# Cores


@dataclass(frozen=True)
class Cores:
    """The generator's core and the servers'; None where they cannot be kept apart."""

    generator: int | None
    servers: int | None

    @property
    def pinned(self) -> bool:
        """Whether each has one of its own."""
        return self.servers is not None


def take_cores() -> Cores:
    """Keep this process to the generator's core; gives both."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(allowed) < 2:
        return Cores(None, None)
    os.sched_setaffinity(0, {allowed[0]})
    return Cores(allowed[0], allowed[1])


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Processes started inside run on `core` from their first instruction, with all their threads."""
    if core is None:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


# Limits


def allow_files(connections: int) -> int:
    """Raise our limit of open files, which servers we start inherit; gives how many connections it holds."""
    wanted = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(wanted, soft)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == resource.RLIM_INFINITY else max(0, min(connections, soft - OTHER_FILES))


def need_files(connections: int) -> None:
    """The same where fewer will not do. Raises CannotStart."""
    held = allow_files(connections)
    if held < connections:
        raise CannotStart(
            f"This needs {connections:,} connections and a process may have {held:,} here. Raise the limit of open "
            "files (ulimit -n) or measure fewer."
        )


# Interruptions


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


_came = threading.Event()


def unless_interrupted(problem: Exception) -> None:
    """What fails after an interruption failed because of it. Raises KeyboardInterrupt."""
    if _came.is_set():
        raise KeyboardInterrupt from problem


def interruptible() -> None:
    """Make Ctrl-C, SIGTERM and a closed terminal end us past every `finally` that stops a server."""

    def end(number: int, frame: FrameType | None) -> None:
        # Once is enough: whoever is impatient must not leave processes behind.
        for ending in _ENDING:
            signal.signal(ending, signal.SIG_IGN)
        _came.set()
        raise KeyboardInterrupt

    # A shell starts its background jobs with Ctrl-C ignored; servers must not outlive us there either.
    for ending in _ENDING:
        signal.signal(ending, end)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off all that would end us."""
    came: list[int] = []
    # A mask would hold for this thread alone, and a signal goes to any that has none.
    before = {ending: signal.signal(ending, lambda number, frame: came.append(number)) for ending in _ENDING}
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler or signal.SIG_DFL)
        if came:
            signal.raise_signal(came[0])


def end_tree(pid: int) -> None:
    """Kill a process and all that come from it. Only for who did not end when told to."""
    try:
        top = psutil.Process(pid)
        tree = [*top.children(recursive=True), top]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


# Memory


@dataclass(frozen=True)
class Memory:
    """Memory of a process tree, in bytes. `shared_out` is what smaps calls PSS: pages shared are divided."""

    resident: int
    shared_out: int
    own: int

    def __sub__(self, before: Memory) -> Memory:
        return Memory(self.resident - before.resident, self.shared_out - before.shared_out, self.own - before.own)


def memory(processes: Iterable[psutil.Process]) -> Memory:
    """The memory of processes now. Where the system has no PSS, the resident size stands for it."""
    resident = shared_out = own = 0
    for process in processes:
        info = process.memory_full_info()
        resident += info.rss
        shared_out += getattr(info, "pss", info.rss)
        own += info.uss
    return Memory(resident, shared_out, own)


# Processor time


def cpu_secs(processes: Iterable[psutil.Process]) -> float:
    """Processor time of these processes so far, user and system, of all threads they have or had."""
    return sum(_cpu_secs(process) for process in processes)


def _cpu_secs(process: psutil.Process) -> float:
    if sys.platform != "linux":
        times = process.cpu_times()
        return float(times.user + times.system)
    # The clock that clock_getcpuclockid(3) names, as Linux composes it. It counts nanoseconds, where /proc has
    # hundredths of a second, and Redis spends few of those in a run.
    try:
        return time.clock_gettime(~process.pid << 3 | 2)
    except OSError:
        raise psutil.NoSuchProcess(process.pid) from None


def busy_secs() -> float:
    """Processor time of all programs on this machine so far, including what a hypervisor took away."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0) + getattr(times, "steal", 0.0))


@dataclass(frozen=True)
class Usage:
    """Processor time in a stretch of time, in seconds: the server's, ours, and everybody else's on this machine."""

    wall_secs: float
    server_secs: float
    generator_secs: float
    others_secs: float

    @property
    def server_share(self) -> float:
        """Of one core."""
        return self.server_secs / self.wall_secs

    @property
    def generator_share(self) -> float:
        """Of one core."""
        return self.generator_secs / self.wall_secs

    @property
    def others_share(self) -> float:
        """Of one core; a machine with two has two to give."""
        return self.others_secs / self.wall_secs

    def per_cpu_sec(self, count: int) -> float:
        """How many of something that is for one CPU-second of the server."""
        return count / max(self.server_secs, TICK_SECS)


class Meter:
    """Measures usage from when it is made."""

    def __init__(self, server: Spender) -> None:
        self._server = server
        self._began, self._cpu, self._own, self._busy = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        return time.perf_counter(), self._server.cpu_secs(), time.process_time(), busy_secs()

    def read(self) -> Usage:
        """Usage so far."""
        now, cpu, own, busy = self._now()
        wall, cpu, own = now - self._began, cpu - self._cpu, own - self._own
        return Usage(wall, cpu, own, max(0.0, busy - self._busy - cpu - own))


def disturbed(usages: Iterable[Usage]) -> str | None:
    """A warning, if other programs had enough of the machine to matter."""
    usages = list(usages)
    wall = sum(usage.wall_secs for usage in usages)
    share = sum(usage.others_secs for usage in usages) / wall if wall else 0.0
    return f"Other programs used {share:.0%} of a core meanwhile; times suffer most." if share > OTHERS_BUSY else None


async def at_rest(server: Spender, at_most_secs: float = 20.0) -> None:
    """Wait until the server does next to nothing."""
    deadline = time.monotonic() + at_most_secs
    before = server.cpu_secs()
    still = 0
    while still < 2 and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_SECS)
        now = server.cpu_secs()
        still = still + 1 if now - before <= REST_SHARE * LOOK_SECS else 0
        before = now
