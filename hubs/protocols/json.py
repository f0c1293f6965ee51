"""The JSON subprotocols: one JSON object per text message.

A message is read in one step: its `type` picks the row below, which names the members that such a
frame has and what each of them is. Other members are looked at no further than to see that they are
JSON. Where a value is only passed on (`msgspec.Raw`), it is checked to be well-formed and not turned
into Python values; a `data` that is JSON keeps the very text it came with, numbers of any length included,
and is never encoded again.

What is malformed ends the connection with 1007. Sources: client protocol, upstream frames (§3),
downstream frames (§4), close codes (§9).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from hubs import close_codes
from hubs.errors import Disconnect
from hubs.protocols.frames import (
    BINARY,
    DATA_TYPES,
    JSON,
    PROTOBUF,
    TEXT,
    Ack,
    CancelInvocation,
    Connected,
    Disconnected,
    Downstream,
    GroupMessage,
    Invoke,
    InvokeResponse,
    JoinGroup,
    LeaveGroup,
    Payload,
    Ping,
    Pong,
    SendToGroup,
    SequenceAck,
    ServerMessage,
    Upstream,
    UserEvent,
)
from hubs.protocols.validity import (
    MAX_TTL_SECS,
    MAX_UINT64,
    Malformed,
    event_name,
    group_name,
    invocation_id,
    metadata_map,
    no_data,
    whole_number,
)

_string = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode

# Where a member is not called as Python would have it.
_NAMES = {"source": "from", "from_user_id": "fromUserId", "data_type": "dataType"}

# A member that is null is the same as one that is absent.
_NULL = msgspec.Raw(b"null")


class JsonCodec:
    """A codec for one JSON subprotocol, called `name` on the wire."""

    named = True
    wire = "json"

    def __init__(self, name: str, *, reliable: bool = False) -> None:
        self.name = name
        self.reliable = reliable

    def decode(self, message: str | bytes) -> Upstream:
        """Read one text message. Raises Disconnect: 1003 for a binary one, 1007 for a malformed one."""
        if not isinstance(message, str):
            raise Disconnect(*close_codes.JSON_NEEDS_TEXT.frame)
        try:
            try:
                incoming = _frame.decode(message)
            except msgspec.ValidationError:
                incoming = _frame.decode(_as_documented(message))
            return incoming.read()
        # RecursionError: nested deeper than the decoder follows. ValueError: what is malformed, lone
        # surrogates, and numbers longer than Python turns into integers.
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise Disconnect(*close_codes.INVALID_JSON.frame) from None

    def encode(self, frame: Downstream) -> str:
        """Write one frame as compact JSON, members in the documented order."""
        return _encode(_WRITERS[type(frame)](frame)).decode()

    def stamp(self, form: str | bytes, sequence_id: int) -> str:
        """Add the last member of a data frame, right before the brace that closes it."""
        assert isinstance(form, str)  # noqa: S101 - what `encode` wrote
        return f'{form[:-1]},"sequenceId":{sequence_id}}}'


# From the client. A row per frame: its members, and what they come to.


class _Incoming(msgspec.Struct, tag_field="type", rename="camel", frozen=True, gc=False):
    """What a message says, before it is known whether that will do."""

    def read(self) -> Upstream:
        """Give the frame. Raises ValueError, or a MsgspecError."""
        raise NotImplementedError


class _JoinGroup(_Incoming, tag="joinGroup", frozen=True):
    group: str
    ack_id: int | None = None

    def read(self) -> JoinGroup:
        return JoinGroup(group_name(self.group), _uint(self.ack_id, MAX_UINT64))


class _LeaveGroup(_Incoming, tag="leaveGroup", frozen=True):
    group: str
    ack_id: int | None = None

    def read(self) -> LeaveGroup:
        return LeaveGroup(group_name(self.group), _uint(self.ack_id, MAX_UINT64))


class _SendToGroup(_Incoming, tag="sendToGroup", frozen=True):
    group: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_type: str | None = None
    ack_id: int | None = None
    no_echo: bool | None = None
    ttl_seconds: int | None = None
    metadata: msgspec.Raw = _NULL
    stream: msgspec.Raw = _NULL

    def read(self) -> SendToGroup:
        metadata = _metadata(self.metadata)
        return SendToGroup(
            group_name(self.group),
            _payload(self.data_type, self.data, self.stream) or no_data(metadata),
            _uint(self.ack_id, MAX_UINT64),
            self.no_echo is True,
            _uint(self.ttl_seconds, MAX_TTL_SECS),
            metadata,
        )


class _Event(_Incoming, tag="event", frozen=True):
    event: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_type: str | None = None
    ack_id: int | None = None
    metadata: msgspec.Raw = _NULL
    stream: msgspec.Raw = _NULL

    def read(self) -> UserEvent:
        metadata = _metadata(self.metadata)
        payload = _payload(self.data_type, self.data, self.stream) or no_data(metadata)
        return UserEvent(event_name(self.event), payload, _uint(self.ack_id, MAX_UINT64), metadata)


class _Ping(_Incoming, tag="ping", frozen=True):
    def read(self) -> Ping:
        return Ping()


class _SequenceAck(_Incoming, tag="sequenceAck", frozen=True):
    sequence_id: int

    def read(self) -> SequenceAck:
        return SequenceAck(whole_number(self.sequence_id, MAX_UINT64))


class _Invoke(_Incoming, tag="invoke", frozen=True):
    invocation_id: str
    target: str
    event: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_type: str | None = None
    metadata: msgspec.Raw = _NULL
    stream: msgspec.Raw = _NULL

    def read(self) -> Invoke:
        if self.target.lower() != "event":
            raise Malformed("unknown target")
        payload = _optional_payload(self.data_type, self.data, self.stream)
        return Invoke(invocation_id(self.invocation_id), event_name(self.event), payload, _metadata(self.metadata))


class _CancelInvocation(_Incoming, tag="cancelInvocation", frozen=True):
    invocation_id: str

    def read(self) -> CancelInvocation:
        return CancelInvocation(invocation_id(self.invocation_id))


class _Error(msgspec.Struct, frozen=True, gc=False):
    name: str
    message: str


class _InvokeResponse(_Incoming, tag="invokeResponse", frozen=True):
    invocation_id: str
    success: bool
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_type: str | None = None
    metadata: msgspec.Raw = _NULL
    stream: msgspec.Raw = _NULL
    # Looked at where there has to be one.
    error: msgspec.Raw = _NULL

    def read(self) -> InvokeResponse:
        name, message = None, ""
        if not self.success:
            error = _error.decode(self.error)
            name, message = error.name, error.message
        payload = _optional_payload(self.data_type, self.data, self.stream)
        return InvokeResponse(invocation_id(self.invocation_id), payload, name, message, _metadata(self.metadata))


_frame = msgspec.json.Decoder(
    _JoinGroup
    | _LeaveGroup
    | _SendToGroup
    | _Event
    | _Ping
    | _SequenceAck
    | _Invoke
    | _CancelInvocation
    | _InvokeResponse
)
_error = msgspec.json.Decoder(_Error)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
# By lower-case name, as they are looked up where the spelling is another.
_TYPES = {tag.lower(): tag for kind in _Incoming.__subclasses__() if isinstance(tag := kind.__struct_config__.tag, str)}


def _as_documented(message: str) -> bytes:
    """The same message with its type in the documented spelling, if it has another. Raises Malformed."""
    members = _members.decode(message)
    given = _string.decode(members.get("type", _NULL))
    name = _TYPES.get(given.lower(), given)
    if name == given:
        raise Malformed("not a frame")
    return _encode(members | {"type": name})


def _uint(value: int | None, maximum: int) -> int | None:
    return None if value is None else whole_number(value, maximum)


def _metadata(raw: msgspec.Raw) -> Mapping[str, str] | None:
    if raw is _NULL or raw == _NULL:
        return None
    # The standard parser here: it tells of duplicate keys, which the protocol refuses.
    pairs = json.loads(bytes(raw), object_pairs_hook=_pairs)
    if not isinstance(pairs, _Pairs):
        raise Malformed("metadata is not an object")
    return metadata_map(pairs)


class _Pairs(list[tuple[str, Any]]):
    """An object's members as they stand, to tell an object from an array."""


