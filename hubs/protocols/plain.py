"""Simple WebSocket clients: no subprotocol, a message is its payload and nothing else.

What they send is either the user event `message` or, when their URL asked for it
(`webpubsub_mode=sendToGroup`), a publication to one group. What they are told is payloads: text
and JSON as text messages, binary and protobuf as binary ones; no acks, no system frames.
"""

from __future__ import annotations

from dataclasses import dataclass

from hubs.protocols.frames import (
    BINARY,
    JSON,
    TEXT,
    Downstream,
    GroupMessage,
    Payload,
    SendToGroup,
    ServerMessage,
    Upstream,
    UserEvent,
)

MESSAGE_EVENT = "message"


@dataclass(frozen=True, slots=True)
class PlainCodec:
    """The codec of simple clients. `group` set: what they send is published there."""

    group: str | None = None
    no_echo: bool = False

    @property
    def wire(self) -> str:
        """All simple clients are written to alike."""
        return "plain"

    @property
    def named(self) -> bool:
        """A simple client has no subprotocol of the service."""
        return False

    @property
    def reliable(self) -> bool:
        """A bare payload has no room for a number."""
        return False

    def decode(self, message: str | bytes) -> Upstream:
        """Any message is a payload."""
        payload = Payload(TEXT, message.encode()) if isinstance(message, str) else Payload(BINARY, message)
        if self.group is None:
            return UserEvent(MESSAGE_EVENT, payload)
        return SendToGroup(self.group, payload, no_echo=self.no_echo)

    def encode(self, frame: Downstream) -> str | bytes | None:
        """The payload alone; frames without one are not told."""
        if not isinstance(frame, GroupMessage | ServerMessage):
            return None
        if frame.payload.data_type in (TEXT, JSON):
            return frame.payload.data.decode()
        return frame.payload.data

    def stamp(self, form: str | bytes, sequence_id: int) -> str | bytes:
        """Nothing to add: these clients are told payloads and nothing else."""
        return form
