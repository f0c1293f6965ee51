"""Choosing who handles an event, having it handled, and telling the connection what came of it.

A function of the application that is registered for the event takes it (functions.py); else the first
of the hub's event handler rows that wants it (webhooks.py). Listeners get their copy in any case, and
before anybody is waited for.

`connect` and user events are blocking: the client waits for the answer, at most HANDLER_SECS. Who
stops waiting (because the client left) has the call given up. `connected` and `disconnected` are
notifications: each is sent once, beside the conversation and longer than it lasts, if need be; a
failure is logged and nobody waits. `disconnected` is not sent before `connected` was, but does not wait
for its answer either: a handler that is slow to greet hears at once who has left.

Two kinds of bad news come up from below. `Rejected` is a connect handler's no. `HandlerProblem` is a
call that came to nothing; its text is for operators, in the log and in the records, and the client
is told only that something failed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Protocol, TypeVar

from hubs import hub_settings
from hubs.errors import DatabaseUnavailable, HandlerFailed, HandshakeRefused, NoHandler, NotFound, TooMany
from hubs.hub_settings import EventHandlerSettings, Snapshot
from hubs.rules.event_routing import event_pattern
from hubs.throttled_log import ThrottledLog
from hubs.upstream import functions, listeners, records, webhooks
from hubs.upstream.concurrency import HandlerProblem, Progress, TooManyCalls
from hubs.upstream.events import ConnectAnswer, ConnectRequest, Event, Rejected, Reply, UserEventRequest
from hubs.upstream.functions import AlreadyLogged, FunctionHandler
from hubs.upstream.handlers import CONNECT, CONNECTED, DISCONNECTED, handlers_of
from hubs.upstream.records import Record
from hubs.upstream.session import Session
from hubs.upstream.webhooks import WebhookHandler

logger = logging.getLogger(__name__)

FAILED = "The event handler failed."
BUSY = "The event handler has too many calls waiting."

# How long a process that stops waits for notifications that are on their way.
STOP_SECS = 5.0

_log = ThrottledLog(logger)

_notifications: set[asyncio.Task[None]] = set()

Result = TypeVar("Result")


class Handler(Protocol):
    """Whoever takes an event. All raise HandlerProblem; `connect` also Rejected."""

    @property
    def label(self) -> str:
        """What it is called in logs and records."""

    async def connect(self, event: Event, session: Session, progress: Progress) -> ConnectAnswer:
        """Ask about a new connection."""

    async def user_event(self, event: Event, session: Session, progress: Progress) -> Reply:
        """Have a user event handled."""

    async def notify(self, event: Event, session: Session, progress: Progress) -> None:
        """Tell of a connection's beginning or end."""


# What connections call


async def connect(session: Session, request: ConnectRequest) -> ConnectAnswer:
    """Ask the hub's connect handler; without one the token's values stand.

    Raises HandshakeRefused: with the handler's status, with 500 when it failed, with 503 when too
    many calls wait for it; DatabaseUnavailable when it cannot be known whether there is one.
    """
    event = session.event(CONNECT, request)
    try:
        handler, _ = await _chosen(event)
        if handler is None:
            return ConnectAnswer()
        answer = await _called(handler, handler.connect, event, session)
    except Rejected as rejected:
        raise HandshakeRefused(rejected.status, rejected.reason or HTTPStatus(rejected.status).phrase) from None
    except TooManyCalls:
        raise HandshakeRefused(503, BUSY) from None
    except _NoSettings:
        raise DatabaseUnavailable from None
    except HandlerProblem:
        raise HandshakeRefused(500, FAILED) from None
    if answer.state is not None:
        session.state = answer.state
    return answer


async def user_event(session: Session, request: UserEventRequest) -> Reply:
    """Have a user event handled. Raises NoHandler, TooMany or HandlerFailed.

    Where only listeners take it, that is a success without anything to say.
    """
    event = session.event(request.event, request)
    try:
        handler, listened = await _chosen(event)
        if handler is None:
            if listened:
                return Reply()
            _note(event, "", records.FAILED, 0, Progress(), "no event handler and no listener takes this event")
            logger.info("No handler takes the event %s of hub %s", event.name, session.hub)
            raise NoHandler
        reply = await _called(handler, handler.user_event, event, session)
    except TooManyCalls:
        raise TooMany(BUSY) from None
    except HandlerProblem:
        raise HandlerFailed from None
    if reply.state is not None:
        session.state = reply.state
    return reply


async def invoke(session: Session, request: UserEventRequest) -> Reply:
    """Have a user event handled whose reply the client waits for. Raises NotFound, TooMany or HandlerFailed."""
    try:
        return await user_event(session, request)
    except NoHandler:
        raise NotFound(f"No event handler takes the event {request.event}.") from None


