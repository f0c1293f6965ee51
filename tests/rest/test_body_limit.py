"""Bodies that are not taken in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.test import AsyncClient
from rest_framework.authtoken.models import Token

from hubs.rest import bodies
from hubs.rest.body_limit import MAX_ANONYMOUS_BYTES, BoundedBodies

from .conftest import ENDPOINT, HOST, bearer
from .doors import scope

MOST = 1024 * 1024


class Server:
    """The server's side of one ASGI request whose client never ends its body."""

    def __init__(self, pieces: int | None = None, piece: bytes = b"x" * 65536) -> None:
        self.read = 0
        self.pieces, self.piece = pieces, piece
        self.sent: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        if self.pieces and self.read >= self.pieces:
            return await asyncio.get_running_loop().create_future()
        self.read += 1
        if self.pieces == 0:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self.piece, "more_body": self.read != self.pieces}

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
    await send({"type": "answer", "size": size, "headers": plain(scope["headers"]), "scope": scope})


def plain(headers: Any) -> dict[bytes, bytes]:
    return {name.lower(): value for name, value in headers if name.lower() != b"authorization"}


def made(path: str, *headers: tuple[bytes, bytes], root_path: str = "", http_version: str = "1.1") -> dict[str, Any]:
    return scope(
        "POST", path.removeprefix(root_path).encode(), [(b"host", HOST.encode()), *headers], root_path=root_path
    ) | {"http_version": http_version}


async def answer(
    path: str, *headers: tuple[bytes, bytes], pieces: int | None = None, piece: bytes = b"x" * 65536, **options: Any
) -> tuple[Any, Server]:
    server = Server(pieces, piece)
    await BoundedBodies(application)(made(path, *headers, **options), server.receive, server.send)
    return server.sent[0], server


SEND = "/api/hubs/chat/:send"


def signed(keys: list[str], path: str = SEND) -> tuple[bytes, bytes]:
    return b"authorization", bearer(keys[0], ENDPOINT + path)["authorization"].encode()


CHUNKED = (b"transfer-encoding", b"chunked")


