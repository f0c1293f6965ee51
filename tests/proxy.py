"""A TCP proxy on loopback that fails the way networks fail, when it is told to.

A client is given a route's port instead of the server's. What happens to it then is one of three:

* *aborted*: both sides get a TCP reset, with nothing said before it. To either it looks as if the other
  had vanished, and it learns of it at once.
* *refused*: whoever connects gets a reset instead of an answer. A *cut* is both for a while: the
  connections that are there are aborted, and nobody gets through until it is over.
* *frozen*: nothing is forwarded any more, and nothing is closed. This is the half-open connection of a
  phone that left its network: a side learns of it only when it misses the other. Connections made
  later are not frozen; they are the phone in its next network. One way, only the server's voice is lost:
  what the client asks is done, and it never hears so. A whole route can be frozen as well, later connections too,
  as behind a firewall that drops what it is sent.

Each `Route` is a port of its own, so that one client can be cut off beside others that are not, and it
can be pointed at another server between two connections. The proxy runs on an event loop in a thread
of its own, where nothing else can hold it up. Its methods may be called from any thread, and when
one returns, what it says has happened; they take about a millisecond, for which a test's loop stands
still. Memory is bounded: a side that does not read is not read for.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar, cast

import uvloop

from tests.running import PATIENCE

BACKLOG = 1024
MAX_CONNECTIONS = 10_000
# Bytes that wait for one side; beyond them the other side is not read any more.
BUFFER_BYTES = 64 * 1024
DIAL_SECS = 10.0

# To close a socket with a reset: linger for no time at all.
_RESET = struct.pack("ii", 1, 0)

Result = TypeVar("Result")


class _End(asyncio.Protocol):
    """One of the two sockets of a link."""

    def __init__(self, link: _Link) -> None:
        self.link = link
        self.peer: _End | None = None
        self.transport: asyncio.Transport | None = None
        # What came before there was somewhere to send it: a chunk or two, for then reading stops.
        self.early = b""
        self.full = False
        self.finished = False
        self.lost = False
        self._reading = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, only of their kind.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=BUFFER_BYTES)
        self.link.made(self)

    def data_received(self, data: bytes) -> None:
        if self.peer is None or self.peer.lost:
            return
        if self.peer.transport is None:
            self.early += data
        else:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        self.finished = True
        self.link.finished(self)
        return True

    def pause_writing(self) -> None:
        self.full = True
        self.link.settle()

    def resume_writing(self) -> None:
        self.full = False
        self.link.settle()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.link.gone(self)

    def read(self, wanted: bool) -> None:
        """Read from the socket, or leave what comes to it in the kernel's buffers."""
        if self.transport is None or self.lost or self.finished or self.transport.is_closing():
            return
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def reset(self) -> None:
        """Close with a reset, whatever still waits to be sent."""
        if self.transport is None or self.lost:
            return
        held: socket.socket | None = self.transport.get_extra_info("socket")
        if held is not None and held.fileno() >= 0:
            with socket.socket(fileno=socket.dup(held.fileno())) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


class _Link:
    """One connection through the proxy: the client's socket, and the one to the server behind."""

    def __init__(self, route: Route, number: int) -> None:
        self.route = route
        self.number = number
        # Whether what comes from the client is held, and what comes from the server.
        self.frozen = route._frozen
        self.aborted = False
        self.client = _End(self)
        self.server = _End(self)
        self.client.peer, self.server.peer = self.server, self.client
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._dialling: asyncio.Task[None] | None = None

    def made(self, end: _End) -> None:
        assert end.transport is not None
        if end is self.client:
            self.route._links[self.number] = self
            if not self.route._takes_another():
                self.abort()
                return
            self._dialling = asyncio.get_running_loop().create_task(self._dial())
            self._dialling.add_done_callback(self._dialled)
        elif self.aborted:
            end.reset()
            return
        elif self.client.early:
            end.transport.write(self.client.early)
            self.client.early = b""
        if end is self.server and self.client.finished:
            end.transport.write_eof()
        # Not at once: a transport begins to read just after it has told its protocol that it is there.
        asyncio.get_running_loop().call_soon(self.settle)

    async def _dial(self) -> None:
        host, port = self.route._target
        async with asyncio.timeout(DIAL_SECS):
            loop = asyncio.get_running_loop()
            if host.startswith("/"):
                await loop.create_unix_connection(lambda: self.server, host)
            else:
                await loop.create_connection(lambda: self.server, host, port)

    def _dialled(self, task: asyncio.Task[None]) -> None:
        # A callback of the task, because one that is cancelled before its first step never runs at all.
        self._dialling = None
        if task.cancelled():
            # By abort(), so there is nobody to tell. uvloop 0.23 closes a transport that it was still making without
            # a word to its protocol, even where that was told of the connection already.
            self.server.lost = True
        elif error := task.exception():
            assert isinstance(error, OSError), error
            self.abort()
        self._perhaps_closed()

    def settle(self) -> None:
        """Read from each end exactly if what is read can go on to the other."""
        linked = self.server.transport is not None
        from_client, from_server = self.frozen
        self.client.read(linked and not from_client and not self.server.full)
        self.server.read(linked and not from_server and not self.client.full)

    def finished(self, end: _End) -> None:
        """One end will send no more; when neither will, the link is done."""
        peer = end.peer
        assert peer is not None
        if peer.transport is None or peer.lost:
            # Not there yet: it is told when it is.
            return
        if peer.finished:
            for one in (end, peer):
                if one.transport is not None:
                    one.transport.close()
        else:
            peer.transport.write_eof()

    def gone(self, end: _End) -> None:
        peer = end.peer
        assert peer is not None
        if not (end.finished and peer.finished):
            self.abort()
        self._perhaps_closed()

    def abort(self) -> None:
        """Reset both sides."""
        self.aborted = True
        if self._dialling is not None:
            self._dialling.cancel()
        self.client.reset()
        self.server.reset()

    def _perhaps_closed(self) -> None:
        if self._dialling is not None or not self.client.lost:
            return
        if self.server.transport is None or self.server.lost:
            self.route._links.pop(self.number, None)
            if not self.closed.done():
                self.closed.set_result(None)


