"""Every row of the table × everything that can be right or wrong with a request.

What a good request of a row is stands in one table; what is wrong with a request, and what has to be
answered, follows from the row and from its description.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from django.contrib.auth.models import User

from hubs import hub_settings
from hubs.manage_api.bodies import MAX_BODY_BYTES
from hubs.manage_api.description import OPERATIONS
from hubs.manage_api.openapi import management
from hubs.manage_api.table import ROWS, Row
from hubs.models import AccessKey, Hub, RoleGrant, SettingsVersion
from tests.openapi import Contract

from .conftest import Caller, problem

pytestmark = pytest.mark.django_db

HUB = {
    "properties": {
        "anonymousConnectPolicy": "allow",
        "eventHandlers": [{"urlTemplate": "https://a.example/{event}", "auth": {"type": "Bearer", "token": "t0ken"}}],
        "eventListeners": [
            {
                "endpoint": {"type": "RedisStream", "url": "redis://a.example", "stream": "events"},
                "filter": {"type": "EventName", "systemEvents": ["connected"], "userEventPattern": "*"},
            }
        ],
    }
}
GRANT = {"properties": {"who": "anonymous", "role": "sendToGroup", "groupPattern": "room.*", "hub": "chat"}}

BODIES: dict[str, Any] = {
    "NewHub": HUB,
    "HubChanges": HUB,
    "KeyChoice": {"keyType": "Secondary"},
    "NewRoleGrant": GRANT,
    "RoleGrantChanges": GRANT,
}

CONTRACT = Contract(management())


@dataclass(frozen=True)
class Case:
    """One request: `needs` are the permissions its account has."""

    row: Row
    names: tuple[tuple[str, str], ...]
    needs: tuple[str, ...]
    body: Any = None
    status: int = 0

    @property
    def path(self) -> str:
        return self.row.path.format(**dict(self.names))

    def named(self, **names: str) -> Case:
        return replace(self, names=tuple({**dict(self.names), **names}.items()))


def good(row: Row) -> Case:
    operation = OPERATIONS[f"{row.method} {row.path}"].operation
    shape = operation.body.content["application/json"] if operation.body else None
    names = {"hubName": "chat", "roleGrantName": "1"}
    # The last of several: a PUT of a hub that is there changes it.
    return Case(
        row,
        tuple((name, value) for name, value in names.items() if f"{{{name}}}" in row.path),
        row.needs[-1:],
        BODIES[shape.__name__] if isinstance(shape, type) else None,
        row.ok.value,
    )


def name_of(case: Any) -> str:
    row = case.row if isinstance(case, Case) else case
    return f"{row.method} {row.path.removeprefix('/manage/api')}"


CASES = [pytest.param(good(row), id=name_of(row)) for row in ROWS]
WITH_BODY = [case for case in CASES if case.values[0].body is not None]  # type: ignore[attr-defined]
ABOUT_A_HUB = [case for case in CASES if "{hubName}" in case.values[0].row.path]  # type: ignore[attr-defined]
ABOUT_A_GRANT = [case for case in CASES if "{roleGrantName}" in case.values[0].row.path]  # type: ignore[attr-defined]
LISTINGS = [case for case in CASES if case.values[0].row.verb == "listing"]  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def rows() -> dict[str, Any]:
    """What the requests are about: a hub with keys and a grant, and the service's keys."""
    hub = Hub.objects.create(name="chat")
    grant = RoleGrant.objects.create(hub=hub, who="authenticated", role="joinLeaveGroup")
    return {"hub": hub, "grant": grant, "keys": [*AccessKey.objects.ensure_pair(), *AccessKey.objects.ensure_pair(hub)]}


