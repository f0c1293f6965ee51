"""Running contestants: each in processes of its own, on the servers' core, watched from outside.

A `Server` is started as a user would start it and is gone, with its data, when it has been measured. A `Field` is
several of them up at the same time, which take turns.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import uvloop

from bench.clients import Door
from bench.contestants import MANAGE, Command, Contestant, nchan
from bench.machine import CannotStart, cpu_secs, end_tree, on_core, uninterrupted, unless_interrupted
from bench.wire import Unexpected

START_SECS = 60.0
STOP_SECS = 15.0
SETUP_SECS = 120.0

# What this machine has set for an installation of its own must not reach the ones that are measured.
_OURS = (
    *("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "PUBLIC_ENDPOINT", "PORT", "HOST", "DEBUG", "EXTRA_APPS"),
    *("EXTRA_ENDPOINTS", "REDIS_SENTINELS", "REDIS_SENTINEL_PASSWORD", "WORKERS", "DRAIN_PER_SEC", "DRAIN_SECS"),
    *("DJANGO_SETTINGS_MODULE", "LOG_LEVEL", "ALLOWED_HOSTS", "REQUIRE_KNOWN_HUBS", "KEEP_ALIVE_SECS"),
)

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


class Wrong(Exception):
    """What was measured does not count; the text says what was lost, doubled or not answered."""


# What goes wrong with one server and is no fault of the bench.
PROBLEMS = (CannotStart, OSError, psutil.Error, Unexpected, Wrong, subprocess.SubprocessError)


class Server:
    """A running contestant. Used as a context manager; its processes and its data are gone afterwards."""

    def __init__(
        self,
        contestant: Contestant,
        core: int | None,
        env: Mapping[str, str] | None = None,
        places: Mapping[str, str] | None = None,
    ) -> None:
        self.contestant = contestant
        each = contestant.instances
        self.ports, sides, routes, [redis_port] = _free_ports(each, each, each, 1)
        self._core = core
        self._directory = tempfile.TemporaryDirectory(prefix="bench-")
        self._log = Path(self._directory.name) / "server.log"
        everybody = {
            "redis_port": str(redis_port),
            "directory": self._directory.name,
            "routes": ", ".join(f'"nats://127.0.0.1:{route}"' for route in routes),
            **(places or {}),
        }
        # What is filled in for each instance.
        self._places = [
            everybody | {"port": str(port), "side_port": str(side), "route_port": str(route)}
            for port, side, route in zip(self.ports, sides, routes, strict=True)
        ]
        for number, own in enumerate(self._places[1:], 1):
            own["directory"] = f"{self._directory.name}/{number}"
        self._env = {name: value for name, value in os.environ.items() if name not in _OURS}
        self._env |= {
            "DATA_DIR": self._directory.name,
            "HOST": "localhost",
            "PORT": str(self.port),
            "PUBLIC_ENDPOINT": f"http://localhost:{self.port}",
            "PYTHONUNBUFFERED": "1",
        }
        self._env |= {name: value.format(**self._places[0]) for name, value in contestant.env}
        self._env |= dict(env or {})
        self._processes: list[subprocess.Popen[bytes]] = []
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

    # How it is reached

    @property
    def port(self) -> int:
        """Where it listens, or its first instance."""
        return self.ports[0]

    @property
    def door(self) -> Door:
        """Where connections are opened, if it matters to nobody at which instance."""
        return self.doors[0]

    @property
    def doors(self) -> list[Door]:
        """The same of each instance."""
        return [Door(port, self.contestant.subprotocol, self.contestant.dialect) for port in self.ports]

    def targets(self, count: int) -> list[str]:
        """Request targets for the handshakes of so many clients."""
        return list(self.contestant.targets(self, count))

    @property
    def access_key(self) -> str:
        """Hubwire's primary key; its command line shows it."""
        # All servers of a set-up have the same.
        known = self._set_up().with_suffix(".key")
        if not known.exists():
            shown = self._run((*MANAGE, "webpubsub", "key", "show", "--output", "json"))
            known.write_text(str(json.loads(shown)["primaryKey"]))
        return known.read_text()

    @property
    def connection_string(self) -> str:
        """Hubwire's primary connection string."""
        return f"Endpoint=http://localhost:{self.port};AccessKey={self.access_key};Version=1.0;"

    # What it spends

    def cpu_secs(self) -> float:
        """Processor time of the server's processes and of its companions so far."""
        return self.own_cpu_secs() + self.companions_cpu_secs()

    def own_cpu_secs(self) -> float:
        """Of the server's processes alone: all instances and workers, and what supervises them."""
        return cpu_secs(_trees(self._processes))

    def companions_cpu_secs(self) -> float:
        """Of what runs beside it for its sake, such as Redis."""
        return cpu_secs(self.companions())

    def processes(self) -> list[psutil.Process]:
        """The server's process tree, as it is now, without companions."""
        return _trees(self._processes)

    def companions(self) -> list[psutil.Process]:
        """What runs beside it for its sake, such as Redis."""
        return _trees(self._companions)

    # Beginning and end

    def _start(self) -> None:
        if missing := self.contestant.missing():
            raise CannotStart(f"{self.contestant.title} needs {' and '.join(missing)}.")
        for own in self._places:
            self._write_files(own)
        for command in self.contestant.companions:
            self._companions.append(self._spawn(command, self._places[0]))
            self._until_open(self._companions[-1], int(self._places[0]["redis_port"]))
        if self.contestant.set_up:
            shutil.copytree(self._set_up(), self._directory.name, dirs_exist_ok=True)
        for own in self._places:
            self._processes.append(self._spawn(self.contestant.command, own))
        for process, port in zip(self._processes, self.ports, strict=True):
            self._until_open(process, port)

    def _write_files(self, places: Mapping[str, str]) -> None:
        directory = Path(places["directory"])
        directory.mkdir(exist_ok=True)
        for template in self.contestant.files:
            text = template.read_text().replace("@NCHAN@", str(nchan()))
            for name, value in places.items():
                text = text.replace(f"@{name.upper()}@", value)
            (directory / template.name).write_text(text)

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

    def _spawn(self, command: Command, places: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log, on_core(self._core):
            return subprocess.Popen(
                [part.format(**places) for part in command],
                cwd=self.contestant.cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the bench, which ends its servers in order.
                process_group=0,
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

    def _run(self, command: Command, env: Mapping[str, str] | None = None) -> str:
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
        with uninterrupted():
            # What the server needs goes last.
            for started in (self._processes, self._companions):
                for process in started:
                    process.send_signal(signal.SIGTERM)
                deadline = time.monotonic() + STOP_SECS
                for process in started:
                    try:
                        process.wait(max(0.0, deadline - time.monotonic()))
                    except subprocess.TimeoutExpired:
                        end_tree(process.pid)
                        process.wait()
                started.clear()
            self._directory.cleanup()


def _trees(tops: Sequence[subprocess.Popen[bytes]]) -> list[psutil.Process]:
    found = [psutil.Process(top.pid) for top in tops]
    return [process for top in found for process in (top, *top.children(recursive=True))]


def _free_ports(*counts: int) -> list[list[int]]:
    """For each count so many ports that are free now, no two of them the same."""
    with ExitStack() as stack:
        probes = [[stack.enter_context(socket.socket()) for _ in range(count)] for count in counts]
        for probe in (probe for some in probes for probe in some):
            probe.bind(("127.0.0.1", 0))
        return [[int(probe.getsockname()[1]) for probe in some] for some in probes]


class Field:
    """Servers that are up at the same time and take turns.

    One that does not start, or fails in its turn, is said, ended and takes no further part; the others go on.
    """

    def __init__(self, contestants: Sequence[Contestant], core: int | None, failures: list[str]) -> None:
        self._contestants = contestants
        self._core = core
        self._failures = failures
        self._stack = ExitStack()
        self._up: dict[str, ExitStack] = {}
        self._servers: list[Server] = []

    def __enter__(self) -> Field:
        with ExitStack() as stack:
            for contestant in self._contestants:
                own = stack.enter_context(ExitStack())
                try:
                    self._servers.append(own.enter_context(Server(contestant, self._core)))
                except PROBLEMS as problem:
                    unless_interrupted(problem)
                    self._failures.append(str(problem))
                else:
                    self._up[contestant.name] = own
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Server]:
        """Those that are up, in their order."""
        return iter(tuple(self._servers))

    def turn(self, server: Server, measurement: Coroutine[Any, Any, None]) -> None:
        """Measure one of them. What does not count is a failure of the measurement, anything else one of the server."""
        title = server.contestant.title
        try:
            uvloop.run(measurement)
        except Wrong as problem:
            unless_interrupted(problem)
            self._failures.append(str(problem))
        except PROBLEMS as problem:
            unless_interrupted(problem)
            # While its log is still there.
            wrote = server.log_end() or "(nothing)"
            self._failures.append(f"{title}: {problem}. It takes no further part. It wrote:\n{wrote}")
            self._servers.remove(server)
            self._up.pop(server.contestant.name).close()


@contextlib.contextmanager
def beside(command: Sequence[str], core: int | None) -> Iterator[str]:
    """A helper of the bench, in a process of its own; gives the first line that it prints. Raises CannotStart."""
    with on_core(core):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise CannotStart(f"{' '.join(command[1:])} did not start.")
        yield line
    finally:
        with uninterrupted():
            process.terminate()
            process.communicate()
