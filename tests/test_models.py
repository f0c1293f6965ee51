"""What is remembered, and how: names, keys under encryption, grants."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import IntegrityError, connection, transaction
from django.test import override_settings

from hubs.models import AccessKey, EventHandler, EventListener, HandlerCall, Hub, RoleGrant, SettingsVersion

pytestmark = pytest.mark.django_db


# Hubs


def test_hub_names_are_kept_in_lower_case() -> None:
    hub = Hub.objects.create(name="Chat_A")
    hub.refresh_from_db()
    assert (hub.name, str(hub)) == ("chat_a", "chat_a")
    assert (hub.anonymous_connect, hub.anonymous_user_ids) == (False, False)


def test_one_hub_per_name() -> None:
    first = Hub.objects.create(name="chat")
    with pytest.raises(ValidationError, match="There is a hub chat already"):
        Hub(name="CHAT").full_clean()
    with pytest.raises(IntegrityError), transaction.atomic():
        Hub.objects.create(name="CHAT")
    first.full_clean()


@pytest.mark.parametrize("name", ["", "1a", "a b", "é", "a-b", "a" * 129])
def test_what_no_hub_can_be_called(name: str) -> None:
    with pytest.raises(ValidationError) as problem:
        Hub(name=name).full_clean()
    assert "name" in problem.value.message_dict


# Keys


def _stored(key: AccessKey) -> str:
    """Everything that the database has of a key."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM hubs_accesskey WHERE id = %s", [key.pk])
        return repr(cursor.fetchone())


def test_keys_are_not_readable_in_the_database() -> None:
    [key, _] = AccessKey.objects.ensure_pair()
    assert len(key.text) >= 32
    for form in (key.text, key.text[:8], base64.b64encode(key.text.encode()).decode()[:40]):
        assert form not in _stored(key)
    assert AccessKey.objects.get(pk=key.pk).text == key.text


def test_the_same_text_is_stored_differently_each_time() -> None:
    key = AccessKey(slot="primary")
    key.text = "t" * 40
    before = key.encrypted
    key.text = "t" * 40
    assert key.encrypted != before
    assert key.text == "t" * 40


@pytest.mark.parametrize("text", ["x" * 64, "with;=+/ signs", "schlüssel 👋", ""])
def test_any_text_is_kept(text: str) -> None:
    key = AccessKey(slot="primary")
    key.text = text
    key.save()
    assert AccessKey.objects.get(pk=key.pk).text == text


def test_keys_are_random_and_fit_a_connection_string() -> None:
    texts = set()
    for key in AccessKey.objects.ensure_pair():
        for _ in range(10):
            key.regenerate()
            texts.add(key.text)
            assert len(key.text) == 64
            assert set(key.text).isdisjoint(";= \n")
    assert len(texts) == 20


def test_regenerating_one_key_leaves_the_other() -> None:
    primary, secondary = AccessKey.objects.ensure_pair()
    before, other, time = primary.text, secondary.text, primary.regenerated_at
    primary.regenerate()
    assert AccessKey.objects.get(pk=primary.pk).text not in (before, other)
    assert AccessKey.objects.get(pk=secondary.pk).text == other
    assert primary.regenerated_at > time


def test_masked_keys_give_little_away() -> None:
    [key, _] = AccessKey.objects.ensure_pair()
    assert key.masked == f"{key.text[:4]}••••••••••••{key.text[-4:]}"


def test_a_pair_is_made_once_per_scope() -> None:
    hub = Hub.objects.create(name="chat")
    service, own = AccessKey.objects.ensure_pair(), AccessKey.objects.ensure_pair(hub)
    assert [key.slot for key in service] == [key.slot for key in own] == ["primary", "secondary"]
    assert len({key.text for key in service + own}) == 4
    assert [key.text for key in AccessKey.objects.ensure_pair()] == [key.text for key in service]
    assert [key.pk for key in AccessKey.objects.ensure_pair(hub)] == [key.pk for key in own]
    assert list(AccessKey.objects.of_service()) == service
    assert list(AccessKey.objects.all()) == service + own
    assert [str(key) for key in (service[0], own[1])] == ["primary key of the service", "secondary key of hub chat"]