def _pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    return _Pairs(pairs)


def _payload(data_type: str | None, data: msgspec.Raw | msgspec.UnsetType, stream: msgspec.Raw) -> Payload | None:
    """What is sent; None where there is no data. With `"data": null` there is, and it is malformed."""
    if stream is not _NULL and stream != _NULL:
        # The beginning of a stream, which is to have no data; it must not pass for a message.
        raise Malformed("streams are not spoken here")
    if data_type is None:
        data_type = JSON
    elif data_type not in DATA_TYPES:
        # Compared without regard to case: the .NET client writes "Text".
        data_type = data_type.lower()
        if data_type not in DATA_TYPES:
            raise Malformed("unknown dataType")
    if isinstance(data, msgspec.UnsetType):
        return None
    if data == _NULL:
        raise Malformed("data is null")
    if data_type == JSON:
        return Payload(JSON, bytes(data))
    text = _string.decode(data)
    if data_type == TEXT:
        return Payload(TEXT, text.encode())
    try:
        return Payload(data_type, base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise Malformed("data is not base64") from None


def _optional_payload(
    data_type: str | None, data: msgspec.Raw | msgspec.UnsetType, stream: msgspec.Raw
) -> Payload | None:
    payload = _payload(data_type, data, stream)
    if payload is None and data_type is not None:
        raise Malformed("a dataType of no data")
    return payload


# To the client, in the order in which they are documented


def _connected(frame: Connected) -> dict[str, Any]:
    members: dict[str, Any] = {
        "type": "system",
        "event": "connected",
        "userId": frame.user_id,
        "connectionId": frame.connection_id,
    }
    if frame.reconnection_token is not None:
        members["reconnectionToken"] = frame.reconnection_token
    return members


def _disconnected(frame: Disconnected) -> dict[str, Any]:
    return {"type": "system", "event": "disconnected", "message": frame.message}


def _ack(frame: Ack) -> dict[str, Any]:
    if frame.error_name is None:
        return {"type": "ack", "ackId": frame.ack_id, "success": True}
    error = {"name": frame.error_name, "message": frame.error_message}
    return {"type": "ack", "ackId": frame.ack_id, "success": False, "error": error}


# These two go to many, and are several times as frequent as all others together.


class _GroupMessage(msgspec.Struct, tag_field="type", tag="message", rename=_NAMES, frozen=True, gc=False):
    source: str
    group: str
    from_user_id: str | msgspec.UnsetType
    data_type: str
    data: Any
    metadata: Mapping[str, str] | msgspec.UnsetType


class _ServerMessage(msgspec.Struct, tag_field="type", tag="message", rename=_NAMES, frozen=True, gc=False):
    source: str
    data_type: str
    data: Any
    metadata: Mapping[str, str] | msgspec.UnsetType


def _group_message(frame: GroupMessage) -> _GroupMessage:
    user_id, payload = frame.from_user_id, frame.payload
    return _GroupMessage(
        "group",
        frame.group,
        msgspec.UNSET if user_id is None else user_id,
        payload.data_type,
        _VALUES[payload.data_type](payload.data),
        frame.metadata or msgspec.UNSET,
    )


def _server_message(frame: ServerMessage) -> _ServerMessage:
    payload = frame.payload
    return _ServerMessage(
        "server", payload.data_type, _VALUES[payload.data_type](payload.data), frame.metadata or msgspec.UNSET
    )


def _payload_members(payload: Payload) -> dict[str, Any]:
    return {"dataType": payload.data_type, "data": _VALUES[payload.data_type](payload.data)}


def _metadata_member(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    return {"metadata": metadata} if metadata else {}


def _invocation_result(frame: InvokeResponse) -> dict[str, Any]:
    success = frame.error_name is None
    members: dict[str, Any] = {"type": "invokeResponse", "invocationId": frame.invocation_id, "success": success}
    if frame.payload is not None:
        members |= _payload_members(frame.payload)
    if not success:
        # Always with both members: a failure without an error makes the JavaScript client cancel.
        members["error"] = {"name": frame.error_name, "message": frame.error_message}
    return members | _metadata_member(frame.metadata)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


_VALUES: Mapping[str, Callable[[bytes], Any]] = {
    JSON: msgspec.Raw,
    TEXT: bytes.decode,
    BINARY: _base64,
    PROTOBUF: _base64,
}

_WRITERS: Mapping[type, Callable[[Any], Any]] = {
    GroupMessage: _group_message,
    ServerMessage: _server_message,
    Ack: _ack,
    Connected: _connected,
    Disconnected: _disconnected,
    InvokeResponse: _invocation_result,
    Pong: lambda frame: {"type": "pong"},
}
