"""Hubs, keys, event handlers and listeners as frozen values: rows, read seldom and shared by everything.

A process holds one `Snapshot`. When it is asked for and older than SETTINGS_MAX_AGE_SECS, the
version counter is read (one row); only when that stepped is the rest read again. A change
made by any process, also by `manage.py` on the command line, is therefore in force everywhere
within that age and without messages between processes. In the process that made the change it is
in force at once: its signal drops the snapshot when the transaction commits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from channels.db import database_sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.db.models.signals import post_delete, post_save

from hubs import conf
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


class _Held:
    """This process's snapshot and when it was last found current (monotonic seconds)."""

    lock = threading.Lock()
    snapshot: Snapshot | None = None
    checked_at = float("-inf")
    drops = 0

    @classmethod
    def fresh(cls) -> Snapshot | None:
        """The snapshot, if it need not be looked at again yet."""
        young = time.monotonic() - cls.checked_at < conf.settings.SETTINGS_MAX_AGE_SECS
        return cls.snapshot if young else None

    @classmethod
    def drop(cls) -> None:
        cls.drops += 1
        cls.checked_at = float("-inf")
        cls.snapshot = None


def current() -> Snapshot:
    """Give everything as it is now (at most SETTINGS_MAX_AGE_SECS old). For synchronous callers."""
    snapshot = _Held.fresh()
    return snapshot if snapshot is not None else _look_again()


async def acurrent() -> Snapshot:
    """As `current`, for coroutines: no thread is entered while the snapshot is young."""
    snapshot = _Held.fresh()
    return snapshot if snapshot is not None else await database_sync_to_async(_look_again)()


def _look_again() -> Snapshot:
    with _Held.lock:
        # Another thread may have looked while this one waited for the lock.
        snapshot = _Held.fresh()
        if snapshot is not None:
            return snapshot
        asked_at, drops = time.monotonic(), _Held.drops
        # The version first: a change between the two reads makes the next look read again.
        version = SettingsVersion.read()
        held = _Held.snapshot
        if held is None or held.version != version:
            held = _read(version)
        _Held.snapshot = held
        # Dropped while the rows were being read: good enough for this reader, but the next one looks again.
        _Held.checked_at = asked_at if _Held.drops == drops else float("-inf")
        return held


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
    """Forget this process's snapshot; the next reader looks again."""
    _Held.drop()


def _changed(**_: Any) -> None:
    SettingsVersion.step()
    transaction.on_commit(_Held.drop)


def watch() -> None:
    """Step the version whenever one of these rows is saved or deleted. Called once, when the app is ready.

    `QuerySet.update()` and raw SQL send no signals: whoever uses them calls `SettingsVersion.step()`.
    """
    for model in (Hub, AccessKey, EventHandler, EventListener):
        post_save.connect(_changed, sender=model, dispatch_uid=f"hub settings saved {model.__name__}")
        post_delete.connect(_changed, sender=model, dispatch_uid=f"hub settings deleted {model.__name__}")
