"""Event handlers of hubs that only one test has: functions, and webhooks on real servers of loopback."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from hubs import hub_settings
from hubs.hub_settings import EventHandlerSettings, EventListenerSettings, HubSettings, Snapshot
from hubs.upstream import EventContext, dispatch, handlers, hub, records, webhooks
from hubs.upstream.handlers import HubHandlers
from hubs.upstream.session import Session
from hubs.upstream.webhooks import Webhooks
from tests.upstream.server import WebhookServer

KEYS = ("first key", "second key")


class Rows:
    """What the database would have: handlers and listeners by hub."""

    def __init__(self) -> None:
        self.snapshot = Snapshot(1, {}, KEYS)
        self.problem: Exception | None = None

    def set(
        self, hub: str, *event_handlers: EventHandlerSettings, listeners: tuple[EventListenerSettings, ...] = ()
    ) -> None:
        settings = HubSettings(hub, known=True, event_handlers=event_handlers, event_listeners=listeners)
        self.snapshot = Snapshot(self.snapshot.version + 1, {**self.snapshot.hubs, hub: settings}, KEYS)

    async def acurrent(self) -> Snapshot:
        if self.problem is not None:
            raise self.problem
        return self.snapshot


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """The settings of all hubs; no test here needs the database for them."""
    own = Rows()
    monkeypatch.setattr(hub_settings, "acurrent", own.acurrent)
    dispatch._log._held.clear()
    records.forget()
    return own


@pytest.fixture
def application() -> Iterator[HubHandlers]:
    """The event handlers of a hub that only this test has."""
    own = hub(f"hub_{secrets.token_hex(6)}")
    yield own
    del handlers._HUBS[own.hub]


@pytest.fixture
def context(application: HubHandlers) -> EventContext:
    """A connection to that hub."""
    return EventContext(application.hub, "0" * 32, "u", "json.webpubsub.azure.v1")


@pytest.fixture
def webpubsub(settings: Any) -> Any:
    """Change the service's settings for a test."""

    def change(**changes: Any) -> None:
        settings.WEBPUBSUB = settings.WEBPUBSUB | changes

    return change


class Time:
    """A clock that goes when it is told to, and a sleep that takes no time but is remembered."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, secs: float) -> None:
        self.slept.append(secs)
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
async def client(webpubsub: Any, clock: Time) -> AsyncIterator[Webhooks]:
    """The loop's HTTP client, with the test's own time."""
    webpubsub(HANDLER_PRIVATE_ADDRESSES=True, PUBLIC_ENDPOINTS=["https://pubsub.example.com:8443/prefix"])
    own = webhooks._clients[asyncio.get_running_loop()] = Webhooks(clock=clock.clock, sleep=clock.sleep)
    yield own
    await dispatch.stop()


@pytest.fixture
async def server() -> AsyncIterator[WebhookServer]:
    """An application's web server, which allows events and takes all of them."""
    own = await WebhookServer().start()
    yield own
    await own.stop()


@pytest.fixture
def chat(rows: Rows, client: Webhooks, server: WebhookServer) -> EventHandlerSettings:
    """A row that sends every event of the hub `chat` to that server."""
    row = EventHandlerSettings(
        1, server.url + "/{hub}/{event}", "*", frozenset(["connect", "connected", "disconnected"])
    )
    rows.set("chat", row)
    return row


@pytest.fixture
def session() -> Session:
    """A connection to the hub `chat` that was let in."""
    return Session("chat", "c0ffee", "ann", "json.webpubsub.azure.v1")
