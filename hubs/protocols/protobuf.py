"""The protobuf subprotocols: one `UpstreamMessage` or `DownstreamMessage` per binary message.

The schema is `webpubsub.proto`, and `webpubsub_pb2` is made from it. The runtime parses a message as a
whole and refuses what is cut off or not UTF-8; then the row of the message's kind picks the fields. What
they are held to is the same as in JSON (`validity.py`). Fields that the schema does not have are
ignored. Of a metadata key that is there twice the last one counts, as in every protobuf map.

A payload keeps its type from one wire to the other: JSON travels as `json_data`, checked to be JSON when
it comes, because it is spliced into the messages of JSON clients. A `google.protobuf.Any` is kept
serialised. Only the publishers of other wires can say "protobuf" of bytes that are no Any; these reach
protobuf clients as `binary_data`.

Sources: client protocol, protobuf subprotocols (§7), close codes (§9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any as AnyType

import msgspec
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from hubs import close_codes
from hubs.errors import Disconnect
from hubs.protocols import webpubsub_pb2 as pb
from hubs.protocols.frames import (
    BINARY,
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
    Malformed,
    event_name,
    group_name,
    invocation_id,
    metadata_map,
    no_data,
    whole_number,
)

_json_text = msgspec.json.Decoder(msgspec.Raw)

# The wire format's own numbers: a field's tag is its number and, in the last three bits, how it is written.
_VARINT, _LENGTH_DELIMITED = 0, 2
_DATA_MESSAGE_TAG = bytes([pb.DownstreamMessage.DATA_MESSAGE_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])
_SEQUENCE_ID_TAG = bytes([pb.DataMessage.SEQUENCE_ID_FIELD_NUMBER << 3 | _VARINT])


class ProtobufCodec:
    """A codec for one protobuf subprotocol, called `name` on the wire and in close reasons."""

    named = True
    wire = "protobuf"

    def __init__(self, name: str, *, reliable: bool = False) -> None:
        self.name = name
        self.reliable = reliable

    def decode(self, message: str | bytes) -> Upstream:
        """Read one binary message. Raises Disconnect: 1003 for a text one, 1007 for a malformed one."""
        if isinstance(message, str):
            raise Disconnect(*close_codes.protobuf_needs_binary(self.name).frame)
        try:
            upstream = pb.UpstreamMessage.FromString(message)
            kind = upstream.WhichOneof("message")
            if kind not in _READERS:
                raise Malformed("unknown message")
            return _READERS[kind](getattr(upstream, kind))
        except (DecodeError, Malformed):
            raise Disconnect(*close_codes.invalid_protobuf(self.name).frame) from None

    def encode(self, frame: Downstream) -> bytes:
        """Write one frame; the same frame gives the same bytes."""
        message = pb.DownstreamMessage()
        _WRITERS[type(frame)](frame, message)
        return message.SerializeToString(deterministic=True)

    def stamp(self, form: str | bytes, sequence_id: int) -> bytes:
        """Add the field at the end of the data message, and to the length that stands before it."""
        assert isinstance(form, bytes)  # noqa: S101 - what `encode` wrote
        start = 1
        while form[start] & 0x80:
            start += 1
        body = memoryview(form)[start + 1 :]
        field = _SEQUENCE_ID_TAG + _varint(sequence_id)
        return b"".join((_DATA_MESSAGE_TAG, _varint(len(body) + len(field)), body, field))


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last byte have the high bit set."""
    varint = bytearray()
    while value > 0x7F:
        varint.append(value & 0x7F | 0x80)
        value >>= 7
    varint.append(value)
    return bytes(varint)


# Messages to frames


_Sending = pb.SendToGroupMessage | pb.EventMessage | pb.InvokeEventMessage


def _ack_id(
    message: pb.JoinGroupMessage | pb.LeaveGroupMessage | pb.SendToGroupMessage | pb.EventMessage,
) -> int | None:
    return message.ack_id if message.HasField("ack_id") else None


def _metadata(message: _Sending) -> Mapping[str, str] | None:
    # Sorted, because a protobuf map has no order of its own.
    return metadata_map(sorted(message.metadata.items())) if message.metadata else None


def _payload(message: _Sending) -> Payload | None:
    """What is sent; None where there is no data. With an empty one there is, and it is malformed."""
    if message.HasField("stream"):
        # The beginning of a stream, which is to have no data; it must not pass for a message.
        raise Malformed("streams are not spoken here")
    if not message.HasField("data"):
        return None
    data = message.data
    kind = data.WhichOneof("data")
    if kind == "text_data":
        return Payload(TEXT, data.text_data.encode())
    if kind == "json_data":
        return Payload(JSON, _json(data.json_data.encode()))
    if kind == "binary_data":
        return Payload(BINARY, data.binary_data)
    if kind == "protobuf_data":
        return Payload(PROTOBUF, data.protobuf_data.SerializeToString(deterministic=True))
    raise Malformed("data is empty")


def _json(text: bytes) -> bytes:
    try:
        raw = _json_text.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        raise Malformed("json_data is not JSON") from None
    value = bytes(raw)
    if value == b"null":
        raise Malformed("data is null")
    return value


def _join_group(message: pb.JoinGroupMessage) -> JoinGroup:
    return JoinGroup(group_name(message.group), _ack_id(message))


