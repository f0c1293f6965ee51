"""daphne, taught the parts of ASGI's WebSocket messages that it leaves out, and how to end.

daphne 4.2.3 answers every refused handshake with 403, drops the reason of a close frame and the
headers of an acceptance, and does not send empty messages. The wire protocol needs all four. Its
WebSocket protocol class has one method that carries out what the application says, `handle_reply`;
the subclass below says the missing parts there and leaves the rest to daphne.

autobahn, which reads and writes frames for daphne, has its own ways of ending: it answers any close
with 1000, goes on to read after a fault as if nothing had happened, and then resets the connection
under its own close frame. Here it shuts its side behind that, and reads until the client has shut its
own. daphne reports a close without a code as None, and nothing before the
socket is gone. And when it stops, clients are only cut off. The same subclass and the server below
it do these things as `endings.py` has them.

And daphne's `send` never waits: what a slow client does not take would pile up in Twisted's buffer,
where nobody sees it. Here it waits while that buffer is full, as `uvicorn` has it. Nor does it stop
reading: what the application does not take would pile up, too. Here it is not read past a bound. Clients
are sent pings and watched as on the other server (`keep_alive.py`); autobahn's own pings, and daphne's, are off.

daphne knows nothing of ASGI's lifespan either. The server below tells the application of the
beginning and of the end, as `uvicorn` does.

`runserver` without `--noreload` keeps the server in a thread that ends with its process, so there
no client is told that the server stops or starts anew; it sees 1006.
"""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

from autobahn.twisted.websocket import ConnectionDeny
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.web.http import HTTPChannel

from hubs import close_codes, conf
from hubs.protocols import framing
from hubs.servers import endings
from hubs.servers.direct import AHEAD_BYTES_EACH, MAX_AHEAD_BYTES
from hubs.servers.keep_alive import KeptAlive, Wheel

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


