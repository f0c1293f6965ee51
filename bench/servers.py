"""The servers that are compared, each started in a process of its own and watched from outside.

A row of `CONTESTANTS` says how one is set up, started and reached. All speak the same JSON frames
(joinGroup, sendToGroup, message, ack), so the generator treats them alike.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from azure.messaging.webpubsubservice import WebPubSubServiceClient

ROOT = Path(__file__).resolve().parent.parent
STOCK = ROOT / "bench" / "stock"
EMPTY = ROOT / "bench" / "empty"

START_SECS = 60.0
STOP_SECS = 15.0
SETUP_SECS = 120.0

# What this machine has set for an installation of its own must not reach the ones that are measured.
_OURS = (
    *(
        "DATABASE_URL",
        "REDIS_URL",
        "SECRET_KEY",
        "PUBLIC_ENDPOINT",
        "PORT",
        "HOST",
        "DEBUG",
        "EXTRA_APPS",
        "EXTRA_ENDPOINTS",
    ),
    *("DJANGO_SETTINGS_MODULE", "LOG_LEVEL", "ALLOWED_HOSTS", "REQUIRE_KNOWN_HUBS", "KEEP_ALIVE_SECS"),
)


class CannotStart(Exception):
    """A server did not come up; the text has what it wrote."""


@dataclass(frozen=True)
class Contestant:
    """One kind of server: how it is started and how clients reach it."""

    name: str
    title: str
    cwd: Path
    # Commands to run once before the server, and the server itself. {port} is filled in.
    set_up: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]
    subprotocol: str | None
    # Given the server and a number of clients, the request targets of their handshakes.
    targets: Callable[[Server, int], Iterator[str]]


def _signed_targets(server: Server, count: int) -> Iterator[str]:
    """Client URLs as a customer's own server makes them: signed by the official SDK, one per user."""
    service = WebPubSubServiceClient.from_connection_string(server.connection_string, hub="bench")
    roles = ["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"]
    for number in range(count):
        url = urlsplit(service.get_client_access_token(user_id=f"user-{number}", roles=roles)["url"])
        yield f"{url.path}?{url.query}"


def _open_targets(server: Server, count: int) -> Iterator[str]:
    """The stock consumer believes whatever name it is told."""
    return (f"/chat/?user=user-{number}" for number in range(count))


_MANAGE = (sys.executable, "manage.py")
_SET_UP = ((*_MANAGE, "migrate", "--verbosity", "0"), (*_MANAGE, "bootstrap"))
_JSON = "json.webpubsub.azure.v1"
_STOCK_APPLICATION = "stock_site.asgi:application"

CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant(
            "hubwire",
            "Hubwire",
            ROOT,
            _SET_UP,
            (*_MANAGE, "serve"),
            _JSON,
            _signed_targets,
        ),
        Contestant(
            "hubwire-daphne",
            "Hubwire on daphne",
            ROOT,
            _SET_UP,
            (*_MANAGE, "runserver", "--noreload", "--verbosity", "0", "localhost:{port}"),
            _JSON,
            _signed_targets,
        ),
        Contestant(
            "stock",
            "stock Channels",
            STOCK,
            (),
            # Without its access log, which ours does not write either.
            (sys.executable, "-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", "{port}", _STOCK_APPLICATION),
            None,
            _open_targets,
        ),
        Contestant(
            "stock-uvicorn",
            "stock Channels on uvicorn",
            STOCK,
            (),
            (
                *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop"),
                *("--ws", "websockets-sansio", "--no-access-log", "--log-level", "warning", "--lifespan", "off"),
                _STOCK_APPLICATION,
            ),
            None,
            _open_targets,
        ),
    )
}

# Not for fan-out: its views do nothing, on the same server with the same settings as ours.
EMPTY_VIEWS = Contestant(
    "empty",
    "empty views",
    EMPTY,
    (),
    (
        *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop"),
        *("--http", "httptools", "--no-access-log", "--log-level", "warning", "--lifespan", "off"),
        "empty_site.asgi:application",
    ),
    None,
    lambda server, count: iter(()),
)

# The yardstick of every ratio.
BASELINE = "stock"


def busy_secs() -> float:
    """Processor time of all programs on this machine so far, including what a hypervisor took away."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0) + getattr(times, "steal", 0.0))


def cores() -> tuple[int, int] | None:
    """The cores of generator and server; None where they cannot be kept apart."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else None


@contextmanager
def _on_core(core: int | None) -> Iterator[None]:
    """Processes started inside run on `core` from their first instruction, with all their threads."""
    if core is None:
        yield
        return
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


class Server:
    """A running contestant. Used as a context manager; its process and its data are gone afterwards."""

    def __init__(self, contestant: Contestant, core: int | None) -> None:
        self.contestant = contestant
        self.port = _free_port()
        self._core = core
        self._directory = tempfile.TemporaryDirectory(prefix="bench-")
        self._log = Path(self._directory.name) / "server.log"
        self._env = {name: value for name, value in os.environ.items() if name not in _OURS}
        self._env |= {
            "DATA_DIR": self._directory.name,
            "HOST": "localhost",
            "PORT": str(self.port),
            "PUBLIC_ENDPOINT": f"http://localhost:{self.port}",
            "PYTHONUNBUFFERED": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._connection_string: str | None = None

    def __enter__(self) -> Server:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def connection_string(self) -> str:
        """Hubwire's primary connection string, as its command line shows it."""
        if self._connection_string is None:
            shown = self._run((*_MANAGE, "webpubsub", "key", "show", "--output", "json"))
            self._connection_string = str(json.loads(shown)["primaryConnectionString"])
        return self._connection_string

    def targets(self, count: int) -> list[str]:
        """Request targets for the handshakes of so many clients."""
        return list(self.contestant.targets(self, count))

    # What it spends

    def cpu_secs(self) -> float:
        """Processor time of the server's process tree so far, user and system."""
        return sum(times.user + times.system for times in (process.cpu_times() for process in self._tree()))

    def rss_bytes(self) -> int:
        """Resident memory of the server's process tree."""
        return sum(process.memory_info().rss for process in self._tree())

    def _tree(self) -> list[psutil.Process]:
        assert self._process is not None
        top = psutil.Process(self._process.pid)
        return [top, *top.children(recursive=True)]

    # Beginning and end

    def _start(self) -> None:
        for command in self.contestant.set_up:
            self._run(command)
        server = [part.format(port=self.port) for part in self.contestant.command]
        with self._log.open("wb") as log, _on_core(self._core):
            self._process = subprocess.Popen(
                server, cwd=self.contestant.cwd, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise CannotStart(f"{self.contestant.title} did not start. It wrote:\n{self.log_end()}")

    def _run(self, command: tuple[str, ...]) -> str:
        done = subprocess.run(
            command, cwd=self.contestant.cwd, env=self._env, capture_output=True, text=True, timeout=SETUP_SECS
        )
        if done.returncode:
            raise CannotStart(f"{' '.join(command[1:])} failed:\n{done.stderr}")
        return done.stdout

    def log_end(self) -> str:
        """The last lines the server wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:]) if self._log.exists() else ""

    def _stop(self) -> None:
        process, self._process = self._process, None
        try:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_SECS)
                except BaseException:
                    # Too slow, or we are interrupted once more: either way nothing of ours stays behind.
                    process.kill()
                    process.wait()
                    raise
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._directory.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
