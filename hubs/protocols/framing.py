"""How a message becomes WebSocket frames (RFC 6455, section 5), for every server and for all receivers at once.

Netty, which Java's clients are built on, refuses a frame of more than 65,536 bytes unless told
otherwise. So a longer message is cut, and a shorter one is not, because some of those clients
cannot put a text together again. All frames of a message are one piece of bytes and written at once,
so nothing, be it another message, a ping or a close, can come between them.

A server's frames are not masked and there is no compression here, so the bytes depend on the
message alone. That makes this shorter, and a good deal faster, than what the server libraries do for
each receiver of each message.
"""

from __future__ import annotations

import struct

MAX_FRAME_BYTES = 65_536

TEXT, BINARY = 0x1, 0x2
_CONTINUATION = 0x0
_FINAL = 0x80

_SHORT = struct.Struct("!BB").pack
_MEDIUM = struct.Struct("!BBH").pack
_LONG = struct.Struct("!BBQ").pack


def frames_of(message: str | bytes) -> bytes:
    """Frames of a message, of its own kind."""
    return binary_frames(message) if isinstance(message, bytes) else text_frames(message.encode())


def text_frames(payload: bytes) -> bytes:
    """Frames of a text message in UTF-8. Characters stay whole, for readers who look at single frames."""
    return _frame(_FINAL | TEXT, payload) if len(payload) <= MAX_FRAME_BYTES else _cut(TEXT, payload)


def binary_frames(payload: bytes) -> bytes:
    """Frames of a binary message."""
    return _frame(_FINAL | BINARY, payload) if len(payload) <= MAX_FRAME_BYTES else _cut(BINARY, payload)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return _SHORT(first, size) + payload
    if size < 1 << 16:
        return _MEDIUM(first, 126, size) + payload
    return _LONG(first, 127, size) + payload


def _cut(opcode: int, payload: bytes) -> bytes:
    frames: list[bytes] = []
    start, kind = 0, opcode
    while len(payload) - start > MAX_FRAME_BYTES:
        end = start + MAX_FRAME_BYTES
        # In UTF-8 all bytes of a character but its first begin with the bits 10; there are three at most.
        while opcode == TEXT and payload[end] & 0xC0 == 0x80:
            end -= 1
        frames.append(_frame(kind, payload[start:end]))
        start, kind = end, _CONTINUATION
    frames.append(_frame(_FINAL | kind, payload[start:]))
    return b"".join(frames)