class FullWebSocketProtocol(KeptAlive, WebSocketProtocol):
    """daphne's WebSocket protocol, saying all that ASGI has words for, and ending as `endings.py` has it."""

    # Its slot on the wheel, once the handshake is done.
    _slot: int | None = None
    # Why the connection was lost, if that was our own doing.
    _lost_by = ""

    # Start and body of the response that refuses the handshake, once the application began one.
    _refusal: dict[str, Any] | None = None
    _refusal_body = b""

    # The application knows of the end; daphne passes nothing more on to it.
    muted: bool = False

    # Not set while the transport's buffer is full.
    _room: asyncio.Event | None = None

    # Nothing is read; no message that is read gets to the application; whatever comes is thrown away.
    _paused = _deaf = _discards = False
    # Our side of the socket is shut.
    _shut = False
    failedByMe: bool  # noqa: N815 (autobahn's name)
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
            self._slot = self.wheel.add(self)
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
            self._fills()

    def resumeProducing(self) -> None:  # noqa: N802
        """The client has caught up."""
        if self._room is not None:
            self._room.set()
            self._drains()

    def stopProducing(self) -> None:  # noqa: N802
        """The socket is gone; `onClose` says what there is to say."""

    async def room(self) -> None:
        """Wait until the transport takes more."""
        if self._room is not None and self.state == self.STATE_OPEN:
            await self._room.wait()

    # What comes in

    def hold(self) -> None:
        """The application has more than enough to do: read no more."""
        if not (self._paused or self.muted):
            self._paused = True
            self.transport.pauseProducing()
            self.wheel.watch(self)

    def read_on(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            self._forgive()
            if self._behind is None:
                self.wheel.unwatch(self)
            if not self._gone:
                self.transport.resumeProducing()

    # For keeping it alive

    @property
    def wheel(self) -> Wheel:
        """On which it sits."""
        found: Wheel = self.server.wheel
        return found

    def _end(self) -> Any:
        return self.transport.socket

    def _can_answer(self) -> bool:
        return self.state == self.STATE_OPEN and not self._paused

    def _is_unread(self) -> bool:
        return self._paused

    def _ping(self, payload: bytes) -> None:
        self.sendPing(payload)

    def _unsent(self) -> int:
        # Twisted has no name for it.
        return len(self.transport.dataBuffer) - self.transport.offset + self.transport._tempDataLen

    def _look_for_goodbye(self) -> None:
        self._deaf = True
        self.read_on()

    def _cut_off(self, reason: str) -> None:
        self._lost_by = reason
        # With a reset.
        self.transport.abortConnection()

    def _close_unread(self) -> None:
        self._close(*close_codes.NOT_READ.frame)
        self._expire()

    def onPong(self, payload: bytes) -> None:  # noqa: N802 (autobahn's name)
        """The client has answered."""
        self._unanswered = 0

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N802, N803
        """A message has come."""
        if not self._deaf:
            super().onMessage(payload, isBinary)

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
            self._close(*close_codes.FAILED.frame)
        elif hasattr(self, "handshake_deferred"):
            super().handle_exception(exception)

    def application_ended(self, application: asyncio.Future[Any]) -> None:
        """The application is done; see that the socket does not outlive it for long."""
        failed = application.cancelled() or application.exception() is not None
        if self.state == self.STATE_OPEN and not failed:
            self.dropConnection()
        self._expire()

    def go_away(self) -> None:
        """The server stops."""
        if self.state == self.STATE_OPEN:
            self._close(*close_codes.STOPPING.frame)

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> Any:  # noqa: N802, N803
        """The client closes, or answers our close frame."""
        self._discards = True
        ended = super().onCloseFrame(code, reasonRaw)
        if not self.failedByMe:
            self._tell(close_codes.NO_CODE if code is None else code, self.remoteCloseReason or "")
        return ended

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N802, N803
        """The socket is gone."""
        if self._last_resort is not None:
            self._last_resort.cancel()
        self._gone = True
        self.read_on()
        self._tell(close_codes.CONNECTION_LOST, self._lost_by)
        if self._slot is not None:
            self.wheel.unwatch(self)
            self.wheel.remove(self, self._slot)
        # A handshake that could not be read, or was refused a while ago, is not in the server's book.
        server = getattr(self, "server", None)
        if server is not None and self in server.connections:
            super().onClose(wasClean, code, reason)

    def processData(self) -> Any:  # noqa: N802
        """Read the next part of a frame; after a fault nothing is read any more."""
        return False if self._discards else super().processData()

    def _dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Take bytes from the client."""
        self._heard += len(data)
        if self._discards:
            self.data = b""
        else:
            super()._dataReceived(data)

    def _protocol_violation(self, reason: str) -> bool:
        self._fail_connection(close_codes.PROTOCOL_ERROR, reason)
        return True

    def _invalid_payload(self, reason: str) -> bool:
        self._fail_connection(close_codes.INVALID_DATA, reason)
        return True

    def _fail_connection(self, code: int = close_codes.GOING_AWAY, reason: str = "") -> None:
        """The client broke the protocol; autobahn gives `reason` in words of its own."""
        if self.state == self.STATE_CLOSED or self.failedByMe:
            return
        self.failedByMe = self._discards = True
        if self.state == self.STATE_OPEN:
            self._close(code, endings.reason(code, self.websocket_protocol_in_use))
        # Twisted would first ask a producer for more.
        self.unregisterProducer()
        if code == close_codes.TOO_LARGE:
            # The rest of the frame is on its way.
            asyncio.get_running_loop().call_later(endings.QUIET_SECS, self._hang_up)
        else:
            self._closeConnection()

    def _hang_up(self) -> None:
        if not (self._gone or self._shut):
            self._closeConnection()

    def _closeConnection(self, abort: bool = False) -> None:  # noqa: N802
        """Close the socket; behind a close frame only our side of it, so that the frame arrives."""
        if self._discards and not (self._shut or self.transport_details.is_secure):
            self._shut = True
            self._expire()
            self.transport.loseWriteConnection()
        else:
            super()._closeConnection(abort)

    def _expire(self) -> None:
        """See that the socket is gone before long."""
        if self._last_resort is None and not self._gone:
            loop = asyncio.get_running_loop()
            self._last_resort = loop.call_later(2 * endings.CLOSING_SECS, self.transport.abortConnection)

    def _close(self, code: int, reason: str = "") -> None:
        # Not sendClose: it only lets through the codes that RFC 6455 leaves to applications, and
        # towards the client this service is the endpoint that may say 1003, 1007, 1008, 1009 and 1011.
        self.sendCloseFrame(code, reason.encode())
        self._tell(code, reason)

    def _tell(self, code: int, reason: str = "") -> None:
        """Tell the application of the end, unless it knows."""
        if not self.muted:
            self.muted = True
            # Nothing that is still sent gets anywhere, so nobody has to wait for room; the client's part is to be read.
            self.resumeProducing()
            self.read_on()
            if getattr(self, "application_queue", None) is not None:
                self.application_queue.put_nowait(endings.disconnected(code, reason, self.silent_secs))


class _Inbox(asyncio.Queue[Any]):
    """What an application is going to hear of one client; past a bound the client is not read."""

    def __init__(self, protocol: FullWebSocketProtocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._bytes = 0

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._bytes += self._size_of(item)
        if self._bytes > MAX_AHEAD_BYTES:
            self._protocol.hold()

    def _get(self) -> Any:
        item = super()._get()
        self._bytes -= self._size_of(item)
        if self._bytes <= MAX_AHEAD_BYTES:
            self._protocol.read_on()
        return item

    def _size_of(self, item: Any) -> int:
        return len(item.get("bytes") or item.get("text") or b"") + AHEAD_BYTES_EACH


class FullServer(Server):
    """daphne's server with the protocol above, and with an end that clients are told of."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # daphne makes its WebSocket factory in run() and calls this right after, before it listens.
        kwargs["ready_callable"] = self._use_full_protocol
        kwargs["ping_interval"], kwargs["ping_timeout"] = math.inf, 0
        # As long as a connect handler may take, and not daphne's five seconds.
        kwargs["websocket_handshake_timeout"] = conf.settings.HANDLER_SECS + HANDSHAKE_SECS
        # A socket is not closed for its age; daphne would do so after a day.
        kwargs.setdefault("websocket_timeout", -1)
        super().__init__(*args, **kwargs)
        self.wheel = Wheel(conf.settings.KEEP_ALIVE_SECS / 2, conf.settings.WRITE_TIMEOUT_SECS)
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
        if not isinstance(protocol, FullWebSocketProtocol):
            return super().create_application(protocol, scope)
        scope.setdefault("extensions", {})[REFUSAL_EXTENSION] = {}
        scope.setdefault("scheme", "wss" if protocol.transport.__class__.__name__.startswith("TLS") else "ws")
        scope.setdefault("asgi", {"version": "3.0"})
        queue = _Inbox(protocol)
        running = self.application(scope=scope, receive=queue.get, send=partial(self.handle_reply, protocol))
        application = asyncio.ensure_future(running)
        application.add_done_callback(protocol.application_ended)
        self.connections[protocol]["application_instance"] = application
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
        """Pass one ASGI message of the application on, when there is room for it; for a close frame there is."""
        if isinstance(protocol, FullWebSocketProtocol) and message.get("type") != "websocket.close":
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
