"""Role grants through the management API."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.test import Client
from jsonschema import Draft202012Validator

from hubs import resources
from hubs.models import AccessKey, Hub, RoleGrant
from hubs.rules import roles
from tests.openapi import Contract

from .conftest import ENDPOINT, HOST, Caller, problem
from .test_matrix import CONTRACT

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _people() -> None:
    User.objects.create_user("ann")
    Group.objects.create(name="Editors of news")
    Hub.objects.create(name="chat")


def grant(**properties: Any) -> dict[str, Any]:
    return {"properties": properties}


EVERYTHING: dict[str, Any] = {
    "hub": None,
    "user": None,
    "group": None,
    "groupPattern": "",
    "joinAtConnect": False,
}

GOOD: list[dict[str, Any]] = [
    {"who": "anonymous", "role": "sendToGroup"},
    {"who": "authenticated", "role": "joinLeaveGroup", "hub": "CHAT", "groupPattern": "room.*"},
    {"who": "user", "user": "ann", "role": "sendToGroup", "group": None, "hub": None},
    {
        "who": "group",
        "group": "Editors of news",
        "role": "joinLeaveGroup",
        "groupPattern": "news",
        "joinAtConnect": True,
    },
    {"who": "anonymous", "role": "joinLeaveGroup", "groupPattern": "a\\*b", "joinAtConnect": True},
    {"who": "anonymous", "role": "sendToGroup", "groupPattern": "*****"},
    {"who": "anonymous", "role": "sendToGroup", "groupPattern": "g" * 1024},
    {"who": "anonymous", "role": "sendToGroup", "groupPattern": "ünï\n\\?"},
]


@pytest.mark.parametrize("given", GOOD, ids=str)
def test_a_grant_is_made_shown_and_listed(root: Caller, given: dict[str, Any]) -> None:
    response = root("POST", "/roleGrants", {"properties": given})
    assert response.status_code == 201, response.content
    row = RoleGrant.objects.get()
    expected = {**EVERYTHING, **given}
    if expected["hub"]:
        expected["hub"] = "chat"
    shown = {"name": str(row.pk), "properties": expected}
    assert response.json() == shown
    assert response["Location"] == f"{ENDPOINT}/manage/api/roleGrants/{row.pk}"
    assert root("GET", response["Location"].removeprefix(ENDPOINT)).json() == shown
    assert root("GET", "/roleGrants").json() == {"value": [shown]}
    assert root("GET", "/hubs/chat/roleGrants").json() == {"value": [shown] if expected["hub"] else []}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"role": "sendToGroup"}, "who", "is missing"),
    ({"who": "anonymous"}, "role", "is missing"),
    ({"who": "everybody", "role": "sendToGroup"}, "who", "group, user"),
    ({"who": "anonymous", "role": "send"}, "role", "joinLeaveGroup, sendToGroup"),
    ({"who": "user", "role": "sendToGroup"}, "user", "Choose the user"),
    ({"who": "user", "user": "bob", "role": "sendToGroup"}, "user", "There is no user"),
    ({"who": "user", "user": "", "role": "sendToGroup"}, "user", "1 to 150 characters"),
    ({"who": "user", "user": "a" * 151, "role": "sendToGroup"}, "user", "150"),
    ({"who": "user", "user": "a\x00", "role": "sendToGroup"}, "user", "1 to 150 characters"),
    ({"who": "user", "user": 1, "role": "sendToGroup"}, "user", "got `int`"),
    ({"who": "group", "role": "sendToGroup"}, "group", "Choose the group"),
    ({"who": "group", "group": "none", "role": "sendToGroup"}, "group", "There is no Django group"),
    ({"who": "anonymous", "user": "ann", "role": "sendToGroup"}, "user", "Leave this empty"),
    ({"who": "user", "user": "ann", "group": "Editors of news", "role": "sendToGroup"}, "group", "Leave this empty"),
    ({"who": "anonymous", "role": "sendToGroup", "hub": "nowhere"}, "hub", "Create it first"),
    ({"who": "anonymous", "role": "sendToGroup", "hub": "7up"}, "hub", "a letter"),
    ({"who": "anonymous", "role": "sendToGroup", "hub": "chat\n"}, "hub", "no hub of that name"),
    ({"who": "anonymous", "role": "sendToGroup", "groupPattern": None}, "groupPattern", "got `null`"),
    ({"who": "anonymous", "role": "sendToGroup", "groupPattern": "a\\"}, "groupPattern", "backslash only before"),
    ({"who": "anonymous", "role": "sendToGroup", "groupPattern": "******"}, "groupPattern", "5 stars"),
    ({"who": "anonymous", "role": "sendToGroup", "groupPattern": "g" * 1025}, "groupPattern", "1024"),
    ({"who": "anonymous", "role": "sendToGroup", "groupPattern": "a\x00b"}, "groupPattern", "A group pattern"),
    ({"who": "anonymous", "role": "sendToGroup", "groupPattern": "  "}, "groupPattern", "Not a pattern"),
    ({"who": "anonymous", "role": "sendToGroup", "joinAtConnect": "yes"}, "joinAtConnect", "got `str`"),
    ({"who": "anonymous", "role": "joinLeaveGroup", "joinAtConnect": True}, "joinAtConnect", "one group"),
    (
        {"who": "anonymous", "role": "joinLeaveGroup", "joinAtConnect": True, "groupPattern": "a*"},
        "joinAtConnect",
        "one group",
    ),
    (
        {"who": "anonymous", "role": "sendToGroup", "joinAtConnect": True, "groupPattern": "a"},
        "joinAtConnect",
        "Join and leave",
    ),
]


# A change need not name everything.
BAD_ANYWHERE = [
    (method, *bad) for method in ("POST", "PUT", "PATCH") for bad in BAD if method != "PATCH" or "missing" not in bad[2]
]


@pytest.mark.parametrize(("method", "given", "member", "words"), BAD_ANYWHERE, ids=str)
def test_a_grant_that_cannot_be(root: Caller, method: str, given: dict[str, Any], member: str, words: str) -> None:
    row = RoleGrant.objects.create(who="anonymous", role="sendToGroup")
    before = RoleGrant.objects.values().get()
    path = "/roleGrants" if method == "POST" else f"/roleGrants/{row.pk}"
    said = problem(root(method, path, {"properties": given}), 400, "Error.BadRequest")
    assert said["target"] == f"properties.{member}"
    assert words in said["message"]
    assert RoleGrant.objects.values().get() == before


def test_all_that_is_wrong_is_said_at_once(root: Caller) -> None:
    said = problem(root("POST", "/roleGrants", grant(who="user", role="sendToGroup", joinAtConnect=True)), 400)
    assert "properties.user: Choose the user" in said["message"]
    assert "properties.joinAtConnect: Give the name" in said["message"]


@pytest.mark.parametrize("given", GOOD, ids=str)
def test_put_replaces_everything(root: Caller, given: dict[str, Any]) -> None:
    row = RoleGrant.objects.create(
        who="user",
        user=User.objects.get(username="ann"),
        role="joinLeaveGroup",
        hub=Hub.objects.get(),
        group_pattern="old",
        join_at_connect=True,
    )
    response = root("PUT", f"/roleGrants/{row.pk}", {"properties": given})
    assert response.status_code == 200
    expected = {**EVERYTHING, **given}
    assert response.json()["properties"] == expected | {"hub": expected["hub"] and "chat"}
    assert RoleGrant.objects.get().pk == row.pk


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"role": "joinLeaveGroup"},
        {"hub": None},
        {"hub": "chat"},
        {"groupPattern": "news", "role": "joinLeaveGroup", "joinAtConnect": True},
        {"who": "anonymous", "user": None},
        {"who": "group", "group": "Editors of news", "user": None},
    ],
    ids=str,
)
def test_patch_changes_what_is_named_and_no_more(root: Caller, changes: dict[str, Any]) -> None:
    before = {**EVERYTHING, "who": "user", "user": "ann", "role": "sendToGroup", "hub": "chat", "groupPattern": "r.*"}
    name = root("POST", "/roleGrants", {"properties": before}).json()["name"]
    response = root("PATCH", f"/roleGrants/{name}", {"properties": changes})
    assert response.status_code == 200
    assert response.json() == {"name": name, "properties": before | changes}
    assert root("GET", f"/roleGrants/{name}").json() == response.json()


def test_a_change_is_judged_together_with_what_is_there(root: Caller) -> None:
    name = root("POST", "/roleGrants", grant(who="user", user="ann", role="sendToGroup")).json()["name"]
    said = problem(root("PATCH", f"/roleGrants/{name}", grant(who="anonymous")), 400)
    assert said["target"] == "properties.user"


def test_grants_come_in_the_order_they_were_made(root: Caller) -> None:
    made = [root("POST", "/roleGrants", {"properties": given}).json()["name"] for given in GOOD]
    shown = [item["name"] for item in root("GET", "/roleGrants").json()["value"]]
    assert shown == made == sorted(made, key=int)


def test_what_is_done_is_logged(root: Caller) -> None:
    name = root("POST", "/roleGrants", grant(who="anonymous", role="sendToGroup")).json()["name"]
    root("PATCH", f"/roleGrants/{name}", grant(groupPattern="a", hub="chat"))
    root("PATCH", f"/roleGrants/{name}", grant())
    root("DELETE", f"/roleGrants/{name}")
    assert [entry.change_message for entry in LogEntry.objects.order_by("pk")] == [
        "Added.",
        "Changed group_pattern, hub.",
        "Changed nothing.",
        "Deleted.",
    ]


def test_negotiate_follows(root: Caller) -> None:
    negotiate = Client(headers={"host": HOST})
    AccessKey.objects.ensure_pair()
    assert roles_of(negotiate) == []
    name = root("POST", "/roleGrants", grant(who="anonymous", role="sendToGroup", hub="chat")).json()["name"]
    assert roles_of(negotiate) == ["webpubsub.sendToGroup"]
    root("PATCH", f"/roleGrants/{name}", grant(groupPattern="room.*"))
    assert roles_of(negotiate) == ["webpubsub.sendToGroups.room.*"]
    root("DELETE", f"/roleGrants/{name}")
    assert roles_of(negotiate) == []


def roles_of(client: Client) -> list[str]:
    token = client.get("/api/negotiate/chat").json()["token"]
    found = jwt.decode(token, options={"verify_signature": False}).get("role", [])
    return [found] if isinstance(found, str) else found


# The words, and the document


def test_the_words_are_the_models() -> None:
    assert set(resources.Who.__args__) == set(RoleGrant.Who.values)  # type: ignore[attr-defined]
    assert set(resources.Role.__args__) == set(RoleGrant.Role.values) == set(roles.PERMISSIONS)  # type: ignore[attr-defined]


def body_schema(contract: Contract) -> Draft202012Validator:
    body = contract.operation("POST", "/manage/api/roleGrants")["requestBody"]
    return contract.validator(body["content"]["application/json"]["schema"])


@pytest.mark.parametrize("given", GOOD, ids=str)
def test_the_document_takes_what_is_good(given: dict[str, Any]) -> None:
    body_schema(CONTRACT).validate({"properties": given})


# What no document can know, because it depends on rows, or would be a riddle to read.
_ONLY_THE_SERVICE_KNOWS = ("There is no", "Create it first", "no hub of that name", "Not a pattern")


@pytest.mark.parametrize("given", [given for given, _, words in BAD if words not in _ONLY_THE_SERVICE_KNOWS], ids=str)
def test_the_document_refuses_what_is_bad(given: dict[str, Any]) -> None:
    known = given.get("user") != "bob" and given.get("group") != "none"
    assert body_schema(CONTRACT).is_valid({"properties": given}) is not known
