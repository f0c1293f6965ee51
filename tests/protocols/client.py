"""Clients of both wires as the tests need them: they write what clients send and read what clients get.

Written from the schema and the JSON reference, not from the codecs: nothing of `hubs.protocols` but the
frames and the generated module is used. JSON payloads come back as Python writes them.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from google.protobuf.any_pb2 import Any as ProtobufAny

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


def python_json(value: Any) -> bytes:
    """JSON as these clients write it."""
    return json.dumps(value).encode()


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


class JsonClient:
    """Text messages, one JSON object each."""

    def write(self, frame: Upstream) -> str:
        match frame:
            case JoinGroup():
                members = _present(type="joinGroup", group=frame.group, ackId=frame.ack_id)
            case LeaveGroup():
                members = _present(type="leaveGroup", group=frame.group, ackId=frame.ack_id)
            case SendToGroup():
                members = _present(
                    type="sendToGroup",
                    group=frame.group,
                    **self._data(frame.payload),
                    ackId=frame.ack_id,
                    noEcho=frame.no_echo or None,
                    ttlSeconds=frame.ttl_secs,
                    metadata=frame.metadata,
                )
            case UserEvent():
                members = _present(
                    type="event",
                    event=frame.event,
                    **self._data(frame.payload),
                    ackId=frame.ack_id,
                    metadata=frame.metadata,
                )
            case Ping():
                members = {"type": "ping"}
            case SequenceAck():
                members = {"type": "sequenceAck", "sequenceId": frame.sequence_id}
            case Invoke():
                members = _present(
                    type="invoke",
                    invocationId=frame.invocation_id,
                    target="event",
                    event=frame.event,
                    **self._data(frame.payload),
                    metadata=frame.metadata,
                )
            case CancelInvocation():
                members = {"type": "cancelInvocation", "invocationId": frame.invocation_id}
            case InvokeResponse():
                error = {"name": frame.error_name, "message": frame.error_message}
                members = _present(
                    type="invokeResponse",
                    invocationId=frame.invocation_id,
                    success=frame.error_name is None,
                    **self._data(frame.payload),
                    error=None if frame.error_name is None else error,
                    metadata=frame.metadata,
                )
        return json.dumps(members)

    def read(self, message: str | bytes | None) -> tuple[Downstream, int | None]:
        """Give the frame, and its sequence id if it has one."""
        assert isinstance(message, str)
        members = json.loads(message)
        return self._frame(members), members.get("sequenceId")

    def _frame(self, members: dict[str, Any]) -> Downstream:
        error = members.get("error", {})
        match members:
            case {"type": "system", "event": "connected"}:
                return Connected(members["connectionId"], members["userId"], members.get("reconnectionToken"))
            case {"type": "system", "event": "disconnected"}:
                return Disconnected(members["message"])
            case {"type": "ack"}:
                assert members["success"] is ("error" not in members)
                return Ack(members["ackId"], error.get("name"), error.get("message", ""))
            case {"type": "message", "from": "group"}:
                payload = self._payload(members)
                return GroupMessage(members["group"], payload, members.get("fromUserId"), members.get("metadata"))
            case {"type": "message", "from": "server"}:
                return ServerMessage(self._payload(members), members.get("metadata"))
            case {"type": "invokeResponse"}:
                assert members["success"] is ("error" not in members)
                return InvokeResponse(
                    members["invocationId"],
                    self._payload(members) if "data" in members else None,
                    error.get("name"),
                    error.get("message", ""),
                    members.get("metadata"),
                )
            case {"type": "pong"}:
                return Pong()
        raise AssertionError(members)

    @staticmethod
    def _data(payload: Payload | None) -> dict[str, Any]:
        if payload is None:
            return {}
        data: Any = payload.data
        match payload.data_type:
            case "json":
                data = json.loads(data)
            case "text":
                data = data.decode()
            case _:
                data = base64.b64encode(data).decode()
        return {"dataType": payload.data_type, "data": data}

    @staticmethod
    def _payload(members: dict[str, Any]) -> Payload:
        data = members["data"]
        match members["dataType"]:
            case "json":
                return Payload(JSON, python_json(data))
            case "text":
                return Payload(TEXT, data.encode())
            case data_type:
                return Payload(data_type, base64.b64decode(data, validate=True))


class ProtobufClient:
    """Binary messages of the schema."""

    def write(self, frame: Upstream) -> bytes:
        match frame:
            case JoinGroup():
                join = pb.JoinGroupMessage(**_present(group=frame.group, ack_id=frame.ack_id))
                message = pb.UpstreamMessage(join_group_message=join)
            case LeaveGroup():
                leave = pb.LeaveGroupMessage(**_present(group=frame.group, ack_id=frame.ack_id))
                message = pb.UpstreamMessage(leave_group_message=leave)
            case SendToGroup():
                send = pb.SendToGroupMessage(
                    **_present(
                        group=frame.group,
                        ack_id=frame.ack_id,
                        data=self._data(frame.payload),
                        no_echo=frame.no_echo or None,
                        ttl_seconds=frame.ttl_secs,
                        metadata=frame.metadata,
                    )
                )
                message = pb.UpstreamMessage(send_to_group_message=send)
            case UserEvent():
                data = self._data(frame.payload)
                event = pb.EventMessage(
                    **_present(event=frame.event, ack_id=frame.ack_id, data=data, metadata=frame.metadata)
                )
                message = pb.UpstreamMessage(event_message=event)
            case Ping():
                message = pb.UpstreamMessage(ping_message=pb.PingMessage())
            case SequenceAck():
                message = pb.UpstreamMessage(sequence_ack_message=pb.SequenceAckMessage(sequence_id=frame.sequence_id))
            case Invoke():
                invoke = pb.InvokeEventMessage(
                    **_present(
                        event=frame.event,
                        invocation_id=frame.invocation_id,
                        data=self._data(frame.payload),
                        metadata=frame.metadata,
                    )
                )
                message = pb.UpstreamMessage(invoke_event_message=invoke)
            case CancelInvocation():
                cancel = pb.CancelInvocationMessage(invocation_id=frame.invocation_id)
                message = pb.UpstreamMessage(cancel_invocation_message=cancel)
            case _:
                raise AssertionError(f"there is no such protobuf message: {frame}")
        return message.SerializeToString(deterministic=True)

    def read(self, message: str | bytes | None) -> tuple[Downstream, int | None]:
        """Give the frame, and its sequence id if it has one."""
        assert isinstance(message, bytes)
        downstream = pb.DownstreamMessage.FromString(message)
        kind = downstream.WhichOneof("message")
        assert kind is not None
        sequence_id = None
        if kind == "data_message" and downstream.data_message.HasField("sequence_id"):
            sequence_id = downstream.data_message.sequence_id
        return self._frame(kind, getattr(downstream, kind)), sequence_id

    def _frame(self, kind: str, message: Any) -> Downstream:
        match kind:
            case "system_message" if message.WhichOneof("message") == "connected_message":
                connected = message.connected_message
                token = connected.reconnection_token if connected.HasField("reconnection_token") else None
                return Connected(connected.connection_id, connected.user_id or None, token)
            case "system_message":
                assert message.HasField("disconnected_message")
                return Disconnected(message.disconnected_message.reason)
            case "ack_message":
                return Ack(message.ack_id, *self._error(message))
            case "data_message":
                payload, metadata = self._payload(message.data), dict(message.metadata) or None
                sender = getattr(message, "from")
                assert sender == ("group" if message.HasField("group") else "server")
                if sender == "group":
                    return GroupMessage(message.group, payload, None, metadata)
                return ServerMessage(payload, metadata)
            case "invoke_response_message":
                payload = self._payload(message.data) if message.HasField("data") else None
                metadata = dict(message.metadata) or None
                return InvokeResponse(message.invocation_id, payload, *self._error(message), metadata)
            case "pong_message":
                return Pong()
        raise AssertionError(kind)

    @staticmethod
    def _error(message: Any) -> tuple[str | None, str]:
        assert message.success is not message.HasField("error")
        return (message.error.name, message.error.message) if message.HasField("error") else (None, "")

    @staticmethod
    def _data(payload: Payload | None) -> pb.MessageData | None:
        if payload is None:
            return None
        match payload.data_type:
            case "json":
                return pb.MessageData(json_data=payload.data.decode())
            case "text":
                return pb.MessageData(text_data=payload.data.decode())
            case "binary":
                return pb.MessageData(binary_data=payload.data)
        return pb.MessageData(protobuf_data=ProtobufAny.FromString(payload.data))

    @staticmethod
    def _payload(data: pb.MessageData) -> Payload:
        match data.WhichOneof("data"):
            case "json_data":
                return Payload(JSON, data.json_data.encode())
            case "text_data":
                return Payload(TEXT, data.text_data.encode())
            case "binary_data":
                return Payload(BINARY, data.binary_data)
            case "protobuf_data":
                return Payload(PROTOBUF, data.protobuf_data.SerializeToString())
        raise AssertionError(data)
