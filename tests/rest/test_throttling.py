from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from rest_framework.authtoken.models import Token

from hubs.rest.throttling import _neighbourhood

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("keys")]


def statuses(client, count: int, **options) -> list[int]:
    return [client.get("/negotiate", **options).status_code for _ in range(count)]


def test_visitors_are_limited_by_address(client, configure):
    configure(NEGOTIATE_RATE_ANONYMOUS="2/min")
    assert statuses(client, 3, REMOTE_ADDR="192.0.2.1") == [200, 200, 429]
    assert statuses(client, 1, REMOTE_ADDR="192.0.2.2") == [200]
    response = client.get("/negotiate", REMOTE_ADDR="192.0.2.1")
    assert 1 <= int(response["Retry-After"]) <= 60
    assert response["x-ms-error-code"] == response.json()["code"] == "Error.TooManyRequests"


def test_a_made_up_forwarded_address_does_not_help(client, configure):
    configure(NEGOTIATE_RATE_ANONYMOUS="1/min")
    assert [client.get("/negotiate", headers={"x-forwarded-for": f"192.0.2.{n}"}).status_code for n in range(2)] == [
        200,
        429,
    ]


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


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("some thing\n", "something"),
    ],
)
def test_what_counts_as_one_caller(address, counted_as):
    assert _neighbourhood(address) == counted_as
