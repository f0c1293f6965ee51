"""Event handlers at URLs: the HTTP client.

One call of a handler is what happens between an event and its answer:

    a place at the handler (concurrency.py)       or a refusal, when too many wait there
    the owner's permission (abuse_protection.py) asked for once a minute, not once an event
    a POST                                       the same one, up to four times
    the answer, whole                            or the reason why there is none

Tried again, after 1, 3 and 5 seconds: what a moment can mend, which is 408, 5xx and everything that
happens to connections. Not tried again: other answers, answers that never come (the handler may be
at work on the event still), and what is wrong in the handler's settings. All of it together has
HANDLER_SECS; a notification's time begins when its turn comes.

There is one client per event loop, with one pool of connections. The pool has no bound of its own,
since the concurrency limits have theirs. Redirects are not followed, proxies and netrc of the environment are not
used: events go where the URL says, and ssrf_guard.py decides whether that is a place to go.
"""

from __future__ import annotations

import asyncio
import io
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.abc import AbstractResolver, AbstractStreamWriter
from yarl import URL

from hubs import conf, endpoints
from hubs.hub_settings import EventHandlerSettings
from hubs.rules.event_routing import VALIDATE, resolve_url, without_query
from hubs.upstream import cloudevents
from hubs.upstream.abuse_protection import AbuseProtection
from hubs.upstream.cloudevents import Answer, BadAnswer, Unsendable
from hubs.upstream.concurrency import ConcurrencyLimit, ConcurrencyLimits, HandlerProblem, Progress
from hubs.upstream.events import ConnectAnswer, ConnectRequest, Event, Reply
from hubs.upstream.session import Session
from hubs.upstream.ssrf_guard import ForbiddenAddress, GuardedResolver, SystemResolver, open_socket

RETRY_SECS = (1.0, 3.0, 5.0)
VALIDATION_SECS = 10.0

# A handler that does not even take the connection is one that cannot be reached, not one that is slow.
CONNECT_SECS = 10.0

# Shorter than the five seconds after which many servers close an idle connection, so that a request
# seldom meets a connection that is just being closed.
KEEP_ALIVE_SECS = 4.0

# Of an answer's status line and of each header; a state must fit in.
MAX_HEADER_BYTES = 2 * cloudevents.MAX_STATE_BYTES

# Read of an answer that is a failure anyhow, so that its connection can be used again.
MAX_FAILURE_BYTES = 64 * 1024

# Larger bodies are written piece by piece, so that one of them does not hold up the loop.
_LARGE_BODY_BYTES = 1 << 20


# The same few URLs, over and over.
_resolved = lru_cache(maxsize=1024)(resolve_url)


class NetworkTrouble(HandlerProblem):
    """Something happened on the way; a moment later it may be gone."""


