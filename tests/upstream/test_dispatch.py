"""Choosing a handler, calling it, and reading what it says."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import Group
from django.db import connections

from hubs.errors import HandlerFailed, HandshakeRefused, NoHandler, TooMany
from hubs.protocols.frames import Payload
from hubs.upstream import (
    ConnectAnswer,
    ConnectRequest,
    EventContext,
    Rejected,
    Reply,
    UserEventRequest,
    dispatch,
    handlers,
    hub,
    records,
)
from hubs.upstream.handlers import HubHandlers
from hubs.upstream.session import Session
from tests.running import PATIENCE


async def soon(awaitable: Any) -> Any:
    """Wait for something that has to happen."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def connect(request: ConnectRequest) -> ConnectAnswer:
    """A new connection's handshake."""
    return await dispatch.connect(Session.of(request.context), request)


async def user_event(request: UserEventRequest) -> Reply:
    """The first event of a connection."""
    return await dispatch.user_event(Session.of(request.context), request)


def _event(context: EventContext, name: str = "e") -> UserEventRequest:
    return UserEventRequest(context, name, Payload("text", b"secret"))


@pytest.fixture
def short(settings: Any) -> None:
    """Handlers get a tenth of a second."""
    settings.WEBPUBSUB = settings.WEBPUBSUB | {"HANDLER_SECS": 0.1}


# connect


async def test_without_handler_the_token_stands(context: EventContext) -> None:
    assert await connect(ConnectRequest(context)) == ConnectAnswer()
    assert await connect(ConnectRequest(EventContext("hub_without_handlers", "c"))) == ConnectAnswer()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("answer", [None, ConnectAnswer(user_id="v", groups=["g"])])
async def test_the_answer_to_connect(
    application: HubHandlers, context: EventContext, answer: ConnectAnswer | None, asynchronous: bool
) -> None:
    told: list[ConnectRequest] = []

    def decide(request: ConnectRequest) -> ConnectAnswer | None:
        told.append(request)
        return answer

    async def decide_later(request: ConnectRequest) -> ConnectAnswer | None:
        await asyncio.sleep(0)
        return decide(request)

    application.on_connect(decide_later if asynchronous else decide)
    request = ConnectRequest(context, claims={"sub": ["u"]})
    assert await soon(connect(request)) == (answer or ConnectAnswer())
    assert told == [request]