class Route:
    """A port that leads to a server. Made by `CuttingProxy.route`; every method may be called from any thread."""

    def __init__(self, proxy: CuttingProxy, target: tuple[str, int]) -> None:
        self.port = 0
        self._proxy = proxy
        self._target = target
        self._links: dict[int, _Link] = {}
        self._closed_until = -math.inf
        # What a new link begins with.
        self._frozen = (False, False)
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> list[int]:
        """The numbers of the connections that are there, oldest first."""
        return self._proxy._run(self._numbers())

    def to(self, target_port: int, host: str = "127.0.0.1") -> None:
        """Lead to another server from now on; connections that are there stay where they are."""
        self._proxy._run(self._point((host, target_port)))

    def abort(self, connection: int | None = None) -> int:
        """Reset both sides of one connection or of all; gives how many there were."""
        return self._proxy._run(self._abort(connection))

    def cut(self, secs: float) -> int:
        """Abort all connections, and let nobody through for so long; gives how many there were."""
        return self._proxy._run(self._cut(secs))

    def refuse(self) -> None:
        """Reset whoever connects, until `accept`; connections that are there stay."""
        self._proxy._run(self._open_at(math.inf))

    def accept(self) -> None:
        """Let clients through again, also if a cut is not over."""
        self._proxy._run(self._open_at(-math.inf))

    def freeze(self, connection: int | None = None, *, one_way: bool = False) -> int:
        """Forward nothing more on one connection or on all there are, and close nothing; gives how many.

        One way: what the client says still goes through, and it gets no answer.
        """
        return self._proxy._run(self._freeze(connection, (not one_way, True)))

    def freeze_route(self) -> int:
        """Freeze all connections there are and those to come, until `thaw`; gives how many there are."""
        return self._proxy._run(self._freeze_all((True, True)))

    def thaw(self, connection: int | None = None) -> int:
        """Forward again, beginning with what came meanwhile; gives how many connections."""
        if connection is None:
            return self._proxy._run(self._freeze_all((False, False)))
        return self._proxy._run(self._freeze(connection, (False, False)))

    # On the proxy's loop

    def _takes_another(self) -> bool:
        return time.monotonic() >= self._closed_until and len(self._links) <= MAX_CONNECTIONS

    def _chosen(self, connection: int | None) -> list[_Link]:
        if connection is None:
            return list(self._links.values())
        link = self._links.get(connection)
        return [] if link is None else [link]

    async def _numbers(self) -> list[int]:
        return list(self._links)

    async def _point(self, target: tuple[str, int]) -> None:
        self._target = target

    async def _open_at(self, moment: float) -> None:
        self._closed_until = moment

    async def _abort(self, connection: int | None = None) -> int:
        links = self._chosen(connection)
        for link in links:
            link.abort()
        await asyncio.gather(*(link.closed for link in links))
        return len(links)

    async def _cut(self, secs: float, connection: int | None = None) -> int:
        self._closed_until = max(self._closed_until, time.monotonic() + secs)
        return await self._abort(connection)

    async def _freeze(self, connection: int | None, frozen: tuple[bool, bool]) -> int:
        links = self._chosen(connection)
        for link in links:
            link.frozen = frozen
            link.settle()
        return len(links)

    async def _freeze_all(self, frozen: tuple[bool, bool]) -> int:
        self._frozen = frozen
        return await self._freeze(None, frozen)

    async def _listen(self, host: str) -> None:
        loop = asyncio.get_running_loop()
        listening = socket.create_server((host, 0), backlog=BACKLOG)
        self.port = int(listening.getsockname()[1])
        self._server = await loop.create_server(
            lambda: _Link(self, next(self._proxy._numbers)).client, sock=listening, backlog=BACKLOG
        )

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        # Twice: a connection taken just before the closing is made known just after it.
        while await self._abort():
            await asyncio.sleep(0)


