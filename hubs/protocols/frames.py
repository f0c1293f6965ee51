"""What client and service say to each other, free of any wire format.

Field names follow the client protocol's; `ack_id` is an unsigned 64-bit integer or None. Payloads
are kept as bytes whatever their type, because most are only passed on.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

JSON = "json"
TEXT = "text"
BINARY = "binary"
PROTOBUF = "protobuf"
DATA_TYPES = (JSON, TEXT, BINARY, PROTOBUF)

_SHOWN_BYTES = 60


class _Value(msgspec.Struct, frozen=True, gc=False):
    """One is made for nearly every message, which with dataclasses takes several times as long. None holds itself."""


class Payload(_Value, frozen=True):
    """What is being sent: JSON text, text (both as UTF-8), raw bytes, or a serialised protobuf Any."""

    data_type: str
    data: bytes

    def __str__(self) -> str:
        """Short enough for a log, whatever the bytes are."""
        shown = self.data[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
        more = f"… {len(self.data)} bytes" if len(self.data) > _SHOWN_BYTES else ""
        return f"{self.data_type} {shown!r}{more}"


# From the client


class JoinGroup(_Value, frozen=True):
    """Become a member of a group."""

    group: str
    ack_id: int | None = None


class LeaveGroup(_Value, frozen=True):
    """Stop being a member of a group."""

    group: str
    ack_id: int | None = None


class SendToGroup(_Value, frozen=True):
    """Publish to a group.

    `ttl_secs`: how long it may wait for a client that is away, 1 to 300; 0 or None, as long as the client may be.
    """

    group: str
    payload: Payload
    ack_id: int | None = None
    no_echo: bool = False
    ttl_secs: int | None = None
    metadata: Mapping[str, str] | None = None


class UserEvent(_Value, frozen=True):
    """Something for the event handler."""

    event: str
    payload: Payload
    ack_id: int | None = None
    metadata: Mapping[str, str] | None = None


class Ping(_Value, frozen=True):
    """Ask for a Pong."""


class SequenceAck(_Value, frozen=True):
    """All data frames up to `sequence_id` have arrived (reliable subprotocols)."""

    sequence_id: int


class Invoke(_Value, frozen=True):
    """A user event whose answer the client waits for, under an id of its own choosing."""

    invocation_id: str
    event: str
    payload: Payload | None = None
    metadata: Mapping[str, str] | None = None


class CancelInvocation(_Value, frozen=True):
    """Nobody waits for this invocation any more."""

    invocation_id: str


# Both ways


class InvokeResponse(_Value, frozen=True):
    """What came of an invocation; `error_name` is None when it succeeded.

    A client may write one too. Nothing is ever invoked on a client, so that one answers nothing.
    """

    invocation_id: str
    payload: Payload | None = None
    error_name: str | None = None
    error_message: str = ""
    metadata: Mapping[str, str] | None = None


Upstream = (
    JoinGroup | LeaveGroup | SendToGroup | UserEvent | Ping | SequenceAck | Invoke | CancelInvocation | InvokeResponse
)

# From the service


class Connected(_Value, frozen=True):
    """The first frame of a connection."""

    connection_id: str
    user_id: str | None = None
    reconnection_token: str | None = None


class Disconnected(_Value, frozen=True):
    """Said right before the service closes the socket."""

    message: str


class Ack(_Value, frozen=True):
    """How the operation with `ack_id` went; `error_name` is None when it succeeded."""

    ack_id: int
    error_name: str | None = None
    error_message: str = ""


class GroupMessage(_Value, frozen=True):
    """A message that was published to a group."""

    group: str
    payload: Payload
    from_user_id: str | None = None
    metadata: Mapping[str, str] | None = None


class ServerMessage(_Value, frozen=True):
    """A message from the application's server or event handler."""

    payload: Payload
    metadata: Mapping[str, str] | None = None


class Pong(_Value, frozen=True):
    """The answer to a Ping."""


Downstream = Connected | Disconnected | Ack | GroupMessage | ServerMessage | Pong | InvokeResponse

# What is counted and kept for reliable clients; everything else is said once.
DATA_FRAMES = (GroupMessage, ServerMessage)
