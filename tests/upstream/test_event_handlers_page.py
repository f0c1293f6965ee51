"""What docs/event-handlers.md tells its reader to do, done: on a real service, with the stock middleware."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.running import PATIENCE, ROOT, Service, free_port
from tests.service.client import Target
from tests.tutorials.programs import NODE_PROGRAMS, Program

JSON: Any = "json.webpubsub.azure.v1"
PAGE = (ROOT / "docs/event-handlers.md").read_text()


def block(language: str, having: str) -> str:
    """The one program of the page in that language that has this text in it."""
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if having in text]
    return str(found)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service as the page starts it, with the page's Python functions in an app."""
    apps = tmp_path_factory.mktemp("apps")
    app = apps / "page_handlers"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "handlers.py").write_text(block("python", "@chat.on_connect").replace('"chat"', '"functions"'))
    (app / "apps.py").write_text(
        textwrap.dedent("""\
            from django.apps import AppConfig

            class PageConfig(AppConfig):
                name = "page_handlers"

                def ready(self):
                    import page_handlers.handlers
            """)
    )
    env = {"EXTRA_APPS": "page_handlers", "PYTHONPATH": str(apps), "HANDLER_PRIVATE_ADDRESSES": "true"}
    running = Service(tmp_path_factory.mktemp("service"), env=env).set_up()
    try:
        yield running.start()
    finally:
        running.stop()


@contextmanager
def opened(service: Service, hub: str, user_id: str) -> Iterator[ClientConnection]:
    """A client that has been let in."""
    with connect(Target(service.connection_string).url(hub, user=user_id), subprotocols=[JSON]) as socket:
        assert json.loads(socket.recv(PATIENCE))["event"] == "connected"
        yield socket


def handled(service: Service, hub: str) -> None:
    """Wait until the hub's handlers are in force, which takes a moment after a command has changed them."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with opened(service, hub, "somebody") as socket:
            socket.send(json.dumps({"type": "event", "event": "try", "dataType": "text", "data": "", "ackId": 1}))
            while (answer := json.loads(socket.recv(PATIENCE)))["type"] != "ack":
                pass
        if answer["success"]:
            return
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)


def sent(socket: ClientConnection, event: str, text: str, ack_id: int) -> list[Any]:
    """Send an event; gives what comes back before its ack, which has to be a good one."""
    frame = {"type": "event", "event": event, "dataType": "text", "data": text, "ackId": ack_id}
    socket.send(json.dumps(frame))
    messages = []
    while (answer := json.loads(socket.recv(PATIENCE)))["type"] != "ack":
        messages.append((answer["from"], answer["dataType"], answer["data"]))
    assert answer == {"type": "ack", "ackId": ack_id, "success": True}
    return messages


def test_the_program_with_express(service: Service, tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node, "This test needs Node 20 or newer on the PATH. Install it, then run make install-test"
    port = str(free_port())
    (tmp_path / "handler.js").write_text(block("js", "WebPubSubEventHandler").replace("3000", port))
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "node_modules").symlink_to(NODE_PROGRAMS / "node_modules")
    command = next(line for line in PAGE.splitlines() if line.startswith("manage.py webpubsub hub update"))
    program = Program([node, "handler.js"], cwd=tmp_path)
    try:
        assert program.line() == "waiting for events"
        service.manage(*shlex.split(command.replace("3000", port))[1:])
        handled(service, "chat")
        assert re.fullmatch("[0-9a-f]{32} left: .*", program.line())
        with opened(service, "chat", "ann") as ann:
            assert sent(ann, "message", "hello", 1) == [("server", "text", "1: hello")]
            assert sent(ann, "other", "again", 2) == [("server", "text", "2: again")]
        assert re.fullmatch("[0-9a-f]{32} left: .*", program.line())
    finally:
        program.stop()


def test_the_functions(service: Service) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(service, "functions", "banned"):
        pass
    assert (refused.value.response.status_code, refused.value.response.body) == (403, b"You were asked to leave.")
    with opened(service, "functions", "bob") as bob:
        with opened(service, "functions", "ann") as ann:
            assert sent(ann, "shout", "hello", 1) == [("server", "text", "HELLO")]
            assert sent(ann, "say", "hello", 2) == [("group", "json", {"from": "ann", "text": "hello"})]
        heard = [json.loads(bob.recv(PATIENCE))["data"] for _ in range(2)]
    assert heard == [{"from": "ann", "text": "hello"}, "ann left."]


def test_the_mounted_functions() -> None:
    code = block("python", "import webhook").replace(
        "settings.WEB_PUBSUB_CONNECTION_STRING", "'Endpoint=http://a;AccessKey=b;'"
    )
    names: dict[str, Any] = {}
    exec(code.replace('"chat"', '"page"'), names)
    assert names["urlpatterns"][0].resolve("events/chat").func.csrf_exempt
