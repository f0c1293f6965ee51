"""What is read from a body, and what is passed on of it."""

from __future__ import annotations

import pytest
from django.test import RequestFactory

from hubs.protocols.frames import BINARY, JSON, TEXT, Payload
from hubs.rest import bodies
from hubs.rest.exceptions import BadRequest, TooLarge, Unavailable, Unsupported


def request(body: bytes, content_type: str | None, **meta: str):
    made = RequestFactory().generic("POST", "/", body, content_type=content_type or "")
    if content_type is None:
        made.META.pop("CONTENT_TYPE", None)
    else:
        made.META["CONTENT_TYPE"] = content_type
    made.META.update(meta)
    return made


@pytest.mark.parametrize(
    ("content_type", "body", "payload"),
    [
        (None, b"\x00\xff", Payload(BINARY, b"\x00\xff")),
        ("", b"bytes", Payload(BINARY, b"bytes")),
        ("application/octet-stream", b"", Payload(BINARY, b"")),
        ("Application/Octet-Stream; a=b", b"x", Payload(BINARY, b"x")),
        ("text/plain", "Grüße ✓".encode(), Payload(TEXT, "Grüße ✓".encode())),
        ("text/plain", b"", Payload(TEXT, b"")),
        ("TEXT/PLAIN; Charset=UTF-8", "ü".encode(), Payload(TEXT, "ü".encode())),
        ('text/plain; charset="iso-8859-1"', b"\xfc", Payload(TEXT, "ü".encode())),
        ("text/plain; charset=us-ascii", b"a", Payload(TEXT, b"a")),
        ("text/plain; charset=utf-16", "ü".encode("utf-16"), Payload(TEXT, "ü".encode())),
        ("text/plain; charset=windows-1252", b"\x80", Payload(TEXT, "€".encode())),
        ("application/json", b'{"a" : 1.50, "a":2}', Payload(JSON, b'{"a" : 1.50, "a":2}')),
        ("application/json", b"12345678901234567890123.0e400", Payload(JSON, b"12345678901234567890123.0e400")),
        ("application/json", b'"x"', Payload(JSON, b'"x"')),
        ("application/json", b'"\\u00fc\\ud83d\\ude00"', Payload(JSON, b'"\\u00fc\\ud83d\\ude00"')),
        ("application/json", b" [1, 2]\n", Payload(JSON, b" [1, 2]\n")),
        ("application/json", b"\xef\xbb\xbfnull", Payload(JSON, b"null")),
        ("application/json; charset=utf-16", '{"ü":1}'.encode("utf-16"), Payload(JSON, '{"ü":1}'.encode())),
        ("application/json", b"[" * 200 + b"]" * 200, Payload(JSON, b"[" * 200 + b"]" * 200)),
    ],
)
def test_messages(content_type, body, payload):
    assert bodies.message(request(body, content_type)) == payload


@pytest.mark.parametrize(
    "content_type",
    [
        "application/xml",
        "text/html",
        "text",
        "json",
        "*/*",
        "application/json, text/plain",
        "application/json+x",
        "multipart/form-data; boundary=x",
        "text/plain; charset=klingon",
        "text/plain; charset=",
        "text/plain; charset=punycode",
        "text/plain; charset=zlib",
        "application/json; charset=utf-7",
        "x" * 5000,
    ],
)
def test_types_that_are_not_read(content_type):
    with pytest.raises(Unsupported):
        bodies.message(request(b"{}", content_type))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"[1,]",
        b"01",
        b"NaN",
        b"'a'",
        b"1 2",
        b'"a\nb"',
        b'"\\ud800"',
        b'"\xff"',
        b"\xef\xbb\xbf",
        b"\xff\xfe1\x00",
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_what_is_no_json(body):
    with pytest.raises(BadRequest):
        bodies.message(request(body, "application/json"))


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("text/plain", b"\xff"), ("text/plain; charset=ascii", b"\xc3"), ("text/plain; charset=utf-16-le", b"\x00\xd8")],
)
def test_text_that_is_not_of_its_charset(content_type, body):
    with pytest.raises(BadRequest):
        bodies.message(request(body, content_type))


def test_the_largest_message_and_one_byte_more():
    most = 1024 * 1024
    assert len(bodies.message(request(b"x" * most, None)).data) == most
    with pytest.raises(TooLarge):
        bodies.message(request(b"x" * (most + 1), None))


def test_text_that_grows_over_the_bound():
    text = "ü" * (600 * 1024)
    with pytest.raises(TooLarge):
        bodies.message(request(text.encode("latin-1"), "text/plain; charset=latin1"))


def test_a_length_that_is_too_large_is_believed_without_reading():
    with pytest.raises(TooLarge):
        bodies.message(request(b"", None, CONTENT_LENGTH="99999999999"))
    with pytest.raises(TooLarge):
        bodies.message(request(b"", None, CONTENT_LENGTH="many"))


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", None])
@pytest.mark.parametrize("body", [b"", b"x"])
def test_a_chunked_body_has_no_length(content_type, body):
    made = request(body, content_type, HTTP_TRANSFER_ENCODING="chunked")
    made.META.pop("CONTENT_LENGTH", None)
    assert bodies.message(made).data == body


def test_a_body_that_was_left_unread_is_not_taken_for_an_empty_one():
    made = request(b"", "text/plain")
    made.scope = {bodies.LEFT_UNREAD: True}
    with pytest.raises(Unavailable, match="Try again"):
        bodies.message(made)


def test_members_of_an_object_in_any_letter_case():
    assert bodies.members(request(b'{"Groups": ["a"], "FILTER": null, "x": 1}', "application/json")) == {
        "groups": ["a"],
        "filter": None,
        "x": 1,
    }


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"a"', b'{"a":', b'{"a":"\\ud800"}', b'{"a":' * 5000])
def test_what_is_no_object(body):
    with pytest.raises(BadRequest):
        bodies.members(request(body, "application/json"))


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/octet-stream", "application/json; charset=x"]
)
def test_objects_are_json_and_nothing_else(content_type):
    with pytest.raises(Unsupported):
        bodies.members(request(b"{}", content_type))
