"""A WebSocket client that shows every frame as it is, and can break every rule."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

from tests.running import PATIENCE

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


@dataclass
class Frame:
    final: bool
    reserved: int
    opcode: int
    payload: bytes


def frame(
    opcode: int, payload: bytes = b"", *, final: bool = True, reserved: int = 0, masked: bool = True, size: int = -1
) -> bytes:
    """A client's frame; with `size` its header lies about the length."""
    size = len(payload) if size < 0 else size
    first, bit = (final << 7) | (reserved << 4) | opcode, masked << 7
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    pad = mask * (len(payload) // 4 + 1)
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(pad[: len(payload)], "big")
    return head + mask + mixed.to_bytes(len(payload), "big")


class RawClient:
    """One TCP connection to a server under test."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def connect(self, port: int, query: str = "") -> None:
        self.target = f"/{self.name}" + (f"?{query}" if query else "")
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)

    @property
    def socket(self) -> socket.socket:
        found: socket.socket = self.writer.get_extra_info("socket")
        return found

    def request(self, subprotocol: str | None = None) -> None:
        """Begin the handshake."""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {self.target} HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        if subprotocol is not None:
            lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def handshake(self, subprotocol: str | None = None) -> None:
        self.request(subprotocol)
        async with asyncio.timeout(PATIENCE):
            answer = await self.reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 "), answer

    # Speaking

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def send(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        self.write(frame(opcode, payload, **options))

    def order(self, do: str, **options: Any) -> None:
        """Tell the application to do something."""
        self.send(TEXT, json.dumps({"do": do} | options).encode())

    def send_close(self, code: int | None = None, reason: str = "") -> None:
        self.send(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())

    # Listening

    async def frame(self) -> Frame:
        async with asyncio.timeout(PATIENCE):
            first, second = await self.reader.readexactly(2)
            assert not second & 0x80, "a server's frames are not masked"
            size = second
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
                assert size > 125
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
                assert size > 0xFFFF
            payload = await self.reader.readexactly(size)
        return Frame(bool(first & 0x80), (first >> 4) & 7, first & 15, payload)

    async def message(self) -> list[Frame]:
        """All frames of the next message; any other between them fails the test."""
        frames = [await self.frame()]
        assert frames[0].opcode in (TEXT, BINARY), frames[0]
        while not frames[-1].final:
            frames.append(await self.frame())
            assert frames[-1].opcode == CONTINUATION, frames[-1]
        assert not any(each.reserved for each in frames)
        return frames

    async def echo(self) -> Any:
        """The description of a message, as the application echoes it."""
        (answer,) = await self.message()
        return json.loads(answer.payload)

    async def close_frame(self, *, after: int = CLOSE) -> tuple[int | None, str]:
        """The server's close frame, which has to be the next one; with `after`, such frames may come before."""
        close = await self.frame()
        while close.opcode == after != CLOSE:
            close = await self.frame()
        assert (close.final, close.opcode) == (True, CLOSE), close
        return (struct.unpack("!H", close.payload[:2])[0] if close.payload else None), close.payload[2:].decode()

    async def hung_up(self) -> None:
        """The server has nothing more to say, and closes its direction at least."""
        async with asyncio.timeout(PATIENCE):
            assert await self.reader.read(1 << 16) == b""

    async def cut_off(self) -> int:
        """Read what there still is until the connection has gone in whatever way; gives how much that was."""
        size = 0
        async with asyncio.timeout(PATIENCE):
            try:
                while data := await self.reader.read(1 << 20):
                    size += len(data)
            except ConnectionError:
                pass
        return size

    # Leaving

    async def close(self, code: int | None = None, reason: str = "") -> None:
        """Leave as one should."""
        self.send_close(code, reason)
        assert await self.close_frame() == (code, reason)
        await self.hung_up()

    def reset(self) -> None:
        """Leave as a machine does that loses its power and comes back."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abandon()

    def abandon(self) -> None:
        if hasattr(self, "writer"):
            self.writer.transport.abort()
