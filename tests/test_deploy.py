"""The example files for running Hubwire at large: they are what the page says, and they work."""

from __future__ import annotations

import asyncio
import configparser
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
import yaml
from websockets.exceptions import ConnectionClosed

from hubs import conf
from hubs.management.commands.serve import ENDING_SECS
from tests.running import PATIENCE, ROOT, Redis, Service, free_port
from tests.service.client import JSON, Reliable, Sdk, Target, answered, group_message, ok, opened, reliable

CONFIGURATION = ROOT / "deploy/nginx.conf"
# Debian has it where only the administrator looks.
NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def compose() -> dict[str, Any]:
    whole: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    return whole


# nginx


def directives(text: str) -> list[tuple[str, ...]]:
    """The words of each directive of an nginx configuration, with the names of the blocks around it in front."""
    text = re.sub(r"#[^\n]*", "", text)
    found: list[tuple[str, ...]] = []
    blocks: list[str] = []
    words: list[str] = []
    for word in re.findall(r"""'[^']*'|"[^"]*"|[{};]|[^\s{};'"]+""", text):
        if word == "{":
            blocks.append(words[0])
            words = []
        elif word == "}":
            assert not words, f"no semicolon behind {words}"
            blocks.pop()
        elif word == ";":
            found.append((*blocks, *words))
            words = []
        else:
            words.append(word)
    assert not blocks
    assert not words
    return found


def test_the_nginx_configuration_has_what_websockets_need() -> None:
    found = directives(CONFIGURATION.read_text())
    server = ("http", "server")
    for wanted in (
        (*server, "proxy_http_version", "1.1"),
        (*server, "proxy_set_header", "Upgrade", "$http_upgrade"),
        (*server, "proxy_set_header", "Connection", "$connection_upgrade"),
        (*server, "location", "proxy_next_upstream", "error", "timeout", "http_503"),
        (*server, "large_client_header_buffers", "4", "128k"),
    ):
        assert wanted in found
    # nginx has to be the first to give up an idle connection.
    [patience] = [words[-1] for words in found if words[:-1] == ("http", "upstream", "keepalive_timeout")]
    assert int(patience.removesuffix("s")) < conf.OPTIONS["HTTP_KEEP_ALIVE_SECS"].default
    # No log has a query in it, for that has tokens.
    assert [words for words in found if "access_log" in words] == [
        ("http", "access_log", "/dev/stdout", "without_query")
    ]
    [layout] = [" ".join(words) for words in found if "log_format" in words]
    logged = set(re.findall(r"\$\w+", layout))
    assert "$uri" in logged
    assert not logged & {"$request", "$request_uri", "$args", "$query_string", "$http_authorization"}


