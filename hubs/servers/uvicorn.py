"""uvicorn, set up for this service: loopback on both address families, sizes, pings, quiet logs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from typing import Any, cast

import websockets.http11
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Protocol, State
from websockets.server import ServerProtocol
from websockets.typing import BytesLike

from hubs import conf
from hubs.protocols import framing
from hubs.protocols.extension import EXTENSION, Receiver
from hubs.servers import endings
from hubs.servers.direct import NOT_THERE, DirectSocket, Sockets
from hubs.servers.http import MAX_HEADERS, MAX_REQUEST_LINE, HttpConfig, HttpProtocol
from hubs.servers.stopping import Drain, StoppingServer

# The consumer judges the size of messages and says so in the close frame. The server's own limit is
# only there so that nothing of unbounded size is ever held in memory.
SERVER_LIMIT_FACTOR = 2


# websockets reads a handshake once more, after HttpProtocol has, and has bounds of its own: 8 KiB for a line, which is
# less than a token with many roles and groups takes in an address, and 128 headers. The whole line is counted here.
websockets.http11.MAX_LINE_LENGTH = MAX_REQUEST_LINE + 1024
websockets.http11.MAX_NUM_HEADERS = MAX_HEADERS

# What a client may send before its handshake is answered; then its socket waits.
MAX_EARLY_BYTES = 256 * 1024


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, with frames and endings as this service wants them.

    uvicorn 0.54 sends a message as one frame, reports a lost connection as 1005, tells an application
    of the end twice, closes with 1012 when it stops, and answers a client's fault by closing the
    socket at once, which often takes the close frame with it. A handshake that cannot be read it
    does not answer at all. It also trusts that a socket which it closes will close: one whose client
    takes nothing any more stays for good.

    And it offers the extension of `direct.py`: an application that accepts with a receiver has its socket
    handed over, and this object ends with the application's coroutine.
    """

    queue: _Events
    conn: _Conversation

    # Set when the client broke the protocol; what it sends is read no more.
    _parting: endings.Parting | None = None
    _last_resort: asyncio.TimerHandle | None = None

    # What goes on in the place of this object, after it was handed over.
    _successor: DirectSocket | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.queue = _Events()
        self.conn = _Conversation(self.config.ws_max_size)
        self.close_timeout = endings.CLOSING_SECS

    # What comes in

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client; whatever they are, it gets an answer."""
        if self._parting is not None:
            self._parting.heard()
            return
        conn = self.conn
        conn.receive_data(data)
        if not conn.answered and len(conn.reader.buffer) > MAX_EARLY_BYTES and not self.read_paused:
            # It sends on before it has the answer to its handshake. A little is taken, so that its end is noticed.
            self.read_paused = True
            self.transport.pause_reading()
        # First what came before a fault, then the fault.
        self.handle_events()
        if conn.parser_exc is not None:
            self.handle_parser_exception()
        elif conn.handshake_exc is not None and not self.handshake_initiated:
            # websockets has its response ready, and uvicorn would leave the client waiting for it.
            self.transport.write(b"".join(conn.data_to_send()) or BAD_REQUEST)
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        """Begin the conversation with the application."""
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["extensions"][EXTENSION] = {}

    async def send(self, message: Any) -> None:
        """Take a message from the application."""
        if message["type"] != "websocket.accept" or self.handshake_complete:
            await super().send(message)
            return
        await super().send(message)
        receiver = message.get(EXTENSION)
        if not self.handshake_complete:
            # The client has left meanwhile.
            if receiver is not None:
                receiver.gone(endings.CONNECTION_LOST, "")
        elif receiver is not None:
            self._hand_over(receiver)
        elif self.conn.reader.buffer:
            self.data_received(b"")
            if self.read_paused and self.queue.empty():
                self._read_on()

    def _hand_over(self, receiver: Receiver) -> None:
        """Leave the socket to an object that does without all this."""
        self.stop_keepalive()
        self._read_on()
        transport, self.transport = self.transport, NOT_THERE
        self.connections.discard(self)
        self.disconnected = True
        early = bytes(self.conn.reader.buffer)
        self._successor = DirectSocket(self._sockets(), transport, receiver, self.conn.agreed, early)

    def _sockets(self) -> Sockets:
        """What direct sockets of this server share."""
        config = cast(_Config, self.config)
        if config.sockets is None:
            config.sockets = Sockets(self.connections, config.ws_max_size, conf.settings.KEEP_ALIVE_SECS)
        return config.sockets

    def handle_cont(self, event: Frame) -> None:
        """Add a piece to a message, so that many small pieces take no more memory than the message."""
        whole: Any = self.frames[0]
        if not isinstance(whole, bytearray):
            whole = bytearray(whole)
            self.frames = [whole]
        whole += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        """Hand a complete message to the application, unless the conversation is over."""
        (data,), self.frames = self.frames, []
        if self.close_sent or self.queue.over:
            return
        if self.curr_msg_data_type == "bytes":
            self.queue.put_nowait({"type": "websocket.receive", "bytes": bytes(data)})
        else:
            try:
                text = data.decode()
            except UnicodeDecodeError:
                self.conn.fail(endings.INVALID_DATA)
                self.handle_parser_exception()
                return
            self.queue.put_nowait({"type": "websocket.receive", "text": text})
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    # How it ends

    def handle_parser_exception(self) -> None:
        """The client broke the protocol, and its close frame is written: send it, and see that it can be read."""
        if self._parting is not None or self.transport.is_closing():
            return
        closed = self.conn.close_sent
        if closed is None:
            # It did not even wait for the answer to its handshake.
            self.transport.close()
            return
        self.stop_keepalive()
        self.queue.put_nowait(endings.disconnected(closed.code, closed.reason))
        self.transport.write(b"".join(self.conn.data_to_send()))
        self._read_on()
        whole = not self.transport.can_write_eof()
        self._parting = endings.Parting(self.transport.close if whole else self.transport.write_eof)
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application, if nothing was told before."""
        self.queue.put_nowait(endings.disconnected(endings.CONNECTION_LOST))
        if self._parting is not None:
            self._parting.cancel()
        if self._last_resort is not None:
            self._last_resort.cancel()
        super().connection_lost(exc)

    def keepalive_timeout(self) -> None:
        """The client is silent: drop it, without waiting for it to take what lies in the buffer."""
        if self.read_paused and self.ping_timeout is not None:
            # It is us who are not listening, because the application is busy with earlier messages.
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        self.pong_timer = None
        self.pending_ping_payload = None
        self.transport.abort()

    def shutdown(self) -> None:
        """The server stops: say so with 1001, which makes clients look for another or come back later."""
        self.stop_keepalive()
        if self.conn.state is State.OPEN:
            self._close(endings.GOING_AWAY, endings.STOPPING_SECS)
        elif not self.handshake_complete:
            self.transport.close()
        # Whatever time it was given for its end before: now everybody waits for it.
        self._expire(endings.STOPPING_SECS)

    def send_500_response(self) -> None:
        """The application failed: say so in HTTP or, after the handshake, in a close frame."""
        if self._successor is not None:
            self._successor.fail()
        elif self.handshake_complete and self.conn.state is State.OPEN:
            self._close(endings.INTERNAL_ERROR, self.close_timeout)
        else:
            super().send_500_response()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The application is done; see that the socket does not outlive it for long."""
        super().on_task_complete(task)
        if not self.disconnected:
            self._expire(2 * self.close_timeout)

    def _expire(self, secs: float) -> None:
        """See that the socket is gone in so many seconds, or earlier, if that was said before."""
        last = self._last_resort
        if last is not None:
            if last.when() <= self.loop.time() + secs:
                return
            last.cancel()
        self._last_resort = self.loop.call_later(secs, self.transport.abort)

    def _close(self, code: int, secs: float) -> None:
        """Close by ourselves; the client has so many seconds to answer."""
        reason = endings.reason(code, self.conn.agreed)
        self.queue.put_nowait(endings.disconnected(code, reason))
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self._read_on()
        self.close_timer = self.loop.call_later(secs, self.transport.abort)

    def _read_on(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()


class _Patient(Protocol):
    """Reads no frames before the handshake was answered; until then nobody knows who is to read them."""

    answered = False

    def parse(self) -> Generator[None]:
        """Read what comes behind the request."""
        while not self.answered:
            yield
        yield from super().parse()


class _Conversation(ServerProtocol, _Patient):
    """What websockets knows of one socket; messages leave in frames of ours, and faults get our reasons.

    There are no extensions: compression costs more memory per client than everything else together.
    """

    # The one that was agreed on, once the handshake was answered.
    agreed: str | None = None

    def __init__(self, max_size: int | None) -> None:
        super().__init__(max_size=max_size, logger=logging.getLogger("uvicorn.error"))

    def send_text(self, data: BytesLike, fin: bool = True) -> None:
        """Send a text message, always a whole one."""
        if self._state is not State.OPEN:
            raise InvalidState("the connection is closing")
        self.writes.append(framing.text_frames(data))  # type: ignore[arg-type]  # uvicorn gives bytes

    def send_binary(self, data: BytesLike, fin: bool = True) -> None:
        """Send a binary message, always a whole one."""
        if self._state is not State.OPEN:
            raise InvalidState("the connection is closing")
        self.writes.append(framing.binary_frames(data))  # type: ignore[arg-type]

    def send_response(self, response: Response) -> None:
        """Answer the handshake."""
        super().send_response(response)
        self.answered = True
        self.agreed = response.headers.get("Sec-WebSocket-Protocol")

    def recv_frame(self, frame: Frame) -> None:
        """Take a frame. A close may come between the pieces of a message, which websockets holds for a fault."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)

    def fail(self, code: int, reason: str = "") -> None:
        """Close because of the client; websockets would describe the fault in words of its own."""
        super().fail(code, endings.reason(code, self.agreed))


