"""The demo pages on networks that fail: real cuts, by a proxy in front of the service's WebSockets."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from playwright.sync_api import Browser, BrowserContext, Locator, Page, WebSocketRoute, expect

from tests.proxy import CuttingProxy, Route
from tests.running import PATIENCE, Service

expect.set_options(timeout=PATIENCE * 1000)


LOST = "Connection lost. Trying again…"


@pytest.fixture(scope="module")
def proxy(service: Service) -> Iterator[CuttingProxy]:
    with CuttingProxy(service.port) as running:
        yield running


@pytest.fixture
def open_behind(browser: Browser, service: Service, proxy: CuttingProxy) -> Iterator[Callable[..., tuple[Page, Route]]]:
    """`open_behind(path)`: a page, and the route that its WebSockets take. No script may throw."""
    contexts: list[BrowserContext] = []
    thrown: list[str] = []

    def open_one(path: str, **options: Any) -> tuple[Page, Route]:
        route = proxy.route()
        context = browser.new_context(base_url=service.endpoint, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE * 1000)
        # The socket is the browser's own; only the address that negotiate gives leads through the proxy.
        context.route(
            "**/api/negotiate/**",
            lambda asked: asked.fulfill(json=_through(route.port, asked.fetch().json())),
        )
        page = context.new_page()
        page.on("pageerror", lambda error: thrown.append(f"{page.url}: {error}"))
        page.goto(path)
        return page, route

    yield open_one
    for context in contexts:
        context.close()
    assert not thrown


def _through(port: int, negotiated: dict[str, Any]) -> dict[str, Any]:
    return negotiated | {"url": re.sub(r"//localhost:\d+/", f"//localhost:{port}/", negotiated["url"])}


def unique(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex[:8]}"


def message_box(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


def enter(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    expect(message_box(page)).to_be_focused()
    expect(page.locator("[aria-busy]")).to_have_count(0)


def say(page: Page, text: str) -> None:
    message_box(page).fill(text)
    message_box(page).press("Enter")


def texts(page: Page) -> list[str]:
    """What is in the room, notes included, in order."""
    return page.locator("[role=log]:visible :is(.text, .note)").all_inner_texts()


def sender(service: Service, hub: str) -> WebPubSubServiceClient:
    return WebPubSubServiceClient.from_connection_string(service.connection_string, hub=hub)


def test_the_chat_catches_up_after_a_cut(open_behind: Callable[..., tuple[Page, Route]], service: Service) -> None:
    room = unique("room")
    page, line = open_behind(f"/demos/chat/#room={room}")
    enter(page, unique("Ada"))
    with sender(service, "chat") as others:
        others.send_to_group(room, "before", content_type="text/plain")
        expect(page.get_by_text("before", exact=True)).to_be_visible()
        for count in (3, 1, 0):
            line.refuse()
            assert line.abort() == 1
            expect(page.get_by_text(LOST)).to_be_visible()
            for number in range(count):
                others.send_to_group(room, f"missed {count}.{number}", content_type="text/plain")
            say(page, f"written during cut {count}")
            own = page.locator(".message").filter(has_text=f"written during cut {count}")
            expect(own).to_contain_text("Waiting for the connection")
            line.accept()
            page.evaluate("document.querySelector('#banner button').click()")
            expect(own).to_have_attribute("data-state", "sent")
            expect(page.get_by_text(LOST)).to_be_hidden()
        others.send_to_group(room, "after", content_type="text/plain")
    expect(page.get_by_text("after", exact=True)).to_be_visible()
    assert texts(page) == [
        "before",
        "written during cut 3",
        "missed 3.0",
        "missed 3.1",
        "missed 3.2",
        "Caught up: 3 messages",
        "written during cut 1",
        "missed 1.0",
        "Caught up: 1 message",
        "written during cut 0",
        "Caught up: no messages were missed.",
        "after",
    ]


def test_a_line_that_went_dead_without_a_word_is_recovered(
    open_behind: Callable[..., tuple[Page, Route]], service: Service
) -> None:
    """The device says that it is offline: that is shown at once, and what its last socket swallowed is sent again."""
    room = unique("room")
    page, line = open_behind(f"/demos/chat/#room={room}")
    enter(page, unique("Ada"))
    line.freeze()
    say(page, "into a dead line")
    line.refuse()
    page.context.set_offline(True)
    expect(page.get_by_text("This device is offline.")).to_be_visible()
    say(page, "written offline")
    expect(page.locator(".message").filter(has_text="written offline")).to_contain_text("Waiting for the connection")
    with sender(service, "chat") as others:
        others.send_to_group(room, "missed", content_type="text/plain")
    line.accept()
    page.context.set_offline(False)
    for text in ("into a dead line", "written offline"):
        expect(page.locator(".message").filter(has_text=text)).to_have_attribute("data-state", "sent")
    expect(page.get_by_text("This device is offline.")).to_be_hidden()
    assert texts(page) == ["into a dead line", "written offline", "missed", "Caught up: 1 message"]


def test_the_log_stream_and_the_moderated_chat_catch_up(
    open_behind: Callable[..., tuple[Page, Route]], service: Service
) -> None:
    stream, stream_line = open_behind("/demos/logstream/")
    expect(stream.locator("#status")).to_have_text("Live")
    one, one_line = open_behind("/demos/moderated/")
    two, _ = open_behind("/demos/moderated/")
    enter(one, unique("Ada"))
    enter(two, unique("Grace"))
    for line in (stream_line, one_line):
        line.refuse()
        line.abort()
    for page in (stream, one):
        expect(page.get_by_text(LOST)).to_be_visible()
    words = [unique("line") for _ in range(3)]
    with sender(service, "stream") as others:
        for word in words:
            others.send_to_group("stream", word, content_type="text/plain")
    for word in words:
        say(two, word)
        expect(two.locator(".message").filter(has_text=word)).to_have_attribute("data-state", "sent")
    for line in (stream_line, one_line):
        line.accept()
    for page in (stream, one):
        expect(page.get_by_text("Caught up: 3 messages")).to_be_visible()
        expect(page.get_by_text(LOST)).to_be_hidden()
    assert stream.locator(".line span").all_inner_texts() == words
    assert texts(one) == [*words, "Caught up: 3 messages"]


def test_a_session_that_is_over_is_begun_anew_and_said_so(
    open_behind: Callable[..., tuple[Page, Route]], service: Service
) -> None:
    room = unique("room")
    page, line = open_behind(f"/demos/chat/#room={room}")
    user = unique("Ada")
    enter(page, user)
    line.refuse()
    line.abort()
    expect(page.get_by_text(LOST)).to_be_visible()
    with sender(service, "chat") as others:
        others.send_to_group(room, "nobody gets this", content_type="text/plain")
        others.close_user_connections(user)
        say(page, "written meanwhile")
        line.accept()
        expect(page.locator(".message").filter(has_text="written meanwhile")).to_have_attribute("data-state", "sent")
        expect(page.locator("[aria-busy]")).to_have_count(0)
        others.send_to_group(room, "here again", content_type="text/plain")
    expect(page.get_by_text("here again", exact=True)).to_be_visible()
    mine, note, last = texts(page)
    assert (mine, last) == ("written meanwhile", "here again")
    assert re.match(r"The session could not be recovered\. You were not connected from .+ is missing here\.", note)


def test_what_has_come_is_acknowledged(browser: Browser, service: Service) -> None:
    """A few messages after a second, many at once; else the service would end the session at a thousand."""
    acknowledged: list[int] = []

    def tap(here: WebSocketRoute) -> None:
        there = here.connect_to_server()

        def outgoing(text: str | bytes) -> None:
            frame = json.loads(text)
            if frame["type"] == "sequenceAck":
                acknowledged.append(frame["sequenceId"])
            there.send(text)

        here.on_message(outgoing)

    page = browser.new_page(base_url=service.endpoint)
    page.route_web_socket("**/client/hubs/**", tap)
    page.goto("/demos/logstream/")
    expect(page.locator("#status")).to_have_text("Live")
    with sender(service, "stream") as others:
        for _ in range(3):
            others.send_to_group("stream", "x", content_type="text/plain")
    expect(page.locator("#count")).to_have_text("3 lines")
    deadline = time.monotonic() + PATIENCE
    while not acknowledged or acknowledged[-1] < 3:
        assert time.monotonic() < deadline, acknowledged
        page.wait_for_timeout(50)
    page.context.close()
