"""Pages for everybody: axe-core finds nothing critical or serious, and the demos fit on 320 pixels.

Each page is looked at twice without being loaded again: light on a desktop, dark on the narrowest phone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.running import PATIENCE, ROOT, Service

PASSWORD = "correct horse battery staple"
AXE = ROOT / "tests/node/node_modules/axe-core/axe.min.js"

DESKTOP = {"width": 1200, "height": 800}
NARROW = {"width": 320, "height": 640}

HEBREW = "\u05d3\u05d5\u05d3"

ADMIN_PAGES = [
    "/admin/",
    "/admin/hubs/accesskey/",
    "/admin/client-url/",
    "/admin/hubs/hub/",
    "/admin/hubs/hub/add/",
    "/admin/hubs/hub/1/change/",
    "/admin/hubs/hub/1/delete/",
    "/admin/hubs/hub/1/history/",
    "/admin/hubs/rolegrant/",
    "/admin/hubs/rolegrant/add/",
    "/admin/hubs/handlercall/",
    "/admin/auth/user/",
    "/admin/auth/user/add/",
    "/admin/auth/user/1/change/",
    "/admin/auth/user/1/password/",
    "/admin/auth/group/",
    "/admin/auth/group/add/",
    "/admin/authtoken/tokenproxy/",
    "/admin/authtoken/tokenproxy/add/",
    "/admin/password_change/",
]


@cache
def axe() -> str:
    assert AXE.exists(), "axe-core is not installed: npm ci --prefix tests/node"
    return AXE.read_text()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose administrator's password is known."""
    running = Service(
        tmp_path_factory.mktemp("accessible"), env={"ADMIN_USERNAME": "ada", "ADMIN_PASSWORD": PASSWORD}
    ).set_up()
    try:
        yield running.start()
    finally:
        running.stop()


def findings(page: Page) -> list[str]:
    """What axe finds critical or serious, as lines to read."""
    # It is long, and what is looked at again has it.
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe())
    found: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{page.url} {violation['impact']} {violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in ("critical", "serious")
        for node in violation["nodes"]
    ]


def looked_at(page: Page) -> list[str]:
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
    found = findings(page)
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    return found + findings(page)


def width(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth"))


def title_width(page: Page) -> float:
    """How much room the title of an admin page is left with."""
    box = page.locator("h1").first.bounding_box()
    assert box is not None
    return float(box["width"])


def test_axe_finds_what_it_is_to_find(open_page: Callable[..., Page]) -> None:
    """A test that nothing can fail would say nothing."""
    page = open_page("/")
    page.evaluate("document.body.append(document.createElement('button'))")
    assert [line for line in findings(page) if "button-name" in line]


@pytest.mark.parametrize("path", ["/", "/demos/chat/", "/demos/moderated/", "/demos/logstream/"])
def test_the_demo_pages_are_for_everybody(open_page: Callable[..., Page], path: str) -> None:
    page = open_page(path)
    assert looked_at(page) == []
    assert width(page) == NARROW["width"]
    if path not in ("/demos/chat/", "/demos/moderated/"):
        return
    page.get_by_label("Your name").fill(HEBREW)
    page.keyboard.press("Enter")
    field = page.get_by_label("Message", exact=True)
    expect(field).to_be_focused()
    field.fill("drat!")
    field.press("Enter")
    expect(page.locator(".message")).to_have_attribute("data-state", "sent")
    field.fill("x" * 5_000)
    assert looked_at(page) == []
    assert width(page) == NARROW["width"]


def test_the_admin_is_for_everybody(browser: Browser, service: Service) -> None:
    page = browser.new_page(base_url=service.endpoint)
    page.set_default_timeout(PATIENCE * 1000)
    page.goto("/admin/")
    found = looked_at(page)
    page.locator("input[name=username]").fill("ada")
    page.locator("input[name=password]").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/admin/")
    for path in ADMIN_PAGES:
        answer = page.goto(path)
        assert answer is not None
        assert answer.status == 200, path
        found += looked_at(page)
        # As much as the shortest needs: no button beside it pushes it out.
        assert title_width(page) >= 60, path
    page.goto("/admin/hubs/hub/?q=moderated")
    page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
    page.get_by_role("link", name="moderated", exact=True).first.click()
    page.get_by_role("link", name="Event handlers", exact=True).click()
    expect(page.get_by_text("hubs.demos.moderation.come_in")).to_be_visible()
    found += looked_at(page)
    # A field that a script adds later has a name, too.
    page.goto("/admin/hubs/hub/1/change/")
    page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
    page.get_by_text("Add another Role grant").click()
    found += findings(page)
    page.context.close()
    assert found == []


# What is too long, and what runs from right to left


@pytest.mark.parametrize("path", ["/demos/chat/", "/demos/moderated/"])
def test_a_paste_that_is_too_long_is_refused_aloud(open_page: Callable[..., Page], path: str) -> None:
    page = open_page(path, permissions=["clipboard-read", "clipboard-write"])
    name = page.get_by_label("Your name")
    name.fill("n" * 65)
    page.keyboard.press("Enter")
    expect(page.locator("#name-trouble")).to_have_text("The name has 65 characters; the limit is 64. Shorten it.")
    assert len(name.input_value()) == 65
    name.fill("Grace")
    page.keyboard.press("Enter")
    field = page.get_by_label("Message", exact=True)
    expect(field).to_be_focused()

    page.evaluate("navigator.clipboard.writeText('x'.repeat(4001))")
    page.keyboard.press("Control+v")
    notice = page.locator("#notice")
    refusal = "The message has 4,001 characters; the limit is 4,000. Shorten it."
    expect(notice).to_have_text(refusal)
    expect(notice).to_have_attribute("role", "status")
    expect(field).to_have_attribute("aria-invalid", "true")
    assert len(field.input_value()) == 4001
    page.keyboard.press("Enter")
    expect(notice).to_have_text(refusal)
    expect(page.locator(".message")).to_have_count(0)
    page.keyboard.press("Backspace")
    expect(notice).to_have_text("")
    page.keyboard.press("Enter")
    expect(page.locator(".message")).to_have_attribute("data-state", "sent")
    assert page.locator(".message .text").inner_text() == "x" * 4000
    # Counted as the service counts: an emoji is one character.
    field.fill("\N{GRINNING FACE}" * 4000)
    page.keyboard.press("Enter")
    expect(page.locator(".message")).to_have_count(2)
    expect(page.locator(".message").last).to_have_attribute("data-state", "sent")


def test_names_from_right_to_left_turn_nothing_around(open_page: Callable[..., Page]) -> None:
    page = open_page(f"/demos/chat/#room={HEBREW}")
    page.get_by_label("Your name").fill(HEBREW)
    page.keyboard.press("Enter")
    field = page.get_by_label("Message", exact=True)
    expect(field).to_be_focused()
    field.fill(f"{HEBREW} 1")
    field.press("Enter")
    expect(page.locator(".message")).to_have_attribute("data-state", "sent")
    for names in (".author", "#you", ".room-label"):
        for name in page.locator(names).all():
            assert name.evaluate("element => getComputedStyle(element).unicodeBidi") == "isolate", names
    assert page.locator("#room-title").evaluate("element => getComputedStyle(element).direction") == "rtl"
    assert page.locator(".text").evaluate("element => getComputedStyle(element).direction") == "rtl"
    # The name, "(you)" and the time stand in the order of the page, from left to right.
    lefts = [
        page.locator(f".message {part}").bounding_box()["x"]  # type: ignore[index]
        for part in (".author", ".mine", ".time")
    ]
    assert lefts == sorted(lefts)
