"""Every snippet of the README, run as printed: only the endpoint and the key are put in.

The packages that the README has its readers install are those that the tests have installed: the virtual environment
sees this one's, and the JavaScript programs see those of `tests/node`. `pip` itself runs, and finds everything there.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright
from websockets.sync.client import connect

from tests.running import CHROMIUM_ARGUMENTS, PATIENCE, ROOT, Service, chromium_executable

NODE = ROOT / "tests" / "node"

# What the README says it is by a word in it → the test that runs it.
RUN_BY = {
    "make run": "tests/test_deploy.py, and CI, which runs both",
    "python3 -m venv": "test_the_first_message_in_python",
    "from azure.messaging": "test_the_first_message_in_python",
    "npm install": "test_the_first_message_in_javascript",
    "new WebPubSubServiceClient": "test_the_first_message_in_javascript",
    "new WebSocket": "test_the_browser_s_plain_websocket",
    "hub update": "test_the_commands",
    "on_event": "test_the_function",
    "key show": "test_the_commands",
}


@cache
def blocks() -> list[tuple[str, str]]:
    """The fenced blocks of the README: (language, text)."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [(str(language), str(text)) for language, text in found]


def block(word: str) -> str:
    """The one block with this word in it."""
    (text,) = [text for _, text in blocks() if word in text]
    return text


def filled(text: str, service: Service) -> str:
    """A program with the connection string put in."""
    printed = "Endpoint=http://localhost:8080;AccessKey=…;Version=1.0;"
    assert text.count(printed) == 1
    return text.replace(printed, service.connection_string)


def ran(command: list[str], **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 4, check=False, **options)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def own_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of this module's own, which has the README's function beside it and gets its commands."""
    beside = tmp_path_factory.mktemp("beside")
    (beside / "shouting.py").write_text(block("on_event"))
    env = {"EXTRA_APPS": "shouting", "PYTHONPATH": str(beside)}
    running = Service(tmp_path_factory.mktemp("readme"), env=env).set_up()
    try:
        yield running.start()
    finally:
        running.stop()


def test_every_snippet_is_run_here() -> None:
    for language, text in blocks():
        assert [word for word in RUN_BY if word in text], f"nothing runs this {language} block:\n{text}"


def test_the_first_message_in_python(service: Service, tmp_path: Path) -> None:
    # As Debian has it: without a virtual environment pip would refuse.
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PIP_NO_INDEX": "1"}
    make, install = block("python3 -m venv").splitlines()
    ran(shlex.split(make), cwd=tmp_path, env=env)
    (packages,) = tmp_path.glob("sdk/lib/python*/site-packages")
    (packages / "installed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    said = ran(shlex.split(install), cwd=tmp_path, env=env)
    assert "already satisfied: azure-messaging-webpubsubservice" in said
    (tmp_path / "first.py").write_text(filled(block("from azure.messaging"), service))
    printed = ran(["sdk/bin/python", "first.py"], cwd=tmp_path)
    frames = [json.loads(line) for line in printed.splitlines()]
    assert [frame["type"] for frame in frames] == ["system", "ack", "message", "ack"]
    assert frames[2]["data"] == "It works!"


def test_the_first_message_in_javascript(service: Service, tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node, "The README's JavaScript needs Node 20 or newer on the PATH. Install it, then run make install-test"
    npm, verb, *packages = block("npm install").split()
    assert (npm, verb) == ("npm", "install")
    assert set(packages) <= set(json.loads((NODE / "package.json").read_text())["dependencies"])
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    program = filled(block("new WebPubSubServiceClient"), service)
    (tmp_path / "first.mjs").write_text(program)
    assert ran([node, "first.mjs"], cwd=tmp_path) == "It works!\n"
    # The option is needed, and nothing else is.
    (tmp_path / "without.mjs").write_text(program.replace(", { allowInsecureConnection: true }", ""))
    refused = subprocess.run(
        [node, "without.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE * 2, check=False
    )
    assert refused.returncode != 0
    assert "while allowInsecureConnection is false" in refused.stderr


def test_the_browser_s_plain_websocket(service: Service) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_executable(), args=list(CHROMIUM_ARGUMENTS))
        page = browser.new_page()
        page.goto(f"{service.endpoint}/")
        lines: list[str] = []
        with page.expect_console_message(
            lambda line: lines.append(line.text) or '"ackId":2' in line.text,  # type: ignore[func-returns-value]
            timeout=PATIENCE * 1000,
        ):
            page.evaluate(f"(async () => {{ {block('new WebSocket')} }})()")
        browser.close()
    frames = [json.loads(line) for line in lines]
    assert (frames[0]["event"], frames[0]["userId"]) == ("connected", "browser")
    assert [frame["data"] for frame in frames if frame["type"] == "message"] == ["It works!"]
    assert all(frame["success"] for frame in frames if frame["type"] == "ack")


def test_the_function(own_service: Service) -> None:
    url = own_service.manage_json("client", "url", "--hub", "chat", "--user-id", "ann")["url"]
    with connect(url, subprotocols=["json.webpubsub.azure.v1"]) as socket:  # type: ignore[list-item]
        socket.recv(PATIENCE)
        event = {"type": "event", "event": "message", "dataType": "text", "data": "It works!"}
        socket.send(json.dumps(event))
        assert json.loads(socket.recv(PATIENCE))["data"] == "IT WORKS!"


def test_the_commands(own_service: Service) -> None:
    commands = [
        shlex.split(line)
        for text in (block("key show"), block("hub update"))
        for line in text.replace("\\\n", " ").splitlines()
    ]
    printed = []
    for command in commands:
        assert command[:2] == [".venv/bin/python", "manage.py"]
        printed.append(ran([sys.executable, *command[1:]], cwd=ROOT, env=own_service.env, input=""))
    keys, url, client, sent, updated = printed
    assert own_service.connection_string in keys
    assert f"ws://localhost:{own_service.port}/client/hubs/chat?access_token=" in url
    assert "onnected" in client
    assert sent is not None
    assert "http://localhost:3000/events" in updated
    (handler,) = own_service.manage_json("hub", "show", "orders")["properties"]["eventHandlers"]
    assert handler["systemEvents"] == ["connect", "disconnected"]