@pytest.mark.django_db(transaction=True)
class TestTheDataPlane:
    @pytest.mark.parametrize("path", [SEND, "/API/Hubs/chat/:send"])
    @pytest.mark.parametrize("header", [(b"Content-Length", str(MOST + 1).encode()), (b"content-length", b"9" * 40)])
    async def test_what_is_too_large_is_not_read(self, keys, path, header):
        said, server = await answer(path, header, signed(keys, path))
        assert (said["size"], server.read) == (0, 0)
        assert bodies.LEFT_UNREAD not in said["scope"]

    async def test_bodies_of_a_known_length_are_passed_on(self, keys):
        said, server = await answer(SEND, (b"content-length", str(MOST).encode()), signed(keys))
        # This client lies about the length; cutting it off there is the server's work.
        assert said["size"] == 64 * MOST
        assert server.read

    async def test_of_chunks_no_more_is_read_than_a_message_has(self, keys):
        said, server = await answer(SEND, CHUNKED, signed(keys))
        assert (said["size"], server.read) == (0, MOST // 65536 + 1)
        # The view refuses it for its length.
        assert said["headers"] == {b"host": HOST.encode(), b"content-length": str(MOST + 65536).encode()}

    async def test_chunks_go_on_with_their_length(self, keys):
        said, _ = await answer(SEND, CHUNKED, signed(keys), pieces=3)
        assert said["size"] == 3 * 65536
        assert said["headers"][b"content-length"] == str(said["size"]).encode()

    @pytest.mark.parametrize("header", [CHUNKED, (b"content-length", b"10")])
    @pytest.mark.parametrize("what", ["no token", "another address", "another key", "no row", "no hub", "no UTF-8"])
    async def test_without_a_key_nothing_is_read(self, keys, header, what):
        path, given = (
            SEND,
            {
                "no token": [],
                "another address": [signed(keys, "/api/hubs/chat/groups/g/:send")],
                "another key": [signed(["s" * 44])],
            }.get(what, [signed(keys)]),
        )
        if what.startswith("no ") and what != "no token":
            path = {"no row": "/api/hubs/chat/x/y", "no hub": "/api/hubs/", "no UTF-8": "/api/hubs/%FF/:send"}[what]
        said, server = await answer(path, header, *given)
        assert (said["size"], server.read) == (0, 0)
        assert said["scope"][bodies.LEFT_UNREAD]

    async def test_behind_a_prefix(self, keys):
        said, server = await answer("/hubs" + SEND, CHUNKED, root_path="/hubs")
        assert (said["type"], said["size"], server.read) == ("answer", 0, 0)

    async def test_who_leaves_is_not_answered(self, keys):
        server = Server(pieces=0)
        scope = made(SEND, CHUNKED, signed(keys))
        await BoundedBodies(application)(scope, server.receive, server.send)
        assert server.sent == []


@pytest.mark.django_db(transaction=True)
class TestElsewhere:
    @pytest.mark.parametrize("path", ["/admin/login/", "/api/negotiate/chat", "/manage/api/hubs/chat", "/", "/nowhere"])
    @pytest.mark.parametrize("length", [MAX_ANONYMOUS_BYTES + 1, 99999999])
    @pytest.mark.parametrize("more", [(), (b"cookie", b"sessionid=none"), (b"authorization", b"Token none")])
    async def test_strangers_send_little(self, path, length, more):
        said, server = await answer(path, (b"content-length", str(length).encode()), *([more] if more else []))
        assert (said["type"], said["status"]) == ("http.response.start", 413)
        assert server.sent[1]["body"] == b"The body of this request is larger than 16384 bytes.\n"
        assert server.read == 0

    async def test_what_is_little_is_passed_on(self):
        said, server = await answer("/admin/login/", (b"content-length", str(MAX_ANONYMOUS_BYTES).encode()), pieces=1)
        assert (said["size"], server.read) == (65536, 1)

    async def test_chunks(self):
        said, server = await answer("/admin/login/", CHUNKED)
        assert (said["status"], server.read) == (413, 1)
        said, server = await answer("/admin/login/", CHUNKED, pieces=2, piece=b"abc")
        assert said["size"] == 6
        assert said["headers"][b"content-length"] == b"6"
        # As HTTP/2 has it.
        said, server = await answer("/admin/login/", pieces=2, piece=b"abc", http_version="2")
        assert said["headers"][b"content-length"] == b"6"

    async def test_who_is_known_may_send_more(self, django_user_model):
        user = await django_user_model.objects.acreate_user("ada")
        token = await Token.objects.acreate(user=user)
        client = AsyncClient()
        await client.aforce_login(user)
        session = b"sessionid=" + client.cookies["sessionid"].value.encode()
        for known in ((b"cookie", session), (b"authorization", f"Token {token.key}".encode())):
            said, _ = await answer("/manage/api/hubs/chat", (b"content-length", b"1000000"), known, pieces=16)
            assert said["size"] == MOST
            said, server = await answer("/manage/api/hubs/chat", (b"content-length", b"2621441"), known)
            assert (said["status"], server.read) == (413, 0)
        user.is_active = False
        await user.asave()
        for unknown in ((b"cookie", session), (b"authorization", f"Token {token.key}".encode())):
            said, _ = await answer("/manage/api/hubs/chat", (b"content-length", b"1000000"), unknown)
            assert said["status"] == 413

    async def test_a_view_may_say_how_much_it_takes(self, settings):
        settings.ROOT_URLCONF = "tests.rest.mounted"
        said, _ = await answer("/events", (b"content-length", b"1000000"), pieces=1)
        assert said["size"] == 65536
        said, _ = await answer("/events", (b"content-length", b"1000001"))
        assert said["status"] == 413
