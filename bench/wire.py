"""WebSocket as a load generator needs it: cheap to count, strict about anything unexpected.

A general WebSocket library spends more on a frame than the server under test does. What arrives
here is simpler than the standard allows (a server's frames are unmasked, these servers do not
fragment short messages), so reading a frame is reading its length. Pure: bytes in, values out.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import struct

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

_FINAL = 0x80
_DATA = (_FINAL | TEXT, _FINAL | BINARY)
_CONTROL = (_FINAL | CLOSE, _FINAL | PING, _FINAL | PONG)
CONTROL = frozenset(_CONTROL)
_MASKED = 0x80
# RFC 6455 §5.3 wants a client's masking key to be unpredictable, to protect proxies. There is no proxy on
# loopback, and with this key a payload masks to itself.
_MASK = b"\0\0\0\0"
_ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_RESPONSE_BYTES = 16 * 1024


class Unexpected(Exception):
    """The server said something that no server in this bench should say."""


def client_frame(opcode: int, payload: bytes) -> bytes:
    """Write one final frame as a client does."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", _FINAL | opcode, _MASKED | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", _FINAL | opcode, _MASKED | 126, size)
    else:
        head = struct.pack("!BBQ", _FINAL | opcode, _MASKED | 127, size)
    return head + _MASK + payload


def server_frame(opcode: int, payload: bytes) -> bytes:
    """Write one final frame as a server does."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", _FINAL | opcode, size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", _FINAL | opcode, 126, size)
    else:
        head = struct.pack("!BBQ", _FINAL | opcode, 127, size)
    return head + payload


def payload_of(data: bytes, at: int = 0) -> tuple[int, int] | None:
    """Where the payload of a server's frame begins and ends, once its head is there."""
    if len(data) - at < 2:
        return None
    size = data[at + 1]
    start = at + 2
    if size >= 126:
        start += 2 if size == 126 else 8
        if start > len(data):
            return None
        size = int.from_bytes(data[at + 2 : start], "big")
    return start, start + size


class Handshake:
    """The opening request, and whether its response is the right one."""

    def __init__(self, target: str, host: str, subprotocol: str | None) -> None:
        self._key = base64.b64encode(secrets.token_bytes(16))
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: {host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {self._key.decode()}",
            "Sec-WebSocket-Version: 13",
        ]
        if subprotocol is not None:
            lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
        self.request = "\r\n".join([*lines, "", ""]).encode()
        self._received = b""

    def feed(self, data: bytes) -> bytes | None:
        """Take a piece of the response; gives what follows it once it is complete. Raises Unexpected."""
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            if len(self._received) > _MAX_RESPONSE_BYTES:
                raise Unexpected("a response to the handshake without an end")
            return None
        status, *headers = head.split(b"\r\n")
        if status.split(b" ")[1:2] != [b"101"]:
            raise Unexpected(f"the handshake was refused: {status.decode('latin-1')} {rest[:200].decode('latin-1')}")
        accept = base64.b64encode(hashlib.sha1(self._key + _ACCEPT_SUFFIX, usedforsecurity=False).digest())
        if accept not in (line.partition(b":")[2].strip() for line in headers):
            raise Unexpected("the handshake's answer is not to our key")
        return rest


class FrameCounter:
    """Counts the messages in a stream of server frames, and sets control frames aside."""

    __slots__ = ("_rest", "control", "keep", "messages")

    def __init__(self) -> None:
        self._rest = b""
        # Control frames since last looked at, as (opcode, payload).
        self.control: list[tuple[int, bytes]] = []
        # Whether messages are kept to be read, which is for getting ready and not for counting at speed.
        self.keep = True
        self.messages: list[bytes] = []

    def feed(self, data: bytes) -> int:
        """Take a piece of the stream; gives how many messages ended in it. Raises Unexpected."""
        if self._rest:
            data = self._rest + data
        count = 0
        at = 0
        available = len(data)
        while (payload := payload_of(data, at)) is not None:
            start, end = payload
            if end > available:
                break
            first = data[at]
            if first in _DATA:
                count += 1
                if self.keep:
                    self.messages.append(data[start:end])
            elif first in _CONTROL:
                self.control.append((first & 0x0F, data[start:end]))
            else:
                raise Unexpected(f"a frame that starts with 0x{first:02x}")
            at = end
        self._rest = data[at:]
        return count

    def rest(self) -> bytes:
        """Give away the frame that has begun."""
        rest, self._rest = self._rest, b""
        return rest
