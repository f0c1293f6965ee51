"""Whose address counts, and what of it goes into logs and cache keys."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rest_framework.settings import api_settings

from hubs import callers


@pytest.fixture
def proxies(settings: Any) -> Any:
    def set_number(number: int | None) -> None:
        settings.REST_FRAMEWORK = settings.REST_FRAMEWORK | {"NUM_PROXIES": number}

    yield set_number
    api_settings.reload()


def found(peer: str, forwarded: str | None) -> set[str]:
    """The address by either door."""
    meta = {"REMOTE_ADDR": peer} | ({} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded})
    scope = {
        "client": (peer, 1) if peer else None,
        "headers": [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode("latin-1"))],
    }
    return {callers.of_request(SimpleNamespace(META=meta)), callers.of_scope(scope)}


@pytest.mark.parametrize(
    ("number", "peer", "forwarded", "address"),
    [
        (0, "192.0.2.1", None, "192.0.2.1"),
        (0, "192.0.2.1", "198.51.100.7", "192.0.2.1"),
        (None, "192.0.2.1", "198.51.100.7", "192.0.2.1"),
        (1, "192.0.2.1", "198.51.100.7", "198.51.100.7"),
        (1, "192.0.2.1", "made up, 198.51.100.7", "198.51.100.7"),
        (2, "192.0.2.1", "made up, 198.51.100.7,10.0.0.1", "198.51.100.7"),
        (2, "192.0.2.1", "198.51.100.7", "198.51.100.7"),
        (1, "192.0.2.1", None, "192.0.2.1"),
        # A port, as some proxies write it, would make each connection another caller.
        (1, "192.0.2.1", "198.51.100.7:50123", "198.51.100.7"),
        (1, "192.0.2.1", "[2001:DB8::1]:50123", "2001:db8::1"),
        (1, "192.0.2.1", "[2001:db8::1]", "2001:db8::1"),
        (0, "::ffff:192.0.2.1", None, "192.0.2.1"),
        (0, "fe80::1%eth0", None, "fe80::1"),
        (1, "192.0.2.1", "2001:db8::1%a\r\nb" + "c" * 100, "2001:db8::1"),
        (0, "", None, "local"),
        (1, "192.0.2.1", "a\r\nb \xe9" + "c" * 100, "ab" + "c" * 62),
    ],
)
def test_whose_address_counts(proxies: Any, number: int | None, peer: str, forwarded: str | None, address: str) -> None:
    proxies(number)
    assert found(peer, forwarded) == {address}


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ("local", "local"),
    ],
)
def test_what_counts_as_one_caller(address: str, counted_as: str) -> None:
    assert callers.neighbourhood(address) == counted_as


def test_what_clients_chose_is_one_line_of_the_log() -> None:
    assert callers.legible("a\r\n\x1b[31m\u202eb\ud800") == "a\ufffd\ufffd\ufffd[31m\ufffdb\ufffd"
    assert len(callers.legible("x" * 10_000)) == 200
