"""Access keys through the management API."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import override_settings

from hubs import hub_settings
from hubs.models import AccessKey, Hub

from .conftest import ENDPOINT, Caller, problem

pytestmark = pytest.mark.django_db

PRIMARY, SECONDARY = {"keyType": "Primary"}, {"keyType": "Secondary"}


@pytest.fixture
def pair(keys: list[AccessKey]) -> tuple[str, str]:
    """The service's primary and secondary key."""
    return keys[0].text, keys[1].text


def logged() -> list[tuple[str, str]]:
    return [(entry.object_repr, entry.change_message) for entry in LogEntry.objects.order_by("pk")]


def as_azure(primary: str, secondary: str) -> dict[str, str]:
    return {
        "primaryKey": primary,
        "primaryConnectionString": f"Endpoint={ENDPOINT};AccessKey={primary};Version=1.0;",
        "secondaryKey": secondary,
        "secondaryConnectionString": f"Endpoint={ENDPOINT};AccessKey={secondary};Version=1.0;",
    }


def test_the_services_keys(root: Caller, pair: tuple[str, str]) -> None:
    response = root("POST", "/listKeys")
    assert response.status_code == 200
    assert response.json() == as_azure(*pair)


def test_the_keys_of_one_hub(root: Caller, pair: tuple[str, str]) -> None:
    own = AccessKey.objects.ensure_pair(Hub.objects.create(name="chat"))
    assert root("POST", "/hubs/Chat/listKeys").json() == as_azure(own[0].text, own[1].text)


@pytest.mark.parametrize(("body", "slot", "other"), [(PRIMARY, "primary", 1), (SECONDARY, "secondary", 0)])
def test_one_key_is_replaced(root: Caller, pair: tuple[str, str], body: Any, slot: str, other: int) -> None:
    shown = root("POST", "/regenerateKey", body).json()
    fresh = AccessKey.objects.get(slot=slot).text
    assert fresh not in pair
    expected = [fresh, fresh]
    expected[other] = pair[other]
    assert shown == as_azure(*expected)


def test_a_replaced_key_is_in_force(
    root: Caller, pair: tuple[str, str], django_capture_on_commit_callbacks: Any
) -> None:
    assert hub_settings.current().service_keys == pair
    with django_capture_on_commit_callbacks(execute=True):
        shown = root("POST", "/regenerateKey", PRIMARY).json()
    assert hub_settings.current().service_keys == (shown["primaryKey"], pair[1])


@pytest.mark.parametrize("value", ["primary", "Salt", "", None, 1])
def test_there_are_two_key_types(root: Caller, pair: tuple[str, str], value: Any) -> None:
    said = problem(root("POST", "/regenerateKey", {"keyType": value}), 400)
    assert said["target"] == "keyType"
    assert "Primary, Secondary" in said["message"]
    assert {key.text for key in AccessKey.objects.all()} == set(pair)


def test_a_hub_gets_a_pair_of_its_own(root: Caller, pair: tuple[str, str]) -> None:
    Hub.objects.create(name="chat")
    said = problem(root("POST", "/hubs/chat/listKeys"), 404, "Error.Key.NotExisted")
    assert "regenerateKey" in said["message"]
    made = root("POST", "/hubs/chat/regenerateKey", PRIMARY).json()
    assert len({*made.values()}) == 4
    assert not {*made.values()} & {*pair}
    assert root("POST", "/hubs/chat/listKeys").json() == made
    again = root("POST", "/hubs/chat/regenerateKey", PRIMARY).json()
    assert again["primaryKey"] != made["primaryKey"]
    assert again["secondaryKey"] == made["secondaryKey"]


def test_making_a_pair_needs_the_permission_to_add_keys(account: Callable[..., User]) -> None:
    Hub.objects.create(name="chat")
    said = problem(Caller(account("change_accesskey"))("POST", "/hubs/chat/regenerateKey", PRIMARY), 403)
    assert "hubs.add_accesskey" in said["message"]
    assert not AccessKey.objects.exists()
    adding = Caller(account("change_accesskey", "add_accesskey"))
    assert adding("POST", "/hubs/chat/regenerateKey", PRIMARY).status_code == 200
    assert AccessKey.objects.count() == 2


def test_a_service_without_keys_says_how_to_get_them(root: Caller) -> None:
    for call in (("POST", "/listKeys"), ("POST", "/regenerateKey", PRIMARY)):
        said = problem(root(*call), 404, "Error.Key.NotExisted")
        assert "manage.py bootstrap" in said["message"]
    assert not AccessKey.objects.exists()
    assert logged() == []


def test_one_key_of_two(root: Caller, pair: tuple[str, str]) -> None:
    AccessKey.objects.filter(slot="secondary").delete()
    shown = root("POST", "/listKeys").json()
    assert (shown["primaryKey"], shown["secondaryKey"], shown["secondaryConnectionString"]) == (pair[0], None, None)


def test_keys_of_a_hub_are_taken_away_together(root: Caller, keys: list[AccessKey]) -> None:
    own = [key.text for key in AccessKey.objects.ensure_pair(Hub.objects.create(name="chat"))]
    assert len(own) == 2
    for _ in range(2):
        assert root("DELETE", "/hubs/chat/keys").status_code == 204
        assert set(AccessKey.objects.all()) == set(keys)
    assert logged() == [("primary key of hub chat", "Deleted."), ("secondary key of hub chat", "Deleted.")]


def test_the_services_keys_cannot_be_taken_away(root: Caller, keys: list[AccessKey]) -> None:
    assert root("DELETE", "/keys").status_code == 404
    assert AccessKey.objects.count() == 2


def test_a_key_that_cannot_be_read(root: Caller, pair: tuple[str, str]) -> None:
    with override_settings(SECRET_KEY="another one", SECRET_KEY_FALLBACKS=[]):
        said = problem(root("POST", "/listKeys"), 409, "Error.Key.Unreadable")
        assert "SECRET_KEY_FALLBACKS" in said["message"]
        assert logged() == []
        # Replacing one helps, although the other one cannot be read either.
        shown = root("POST", "/regenerateKey", PRIMARY).json()
        assert shown["primaryKey"] == AccessKey.objects.get(slot="primary").text
        assert shown["secondaryKey"] is None
        problem(root("POST", "/listKeys"), 409)
        root("POST", "/regenerateKey", SECONDARY)
        assert root("POST", "/listKeys").status_code == 200


def test_the_command_line_replaces_one_of_two_unreadable_keys_too(pair: tuple[str, str], capsys: Any) -> None:
    with override_settings(SECRET_KEY="another one", SECRET_KEY_FALLBACKS=[]):
        call_command("webpubsub", "key", "regenerate", "--key", "primary", "--output", "json")
        assert AccessKey.objects.get(slot="primary").text in capsys.readouterr().out


def test_showing_and_replacing_are_logged_without_the_key(
    root: Caller, pair: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        root("POST", "/listKeys")
        shown = root("POST", "/regenerateKey", PRIMARY).json()
    primary, secondary = "primary key of the service", "secondary key of the service"
    assert logged() == [
        (primary, "Revealed the key."),
        (secondary, "Revealed the key."),
        (primary, "Regenerated the key."),
        (primary, "Revealed the key."),
        (secondary, "Revealed the key."),
    ]
    kept = caplog.text + " ".join(str(value) for entry in LogEntry.objects.all() for value in vars(entry).values())
    assert not any(key in kept for key in (*pair, *shown.values()))
