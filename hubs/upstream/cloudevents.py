"""Events as HTTP requests, and answers as what they mean: CloudEvents in binary mode.

The attributes of an event travel as `ce-…` headers, its data is the body. The middlewares of the
official SDKs read them on the other side, so names and values are theirs to the letter.

Headers are where text from clients and tokens meets HTTP. A user id, a metadata value or a state
with a control character in it cannot be sent; taking the character out would make it another user's
id. So such an event is not sent at all (`Unsendable`), and the error names the header. Text outside
ASCII goes as UTF-8.

Reading is strict for the same reason: an answer either means something, or it is a `BadAnswer` whose
text says what to change in the handler. Nothing here knows time, sockets or Django.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from hubs.protocols.frames import BINARY, JSON, PROTOBUF, TEXT, Payload
from hubs.protocols.metadata import is_metadata
from hubs.rules.event_routing import CONNECT, DISCONNECTED
from hubs.rules.names import is_group_name
from hubs.upstream.events import ConnectAnswer, ConnectRequest, Event, Rejected, Reply, UserEventRequest

SYSTEM_TYPE = "azure.webpubsub.sys."
USER_TYPE = "azure.webpubsub.user."
METADATA_PREFIX = "x-webpubsub-metadata-"

CONTENT_TYPES = {
    TEXT: "text/plain; charset=utf-8",
    JSON: "application/json",
    BINARY: "application/octet-stream",
    PROTOBUF: "application/x-protobuf",
}
DATA_TYPES = {content_type.partition(";")[0]: data_type for data_type, content_type in CONTENT_TYPES.items()}

# It comes back as one header line of every later request; servers refuse headers of much more in all.
MAX_STATE_BYTES = 16 * 1024

_MAX_REFUSAL_BYTES = 1024

# What no header can carry: control characters but the tab, and halves of surrogate pairs.
_UNSENDABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


class Unsendable(ValueError):
    """The event cannot be said in HTTP; the text names what cannot, and quotes nothing."""


class BadAnswer(ValueError):
    """The handler answered something that means nothing; the text says what."""


# Requests


def type_of(event: Event) -> str:
    """The event's `type` attribute."""
    return (USER_TYPE if event.is_user_event else SYSTEM_TYPE) + event.name


def source_of(event: Event) -> str:
    """The event's `source` attribute: its connection."""
    return f"/hubs/{event.context.hub}/client/{event.context.connection_id}"


