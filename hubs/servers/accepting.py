"""Clients are accepted as long as there are file descriptors for them.

Each client takes a descriptor, and so does each connection to the database, to Redis and to an event handler. A
process that has none left can do nothing for those it has. The event loops do not help: uvloop accepts clients and
closes them without a word, asyncio's own leaves a traceback for each. So the limit is raised as far as it goes when
the service starts, some descriptors are kept back, and clients are accepted here.

The system gives the lowest number that is free. The number of a client's socket thus tells how many descriptors are
in use at least, whatever for, and nothing has to be counted:

    below the room for clients    it is a client like any other
    the first beyond that         its HTTP request is answered, if it comes soon, on a connection that ends with it, so
                                  that health checks and REST calls get through; WebSockets are refused with 503
    more                          it is refused with 503, once it has asked for something, or another comes
    more than these               all wait in the queue of the listening socket for a moment

Who is refused comes back, and perhaps to another worker. The queue is the last resort, because one that waits there
waits for this worker, even if another has room.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import logging
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn import Config

from hubs import health
from hubs.servers.http import HttpProtocol, Refused

logger = logging.getLogger(__name__)

# As far as the limit is raised. Some systems have none, or one that makes programs slow which close all.
MAX_DESCRIPTORS = 1 << 20
# macOS does not take more for a process, whatever its hard limit says.
MACOS_DESCRIPTORS = 10_240

# What is kept back: a part of all, within bounds. A fourth of it is for HTTP requests beyond the room for clients, and
# another for those who are being refused, half of whom are hanging up; the rest is for the service itself.
KEPT_BACK_PART = 8
MIN_KEPT_BACK, MAX_KEPT_BACK = 64, 1024

# How many clients are accepted in one turn of the event loop.
BATCH = 64
# How long a client that comes when there is no room may take to ask for something.
CROWDED_SECS = 2.0
# The same for one that is refused anyway; and how long it may take to hang up after the answer.
REFUSING_SECS = 1.0
# How often it is looked whether there is room again; and how much of it has to be free.
LOOK_SECS = 1.0
FREE_PART = 20
# How long nobody is accepted when the service needs what is left, or there is nothing left.
PAUSE_SECS = 0.05

_PROBE = "open files"

NO_ROOM = b"The service has no room for more clients. Try again later."
_RETRY_AFTER = b"5"
_NO_ROOM = Refused(HTTPStatus.SERVICE_UNAVAILABLE, NO_ROOM.decode(), b"retry-after: " + _RETRY_AFTER)
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
    b"retry-after: %s\r\nconnection: close\r\n\r\n%s" % (len(NO_ROOM), _RETRY_AFTER, NO_ROOM)
)

# What accept says when there is nothing left to accept with.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def raise_limit() -> None:
    """Raise the limit of open files for this process and those that it starts, as far as that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (MAX_DESCRIPTORS, MACOS_DESCRIPTORS):
        limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        if soft == resource.RLIM_INFINITY or soft >= limit:
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):
            continue
        logger.debug("The limit of open files is raised from %d to %d", soft, limit)
        return