@pytest.fixture
def ask(account: Callable[..., User], rows: dict[str, Any]) -> Callable[..., Any]:
    """Send a case's request as an account with the case's permissions, and hold the answer against the document."""

    def send(case: Case, *, caller: Caller | None = None, **options: Any) -> Any:
        if dict(case.names).get("roleGrantName") == "1":
            case = case.named(roleGrantName=str(rows["grant"].pk))
        query = options.pop("query", "")
        # Who may delete a hub has to be allowed to delete what goes with it, too.
        extra = ("delete_accesskey", "delete_rolegrant") if case.row.needs == ("delete_hub",) else ()
        caller = caller or Caller(account(*case.needs, *extra))
        response = caller(case.row.method, f"{case.path}{query}", case.body, **options)
        CONTRACT.check(case.row.method, case.row.path, response)
        return response

    return send


def everything() -> list[Any]:
    return [
        list(Hub.objects.values("name", "anonymous_connect", "anonymous_user_ids")),
        list(AccessKey.objects.values("pk", "encrypted")),
        list(RoleGrant.objects.values()),
        SettingsVersion.read(),
    ]


def test_there_is_a_row_for_each_description_and_the_other_way_round() -> None:
    assert {f"{row.method} {row.path}" for row in ROWS} == set(OPERATIONS)


@pytest.mark.parametrize("case", CASES)
def test_good(ask: Callable[..., Any], case: Case) -> None:
    response = ask(case)
    assert response.status_code == case.status, response.content
    assert response["Cache-Control"] == "no-store"
    if case.status == 204:
        assert response.content == b""


@pytest.mark.parametrize("case", CASES)
def test_each_permission_named_by_the_row_is_enough(ask: Callable[..., Any], case: Case) -> None:
    if case.row.verb == "create_or_replace":
        assert ask(replace(case, needs=("add_hub",)).named(hubName="fresh")).status_code == 201
        assert ask(replace(case, needs=("change_hub",))).status_code == 200
        return
    for permission in case.row.needs:
        assert ask(replace(case, needs=(permission,))).status_code == case.status


@pytest.mark.parametrize("case", CASES)
def test_no_account(ask: Callable[..., Any], case: Case) -> None:
    before = everything()
    response = ask(case, caller=Caller(None))
    problem(response, 401, "Error.Unauthorized")
    assert response["WWW-Authenticate"] == "Token"
    assert everything() == before


@pytest.mark.parametrize("case", CASES[:3])
def test_bad_tokens(ask: Callable[..., Any], case: Case) -> None:
    for token in ("", "Token", "Token x", "Token é", "Bearer abc", f"Token {'0' * 40}", "Token a b"):
        problem(ask(case, caller=Caller(None), headers={"authorization": token}), 401)


@pytest.mark.parametrize("case", CASES)
def test_an_account_that_is_switched_off(ask: Callable[..., Any], account: Callable[..., User], case: Case) -> None:
    caller = Caller(account(is_superuser=True, is_active=False))
    problem(ask(case, caller=caller), 401)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("superuser", [False, True])
def test_not_staff(ask: Callable[..., Any], account: Callable[..., User], case: Case, superuser: bool) -> None:
    before = everything()
    caller = Caller(account(*case.needs, is_staff=False, is_superuser=superuser))
    said = problem(ask(case, caller=caller), 403, "Error.Forbidden")
    assert "staff" in said["message"]
    assert everything() == before


ALL_PERMISSIONS = {
    f"{act}_{model}" for act in ("view", "add", "change", "delete") for model in ("hub", "accesskey", "rolegrant")
}


@pytest.mark.parametrize("case", CASES)
def test_all_permissions_but_the_right_one(ask: Callable[..., Any], account: Callable[..., User], case: Case) -> None:
    before = everything()
    caller = Caller(account(*(ALL_PERMISSIONS - set(case.row.needs))))
    said = problem(ask(case, caller=caller), 403, "Error.Forbidden")
    assert all(f"hubs.{permission}" in said["message"] for permission in case.row.needs)
    assert everything() == before


