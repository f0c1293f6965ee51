"""The staff pages in a real browser: keys, the Client URL Generator, role grants."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.running import PATIENCE, Service

PASSWORD = "correct horse battery staple"

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of this module's own, since keys are regenerated here."""
    running = Service(
        tmp_path_factory.mktemp("admin"), env={"ADMIN_USERNAME": "ada", "ADMIN_PASSWORD": PASSWORD}
    ).set_up()
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(scope="module")
def cookies() -> dict[str, Any]:
    """What the browser keeps of the last sign-in."""
    return {}


@pytest.fixture
def signed_in(open_page: OpenPage, cookies: dict[str, Any]) -> OpenPage:
    """`signed_in(path)`: a page for the administrator, who came there by way of the sign-in form unless signed in."""

    def sign_in(path: str, **options: object) -> Page:
        kept = {"storage_state": cookies} if cookies else {}
        page = open_page(path, permissions=["clipboard-read", "clipboard-write"], **kept, **options)
        if "/login/" in page.url:
            page.locator("input[name=username]").fill("ada")
            page.locator("input[name=password]").fill(PASSWORD)
            page.get_by_role("button", name="Log in").click()
            page.wait_for_url(f"**{path}")
            cookies.update(page.context.storage_state())
        expect.set_options(timeout=PATIENCE * 1000)
        return page

    return sign_in


def clipboard(page: Page) -> str:
    return str(page.evaluate("navigator.clipboard.readText()"))


def expect_copied(page: Page, expected: str) -> None:
    """The button says so first, or the clipboard has it first: wait for what the regular expression says there."""
    deadline = time.monotonic() + PATIENCE
    while not re.fullmatch(expected, clipboard(page)):
        assert time.monotonic() < deadline, "the clipboard holds something else"
        page.wait_for_timeout(50)


def keys_of(service: Service) -> tuple[str, str]:
    shown = service.manage_json("key", "show")
    return shown["primaryKey"], shown["secondaryKey"]


def test_keys_are_revealed_and_copied(
    service: Service, signed_in: OpenPage, screenshot: Callable[[Page, str], None]
) -> None:
    page = signed_in("/admin/hubs/accesskey/")
    primary, secondary = keys_of(service)
    assert primary not in page.content()
    assert secondary not in page.content()
    screenshot(page, "admin-keys")

    row = page.get_by_label("Primary key")
    row.get_by_role("button", name="Copy key").click()
    expect(row.get_by_role("button", name="Copied")).to_be_visible()
    expect_copied(page, re.escape(primary))
    assert primary not in page.content()  # copied without being shown
    row.get_by_role("button", name="Copy connection string").click()
    expect_copied(page, re.escape(f"Endpoint={service.endpoint};AccessKey={primary};Version=1.0;"))

    row.get_by_role("button", name="Reveal").first.click()
    expect(row.get_by_text(primary, exact=True)).to_be_visible()
    assert secondary not in page.content()
    row.get_by_role("button", name="Hide").click()
    expect(row.get_by_text(primary, exact=True)).to_have_count(0)
    page.get_by_role("button", name="Copy", exact=True).click()
    expect_copied(page, re.escape(service.endpoint))


def test_a_key_is_regenerated_after_a_question(service: Service, signed_in: OpenPage) -> None:
    page = signed_in("/admin/hubs/accesskey/")
    primary, secondary = keys_of(service)
    row = page.get_by_label("Secondary key")
    row.get_by_role("link", name="Regenerate…").click()
    expect(page.get_by_text("Connections that are open now stay open.")).to_be_visible()
    page.get_by_role("link", name="Leave it as it is").click()
    expect(page.get_by_label("Secondary key")).to_be_visible()
    assert keys_of(service) == (primary, secondary)

    page.get_by_label("Secondary key").get_by_role("link", name="Regenerate…").click()
    page.get_by_role("button", name="Regenerate the secondary key").click()
    expect(page.get_by_text("There is a new secondary key of the service.")).to_be_visible()
    new_primary, new_secondary = keys_of(service)
    assert new_primary == primary
    assert new_secondary != secondary