def test_a_missing_half_is_made() -> None:
    primary, secondary = AccessKey.objects.ensure_pair()
    secondary.delete()
    again = AccessKey.objects.ensure_pair()
    assert again[0].text == primary.text
    assert again[1].pk is not None


@pytest.mark.parametrize("of_hub", [False, True])
def test_one_key_per_scope_and_slot(of_hub: bool) -> None:
    hub = Hub.objects.create(name="chat") if of_hub else None
    AccessKey.objects.ensure_pair(hub)
    with pytest.raises(IntegrityError), transaction.atomic():
        AccessKey(hub=hub, slot="primary").regenerate()


def test_a_hubs_keys_go_with_it() -> None:
    hub = Hub.objects.create(name="chat")
    AccessKey.objects.ensure_pair(hub)
    hub.delete()
    assert AccessKey.objects.count() == 0


OLD, NEW, NEWEST = ("old-" + "o" * 50, "new-" + "n" * 50, "newest-" + "s" * 50)


def test_after_a_new_secret_the_old_one_still_reads(settings: Any) -> None:
    settings.SECRET_KEY = OLD
    [key, _] = AccessKey.objects.ensure_pair()
    text = key.text
    settings.SECRET_KEY_FALLBACKS = [OLD]
    settings.SECRET_KEY = NEW
    key = AccessKey.objects.get(pk=key.pk)
    assert key.text == text
    # Written once more, it needs the old secret no longer.
    key.text = text
    key.save()
    settings.SECRET_KEY_FALLBACKS = []
    assert AccessKey.objects.get(pk=key.pk).text == text
    settings.SECRET_KEY_FALLBACKS = [OLD, NEW]
    settings.SECRET_KEY = NEWEST
    assert AccessKey.objects.get(pk=key.pk).text == text


def test_a_lost_secret_is_told_with_the_way_out(settings: Any) -> None:
    settings.SECRET_KEY = OLD
    [key, _] = AccessKey.objects.ensure_pair()
    settings.SECRET_KEY = NEW
    for read in (lambda: key.text, lambda: key.masked):
        with pytest.raises(ImproperlyConfigured) as problem:
            read()
        assert "primary key of the service cannot be read with this SECRET_KEY" in str(problem.value)
        assert "SECRET_KEY_FALLBACKS, or regenerate the key" in str(problem.value)
        assert key.encrypted not in str(problem.value)
    key.regenerate()
    assert len(AccessKey.objects.get(pk=key.pk).text) == 64


def test_what_was_tampered_with_is_not_read() -> None:
    [key, _] = AccessKey.objects.ensure_pair()
    for stored in (key.encrypted[:-4] + "AAA=", "", "plain text", "é"):
        key.encrypted = stored
        with pytest.raises(ImproperlyConfigured):
            _ = key.text


# Grants


@pytest.fixture
def ann() -> User:
    return User.objects.create_user("ann")


@pytest.fixture
def staff() -> Group:
    return Group.objects.create(name="staff")


def _grant(**members: Any) -> RoleGrant:
    return RoleGrant(**{"who": "authenticated", "role": "sendToGroup"} | members)


