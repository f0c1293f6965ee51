"""How a conversation over a WebSocket ends, for both servers: codes, reasons, and what the application hears.

An application hears of the end once, in its turn after all messages, by `websocket.disconnect`:

    1006           the connection was lost, without a close frame: cut off, or silent after a ping
    1005           the client closed and gave no code
    any other      the client closed, with this code and `reason`
    1002 1007 1009 the client broke the protocol, and `reason` is what it was told
    1001           the server stops
    its own        the application has closed; with the code and reason it gave

It hears so at the moment when it is decided, not when the socket is gone: a client that has closed,
or has to be closed, may take its time over that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hubs.protocols import json
from hubs.protocols.codec import CODECS

Event = dict[str, Any]

GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
NO_CODE = 1005
CONNECTION_LOST = 1006
INVALID_DATA = 1007
TOO_LARGE = 1009
INTERNAL_ERROR = 1011

# How long a client may take for its part of the closing handshake, and for reading what is left.
CLOSING_SECS = 10.0
# A client that has sent nothing for so long, after it was told to go, has nothing on its way any more.
QUIET_SECS = 1.0
# How long all of that may take when the server itself is stopping and everybody waits for it.
STOPPING_SECS = 2.0

_REASONS = {
    PROTOCOL_ERROR: "The client frame is invalid.",
    TOO_LARGE: "The client message is too large.",
    INTERNAL_ERROR: "Internal server error",
}


def disconnected(code: int, reason: str = "") -> Event:
    """The event that tells the application of the end."""
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def reason(code: int, subprotocol: str | None) -> str:
    """The reason that goes into the close frame when the server closes by itself with `code`."""
    if code != INVALID_DATA:
        return _REASONS.get(code, "")
    # Bytes that are no text are no JSON either; a JSON client is told in the words that its codec has for that.
    codec = CODECS.get((subprotocol or "").lower())
    return json.INVALID if codec is not None and codec.wire == "json" else "The client message is not valid UTF-8."


class Parting:
    """Hangs up on a client that broke the protocol, when it has stopped sending.

    What such a client sends is thrown away, its answer to the close frame included, so nothing tells
    that it is done. To hang up at once would be no good: a socket that is closed with bytes unread is
    reset, and the client might never see why; and even one that is only closed in our direction makes
    some clients stumble that are in the middle of sending.
    """

    __slots__ = ("_hang_up", "_heard", "_timer")

    def __init__(self, hang_up: Callable[[], object]) -> None:
        self._hang_up = hang_up
        self._heard = False
        self._wait()

    def heard(self) -> None:
        """The client has sent something."""
        self._heard = True

    def cancel(self) -> None:
        """The socket is gone."""
        self._timer.cancel()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(QUIET_SECS, self._look)

    def _look(self) -> None:
        if self._heard:
            self._heard = False
            self._wait()
        else:
            self._hang_up()
