"""The log streaming tutorial: a web server that negotiates, a page that reads, a program that publishes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from urllib.request import urlopen

import pytest

from tests.running import ROOT, Service
from tests.tutorials.programs import HERE, Program, node, python

SITE = HERE / "logstream"  # the folder with public/ in it, where the tutorial starts its server
SERVERS = {"python": (python, "logstream/server.py"), "node": (node, "logstream/server.js")}
PUBLISHERS = {"python": (python, "logstream/stream.py"), "node": (node, "logstream/stream.js")}
PICTURES = ROOT / "test-results" / "screenshots"


@pytest.mark.parametrize("language", ["python", "node"])
def test_the_page_shows_each_line_that_is_typed(
    language: str, run: Callable[..., Program], service: Service, connection_string: str
) -> None:
    command, program = SERVERS[language]
    site = run(command(program, connection_string, "0"), cwd=SITE)
    address = site.line()
    with urlopen(f"{address}/negotiate") as answer:
        url = json.load(answer)["url"]
    assert url.startswith(f"{service.endpoint.replace('http', 'ws', 1)}/client/hubs/stream?access_token=")

    lines = [f"{language} 10:15:01 INFO worker: done", f"{language} <b>not bold</b>", f"{language}  Grüße 🎈"]
    PICTURES.mkdir(parents=True, exist_ok=True)
    picture = PICTURES / f"tutorial-logstream-{language}.png"
    page = run([sys.executable, "-m", "tests.tutorials.page_reader", address, str(len(lines)), str(picture)], cwd=ROOT)
    assert page.object() == "Live"

    command, program = PUBLISHERS[language]
    publisher = run(command(program, address))
    assert publisher.line() == "connected"
    for line in lines:
        publisher.type(line)
        assert publisher.line() == "sent"
        assert page.object().rstrip("\n") == line
    publisher.end()
    assert page.end() == []
