"""The demo pages as people use them: a real Chromium, the real service, the official SDK beside it."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, WebSocketRoute, expect
from websockets.sync.client import connect

from tests.running import PATIENCE, Service

OpenPage = Callable[..., Page]
Screenshot = Callable[[Page, str], None]

JSON = "json.webpubsub.azure.v1"
DESKTOP = {"viewport": {"width": 1200, "height": 800}}
PHONE = {"viewport": {"width": 320, "height": 640}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}

expect.set_options(timeout=PATIENCE * 1000)


def unique(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex[:8]}"


# What people do on the pages


def message_box(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


def log(page: Page) -> Locator:
    """The messages of the room that is shown."""
    return page.locator("[role=log]:visible")


def message(page: Page, text: str) -> Locator:
    return log(page).locator(".message").filter(has_text=text)


def enter(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    expect(message_box(page)).to_be_focused()
    expect(page.locator("[aria-busy]")).to_have_count(0)


def join(page: Page, room: str) -> None:
    page.get_by_label("New room", exact=True).click()
    page.get_by_label("Room name").fill(room)
    page.get_by_role("button", name="Join").click()
    expect(page.get_by_role("heading", name=room)).to_be_visible()
    expect(page.locator("[aria-busy]")).to_have_count(0)


def go_to(page: Page, room: str) -> None:
    page.get_by_role("complementary").get_by_role("button", name=room).click()


def say(page: Page, text: str) -> None:
    message_box(page).fill(text)
    message_box(page).press("Enter")


def said(page: Page, text: str) -> None:
    """Say it, and wait until the service has it."""
    say(page, text)
    expect(message(page, text)).to_have_attribute("data-state", "sent")


def room_address(room: str) -> str:
    return f"/demos/chat/#room={quote(room)}"


def fits(page: Page) -> bool:
    # Not innerWidth: a phone's grows with what does not fit.
    assert page.viewport_size is not None
    return int(page.evaluate("document.documentElement.scrollWidth")) <= page.viewport_size["width"]


# Programs beside the pages


@functools.cache
def connection_string(service: Service) -> str:
    """The service's connection string; asking for it starts a process, so it is asked for once."""
    return service.connection_string


def client_url(service: Service, hub: str, *roles: str, user_id: str | None = None) -> str:
    client = WebPubSubServiceClient.from_connection_string(connection_string(service), hub=hub)
    return str(client.get_client_access_token(user_id=user_id, roles=list(roles))["url"])


def publish(service: Service, hub: str, group: str, *messages: dict[str, Any], user_id: str | None = None) -> None:
    """Send messages as another program does, and see each acknowledged."""
    url = client_url(service, hub, f"webpubsub.sendToGroup.{group}", user_id=user_id)
    with connect(url, subprotocols=[JSON]) as socket:  # type: ignore[list-item]
        socket.recv(PATIENCE)
        for ack_id, content in enumerate(messages, start=1):
            socket.send(json.dumps({"type": "sendToGroup", "group": group, "ackId": ack_id} | content))
        for ack_id in range(1, len(messages) + 1):
            assert json.loads(socket.recv(PATIENCE)) == {"type": "ack", "ackId": ack_id, "success": True}


def text_message(text: str) -> dict[str, Any]:
    return {"dataType": "text", "data": text}


