"""Client URLs: what is signed, what is refused, and in which words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import override_settings

from hubs import client_urls, hub_settings
from hubs.models import AccessKey, Hub
from hubs.rules import tokens

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fresh_settings")]

NOW = 1_800_000_000.0


def read(url: client_urls.ClientUrl, key: AccessKey, hub: str = "chat", now: float = NOW) -> tokens.Claims:
    audiences = tokens.client_audiences(["http://localhost:8080"], hub)
    return tokens.verify(url.token, [key.text], audiences, now=now, skew=0)


def test_the_primary_key_signs_what_was_asked_for(keys: list[AccessKey]) -> None:
    url = client_urls.issue(
        "Chat", user_id="ann", roles=["webpubsub.sendToGroup"], groups=["a", "b", "a"], minutes=5, now=NOW
    )
    assert url.base_url == "ws://localhost:8080/client/hubs/chat"
    assert url.url == f"{url.base_url}?access_token={url.token}"
    assert url.expires == datetime.fromtimestamp(NOW + 300, UTC)
    claims = read(url, keys[0])
    assert claims == dict(url.claims)
    assert claims == {
        "aud": "http://localhost:8080/client/hubs/chat",
        "iat": int(NOW),
        "exp": int(NOW) + 300,
        "sub": "ann",
        "role": ["webpubsub.sendToGroup"],
        "webpubsub.group": ["a", "b"],
    }


def test_what_is_not_asked_for_is_not_in_the_token(keys: list[AccessKey]) -> None:
    assert set(read(client_urls.issue("chat", now=NOW), keys[0])) == {"aud", "iat", "exp"}


def test_an_endpoint_of_the_callers_choice(keys: list[AccessKey]) -> None:
    url = client_urls.issue("chat", endpoint="https://pubsub.example.com/prefix/")
    assert url.base_url == "wss://pubsub.example.com/prefix/client/hubs/chat"
    assert url.claims["aud"] == "https://pubsub.example.com/prefix/client/hubs/chat"


def test_the_hubs_own_key_signs_when_the_service_has_none() -> None:
    hub = Hub.objects.create(name="partner")
    primary, _ = AccessKey.objects.ensure_pair(hub)
    read(client_urls.issue("partner", now=NOW), primary, "partner")
    with pytest.raises(client_urls.CannotIssue, match="no access keys"):
        client_urls.issue("chat")


def test_secrets_are_not_in_the_text_form(keys: list[AccessKey]) -> None:
    url = client_urls.issue("chat")
    assert url.token not in repr(url)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("hub", {"hub": ""}),
    ("hub", {"hub": "1chat"}),
    ("hub", {"hub": "chat/../x"}),
    ("hub", {"hub": "ärger"}),
    ("hub", {"hub": "h" * 129}),
    ("minutes", {"minutes": 0}),
    ("minutes", {"minutes": 0.99}),
    ("minutes", {"minutes": -1}),
    ("minutes", {"minutes": 2**31}),
    ("minutes", {"minutes": float("nan")}),
    ("minutes", {"minutes": float("inf")}),
    ("minutes", {"minutes": True}),
    ("user_id", {"user_id": "u" * 1025}),
    ("user_id", {"user_id": "  "}),
    ("user_id", {"user_id": "\ud800"}),
    ("groups", {"groups": ["ok", ""]}),
    ("groups", {"groups": [" \t"]}),
    ("groups", {"groups": ["g" * 1025]}),
    ("groups", {"groups": ["\udc00"]}),
    ("", {"groups": [f"group-number-{n}" for n in range(5000)]}),
]


@pytest.mark.parametrize(("field", "arguments"), REFUSED)
def test_bad_input_is_named(keys: list[AccessKey], field: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(client_urls.CannotIssue) as caught:
        client_urls.issue(**{"hub": "chat", **arguments})
    assert caught.value.field == field
    assert 10 < len(str(caught.value)) < 250


@pytest.mark.parametrize("minutes", [1, 1.5, 2**31 - 1])
def test_the_bounds_themselves_are_good(keys: list[AccessKey], minutes: float) -> None:
    assert client_urls.issue("chat", minutes=minutes, now=NOW).expires.timestamp() == NOW + minutes * 60


def test_only_known_hubs_where_the_service_asks_for_it(keys: list[AccessKey]) -> None:
    Hub.objects.create(name="known")
    with override_settings(WEBPUBSUB={"REQUIRE_KNOWN_HUBS": True}):
        assert client_urls.issue("KNOWN").base_url.endswith("/known")
        with pytest.raises(client_urls.CannotIssue, match="no such hub") as caught:
            client_urls.issue("unknown")
    assert caught.value.field == "hub"


def test_keys_that_cannot_be_read_are_explained(keys: list[AccessKey]) -> None:
    with override_settings(SECRET_KEY="another secret, as after a lost file"):
        hub_settings.drop()
        with pytest.raises(client_urls.CannotIssue, match="SECRET_KEY"):
            client_urls.issue("chat")
