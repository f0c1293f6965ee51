"""uvicorn, set up for this service: loopback on both address families, sizes, pings, quiet logs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from typing import Any, cast

import websockets.http11
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request, Response
from websockets.protocol import Protocol
from websockets.server import ServerProtocol

from hubs import close_codes, conf
from hubs.protocols.extension import EXTENSION, Receiver
from hubs.servers import endings
from hubs.servers.asgi import AsgiReceiver
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
    """uvicorn's WebSocket protocol as far as the handshake; then the socket goes to an object of `direct.py`.

    uvicorn 0.54 sends a message as one frame, reports a lost connection as 1005, tells an application
    of the end twice, closes with 1012 when it stops, answers a client's fault by closing the
    socket at once, which often takes the close frame with it, and does not see that a client has left which
    it does not read. A handshake that cannot be read it does not answer at all.

    So this is for the handshake alone. An application that accepts with a receiver has its socket handed over
    to that, and this object ends with the application's coroutine; any other gets a receiver that makes ASGI's
    messages (`asgi.py`).
    """

    queue: _Events
    conn: _Conversation

    _last_resort: asyncio.TimerHandle | None = None

    # What goes on in the place of this object, after it was handed over; and to whom, if the application named nobody.
    _successor: DirectSocket | None = None
    _receiver: AsgiReceiver | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.queue = _Events()
        self.conn = _Conversation(self.config.ws_max_size)
        self.close_timeout = endings.CLOSING_SECS

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client; whatever they are, it gets an answer."""
        conn = self.conn
        conn.receive_data(data)
        if not conn.answered and len(conn.reader.buffer) > MAX_EARLY_BYTES and not self.read_paused:
            # It sends on before it has the answer to its handshake. A little is taken, so that its end is noticed.
            self.read_paused = True
            self.transport.pause_reading()
        self.handle_events()
        if conn.handshake_exc is not None and not self.handshake_initiated:
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
        if self._receiver is not None:
            await self._receiver.send(message)
            return
        accepts = message["type"] == "websocket.accept" and not self.handshake_complete
        await super().send(message)
        if not accepts:
            return
        receiver = message.get(EXTENSION)
        if self.handshake_complete:
            self._hand_over(receiver)
        elif receiver is not None:
            # The client has left meanwhile.
            receiver.gone(close_codes.CONNECTION_LOST, "")

    async def receive(self) -> Any:
        """Give the application the next message."""
        return await (self.queue.get() if self._receiver is None else self._receiver.next())

    def _hand_over(self, receiver: Receiver | None) -> None:
        """Leave the socket to an object that does without all this."""
        if receiver is None:
            receiver = self._receiver = AsgiReceiver(self.queue)
        self.stop_keepalive()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        transport, self.transport = self.transport, NOT_THERE
        self.connections.discard(self)
        self.disconnected = True
        early = bytes(self.conn.reader.buffer)
        self._successor = DirectSocket(self._sockets(), transport, receiver, self.conn.agreed, early)

    def _sockets(self) -> Sockets:
        """What direct sockets of this server share."""
        config = cast(_Config, self.config)
        if config.sockets is None:
            bounds = conf.settings.KEEP_ALIVE_SECS, conf.settings.WRITE_TIMEOUT_SECS
            config.sockets = Sockets(self.connections, config.ws_max_size, *bounds)
        return config.sockets

    # How it ends

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application."""
        self.queue.put_nowait(endings.disconnected(close_codes.CONNECTION_LOST))
        if self._last_resort is not None:
            self._last_resort.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops before the handshake was answered, or while it is refused."""
        if not self.handshake_complete:
            self.transport.close()
        self._expire(endings.STOPPING_SECS)

    def send_500_response(self) -> None:
        """The application failed: say so in HTTP or, after the handshake, in a close frame."""
        if self._successor is not None:
            self._successor.fail()
        else:
            super().send_500_response()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """The application is done; see that the socket does not outlive it for long."""
        super().on_task_complete(task)
        if self._receiver is not None:
            self._receiver.ended()
        elif not self.disconnected:
            self._expire(2 * self.close_timeout)

    def _expire(self, secs: float) -> None:
        """See that the socket is gone in so many seconds, or earlier, if that was said before."""
        last = self._last_resort
        if last is not None:
            if last.when() <= self.loop.time() + secs:
                return
            last.cancel()
        self._last_resort = self.loop.call_later(secs, self.transport.abort)


class _Patient(Protocol):
    """Reads no frames: `direct.py` does, of what has come by then, once the handshake was answered."""

    def parse(self) -> Generator[None]:
        """Leave what comes behind the request."""
        while True:
            yield


class _Conversation(ServerProtocol, _Patient):
    """What websockets knows of one handshake.

    There are no extensions: compression costs more memory per client than everything else together.
    """

    answered = False
    # The one that was agreed on, once the handshake was answered.
    agreed: str | None = None

    def __init__(self, max_size: int | None) -> None:
        super().__init__(max_size=max_size, logger=logging.getLogger("uvicorn.error"))

    def send_response(self, response: Response) -> None:
        """Answer the handshake."""
        super().send_response(response)
        self.answered = True
        self.agreed = response.headers.get("Sec-WebSocket-Protocol")


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