def run_snippet(page: Page, element: str, service: Service, tmp_path: Path, stdin: str = "") -> str:
    """Do as the page says: copy the program, put in a key, run it."""
    program = page.locator(f"#{element}").inner_text()
    key = re.search("AccessKey=([^;]+)", connection_string(service))
    assert key
    assert program.count("PASTE-A-KEY-HERE") == 1
    file = tmp_path / "snippet.py"
    file.write_text(program.replace("PASTE-A-KEY-HERE", key[1]))
    done = subprocess.run(
        [sys.executable, file], input=stdin, capture_output=True, text=True, timeout=PATIENCE * 2, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Pages that may log errors, because their test makes something fail


@pytest.fixture
def open_troubled(browser: Browser) -> Iterator[Callable[..., Page]]:
    """`open_troubled(service, path)`: as `open_page`, but lost connections and refusals are expected."""
    contexts: list[BrowserContext] = []
    thrown: list[str] = []

    def open_one(service: Service, path: str, prepare: Callable[[Page], None] = lambda page: None) -> Page:
        context = browser.new_context(base_url=service.endpoint)
        contexts.append(context)
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        page.on("pageerror", lambda error: thrown.append(f"{page.url}: {error}"))
        prepare(page)
        page.goto(path)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not thrown


# The front page


def test_front_page(open_page: OpenPage, screenshot: Screenshot, service: Service) -> None:
    page = open_page("/", **DESKTOP)
    expect(page.get_by_role("heading", level=1)).to_have_text("Web PubSub on your own machines")
    expect(page.locator(".endpoint code")).to_have_text(service.endpoint)
    screenshot(page, "front")
    for link in page.get_by_role("link").all():
        address = link.get_attribute("href") or ""
        if not address.startswith("#"):
            assert page.request.get(address).ok, address


def test_front_page_s_program_writes_into_the_chat(open_page: OpenPage, service: Service, tmp_path: Path) -> None:
    chat = open_page("/demos/chat/")
    enter(chat, unique("reader"))
    printed = run_snippet(open_page("/"), "first-message", service, tmp_path)
    assert '"connected"' in printed
    assert '"success":true' in printed
    expect(message(chat, "Hello from Python").locator(".author")).to_have_text("python")


def test_copy_button(open_page: OpenPage, service: Service) -> None:
    page = open_page("/", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == page.locator("#first-message").inner_text().strip()
    assert f"Endpoint={service.endpoint};" in copied


# The chat room


def test_two_people_in_two_rooms(open_page: OpenPage, screenshot: Screenshot) -> None:
    # Names as in a real chat: the pictures are for people.
    ada, grace, room = "Ada", "Grace", "engine room"
    one = open_page("/demos/chat/", **DESKTOP)
    two = open_page("/demos/chat/", **PHONE)
    enter(one, ada)
    enter(two, grace)
    expect(one.locator(".you")).to_contain_text(ada)

    said(one, "Good morning! The engine is warm.")
    expect(message(two, "The engine is warm").locator(".author")).to_have_text(ada)
    said(two, "Good morning Ada. I found a moth in relay 70, panel F.")
    expect(message(one, "a moth in relay 70").locator(".author")).to_have_text(grace)
    expect(message(one, "The engine is warm").locator(".head")).to_contain_text("(you)")
    expect(message(one, "a moth in relay 70").locator(".head")).not_to_contain_text("(you)")
    expect(message(one, "a moth in relay 70").locator("time")).to_have_text(re.compile(r"\d:\d\d"))

    # Only Ada is in the other room, and what she writes there stays there.
    join(one, room)
    said(one, "Only for this room")
    go_to(one, "lobby")
    said(one, "Splendid. Keep it for the log book!")
    expect(message(two, "Splendid. Keep it for the log book!")).to_have_count(1)
    assert "Only for this room" not in (two.text_content("body") or "")

    # Grace joins by the room's address; a message in a room not looked at counts as unread.
    two.evaluate("hash => { location.hash = hash }", f"room={room}")
    expect(two.get_by_role("heading", name=room)).to_be_visible()
    expect(two.locator("[aria-busy]")).to_have_count(0)
    go_to(two, "lobby")
    go_to(one, room)
    said(one, "Is anybody here?")
    expect(two.get_by_role("button", name=f"{room} 1 unread")).to_be_visible()
    expect(two).to_have_title(re.compile(r"^\(1\)"))
    go_to(two, room)
    expect(message(two, "Is anybody here?").locator(".author")).to_have_text(ada)
    expect(two).to_have_title(re.compile("^Chat"))

    # Who leaves hears nothing more.
    two.get_by_role("button", name="Leave room").click()
    expect(two.get_by_role("heading", name="lobby")).to_be_visible()
    said(two, "It is taped in already, with the date.")
    said(one, "Still somebody here?")
    said(two, "See you at the demonstration at noon.")
    expect(two.get_by_role("complementary")).not_to_contain_text(room)
    assert "Still somebody here?" not in (two.text_content("body") or "")

    go_to(one, "lobby")
    screenshot(one, "chat")
    assert fits(two)
    screenshot(two, "chat-phone")


MARKUP = '<img src=x onerror="window.hit=1"><script>window.hit=1</script><b>bold</b>'


def test_markup_is_shown_as_text(open_page: OpenPage, service: Service) -> None:
    page = open_page(room_address(MARKUP[:60]))
    enter(page, "<b>Eve</b>")
    said(page, MARKUP)
    publish(service, "chat", "lobby", text_message(MARKUP), user_id=MARKUP)
    publish(service, "chat", "lobby", {"data": {"text": MARKUP, "id": MARKUP}}, {"data": {"html": MARKUP}})
    go_to(page, "lobby")
    expect(log(page).locator(".message")).to_have_count(3)
    expect(log(page).locator(".author").first).to_have_text(MARKUP)
    expect(log(page).locator(".text").nth(1)).to_have_text(MARKUP)
    expect(page.locator("#you")).to_have_text("<b>Eve</b>")
    assert page.locator("main img, main script, main b").count() == 0
    assert page.evaluate("window.hit") is None

    stream = open_page("/demos/logstream/")
    expect(stream.locator("#status")).to_have_text("Live")
    publish(service, "stream", "stream", text_message(MARKUP))
    expect(stream.locator(".line span")).to_have_text(MARKUP)
    assert stream.locator("#lines img, #lines script, #lines b").count() == 0
    assert stream.evaluate("window.hit") is None


def test_a_name_of_an_account_is_refused_and_another_works(
    open_troubled: Callable[..., Page], service: Service
) -> None:
    page = open_troubled(service, "/demos/chat/")
    page.get_by_label("Your name").fill("admin")
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_role("alert").filter(has_text="account")).to_be_visible()
    expect(page.get_by_label("Your name")).to_be_focused()
    expect(page.get_by_label("Your name")).to_have_attribute("aria-invalid", "true")
    enter(page, unique("somebody"))
    said(page, "I came in by another name")


def test_an_empty_name_is_asked_for(open_page: OpenPage) -> None:
    page = open_page("/demos/chat/")
    page.get_by_label("Your name").fill("   ")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Write a name first.")).to_be_visible()
    expect(message_box(page)).to_be_hidden()


def test_somebody_signed_in_chats_under_the_account_s_name(open_page: OpenPage, service: Service) -> None:
    name = unique("pat")
    session = service.python(
        "from django.contrib.auth.models import User\n"
        "from django.test import Client\n"
        f"client = Client(); client.force_login(User.objects.create_user({name!r}))\n"
        "print(client.cookies['sessionid'].value)"
    )
    other = open_page("/demos/chat/")
    enter(other, unique("visitor"))
    page = open_page("/demos/chat/")
    page.context.add_cookies([{"name": "sessionid", "value": session, "url": service.endpoint}])
    page.reload()
    expect(page.get_by_label("You are signed in as")).to_have_value(name)
    page.get_by_role("button", name="Enter").click()
    expect(message_box(page)).to_be_focused()
    said(page, "Signed in and here")
    expect(message(other, "Signed in and here").locator(".author")).to_have_text(name)


def test_a_reload_keeps_name_and_rooms(open_page: OpenPage) -> None:
    name, room = unique("Ada"), unique("engine")
    page = open_page("/demos/chat/")
    enter(page, name)
    join(page, room)
    page.reload()
    expect(page.get_by_role("heading", name=room)).to_be_visible()
    expect(page.locator("#you")).to_have_text(name)
    expect(page.get_by_role("button", name="lobby")).to_be_visible()
    page.get_by_role("button", name="Change name").click()
    enter(page, f"{name}-2")
    expect(page.locator("#you")).to_have_text(f"{name}-2")
    said(page, "under the new name")


def test_history_on_the_page_is_bounded(open_page: OpenPage, service: Service) -> None:
    room = unique("busy")
    page = open_page(room_address(room))
    enter(page, unique("reader"))
    publish(service, "chat", room, *(text_message(f"message {number}") for number in range(520)))
    expect(log(page).get_by_text("message 519", exact=True)).to_be_visible()
    expect(log(page).locator(".message")).to_have_count(500)
    expect(log(page).locator(".text").first).to_have_text("message 20")


def test_a_declined_message_says_why(open_troubled: Callable[..., Page], service: Service) -> None:
    room = unique("read-only")
    url = client_url(service, "chat", "webpubsub.joinLeaveGroup", user_id=unique("Ada"))

    def without_the_role(page: Page) -> None:
        page.route("**/api/negotiate/chat*", lambda route: route.fulfill(json={"url": url}))

    page = open_troubled(service, room_address(room), without_the_role)
    enter(page, "Ada")
    say(page, "May I?")
    entry = message(page, "May I?")
    expect(entry).to_have_attribute("data-state", "failed")
    expect(entry.locator(".fate")).to_contain_text("Not sent: The client does not have permission to send to group")
    entry.get_by_role("button", name="Try again").click()
    expect(entry).to_have_attribute("data-state", "failed")
    entry.get_by_role("button", name="Discard").click()
    expect(entry).to_have_count(0)


def test_a_message_whose_ack_was_lost_arrives_once(open_troubled: Callable[..., Page], service: Service) -> None:
    """The service has the message, the answer is lost with the socket: it is asked again, and has done it already."""
    room, ada = unique("room"), unique("Ada")
    acks: list[dict[str, Any]] = []

    def lose_the_first_ack(page: Page) -> None:
        def tap(here: WebSocketRoute) -> None:
            there = here.connect_to_server()
            sends: set[int] = set()

            def outgoing(text: str | bytes) -> None:
                frame = json.loads(text)
                if frame["type"] == "sendToGroup":
                    sends.add(frame["ackId"])
                there.send(text)

            def incoming(text: str | bytes) -> None:
                frame = json.loads(text)
                if frame["type"] == "ack" and frame["ackId"] in sends:
                    acks.append(frame)
                    if len(acks) == 1:
                        here.close(code=1011, reason="cut by the test")
                        there.close()
                        return
                here.send(text)

            here.on_message(outgoing)
            there.on_message(incoming)

        page.route_web_socket("**/client/hubs/**", tap)

    reader = open_troubled(service, room_address(room))
    enter(reader, unique("Grace"))
    writer = open_troubled(service, room_address(room), lose_the_first_ack)
    enter(writer, ada)
    said(writer, "exactly once, please")
    said(writer, "and the next")
    assert [ack["ackId"] for ack in acks] == [acks[0]["ackId"], acks[0]["ackId"], acks[0]["ackId"] + 1]
    assert [ack["success"] for ack in acks] == [True, False, True]
    assert acks[1]["error"]["name"] == "Duplicate"
    expect(message(reader, "and the next")).to_have_count(1)
    expect(message(reader, "exactly once, please")).to_have_count(1)
    expect(message(writer, "exactly once, please")).to_have_count(1)


def test_the_service_goes_and_comes_back(
    open_troubled: Callable[..., Page], data_dir: Path, screenshot: Screenshot
) -> None:
    service = Service(data_dir).set_up()
    try:
        service.start()
        one = open_troubled(service, "/demos/chat/")
        two = open_troubled(service, "/demos/chat/")
        stream = open_troubled(service, "/demos/logstream/")
        enter(one, "Ada")
        enter(two, "Grace")
        join(one, "engine")
        expect(stream.locator("#status")).to_have_text("Live")
        go_to(one, "lobby")

        service.stop()
        for page in (one, two, stream):
            expect(page.get_by_text("Connection lost. Trying again…")).to_be_visible()
        say(one, "written while the service was gone")
        entry = message(one, "written while the service was gone")
        expect(entry).to_have_attribute("data-state", "waiting")
        expect(entry).to_contain_text("Waiting for the connection")
        say(one, "thought better of it")
        message(one, "thought better of it").get_by_role("button", name="Discard").click()
        screenshot(one, "chat-connection-lost")

        service.start()
        for page in (one, two, stream):
            # Pressed by script: it may go away at any moment, since the page tries by itself as well.
            page.evaluate("document.querySelector('#banner button').click()")
            expect(page.get_by_text("Connection lost. Trying again…")).to_be_hidden()
        expect(entry).to_have_attribute("data-state", "sent")
        # The sessions were in the process that went: the pages say so.
        lost = re.compile("The session could not be recovered. You were not connected from .* is missing here")
        expect(log(one).locator(".note")).to_contain_text(lost)
        expect(stream.locator("#lines .note")).to_contain_text(lost)

        # Both are in their rooms again.
        expect(two.locator("[aria-busy]")).to_have_count(0)
        said(one, "here again")
        expect(message(two, "here again").locator(".author")).to_have_text("Ada")
        assert message(two, "thought better of it").count() == 0
        publish(service, "chat", "engine", text_message("into the other room"))
        expect(one.get_by_role("button", name="engine 1 unread")).to_be_visible()
        expect(stream.locator("#status")).to_have_text("Live")
        publish(service, "stream", "stream", text_message("after the restart"))
        expect(stream.locator(".line span")).to_have_text("after the restart")
    finally:
        service.stop()


def test_the_chat_works_by_keyboard_alone(open_page: OpenPage) -> None:
    room = unique("engine")
    page = open_page("/demos/chat/")
    keys = page.keyboard

    def focused() -> str:
        return str(
            page.evaluate(
                "(e => e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent)"
                "(document.activeElement).trim()"
            )
        )

    def tab_to(name: str, key: str = "Tab") -> None:
        for _ in range(20):
            if focused() == name:
                return
            keys.press(key)
        raise AssertionError(f"{key} does not lead to {name!r}; it ended on {focused()!r}")

    expect(page.get_by_label("Your name")).to_be_focused()
    keys.type(unique("Ada"))
    keys.press("Enter")
    expect(message_box(page)).to_be_focused()
    keys.type("first line")
    keys.press("Shift+Enter")
    keys.type("second line")
    keys.press("Enter")
    expect(message(page, "first line").locator(".text")).to_have_text("first line\nsecond line", use_inner_text=True)
    expect(message_box(page)).to_have_value("")
    expect(message_box(page)).to_be_focused()

    tab_to("New room", "Shift+Tab")
    keys.press("Enter")
    expect(page.get_by_label("Room name")).to_be_focused()
    keys.press("Escape")
    expect(page.get_by_label("Room name")).to_be_hidden()
    assert focused() == "New room"
    keys.press("Enter")
    expect(page.get_by_label("Room name")).to_be_focused()
    keys.type(room)
    keys.press("Enter")
    expect(page.get_by_role("heading", name=room)).to_be_visible()
    expect(message_box(page)).to_be_focused()
    tab_to(f"Messages in {room}", "Shift+Tab")
    tab_to("Leave room", "Shift+Tab")
    tab_to("lobby", "Shift+Tab")
    keys.press("Enter")
    expect(page.get_by_role("heading", name="lobby")).to_be_visible()
    expect(message(page, "first line")).to_have_attribute("data-state", "sent")


def test_the_first_stop_of_the_keyboard_leads_past_the_bar(open_page: OpenPage) -> None:
    page = open_page("/demos/logstream/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Pause")).to_be_focused()


