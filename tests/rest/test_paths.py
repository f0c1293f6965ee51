from __future__ import annotations

import pytest
from django.test import AsyncRequestFactory, RequestFactory

from hubs.rest.paths import raw_path, segments


def asgi_request(raw: bytes, path: str, **scope: object):
    request = AsyncRequestFactory().get("/")
    request.scope.update(raw_path=raw, **scope)
    request.path_info = path
    return request


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/hubs/h", ("api", "hubs", "h")),
        ("/api/hubs/h/", ("api", "hubs", "h")),
        ("/api//h", ("api", "", "h")),
        ("/groups/a%2Fb/:send", ("groups", "a/b", ":send")),
        ("/groups/a%2fb/%3Asend", ("groups", "a/b", ":send")),
        ("/groups/a%252Fb", ("groups", "a%2Fb")),
        ("/groups/%E7%BE%A4", ("groups", "群")),
        ("/groups/a+b", ("groups", "a+b")),
        ("/groups/100%", ("groups", "100%")),
        ("/", ("",)),
    ],
)
def test_a_path_is_split_before_each_segment_is_decoded_once(path, expected):
    assert segments(path) == expected


def test_bytes_that_are_no_utf_8_are_refused():
    with pytest.raises(UnicodeDecodeError):
        segments("/groups/%FF")


def test_the_raw_path_of_the_server_is_used():
    assert raw_path(asgi_request(b"/api/groups/a%2Fb", "/api/groups/a/b")) == "/api/groups/a%2Fb"


def test_the_prefix_of_a_mounted_service_is_left_out():
    request = asgi_request(b"/my%20prefix/api/x%2Fy", "/api/x/y")
    request.META["SCRIPT_NAME"] = "/my prefix"
    assert raw_path(request) == "/api/x%2Fy"


def test_without_a_raw_path_the_decoded_one_is_encoded_again():
    request = RequestFactory().get("/api/groups/50%25/%E7%BE%A4")
    assert segments(raw_path(request)) == ("api", "groups", "50%", "群")
