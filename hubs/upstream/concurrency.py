"""How many calls one event handler gets at once, and how many wait for that.

Each handler has a limit of its own, so that a slow one makes only its own events wait. Blocking
events and notifications pass the same limit, and notifications get at most half of its width: when a
thousand clients leave together, those who come can still be let in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key")


class HandlerProblem(Exception):
    """An event handler could not be called, or did not do its part. The text is for operators."""


class TooManyCalls(HandlerProblem):
    """The bound on calls that wait for a handler was reached, so this one was not made."""


@dataclass(slots=True)
class Progress:
    """How far a call got: for its record, and for whoever waits until the handler has been told.

    `told`: set while the handler has the whole request and has not answered it; not there where nobody waits.
    """

    attempts: int = 0
    status: int | None = None
    told: asyncio.Event | None = None


class ConcurrencyLimit:
    """The calls of one handler: `width` at once, and so many waiting."""

    __slots__ = ("_background", "_calls", "_exchanges", "_notifications", "_notified", "inside")

    def __init__(self, width: int, waiting: int, notifications: int) -> None:
        self._exchanges = asyncio.Semaphore(width)
        self._background = asyncio.Semaphore(max(1, width // 2))
        self._calls = width + waiting
        self._notifications = notifications
        self._notified = 0
        self.inside = 0

    @contextmanager
    def place(self, background: bool) -> Iterator[None]:
        """Have a place, under way or waiting, from the event until its answer. Raises TooManyCalls."""
        if background:
            if self._notified >= self._notifications:
                raise TooManyCalls(f"{self._notifications} notifications wait for this handler already")
            self._notified += 1
        elif self.inside - self._notified >= self._calls:
            raise TooManyCalls(f"{self._calls} calls of this handler are under way or wait already")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
            if background:
                self._notified -= 1

    @asynccontextmanager
    async def share(self, background: bool) -> AsyncIterator[None]:
        """For notifications: be among those that may use the handler now."""
        if not background:
            yield
            return
        async with self._background:
            yield

    def exchange(self) -> asyncio.Semaphore:
        """One exchange with the handler; not held while a call waits to be tried again."""
        return self._exchanges


class ConcurrencyLimits(Generic[Key]):
    """Gates by handler; one that nobody is at is not kept."""

    def __init__(self) -> None:
        self._by_handler: dict[Key, ConcurrencyLimit] = {}

    @contextmanager
    def place(self, handler: Key, background: bool, bounds: tuple[int, int, int]) -> Iterator[ConcurrencyLimit]:
        """As `ConcurrencyLimit.place`, and give the limit. `bounds` are those that a new limit gets."""
        limit = self._by_handler.get(handler)
        if limit is None:
            limit = self._by_handler[handler] = ConcurrencyLimit(*bounds)
        try:
            with limit.place(background):
                yield limit
        finally:
            if not limit.inside:
                self._by_handler.pop(handler, None)
