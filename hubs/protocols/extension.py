"""The ASGI extension `hubwire.direct`: what servers and applications have to agree on (docs/asgi-extension.md).

An application that accepts a WebSocket may name a receiver in its `websocket.accept`, under
`EXTENSION`, if the scope's extensions have that name. Then its coroutine may end, and both sides call
each other: the server the receiver, the application the socket. Nobody ever waits in such a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

EXTENSION = "hubwire.direct"

# In a `websocket.disconnect`, where a client was cut off for its silence: for how long nothing had come from it.
SILENT_SECS = "hubwire.silent_secs"


class Audience(Protocol):
    """Sockets that are written to together."""

    def write(self, frames: bytes) -> None:
        """Send the same finished frames to all, behind everything written to each so far.

        A socket that is full is passed over, and its receiver gets them back (`missed`); one that is closed is
        passed over.
        """


class Socket(Protocol):
    """The server's side of a WebSocket."""

    @property
    def server(self) -> object:
        """Whose it is: sockets of the same server can be written to together."""

    def together(self, sockets: Sequence[Any]) -> Audience:
        """Sockets of the same server, this one among them, as one audience. Made once and used often."""

    def write(self, frames: bytes) -> None:
        """Send finished frames (framing.py); those of one turn of the event loop leave together.

        While the socket is full they are given back (`missed`); after its end they are dropped.
        """

    @property
    def silent_secs(self) -> float:
        """When `gone` is called for a client that was not there: for how long nothing had come from it, at least."""

    def settle(self) -> None:
        """Have everything that was written to audiences so far written here, or given back, now.

        For a receiver that puts something of its own behind what it was given back.
        """

    def close(self, code: int, reason: str = "") -> None:
        """Close, behind everything written so far. `gone` follows in the next turn of the loop.

        The reason has at most 123 bytes in UTF-8.
        """

    def hold(self) -> None:
        """Give the receiver no more messages, until `read_on` or right before `gone`.

        A little is read ahead, and pings are answered; what comes beyond that waits in the client's own socket.
        """

    def read_on(self) -> None:
        """Give it messages again, from a later turn of the loop on."""


class Receiver(Protocol):
    """The application's side."""

    def opened(self, socket: Socket) -> None:
        """The handshake is answered; from now on there may be written."""

    def receive(self, message: str | bytes) -> None:
        """A whole message has come, a text or a binary one."""

    def broken(self, code: int, reason: str) -> None:
        """The client broke the protocol, and nothing more of it is read.

        The receiver closes with this code and reason: now, or when what came before is done. `gone` may come earlier.
        """

    def full(self) -> None:
        """The client does not keep up: nothing is written before `room`."""

    def room(self) -> None:
        """The client has caught up."""

    def missed(self, frames: bytes) -> None:
        """Frames were not written, since the socket is full. All that come so are in the order in which they were."""

    def gone(self, code: int, reason: str) -> None:
        """The conversation is over, code and reason as in `websocket.disconnect`. Said once, and nothing follows."""
