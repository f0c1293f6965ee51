"""What the experiments run on: processes of the service with a Redis between them, started as operators start them.

A `Stage` is a context manager's value. Its processes share a database and a Redis, and tell one event handler of
connections that ended. It knows how to make each part of itself fail.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import psutil
import redis

from tests.faults.disconnects import have_told
from tests.proxy import CuttingProxy, Route
from tests.running import PATIENCE, ROOT, Redis, Service, free_port

READY, REPLACED = "is ready (process ", "All workers were replaced"
# The master's name at the sentinel.
MASTER = "pubsub"


class NotThere(Exception):
    """Something that a stage needs is missing; the text says how to get it."""


class Stage:
    """Processes of one service on one Redis."""

    def __init__(self, folder: Path, other: Path | None) -> None:
        self.folder = folder
        # The checkout of another version, where one is given.
        self._other = other
        self.services: list[Service] = []
        self.redis: Redis
        # The way of the last process to Redis, where it can be cut.
        self.route: Route
        self.replica: Redis
        self.sentinel_port = 0
        # Where the event handler is to listen.
        self.webhook_port = free_port()

    # Workers of the first service

    @property
    def supervisor(self) -> int:
        process = self.services[0].process
        assert process is not None
        return process.pid

    def workers(self) -> list[int]:
        """The processes of the supervisor's workers."""
        return [child.pid for child in psutil.Process(self.supervisor).children()]

    def said(self, words: str) -> int:
        """How often the first service's log has these words."""
        return self.services[0].log.read_text().count(words)

    async def says(self, words: str, more_than: int) -> None:
        """Wait until they are there more often than that."""
        await _until(lambda: self.said(words) > more_than, f"the log does not say {words!r}")

    # Redis

    async def restart_redis(self, away_secs: float, *, forget: bool) -> None:
        """Stop Redis and start it again. Forget: as if it had no persistence."""
        await asyncio.to_thread(self.redis.stop)
        if forget:
            for kept in (*self.redis.directory.glob("appendonly*"), *self.redis.directory.glob("*.rdb")):
                shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
        await asyncio.sleep(away_secs)
        await asyncio.to_thread(self.redis.start)

    @contextmanager
    def client(self, server: Redis | None = None) -> Iterator[redis.Redis]:
        """A connection to Redis for commands of the operator's."""
        with redis.Redis(port=(server or self.redis).port, decode_responses=True) as connection:
            yield connection

    async def fail_over(self) -> None:
        """Kill the master, wait for Sentinel to promote the replica, and start the old master as a replica of that."""
        sentinel = redis.Redis(port=self.sentinel_port, decode_responses=True)

        def master() -> int:
            return int(sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])

        def follows() -> bool:
            with self.client(self.replica) as connection:
                try:
                    found = connection.info("replication")
                except redis.RedisError:
                    return False
            return found["role"] == "slave" and found["master_link_status"] == "up"

        with sentinel:
            await _until(follows, "the replica does not follow")
            self.redis.stop(signal.SIGKILL)
            self.redis, self.replica = self.replica, self.redis
            await _until(lambda: master() == self.redis.port, "Sentinel does not promote the replica")
        await asyncio.to_thread(self.replica.start)
        with self.client(self.replica) as old:
            # Sentinel would have it do so, within ten seconds.
            old.replicaof("127.0.0.1", self.redis.port)
        await _until(follows, "the old master does not become a replica")

    # Versions

    def upgrade(self) -> None:
        """Put the other version's code where the workers find theirs; doing it twice is going back."""
        current = self.folder / "current" / "manage.py"
        here = current.resolve().parent
        current.unlink()
        current.symlink_to((self.other if here == ROOT else ROOT) / "manage.py")

    @property
    def other(self) -> Path:
        assert self._other is not None, "This stage takes another version."
        return self._other


