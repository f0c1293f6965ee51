"""How a conversation over a WebSocket ends, for both servers: codes, reasons, and what the application hears.

An application hears of the end once, in its turn after all messages, by `websocket.disconnect`:

    1006           the connection was lost, without a close frame; with a reason if the server has cut it off,
                   because the client was not there (keep_alive.py)
    1008           the server has closed, because the client did not read
    1005           the client closed and gave no code
    any other      the client closed, with this code and `reason`
    1002 1007 1009 the client broke the protocol, and `reason` is what it was told
    1001           the server stops
    its own        the application has closed; with the code and reason it gave

A receiver of the extension that is told of a fault decides when it is closed: behind what is still done for it.

It hears so at the moment when it is decided, not when the socket is gone: a client that has closed,
or has to be closed, may take its time over that.
"""

from __future__ import annotations

from typing import Any

from hubs import close_codes
from hubs.protocols.codec import CODECS
from hubs.protocols.extension import SILENT_SECS

Event = dict[str, Any]

# How long a client may take for its part of the closing handshake, and for reading what is left.
CLOSING_SECS = 10.0
# A client that has sent and taken nothing for so long is not waited for, while the server stops; and so long the server
# waits for the rest of a frame that is too large before it shuts its side. To some clients an end in the middle of
# sending is an error of its own.
QUIET_SECS = 1.0
# How long all of that may take when the server itself is stopping and everybody waits for it.
STOPPING_SECS = 2.0

# What a server says when it closes by itself.
_REASONS = {
    each.code: each.reason for each in (close_codes.INVALID_FRAME, close_codes.MESSAGE_TOO_LARGE, close_codes.FAILED)
}


def disconnected(code: int, reason: str = "", silent_secs: float = 0) -> Event:
    """The event that tells the application of the end.

    `silent_secs`: for how long nothing had come from a client that was cut off for that; ASGI has no word for it.
    """
    event: Event = {"type": "websocket.disconnect", "code": code, "reason": reason}
    if silent_secs:
        event[SILENT_SECS] = silent_secs
    return event


def reason(code: int, subprotocol: str | None) -> str:
    """The reason that goes into the close frame when the server closes by itself with `code`."""
    if code != close_codes.INVALID_DATA:
        return _REASONS.get(code, "")
    # Bytes that are no text are no JSON either; a JSON client is told in the words that its codec has for that.
    codec = CODECS.get((subprotocol or "").lower())
    is_json = codec is not None and codec.wire == "json"
    return (close_codes.INVALID_JSON if is_json else close_codes.INVALID_TEXT).reason
