"""Retention: logs are trimmed by age and by size.

Every process trims the logs that it appends to, every two seconds while it does, and once more when its last entry has
outlived the retention; those that it only reads, once in a retention. Trimming by age leaves the newest of the entries
that may go. So whoever has read up to a position can tell whether anything behind it was trimmed: nothing was, as
long as the entry at that position is there, and it is, however old, until a later entry is too old as well. No record
of what was trimmed is needed, which could not be written to a Redis that is out of memory, when trimming matters most.

By size, as large a part of the entries goes as the log is too large by, the oldest first. What was appended within
the last two seconds stays: a reader that is up to date counts on that (reader.py).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from redis.exceptions import ResponseError

from hubs.layers.appender import Appender, Log
from hubs.layers.commands import pack
from hubs.layers.errors import LayerAway

logger = logging.getLogger(__name__)

LOOK_SECS = 2.0

# What is younger is not trimmed, however much it is.
SETTLED_MS = 2_000

# A log that is too large is trimmed to this part of what it may have.
_PART = 0.8

# Logs remembered for the look after their retention. Others have expired when nobody uses them any more.
MAX_KEPT = 20_000


class Trimmer:
    """Keeps the logs of one appender as small as they have to be."""

    def __init__(self, appender: Appender, max_log_bytes: int) -> None:
        self._appender = appender
        self._loop = asyncio.get_running_loop()
        self._max_bytes = max_log_bytes
        # Those that were used within the retention.
        self._kept: dict[Log, None] = {}
        # Those that the last look did not get as small as they should be.
        self._again: dict[Log, None] = {}
        self._timer = self._loop.call_later(LOOK_SECS, self._look)
        self._looking: asyncio.Task[None] | None = None
        self._may_measure, self._said_refused = True, False

    async def close(self) -> None:
        """Stop."""
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK_SECS, self._look)
        if self._looking is not None and not self._looking.done():
            return
        now = self._loop.time()
        touched, self._appender.touched = self._appender.touched, []
        for log in touched:
            log.is_touched, log.used_at = False, now
            self._kept.pop(log, None)
            self._kept[log] = None
        while len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        old = [log for log in self._kept if now - log.used_at > log.retention_ms / 1000 + LOOK_SECS]
        # In an order that does not depend on where objects are in memory: storms repeat.
        logs = list(dict.fromkeys((*touched, *self._again, *old)))
        self._again.clear()
        if logs:
            self._looking = self._loop.create_task(self._trim_all(logs, old), name="trim logs")

    async def _trim_all(self, left: list[Log], old: list[Log]) -> None:
        try:
            while left:
                await self._trim_one(left[-1])
                left.pop()
        except LayerAway:
            self._again.update(dict.fromkeys(left))
            return
        for log in old:
            self._kept.pop(log, None)

    async def _trim_one(self, log: Log) -> None:
        try:
            await self.trim(log)
        except ResponseError as problem:
            if not self._said_refused:
                self._said_refused = True
                logger.warning(
                    "Redis refuses to trim the log %s, so it grows until Redis is full: %s. `manage.py check --deploy` "
                    "says what Redis lacks",
                    log.key.decode(),
                    problem,
                )

    async def trim(self, log: Log) -> None:
        """Trim a log to what it has to keep."""
        seconds, micros = await self._ask("TIME")
        now = int(seconds) * 1000 + int(micros) // 1000
        newest = await self._ask("XREVRANGE", log.key, max(now - log.retention_ms - 1, 0), "-", "COUNT", 1)
        if newest:
            await self._ask("XTRIM", log.key, "MINID", "~", newest[0][0], "LIMIT", 0)
        size = await self._size(log)
        if size > self._max_bytes:
            too_many = round(await self._ask("XLEN", log.key) * (1 - _PART * self._max_bytes / size))
            await self._ask("XTRIM", log.key, "MINID", "~", now - SETTLED_MS, "LIMIT", max(too_many, 1))
            # Some of it may have been too young.
            self._again[log] = None

    async def _size(self, log: Log) -> int:
        if not self._may_measure:
            return 0
        try:
            return await self._ask("MEMORY", "USAGE", log.key) or 0
        except ResponseError as problem:
            self._may_measure = False
            logger.warning("Logs are trimmed by age only, for Redis does not say how large they are: %s", problem)
            return 0

    async def _ask(self, *command: Any) -> Any:
        return await self._appender.ask(pack(*command))
