"""The log: what a process appends, every process reads, in one order.

There is a log per hub, one that all processes read, and one per process for answers (entries.py has the names). Whoever
serves a hub reads its log from a position on and applies the entries as they come, its own included; so all
processes do the same things in the same order, and a process that stood still or lost its line reads on where it was.

Three things can stand below it, and no code but this asks which:

* Nothing, where the layer reaches no other process (`MemoryLog`): appending is applying, in one plain call.
* A channel layer that keeps logs (hubs/layers, its extension "log"): entries have positions, and records can be kept
  beside them (records.py). `keeps` says so.
* Any other channel layer: a log is a layer group, and an entry a message to it. They come at most once, have no
  position, and nothing can be read again; so reliable connections stay in their process.

`append` gives a future. It is done when the entry has been applied here, if this process reads that log, and else
when it is in the log. If it fails with Unavailable, the entry has not been applied; it may be in the log all the same
(the line was lost before Redis answered), and then the error has an `outcome`, which tells as soon as it is known.

A process that stood still, or was cut off, may append what it knows nothing against, and what it appended may have been
under way for long. By then others may have gone on with the connections that it is about, and those who begin to read
the log know nothing of that any more (`HISTORY_SECS`). So each entry says how far its process had read. If that is
longer ago, and the entry about somebody whose connection may have moved, it is void for all who read it, its own
process included: there it has failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import msgspec
from channels.exceptions import ChannelFull
from channels.layers import InMemoryChannelLayer
from redis.exceptions import RedisError

from hubs import conf
from hubs.cluster.entries import VERSION, Change, Claim, Entry, Publications, Skipped, decode, encode
from hubs.errors import NotFound, Unavailable
from hubs.layers.errors import LayerAway, LayerInDoubt, LogTrimmed
from hubs.layers.positions import first_of, ms_of
from hubs.throttled_log import ThrottledLog

logger = logging.getLogger(__name__)

UNREACHABLE = "The other servers of this service cannot be reached."
TRIMMED = "What was published meanwhile is not kept any more."

MESSAGE_TYPE = "hubwire.entry"

# How long the line may be lost before those who wait for their entries to come back are told that they may not.
LOST_SECS = 0.7
SWEEP_SECS = 0.5

# One line in this time of logs that cannot be read.
REPEAT_SECS = 60.0

# A log is read on for so long after it was wanted last.
LINGER_SECS = 5.0

# So much of the past is looked at when a log is first read: claims that others may still act upon. What was appended
# with less knowledge than that is void, if it is one of these.
HISTORY_SECS = 5.0
PERISHABLE = (Publications, Change, Skipped)
# A claim is void sooner: its process may have been taken for dead (leases.py) and not have read it.
CLAIM_UNREAD_SECS = 2.4

# Entries in one answer of Redis.
CHUNK = 1000


class Log(Protocol):
    """What processes share. `alone`: there are no others. `keeps`: entries have positions and can be read again."""

    alone: bool
    keeps: bool

    @property
    def is_away(self) -> bool:
        """Whether nothing can be appended or read now."""

    async def open(self, own: list[str]) -> None:
        """Begin to read these logs. Raises Unavailable; may be called again."""

    async def close(self) -> None:
        """Read and append nothing more."""

    async def serve(self, name: str) -> None:
        """Read a log; when this returns, whatever is appended from now on is applied here. Raises Unavailable."""

    def release(self, name: str) -> None:
        """A log is not needed any more, as far as the caller knows; it is asked again (`wanted`) a little later."""

    def append(self, name: str, entry: Entry) -> asyncio.Future[None] | None:
        """Append an entry; None where it has been applied already. See above."""

    def reads(self, name: str) -> bool:
        """Whether what is appended to a log is applied here."""

    def position(self, name: str) -> int:
        """How far a log has been applied."""

    def replay(
        self, name: str, after: int, upto: int, *, including: bool = False, checked: bool = True
    ) -> AsyncIterator[tuple[int, str, Entry]]:
        """Entries behind that at one position (or from it on) up to another.

        Raises NotFound where some are not kept any more, unless that is not `checked`; Unavailable.
        """

    async def former_processes(self) -> int:
        """How many processes of a version that has no log share this Redis, and hear nothing of this one."""

    def execute(self, key: str, *command: Any) -> asyncio.Future[Any]:
        """Have Redis do a command about a key, behind what was appended before. Only where it `keeps`."""


class Reader(Protocol):
    """Who applies what is read."""

    def take(self, name: str, position: int, origin: str, entry: Entry) -> None:
        """Apply an entry."""

    def remember(self, name: str, position: int, origin: str, entry: Entry) -> None:
        """Look at an entry from before this process read that log."""

    def wanted(self, name: str) -> bool:
        """Whether a log is to be read on."""

    def read_until_ms(self) -> int:
        """Until when this process has read what was appended, by the log's clock; 0 as long as that is not known."""

    def line(self, up: bool) -> None:
        """The line was lost, or is back."""

    def gap(self, name: str) -> None:
        """Entries may have been lost."""


