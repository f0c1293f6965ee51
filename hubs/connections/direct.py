"""Both ways to and from a client whose server offers the extension `hubwire.direct`.

There is no coroutine and no queue between the socket and the connection: a message is handled when
it is read, and frames are written as finished bytes that all receivers of a wire format share. Only
when the client does not keep up do frames queue here: those that the server gives back (`missed`). It
knows best which they are, since it still has what this turn of the loop wrote to many at once. So
frames are written to a full socket, too, and come back behind all that were written before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from hubs import close_codes
from hubs.connections import eviction
from hubs.connections.outbox import CLOSING_SECS, Outbox, short
from hubs.errors import Disconnect
from hubs.protocols.codec import Batch, Codec, Message, Outgoing, Stamps
from hubs.protocols.extension import Socket
from hubs.protocols.framing import frames_of

if TYPE_CHECKING:
    from hubs.connections.connection import Connection

# How long a client that goes on reading may take for what it is still to get before the close frame.
MAX_CLOSING_SECS = 20.0


class DirectOutbox(Outbox):
    """A socket's receiver, and the way out through it. `connection` is whose socket it is, if it still is."""

    __slots__ = ("_begin", "_close", "_free", "_full", "_socket", "_write", "connection")

    def __init__(self) -> None:
        super().__init__()
        self.connection: Connection | None = None
        # Called when the socket is open.
        self._begin: Callable[[], None] | None = None
        self._socket: Socket | None = None
        self._write: Callable[[bytes], None] = _nowhere
        # What to close with, once all that waits is written.
        self._close: tuple[int, str] | None = None
        # The client does not keep up. Free: what is put goes to the socket, which gives back what it has no room for.
        self._full = self._free = False

    @property
    def socket(self) -> Socket | None:
        """Where finished frames can be written, once the socket is open and as long as it is."""
        return None if self._corked or self._closing else self._socket

    def begin_with(self, connection: Connection, begin: Callable[[], None]) -> None:
        """Have `begin` called when the socket is open, which then is the connection's."""
        self.connection = connection
        self._begin = begin

    # To the client

    def put(self, message: Message) -> None:
        """Send a message after all earlier ones; never waits."""
        self.put_frames(frames_of(message))

    def put_shared(self, outgoing: Outgoing, codec: Codec) -> None:
        """Send a message that others get too."""
        frames = outgoing.frames(codec)
        if frames is not None:
            self.put_frames(frames)

    def put_stamped(self, stamps: Stamps, sequence_id: int) -> None:
        """Send a message that others get too, with a number of its own."""
        self.put_frames(stamps[sequence_id])

    def put_batch(self, batch: Batch, first: int) -> None:
        """Send several such messages, numbered from `first` on."""
        if self._free:
            self._write(batch.frames(first))
        else:
            super().put_batch(batch, first)

    def put_frames(self, frames: bytes) -> None:
        """Send finished frames."""
        if self._free:
            self._write(frames)
        elif not self._closing:
            self._enqueue(frames, len(frames))

    def close(self, code: int, reason: str = "") -> None:
        """Close the socket after what was put so far. Later puts are dropped."""
        if self._closing:
            return
        if self._free and self._socket is not None:
            # Or what was written to many just now would come back when nothing is taken any more.
            self._socket.settle()
            if self._closing:
                return
        self._closing = True
        self._free = False
        if self._socket is None or self._queue:
            self._close = (code, short(reason))
            self._be_patient(asyncio.get_running_loop().time() + MAX_CLOSING_SECS)
        else:
            self._socket.close(code, short(reason))

    def uncork(self) -> None:
        """The handshake is done: send what waits."""
        self._corked = False
        self._go_on()

    def abandon(self) -> None:
        """The socket is gone, or of no interest any more: drop what waits."""
        super().abandon()
        self._free = False
        self._close = None
        self._begin = None

    def _go_on(self) -> None:
        if self._corked or self._socket is None:
            return
        self._free = not self._closing
        while self._queue and not self._full:
            self._write(self._next())
        if self._queue:
            return
        if self._close is not None:
            (code, reason), self._close = self._close, None
            self._socket.close(code, reason)

    def _be_patient(self, until: float) -> None:
        """Wait for a client to read what it is still to get before the close frame, as long as it reads."""
        asyncio.get_running_loop().call_later(CLOSING_SECS, self._lose_patience, self._bytes, until)

    def _lose_patience(self, waited: int, until: float) -> None:
        if self._close is None:
            return
        if self._socket is None or (self._bytes < waited and asyncio.get_running_loop().time() < until):
            self._be_patient(until)
        else:
            self._clear()
            self._go_on()

    def _too_slow(self, cause: str, waiting: str) -> None:
        asyncio.get_running_loop().call_soon(self._give_up, cause, waiting)

    def _give_up(self, cause: str, waiting: str) -> None:
        connection = self.connection
        if connection is not None and connection.outbox is self:
            eviction.log(connection, cause, waiting)
            connection.give_up(close_codes.QUEUE_FULL.reason)

    # From the server

    def opened(self, socket: Socket) -> None:
        """The handshake is answered."""
        self._socket = socket
        self._write = socket.write
        begin, self._begin = self._begin, None
        if begin is not None:
            begin()

    def receive(self, message: Message) -> None:
        """A message has come."""
        connection = self.connection
        # Not when it is over, nor when another socket has taken its place.
        if connection is None or connection.outbox is not self or connection.closing or self._socket is None:
            return
        if not connection.receive_nowait(message):
            self._socket.hold()
            connection.frames.when_room(self._socket.read_on)

    def broken(self, code: int, reason: str) -> None:
        """The client broke the protocol; what it sent before is handled and answered first."""
        connection = self.connection
        if connection is None or connection.outbox is not self or connection.closing:
            self.close(code, reason)
        else:
            connection.frames.fail(Disconnect(code, reason))

    def full(self) -> None:
        """The client does not keep up."""
        self._full = True

    def room(self) -> None:
        """The client has caught up."""
        self._full = False
        self._go_on()

    def missed(self, frames: bytes) -> None:
        """Something that was put, or that went to many, was not written."""
        if not self._closing:
            self._enqueue(frames, len(frames))

    def gone(self, code: int, reason: str) -> None:
        """The conversation is over."""
        connection, self.connection = self.connection, None
        if connection is not None and connection.outbox is self:
            self.log_end(connection, reason)
        self.silent_secs = 0.0 if self._socket is None else self._socket.silent_secs
        self.abandon()
        self._socket = None
        self._write = _nowhere
        if connection is not None:
            connection.socket_gone(self, code, reason)


def _nowhere(frames: bytes) -> None:
    """Where a socket that is not there writes."""