@pytest.mark.parametrize("case", CASES)
def test_too_many_calls(
    ask: Callable[..., Any], account: Callable[..., User], configure: Callable[..., None], case: Case
) -> None:
    configure(MANAGE_RATE="1/hour")
    caller, other = Caller(account(is_superuser=True)), Caller(account(is_superuser=True))
    assert ask(case, caller=caller).status_code == case.status
    before = everything()
    response = ask(case, caller=caller)
    problem(response, 429, "Error.TooManyRequests")
    assert 0 < int(response["Retry-After"]) <= 3600
    assert everything() == before
    assert ask(case, caller=other).status_code != 429


BAD_BODIES = [
    b"",
    b"{",
    b"\xff",
    b"[]",
    b"null",
    b'"properties"',
    b"[" * 9000,
    b'{"\\ud800":1}',
]


@pytest.mark.parametrize("case", WITH_BODY)
def test_bodies_that_are_no_objects(ask: Callable[..., Any], case: Case) -> None:
    before = everything()
    for body in BAD_BODIES:
        said = problem(ask(replace(case, body=body)), 400, "Error.BadRequest")
        assert said["target"] == "body", body[:16]
    assert everything() == before


@pytest.mark.parametrize("case", WITH_BODY)
def test_members_nobody_knows_and_members_that_are_missing(ask: Callable[..., Any], case: Case) -> None:
    before = everything()
    (member,) = case.body
    said = problem(ask(replace(case, body={**case.body, "colour": "red"})), 400)
    assert said["target"] == "colour"
    assert member in said["message"]
    said = problem(ask(replace(case, body={})), 400)
    assert (said["target"], said["message"]) == (member, f"{member} is missing.")
    said = problem(ask(replace(case, body={member: 1})), 400)
    assert said["target"] == member
    if member == "properties":
        said = problem(ask(replace(case, body={member: {"colour" * 200: "red"}})), 400)
        assert said["target"].startswith("properties.colour")
        assert len(said["message"]) < 400
    assert everything() == before


@pytest.mark.parametrize("case", WITH_BODY)
def test_other_media_types(ask: Callable[..., Any], case: Case) -> None:
    for media_type in ("", "text/plain", "application/x-www-form-urlencoded", "application/xml", "é"):
        problem(ask(case, content_type=media_type), 415, "Error.UnsupportedMediaType")


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON"])
@pytest.mark.parametrize("case", WITH_BODY)
def test_json_by_other_names(ask: Callable[..., Any], case: Case, media_type: str) -> None:
    assert ask(case, content_type=media_type).status_code == case.status


@pytest.mark.parametrize("case", WITH_BODY)
def test_a_body_that_is_too_large(ask: Callable[..., Any], case: Case) -> None:
    before = everything()
    problem(ask(replace(case, body=b" " * (MAX_BODY_BYTES + 1))), 413, "Error.RequestEntityTooLarge")
    assert everything() == before


@pytest.mark.parametrize("case", ABOUT_A_HUB)
def test_names_that_no_hub_has(ask: Callable[..., Any], case: Case) -> None:
    before = everything()
    for name in ("7up", "a-b", "ä", "a" * 129, "chat%0A", "%20", "%00", "chat;"):
        said = problem(ask(case.named(hubName=name)), 400, "Error.BadRequest")
        assert said["target"] == "hubName", name
        assert "letter" in said["message"]
    assert everything() == before


@pytest.mark.parametrize("case", ABOUT_A_HUB)
def test_a_hub_that_is_not_there(ask: Callable[..., Any], root: Caller, case: Case) -> None:
    before = everything()
    response = ask(case.named(hubName="nowhere"), caller=root)
    if case.row.method == "DELETE":
        assert response.status_code == 204
        assert everything() == before
    elif case.row.verb == "create_or_replace":
        assert response.status_code == 201
    else:
        said = problem(response, 404, "Error.Hub.NotExisted")
        assert "`nowhere`" in said["message"]
        assert everything() == before


@pytest.mark.parametrize("case", ABOUT_A_HUB)
def test_the_letter_case_of_a_hub_does_not_matter(ask: Callable[..., Any], case: Case) -> None:
    assert ask(case.named(hubName="ChAT")).status_code == case.status


