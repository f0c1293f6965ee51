"""Event handlers that are Python functions: how they are called.

`async` ones run on the server's loop. Plain ones run in threads, in a pool that belongs to their hub:
neither the loop nor another hub's functions wait for one that takes long, and what else uses threads
(the database, files) finds its own free.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from channels.db import DatabaseSyncToAsync

from hubs import conf
from hubs.rules.event_routing import DISCONNECTED
from hubs.upstream.concurrency import ConcurrencyLimits, HandlerProblem, Progress, TooManyCalls
from hubs.upstream.events import ConnectAnswer, Event, Rejected, Reply
from hubs.upstream.handlers import label_of
from hubs.upstream.session import Session

logger = logging.getLogger(__name__)


class _Threads(ThreadPoolExecutor):
    """The threads of one hub, with a bound on what waits for them."""

    def __init__(self, hub: str, threads: int, waiting: int) -> None:
        super().__init__(threads, thread_name_prefix=f"handlers of {hub}")
        self.bounds = (threads, waiting)
        self._counted = threading.Lock()
        self._unfinished = 0

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """As any executor's. Raises TooManyCalls."""
        threads, waiting = self.bounds
        with self._counted:
            if self._unfinished >= threads + waiting:
                raise TooManyCalls(f"{threads + waiting} calls of this hub's functions run or wait already")
            self._unfinished += 1
        try:
            future = super().submit(function, *arguments, **named)
        except BaseException:
            self._finished()
            raise
        future.add_done_callback(self._finished)
        return future

    def _finished(self, _: Any = None) -> None:
        with self._counted:
            self._unfinished -= 1


_threads: dict[str, _Threads] = {}

# Notifications wait here rather than in front of the threads, where users' events would stand behind them.
_limits: WeakKeyDictionary[asyncio.AbstractEventLoop, ConcurrencyLimits[tuple[str, bool]]] = WeakKeyDictionary()


def _threads_of(hub: str) -> _Threads:
    bounds = (conf.settings.HANDLER_THREADS, conf.settings.MAX_WAITING_HANDLER_CALLS)
    found = _threads.get(hub)
    if found is None or found.bounds != bounds:
        if found is not None:
            found.shutdown(wait=False)
        found = _threads[hub] = _Threads(hub, *bounds)
    return found


def close() -> None:
    """Let the threads go, each when its function returns; what only waits is not run."""
    for threads in _threads.values():
        threads.shutdown(wait=False, cancel_futures=True)
    _threads.clear()


@dataclass(frozen=True, slots=True)
class FunctionHandler:
    """One of an application's functions, registered in handlers.py."""

    function: Callable[..., Any]

    @property
    def label(self) -> str:
        """What it is called in logs and records."""
        return label_of(self.function)

    async def connect(self, event: Event, session: Session, progress: Progress) -> ConnectAnswer:
        """Ask about a new connection. Raises Rejected or HandlerProblem."""
        hub = event.context.hub
        try:
            answer = await self._call(hub, progress, event.request)
        except (Rejected, HandlerProblem):
            raise
        except Exception as problem:
            logger.exception("The connect handler of hub %s failed", hub)
            raise _logged(problem) from None
        if answer is None:
            return ConnectAnswer()
        if not isinstance(answer, ConnectAnswer):
            text = f"returned {type(answer).__name__}; it has to return a ConnectAnswer or None"
            logger.error("The connect handler of hub %s %s", hub, text)
            raise AlreadyLogged(text)
        return answer

    async def user_event(self, event: Event, session: Session, progress: Progress) -> Reply:
        """Have a user event handled. Raises HandlerProblem."""
        try:
            return Reply.of(await self._call(event.context.hub, progress, event.request))
        except HandlerProblem:
            raise
        except Exception as problem:
            logger.exception("The handler of event %s in hub %s failed", event.name, event.context.hub)
            raise _logged(problem) from None

    async def notify(self, event: Event, session: Session, progress: Progress) -> None:
        """Tell of a connection's beginning or end. Raises HandlerProblem."""
        hub = event.context.hub
        plain = not inspect.iscoroutinefunction(self.function)
        width = conf.settings.HANDLER_THREADS if plain else conf.settings.MAX_HANDLER_CALLS
        limits = _limits.setdefault(asyncio.get_running_loop(), ConcurrencyLimits())
        arguments = (event.context,) if event.name != DISCONNECTED else (event.context, event.reason)
        with limits.place((hub, plain), True, (width, 0, conf.settings.MAX_WAITING_NOTIFICATIONS)) as limit:
            async with limit.share(True):
                try:
                    await self._call(hub, progress, *arguments)
                except HandlerProblem:
                    raise
                except Exception as problem:
                    logger.exception("The %s handler of hub %s failed", event.name, hub)
                    raise _logged(problem) from None

    async def _call(self, hub: str, progress: Progress, *arguments: Any) -> Any:
        progress.attempts = 1
        limit = conf.settings.HANDLER_SECS
        async with asyncio.timeout(limit):
            if inspect.iscoroutinefunction(self.function):
                if progress.told is not None:
                    progress.told.set()
                return await self.function(*arguments)
            function = self.function if progress.told is None else _telling(self.function, progress.told)
            # The Database- form gives up connections that the database has dropped; nobody else would there.
            call = DatabaseSyncToAsync(function, thread_sensitive=False, executor=_threads_of(hub))
            return await call(*arguments)


def _telling(function: Callable[..., Any], told: asyncio.Event) -> Callable[..., Any]:
    """The same function, which says when a thread begins with it."""
    loop = asyncio.get_running_loop()

    def run(*arguments: Any) -> Any:
        # RuntimeError: the loop has ended, and with it whoever waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(told.set)
        return function(*arguments)

    return run


class AlreadyLogged(HandlerProblem):
    """What a function did wrong; its traceback is in the log."""


def _logged(problem: Exception) -> AlreadyLogged:
    return AlreadyLogged("took too long" if isinstance(problem, TimeoutError) else f"raised {type(problem).__name__}")
