"""What calls of event handlers, and listeners that could not be reached, leave behind for operators.

Whoever calls a handler notes a record, which costs an append to a bounded queue in memory. A thread
of the process writes what was noted since to the database about once a second, where staff reads it
in the admin for all processes together. The table keeps the last HANDLER_RECORDS of each hub, so of
a busy second no more than those are written; the others would be deleted at once.

The thread is one of its own, because the database may keep it waiting (SQLite does while others
write), and whoever waits for settings at a handshake should not stand behind it. It works the same
under every server. While the database is away, records wait, within the bounds of the queue; the log
says so once a minute and, when they are written again, how many had to give way.

What clients sent is kept only where RECORD_PAYLOADS says so, and URLs come without their queries,
which often hold a secret.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connections, router, transaction
from django.db.models import Q, QuerySet

from hubs import conf, database
from hubs.models import HandlerCall
from hubs.protocols.frames import JSON, TEXT, Payload
from hubs.throttled_log import ThrottledLog

logger = logging.getLogger(__name__)
_log = ThrottledLog(logger, every_secs=database.EVERY_SECS)

# How a call ended.
ANSWERED = "answered"
REJECTED = "rejected"  # a connect handler turned somebody away
FAILED = "failed"
REFUSED = "refused"  # not called: too many calls wait for this handler
CANCELLED = "cancelled"  # the client left meanwhile

WRITE_SECS = 1.0
# A connection to the database that had nothing to write for so many rounds is given back.
_IDLE_ROUNDS = 60

# Bounds of what waits in memory, over all hubs: quiet hubs lose theirs first.
_MAX_HUBS = 1000
_MAX_WAITING = 20_000
_MAX_PAYLOAD_BYTES = 4096

# Of one transaction, which others wait for where the database is SQLite.
_ROWS_AT_ONCE = 500
# So many times as many rows are deleted at one go, where a bound was lowered; the rest goes the next time.
_MAX_DELETIONS = 20
# Of the table, since any well-named hub works: the oldest go, whatever their hub.
_MAX_ROWS = 100_000

_MAX_PROBLEM_CHARACTERS = 1000
_MAX_SMALL = 32_767
_MAX_INTEGER = 2**31 - 1
# What PostgreSQL does not take, or no page can show.
_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")

_OUTCOMES = {
    ANSWERED: HandlerCall.Outcome.SUCCEEDED,
    REJECTED: HandlerCall.Outcome.REFUSED,
    FAILED: HandlerCall.Outcome.FAILED,
    REFUSED: HandlerCall.Outcome.FAILED,
    CANCELLED: HandlerCall.Outcome.FAILED,
}
_PROBLEMS = {CANCELLED: "the client left before there was an answer"}


@dataclass(slots=True)
class Record:
    """One call of an event handler, over all its attempts; or a listener's failure.

    `handler` is a URL template without its query, or the name of a function, or a listener; "" when
    nobody took the event. `status` is the HTTP status of the last answer, if there was one. `payload`
    is what the client sent; None says that it was no client's event.
    """

    at: float
    hub: str
    event: str
    handler: str
    connection_id: str
    outcome: str
    duration_ms: float
    status: int | None = None
    attempts: int = 1
    problem: str = ""
    payload: Payload | None = None
    by_client: bool = False


class _Waiting:
    """What was noted and is not written yet, by hub; the hub that was quiet for longest comes first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_hub: OrderedDict[str, deque[Record]] = OrderedDict()
        self.count = 0
        # Since the database went away; None = it is there. What gives way then would have been deleted at once anyway.
        self.dropped: int | None = None

    def add(self, record: Record, capacity: int) -> None:
        """Keep a record. Call it under the lock."""
        records = self.by_hub.get(record.hub)
        if records is None:
            records = self.by_hub[record.hub] = deque()
        records.append(record)
        self.count += 1
        before = self.count
        while len(records) > capacity:
            records.popleft()
            self.count -= 1
        self.by_hub.move_to_end(record.hub)
        if len(self.by_hub) > _MAX_HUBS:
            self.count -= len(self.by_hub.popitem(last=False)[1])
        while self.count > max(_MAX_WAITING, capacity):
            quietest, oldest = next(iter(self.by_hub.items()))
            oldest.popleft()
            self.count -= 1
            if not oldest:
                del self.by_hub[quietest]
        if self.dropped is not None:
            self.dropped += before - self.count

    def take(self) -> list[Record]:
        """Give everything; each hub's records in order."""
        with self.lock:
            taken, self.by_hub, self.count = self.by_hub, OrderedDict(), 0
        return [record for records in taken.values() for record in records]

    def put_back(self, taken: Sequence[Record], capacity: int) -> None:
        """Keep, before what came since, what could not be written because the database is away."""
        with self.lock:
            self.dropped = self.dropped or 0
            newer, self.by_hub, self.count = self.by_hub, OrderedDict(), 0
            for record in taken:
                self.add(record, capacity)
            for records in newer.values():
                for record in records:
                    self.add(record, capacity)

    def written(self) -> int | None:
        """Note that the database takes records. Gives how many gave way while it did not, None if it always did."""
        with self.lock:
            dropped, self.dropped = self.dropped, None
        return dropped


