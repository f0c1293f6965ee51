"""A connection to Redis that is kept up: made when it is first needed, and made again whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
from contextvars import Context
from typing import Any

from hubs.layers.errors import LayerAway
from hubs.layers.wire import Host, Wire

logger = logging.getLogger(__name__)

# Between two attempts to reach Redis. Short, for it is back as soon as it answers; not the same for all processes.
PAUSE_SECS = (0.1, 0.25)

# So many different reasons are logged of one outage.
MAX_REASONS = 5


class Link:
    """What appending and reading have in common. No task runs while the connection stands."""

    # What it is there for, in the log.
    purpose = ""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.wire: Wire | None = None
        # Why there is no connection; None while there is one, and while the first attempt is made.
        self.away: Exception | None = None
        # What the log says of that already.
        self._said: set[str] = set()
        self._dialling: asyncio.Task[None] | None = None
        self._closed = False

    # For subclasses

    async def _greet(self, wire: Wire) -> None:
        """Ask what has to be known before a new connection is used. Raises LayerAway."""

    def _came_up(self) -> None:
        """There is a connection; says `_stands`, at once or later."""

    def _went_away(self) -> None:
        """There is none: it was lost, or an attempt failed. `away` says why."""

    def _replied(self, replies: list[Any]) -> None:
        """Redis answered."""

    def _ping(self) -> None:
        """Ask for a sign of life."""

    # Up and down

    def need(self) -> None:
        """Have a connection made, if there is none."""
        if self.wire is None and (self._dialling is None or self._dialling.done()) and not self._closed:
            # In a context of its own, not that of whoever happened to come first: all that is read is handled in it.
            self._dialling = asyncio.get_running_loop().create_task(
                self._dial(), name=f"reach Redis, {self.purpose}", context=Context()
            )
            self._dialling.add_done_callback(self._dialled)

    async def close(self) -> None:
        """Give the connection up for good, and wait until its socket is closed."""
        self._closed = True
        while self._dialling is not None and not self._dialling.done():
            # More than once: redis-py may swallow a cancellation that comes just as it got its answer.
            self._dialling.cancel()
            await asyncio.wait([self._dialling], timeout=0.1)
        wire, gone = self.wire, LayerAway("The channel layer was closed.")
        if wire is None:
            self._is_away(gone)
        else:
            wire.lose(gone)
            await asyncio.wait([wire.closed], timeout=self._host.patience_secs)

    def _stands(self) -> None:
        """For subclasses: what the connection is for can be done."""
        if self.away is not None:
            logger.info("Redis is reached again, %s", self.purpose)
        self.away = None
        self._said.clear()

    async def _dial(self) -> None:
        while not self._closed:
            if self.away is not None:
                await asyncio.sleep(random.uniform(*PAUSE_SECS))  # noqa: S311
            try:
                wire = await self._host.dial(self._greet)
            except LayerAway as problem:
                self._is_away(problem)
                continue
            if self._closed:
                wire.lose(LayerAway("The channel layer was closed."))
                return
            self.wire = wire
            wire.serve(self._replied, self._lost, self._ping)
            self._came_up()
            return

    def _dialled(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            # By somebody who ends whatever task there is.
            self.need()

    def _lost(self, problem: Exception) -> None:
        self.wire = None
        self._is_away(problem)
        self.need()

    def _is_away(self, problem: Exception) -> None:
        reason = str(problem)
        if reason not in self._said and len(self._said) < MAX_REASONS and not self._closed:
            # That the connection was lost is one, and that Redis does not take the password any more another.
            self._said.add(reason)
            logger.warning("Redis cannot be reached, %s: %s", self.purpose, reason)
        self.away = problem
        self._went_away()