def test_long_words_fit_a_phone(open_page: OpenPage, service: Service) -> None:
    room = unique("x" * 50)
    page = open_page(room_address(room), **PHONE)
    enter(page, "W" * 64)
    said(page, "supercalifragilistic" * 40)
    publish(service, "chat", room, {"data": {"text": "M" * 12_000}}, user_id="u" * 200)
    expect(message(page, "12,000 characters in all")).to_be_visible()
    page.get_by_label("New room", exact=True).click()
    assert fits(page)
    stream = open_page("/demos/logstream/", **PHONE)
    expect(stream.locator("#status")).to_have_text("Live")
    publish(service, "stream", "stream", text_message("y" * 5_000))
    expect(stream.locator(".line")).to_be_visible()
    assert fits(stream)


def test_a_busy_service_is_asked_again_later(open_troubled: Callable[..., Page], service: Service) -> None:
    asked = []

    def busy_at_first(page: Page) -> None:
        def answer(route: Route) -> None:
            asked.append(route.request.url)
            if len(asked) > 1:
                route.continue_()
            else:
                route.fulfill(status=429, headers={"Retry-After": "2"}, json={"message": "Asked too often."})

        page.route("**/api/negotiate/chat*", answer)

    page = open_troubled(service, "/demos/chat/", busy_at_first)
    page.get_by_label("Your name").fill("Ada & Co")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No connection yet. Trying again…")).to_be_visible()
    expect(page.get_by_text("Asked too often.")).to_be_visible()
    expect(message_box(page)).to_be_focused()
    expect(page.get_by_text("Trying again…")).to_be_hidden()
    expect(page.locator("#you")).to_have_text("Ada & Co")
    assert len(asked) == 2


