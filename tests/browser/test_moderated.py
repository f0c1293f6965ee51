"""The moderated chat as people use it: a real Chromium, the real service, its event handler in between."""

from __future__ import annotations

import json
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, Page, WebSocketRoute, expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.running import PATIENCE, Service

OpenPage = Callable[..., Page]
Screenshot = Callable[[Page, str], None]

PATH = "/demos/moderated/"
DESKTOP = {"viewport": {"width": 1200, "height": 800}}
PHONE = {"viewport": {"width": 320, "height": 640}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}

expect.set_options(timeout=PATIENCE * 1000)


def unique(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex[:8]}"


def message_box(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


def message(page: Page, text: str) -> Locator:
    return page.get_by_role("log").locator(".message").filter(has_text=text)


def enter(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    expect(message_box(page)).to_be_focused()


def say(page: Page, text: str) -> None:
    message_box(page).fill(text)
    message_box(page).press("Enter")


def said(page: Page, text: str, shown: str = "") -> Locator:
    """Say it, and wait until the moderator has sent it on."""
    say(page, text)
    found = message(page, shown or text)
    expect(found).to_have_attribute("data-state", "sent")
    return found


def counted(page: Page) -> list[str]:
    return [page.locator("#messages").inner_text(), page.locator("#masked").inner_text()]


def fits(page: Page) -> bool:
    # Not innerWidth: a phone's grows with what does not fit.
    assert page.viewport_size is not None
    return int(page.evaluate("document.documentElement.scrollWidth")) <= page.viewport_size["width"]


# Programs beside the pages


def client_url(service: Service, name: str | None) -> str:
    with urllib.request.urlopen(f"{service.endpoint}/api/negotiate/moderated", timeout=PATIENCE) as answer:
        url = str(json.load(answer)["url"])
    return url if name is None else f"{url}&name={quote(name)}"


def open_socket(service: Service, name: str | None) -> ClientConnection:
    return connect(client_url(service, name), subprotocols=["json.webpubsub.azure.v1"])  # type: ignore[list-item]


def asked(socket: ClientConnection, **frame: Any) -> list[Any]:
    """Send a frame; gives what comes back, up to its ack."""
    socket.send(json.dumps({"ackId": 1, **frame}))
    frames: list[Any] = []
    while not frames or frames[-1]["type"] != "ack":
        frames.append(json.loads(socket.recv(PATIENCE)))
    return frames


def test_two_people_and_a_moderator(open_page: OpenPage, screenshot: Screenshot) -> None:
    # Names as in a real chat: the pictures are for people.
    ada = open_page("/", **DESKTOP)
    ada.get_by_role("main").get_by_role("link", name="Moderated chat").click()
    grace = open_page(PATH, **PHONE, color_scheme="dark")
    enter(ada, "Ada")
    enter(grace, "Grace")
    expect(ada.locator("#you")).to_have_text("Ada (guest)")
    assert counted(ada) == ["0", "0"]

    said(ada, "Good morning! The engine is warm.")
    expect(message(grace, "The engine is warm").locator(".author")).to_have_text("Ada (guest)")
    own = said(grace, "Oh bother. There is a moth in relay 70, what RUBBISH.", "Oh ******. There is a moth")
    expect(own.locator(".text")).to_have_text("Oh ******. There is a moth in relay 70, what *******.")
    expect(own.locator(".moderation")).to_have_text("2 words masked")
    expect(own.locator(".head")).to_contain_text("(you)")
    heard = message(ada, "a moth in relay 70")
    expect(heard.locator(".text")).to_have_text("Oh ******. There is a moth in relay 70, what *******.")
    expect(heard.locator(".moderation")).to_have_text("2 words masked")
    expect(heard.locator(".author")).to_have_text("Grace (guest)")
    expect(heard.locator(".head")).not_to_contain_text("(you)")
    assert "bother." not in (ada.get_by_role("log").text_content() or "")

    # Each has statistics of their own, and the state they are kept in goes from event to event.
    expect(grace.locator("#messages")).to_have_text("1")
    expect(grace.locator("#masked")).to_have_text("2")
    own = said(ada, "Drat! Keep it for the log book.", "****! Keep it for the log book.")
    expect(own.locator(".moderation")).to_have_text("1 word masked")
    said(ada, "It is taped in already, with the date.")
    expect(ada.locator("#messages")).to_have_text("3")
    expect(ada.locator("#masked")).to_have_text("1")
    assert counted(grace) == ["1", "2"]
    expect(message(grace, "taped in already")).to_be_visible()

    screenshot(ada, "moderated-chat")
    assert fits(ada)
    screenshot(grace, "moderated-chat-phone")
    assert fits(grace)


def test_the_words_can_be_looked_at_on_a_phone(open_page: OpenPage) -> None:
    page = open_page(PATH, **PHONE)
    enter(page, "Ada")
    expect(page.get_by_text("rubbish", exact=True)).to_be_hidden()
    page.get_by_text("Words to try").press("Enter")
    expect(page.get_by_text("rubbish", exact=True)).to_be_visible()
    assert fits(page)


@pytest.mark.parametrize("path", ["/", "/demos/chat/", PATH, "/demos/logstream/"])
def test_every_page_fits_on_a_phone(open_page: OpenPage, path: str) -> None:
    page = open_page(path, **PHONE)
    expect(page.get_by_role("link", name="Admin").first).to_be_visible()
    assert fits(page)


def test_the_keyboard_is_enough(open_page: OpenPage) -> None:
    page = open_page(PATH)
    expect(page.get_by_label("Your name")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Write a name first.")).to_be_visible()
    page.keyboard.type("Ada")
    page.keyboard.press("Enter")
    expect(message_box(page)).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two heck")
    page.keyboard.press("Enter")
    expect(message(page, "one").locator(".text")).to_have_text("one\ntwo ****")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Send")).to_be_focused()


MARKUP = '<img src=x onerror="window.hit=1"><b>drat</b>'


def test_markup_is_shown_as_text(open_page: OpenPage) -> None:
    one, two = open_page(PATH), open_page(PATH)
    enter(one, "<b>Eve</b>")
    enter(two, unique("reader"))
    said(one, MARKUP, "<b>****</b>")
    heard = message(two, "<b>****</b>").last
    expect(heard.locator(".text")).to_have_text(MARKUP.replace("drat", "****"))
    expect(heard.locator(".author")).to_have_text("<b>Eve</b> (guest)")
    for page in (one, two):
        assert page.locator("main img, main b").count() == 0
        assert page.evaluate("window.hit") is None


def test_somebody_signed_in_has_the_account_s_name(open_page: OpenPage, service: Service) -> None:
    name = unique("pat")
    session = service.python(
        "from django.contrib.auth.models import User\n"
        "from django.test import Client\n"
        f"client = Client(); client.force_login(User.objects.create_user({name!r}))\n"
        "print(client.cookies['sessionid'].value)"
    )
    page = open_page(PATH)
    page.context.add_cookies([{"name": "sessionid", "value": session, "url": service.endpoint}])
    page.reload()
    expect(page.get_by_label("You are signed in as")).to_have_value(name)
    page.get_by_role("button", name="Enter").click()
    expect(page.locator("#you")).to_have_text(name)


def test_a_reload_keeps_the_name_and_another_can_be_taken(open_page: OpenPage) -> None:
    page = open_page(PATH)
    enter(page, "Ada")
    page.reload()
    expect(page.locator("#you")).to_have_text("Ada (guest)")
    page.get_by_role("button", name="Change name").click()
    enter(page, "Countess")
    expect(page.locator("#you")).to_have_text("Countess (guest)")


def test_what_is_written_without_a_connection_is_sent_when_it_is_back(open_page: OpenPage) -> None:
    page = open_page("/")
    lines: list[WebSocketRoute] = []

    def through(line: WebSocketRoute) -> None:
        line.connect_to_server()
        lines.append(line)

    page.route_web_socket("**/client/**", through)
    page.goto(PATH)
    enter(page, "Ada")
    said(page, "heck", "****")
    expect(page.locator("#masked")).to_have_text("1")
    lines[-1].close(code=1001, reason="A tunnel.")
    expect(page.get_by_text("Connection lost")).to_be_visible()
    say(page, "drat again")
    expect(message(page, "**** again")).to_have_attribute("data-state", "sent")
    # The same session, the same state.
    expect(page.get_by_text("Caught up: no messages were missed.")).to_be_visible()
    expect(page.locator("#messages")).to_have_text("2")
    assert counted(page) == ["2", "2"]


def test_a_client_that_says_no_name_is_turned_away(service: Service) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_socket(service, None)
    assert refused.value.response.status_code == 400
    assert b"Say who you are" in (refused.value.response.body or b"")


def test_nobody_gets_past_the_moderator(service: Service) -> None:
    with open_socket(service, "Eve") as eve, open_socket(service, "Bob") as bob:
        for socket in (eve, bob):
            assert json.loads(socket.recv(PATIENCE))["event"] == "connected"
        (ack,) = asked(eve, type="sendToGroup", group="room", dataType="text", data="rubbish")
        assert ack["error"]["name"] == "Forbidden"
        reply, ack = asked(eve, type="event", event="say", dataType="json", data={"text": "x" * 4001}, ackId=2)
        assert (reply["data"]["refused"], ack["success"]) == ("A message has 1 to 4000 characters.", True)
        reply, ack = asked(eve, type="event", event="say", dataType="json", data={"text": "drat"}, ackId=3)
        assert (reply["from"], reply["data"]["text"], ack["success"]) == ("server", "****", True)
        heard = json.loads(bob.recv(PATIENCE))
        assert (heard["group"], heard["data"]["from"], heard["data"]["text"]) == ("room", "Eve (guest)", "****")