def log_on(layer: Any, process: str, reader: Reader) -> Log:
    """The log of a process on its channel layer."""
    if isinstance(layer, InMemoryChannelLayer):
        return MemoryLog(process, reader)
    return LayerLog(layer, process, reader)


class MemoryLog:
    """The log of a process that is alone."""

    alone = True
    keeps = False
    is_away = False

    def __init__(self, process: str, reader: Reader) -> None:
        self._process = process
        self._reader = reader

    async def open(self, own: list[str]) -> None:
        """Nothing has to be opened."""

    async def close(self) -> None:
        """Nothing has to be closed."""

    async def serve(self, name: str) -> None:
        """All is applied here."""

    def release(self, name: str) -> None:
        """Nothing is read."""

    def append(self, name: str, entry: Entry) -> None:
        """Apply an entry."""
        self._reader.take(name, 0, self._process, entry)

    def reads(self, name: str) -> bool:
        """All is applied here."""
        return True

    def position(self, name: str) -> int:
        """There are no positions."""
        return 0

    async def replay(
        self, name: str, after: int, upto: int, *, including: bool = False, checked: bool = True
    ) -> AsyncIterator[tuple[int, str, Entry]]:
        """Nothing is kept."""
        return
        yield

    async def former_processes(self) -> int:
        """There are no other processes."""
        return 0

    def execute(self, key: str, *command: Any) -> asyncio.Future[Any]:
        """There is no Redis."""
        raise RuntimeError("A log in memory keeps no records.")


class _Appended:
    """An entry of this process that has not come back yet."""

    __slots__ = ("at", "entry", "future", "number", "outcome", "returns")

    def __init__(self, number: int, entry: Entry, at: float, *, returns: bool) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.entry = entry
        self.at = at
        # Whether it is read here.
        self.returns = returns
        self.future: asyncio.Future[None] = loop.create_future()
        # Made when it is in doubt whether it is in the log.
        self.outcome: asyncio.Future[bool] | None = None

    def succeed(self) -> None:
        """It has been applied here, or is in the log and not read here."""
        if not self.future.done():
            self.future.set_result(None)
        self.settle(True)

    def fail(self, problem: str) -> None:
        """It is not in the log and never will be."""
        if not self.future.done():
            _fail(self.future, Unavailable(problem))
        self.settle(False)

    def doubt(self, problem: str) -> None:
        """Nobody need wait any longer; it may be in the log."""
        if not self.future.done():
            unavailable = Unavailable(problem)
            self.outcome = unavailable.outcome = asyncio.get_running_loop().create_future()
            _fail(self.future, unavailable)

    def settle(self, is_in_log: bool) -> None:
        """It is known now."""
        if self.outcome is not None and not self.outcome.done():
            self.outcome.set_result(is_in_log)