_waiting = _Waiting()


def note(record: Record) -> None:
    """Take a record, which is from now on this module's; the oldest of its hub gives way."""
    capacity = conf.settings.HANDLER_RECORDS
    if not capacity:
        return
    payload = record.payload
    if payload is not None:
        record.by_client = True
        record.payload = (
            Payload(payload.data_type, payload.data[:_MAX_PAYLOAD_BYTES]) if conf.settings.RECORD_PAYLOADS else None
        )
    with _waiting.lock:
        _waiting.add(record, capacity)


def recent(hub: str) -> list[Record]:
    """The records of a hub that this process has not written yet, latest first."""
    with _waiting.lock:
        return list(reversed(_waiting.by_hub.get(hub, ())))


def forget() -> None:
    """Forget what is not written yet."""
    _waiting.take()


# Writing


class _Writer:
    """The thread that writes, from `start` to `stop`."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        # A daemon: a database that does not answer must not keep the process from ending.
        self.thread = threading.Thread(target=self._run, name="handler records", daemon=True)
        self._written = 0

    def stop(self, patience: float) -> bool:
        """Have everything written, and end; tells whether that was done within `patience` seconds."""
        self._stopping.set()
        self.thread.join(patience)
        return not self.thread.is_alive()

    def _run(self) -> None:
        idle = 0
        while not self._stopping.wait(WRITE_SECS):
            idle = 0 if self._write() else idle + 1
            if idle == _IDLE_ROUNDS:
                _disconnect()
        self._write()
        left = len(_waiting.take())
        if left:
            logger.error("%d records of calls to event handlers were not written: the process stops", left)
        _disconnect()

    def _write(self) -> bool:
        try:
            written = write()
            self._written += written
            if self._written >= _ROWS_AT_ONCE:
                self._written = 0
                _limit_table()
        except Exception as problem:
            _log.warn(
                "Old records of calls to event handlers cannot be deleted: %s",
                database.brief(problem),
                kind=("records not deleted",),
            )
            _disconnect()
            return False
        return bool(written)


def _disconnect() -> None:
    """Give the thread's connection back; a broken one is then made anew."""
    connections[_database()].close()


def _database() -> str:
    return router.db_for_write(HandlerCall)


def write() -> int:
    """Write what was noted, as many rows at once as a transaction should have; tells how many there were."""
    taken = _waiting.take()
    capacity = conf.settings.HANDLER_RECORDS
    for begin in range(0, len(taken), _ROWS_AT_ONCE):
        some = taken[begin : begin + _ROWS_AT_ONCE]
        try:
            with transaction.atomic(using=_database()):
                HandlerCall.objects.bulk_create([_row(record) for record in some])
                # In one order everywhere, so that processes that prune together do not hold each other up.
                for hub in sorted({record.hub for record in some}):
                    _prune(hub, max(capacity, 1))
        except Exception as problem:
            if database.is_unavailable(problem):
                # Locked, or away: a second later this may be over.
                _waiting.put_back(taken[begin:], max(capacity, 1))
                _log.warn(
                    "Records of calls to event handlers wait for the database: %s",
                    database.brief(problem),
                    kind=("records wait",),
                )
                _disconnect()
                return begin
            # Its text could quote the rows.
            _log.warn("%d records of calls to event handlers are lost: %s", len(some), type(problem).__name__)
            _disconnect()
        else:
            dropped = _waiting.written()
            if dropped:
                logger.warning(
                    "%d records of calls to event handlers were dropped while the database was away", dropped
                )
    return len(taken)