async def _until(true: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + PATIENCE * 4
    while not await asyncio.to_thread(true):
        if time.monotonic() > deadline:
            raise AssertionError(problem)
        await asyncio.sleep(0.05)


# The stages


Builder = Callable[[Path, Path | None], AbstractContextManager[Stage]]
WORKERS = ("--workers", "2")


@contextmanager
def _stage(folder: Path, other: Path | None) -> Iterator[tuple[Stage, ExitStack]]:
    stage = Stage(folder, other)
    with ExitStack() as stack:
        yield stage, stack


def _redis(stack: ExitStack, folder: Path, *arguments: str) -> Redis:
    folder.mkdir()
    server = Redis(folder, *arguments)
    stack.callback(lambda: server.stop())
    return server.start()


def _serve(stage: Stage, stack: ExitStack, *services: Service) -> list[Service]:
    have_told(services[0], stage.webhook_port)
    for service in services:
        stack.callback(service.stop)
        service.start()
    return list(services)


@contextmanager
def two_workers(folder: Path, other: Path | None = None) -> Iterator[Stage]:
    """A supervisor with two workers, and a Redis that keeps what it has."""
    with _stage(folder, other) as (stage, stack):
        stage.redis = _redis(stack, folder / "redis", "--appendonly", "yes")
        service = Service(folder, env={"REDIS_URL": stage.redis.url}, serve=WORKERS).set_up()
        stage.services = _serve(stage, stack, service)
        yield stage


@contextmanager
def two_processes(folder: Path, other: Path | None = None) -> Iterator[Stage]:
    """Two processes side by side; the second one's way to Redis can be cut."""
    with _stage(folder, other) as (stage, stack):
        stage.redis = _redis(stack, folder / "redis")
        stage.route = stack.enter_context(CuttingProxy(stage.redis.port)).route()
        first = Service(folder, env={"REDIS_URL": stage.redis.url}).set_up()
        url = f"redis://127.0.0.1:{stage.route.port}/0"
        second = Service(folder, env={"REDIS_URL": url, "EXTRA_ENDPOINTS": first.endpoint})
        stage.services = _serve(stage, stack, first, second)
        yield stage


@contextmanager
def one_process(folder: Path, other: Path | None = None) -> Iterator[Stage]:
    """One process, and Redis."""
    with _stage(folder, other) as (stage, stack):
        stage.redis = _redis(stack, folder / "redis")
        stage.services = _serve(stage, stack, Service(folder, env={"REDIS_URL": stage.redis.url}).set_up())
        yield stage


@contextmanager
def watched(folder: Path, other: Path | None = None) -> Iterator[Stage]:
    """A supervisor with two workers, on a Redis with a replica and a sentinel that watches them."""
    with _stage(folder, other) as (stage, stack):
        stage.redis = _redis(stack, folder / "master")
        stage.replica = _redis(stack, folder / "replica", "--replicaof", "127.0.0.1", str(stage.redis.port))
        stage.sentinel_port = free_port()
        (folder / "sentinel.conf").write_text(
            f"port {stage.sentinel_port}\nbind 127.0.0.1\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {stage.redis.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000\n"
        )
        with (folder / "sentinel.log").open("wb") as log:
            command = [Redis.executable(), "sentinel.conf", "--sentinel"]
            sentinel = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        stack.callback(sentinel.wait)
        stack.callback(sentinel.terminate)
        env = {"REDIS_URL": f"redis://{MASTER}/0", "REDIS_SENTINELS": f"127.0.0.1:{stage.sentinel_port}"}
        stage.services = _serve(stage, stack, Service(folder, env=env, serve=WORKERS).set_up())
        yield stage


@contextmanager
def two_versions(folder: Path, other: Path | None = None) -> Iterator[Stage]:
    """A process of this version, and one of another beside it."""
    with _stage(folder, other) as (stage, stack):
        stage.redis = _redis(stack, folder / "redis")
        first = Service(folder, env={"REDIS_URL": stage.redis.url}).set_up()
        env = {"REDIS_URL": stage.redis.url, "EXTRA_ENDPOINTS": first.endpoint}
        python = str(stage.other / ".venv" / "bin" / "python")
        second = Service(folder, env=env, root=stage.other, python=python)
        stage.services = _serve(stage, stack, first, second)
        yield stage


@contextmanager
def upgraded(folder: Path, other: Path | None = None) -> Iterator[Stage]:
    """A supervisor with two workers, whose code can be changed under them. The other version has its turn first."""
    with _stage(folder, other) as (stage, stack):
        current = folder / "current"
        current.mkdir()
        (current / "manage.py").symlink_to(stage.other / "manage.py")
        stage.redis = _redis(stack, folder / "redis")
        env = {"REDIS_URL": stage.redis.url}
        # This version's database; an earlier one can work with it.
        service = Service(folder, env=env, serve=WORKERS, root=current)
        stage.upgrade()
        service.set_up()
        stage.upgrade()
        stage.services = _serve(stage, stack, service)
        yield stage


def checkout(folder: Path, version: str) -> Path:
    """A directory with another version: that of the name, or `folder`, made of a git revision. Raises NotThere."""
    path = Path(version).expanduser().resolve()
    if (path / "manage.py").is_file():
        return path
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", version], capture_output=True, check=False)
    if packed.returncode:
        raise NotThere(
            f"Two versions are needed, and {version!r} is neither a checkout nor a git revision that this clone has. "
            "`git fetch --unshallow` gets all revisions of a shallow clone. "
            f"(git: {packed.stderr.decode(errors='replace').strip()})"
        )
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    # Once, and not by all processes that are started from it at the same time.
    subprocess.run([sys.executable, "-m", "compileall", "-q", "hubs", "pubsub_site"], cwd=folder, check=True)
    return folder


@contextmanager
def pausing(pid: int) -> Iterator[None]:
    """A process stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def ports_of(pid: int, to_port: int) -> list[int]:
    """The local ports of a process's connections to a port of this machine."""
    lines = psutil.Process(pid).net_connections("tcp")
    return [line.laddr.port for line in lines if line.raddr and line.raddr.port == to_port]
