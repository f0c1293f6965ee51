"""Accounts and callers that the tests of the management API share."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.cache import caches
from django.test import Client
from rest_framework.authtoken.models import Token

from hubs import conf, hub_settings
from hubs.models import AccessKey

HOST = "localhost:8080"
ENDPOINT = f"http://{HOST}"
ROOT = "/manage/api"

ERROR_MEMBERS = ["code", "message", "target", "details", "innererror"]


@pytest.fixture(autouse=True)
def _fresh_process(settings: Any) -> Iterator[None]:
    """No test sees another one's counted calls, rows or settings."""
    for store in caches.all():
        store.clear()
    hub_settings.drop()
    settings.WEBPUBSUB = {
        **settings.WEBPUBSUB,
        "PUBLIC_ENDPOINTS": [ENDPOINT],
        "REQUIRE_KNOWN_HUBS": False,
        "MANAGE_RATE": None,
    }
    conf.settings.reset()
    yield
    hub_settings.drop()
    conf.settings.reset()


@pytest.fixture
def configure(settings: Any) -> Callable[..., None]:
    """`configure(MANAGE_RATE="2/min")`: change the service's settings for one test."""

    def change(**changes: Any) -> None:
        settings.WEBPUBSUB = {**settings.WEBPUBSUB, **changes}
        conf.settings.reset()

    return change


@pytest.fixture
def account(db: None) -> Callable[..., User]:
    """`account("view_hub", is_staff=False)`: somebody with these permissions of the app `hubs` only."""
    numbers = itertools.count(1)

    def make(*codenames: str, **fields: Any) -> User:
        user = User.objects.create_user(f"pat{next(numbers)}", **{"is_staff": True, **fields})
        user.user_permissions.set(Permission.objects.filter(content_type__app_label="hubs", codename__in=codenames))
        return user

    return make


class Caller:
    """A program that calls with the API token of one account; without account it sends none."""

    def __init__(self, user: User | None) -> None:
        self.user = user
        self.client = Client(headers={"host": HOST})
        if user is not None:
            self.client.defaults["HTTP_AUTHORIZATION"] = f"Token {Token.objects.get_or_create(user=user)[0].key}"

    def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Send a request; `body` goes as JSON, bytes as they are."""
        if body is not None:
            options.setdefault("data", body if isinstance(body, bytes) else json.dumps(body).encode())
            options.setdefault("content_type", "application/json")
        return self.client.generic(method, path if path.startswith("/manage") else f"{ROOT}{path}", **options)


@pytest.fixture
def root(db: None) -> Caller:
    """A caller who may do everything."""
    return Caller(User.objects.create_superuser("root"))


@pytest.fixture
def keys(db: None) -> list[AccessKey]:
    """The service's keys."""
    return AccessKey.objects.ensure_pair()


def problem(response: Any, status: int, code: str = "") -> dict[str, Any]:
    """The body of an error, after a look at its form."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/json; charset=utf-8"
    assert response["Cache-Control"] == "no-store"
    body: dict[str, Any] = response.json()
    assert list(body) == ERROR_MEMBERS
    assert body["message"]
    assert body["code"] == response["x-ms-error-code"]
    if code:
        assert body["code"] == code
    return body
