"""Failed sign-ins are counted, refused and told, and nobody is locked out by strangers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import caches
from django.test import Client
from rest_framework.authtoken.models import Token

from hubs import sign_in
from tests.running import free_port

LOGIN = "/admin/login/"
HOME = "192.0.2.1"
PASSWORD = "right"


@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nothing counted yet, and a clock that stands still at the beginning of a period; gives a way to set it on."""
    now = [1_800_000_000.0]
    monkeypatch.setattr("hubs.rates.time", SimpleNamespace(time=lambda: now[0]))
    for store in caches.all():
        store.clear()
    yield lambda secs: now.__setitem__(0, now[0] + secs)
    for store in caches.all():
        store.clear()


def tried(account: str = "ada", address: str = HOME) -> sign_in.Attempt | int:
    """An attempt that was let through, or the seconds to wait."""
    attempt = sign_in.Attempt(account, address)
    try:
        attempt.begin()
    except sign_in.TooManyFailures as refused:
        return refused.wait
    return attempt


def waits(count: int, account: str = "ada", address: str = HOME) -> list[int]:
    """How many seconds the refused ones of some wrong attempts have to wait."""
    return [found for found in (tried(account, address) for _ in range(count)) if isinstance(found, int)]


# The counts


def test_an_account_at_an_address(counts: Any) -> None:
    assert waits(5) == []
    counts(100)
    assert waits(2) == [200, 200]
    # Another way to write the name is the same account; another account and another address are others.
    assert waits(1, "ＡDA") == [200]
    assert waits(1, "bob") == waits(1, address="192.0.2.2") == []
    counts(200)
    assert waits(5) == []


def test_a_right_password_is_not_counted() -> None:
    for _ in range(50):
        attempt = tried()
        assert isinstance(attempt, sign_in.Attempt)
        attempt.succeeded()


def test_many_accounts_from_one_address() -> None:
    assert sum(len(waits(1, f"user{number}")) for number in range(40)) == 10
    assert waits(1, "bob", "192.0.2.2") == []
    # IPv6 addresses of one network are one caller.
    assert sum(len(waits(1, f"user{number}", f"2001:db8::{number:x}")) for number in range(40)) == 10


def test_an_address_that_is_refused_leaves_no_counters() -> None:
    counts, known = (sign_in.store_of(name)._cache for name in (sign_in.COUNTS, sign_in.KNOWN_ADDRESSES))
    waits(30, "user")
    for number in range(30):
        waits(1, f"user{number}")
    kept = len(counts)
    assert len(waits(100, "ada")) == 100
    assert [len(waits(1, f"other{number}")) for number in range(100)] == [1] * 100
    assert len(counts) == kept < 100
    # Who does not get in adds nothing to what is remembered of owners, and nobody else adds to either.
    assert not known
    assert not caches["default"]._cache


def test_a_project_without_caches_for_this_uses_its_own(settings: Any) -> None:
    settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": "one"}}
    assert waits(6) == [300]
    assert caches["default"]._cache


def test_one_account_from_many_addresses_but_the_owners_own_stays_open(counts: Any) -> None:
    owner = tried(address="198.51.100.7")
    assert isinstance(owner, sign_in.Attempt)
    owner.succeeded()
    refused = [len(waits(5, address=f"203.0.113.{number}")) for number in range(40)]
    assert refused == [0] * 20 + [5] * 20
    assert waits(1, address="192.0.2.99") == [300]
    # The owner comes in, and has only the usual number of mistakes.
    assert waits(6, address="198.51.100.7") == [300]
    counts(300)
    assert waits(1, address="192.0.2.99") == []


def test_one_stubborn_address_does_not_use_up_what_others_have() -> None:
    assert len(waits(500)) == 495
    assert waits(5, address="192.0.2.2") == []


def test_a_hundred_at_once_are_a_hundred() -> None:
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: tried(), range(100)))
    assert sum(isinstance(one, sign_in.Attempt) for one in found) == 5


def test_staff_has_an_account_forgotten() -> None:
    assert waits(6) == [300]
    sign_in.forget("Ada")
    assert waits(6) == [300]


