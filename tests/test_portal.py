"""The Client URL Generator: who may use it, what it makes, what it says to bad input."""

from __future__ import annotations

import html
import re
import time
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client, override_settings

from hubs import hub_settings
from hubs.models import AccessKey, Hub
from hubs.rules import tokens
from hubs.rules.roles import Permissions

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fresh_settings")]

PAGE = "/admin/client-url/"


@pytest.fixture
def staff(client: Client) -> Client:
    """Somebody of the staff who may do this and nothing else."""
    user = User.objects.create_user("pat", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="change_accesskey"))
    client.force_login(user)
    return client


def generate(client: Client, **fields: Any) -> Any:
    return client.post(PAGE, {"hub": "chat", "minutes": "60", **fields})


def text_of(response: Any, element: str) -> str:
    found = re.search(rf'id="{element}">([^<]*)<', response.content.decode())
    assert found, f"no #{element} on the page"
    return html.unescape(found.group(1))


def claims_of(response: Any, keys: list[AccessKey], hub: str = "chat") -> tokens.Claims:
    token = text_of(response, "token")
    assert text_of(response, "client-url") == f"{text_of(response, 'base-url')}?access_token={token}"
    audiences = tokens.client_audiences(["http://localhost:8080"], hub)
    return tokens.verify(token, [keys[0].text], audiences, now=time.time(), skew=5)


def errors_of(response: Any) -> dict[str, list[str]]:
    assert response.status_code == 200
    assert 'id="client-url"' not in response.content.decode()
    return dict(response.context["form"].errors)


