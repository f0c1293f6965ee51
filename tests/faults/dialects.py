"""The JSON and protobuf subprotocols as a client writes and reads them: only what the experiments need.

What is heard is one of four things. A frame of any other kind is an error here, since nobody in the
experiment provokes one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from bench.wire import BINARY, TEXT, client_frame
from hubs.protocols import webpubsub_pb2 as pb


@dataclass(frozen=True, slots=True)
class Connected:
    """The first frame of a new connection; the token is None on a subprotocol that is not reliable."""

    connection_id: str
    reconnection_token: str | None


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The service is about to close the connection."""

    message: str


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to a frame with an ackId; `error` is the error's name, None on success."""

    ack_id: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Data:
    """A message from a group or from the server; without a sequence id on a subprotocol that is not reliable."""

    sequence_id: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""


Heard = Connected | Disconnected | Ack | Data | Pong


class Strange(Exception):
    """The service sent what nobody asked for."""


class Dialect(Protocol):
    """One subprotocol. The writers give whole WebSocket frames."""

    subprotocol: str

    def join(self, group: str, ack_id: int) -> bytes: ...
    def publish(self, group: str, text: str, ack_id: int) -> bytes: ...
    def sequence_ack(self, sequence_id: int) -> bytes: ...
    def ping(self) -> bytes: ...
    def read(self, message: bytes) -> Heard: ...


class Json:
    """The JSON subprotocols."""

    def __init__(self, subprotocol: str = "json.reliable.webpubsub.azure.v1") -> None:
        self.subprotocol = subprotocol

    def join(self, group: str, ack_id: int) -> bytes:
        return self._frame(type="joinGroup", group=group, ackId=ack_id)

    def publish(self, group: str, text: str, ack_id: int) -> bytes:
        return self._frame(type="sendToGroup", group=group, dataType="text", data=text, ackId=ack_id)

    def sequence_ack(self, sequence_id: int) -> bytes:
        return self._frame(type="sequenceAck", sequenceId=sequence_id)

    def ping(self) -> bytes:
        return self._frame(type="ping")

    def read(self, message: bytes) -> Heard:
        frame = json.loads(message)
        match frame:
            case {"type": "message", "from": "group" | "server", "data": str() as text}:
                return Data(frame.get("sequenceId"), text)
            case {"type": "ack", "ackId": int() as ack_id, "success": success}:
                return Ack(ack_id, None if success else frame["error"]["name"])
            case {"type": "pong"}:
                return Pong()
            case {"type": "system", "event": "connected", "connectionId": connection_id}:
                return Connected(connection_id, frame.get("reconnectionToken"))
            case {"type": "system", "event": "disconnected", "message": text}:
                return Disconnected(text)
        raise Strange(message.decode("utf-8", "replace"))

    @staticmethod
    def _frame(**members: Any) -> bytes:
        return client_frame(TEXT, json.dumps(members).encode())


class Protobuf:
    """The protobuf subprotocols."""

    def __init__(self, subprotocol: str = "protobuf.reliable.webpubsub.azure.v1") -> None:
        self.subprotocol = subprotocol

    def join(self, group: str, ack_id: int) -> bytes:
        return self._frame(join_group_message=pb.JoinGroupMessage(group=group, ack_id=ack_id))

    def publish(self, group: str, text: str, ack_id: int) -> bytes:
        data = pb.MessageData(text_data=text)
        message = pb.SendToGroupMessage(group=group, ack_id=ack_id, data=data)
        return self._frame(send_to_group_message=message)

    def sequence_ack(self, sequence_id: int) -> bytes:
        return self._frame(sequence_ack_message=pb.SequenceAckMessage(sequence_id=sequence_id))

    def ping(self) -> bytes:
        return self._frame(ping_message=pb.PingMessage())

    def read(self, message: bytes) -> Heard:
        frame = pb.DownstreamMessage.FromString(message)
        match frame.WhichOneof("message"):
            case "data_message":
                data = frame.data_message
                return Data(data.sequence_id if data.HasField("sequence_id") else None, data.data.text_data)
            case "ack_message":
                ack = frame.ack_message
                return Ack(ack.ack_id, None if ack.success else ack.error.name)
            case "pong_message":
                return Pong()
            case "system_message":
                system = frame.system_message
                if system.WhichOneof("message") == "connected_message":
                    connected = system.connected_message
                    return Connected(connected.connection_id, connected.reconnection_token or None)
                return Disconnected(system.disconnected_message.reason)
        raise Strange(repr(message))

    @staticmethod
    def _frame(**member: Any) -> bytes:
        return client_frame(BINARY, pb.UpstreamMessage(**member).SerializeToString())


DIALECTS: dict[str, Dialect] = {"json": Json(), "protobuf": Protobuf()}

# The same without recovery.
PLAIN: dict[str, Dialect] = {
    "json": Json("json.webpubsub.azure.v1"),
    "protobuf": Protobuf("protobuf.webpubsub.azure.v1"),
}
