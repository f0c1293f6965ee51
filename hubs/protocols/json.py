"""The JSON subprotocols: one JSON object per text message.

Reading goes in two steps. The message is first split into its members without looking into them
(`msgspec.Raw`: checked to be well-formed JSON, but not turned into Python values); then the row of
its `type` picks the members it knows. Unknown members are ignored, and a `data` that is JSON keeps
the very text it came with, numbers of any length included, so it is passed on exactly and never
encoded again.

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

INVALID = "The client message is not a valid JSON protocol message."
WRONG_OPCODE = "The JSON subprotocol requires text messages."

Members = Mapping[str, msgspec.Raw]

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)
_integer = msgspec.json.Decoder(int)
_flag = msgspec.json.Decoder(bool)
_encode = msgspec.json.Encoder().encode

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
            raise Disconnect(1003, WRONG_OPCODE)
        try:
            members = _members.decode(message)
            kind = _text(members, "type")
            read = _READERS.get(kind) or _READERS_ANY_CASE.get(kind.lower())
            if read is None:
                raise Malformed("unknown type")
            return read(members)
        # RecursionError: nested deeper than the decoder follows. ValueError: what is malformed, lone
        # surrogates, and numbers longer than Python turns into integers.
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise Disconnect(1007, INVALID) from None

    def encode(self, frame: Downstream) -> str:
        """Write one frame as compact JSON, members in the documented order."""
        return _encode(_WRITERS[type(frame)](frame)).decode()

    def stamp(self, form: str | bytes, sequence_id: int) -> str:
        """Add the last member of a data frame, right before the brace that closes it."""
        assert isinstance(form, str)  # noqa: S101 - what `encode` wrote
        return f'{form[:-1]},"sequenceId":{sequence_id}}}'


# Members. Each reader below gives a value or raises; `null` is the same as absent.


def _raw(members: Members, name: str) -> msgspec.Raw | None:
    raw = members.get(name)
    return None if raw is None or raw == _NULL else raw


def _text(members: Members, name: str) -> str:
    raw = _raw(members, name)
    if raw is None:
        raise Malformed(f"{name} is missing")
    return _string.decode(raw)


def _uint(members: Members, name: str, maximum: int) -> int | None:
    raw = _raw(members, name)
    if raw is None:
        return None
    return whole_number(_integer.decode(raw), maximum)


def _ack_id(members: Members) -> int | None:
    return _uint(members, "ackId", MAX_UINT64)


def _group(members: Members) -> str:
    return group_name(_text(members, "group"))


def _metadata(members: Members) -> Mapping[str, str] | None:
    raw = _raw(members, "metadata")
    if raw is None:
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


def _payload(members: Members) -> Payload | None:
    """What is sent; None where there is no data. With `"data": null` there is, and it is malformed."""
    if _raw(members, "stream") is not None:
        # The beginning of a stream, which is to have no data; it must not pass for a message.
        raise Malformed("streams are not spoken here")
    data_type = JSON
    if _raw(members, "dataType") is not None:
        # Compared without regard to case: the .NET client writes "Text".
        data_type = _text(members, "dataType").lower()
        if data_type not in DATA_TYPES:
            raise Malformed("unknown dataType")
    if "data" not in members:
        return None
    raw = _raw(members, "data")
    if raw is None:
        raise Malformed("data is null")
    if data_type == JSON:
        return Payload(JSON, bytes(raw))
    text = _string.decode(raw)
    if data_type == TEXT:
        return Payload(TEXT, text.encode())
    try:
        return Payload(data_type, base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise Malformed("data is not base64") from None


def _join_group(members: Members) -> JoinGroup:
    return JoinGroup(_group(members), _ack_id(members))


def _leave_group(members: Members) -> LeaveGroup:
    return LeaveGroup(_group(members), _ack_id(members))


def _send_to_group(members: Members) -> SendToGroup:
    metadata = _metadata(members)
    no_echo = _raw(members, "noEcho")
    return SendToGroup(
        group=_group(members),
        payload=_payload(members) or no_data(metadata),
        ack_id=_ack_id(members),
        no_echo=no_echo is not None and _flag.decode(no_echo),
        ttl_secs=_uint(members, "ttlSeconds", MAX_TTL_SECS),
        metadata=metadata,
    )


def _event(members: Members) -> UserEvent:
    name = event_name(_text(members, "event"))
    metadata = _metadata(members)
    return UserEvent(name, _payload(members) or no_data(metadata), _ack_id(members), metadata)


def _ping(members: Members) -> Ping:
    return Ping()


def _sequence_ack(members: Members) -> SequenceAck:
    sequence_id = _uint(members, "sequenceId", MAX_UINT64)
    if sequence_id is None:
        raise Malformed("sequenceId is missing")
    return SequenceAck(sequence_id)


def _invocation_id(members: Members) -> str:
    return invocation_id(_text(members, "invocationId"))


def _optional_payload(members: Members) -> Payload | None:
    payload = _payload(members)
    if payload is None and _raw(members, "dataType") is not None:
        raise Malformed("a dataType of no data")
    return payload


def _invoke(members: Members) -> Invoke:
    if _text(members, "target").lower() != "event":
        raise Malformed("unknown target")
    return Invoke(
        invocation_id=_invocation_id(members),
        event=event_name(_text(members, "event")),
        payload=_optional_payload(members),
        metadata=_metadata(members),
    )


def _cancel_invocation(members: Members) -> CancelInvocation:
    return CancelInvocation(_invocation_id(members))


def _invoke_response(members: Members) -> InvokeResponse:
    error_name, error_message = None, ""
    success = _raw(members, "success")
    if success is None:
        raise Malformed("success is missing")
    if not _flag.decode(success):
        error = _members.decode(members.get("error", _NULL))
        error_name, error_message = _text(error, "name"), _text(error, "message")
    return InvokeResponse(
        _invocation_id(members), _optional_payload(members), error_name, error_message, _metadata(members)
    )


_READERS: Mapping[str, Callable[[Members], Upstream]] = {
    "sendToGroup": _send_to_group,
    "joinGroup": _join_group,
    "leaveGroup": _leave_group,
    "event": _event,
    "ping": _ping,
    "sequenceAck": _sequence_ack,
    "invoke": _invoke,
    "cancelInvocation": _cancel_invocation,
    "invokeResponse": _invoke_response,
}
_READERS_ANY_CASE = {name.lower(): read for name, read in _READERS.items()}


# Frames to members, in the order in which they are documented


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


def _group_message(frame: GroupMessage) -> dict[str, Any]:
    members: dict[str, Any] = {"type": "message", "from": "group", "group": frame.group}
    if frame.from_user_id is not None:
        members["fromUserId"] = frame.from_user_id
    return members | _data(frame)


def _server_message(frame: ServerMessage) -> dict[str, Any]:
    return {"type": "message", "from": "server"} | _data(frame)


def _data(frame: GroupMessage | ServerMessage) -> dict[str, Any]:
    return _payload_members(frame.payload) | _metadata_member(frame.metadata)


def _payload_members(payload: Payload) -> dict[str, Any]:
    return {"dataType": payload.data_type, "data": _VALUES[payload.data_type](payload.data)}


def _metadata_member(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    return {"metadata": dict(metadata)} if metadata else {}


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

_WRITERS: Mapping[type, Callable[[Any], dict[str, Any]]] = {
    GroupMessage: _group_message,
    ServerMessage: _server_message,
    Ack: _ack,
    Connected: _connected,
    Disconnected: _disconnected,
    InvokeResponse: _invocation_result,
    Pong: lambda frame: {"type": "pong"},
}
