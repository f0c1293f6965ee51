"""Hubs, keys, event handlers and listeners as frozen values: rows, read seldom and shared by everything.

A process holds one `Snapshot`. When it is asked for and older than SETTINGS_MAX_AGE_SECS, the
version counter is read (one row); only when that stepped is the rest read again. A change
made by any process, also by `manage.py` on the command line, is therefore in force everywhere
within that age and without messages between processes. In the process that made the change it is
in force at once: its signal makes the snapshot outdated when the transaction commits.

**While the database cannot be read**, the last snapshot goes on being used for SETTINGS_STALE_SECS; then, and in a
process that has none yet, readers get DatabaseUnavailable. A look that fails begins an *outage*, and so does one that
takes longer than WAIT_SECS: a database that does not answer is one that is away. During an outage nobody waits for the
database who can go on without; about once a second one look is made by a thread of its own, and the first that
succeeds ends the outage. The log has one line for the beginning and one for the end.

At most one look is under way. No lock is held during it, only while the fields of `_Held` are read or set.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from channels.db import database_sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.db.models.signals import post_delete, post_save

from hubs import conf, database, health
from hubs.errors import DatabaseUnavailable
from hubs.models import AccessKey, EventHandler, EventListener, Hub, SettingsVersion
from hubs.rules.names import canonical_hub

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EventHandlerSettings:
    """A webhook and the events it takes.

    `url_template` and `user_event_pattern` are read by rules/event_routing.py. `authorization` is the
    whole value of the header, or None. `problem` says why the handler cannot be called: its token
    cannot be read with this SECRET_KEY. It stands in its place all the same, and its events fail,
    because without it a connect handler that turns people away would let them all in.
    """

    id: int
    url_template: str
    user_event_pattern: str = ""
    system_events: frozenset[str] = frozenset()
    authorization: str | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class EventListenerSettings:
    """Somewhere that copies of events go.

    `kind` "redis_stream": `address` is ``redis://host:port/0?stream=name`` (taken apart by
    rules/event_routing.py: split_stream_address), and `authorization` the server's password.
    `kind` "webhook": `address` is a URL without parameters, and `authorization` the whole value of
    the header.
    """

    id: int
    kind: str
    address: str
    user_event_pattern: str = ""
    system_events: frozenset[str] = frozenset()
    authorization: str | None = None


@dataclass(frozen=True, slots=True)
class HubSettings:
    """What one hub is set to.

    `keys` are those limited to this hub, primary first. Event handlers and listeners are the enabled
    ones; handlers in the order in which they are tried.
    """

    name: str
    known: bool = False
    anonymous_connect: bool = False
    anonymous_user_ids: bool = False
    keys: tuple[str, ...] = ()
    event_handlers: tuple[EventHandlerSettings, ...] = ()
    event_listeners: tuple[EventListenerSettings, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All hubs with what belongs to them, and the service's keys, as of one version.

    `service_keys` open every hub, primary first. `unreadable` says why a key was left out, if one was.
    """

    version: int
    hubs: Mapping[str, HubSettings] = field(default_factory=dict)
    service_keys: tuple[str, ...] = ()
    unreadable: str = ""

    def hub(self, name: str) -> HubSettings:
        """Settings of a hub; the defaults for one that was never created."""
        name = canonical_hub(name)
        return self.hubs.get(name) or HubSettings(name)

    def keys_of(self, hub: str) -> tuple[str, ...]:
        """Every key that opens `hub`."""
        return self.service_keys + self.hub(hub).keys


# How long a reader waits for a look, its own or another's: with a snapshot to go on from, and without.
WAIT_SECS = 2.0
FIRST_WAIT_SECS = 10.0
# Between looks during an outage; and at most, in a process that serves, also while nobody asks.
RETRY_SECS = 1.0
KEEP_SECS = 10.0
# A look that has not ended by then will not: the limits of every database connection are shorter.
LOST_SECS = 60.0
# Threads that may hang in looks that were given up for lost (a file system that does not answer).
_MAX_THREADS = 4


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which the settings could not be read. `began`, `ended`: seconds since the epoch; None = not over."""

    began: float
    problem: str
    ended: float | None = None


class _Look:
    """One reading of the database, and what came of it, for everybody who waits."""

    def __init__(self, held: Snapshot | None, drops: int) -> None:
        self.held, self.drops = held, drops
        self.began = time.monotonic()
        self.snapshot: Snapshot | None = None
        self.problem: BaseException | None = None
        self.done: Future[None] = Future()
        # Nobody who stops waiting may cancel it for the others.
        self.done.set_running_or_notify_cancel()

    def run(self) -> None:
        """Look, in the thread of whoever calls, and tell those who wait."""
        try:
            # The version first: a change between the two reads makes the next look read again.
            version = SettingsVersion.read()
            held = self.held
            snapshot = held if held is not None and held.version == version else _read(version)
        except BaseException as problem:
            self.fail(problem)
        else:
            self.snapshot = snapshot
            _Held.succeeded(self, snapshot)
            self.done.set_result(None)

    def fail(self, problem: BaseException) -> None:
        """Tell those who wait that it came to nothing. Once is enough."""
        if not self.done.done():
            self.problem = problem
            _Held.failed(self, problem)
            self.done.set_result(None)

    def run_apart(self) -> None:
        """As `run`, in a thread that is nobody else's and ends with it."""
        try:
            self.run()
        finally:
            connections.close_all()


