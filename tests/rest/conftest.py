"""Keys, callers and settings that the REST tests share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from django.core.cache import caches
from django.test import Client

from hubs import conf, hub_settings
from hubs.models import AccessKey, Hub

from .doors import DJANGO, FAST_PATH, ThroughLane
from .doubles import Recorder

# The name by which Django's test client calls the service, and the endpoint of its settings.
HOST = "localhost:8080"
ENDPOINT = f"http://{HOST}"


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    """No test sees another one's counted calls or database rows."""
    for store in caches.all():
        store.clear()
    hub_settings.drop()
    yield
    hub_settings.drop()


@pytest.fixture
def door() -> str:
    """Which way requests take; modules that are about sending try both."""
    return DJANGO


@pytest.fixture
def client(door: str) -> Client:
    """A caller that reaches the service by its public endpoint."""
    made = Client(headers={"host": HOST})
    if door == FAST_PATH:
        made.handler = ThroughLane()
    return made


@pytest.fixture
def configure(settings: Any) -> Callable[..., None]:
    """`configure(REQUIRE_KNOWN_HUBS=True)`: change the service's settings for one test."""

    def change(**changes: Any) -> None:
        settings.WEBPUBSUB = {**settings.WEBPUBSUB, **changes}
        # Django's signal reaches conf as well; its cached answers have to be gone either way.
        conf.settings.reset()

    return change


@pytest.fixture(autouse=True)
def _endpoint(configure: Callable[..., None]) -> Iterator[None]:
    """The settings a test starts from, whatever the environment says."""
    configure(
        PUBLIC_ENDPOINTS=[ENDPOINT], NEGOTIATE_RATE_ANONYMOUS=None, NEGOTIATE_RATE_USER=None, REQUIRE_KNOWN_HUBS=False
    )
    yield
    conf.settings.reset()


@pytest.fixture
def keys(db: None) -> list[str]:
    """The service's primary and secondary key."""
    texts = [key.text for key in AccessKey.objects.ensure_pair()]
    hub_settings.drop()
    return texts


@pytest.fixture
def make_hub(db: None) -> Callable[..., Hub]:
    """`make_hub("chat", anonymous_user_ids=True)`: a hub with settings."""

    def make(name: str, **fields: Any) -> Hub:
        hub = Hub.objects.create(name=name, **fields)
        hub_settings.drop()
        return hub

    return make


@pytest.fixture
def hub_keys(make_hub: Callable[..., Hub]) -> Callable[[str], list[str]]:
    """`hub_keys("limited")`: a hub with keys of its own, and those keys."""

    def make(name: str) -> list[str]:
        texts = [key.text for key in AccessKey.objects.ensure_pair(make_hub(name))]
        hub_settings.drop()
        return texts

    return make


def bearer(key: str, audience: Any, **claims: Any) -> dict[str, str]:
    """Headers of a request whose token `key` signed for `audience`. A claim of None is left out."""
    everything = {"aud": audience, "exp": int(time.time()) + 60, **claims}
    token = jwt.encode({name: value for name, value in everything.items() if value is not None}, key, "HS256")
    return {"authorization": f"Bearer {token}"}


@pytest.fixture
def call(client: Client, keys: list[str]) -> Callable[..., Any]:
    """`call("PUT", "/api/…")`: a request signed as SDKs sign it, for its full URL, with the primary key."""

    def send(method: str, path: str, *, key: str | None = None, **options: Any) -> Any:
        headers = bearer(key or keys[0], f"{ENDPOINT}{path}") | options.pop("headers", {})
        return client.generic(method, path, headers=headers, **options)

    return send


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Operations that only write down what they are asked."""
    recorder = Recorder()
    recorder.put_in(monkeypatch)
    return recorder
