"""Event handlers written in Python, in the Django project itself.

    from hubs.upstream import ConnectAnswer, hub

    chat = hub("chat")

    @chat.on_event("message")
    def shout(request):
        return request.data.upper()

Put them where Django imports them at start, such as an app's `AppConfig.ready`. Functions may be
`async`; plain ones run in a thread, so they may use the ORM.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hubs.rules.event_routing import CONNECT, CONNECTED, DISCONNECTED, HandlerFunction
from hubs.rules.names import canonical_hub, is_hub_name
from hubs.rules.roles import Pattern, compile_pattern

Function = TypeVar("Function", bound=Callable[..., Any])


def label_of(function: Callable[..., Any]) -> str:
    """What a function is called in logs, in records and before staff: its module and its name there."""
    function = inspect.unwrap(getattr(function, "func", function))
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"


@dataclass
class HubHandlers:
    """The functions of one hub."""

    hub: str
    system: dict[str, Callable[..., Any]] = field(default_factory=dict)
    user: list[tuple[Pattern, Callable[..., Any]]] = field(default_factory=list)

    def on_connect(self, function: Function) -> Function:
        """Decide about new connections: `function(ConnectRequest) -> ConnectAnswer | None`, or raise Rejected."""
        return self._system(CONNECT, function)

    def on_connected(self, function: Function) -> Function:
        """Be told of new connections: `function(EventContext)`; the client does not wait for it."""
        return self._system(CONNECTED, function)

    def on_disconnected(self, function: Function) -> Function:
        """Be told of connections that ended: `function(EventContext, reason)`."""
        return self._system(DISCONNECTED, function)

    def on_event(self, *names: str) -> Callable[[Function], Function]:
        """Answer user events whose name matches: `function(UserEventRequest)` gives a Reply or what `Reply.of` reads.

        Names are patterns as in roles and compare without regard to case; the first match wins. A
        lone "*" takes every event, as in Azure's settings, names with dots included.
        """
        patterns = [compile_pattern("**" if name == "*" else name.lower()) for name in names]
        if not names or None in patterns:
            raise ValueError(f'{names!r} are not event names; write on_event("message") or on_event("*")')

        def register(function: Function) -> Function:
            self.user.extend((pattern, function) for pattern in patterns if pattern is not None)
            return function

        return register

    def _system(self, event: str, function: Function) -> Function:
        if event in self.system:
            raise ValueError(f"hub {self.hub} has a handler for {event} already: {self.system[event].__qualname__}")
        self.system[event] = function
        return function

    def for_event(self, name: str) -> Callable[..., Any] | None:
        """The function that takes the user event `name`."""
        name = name.lower()
        return next((function for pattern, function in self.user if pattern.matches(name)), None)

    def in_code(self) -> list[HandlerFunction]:
        """The functions and what each takes: those of system events first, then in the order of user events."""
        takes: dict[str, tuple[list[str], list[str]]] = {}
        for event in (CONNECT, CONNECTED, DISCONNECTED):
            if event in self.system:
                takes.setdefault(label_of(self.system[event]), ([], []))[0].append(event)
        for pattern, function in self.user:
            text = "*" if pattern.text == "**" else pattern.text
            takes.setdefault(label_of(function), ([], []))[1].append(text)
        return [
            HandlerFunction(function, tuple(events), ", ".join(names)) for function, (events, names) in takes.items()
        ]


_HUBS: dict[str, HubHandlers] = {}


def hub(name: str) -> HubHandlers:
    """The handlers of one hub, to add to."""
    if not is_hub_name(name):
        raise ValueError(f"{name!r} is not a hub name: start with a letter, then use letters, digits or _ ` , . [ ]")
    return _HUBS.setdefault(canonical_hub(name), HubHandlers(canonical_hub(name)))


def handlers_of(name: str) -> HubHandlers | None:
    """The handlers of a hub, or None when nobody wrote any."""
    return _HUBS.get(name)


def in_code(name: str) -> list[HandlerFunction]:
    """The event handler functions of a hub that this process has loaded."""
    own = handlers_of(name)
    return [] if own is None else own.in_code()


def hubs_in_code() -> list[str]:
    """The hubs that have such functions, by name."""
    return sorted(name for name, own in _HUBS.items() if own.system or own.user)
