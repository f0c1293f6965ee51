"""Cookies of event handlers."""

from __future__ import annotations

import pytest

from hubs.upstream.cookies import MAX_COOKIES, Cookies

NOW = 1_700_000_000.0
URL = "https://a.example/api/hubs/chat"


@pytest.mark.parametrize(
    ("cookie", "url", "header"),
    [
        ("k=v", URL, "k=v"),
        ("k=v", "https://a.example:8443/api/hubs/other", "k=v"),
        ("k=v", "https://a.example/api/hubs", "k=v"),
        ("k=v", "https://a.example/api/hubsx", None),
        ("k=v", "https://a.example/", None),
        ("k=v", "https://b.example/api/hubs/chat", None),
        ("k=v; Domain=example", "https://b.example/api/hubs/chat", None),
        ("k=v; Path=/", "https://A.Example/", "k=v"),
        ("k=v; path=/api/", "https://a.example/api/x", "k=v"),
        ("k=v; Path=x", "https://a.example/api/hubs/x", "k=v"),
        ("k=v; Secure; HttpOnly; SameSite=None", "https://a.example/api/hubs/x", "k=v"),
        ("k=v; Secure", "http://a.example/api/hubs/x", None),
        ("k=v; Max-Age=60", URL, "k=v"),
        ("k=v; Max-Age=0", URL, None),
        ("k=v; Max-Age=-1", URL, None),
        ("k=v; Expires=Thu, 01 Jan 1970 00:00:00 GMT", URL, None),
        ("k=v; Expires=Thu, 01 Jan 2970 00:00:00 GMT", URL, "k=v"),
        ("k=v; Expires=some day", URL, "k=v"),
        ("k=v; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", URL, "k=v"),
        ('k="a=b"', URL, 'k="a=b"'),
        ("k=", URL, "k="),
        ("k", URL, None),
        ("=v", URL, None),
        ("", URL, None),
        ("k=\x01", URL, None),
        ("k=é", URL, None),
        ("k=" + "x" * 5000, URL, None),
    ],
)
def test_where_a_cookie_goes(cookie: str, url: str, header: str | None) -> None:
    cookies = Cookies()
    cookies.take(URL, [cookie], NOW)
    assert cookies.header(url) == header


def test_a_cookie_is_replaced_and_taken_back() -> None:
    cookies = Cookies()
    assert not cookies
    cookies.take(URL, ["a=1", "b=2", "a=3; Path=/"], NOW)
    assert cookies.header(URL) == "a=1; b=2; a=3"
    cookies.take(URL, ["a=4"], NOW)
    assert cookies.header(URL) == "b=2; a=4; a=3"
    cookies.take(URL, ["a=; Max-Age=0", "c=; Max-Age=0"], NOW)
    assert cookies.header(URL) == "b=2; a=3"


def test_there_are_never_many() -> None:
    cookies = Cookies()
    cookies.take(URL, [f"k{number}=v" for number in range(MAX_COOKIES + 5)], NOW)
    packed = cookies.packed()
    assert [fields[2] for fields in packed] == [f"k{number}" for number in range(5, MAX_COOKIES + 5)]
    assert Cookies(packed).packed() == packed
    assert Cookies(packed).header(URL) == cookies.header(URL)
