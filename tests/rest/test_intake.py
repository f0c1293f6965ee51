"""Bodies that are not taken in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hubs.rest.intake import BoundedBodies

MOST = 1024 * 1024


class Server:
    """The server's side of one ASGI request whose client never ends its body."""

    def __init__(self) -> None:
        self.read = 0
        self.sent: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        self.read += 1
        return {"type": "http.request", "body": b"x" * 65536, "more_body": True}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Reads all of the body, as Django does, and listens for a disconnect while it answers."""
    size, more = 0, True
    while more and size < 64 * MOST:
        message = await receive()
        size += len(message["body"])
        more = message["more_body"]
    listening = asyncio.ensure_future(receive()) if not more else None
    await asyncio.sleep(0)
    assert listening is None or not listening.done()
    if listening:
        listening.cancel()
    await send({"type": "answer", "size": size})


async def answer(path: str, *headers: tuple[bytes, bytes], root_path: str = "") -> tuple[Any, Server]:
    server = Server()
    scope = {"type": "http", "path": path, "root_path": root_path, "headers": headers}
    await BoundedBodies(application)(scope, server.receive, server.send)
    return server.sent[0], server


@pytest.mark.parametrize("path", ["/api/hubs/chat/:send", "/API/Hubs/chat/:send"])
@pytest.mark.parametrize(
    "header",
    [(b"transfer-encoding", b"chunked"), (b"Content-Length", str(MOST + 1).encode()), (b"content-length", b"9" * 40)],
)
async def test_the_data_plane_decides_without_the_body(path, header):
    said, server = await answer(path, header)
    assert said == {"type": "answer", "size": 0}
    assert server.read == 0


async def test_behind_a_prefix():
    said, server = await answer("/hubs/api/hubs/chat/:send", (b"transfer-encoding", b"chunked"), root_path="/hubs")
    assert (said["type"], server.read) == ("answer", 0)


async def test_bodies_of_a_known_length_are_passed_on():
    said, server = await answer("/api/hubs/chat/:send", (b"content-length", str(MOST).encode()))
    # This client lies about the length; cutting it off there is the server's work.
    assert said["size"] == 64 * MOST
    assert server.read


@pytest.mark.parametrize(
    ("header", "status"), [((b"transfer-encoding", b"chunked"), 411), ((b"content-length", b"99999999"), 413)]
)
async def test_elsewhere_they_are_refused_at_once(header, status):
    said, server = await answer("/admin/login/", header)
    assert (said["type"], said["status"]) == ("http.response.start", status)
    assert server.sent[1]["body"].endswith(b".\n")
    assert server.read == 0