def test_keys_limited_to_a_hub_come_and_go(service: Service, signed_in: OpenPage) -> None:
    page = signed_in("/admin/hubs/accesskey/")
    page.get_by_role("link", name="Add keys limited to a hub").click()
    page.get_by_label("Hub").fill("7up")
    page.get_by_role("button", name="Make the keys").click()
    expect(page.get_by_text("Start with a letter")).to_be_visible()
    page.get_by_label("Hub").fill("Partner")
    page.get_by_role("button", name="Make the keys").click()
    own = page.get_by_label("Hub partner")
    expect(own.get_by_role("button", name="Copy key")).to_have_count(2)
    own.get_by_role("link", name="Delete keys").click()
    page.get_by_role("button", name="Delete both keys").click()
    expect(page.get_by_text("Hub partner has no keys of its own any more")).to_be_visible()


def test_somebody_signed_out_meanwhile_is_told(service: Service, signed_in: OpenPage) -> None:
    page = signed_in("/admin/hubs/accesskey/")
    page.context.clear_cookies(name="sessionid")
    row = page.get_by_label("Primary key")
    row.get_by_role("button", name="Reveal").first.click()
    expect(row.get_by_text("You are signed out. Load the page again.")).to_be_visible()


def test_a_client_url_is_made_copied_and_tried(
    signed_in: OpenPage, service: Service, screenshot: Callable[[Page, str], None]
) -> None:
    page = signed_in("/admin/client-url/")
    expect(page.get_by_label("Hub")).to_have_value("chat")
    patterns = page.get_by_label("Which groups it may send to")
    expect(patterns).to_be_hidden()
    page.get_by_label("User id").fill("ann")
    page.get_by_label("Send To Groups").check()
    patterns.fill("stream, room.*")
    page.get_by_label("Join/Leave Groups").check()
    page.get_by_label("Initial groups").fill("lobby")
    page.get_by_role("button", name="Generate").click()

    expect(page.get_by_role("button", name="Copy URL")).to_be_visible()
    screenshot(page, "admin-client-url")
    page.get_by_role("button", name="Copy URL").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    base = f"ws://localhost:{service.port}/client/hubs/chat"
    expect_copied(page, re.escape(base) + r"\?access_token=[\w-]+\.[\w-]+\.[\w-]+")
    claims = json.loads(page.locator("#claims").inner_text())
    assert claims["sub"] == "ann"
    assert claims["role"] == [
        "webpubsub.sendToGroup.stream",
        "webpubsub.sendToGroups.room.*",
        "webpubsub.joinLeaveGroup",
    ]
    assert claims["webpubsub.group"] == ["lobby"]
    # The form keeps what was asked for, to make another.
    expect(patterns).to_have_value("stream, room.*")
    page.get_by_text("Try it", exact=True).click()
    page.get_by_role("button", name="Connect", exact=True).click()
    log = page.get_by_label("Frames")
    expect(log.get_by_text('"event":"connected"')).to_be_visible()
    expect(log.get_by_text('"userId":"ann"')).to_be_visible()
    page.get_by_role("button", name="Send", exact=True).click()
    expect(log.get_by_text('"type":"ack"')).to_be_visible()
    page.get_by_role("button", name="Disconnect").click()
    expect(page.get_by_text("Closed (")).to_be_visible()


def test_the_generator_says_what_is_wrong(signed_in: OpenPage) -> None:
    page = signed_in("/admin/client-url/")
    page.get_by_label("Hub").fill("no spaces please")
    page.get_by_label("Lifetime in minutes").fill("0")
    page.get_by_label("Send To Groups").check()
    page.get_by_label("Which groups it may send to").fill("a*b*c*d*e*f*")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("Not a group name or pattern")).to_be_visible()
    expect(page.get_by_text("greater than or equal to 1")).to_be_visible()
    page.get_by_label("Lifetime in minutes").fill("5")
    page.get_by_label("Which groups it may send to").fill("a*")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("Not a hub name: start with a letter")).to_be_visible()