def _row(record: Record) -> HandlerCall:
    return HandlerCall(
        hub=_shown(record.hub, 128),
        when=datetime.fromtimestamp(record.at, UTC),
        event=_shown(f"user.{record.event}" if record.by_client else record.event, 140),
        handler=_shown(record.handler, 2048),
        connection_id=_shown(record.connection_id, 64),
        status=None if record.status is None else min(record.status, _MAX_SMALL),
        outcome=_OUTCOMES[record.outcome],
        duration_ms=min(max(round(record.duration_ms), 0), _MAX_INTEGER),
        attempts=min(record.attempts, _MAX_SMALL),
        problem=_shown(record.problem or _PROBLEMS.get(record.outcome, ""), _MAX_PROBLEM_CHARACTERS),
        payload="" if record.payload is None else _readable(record.payload),
    )


def _shown(text: str, characters: int) -> str:
    text = _UNSHOWABLE.sub("\ufffd", text)
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _readable(payload: Payload) -> str:
    """What a client sent, as people can read it: text as such, bytes as Python writes them."""
    cut = len(payload.data) >= _MAX_PAYLOAD_BYTES
    if payload.data_type in (TEXT, JSON):
        # The last character may have been cut in two.
        text = _UNSHOWABLE.sub("\ufffd", payload.data.decode("utf-8", "ignore" if cut else "replace"))
    else:
        text = repr(payload.data)
    return f"{text}…" if cut else text


def _prune(hub: str, capacity: int) -> None:
    """Delete all but the last rows of a hub. Call it in a transaction."""
    rows = HandlerCall.objects.using(_database()).filter(hub=hub)
    for when, pk in rows.order_by("-when", "-pk").values_list("when", "pk")[capacity - 1 : capacity]:
        surplus = rows.filter(Q(when__lt=when) | Q(when=when, pk__lt=pk))
        for _ in range(_MAX_DELETIONS):
            if _delete_some(surplus) < _ROWS_AT_ONCE:
                return


def _limit_table() -> None:
    """Delete the oldest rows of a table that the number of its hubs has made too long."""
    rows = HandlerCall.objects.using(_database())
    longest = max(_MAX_ROWS, conf.settings.HANDLER_RECORDS)
    for last in rows.order_by("-pk").values_list("pk", flat=True)[longest - 1 : longest]:
        for _ in range(_MAX_DELETIONS):
            with transaction.atomic(using=_database()):
                if _delete_some(rows.filter(pk__lt=last)) < _ROWS_AT_ONCE:
                    return


def _delete_some(rows: QuerySet[HandlerCall]) -> int:
    """Delete a bounded number of rows, leaving out those that another process is about to delete."""
    some = list(rows.select_for_update(skip_locked=True).values_list("pk", flat=True)[:_ROWS_AT_ONCE])
    if some:
        HandlerCall.objects.using(_database()).filter(pk__in=some).delete()
    return len(some)


# What the process's start and end call


class _Running:
    lock = threading.Lock()
    writer: _Writer | None = None


def start() -> None:
    """Begin to write what is noted. To be called when a server's process starts; once more changes nothing."""
    with _Running.lock:
        if _Running.writer is None:
            _Running.writer = _Writer()
            _Running.writer.thread.start()
            # For servers that do not say when they stop.
            atexit.register(_stop, 2.0)


async def stop(patience: float = 5.0) -> None:
    """Write what is left, for at most `patience` seconds, and end."""
    await asyncio.to_thread(_stop, patience)


def _stop(patience: float) -> None:
    with _Running.lock:
        writer, _Running.writer = _Running.writer, None
    if writer is None:
        return
    atexit.unregister(_stop)
    if not writer.stop(patience):
        logger.error("The last records of calls to event handlers were not written: the database does not answer")
