"""`webpubsub hub create|update --event-handler … --event-listener …`: Azure's pairs, and what they set."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from django.core.management.base import CommandError

from hubs.models import EventHandler, EventListener, Hub
from tests.management.conftest import Run

pytestmark = pytest.mark.django_db


def typed(run: Run, line: str) -> Any:
    return run("webpubsub", *shlex.split(line))


def test_a_line_of_azures_documentation_works(run: Run) -> None:
    shown = typed(
        run,
        'hub create -n MyWebPubSub -g MyResourceGroup --hub-name MyHub --event-handler url-template="http://host.com" '
        'user-event-pattern="MyEvent" --event-handler url-template="http://host2.com" system-event="connected" '
        'system-event="disconnected" auth-type="None" -o json',
    ).json
    none = {"type": "None"}
    assert shown["name"] == "myhub"
    assert shown["properties"]["eventHandlers"] == [
        {
            "urlTemplate": "http://host.com",
            "userEventPattern": "MyEvent",
            "systemEvents": [],
            "auth": none,
            "enabled": True,
        },
        {
            "urlTemplate": "http://host2.com",
            "userEventPattern": "",
            "systemEvents": ["connected", "disconnected"],
            "auth": none,
            "enabled": True,
        },
    ]


def test_every_key_of_a_handler(run: Run) -> None:
    typed(
        run,
        "hub update chat --event-handler URL_Template=https://a.example/{event}?code=a=b "
        "user-event-pattern='join, room.*' system-event=Connect system-event=connect auth-type=bearer "
        "auth-token=t0ken enabled=no",
    )
    (row,) = EventHandler.objects.all()
    assert (row.url_template, row.user_event_pattern) == ("https://a.example/{event}?code=a=b", "join, room.*")
    assert (row.system_events, row.enabled, row.position) == (["connect"], False, 0)
    assert (row.auth_type, row.token) == ("bearer", "t0ken")


def test_every_key_of_a_listener(run: Run) -> None:
    shown = typed(
        run,
        "hub update chat --event-listener type=RedisStream url=redis://localhost:6379/0 stream=chat "
        "user-event-pattern=* system-event=connected auth-type=Password auth-token='pass word' "
        "--event-listener type=webhook url=https://a.example/ system-event=disconnected enabled=false -o json",
    ).json
    assert shown["properties"]["eventListeners"] == [
        {
            "endpoint": {"type": "RedisStream", "url": "redis://localhost:6379/0", "stream": "chat"},
            "filter": {"type": "EventName", "systemEvents": ["connected"], "userEventPattern": "*"},
            "auth": {"type": "Password"},
            "enabled": True,
        },
        {
            "endpoint": {"type": "Webhook", "url": "https://a.example/"},
            "filter": {"type": "EventName", "systemEvents": ["disconnected"], "userEventPattern": ""},
            "auth": {"type": "None"},
            "enabled": False,
        },
    ]
    assert [row.token for row in EventListener.objects.all()] == ["pass word", ""]


def test_a_list_is_replaced_and_what_is_not_named_stays(run: Run) -> None:
    typed(
        run,
        "hub create chat --allow-anonymous "
        "--event-handler url-template=https://a.example/ auth-type=Bearer auth-token=t",
    )
    typed(run, "hub update chat --event-listener type=Webhook url=https://l.example/")
    typed(run, "hub update chat --allow-anonymous-user-ids")
    (first,) = EventHandler.objects.all()
    typed(
        run,
        "hub update chat --event-handler url-template=https://b.example/ "
        "--event-handler url-template=https://a.example/ auth-type=Bearer",
    )
    assert [row.url_template for row in EventHandler.objects.all()] == ["https://b.example/", "https://a.example/"]
    kept = EventHandler.objects.get(pk=first.pk)
    assert (kept.position, kept.token) == (1, "t"), "the token of the same URL is kept"
    assert EventListener.objects.count() == 1
    assert Hub.objects.get().anonymous_connect


@pytest.mark.parametrize("empty", ["--event-handler ''", "--event-handler"])
def test_an_empty_one_takes_all_away(run: Run, empty: str) -> None:
    typed(run, "hub create chat --event-handler url-template=https://a.example/")
    typed(run, "hub update chat --event-listener type=Webhook url=https://l.example/")
    typed(run, f"hub update chat {empty}")
    assert not EventHandler.objects.exists()
    typed(run, f"hub update chat {empty.replace('handler', 'listener')}")
    assert not EventListener.objects.exists()


def test_a_hub_without_settings_gets_them_and_that_is_said(run: Run) -> None:
    Hub.objects.create(name="chat")
    done = typed(run, "hub update chats --event-handler url-template=https://a.example/ -o json")
    assert done.json["name"] == "chats"
    assert done.err == "Hub chats had no settings yet; it has now. There is a hub chat, too.\n"
    assert typed(run, "hub update chat --allow-anonymous").err == ""


def test_show_tells_people(run: Run) -> None:
    typed(
        run,
        "hub create chat --event-handler url-template=https://a.example/{event} user-event-pattern=* "
        "system-event=connect auth-type=Bearer auth-token=t0ken "
        "--event-handler url-template=https://b.example/ enabled=false "
        "--event-listener type=RedisStream url=redis://localhost stream=chat system-event=connected",
    )
    done = typed(run, "hub show chat")
    lines = dict(line.split("  ", 1) for line in done.out.splitlines())
    assert lines["Event handler 1"].strip() == "https://a.example/{event}; connect, user events *; bearer token"
    assert lines["Event handler 2"].strip() == "https://b.example/; no events; switched off"
    assert lines["Event listener 1"].strip() == "redis://localhost chat; connected"
    assert "t0ken" not in done.out


WRONG = [
    ("--event-handler https://a.example/", "'https://a.example/' is not a pair; write KEY=VALUE"),
    ("--event-handler url-template=", "--event-handler 1, url-template: "),
    ("--event-handler user-event-pattern=*", "url-template missing"),
    ("--event-handler url-templat=https://a.example/", "did you mean url-template?"),
    ("--event-handler url-template=https://a.example/ colour=red", "colour is not a key here; known: url-template"),
    ("--event-handler url-template=https://{hub}.example/", "--event-handler 1, url-template: {hub} and {event} may"),
    ("--event-handler url-template=https://a.example/ user-event-pattern='a b'", "1, user-event-pattern: 'a b'"),
    ("--event-handler url-template=https://a.example/ system-event=joined", "choose from: connect, connected, disc"),
    ("--event-handler url-template=https://a.example/ auth-type=ManagedIdentity", "choose from: None, Bearer"),
    ("--event-handler url-template=https://a.example/ auth-resource=x", "belongs to Azure's managed identity"),
    ("--event-handler url-template=https://a.example/ auth-type=Bearer", "1, auth-type: Give the token too"),
    ("--event-handler url-template=https://a.example/ enabled=maybe", "write true or false, not 'maybe'"),
    (
        "--event-handler url-template=https://a.example/ --event-handler url-template=tunnel:///x",
        "--event-handler 2, url-template: Start with http:// or https://.",
    ),
    ("--event-listener url=https://a.example/", "type missing"),
    ("--event-listener type=EventHub url=x", "choose from: RedisStream, Webhook"),
    (
        "--event-listener type=Webhook url=https://a.example/ system-event=connect",
        "choose from: connected, disconnected",
    ),
    ("--event-listener type=RedisStream url=redis://a.example", "--event-listener 1, stream: "),
    (
        " ".join(["--event-listener type=Webhook url=https://a.example/"] * 11),
        "--event-listener: All hubs together have at most 10 event listeners",
    ),
    (" ".join(["--event-handler url-template=https://a.example/"] * 51), "at most 50 event handlers"),
]


@pytest.mark.parametrize(("words", "answer"), WRONG)
@pytest.mark.parametrize("command", ["create new", "update here", "update new"])
def test_wrong_input_changes_nothing(run: Run, command: str, words: str, answer: str) -> None:
    hub = Hub.objects.create(name="here")
    EventHandler.objects.create(hub=hub, url_template="https://old.example/")
    with pytest.raises(CommandError) as refused:
        typed(run, f"hub {command} {words}")
    assert answer in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [row.name for row in Hub.objects.all()] == ["here"]
    assert [row.url_template for row in EventHandler.objects.all()] == ["https://old.example/"]
    assert not EventListener.objects.exists()
