"""The application of docs/asgi-extension.md, as it stands there, on a server with the extension and on one without."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.running import PATIENCE, ROOT, free_port
from tests.servers.direct import EXTENSION

OURS = """
from django.conf import settings
settings.configure(WEBPUBSUB={{}})
from hubs.servers.listening import bind
from hubs.servers.uvicorn import server
from room import application
server(application).run(sockets=bind("127.0.0.1", {port}))
"""
PAGE = (ROOT / "docs/asgi-extension.md").read_text()


@pytest.fixture(params=["ours", "websockets-sansio", "websockets"])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A server that runs the application, by its port."""
    [code] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "room.py").write_text(code)
    port = free_port()
    if request.param == "ours":
        # There is no lifespan in the example; a server of ours wants one.
        (tmp_path / "run.py").write_text(OURS.format(port=port).replace("from room import application", _WITH_LIFESPAN))
        command = [sys.executable, "run.py"]
    else:
        command = [sys.executable, "-m", "uvicorn", "room:application", "--port", str(port), "--ws", request.param]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        _started(port, process, log)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


_WITH_LIFESPAN = """
import room
async def application(scope, receive, send):
    if scope["type"] != "lifespan":
        return await room.application(scope, receive, send)
    for answer in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{answer}.complete"})
"""


def _started(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
        except urllib.error.HTTPError:
            # It serves WebSockets only, and says so.
            return
        except OSError:
            continue
    raise AssertionError(log.read_text())


async def _said(client: ClientConnection) -> str:
    return str(await asyncio.wait_for(client.recv(), PATIENCE))


async def test_everybody_is_told_what_anybody_says(port: int) -> None:
    url = f"ws://127.0.0.1:{port}/"
    async with connect(url) as ann, connect(url) as bob:
        for _ in range(2):
            # Whoever has heard of a client knows that it is there.
            await ann.send("hello?")
            await _said(ann)
        await bob.send("here")
        heard = await _said(bob)
        while heard != "here":
            heard = await _said(bob)
        assert await _said(ann) == "here"
        await bob.close()
        for text in ("a", "x" * 1000, "é" * 100_000):
            await ann.send(text)
            assert await _said(ann) == text


def test_the_page_says_what_the_names_are() -> None:
    assert f"`{EXTENSION}`" in PAGE
    assert f'EXTENSION = "{EXTENSION}"' in PAGE