class Nginx:
    """nginx with the example configuration, in front of these services."""

    def __init__(self, folder: Path, *services: Service) -> None:
        assert NGINX is not None
        self.port = free_port()
        text = CONFIGURATION.read_text()
        for number, service in enumerate(services, 1):
            text, count = re.subn(rf"server hubwire{number}:8080 ", f"server 127.0.0.1:{service.port} ", text)
            assert count == 2
        assert "hubwire1" not in text
        # What it learned of a machine is forgotten sooner, so that nobody waits for that.
        text = text.replace("fail_timeout=5s", "fail_timeout=1s")
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = text.replace("http {", "http {" + temporary, 1).replace(
            "listen 80;", f"listen 127.0.0.1:{self.port};", 1
        )
        self._configuration = folder / "nginx.conf"
        self._configuration.write_text(text)
        self._log = folder / "nginx.log"
        self._folder = folder

    def _command(self, *more: str) -> list[str]:
        main = f"pid {self._folder}/nginx.pid; daemon off;"
        return [str(NGINX), "-p", str(self._folder), "-c", str(self._configuration), "-g", main, *more]

    def check(self) -> str:
        done = subprocess.run(self._command("-t"), capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def start(self) -> Nginx:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._command(), stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return self
        raise AssertionError(f"nginx did not start:\n{self._log.read_text()}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture
def behind_nginx(tmp_path: Path) -> Iterator[tuple[Target, Nginx, Service, Redis]]:
    """Two machines behind nginx: the whole, nginx, one of the two, and their Redis."""
    redis = Redis(tmp_path).start()
    env = {"REDIS_URL": redis.url, "TRUST_FORWARDED_HEADERS": "true", "NUM_PROXIES": "1", "DRAIN_SECS": "20"}
    first, second = Service(tmp_path, env=env), Service(tmp_path, env=env)
    folder = tmp_path / "nginx"
    folder.mkdir()
    nginx = Nginx(folder, first, second)
    for service in (first, second):
        service.env["PUBLIC_ENDPOINT"] = f"http://localhost:{nginx.port}"
    first.set_up()
    try:
        first.start()
        second.start()
        nginx.check()
        nginx.start()
        yield Target(first.connection_string), nginx, first, redis
    finally:
        for process in (first, second, nginx, redis):
            process.stop()


async def through_nginx(behind_nginx: tuple[Target, Nginx, Service, Redis]) -> None:
    """Clients and servers go through nginx; Redis goes and comes back, then one of two machines is stopped."""
    target, nginx, first, redis = behind_nginx
    await without_redis(target, redis)
    assert f":{nginx.port}" in target.endpoint
    over = asyncio.Event()
    statuses: set[int] = set()

    async def come() -> None:
        while not over.is_set():
            statuses.add(await answered(target.url()))

    async def follow(client: Reliable) -> int:
        """Hear the last message, wherever it has to go for that; gives how often it was sent away."""
        moves = 0
        while True:
            try:
                assert await client.hear() == group_message(room, "last", "text")
            except ConnectionClosed:
                assert client.socket.close_code == 1001
                await client.recover()
                moves += 1
            else:
                return moves

    async with AsyncExitStack() as stack:
        room = "room"
        # Fifty kilobytes of roles make a long address.
        roles = [f"webpubsub.joinLeaveGroup.{number:0>200}" for number in range(150)]
        clients = [await stack.enter_async_context(opened(target.url(groups=[room]), JSON)) for _ in range(4)]
        clients.append(await stack.enter_async_context(opened(target.url(groups=[room], roles=roles), JSON)))
        moving = [await stack.enter_async_context(reliable(target.url(groups=[room]))) for _ in range(4)]
        await Sdk(target).send_to_all("to all", content_type="text/plain")
        for client in (*clients, *moving):
            assert (await client.hear())["data"] == "to all"
        # Negotiate tells the address that the client has used.
        with urllib.request.urlopen(f"{target.endpoint}/negotiate", timeout=PATIENCE) as answer:
            assert json.load(answer)["url"].startswith(f"ws://{target.host}/client/hubs/")
        for client in moving:
            await client.acknowledge()
        following = [asyncio.create_task(follow(client)) for client in moving]
        coming = asyncio.create_task(come())
        assert first.process is not None
        first.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(first.process.wait, PATIENCE * 2) == -signal.SIGTERM
        over.set()
        await coming
        await Sdk(target).send_to_group(room, "last", content_type="text/plain")
        assert sum(await asyncio.gather(*following)) >= 1
        staying = await stack.enter_async_context(opened(target.url(), JSON))
        assert await staying.ask(type="sendToGroup", group=room, data=1, ackId=1) == ok(1)
    # Whoever came while a machine stopped was let in.
    assert statuses == {101}
    assert "access_token" not in nginx.log


async def without_redis(target: Target, redis: Redis) -> None:
    """All machines refuse new clients, which is no reason for nginx to keep other requests from them."""

    def status(path: str) -> int:
        try:
            with urllib.request.urlopen(target.endpoint + path, timeout=PATIENCE) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            return refused.code

    assert await asyncio.to_thread(status, "/healthz/ready") == 404
    await asyncio.to_thread(redis.stop)
    async with asyncio.timeout(PATIENCE):
        while await answered(target.url()) == 101:
            await asyncio.sleep(0.05)
    for _ in range(10):
        # 503 is the service's answer, 502 that of nginx, while it thinks that nobody is there.
        assert await answered(target.url()) in (502, 503)
        assert await asyncio.to_thread(status, "/negotiate") == 200
    await asyncio.to_thread(redis.start)
    async with asyncio.timeout(PATIENCE):
        # Both machines.
        while [await answered(target.url()) for _ in range(4)] != [101] * 4:
            await asyncio.sleep(0.05)


if NGINX is not None:
    # Elsewhere there is nothing to try it with.
    test_through_nginx = through_nginx


# Containers


def test_the_containers_fit_together() -> None:
    services = compose()["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
    machines = {name for name, service in services.items() if "stop_grace_period" in service}
    upstreams = {
        words[3] for words in directives(CONFIGURATION.read_text()) if words[:3] == ("http", "upstream", "server")
    }
    assert upstreams == {f"{name}:8080" for name in machines}
    assert len(machines) == 2
    known = set(re.findall(r"`([A-Z_]+)`", (ROOT / "docs/configuration.md").read_text()))
    for name in (*machines, "setup"):
        assert set(services[name]["environment"]) <= known
        build = services[name]["build"]
        assert (ROOT / "deploy" / build["context"] / build["dockerfile"]).exists()
    for name in machines:
        environment = services[name]["environment"]
        assert int(environment["WORKERS"]) > 1
        assert float(services[name]["stop_grace_period"].removesuffix("s")) > int(environment["DRAIN_SECS"]) + 30
    for volume in services["nginx"]["volumes"]:
        assert (ROOT / "deploy" / volume.partition(":")[0]).exists()


def test_redis_has_a_password_that_its_list_of_processes_does_not_show(tmp_path: Path) -> None:
    """The container's own command, with a Redis of this machine."""
    redis, port = compose()["services"]["redis"], free_port()
    assert redis["environment"] == {"REDISCLI_AUTH": "${REDIS_PASSWORD:?}"}
    for name in ("hubwire1", "hubwire2", "setup"):
        assert compose()["services"][name]["environment"]["REDIS_URL"].startswith("redis://:${REDIS_PASSWORD:?")
    shell, option, script = redis["command"]
    # Compose makes one $ of two.
    script = script.replace("$$", "$").replace("redis-server -", f"{Redis.executable()} -")
    script = script.replace("appendonly no", f"appendonly no\nport {port}\nbind 127.0.0.1\ndir {tmp_path}")
    process = subprocess.Popen([shell, option, script], env=os.environ | {"REDISCLI_AUTH": "kept"})
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                assert redis_client.Redis(port=port, password="kept").ping()
                break
            except redis_client.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        with pytest.raises(redis_client.AuthenticationError):
            redis_client.Redis(port=port).ping()
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes() if Path("/proc").exists() else b"redis-server"
        assert b"redis-server" in shown
        assert b"kept" not in shown
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_the_image_looks_after_its_health(service: Service) -> None:
    """The image's own command, with a service of this machine and with none."""
    text = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", "")
    [words] = re.findall(r"^HEALTHCHECK .* CMD (.+)$", text, re.MULTILINE)
    python, *command = json.loads(words)
    assert python == "python"

    def check(port: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command],
            env=os.environ | {"PORT": str(port)},
            capture_output=True,
            text=True,
            check=False,
        )

    healthy = check(service.port)
    assert (healthy.returncode, json.loads(healthy.stdout)) == (0, {"ready": True, "reasons": []})
    assert check(free_port()).returncode == 1
    # Compose waits for it, and has no other.
    assert "healthcheck" not in compose()["services"]["hubwire1"]
    assert compose()["services"]["nginx"]["depends_on"]["hubwire1"] == {"condition": "service_healthy"}


def test_the_unit_waits_for_those_who_drain_and_until_new_clients_are_served() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "deploy/hubwire.service")
    service = unit["Service"]
    assert float(service["TimeoutStopSec"]) > conf.OPTIONS["DRAIN_SECS"].default + ENDING_SECS
    assert service["KillMode"] == "mixed"
    assert service["ExecStartPost"].startswith("-")
    assert service["ExecStartPost"].endswith("/healthz/ready")


def test_the_image_has_all_that_the_service_is_made_of() -> None:
    lines = (ROOT / "deploy/Dockerfile").read_text().splitlines()
    copied = {source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]}
    assert {"manage.py", "hubs", "pubsub_site", "static", "templates"} <= copied
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in copied:
        assert (ROOT / source).exists()
        assert source in let_through
    python = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert python is not None
    assert lines[1] == f"FROM python:{python[1]}-slim"
