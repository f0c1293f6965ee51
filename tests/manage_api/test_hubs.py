"""Hubs through the management API: what is set, what is logged, what negotiate and clients then see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.auth.models import User

from hubs import administration, hub_settings
from hubs.models import AccessKey, Hub, RoleGrant

from .conftest import ENDPOINT, Caller, problem

pytestmark = pytest.mark.django_db

ALLOW, DENY = "allow", "deny"


def properties(**given: str) -> dict[str, Any]:
    return {"properties": given}


def test_a_hub_has_azures_shape(root: Caller) -> None:
    response = root("PUT", "/hubs/Chat", properties(anonymousConnectPolicy=ALLOW))
    assert response.status_code == 201
    shown = response.json()
    assert shown == {
        "name": "chat",
        "systemData": shown["systemData"],
        "properties": {
            "anonymousConnectPolicy": ALLOW,
            "anonymousUserIdPolicy": DENY,
            "eventHandlers": [],
            "eventListeners": [],
        },
        "handlersInCode": [],
    }
    row = Hub.objects.get()
    assert shown["systemData"] == {
        "createdAt": row.created_at.isoformat(),
        "lastModifiedAt": row.updated_at.isoformat(),
    }
    assert root("GET", "/hubs/CHAT").json() == shown


@pytest.mark.parametrize(
    ("method", "given", "connect", "user_ids"),
    [
        ("PUT", {}, DENY, DENY),
        ("PUT", {"anonymousConnectPolicy": DENY}, DENY, DENY),
        ("PUT", {"anonymousUserIdPolicy": ALLOW}, DENY, ALLOW),
        ("PUT", {"anonymousConnectPolicy": ALLOW, "anonymousUserIdPolicy": ALLOW}, ALLOW, ALLOW),
        ("PATCH", {}, ALLOW, DENY),
        ("PATCH", {"anonymousConnectPolicy": DENY}, DENY, DENY),
        ("PATCH", {"anonymousUserIdPolicy": ALLOW}, ALLOW, ALLOW),
        ("PATCH", {"anonymousConnectPolicy": DENY, "anonymousUserIdPolicy": ALLOW}, DENY, ALLOW),
    ],
)
def test_put_replaces_and_patch_changes(
    root: Caller, method: str, given: dict[str, str], connect: str, user_ids: str
) -> None:
    Hub.objects.create(name="chat", anonymous_connect=True)
    response = root(method, "/hubs/chat", properties(**given))
    assert response.status_code == 200
    shown = response.json()["properties"]
    assert (shown["anonymousConnectPolicy"], shown["anonymousUserIdPolicy"]) == (connect, user_ids)
    row = Hub.objects.get()
    assert (row.anonymous_connect, row.anonymous_user_ids) == (connect == ALLOW, user_ids == ALLOW)


@pytest.mark.parametrize("value", ["Allow", "", None, True, 1, ["allow"], {}])
@pytest.mark.parametrize("member", ["anonymousConnectPolicy", "anonymousUserIdPolicy"])
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_policy_is_one_of_two_words(root: Caller, method: str, member: str, value: Any) -> None:
    Hub.objects.create(name="chat", anonymous_connect=True, anonymous_user_ids=True)
    said = problem(root(method, "/hubs/chat", properties(**{member: value})), 400)
    assert said["target"] == f"properties.{member}"
    assert "Write one of: allow, deny." in said["message"]
    assert Hub.objects.filter(anonymous_connect=True, anonymous_user_ids=True).exists()


def test_a_setting_that_is_only_azures_is_refused_with_those_there_are(root: Caller) -> None:
    said = problem(root("PUT", "/hubs/chat", properties(webSocketKeepAliveIntervalInSeconds="x")), 400)
    assert said["message"] == (
        "properties.webSocketKeepAliveIntervalInSeconds is not known here. properties has: anonymousConnectPolicy, "
        "anonymousUserIdPolicy, eventHandlers, eventListeners."
    )
    assert not Hub.objects.exists()


def test_creating_and_changing_are_two_permissions(account: Callable[..., User]) -> None:
    adding, changing = Caller(account("add_hub")), Caller(account("change_hub"))
    assert "hubs.add_hub" in problem(changing("PUT", "/hubs/chat", properties()), 403)["message"]
    assert adding("PUT", "/hubs/chat", properties()).status_code == 201
    assert "hubs.change_hub" in problem(adding("PUT", "/hubs/chat", properties()), 403)["message"]
    assert changing("PUT", "/hubs/chat", properties()).status_code == 200


def test_a_hub_created_by_somebody_else_at_the_same_moment_is_changed(
    root: Caller, account: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub.objects.create(name="chat")
    there = administration.find_hub
    monkeypatch.setattr(administration, "find_hub", lambda name: None)
    response = root("PUT", "/hubs/chat", properties(anonymousConnectPolicy=ALLOW))
    assert (response.status_code, response.json()["properties"]["anonymousConnectPolicy"]) == (200, ALLOW)
    problem(Caller(account("add_hub"))("PUT", "/hubs/chat", properties()), 403)
    monkeypatch.setattr(administration, "find_hub", there)
    assert root("GET", "/hubs/chat").json()["properties"]["anonymousConnectPolicy"] == ALLOW


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_hub_deleted_by_somebody_else_at_the_same_moment(
    root: Caller, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(administration, "find_hub", lambda name: Hub(name=name))
    problem(root(method, "/hubs/chat", properties()), 404, "Error.Hub.NotExisted")
    assert not Hub.objects.exists()


def test_deleting_takes_keys_and_grants_along_for_those_who_may_delete_them(account: Callable[..., User]) -> None:
    hub = Hub.objects.create(name="chat")
    grant = RoleGrant.objects.create(hub=hub, who="anonymous", role="sendToGroup")
    bare, with_keys = Caller(account("delete_hub")), Caller(account("delete_hub", "delete_accesskey"))
    assert "hubs.delete_rolegrant" in problem(bare("DELETE", "/hubs/chat"), 403)["message"]
    AccessKey.objects.ensure_pair(hub)
    assert "hubs.delete_accesskey" in problem(bare("DELETE", "/hubs/chat"), 403)["message"]
    assert "hubs.delete_rolegrant" in problem(with_keys("DELETE", "/hubs/chat"), 403)["message"]
    grant.delete()
    assert with_keys("DELETE", "/hubs/chat").status_code == 204
    assert not Hub.objects.exists()
    assert not AccessKey.objects.exists()


def test_what_is_done_is_logged_as_on_the_admins_pages(root: Caller) -> None:
    root("PUT", "/hubs/chat", properties())
    root("PATCH", "/hubs/chat", properties(anonymousConnectPolicy=ALLOW))
    root("DELETE", "/hubs/chat")
    root("DELETE", "/hubs/chat")
    root("GET", "/hubs")
    entries = LogEntry.objects.order_by("pk")
    assert [(entry.action_flag, entry.object_repr, entry.change_message) for entry in entries] == [
        (ADDITION, "chat", "Added."),
        (CHANGE, "chat", "Changed anonymous_connect."),
        (DELETION, "chat", "Deleted."),
    ]
    assert {str(entry.user) for entry in entries} == {"root"}


def test_nothing_changes_when_it_cannot_be_logged(root: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("the secret detail")

    monkeypatch.setattr(LogEntry.objects, "log_actions", broken)
    root.client.raise_request_exception = False
    said = problem(root("PUT", "/hubs/chat", properties()), 500, "Error.InternalServerError")
    assert "secret" not in said["message"]
    assert not Hub.objects.exists()


# Listings


def pages(caller: Caller, path: str) -> list[list[str]]:
    """Follow the links to the end."""
    found = []
    while path:
        response = caller("GET", path)
        assert response.status_code == 200
        body = response.json()
        found.append([item["name"] for item in body["value"]])
        link = body.get("nextLink", "")
        assert not link or link.startswith(f"{ENDPOINT}/manage/api/")
        assert "api-version" not in link
        path = link.removeprefix(ENDPOINT)
    return found


@pytest.mark.parametrize(
    ("query", "sizes"),
    [
        ("", [7]),
        ("?maxpagesize=3", [3, 3, 1]),
        ("?maxpagesize=3&top=4", [3, 1]),
        ("?maxpagesize=7", [7]),
        ("?top=2", [2]),
    ],
)
def test_hubs_come_in_pages(root: Caller, query: str, sizes: list[int]) -> None:
    for number in (3, 1, 6, 0, 5, 2, 4):
        Hub.objects.create(name=f"hub{number}")
    found = pages(root, f"/hubs{query}")
    assert [len(page) for page in found] == sizes
    assert [name for page in found for name in page] == [f"hub{number}" for number in range(sum(sizes))]


def test_an_empty_listing_is_a_page(root: Caller) -> None:
    assert root("GET", "/hubs").json() == {"value": []}
    assert root("GET", "/roleGrants").json() == {"value": []}


def test_200_items_are_the_most_on_a_page(root: Caller) -> None:
    Hub.objects.bulk_create(Hub(name=f"hub{number:03}") for number in range(201))
    assert [len(page) for page in pages(root, "/hubs")] == [200, 1]


def test_hubs_that_come_and_go_between_pages_hide_none_and_repeat_none(root: Caller) -> None:
    for name in ("b", "d", "f", "h"):
        Hub.objects.create(name=name)
    first = root("GET", "/hubs?maxpagesize=2").json()
    Hub.objects.filter(name="b").delete()
    Hub.objects.filter(name="d").delete()
    Hub.objects.create(name="a")
    assert [hub["name"] for hub in root("GET", first["nextLink"].removeprefix(ENDPOINT)).json()["value"]] == ["f", "h"]


def test_a_token_is_good_for_its_own_listing_alone(root: Caller) -> None:
    for name in ("a", "b"):
        hub = Hub.objects.create(name=name)
        for _ in range(2):
            RoleGrant.objects.create(hub=hub, who="anonymous", role="sendToGroup")
    link = urlsplit(root("GET", "/hubs/a/roleGrants?maxpagesize=1").json()["nextLink"])
    assert link.path == "/manage/api/hubs/a/roleGrants"
    assert root("GET", f"{link.path}?{link.query}").status_code == 200
    for path in ("/hubs", "/roleGrants", "/hubs/b/roleGrants"):
        assert problem(root("GET", f"{path}?{link.query}"), 400)["target"] == "continuationToken"


# In force


def test_a_change_is_what_clients_meet(root: Caller, django_capture_on_commit_callbacks: Any) -> None:
    assert not hub_settings.current().hub("chat").known
    with django_capture_on_commit_callbacks(execute=True):
        root("PUT", "/hubs/chat", properties(anonymousConnectPolicy=ALLOW))
    assert hub_settings.current().hub("chat").anonymous_connect
    with django_capture_on_commit_callbacks(execute=True):
        root("DELETE", "/hubs/chat")
    assert not hub_settings.current().hub("chat").known


def test_handlers_in_code_are_shown_and_cannot_be_set(root: Caller) -> None:
    """The moderator of the demos is a function in code."""
    created = root("PUT", "/hubs/moderated", properties())
    shown = [
        {"function": "hubs.demos.moderation.come_in", "systemEvents": ["connect"], "userEventPattern": ""},
        {"function": "hubs.demos.moderation.say", "systemEvents": [], "userEventPattern": "say"},
    ]
    assert created.json()["handlersInCode"] == shown
    assert root("GET", "/hubs/moderated").json()["handlersInCode"] == shown
    assert [hub["handlersInCode"] for hub in root("GET", "/hubs").json()["value"]] == [shown]
    refused = root("PATCH", "/hubs/moderated", {**properties(), "handlersInCode": []})
    assert refused.status_code == 400
    # What was read of the properties can be written back.
    assert root("PUT", "/hubs/moderated", {"properties": created.json()["properties"]}).status_code == 200
