"""daphne, taught the parts of ASGI's WebSocket messages that it leaves out, and how to end.

daphne 4.2.3 answers every refused handshake with 403, drops the reason of a close frame and the
headers of an acceptance, and does not send empty messages. The wire protocol needs all four. Its
WebSocket protocol class has one method that carries out what the application says, `handle_reply`;
the subclass below says the missing parts there and leaves the rest to daphne.

autobahn, which reads and writes frames for daphne, has its own ways of ending: it answers any close
with 1000, goes on to read after a fault as if nothing had happened, and then resets the connection
under its own close frame. daphne reports a close without a code as None, and nothing before the
socket is gone. And when it stops, clients are only cut off. The same subclass and the server below
it do these things as `endings.py` has them.

And daphne's `send` never waits: what a slow client does not take would pile up in Twisted's buffer,
where nobody sees it. Here it waits while that buffer is full, as `uvicorn` has it.

daphne knows nothing of ASGI's lifespan either. The server below tells the application of the
beginning and of the end, as `uvicorn` does.

`runserver` without `--noreload` keeps the server in a thread that ends with its process, so there
no client is told that the server stops or starts anew; it sees 1006.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from autobahn.twisted.websocket import ConnectionDeny
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.web.http import HTTPChannel

from hubs import conf
from hubs.protocols import framing
from hubs.servers import endings

logger = logging.getLogger(__name__)

# Twisted's own bound, 16 KiB, is less than a token with many roles and groups takes in an address.
MAX_REQUEST_LINE = 128 * 1024
HTTPChannel.totalHeadersSize = MAX_REQUEST_LINE
HTTPChannel.maxHeaders = 200
# Past the first bound Twisted answers 400; past this one, within a single line, it only hangs up.
HTTPChannel.MAX_LENGTH = 2 * MAX_REQUEST_LINE

# What a handshake takes besides the application's own event handlers.
HANDSHAKE_SECS = 10.0

# How long the application may take to put things away when the server stops.
LIFESPAN_SECS = 15.0

REFUSAL_EXTENSION = "websocket.http.response"


class FullWebSocketProtocol(WebSocketProtocol):
    """daphne's WebSocket protocol, saying all that ASGI has words for, and ending as `endings.py` has it."""

    # Start and body of the response that refuses the handshake, once the application began one.
    _refusal: dict[str, Any] | None = None
    _refusal_body = b""

    # The application knows of the end; daphne passes nothing more on to it.
    muted: bool = False

    # Not set while the transport's buffer is full.
    _room: asyncio.Event | None = None

    # Set when the client broke the protocol; what it sends is read no more.
    _parting: endings.Parting | None = None
    _last_resort: asyncio.TimerHandle | None = None
    _gone = False

    def handle_reply(self, message: dict[str, Any]) -> None:
        """Carry out one ASGI message of the application."""
        kind = message.get("type")
        if kind == "websocket.http.response.start" and self.state == self.STATE_CONNECTING:
            self._refusal = message
        elif kind == "websocket.http.response.body" and self._refusal is not None:
            self._refusal_body += message.get("body", b"")
            if not message.get("more_body", False):
                self._refuse(self._refusal["status"])
        elif kind == "websocket.accept":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message.get("headers", ())}
            subprotocol = message.get("subprotocol")
            if subprotocol is not None and subprotocol not in self.websocket_protocols:
                # Who recovers a connection gets its subprotocol, offered or not; autobahn would refuse to say so.
                self.websocket_protocols.append(subprotocol)
            self._room = asyncio.Event()
            self._room.set()
            # In the place of the HTTP channel that the connection came in by.
            self.transport.unregisterProducer()
            self.transport.registerProducer(self, True)
            self.handshake_deferred.callback((subprotocol, headers))
            del self.handshake_deferred
        elif kind == "websocket.close" and self.state == self.STATE_OPEN:
            code = message.get("code")
            self._close(1000 if code is None else code, message.get("reason") or "")
        elif kind == "websocket.send" and self.state == self.STATE_OPEN:
            text = message.get("text")
            # Not sendMessage: its bound on what clients may send would be one on what we may send, too.
            self.transport.write(
                framing.binary_frames(message["bytes"]) if text is None else framing.text_frames(text.encode())
            )
        elif kind in ("websocket.send", "websocket.close") and self.state != self.STATE_CONNECTING:
            # Closing or closed: nothing reaches the client any more.
            return
        else:
            super().handle_reply(message)

    # Twisted's word for whoever writes into a transport, and is told when it is full.

    def pauseProducing(self) -> None:  # noqa: N802
        """The client does not keep up."""
        if self._room is not None:
            self._room.clear()

    def resumeProducing(self) -> None:  # noqa: N802
        """The client has caught up."""
        if self._room is not None:
            self._room.set()

    def stopProducing(self) -> None:  # noqa: N802
        """The socket is gone; `onClose` says what there is to say."""

    async def room(self) -> None:
        """Wait until the transport takes more."""
        if self._room is not None and self.state == self.STATE_OPEN:
            await self._room.wait()

    def _refuse(self, status: int) -> None:
        self.handshake_deferred.errback(ConnectionDeny(status, HTTPStatus(status).phrase))
        del self.handshake_deferred
        self.server.protocol_disconnected(self)

    def sendHttpErrorResponse(  # noqa: N802 (autobahn's name)
        self,
        code: int,
        reason: str,
        responseHeaders: Any = None,  # noqa: N803
    ) -> None:
        """Write the refusal as the application worded it; autobahn's own has no body."""
        if self._refusal is None:
            super().sendHttpErrorResponse(code, reason, responseHeaders)
            return
        lines = [f"HTTP/1.1 {code} {reason}".encode("latin-1")]
        lines += [name + b": " + value for name, value in self._refusal.get("headers", ())]
        self.sendData(b"\r\n".join([*lines, b"Connection: close", b"", self._refusal_body]))

    # How it ends

    def handle_exception(self, exception: Exception) -> None:
        """The application failed: say so in HTTP or, after the handshake, in a close frame."""
        if self.state == self.STATE_OPEN:
            self._close(endings.INTERNAL_ERROR, endings.reason(endings.INTERNAL_ERROR, None))
        elif hasattr(self, "handshake_deferred"):
            super().handle_exception(exception)

    def application_ended(self, application: asyncio.Future[Any]) -> None:
        """The application is done; see that the socket does not outlive it for long."""
        failed = application.cancelled() or application.exception() is not None
        if self.state == self.STATE_OPEN and not failed:
            self.dropConnection()
        if not self._gone:
            loop = asyncio.get_running_loop()
            self._last_resort = loop.call_later(2 * endings.CLOSING_SECS, self.transport.abortConnection)

    def go_away(self) -> None:
        """The server stops."""
        if self.state == self.STATE_OPEN:
            self._close(endings.GOING_AWAY)

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> Any:  # noqa: N802, N803
        """The client closes, or answers our close frame."""
        ended = super().onCloseFrame(code, reasonRaw)
        if not self.failedByMe:
            self._tell(endings.NO_CODE if code is None else code, self.remoteCloseReason or "")
        return ended

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N802, N803
        """The socket is gone."""
        if self._parting is not None:
            self._parting.cancel()
        if self._last_resort is not None:
            self._last_resort.cancel()
        self._gone = True
        self._tell(endings.CONNECTION_LOST)
        # A handshake that could not be read, or was refused a while ago, is not in the server's book.
        server = getattr(self, "server", None)
        if server is not None and self in server.connections:
            super().onClose(wasClean, code, reason)

    def processData(self) -> Any:  # noqa: N802
        """Read the next part of a frame; after a fault nothing is read any more."""
        if self._parting is not None:
            self._parting.heard()
            self.data = b""
            return False
        return super().processData()

    def _protocol_violation(self, reason: str) -> bool:
        self._fail_connection(endings.PROTOCOL_ERROR, reason)
        return True

    def _invalid_payload(self, reason: str) -> bool:
        self._fail_connection(endings.INVALID_DATA, reason)
        return True

    def _fail_connection(self, code: int = endings.GOING_AWAY, reason: str = "") -> None:
        """The client broke the protocol; autobahn gives `reason` in words of its own."""
        if self.state == self.STATE_CLOSED or self._parting is not None:
            return
        self.failedByMe = True
        if self.state == self.STATE_OPEN:
            self._close(code, endings.reason(code, self.websocket_protocol_in_use))
        self._parting = endings.Parting(self._hang_up)

    def _hang_up(self) -> None:
        # Twisted would first ask a producer for more.
        self.unregisterProducer()
        if self.transport_details.is_secure:
            self.dropConnection()
        else:
            self.transport.loseWriteConnection()

    def _close(self, code: int, reason: str = "") -> None:
        # Not sendClose: it only lets through the codes that RFC 6455 leaves to applications, and
        # towards the client this service is the endpoint that may say 1003, 1007, 1008, 1009 and 1011.
        self.sendCloseFrame(code, reason.encode())
        self._tell(code, reason)

    def _tell(self, code: int, reason: str = "") -> None:
        """Tell the application of the end, unless it knows."""
        if not self.muted:
            self.muted = True
            # Nothing that is still sent gets anywhere, so nobody has to wait for room.
            self.resumeProducing()
            if getattr(self, "application_queue", None) is not None:
                self.application_queue.put_nowait(endings.disconnected(code, reason))


