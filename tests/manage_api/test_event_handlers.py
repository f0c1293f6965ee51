"""Event handlers and listeners through the management API: set as a whole, with secrets that never come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User

from hubs import hub_settings
from hubs.models import EventHandler, EventListener, Hub

from .conftest import Caller, problem

pytestmark = pytest.mark.django_db

HANDLER = {"urlTemplate": "https://a.example/{event}"}
BEARER = {"type": "Bearer", "token": "s3cret-t0ken"}
STREAM = {"endpoint": {"type": "RedisStream", "url": "redis://a.example", "stream": "s"}, "filter": {}}
WEBHOOK = {"endpoint": {"type": "Webhook", "url": "https://l.example/"}, "filter": {"type": "EventName"}}


def handlers(*given: dict[str, Any]) -> dict[str, Any]:
    return {"properties": {"eventHandlers": list(given)}}


def listeners(*given: dict[str, Any]) -> dict[str, Any]:
    return {"properties": {"eventListeners": list(given)}}


def shown(response: Any, member: str) -> Any:
    assert response.status_code in (200, 201), response.content
    return response.json()["properties"][member]


def test_a_handler_has_azures_shape(root: Caller) -> None:
    full = {
        "urlTemplate": "https://a.example/{hub}/{event}?code=1",
        "userEventPattern": "join, room.*",
        "systemEvents": ["connect", "disconnected"],
        "auth": {"type": "Bearer"},
        "enabled": False,
    }
    response = root("PUT", "/hubs/chat", handlers(HANDLER, {**full, "auth": BEARER}))
    assert shown(response, "eventHandlers") == [
        {**HANDLER, "userEventPattern": "", "systemEvents": [], "auth": {"type": "None"}, "enabled": True},
        full,
    ]
    assert shown(root("GET", "/hubs/chat"), "eventHandlers") == shown(response, "eventHandlers")
    assert [row.token for row in EventHandler.objects.all()] == ["", "s3cret-t0ken"]


def test_a_listener_has_azures_shape(root: Caller) -> None:
    response = root("PUT", "/hubs/chat", listeners({**STREAM, "auth": {"type": "Password", "token": "p w"}}, WEBHOOK))
    events = {"type": "EventName", "systemEvents": [], "userEventPattern": ""}
    assert shown(response, "eventListeners") == [
        {"endpoint": STREAM["endpoint"], "filter": events, "auth": {"type": "Password"}, "enabled": True},
        {"endpoint": WEBHOOK["endpoint"], "filter": events, "auth": {"type": "None"}, "enabled": True},
    ]
    assert [row.token for row in EventListener.objects.all()] == ["p w", ""]


def test_members_that_are_null_in_azures_answers_may_be_null(root: Caller) -> None:
    nothing = {**HANDLER, "userEventPattern": None, "systemEvents": None, "auth": None}
    (handler,) = shown(root("PUT", "/hubs/chat", handlers(nothing)), "eventHandlers")
    assert (handler["userEventPattern"], handler["systemEvents"], handler["auth"]) == ("", [], {"type": "None"})


def test_put_replaces_all_and_patch_what_it_names(root: Caller) -> None:
    root("PUT", "/hubs/chat", {"properties": {"eventHandlers": [HANDLER], "eventListeners": [WEBHOOK]}})
    response = root("PATCH", "/hubs/chat", {"properties": {"anonymousConnectPolicy": "allow"}})
    assert len(shown(response, "eventHandlers")) == len(shown(response, "eventListeners")) == 1
    response = root("PATCH", "/hubs/chat", handlers({"urlTemplate": "https://b.example/"}))
    assert [handler["urlTemplate"] for handler in shown(response, "eventHandlers")] == ["https://b.example/"]
    assert len(shown(response, "eventListeners")) == 1
    assert shown(root("PATCH", "/hubs/chat", listeners()), "eventListeners") == []
    response = root("PUT", "/hubs/chat", {"properties": {}})
    assert shown(response, "eventHandlers") == []
    assert not EventHandler.objects.exists()


def test_tokens_never_come_out_and_are_kept_for_the_same_url(root: Caller) -> None:
    written = root("PUT", "/hubs/chat", handlers({**HANDLER, "auth": BEARER}, {"urlTemplate": "https://b.example/"}))
    read = root("GET", "/hubs/chat")
    for response in (written, read, root("GET", "/hubs")):
        assert "s3cret" not in response.content.decode()
    # What was read can be written back, in another order too.
    first, second = shown(read, "eventHandlers")
    row = EventHandler.objects.get(auth_type="bearer")
    root("PUT", "/hubs/chat", handlers(second, {**first, "systemEvents": ["connect"]}))
    kept = EventHandler.objects.get(auth_type="bearer")
    assert (kept.pk, kept.token, kept.position, kept.system_events) == (row.pk, "s3cret-t0ken", 1, ["connect"])
    # A new token replaces it.
    root("PATCH", "/hubs/chat", handlers({**HANDLER, "auth": {**BEARER, "token": "new"}}))
    assert EventHandler.objects.get().token == "new"
    # Not to another address: whoever may change the address could have the token sent to themselves.
    moved = {**first, "urlTemplate": "https://elsewhere.example/"}
    said = problem(root("PATCH", "/hubs/chat", handlers(moved)), 400)
    assert (said["target"], "Give the token too" in said["message"]) == ("properties.eventHandlers[0].auth", True)
    # Without authorization it is forgotten.
    root("PATCH", "/hubs/chat", handlers(HANDLER))
    problem(root("PATCH", "/hubs/chat", handlers(first)), 400)
    assert EventHandler.objects.get().token == ""


def test_a_listeners_password_is_kept_for_the_same_endpoint(root: Caller) -> None:
    root("PUT", "/hubs/chat", listeners({**STREAM, "auth": {"type": "Password", "token": "p"}}))
    (listener,) = shown(root("GET", "/hubs/chat"), "eventListeners")
    root("PATCH", "/hubs/chat", listeners({**listener, "enabled": False}))
    row = EventListener.objects.get()
    assert (row.token, row.enabled) == ("p", False)
    other = {**listener["endpoint"], "stream": "other"}
    problem(root("PATCH", "/hubs/chat", listeners({**listener, "endpoint": other})), 400)


WRONG_HANDLERS = [
    ({}, "[0].urlTemplate", "is missing"),
    ({"urlTemplate": ""}, "[0].urlTemplate", "at most 2048 characters"),
    ({"urlTemplate": "ftp://a"}, "[0].urlTemplate", "Start with http:// or https://"),
    ({"urlTemplate": "https://{hub}.example"}, "[0].urlTemplate", "in the path and in the query"),
    ({"urlTemplate": "https://a:b@a.example"}, "[0].urlTemplate", "Leave the password out"),
    ({"urlTemplate": "https://a/" + "x" * 2048}, "[0].urlTemplate", "at most 2048 characters"),
    ({**HANDLER, "userEventPattern": "a b"}, "[0].userEventPattern", "Put commas"),
    ({**HANDLER, "userEventPattern": "a\x00b"}, "[0].userEventPattern", "Put commas"),
    ({**HANDLER, "systemEvents": ["joined"]}, "[0].systemEvents[0]", "Write one of: connect, connected, disconnected."),
    ({**HANDLER, "systemEvents": "connect"}, "[0].systemEvents", "array"),
    ({**HANDLER, "auth": {"type": "ManagedIdentity"}}, "[0].auth.type", "Write one of: Bearer, None."),
    ({**HANDLER, "auth": {"type": "Password"}}, "[0].auth.type", "Write one of: Bearer, None."),
    ({**HANDLER, "auth": {"type": "Bearer"}}, "[0].auth", "Give the token too"),
    ({**HANDLER, "auth": {"type": "Bearer", "token": "a b"}}, "[0].auth", "visible ASCII"),
    ({**HANDLER, "auth": {"type": "Bearer", "token": ""}}, "[0].auth.token", "1 to 4096"),
    ({**HANDLER, "groupPresenceEvents": {}}, "[0].groupPresenceEvents", "is not known here"),
    ({**HANDLER, "enabled": "yes"}, "[0].enabled", "bool"),
]


@pytest.mark.parametrize(("handler", "target", "words"), WRONG_HANDLERS)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_what_no_handler_can_be(root: Caller, method: str, handler: Any, target: str, words: str) -> None:
    hub = Hub.objects.create(name="chat")
    EventHandler.objects.create(hub=hub, url_template="https://old.example/")
    body = {"properties": {"eventHandlers": [handler], "anonymousConnectPolicy": "allow"}}
    said = problem(root(method, "/hubs/chat", body), 400)
    assert said["target"] == f"properties.eventHandlers{target}"
    assert words in said["message"]
    assert EventHandler.objects.get().url_template == "https://old.example/"
    assert not Hub.objects.get().anonymous_connect, "nothing of it is done"


WRONG_LISTENERS = [
    ({"filter": {}}, "[0].endpoint", "is missing"),
    ({**STREAM, "endpoint": {"url": "redis://a"}}, "[0].endpoint.type", "is missing"),
    (
        {**STREAM, "endpoint": {"type": "EventHub", "url": "x"}},
        "[0].endpoint.type",
        "Write one of: RedisStream, Webhook.",
    ),
    ({**STREAM, "endpoint": {"type": "RedisStream", "url": "redis://a"}}, "[0].endpoint.stream", "is missing"),
    ({**STREAM, "endpoint": {**STREAM["endpoint"], "url": "http://a"}}, "[0].endpoint.url", "Start with redis://"),
    ({**STREAM, "endpoint": {**STREAM["endpoint"], "stream": " "}}, "[0].endpoint.stream", "1 to 256"),
    ({**STREAM, "endpoint": {**STREAM["endpoint"], "url": "redis://:p@a"}}, "[0].endpoint.url", "Leave the password"),
    ({**WEBHOOK, "endpoint": {"type": "Webhook", "url": "https://a/{event}"}}, "[0].endpoint.url", "no parameters"),
    ({**WEBHOOK, "filter": {"systemEvents": ["connect"]}}, "[0].filter.systemEvents[0]", "connected, disconnected."),
    ({**WEBHOOK, "filter": {"type": "Other"}}, "[0].filter.type", "Write one of: EventName."),
    ({**WEBHOOK, "filter": {"userEventPattern": "a b"}}, "[0].filter.userEventPattern", "Put commas"),
    ({**WEBHOOK, "auth": {"type": "Password", "token": "a"}}, "[0].auth", "takes a bearer token"),
    ({**STREAM, "auth": BEARER}, "[0].auth", "takes a password"),
]


@pytest.mark.parametrize(("listener", "target", "words"), WRONG_LISTENERS)
def test_what_no_listener_can_be(root: Caller, listener: Any, target: str, words: str) -> None:
    said = problem(root("PUT", "/hubs/chat", listeners(listener)), 400)
    assert said["target"] == f"properties.eventListeners{target}"
    assert words in said["message"]
    assert not Hub.objects.exists()


def test_everything_that_is_wrong_is_said(root: Caller) -> None:
    body = {"properties": {**handlers(HANDLER, {"urlTemplate": "x"})["properties"], **listeners(STREAM)["properties"]}}
    body["properties"]["eventListeners"][0] = {**STREAM, "auth": BEARER}
    message = problem(root("PUT", "/hubs/chat", body), 400)["message"]
    assert "properties.eventHandlers[1].urlTemplate: Start with" in message
    assert "properties.eventListeners[0].auth: A Redis server" in message


def test_lists_have_a_bound(root: Caller) -> None:
    assert len(shown(root("PUT", "/hubs/chat", handlers(*[HANDLER] * 50)), "eventHandlers")) == 50
    said = problem(root("PATCH", "/hubs/chat", handlers(*[HANDLER] * 51)), 400)
    assert "at most 50 event handlers" in said["message"]
    other = Hub.objects.create(name="other")
    for _ in range(4):
        EventListener.objects.create(hub=other, kind="webhook", url="https://l.example/")
    assert len(shown(root("PATCH", "/hubs/chat", listeners(*[WEBHOOK] * 6)), "eventListeners")) == 6
    said = problem(root("PATCH", "/hubs/chat", listeners(*[WEBHOOK] * 7)), 400)
    assert said["target"] == "properties.eventListeners"
    assert "at most 10 event listeners, and other hubs have 4" in said["message"]
    assert len(shown(root("PATCH", "/hubs/other", listeners(*[WEBHOOK] * 4)), "eventListeners")) == 4


def test_who_may_change_the_hub_may_change_them_and_nobody_else(account: Callable[..., User]) -> None:
    Hub.objects.create(name="chat")
    problem(Caller(account("view_hub"))("PATCH", "/hubs/chat", handlers(HANDLER)), 403)
    changing = Caller(account("change_hub", "delete_hub"))
    assert len(shown(changing("PATCH", "/hubs/chat", handlers(HANDLER)), "eventHandlers")) == 1
    assert changing("DELETE", "/hubs/chat").status_code == 204
    assert not EventHandler.objects.exists()


def test_the_log_says_which_list_and_no_secret(root: Caller) -> None:
    root("PUT", "/hubs/chat", handlers({**HANDLER, "auth": BEARER}))
    root("PATCH", "/hubs/chat", listeners(WEBHOOK))
    lines = [entry.change_message for entry in LogEntry.objects.order_by("pk")]
    assert lines == ["Added.", "Changed event_listeners."]


def test_a_listing_asks_once_for_all_of_them(root: Caller, django_assert_max_num_queries: Any) -> None:
    for number in range(30):
        hub = Hub.objects.create(name=f"hub{number}")
        EventHandler.objects.create(hub=hub, url_template="https://a.example/")
    with django_assert_max_num_queries(12):
        assert len(root("GET", "/hubs").json()["value"]) == 30


def test_a_change_is_what_the_service_goes_by(root: Caller, django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        root("PUT", "/hubs/chat", handlers({**HANDLER, "systemEvents": ["connect"], "auth": BEARER}))
    (handler,) = hub_settings.current().hub("chat").event_handlers
    assert (handler.system_events, handler.authorization) == (frozenset({"connect"}), "Bearer s3cret-t0ken")
    with django_capture_on_commit_callbacks(execute=True):
        root("PATCH", "/hubs/chat", handlers({**HANDLER, "enabled": False}))
    assert hub_settings.current().hub("chat").event_handlers == ()
