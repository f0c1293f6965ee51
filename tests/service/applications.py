"""Applications that take part in the conversation: their web servers, and how their owners write them into hubs."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from tests.running import PATIENCE, Service
from tests.service.client import JSON, Client, opened
from tests.upstream.server import Answer, Say, Seen, WebhookServer

SYSTEM = ("connect", "connected", "disconnected")
PROMPT = {"DJANGO_SETTINGS_MODULE": "tests.service.application_settings"}

HandlerSettings = dict[str, Any]


def name_of(seen: Seen) -> str:
    return seen.headers["ce-eventName"]


def number_of(seen: Seen) -> int:
    return int(seen.headers["ce-id"])


def id_of(seen: Seen) -> str:
    return seen.headers["ce-connectionId"]


async def echo(seen: Seen) -> Say:
    """Answer an event with itself."""
    return Say(200, seen.body, {"Content-Type": seen.headers["Content-Type"]})


class Application(WebhookServer):
    """A web server on loopback. `on` has the answers to events by name; others are taken and not answered."""

    def __init__(self) -> None:
        super().__init__()
        self.on: dict[str, Answer] = {}
        self.answers = deque([self._answer])

    async def _answer(self, seen: Seen) -> Say:
        answer = self.on.get(name_of(seen), Say())
        return answer if isinstance(answer, Say) else await answer(seen)

    def handler(self, *system: str, events: str = "", path: str = "/{event}", **more: Any) -> HandlerSettings:
        """Itself, as one of a hub's event handlers in the management API."""
        return {"urlTemplate": f"{self.url}{path}", "userEventPattern": events, "systemEvents": list(system), **more}

    def everything(self, **more: Any) -> HandlerSettings:
        """Itself, as a handler that takes everything."""
        return self.handler(*SYSTEM, events="*", **more)

    def of(self, connection_id: str) -> list[Seen]:
        """The events of one connection, in the order in which they happened there."""
        return sorted((seen for seen in self.events if id_of(seen) == connection_id), key=number_of)

    async def told(self, connection_id: str, *names: str) -> list[Seen]:
        """Wait until events of these names have come of a connection; no others may have. Gives them in their order."""
        wanted = sorted(names)

        def come() -> bool:
            return len(self.of(connection_id)) >= len(wanted)

        try:
            async with asyncio.timeout(PATIENCE), self._arrived:
                await self._arrived.wait_for(come)
        except TimeoutError:
            pass
        events = self.of(connection_id)
        assert sorted(map(name_of, events)) == wanted
        return events


def handler_at(url: str, *system: str, events: str = "") -> HandlerSettings:
    """Whoever is at this address, as one of a hub's event handlers in the management API."""
    return {"urlTemplate": f"{url}/{{event}}", "systemEvents": list(system), "userEventPattern": events}


class ConcurrencyLimit:
    """An answer that waits until it is opened."""

    def __init__(self, then: Answer) -> None:
        self._then = then
        self._open = asyncio.Event()
        self._reached = asyncio.Event()

    async def __call__(self, seen: Seen) -> Say:
        self._reached.set()
        await self._open.wait()
        return self._then if isinstance(self._then, Say) else await self._then(seen)

    async def reached(self) -> None:
        """Wait until an event waits here."""
        await asyncio.wait_for(self._reached.wait(), PATIENCE)

    def open(self) -> None:
        self._open.set()


@asynccontextmanager
async def running_application() -> AsyncIterator[Application]:
    """An application whose web server runs."""
    application = Application()
    await application.start()
    try:
        yield application
    finally:
        await application.stop()


class Staff:
    """Who runs the service: sets hubs through the management API of a running server."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._headers = {"Authorization": f"Token {service.admin_token}", "Content-Type": "application/json"}

    def _call(self, method: str, path: str, body: Any) -> Any:
        url = f"{self.service.endpoint}/manage/api{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), self._headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as problem:
            with problem:
                raise AssertionError(f"{method} {path}: {problem.code} {problem.read().decode()}") from None

    async def set(self, hub: str, *handlers: Mapping[str, Any], **properties: Any) -> None:
        """Give a hub these event handlers, in this order, and no other settings than `properties`."""
        body = {"properties": {"eventHandlers": list(handlers), **properties}}
        await self.call("PUT", f"/hubs/{hub}", body)

    async def call(self, method: str, path: str, body: Any) -> Any:
        """Call the management API; gives its answer."""
        return await asyncio.to_thread(self._call, method, path, body)

    def calls(self, hub: str, number: int) -> list[dict[str, Any]]:
        """What is recorded of calls about a hub, of which there are so many: oldest first."""
        calls = recorded(self.service, hub, number)
        assert len(calls) == number, calls
        return calls


def recorded(service: Service, hub: str, number: int = 1) -> list[dict[str, Any]]:
    """What is recorded of calls about a hub once there are so many: oldest first."""
    fields = ("event", "handler", "outcome", "status", "attempts", "problem")
    query = f"SELECT {', '.join(fields)} FROM hubs_handlercall WHERE hub = ? ORDER BY id"
    deadline = time.monotonic() + PATIENCE
    # Read beside the service, which writes them about once a second.
    with closing(sqlite3.connect(service.data_dir / "db.sqlite3")) as database:
        while len(rows := database.execute(query, [hub]).fetchall()) < number and time.monotonic() < deadline:
            time.sleep(0.05)
    return [dict(zip(fields, row, strict=True)) for row in rows]


@contextmanager
def serving(folder: Path, server: str, *expected: str, **env: str) -> Iterator[Service]:
    """A running service. Its log may have tracebacks of what the regular expressions `expected` say, and no other."""
    running = Service(folder, server=server, env=env).set_up()
    try:
        yield running.start()
        log = running.log.read_text()
        assert log.count("Traceback") == sum(len(re.findall(pattern, log)) for pattern in expected), log
    finally:
        running.stop()


@asynccontextmanager
async def came(url: str, subprotocol: str = JSON, **options: Any) -> AsyncIterator[tuple[Client, dict[str, Any]]]:
    """A client, and the connected frame that it was greeted with."""
    async with opened(url, subprotocol, connected=False, **options) as client:
        yield client, await client.hear()


async def raise_event(client: Client, event: str, data: Any = "x", ack_id: int = 1, **more: Any) -> Any:
    """Send a text event and give what is heard up to its ack: the frame, or a list where there are more."""
    await client.say(**{"type": "event", "event": event, "dataType": "text", "data": data, "ackId": ack_id} | more)
    heard = [await client.hear()]
    while heard[-1]["type"] != "ack":
        heard.append(await client.hear())
    assert heard[-1]["ackId"] == ack_id
    return heard[0] if len(heard) == 1 else heard


def failed(frame: Any, name: str = "InternalServerError") -> bool:
    """Whether a frame is an ack that says so, in words that tell a client nothing of the handler."""
    if frame["type"] != "ack" or frame["success"]:
        return False
    assert frame["error"] == {"name": name, "message": "Internal server error"}
    return True
