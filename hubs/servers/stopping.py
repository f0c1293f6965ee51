"""A uvicorn server that stops in good order.

uvicorn closes everything at once when it is told to stop. A service of several processes can do better by its
clients: some go a little earlier than others, and each finds what it asked for done. In turn:

    nobody is accepted any more         who was accepted a moment ago is still let in
    handshakes are refused with 503     and HTTP connections end with their request; those that have begun
                                        are answered, if that does not take long
    the application drains              it parts with its clients as it sees fit
    handshakes that still wait          are refused with 503, too
    uvicorn's own shutdown              whatever is left is closed, and ends when its client has answered, or a
                                        moment later by itself; then the lifespan ends

A second signal ends all of that at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any

from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hubs import health
from hubs.servers import collector, listening, logs
from hubs.servers.accepting import Acceptors, refuse

logger = logging.getLogger(__name__)

# Asks the application to part with its clients; told how many other processes of the service stop as well.
Drain = Callable[[int], Awaitable[None]]
Application = Callable[..., Awaitable[None]]

# How long a client that was accepted may take to say what it wants. What it said is usually there already.
NEWCOMER_SECS = 1.0
LOOK_SECS = 0.05

# How long handshakes that have begun may take before the others part.
ANSWERING_SECS = 2.0

STOPPING = b"The service is stopping. Try again."


class StoppingServer(Server):
    """uvicorn's server, with listening sockets that may change and the way to stop that is described above."""

    # Called when clients are accepted, and when none is any more.
    on_started: Callable[[], None] | None = None
    on_stopping: Callable[[], None] | None = None
    # How long the application may take to be able to serve clients, before any is accepted; then the server ends. None:
    # clients are accepted at once, and told what is wrong.
    ready_secs: float | None = None

    def __init__(self, config: Config, drain: Drain | None = None) -> None:
        self._door = _Door(config.app)
        # Said, because uvicorn would guess it from the kind of thing that the application is.
        config.app, config.interface = self._door, "asgi3"
        super().__init__(config)
        self._drain = drain
        self._stopping_too = 0
        self._acceptors: Acceptors | None = None
        self._more: dict[int, list[socket.socket]] = {}

    def stop(self, stopping_too: int = 0) -> None:
        """Stop in good order. `stopping_too`: how many other processes of the service do so at the same time."""
        self._stopping_too = stopping_too
        self.should_exit = True

    def stop_now(self) -> None:
        """Wait for nothing and nobody."""
        self.should_exit = self.force_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: the first one asks, the second one insists."""
        self._captured_signals.append(sig)
        if self.should_exit:
            self.stop_now()
        self.should_exit = True

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super()._serve(sockets)
        finally:
            health.unregister("draining")
            # uvicorn goes on to raise the signal that has stopped it, and nothing else is done on that way out.
            logs.settle()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept clients from `sockets`."""
        health.register("draining", lambda: "this process is stopping" if self.should_exit else None)
        # None for uvicorn, which would have the event loop accept.
        await super().startup([])
        collector.settle()
        if self.ready_secs is not None and self.started:
            await self._until(lambda: self.should_exit or not health.reachability(), self.ready_secs)
            if self.should_exit or (reasons := health.reachability()):
                if not self.should_exit:
                    logger.error("New clients cannot be served here: %s", "; ".join(reasons))
                self.should_exit = True
                return
        self._acceptors = Acceptors(self.config, self._protocol)
        self._acceptors.open(sockets or [])
        if self.started and self.on_started is not None:
            self.on_started()

    def listen_for(self, others: Mapping[int, Iterable[socket.socket]]) -> None:
        """Accept clients from these sockets besides the own ones, and from no others. The sockets stay open."""
        if self._acceptors is None or self.should_exit:
            return
        for number in [number for number in self._more if number not in others]:
            self._acceptors.close(self._more.pop(number))
        for number, sockets in others.items():
            if number not in self._more:
                self._more[number] = list(sockets)
                self._acceptors.open(self._more[number])

    def _protocol(self, config: Config) -> asyncio.Protocol:
        state = self.lifespan.state
        made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
            config=config, server_state=self.server_state, app_state=state
        )
        return made

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Part with everybody, then end."""
        if self._acceptors is not None:
            self._acceptors.close()
        listening.close(sockets or [])
        if self.on_stopping is not None:
            self.on_stopping()
        parting = asyncio.create_task(self._part(), name="part with clients")
        await self._until(parting.done)
        if not parting.done():
            parting.cancel()
        elif (problem := parting.exception()) is not None:
            logger.error("Clients are cut off, because draining failed", exc_info=problem)
        await super().shutdown(sockets)

    async def _part(self) -> None:
        await self._until(lambda: not self._is_anybody_new(), NEWCOMER_SECS)
        self._door.close()
        for connection in list(self.server_state.connections):
            if isinstance(connection, HttpToolsProtocol) and not _is_new(connection):
                connection.shutdown()
        # Those who were let in just now get in, and go with the others; unless it takes an event handler's time.
        await self._until(lambda: not self._door.is_busy, ANSWERING_SECS)
        if self._drain is not None:
            await self._drain(self._stopping_too)
        self._door.turn_away()

    async def _until(self, reached: Callable[[], bool], secs: float | None = None) -> None:
        """Wait until something has come about, unless it takes too long or nobody wants to wait any more."""
        loop = asyncio.get_running_loop()
        deadline = None if secs is None else loop.time() + secs
        while True:
            if reached() or self.force_exit or (deadline is not None and loop.time() > deadline):
                return
            await asyncio.sleep(LOOK_SECS)

    def _is_anybody_new(self) -> bool:
        arriving = self._acceptors is not None and self._acceptors.is_busy
        return arriving or any(map(_is_new, self.server_state.connections))


def _is_new(connection: Any) -> bool:
    """Whether a socket was accepted and has not asked for anything yet."""
    return isinstance(connection, HttpToolsProtocol) and connection.cycle is None


class _Door:
    """The application, until the door is closed: from then on without WebSockets."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._closed = False
        # Handshakes that the application has not answered.
        self._waiting: set[asyncio.Task[Any]] = set()

    def close(self) -> None:
        """Let no WebSocket in any more."""
        self._closed = True

    @property
    def is_busy(self) -> bool:
        """Whether a handshake is being answered."""
        return bool(self._waiting)

    def turn_away(self) -> None:
        """Let those not in either whose handshakes still wait; perhaps for an event handler that takes its time."""
        for handshake in self._waiting:
            handshake.cancel()

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] == "websocket":
            return refuse(send, STOPPING) if self._closed else self._let_in(scope, receive, send)
        answered: Awaitable[None] = self._application(scope, receive, send)
        return _quiet(answered) if scope["type"] == "lifespan" else answered

    async def _let_in(self, scope: Any, receive: Any, send: Any) -> None:
        handshake = asyncio.current_task()
        assert handshake is not None  # noqa: S101 - servers run applications in tasks
        self._waiting.add(handshake)

        def answer(message: Any) -> Any:
            self._waiting.discard(handshake)
            return send(message)

        try:
            await self._application(scope, receive, answer)
        except asyncio.CancelledError:
            if handshake not in self._waiting or not self._closed:
                raise
            handshake.uncancel()
            await refuse(send, STOPPING)
        finally:
            self._waiting.discard(handshake)


async def _quiet(lifespan: Awaitable[None]) -> None:
    """A server that ends at once cancels it; uvicorn would log that as a fault of the application."""
    with suppress(asyncio.CancelledError):
        await lifespan
