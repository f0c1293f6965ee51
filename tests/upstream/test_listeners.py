"""Which listeners get a copy of an event, and what that means for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

from hubs import resources
from hubs.errors import HandlerFailed
from hubs.hub_settings import EventHandlerSettings, EventListenerSettings
from hubs.models import EventListener
from hubs.protocols.frames import TEXT, Payload
from hubs.rules import event_routing
from hubs.upstream import ConnectRequest, Reply, UserEventRequest, dispatch, listeners
from hubs.upstream.events import Event
from hubs.upstream.session import Session
from tests.running import PATIENCE
from tests.upstream.conftest import Rows

ROW = EventListenerSettings(1, "kept", "x", "message, room.*", frozenset(["connect", "connected", "disconnected"]))


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed: list[float] = []
        self.problem: Exception | None = None

    def put(self, listener: EventListenerSettings, event: Event) -> None:
        if self.problem is not None:
            raise self.problem
        self.events.append(event)

    async def close(self, patience: float) -> None:
        self.closed.append(patience)


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    own = Kept()
    monkeypatch.setitem(listeners.SINKS, "kept", own)
    return own


async def send(session: Session, name: str) -> Reply:
    request = UserEventRequest(session.context, name, Payload(TEXT, b"x"))
    return await asyncio.wait_for(dispatch.user_event(session, request), PATIENCE)


async def test_copies_of_events(rows: Rows, sink: Kept) -> None:
    rows.set("chat", listeners=(ROW,))
    session = Session("chat", "c")
    await dispatch.connect(session, ConnectRequest(session.context))
    dispatch.connected(session)
    await asyncio.wait(set(dispatch._notifications))
    # Where only a listener takes it, that is a success; without even that it is a failure.
    assert await send(session, "room.x") == Reply()
    with pytest.raises(Exception, match="Internal server error"):
        await send(session, "other")
    dispatch.disconnected(session, "bye")
    await asyncio.wait(set(dispatch._notifications))
    assert [(event.name, event.number, event.reason) for event in sink.events] == [
        ("connected", 1, ""),
        ("room.x", 2, ""),
        ("disconnected", 4, "bye"),
    ]
    await dispatch.stop(3)
    assert sink.closed == [3]


async def test_a_listener_is_told_before_the_handler_and_whatever_that_says(rows: Rows, sink: Kept) -> None:
    rows.set("chat", EventHandlerSettings(1, "http://h/", "*", problem="broken"), listeners=(ROW, ROW))
    with pytest.raises(HandlerFailed):
        await send(Session("chat", "c"), "message")
    assert [event.name for event in sink.events] == ["message"] * 2


@pytest.mark.parametrize("kind", ["kept", "unheard-of"])
async def test_a_listeners_trouble_is_not_the_clients(
    rows: Rows, sink: Kept, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    sink.problem = RuntimeError("full")
    rows.set("chat", listeners=(EventListenerSettings(1, kind, "x", "*"),))
    assert await send(Session("chat", "c"), "e") == Reply()
    assert "The event e of hub chat did not reach a listener" in caplog.text


@pytest.mark.parametrize(
    ("pattern", "system", "event", "taken"),
    [
        ("*", (), "connected", False),
        ("", ("connected",), "connected", True),
        ("", ("connected",), "disconnected", False),
        ("", ("connect",), "connect", False),
    ],
)
def test_system_events(pattern: str, system: tuple[str, ...], event: str, taken: bool) -> None:
    row: Any = EventListenerSettings(1, "kept", "x", pattern, frozenset(system))
    assert listeners.takes(row, Session("chat", "c").event(event)) is taken


def test_each_kind_has_a_row_in_every_table() -> None:
    """So that another kind is not served as one of these somewhere."""
    kinds = set(EventListener.Kind.values)
    assert kinds == set(event_routing.LISTENER_KINDS) == set(listeners.SINKS) == set(resources.LISTENER_ENDPOINTS)
    for shape in (resources.EventListener, resources.NewEventListener):
        assert set(get_args(get_type_hints(shape)["endpoint"])) == set(resources.LISTENER_ENDPOINTS.values())
    for kind, row in event_routing.LISTENER_KINDS.items():
        assert resources.LISTENER_ENDPOINTS[kind].__struct_config__.tag == row.name