@pytest.mark.parametrize(
    ("rejected", "status", "message"),
    [
        (Rejected(), 401, "Unauthorized"),
        (Rejected(403), 403, "Forbidden"),
        (Rejected(429, "slow down"), 429, "slow down"),
        (Rejected(499), 400, "Bad Request"),
        (Rejected(599, "x"), 500, "x"),
        (Rejected(200), 500, "Internal Server Error"),
    ],
)
async def test_a_refused_connection(
    application: HubHandlers,
    context: EventContext,
    rejected: Rejected,
    status: int,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @application.on_connect
    def refuse(request: ConnectRequest) -> None:
        raise rejected

    with pytest.raises(HandshakeRefused) as refused:
        await soon(connect(ConnectRequest(context)))
    assert (refused.value.status, refused.value.message) == (status, message)
    assert caplog.records == []


@pytest.mark.parametrize("answer", ["welcome", True, {"userId": "v"}, [], 0, Reply(), ConnectAnswer])
async def test_connect_has_to_answer_with_a_connect_answer(
    application: HubHandlers, context: EventContext, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    application.on_connect(lambda request: answer)
    with pytest.raises(HandshakeRefused) as refused:
        await soon(connect(ConnectRequest(context)))
    assert (refused.value.status, refused.value.message) == (500, "The event handler failed.")
    assert f"returned {type(answer).__name__}; it has to return a ConnectAnswer or None" in caplog.text


async def test_a_connect_handler_that_fails(
    application: HubHandlers, context: EventContext, caplog: pytest.LogCaptureFixture
) -> None:
    @application.on_connect
    def fail(request: ConnectRequest) -> None:
        raise ValueError("inner details")

    with pytest.raises(HandshakeRefused) as refused:
        await soon(connect(ConnectRequest(context)))
    assert (refused.value.status, refused.value.message) == (500, "The event handler failed.")
    assert "inner details" in caplog.text


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_connect_handler_that_takes_too_long(
    application: HubHandlers, context: EventContext, asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    async def wait(request: ConnectRequest) -> None:
        await asyncio.Event().wait()

    application.on_connect(wait if asynchronous else lambda request: go_on.wait(PATIENCE))
    with pytest.raises(HandshakeRefused) as refused:
        await soon(connect(ConnectRequest(context)))
    go_on.set()
    assert refused.value.status == 500


# User events


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_reply_to_an_event(application: HubHandlers, context: EventContext, asynchronous: bool) -> None:
    def shout(request: UserEventRequest) -> str:
        return str(request.data.upper())

    async def shout_later(request: UserEventRequest) -> str:
        await asyncio.sleep(0)
        return shout(request)

    application.on_event("e")(shout_later if asynchronous else shout)
    assert await soon(user_event(_event(context))) == Reply(Payload("text", b"SECRET"))


async def test_partial_functions_and_methods_are_handlers(application: HubHandlers, context: EventContext) -> None:
    class Room:
        async def enter(self, request: UserEventRequest) -> str:
            return "entered"

        def leave(self, request: UserEventRequest, why: str = "") -> str:
            return f"left {why}"

    application.on_event("enter")(Room().enter)
    application.on_event("leave")(functools.partial(Room().leave, why="early"))
    assert await soon(user_event(_event(context, "enter"))) == Reply(Payload("text", b"entered"))
    assert await soon(user_event(_event(context, "leave"))) == Reply(Payload("text", b"left early"))


async def test_an_event_nobody_takes(
    application: HubHandlers, context: EventContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hubs")
    application.on_event("other")(print)
    for place in (context, EventContext("hub_without_handlers", "c")):
        with pytest.raises(NoHandler):
            await soon(user_event(_event(place)))
    assert "secret" not in caplog.text


@pytest.mark.parametrize("value", [object(), float("nan"), {1}, "\ud800", asyncio.sleep])
async def test_replies_nobody_could_read(
    application: HubHandlers, context: EventContext, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    application.on_event("e")(lambda request: value)
    with pytest.raises(HandlerFailed):
        await soon(user_event(_event(context)))
    assert f"The handler of event e in hub {context.hub} failed" in caplog.text


async def test_an_event_handler_that_fails(
    application: HubHandlers, context: EventContext, caplog: pytest.LogCaptureFixture
) -> None:
    @application.on_event("e")
    async def fail(request: UserEventRequest) -> None:
        raise Rejected(403)

    with pytest.raises(HandlerFailed) as failed:
        await soon(user_event(_event(context)))
    assert failed.value.message == "Internal server error"
    assert failed.value.name == "InternalServerError"
    assert "secret" not in caplog.text


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_event_handler_that_takes_too_long(
    application: HubHandlers, context: EventContext, asynchronous: bool
) -> None:
    go_on = threading.Event()

    async def wait(request: UserEventRequest) -> None:
        await asyncio.Event().wait()

    application.on_event("e")(wait if asynchronous else lambda request: go_on.wait(PATIENCE))
    with pytest.raises(HandlerFailed):
        await soon(user_event(_event(context)))
    go_on.set()


async def test_slow_functions_hold_up_neither_the_loop_nor_each_other(
    application: HubHandlers, context: EventContext
) -> None:
    both = threading.Barrier(2)

    @application.on_event("e")
    def wait(request: UserEventRequest) -> str:
        both.wait(PATIENCE)
        return "done"

    replies = await soon(asyncio.gather(user_event(_event(context)), user_event(_event(context))))
    assert replies == [Reply(Payload("text", b"done"))] * 2


async def test_slow_functions_of_one_hub_hold_up_neither_others_nor_other_threads(
    application: HubHandlers, context: EventContext, webpubsub: Any
) -> None:
    webpubsub(HANDLER_THREADS=2, MAX_WAITING_HANDLER_CALLS=1)
    go_on = threading.Event()
    begun = threading.Semaphore(0)

    @application.on_event("e")
    def wait(request: UserEventRequest) -> None:
        begun.release()
        go_on.wait(PATIENCE)

    other = hub(f"{application.hub}_2")
    other.on_event("e")(lambda request: threading.current_thread().name)
    waiting = [asyncio.create_task(user_event(_event(context))) for _ in range(3)]
    try:
        for _ in range(2):
            assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)
        # Two run, one waits, and the next is refused.
        with pytest.raises(TooMany):
            await soon(user_event(_event(context)))
        assert records.recent(application.hub)[0].outcome == records.REFUSED
        reply = await soon(user_event(_event(EventContext(other.hub, "c"))))
        assert reply.payload is not None
        assert reply.payload.data.startswith(f"handlers of {other.hub}".encode())
        # One that waits for a thread can still be given up.
        waiting[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[2]
    finally:
        go_on.set()
        del handlers._HUBS[other.hub]
    assert await soon(asyncio.gather(*waiting[:2])) == [Reply()] * 2


async def test_a_plain_function_reaches_the_servers_loop(application: HubHandlers, context: EventContext) -> None:
    loop = asyncio.get_running_loop()

    @application.on_event("e")
    def ask(request: UserEventRequest) -> bool:
        async def here() -> bool:
            return asyncio.get_running_loop() is loop

        return async_to_sync(here)()

    assert await soon(user_event(_event(context))) == Reply(Payload("json", b"true"))


async def test_plain_notifications_leave_threads_to_events(
    application: HubHandlers, context: EventContext, webpubsub: Any
) -> None:
    webpubsub(HANDLER_THREADS=2, MAX_WAITING_HANDLER_CALLS=0)
    go_on = threading.Event()
    application.on_connected(lambda context: go_on.wait(PATIENCE))
    application.on_event("e")(lambda request: "answer")
    for _ in range(10):
        dispatch.connected(Session.of(context))
    assert await soon(user_event(_event(context))) == Reply(Payload("text", b"answer"))
    go_on.set()
    await soon(asyncio.gather(*dispatch._notifications))
    assert [record.outcome for record in records.recent(application.hub)] == [records.ANSWERED] * 11


async def test_who_stops_waiting_gives_the_handler_up(application: HubHandlers, context: EventContext) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    @application.on_event("e")
    async def wait(request: UserEventRequest) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    task = asyncio.create_task(user_event(_event(context)))
    await soon(begun.wait())
    task.cancel()
    await soon(cancelled.wait())
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.django_db(transaction=True)
async def test_plain_functions_may_use_the_database(
    application: HubHandlers, context: EventContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Group.objects.acreate(name="friends")
    looked_after: list[str] = []

    @application.on_event("e")
    def read(request: UserEventRequest) -> list[str]:
        connection = connections["default"]
        # A connection that the database has dropped is noticed after the call, for nothing else would notice.
        monkeypatch.setattr(connection, "close_if_unusable_or_obsolete", lambda: looked_after.append("looked"))
        return list(Group.objects.values_list("name", flat=True))

    assert await soon(user_event(_event(context))) == Reply(Payload("json", b'["friends"]'))
    assert looked_after == ["looked"]


# Notifications


async def test_notifications_are_told_beside_the_conversation(application: HubHandlers, context: EventContext) -> None:
    told: asyncio.Queue[Any] = asyncio.Queue()

    @application.on_connected
    async def opened(context: EventContext) -> None:
        await told.put(context)

    loop = asyncio.get_running_loop()

    @application.on_disconnected
    def closed(context: EventContext, reason: str) -> None:
        loop.call_soon_threadsafe(told.put_nowait, (context, reason))

    session = Session.of(context)
    dispatch.connected(session)
    assert told.empty()
    assert await soon(told.get()) == context
    dispatch.disconnected(session, "bye")
    assert await soon(told.get()) == (context, "bye")


@pytest.mark.parametrize("plain", [False, True])
async def test_an_end_follows_the_beginning_and_does_not_wait_for_its_function(
    application: HubHandlers, context: EventContext, plain: bool
) -> None:
    loop = asyncio.get_running_loop()
    heard: list[str] = []
    ended, go_on = asyncio.Event(), threading.Event()

    async def slow(context: EventContext) -> None:
        heard.append("connected")
        await ended.wait()

    def slow_in_a_thread(context: EventContext) -> None:
        heard.append("connected")
        go_on.wait(PATIENCE)

    application.on_connected(slow_in_a_thread if plain else slow)

    @application.on_disconnected
    def closed(context: EventContext, reason: str) -> None:
        heard.append("disconnected")
        loop.call_soon_threadsafe(ended.set)

    session = Session.of(context)
    dispatch.connected(session)
    dispatch.disconnected(session, "")
    await soon(ended.wait())
    assert heard == ["connected", "disconnected"]
    go_on.set()
    await soon(asyncio.gather(*dispatch._notifications))
    assert session.greeting is None


async def test_nobody_has_to_be_told(application: HubHandlers, context: EventContext) -> None:
    for place in (context, EventContext("hub_without_handlers", "c")):
        session = Session.of(place)
        dispatch.connected(session)
        dispatch.disconnected(session, "")
    await soon(asyncio.wait(set(dispatch._notifications)))
    assert records.recent(application.hub) == []
    assert records.recent("hub_without_handlers") == []


async def test_a_notification_that_fails_is_logged(
    application: HubHandlers, context: EventContext, caplog: pytest.LogCaptureFixture
) -> None:
    @application.on_connected
    async def fail(context: EventContext) -> None:
        raise ValueError("inner details")

    dispatch.connected(Session.of(context))
    await soon(asyncio.gather(*dispatch._notifications))
    assert f"The connected handler of hub {context.hub} failed" in caplog.text
    assert "inner details" in caplog.text


@pytest.mark.usefixtures("short")
async def test_a_notification_that_takes_too_long_is_given_up(
    application: HubHandlers, context: EventContext, caplog: pytest.LogCaptureFixture
) -> None:
    @application.on_disconnected
    async def wait(context: EventContext, reason: str) -> None:
        await asyncio.Event().wait()

    session = Session.of(context)
    dispatch.connected(session)
    dispatch.disconnected(session, "")
    await soon(asyncio.gather(*dispatch._notifications))
    assert "The disconnected handler" in caplog.text
    await asyncio.sleep(0)
    assert dispatch._notifications == set()
