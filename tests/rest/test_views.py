"""The operations: what goes in, which verb is called, what comes out. Live sockets are in tests/rest/test_live.py."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from hubs import operations
from hubs.errors import NotFound, TooMany

from .conftest import ENDPOINT, bearer

GENERATE = "/api/hubs/Chat/:generateToken"


class Service:
    """One open connection, as `hubs.operations` would know it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.allowed: set[tuple[str, str]] = set()
        self.full = False

    def _at(self, *call: Any) -> None:
        self.calls.append(call)
        if call[2] != "here":
            raise NotFound(f"Connection `{call[2]}` is not found.")

    async def close_connection(self, hub: str, connection_id: str, reason: str | None = None) -> None:
        self._at("close", hub, connection_id, reason)

    async def connection_exists(self, hub: str, connection_id: str) -> bool:
        return (hub, connection_id) == ("chat", "here")

    async def grant(self, hub: str, connection_id: str, permission: str, group: str) -> None:
        self._at("grant", hub, connection_id, permission, group)
        if self.full:
            raise TooMany("a connection holds at most 1000 literal permissions")
        self.allowed.add((permission, group))

    async def revoke(self, hub: str, connection_id: str, permission: str, group: str) -> None:
        self._at("revoke", hub, connection_id, permission, group)
        if self.full:
            raise TooMany("a connection holds at most 1000 literal permissions")
        self.allowed.discard((permission, group))

    async def check(self, hub: str, connection_id: str, permission: str, group: str) -> bool:
        self._at("check", hub, connection_id, permission, group)
        return (permission, group) in self.allowed


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    for verb in ("close_connection", "connection_exists", "grant", "revoke", "check"):
        monkeypatch.setattr(operations, verb, getattr(service, verb))
    return service


def claims_of(response) -> dict[str, Any]:
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json; charset=utf-8"
    assert list(response.json()) == ["token"]
    return jwt.decode(response.json()["token"], options={"verify_signature": False})


def error(response, status: int, code: str, target: str | None) -> str:
    assert response.status_code == status
    assert response["x-ms-error-code"] == code
    body = response.json()
    assert (body["code"], body["target"]) == (code, target)
    return body["message"]


# generateToken


def test_line_27_a_generated_token_is_one_a_client_can_connect_with(call, keys):
    """27. `:generateToken` returns `{"token": "…"}` usable for a client connect."""
    from hubs.rules import tokens

    response = call("POST", f"{GENERATE}?userId=J%C3%BCrgen+1&role=a&role=b&group=g%2F1&group=g%202&minutesToExpire=5")
    token = response.json()["token"]
    claims = tokens.verify(token, keys[:1], {f"{ENDPOINT}/client/hubs/chat"}, now=claims_of(response)["iat"], skew=0)
    assert claims["sub"] == "Jürgen 1"
    assert claims["role"] == ["a", "b"]
    assert claims["webpubsub.group"] == ["g/1", "g 2"]
    assert claims["exp"] - claims["iat"] == 300


@pytest.mark.parametrize("query", ["", "?userId=&minutesToExpire=&clientType=&api-version="])
def test_a_token_of_nobody_for_an_hour(call, query):
    claims = claims_of(call("POST", f"{GENERATE}{query}"))
    assert set(claims) == {"aud", "iat", "exp"}
    assert claims["exp"] - claims["iat"] == 3600


def test_a_token_of_the_longest_lifetime(call):
    claims = claims_of(call("POST", f"{GENERATE}?minutesToExpire=2147483647"))
    assert claims["exp"] - claims["iat"] == 2147483647 * 60


@pytest.mark.parametrize("client_type", ["Default", "default", "DEFAULT"])
def test_client_types_that_are_served(call, client_type):
    assert claims_of(call("POST", f"{GENERATE}?clientType={client_type}"))["aud"] == f"{ENDPOINT}/client/hubs/chat"


