"""The two ways a request can take: through Django, or through the fast path that stands in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from asgiref.sync import async_to_sync, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponse
from django.test.client import ClientHandler, FakePayload

from hubs.rest.body_limit import BoundedBodies
from hubs.rest.fast_path import FastPath

DJANGO, FAST_PATH = "django", "fast path"
UNCONCERNED = [
    "pubsub_site.static_files.StaticFiles",
    "pubsub_site.content_policy.AdminContentPolicy",
    "pubsub_site.odd_requests.RefuseOddRequests",
]


@dataclass(frozen=True)
class Answered:
    """What an ASGI application sent: everything that a caller can tell answers apart by."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for given, value in self.headers if given.lower() == name.lower().encode()]
        return found[0].decode("latin-1") if found else None


class Wire:
    """The server's side of one request. `chunks`: its body, piece by piece."""

    def __init__(self, chunks: Sequence[bytes] = (b"",), *, gone: bool = False) -> None:
        last = len(chunks) - 1
        self._messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": chunk, "more_body": gone or at < last} for at, chunk in enumerate(chunks)
        ]
        if gone:
            self._messages.append({"type": "http.disconnect"})
        self.sent: list[Any] = []
        self.received = 0

    async def receive(self) -> Any:
        self.received += 1
        if self._messages:
            return self._messages.pop(0)
        return await asyncio.get_running_loop().create_future()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def answered(self) -> Answered | None:
        """None: the request was given up."""
        if not self.sent:
            return None
        start, *rest = self.sent
        assert start["type"] == "http.response.start"
        assert [bool(part.get("more_body")) for part in rest] == [True] * (len(rest) - 1) + [False]
        headers = tuple((name, _without_chance(name, value)) for name, value in start["headers"])
        return Answered(start["status"], headers, b"".join(part.get("body", b"") for part in rest))


def _without_chance(name: bytes, value: bytes) -> bytes:
    """Cookies have random values; that there is one, and its name, is not chance."""
    return value.partition(b"=")[0] if name.lower() == b"set-cookie" else value


@dataclass
class Door:
    """An application as a server would call it; counts what reaches Django."""

    fast: bool
    bounded: bool = True
    unconcerned: Sequence[str] = tuple(UNCONCERNED)
    reached_django: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        django = ASGIHandler()
        django.load_middleware(is_async=True)
        self._django = django
        application: Any = BoundedBodies(self._count) if self.bounded else self._count
        self.application = FastPath(application, unconcerned=self.unconcerned) if self.fast else application

    async def _count(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached_django += 1
        await self._django(scope, receive, send)

    def ask(self, scope: dict[str, Any], wire: Wire) -> Answered | None:
        """Have a request answered, from a test that is not a coroutine: the ORM stays in its thread then."""
        async_to_sync(self.application)(scope, wire.receive, wire.send)
        return wire.answered


def scope(
    method: str,
    target: bytes,
    headers: Sequence[tuple[bytes, bytes]] = (),
    *,
    root_path: str = "",
    scheme: str = "http",
    raw: bool = True,
) -> dict[str, Any]:
    """The scope that a server makes of a request. `raw` False: one that does not give the raw path."""
    path, _, query = target.partition(b"?")
    made = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8080),
        "client": ("127.0.0.1", 49152),
        "scheme": scheme,
        "root_path": root_path,
        "method": method,
        "path": root_path + unquote(path.decode("latin-1")),
        "query_string": query,
        "headers": list(headers),
        "state": {},
    }
    if raw:
        made["raw_path"] = root_path.encode() + path
    return made


class ThroughLane(ClientHandler):
    """The handler of a Django test client that sends its requests through the fast path; Django is behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached_django = 0

    def __call__(self, environ: dict[str, Any]) -> Any:
        """Answer one request of the test client."""
        direct: list[Any] = []
        behind = super().__call__

        async def django(scope: Any, receive: Any, send: Any) -> None:
            self.reached_django += 1
            direct.append(await sync_to_async(behind)(environ))

        # Made at once for every request, since tests change settings in between.
        application = FastPath(BoundedBodies(django), unconcerned=UNCONCERNED)
        path = environ["PATH_INFO"].encode("latin-1").decode()
        asked = {
            "type": "http",
            "method": environ["REQUEST_METHOD"],
            "scheme": environ["wsgi.url_scheme"],
            "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"])),
            "client": (environ["REMOTE_ADDR"], 49152),
            "root_path": environ.get("SCRIPT_NAME", ""),
            "path": path,
            "query_string": environ["QUERY_STRING"].encode("latin-1"),
            "headers": [*_headers(environ)],
        }
        body = environ["wsgi.input"].read()
        environ["wsgi.input"] = FakePayload(body)
        wire = Wire([body])
        async_to_sync(application)(asked, wire.receive, wire.send)
        if direct:
            return direct[0]
        answered = wire.answered
        assert answered is not None
        response = HttpResponse(answered.body, status=answered.status)
        del response["Content-Type"]
        for name, value in answered.headers:
            response[name.decode()] = value.decode("latin-1")
        response.wsgi_request = HttpRequest()  # type: ignore[attr-defined]
        return response


def _headers(environ: dict[str, Any]) -> Any:
    for name, value in environ.items():
        if name == "HTTP_COOKIE" and not value:
            continue
        if name.startswith("HTTP_"):
            yield name.removeprefix("HTTP_").replace("_", "-").lower().encode(), str(value).encode("latin-1")
        elif name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value != "":
            yield name.replace("_", "-").lower().encode(), str(value).encode("latin-1")
