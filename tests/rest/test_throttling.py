from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.contrib.auth.models import User
from rest_framework.authtoken.models import Token

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("keys")]


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The beginning of a period, and a way to set the clock on."""
    now = SimpleNamespace(secs=1_800_000_000.0)
    monkeypatch.setattr("hubs.rates.time", SimpleNamespace(time=lambda: now.secs))
    return now


def statuses(client, count: int, **options) -> list[int]:
    return [client.get("/negotiate", **options).status_code for _ in range(count)]


def test_visitors_are_limited_by_address(client, configure, clock):
    configure(NEGOTIATE_RATE_ANONYMOUS="2/min")
    assert statuses(client, 3, REMOTE_ADDR="192.0.2.1") == [200, 200, 429]
    assert statuses(client, 1, REMOTE_ADDR="192.0.2.2") == [200]
    clock.secs += 45
    response = client.get("/negotiate", REMOTE_ADDR="192.0.2.1")
    assert response["Retry-After"] == "15"
    assert response["x-ms-error-code"] == response.json()["code"] == "Error.TooManyRequests"


def test_a_made_up_forwarded_address_does_not_help(client, configure):
    configure(NEGOTIATE_RATE_ANONYMOUS="1/min")
    assert [client.get("/negotiate", headers={"x-forwarded-for": f"192.0.2.{n}"}).status_code for n in range(2)] == [
        200,
        429,
    ]


def test_an_address_that_is_none_is_counted_as_well(client, configure, settings):
    configure(NEGOTIATE_RATE_ANONYMOUS="1/min")
    settings.REST_FRAMEWORK = {**settings.REST_FRAMEWORK, "NUM_PROXIES": 2}
    assert statuses(client, 2, headers={"x-forwarded-for": "-"}) == [200, 429]


def test_accounts_are_limited_by_name_and_not_by_address(client, configure):
    configure(NEGOTIATE_RATE_ANONYMOUS="1/min", NEGOTIATE_RATE_USER="2/h")
    alice, bob = (
        {"authorization": f"Token {Token.objects.create(user=User.objects.create_user(name)).key}"}
        for name in ("a", "b")
    )
    assert statuses(client, 2) == [200, 429]
    assert statuses(client, 3, headers=alice) == [200, 200, 429]
    assert statuses(client, 1, headers=bob) == [200]


def test_none_is_no_limit(client, configure):
    configure(NEGOTIATE_RATE_ANONYMOUS=None)
    assert set(statuses(client, 130)) == {200}


def test_a_limit_that_was_lowered_still_says_when_to_come_back(client, configure):
    configure(NEGOTIATE_RATE_ANONYMOUS="5/min")
    statuses(client, 5)
    configure(NEGOTIATE_RATE_ANONYMOUS="2/min")
    assert int(client.get("/negotiate")["Retry-After"]) == 60


# The data plane


def test_the_data_plane_has_no_limit_unless_set(call, recorder):
    assert {call("HEAD", "/api/hubs/chat/users/ann").status_code for _ in range(60)} == {200}


def test_calls_are_counted_by_access_key(client, call, keys, hub_keys, recorder, configure):
    configure(REST_RATE="2/h")
    own = hub_keys("chat")

    def statuses_of(key: str, hub: str = "chat") -> list[int]:
        return [call("DELETE", f"/api/hubs/{hub}/users/ann/groups", key=key).status_code for _ in range(3)]

    # Two hubs, one key: one count.
    assert [*statuses_of(keys[0]), *statuses_of(keys[0], "other")] == [204, 204, 429, 429, 429, 429]
    assert statuses_of(keys[1]) == [204, 204, 429]
    assert statuses_of(own[0]) == [204, 204, 429]

    refused = call("POST", "/api/hubs/chat/:closeConnections")
    assert refused.status_code == 429
    assert 1 <= int(refused["Retry-After"]) <= 3600
    assert refused["x-ms-error-code"] == refused.json()["code"] == "Error.TooManyRequests"
    # Whoever has no key is not counted, and takes nobody's calls away.
    assert client.post("/api/hubs/chat/:closeConnections").status_code == 401
    assert client.head("/api/health").status_code == 200


def test_a_period_ends(call, recorder, configure, clock):
    configure(REST_RATE="1/min")
    path = "/api/hubs/chat/users/ann"
    assert [call("HEAD", path).status_code for _ in range(2)] == [200, 429]
    assert call("HEAD", path)["Retry-After"] == "60"
    clock.secs += 59
    assert call("HEAD", path)["Retry-After"] == "1"
    clock.secs += 1
    assert [call("HEAD", path).status_code for _ in range(2)] == [200, 429]