class Webhooks:
    """The HTTP client of one event loop. `resolver`, `clock` and `sleep` are for tests."""

    def __init__(
        self,
        *,
        resolver: AbstractResolver | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._resolver = resolver or SystemResolver()
        self._sleep = sleep
        self._http: aiohttp.ClientSession | None = None
        self._limits: ConcurrencyLimits[int] = ConcurrencyLimits()
        self.abuse_protection = AbuseProtection(self._validate, clock)

    async def send(
        self,
        handler: EventHandlerSettings,
        event: Event,
        session: Session,
        keys: Sequence[str],
        progress: Progress,
        *,
        background: bool = False,
    ) -> Answer:
        """Deliver an event and give the answer, whatever its status. Raises HandlerProblem when there is none."""
        if handler.problem:
            raise HandlerProblem(handler.problem)
        bounds = (
            conf.settings.MAX_HANDLER_CALLS,
            conf.settings.MAX_WAITING_HANDLER_CALLS,
            conf.settings.MAX_WAITING_NOTIFICATIONS,
        )
        with self._limits.place(handler.id, background, bounds) as limit:
            async with limit.share(background):
                return await self._deliver(limit, handler, event, session, keys, progress)

    async def _deliver(
        self,
        limit: ConcurrencyLimit,
        handler: EventHandlerSettings,
        event: Event,
        session: Session,
        keys: Sequence[str],
        progress: Progress,
    ) -> Answer:
        hub = event.context.hub
        url = _resolved(handler.url_template, hub, event.name)
        origin = session.origin or endpoints.origin()
        try:
            content_type, body = cloudevents.content_of(event)
            headers = cloudevents.request_headers(
                event,
                content_type,
                origin=origin,
                keys=keys,
                request_id=str(uuid.uuid4()),
                authorization=handler.authorization,
                cookie=session.cookies.header(url),
            )
        except Unsendable as problem:
            raise HandlerProblem(str(problem)) from None

        async def post() -> Answer:
            async with limit.exchange():
                progress.attempts += 1
                progress.status = None
                try:
                    return await self.exchange("POST", url, headers, body, progress)
                finally:
                    # Another attempt may follow, and then that is the one to wait for.
                    if progress.told is not None:
                        progress.told.clear()

        secs = conf.settings.HANDLER_SECS
        try:
            async with asyncio.timeout(secs):
                await self.abuse_protection.check(_resolved(handler.url_template, hub, VALIDATE), origin)
                answer = await self._persistently(post)
        except TimeoutError:
            raise HandlerProblem(f"no answer within {secs:g} seconds") from None
        if answer.accepted:
            try:
                session.cookies.take(url, answer.values("Set-Cookie"), time.time())
            except BadAnswer as problem:
                raise HandlerProblem(str(problem)) from None
        return answer

    async def _persistently(self, exchange: Callable[[], Awaitable[Answer]]) -> Answer:
        """Try, and try again what may be better in a moment; give or raise what came last."""
        for delay in RETRY_SECS:
            try:
                answer = await exchange()
            except NetworkTrouble:
                pass
            else:
                if answer.status != 408 and answer.status < 500:
                    return answer
            await self._sleep(delay)
        return await exchange()

    async def _validate(self, url: str, origin: str) -> None:
        """Ask the owner of `url` whether events may come from `origin`. Raises HandlerProblem unless they may."""
        headers = cloudevents.validation_headers(origin)

        async def ask(method: str) -> Answer:
            try:
                async with asyncio.timeout(VALIDATION_SECS):
                    return await self.exchange(method, url, headers)
            except TimeoutError:
                raise HandlerProblem(f"no answer within {VALIDATION_SECS:g} seconds") from None

        async def options_or_get() -> Answer:
            answer = await ask("OPTIONS")
            # Some frameworks do not let an application see OPTIONS.
            return await ask("GET") if answer.status == 404 else answer

        answer = await self._persistently(options_or_get)
        if not answer.accepted:
            raise HandlerProblem(f"the answer's status is {answer.status}")
        try:
            values = answer.values("WebHook-Allowed-Origin")
        except BadAnswer as problem:
            raise HandlerProblem(str(problem)) from None
        if not values:
            raise HandlerProblem("the answer has no header WebHook-Allowed-Origin")
        # Who allows the service under one of its names allows it.
        if not cloudevents.allows(values, endpoints.origins() | {origin}):
            raise HandlerProblem(f"the header WebHook-Allowed-Origin is neither * nor {origin}")

    # HTTP

    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"", progress: Progress | None = None
    ) -> Answer:
        """Make one request and read the whole answer. Raises NetworkTrouble or HandlerProblem."""
        if self._http is None:
            self._http = self._open()
        data: Any = body if len(body) <= _LARGE_BODY_BYTES else io.BytesIO(body)
        if progress is not None and progress.told is not None:
            data = _Told(body, progress.told)
        try:
            async with self._http.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=data if method == "POST" else None,
                allow_redirects=False,
            ) as response:
                if progress is not None:
                    progress.status = response.status
                return Answer(response.status, response.raw_headers, await _read(response))
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            raise _explained(problem) from None

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=GuardedResolver(self._resolver),
            socket_factory=open_socket,
            limit=0,
            keepalive_timeout=KEEP_ALIVE_SECS,
        )
        return aiohttp.ClientSession(
            connector=connector,
            # Cookies belong to connections here, not to the client.
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECS),
            headers={"User-Agent": "Hubwire", "Accept-Encoding": "identity"},
            # What nobody asked for is not unpacked: a small answer could be a huge one.
            auto_decompress=False,
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    async def close(self) -> None:
        """Stop asking and close every connection; what is under way fails."""
        await self.abuse_protection.close()
        if self._http is not None:
            await self._http.close()
            self._http = None
        # What is handed to a connector is not closed by it.
        await self._resolver.close()


