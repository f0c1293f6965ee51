"""Log lines about what fails again and again, without a line for each time.

While an event handler or the database is down, everything that needs it fails, thousands of times a minute. The first
failure is logged at once; the same one again after a pause, with how often it came in between.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

EVERY_SECS = 10.0
MAX_KINDS = 1000


class ThrottledLog:
    """Logs what is about the same thing at most once in `every_secs`. Usable from any thread."""

    def __init__(
        self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic, *, every_secs: float = EVERY_SECS
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._every_secs = every_secs
        self._lock = threading.Lock()
        # By kind: when it may be logged again, and how often it was not.
        self._held: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()

    def warn(self, text: str, *about: object, kind: tuple[object, ...] | None = None) -> None:
        """Log a warning, unless one of the same kind was just logged: by default, of the same text about the same."""
        kind = kind or (text, *about)
        with self._lock:
            now = self._clock()
            until, times = self._held.get(kind, (now, 0))
            if now < until:
                self._held[kind] = (until, times + 1)
                return
            self._held[kind] = (now + self._every_secs, 0)
            self._held.move_to_end(kind)
            if len(self._held) > MAX_KINDS:
                self._held.popitem(last=False)
        # The log counts it by the same kind (hubs.servers.logs): a handler that fails does not use up another's lines.
        extra = {"kind": kind}
        if times:
            self._logger.warning(f"{text} (%d times more since the last such line)", *about, times, extra=extra)
        else:
            self._logger.warning(text, *about, extra=extra)
