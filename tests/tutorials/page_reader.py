"""Somebody who looks at the log stream's page in Chromium and tells what is there, line by line.

    python -m tests.tutorials.page_reader ADDRESS LINES PICTURE

A process of its own, because Playwright would leave a running loop in the tests' thread. Anything the page
throws or logs as an error, and any request that fails, is the reader's failure too.
"""

from __future__ import annotations

import json
import sys

from playwright.sync_api import expect, sync_playwright

from tests.running import CHROMIUM_ARGUMENTS, PATIENCE, chromium_executable


def read(address: str, lines: int, picture: str) -> None:
    expect.set_options(timeout=PATIENCE * 1000)
    troubles: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_executable(), args=list(CHROMIUM_ARGUMENTS))
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
        page.goto(address)
        expect(page.locator("#status")).to_have_text("Live")
        print(json.dumps("Live"))
        shown = page.locator("#output pre")
        for place in range(lines):
            print(json.dumps(shown.nth(place).text_content()))
        expect(shown).to_have_count(lines)
        expect(page.locator("#status")).to_have_text("Live")
        page.screenshot(path=picture)
        browser.close()
    if troubles:
        sys.exit("\n".join(troubles))


read(sys.argv[1], int(sys.argv[2]), sys.argv[3])
