"""The servers that are compared, each started in a process of its own and watched from outside.

A row of `CONTESTANTS` says how one is set up, started, reached and spoken to, and what has to be on the
machine for it. Each is one process with one thread that does the work, on one core; what runs beside it
for its sake, such as Redis, is on the same core and counts as its own.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from azure.messaging.webpubsubservice import WebPubSubServiceClient

from bench.dialects import Dialect, Nats, ReliableJson, SocketIo, Topics, WebPubSub

ROOT = Path(__file__).resolve().parent.parent
STOCK = ROOT / "bench" / "stock"
EMPTY = ROOT / "bench" / "empty"
PEERS = ROOT / "bench" / "peers"

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
    *("REDIS_SENTINELS", "REDIS_SENTINEL_PASSWORD", "WORKERS", "DRAIN_PER_SEC", "DRAIN_SECS"),
    *("DJANGO_SETTINGS_MODULE", "LOG_LEVEL", "ALLOWED_HOSTS", "REQUIRE_KNOWN_HUBS", "KEEP_ALIVE_SECS"),
)


class CannotStart(Exception):
    """A server did not come up; the text has what it wrote."""


@dataclass(frozen=True)
class Need:
    """Something that has to be installed."""

    there: Callable[[], bool]
    how: str


def _program(name: str) -> str:
    """Where a program is; servers are often where only root looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin") or name


def _program_needed(name: str, package: str) -> Need:
    return Need(lambda: shutil.which(_program(name)) is not None, f"the program {name} (Debian's package {package})")


def _nchan() -> Path:
    found = (Path(folder) / "ngx_nchan_module.so" for folder in _NGINX_MODULES)
    return next((path for path in found if path.exists()), Path(_NGINX_MODULES[0]))


_NGINX_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")

_NODE = _program_needed("node", "nodejs")
_NGINX = _program_needed("nginx", "nginx-light")
_NCHAN = Need(lambda: _nchan().suffix == ".so", "the nginx module Nchan (Debian's package libnginx-mod-nchan)")
_NATS = _program_needed("nats-server", "nats-server")
_REDIS = _program_needed("redis-server", "redis-server")


def _npm(package: str) -> Need:
    return Need(
        lambda: (PEERS / "node_modules" / package / "package.json").exists(),
        f"the npm package {package} (make bench-peers)",
    )


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
    # How it is spoken to.
    dialect: Dialect = field(default_factory=Dialect)
    # What has to be on this machine, each with the way to get it.
    needs: tuple[Need, ...] = ()
    # Configuration files that are written into its data directory, with what is between @ signs filled in.
    files: tuple[Path, ...] = ()
    # Programs that it needs running; what they spend is its expense.
    companions: tuple[tuple[str, ...], ...] = ()
    env: tuple[tuple[str, str], ...] = ()

    def missing(self) -> list[str]:
        """What is not on this machine, and how to get it."""
        return [need.how for need in self.needs if not need.there()]


def _signed_targets(server: Server, count: int) -> Iterator[str]:
    """Client URLs as a customer's own server makes them: signed by the official SDK, one per user."""
    service = WebPubSubServiceClient.from_connection_string(server.connection_string, hub="bench")
    roles = ["webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"]
    for number in range(count):
        url = urlsplit(service.get_client_access_token(user_id=f"user-{number}", roles=roles)["url"])
        yield f"{url.path}?{url.query}"


def no_targets(server: Server, count: int) -> Iterator[str]:
    """Where everybody calls at the same address, which the dialect knows or which matters to nobody."""
    return itertools.repeat("/", count)


def _socket_io_targets(server: Server, count: int) -> Iterator[str]:
    return itertools.repeat("/socket.io/?EIO=4&transport=websocket", count)


def _open_targets(server: Server, count: int) -> Iterator[str]:
    """The stock consumer believes whatever name it is told."""
    return (f"/chat/?user=user-{number}" for number in range(count))


_MANAGE = (sys.executable, "manage.py")
_SET_UP = ((*_MANAGE, "migrate", "--verbosity", "0"), (*_MANAGE, "bootstrap"))
_JSON = "json.webpubsub.azure.v1"
_STOCK_APPLICATION = "stock_site.asgi:application"

