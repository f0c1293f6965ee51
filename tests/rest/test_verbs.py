"""Which verb a request calls, with what: names, parameters and bodies as they were meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hubs.protocols.frames import BINARY, JSON, TEXT, Payload

from .doors import DJANGO, FAST_PATH

pytestmark = pytest.mark.django_db

HUB = "/api/hubs/Chat"
PLAIN: dict[str, Any] = {"content_type": "text/plain"}
HI = Payload(TEXT, b"hi")

BOTH_DOORS = pytest.mark.parametrize("door", [DJANGO, FAST_PATH])


@pytest.mark.parametrize(
    ("method", "path", "verb", "arguments"),
    [
        ("HEAD", "/connections/c", "connection_exists", {"connection_id": "c"}),
        ("HEAD", "/groups/g", "group_exists", {"group": "g"}),
        ("HEAD", "/users/u", "user_exists", {"user_id": "u"}),
        ("DELETE", "/connections/c", "close_connection", {"connection_id": "c", "reason": None}),
        ("DELETE", "/connections/c?reason=a%2Cb+c", "close_connection", {"connection_id": "c", "reason": "a,b c"}),
        ("DELETE", "/connections/c/groups", "remove_connection_from_all_groups", {"connection_id": "c"}),
        ("PUT", "/groups/g/connections/c", "add_connection_to_group", {"connection_id": "c", "group": "g"}),
        ("DELETE", "/groups/g/connections/c", "remove_connection_from_group", {"connection_id": "c", "group": "g"}),
        ("PUT", "/users/u/groups/g", "add_user_to_group", {"user_id": "u", "group": "g"}),
        ("DELETE", "/users/u/groups/g", "remove_user_from_group", {"user_id": "u", "group": "g"}),
        ("DELETE", "/users/u/groups", "remove_user_from_all_groups", {"user_id": "u"}),
        ("POST", "/:closeConnections", "close_all", {"excluded": (), "reason": None}),
        (
            "POST",
            "/:closeConnections?excluded=a&excluded=b%2C+c&excluded=a&reason=late",
            "close_all",
            {"excluded": ("a", "b, c"), "reason": "late"},
        ),
        (
            "POST",
            "/groups/G%C3%BC+1/:closeConnections?Excluded=%20x",
            "close_group",
            {"group": "Gü+1", "excluded": (" x",), "reason": None},
        ),
        (
            "POST",
            "/users/u/:closeConnections?excluded=x&reason=",
            "close_user",
            {"user_id": "u", "excluded": ("x",), "reason": None},
        ),
    ],
)
def test_verbs(call, recorder, method, path, verb, arguments):
    assert call(method, f"{HUB}{path}").status_code < 300
    assert recorder.only == (verb, {"hub": "chat", **arguments})


@BOTH_DOORS
@pytest.mark.parametrize(
    ("path", "verb", "target", "options"),
    [
        ("/:send", "send_to_all", {}, {"excluded": (), "filter": None, "ttl_secs": 0}),
        ("/groups/g/:send", "send_to_group", {"group": "g"}, {"excluded": (), "filter": None, "ttl_secs": 0}),
        ("/users/u/:send", "send_to_user", {"user_id": "u"}, {"filter": None, "ttl_secs": 0}),
        ("/connections/c/:send", "send_to_connection", {"connection_id": "c"}, {"ttl_secs": 0}),
    ],
)
def test_sending(call, recorder, path, verb, target, options):
    everything = "?excluded=x&excluded=y%20&filter=userId%20eq%20'O''Brien'&messageTtlSeconds=9"
    chosen = {"excluded": ("x", "y "), "filter": "userId eq 'O''Brien'", "ttl_secs": 9}
    metadata = {"x-webpubsub-metadata-Trace": "7"}
    assert call("POST", f"{HUB}{path}", data="hi", **PLAIN).status_code == 202
    assert call("POST", f"{HUB}{path}{everything}", data="hi", headers=metadata, **PLAIN).status_code == 202
    given = {"hub": "chat", **target, "payload": HI}
    assert recorder.calls == [
        (verb, given | options | {"metadata": None}),
        # Parameters that an operation does not have are ignored.
        (verb, given | {name: chosen[name] for name in options} | {"metadata": {"trace": "7"}}),
    ]


@BOTH_DOORS
@pytest.mark.parametrize("filter", ["", "?filter="])
def test_an_empty_filter_is_none(call, recorder, filter):
    assert call("POST", f"{HUB}/:send{filter}", data="hi", **PLAIN).status_code == 202
    assert recorder.only[1]["filter"] is None


@BOTH_DOORS
@pytest.mark.parametrize(
    ("content_type", "data", "payload"),
    [
        ("application/json", '{"b": 1.0,  "a":"ü"}', Payload(JSON, '{"b": 1.0,  "a":"ü"}'.encode())),
        ("application/octet-stream", b"\x00\xff", Payload(BINARY, b"\x00\xff")),
        ("text/plain; charset=utf-8", "", Payload(TEXT, b"")),
    ],
)
def test_a_message_goes_on_as_it_came(call, recorder, content_type, data, payload):
    response = call("POST", f"{HUB}/:send", data=data, CONTENT_TYPE=content_type)
    assert (response.status_code, response.content, response["Content-Length"]) == (202, b"", "0")
    assert recorder.only[1]["payload"] == payload


@pytest.mark.parametrize(
    ("action", "verb"), [(":addToGroups", "add_to_groups"), (":removeFromGroups", "remove_from_groups")]
)
@pytest.mark.parametrize(
    ("body", "groups", "filter"),
    [
        ({"groups": ["a"]}, ("a",), None),
        ({"groups": ["a", "B/ü", "a"], "filter": None}, ("a", "B/ü"), None),
        ({"Groups": ["a"], "FILTER": ""}, ("a",), None),
        ({"groups": ["a"], "filter": "userId eq 'x'", "more": 1}, ("a",), "userId eq 'x'"),
        ({"groups": [f"g{n}" for n in range(3000)]}, tuple(f"g{n}" for n in range(3000)), None),
    ],
)
def test_many_groups_by_filter(call, recorder, action, verb, body, groups, filter):
    response = call("POST", f"{HUB}/{action}", data=json.dumps(body), content_type="application/json")
    assert (response.status_code, response.content) == (200, b"")
    assert recorder.only == (verb, {"hub": "chat", "groups": groups, "filter": filter})


@pytest.mark.parametrize("action", [":addToGroups", ":removeFromGroups"])
@pytest.mark.parametrize(
    ("body", "target"),
    [
        ({}, "groups"),
        ({"groups": None}, "groups"),
        ({"groups": []}, "groups"),
        ({"groups": "a"}, "groups"),
        ({"groups": {"a": 1}}, "groups"),
        ({"groups": ["a", ""]}, "groups"),
        ({"groups": ["a", " "]}, "groups"),
        ({"groups": ["a", 1]}, "groups"),
        ({"groups": ["a", None]}, "groups"),
        ({"groups": ["x" * 1025]}, "groups"),
        ({"groups": ["a"], "filter": " "}, "Filter"),
        ({"groups": ["a"], "filter": 1}, "Filter"),
        ({"groups": ["a"], "filter": ["userId"]}, "Filter"),
        ({"groups": ["a"], "filter": "userId"}, "Filter"),
        (["a"], "Request"),
    ],
)
def test_what_is_no_choice_of_groups(call, recorder, action, body, target):
    response = call("POST", f"{HUB}/{action}", data=json.dumps(body), content_type="application/json")
    assert response.status_code == 400
    assert response.json()["target"] == target
    assert not recorder.calls


def test_old_operations_are_gone(call, recorder):
    """Previews before 2021-08 had a HEAD for a user's membership."""
    assert call("HEAD", f"{HUB}/users/u/groups/g").status_code == 405
    assert not recorder.calls