class _Told(aiohttp.BytesPayload):
    """A body that says when it has been written, which aiohttp tells of no request before its answer."""

    def __init__(self, body: bytes, told: asyncio.Event) -> None:
        super().__init__(body)
        self._told = told

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write the body, as aiohttp asks for it."""
        await super().write_with_length(writer, content_length)
        self._told.set()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body. Raises HandlerProblem when there is too much of it, or it came in disguise."""
    accepted = 200 <= response.status < 300
    limit = conf.settings.MAX_HANDLER_ANSWER_BYTES if accepted else MAX_FAILURE_BYTES
    chunks: list[bytes] = []
    size = 0
    while size <= limit and (chunk := await response.content.readany()):
        chunks.append(chunk)
        size += len(chunk)
    if size > limit:
        if accepted:
            raise HandlerProblem(f"the answer has more than {limit} bytes")
        return b""
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if accepted and size and encoding != "identity":
        raise HandlerProblem("the answer is compressed, which was not asked for")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _explained(problem: Exception) -> HandlerProblem:
    """What went wrong, in words that never hold the URL: its query may be a secret."""
    match problem:
        case aiohttp.ClientConnectorError(os_error=ForbiddenAddress() as forbidden):
            return HandlerProblem(forbidden.text)
        case aiohttp.ClientConnectorCertificateError():
            return HandlerProblem(f"the certificate of {problem.host} is not accepted: {problem.certificate_error}")
        case aiohttp.ClientConnectorDNSError():
            return NetworkTrouble(f"the name {problem.host} cannot be resolved: {problem.os_error.strerror}")
        case aiohttp.ClientConnectorError():
            return NetworkTrouble(f"{problem.host}:{problem.port} cannot be reached: {problem.os_error.strerror}")
        case aiohttp.ConnectionTimeoutError():
            return NetworkTrouble(f"no connection within {CONNECT_SECS:g} seconds")
        case aiohttp.ClientPayloadError():
            return NetworkTrouble("the connection broke in the middle of the answer")
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            return NetworkTrouble("the connection was closed before there was an answer")
        case aiohttp.ClientResponseError():
            return HandlerProblem(f"the answer is not sound HTTP: {_one_line(problem.message)}")
        case aiohttp.InvalidURL() | ValueError():
            return HandlerProblem("the URL leads nowhere")
        case _:
            return NetworkTrouble(f"the request failed: {type(problem).__name__}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


# One client per event loop, made at first use.
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Webhooks] = WeakKeyDictionary()


def client() -> Webhooks:
    """The client of the running loop."""
    loop = asyncio.get_running_loop()
    found = _clients.get(loop)
    if found is None:
        found = _clients[loop] = Webhooks()
    return found


async def close() -> None:
    """Close the client of the running loop, if there is one."""
    found = _clients.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.close()


@dataclass(frozen=True, slots=True)
class WebhookHandler:
    """An event handler at a URL: a row, and the keys that sign for its hub."""

    settings: EventHandlerSettings
    keys: Sequence[str]

    @property
    def label(self) -> str:
        """What it is called in logs and records."""
        return without_query(self.settings.url_template)

    async def connect(self, event: Event, session: Session, progress: Progress) -> ConnectAnswer:
        """Ask about a new connection. Raises Rejected or HandlerProblem."""
        answer = await client().send(self.settings, event, session, self.keys, progress)
        offered = event.request.subprotocols if isinstance(event.request, ConnectRequest) else ()
        try:
            return cloudevents.read_connect(answer, offered)
        except BadAnswer as problem:
            raise HandlerProblem(str(problem)) from None

    async def user_event(self, event: Event, session: Session, progress: Progress) -> Reply:
        """Have a user event handled. Raises HandlerProblem."""
        answer = await client().send(self.settings, event, session, self.keys, progress)
        try:
            return cloudevents.read_reply(answer)
        except BadAnswer as problem:
            raise HandlerProblem(str(problem)) from None

    async def notify(self, event: Event, session: Session, progress: Progress) -> None:
        """Tell of a connection's beginning or end. Raises HandlerProblem."""
        answer = await client().send(self.settings, event, session, self.keys, progress, background=True)
        if not answer.accepted:
            raise HandlerProblem(f"the answer's status is {answer.status}")
