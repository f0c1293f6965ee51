"""Who is let in by a session, and what is at addresses that the table does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from hubs.models import Hub

from .conftest import HOST, ROOT, Caller, problem

pytestmark = pytest.mark.django_db

HUB = b'{"properties":{}}'


@pytest.fixture
def browser(account: Callable[..., User]) -> Client:
    """Somebody with all permissions, signed in by a browser that Django protects from forged requests."""
    client = Client(enforce_csrf_checks=True, headers={"host": HOST})
    client.force_login(account(is_superuser=True))
    return client


def put(client: Client, **headers: str) -> Any:
    return client.put(f"{ROOT}/hubs/chat", HUB, content_type="application/json", headers=headers)


def test_a_session_may_look(browser: Client) -> None:
    assert browser.get(f"{ROOT}/hubs").status_code == 200


def test_a_session_may_change_only_with_the_csrf_token(browser: Client) -> None:
    said = problem(put(browser), 403, "Error.Forbidden")
    assert "CSRF" in said["message"]
    assert not Hub.objects.exists()
    # The admin's pages hand the cookie out.
    browser.get("/admin/hubs/hub/add/")
    token = browser.cookies["csrftoken"].value
    assert put(browser, **{"x-csrftoken": token}).status_code == 201
    problem(put(browser, **{"x-csrftoken": token[::-1]}), 403)


@pytest.mark.parametrize("path", ["listKeys", "regenerateKey", "roleGrants", "hubs/chat/listKeys"])
def test_every_post_of_a_session_needs_the_csrf_token(browser: Client, path: str) -> None:
    problem(browser.post(f"{ROOT}/{path}", b"{}", content_type="application/json"), 403)


def test_an_api_token_needs_no_csrf_token(account: Callable[..., User]) -> None:
    caller = Caller(account(is_superuser=True))
    caller.client.handler.enforce_csrf_checks = True
    assert caller("PUT", "/hubs/chat", HUB).status_code == 201


def test_a_session_of_an_account_that_was_switched_off(browser: Client) -> None:
    User.objects.update(is_active=False)
    problem(browser.get(f"{ROOT}/hubs"), 401)


def test_a_bad_token_beside_a_good_session_is_refused(browser: Client) -> None:
    problem(browser.get(f"{ROOT}/hubs", headers={"authorization": "Token nobodys"}), 401)


@pytest.mark.parametrize(
    "path", ["", "/", "/hub", "/hubs//", "/hubs/a/b", "/hubs/a%2Fb", "/hubs/a/listkeys/x", "/keys", "/roleGrants/1/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_an_unknown_address_is_answered_in_json(client: Client, method: str, path: str) -> None:
    response = client.generic(method, f"{ROOT}{path}")
    assert response.status_code == 404
    assert response.json()["code"] == response["x-ms-error-code"] == "Error.NotFound"


def test_other_addresses_are_not_ours(client: Client) -> None:
    assert client.get("/manage/apis").status_code == 404
    assert client.get("/manage/apis")["Content-Type"].startswith("text/html")


def test_head_is_a_get_without_the_body(root: Caller) -> None:
    response = root("HEAD", "/hubs")
    assert (response.status_code, response.content) == (200, b"")
    problem(Caller(None)("GET", "/hubs"), 401)
    assert Caller(None)("HEAD", "/hubs").status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "localhost:9999#"])
def test_links_never_name_a_host_that_is_not_ours(root: Caller, host: str) -> None:
    for name in ("a", "b"):
        Hub.objects.create(name=name)
    response = root("GET", "/hubs?maxpagesize=1", headers={"host": host})
    assert response.status_code == 400 or response.json()["nextLink"].startswith("http://localhost:8080/")
