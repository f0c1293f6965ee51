"""Hubs and keys as the running service sees them: read seldom, changed everywhere soon."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError, transaction

from hubs import health, hub_settings
from hubs.errors import DatabaseUnavailable
from hubs.hub_settings import EventHandlerSettings, EventListenerSettings, HubSettings, Snapshot, acurrent, current
from hubs.models import AccessKey, EventHandler, EventListener, HandlerCall, Hub, RoleGrant, SettingsVersion
from tests.running import PATIENCE

pytestmark = pytest.mark.django_db


class Clock:
    """The seconds that hub_settings sees."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now + 1_700_000_000

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[Clock]:
    settings.WEBPUBSUB = settings.WEBPUBSUB | {"SETTINGS_MAX_AGE_SECS": 1}
    clock = Clock()
    monkeypatch.setattr(hub_settings, "time", clock)
    hub_settings.drop()
    yield clock
    hub_settings.drop()


def _key(slot: str, text: str, hub: Hub | None = None) -> AccessKey:
    key = AccessKey(hub=hub, slot=slot)
    key.text = text
    key.save()
    return key


def test_what_is_read() -> None:
    chat = Hub.objects.create(name="Chat", anonymous_connect=True)
    Hub.objects.create(name="stream", anonymous_user_ids=True)
    _key("secondary", "service 2")
    _key("primary", "chat 1", chat)
    _key("primary", "service 1")
    hub_settings.drop()
    snapshot = current()
    assert snapshot.service_keys == ("service 1", "service 2")
    assert snapshot.hub("CHAT") == HubSettings("chat", True, True, False, ("chat 1",))
    assert snapshot.hub("stream") == HubSettings("stream", True, False, True, ())
    assert snapshot.hub("Never_created") == HubSettings("never_created")
    assert snapshot.keys_of("chat") == ("service 1", "service 2", "chat 1")
    assert snapshot.keys_of("stream") == snapshot.keys_of("x") == ("service 1", "service 2")


def test_event_handlers_are_read_in_their_order_and_listeners_with_their_address() -> None:
    hub, other = Hub.objects.create(name="chat"), Hub.objects.create(name="other")
    second = EventHandler.objects.create(
        hub=hub, position=2, url_template="https://b.example/{event}", user_event_pattern="*", on_connected=True
    )
    first = EventHandler(hub=hub, position=1, url_template="https://a.example/", on_connect=True, on_disconnected=True)
    first.auth_type, first.token = "bearer", "t0ken"
    first.save()
    third = EventHandler.objects.create(hub=hub, position=2, url_template="https://c.example/")
    EventHandler.objects.create(hub=hub, position=0, url_template="https://off.example/", enabled=False)
    stream = EventListener(
        hub=hub, kind="redis_stream", url="redis://r.example:6379/0", stream="a b?&", on_connected=True
    )
    stream.auth_type, stream.token = "password", "pass word"
    stream.save()
    webhook = EventListener(hub=hub, kind="webhook", url="https://l.example/x?y=1", user_event_pattern="join, room.*")
    webhook.auth_type, webhook.token = "bearer", "t1"
    webhook.save()
    EventListener.objects.create(hub=hub, kind="webhook", url="https://off.example/", enabled=False)
    elsewhere = EventListener.objects.create(hub=other, kind="webhook", url="https://o.example/", on_disconnected=True)
    hub_settings.drop()
    chat = current().hub("chat")
    assert chat.event_handlers == (
        EventHandlerSettings(
            first.pk, "https://a.example/", "", frozenset({"connect", "disconnected"}), authorization="Bearer t0ken"
        ),
        EventHandlerSettings(second.pk, "https://b.example/{event}", "*", frozenset({"connected"}), authorization=None),
        EventHandlerSettings(third.pk, "https://c.example/"),
    )
    assert chat.event_listeners == (
        EventListenerSettings(
            stream.pk,
            "redis_stream",
            "redis://r.example:6379/0?stream=a%20b%3F%26",
            "",
            frozenset({"connected"}),
            authorization="pass word",
        ),
        EventListenerSettings(
            webhook.pk, "webhook", "https://l.example/x?y=1", "join, room.*", frozenset(), authorization="Bearer t1"
        ),
    )
    (single,) = current().hub("other").event_listeners
    assert (single.id, single.system_events) == (elsewhere.pk, frozenset({"disconnected"}))
    assert current().hub("other").event_handlers == ()


