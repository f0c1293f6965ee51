"""uvicorn, set up for this service: loopback on both address families, sizes, pings, quiet logs."""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any

import websockets.http11
from uvicorn import Config, Server
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from hubs import conf
from hubs.servers.upgrades import HttpProtocol

LISTEN_BACKLOG = 2048

# The consumer judges the size of messages and says so in the close frame. The server's own limit is
# only there so that nothing of unbounded size is ever held in memory.
SERVER_LIMIT_FACTOR = 2


# websockets' own bound on one line of a request, 8 KiB, is less than a token with many roles and
# groups takes in an address. This one holds the longest token that is looked at (rules/tokens.py).
MAX_REQUEST_LINE = 128 * 1024
websockets.http11.MAX_LINE_LENGTH = MAX_REQUEST_LINE


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which answers also where a handshake cannot be read."""

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client; a handshake that is no valid request gets its HTTP error and the end."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # websockets has its response ready, and uvicorn 0.54 would leave the client waiting for it.
            self.transport.write(b"".join(self.conn.data_to_send()) or BAD_REQUEST)
            self.transport.close()


BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class ClientFaults(logging.Filter):
    """Keeps what clients do wrong from looking like faults of the server in its log.

    uvicorn 0.54 logs an error for each handshake that was refused with an HTTP status, because it
    does not count it as completed; our consumers always answer, so that complaint never has another
    cause. And it logs a text message that is not UTF-8, which it closes with 1007 as it should, as
    an error with a traceback.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is worth writing."""
        if record.msg == "Invalid UTF-8 sequence received from client.":
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.exc_info = record.exc_text = None
        return record.msg != "ASGI callable returned without completing handshake."


class CannotListen(Exception):
    """No socket could be bound; the text says what to do."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address `host` stands for, so that "localhost" answers on IPv4 and IPv6. Raises CannotListen."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as problem:
        raise CannotListen(
            f"HOST={host} cannot be resolved ({problem}). Set HOST to a name or address of this machine."
        ) from None
    addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
    if host == "localhost":
        # Some machines list only one of the two in /etc/hosts; browsers try both.
        addresses |= dict.fromkeys([(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port, 0, 0))])
    sockets: list[socket.socket] = []
    problems: list[OSError] = []
    for family, address in addresses:
        try:
            sockets.append(_bound(family, address))
        except OSError as problem:
            problems.append(problem)
    taken = next((problem for problem in problems if problem.errno == errno.EADDRINUSE), None)
    if taken is not None or not sockets:
        for listening in sockets:
            listening.close()
        if taken is not None:
            raise CannotListen(
                f"Port {port} is in use by another program. Stop it, or choose another port: PORT={port + 1}"
            )
        raise CannotListen(f"Cannot listen on HOST={host} PORT={port}: {problems[0]}")
    # One family missing (no IPv6 on this machine, say) is no reason not to serve the other.
    return sockets


def _bound(family: int, address: Any) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(LISTEN_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def server(application: Any) -> Server:
    """A uvicorn server for `application`, to be run with sockets from `bind`."""
    return Server(
        Config(
            application,
            loop="uvloop",
            http=HttpProtocol,
            ws=WebSocketProtocol,
            ws_max_size=conf.settings.MAX_MESSAGE_BYTES * SERVER_LIMIT_FACTOR,
            ws_ping_interval=conf.settings.KEEP_ALIVE_SECS,
            ws_ping_timeout=conf.settings.KEEP_ALIVE_SECS,
            # Compression costs more memory per client than everything else together.
            ws_per_message_deflate=False,
            lifespan="on",
            # Proxy headers are judged in one place, hubs/endpoints.py, by one setting.
            proxy_headers=False,
            server_header=False,
            # uvicorn logs addresses with their query, and a client's query has its token in it.
            access_log=False,
            log_config=None,
            log_level="warning",
            timeout_graceful_shutdown=10,
        )
    )