def test_who_is_not_staff_is_asked_to_sign_in(client: Client) -> None:
    assert client.get(PAGE).headers["Location"].startswith("/admin/login/")
    client.force_login(User.objects.create_user("guest"))
    assert client.get(PAGE).headers["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("method", ["get", "post"])
def test_staff_needs_the_permission_to_change_keys(client: Client, method: str) -> None:
    user = User.objects.create_user("pat", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_accesskey"))
    client.force_login(user)
    assert getattr(client, method)(PAGE).status_code == 403
    assert PAGE not in client.get("/admin/").content.decode()  # nor does the menu lead there


def test_a_post_without_csrf_token_is_refused(keys: list[AccessKey]) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root"))
    assert generate(client).status_code == 403


def test_the_form_starts_with_sensible_values(staff: Client, keys: list[AccessKey]) -> None:
    Hub.objects.create(name="warehouse")
    page = staff.get(PAGE).content.decode()
    assert 'value="chat"' in page
    assert 'value="60"' in page
    assert '<option value="warehouse">' in page
    assert "access_token" not in page
    assert PAGE in page  # the menu


def test_everything_filled_in(staff: Client, keys: list[AccessKey]) -> None:
    response = generate(
        staff,
        hub="Stream",
        user_id="ann@example.com",
        send="on",
        send_groups="lobby, room.*\r\nlobby\r\n\\*star",
        join="on",
        groups="lobby\nnews",
        minutes="120",
    )
    claims = claims_of(response, keys, "stream")
    assert claims["sub"] == "ann@example.com"
    assert claims["role"] == [
        "webpubsub.sendToGroup.lobby",
        "webpubsub.sendToGroups.room.*",
        "webpubsub.sendToGroup.*star",
        "webpubsub.joinLeaveGroup",
    ]
    assert claims["webpubsub.group"] == ["lobby", "news"]
    assert claims["exp"] - claims["iat"] == 7200
    permissions = Permissions(claims["role"])
    assert [permissions.may_send(group) for group in ("lobby", "room.1", "room.1.2", "*star", "other")] == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert permissions.may_join_or_leave("anything")
    assert "ann@example.com" in text_of(response, "claims")
    assert "no-store" in response.headers["Cache-Control"]


def test_only_a_hub(staff: Client, keys: list[AccessKey]) -> None:
    claims = claims_of(generate(staff), keys)
    assert set(claims) == {"aud", "iat", "exp"}


def test_it_is_logged_without_the_token(staff: Client, keys: list[AccessKey]) -> None:
    response = generate(staff, user_id="ann", send="on")
    entry = LogEntry.objects.get()
    assert str(entry.user) == "pat"
    assert entry.object_repr == "client URL of hub chat for user ann"
    assert entry.change_message == "Roles: webpubsub.sendToGroup. Minutes: 60."
    token = text_of(response, "token")
    assert not any(token in str(value) for value in vars(entry).values())
    assert staff.get("/admin/").status_code == 200  # the start page lists recent actions


def test_markup_in_a_user_id_stays_text(staff: Client, keys: list[AccessKey]) -> None:
    page = generate(staff, user_id="<script>alert(1)</script>").content.decode()
    assert "<script>alert(1)" not in page


PATTERN_OF_SIX_STARS = "a*b*c*d*e*f*"
BAD: list[tuple[str, dict[str, str], str]] = [
    ("hub", {"hub": ""}, "required"),
    ("hub", {"hub": "7up"}, "start with a letter"),
    ("hub", {"hub": "a b"}, "start with a letter"),
    ("hub", {"hub": "h" * 129}, "at most 128"),
    ("minutes", {"minutes": ""}, "required"),
    ("minutes", {"minutes": "0"}, "greater than or equal to 1"),
    ("minutes", {"minutes": "525601"}, "less than or equal to 525600"),
    ("minutes", {"minutes": "an hour"}, "whole number"),
    ("minutes", {"minutes": "1" * 5000}, "whole number"),
    ("user_id", {"user_id": "u" * 1025}, "at most 1,024"),
    ("user_id", {"user_id": "a\x00b"}, "Null characters"),
    ("groups", {"groups": f"fine, {'g' * 1025}"}, "Not a group name"),
    ("groups", {"groups": "g" * 100_001}, "at most 100000"),
    ("send_groups", {"send": "on", "send_groups": "g" * 1025}, "at most 1,024"),
    ("send_groups", {"send": "on", "send_groups": f"{'g' * 1024}*"}, "at most 1,024"),
    ("send_groups", {"send": "on", "send_groups": PATTERN_OF_SIX_STARS}, "5 stars"),
    ("send_groups", {"send": "on", "send_groups": "back\\slash"}, "backslash only before"),
    ("join_groups", {"join": "on", "join_groups": ",".join(f"p{n}*" for n in range(10))}, "At most 9 patterns"),
    ("join_groups", {"join": "on", "join_groups": ",".join(f"p{n}" for n in range(1001))}, "At most 1,000 groups"),
    ("send_groups", {"send_groups": "lobby"}, "Switch on “Send To Groups”"),
    ("join_groups", {"join_groups": "lobby"}, "Switch on “Join/Leave Groups”"),
    ("__all__", {"groups": ",".join(f"group-number-{n}" for n in range(4000))}, "Name fewer groups"),
]


@pytest.mark.parametrize(("field", "fields", "words"), BAD)
def test_bad_input_is_explained_at_its_field(
    staff: Client, keys: list[AccessKey], field: str, fields: dict[str, str], words: str
) -> None:
    errors = errors_of(generate(staff, **fields))
    assert list(errors) == [field]
    assert words in " ".join(errors[field])
    assert not LogEntry.objects.exists()


def test_without_keys_the_page_says_where_to_get_them(staff: Client) -> None:
    assert "no access keys" in errors_of(generate(staff))["__all__"][0]


def test_keys_that_cannot_be_read_are_explained(staff: Client, keys: list[AccessKey]) -> None:
    with override_settings(SECRET_KEY="another one", SECRET_KEY_FALLBACKS=[]):
        hub_settings.drop()
        user = User.objects.get(username="pat")
        staff.force_login(user)
        assert "SECRET_KEY_FALLBACKS" in errors_of(generate(staff))["__all__"][0]


def test_only_known_hubs_where_the_service_asks_for_it(staff: Client, keys: list[AccessKey]) -> None:
    with override_settings(WEBPUBSUB={"REQUIRE_KNOWN_HUBS": True}):
        assert "no such hub" in errors_of(generate(staff, hub="unknown"))["hub"][0]


def test_a_long_url_is_warned_about(staff: Client, keys: list[AccessKey]) -> None:
    response = generate(staff, groups=",".join(f"group-number-{n}" for n in range(600)))
    assert len(claims_of(response, keys)["webpubsub.group"]) == 600
    assert "a pattern instead of many group names" in response.content.decode()


def test_after_signing_in_comes_what_was_asked_for_or_the_admins_index(client: Client) -> None:
    User.objects.create_superuser("ada", password="right")
    form = {"username": "ada", "password": "right"}
    assert client.post("/admin/login/", form)["Location"] == "/admin/"
    assert client.post("/admin/login/", form | {"next": "/admin/hubs/hub/"})["Location"] == "/admin/hubs/hub/"
    assert client.post("/admin/login/", form | {"next": "https://elsewhere.example/"})["Location"] == "/admin/"