class FullServer(Server):
    """daphne's server with the protocol above, and with an end that clients are told of."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # daphne makes its WebSocket factory in run() and calls this right after, before it listens.
        kwargs["ready_callable"] = self._use_full_protocol
        kwargs.setdefault("ping_interval", conf.settings.KEEP_ALIVE_SECS)
        kwargs.setdefault("ping_timeout", conf.settings.KEEP_ALIVE_SECS)
        # As long as a connect handler may take, and not daphne's five seconds.
        kwargs["websocket_handshake_timeout"] = conf.settings.HANDLER_SECS + HANDSHAKE_SECS
        # A socket is not closed for its age; daphne would do so after a day.
        kwargs.setdefault("websocket_timeout", -1)
        super().__init__(*args, **kwargs)
        self._ports: list[Any] = []
        self._lifespan: asyncio.Task[None] | None = None
        self._lifespan_events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._lifespan_over = asyncio.Event()

    def _use_full_protocol(self) -> None:
        reactor.callWhenRunning(self._begin_lifespan)
        self.ws_factory.protocol = FullWebSocketProtocol
        self.ws_factory.setProtocolOptions(
            # A client that breaks the protocol is told so in a close frame, not only cut off.
            failByDrop=False,
            echoCloseCodeReason=True,
            closeHandshakeTimeout=endings.CLOSING_SECS,
            # As daphne has it. Left out, it would be taken back: the one option that is.
            allowNullOrigin=True,
        )

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        """Tell WebSocket applications that they may refuse with any status."""
        if scope["type"] == "websocket":
            scope.setdefault("extensions", {})[REFUSAL_EXTENSION] = {}
            scope.setdefault("scheme", "wss" if protocol.transport.__class__.__name__.startswith("TLS") else "ws")
        queue = super().create_application(protocol, scope)
        if queue is not None and isinstance(protocol, FullWebSocketProtocol):
            self.connections[protocol]["application_instance"].add_done_callback(protocol.application_ended)
        return queue

    def _begin_lifespan(self) -> None:
        self._lifespan_events.put_nowait({"type": "lifespan.startup"})
        self._lifespan = asyncio.ensure_future(self._live())

    async def _live(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        try:
            await self.application(scope, self._lifespan_events.get, self._lifespan_reply)
        except Exception as problem:
            # As ASGI has it: an application that fails here does without.
            logger.debug("The application has no lifespan: %r", problem)
        finally:
            self._lifespan_over.set()

    async def _lifespan_reply(self, message: dict[str, Any]) -> None:
        if message["type"] == "lifespan.shutdown.complete":
            self._lifespan_over.set()
        elif message["type"].endswith(".failed"):
            logger.error("The application could not %s: %s", message["type"].split(".")[1], message.get("message", ""))

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """Pass one ASGI message of the application on, when there is room for it."""
        if isinstance(protocol, FullWebSocketProtocol):
            await protocol.room()
        await super().handle_reply(protocol, message)

    def listen_success(self, port: Any) -> None:
        """Remember where we listen."""
        super().listen_success(port)
        self._ports.append(port)

    def kill_all_applications(self) -> Any:
        """Take leave of everybody before the reactor stops; what it gives is waited for."""
        return Deferred.fromFuture(asyncio.ensure_future(self._take_leave()))

    async def _take_leave(self) -> None:
        leaving = [maybeDeferred(port.stopListening) for port in self._ports]
        for protocol in list(self.connections):
            if isinstance(protocol, FullWebSocketProtocol):
                protocol.go_away()
                leaving.append(protocol.is_closed)
        loop = asyncio.get_running_loop()
        # daphne would look for an application behind every connection; one that is done has none any more.
        found = (details.get("application_instance") for details in self.connections.values())
        applications = [application for application in found if application is not None]
        waited_for = [*applications, *(deferred.asFuture(loop) for deferred in leaving)]
        if waited_for:
            await asyncio.wait(waited_for, timeout=endings.STOPPING_SECS)
        for application in applications:
            application.cancel()
        await asyncio.gather(*applications, return_exceptions=True)
        if self._lifespan is not None:
            self._lifespan_events.put_nowait({"type": "lifespan.shutdown"})
            with suppress(TimeoutError):
                async with asyncio.timeout(LIFESPAN_SECS):
                    await self._lifespan_over.wait()
            self._lifespan.cancel()