def test_a_role_grant_asks_for_what_matters(service: Service, signed_in: OpenPage) -> None:
    page = signed_in("/admin/hubs/rolegrant/add/")
    user, group = page.locator(".field-user"), page.locator(".field-group")
    who = page.locator("#id_who")
    expect(who).to_have_value("user")
    expect(user).to_be_visible()
    expect(group).to_be_hidden()
    who.select_option("group")
    expect(user).to_be_hidden()
    expect(group).to_be_visible()
    who.select_option("user")
    user.get_by_role("combobox").click()
    page.get_by_role("searchbox").fill("ad")
    page.get_by_role("option", name="ada").click()
    # Somebody changes their mind: the user that was chosen is not sent along.
    who.select_option("authenticated")
    page.locator("#id_role").select_option("joinLeaveGroup")
    page.locator("#id_group_pattern").fill("room.*")
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url("**/admin/hubs/rolegrant/")
    expect(page.get_by_role("link", name="Everyone signed in").first).to_be_visible()


def test_event_handlers_are_set_up_on_their_hubs_page(
    service: Service, signed_in: OpenPage, screenshot: Callable[[Page, str], None]
) -> None:
    pair = ("--event-handler", "url-template=https://a.example/", "--event-handler", "url-template=https://b.example/")
    service.manage("webpubsub", "hub", "create", "events", *pair)
    page = signed_in("/admin/hubs/hub/?q=events")
    page.get_by_role("link", name="events", exact=True).click()
    tab = page.get_by_role("link", name="Event handlers", exact=True)
    tab.click()
    # The second is dragged above the first.
    lines = page.locator("#event_handlers-data > .original")
    expect(lines).to_have_text([re.compile(r"https://a\.example/"), re.compile(r"https://b\.example/")])
    grip, first = (line.get_by_text("drag_indicator").bounding_box() for line in (lines.nth(1), lines.nth(0)))
    assert grip is not None
    assert first is not None
    page.mouse.move(grip["x"] + 5, grip["y"] + 5)
    page.mouse.down()
    page.mouse.move(grip["x"] + 5, grip["y"], steps=5)
    expect(page.locator(".sortable-ghost")).to_have_count(1)
    page.mouse.move(first["x"] + 5, first["y"] - 5, steps=10)
    expect(lines.nth(0)).to_contain_text("https://b.example/")
    page.mouse.up()
    expect(page.locator("#id_event_handlers-1-position")).to_have_value("0")
    # A line opens by keyboard, too; a new one by itself.
    page.locator("h3").filter(has_text="https://b.example/").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#id_event_handlers-1-url_template")).to_be_visible()
    page.get_by_text("Add another Event handler").click()
    row = "#id_event_handlers-2-"
    page.locator(f"{row}url_template").fill("https://c.example/{user}")
    page.locator(f"{row}on_connect").check()
    page.locator(f"{row}user_event_pattern").fill("*")
    page.locator(f"{row}auth_type").select_option("bearer")
    page.locator(f"{row}new_token").fill("s3cret-t0ken")
    save = page.get_by_role("button", name="Save and continue editing")
    save.click()
    expect(page.get_by_text("The only parameters are {hub} and {event}")).to_be_visible()
    page.locator(f"{row}url_template").fill("https://c.example/{event}")
    # What was typed in as a secret does not come back with the page.
    expect(page.locator(f"{row}new_token")).to_have_value("")
    page.locator(f"{row}new_token").fill("s3cret-t0ken")
    save.click()
    expect(page.get_by_text("was changed successfully")).to_be_visible()
    tab.click()
    page.get_by_role("button", name="https://c.example/").click()
    expect(page.get_by_text("It is not shown again; to keep it, leave this empty.")).to_be_visible()
    assert "s3cret" not in page.content()
    screenshot(page, "admin-event-handlers")
    shown = service.manage_json("hub", "show", "events")["properties"]["eventHandlers"]
    assert [handler["urlTemplate"] for handler in shown] == [
        "https://b.example/",
        "https://a.example/",
        "https://c.example/{event}",
    ]
    assert shown[2]["auth"] == {"type": "Bearer"}

    page.get_by_role("link", name="Calls to event handlers").click()
    page.wait_for_url("**/admin/hubs/handlercall/?hub=events")
    expect(page.get_by_text("The latest calls to event handlers")).to_be_visible()


