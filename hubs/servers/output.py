"""Standard output and error of a server, which never wait for whoever reads them.

What a service says goes to a pipe, a terminal or a file, and each of these can come to a standstill: a log collector
that hangs, Ctrl-S, a full disk. A write then blocks, or fails, and neither may be felt by an event loop, at the start
or at a stop. So what is said is put in a bounded queue, and a daemon thread writes it.

    the queue is full               lines are dropped and counted until all that waited was written
    a write fails (EPIPE, ENOSPC)   what waits is dropped and counted, and the thread tries again each second
    either is over                  one line says how many were not written
    the process ends                it waits while the thread makes progress, and gives up after a second without

Descriptors are written to directly. Python's text streams hold a lock while they write, and an interpreter that
ends while a thread holds it aborts. O_NONBLOCK is no way out, because other processes share that flag.

Several processes may write to one pipe. The kernel keeps writes of up to PIPE_BUF bytes together, so pipes are
written to in pieces of that size, each of whole lines.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from functools import cache
from typing import Any
from weakref import WeakSet

# What may wait to be written, and what is written in one piece to anything but a pipe.
MAX_WAITING_BYTES = 4 << 20
PIECE_BYTES = 64 << 10
# What a line takes in the queue besides its text.
LINE_BYTES = 100

# How long after a failure the next try is made, and how long the end of the process waits without progress.
RETRY_SECS = 1.0
FLUSH_SECS = 1.0

STDOUT, STDERR = 1, 2


class Writer:
    """Writes to a file descriptor by a thread of its own. Any thread may call it; no call waits but `flush`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_last = False
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        """Have nothing to write, and no thread; so it is in the child of a fork, too."""
        # A Condition's lock is reentrant: what a finalizer logs while this is held comes in, too.
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._thread: threading.Thread | None = None
        self._is_writing = False
        # Nothing got out for FLUSH_SECS while somebody waited for it, and nothing has since.
        self._is_stuck = False
        # The last write ended within a line.
        self._is_torn = False
        self._progress = 0.0

    @property
    def descriptor(self) -> int:
        """Where it writes to."""
        return self._descriptor

    def write(self, data: bytes) -> None:
        """Have whole lines written soon, or dropped and counted."""
        if sys.is_finalizing():
            # Threads are no more, and may have left the lock taken.
            self._write_at_once(data)
            return
        size = len(data) + LINE_BYTES
        with self._changed:
            if self._lost or self._waiting_bytes + size > MAX_WAITING_BYTES:
                self._lost += _lines(data)
            else:
                self._waiting.append(data)
                self._waiting_bytes += size
            if self._thread is None or not self._thread.is_alive():
                self._start()
            self._changed.notify_all()
        if self._is_last:
            self.flush()

    def flush(self, secs: float = FLUSH_SECS) -> None:
        """Wait until all is written, unless nothing gets out for so many seconds."""
        with self._changed:
            self._progress = time.monotonic()
            while (self._waiting or self._is_writing or self._lost) and not self._is_stuck:
                left = self._progress + secs - time.monotonic()
                if left <= 0:
                    self._is_stuck = True
                else:
                    self._changed.wait(left)

    def flush_always(self) -> None:
        """Flush after each write from now on, because the process may end at any moment."""
        self._is_last = True
        self.flush()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"write to descriptor {self._descriptor}")
        try:
            self._thread.start()
        except RuntimeError:
            # The machine has no threads left. The next line tries again.
            self._thread = None

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._lost:
                    self._changed.wait()
                lost = 0 if self._waiting else self._lost
                data = self._take() if self._waiting else _not_written(lost)
                self._is_writing = True
            written = self._put(data)
            with self._changed:
                self._is_writing = False
                if written:
                    self._lost -= lost
                else:
                    if not lost:
                        self._lost += _lines(data)
                    self._lost += sum(map(_lines, self._waiting))
                    self._waiting.clear()
                    self._waiting_bytes = 0
                self._changed.notify_all()
            if not written:
                time.sleep(RETRY_SECS)

    def _take(self) -> bytes:
        """As much of what waits as is written in one piece."""
        most = self._piece_bytes()
        taken: list[bytes] = []
        room = most
        while self._waiting and len(self._waiting[0]) <= room:
            data = self._waiting.popleft()
            self._waiting_bytes -= len(data) + LINE_BYTES
            room -= len(data)
            taken.append(data)
        if taken:
            return b"".join(taken)
        # One that is too long by itself is cut where a line ends, if it can be.
        data = self._waiting[0]
        end = data.rfind(b"\n", 0, most) + 1 or most
        self._waiting[0] = data[end:]
        self._waiting_bytes -= end
        return data[:end]

    def _piece_bytes(self) -> int:
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(self._descriptor).st_mode):
                return select.PIPE_BUF
        return PIECE_BYTES

    def _put(self, data: bytes) -> bool:
        """Write, for as long as it takes; tells whether it worked."""
        if self._is_torn:
            data = b"\n" + data
        while data:
            try:
                written = os.write(self._descriptor, data)
            except BlockingIOError:
                # Somebody else has set it to O_NONBLOCK.
                self._has_room(RETRY_SECS)
            except OSError:
                return False
            else:
                data = data[written:]
                self._is_torn = bool(data)
                self._is_stuck = False
                self._progress = time.monotonic()
        return True

    def _write_at_once(self, data: bytes) -> None:
        """Write without a thread, if that takes no time."""
        with suppress(OSError):
            if self._has_room(0):
                os.write(self._descriptor, data[: select.PIPE_BUF])

    def _has_room(self, secs: float) -> bool:
        """Wait until a write would not block, for so many seconds at most."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return any(event & select.POLLOUT for _, event in poll.poll(secs * 1000))


class _Stream(io.RawIOBase):
    """What a text stream puts its bytes into."""

    def __init__(self, writer: Writer, name: str) -> None:
        super().__init__()
        self._writer = writer
        self.name = name

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._writer.descriptor

    def isatty(self) -> bool:
        return os.isatty(self._writer.descriptor)

    def write(self, data: Any) -> int:
        self._writer.write(bytes(data))
        return len(data)


@cache
def writer(descriptor: int) -> Writer:
    """The one that writes to STDOUT or STDERR."""
    was_closed = (sys.__stdout__ if descriptor == STDOUT else sys.__stderr__) is None
    # One that was closed when Python started may be something else by now: a socket, say.
    return Writer(os.open(os.devnull, os.O_WRONLY) if was_closed else descriptor)


def take_streams() -> None:
    """Have sys.stdout and sys.stderr of this process written in this way: `print`, warnings, tracebacks of threads."""
    _open_missing()
    sys.stdout, sys.stderr = _text(STDOUT, "<stdout>"), _text(STDERR, "<stderr>")


def flush() -> None:
    """Wait until what was said is written, unless nothing gets out."""
    for each in list(_writers):
        each.flush()


def _text(descriptor: int, name: str) -> io.TextIOWrapper:
    stream: Any = _Stream(writer(descriptor), name)
    return io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _open_missing() -> None:
    """Open the standard descriptors that are closed (`>&-`), so that no socket gets their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # It gets the lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _lines(data: bytes) -> int:
    return data.count(b"\n") or 1


def _not_written(lost: int) -> bytes:
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    lines = "1 line was" if lost == 1 else f"{lost:,} lines were"
    return f"{when} WARNING {__name__}: {lines} not written here: output was blocked or failed\n".encode()


def _after_fork() -> None:
    for each in list(_writers):
        # What waits is the parent's to write.
        each._begin()


def _at_exit() -> None:
    for each in list(_writers):
        each.flush_always()


_writers: WeakSet[Writer] = WeakSet()
os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
