"""Events from HTTP requests, and answers as HTTP responses: the receiving side of cloudevents.py.

What that module writes is read here, and what it reads is written here, for functions that are
mounted as a webhook (mount.py). The sender is Hubwire or Azure Web PubSub; both speak to the letter
alike.

Reading is strict where a guess could take one connection for another: a header that says who it is
about comes once, or the request is refused. What a function is not told (the number of an event, its
time) is not read at all. Every answer is read back the way the service will read it before it goes
out. So a state, a group or metadata that the service could not take shows as a fault of the function
in its own log, and not only as a client's error far away.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from hubs import addresses
from hubs.protocols.frames import JSON, TEXT, Payload
from hubs.rules.event_routing import CONNECT, DISCONNECTED, SYSTEM_EVENTS
from hubs.rules.names import canonical_hub
from hubs.upstream import cloudevents
from hubs.upstream.cloudevents import (
    CONTENT_TYPES,
    DATA_TYPES,
    METADATA_PREFIX,
    SYSTEM_TYPE,
    USER_TYPE,
    Answer,
    BadAnswer,
)
from hubs.upstream.events import (
    ClientCertificate,
    ConnectAnswer,
    ConnectRequest,
    Event,
    EventContext,
    Rejected,
    Reply,
    UserEventRequest,
)

# The service has two keys and sends two; no more are looked at.
_MAX_SIGNATURES = 8


class BadEvent(ValueError):
    """The request is not an event for this address; the text says what to change, for whoever operates it."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


# Who sends


def host_of(origin: str) -> str:
    """The host that an origin names, in normal form: senders leave scheme and port out, people write them in.

    ``*`` stays as it is; "" for what is no host.
    """
    text = origin.strip()
    if text == "*":
        return text
    address = addresses.read(text if "://" in text else f"https://{text}")
    return "" if address is None else address.host


def is_signed(values: Iterable[str], keys: Collection[str], connection_id: str) -> bool:
    """Whether `ce-signature` was made with one of `keys`. Takes the same time whichever it was."""
    message = connection_id.encode()
    expected = [hmac.digest(key.encode(), message, "sha256") for key in keys]
    signed = False
    for entry in ",".join(values).split(",")[:_MAX_SIGNATURES]:
        scheme, _, digest = entry.strip().partition("=")
        try:
            given = bytes.fromhex(digest)
        except ValueError:
            continue
        if scheme.lower() == "sha256":
            for known in expected:
                signed |= hmac.compare_digest(given, known)
    return signed


# Requests


class Headers:
    """The headers of a request, as they came: names in lower case, values as bytes."""

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._pairs = list(pairs)

    def all(self, name: str) -> list[str]:
        """Every value of a header. Raises BadEvent for one that is no text."""
        wanted = name.lower().encode()
        return [_text(name, value) for key, value in self._pairs if key == wanted]

    def one(self, name: str) -> str | None:
        """The value of a header that may come once; None when it is not there. Raises BadEvent."""
        values = self.all(name)
        if len(values) > 1:
            raise BadEvent(HTTPStatus.BAD_REQUEST, f"The header {name} came {len(values)} times.")
        return values[0] if values else None

    def needed(self, name: str) -> str:
        """The value of a header that has to be there. Raises BadEvent."""
        value = self.one(name)
        if not value:
            raise BadEvent(HTTPStatus.BAD_REQUEST, f"The header {name} is missing.")
        return value

    def metadata(self) -> Mapping[str, str]:
        """What came as `x-webpubsub-metadata-…`, by key; of a key that came twice, the last value. No key: ignored."""
        prefix = METADATA_PREFIX.encode()
        found: dict[str, str] = {}
        for name, value in self._pairs:
            if name.startswith(prefix) and name != prefix:
                key = _text("metadata", name.removeprefix(prefix))
                found[key] = _text(METADATA_PREFIX + key, value)
        return found


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode().strip(" \t")
    except UnicodeDecodeError:
        raise BadEvent(HTTPStatus.BAD_REQUEST, f"The header {name} is not UTF-8.") from None


@dataclass(frozen=True, slots=True)
class Attributes:
    """What an event's headers say: the connection it is about, its name, and whether a client sent it."""

    context: EventContext
    name: str
    is_user_event: bool


def read_attributes(headers: Headers, hub: str) -> Attributes:
    """Read the attributes of an event of `hub`. Raises BadEvent."""
    version = headers.needed("ce-awpsversion")
    if version != "1.0":
        raise BadEvent(HTTPStatus.BAD_REQUEST, f"Events of version {version[:20]!r} are not known here; 1.0 is.")
    event_type = headers.needed("ce-type")
    is_user_event = event_type.startswith(USER_TYPE)
    name = event_type.removeprefix(USER_TYPE if is_user_event else SYSTEM_TYPE)
    if not name or not (is_user_event or event_type in (SYSTEM_TYPE + known for known in SYSTEM_EVENTS)):
        raise BadEvent(HTTPStatus.BAD_REQUEST, f"Events of the type {event_type[:200]!r} are not handled here.")
    meant = headers.needed("ce-hub")
    if canonical_hub(meant) != hub:
        raise BadEvent(HTTPStatus.BAD_REQUEST, f"This address handles the hub {hub}, not {meant[:128]!r}.")
    context = EventContext(
        hub=hub,
        connection_id=headers.needed("ce-connectionId"),
        user_id=headers.one("ce-userId") or None,
        subprotocol=headers.one("ce-subprotocol") or None,
        # One that was set to the empty text comes as such.
        state=headers.one("ce-connectionState"),
    )
    return Attributes(context, name, is_user_event)