@pytest.mark.parametrize(
    ("query", "target"),
    [
        ("minutesToExpire=0", "minutesToExpire"),
        ("minutesToExpire=-5", "minutesToExpire"),
        ("minutesToExpire=1.5", "minutesToExpire"),
        ("minutesToExpire=2147483648", "minutesToExpire"),
        ("minutesToExpire=99999999999999", "minutesToExpire"),
        ("minutesToExpire=5&minutesToExpire=6", "minutesToExpire"),
        ("userId=%20%20", "userId"),
        ("userId=a&userId=b", "userId"),
        ("userId=" + "x" * 1025, "userId"),
        ("group=", "group"),
        ("group=ok&group=%20", "group"),
        ("group=" + "x" * 1025, "group"),
        ("clientType=STOMP", "clientType"),
        ("clientType=MQTT", "clientType"),
        ("clientType=socketio", "clientType"),
    ],
)
def test_what_no_token_can_be_made_of(call, query, target):
    assert error(call("POST", f"{GENERATE}?{query}"), 400, "Error.BadRequest", target)


def test_a_token_that_would_be_too_long_is_refused(client, keys):
    query = "&".join(f"group={number:03}{'x' * 1000}" for number in range(80))
    headers = bearer(keys[0], f"{ENDPOINT}{GENERATE}")
    message = error(client.post(f"{GENERATE}?{query}", headers=headers), 400, "Error.BadRequest", "Request")
    assert "Name fewer groups" in message


def test_a_hub_is_called_by_its_rules(call):
    assert error(call("POST", "/api/hubs/1st/:generateToken"), 400, "Error.BadRequest", "hub") == "Invalid hub name."
    assert call("POST", "/api/hubs/" + "h" * 128 + "/:generateToken").status_code == 200
    error(call("POST", "/api/hubs/" + "h" * 129 + "/:generateToken"), 400, "Error.BadRequest", "hub")


def test_unknown_hubs_work_unless_a_setting_forbids_it(call, configure, make_hub):
    make_hub("known")
    assert call("POST", "/api/hubs/unknown/:generateToken").status_code == 200
    configure(REQUIRE_KNOWN_HUBS=True)
    error(call("POST", "/api/hubs/unknown/:generateToken"), 404, "Error.Hub.NotExisted", "hub")
    assert call("POST", "/api/hubs/KNOWN/:generateToken").status_code == 200


# Connections


def test_a_connection_exists_or_not(call, fake):
    response = call("HEAD", "/api/hubs/CHAT/connections/here")
    assert (response.status_code, response.content) == (200, b"")
    response = call("HEAD", "/api/hubs/chat/connections/gone")
    assert (response.status_code, response["x-ms-error-code"]) == (404, "Warning.Connection.NotExisted")


def test_a_connection_of_another_hub_is_not_there(call, fake):
    assert call("HEAD", "/api/hubs/other/connections/here").status_code == 404


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", None),
        ("?reason=", None),
        ("?reason=bye%2C+J%C3%BCrgen", "bye, Jürgen"),
        ("?reason=" + "r" * 3000, "r" * 3000),
    ],
)
def test_closing_tells_the_reason(call, fake, query, reason):
    response = call("DELETE", f"/api/hubs/Chat/connections/here{query}")
    assert (response.status_code, response.content) == (204, b"")
    assert fake.calls == [("close", "chat", "here", reason)]


def test_closing_what_is_not_there_succeeds(call, fake):
    assert call("DELETE", "/api/hubs/chat/connections/gone?reason=x").status_code == 204


def test_two_reasons_close_nothing(call, fake):
    error(call("DELETE", "/api/hubs/chat/connections/here?reason=a&reason=b"), 400, "Error.BadRequest", "reason")
    assert not fake.calls


def test_without_a_process_that_knows_it_a_connection_is_not_there(call):
    """The real operations, not the fake."""
    assert call("HEAD", "/api/hubs/chat/connections/nobody").status_code == 404
    assert call("DELETE", "/api/hubs/chat/connections/nobody").status_code == 204
    response = call("PUT", "/api/hubs/chat/permissions/sendToGroup/connections/nobody?targetName=g")
    error(response, 404, "Info.Connection.NotExisted", "Connection")