class _Events(asyncio.Queue[Any]):
    """What the application is going to hear. After the end of the conversation there is nothing more."""

    over = False

    def _put(self, item: Any) -> None:
        if not self.over:
            self.over = item["type"] == "websocket.disconnect"
            if self.over:
                # uvicorn gives none where it refuses a handshake.
                item.setdefault("reason", "")
            super()._put(item)


class _Config(HttpConfig):
    """The settings of one server, and what its sockets share: the one thing that all its protocols know."""

    sockets: Sockets | None = None


BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def server(application: Any, drain: Drain | None = None) -> StoppingServer:
    """A uvicorn server for `application`, to be run with sockets from `listening.bind`."""
    return StoppingServer(
        _Config(
            application,
            loop="uvloop",
            http=HttpProtocol,
            ws=WebSocketProtocol,
            ws_max_size=conf.settings.MAX_MESSAGE_BYTES * SERVER_LIMIT_FACTOR,
            ws_ping_interval=conf.settings.KEEP_ALIVE_SECS,
            ws_ping_timeout=conf.settings.KEEP_ALIVE_SECS,
            ws_per_message_deflate=False,
            lifespan="on",
            # Proxy headers are judged in one place, hubs/endpoints.py, by one setting.
            proxy_headers=False,
            server_header=False,
            # uvicorn logs addresses with their query, and a client's query has its token in it.
            access_log=False,
            log_config=None,
            log_level="warning",
            timeout_keep_alive=conf.settings.HTTP_KEEP_ALIVE_SECS,
            timeout_graceful_shutdown=10,
        ),
        drain,
    )