class CuttingProxy:
    """A proxy with one route to `target_port`, and more of them on demand. A context manager, or `start` and `stop`.

    A `host` that is a path is a Unix socket; then the port means nothing.

    What it offers for connections acts on those of all routes; a `Route` has the same for its own.
    """

    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, target_port)
        self._numbers = itertools.count(1)
        # By key; the first route's is None.
        self._routes: dict[object, Route] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # Coming and going

    def start(self) -> CuttingProxy:
        """Listen; from now on there is a `port`."""
        assert self._thread is None, "started already"
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="cutting-proxy", daemon=True)
        self._thread.start()
        ready.wait(PATIENCE)
        self._run(self._make(None, *self._target))
        return self

    def stop(self) -> None:
        """Reset every connection, close every port and end the thread. Doing it twice is doing it once."""
        if self._thread is None or self._loop is None:
            return
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the proxy's thread does not end"
        self._thread = self._loop = None
        self._routes.clear()

    def __enter__(self) -> CuttingProxy:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def route(self, key: str | None = None, *, target_port: int | None = None) -> Route:
        """A route of its own: a new one, or the one that was made for the same key before."""
        host, port = self._target
        return self._run(self._make(object() if key is None else key, host, target_port or port))

    # The first route, and all of them

    @property
    def port(self) -> int:
        """The port of the first route."""
        return self._routes[None].port

    @property
    def connections(self) -> list[int]:
        """The numbers of all connections, oldest first."""
        return sorted(number for route in self._all() for number in route.connections)

    def to(self, target_port: int, host: str = "127.0.0.1") -> None:
        """Lead the first route to another server, for connections from now on."""
        self._routes[None].to(target_port, host)

    def abort(self, connection: int | None = None) -> int:
        """Reset both sides of one connection or of all; gives how many there were."""
        return sum(route.abort(connection) for route in self._all())

    def cut(self, secs: float, connection: int | None = None) -> int:
        """Abort and let nobody through for so long: on all routes, or on the one that has this connection.

        With a connection given, others on its route stay. Gives how many were aborted.
        """
        if connection is None:
            return sum(route.cut(secs) for route in self._all())
        for route in self._all():
            if connection in route.connections:
                return self._run(route._cut(secs, connection))
        return 0

    def refuse(self) -> None:
        """Reset whoever connects, until `accept`; connections that are there stay."""
        for route in self._all():
            route.refuse()

    def accept(self) -> None:
        """Let clients through again, also if a cut is not over."""
        for route in self._all():
            route.accept()

    def freeze(self, connection: int | None = None, *, one_way: bool = False) -> int:
        """Forward nothing more on one connection or on all there are, and close nothing; gives how many.

        One way: what the client says still goes through, and it gets no answer.
        """
        return sum(route.freeze(connection, one_way=one_way) for route in self._all())

    def thaw(self, connection: int | None = None) -> int:
        """Forward again, beginning with what came meanwhile; gives how many connections."""
        return sum(route.thaw(connection) for route in self._all())

    def _all(self) -> list[Route]:
        return list(self._routes.values())

    # On the proxy's loop

    def _serve(self, ready: threading.Event) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            self._loop = runner.get_loop()
            self._loop.call_soon(ready.set)
            self._loop.run_forever()

    async def _make(self, key: object, host: str, port: int) -> Route:
        route = self._routes.get(key)
        if route is None:
            route = Route(self, (host, port))
            await route._listen("127.0.0.1")
            self._routes[key] = route
        return route

    async def _close(self) -> None:
        await asyncio.gather(*(route._close() for route in self._all()))

    def _run(self, doing: Coroutine[Any, Any, Result]) -> Result:
        """Have the proxy's thread do something, and wait until it has."""
        if self._loop is None:
            doing.close()
            raise RuntimeError("the proxy is not running")
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(PATIENCE)