def read_event(attributes: Attributes, headers: Headers, body: bytes) -> Event:
    """Read the whole event. Raises BadEvent."""
    context, name = attributes.context, attributes.name
    request: ConnectRequest | UserEventRequest | None = None
    reason = ""
    if attributes.is_user_event:
        request = UserEventRequest(context, name, _payload(headers, body), headers.metadata())
    elif name == CONNECT:
        said = _read(_read_connect, body) or _ConnectBody()
        request = ConnectRequest(
            context,
            claims=said.claims or {},
            query=said.query or {},
            headers=said.headers or {},
            subprotocols=said.subprotocols or (),
            client_certificates=said.clientCertificates or (),
        )
    elif name == DISCONNECTED:
        reason = (_read(_read_disconnected, body) or _DisconnectedBody()).reason or ""
    return Event(context, name, 0, 0.0, request, reason)


class _ConnectBody(msgspec.Struct):
    """What the request of connect says; other members are for other kinds of clients."""

    claims: dict[str, list[str]] | None = None
    query: dict[str, list[str]] | None = None
    headers: dict[str, list[str]] | None = None
    subprotocols: list[str] | None = None
    clientCertificates: list[ClientCertificate] | None = None  # noqa: N815 (the wire's name)


class _DisconnectedBody(msgspec.Struct):
    """What the request of disconnected says."""

    reason: str | None = None


_read_connect = msgspec.json.Decoder(_ConnectBody | None).decode
_read_disconnected = msgspec.json.Decoder(_DisconnectedBody | None).decode
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


def _read(read: Any, body: bytes) -> Any:
    if not body.strip():
        return None
    try:
        return read(body)
    # msgspec's texts name the place and the types, never a value. RecursionError: nested too deep.
    except (ValueError, RecursionError) as problem:
        raise BadEvent(HTTPStatus.BAD_REQUEST, f"The body cannot be read: {problem}") from None


def _payload(headers: Headers, body: bytes) -> Payload:
    content_type = headers.needed("Content-Type").partition(";")[0].strip().lower()
    data_type = DATA_TYPES.get(content_type)
    if data_type is None:
        known = ", ".join(sorted(DATA_TYPES))
        raise BadEvent(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"The content type is {content_type[:100]!r}; it can be one of {known}."
        )
    if data_type in (TEXT, JSON):
        try:
            body.decode()
        except UnicodeDecodeError:
            raise BadEvent(HTTPStatus.BAD_REQUEST, f"The body is {content_type} and not UTF-8.") from None
    if data_type == JSON and _read(_check_json, body) is None:
        raise BadEvent(HTTPStatus.BAD_REQUEST, "The body is application/json and empty.")
    return Payload(data_type, body)


# Answers


def connect_answer(answer: ConnectAnswer, offered: Sequence[str]) -> Answer:
    """Say what becomes of a connection. Raises BadAnswer for what the service could not do."""
    said: dict[str, object] = {}
    if answer.user_id is not None:
        said["userId"] = answer.user_id
    if answer.groups:
        said["groups"] = list(answer.groups)
    if answer.roles is not None:
        said["roles"] = list(answer.roles)
    if answer.subprotocol:
        said["subprotocol"] = answer.subprotocol
    if said:
        written = _answer(HTTPStatus.OK, CONTENT_TYPES[JSON], _json(said), answer.state)
    else:
        written = _answer(HTTPStatus.NO_CONTENT, "", b"", answer.state)
    cloudevents.read_connect(written, offered)
    return written


def rejection(rejected: Rejected) -> Answer:
    """Say that a client is turned away, with the function's own words if it gave any."""
    return Answer(
        rejected.status,
        [(b"Content-Type", CONTENT_TYPES[TEXT].encode())],
        str(rejected.reason).encode("utf-8", "replace"),
    )


def reply_answer(reply: Reply) -> Answer:
    """Say what a client gets back. Raises BadAnswer for what the service could not pass on.

    An empty payload cannot be told from none in HTTP: the client gets its ack alone.
    """
    payload = reply.payload
    said = reply.metadata or {}
    if not all(isinstance(text, str) for pair in said.items() for text in pair):
        raise BadAnswer("the metadata are not texts")
    metadata = {key.lower(): value for key, value in said.items()}
    if payload is not None and payload.data:
        written = _answer(HTTPStatus.OK, CONTENT_TYPES[payload.data_type], payload.data, reply.state, metadata)
    else:
        written = _answer(HTTPStatus.NO_CONTENT, "", b"", reply.state, metadata)
    if (cloudevents.read_reply(written).metadata or {}) != metadata:
        raise BadAnswer("metadata with an empty key, a comma in a value or spaces at its ends get lost in HTTP headers")
    return written


def _answer(
    status: HTTPStatus, content_type: str, body: bytes, state: str | None, metadata: Mapping[str, str] | None = None
) -> Answer:
    headers: list[tuple[bytes, bytes]] = []
    if content_type:
        headers.append((b"Content-Type", content_type.encode()))
    if state is not None:
        if not isinstance(state, str):
            raise BadAnswer(f"the connection's state is a text, not {type(state).__name__}")
        headers.append((b"ce-connectionState", _utf8(state)))
    headers += ((_utf8(METADATA_PREFIX + key), _utf8(value)) for key, value in (metadata or {}).items())
    return Answer(status.value, headers, body)


def _json(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        raise BadAnswer(_HALF_A_PAIR) from None


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadAnswer(_HALF_A_PAIR) from None


_HALF_A_PAIR = "something in the answer is half a surrogate pair, which UTF-8 cannot say"
