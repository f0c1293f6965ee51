"""`python echo_handler.py`: an event handler that does next to nothing; prints the port it listens on.

It allows every service to send events and answers each with its own body. `GET /` says how many there
were. It reads of HTTP what the service writes, and no more.
"""

from __future__ import annotations

import asyncio

import uvloop

ALLOWED = b"HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\nContent-Length: 0\r\n\r\n"


class Handler(asyncio.Protocol):
    """One connection, with one request at a time."""

    events = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._read = b""

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end:
            return
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(body) < int(fields.get(b"content-length", b"0")):
            return
        self._read = b""
        self._transport.write(self._answer(head, fields, body))

    def _answer(self, head: bytes, fields: dict[bytes, bytes], body: bytes) -> bytes:
        if head.startswith(b"OPTIONS"):
            return ALLOWED
        if head.startswith(b"GET"):
            body = b"%d" % Handler.events
        else:
            Handler.events += 1
        content_type = fields.get(b"content-type", b"text/plain")
        return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (content_type, len(body), body)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Handler, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