# Permissions

SEND = "/api/hubs/chat/permissions/sendToGroup/connections/here?targetName=g%2F1"


def test_a_permission_is_given_looked_up_and_taken(call, fake):
    response = call("HEAD", SEND)
    assert (response.status_code, response["x-ms-error-code"]) == (404, "Info.Connection.NotExisted")
    response = call("PUT", SEND)
    assert (response.status_code, response.content) == (200, b"")
    response = call("HEAD", SEND)
    assert (response.status_code, response.content) == (200, b"")
    response = call("DELETE", SEND)
    assert (response.status_code, response.content) == (204, b"")
    assert call("HEAD", SEND).status_code == 404
    assert fake.calls[1] == ("grant", "chat", "here", "sendToGroup", "g/1")


@pytest.mark.parametrize(
    ("text", "permission"),
    [
        ("sendToGroup", "sendToGroup"),
        ("SENDTOGROUP", "sendToGroup"),
        ("1", "sendToGroup"),
        ("joinLeaveGroup", "joinLeaveGroup"),
        ("JoinLeaveGroup", "joinLeaveGroup"),
        ("2", "joinLeaveGroup"),
    ],
)
def test_names_of_permissions(call, fake, text, permission):
    assert call("PUT", f"/api/hubs/chat/permissions/{text}/connections/here?targetName=g").status_code == 200
    assert fake.calls == [("grant", "chat", "here", permission, "g")]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD"])
@pytest.mark.parametrize("text", ["0", "3", "-1", "sendToGroup,joinLeaveGroup", "1,2", "sendToGroups", "%20", "١"])
def test_what_is_no_permission(call, fake, method, text):
    response = call(method, f"/api/hubs/chat/permissions/{text}/connections/here?targetName=g")
    assert (response.status_code, response["x-ms-error-code"]) == (400, "Error.BadRequest")
    assert not fake.calls


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD"])
@pytest.mark.parametrize(
    "query", ["", "?targetName=", "?targetName=%20", "?targetName=" + "x" * 1025, "?targetName=a&targetName=b"]
)
def test_a_permission_names_one_group(call, fake, method, query):
    response = call(method, f"/api/hubs/chat/permissions/sendToGroup/connections/here{query}")
    assert (response.status_code, response["x-ms-error-code"]) == (400, "Error.BadRequest")
    assert not fake.calls


def test_permissions_of_a_connection_that_is_not_there(call, fake):
    gone = SEND.replace("here", "gone")
    message = error(call("PUT", gone), 404, "Info.Connection.NotExisted", "Connection")
    assert message == "Connection `gone` is not found."
    assert call("DELETE", gone).status_code == 204
    response = call("HEAD", gone)
    assert (response.status_code, response["x-ms-error-code"]) == (404, "Info.Connection.NotExisted")


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_the_1001st_literal_is_a_conflict(call, fake, method):
    fake.full = True
    error(call(method, SEND), 409, "Error.Connection.Conflict", "Connection")


def test_too_many_of_anything_else_is_to_be_tried_again(call, fake, monkeypatch):
    async def overrun(hub: str, connection_id: str) -> bool:
        raise TooMany("Too many questions are unanswered; try again later.")

    monkeypatch.setattr(operations, "connection_exists", overrun)
    assert call("HEAD", "/api/hubs/chat/connections/here").status_code == 429


# Where WebSocket clients connect


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        "/client",
        "/client/",
        "/client/?hub=chat",
        "/client/hubs/chat",
        "/client/hubs/chat/",
        "/client/hubs/",
        "/client/hubs/%3Cb%3E",
    ],
)
def test_plain_http_where_websockets_are_spoken(client, method, path):
    """Client protocol checklist, line 4."""
    response = client.generic(method, path)
    assert response.status_code == 400
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    if method != "HEAD":
        hub = "chat" if "/chat" in path else "{hub}"
        assert (
            f"speaks WebSocket. Open it with a WebSocket client: ws://localhost:8080/client/hubs/{hub}?"
            in response.text
        )
