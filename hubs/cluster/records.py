"""What is kept of connections in Redis, beside the log, so that any process can go on where another stopped.

    session.<hub>.<id>   the snapshot of a reliable connection (connections/snapshots.py)
    owned.<process>      what a process has: by id, the hub, and for connections that cannot be recovered what
                         `disconnected` needs
    told.<id>            the process that tells that a connection has ended
    processes            the processes that have, or had, something

A snapshot may be old: it names the position behind which the log tells the rest. So a write that comes late, or in the
wrong order, harms nothing, and nobody waits for one but the client that has just connected. What has ended is
told by the log, so a snapshot that outlives its connection is harmless, too; it expires.

Every record begins with the version of its format. Fields are only ever added, with defaults.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import msgspec
from channels.exceptions import ChannelFull
from redis.exceptions import RedisError

from hubs.cluster.log import REPEAT_SECS, UNREACHABLE, Log
from hubs.errors import Unavailable
from hubs.layers.commands import KEY
from hubs.throttled_log import ThrottledLog

logger = logging.getLogger(__name__)

VERSION = 1

# Records outlive every use by far, and not for ever.
EXPIRY_SECS = 2 * 24 * 3600

# Within this, all who may take a connection for ended come to it.
TOLD_SECS = 600
MAX_TOLD = 10_000

# How often what could not be written is tried again.
AGAIN_SECS = 0.5
MAX_UNWRITTEN = 100_000

PROCESSES = "processes"


class Owned(msgspec.Struct, frozen=True, array_like=True):
    """A connection that a process has. `session`: what `disconnected` needs; None where there is a snapshot."""

    version: int
    hub: str
    session: dict[str, Any] | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode_owned: msgspec.msgpack.Decoder[Owned] = msgspec.msgpack.Decoder(Owned)
_decode: msgspec.msgpack.Decoder[dict[str, Any]] = msgspec.msgpack.Decoder(dict[str, Any])


class Records:
    """The records of one process, and those of others that it looks after. Does nothing where none are kept."""

    def __init__(self, process: str, log: Log) -> None:
        self._process = process
        self._log = log
        self._throttled = ThrottledLog(logger, every_secs=REPEAT_SECS)
        # Commands that could not be done while Redis was away, in order.
        self._unwritten: list[tuple[str, tuple[Any, ...]]] = []
        self._writing: asyncio.Task[None] | None = None
        # Connections of which this process has told.
        self._told: OrderedDict[str, None] = OrderedDict()

    async def begin(self) -> None:
        """This process may have something from now on. Raises Unavailable."""
        if self._log.keeps:
            await self._do(PROCESSES, "SADD", KEY, self._process)

    async def stop(self) -> None:
        """Write nothing more."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)

    # Snapshots

    def write(self, hub: str, connection_id: str, snapshot: dict[str, Any]) -> asyncio.Future[Any]:
        """Write a snapshot."""
        # A place has more than the 64 bits of a number in msgpack.
        place = divmod(snapshot["place"], 1 << 32)
        packed = _encode({"version": VERSION, **snapshot, "place": place})
        return self._log.execute(_session(hub, connection_id), "SET", KEY, packed, "EX", EXPIRY_SECS)

    async def create(self, hub: str, connection_id: str, snapshot: dict[str, Any]) -> None:
        """Write the first snapshot of a connection that is here. Raises Unavailable."""
        if self._log.keeps:
            self.own(hub, connection_id, None)
            try:
                await self.write(hub, connection_id, snapshot)
            except (RedisError, ChannelFull) as problem:
                logger.warning("A record cannot be written: %s", problem)
                raise Unavailable(UNREACHABLE) from problem

    async def read(self, hub: str, connection_id: str) -> dict[str, Any] | None:
        """The snapshot of a connection. Raises Unavailable."""
        packed = await self._do(_session(hub, connection_id), "GET", KEY)
        if packed is None:
            return None
        try:
            snapshot = _decode.decode(packed)
            high, low = snapshot["place"]
            return {**snapshot, "place": high << 32 | low}
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
            logger.error("The record of connection %s cannot be read", connection_id)
            return None

    def drop(self, hub: str, connection_id: str) -> None:
        """A connection has ended."""
        self._later(_session(hub, connection_id), "DEL", KEY)

    # Who has what

    def own(self, hub: str, connection_id: str, session: dict[str, Any] | None) -> None:
        """A connection is here."""
        if self._log.keeps:
            packed = _encode(Owned(VERSION, hub, session))
            self._later(_owned(self._process), "HSET", KEY, connection_id, packed)

    def is_unwritten(self, connection_id: str) -> bool:
        """Whether no other process knows that a connection is here, as far as this one can tell.

        A command whose answer was lost may have been executed all the same.
        """
        return any(command[0] == "HSET" and connection_id in command for _, command in self._unwritten)

    def disown(self, connection_id: str, process: str | None = None) -> None:
        """A connection is not here any more (or not in another process)."""
        if self._log.keeps:
            self._later(_owned(process or self._process), "HDEL", KEY, connection_id)

    async def first_to_tell(self, connection_id: str, process: str) -> bool:
        """Whether it is for this process to tell that a connection has ended, and not for another. Raises Unavailable.

        It may ask again where it got no answer; once it is told yes, it has to do it.
        """
        if connection_id in self._told:
            return False
        key = f"told.{connection_id}"
        await self._do(key, "SET", KEY, process, "NX", "EX", TOLD_SECS)
        is_first = bool(await self._do(key, "GET", KEY) == process.encode())
        if is_first and connection_id not in self._told:
            self._told[connection_id] = None
            if len(self._told) > MAX_TOLD:
                self._told.popitem(last=False)
            return True
        return False

    async def left_untold(self, connection_id: str, of: str, lives: Callable[[str], bool]) -> bool:
        """Whether it is for this process to tell what another one was to, which died before it knew that.

        To be asked some time after `first_to_tell`: who knows that it is to tell removes its record. Raises
        Unavailable.
        """
        key = f"told.{connection_id}"
        teller = await self._do(key, "GET", KEY)
        if teller is None or lives(teller.decode()) or not await self._do(_owned(of), "HEXISTS", KEY, connection_id):
            return False
        await self._do(key, "SET", KEY, self._process, "EX", TOLD_SECS)
        return True

    async def owned_by(self, process: str) -> AsyncIterator[tuple[str, Owned]]:
        """Ids and hubs of what a process had, one after the other. Raises Unavailable."""
        cursor: Any = b"0"
        while True:
            cursor, fields = await self._do(_owned(process), "HSCAN", KEY, cursor, "COUNT", 500)
            for field, packed in zip(fields[::2], fields[1::2], strict=True):
                with suppress(msgspec.MsgspecError):
                    yield field.decode(), _decode_owned.decode(packed)
            if cursor in (b"0", 0):
                return

    async def processes(self) -> set[str]:
        """The processes that may have left something. Raises Unavailable."""
        return {name.decode() for name in await self._do(PROCESSES, "SMEMBERS", KEY)}

    async def remove(self, process: str) -> None:
        """A process has left nothing. Raises Unavailable."""
        await self._do(_owned(process), "DEL", KEY)
        await self._do(PROCESSES, "SREM", KEY, process)

    # Writing

    async def _do(self, key: str, *command: Any) -> Any:
        try:
            return await self._log.execute(key, *command)
        except (RedisError, ChannelFull) as problem:
            if not self._log.is_away:
                # Else that was said, and is tried again and again.
                self._throttled.warn("The records in Redis cannot be used: %s", str(problem))
            raise Unavailable(UNREACHABLE) from problem

    def _later(self, key: str, *command: Any) -> None:
        """Have something written that nobody waits for, behind what was to be written before."""
        if not self._log.keeps:
            return
        if self._unwritten:
            self._put_off(key, command)
            return
        self._log.execute(key, *command).add_done_callback(lambda done: self._look(done, key, command))

    def _look(self, done: asyncio.Future[Any], key: str, command: tuple[Any, ...]) -> None:
        if not done.cancelled() and done.exception() is not None:
            self._put_off(key, command)

    def _put_off(self, key: str, command: tuple[Any, ...]) -> None:
        if len(self._unwritten) < MAX_UNWRITTEN:
            self._unwritten.append((key, command))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_again(), name="write records")

    async def _write_again(self) -> None:
        while self._unwritten:
            await asyncio.sleep(AGAIN_SECS)
            batch = self._unwritten[:500]
            futures = [self._log.execute(key, *command) for key, command in batch]
            results = await asyncio.gather(*futures, return_exceptions=True)
            failed = next((place for place, result in enumerate(results) if isinstance(result, Exception)), len(batch))
            del self._unwritten[:failed]


def _session(hub: str, connection_id: str) -> str:
    return f"session.{blake2b(hub.encode(), digest_size=10).hexdigest()}.{connection_id}"


def _owned(process: str) -> str:
    return f"owned.{process}"