def test_a_connection_that_fell_silent_is_noticed(open_troubled: Callable[..., Page], service: Service) -> None:
    """A dead network closes no socket: frames just stop. The page asks, gets no answer, and connects anew."""
    dead = False

    def cut(page: Page) -> None:
        page.clock.install()

        def tap(here: WebSocketRoute) -> None:
            there = here.connect_to_server()
            there.on_message(lambda text: None if dead else here.send(text))

        page.route_web_socket("**/client/hubs/**", tap)

    page = open_troubled(service, "/demos/chat/", cut)
    enter(page, unique("Ada"))
    page.clock.fast_forward(30_000)
    said(page, "Pings are answered")
    dead = True
    page.clock.fast_forward(26_000)
    page.clock.fast_forward(16_000)
    expect(page.get_by_text("Connection lost. Trying again…")).to_be_visible()
    dead = False
    said(page, "Back again")
    expect(page.get_by_text("Connection lost. Trying again…")).to_be_hidden()


# The log stream


def test_log_stream_shows_what_its_program_publishes(
    open_page: OpenPage, service: Service, tmp_path: Path, screenshot: Screenshot
) -> None:
    page = open_page("/demos/logstream/", **DESKTOP)
    expect(page.locator("#status")).to_have_text("Live")
    lines = [f"2026-11-22 10:15:{second:02} INFO  worker: job {second} done" for second in range(12)]
    lines += ["\x1b[33mWARN\x1b[0m   disk 91% full", "  indented, with ünïcode → ✓"]
    run_snippet(page, "publish-lines", service, tmp_path, stdin="\n".join(lines) + "\n")
    expect(page.locator(".line span")).to_have_text([*lines[:12], "WARN   disk 91% full", lines[13]])
    expect(page.locator("#count")).to_have_text("14 lines")
    screenshot(page, "logstream")


