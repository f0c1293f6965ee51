"""Event listeners that are streams of a Redis server.

An event is one entry. Its fields are the properties that Azure's messages to Event Hubs have, with
their names: `cloudEvents:type` and so on, `content-type`, `message-id`; and `body`, the data as bytes.
A batch is a transaction, so that it is in the stream as a whole or not at all, and a broken connection
leaves no part of it behind. The stream is kept to LISTENER_STREAM_LENGTH entries, more or less:
Redis drops whole blocks of its oldest ones.

A Redis server is a place in a network like any other, and whoever administers a hub names it; so the
guard of event handlers (ssrf_guard.py) judges its address too, when the connection is made. The errors of
the client library quote commands, and with them events; operators are told in words of our own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any
from urllib.parse import unquote, urlsplit

from hiredis import pack_command
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from hubs import conf
from hubs.hub_settings import EventListenerSettings
from hubs.rules.event_routing import split_stream_address
from hubs.upstream.listeners.message import Message
from hubs.upstream.listeners.transport import TransportError
from hubs.upstream.ssrf_guard import ForbiddenAddress, GuardedResolver, SystemResolver, open_socket

CONNECT_SECS = 5.0
ANSWER_SECS = 10.0

PROPERTY_PREFIX = "cloudEvents:"

# What servers say no with, and what that means here.
_REFUSALS = (
    ("WRONGTYPE", "its key is not a stream"),
    ("NOPERM", "the user may not write to the stream"),
    ("NOAUTH", "it wants a password"),
    # What it says to strangers whose commands are long.
    ("unauthenticated", "it wants a password"),
    ("OOM", "its memory is full"),
    ("READONLY", "it is a replica, which cannot be written to"),
    ("MISCONF", "it takes no writes, because it cannot save to its disk"),
    ("LOADING", "it is still loading its data"),
    ("MOVED", "it is part of a cluster, and the stream is in another"),
    ("CLUSTERDOWN", "its cluster is down"),
    ("DB index", "it has no database of that number"),
    ("unknown command", "it is older than Redis 5, which brought streams"),
)


class RedisStream:
    """Carries events into a stream."""

    max_messages = 100
    max_bytes = 1 << 20

    def __init__(self, listener: EventListenerSettings) -> None:
        url, self._stream = split_stream_address(listener.address)
        try:
            parts = urlsplit(url)
            self._place = f"{parts.hostname}:{parts.port or 6379}"
            secure = parts.scheme == "rediss"
            self._resolver = GuardedResolver(SystemResolver())
            pool: Any = ConnectionPool(
                connection_class=_SecureConnection if secure else _PlainConnection,
                resolver=self._resolver,
                host=parts.hostname or "",
                port=parts.port or 6379,
                db=int(parts.path.strip("/") or 0),
                username=unquote(parts.username) if parts.username else None,
                password=listener.authorization,
                socket_connect_timeout=CONNECT_SECS,
                # One limit for a whole batch instead of one for each answer; see `send`.
                socket_timeout=None,
                # Trying again is for the queue, which also says so.
                retry=Retry(NoBackoff(), 0),
                # The older protocol, which does not have to be agreed upon and needs one answer less.
                protocol=2,
                driver_info=None,
                max_connections=1,
            )
        except ValueError:
            raise TransportError("the address of the Redis server cannot be read") from None
        self._redis: Any = Redis(connection_pool=pool)

    async def send(self, batch: Sequence[Message]) -> None:
        """Add the entries of a batch. Raises TransportError."""
        pipeline = self._redis.pipeline(transaction=len(batch) > 1)
        length = conf.settings.LISTENER_STREAM_LENGTH
        for message in batch:
            fields = chain.from_iterable(fields_of(message).items())
            pipeline.execute_command("XADD", self._stream, "MAXLEN", "~", length, "*", *fields)
        try:
            async with asyncio.timeout(ANSWER_SECS):
                await pipeline.execute()
        except (RedisError, OSError) as problem:
            raise TransportError(self._explained(problem)) from None

    def _explained(self, problem: Exception) -> str:
        forbidden = _cause(problem, ForbiddenAddress)
        if forbidden is not None:
            return str(forbidden)
        # What the server said, without the command that the library puts in front.
        said = f"{getattr(problem, 'status_code', '')} {str(problem).rpartition('caused error: ')[2]}"
        refusal = next((meaning for word, meaning in _REFUSALS if word in said), "")
        if not refusal and isinstance(problem, AuthenticationError):
            refusal = "it does not accept the password"
        if refusal or isinstance(problem, ResponseError):
            return f"the Redis server at {self._place} refuses: {refusal or 'for a reason of its own'}"
        distrust = _cause(problem, ssl.SSLCertVerificationError)
        if isinstance(distrust, ssl.SSLCertVerificationError):
            return f"the Redis server at {self._place}: its certificate is not accepted: {distrust.verify_message}"
        system = _cause(problem, OSError)
        number = getattr(system, "errno", None) or 0
        # Of a name that has no address the number is another one, below zero, and has a text of its own.
        text = os.strerror(number) if number > 0 else getattr(system, "strerror", None)
        reason = text or "the connection broke, or there was no answer in time"
        return f"the Redis server at {self._place} cannot be reached: {reason}"

    async def close(self) -> None:
        """Close the connection."""
        try:
            await self._redis.aclose(close_connection_pool=True)
        finally:
            await self._resolver.close()


def fields_of(message: Message) -> dict[str, str | bytes]:
    """The fields of an event's entry."""
    fields: dict[str, str | bytes] = {PROPERTY_PREFIX + name: value for name, value in message.attributes.items()}
    fields["message-id"] = message.id
    fields["content-type"] = message.content_type
    fields["body"] = message.payload.data
    return fields


def _cause(problem: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The error of a kind that another one came of."""
    while problem is not None and not isinstance(problem, kind):
        problem = problem.__cause__ or problem.__context__
    return problem


class _Guarded:
    """A connection that goes only where the guard lets it."""

    host: str
    port: int

    def __init__(self, *, resolver: GuardedResolver, **options: Any) -> None:
        super().__init__(**options)
        self._resolver = resolver
        self._socket: socket.socket | None = None

    async def _connect(self) -> None:
        async with asyncio.timeout(CONNECT_SECS):
            self._socket = await self._reached()
            try:
                await super()._connect()  # type: ignore[misc]
            except BaseException:
                self._socket.close()
                raise
            finally:
                self._socket = None

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Write commands as bytes: in C, since what an entry costs is mostly this."""
        return [b"".join(pack_command(tuple(command)) for command in commands)]

    def _connection_arguments(self) -> Mapping[str, Any]:
        arguments = dict(super()._connection_arguments())  # type: ignore[misc]
        del arguments["host"], arguments["port"]
        arguments["sock"] = self._socket
        if "ssl" in arguments:
            arguments["server_hostname"] = self.host
        return arguments

    async def _reached(self) -> socket.socket:
        """A socket that is connected to one of the host's addresses. Raises OSError."""
        error: OSError = OSError(0, "the name has no address")
        for found in await self._resolver.resolve(self.host, self.port):
            place = (found["family"], socket.SOCK_STREAM, found["proto"], "", (found["host"], found["port"]))
            candidate = open_socket(place)
            try:
                candidate.setblocking(False)
                await asyncio.get_running_loop().sock_connect(candidate, place[4])
            except OSError as problem:
                candidate.close()
                error = problem
            except BaseException:
                candidate.close()
                raise
            else:
                return candidate
        raise error


class _PlainConnection(_Guarded, Connection):
    """Over TCP."""


class _SecureConnection(_Guarded, SSLConnection):
    """Over TLS."""