def test_where_redis_is_away_failures_are_counted_here_and_staff_hears_that_others_have_not_forgotten(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    away = {"BACKEND": "hubs.redis_cache.RedisCache", "LOCATION": f"redis://127.0.0.1:{free_port()}/0", "OPTIONS": {}}
    names = ("default", sign_in.COUNTS, sign_in.KNOWN_ADDRESSES)
    settings.CACHES = {name: away | {"KEY_PREFIX": name} for name in names}
    attempt = tried()
    assert isinstance(attempt, sign_in.Attempt)
    attempt.succeeded()
    assert waits(6) == [300]
    with pytest.raises(sign_in.CountsAway):
        sign_in.forget("ada")
    assert waits(1) == []
    for _ in range(30):
        sign_in.check_tokens_of(HOME)
        sign_in.count_wrong_token(HOME)
    with pytest.raises(sign_in.TooManyFailures):
        sign_in.check_tokens_of(HOME)
    assert caplog.text.count("The cache in Redis cannot be used") == 1


# The admin's sign-in page


@pytest.fixture
def ada(db: None) -> User:
    return User.objects.create_superuser("ada", password=PASSWORD)


def signed_in(client: Client, password: str = PASSWORD, account: str = "ada", **options: Any) -> Any:
    return client.post(LOGIN, {"username": account, "password": password}, **options)


def test_the_page_refuses_with_429(client: Client, ada: User, caplog: pytest.LogCaptureFixture) -> None:
    assert [signed_in(client, "wrong").status_code for _ in range(5)] == [200] * 5
    response = signed_in(client)
    assert (response.status_code, response["Retry-After"]) == (429, "300")
    assert "Too many failed sign-ins. Try again in 5 minutes." in response.content.decode()
    assert "sessionid" not in client.cookies
    assert signed_in(client, REMOTE_ADDR="192.0.2.2").status_code == 302
    lines = [record.getMessage() for record in caplog.records if record.name in ("hubs.portal", "django.request")]
    assert lines == [
        *["A sign-in failed: account ada, from 127.0.0.1: wrong password, or not a staff account"] * 5,
        "A sign-in failed: account ada, from 127.0.0.1: too many failures",
    ]


def test_the_log_has_no_passwords_and_no_control_characters(
    client: Client, db: None, caplog: pytest.LogCaptureFixture
) -> None:
    User.objects.create_user("pat\r\n\u202e", password=PASSWORD)
    signed_in(client, "hunter2", "pat\r\n\u202e")
    signed_in(client, "hunter2", "my secret password")
    assert signed_in(client, account="pat\r\n\u202e").status_code == 200  # no member of staff
    text = "".join(record.getMessage() for record in caplog.records)
    assert text.count("account pat\ufffd\ufffd\ufffd") == 2
    assert text.count("an unknown account") == 1
    assert "hunter2" not in text
    assert "secret" not in text


def test_a_form_that_is_not_filled_in_counts_for_nobody(client: Client, ada: User) -> None:
    for _ in range(10):
        assert client.post(LOGIN, {"username": "ada"}).status_code == 200
        assert client.post(LOGIN, {}).status_code == 200
    assert signed_in(client).status_code == 302


# API tokens


def test_wrong_api_tokens_are_refused_by_address(
    client: Client, ada: User, keys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    good = Token.objects.create(user=ada).key

    def asked(token: str, path: str = "/negotiate", address: str = HOME) -> Any:
        return client.get(path, headers={"authorization": f"Token {token}"}, REMOTE_ADDR=address)

    for number in range(15):
        assert asked(f"wrong{number}").status_code == 401
        assert asked(good).status_code == 200
        assert asked(f"wrong{number}", "/manage/api/hubs").status_code == 401
    for path in ("/negotiate", "/manage/api/hubs"):
        response = asked(good, path)
        assert (response.status_code, response["Retry-After"]) == (429, "300")
        assert response.json()["code"] == "Error.TooManyRequests"
        assert asked(good, path, "192.0.2.2").status_code == 200
    assert signed_in(client, REMOTE_ADDR=HOME).status_code == 302
    lines = [record.getMessage() for record in caplog.records if record.name == "hubs.rest.exceptions"]
    assert lines[:2] == [
        f"A request was refused: Negotiate, hub none, from {HOME}: 401, Invalid token.",
        f"A request was refused: GET /manage/api/hubs, hub none, from {HOME}: 401, Invalid token.",
    ]
    assert "429, Too many wrong API tokens came from this address." in lines[-1]
    assert "wrong0" not in caplog.text
    assert good not in caplog.text
