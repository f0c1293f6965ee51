"""Frames of the protobuf subprotocols, told in the words of the JSON ones.

A test writes `say(type="joinGroup", group="g", ackId=1)` and compares what it hears with a JSON
frame, whichever subprotocol is spoken; here both are translated. The messages are described by the
table below, set down from the protocol's documentation alone, and are read and written by the
official runtime: a wrong field number in the service cannot be made up for by the same one here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

# One message a line: name, then its fields. `a|b` before a field puts it into a oneof; `?` makes it optional.
_SCHEMA = """
UpstreamMessage               message|send_to_group_message=1:SendToGroupMessage message|event_message=5:EventMessage \
                              message|join_group_message=6:JoinGroupMessage \
                              message|leave_group_message=7:LeaveGroupMessage \
                              message|sequence_ack_message=8:SequenceAckMessage message|ping_message=9:PingMessage \
                              message|invoke_event_message=10:InvokeEventMessage \
                              message|cancel_invocation_message=11:CancelInvocationMessage
SendToGroupMessage            group=1:string ack_id=2:uint64? data=3:MessageData no_echo=4:bool? ttl_seconds=5:uint32? \
                              metadata=6:map
EventMessage                  event=1:string data=2:MessageData ack_id=3:uint64? metadata=4:map
JoinGroupMessage              group=1:string ack_id=2:uint64?
LeaveGroupMessage             group=1:string ack_id=2:uint64?
SequenceAckMessage            sequence_id=1:uint64
PingMessage
InvokeEventMessage            event=1:string invocation_id=2:string data=3:MessageData metadata=4:map
CancelInvocationMessage       invocation_id=1:string
MessageData                   data|text_data=1:string data|binary_data=2:bytes data|protobuf_data=3:Any \
                              data|json_data=4:string
DownstreamMessage             message|ack_message=1:AckMessage message|data_message=2:DataMessage \
                              message|system_message=3:SystemMessage message|pong_message=4:PongMessage \
                              message|invoke_response_message=5:InvokeResponseMessage
AckMessage                    ack_id=1:uint64 success=2:bool error=3:ErrorMessage?
ErrorMessage                  name=1:string message=2:string
DataMessage                   from=1:string group=2:string? data=3:MessageData sequence_id=4:uint64? metadata=5:map
SystemMessage                 message|connected_message=1:ConnectedMessage \
                              message|disconnected_message=2:DisconnectedMessage
ConnectedMessage              connection_id=1:string user_id=2:string reconnection_token=3:string?
DisconnectedMessage           reason=2:string
PongMessage
InvokeResponseMessage         invocation_id=1:string success=2:bool data=3:MessageData? error=4:ErrorMessage? \
                              metadata=5:map
"""
_PACKAGE = "azure.webpubsub"
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "bool": _Field.TYPE_BOOL,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}


def _messages() -> Mapping[str, Any]:
    """The message classes of the table, in a pool of their own: the service's are known to the default one."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tests.proto", package=_PACKAGE, syntax="proto3", dependency=[any_pb2.DESCRIPTOR.name]
    )
    for line in _SCHEMA.strip().splitlines():
        name, *fields = line.split()
        message = file.message_type.add(name=name)
        for field in fields:
            _add_field(message, field)
        # Last: protobuf wants the made-up oneofs of optional fields behind the real ones.
        for added in message.field:
            if added.proto3_optional:
                added.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{added.name}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}"))
        for message in file.message_type
    }


