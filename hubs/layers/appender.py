"""Appending: what one turn of the event loop posts leaves in one write, and each post learns what became of it.

A post is a future and a few bytes; there is no task for it and no lock. Redis answers the
commands of a connection in their order, so the futures wait in a queue, and the order of calls is
the order in the log and the order of completion. Other commands (`execute`) go the same way.

**When the connection is lost**, three things may be true of a post that is not answered. It was never written: then
it failed, and nothing can change that. It was written and Redis executed it: then it is in the log, and only the
answer was lost. Or it was written and Redis has not executed it *yet*: it lies in a buffer of Redis' machine, and a
Redis that was stopped and goes on would execute it minutes later. Asking whether the entry is there would be answered
with no, and then it would come. So the next connection begins with `CLIENT KILL ID` of the lost one: after its answer
nothing of the lost connection is executed any more, and whatever is asked from now on comes behind it. Then the log is
read from the last position that was confirmed, and each entry's token (the field `t`: this appender's name and a
number) tells which of the posts in doubt are in it. What is not in it never will be. Other commands have no tokens:
they are not executed late either, but whether they were executed at all is not found out.

An id of a connection means something to one run of Redis only. After a restart or a failover the number belongs to
somebody else or to nobody, so the run id is compared first; where it differs the lost connection is gone with the
Redis that had it.

Where the ACL of this user does not permit `CLIENT KILL` or `INFO`, the log is read all the same: then "never will be"
is true unless Redis was standing still and found the command in its buffers later than the question.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from typing import Any

from redis.exceptions import ResponseError

from hubs.layers.commands import bulk, pack
from hubs.layers.errors import LayerAway, LayerFull, LayerInDoubt, LogTrimmed
from hubs.layers.link import Link
from hubs.layers.positions import MAX_SEQUENCE, SPARE_SEQUENCE, Position, first_of, id_of, ms_of, position_of
from hubs.layers.wire import PING, Host, Wire

logger = logging.getLogger(__name__)

# Digits of a token's number.
_DIGITS = 12
_NAME_BYTES = 12
_TOKEN_END = b"\r\n$1\r\nt\r\n$%d\r\n" % (_NAME_BYTES + _DIGITS)

# Entries in one answer when a log is read, and about so many bytes in all answers that are under way, by the largest of
# the entries that came last. Redis drops a connection that it owes more than its operator allows.
_MAX_ENTRIES = 256
_ANSWERS_BYTES = 512 * 1024
# Entries in all answers that are under way, as long as nothing is known of their size.
_FIRST_ENTRIES = 16

# So much further back than the clock says is looked for a post to a log that has confirmed nothing yet.
_CLOCK_MARGIN_MS = 5_000

_GREETING = (pack("CLIENT", "ID"), pack("INFO"), pack("TIME"))

_READ_ONLY = "This Redis is a replica that can only be read."


class Log:
    """One stream that this process appends to."""

    __slots__ = (
        "expiry_ms",
        "expiry_put_off_at",
        "head",
        "is_touched",
        "key",
        "last",
        "refuses_until",
        "retention_ms",
        "run_id",
        "used_at",
    )

    def __init__(self, key: bytes, retention_ms: int, expiry_ms: int) -> None:
        self.key = key
        # Entries are kept for so long, and the whole log for so long after it was used.
        self.retention_ms, self.expiry_ms = retention_ms, expiry_ms
        # The beginning of an XADD, up to the length of the message.
        self.head = b"*7\r\n$4\r\nXADD\r\n" + bulk(key) + b"$1\r\n*\r\n$1\r\nm\r\n$"
        # The last position that was confirmed, and the run of Redis that did.
        self.last: Position = 0
        self.run_id = b""
        # Used since the trimmer last looked; when that was, and when its expiry was put off, by the loop's clock.
        self.is_touched = False
        self.used_at = 0.0
        self.expiry_put_off_at: float | None = None
        # By the loop's clock; Redis' clock was set back too far.
        self.refuses_until = 0.0


class _Doubt:
    """A post whose answer was lost."""

    __slots__ = ("floor", "is_entry", "log", "outcome", "token")

    def __init__(
        self, log: Log, token: bytes, floor: Position, is_entry: bool, outcome: asyncio.Future[int | None]
    ) -> None:
        self.log, self.token, self.outcome = log, token, outcome
        # The entry, if there is one, is behind this: the last entry that was confirmed, or the time of the connection.
        self.floor, self.is_entry = floor, is_entry


# A future, the bytes that count, the log of a post, the number of its token.
_Pending = tuple[asyncio.Future[Any] | None, int, Log | None, int]


class Appender(Link):
    """Appends to the logs of one host, and executes commands there, through one connection."""

    purpose = "to append"

    def __init__(self, host: Host, max_commands: int, max_bytes: int) -> None:
        super().__init__(host)
        self._loop = asyncio.get_running_loop()
        self._max_commands, self._max_bytes = max_commands, max_bytes
        self._name = secrets.token_urlsafe(9).encode()
        self._number = 0
        self._outgoing: list[bytes] = []
        # In the order of the commands; a future of None stands for an answer that nobody waits for.
        self._pending: deque[_Pending] = deque()
        self._bytes = 0
        # How many entries reads that are under way ask for, and may ask for; those that wait until it is less.
        self._asked_entries = 0
        self._most_entries = _FIRST_ENTRIES
        self._waiting_reads: deque[tuple[asyncio.Future[int], int]] = deque()
        # Logs that were used, for the trimmer.
        self.touched: list[Log] = []
        # This connection to Redis: its id, the run of Redis that gave it, and a position before all that is posted by
        # it.
        self._client_id = 0
        self._run_id = b""
        self._begun: Position = 0
        # Those that were lost with commands that were not answered.
        self._to_kill: dict[tuple[bytes, int], None] = {}
        self._doubts: list[_Doubt] = []
        self._resolving: asyncio.Task[None] | None = None
        self._said_not_permitted = False

    # What is asked of it

    def append(self, log: Log, payload: bytes, channel: bytes = b"") -> asyncio.Future[Position]:
        """Append an entry. The future is done with its position once Redis has it."""
        future: asyncio.Future[Position] = self._loop.create_future()
        size = len(payload)
        problem = self._refusal(size)
        if log.refuses_until and log.refuses_until > self._loop.time():
            problem = LayerAway(
                "Redis' clock is behind the log: it was set back. Appending goes on once it has caught up."
            )
        if problem is not None:
            return _fail(future, problem)
        self._number = number = self._number + 1
        if channel:
            command = b"*9%b%d\r\n%b%b%b%012d\r\n$1\r\nc\r\n%b" % (
                log.head[2:],
                size,
                payload,
                _TOKEN_END,
                self._name,
                number,
                bulk(channel),
            )
        else:
            command = b"%b%d\r\n%b%b%b%012d\r\n" % (log.head, size, payload, _TOKEN_END, self._name, number)
        self._bytes += size
        self._pending.append((future, size, log, number))
        self._write(command)
        if not log.is_touched:
            self.touch(log)
        return future

    def execute(self, command: bytes) -> asyncio.Future[Any]:
        """Execute a command, behind what was asked before. The future fails with Redis' error, LayerAway, LayerFull."""
        if (problem := self._refusal(len(command))) is not None:
            return _fail(self._loop.create_future(), problem)
        return self.ask(command)

    def ask(self, command: bytes) -> asyncio.Future[Any]:
        """Execute a command of the layer's own: the bound of what may wait is for those of others."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.wire is None:
            if self.away is not None:
                return _fail(future, LayerAway(str(self.away)))
            self.need()
        size = len(command)
        self._bytes += size
        self._pending.append((future, size, None, 0))
        self._write(command)
        return future

    def touch(self, log: Log) -> None:
        """Say that a log is used: it is trimmed soon, and its expiry is put off."""
        if not log.is_touched:
            log.is_touched = True
            self.touched.append(log)
        now = self._loop.time()
        if log.expiry_put_off_at is None or now - log.expiry_put_off_at > log.expiry_ms / 4000:
            log.expiry_put_off_at = now
            self.ask(pack("PEXPIRE", log.key, log.expiry_ms))

    async def read(self, key: bytes, start: bytes, end: bytes, count: int) -> tuple[list[Any], bool]:
        """Up to `count` entries of a stream from one id to another, fewer if they are large; and whether that is all.

        Reads beyond what may be under way wait for those before them. Raises LayerAway, and Redis' errors.
        """
        asked = 0 if self._waiting_reads else self._room(count)
        if not asked:
            turn: asyncio.Future[int] = self._loop.create_future()
            self._waiting_reads.append((turn, count))
            try:
                asked = await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_back(turn.result())
                raise
        try:
            entries = await self.ask(pack("XRANGE", key, start, end, "COUNT", asked))
            if entries:
                largest = max(len(fields[1]) for _, fields in entries)
                self._most_entries = max(1, min(2 * self._most_entries, _ANSWERS_BYTES // (largest + 1)))
        finally:
            self._give_back(asked)
        return entries, len(entries) < asked

    def _room(self, count: int) -> int:
        """Take as much of `count` entries as may be asked for now; 0 if none may."""
        room = self._most_entries - self._asked_entries
        if room <= 0:
            return 0
        # A quarter more than the bound, rather than entry by entry.
        asked = min(count, _MAX_ENTRIES, max(room, self._most_entries // 4))
        self._asked_entries += asked
        return asked

    def _give_back(self, asked: int) -> None:
        self._asked_entries -= asked
        self._let_read()

    def _let_read(self) -> None:
        """It is the turn of those who wait to read, as far as there is room."""
        while self._waiting_reads:
            turn, count = self._waiting_reads[0]
            if not turn.done():
                asked = self._room(count)
                if not asked:
                    return
                turn.set_result(asked)
            self._waiting_reads.popleft()

    def _refusal(self, size: int) -> Exception | None:
        if self.wire is None:
            if self.away is not None:
                return LayerAway(str(self.away))
            self.need()
        if len(self._pending) + len(self._doubts) >= self._max_commands or self._bytes + size > self._max_bytes:
            return LayerFull("Too much waits for Redis; try again later.")
        return None

    def _write(self, command: bytes) -> None:
        if not self._outgoing and self.wire is not None:
            self._loop.call_soon(self._flush)
        self._outgoing.append(command)

    def _flush(self) -> None:
        if self.wire is not None and self._outgoing:
            self.wire.write(b"".join(self._outgoing))
            self._outgoing.clear()

    # Answers

    def _replied(self, replies: list[Any]) -> None:
        pending = self._pending
        if len(replies) > len(pending) and self.wire is not None:
            self.wire.lose(LayerAway("Redis answered what it was not asked."))
            return
        is_read_only = False
        for reply in replies:
            future, size, log, _ = pending.popleft()
            self._bytes -= size
            if log is not None and type(reply) is bytes:
                self._appended(log, reply, future)
                continue
            if isinstance(reply, ResponseError):
                is_read_only = is_read_only or str(reply).startswith("READONLY")
            if future is None or future.done():
                continue
            if log is not None:
                _fail(future, LayerAway(f"Redis refused: {reply}"))
            elif isinstance(reply, ResponseError):
                _fail(future, reply)
            else:
                future.set_result(reply)
        if is_read_only and self.wire is not None:
            # The master of before: whoever knows the present one is asked again.
            self.wire.lose(LayerAway(_READ_ONLY))

    def _appended(self, log: Log, entry_id: bytes, future: asyncio.Future[Position] | None) -> None:
        try:
            log.last = position = position_of(entry_id)
            log.run_id = self._run_id
        except (OverflowError, ValueError) as problem:
            log.refuses_until = self._loop.time() + 1
            if future is not None and not future.done():
                _fail(future, LayerAway(str(problem)))
            return
        if position & MAX_SEQUENCE > MAX_SEQUENCE - SPARE_SEQUENCE:
            log.refuses_until = self._loop.time() + 1
        if future is not None and not future.done():
            future.set_result(position)

    def _ping(self) -> None:
        self._pending.append((None, 0, None, 0))
        self._write(PING)

    # Coming and going

    async def _greet(self, wire: Wire) -> None:
        client_id, info, now = await wire.ask(*_GREETING)
        if isinstance(info, bytes) and b"slave_read_only:1" in info:
            # Else it would be found out by the first post, and each time anew.
            raise LayerAway(_READ_ONLY)
        self._client_id = client_id if isinstance(client_id, int) else 0
        self._run_id = _run_id(info) if isinstance(info, bytes) else b""
        self._begun = first_of(int(now[0]) * 1000 - _CLOCK_MARGIN_MS) if isinstance(now, list) else 0
        kills = [pack("CLIENT", "KILL", "ID", number) for run_id, number in self._to_kill if run_id == self._run_id]
        for answer in await wire.ask(*kills) if kills else ():
            if isinstance(answer, ResponseError):
                self._say_not_permitted(answer)
        self._to_kill.clear()

    def _say_not_permitted(self, problem: object) -> None:
        if not self._said_not_permitted:
            self._said_not_permitted = True
            logger.warning(
                "Redis does not let this user end a lost connection (%s), so a message that was refused as lost may be "
                "delivered after all. Permit CLIENT and INFO in the ACL.",
                problem,
            )

    def _came_up(self) -> None:
        self._stands()
        self._flush()
        if self._doubts:
            self._resolving = self._loop.create_task(self._resolve(), name="find out what Redis has of lost posts")

    def _went_away(self) -> None:
        # Redis hangs up on whom it owes more than its operator allows, and would do so again at the same answer.
        self._most_entries = 1
        pending, self._pending = self._pending, deque()
        written = len(pending) - len(self._outgoing)
        self._outgoing.clear()
        self._bytes = 0
        reason = str(self.away)
        for index, (future, _, log, number) in enumerate(pending):
            if future is None or future.done():
                continue
            if log is None or index >= written:
                _fail(future, LayerAway(reason))
                continue
            outcome: asyncio.Future[int | None] = self._loop.create_future()
            if self._closed:
                _fail(outcome, LayerAway(reason))
            else:
                token = b"%b%012d" % (self._name, number)
                # Another Redis, whose clock is behind, may have given lower positions since.
                is_entry = log.last > 0 and log.run_id == self._run_id
                self._doubts.append(_Doubt(log, token, log.last if is_entry else self._begun, is_entry, outcome))
            _fail(future, LayerInDoubt(reason, outcome))
        if written and not self._closed:
            if self._client_id and self._run_id:
                self._to_kill[self._run_id, self._client_id] = None
            else:
                self._say_not_permitted("CLIENT ID or INFO was refused")

    async def close(self) -> None:
        """Give the connection up for good; what is in doubt stays so."""
        await super().close()
        if self._resolving is not None:
            self._resolving.cancel()
            await asyncio.wait([self._resolving], timeout=self._host.patience_secs)
        doubts, self._doubts = self._doubts, []
        for doubt in doubts:
            if not doubt.outcome.done():
                _fail(doubt.outcome, LayerAway("The channel layer was closed."))

    # Doubts

    async def _resolve(self) -> None:
        by_log: dict[Log, list[_Doubt]] = {}
        for doubt in self._doubts:
            by_log.setdefault(doubt.log, []).append(doubt)
        for log, doubts in by_log.items():
            try:
                await self._scan(log, doubts)
            except LayerAway:
                # The next connection begins with it again.
                return
            except (ResponseError, OverflowError) as problem:
                for doubt in doubts:
                    if not doubt.outcome.done():
                        _fail(doubt.outcome, LayerAway(f"The log cannot be asked for what is in doubt: {problem}"))
            left = set(doubts)
            self._doubts = [doubt for doubt in self._doubts if doubt not in left]

    async def _scan(self, log: Log, doubts: list[_Doubt]) -> None:
        """Look for tokens from the position that was confirmed before them to the end of the log."""
        waiting = {doubt.token: doubt for doubt in doubts if not doubt.outcome.done()}
        floor, is_entry = min((doubt.floor, doubt.is_entry) for doubt in doubts)
        newest = await self.ask(pack("XREVRANGE", log.key, "+", "-", "COUNT", 1))
        is_whole = True
        if newest:
            end: bytes = newest[0][0]
            start, is_first = id_of(floor), True
            while waiting:
                entries, is_all = await self.read(log.key, start, end, _MAX_ENTRIES)
                for entry_id, fields in entries:
                    found = waiting.pop(fields[3], None) if len(fields) > 3 else None
                    if found is not None and not found.outcome.done():
                        found.outcome.set_result(position_of(entry_id))
                if is_first:
                    is_whole = await self._is_whole(log, floor, is_entry)
                    is_first = False
                if is_all:
                    break
                start = b"(" + entries[-1][0]
        for doubt in waiting.values():
            if doubt.outcome.done():
                continue
            if is_whole:
                doubt.outcome.set_result(None)
            else:
                _fail(doubt.outcome, LogTrimmed("The log was trimmed before it could be asked for the entry."))

    async def _is_whole(self, log: Log, floor: Position, is_entry: bool) -> bool:
        """Whether all that is behind a position is still there. A log that Redis has forgotten is: it has nothing."""
        first = await self.ask(pack("XRANGE", log.key, "-", "+", "COUNT", 1))
        if not first or (begins := position_of(first[0][0])) <= floor:
            return True
        # It begins later: trimmed, or new.
        return not is_entry and ms_of(begins) - ms_of(floor) < log.retention_ms


def _run_id(info: bytes) -> bytes:
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return line[7:]
    return b""


def _fail(future: asyncio.Future[Any], problem: Exception) -> asyncio.Future[Any]:
    future.set_exception(problem)
    # Looked at: a future that nobody waits for does not complain when it is collected.
    future.exception()
    return future