class Acceptors:
    """Accepts the clients of a server from any number of sockets.

    `protocol` makes the protocol of a client, given the server's `config` or one like it.
    """

    def __init__(self, config: Config, protocol: Callable[[Config], asyncio.Protocol]) -> None:
        self._loop = asyncio.get_running_loop()
        crowded = copy.copy(config)
        crowded.loaded_app = _Crowded(config.loaded_app, self._count_refused)
        self._make, self._make_crowded = partial(protocol, config), partial(protocol, crowded)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limit = MAX_DESCRIPTORS if limit == resource.RLIM_INFINITY else min(limit, MAX_DESCRIPTORS)
        kept_back = min(max(limit // KEPT_BACK_PART, MIN_KEPT_BACK), MAX_KEPT_BACK, limit // 2)
        self._limit = limit
        self._room = limit - kept_back
        self._room_crowded = self._room + kept_back // 4
        self._room_refusing = self._room_crowded + kept_back // 4
        self._most_refusing = max(kept_back // 8, 1)
        self._sockets: set[socket.socket] = set()
        self._arriving: set[asyncio.Task[Any]] = set()
        # The eldest first.
        self._refusing: dict[_Refusing, None] = {}
        # Since when there is no room: how many were refused, and when it is looked again.
        self._is_full = False
        self._refused = 0
        self._next_look: asyncio.TimerHandle | None = None
        self._next_try: asyncio.TimerHandle | None = None
        health.register(_PROBE, self._why_full)

    @property
    def is_busy(self) -> bool:
        """Whether somebody was accepted who has no protocol yet."""
        return bool(self._arriving)

    def open(self, sockets: Iterable[socket.socket]) -> None:
        """Accept clients from these sockets, too."""
        for listening in sockets:
            listening.setblocking(False)
            self._sockets.add(listening)
            if self._next_try is None:
                self._loop.add_reader(listening, self._accept, listening)

    def close(self, sockets: Iterable[socket.socket] | None = None) -> None:
        """Accept none any more from these, or from any; the sockets stay open."""
        for listening in list(self._sockets if sockets is None else sockets):
            if listening in self._sockets:
                self._sockets.discard(listening)
                self._loop.remove_reader(listening)
        if not self._sockets:
            health.unregister(_PROBE)
            for timer in (self._next_look, self._next_try):
                if timer is not None:
                    timer.cancel()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                client, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as problem:
                if problem.errno in _EXHAUSTED:
                    # Not even the descriptors that are kept back have sufficed.
                    self._fill(f": {problem.strerror}")
                    self._pause()
                    return
                # This one has left meanwhile, or a firewall took it away.
                continue
            client.setblocking(False)
            if client.fileno() < self._room:
                protocol = self._make()
            else:
                self._fill()
                if client.fileno() < self._room_crowded:
                    protocol = self._make_crowded()
                    self._loop.call_later(CROWDED_SECS, self._hurry, protocol)
                else:
                    protocol = self._refuse()
            arriving = self._loop.create_task(self._arrive(client, protocol), name="accept a client")
            self._arriving.add(arriving)
            arriving.add_done_callback(self._arriving.discard)
            if client.fileno() >= self._room_refusing:
                self._pause()
                return

    async def _arrive(self, client: socket.socket, protocol: asyncio.Protocol) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, client)
        except OSError as problem:
            # It has left.
            client.close()
            if isinstance(protocol, _Refusing):
                protocol.connection_lost(problem)

    def _refuse(self) -> asyncio.Protocol:
        self._count_refused()
        if len(self._refusing) >= self._most_refusing:
            next(iter(self._refusing)).end()
        refusing = _Refusing(self._let_go)
        self._refusing[refusing] = None
        return refusing

    def _hurry(self, protocol: asyncio.Protocol) -> None:
        """Let somebody else have the descriptor of a client that has asked for nothing."""
        if isinstance(protocol, HttpProtocol) and protocol.refuse_if_idle(_NO_ROOM):
            self._count_refused()

    def _let_go(self, refusing: _Refusing) -> None:
        self._refusing.pop(refusing, None)

    def _count_refused(self) -> None:
        self._refused += 1

    def _pause(self) -> None:
        for listening in self._sockets:
            self._loop.remove_reader(listening)
        self._next_try = self._loop.call_later(PAUSE_SECS, self._go_on)

    def _go_on(self) -> None:
        self._next_try = None
        for listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def _why_full(self) -> str | None:
        if not self._is_full:
            return None
        return f"there is no room for more clients, as this process may open {self._limit} files"

    def _fill(self, because: str = "") -> None:
        if self._is_full:
            return
        self._is_full = True
        logger.warning(
            "There is no room for more clients%s. This process may open %d files, and new WebSockets are refused with "
            "503 until some are closed. To have more, raise the limit: LimitNOFILE= in a systemd unit, ulimits.nofile "
            "in a compose file, `ulimit -n` in a shell",
            because,
            self._limit,
        )
        self._next_look = self._loop.call_later(LOOK_SECS, self._look)

    def _look(self) -> None:
        if _lowest_free() <= self._room - self._room // FREE_PART:
            self._is_full = False
            logger.warning("There is room for clients again; %d were refused meanwhile", self._refused)
            self._refused = 0
        else:
            self._next_look = self._loop.call_later(LOOK_SECS, self._look)


class _Crowded:
    """The application, for those who come when there is no more room: without WebSockets, and not for long."""

    def __init__(self, application: Any, on_refused: Callable[[], None]) -> None:
        self._application = application
        self._on_refused = on_refused

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] == "websocket":
            self._on_refused()
            return refuse(send, NO_ROOM, (b"retry-after", _RETRY_AFTER))

        def close_after(message: Any) -> Any:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message.get("headers", ()), (b"connection", b"close")]}
            return send(message)

        answered: Awaitable[None] = self._application(scope, receive, close_after)
        return answered


class _Refusing(asyncio.Protocol):
    """Somebody who is answered 503, whatever is asked for.

    Not at once: a socket that is closed before it has read what its client sent takes the answer with it.
    """

    _transport: asyncio.Transport | None = None
    _timer: asyncio.TimerHandle | None = None
    _is_answered = False

    def __init__(self, let_go: Callable[[_Refusing], None]) -> None:
        self._let_go = let_go

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a TCP socket
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(REFUSING_SECS, self._answer)

    def data_received(self, data: bytes) -> None:
        if not self._is_answered:
            self._answer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        self._let_go(self)

    def end(self) -> None:
        """Answer now, if that has not been done, and hang up: another comes."""
        self._let_go(self)
        if self._transport is not None:
            if not self._is_answered:
                self._answer()
            self._transport.close()

    def _answer(self) -> None:
        assert self._transport is not None  # noqa: S101 - it was made
        self._is_answered = True
        self._expect_nothing()
        self._timer = asyncio.get_running_loop().call_later(REFUSING_SECS, self._transport.abort)
        self._transport.write(_REFUSAL)
        self._transport.write_eof()

    def _expect_nothing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


async def refuse(send: Any, text: bytes, *headers: tuple[bytes, bytes]) -> None:
    """Answer the handshake of a WebSocket with 503."""
    about = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(text)).encode()),
        (b"connection", b"close"),
        *headers,
    ]
    await send({"type": "websocket.http.response.start", "status": 503, "headers": about})
    await send({"type": "websocket.http.response.body", "body": text})


def _lowest_free() -> int:
    """The lowest number that no descriptor has."""
    try:
        found = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return MAX_DESCRIPTORS
    os.close(found)
    return found
