"""Bad news, in two families.

    ServiceError
    ├── Refusal            answered, and the connection lives on
    │   ├── Forbidden          a role is missing
    │   ├── Duplicate          this ackId already succeeded
    │   ├── TooMany            a bound of this service was reached
    │   ├── Unavailable        other processes of the service cannot be reached, or did not answer
    │   │   └── DatabaseUnavailable
    │   ├── NotFound           the connection, user or group a caller named is not there
    │   ├── NoHandler          nobody takes this event
    │   └── HandlerFailed      the event handler failed, or did not answer in time
    ├── Disconnect         ends the socket, with a WebSocket close code and reason
    └── HandshakeRefused   ends the handshake, with an HTTP status

Each door translates once: connections/connection.py to acks, consumers.py to close frames and
HTTP statuses, rest/exceptions.py to REST errors. Texts here reach clients; they never carry tokens,
payloads or details of unexpected faults.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus


class ServiceError(Exception):
    """Anything this service says no with."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Refusal(ServiceError):
    """An operation that was not done; its ack carries `name` and the message."""

    name = "InternalServerError"


class Forbidden(Refusal):
    """The client lacks the role for what it asked."""

    name = "Forbidden"


class Duplicate(Refusal):
    """The operation with this ackId was done before and is not done again."""

    name = "Duplicate"

    def __init__(self, ack_id: int) -> None:
        super().__init__(f"Message with ack-id: {ack_id} has been processed")


class TooMany(Refusal):
    """A bound of the service was reached; the message names it."""


class Unavailable(Refusal):
    """Other processes cannot be reached or did not answer, so the operation is not done, or not everywhere.

    `outcome`: set where what was to be published may be in the log all the same (cluster/log.py); done as soon as it
    is known whether it is.
    """

    outcome: asyncio.Future[bool] | None = None
    # What Retry-After says where this is answered over HTTP.
    retry_after_secs = 1


class DatabaseUnavailable(Unavailable):
    """The database cannot be used, and what this process remembers of it is not enough, or too old."""

    retry_after_secs = 5

    def __init__(self, message: str = "The database is unavailable. Try again later.") -> None:
        super().__init__(message)


class NotFound(Refusal):
    """What the caller named does not exist (any more)."""

    name = "NotFound"


class NoHandler(Refusal):
    """No event handler and no listener takes this event."""

    def __init__(self) -> None:
        super().__init__("Internal server error")


class HandlerFailed(Refusal):
    """The event handler answered with a failure, or not at all."""

    def __init__(self) -> None:
        super().__init__("Internal server error")


class Disconnect(ServiceError):
    """The socket has to be closed; `message` is the close frame's reason (at most 123 bytes)."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code


class HandshakeRefused(ServiceError):
    """The handshake is answered with an HTTP status instead of 101; `message` is its short body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = HTTPStatus(status)
