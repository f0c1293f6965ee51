"""A transport with a client at its other end, who reads when a test says so."""

from __future__ import annotations

import asyncio
from typing import Any, cast

HIGH, LOW = 64 * 1024, 16 * 1024

Frames = list[tuple[int, bytes]]


class Transport:
    """What a server writes to, with bounds as asyncio's and uvloop's have; a client takes it away by `take`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, high: int = HIGH, low: int = LOW) -> None:
        self.loop = loop
        self.high, self.low = high, low
        # What the client has not read, what it has, and what it has said while nobody read.
        self.buffer = bytearray()
        self.taken = bytearray()
        self.unread = bytearray()
        # The most that was ever in the buffer, and how many times it was written to.
        self.most = self.writes = 0
        self.reading = True
        self.closing = self.ended = self.lost = self.aborted = False
        self.full = False
        # The client leaves its side open when the server has shut its own.
        self.stays = False
        # What knows of the client's side of the connection.
        self.socket: Any = None
        self.problem: Exception | None = None
        self.protocol: Any = None

    def as_transport(self) -> asyncio.Transport:
        """Itself, for those who look at types."""
        return cast(asyncio.Transport, self)

    # For the protocol

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes | bytearray)
        assert data
        assert not self.ended, "written behind the end"
        if self.problem is not None:
            raise self.problem
        if self.lost:
            return
        self.writes += 1
        self.buffer += data
        self.most = max(self.most, len(self.buffer))
        if len(self.buffer) > self.high and not self.full:
            self.full = True
            self.protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True
        self._end_if_done()

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def get_extra_info(self, name: str) -> Any:
        return {"socket": self.socket}[name]

    def pause_reading(self) -> None:
        assert not self.lost
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.lost
        self.reading = True
        if self.unread:
            self.loop.call_soon(self._read)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing, self.reading = True, False
            self._end_if_done()

    def abort(self) -> None:
        """Throw away what is not sent."""
        self.closing = self.aborted = True
        self.buffer.clear()
        self._lose()

    # For the client

    def say(self, data: bytes) -> None:
        """Send to the server."""
        self.unread += data
        self._read()

    def take(self, size: int | None = None) -> None:
        """Read so many bytes, or all that is there."""
        size = len(self.buffer) if size is None else size
        self.taken += self.buffer[:size]
        del self.buffer[:size]
        if self.full and len(self.buffer) <= self.low and not self.lost:
            self.full = False
            self.protocol.resume_writing()
        self._end_if_done()

    def cut(self) -> None:
        """The network fails."""
        self.abort()

    @property
    def frames(self) -> Frames:
        """Whole frames that the client has read; those of a message as one."""
        return unframed(bytes(self.taken))

    def _read(self) -> None:
        if self.reading and not self.closing and self.unread:
            data = bytes(self.unread)
            self.unread.clear()
            self.protocol.data_received(data)

    def end(self) -> None:
        """The client shuts its side."""
        if self.reading and not self.lost and not self.protocol.eof_received():
            self.close()

    def _end_if_done(self) -> None:
        if self.ended and not self.buffer and not self.stays:
            # It has read the end, and shuts its own side.
            self.loop.call_soon(self.end)
        if self.closing and not self.buffer:
            self._lose()

    def _lose(self) -> None:
        if not self.lost:
            self.lost, self.reading = True, False
            self.loop.call_soon(self.protocol.connection_lost, None)


def unframed(data: bytes) -> Frames:
    """A server's frames, taken apart; opcode and payload of each message or control frame."""
    frames: Frames = []
    at, opcode, pieces = 0, 0, b""
    while at + 2 <= len(data):
        first, size, start = data[at], data[at + 1], at + 2
        assert size < 0x80, "a server's frame with a mask"
        assert not first & 0x70
        if size > 125:
            wide = 2 if size == 126 else 8
            size, start = int.from_bytes(data[start : start + wide], "big"), start + wide
        if len(data) < start + size:
            break
        payload, at = data[start : start + size], start + size
        if first & 0x8:
            frames.append((first & 0xF, payload))
            continue
        opcode = first & 0xF or opcode
        pieces += payload
        if first & 0x80:
            frames.append((opcode, pieces))
            pieces = b""
    return frames
