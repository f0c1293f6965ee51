"""What the upstream side knows of one connection.

A connection holds one session from its handshake to its end, and takes it along when it moves to
another process. Who somebody is stands in it once `connect` has been answered; the state and the
cookies are the event handlers' own and change with their answers. Its events say that they come from
the host by which the client came, whichever process sends them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from hubs.upstream.cookies import Cookies
from hubs.upstream.events import ConnectRequest, Event, EventContext, UserEventRequest


class Session:
    """One logical connection, as event handlers see it."""

    __slots__ = (
        "_next_number",
        "_opened",
        "connection_id",
        "cookies",
        "ended",
        "greeting",
        "hub",
        "origin",
        "state",
        "subprotocol",
        "user_id",
    )

    def __init__(
        self,
        hub: str,
        connection_id: str,
        user_id: str | None = None,
        subprotocol: str | None = None,
        state: str | None = None,
        origin: str | None = None,
    ) -> None:
        self.hub = hub
        self.connection_id = connection_id
        self.user_id = user_id
        self.subprotocol = subprotocol
        self.state = state
        # The host in WebHook-Request-Origin; None: that of the first public endpoint.
        self.origin = origin
        self.cookies = Cookies()
        self._next_number = 0
        self._opened = False
        self.ended = False
        # While `connected` is being sent: set as soon as its handler has been told. `disconnected` goes after it.
        self.greeting: asyncio.Event | None = None

    @classmethod
    def of(cls, context: EventContext) -> Session:
        """A session that begins with what `context` says."""
        return cls(context.hub, context.connection_id, context.user_id, context.subprotocol, context.state)

    @property
    def context(self) -> EventContext:
        """The connection as it is now."""
        return EventContext(self.hub, self.connection_id, self.user_id, self.subprotocol, self.state)

    def admitted(self, user_id: str | None, subprotocol: str | None) -> None:
        """Note what the handshake came to; these stay for good."""
        self.user_id = user_id
        self.subprotocol = subprotocol

    def event(self, name: str, request: ConnectRequest | UserEventRequest | None = None, reason: str = "") -> Event:
        """Give the connection's next event: numbered, dated, and with its present state."""
        number = self._next_number
        # `connect` is 0, and so the first event after it is 1 also where nobody asked for `connect`.
        self._next_number = number + 1
        return Event(self.context, name, number, time.time(), request, reason)

    def open(self) -> bool:
        """Note that the connection is open; tells whether that is news."""
        news = not self._opened
        self._opened = True
        return news

    def greeted(self, _: object) -> None:
        """Note that `connected` was answered, or given up."""
        if self.greeting is not None:
            self.greeting.set()
            self.greeting = None

    def end(self) -> bool:
        """Note that the connection has ended; tells whether that is news. What was never open cannot end."""
        news = self._opened and not self.ended
        self.ended = True
        return news

    def packed(self) -> dict[str, Any]:
        """Everything that has to go along to another process, as plain values."""
        return {
            "hub": self.hub,
            "connection_id": self.connection_id,
            "user_id": self.user_id,
            "subprotocol": self.subprotocol,
            "state": self.state,
            "origin": self.origin,
            "cookies": self.cookies.packed(),
            "next_number": self._next_number,
            "opened": self._opened,
            "ended": self.ended,
        }

    def update(self, packed: Mapping[str, Any]) -> None:
        """Take what another process has packed: the handlers' state and cookies, and how many events there were."""
        self.state = packed["state"]
        self.cookies = Cookies(packed["cookies"])
        self._next_number = max(self._next_number, packed["next_number"])

    @property
    def next_number(self) -> int:
        """The number of the next event."""
        return self._next_number

    def skip(self, number: int) -> None:
        """Another process has given an event this number."""
        self._next_number = max(self._next_number, number + 1)

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> Session:
        """The session that `packed` was made of."""
        session = cls(packed["hub"], packed["connection_id"], packed["user_id"], packed["subprotocol"], packed["state"])
        # Not known to versions up to 22 November 2026.
        session.origin = packed.get("origin")
        session.cookies = Cookies(packed["cookies"])
        session._next_number = packed["next_number"]
        session._opened = packed["opened"]
        session.ended = packed["ended"]
        return session