def time_of(event: Event) -> str:
    """The event's `time` attribute."""
    return datetime.fromtimestamp(event.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def content_of(event: Event) -> tuple[str, bytes]:
    """The event's content type and data. Raises Unsendable."""
    request = event.request
    if isinstance(request, UserEventRequest):
        return CONTENT_TYPES[request.payload.data_type], request.payload.data
    if isinstance(request, ConnectRequest):
        body: dict[str, object] = {
            "claims": request.claims,
            "query": request.query,
            "headers": request.headers,
            "subprotocols": request.subprotocols,
            "clientCertificates": request.client_certificates,
        }
    else:
        body = {"reason": event.reason} if event.name == DISCONNECTED else {}
    try:
        return CONTENT_TYPES[JSON], msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise Unsendable("something in the event is half a surrogate pair, which UTF-8 cannot say") from None


def request_headers(
    event: Event,
    content_type: str,
    *,
    origin: str,
    keys: Sequence[str],
    request_id: str,
    authorization: str | None = None,
    cookie: str | None = None,
) -> dict[str, str]:
    """The headers of the POST that carries an event. Raises Unsendable.

    `origin` is the service's host without port; `keys` sign, the receiver knows one of them.
    """
    context = event.context
    headers = {
        "Content-Type": content_type,
        "WebHook-Request-Origin": origin,
        "ce-specversion": "1.0",
        "ce-awpsversion": "1.0",
        "ce-type": type_of(event),
        "ce-source": source_of(event),
        "ce-id": str(event.number),
        "ce-time": time_of(event),
        "ce-connectionId": context.connection_id,
        "ce-hub": context.hub,
        "ce-eventName": event.name,
        "x-ms-client-request-id": request_id,
    }
    if keys:
        headers["ce-signature"] = signature(keys, context.connection_id)
    if context.user_id:
        headers["ce-userId"] = context.user_id
    # At connect nothing is negotiated yet. A client's own event may be called connect; its type is another.
    if context.subprotocol and (event.is_user_event or event.name != CONNECT):
        headers["ce-subprotocol"] = context.subprotocol
    # A state that was set to the empty text is sent as such.
    if context.state is not None:
        headers["ce-connectionState"] = context.state
    if authorization:
        headers["Authorization"] = authorization
    if cookie:
        headers["Cookie"] = cookie
    if isinstance(event.request, UserEventRequest):
        for key, value in event.request.metadata.items():
            headers[METADATA_PREFIX + key.lower()] = value
    for name, value in headers.items():
        if _UNSENDABLE.search(value):
            raise Unsendable(f"the value of {name} has a character that no HTTP header can carry")
    return headers


def signature(keys: Iterable[str], connection_id: str) -> str:
    """What proves that the request comes from who holds one of `keys`."""
    message = connection_id.encode()
    return ",".join(f"sha256={hmac.digest(key.encode(), message, 'sha256').hex()}" for key in keys)


def validation_headers(origin: str) -> dict[str, str]:
    """The headers of the request that asks whether events may be sent to a URL."""
    return {"WebHook-Request-Origin": origin, "ce-awpsversion": "1.0"}


def allows(values: Iterable[str], hosts: Collection[str]) -> bool:
    """Whether a `WebHook-Allowed-Origin` header names one of `hosts` (lower case), or everybody.

    Each value is one name; several in one value, between commas, are none.
    """
    return any(value == "*" or value.lower() in hosts for value in values)


# Answers


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response that arrived whole. Header names and values are as on the wire."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    @property
    def accepted(self) -> bool:
        """Whether the status says success."""
        return 200 <= self.status < 300

    def values(self, name: str) -> list[str]:
        """The values of every header called `name`. Raises BadAnswer for one that is no text."""
        wanted = name.lower().encode()
        return [_text(name, value) for key, value in self.headers if key.lower() == wanted]


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode().strip(" \t")
    except UnicodeDecodeError:
        raise BadAnswer(f"the header {name} is not UTF-8") from None


def read_connect(answer: Answer, offered: Sequence[str]) -> ConnectAnswer:
    """Read the answer to connect. Raises Rejected when it says no, BadAnswer when it says nothing sensible."""
    if not answer.accepted:
        raise Rejected(answer.status, _refusal(answer))
    state = _state(answer)
    try:
        members = _members.decode(answer.body) if answer.body.strip() else None
        body = None if members is None else msgspec.convert(_by_known_name(members), _ConnectBody)
    except (ValueError, RecursionError) as problem:
        # msgspec's texts name the place and the types, never a value.
        raise BadAnswer(f"the answer to connect cannot be read: {problem}") from None
    if body is None:
        return ConnectAnswer(state=state)
    if body.user_id is not None and _UNSENDABLE.search(body.user_id):
        raise BadAnswer("the userId has a character that no HTTP header can carry")
    if not all(is_group_name(group) for group in body.groups or ()):
        raise BadAnswer("one of the groups has a name that no group can have: 1 to 1024 characters, not only spaces")
    if body.subprotocol and body.subprotocol.lower() not in (name.lower() for name in offered):
        raise BadAnswer("the subprotocol is not one that the client offered")
    return ConnectAnswer(
        user_id=body.user_id,
        groups=body.groups or (),
        roles=body.roles,
        subprotocol=body.subprotocol,
        state=state,
    )


class _ConnectBody(msgspec.Struct, rename={"user_id": "userId"}):
    """What an answer to connect may say; other members are for others."""

    user_id: str | None = None
    groups: list[str] | None = None
    roles: list[str] | None = None
    subprotocol: str | None = None


_KNOWN_NAMES = {field.encode_name.lower(): field.encode_name for field in msgspec.structs.fields(_ConnectBody)}


def _by_known_name(members: Mapping[str, Any]) -> dict[str, Any]:
    """The members that mean something, whatever the letter case of their names: .NET writes `UserId` by default.

    Of a name that comes in several letter cases the last one counts, as where .NET reads.
    """
    known = ((_KNOWN_NAMES.get(name.lower()), value) for name, value in members.items())
    return {name: value for name, value in known if name is not None}


_members = msgspec.json.Decoder(dict[str, Any] | None)
_any_json = msgspec.json.Decoder(msgspec.Raw)


def _refusal(answer: Answer) -> str:
    """The handler's own words to a client that it turns away, if they are few and meant to be read.

    Only of a 4xx: what a failing server writes is about itself.
    """
    if not 400 <= answer.status < 500 or len(answer.body) > _MAX_REFUSAL_BYTES:
        return ""
    try:
        if _media_type(answer) != "text/plain":
            return ""
    except BadAnswer:
        return ""
    return answer.body.decode("utf-8", "replace").strip()


def read_reply(answer: Answer) -> Reply:
    """Read the answer to a user event. Raises BadAnswer, also for a status that is not a success."""
    if not answer.accepted:
        raise BadAnswer(f"the answer's status is {answer.status}")
    state, metadata = _state(answer), _metadata(answer)
    if not answer.body:
        return Reply(metadata=metadata, state=state)
    content_type = _media_type(answer)
    data_type = DATA_TYPES.get(content_type)
    if data_type is None:
        raise BadAnswer(
            f"the answer's content type is {content_type[:100]!r}; it can be one of {', '.join(sorted(DATA_TYPES))}"
        )
    try:
        if data_type in (TEXT, JSON):
            answer.body.decode()
        if data_type == JSON:
            _any_json.decode(answer.body)
    except UnicodeDecodeError:
        raise BadAnswer(f"the answer is {content_type} and not UTF-8") from None
    except ValueError as problem:
        raise BadAnswer(f"the answer is {content_type} and cannot be read as such: {problem}") from None
    return Reply(Payload(data_type, answer.body), metadata, state)


def _media_type(answer: Answer) -> str:
    """What the body is, without parameters; bytes, where nothing is said."""
    values = answer.values("Content-Type")
    return values[-1].partition(";")[0].strip().lower() if values else CONTENT_TYPES[BINARY]


def _state(answer: Answer) -> str | None:
    values = answer.values("ce-connectionState")
    if not values:
        return None
    state = values[-1]
    if len(state.encode()) > MAX_STATE_BYTES:
        raise BadAnswer(f"the connection's state has more than {MAX_STATE_BYTES} bytes")
    if _UNSENDABLE.search(state):
        raise BadAnswer("the connection's state has a control character, so it could not be sent back")
    return state


def _metadata(answer: Answer) -> Mapping[str, str] | None:
    prefix = METADATA_PREFIX.encode()
    metadata: dict[str, str] = {}
    for raw_name, raw_value in answer.headers:
        name = raw_name.lower()
        # One that ends with the prefix has no key: it is ignored, as by the reference emulator.
        if name.startswith(prefix) and name != prefix:
            key = name[len(prefix) :].decode("ascii", "replace")
            # Proxies join repeated headers with commas, so a comma cannot be part of a value.
            metadata[key] = _text(METADATA_PREFIX + key, raw_value).rpartition(",")[2].strip()
    if not metadata:
        return None
    if not is_metadata(metadata.items()) or any(_UNSENDABLE.search(value) for value in metadata.values()):
        raise BadAnswer("the metadata are not ASCII texts of at most 1024 characters and 8 KiB in all")
    return metadata
