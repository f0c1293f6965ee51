"""Writing event handlers: decorators, names, patterns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hubs.rules.event_routing import HandlerFunction
from hubs.upstream import handlers, hub
from hubs.upstream.handlers import HubHandlers, handlers_of


def _function(*arguments: Any) -> None:
    """Any handler."""


def test_a_hub_is_the_same_in_any_case(application: HubHandlers) -> None:
    assert hub(application.hub.upper()) is application
    assert handlers_of(application.hub) is application
    assert handlers_of("hub_without_handlers") is None


@pytest.mark.parametrize("name", ["", "1", "a b", "é", "a" * 129])
def test_what_is_no_hub_name(name: str) -> None:
    before = dict(handlers._HUBS)
    with pytest.raises(ValueError, match="not a hub name: start with a letter"):
        hub(name)
    assert before == handlers._HUBS


def test_decorators_give_the_function_back(application: HubHandlers) -> None:
    for decorator in (
        application.on_connect,
        application.on_connected,
        application.on_disconnected,
        application.on_event("a", "b"),
    ):
        assert decorator(_function) is _function


@pytest.mark.parametrize("name", ["on_connect", "on_connected", "on_disconnected"])
def test_one_function_per_system_event(application: HubHandlers, name: str) -> None:
    decorator: Callable[..., Any] = getattr(application, name)
    decorator(_function)
    with pytest.raises(ValueError, match="already: _function"):
        decorator(print)


@pytest.mark.parametrize(
    ("names", "taken", "left"),
    [
        (["message"], ["message", "Message", "MESSAGE"], ["messages", "amessage", ""]),
        (["Chat.Login"], ["chat.login", "CHAT.LOGIN"], ["chat_login", "chat"]),
        (["a", "b"], ["a", "B"], ["c", "ab"]),
        (["*"], ["a", "chat.login", "a.b.c"], []),
        (["**"], ["a", "chat.login"], []),
        (["chat.*"], ["chat.login", "chat."], ["chat", "chat.room.join"]),
        (["chat.**"], ["chat.login", "chat.room.join"], ["chat"]),
        (["room.?"], ["room.a"], ["room..", "room.ab"]),
        ([r"a\*"], ["a*"], ["ab"]),
    ],
)
def test_which_events_a_function_takes(
    application: HubHandlers, names: list[str], taken: list[str], left: list[str]
) -> None:
    application.on_event(*names)(_function)
    assert [name for name in taken if application.for_event(name) is not _function] == []
    assert [name for name in left if application.for_event(name) is not None] == []


def test_the_first_match_wins(application: HubHandlers) -> None:
    application.on_event("a*")(len)
    application.on_event("ab")(print)
    application.on_event("*")(sum)
    assert [application.for_event(name) for name in ("ab", "b")] == [len, sum]


@pytest.mark.parametrize("names", [[], [""], ["ok", "a\\"], ["******"], [r"\x"]])
def test_what_is_no_event_name(application: HubHandlers, names: list[str]) -> None:
    with pytest.raises(ValueError, match="not event names; write"):
        application.on_event(*names)
    assert application.for_event("ok") is None


def _another(*arguments: Any) -> None:
    """Another handler."""


def test_staff_sees_each_function_with_its_events(application: HubHandlers) -> None:
    assert application.hub not in handlers.hubs_in_code()
    application.on_event("room.*", "Say")(_another)
    application.on_disconnected(_function)
    application.on_connect(_function)
    application.on_event("*")(_function)
    home = __name__
    assert handlers.in_code(application.hub) == [
        HandlerFunction(f"{home}._function", ("connect", "disconnected"), "*"),
        HandlerFunction(f"{home}._another", (), "room.*, say"),
    ]
    assert [str(function) for function in handlers.in_code(application.hub)] == [
        f"{home}._function; connect, disconnected, user events *",
        f"{home}._another; user events room.*, say",
    ]
    assert application.hub in handlers.hubs_in_code()
    assert handlers.in_code("hub_without_handlers") == []