class LayerLog:
    """The log of a process among others, on a channel layer."""

    alone = False

    def __init__(self, layer: Any, process: str, reader: Reader) -> None:
        self._layer = layer
        self._process = process
        self._reader = reader
        # Asked of the class: channels_redis' layer makes a connection when an instance is asked.
        can = type(layer)
        self.keeps = "log" in getattr(can, "extensions", ())
        self._post: Callable[[str, dict[str, Any]], asyncio.Future[Any]] = (
            layer.post if self.keeps else self._start_sending
        )
        self._channel: str | None = None
        self._own: list[str] = []
        self._end_listening: Callable[[], None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        # Where the layer cannot post: what was started last. What is sent after it comes behind it.
        self._started: asyncio.Task[Any] | None = None
        # The logs that are read, and how far; those whose reading begins; the timers of those that may be left.
        self._positions: dict[str, int] = {}
        self._beginning: dict[str, asyncio.Task[None]] = {}
        self._leaving: dict[str, asyncio.TimerHandle] = {}
        self._number = 0
        self._appended: dict[str, deque[_Appended]] = {}
        self._lost_at: float | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._warned_of_version = False
        self._told_of_outage = False
        self._throttled = ThrottledLog(logger, every_secs=REPEAT_SECS)
        # What Redis, or the way to it, had against the last entry; empty, if nothing.
        self._refused = ""
        self._closed = False

    @property
    def is_away(self) -> bool:
        """Whether nothing can be appended or read now."""
        return self._is_lost or bool(self._refused)

    @property
    def _is_lost(self) -> bool:
        return self._lost_at is not None and _now() - self._lost_at > LOST_SECS

    # Coming and going

    async def open(self, own: list[str]) -> None:
        """Begin to read these logs. Raises Unavailable; may be called again."""
        self._own = own
        try:
            if self._channel is None:
                async with asyncio.timeout(conf.settings.ANSWER_SECS):
                    self._channel = await self._layer.new_channel()
                if self.keeps:
                    self._end_listening = self._layer.listen(self._channel, self._read, self._line, self._gap)
                else:
                    self._hold(asyncio.create_task(self._receive(), name="read the channel layer"))
                self._sweep()
        except Exception as problem:
            raise Unavailable(UNREACHABLE) from problem
        for name in own:
            await self.serve(name)

    async def close(self) -> None:
        """Read and append nothing more."""
        self._closed = True
        for timer in (*self._leaving.values(), *([self._sweeping] if self._sweeping else [])):
            timer.cancel()
        tasks = [*self._tasks, *self._beginning.values()]
        pending = set(tasks)
        while pending:
            # More than once, since a layer's client may swallow a cancellation that comes just as it got its answer.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._end_listening is not None:
            self._end_listening()
        for waiting in self._appended.values():
            for appended in waiting:
                appended.doubt(UNREACHABLE)

    async def serve(self, name: str) -> None:
        """Read a log; when this returns, whatever is appended from now on is applied here. Raises Unavailable."""
        if (timer := self._leaving.pop(name, None)) is not None:
            # Not left for a while; whoever wants it may come to nothing.
            timer.cancel()
            self.release(name)
        if name in self._positions:
            if self.is_away:
                raise Unavailable(UNREACHABLE)
            return
        task = self._beginning.get(name)
        if task is None:
            task = self._beginning[name] = asyncio.create_task(self._begin(name), name="begin to read a log")
            task.add_done_callback(partial(self._begun, name))
        try:
            # The others who want it wait for the same task.
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise Unavailable(UNREACHABLE) from None
        except Exception as problem:
            if not self._told_of_outage:
                self._throttled.warn("A log cannot be read: %s", str(problem) or type(problem).__name__)
            raise Unavailable(UNREACHABLE) from problem

    async def _begin(self, name: str) -> None:
        async with asyncio.timeout(conf.settings.ANSWER_SECS):
            if not self.keeps:
                await self._layer.group_add(name, self._channel)
                self._positions[name] = 0
                return
            position = await self._layer.group_add(name, self._channel)
            # What was read meanwhile is behind it.
            self._positions[name] = max(position, self._positions.get(name, 0))
            after = max(0, position - first_of(int(HISTORY_SECS * 1000)))
            async for place, origin, entry in self.replay(name, after, position, checked=False):
                self._reader.remember(name, place, origin, entry)

    def _begun(self, name: str, task: asyncio.Task[None]) -> None:
        self._beginning.pop(name, None)
        if task.cancelled() or task.exception() is not None:
            self._positions.pop(name, None)
            return
        self.release(name)

    def release(self, name: str) -> None:
        """A log is not needed any more, as far as the caller knows; it is asked again (`wanted`) a little later."""
        if name in self._positions and name not in self._leaving and name not in self._own and not self._closed:
            self._leaving[name] = asyncio.get_running_loop().call_later(LINGER_SECS, self._perhaps_leave, name)

    def _perhaps_leave(self, name: str) -> None:
        self._leaving.pop(name, None)
        if self._reader.wanted(name):
            return
        if self._appended.get(name):
            self.release(name)
            return
        self._positions.pop(name, None)
        self._appended.pop(name, None)
        self._hold(asyncio.ensure_future(self._leave(name)))

    async def _leave(self, name: str) -> None:
        with suppress(Exception):
            if name not in self._positions and name not in self._beginning:
                await self._layer.group_discard(name, self._channel)

    def _hold(self, task: asyncio.Task[Any]) -> None:
        # The loop alone would not.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # To append

    def append(self, name: str, entry: Entry) -> asyncio.Future[None]:
        """Append an entry."""
        body = encode(entry)
        self._number += 1
        appended = _Appended(self._number, entry, _now(), returns=name in self._positions)
        if self._is_lost or self._closed:
            appended.fail(UNREACHABLE)
            return appended.future
        message = {"type": MESSAGE_TYPE, "v": VERSION, "origin": self._process, "n": appended.number, "body": body}
        if self.keeps:
            message["read"] = self._reader.read_until_ms()
        else:
            message["log"] = name
        if appended.returns:
            waiting = self._appended.get(name)
            if waiting is None:
                waiting = self._appended[name] = deque()
            waiting.append(appended)
        posted = self._post(name, message)
        posted.add_done_callback(partial(self._posted, name, message, appended))
        return appended.future

    def _posted(self, name: str, message: Any, appended: _Appended, posted: asyncio.Future[Any]) -> None:
        problem = asyncio.CancelledError() if posted.cancelled() else posted.exception()
        if problem is None:
            self._refused = ""
            if appended.returns:
                return
            if self.keeps and self._is_late(posted.result(), message, appended.entry):
                # It is not read here, and is void for those who read it.
                appended.fail(UNREACHABLE)
            else:
                appended.succeed()
            return
        if isinstance(problem, LayerInDoubt):
            appended.doubt(UNREACHABLE)
            problem.outcome.add_done_callback(partial(self._known, name, message, appended))
            return
        self._forget(name, appended)
        appended.fail(UNREACHABLE if isinstance(problem, LayerAway) else str(problem) or UNREACHABLE)
        if self.keeps and isinstance(problem, LayerAway):
            # Hellos are tried again and again, and so it is known when this is over.
            self._refused = str(problem)

    def _known(self, name: str, message: Any, appended: _Appended, outcome: asyncio.Future[int | None]) -> None:
        if outcome.cancelled():
            return
        # Where it cannot be known any more, twice is better than never.
        if outcome.exception() is not None or (position := outcome.result()) is None:
            self._forget(name, appended)
            appended.settle(False)
        elif not appended.returns:
            appended.settle(not self._is_late(position, message, appended.entry))

    def _forget(self, name: str, appended: _Appended) -> None:
        with suppress(KeyError, ValueError):
            self._appended[name].remove(appended)

    def _sweep(self) -> None:
        """Those who wait are told after a while that they may wait in vain."""
        self._sweeping = asyncio.get_running_loop().call_later(SWEEP_SECS, self._sweep)
        self._tell_of_outage()
        now = _now()
        patience = LOST_SECS if self._lost_at is not None else conf.settings.ANSWER_SECS
        for waiting in self._appended.values():
            for appended in waiting:
                if now - appended.at < patience:
                    break
                appended.doubt(UNREACHABLE)
            while waiting and not self.keeps and waiting[0].future.done():
                # It was lost on its way back, or on its way there.
                waiting.popleft().settle(False)

    def _tell_of_outage(self) -> None:
        """Say once that nothing can be appended or read, and once that it can again."""
        if self.is_away == self._told_of_outage:
            return
        self._told_of_outage = self.is_away
        if not self._told_of_outage:
            logger.info("Redis can be used again")
            return
        logger.error(
            "Redis cannot be used: %s. Until it can, sends and new clients are refused with 503, and connected clients "
            "stay. Check that it runs and has memory, its address and user in REDIS_URL, the network between, and that "
            "no other program uses its keys",
            self._refused.removesuffix(".") or "the connection is lost",
        )

    # Layers that cannot post

    def _start_sending(self, name: str, message: dict[str, Any]) -> asyncio.Future[Any]:
        self._started = sending = asyncio.ensure_future(self._send_behind(self._started, name, message))
        self._hold(sending)
        return sending

    async def _send_behind(self, earlier: asyncio.Future[Any] | None, name: str, message: dict[str, Any]) -> None:
        if earlier is not None and not earlier.done():
            await asyncio.wait({earlier})
        try:
            async with asyncio.timeout(conf.settings.ANSWER_SECS):
                await self._layer.group_send(name, message)
        except Exception as problem:
            logger.warning("The channel layer does not take what is sent: %s", str(problem) or type(problem).__name__)
            raise LayerAway(str(problem)) from problem

    async def _receive(self) -> None:
        while True:
            try:
                message = await self._layer.receive(self._channel)
                self._read(message.get("log", ""), 0, message)
            except Exception:
                logger.exception("The channel layer is disturbed; it is read again in a second")
                await asyncio.sleep(1)

    # What comes

    def _read(self, name: str, position: int, message: Any) -> None:
        try:
            origin, number = message["origin"], message["n"]
            appended = self._come_back(name, number) if origin == self._process else None
            entry = decode(message["body"]) if appended is None else appended.entry
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
            self._pass_over(message)
            return
        finally:
            if position:
                self._positions[name] = position
        if self._is_late(position, message, entry):
            if appended is not None:
                appended.fail(UNREACHABLE)
            return
        try:
            self._reader.take(name, position, origin, entry)
        except Exception:
            # The fault is here, and not one of the entries that follow.
            logger.exception("An entry of the log could not be applied")
        if appended is not None:
            appended.succeed()

    @staticmethod
    def _is_late(position: int, message: Any, entry: Entry) -> bool:
        read_until_ms = message.get("read", 0)
        unread_ms = ms_of(position) - read_until_ms
        if not read_until_ms:
            return False
        if isinstance(entry, Claim):
            return bool(unread_ms > CLAIM_UNREAD_SECS * 1000)
        return bool(unread_ms > HISTORY_SECS * 1000 and isinstance(entry, PERISHABLE))

    def _come_back(self, name: str, number: int) -> _Appended | None:
        waiting = self._appended.get(name)
        while waiting and waiting[0].number <= number:
            appended = waiting.popleft()
            if appended.number == number:
                return appended
            # It went to this log before, and has not come: it was lost on its way, or Redis has forgotten it.
            appended.fail(UNREACHABLE)
        return None

    def _pass_over(self, message: Any) -> None:
        if not self._warned_of_version:
            self._warned_of_version = True
            version = message.get("v") if isinstance(message, dict) else None
            logger.warning(
                "Passed over an entry of the log that this version cannot read (written in format %s; this is %d). "
                "Expected only while servers are replaced by another version",
                version,
                VERSION,
            )

    def _line(self, up: bool) -> None:
        if up:
            self._lost_at = None
        elif self._lost_at is None:
            self._lost_at = _now()
        self._reader.line(up)

    def _gap(self, name: str) -> None:
        self._reader.gap(name)

    # To read again

    def reads(self, name: str) -> bool:
        """Whether what is appended to a log is applied here."""
        return name in self._positions

    def position(self, name: str) -> int:
        """How far a log has been applied."""
        return self._positions.get(name, 0)

    async def replay(
        self, name: str, after: int, upto: int, *, including: bool = False, checked: bool = True
    ) -> AsyncIterator[tuple[int, str, Entry]]:
        """Entries behind that at one position (or from it on) up to another.

        Raises NotFound where some are not kept any more, unless that is not `checked`; Unavailable.
        """
        while after < upto or including:
            try:
                rows = await self._layer.read(name, after, upto, count=CHUNK, including=including, checked=checked)
            except LogTrimmed:
                raise NotFound(TRIMMED) from None
            except (LayerAway, RedisError) as problem:
                raise Unavailable(UNREACHABLE) from problem
            for position, message in rows:
                try:
                    origin, entry = message["origin"], decode(message["body"])
                except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
                    self._pass_over(message)
                    continue
                if not self._is_late(position, message, entry):
                    yield position, origin, entry
            if len(rows) < CHUNK:
                return
            after, including, checked = rows[-1][0], False, True

    async def former_processes(self) -> int:
        """How many processes of versions up to November 2026 are on this Redis: they use pub/sub, and no log."""
        if not self.keeps:
            return 0
        try:
            counted = await self.execute("", "PUBSUB", "NUMSUB", f"{self._layer.prefix}__group__everybody")
        except (RedisError, ChannelFull):
            return 0
        return int(counted[1])

    def execute(self, key: str, *command: Any) -> asyncio.Future[Any]:
        """Have Redis do a command about a key, behind what was appended before."""
        done: asyncio.Future[Any] = self._layer.execute(key, *command)
        return done


async def applied(appended: asyncio.Future[None] | None) -> None:
    """Wait for what `append` gave, which others may wait for too. Raises Unavailable."""
    if appended is not None:
        await asyncio.shield(appended)


def _fail(future: asyncio.Future[None], problem: Exception) -> None:
    future.set_exception(problem)
    # Looked at: a future that nobody waits for does not complain when it is collected.
    future.exception()


def _now() -> float:
    return asyncio.get_running_loop().time()