class _Held:
    """This process's snapshot, when it was last found current (monotonic seconds), and the look that is under way."""

    lock = threading.Lock()
    snapshot: Snapshot | None = None
    # The latter is not reset by a change made here: what can be had is then outdated, and still better than nothing.
    checked_at = float("-inf")
    confirmed_at = float("-inf")
    confirmed_time = 0.0
    drops = 0
    look: _Look | None = None
    looked_at = float("-inf")
    outage: Outage | None = None
    too_old_said = False
    threads: list[threading.Thread] = []

    @classmethod
    def fresh(cls) -> Snapshot | None:
        """The snapshot, if it need not be looked at again yet."""
        young = time.monotonic() - cls.checked_at < conf.settings.SETTINGS_MAX_AGE_SECS
        return cls.snapshot if young else None

    @classmethod
    def usable(cls) -> Snapshot | None:
        """The snapshot, if it may be used while the database is away."""
        young = time.monotonic() - cls.confirmed_at <= conf.settings.SETTINGS_STALE_SECS
        return cls.snapshot if young else None

    @classmethod
    def in_outage(cls) -> bool:
        return cls.outage is not None and cls.outage.ended is None

    @classmethod
    def join(cls) -> tuple[_Look, bool]:
        """Give the look to wait for, and whether the caller has to run it."""
        with cls.lock:
            look = cls.look
            if look is not None and time.monotonic() - look.began < LOST_SECS:
                return look, False
            cls.look = look = _Look(cls.snapshot, cls.drops)
            return look, True

    @classmethod
    def succeeded(cls, look: _Look, snapshot: Snapshot) -> None:
        with cls.lock:
            cls._over(look)
            if look.began < cls.confirmed_at:
                # Given up for lost, and overtaken.
                return
            cls.snapshot = snapshot
            cls.confirmed_at, cls.confirmed_time = look.began, time.time()
            # Outdated while the rows were being read: good enough for this reader, but the next one looks again.
            cls.checked_at = look.began if cls.drops == look.drops else float("-inf")
            outage, ended = cls.outage, cls.in_outage()
            if outage is not None and ended:
                cls.outage = replace(outage, ended=time.time())
            cls.too_old_said = False
        if outage is not None and ended:
            logger.warning(
                "Hubs and keys can be read from the database again, after %.0f s", time.time() - outage.began
            )

    @classmethod
    def failed(cls, look: _Look, problem: BaseException) -> None:
        with cls.lock:
            cls._over(look)
        cls.begin_outage(database.brief(problem))

    @classmethod
    def _over(cls, look: _Look) -> None:
        if cls.look is look:
            cls.look = None
        cls.looked_at = time.monotonic()

    @classmethod
    def begin_outage(cls, problem: str, waited_for: _Look | None = None) -> None:
        """Note that the database cannot be read, or that a look takes too long; the log hears of it once."""
        with cls.lock:
            if cls.in_outage() or (waited_for is not None and waited_for is not cls.look):
                return
            cls.outage = Outage(time.time(), problem)
            usable, confirmed = cls.usable(), cls.confirmed_time
        if usable is None:
            logger.error(
                "Hubs and keys cannot be read from the database (%s), and none are known here: new clients and calls "
                "are refused with 503",
                problem,
            )
        else:
            logger.error(
                "Hubs and keys cannot be read from the database (%s). The service goes on with those of %s, for %d s "
                "(SETTINGS_STALE_SECS)",
                problem,
                datetime.fromtimestamp(confirmed, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
                conf.settings.SETTINGS_STALE_SECS,
            )

    @classmethod
    def unavailable(cls) -> DatabaseUnavailable:
        """The error for readers who cannot go on; the log hears once that the snapshot has become too old."""
        with cls.lock:
            say = cls.snapshot is not None and not cls.too_old_said
            cls.too_old_said = cls.too_old_said or say
        if say:
            logger.error(
                "Hubs and keys have not been read for more than %d s (SETTINGS_STALE_SECS): new clients and calls are "
                "refused with 503",
                conf.settings.SETTINGS_STALE_SECS,
            )
        return DatabaseUnavailable()

    @classmethod
    def look_apart(cls) -> None:
        """Have a thread look again, unless one does or just did."""
        if time.monotonic() - cls.looked_at < RETRY_SECS:
            return
        cls.threads = [thread for thread in cls.threads if thread.is_alive()]
        if len(cls.threads) >= _MAX_THREADS:
            return
        look, mine = cls.join()
        if not mine:
            return
        # A daemon: a database that does not answer must not keep the process from ending.
        thread = threading.Thread(target=look.run_apart, name="hub settings", daemon=True)
        try:
            thread.start()
        except RuntimeError as problem:
            look.fail(problem)
        else:
            cls.threads.append(thread)

    @classmethod
    def expire(cls) -> None:
        """The rows were changed here: the next reader looks again, whatever the snapshot's age."""
        cls.drops += 1
        cls.checked_at = float("-inf")

    @classmethod
    def drop(cls) -> None:
        with cls.lock:
            cls.expire()
            cls.snapshot, cls.confirmed_at = None, float("-inf")
            cls.look, cls.looked_at = None, float("-inf")
            cls.outage, cls.too_old_said = None, False


def current() -> Snapshot:
    """Give everything as it is now (at most SETTINGS_MAX_AGE_SECS old). For synchronous callers.

    While the database is away, the last of it (at most SETTINGS_STALE_SECS old). Raises DatabaseUnavailable.
    """
    while True:
        snapshot = _without_looking()
        if snapshot is not None:
            return snapshot
        look, mine = _Held.join()
        if mine:
            look.run()
        wait([look.done], _patience())
        if mine or not _is_outdated(look):
            return _seen_by(look)


async def acurrent() -> Snapshot:
    """As `current`, for coroutines: no thread is entered while the snapshot is young."""
    while True:
        snapshot = _without_looking()
        if snapshot is not None:
            return snapshot
        look, mine = _Held.join()
        if mine:
            # Whoever began it may be gone before it ends.
            task = asyncio.get_running_loop().create_task(_run(look))
            _looking.add(task)
            task.add_done_callback(_looking.discard)
        await asyncio.wait([asyncio.wrap_future(look.done)], timeout=_patience())
        if mine or not _is_outdated(look):
            return _seen_by(look)


_looking: set[asyncio.Task[None]] = set()


async def _run(look: _Look) -> None:
    try:
        await database_sync_to_async(look.run)()
    except BaseException as problem:
        # It did not get as far as looking: the loop ends, or an old connection could not be closed.
        look.fail(problem)


def _is_outdated(look: _Look) -> bool:
    """Whether something was changed here after a look had begun; its readers want to see it, and look again."""
    return look.done.done() and look.drops != _Held.drops


def _without_looking() -> Snapshot | None:
    """The snapshot, if it is young, or if the database is away and it may be used all the same."""
    snapshot = _Held.fresh()
    if snapshot is None and _Held.in_outage():
        snapshot = _Held.usable()
        if snapshot is not None:
            _Held.look_apart()
    return snapshot


def _patience() -> float:
    return FIRST_WAIT_SECS if _Held.usable() is None and not _Held.in_outage() else WAIT_SECS


def _seen_by(look: _Look) -> Snapshot:
    """What a look came to; where it came to nothing, or takes too long, what was known before it."""
    if look.snapshot is not None:
        return look.snapshot
    if not look.done.done():
        _Held.begin_outage("no answer", look)
    usable = _Held.usable()
    if usable is not None:
        return usable
    if look.problem is None or database.is_unavailable(look.problem):
        raise _Held.unavailable() from look.problem
    raise look.problem


class _Keeper:
    """The task that looks while nobody else does."""

    task: asyncio.Task[None] | None = None


async def start() -> None:
    """Read the settings, and keep them read until `stop`: for when the database goes away while nobody connects.

    Waits for the first look. One that fails has a line in the log, and the process serves all the same.
    """
    if _Keeper.task is None or _Keeper.task.done():
        health.register("database", _unready)
        await _look_quietly()
        _Keeper.task = asyncio.get_running_loop().create_task(_keep(), name="hub settings")


async def stop() -> None:
    """End what `start` began."""
    health.unregister("database")
    task, _Keeper.task = _Keeper.task, None
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


def _unready() -> str | None:
    """Why nobody new can be judged; without the driver's words, which are for those who may read the log."""
    if is_usable() or not _Held.in_outage():
        return None
    return "hubs and keys cannot be read, and none that were read lately are known; the log says why"


async def _keep() -> None:
    while True:
        await asyncio.sleep(RETRY_SECS if _Held.in_outage() else KEEP_SECS)
        await _look_quietly()


async def _look_quietly() -> None:
    try:
        await acurrent()
    except Exception:
        logger.debug("Hubs and keys could not be read", exc_info=True)


def outage() -> Outage | None:
    """The last time in which this process could not read its settings, also when it is over; None = there was none."""
    return _Held.outage


def is_away() -> bool:
    """Whether the database is known not to answer, so that nobody need wait for it in vain."""
    if not _Held.in_outage():
        return False
    # Whoever asks this may ask nothing else here, and the outage has to end.
    _Held.look_apart()
    return True


def is_usable() -> bool:
    """Whether new clients can be judged: by what was read lately or, while the database is away, not too long ago."""
    return _Held.usable() is not None


def _read(version: int) -> Snapshot:
    keys: dict[int | None, list[str]] = {}
    unreadable = ""
    for key in AccessKey.objects.select_related("hub").order_by("slot"):
        try:
            keys.setdefault(key.hub_id, []).append(key.text)
        except ImproperlyConfigured as problem:
            # One unreadable key closes what it alone would open, not the whole service.
            unreadable = str(problem)
            logger.error("%s", unreadable)
    handlers = _handlers()
    listeners = _listeners()
    hubs = {
        row.name: HubSettings(
            name=row.name,
            known=True,
            anonymous_connect=row.anonymous_connect,
            anonymous_user_ids=row.anonymous_user_ids,
            keys=tuple(keys.get(row.pk, ())),
            event_handlers=tuple(handlers.get(row.pk, ())),
            event_listeners=tuple(listeners.get(row.pk, ())),
        )
        for row in Hub.objects.all()
    }
    return Snapshot(version, MappingProxyType(hubs), tuple(keys.get(None, ())), unreadable)


def _handlers() -> dict[int, list[EventHandlerSettings]]:
    found: dict[int, list[EventHandlerSettings]] = {}
    for row in EventHandler.objects.filter(enabled=True).select_related("hub"):
        authorization, problem = None, ""
        try:
            authorization = row.authorization
        except ImproperlyConfigured as unreadable:
            problem = str(unreadable)
            logger.error("%s", problem)
        found.setdefault(row.hub_id, []).append(
            EventHandlerSettings(
                id=row.pk,
                url_template=row.url_template,
                user_event_pattern=row.user_event_pattern,
                system_events=frozenset(row.system_events),
                authorization=authorization,
                problem=problem,
            )
        )
    return found


def _listeners() -> dict[int, list[EventListenerSettings]]:
    found: dict[int, list[EventListenerSettings]] = {}
    for row in EventListener.objects.filter(enabled=True).select_related("hub"):
        try:
            authorization = row.authorization
        except ImproperlyConfigured as unreadable:
            # Nobody waits for a listener or is let in by one: it is left out.
            logger.error("%s", unreadable)
            continue
        found.setdefault(row.hub_id, []).append(
            EventListenerSettings(
                id=row.pk,
                kind=row.kind,
                address=row.address,
                user_event_pattern=row.user_event_pattern,
                system_events=frozenset(row.system_events),
                authorization=authorization,
            )
        )
    return found


def drop() -> None:
    """Forget this process's snapshot and what it knows of outages; the next reader looks again."""
    _Held.drop()


def _changed(**_: Any) -> None:
    SettingsVersion.step()
    transaction.on_commit(_Held.expire)


def watch() -> None:
    """Step the version whenever one of these rows is saved or deleted. Called once, when the app is ready.

    `QuerySet.update()` and raw SQL send no signals: whoever uses them calls `SettingsVersion.step()`.
    """
    for model in (Hub, AccessKey, EventHandler, EventListener):
        post_save.connect(_changed, sender=model, dispatch_uid=f"hub settings saved {model.__name__}")
        post_delete.connect(_changed, sender=model, dispatch_uid=f"hub settings deleted {model.__name__}")