def _leave_group(message: pb.LeaveGroupMessage) -> LeaveGroup:
    return LeaveGroup(group_name(message.group), _ack_id(message))


def _send_to_group(message: pb.SendToGroupMessage) -> SendToGroup:
    metadata = _metadata(message)
    return SendToGroup(
        group=group_name(message.group),
        payload=_payload(message) or no_data(metadata),
        ack_id=_ack_id(message),
        no_echo=message.no_echo,
        ttl_secs=whole_number(message.ttl_seconds, MAX_TTL_SECS) if message.HasField("ttl_seconds") else None,
        metadata=metadata,
    )


def _event(message: pb.EventMessage) -> UserEvent:
    metadata = _metadata(message)
    return UserEvent(event_name(message.event), _payload(message) or no_data(metadata), _ack_id(message), metadata)


def _ping(message: pb.PingMessage) -> Ping:
    return Ping()


def _sequence_ack(message: pb.SequenceAckMessage) -> SequenceAck:
    return SequenceAck(message.sequence_id)


def _invoke(message: pb.InvokeEventMessage) -> Invoke:
    return Invoke(
        invocation_id(message.invocation_id), event_name(message.event), _payload(message), _metadata(message)
    )


def _cancel_invocation(message: pb.CancelInvocationMessage) -> CancelInvocation:
    return CancelInvocation(invocation_id(message.invocation_id))


# By field of UpstreamMessage. Those that are missing here are answered like a message with none of them.
_READERS: Mapping[str | None, Callable[[AnyType], Upstream]] = {
    "send_to_group_message": _send_to_group,
    "event_message": _event,
    "join_group_message": _join_group,
    "leave_group_message": _leave_group,
    "sequence_ack_message": _sequence_ack,
    "ping_message": _ping,
    "invoke_event_message": _invoke,
    "cancel_invocation_message": _cancel_invocation,
}


# Frames to messages. SetInParent: a message all of whose fields are empty is there nevertheless.


def _connected(frame: Connected, message: pb.DownstreamMessage) -> None:
    connected = message.system_message.connected_message
    connected.connection_id = frame.connection_id
    if frame.user_id is not None:
        connected.user_id = frame.user_id
    if frame.reconnection_token is not None:
        connected.reconnection_token = frame.reconnection_token


def _disconnected(frame: Disconnected, message: pb.DownstreamMessage) -> None:
    message.system_message.disconnected_message.SetInParent()
    message.system_message.disconnected_message.reason = frame.message


def _ack(frame: Ack, message: pb.DownstreamMessage) -> None:
    ack = message.ack_message
    ack.ack_id = frame.ack_id
    ack.success = frame.error_name is None
    if frame.error_name is not None:
        ack.error.name = frame.error_name
        ack.error.message = frame.error_message


def _group_message(frame: GroupMessage, message: pb.DownstreamMessage) -> None:
    # The publisher's user id has no field here.
    message.data_message.group = frame.group
    _data_message("group", frame, message.data_message)


def _server_message(frame: ServerMessage, message: pb.DownstreamMessage) -> None:
    _data_message("server", frame, message.data_message)


def _data_message(sender: str, frame: GroupMessage | ServerMessage, data_message: pb.DataMessage) -> None:
    setattr(data_message, "from", sender)  # a word of Python's own
    _write_payload(frame.payload, data_message.data)
    if frame.metadata:
        data_message.metadata.update(frame.metadata)


def _invoke_response(frame: InvokeResponse, message: pb.DownstreamMessage) -> None:
    response = message.invoke_response_message
    response.invocation_id = frame.invocation_id
    response.success = frame.error_name is None
    if frame.payload is not None:
        _write_payload(frame.payload, response.data)
    if frame.error_name is not None:
        response.error.name = frame.error_name
        response.error.message = frame.error_message
    if frame.metadata:
        response.metadata.update(frame.metadata)


def _pong(frame: Pong, message: pb.DownstreamMessage) -> None:
    message.pong_message.SetInParent()


_WRITERS: Mapping[type, Callable[[AnyType, pb.DownstreamMessage], None]] = {
    GroupMessage: _group_message,
    ServerMessage: _server_message,
    Ack: _ack,
    Connected: _connected,
    Disconnected: _disconnected,
    InvokeResponse: _invoke_response,
    Pong: _pong,
}


def _write_payload(payload: Payload, data: pb.MessageData) -> None:
    if payload.data_type == TEXT:
        data.text_data = payload.data.decode()
    elif payload.data_type == JSON:
        data.json_data = payload.data.decode()
    elif payload.data_type == BINARY:
        data.binary_data = payload.data
    else:
        any_of_it = _any(payload.data)
        if any_of_it is None:
            data.binary_data = payload.data
        else:
            data.protobuf_data.CopyFrom(any_of_it)


def _any(data: bytes) -> Any | None:
    """Read an Any; None when the bytes are none, which those of another message may well resemble.

    Hence nothing but the two fields of an Any may be in it. That also keeps out fields that nobody knows,
    nested so deep that the message around them would be too deep for the clients.
    """
    try:
        value = Any.FromString(data)
    except DecodeError:
        return None
    return None if len(UnknownFieldSet(value)) else value