@pytest.mark.parametrize(
    ("members", "role"),
    [
        ({}, "webpubsub.sendToGroup"),
        ({"role": "joinLeaveGroup"}, "webpubsub.joinLeaveGroup"),
        ({"group_pattern": "g"}, "webpubsub.sendToGroup.g"),
        ({"group_pattern": "a.b"}, "webpubsub.sendToGroup.a.b"),
        ({"group_pattern": "a.*"}, "webpubsub.sendToGroups.a.*"),
        ({"group_pattern": r"a\*"}, "webpubsub.sendToGroup.a*"),
        ({"group_pattern": "g", "role": "joinLeaveGroup", "join_at_connect": True}, "webpubsub.joinLeaveGroup.g"),
        ({"who": "anonymous", "group_pattern": "**"}, "webpubsub.sendToGroups.**"),
    ],
)
def test_sound_grants(members: dict[str, Any], role: str) -> None:
    grant = _grant(**members)
    grant.full_clean()
    grant.save()
    assert grant.role_string == role


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"who": "user"}, "user"),
        ({"who": "group"}, "group"),
        ({"who": "nobody"}, "who"),
        ({"role": "everything"}, "role"),
        ({"group_pattern": "******"}, "group_pattern"),
        ({"group_pattern": "a\\"}, "group_pattern"),
        ({"group_pattern": r"\a"}, "group_pattern"),
        ({"group_pattern": "   "}, "group_pattern"),
        ({"group_pattern": "g" * 1025}, "group_pattern"),
        ({"role": "joinLeaveGroup", "join_at_connect": True}, "join_at_connect"),
        ({"role": "joinLeaveGroup", "group_pattern": "a*", "join_at_connect": True}, "join_at_connect"),
        ({"role": "sendToGroup", "group_pattern": "a", "join_at_connect": True}, "join_at_connect"),
    ],
)
def test_unsound_grants(members: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as refused:
        _grant(**members).full_clean()
    assert problem in refused.value.message_dict


@pytest.mark.parametrize("who", ["user", "group", "authenticated", "anonymous"])
@pytest.mark.parametrize("named", [(), ("user",), ("group",), ("user", "group")])
def test_who_is_meant_is_named_and_nobody_else(who: str, named: tuple[str, ...], ann: User, staff: Group) -> None:
    grant = _grant(who=who, **{name: {"user": ann, "group": staff}[name] for name in named})
    if named == ((who,) if who in ("user", "group") else ()):
        grant.full_clean()
        grant.save()
        return
    with pytest.raises(ValidationError) as refused:
        grant.full_clean()
    assert set(refused.value.message_dict) & {"user", "group"} == set(named) ^ ({who} & {"user", "group"})
    # The database holds to it, whoever writes.
    with pytest.raises(IntegrityError), transaction.atomic():
        grant.save()


def test_grants_in_words(ann: User, staff: Group) -> None:
    assert [
        str(grant)
        for grant in (
            _grant(who="user", user=ann, group_pattern="a*"),
            _grant(who="group", group=staff, role="joinLeaveGroup"),
            _grant(),
            _grant(who="anonymous"),
        )
    ] == [
        "user ann may send to groups: a*",
        "group staff may join and leave groups: all",
        "everyone signed in may send to groups: all",
        "visitors who are not signed in may send to groups: all",
    ]


def test_whose_grants_apply(ann: User, staff: Group) -> None:
    bob = User.objects.create_user("bob")
    ann.groups.add(staff, Group.objects.create(name="other"))
    chat, stream = Hub.objects.create(name="chat"), Hub.objects.create(name="stream")
    for pattern, members in {
        "visitors": {"who": "anonymous"},
        "signed in": {"who": "authenticated"},
        "ann": {"who": "user", "user": ann},
        "bob": {"who": "user", "user": bob},
        "staff": {"who": "group", "group": staff},
        "chat": {"who": "authenticated", "hub": chat},
        "stream": {"who": "anonymous", "hub": stream},
    }.items():
        _grant(group_pattern=pattern, **members).save()

    def patterns(user: Any, hub: str) -> list[str]:
        return sorted(grant.group_pattern for grant in RoleGrant.of(user, hub))

    assert patterns(AnonymousUser(), "chat") == ["visitors"]
    assert patterns(AnonymousUser(), "Stream") == ["stream", "visitors"]
    assert patterns(ann, "CHAT") == ["ann", "chat", "signed in", "staff", "visitors"]
    assert patterns(bob, "chat") == ["bob", "chat", "signed in", "visitors"]
    assert patterns(bob, "stream") == ["bob", "signed in", "stream", "visitors"]
    assert patterns(bob, "never_created") == ["bob", "signed in", "visitors"]


def test_grants_take_one_query(ann: User, django_assert_num_queries: Any) -> None:
    _grant(who="user", user=ann).save()
    with django_assert_num_queries(1):
        assert [grant.role_string for grant in RoleGrant.of(ann, "chat")] == ["webpubsub.sendToGroup"]


# Event handlers and listeners


@pytest.fixture
def chat() -> Hub:
    return Hub.objects.create(name="chat")


def _handler(chat: Hub, token: str = "", **fields: Any) -> EventHandler:
    handler = EventHandler(hub=chat, **{"url_template": "https://a.example/{event}?code=s3cret", **fields})
    handler.token = token
    return handler


def _listener(chat: Hub, token: str = "", **fields: Any) -> EventListener:
    listener = EventListener(hub=chat, **{"url": "redis://a.example", "stream": "events", **fields})
    listener.token = token
    return listener


def _problems(row: EventHandler | EventListener) -> dict[str, list[str]]:
    try:
        row.full_clean()
    except ValidationError as problem:
        found: dict[str, list[str]] = problem.message_dict
        return found
    return {}


def test_tokens_are_not_readable_in_the_database(chat: Hub) -> None:
    handler = _handler(chat, "t0ken-t0ken-t0ken", auth_type="bearer")
    handler.save()
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM hubs_eventhandler WHERE id = %s", [handler.pk])
        stored = repr(cursor.fetchone())
    assert "t0ken" not in stored
    kept = EventHandler.objects.get()
    assert (kept.token, kept.authorization) == ("t0ken-t0ken-t0ken", "Bearer t0ken-t0ken-t0ken")


def test_a_key_cannot_be_put_into_the_place_of_a_token(chat: Hub) -> None:
    """They are encrypted under different keys, so what can be written into one place is not shown in another."""
    [key, _] = AccessKey.objects.ensure_pair()
    handler = _handler(chat, auth_type="bearer", encrypted_token=key.encrypted)
    handler.encrypted_token = key.encrypted
    with pytest.raises(ImproperlyConfigured, match="cannot be read"):
        _ = handler.token


@override_settings(SECRET_KEY="old-" + "o" * 50)
def test_a_token_survives_a_new_secret_that_knows_the_old_one(chat: Hub) -> None:
    handler = _handler(chat, "t0ken", auth_type="bearer")
    with override_settings(SECRET_KEY="new-" + "n" * 50, SECRET_KEY_FALLBACKS=["old-" + "o" * 50]):
        assert handler.token == "t0ken"
    with override_settings(SECRET_KEY="new-" + "n" * 50):
        (text,) = _problems(handler)["auth_type"]
        assert "SECRET_KEY_FALLBACKS, or enter the secret again" in text


def test_a_token_that_is_not_used_is_forgotten(chat: Hub) -> None:
    handler = _handler(chat, "t0ken", auth_type="bearer")
    handler.save()
    handler.auth_type = "none"
    handler.save()
    assert (handler.token, handler.authorization) == ("", None)
    assert EventHandler.objects.get().encrypted_token == ""


def test_system_events_are_switches(chat: Hub) -> None:
    handler, listener = _handler(chat), _listener(chat)
    handler.system_events = ["disconnected", "connect"]
    listener.system_events = ["connected"]
    assert (handler.system_events, handler.on_connected) == (["connect", "disconnected"], False)
    assert (listener.system_events, listener.on_disconnected) == (["connected"], False)


def test_good_handlers_and_listeners(chat: Hub) -> None:
    for row in (
        _handler(chat),
        _handler(chat, "t0ken", auth_type="bearer", user_event_pattern="join, room.*"),
        _listener(chat),
        _listener(chat, "pass word", auth_type="password"),
        _listener(chat, kind="webhook", url="https://a.example/", stream=""),
        _listener(chat, "t0ken", auth_type="bearer", kind="webhook", url="https://a.example/", stream=""),
    ):
        assert _problems(row) == {}


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"url_template": "https://{hub}.example/"}, "url_template", "in the path and in the query"),
        ({"user_event_pattern": "a b"}, "user_event_pattern", "Put commas"),
        ({"auth_type": "bearer"}, "auth_type", "Give the token too"),
        ({"auth_type": "bearer", "token": "a b"}, "auth_type", "visible ASCII"),
        ({"auth_type": "password", "token": "a"}, "auth_type", "not a valid choice"),
    ],
)
def test_what_no_handler_can_be(chat: Hub, fields: dict[str, Any], field: str, words: str) -> None:
    problems = _problems(_handler(chat, **fields))
    assert list(problems) == [field]
    assert words in problems[field][0]


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"url": "https://a.example/"}, "url", "Start with redis://"),
        ({"url": "redis://a.example", "kind": "webhook", "stream": ""}, "url", "Start with http"),
        ({"kind": "webhook", "url": "https://a.example"}, "stream", "a webhook has no stream"),
        ({"stream": ""}, "stream", "1 to 256"),
        ({"user_event_pattern": "a b"}, "user_event_pattern", "Put commas"),
        ({"auth_type": "password"}, "auth_type", "Give the password too"),
        ({"auth_type": "password", "token": "a\nb"}, "auth_type", "printable"),
        ({"auth_type": "bearer", "token": "a"}, "auth_type", "takes a password"),
        (
            {"auth_type": "password", "token": "a", "kind": "webhook", "url": "https://a.example", "stream": ""},
            "auth_type",
            "takes a bearer token",
        ),
    ],
)
def test_what_no_listener_can_be(chat: Hub, fields: dict[str, Any], field: str, words: str) -> None:
    problems = _problems(_listener(chat, **fields))
    assert list(problems) == [field]
    assert words in problems[field][0]


