"""A real Chromium, driven by Playwright."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.running import CHROMIUM_ARGUMENTS, PATIENCE, ROOT, Service, chromium_executable

SCREENSHOTS = ROOT / "test-results" / "screenshots"


# One for each module, not for the session: while it lives, Playwright's own event loop runs in the test's thread,
# and asynchronous tests of other modules could not run there.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_executable(), args=list(CHROMIUM_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def open_page(browser: Browser, service: Service) -> Iterator[Callable[..., Page]]:
    """`open_page(path, **context options)`: a page of its own, as another person would have it.

    A page that logs an error or throws fails its test.
    """
    contexts: list[BrowserContext] = []
    troubles: list[str] = []

    def open_one(path: str, **options: Any) -> Page:
        context = browser.new_context(base_url=service.endpoint, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(f"{page.url}: {error}"))
        page.on("console", lambda line: troubles.append(f"{page.url}: {line.text}") if line.type == "error" else None)
        page.goto(path)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not troubles


@pytest.fixture
def screenshot() -> Callable[[Page, str], None]:
    """`screenshot(page, "chat")`: keep a picture for a person to look at."""

    def take(page: Page, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png")

    return take
