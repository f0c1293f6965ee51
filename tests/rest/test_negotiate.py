"""Negotiate: who gets which token."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from django.contrib.auth.models import Group, User
from django.db import OperationalError
from django.test import Client
from rest_framework.authtoken.models import Token

from hubs import hub_settings
from hubs.models import AccessKey, RoleGrant
from hubs.rest import negotiate

from .conftest import ENDPOINT, HOST

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("keys")]


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("Alice", password="a long one")


@pytest.fixture
def visitors_choose(make_hub):
    return make_hub("open", anonymous_user_ids=True)


def claims_of(response) -> dict[str, Any]:
    assert response.status_code == 200, response.content
    return jwt.decode(response.json()["token"], options={"verify_signature": False})


def refused(response, status: int) -> str:
    assert response.status_code == status
    assert response["Content-Type"] == "application/json; charset=utf-8"
    assert response["Cache-Control"] == "no-store"
    body = response.json()
    assert response["x-ms-error-code"] == body["code"]
    return body["message"]


def token_of(user: User) -> dict[str, str]:
    return {"authorization": f"Token {Token.objects.get_or_create(user=user)[0].key}"}


# The answer


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize(
    "path",
    [
        "/api/negotiate/chat",
        "/api/negotiate/chat/",
        "/api/negotiate/CHAT",
        "/negotiate?hub=chat",
        "/negotiate",
        "/negotiate/",
        "/api/negotiate",
    ],
)
def test_a_visitor_gets_a_url_without_roles(client, keys, method, path):
    before = time.time()
    response = getattr(client, method)(path)
    claims = claims_of(response)
    body = response.json()
    assert list(body) == ["url", "baseUrl", "token", "expires"]
    assert body["baseUrl"] == f"ws://{HOST}/client/hubs/chat"
    assert body["url"] == f"{body['baseUrl']}?access_token={body['token']}"
    assert body["expires"].endswith("Z")
    assert datetime.fromisoformat(body["expires"]) == datetime.fromtimestamp(claims["exp"], UTC)
    assert 3590 < claims["exp"] - before < 3610
    assert set(claims) == {"aud", "iat", "exp"}
    assert claims["aud"] == f"{ENDPOINT}/client/hubs/chat"
    assert response["Cache-Control"] == "no-store"
    jwt.decode(body["token"], keys[0], ["HS256"], audience=claims["aud"])


def test_the_lifetime_is_a_setting(client, configure):
    configure(NEGOTIATE_LIFETIME_MINUTES=5)
    claims = claims_of(client.get("/negotiate"))
    assert claims["exp"] - claims["iat"] == 300


def test_the_plain_address_uses_the_default_hub(client, configure):
    configure(DEFAULT_HUB="Stream")
    assert client.get("/negotiate").json()["baseUrl"] == f"ws://{HOST}/client/hubs/stream"


def test_a_page_opened_on_another_name_of_loopback_gets_a_url_it_can_reach():
    response = Client(headers={"host": "127.0.0.1:8080"}).get("/negotiate")
    assert response.json()["baseUrl"] == "ws://127.0.0.1:8080/client/hubs/chat"
    assert claims_of(response)["aud"] == "http://127.0.0.1:8080/client/hubs/chat"


def test_behind_tls_the_url_is_wss(client, configure):
    configure(PUBLIC_ENDPOINTS=["https://pubsub.example.com"])
    assert client.get("/negotiate").json()["baseUrl"] == "wss://pubsub.example.com/client/hubs/chat"


# Roles and groups


def grant(who: str, role: str = "sendToGroup", **fields: Any) -> RoleGrant:
    return RoleGrant.objects.create(who=who, role=role, **fields)


def test_role_grants_become_roles_and_groups(client, alice, make_hub):
    chat = make_hub("chat")
    staff = Group.objects.create(name="staff")
    bob = User.objects.create_user("bob")
    grant("anonymous", group_pattern="lobby")
    grant("authenticated", hub=chat, group_pattern="team.*")
    grant("user", user=alice, group_pattern=r"a\*b", role="joinLeaveGroup", join_at_connect=True)
    grant("group", group=staff, role="joinLeaveGroup")
    grant("user", user=bob, group_pattern="bobs")
    grant("authenticated", hub=make_hub("other"), group_pattern="elsewhere")
    alice.groups.add(staff)

    visitor = claims_of(client.get("/negotiate"))
    assert visitor["role"] == ["webpubsub.sendToGroup.lobby"]
    assert "webpubsub.group" not in visitor

    signed_in = claims_of(client.get("/negotiate", headers=token_of(alice)))
    assert set(signed_in["role"]) == {
        "webpubsub.sendToGroup.lobby",
        "webpubsub.sendToGroups.team.*",
        "webpubsub.joinLeaveGroup.a*b",
        "webpubsub.joinLeaveGroup",
    }
    assert signed_in["webpubsub.group"] == ["a*b"]
    assert signed_in["sub"] == "Alice"


def test_roles_in_the_request_mean_nothing(client):
    assert "role" not in claims_of(
        client.get("/negotiate?role=webpubsub.sendToGroup&roles=webpubsub.sendToGroup&group=g")
    )


# Signed-in callers


def test_a_session_is_known(alice):
    client = Client(headers={"host": HOST})
    client.force_login(alice)
    assert claims_of(client.get("/negotiate"))["sub"] == "Alice"


def test_a_post_with_a_session_needs_the_csrf_token_as_djangos_forms_do(alice):
    client = Client(enforce_csrf_checks=True, headers={"host": HOST})
    client.force_login(alice)
    assert "CSRF" in refused(client.post("/negotiate"), 403)
    client.cookies["csrftoken"] = "a" * 32
    assert claims_of(client.post("/negotiate", headers={"x-csrftoken": "a" * 32}))["sub"] == "Alice"


def test_a_post_without_a_session_needs_none(alice):
    client = Client(enforce_csrf_checks=True, headers={"host": HOST})
    assert "sub" not in claims_of(client.post("/negotiate"))
    assert claims_of(client.post("/negotiate", headers=token_of(alice)))["sub"] == "Alice"


@pytest.mark.parametrize("authorization", ["Token", "Token ", "Token nonsense", "Token a b", "Token é"])
def test_a_bad_api_token_is_not_taken_for_no_token(client, authorization):
    response = client.get("/negotiate", headers={"authorization": authorization})
    refused(response, 401)
    assert response["WWW-Authenticate"] == "Token"


def test_an_account_that_was_switched_off_gets_nothing(client, alice):
    headers = token_of(alice)
    session = Client(headers={"host": HOST})
    session.force_login(alice)
    alice.is_active = False
    alice.save()
    for response in (client.get("/negotiate", headers=headers), session.get("/negotiate")):
        refused(response, 401)
        assert response["WWW-Authenticate"] == "Token"


def test_who_is_signed_in_is_called_by_the_accounts_name(client, alice):
    headers = token_of(alice)
    assert claims_of(client.get("/negotiate?userId=Alice", headers=headers))["sub"] == "Alice"
    assert claims_of(client.get("/negotiate?userId=&hub=", headers=headers))["sub"] == "Alice"
    for other in ("alice", "Bob"):
        assert "signed in as Alice" in refused(client.get(f"/negotiate?userId={other}", headers=headers), 403)
        assert refused(client.get(f"/negotiate?id={other}", headers=headers), 403)


# Visitors' user ids


@pytest.mark.parametrize("parameter", ["userId", "id"])
def test_a_visitor_may_choose_a_name_where_the_hub_allows_it(client, visitors_choose, parameter):
    assert claims_of(client.get(f"/api/negotiate/OPEN?{parameter}=J%C3%BCrgen%20%F0%9F%8E%88"))["sub"] == "Jürgen 🎈"
    assert "anonymous visitors may choose" in refused(client.get(f"/api/negotiate/chat?{parameter}=Jürgen"), 403)


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", None])
def test_the_name_may_be_in_the_body(client, visitors_choose, content_type):
    bodies = {
        "application/json": json.dumps({"userId": "eve", "other": 1}),
        "application/x-www-form-urlencoded": "userId=eve",
    }
    if content_type is None:
        response = client.post("/api/negotiate/open", {"userId": "eve"})  # multipart/form-data
    else:
        response = client.post("/api/negotiate/open", bodies[content_type], content_type=content_type)
    assert claims_of(response)["sub"] == "eve"


@pytest.mark.parametrize(
    "name",
    ["%20", "%20x", "x%0A", "a%00b", "a%1Bb", "x" * 129]
    # Overrides of direction, what has no width, tags, separators of lines: with them a name looks like another.
    + [quote(f"ad{odd}min") for odd in "\u202e\u2066\u200b\u200d\ufeff\u00ad\u061c\U000e0041\u2028\u2029"],
)
def test_names_a_visitor_cannot_have(client, visitors_choose, name):
    assert "1 to 128 characters" in refused(client.get(f"/api/negotiate/open?userId={name}"), 400)


@pytest.mark.parametrize("name", ["Alice", "alice", "ALICE", "Ａlice", "ÖZGÜR", "özgür", "Özgür"])
def test_a_visitor_cannot_have_an_accounts_name(client, visitors_choose, alice, name):
    User.objects.create_user("Özgür")
    User.objects.create_user("a.b+c@d")
    assert "belongs to an account" in refused(client.get("/api/negotiate/open", {"userId": name}), 403)
    for free in ("Alice2", "özgür2", "aXb+c@d", "ö.*", "%"):
        assert claims_of(client.get("/api/negotiate/open", {"userId": free}))["sub"] == free


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ('{"userId": 7}', "application/json", 400),
        ('{"userId": "a", "id": "b"}', "application/json", 400),
        ('["userId"]', "application/json", 400),
        ('"userId"', "application/json", 400),
        ("{", "application/json", 400),
        ('{"userId": "\\ud800"}', "application/json", 400),
        ('{"userId": ' + "[" * 8000, "application/json", 400),
        ("\xff", "application/json", 400),
        ("x", "image/png", 415),
        ('{"a": "' + "x" * 20_000 + '"}', "application/json", 413),
    ],
)
def test_bodies_that_mean_nothing(client, visitors_choose, body, content_type, status):
    refused(client.post("/api/negotiate/open", body.encode("latin-1"), content_type=content_type), status)


def test_query_and_body_have_to_agree(client, visitors_choose):
    refused(client.post("/api/negotiate/open?userId=a", {"userId": "b"}), 400)
    refused(client.get("/api/negotiate/open?userId=a&id=b"), 400)


# Hubs and the installation


@pytest.mark.parametrize(
    "path",
    [
        "/api/negotiate/1st",
        "/api/negotiate/a/b",
        "/api/negotiate/a%0A",
        "/api/negotiate/" + "h" * 129,
        "/negotiate?hub=a%20b",
    ],
)
def test_names_no_hub_can_have(client, path):
    assert "Invalid hub name" in refused(client.get(path), 400)


def test_hubs_that_were_not_created(client, configure, make_hub):
    make_hub("known")
    assert client.get("/api/negotiate/unknown").status_code == 200
    configure(REQUIRE_KNOWN_HUBS=True)
    assert "Create it" in refused(client.get("/api/negotiate/unknown"), 404)
    assert client.get("/api/negotiate/Known").status_code == 200


def test_a_service_without_keys_says_so_to_its_log_alone(client, caplog):
    from hubs import hub_settings

    AccessKey.objects.all().delete()
    hub_settings.drop()
    assert "log" in refused(client.get("/negotiate"), 503)
    assert "bootstrap" in caplog.text


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods(client, method):
    refused(client.generic(method, "/negotiate"), 405)


# Costs


def test_the_database_is_asked_little(client, alice, visitors_choose, django_assert_max_num_queries):
    for number in range(30):
        grant("authenticated", group_pattern=f"g{number}")
    session = Client(headers={"host": HOST})
    session.force_login(alice)
    headers = token_of(alice)
    client.get("/negotiate")
    with django_assert_max_num_queries(1):
        claims_of(client.get("/negotiate"))
    with django_assert_max_num_queries(2):
        claims_of(client.get("/api/negotiate/open?userId=somebody"))
    with django_assert_max_num_queries(2):
        claims_of(client.get("/negotiate", headers=headers))
    with django_assert_max_num_queries(3):
        assert len(claims_of(session.get("/negotiate"))["role"]) == 30


# While the database is away


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """`away()`: from now on nothing can be read."""
    for kept in (negotiate._accounts, negotiate._grants, negotiate._grants_of_visitors, negotiate._names):
        kept.forget()

    def go() -> None:
        # Read first, as by a process that serves.
        hub_settings.current()

        def fail(*_: Any, **__: Any) -> Any:
            raise OperationalError("gone")

        monkeypatch.setattr("django.db.backends.utils.CursorWrapper.execute", fail)

    return go


def test_a_session_of_a_moment_ago_is_believed(client, alice, away):
    grant("authenticated", group_pattern="news")
    client.force_login(alice)
    before = claims_of(client.get("/api/negotiate/chat"))
    away()
    after = claims_of(client.get("/api/negotiate/chat"))
    assert after["sub"] == before["sub"] == "Alice"
    assert after["role"] == before["role"] != []
    # Roles in a hub that nobody asked for are not known.
    assert client.get("/api/negotiate/other").status_code == 503


def test_who_signed_out_is_not_believed(client, alice, away):
    client.force_login(alice)
    cookie = client.cookies["sessionid"].value
    assert client.get("/api/negotiate/chat").status_code == 200
    client.logout()
    client.cookies["sessionid"] = cookie
    # As a visitor, who is told to forget the cookie.
    assert "sub" not in claims_of(client.get("/api/negotiate/chat"))
    client.cookies["sessionid"] = cookie
    away()
    answer = client.get("/api/negotiate/chat")
    assert refused(answer, 503) == "The database is unavailable. Try again later."
    assert answer["Retry-After"] == "5"


def test_another_page_cannot_use_what_is_remembered(alice, away):
    """Browsers send the cookie along with a form of any page; the check against that needs no database."""
    client = Client(enforce_csrf_checks=True, headers={"host": HOST})
    client.force_login(alice)
    assert client.get("/api/negotiate/chat").status_code == 200
    away()
    assert client.get("/api/negotiate/chat").status_code == 200
    assert client.post("/api/negotiate/chat").status_code == 403
    assert client.get("/api/negotiate/chat").status_code == 200


def test_a_name_of_a_moment_ago_is_free(client, visitors_choose, alice, away):
    assert client.get("/api/negotiate/open?userId=zoe").status_code == 200
    assert client.get("/api/negotiate/open?userId=alice").status_code == 403
    away()
    assert client.get("/api/negotiate/open?userId=zoe").status_code == 200
    assert client.get("/api/negotiate/open?userId=alice").status_code == 403
    assert client.get("/api/negotiate/open?userId=yan").status_code == 503
