"""How bytes from a client become WebSocket messages (RFC 6455, section 5).

A `Reader` is fed what the socket gives and asked for the next frame until it has none. It keeps a
frame that is not complete yet, and the pieces of a message that comes in several; what it keeps is
bounded by the size of a message. A frame that is too large is refused when its head is read, before
any of the rest is there. A text in several pieces is refused at the first piece that is no UTF-8; one
that comes whole is for the caller to decode, once.

The libraries that servers use for this follow a frame through half a dozen generators; for a client
that publishes, that was more work than everything the service does with the message. The one costly
step, taking the mask off, is done in C by the library `websockets`.

Pure: bytes in, values out.
"""

from __future__ import annotations

import codecs

from websockets.exceptions import ProtocolError
from websockets.frames import Close
from websockets.speedups import apply_mask

from hubs import close_codes

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_FINAL = 0x80
_RESERVED = 0x70
_OPCODE = 0x0F
_MASKED = 0x80
_MASK_BYTES = 4
_MAX_CONTROL_BYTES = 125
_NO_MASK = b"\0\0\0\0"
# The least size that may be written in so many bytes of head (RFC 6455, section 5.2).
_LEAST = {4: 126, 10: 1 << 16}

_text_decoder = codecs.getincrementaldecoder("utf-8")

# A whole text or binary message, or the payload of a control frame, with the opcode of its first frame.
Message = tuple[int, bytes | bytearray]
# Stands for a piece of a message that was read and kept; so who counts what is read counts frames.
PIECE: Message = CONTINUATION, b""


class Fault(Exception):
    """The client broke the protocol; `code` is what it is to be closed with.

    `rest`: so many bytes it is still about to send, of a frame that was refused by its head.
    """

    def __init__(self, code: int, rest: int = 0) -> None:
        super().__init__(code)
        self.code = code
        self.rest = rest


class Reader:
    """What one client has sent and nobody has read."""

    __slots__ = ("_at", "_data", "_kind", "_max_bytes", "_needed", "_pieces", "_text")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data: bytes | bytearray = b""
        self._at = 0
        # So many bytes have to be there before looking again is worth the while.
        self._needed = 0
        # A message of which there is not everything yet: its opcode and what is there.
        self._kind = 0
        self._pieces: bytearray | None = None
        # If it is a text: what sees that its pieces make one.
        self._text: codecs.IncrementalDecoder | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes from the socket."""
        if self._at == len(self._data):
            self._data, self._at = data, 0
            return
        if not isinstance(self._data, bytearray):
            self._data = bytearray(self._data)
        # Once a piece of a message has been read, so that small pieces of a long one are not moved each time.
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data

    def next(self) -> Message | None:
        """Read a frame: the message that is complete with it, or PIECE; None when more has to come. Raises Fault."""
        data, at = self._data, self._at
        left = len(data) - at
        if left < 2 or left < self._needed:
            if not left:
                # Not kept for the next time: most clients are silent most of the time.
                self._data, self._at = b"", 0
            return None
        first, size = data[at], data[at + 1]
        if first & _RESERVED or not size & _MASKED:
            raise Fault(close_codes.PROTOCOL_ERROR)
        size &= ~_MASKED
        opcode = first & _OPCODE
        start = 2
        if opcode & CLOSE:
            if opcode > PONG or size > _MAX_CONTROL_BYTES or not first & _FINAL:
                raise Fault(close_codes.PROTOCOL_ERROR)
        elif opcode > BINARY:
            raise Fault(close_codes.PROTOCOL_ERROR)
        if size > _MAX_CONTROL_BYTES:
            start = 4 if size == 126 else 10
            if left < start:
                return None
            size = int.from_bytes(data[at + 2 : at + start], "big")
            if size >> 63 or size < _LEAST[start]:
                raise Fault(close_codes.PROTOCOL_ERROR)
        if opcode < CLOSE:
            pieces = self._pieces
            if (pieces is None) is (opcode == CONTINUATION):
                raise Fault(close_codes.PROTOCOL_ERROR)
            if size + (0 if pieces is None else len(pieces)) > self._max_bytes:
                raise Fault(close_codes.TOO_LARGE, max(0, start + _MASK_BYTES + size - left))
        end = start + _MASK_BYTES + size
        if left < end:
            self._needed = end
            return None
        self._needed = 0
        start += at
        mask = data[start : start + _MASK_BYTES]
        payload: bytes | bytearray = data[start + _MASK_BYTES : at + end]
        if mask != _NO_MASK:
            payload = apply_mask(payload, mask)
        self._at = at + end
        if opcode >= CLOSE:
            return opcode, payload
        if pieces is None and first & _FINAL:
            return opcode, payload
        if pieces is None:
            self._kind, self._pieces = opcode, bytearray(payload)
            self._text = _text_decoder() if opcode == TEXT else None
        else:
            pieces += payload
        if self._text is not None:
            try:
                self._text.decode(payload, bool(first & _FINAL))
            except UnicodeDecodeError:
                raise Fault(close_codes.INVALID_DATA) from None
        if pieces is not None and first & _FINAL:
            self._pieces = self._text = None
            return self._kind, pieces
        return PIECE

    @property
    def waits(self) -> bool:
        """Whether there are bytes that have not been looked at; not if they are known to be too few."""
        left = len(self._data) - self._at
        return left >= 2 and left >= self._needed


def close_of(payload: bytes | bytearray) -> tuple[int, str]:
    """Code and reason of a close frame; 1005 where it has none. Raises Fault."""
    try:
        close = Close.parse(bytes(payload))
    except UnicodeDecodeError:
        raise Fault(close_codes.INVALID_DATA) from None
    except ProtocolError:
        raise Fault(close_codes.PROTOCOL_ERROR) from None
    return close.code, close.reason
