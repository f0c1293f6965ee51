"""Log lines about handlers that fail, without a line for every event of a busy hub.

While a handler is down each of its events fails, thousands in a minute. The first failure is logged
at once; the same one again at most every ten seconds, with how often it came in between. Nothing is
hidden by that: each call is in the records.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

EVERY_SECS = 10.0
MAX_KINDS = 1000


class Complaints:
    """Logs what is about the same thing at most once in EVERY_SECS."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        # By kind: when it may be logged again, and how often it was not.
        self._held: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()

    def warn(self, text: str, *about: object) -> None:
        """Log a warning, unless one of the same text about the same was just logged."""
        kind = (text, *about)
        now = self._clock()
        until, times = self._held.get(kind, (now, 0))
        if now < until:
            self._held[kind] = (until, times + 1)
            return
        self._held[kind] = (now + EVERY_SECS, 0)
        self._held.move_to_end(kind)
        if len(self._held) > MAX_KINDS:
            self._held.popitem(last=False)
        # The log counts it by the same kind (hubs.servers.logs): a handler that fails does not use up another's lines.
        extra = {"kind": kind}
        if times:
            self._logger.warning(f"{text} (%d times more since the last such line)", *about, times, extra=extra)
        else:
            self._logger.warning(text, *about, extra=extra)
