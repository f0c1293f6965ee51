"""What event handlers are told, and what they may answer.

The names are those of the CloudEvents that Azure Web PubSub sends to webhooks, so that a handler
written here reads like one written there.

An application's functions get an EventContext, a ConnectRequest or a UserEventRequest. Inside, one
of these travels in an `Event`, which also has the event's number and time; that is what webhooks
and listeners are made from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from hubs.protocols.frames import BINARY, JSON, TEXT, Payload


@dataclass(frozen=True, slots=True)
class EventContext:
    """Which connection an event is about. `state` is what the handler stored on it earlier."""

    hub: str
    connection_id: str
    user_id: str | None = None
    subprotocol: str | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate that a client showed: SHA-1 of it in hex digits, and the whole in PEM."""

    thumbprint: str
    content: str


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """Somebody wants to connect. All maps hold lists of texts; tokens are left out of them.

    `client_certificates`: none from this service, where TLS ends at the proxy in front; Azure has them.
    """

    context: EventContext
    claims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    query: Mapping[str, Sequence[str]] = field(default_factory=dict)
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    subprotocols: Sequence[str] = ()
    client_certificates: Sequence[ClientCertificate] = ()


@dataclass(frozen=True, slots=True)
class ConnectAnswer:
    """What becomes of the connection.

    `user_id`: None keeps the token's, "" makes it anonymous. `groups`: a non-empty list replaces
    the token's. `roles`: a list replaces them, [] removes all. `subprotocol`: one of those offered.
    `state`: kept with the connection and given to later events.
    """

    user_id: str | None = None
    groups: Sequence[str] = ()
    roles: Sequence[str] | None = None
    subprotocol: str | None = None
    state: str | None = None

    def __post_init__(self) -> None:
        # Checked here, where the traceback shows the handler's own line.
        for name in ("user_id", "subprotocol", "state"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"ConnectAnswer({name}=…) takes a text or None, not {type(value).__name__}")
        for name in ("groups", "roles"):
            value = getattr(self, name)
            # A text is a sequence too: "room" would mean the groups r, o, o and m.
            if value is not None and (isinstance(value, str) or not all(isinstance(item, str) for item in value)):
                raise TypeError(f"ConnectAnswer({name}=…) takes a list of texts")


class Rejected(Exception):
    """Raised by a connect handler to refuse a connection with an HTTP status from 400 to 599.

    A status without a name in HTTP is answered as the first of its hundred, which is what clients
    have to take it for.
    """

    def __init__(self, status: int = 401, reason: str = "") -> None:
        super().__init__(reason)
        self.status = _known_status(status) if 400 <= status < 600 else 500
        self.reason = reason


def _known_status(status: int) -> int:
    try:
        return HTTPStatus(status).value
    except ValueError:
        return status // 100 * 100


@dataclass(frozen=True, slots=True)
class UserEventRequest:
    """A client sent an event. `data` is text, bytes, or the value that its JSON stands for."""

    context: EventContext
    event: str
    payload: Payload
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Any:
        """The payload as Python has it: str for text, bytes for binary and protobuf, else the JSON value."""
        if self.payload.data_type == TEXT:
            return self.payload.data.decode()
        if self.payload.data_type == JSON:
            return json.loads(self.payload.data)
        return self.payload.data


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a connection: one system event, or a user event (then `request` is its request).

    `number` counts the events of the connection; it and `at` (seconds since the epoch) stay the same
    however often and to how many the event is sent.
    """

    context: EventContext
    name: str
    number: int
    at: float
    request: ConnectRequest | UserEventRequest | None = None
    reason: str = ""

    @property
    def is_user_event(self) -> bool:
        """Whether a client sent it; a client's event may be called `connect` too."""
        return isinstance(self.request, UserEventRequest)

    @property
    def payload(self) -> Payload | None:
        """What the client sent."""
        return self.request.payload if isinstance(self.request, UserEventRequest) else None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the client gets back before its ack.

    `payload` None: nothing, or an empty text where there is `metadata`. `state`: replaces the stored one.
    """

    payload: Payload | None = None
    metadata: Mapping[str, str] | None = None
    state: str | None = None

    def __post_init__(self) -> None:
        if self.payload is not None and not isinstance(self.payload, Payload):
            raise TypeError("Reply(payload=…) takes a Payload; Reply.of(value) makes one")

    @classmethod
    def of(cls, value: Any) -> Reply:
        """Read what a handler returned: None, str, bytes, a Reply, or anything JSON can say."""
        if isinstance(value, cls):
            return value
        if value is None:
            return cls()
        if isinstance(value, str):
            return cls(Payload(TEXT, value.encode()))
        if isinstance(value, bytes | bytearray | memoryview):
            return cls(Payload(BINARY, bytes(value)))
        # NaN and Infinity are Python's own; no client could read the frame.
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return cls(Payload(JSON, text.encode()))
