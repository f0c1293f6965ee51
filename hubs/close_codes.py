"""How a client's WebSocket ends: each close code and reason, when it is used, and what the client does next.

The official SDKs decide by the code of the close frame: after 1008 they give up the connection and open a new
one; after most others, a reliable client recovers it. So each end has the code that makes clients do what is right. The
codes are those of RFC 6455, section 7.4.1; reasons that Azure Web PubSub is known to give are the same here.

A client with a subprotocol is told some of this by a `disconnected` frame as well. An end without a close frame has no
code; its reason is what event handlers read in `disconnected`. docs/close-codes.md is this table for users.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
UNSUPPORTED_DATA = 1003
# These two are never sent: a close frame without a code, and no close frame at all.
NO_CODE = 1005
CONNECTION_LOST = 1006
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
TOO_LARGE = 1009
INTERNAL_ERROR = 1011

# By which a client ends its connection: a close frame that says so, or one that says nothing (what some SDKs' stop()
# sends). So do those of a broken protocol: the same frames would come again. Anything else, the loss of the socket
# above all, is an accident.
BY_CLIENT_FOR_GOOD = (NORMAL, NO_CODE, PROTOCOL_ERROR, UNSUPPORTED_DATA, INVALID_DATA, TOO_LARGE)


class Then(Enum):
    """What a client should do next."""

    RECOVER = "reconnect; a reliable client recovers its connection"
    RENEW = "open a new connection"
    MEND = "correct what it sends before it reconnects"
    DONE = "nothing: this was intended"


@dataclass(frozen=True, slots=True)
class CloseReason:
    """One way in which it ends. `code` is None where no close frame is sent; an empty `reason` is none."""

    code: int | None
    reason: str
    when: str
    then: Then

    @property
    def frame(self) -> tuple[int, str]:
        """Code and reason of the close frame."""
        assert self.code is not None  # noqa: S101 - those without a frame are not sent
        return self.code, self.reason


# The process or the service goes

STOPPING = CloseReason(GOING_AWAY, "", "The process stops, or another version replaces it.", Then.RECOVER)
TAKEN_OVER = CloseReason(
    GOING_AWAY,
    "The connection was recovered by another socket.",
    "A later socket of the client has recovered the connection.",
    Then.DONE,
)
STOPPED = CloseReason(
    None, "The service is stopping.", "The last process stopped while the client was away.", Then.RENEW
)

PROCESS_DIED = CloseReason(
    None,
    "The server of this connection has stopped working.",
    "The process was killed, or another one took it for dead, and the connection is not reliable.",
    Then.RENEW,
)

# The client does not keep up, or is gone

QUEUE_FULL = CloseReason(
    POLICY_VIOLATION,
    "The outbound message queue is full.",
    "More than MAX_OUTBOX_MESSAGES or MAX_OUTBOX_BYTES were queued for the client.",
    Then.RENEW,
)
BUFFER_FULL = CloseReason(
    POLICY_VIOLATION,
    "The reliable message buffer is full.",
    "A reliable client left more than RELIABLE_BUFFER_MESSAGES or RELIABLE_BUFFER_BYTES unacknowledged.",
    Then.RENEW,
)
TOO_MANY_CHANGES = CloseReason(
    POLICY_VIOLATION,
    "Too many groups were joined and left between two acknowledgements.",
    "The groups of a reliable client changed more than 1,000 times since its last acknowledgement.",
    Then.RENEW,
)
NOT_READ = CloseReason(
    POLICY_VIOLATION,
    "The client did not read what was sent to it.",
    "The client read less than 1 KiB/s of what was queued for WRITE_TIMEOUT_SECS. A reliable connection is kept, and "
    "can be recovered; the SDKs do not try.",
    Then.RENEW,
)
NO_PONG = CloseReason(None, "The client did not answer a ping.", "A ping had no answer in time.", Then.RECOVER)
UNREACHABLE = CloseReason(
    None, "The client could not be reached.", "Its host stopped acknowledging what TCP sends it.", Then.RECOVER
)
RECOVERY_EXPIRED = CloseReason(
    None,
    "The connection recovery timeout expired.",
    "A reliable client did not come back within RECOVERY_SECS.",
    Then.RENEW,
)

# A recovery that is not possible

NOT_RECOVERED = CloseReason(
    POLICY_VIOLATION,
    "The connection could not be recovered.",
    "The connection has ended, the reconnection token is wrong, or what the client missed is not kept any more.",
    Then.RENEW,
)
MESSAGES_LOST = CloseReason(
    POLICY_VIOLATION,
    "Messages for this connection were lost; connect anew.",
    "Redis lost entries of the hub's log that a reliable client may not have received.",
    Then.RENEW,
)

# The client breaks the protocol

INVALID_FRAME = CloseReason(
    PROTOCOL_ERROR, "The client frame is invalid.", "A frame is not what RFC 6455 permits.", Then.MEND
)
JSON_NEEDS_TEXT = CloseReason(
    UNSUPPORTED_DATA,
    "The JSON subprotocol requires text messages.",
    "A client with a JSON subprotocol sent a binary message.",
    Then.MEND,
)
INVALID_TEXT = CloseReason(
    INVALID_DATA, "The client message is not valid UTF-8.", "A text message is not valid UTF-8.", Then.MEND
)
INVALID_JSON = CloseReason(
    INVALID_DATA,
    "The client message is not a valid JSON protocol message.",
    "A message is not JSON, or no frame of the subprotocol.",
    Then.MEND,
)
MESSAGE_TOO_LARGE = CloseReason(
    TOO_LARGE, "The client message is too large.", "A message is longer than MAX_MESSAGE_BYTES.", Then.MEND
)


def protobuf_needs_binary(subprotocol: str) -> CloseReason:
    """A client with a protobuf subprotocol, which the reason names, sent a text message."""
    return CloseReason(
        UNSUPPORTED_DATA,
        f"The {subprotocol} subprotocol requires binary messages.",
        "A client with a protobuf subprotocol sent a text message.",
        Then.MEND,
    )


def invalid_protobuf(subprotocol: str) -> CloseReason:
    """A message of a client with a protobuf subprotocol is no frame of it."""
    return CloseReason(
        INVALID_DATA,
        f"The client message is not a valid {subprotocol} protocol message.",
        "A message is not a frame of the subprotocol.",
        Then.MEND,
    )


# A simple client cannot be answered by an ack, so what fails ends its connection


def forbidden(reason: str) -> CloseReason:
    """A simple client published without the role for it; the reason says which one."""
    return CloseReason(
        POLICY_VIOLATION, reason, "A client without a subprotocol published without the role.", Then.MEND
    )


FAILED = CloseReason(
    INTERNAL_ERROR,
    "Internal server error",
    "An event of a client without a subprotocol failed or has no handler, or the server has a fault.",
    Then.RECOVER,
)

# What somebody wanted


def closed_by_service(reason: str) -> CloseReason:
    """The application closed the connection over REST, with a reason of its own; or none."""
    return CloseReason(NORMAL, reason, "The application closed the connection over REST.", Then.DONE)