def test_an_empty_database() -> None:
    assert current().service_keys == ()
    assert current().keys_of("chat") == ()


def test_it_cannot_be_changed() -> None:
    Hub.objects.create(name="chat")
    hub_settings.drop()
    snapshot = current()
    with pytest.raises(TypeError):
        snapshot.hubs["chat"] = HubSettings("chat")  # type: ignore[index]
    with pytest.raises(AttributeError):
        snapshot.hub("chat").known = False  # type: ignore[misc]


def test_while_young_nothing_is_read(clock: Clock, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(5):
        first = current()
    clock.now += 0.99
    with django_assert_num_queries(0):
        assert current() is first


def test_when_old_one_row_is_read(clock: Clock, django_assert_num_queries: Any) -> None:
    Hub.objects.create(name="chat")
    hub_settings.drop()
    first = current()
    for _ in range(3):
        clock.now += 1
        with django_assert_num_queries(1):
            assert current() is first
        with django_assert_num_queries(0):
            assert current() is first


def test_queries_do_not_grow_with_hubs(django_assert_num_queries: Any) -> None:
    for number in range(20):
        hub = Hub.objects.create(name=f"hub{number}")
        AccessKey.objects.ensure_pair(hub)
        EventHandler.objects.create(hub=hub, url_template="https://a.example/", on_connect=True)
        EventListener.objects.create(hub=hub, kind="webhook", url="https://a.example/", on_connected=True)
    hub_settings.drop()
    with django_assert_num_queries(5):
        snapshot = current()
    with django_assert_num_queries(0):
        assert len(snapshot.keys_of("hub19")) == 2
        assert len(snapshot.hub("hub19").event_handlers) == len(snapshot.hub("hub19").event_listeners) == 1


def test_age_zero_looks_every_time(settings: Any, django_assert_num_queries: Any) -> None:
    settings.WEBPUBSUB = settings.WEBPUBSUB | {"SETTINGS_MAX_AGE_SECS": 0}
    current()
    with django_assert_num_queries(2):
        current()
        current()


def _elsewhere(change: Any) -> None:
    """Change rows as another process does: its version steps, and no signal is heard here."""
    change()
    SettingsVersion.step()


def test_a_change_elsewhere_is_seen_when_the_view_is_old(clock: Clock, django_assert_num_queries: Any) -> None:
    Hub.objects.create(name="chat")
    hub_settings.drop()
    assert not current().hub("chat").anonymous_connect
    _elsewhere(lambda: Hub.objects.filter(name="chat").update(anonymous_connect=True))
    clock.now += 0.5
    assert not current().hub("chat").anonymous_connect
    clock.now += 0.5
    with django_assert_num_queries(5):
        assert current().hub("chat").anonymous_connect


def test_without_a_step_the_rows_are_not_looked_at(clock: Clock) -> None:
    Hub.objects.create(name="chat")
    hub_settings.drop()
    current()
    Hub.objects.filter(name="chat").update(anonymous_connect=True)
    clock.now += 10
    assert not current().hub("chat").anonymous_connect


# Changes in this process


@pytest.mark.django_db(transaction=True)
def test_a_change_here_is_in_force_at_once() -> None:
    hub = Hub.objects.create(name="chat")
    assert current().hub("chat").known
    hub.anonymous_connect = True
    hub.save()
    assert current().hub("chat").anonymous_connect
    key = _key("primary", "one")
    assert current().service_keys == ("one",)
    key.text = "two"
    key.save()
    assert current().service_keys == ("two",)
    key.delete()
    assert current().service_keys == ()
    hub.delete()
    assert not current().hub("chat").known


@pytest.mark.django_db(transaction=True)
def test_each_change_steps_the_version() -> None:
    versions = [SettingsVersion.read()]

    def stepped() -> bool:
        versions.append(SettingsVersion.read())
        return versions[-1] > versions[-2]

    hub = Hub.objects.create(name="chat")
    assert stepped()
    hub.save()
    assert stepped()
    keys = AccessKey.objects.ensure_pair(hub)
    assert stepped()
    keys[0].regenerate()
    assert stepped()
    keys[0].delete()
    assert stepped()
    handler = EventHandler.objects.create(hub=hub, url_template="https://a.example/")
    assert stepped()
    handler.save()
    assert stepped()
    handler.delete()
    assert stepped()
    listener = EventListener.objects.create(hub=hub, kind="webhook", url="https://a.example/")
    assert stepped()
    listener.delete()
    assert stepped()
    Hub.objects.all().delete()
    assert stepped()
    # What is written while the service runs makes no process read its settings again.
    HandlerCall.objects.create(hub="chat", event="connect", outcome="failed", duration_ms=1)
    assert not stepped()
    # Grants are read by negotiate alone, and never by the running service.
    RoleGrant.objects.create(who="anonymous", role="sendToGroup")
    assert not stepped()


@pytest.mark.django_db(transaction=True)
def test_what_is_rolled_back_never_was() -> None:
    Hub.objects.create(name="chat")
    before, version = current(), SettingsVersion.read()
    with transaction.atomic():
        Hub.objects.create(name="other")
        transaction.set_rollback(True)
    assert SettingsVersion.read() == version
    assert current() is before


@pytest.mark.django_db(transaction=True)
def test_what_is_not_committed_is_not_in_force() -> None:
    before = current()
    with transaction.atomic():
        Hub.objects.create(name="chat")
        assert current() is before
    assert current().hub("chat").known


@pytest.mark.django_db(transaction=True)
def test_a_drop_while_rows_are_read_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that began before a change must not bring the old rows back for everybody behind it."""
    Hub.objects.create(name="chat")
    read = hub_settings._read

    def overtaken(version: int) -> Snapshot:
        snapshot = read(version)
        for hub in Hub.objects.all():
            hub.delete()
        return snapshot

    monkeypatch.setattr(hub_settings, "_read", overtaken)
    hub_settings.drop()
    assert current().hub("chat").known
    assert not current().hub("chat").known


# Readers


@pytest.mark.django_db(transaction=True)
async def test_coroutines_read_the_same() -> None:
    await Hub.objects.acreate(name="chat")
    first = await acurrent()
    assert first.hub("chat").known
    assert await acurrent() is first
    assert current() is first


async def test_coroutines_enter_no_thread_while_it_is_young(monkeypatch: pytest.MonkeyPatch) -> None:
    young = Snapshot(7)
    monkeypatch.setattr(hub_settings._Held, "snapshot", young)
    monkeypatch.setattr(hub_settings._Held, "checked_at", 1000.0)
    monkeypatch.setattr(hub_settings, "database_sync_to_async", None)
    assert await acurrent() is young


def test_readers_that_come_together_look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    first_is_in, go_on = threading.Event(), threading.Event()

    def slow_read() -> int:
        looks.append(1)
        first_is_in.set()
        assert go_on.wait(20)
        return 5

    monkeypatch.setattr(SettingsVersion, "read", slow_read)
    monkeypatch.setattr(hub_settings, "_read", lambda version: Snapshot(version))
    seen: list[Snapshot] = []
    readers = [threading.Thread(target=lambda: seen.append(current())) for _ in range(4)]
    for reader in readers:
        reader.start()
    assert first_is_in.wait(20)
    go_on.set()
    for reader in readers:
        reader.join(20)
    assert len(looks) == 1
    assert {id(snapshot) for snapshot in seen} == {id(seen[0])}
    assert len(seen) == 4


def test_after_a_failed_look_the_next_reader_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise ConnectionError

    with monkeypatch.context() as broken:
        broken.setattr(SettingsVersion, "read", fail)
        with pytest.raises(ConnectionError):
            current()
    assert current().hub("chat") == HubSettings("chat")


def test_a_key_under_a_lost_secret_closes_nothing_else(settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    _key("primary", "one")
    settings.SECRET_KEY = "another-" + "a" * 50
    _key("secondary", "two")
    Hub.objects.create(name="chat")
    hub_settings.drop()
    assert current().service_keys == ("two",)
    assert current().hub("chat").known
    # Told once a look, with the way out.
    assert caplog.text.count("Put the earlier SECRET_KEY into SECRET_KEY_FALLBACKS") == 1


def test_a_handler_whose_token_is_lost_keeps_its_place_and_cannot_be_called(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Left out, a handler that turns people away at connect would let them all in."""
    hub = Hub.objects.create(name="chat")
    handler = EventHandler(hub=hub, url_template="https://a.example/?code=s3cret", on_connect=True, auth_type="bearer")
    handler.token = "t0ken"
    handler.save()
    EventHandler.objects.create(hub=hub, position=1, url_template="https://b.example/", on_connect=True)
    listener = EventListener(hub=hub, kind="webhook", url="https://l.example/", on_connected=True, auth_type="bearer")
    listener.token = "t1"
    listener.save()
    settings.SECRET_KEY = "another-" + "a" * 50
    hub_settings.drop()
    chat = current().hub("chat")
    lost, fine = chat.event_handlers
    assert (lost.id, lost.authorization, fine.authorization) == (handler.pk, None, None)
    assert (bool(lost.problem), fine.problem) == (True, "")
    assert chat.event_listeners == ()
    assert caplog.text.count("Put the earlier SECRET_KEY into SECRET_KEY_FALLBACKS") == 2
    assert "event handler https://a.example/ of hub chat" in lost.problem
    assert "s3cret" not in caplog.text
    # Keys are another matter: nobody is told that one of those is lost.
    assert current().unreadable == ""


# While the database is away


class Away:
    """Whether the version can be read, and how often somebody tried."""

    def __init__(self) -> None:
        self.problem: BaseException | None = None
        self.tries = 0
        # Cleared: the database does not answer.
        self.answers = threading.Event()
        self.answers.set()

    def read(self) -> int:
        self.tries += 1
        assert self.answers.wait(PATIENCE)
        if self.problem is not None:
            raise self.problem
        return 5


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[Away]:
    """A database that can go away, also for the threads that hub_settings makes."""
    own = Away()
    monkeypatch.setattr(SettingsVersion, "read", own.read)
    monkeypatch.setattr(hub_settings, "_read", lambda version: Snapshot(version, service_keys=(f"key {version}",)))
    monkeypatch.setattr(hub_settings, "WAIT_SECS", 0.05)
    monkeypatch.setattr(hub_settings, "FIRST_WAIT_SECS", 0.05)
    yield own
    own.answers.set()
    for thread in hub_settings._Held.threads:
        thread.join(PATIENCE)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_last_snapshot_holds_for_a_bounded_time(
    away: Away, clock: Clock, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WEBPUBSUB = settings.WEBPUBSUB | {"SETTINGS_STALE_SECS": 100}
    held = current()
    away.problem = OperationalError("the server is gone\n\tmore")
    for _ in range(50):
        clock.now += 2
        assert current() is held
    assert hub_settings.is_usable()
    assert hub_settings._unready() is None
    clock.now += 1
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            current()
    assert not hub_settings.is_usable()
    assert "none that were read lately are known" in (hub_settings._unready() or "")
    outage = hub_settings.outage()
    assert outage is not None
    assert (outage.problem, outage.ended) == ("the server is gone", None)
    away.problem = None
    assert current().service_keys == ("key 5",)
    outage = hub_settings.outage()
    assert outage is not None
    assert outage.ended is not None
    begun, too_old, over = caplog.messages
    assert begun.startswith("Hubs and keys cannot be read from the database (the server is gone). The service goes on")
    assert too_old.startswith("Hubs and keys have not been read for more than 100 s")
    assert over == "Hubs and keys can be read from the database again, after 99 s"


def test_an_outage_is_over_when_a_look_succeeds(away: Away, clock: Clock) -> None:
    current()
    away.problem = InterfaceError("gone")
    clock.now += 1
    current()
    away.problem = None
    clock.now += 1
    # This reader does not wait for it.
    current()
    _until(lambda: hub_settings.outage().ended is not None)  # type: ignore[union-attr]
    assert hub_settings._Held.fresh() is not None


def test_in_an_outage_one_look_a_second_is_made(away: Away, clock: Clock) -> None:
    current()
    away.problem = OperationalError("gone")
    for _ in range(3):
        clock.now += 1
        for _ in range(20):
            current()
        _until(lambda: hub_settings._Held.look is None)
    assert away.tries == 4


@pytest.mark.parametrize("asked", ["plainly", "by a coroutine"])
async def test_nobody_waits_long_for_a_database_that_does_not_answer(
    away: Away, clock: Clock, asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    held = await acurrent()
    away.answers.clear()
    clock.now += 1
    # The first look hangs, in a thread.
    assert await acurrent() is held
    # Others do not even begin one.
    for _ in range(20):
        assert (current() if asked == "plainly" else await acurrent()) is held
    assert away.tries == 2
    assert [record.getMessage()[:60] for record in caplog.records] == [
        "Hubs and keys cannot be read from the database (no answer). "
    ]
    away.answers.set()
    await asyncio.to_thread(_until, lambda: hub_settings._Held.fresh() is not None)


async def test_a_process_that_has_read_nothing_yet_says_so(away: Away, caplog: pytest.LogCaptureFixture) -> None:
    away.answers.clear()
    with pytest.raises(DatabaseUnavailable):
        await acurrent()
    away.problem = OperationalError("gone")
    away.answers.set()
    await asyncio.to_thread(_until, lambda: hub_settings._Held.look is None)
    with pytest.raises(DatabaseUnavailable):
        await acurrent()
    with pytest.raises(DatabaseUnavailable):
        current()
    [line] = caplog.messages
    assert "none are known here" in line
    assert hub_settings._unready() is not None
    away.problem = None
    assert (await acurrent()).version == 5


def test_a_change_here_is_waited_for(away: Away, clock: Clock) -> None:
    """A look that began before a change does not answer those who come after it."""
    current()
    clock.now += 1
    away.answers.clear()
    first = threading.Thread(target=current)
    first.start()
    _until(lambda: away.tries == 2)
    hub_settings._Held.expire()
    second = threading.Thread(target=current)
    second.start()
    away.answers.set()
    first.join(PATIENCE)
    second.join(PATIENCE)
    assert away.tries == 3


def test_after_a_change_here_that_cannot_be_read_the_rows_before_it_are_used(away: Away) -> None:
    held = current()
    hub_settings._Held.expire()
    away.problem = OperationalError("gone")
    assert current() is held


async def test_a_process_reads_while_nobody_asks(away: Away, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Else what an idle process holds would be too old when the database goes away."""
    monkeypatch.setattr(hub_settings, "KEEP_SECS", 0.01)
    monkeypatch.setattr(hub_settings, "RETRY_SECS", 0.01)
    await hub_settings.start()
    assert away.tries == 1
    assert health.reason("database") is None
    for tries in range(2, 5):
        clock.now += 1
        await asyncio.to_thread(_until, lambda tries=tries: away.tries >= tries)  # type: ignore[misc]
    away.problem = OperationalError("gone")
    clock.now += 4000
    await asyncio.to_thread(_until, lambda: health.reason("database") is not None)
    away.problem = None
    await asyncio.to_thread(_until, lambda: health.reason("database") is None)
    await hub_settings.stop()
    assert hub_settings._Keeper.task is None
