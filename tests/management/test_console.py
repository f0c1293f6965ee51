"""The console client against a real service: from a pipe, and at a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.server import Server, ServerConnection, serve

from tests.running import PATIENCE, ROOT, Service, free_port

JSON = "json.webpubsub.azure.v1"


@pytest.fixture
def hub() -> str:
    """A hub of the test's own, which needs no settings."""
    return f"console{uuid.uuid4().hex[:12]}"


def start(service: Service, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return service.manage("webpubsub", "client", "start", *words, check=False, stdin=typed)


def test_lines_from_a_pipe_are_done_in_order(service: Service, hub: str) -> None:
    done = start(
        service,
        *("--hub", hub, "--user-id", "ada"),
        typed="joingroup room\nsendtogroup room Hello, you\n\n"
        'sendtogroup room {"a":1}\nping\nleavegroup room\nquit\nnonsense\n',
    )
    assert done.stderr == ""
    assert done.returncode == 0
    connected, *lines = done.stdout.splitlines()
    assert re.fullmatch(r"Connected as ada; the connection is [0-9a-zA-Z_-]+\.", connected)
    assert lines == [
        "OK: joingroup room",
        "[room] ada: Hello, you",
        "OK: sendtogroup room Hello, you",
        '[room] ada: {"a":1}',
        'OK: sendtogroup room {"a":1}',
        "pong",
        "OK: leavegroup room",
    ]


def test_what_was_refused_is_told_and_counted(service: Service, hub: str) -> None:
    done = start(
        service,
        *("--hub", hub, "--role", "webpubsub.joinLeaveGroup.mine", "webpubsub.sendToGroup.mine"),
        typed="joingroup mine\njoingroup yours\nsendtogroup\nsendtogroup yours x\nevent nobody cares\n",
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()[1:]
    assert lines[0] == "OK: joingroup mine"
    assert lines[1].startswith("Refused: joingroup yours: Forbidden – ")
    assert lines[2].startswith("Refused: sendtogroup yours x: Forbidden – ")
    assert lines[3].startswith("Refused: event nobody cares: InternalServerError – ")
    assert done.stderr == "Write: sendtogroup <group> <message>\nError: 4 of 5 lines failed.\n"


def test_groups_from_the_start_and_messages_of_others(service: Service, hub: str) -> None:
    url = service.manage("webpubsub", "client", "url", "--hub", hub, "--group", "news").stdout.strip()
    listener = subprocess.Popen(
        [sys.executable, "manage.py", "webpubsub", "client", "start", "--url", url, "-o", "json"],
        cwd=ROOT,
        env={name: value for name, value in service.env.items() if name != "PYTHONUNBUFFERED"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert listener.stdin is not None
    assert listener.stdout is not None
    with listener, listener.stdin, listener.stdout:
        assert json.loads(listener.stdout.readline())["event"] == "connected"
        done = start(service, "--hub", hub, "--user-id", "ada", typed="sendtogroup news Extra! ☎")
        assert done.returncode == 0, "the last line needs no line break"
        assert json.loads(listener.stdout.readline()) == {
            "type": "message",
            "from": "group",
            "group": "news",
            "fromUserId": "ada",
            "dataType": "json",
            "data": "Extra! ☎",
        }
        listener.stdin.close()
        assert listener.wait(PATIENCE) == 0


def test_lines_from_a_file(service: Service, hub: str, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes("joingroup räume\r\nping\r\n".encode())
    with (tmp_path / "lines").open() as lines:
        done = subprocess.run(
            [sys.executable, "manage.py", "webpubsub", "client", "start", "--hub", hub],
            cwd=ROOT,
            env=service.env,
            stdin=lines,
            capture_output=True,
            text=True,
            timeout=PATIENCE * 2,
        )
    assert done.stdout.splitlines()[1:] == ["OK: joingroup räume", "pong"]
    assert done.returncode == 0


def test_a_line_that_is_too_long_is_refused_here(service: Service, hub: str) -> None:
    done = start(service, "--hub", hub, typed=f"sendtogroup room {'x' * (5 << 20)}")
    assert done.returncode == 1
    assert done.stderr == "Error: A line has more than 4,194,304 characters.\n"


def test_why_the_service_ended_the_connection_is_said(service: Service, hub: str) -> None:
    done = start(service, "--hub", hub, typed=f"sendtogroup room {'x' * (2 << 20)}\n")
    assert done.returncode == 1
    assert re.fullmatch(r"Error: The connection ended: 1009, .+\n", done.stderr)


def test_a_refused_handshake_is_one_line(service: Service, hub: str) -> None:
    url = f"ws://localhost:{service.port}/client/hubs/{hub}?access_token=secret.secret.secret"
    done = start(service, "--url", url)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The service refused the connection: 401")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stdout + done.stderr


def test_no_service_is_one_line(service: Service) -> None:
    for host in ("localhost", "127.0.0.1"):
        port = free_port()
        done = start(service, "--url", f"ws://{host}:{port}/client/hubs/chat")
        assert done.returncode == 1
        assert done.stderr == (
            f"Error: Nothing answers at {host}:{port}. Is the service running? To start it: make run\n"
        )


def test_an_address_without_websockets_is_one_line(service: Service) -> None:
    done = start(service, "--url", f"ws://localhost:{service.port}/api/health")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


# Against a server that does what ours does not


@pytest.fixture
def stranger() -> Iterator[Any]:
    """Start a WebSocket server with a handler of the test's own; gives its URL."""
    servers: list[tuple[Server, Any]] = []

    def run(handler: Any, **options: Any) -> str:
        import threading

        server = serve(handler, "127.0.0.1", 0, **options)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"

    yield run
    for server, thread in servers:
        server.shutdown()
        thread.join(PATIENCE)


def test_simple_clients_send_lines_as_they_are(service: Service, stranger: Any) -> None:
    def echo(socket: ServerConnection) -> None:
        for message in socket:
            socket.send(f"echo {message}")
            socket.send(b"\x00\x01")

    done = start(service, "--url", stranger(echo), "--protocol", "none", typed="quit\nsendtogroup a b\n")
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["echo quit", "(2 bytes) AAE=", "echo sendtogroup a b", "(2 bytes) AAE="]


def test_a_last_line_that_went_wrong_is_told(service: Service, stranger: Any) -> None:
    def refuse(socket: ServerConnection) -> None:
        socket.recv()
        socket.close(1011, "nobody handles this")

    done = start(service, "--url", stranger(refuse), "--protocol", "none", typed="hello\n")
    assert done.returncode == 1
    assert done.stderr == "Error: The connection ended: 1011, nobody handles this\n"


def test_a_service_of_another_tongue_is_named(service: Service, stranger: Any) -> None:
    done = start(service, "--url", stranger(lambda socket: socket.recv()))
    assert done.returncode == 1
    assert "does not speak json.webpubsub.azure.v1. Try --protocol none." in done.stderr


def test_an_end_that_nobody_typed_is_an_error_even_when_it_is_normal(service: Service, stranger: Any) -> None:
    def leave(socket: ServerConnection) -> None:
        socket.recv()
        socket.close(1000, "go home")

    done = start(service, "--url", stranger(leave, subprotocols=[JSON]), typed="joingroup a\njoingroup b\n")
    assert done.returncode == 1
    assert done.stderr == "Error: The connection ended: 1000, go home\n"


def test_a_broken_connection_is_told(service: Service, stranger: Any) -> None:
    def vanish(socket: ServerConnection) -> None:
        socket.recv()
        socket.socket.close()

    done = start(service, "--url", stranger(vanish, subprotocols=[JSON]), typed="joingroup a\n")
    assert done.returncode == 1
    assert done.stderr == "Error: The connection ended: 1006, the connection broke\n"


def test_a_server_fault_is_shown_without_its_page(service: Service, stranger: Any) -> None:
    def fault(connection: ServerConnection, request: Any) -> Any:
        return connection.respond(HTTPStatus.BAD_GATEWAY, "<html>\n" + "long \x1b page " * 1000)

    done = start(service, "--url", stranger(lambda socket: None, process_request=fault))
    assert done.stderr.startswith("Error: The service refused the connection: 502 <html> long")
    assert len(done.stderr) < 300
    assert "\x1b" not in done.stderr


# At a terminal

BRACKETED_PASTE_ON = "\x1b[?2004h"


class Screen:
    """A person's terminal: a pseudo-terminal with the console in it."""

    def __init__(self, service: Service, *words: str) -> None:
        self.shown = ""
        self.transcript = ""
        pid, self.descriptor = pty.fork()
        if pid == 0:  # pragma: no cover - the child
            os.chdir(ROOT)
            arguments = [sys.executable, "manage.py", "webpubsub", "client", "start", *words]
            os.execve(sys.executable, arguments, service.env | {"TERM": "xterm"})
        self.pid = pid

    def wait_for_prompt(self) -> None:
        """Wait until what is typed is read key by key; before, the terminal itself would take it."""
        self.wait_for("sendtogroup <group> <message>")
        self.wait_for(BRACKETED_PASTE_ON)

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def wait_for(self, text: str) -> str:
        """Read until `text` has been shown; gives what was shown before it, and forgets it."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} was not shown, but: {self.shown!r}"
            if select.select([self.descriptor], [], [], left)[0]:
                self._read()
        before, _, self.shown = self.shown.partition(text)
        return before

    def _read(self) -> None:
        data = os.read(self.descriptor, 65536).decode(errors="replace")
        if "\x1b[6n" in data:
            # Asked where the cursor is; a terminal answers.
            os.write(self.descriptor, b"\x1b[1;1R")
        self.shown += data
        self.transcript += data

    def exit_code(self, typing: str = "") -> int:
        """Wait for the end. `typing` ends it, typed again in case it was swallowed between two prompts."""
        deadline = time.monotonic() + PATIENCE
        typed_at = float("-inf")
        while time.monotonic() < deadline:
            if typing and time.monotonic() - typed_at > 1:
                typed_at = time.monotonic()
                with suppress(OSError):
                    self.type(typing)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.descriptor)
                return os.waitstatus_to_exitcode(status)
            if select.select([self.descriptor], [], [], 0.05)[0]:
                try:
                    self._read()
                except OSError:
                    # The other end is gone; its exit code comes next.
                    time.sleep(0.01)
        os.kill(self.pid, 9)
        raise AssertionError(f"The console did not end: {self.shown!r}")


def test_somebody_types_while_others_write(service: Service, hub: str) -> None:
    screen = Screen(service, "--hub", hub, "--user-id", "ada")
    screen.wait_for_prompt()
    screen.type("joingroup room\r")
    screen.wait_for("OK: joingroup room")
    screen.type("sendtogr")
    done = start(service, "--hub", hub, "--user-id", "bob", typed="sendtogroup room I am here\n")
    assert done.returncode == 0
    screen.wait_for("[room] bob: I am here")
    screen.type("oup room Hello\r")
    screen.wait_for("OK: sendtogroup room Hello")
    screen.type("nonsense\r")
    screen.wait_for("There is no command 'nonsense'")
    screen.type("quit\r")
    assert screen.exit_code() == 0
    assert "Connected as ada; the connection is " in screen.transcript


def test_tab_completes_words_and_groups(service: Service, hub: str) -> None:
    screen = Screen(service, "--hub", hub)
    screen.wait_for_prompt()
    screen.type("join\t")
    screen.wait_for("joingroup")
    screen.type(" lobby\r")
    screen.wait_for("OK: joingroup lobby")
    screen.type("leavegroup lo\t")
    screen.wait_for("lobby")
    screen.type("\r")
    screen.wait_for("OK: leavegroup lobby")
    assert screen.exit_code(typing="\x04") == 0


def test_the_end_of_the_connection_ends_the_prompt(service: Service, stranger: Any) -> None:
    def greet_and_leave(socket: ServerConnection) -> None:
        socket.send('{"type":"system","event":"connected","userId":"u","connectionId":"c"}')
        socket.recv()
        socket.send('{"type":"system","event":"disconnected","message":"moving"}')
        socket.close(1001, "moving house")

    screen = Screen(service, "--url", stranger(greet_and_leave, subprotocols=[JSON]))
    screen.wait_for_prompt()
    screen.type("joingroup room\r")
    screen.wait_for("The service ends the connection: moving")
    screen.wait_for("Error: The connection ended: 1001, moving house")
    assert screen.exit_code() == 1
