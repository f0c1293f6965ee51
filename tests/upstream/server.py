"""An application's web server on loopback, and servers that break HTTP."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from tests.running import PATIENCE


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body: bytes


@dataclass(frozen=True)
class Say:
    """An answer to give."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()

    def response(self) -> web.Response:
        return web.Response(status=self.status, body=self.body, headers=CIMultiDict(self.headers))


Answer = Say | Callable[[Seen], Awaitable[Say]]
ALLOWED = Say(200, headers={"WebHook-Allowed-Origin": "*"})


class WebhookServer:
    """Answers OPTIONS and GET with `permission`, and POST with `answers` one after the other, the last for ever."""

    def __init__(self) -> None:
        self.permissions: deque[Answer] = deque([ALLOWED])
        self.answers: deque[Answer] = deque([Say()])
        self.seen: list[Seen] = []
        self.cancelled = asyncio.Event()
        self._arrived = asyncio.Condition()

    async def start(self) -> WebhookServer:
        # Cancelled where the client goes away: tests ask for that.
        self._runner = web.ServerRunner(web.Server(self._handle, handler_cancellation=True, max_field_size=1 << 17))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read()
        seen = Seen(request.method, request.raw_path, request.headers, body)
        self.seen.append(seen)
        async with self._arrived:
            self._arrived.notify_all()
        queue = self.answers if request.method == "POST" else self.permissions
        answer = queue.popleft() if len(queue) > 1 else queue[0]
        try:
            return (answer if isinstance(answer, Say) else await answer(seen)).response()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    @property
    def events(self) -> list[Seen]:
        """The events that came."""
        return [seen for seen in self.seen if seen.method == "POST"]

    @property
    def questions(self) -> list[str]:
        """The methods of the requests that were no events."""
        return [seen.method for seen in self.seen if seen.method != "POST"]

    async def question(self) -> None:
        """Wait until the permission was asked for."""
        async with asyncio.timeout(PATIENCE), self._arrived:
            await self._arrived.wait_for(lambda: bool(self.questions))

    async def event(self, number: int = 1) -> Seen:
        """Wait until so many events have come, and give the last of them."""
        async with asyncio.timeout(PATIENCE), self._arrived:
            await self._arrived.wait_for(lambda: len(self.events) >= number)
        return self.events[number - 1]


async def never(seen: Seen) -> Say:
    """Do not answer."""
    await asyncio.Event().wait()
    raise AssertionError


class RawServer:
    """Writes bytes for answers: to OPTIONS always a permission, to a POST what `posts` says; None = hang up."""

    def __init__(self, *posts: bytes | None) -> None:
        self.posts = deque(posts)
        self.connections = 0
        self.events = 0
        self.head = b""
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> RawServer:
        self._server = await asyncio.start_server(self._serve, host, port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = f"http://{host}:{self.port}"
        return self

    async def stop(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                self.head = head = (await reader.readuntil(b"\r\n\r\n")).lower()
                for line in head.split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        await reader.readexactly(int(line.partition(b":")[2]))
                if not head.startswith(b"post"):
                    writer.write(b"HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\nContent-Length: 0\r\n\r\n")
                    continue
                self.events += 1
                answer = self.posts.popleft() if len(self.posts) > 1 else self.posts[0]
                if answer is None:
                    break
                writer.write(answer)
                if b"content-length" not in answer.lower() or b"close" in answer.lower():
                    await writer.drain()
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