_STOCK_ON_UVICORN = (
    *(sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--loop", "uvloop"),
    *("--ws", "websockets-sansio", "--no-access-log", "--log-level", "warning", "--lifespan", "off"),
    _STOCK_APPLICATION,
)
_REDIS_BESIDE = (
    *(_program("redis-server"), "--bind", "127.0.0.1", "--port", "{side_port}", "--save", ""),
    *("--appendonly", "no", "--dir", "{directory}", "--loglevel", "warning"),
)
_REDIS_URL = ("REDIS_URL", "redis://127.0.0.1:{side_port}/0")

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
            dialect=WebPubSub(),
        ),
        Contestant(
            "hubwire-daphne",
            "Hubwire on daphne",
            ROOT,
            _SET_UP,
            (*_MANAGE, "runserver", "--noreload", "--verbosity", "0", "localhost:{port}"),
            _JSON,
            _signed_targets,
            dialect=WebPubSub(),
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
            _STOCK_ON_UVICORN,
            None,
            _open_targets,
        ),
        Contestant(
            "hubwire-reliable",
            "Hubwire, reliable JSON",
            ROOT,
            _SET_UP,
            (*_MANAGE, "serve"),
            "json.reliable.webpubsub.azure.v1",
            _signed_targets,
            dialect=ReliableJson(),
        ),
        Contestant(
            "hubwire-redis",
            "Hubwire on Redis",
            ROOT,
            _SET_UP,
            (*_MANAGE, "serve"),
            _JSON,
            _signed_targets,
            dialect=WebPubSub(),
            needs=(_REDIS,),
            companions=(_REDIS_BESIDE,),
            env=(_REDIS_URL,),
        ),
        Contestant(
            "stock-redis",
            "stock Channels on Redis",
            STOCK,
            (),
            _STOCK_ON_UVICORN,
            None,
            _open_targets,
            needs=(_REDIS,),
            companions=(_REDIS_BESIDE,),
            env=(_REDIS_URL,),
        ),
        Contestant(
            "socketio",
            "Socket.IO",
            PEERS,
            (),
            (_program("node"), "socketio.js", "{port}"),
            None,
            _socket_io_targets,
            dialect=SocketIo(),
            needs=(_NODE, _npm("socket.io")),
            env=(("NODE_ENV", "production"),),
        ),
        Contestant(
            "nchan",
            "Nchan",
            PEERS,
            (),
            (_program("nginx"), "-p", "{directory}", "-c", "{directory}/nginx.conf"),
            None,
            no_targets,
            dialect=Topics("/sub?group={group}", "/pub?group={group}"),
            needs=(_NGINX, _NCHAN),
            files=(PEERS / "nginx.conf",),
        ),
        Contestant(
            "nats",
            "NATS",
            PEERS,
            (),
            (_program("nats-server"), "-c", "{directory}/nats.conf"),
            None,
            no_targets,
            dialect=Nats(),
            needs=(_NATS,),
            files=(PEERS / "nats.conf",),
            env=(("GOMAXPROCS", "1"),),
        ),
        Contestant(
            "uwebsockets",
            "uWebSockets",
            PEERS,
            (),
            (_program("node"), "uwebsockets.js", "{port}"),
            None,
            no_targets,
            dialect=Topics("/?group={group}", "/?group={group}&publish=1"),
            needs=(_NODE, _npm("uwebsockets")),
        ),
        Contestant(
            "uwebsockets-json",
            "uWebSockets, our frames",
            PEERS,
            (),
            (_program("node"), "uwebsockets-json.js", "{port}"),
            None,
            _open_targets,
            needs=(_NODE, _npm("uwebsockets")),
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

# The yardsticks of the ratios: the obvious way to build it, and the fastest there is.
BASELINE = "stock"
PEER = "uwebsockets"


def peer_versions() -> dict[str, str]:
    """What the other servers are, as far as they are installed and say it."""
    found = {}
    for name, option in (("node", "--version"), ("nginx", "-v"), ("nats-server", "--version"), ("redis-server", "-v")):
        if shutil.which(_program(name)) is not None:
            said = subprocess.run((_program(name), option), capture_output=True, text=True, timeout=START_SECS)
            number = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
            if number:
                found[name] = number[0]
    for package in ("socket.io", "uwebsockets"):
        described = PEERS / "node_modules" / package / "package.json"
        if described.exists():
            found[package] = json.loads(described.read_text())["version"]
    return found


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


# Each set-up is done once per bench, and every server starts on a copy of the data that it leaves. Benches that are
# started one after the other may share them too, in the directory that this variable names.
SET_UPS = "BENCH_SET_UPS"


@functools.cache
def _set_ups() -> Path:
    if shared := os.environ.get(SET_UPS):
        return Path(shared)
    own = tempfile.mkdtemp(prefix="bench-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return Path(own)


class Server:
    """A running contestant. Used as a context manager; its process and its data are gone afterwards."""

    def __init__(self, contestant: Contestant, core: int | None, env: Mapping[str, str] | None = None) -> None:
        self.contestant = contestant
        self.port, side_port = _free_ports(2)
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
        self._places = {"port": str(self.port), "side_port": str(side_port), "directory": self._directory.name}
        self._env |= {name: value.format(**self._places) for name, value in contestant.env}
        self._env |= dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._companions: list[subprocess.Popen[bytes]] = []

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
        """Hubwire's primary connection string; its command line shows the key."""
        # All servers of a set-up have the same.
        known = self._set_up().with_suffix(".key")
        if not known.exists():
            shown = self._run((*_MANAGE, "webpubsub", "key", "show", "--output", "json"))
            known.write_text(str(json.loads(shown)["primaryKey"]))
        return f"Endpoint=http://localhost:{self.port};AccessKey={known.read_text()};Version=1.0;"

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

    def processes(self) -> list[psutil.Process]:
        """The server's process tree, as it is now."""
        return self._tree()

    def _tree(self) -> list[psutil.Process]:
        assert self._process is not None
        tops = [psutil.Process(process.pid) for process in (self._process, *self._companions)]
        return [process for top in tops for process in (top, *top.children(recursive=True))]

    # Beginning and end

    def _start(self) -> None:
        if missing := self.contestant.missing():
            raise CannotStart(f"{self.contestant.title} needs {' and '.join(missing)}.")
        for template in self.contestant.files:
            text = template.read_text().replace("@NCHAN@", str(_nchan()))
            for name, value in self._places.items():
                text = text.replace(f"@{name.upper()}@", value)
            (Path(self._directory.name) / template.name).write_text(text)
        for command in self.contestant.companions:
            self._companions.append(self._spawn(command))
            self._until_open(self._companions[-1], int(self._places["side_port"]))
        if self.contestant.set_up:
            shutil.copytree(self._set_up(), self._directory.name, dirs_exist_ok=True)
        self._process = self._spawn(self.contestant.command)
        self._until_open(self._process, self.port)

    def _set_up(self) -> Path:
        """The data directory that the contestant's set-up leaves."""
        commands = self.contestant.set_up
        made = _set_ups() / hashlib.sha256(repr(commands).encode()).hexdigest()[:16]
        if not made.exists():
            making = tempfile.mkdtemp(dir=_set_ups())
            for command in commands:
                self._run(command, {"DATA_DIR": making})
            Path(making).rename(made)
        return made

    def _spawn(self, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log, _on_core(self._core):
            return subprocess.Popen(
                [part.format(**self._places) for part in command],
                cwd=self.contestant.cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _until_open(self, process: subprocess.Popen[bytes], port: int) -> None:
        deadline = time.monotonic() + START_SECS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise CannotStart(f"{self.contestant.title} did not start. It wrote:\n{self.log_end()}")

    def _run(self, command: tuple[str, ...], env: Mapping[str, str] | None = None) -> str:
        env = self._env | dict(env or {})
        done = subprocess.run(
            command, cwd=self.contestant.cwd, env=env, capture_output=True, text=True, timeout=SETUP_SECS
        )
        if done.returncode:
            raise CannotStart(f"{' '.join(command[1:])} failed:\n{done.stderr}")
        return done.stdout

    def log_end(self) -> str:
        """The last lines the server wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:]) if self._log.exists() else ""

    def _stop(self) -> None:
        # What the server needs goes last.
        processes = [process for process in (self._process, *self._companions) if process is not None]
        self._process, self._companions = None, []
        try:
            for process in processes:
                self._end(process)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
            self._directory.cleanup()

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    """So many ports that are free now, no two of them the same."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
