from __future__ import annotations

import logging
from urllib.parse import urlsplit

import pytest
from django.test import Client, RequestFactory

from hubs import operations
from hubs.rest import table, versions
from hubs.rest.paths import segments

from .conftest import ENDPOINT, bearer

CONNECTION = "/api/hubs/chat/connections/abc"


def answer(response) -> dict:
    assert response["Content-Type"] == "application/json; charset=utf-8"
    body = response.json()
    assert list(body) == ["code", "message", "target", "details", "innererror"]
    assert response["x-ms-error-code"] == body["code"]
    return body


def arguments(path: str) -> dict | None:
    found = table.find(segments(path))
    return None if found is None else found[1]


# Routing


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/health", {}),
        ("/API/Health/", {}),
        ("/api/hubs/Chat/:generateToken", {"hub": "Chat"}),
        ("/api/hubs/chat/%3AgenerateToken", {"hub": "chat"}),
        ("/api/hubs/a%5Bb%5D/:generatetoken", {"hub": "a[b]"}),
        ("/api/hubs/chat/connections/a%2Fb", {"hub": "chat", "connection_id": "a/b"}),
        ("/api/hubs/chat/connections/%3Asend", {"hub": "chat", "connection_id": ":send"}),
        (
            "/api/hubs/h/permissions/sendToGroup/connections/c",
            {"hub": "h", "permission": "sendToGroup", "connection_id": "c"},
        ),
        ("/api/hubs", None),
        ("/api/hubs/chat", None),
        ("/api/hubs/chat/connections", None),
        ("/api/hubs/chat/connections/a/b", None),
        ("/api/hubs//connections/a", None),
        ("/api/hubs/chat/connections//", None),
        ("/api/hubs/chat/:nothing", None),
        ("/api/health/more", None),
    ],
)
def test_paths_lead_to_rows(path, expected):
    assert arguments(path) == expected


def test_every_row_is_reached_by_its_own_path():
    for row in table.ROWS:
        found = table.find(segments(row.path.replace("{", "").replace("}", "")))
        assert found is not None
        assert found[0][row.method].cls is row.view  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "path", ["/api/hubs", "/api/hubs/", "/api/hubs/chat/:nothing", "/api/hubs/chat/a/b/c/d", "/api/health/x"]
)
def test_an_unknown_path_is_answered_in_json_without_asking_who(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert answer(response)["code"] == "Error.NotFound"
    assert response["api-supported-versions"] == "2021-10-01, 2022-11-01, 2023-07-01, 2024-01-01, 2024-12-01"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CONNECTION, "DELETE, HEAD"),
        ("OPTIONS", CONNECTION, "DELETE, HEAD"),
        ("POST", "/api/health", "GET, HEAD"),
        ("GET", "/api/hubs/chat/:generateToken", "POST"),
        ("PATCH", "/api/hubs/chat/permissions/sendToGroup/connections/c", "DELETE, HEAD, PUT"),
    ],
)
def test_a_wrong_method_is_answered_in_json(client, method, path, allowed):
    response = client.generic(method, path)
    assert response.status_code == 405
    assert response["Allow"] == allowed
    assert answer(response)["code"] == "Error.MethodNotAllowed"


def test_a_path_that_is_no_utf_8_is_refused():
    request = RequestFactory().get("/api/hubs/chat/connections/x")
    request.scope = {"raw_path": b"/api/hubs/chat/connections/%ff"}  # type: ignore[attr-defined]
    response = table.data_plane(request)
    assert response.status_code == 400


# Versions


@pytest.mark.parametrize("version", [*versions.SUPPORTED, ""])
def test_every_version_is_served(client, version):
    assert client.head(f"/api/health?api-version={version}").status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        "api-version=2020-10-01",
        "api-version=2021-08-01-preview",
        "api-version=2024-12-01,2024-01-01",
        "api-version=2024-12-01&api-version=2024-12-01",
        "api-version=2024-12-01&API-VERSION=2024-12-01",
    ],
)
def test_an_unknown_or_second_version_is_refused_before_the_token_is_looked_at(client, query):
    response = client.delete(f"{CONNECTION}?{query}")
    assert response.status_code == 400
    assert answer(response) == {
        "code": "Error.BadRequest",
        "message": response.json()["message"],
        "target": "api-version",
        "details": None,
        "innererror": None,
    }


# Headers


def test_the_callers_request_id_is_echoed(client):
    for path in ("/api/health", CONNECTION, "/api/hubs/x"):
        response = client.head(path, headers={"x-ms-client-request-id": "6f1c"})
        assert response["x-ms-client-request-id"] == "6f1c"


@pytest.mark.parametrize("strange", ["", "é", "x" * 257, "a\tb"])
def test_a_strange_request_id_is_not_echoed(client, strange):
    response = client.head("/api/health", headers={"x-ms-client-request-id": strange})
    assert response.status_code == 200
    assert "x-ms-client-request-id" not in response


@pytest.mark.parametrize("accept", ["application/json, text/json", "text/html", "image/png", ""])
def test_any_accept_header_is_served(client, accept):
    assert client.head("/api/health?format=xml", headers={"accept": accept}).status_code == 200


# Health


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_health_answers_with_nothing_and_without_the_database(client, method):
    # No `db` fixture: a query would be an error.
    response = client.generic(method, "/api/health")
    assert response.status_code == 200
    assert response.content == b""
    assert response["Content-Length"] == "0"
    assert "Set-Cookie" not in response


# Faults


def test_a_fault_of_ours_is_logged_and_told_nobody(keys, monkeypatch, caplog):
    async def broken(hub: str, connection_id: str) -> bool:
        raise RuntimeError("the secret detail")

    monkeypatch.setattr(operations, "connection_exists", broken)
    path = "/api/hubs/chat/connections/somebody"
    client = Client(raise_request_exception=False, headers={"host": urlsplit(ENDPOINT).netloc})
    with caplog.at_level(logging.ERROR):
        response = client.head(path, headers=bearer(keys[0], f"{ENDPOINT}{path}"))
    assert response.status_code == 500
    assert response["x-ms-error-code"] == "Error.InternalServerError"
    assert "secret" not in str(response.headers)
    assert "HEAD /api/hubs/{hub}/connections/{connection_id} failed" in caplog.text
    assert "somebody" not in "".join(record.getMessage() for record in caplog.records)


def test_refusals_are_not_logged_with_their_paths(client, call, caplog):
    caplog.set_level(logging.INFO)
    call("HEAD", "/api/hubs/chat/connections/somebody")
    assert not caplog.records
    client.get("/api/hubs/chat/users/somebody")
    client.delete("/api/hubs/chat/connections/somebody")
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("A request was refused: DELETE /api/hubs/{hub}/connections/{connection_id}, hub chat, from ")


def test_too_many_parameters_are_refused_in_json(call):
    response = call("POST", "/api/hubs/chat/:generateToken?" + "&".join(f"role=r{n}" for n in range(1100)))
    assert response.status_code == 400
    assert answer(response)["code"] == "Error.BadRequest"
