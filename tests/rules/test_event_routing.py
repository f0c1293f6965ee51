"""Where events go: URL templates, patterns of event names, addresses of listeners, secrets."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubs.rules import event_routing
from hubs.rules.event_routing import (
    MAX_EVENT_PATTERN_CHARACTERS,
    MAX_EVENT_WILDCARDS,
    MAX_TOKEN_CHARACTERS,
    MAX_URL_CHARACTERS,
    event_pattern,
    event_pattern_problem,
    origin_of,
    password_problem,
    redis_problem,
    resolve_url,
    split_stream_address,
    stream_address,
    stream_problem,
    template_problem,
    token_problem,
    webhook_problem,
    without_query,
)

# URL templates


@pytest.mark.parametrize(
    "template",
    [
        "http://host",
        "https://host.example.com:8443/api/webpubsub/hubs/{hub}/",
        "https://host/api/{event}",
        "https://host?hub={hub}&event={EVENT}&code=a%20b",
        "https://host/{Hub}/{Event}/{event}",
        "http://[::1]:3000/eventhandler",
        "http://127.0.0.1:3000/%7Bliteral%7D",
        "https://my_service.internal./x",
        "https://host/" + "a" * (MAX_URL_CHARACTERS - 13),
    ],
)
def test_templates(template: str) -> None:
    assert template_problem(template) == ""


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("", "Start with http:// or https://"),
        ("host/api", "Start with http"),
        ("//host/api", "Start with http"),
        ("ftp://host/", "Start with http"),
        ("tunnel:///eventhandler/{event}", "Start with http"),
        ("javascript:alert(1)", "Start with http"),
        ("https://", "has to name a host"),
        ("https:///api", "has to name a host"),
        ("https://:80/", "has to name a host"),
        ("https://host:0/", "a port above 0"),
        ("https://host:99999/", "cannot be read"),
        ("https://host:eighty/", "cannot be read"),
        ("https://[::1/", "cannot be read"),
        ("https://-host/", "cannot be the name of a host"),
        ("https://ho,st/", "cannot be the name of a host"),
        ("https://{hub}.example.com/", "in the path and in the query"),
        ("https://host:{event}/", "in the path and in the query"),
        ("{hub}://host/", "in the path and in the query"),
        ("https://host/{user}", "only parameters are {hub} and {event}"),
        ("https://host/{}", "only parameters"),
        ("https://host/{hub", "only parameters"),
        ("https://host/hub}", "only parameters"),
        ("https://host/{{hub}}", "only parameters"),
        ("https://host/?c={@Microsoft.KeyVault(SecretUri=https://vault/x)}", "key vault"),
        ("https://ada@host/", "Leave the password out"),
        ("https://ada:secret@host/", "Leave the password out"),
        ("https://@host/", "Leave the password out"),
        ("https://host/#top", "Leave out the #"),
        ("https://host/#", "Leave out the #"),
        ("https://host/a b", "percent-encode it"),
        ("https://host/\u00e9", "percent-encode it"),
        ("https://h\u00f6st/", "percent-encode it"),
        ("https://host\\@other/", "percent-encode it"),
        ("https://host/\r\nX-Injected: 1", "percent-encode it"),
        ("https://host/\0", "percent-encode it"),
        (" https://host/", "percent-encode it"),
        ("https://host/100%", "two hexadecimal digits"),
        ("https://host/%zz", "two hexadecimal digits"),
        ("https://host/" + "a" * (MAX_URL_CHARACTERS - 12), "longer than"),
        ("https://host/" + "{event}" * 400, "longer than"),
    ],
)
def test_what_is_no_template(template: str, words: str) -> None:
    assert words in template_problem(template)


@given(st.text(max_size=60))
def test_any_text_gets_an_answer(text: str) -> None:
    for judge in (template_problem, webhook_problem, redis_problem):
        for url in (text, f"https://{text}", f"https://host/{text}", f"redis://{text}"):
            assert isinstance(judge(url), str)
    assert isinstance(origin_of(f"https://{text}"), str)


@pytest.mark.parametrize(
    ("template", "resolved"),
    [
        ("https://host/api", "https://host/api"),
        ("https://host/{hub}/{event}", "https://host/chat/message"),
        ("https://host/{HUB}?e={Event}&h={hub}", "https://host/chat?e=message&h=chat"),
    ],
)
def test_parameters_are_replaced(template: str, resolved: str) -> None:
    assert resolve_url(template, "chat", "message") == resolved


def test_what_is_put_in_cannot_become_part_of_the_url() -> None:
    url = resolve_url("https://host/{hub}/{event}?e={event}", "a`b,[c]", "{hub}/../?x=1&y#\u00e9")
    assert url.startswith("https://host/a%60b%2C%5Bc%5D/%7Bhub%7D%2F..%2F%3Fx%3D1%26y%23%C3%A9?e=")
    assert unquote(urlsplit(url).query) == "e={hub}/../?x=1&y#\u00e9"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_resolved_url_is_sound(event: str) -> None:
    url = resolve_url("https://host/{hub}/{event}", "chat", event)
    assert template_problem(url) in ("", event_routing._TOO_LONG)
    assert unquote(url.removeprefix("https://host/chat/")) == event


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Host/a?b", "https://host:443"),
        ("http://host:8080/{event}", "http://host:8080"),
        ("http://host", "http://host:80"),
        ("redis://host/0", "redis://host:6379"),
        ("nothing", ""),
        ("http://[", ""),
        ("http://host:99999", ""),
    ],
)
def test_where_a_url_leads(url: str, origin: str) -> None:
    assert origin_of(url) == origin


def test_a_query_may_be_secret() -> None:
    assert without_query("https://host/{event}?code=s3cret?x") == "https://host/{event}"
    assert without_query("https://host/") == "https://host/"


# User events


@pytest.mark.parametrize(
    ("pattern", "taken", "not_taken"),
    [
        ("*", ["message", "room.message.more", "A"], []),
        ("", [], ["message", ""]),
        (" ", [], ["message"]),
        (",", [], ["message", ""]),
        ("message", ["message", "MESSAGE"], ["messages", "mess"]),
        ("Join", ["join", "JOIN"], ["leave"]),
        ("join,leave", ["join", "leave"], ["join,leave", "stay"]),
        (" join ,  leave ,", ["join", "leave"], ["", " join "]),
        ("join, ROOM.*", ["join", "room.message", "Room.X"], ["room.message.more", "room"]),
        ("room.**", ["room.message", "room.message.more"], ["room"]),
        ("room.?", ["room.a"], ["room..", "room.ab"]),
        ("join, *", ["join", "room.message"], []),
        ("a*", ["a", "abc"], ["a.b", "b"]),
        (r"a\*", ["a*"], ["ab"]),
        ("bad\\, good", ["good"], ["bad", "bad\\"]),
    ],
)
def test_which_events_a_pattern_takes(pattern: str, taken: list[str], not_taken: list[str]) -> None:
    read = event_pattern(pattern)
    assert [name for name in taken if not read.matches(name)] == []
    assert [name for name in not_taken if read.matches(name)] == []


def test_a_pattern_knows_whether_it_takes_anything() -> None:
    assert [bool(event_pattern(text)) for text in ("*", "a", "a*", "", " ,", "bad\\")] == [True] * 3 + [False] * 3


def test_a_pattern_is_read_once() -> None:
    assert event_pattern("join, room.*") is event_pattern("join, room.*")


@pytest.mark.parametrize("pattern", ["", "*", "join", "join, room.*, a?b", " , ", "a,,b", "join, *", "x" * 2048])
def test_patterns(pattern: str) -> None:
    assert event_pattern_problem(pattern) == ""


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("join leave", "Put commas between names"),
        ("a\nb", "Put commas between names"),
        ("a\0", "Put commas between names"),
        ("ok, a******", "'a******' is not a pattern"),
        ("bad\\x", "is not a pattern"),
        ("x" * (MAX_EVENT_PATTERN_CHARACTERS + 1), "longer than"),
        (", ".join(f"a{n}*" for n in range(MAX_EVENT_WILDCARDS + 1)), "at most 20"),
    ],
)
def test_what_is_no_pattern(pattern: str, words: str) -> None:
    assert words in event_pattern_problem(pattern)


def test_more_patterns_than_possible_are_left_out() -> None:
    read = event_pattern(", ".join(f"a{n}.*" for n in range(MAX_EVENT_WILDCARDS + 1)))
    assert read.matches("a19.x")
    assert not read.matches("a20.x")


def test_names_are_not_counted_as_patterns() -> None:
    text = ",".join(f"n{n}" for n in range(300))
    assert event_pattern_problem(text) == ""
    assert event_pattern(text).matches("N299")


# Listeners


@pytest.mark.parametrize("url", ["https://host/events", "http://127.0.0.1:9/x?code=1"])
def test_webhooks_of_listeners(url: str) -> None:
    assert webhook_problem(url) == ""


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://host/{event}", "has no parameters"),
        ("https://host/{x}", "percent-encode it"),
        ("redis://host", "Start with http"),
        ("https://a:b@host/", "Leave the password out"),
    ],
)
def test_what_is_no_webhook(url: str, words: str) -> None:
    assert words in webhook_problem(url)


@pytest.mark.parametrize(
    "url",
    ["redis://localhost", "redis://localhost:6379/", "rediss://writer@redis.example.com:6380/15", "redis://[::1]/0"],
)
def test_redis_servers(url: str) -> None:
    assert redis_problem(url) == ""


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://host", "Start with redis:// or rediss://"),
        ("redis://", "has to name a host"),
        ("redis://:secret@host", "Leave the password out"),
        ("redis://ada:secret@host", "Leave the password out"),
        ("redis://host/0?stream=x", "Leave the query out"),
        ("redis://host/0?", "Leave the query out"),
        ("redis://host/name", "number of a database"),
        ("redis://host/1/2", "number of a database"),
        ("redis://host/\u0661", "percent-encode it"),
    ],
)
def test_what_is_no_redis_server(url: str, words: str) -> None:
    assert words in redis_problem(url)


@given(st.text(min_size=1, max_size=40).filter(lambda name: not stream_problem(name)))
def test_an_address_is_taken_apart_as_it_was_put_together(name: str) -> None:
    assert split_stream_address(stream_address("redis://host:1/0", name)) == ("redis://host:1/0", name)


@pytest.mark.parametrize("name", ["", " ", " a", "a\n", "\0", "x" * 257, "\ud800"])
def test_what_is_no_stream(name: str) -> None:
    assert "1 to 256" in stream_problem(name)


# Secrets


def test_tokens() -> None:
    assert token_problem("abc.DEF-_~+/=") == token_problem("x" * MAX_TOKEN_CHARACTERS) == ""
    for token in ("", " ", "a b", "a\r\nb", "a\n", "\u00e9", "x" * (MAX_TOKEN_CHARACTERS + 1)):
        assert "visible ASCII" in token_problem(token)


def test_passwords() -> None:
    assert password_problem("p\u00e4ss word") == ""
    for password in ("", "a\n", "\0", "x" * (MAX_TOKEN_CHARACTERS + 1)):
        assert "printable" in password_problem(password)