def connected(session: Session) -> None:
    """Tell the handler that a connection is open."""
    if session.open():
        session.greeting = asyncio.Event()
        _in_background(session.event(CONNECTED), session, told=session.greeting).add_done_callback(session.greeted)


def disconnected(session: Session, reason: str) -> None:
    """Tell the handler that a connection ended, and why; once, and only of one that was open."""
    if session.end():
        _in_background(session.event(DISCONNECTED, reason=reason), session, after=session.greeting)


async def stop(patience: float = STOP_SECS) -> None:
    """Let notifications that are on their way arrive, for at most `patience` seconds; then let go of everything."""
    loop = asyncio.get_running_loop()
    pending = {task for task in _notifications if task.get_loop() is loop}
    if pending:
        _, pending = await asyncio.wait(pending, timeout=patience)
    if pending:
        logger.warning("%d notifications of event handlers are given up: the process stops", len(pending))
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    await listeners.close(patience)
    await webhooks.close()
    functions.close()


# Choosing


async def _snapshot() -> Snapshot | None:
    try:
        return await hub_settings.acurrent()
    except DatabaseUnavailable:
        # Functions need no settings, and the log has its line.
        return None


class _NoSettings(HandlerProblem):
    """The database has been away for so long that nobody knows who takes the event."""


async def _chosen(event: Event) -> tuple[Handler | None, bool]:
    """Who takes an event, and whether a listener got it. Raises HandlerProblem."""
    hub = event.context.hub
    snapshot = await _snapshot()
    settings = snapshot.hub(hub) if snapshot else None
    listened = bool(settings and settings.event_listeners and listeners.tell(event, settings.event_listeners))
    function = _function(event)
    if function is not None:
        return FunctionHandler(function), listened
    if snapshot is None or settings is None:
        # There may be a handler that would turn this client away.
        raise _NoSettings("the hub's settings cannot be read")
    for row in settings.event_handlers:
        if _takes(row, event):
            return WebhookHandler(row, snapshot.keys_of(hub)), listened
    return None, listened


def _function(event: Event) -> Callable[..., object] | None:
    own = handlers_of(event.context.hub)
    if own is None:
        return None
    return own.for_event(event.name) if event.is_user_event else own.system.get(event.name)


def _takes(row: EventHandlerSettings, event: Event) -> bool:
    if event.is_user_event:
        return event_pattern(row.user_event_pattern).matches(event.name)
    return event.name in row.system_events


# Calling


async def _called(
    handler: Handler,
    call: Callable[[Event, Session, Progress], Awaitable[Result]],
    event: Event,
    session: Session,
    told: asyncio.Event | None = None,
) -> Result:
    """Call a handler and keep a record of it. `told`: as in Progress."""
    progress = Progress(told=told)
    begun = time.perf_counter()
    outcome, problem = records.ANSWERED, ""
    try:
        return await call(event, session, progress)
    except Rejected as rejected:
        outcome, problem = records.REJECTED, str(rejected)
        if progress.status is None:
            progress.status = rejected.status
        raise
    except HandlerProblem as error:
        outcome, problem = records.REFUSED if isinstance(error, TooManyCalls) else records.FAILED, str(error)
        if not isinstance(error, AlreadyLogged):
            _log.warn("The event %s of hub %s failed at %s: %s", event.name, event.context.hub, handler.label, problem)
        raise
    except asyncio.CancelledError:
        outcome = records.CANCELLED
        raise
    finally:
        _note(event, handler.label, outcome, time.perf_counter() - begun, progress, problem)


def _note(event: Event, handler: str, outcome: str, secs: float, progress: Progress, problem: str) -> None:
    records.note(
        Record(
            at=event.at,
            hub=event.context.hub,
            event=event.name,
            handler=handler,
            connection_id=event.context.connection_id,
            outcome=outcome,
            duration_ms=round(secs * 1000, 3),
            status=progress.status,
            attempts=progress.attempts,
            problem=problem,
            payload=event.payload,
        )
    )


def _in_background(
    event: Event, session: Session, *, told: asyncio.Event | None = None, after: asyncio.Event | None = None
) -> asyncio.Task[None]:
    task = asyncio.create_task(_notify(event, session, told, after), name=f"{event.name} handler")
    # Nobody else holds it: the connection may be gone before it is done.
    _notifications.add(task)
    task.add_done_callback(_notifications.discard)
    return task


async def _notify(event: Event, session: Session, told: asyncio.Event | None, after: asyncio.Event | None) -> None:
    if after is not None:
        # A handler should not hear of an end before it heard of the beginning.
        await after.wait()
    try:
        handler, _ = await _chosen(event)
        if handler is not None:
            await _called(handler, handler.notify, event, session, told)
    except HandlerProblem:
        # Logged and recorded where it was met.
        pass
    except Exception:
        logger.exception("The event %s of hub %s was lost", event.name, event.context.hub)
