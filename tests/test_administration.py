"""What staff does, called as a door calls it."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ValidationError

from hubs import administration
from hubs.models import AccessKey, Hub, RoleGrant, SettingsVersion

pytestmark = pytest.mark.django_db


def everything(by: Any) -> None:
    """Each verb once."""
    hub = administration.create_hub("Chat", {"anonymous_connect": True}, by=by)
    administration.change_hub("CHAT", {"anonymous_connect": False}, by=by)
    administration.change_hub("chat", {"event_handlers": [], "event_listeners": []}, by=by)
    administration.make_keys(hub, by=by)
    administration.regenerate_key(hub, "primary", by=by)
    administration.show_keys(hub, by=by)
    administration.remove_keys(hub, by=by)
    grant = RoleGrant()
    named: dict[str, str | None] = {"hub": "chat"}
    administration.save_role_grant(grant, named, {"who": "anonymous", "role": "sendToGroup"}, by=by)
    administration.delete_role_grant(grant, by=by)
    administration.delete_hub(hub, by=by)


def test_every_verb_leaves_a_line_for_each_row_it_touched() -> None:
    everything(User.objects.create_user("pat"))
    assert [entry.change_message for entry in LogEntry.objects.order_by("pk")] == [
        "Added.",
        "Changed anonymous_connect.",
        "Changed event_handlers, event_listeners.",
        *2 * ["Made the key."],
        "Regenerated the key.",
        *2 * ["Revealed the key."],
        *2 * ["Deleted."],
        "Added.",
        "Deleted.",
        "Deleted.",
    ]
    assert not Hub.objects.exists()


@pytest.mark.parametrize("by", [None, AnonymousUser()], ids=["nobody", "a visitor"])
def test_without_an_account_there_is_nobody_to_log(by: Any) -> None:
    everything(by)
    assert not LogEntry.objects.exists()


def test_without_the_admin_there_is_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = apps.is_installed
    monkeypatch.setattr(apps, "is_installed", lambda name: name != "django.contrib.admin" and installed(name))
    everything(User.objects.create_user("pat"))
    assert not LogEntry.objects.exists()


def test_a_hub_is_created_once() -> None:
    hub = administration.ensure_hub("Chat")
    assert administration.ensure_hub("CHAT") == hub
    with pytest.raises(administration.AlreadyThere):
        administration.create_hub("chat", {})
    with pytest.raises(Hub.DoesNotExist):
        administration.change_hub("other", {})


def test_a_hub_that_somebody_makes_at_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub.objects.create(name="chat")
    monkeypatch.setattr(administration, "find_hub", lambda name: None)
    assert administration.ensure_hub("chat") == hub


def test_the_service_needs_keys_before_one_can_be_replaced() -> None:
    with pytest.raises(administration.NoKeys):
        administration.regenerate_key(None, "primary")
    with pytest.raises(administration.NoKeys):
        administration.show_keys(None)
    made = administration.make_keys(None)
    assert administration.make_keys(None) == made == administration.show_keys(None)


def test_replacing_one_key_leaves_the_other() -> None:
    old = [key.text for key in administration.make_keys(None)]
    new = [key.text for key in administration.regenerate_key(None, "secondary")]
    assert new[0] == old[0]
    assert new[1] != old[1]


def test_a_missing_key_of_a_hub_is_made_and_the_other_one_left() -> None:
    hub = Hub.objects.create(name="chat")
    primary, secondary = administration.make_keys(hub)
    secondary.delete()
    assert not administration.has_key(hub, "secondary")
    assert administration.regenerate_key(hub, "secondary")[0].text == primary.text
    assert administration.has_key(hub, "secondary")


def test_taking_keys_away_is_told_to_other_processes() -> None:
    hub = Hub.objects.create(name="chat")
    administration.make_keys(hub)
    before = SettingsVersion.read()
    administration.remove_keys(hub)
    assert SettingsVersion.read() > before
    assert not AccessKey.objects.exists()


def test_names_that_are_unknown_are_all_told_and_nothing_is_saved() -> None:
    named: dict[str, str | None] = {"user": "x", "group": "y", "hub": "z"}
    with pytest.raises(ValidationError) as refused:
        administration.save_role_grant(RoleGrant(), named, {"who": "user", "role": "sendToGroup"})
    assert set(refused.value.message_dict) == {"user", "group", "hub"}
    assert not RoleGrant.objects.exists()
