"""Choosing the handler of an event, calling it, and reading its answer.

`connect` and user events are blocking: the client waits for the answer, at most HANDLER_SECS.
`connected` and `disconnected` are notifications: they run beside the conversation, a failure is
logged and nobody waits.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from channels.db import DatabaseSyncToAsync

from hubs import conf
from hubs.errors import HandlerFailed, HandshakeRefused, NoHandler
from hubs.upstream.events import ConnectAnswer, ConnectRequest, EventContext, Rejected, Reply, UserEventRequest
from hubs.upstream.handlers import CONNECT, CONNECTED, DISCONNECTED, handlers_of

logger = logging.getLogger(__name__)

_notifications: set[asyncio.Task[None]] = set()


async def connect(request: ConnectRequest) -> ConnectAnswer:
    """Ask the hub's connect handler; without one the token's values stand.

    Raises HandshakeRefused with the handler's status, or with 500 when it failed.
    """
    handlers = handlers_of(request.context.hub)
    function = handlers.system.get(CONNECT) if handlers else None
    if function is None:
        return ConnectAnswer()
    try:
        answer = await _call(function, request)
    except Rejected as rejected:
        raise HandshakeRefused(rejected.status, rejected.reason or HTTPStatus(rejected.status).phrase) from None
    except Exception:
        logger.exception("The connect handler of hub %s failed", request.context.hub)
        raise HandshakeRefused(500, "The event handler failed.") from None
    if answer is None:
        return ConnectAnswer()
    if not isinstance(answer, ConnectAnswer):
        logger.error(
            "The connect handler of hub %s returned %s; it has to return a ConnectAnswer or None",
            request.context.hub,
            type(answer).__name__,
        )
        raise HandshakeRefused(500, "The event handler failed.")
    return answer


async def user_event(request: UserEventRequest) -> Reply:
    """Have a user event handled. Raises NoHandler or HandlerFailed."""
    handlers = handlers_of(request.context.hub)
    function = handlers.for_event(request.event) if handlers else None
    if function is None:
        logger.info("No handler takes the event %s of hub %s", request.event, request.context.hub)
        raise NoHandler
    try:
        return Reply.of(await _call(function, request))
    except Exception:
        logger.exception("The handler of event %s in hub %s failed", request.event, request.context.hub)
        raise HandlerFailed from None


def connected(context: EventContext) -> None:
    """Tell the handler that a connection is open."""
    _notify(CONNECTED, context)


def disconnected(context: EventContext, reason: str) -> None:
    """Tell the handler that a connection ended, and why."""
    _notify(DISCONNECTED, context, reason)


def _notify(event: str, context: EventContext, *arguments: str) -> None:
    handlers = handlers_of(context.hub)
    function = handlers.system.get(event) if handlers else None
    if function is not None:
        task = asyncio.create_task(_run_notification(event, function, context, *arguments), name=f"{event} handler")
        _notifications.add(task)
        task.add_done_callback(_notifications.discard)


async def _run_notification(event: str, function: Callable[..., Any], context: EventContext, *arguments: str) -> None:
    try:
        await _call(function, context, *arguments)
    except Exception:
        logger.exception("The %s handler of hub %s failed", event, context.hub)


async def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    async with asyncio.timeout(conf.settings.HANDLER_SECS):
        if inspect.iscoroutinefunction(function):
            return await function(*arguments)
        # A pool's thread, not Django's one shared thread: a slow handler must not hold up others. The
        # Database- form gives up connections that the database has dropped; nobody else would there.
        return await DatabaseSyncToAsync(function, thread_sensitive=False)(*arguments)