def test_log_stream_takes_every_kind_of_data(open_page: OpenPage, service: Service) -> None:
    page = open_page("/demos/logstream/")
    expect(page.locator("#status")).to_have_text("Live")
    publish(
        service,
        "stream",
        "stream",
        {"data": "json text"},
        {"data": {"level": "info", "n": 1}},
        {"dataType": "binary", "data": "AQIDBA=="},
        text_message(""),
    )
    expect(page.locator(".line span")).to_have_text(
        ["json text", '{"level":"info","n":1}', "(binary data, 4 bytes)", ""]
    )


def test_log_stream_pauses_clears_and_is_bounded(open_page: OpenPage, service: Service) -> None:
    page = open_page("/demos/logstream/")
    expect(page.locator("#status")).to_have_text("Live")
    publish(service, "stream", "stream", text_message("before"))
    expect(page.locator(".line span")).to_have_text("before")

    page.get_by_role("button", name="Pause").click()
    publish(service, "stream", "stream", text_message("meanwhile"))
    expect(page.locator("#count")).to_have_text("2 lines, 1 waiting")
    expect(page.locator(".line span")).to_have_text("before")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".line span")).to_have_text(["before", "meanwhile"])

    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".line")).to_have_count(0)
    expect(page.locator("#count")).to_have_text("0 lines")

    # More than the page holds, while it is paused: what was dropped is counted.
    page.get_by_role("button", name="Pause").click()
    # In two parts, as a reliable client may leave a thousand unacknowledged.
    for start, end in ((0, 550), (550, 1_100)):
        publish(service, "stream", "stream", *(text_message(f"line {number}") for number in range(start, end)))
        expect(page.locator("#count")).to_contain_text(f"{end:,} lines, ")
    expect(page.locator("#count")).to_have_text("1,100 lines, the last 1,000 kept, 1,000 waiting")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#lines > *")).to_have_count(1_000)
    expect(page.locator(".line span").last).to_have_text("line 1099")
    expect(page.locator("#lines > *").first).to_contain_text("101 lines were not kept")


def test_log_stream_says_when_it_may_not_join(open_troubled: Callable[..., Page], service: Service) -> None:
    url = client_url(service, "stream")

    def without_the_role(page: Page) -> None:
        page.route("**/api/negotiate/stream*", lambda route: route.fulfill(json={"url": url}))

    page = open_troubled(service, "/demos/logstream/", without_the_role)
    expect(page.locator("#status")).to_contain_text(
        "Cannot join the group: The client does not have permission to join group"
    )
