"""What log records look like, which are worth writing, and how often.

Apart from the servers, because the supervisor of several workers logs too, and does not load a server for that.

Much of what a service logs is caused by strangers: an address that is not there, a foreign Host, a token that is
worth nothing. Each such line is worth having, ten thousand of them are an attack on the disk. So records are counted
by kind. In each minute the first ones of a kind are written; the others are counted, and their number is written when
the minute is over, with one of them as an example.

    kind        extra={"kind": "…"}, else the template of the message, or the place in the code where there is only text
                (django.security); with the logger's name, the level, an HTTP status, and the class of the exception
    how many    PER_MINUTE, twice as many for warnings and errors, a third of it with a traceback

The same strangers choose part of the text. Control characters in a message are escaped, so that no line ends
within one; what follows the message (a traceback) is indented, so that nothing in it can pass for a record; and
lines and records are cut where they are too long.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakSet

from hubs.servers import output
from hubs.servers.workers import assignment

PER_MINUTE = 30
WINDOW_SECS = 60.0

# Kinds that are told apart. What comes when there are more counts as one kind for each level.
MAX_KINDS = 1000

# Lines are at most PIPE_BUF bytes (POSIX: 512 or more, Linux: 4096) with all that comes before them.
MAX_LINE_BYTES = 3900
MAX_RECORD_LINES = 200
EXAMPLE_CHARACTERS = 300

# Characters that end lines, move cursors or turn the direction of text around.
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
_ESCAPED = {code: chr(code).encode("unicode_escape").decode() for code in _CONTROLS}
_ESCAPED_IN_TRACEBACKS = {code: text for code, text in _ESCAPED.items() if chr(code) not in "\n\t"}

INDENT = "    "


# How a record begins.
LINE = "{asctime} {levelname} {name}: {message}"


class LineFormatter(logging.Formatter):
    """Writes log records, each line with the number of the worker it is from, if there are several."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the text of a record, of bounded length and without control characters."""
        lines = super().format(record).translate(_ESCAPED_IN_TRACEBACKS).split("\n")
        if (more := len(lines) - MAX_RECORD_LINES) > 0:
            lines[MAX_RECORD_LINES // 2 : -MAX_RECORD_LINES // 2] = [f"… {more} lines are left out …"]
        assigned = assignment()
        prefix = "" if assigned is None else f"[worker {assigned.number}] "
        return "\n".join(prefix + INDENT * bool(number) + _cut(line) for number, line in enumerate(lines))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Give the line of a record, without its traceback."""
        whole = record.message
        record.message = whole.translate(_ESCAPED)
        try:
            return super().formatMessage(record)
        finally:
            record.message = whole


def last_words(text: str) -> str:
    """Give what a process says as it ends before logging is set up: in a worker as a record, among those of others."""
    if assignment() is None:
        return text
    record = logging.LogRecord("hubs.servers.workers", logging.ERROR, "", 0, text, None, None)
    return LineFormatter(LINE, style="{").format(record)


class ClientFaults(logging.Filter):
    """Keeps what clients do wrong from looking like faults of the server in its log.

    uvicorn 0.54 logs an error for each handshake that was refused with an HTTP status, because it
    does not count it as completed; our consumers always answer, so that complaint never has another
    cause. Django adds a traceback to each request that it holds for suspicious, a foreign Host for one,
    and to each that somebody may not make.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is worth writing, and leave out a traceback that says nothing."""
        refused = record.name == "django.request" and getattr(record, "status_code", 500) < 500
        if refused or record.name.startswith("django.security."):
            record.exc_info = record.exc_text = None
        return record.msg != "ASGI callable returned without completing handshake."


class ConsoleHandler(logging.Handler):
    """Writes records to standard error without waiting for it, and not too many of a kind.

    `per_minute`: see Throttle. `exempt`: names of loggers whose records are all written.
    """

    def __init__(self, per_minute: int = PER_MINUTE, exempt: Iterable[str] = ()) -> None:
        super().__init__()
        self._writer = output.writer(output.STDERR)
        self._throttle = Throttle(per_minute, exempt)
        # Runs while something is counted, because the count has to be written even if nothing follows.
        self._timer: threading.Timer | None = None
        _handlers.add(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        try:
            self._write_counts()
            if self._throttle.admits(record):
                self._write(record)
            else:
                self._set_timer()
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say that a record cannot be written; the standard way would wait for standard error."""
        name = str(record.name).translate(_ESCAPED)
        self._writer.write(_cut(f"A log record of {name} cannot be formatted: {record.msg!r}").encode() + b"\n")

    def flush(self) -> None:
        """Wait until everything is written, unless nothing gets out."""
        self._writer.flush()

    def close(self) -> None:
        """Write what was counted, and wait for it."""
        self.settle()
        super().close()

    def settle(self) -> None:
        """Write all counts, however young; the process ends."""
        with self._locked():
            for count in self._throttle.over(everything=True):
                self._write(count)
        self._writer.flush()

    def _write(self, record: logging.LogRecord) -> None:
        self._writer.write(self.format(record).encode(errors="backslashreplace") + b"\n")

    def _write_counts(self) -> None:
        for count in self._throttle.over():
            self._write(count)

    def _set_timer(self) -> None:
        if self._timer is None or not self._timer.is_alive():
            self._timer = threading.Timer(self._throttle.secs_left(), self._time_is_over)
            self._timer.daemon = True
            try:
                self._timer.start()
            except RuntimeError:
                # No thread to be had. The next record brings the count.
                self._timer = None

    def _time_is_over(self) -> None:
        with self._locked():
            self._timer = None
            self._write_counts()
            if self._throttle.counts:
                self._set_timer()

    def _locked(self) -> Any:
        assert self.lock is not None  # noqa: S101 - made by logging.Handler
        return self.lock


class Throttle:
    """Counts records by kind, and tells which are to be written. One caller at a time.

    `per_minute`: records of a kind in a minute, 0 = all; see the head of this module for its multiples.
    """

    def __init__(
        self, per_minute: int, exempt: Iterable[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_minute = per_minute
        self._exempt = frozenset(exempt)
        self._clock = clock
        # The one that ends first stands first.
        self._windows: dict[tuple[Any, ...], _Window] = {}

    @property
    def counts(self) -> bool:
        """Whether there are records that were counted and not written."""
        return any(window.held for window in self._windows.values())

    def secs_left(self) -> float:
        """How long it takes until a count is to be written."""
        until = next((window.until for window in self._windows.values() if window.held), 0.0)
        return max(until - self._clock(), 0.0)

    def admits(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is to be written. What is over has to be asked for before."""
        if not self._per_minute or record.name in self._exempt:
            return True
        kind = _kind(record)
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) >= MAX_KINDS:
                kind = ("", record.levelno)
            window = self._windows.setdefault(kind, _Window(self._clock() + WINDOW_SECS))
        window.seen += 1
        if window.seen <= self._most(record):
            return True
        if not window.held:
            window.example = (record.name, record.levelno, record.getMessage()[:EXAMPLE_CHARACTERS])
        window.held += 1
        return False

    def over(self, *, everything: bool = False) -> list[logging.LogRecord]:
        """Forget the minutes that are over, and give what is to be written about them."""
        counts = []
        while self._windows:
            kind, window = next(iter(self._windows.items()))
            if window.until > self._clock() and not everything:
                break
            del self._windows[kind]
            if window.held:
                name, level, text = window.example
                secs = min(WINDOW_SECS, WINDOW_SECS - (window.until - self._clock()))
                said = "… %d more like it in the last %.0f s: %s"
                counts.append(logging.LogRecord(name, level, "", 0, said, (window.held, max(secs, 1), text), None))
        return counts

    def _most(self, record: logging.LogRecord) -> int:
        if record.exc_info:
            return max(self._per_minute // 3, 1)
        return self._per_minute * (2 if record.levelno >= logging.WARNING else 1)


class _Window:
    """A minute in the life of a kind."""

    __slots__ = ("example", "held", "seen", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.seen = self.held = 0
        self.example = ("", 0, "")


def settle() -> None:
    """The process is about to end, perhaps by a signal: write what was counted, and wait for all that waits."""
    for handler in list(_handlers):
        handler.settle()
    output.flush()


def _kind(record: logging.LogRecord) -> tuple[Any, ...]:
    what: Any = getattr(record, "kind", None)
    if what is None:
        what = record.msg if record.args and isinstance(record.msg, str) else (record.pathname, record.lineno)
    problem = record.exc_info[0] if isinstance(record.exc_info, tuple) else None
    return record.name, record.levelno, what, getattr(record, "status_code", None), problem


def _cut(line: str) -> str:
    encoded = line.encode(errors="backslashreplace")
    if (more := len(encoded) - MAX_LINE_BYTES) <= 0:
        return encoded.decode()
    return f"{encoded[:MAX_LINE_BYTES].decode(errors='ignore')}… ({more:,} more bytes)"


_handlers: WeakSet[ConsoleHandler] = WeakSet()