def _add_field(message: Any, text: str) -> None:
    oneof, _, declared = text.rpartition("|")
    name, _, rest = declared.partition("=")
    number, _, kind = rest.partition(":")
    field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    field.proto3_optional = kind.endswith("?")
    kind = kind.rstrip("?")
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    elif kind == "map":
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        for number_, part in enumerate(("key", "value"), start=1):
            entry.field.add(name=part, number=number_, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
        field.label = _Field.LABEL_REPEATED
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{message.name}.{entry.name}"
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = ".google.protobuf.Any" if kind == "Any" else f".{_PACKAGE}.{kind}"
    if oneof:
        if not message.oneof_decl:
            message.oneof_decl.add(name=oneof)
        field.oneof_index = 0


MESSAGES = _messages()
Upstream: Any = MESSAGES["UpstreamMessage"]
Downstream: Any = MESSAGES["DownstreamMessage"]
AnyMessage: Any = MESSAGES["MessageData"]().protobuf_data.__class__


# To the service

_FIELDS = {
    "sendToGroup": "send_to_group_message",
    "event": "event_message",
    "joinGroup": "join_group_message",
    "leaveGroup": "leave_group_message",
    "sequenceAck": "sequence_ack_message",
    "ping": "ping_message",
    "invoke": "invoke_event_message",
    "cancelInvocation": "cancel_invocation_message",
}
_MEMBERS = {
    "group": "group",
    "event": "event",
    "ackId": "ack_id",
    "noEcho": "no_echo",
    "ttlSeconds": "ttl_seconds",
    "sequenceId": "sequence_id",
    "invocationId": "invocation_id",
}


def write(frame: Mapping[str, Any]) -> bytes:
    """The message that says what a JSON frame says."""
    members = dict(frame)
    upstream = Upstream()
    message = getattr(upstream, _FIELDS[members.pop("type")])
    message.SetInParent()
    # Protobuf has one kind of invocation and does not name it.
    members.pop("target", None)
    message_type = members.pop("dataType", "json")
    if "data" in members:
        _put_data(message.data, message_type, members.pop("data"))
    if metadata := members.pop("metadata", None):
        message.metadata.update(metadata)
    for name, value in members.items():
        setattr(message, _MEMBERS[name], value)
    return bytes(upstream.SerializeToString())


def _put_data(message: Any, data_type: str, data: Any) -> None:
    if data_type == "json":
        message.json_data = json.dumps(data)
    elif data_type == "text":
        message.text_data = data
    elif data_type == "binary":
        message.binary_data = base64.b64decode(data)
    else:
        message.protobuf_data.MergeFromString(base64.b64decode(data))


# From the service


def read(data: bytes) -> dict[str, Any]:
    """What a message says, as a JSON frame would say it."""
    downstream = Downstream.FromString(data)
    kind = downstream.WhichOneof("message")
    assert kind is not None, f"not a frame: {data!r}"
    return _READERS[kind](getattr(downstream, kind))


def _ack(ack: Any) -> dict[str, Any]:
    return {"type": "ack", "ackId": ack.ack_id} | _outcome(ack)


def _outcome(message: Any) -> dict[str, Any]:
    error = (
        {"error": {"name": message.error.name, "message": message.error.message}} if message.HasField("error") else {}
    )
    return {"success": message.success} | error


def _data(message: Any) -> dict[str, Any]:
    frame: dict[str, Any] = {"type": "message", "from": getattr(message, "from")}
    if message.HasField("group"):
        frame["group"] = message.group
    frame |= _payload(message.data)
    if message.metadata:
        frame["metadata"] = dict(message.metadata)
    if message.HasField("sequence_id"):
        frame["sequenceId"] = message.sequence_id
    return frame


def _payload(data: Any) -> dict[str, Any]:
    kind = data.WhichOneof("data")
    assert kind is not None, "a message without data"
    return {"dataType": kind.removesuffix("_data"), "data": _VALUES[kind](getattr(data, kind))}


_VALUES: Mapping[str, Callable[[Any], Any]] = {
    "text_data": str,
    "json_data": json.loads,
    "binary_data": lambda data: base64.b64encode(data).decode(),
    "protobuf_data": lambda data: base64.b64encode(data.SerializeToString()).decode(),
}


def _system(message: Any) -> dict[str, Any]:
    frame: dict[str, Any] = {"type": "system"}
    if message.WhichOneof("message") == "disconnected_message":
        return frame | {"event": "disconnected", "message": message.disconnected_message.reason}
    connected = message.connected_message
    frame |= {"event": "connected", "userId": connected.user_id or None, "connectionId": connected.connection_id}
    if connected.HasField("reconnection_token"):
        frame["reconnectionToken"] = connected.reconnection_token
    return frame


def _invoke_response(message: Any) -> dict[str, Any]:
    frame = {"type": "invokeResponse", "invocationId": message.invocation_id} | _outcome(message)
    if message.HasField("data"):
        frame |= _payload(message.data)
    if message.metadata:
        frame["metadata"] = dict(message.metadata)
    return frame


_READERS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "ack_message": _ack,
    "data_message": _data,
    "system_message": _system,
    "pong_message": lambda message: {"type": "pong"},
    "invoke_response_message": _invoke_response,
}