def test_they_go_with_their_hub_and_what_happened_stays(chat: Hub) -> None:
    _handler(chat).save()
    _listener(chat).save()
    HandlerCall.objects.create(hub="chat", event="connect", outcome="refused", status=401, duration_ms=3)
    chat.delete()
    assert not EventHandler.objects.exists()
    assert not EventListener.objects.exists()
    assert str(HandlerCall.objects.get()) == "connect in hub chat: refused"


def test_what_they_are_called_tells_no_secret(chat: Hub) -> None:
    assert str(_handler(chat)) == "event handler https://a.example/{event} of hub chat"
    assert str(_listener(chat)) == "event listener redis://a.example events of hub chat"
    webhook = _listener(chat, kind="webhook", url="https://a.example/x?code=s3cret", stream="")
    assert str(webhook) == "event listener https://a.example/x of hub chat"


# The version


def test_the_version_steps_by_one() -> None:
    SettingsVersion.objects.all().delete()
    assert SettingsVersion.read() == 0
    for version in (1, 2, 3):
        SettingsVersion.step()
        assert SettingsVersion.read() == version
    assert [str(row) for row in SettingsVersion.objects.all()] == ["3"]


def test_two_first_changes_at_once_both_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes the row between our look and our making it."""
    SettingsVersion.objects.all().delete()
    get_or_create = SettingsVersion.objects.get_or_create

    def overtaken(**arguments: Any) -> Any:
        SettingsVersion.objects.create(pk=1, version=1)
        return get_or_create(**arguments)

    monkeypatch.setattr(SettingsVersion.objects, "get_or_create", overtaken)
    SettingsVersion.step()
    assert SettingsVersion.read() == 2
