"""One live connection to Redis, from the handshake to its loss.

Everything about getting a connection is redis-py's: addresses, Unix sockets, TLS, passwords and
credential providers, the database, asking Sentinel who the master is. Once it stands, its transport
is given another protocol, the `Wire`. redis-py reads a reply by waking the task that waits for it,
and writes a command by awaiting the socket, which costs more than all the rest of publishing a
message. A wire hands over all replies of one read from the socket in one call, and a write is a call
to the transport.

A wire watches itself. Time is counted in beats, of which four make the patience one has with
Redis. After a beat in which nothing was heard it asks for a sign of life; after four it counts
as lost, whatever the state of the socket. Beats are counted, and the clock is not looked at: when the loop was held
up, what came meanwhile is read before the next beat. A large message that is on its way and moves on counts as heard.

The connection speaks version 2 of the protocol, which every Redis and what is like it speaks, and in
which everything that comes is an answer.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import hiredis
from channels_redis.utils import create_pool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from hubs.layers.errors import LayerAway

BEATS = 4

# So much under way takes its time. Less says nothing: kernels take it for a Redis that stands still.
LARGE_BYTES = 64 * 1024

PING = b"*1\r\n$4\r\nPING\r\n"

SILENT = "Redis does not answer."

_NOTHING = object()


class Wire(asyncio.Protocol):
    """A connection that stands. Replies go to `on_replies`, the end of it to `on_lost`, once."""

    def __init__(self, connection: Any, patience_secs: float) -> None:
        loop = asyncio.get_running_loop()
        # Kept to the end: redis-py's stream closes the transport when it is collected.
        self._connection = connection
        self._transport: asyncio.Transport = connection._writer.transport
        self._reader = hiredis.Reader(replyError=ResponseError, notEnoughData=_NOTHING)
        self._on_replies: Callable[[list[Any]], None] = _ignore
        self._on_lost: Callable[[Exception], None] = _ignore
        self._on_quiet: Callable[[], None] = _ask_nothing
        self.is_lost = False
        # How many bytes have come.
        self.received = 0
        self._heard = True
        self._silent_beats = 0
        self._underway = 0
        self._beat_secs = patience_secs / BEATS
        self._beating: asyncio.TimerHandle | None = None
        # Done when the socket is closed.
        self.closed: asyncio.Future[None] = loop.create_future()
        self._transport.set_protocol(self)

    async def ask(self, *commands: bytes) -> list[Any]:
        """Write commands and wait for what Redis answers to them, errors included. Before `serve` only."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[None] = loop.create_future()
        answers: list[Any] = []

        def read(replies: list[Any]) -> None:
            answers.extend(replies)
            if len(answers) >= len(commands) and not answered.done():
                answered.set_result(None)

        def lost(problem: Exception) -> None:
            if not answered.done():
                answered.set_exception(problem)
                # Looked at: whoever asked may have been cancelled just now.
                answered.exception()

        self._on_replies, self._on_lost = read, lost
        self.write(b"".join(commands))
        await answered
        if len(answers) > len(commands):
            raise LayerAway("Redis answered what it was not asked.")
        return answers

    def serve(
        self,
        on_replies: Callable[[list[Any]], None],
        on_lost: Callable[[Exception], None],
        on_quiet: Callable[[], None],
    ) -> None:
        """Hand replies over from now on; `on_quiet` has to see to it that Redis answers something."""
        self._on_replies, self._on_lost, self._on_quiet = on_replies, on_lost, on_quiet
        self._beat_later()

    def write(self, data: bytes) -> None:
        """Write; never waits. How much may wait to be written is for the caller to bound."""
        self._transport.write(data)

    def lose(self, problem: Exception) -> None:
        """Give the connection up."""
        if self.is_lost:
            return
        self.is_lost = True
        if self._beating is not None:
            self._beating.cancel()
        _abort(self._connection)
        on_lost = self._on_lost
        # Nothing that is read from now on is for anybody.
        self._on_replies, self._on_lost, self._on_quiet = _ignore, _ignore, _ask_nothing
        on_lost(problem)

    def data_received(self, data: bytes) -> None:
        """Bytes came; called by the transport, as is the next."""
        self._heard = True
        self.received += len(data)
        reader = self._reader
        replies: list[Any] = []
        try:
            reader.feed(data)
            gets, note = reader.gets, replies.append
            while (reply := gets()) is not _NOTHING:
                note(reply)
        except hiredis.HiredisError as problem:
            self.lose(LayerAway(f"Redis sent something that is not its protocol: {problem}"))
            return
        if replies:
            self._on_replies(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self.lose(LayerAway(f"The connection to Redis was lost: {exc}" if exc else "Redis closed the connection."))
        if not self.closed.done():
            self.closed.set_result(None)

    def _beat_later(self) -> None:
        self._beating = asyncio.get_running_loop().call_later(self._beat_secs, self._beat)

    def _beat(self) -> None:
        underway = self._on_its_way()
        if self._heard or underway < self._underway >= LARGE_BYTES:
            self._heard, self._silent_beats = False, 0
        else:
            self._silent_beats += 1
            if self._silent_beats == 1:
                self._on_quiet()
            elif self._silent_beats == BEATS:
                self.lose(LayerAway(SILENT))
                return
        self._underway = underway
        self._beat_later()

    def _on_its_way(self) -> int:
        """How many bytes the other side has not got yet, as far as this machine knows."""
        size = self._transport.get_write_buffer_size()
        held = self._transport.get_extra_info("socket")
        # Not every kind of socket tells what the kernel has of it.
        with suppress(OSError, ValueError):
            size += int.from_bytes(fcntl.ioctl(held.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return size


def _ignore(anything: Any) -> None:
    pass


def _ask_nothing() -> None:
    pass


def _abort(connection: Any) -> None:
    """Close a connection of redis-py's at once, whatever is still to be written."""
    if connection._writer is not None:
        connection._writer.transport.abort()
    connection._close()


class Host:
    """One Redis, as the configuration names it: a URL, a dictionary of redis-py's arguments, or a Sentinel's."""

    def __init__(self, host: Mapping[str, Any], patience_secs: float) -> None:
        self.patience_secs = patience_secs
        host = dict(host)
        # One try and one answer from each sentinel that may be asked first.
        self._dial_secs = patience_secs * (1 + len(host.get("sentinels", ())))
        if "sentinels" in host:
            host["sentinel_kwargs"] = {
                "socket_timeout": patience_secs,
                "socket_connect_timeout": patience_secs,
                # The next one is asked instead.
                "retry": Retry(NoBackoff(), 0),
                **(host.get("sentinel_kwargs") or {}),
            }
        self._pool = create_pool(host)
        ours = {"protocol": 2, "decode_responses": False}
        self._arguments = {
            name: value for name, value in self._pool.connection_kwargs.items() if "maint" not in name
        } | ours

    async def dial(self, greet: Callable[[Wire], Awaitable[None]] | None = None) -> Wire:
        """Make a connection on which Redis answers, also to `greet`. Raises LayerAway."""
        connection = self._pool.connection_class(**self._arguments)
        wire: Wire | None = None
        try:
            async with asyncio.timeout(self._dial_secs):
                await connection.connect()
                wire = Wire(connection, self.patience_secs)
                # That a socket stands says little: the kernel made it.
                answers = await wire.ask(PING)
                if answers != [b"PONG"]:
                    # It loads its data, for example.
                    raise LayerAway(f"Redis is not ready: {answers[0]}")
                if greet is not None:
                    await greet(wire)
                if wire.is_lost:
                    # After the last answer, when nobody listened.
                    raise LayerAway("The connection to Redis was lost.")
        except BaseException as problem:
            await _given_up(connection, wire)
            if isinstance(problem, LayerAway) or not isinstance(problem, Exception):
                raise
            # redis-py's own errors, those of TLS and of names that are not known, and faults of the configuration.
            text = SILENT if isinstance(problem, TimeoutError) else str(problem) or type(problem).__name__
            raise LayerAway(text) from problem
        return wire

    async def close(self) -> None:
        """Close what redis-py keeps open: its connections to sentinels."""
        sentinels = getattr(self._pool, "sentinel_manager", None)
        if sentinels is not None:
            await sentinels.aclose()


async def _given_up(connection: Any, wire: Wire | None) -> None:
    """Wait until the socket of an attempt that failed is closed, so that it does not outlive its loop."""
    if wire is not None:
        wire.lose(LayerAway(SILENT))
        await wire.closed
    elif (writer := connection._writer) is not None:
        _abort(connection)
        with suppress(OSError):
            await writer.wait_closed()