def test_a_hub_gets_role_grants_in_its_own_form(service: Service, signed_in: OpenPage) -> None:
    page = signed_in("/admin/hubs/hub/add/")
    page.locator("#id_name").fill("newsroom")
    page.get_by_text("Add another Role grant").click()
    row = "#id_role_grants-0-"
    user, group = (page.locator(f"{row}{name} + .select2-container") for name in ("user", "group"))
    expect(user).to_be_visible()
    expect(group).to_be_hidden()
    page.locator(f"{row}who").select_option("group")
    expect(user).to_be_hidden()
    expect(group).to_be_visible()
    page.locator(f"{row}who").select_option("anonymous")
    page.locator(f"{row}role").select_option("sendToGroup")
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url("**/admin/hubs/hub/")
    expect(page.locator("#result_list").get_by_role("link", name="newsroom")).to_be_visible()
    code = "from hubs.models import RoleGrant; print(*RoleGrant.objects.filter(hub__name='newsroom'))"
    assert service.python(code) == "visitors who are not signed in may send to groups: all"


EVERY_PAGE = [
    "/admin/",
    "/admin/hubs/accesskey/",
    "/admin/hubs/accesskey/add/",
    "/admin/client-url/",
    "/admin/hubs/hub/",
    "/admin/hubs/hub/add/",
    "/admin/hubs/rolegrant/",
    "/admin/hubs/handlercall/",
    "/admin/auth/user/",
    "/admin/auth/user/add/",
    "/admin/auth/user/1/change/",
    "/admin/auth/user/1/password/",
    "/admin/auth/user/1/delete/",
    "/admin/auth/user/1/history/",
    "/admin/auth/group/add/",
    "/admin/authtoken/tokenproxy/",
    "/admin/password_change/",
]


def test_the_pages_keep_to_their_content_policy(browser: Browser, service: Service, signed_in: OpenPage) -> None:
    """A violation is an error in the console, and those fail every test of this module; here all pages are opened."""
    page = signed_in("/admin/")
    for path in EVERY_PAGE:
        answer = page.goto(path)
        assert answer is not None
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self' 'unsafe-eval';" in policy
        # Alpine has begun, or the page would stay hidden.
        expect(page.locator("body")).to_be_visible()
    # It is in force: a script that strangers might get into a page does not run. In a page of its own, for the console.
    context = browser.new_context(base_url=service.endpoint, storage_state=page.context.storage_state())
    elsewhere = context.new_page()
    elsewhere.goto("/admin/")
    ran = elsewhere.evaluate(
        """() => new Promise((done) => {
            document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            if (window.ran) done("it ran");
        })"""
    )
    context.close()
    assert ran == "script-src-elem"


def test_theme_search_sidebar_and_actions_work_under_the_policy(signed_in: OpenPage) -> None:
    page = signed_in("/admin/auth/user/")
    page.get_by_text("unfold_more").click()
    page.get_by_text("Dark", exact=True).click()
    expect(page.locator("html")).to_have_class(re.compile(r"\bdark\b"))
    page.reload()
    expect(page.locator("html")).to_have_class(re.compile(r"\bdark\b"))
    menu = page.get_by_role("link", name="Handler calls")
    expect(menu).to_be_visible()
    page.get_by_text("dock_to_right").locator("visible=true").click()
    expect(menu).to_be_hidden()
    page.get_by_text("filter_list").locator("visible=true").click()
    expect(page.get_by_text("By superuser status")).to_be_visible()
    page.goto("/admin/auth/user/")
    page.locator("input[name=q]").fill("ada")
    page.keyboard.press("Enter")
    page.wait_for_url("**/admin/auth/user/?q=ada")
    page.locator("input[name=_selected_action]").check()
    page.get_by_label("Select action to run").select_option("forget_failed_sign_ins")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_text("Failed sign-ins forgotten for: ada.")).to_be_visible()