@pytest.mark.parametrize("case", ABOUT_A_GRANT)
def test_names_that_no_grant_has(ask: Callable[..., Any], case: Case) -> None:
    before = everything()
    for name in ("0", "x", "-1", "1.0", "٣", "9" * 20, "01", "1%0A"):
        said = problem(ask(case.named(roleGrantName=name)), 400, "Error.BadRequest")
        assert said["target"] == "roleGrantName", name
    assert everything() == before


@pytest.mark.parametrize("case", ABOUT_A_GRANT)
def test_a_grant_that_is_not_there(ask: Callable[..., Any], case: Case) -> None:
    before = everything()
    for name in ("999999999", "9223372036854775807", "9" * 19):
        response = ask(case.named(roleGrantName=name))
        if case.row.method == "DELETE":
            assert response.status_code == 204, name
        else:
            problem(response, 404, "Error.RoleGrant.NotExisted")
    assert everything() == before


NO_PAGES = [
    *((f"?maxpagesize={value}", "maxpagesize") for value in ("0", "201", "x", "", "-1", "1.0", "٣", "1" * 5000)),
    *((f"?top={value}", "top") for value in ("0", "2147483648", "x", "")),
    *((f"?continuationToken={value}", "continuationToken") for value in ("", "x", "x" * 3000, "%00")),
    ("?top=1&top=2", "top"),
]


@pytest.mark.parametrize("case", LISTINGS)
def test_pages_that_cannot_be(ask: Callable[..., Any], case: Case) -> None:
    for query, target in NO_PAGES:
        assert problem(ask(case, query=query), 400, "Error.BadRequest")["target"] == target, query[:24]


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_asked_for_is_ignored(ask: Callable[..., Any], case: Case) -> None:
    options: dict[str, Any] = {"query": "?api-version=2024-03-01&format=xml&colour=red"}
    assert ask(case, headers={"accept": "text/html"}, **options).status_code == case.status


@pytest.mark.parametrize("case", CASES)
def test_a_slash_at_the_end_does_not_count(ask: Callable[..., Any], case: Case) -> None:
    assert ask(case, query="/").status_code == case.status


@pytest.mark.parametrize("case", CASES)
def test_queries_are_bounded(
    ask: Callable[..., Any], root: Caller, case: Case, django_assert_max_num_queries: Any
) -> None:
    hub = Hub.objects.get()
    for number in range(30):
        Hub.objects.create(name=f"hub{number}")
        RoleGrant.objects.create(hub=hub, who="user", user=User.objects.create_user(f"u{number}"), role="sendToGroup")
    with django_assert_max_num_queries(4 if case.row.method == "GET" else 32):
        assert ask(case, caller=root).status_code == case.status


@pytest.mark.parametrize("case", [case for case in CASES if case.values[0].row.method != "GET"])  # type: ignore[attr-defined]
def test_what_changes_something_is_seen_by_running_processes(
    ask: Callable[..., Any], case: Case, django_capture_on_commit_callbacks: Any
) -> None:
    before, version = hub_settings.current(), SettingsVersion.read()
    with django_capture_on_commit_callbacks(execute=True):
        ask(case)
    # Role grants are read anew for each negotiate call, and showing keys changes nothing.
    changed = "roleGrant" not in case.row.path and case.row.verb != "show"
    assert (SettingsVersion.read() > version) is changed
    assert (hub_settings.current() != before) is changed


METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.mark.parametrize("path", sorted({row.path for row in ROWS}))
def test_methods_that_a_path_does_not_have(root: Caller, path: str) -> None:
    there = {row.method for row in ROWS if row.path == path}
    for method in set(METHODS) - there:
        response = root(method, path.format(hubName="chat", roleGrantName="1"))
        problem(response, 405, "Error.MethodNotAllowed")
        assert set(response["Allow"].split(", ")) - {"HEAD"} == there
