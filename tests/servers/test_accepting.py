"""What happens to clients where the limit of open files is reached, and to those who are in."""

from __future__ import annotations

import asyncio
import http.client
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import InvalidStatus

from tests.running import PATIENCE, ROOT, Service
from tests.service.client import JSON, Target, opened

LIMIT = 256
CLIENTS = 320

NO_ROOM = "WARNING hubs.servers.accepting: There is no room for more clients. This process may open 256 files"
ROOM = "WARNING hubs.servers.accepting: There is room for clients again; "


@pytest.fixture
def small(data_dir: Path) -> Iterator[Service]:
    """A service that may open few files, and has begun with fewer."""
    service = Service(data_dir, open_files=(LIMIT // 2, LIMIT)).set_up().start()
    yield service
    service.stop()
    assert "Traceback" not in service.log.read_text()


async def test_clients_without_room_are_told_and_the_others_do_not_notice(small: Service) -> None:
    assert small.process is not None
    assert psutil.Process(small.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (LIMIT, LIMIT)
    target = Target(small.connection_string)
    url = target.url("chat")
    statuses: Counter[int] = Counter()
    clients = AsyncExitStack()

    async def come() -> None:
        try:
            await clients.enter_async_context(opened(url, JSON))
        except InvalidStatus as refused:
            answer = refused.response
            assert answer.headers["connection"] == "close"
            assert answer.headers["retry-after"] == "5"
            statuses[answer.status_code] += 1
        else:
            statuses[101] += 1

    async with clients:
        # All in one moment, more than there are descriptors.
        await asyncio.gather(*(come() for _ in range(CLIENTS)))
        assert set(statuses) == {101, 503}
        assert sum(statuses.values()) == CLIENTS
        assert statuses[101] > LIMIT / 2
        # Who comes for one request gets it, and each takes a connection only for that.
        for _ in range(40):
            assert await asyncio.to_thread(_get, small.port) == (200, "close")
        # What looks after the service hears why no client gets in, and that it lives.
        assert await asyncio.to_thread(_get, small.port, "/healthz/ready") == (503, "close")
        assert await asyncio.to_thread(_get, small.port, "/healthz/live") == (200, "close")
        # Those who ask for nothing are in nobody's way for long, and are told, too.
        answers = await asyncio.gather(*(_say_nothing(small.port) for _ in range(40)))
        assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 503 Service Unavailable"}
        assert [answer.count(b"\r\nretry-after: 5\r\n") for answer in answers] == [1] * len(answers)
        assert await asyncio.to_thread(_get, small.port) == (200, "close")
        send = target.service_client("chat").send_to_all
        await asyncio.to_thread(send, "all", content_type="text/plain")
        await _says(small, NO_ROOM)
    await _says(small, ROOM)
    log = small.log.read_text()
    assert (log.count(NO_ROOM), log.count(ROOM)) == (1, 1)
    async with opened(url, JSON):
        pass


def _get(port: int, path: str = "/api/health") -> tuple[int, str | None]:
    connection = http.client.HTTPConnection("localhost", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("connection")
    finally:
        connection.close()


async def _say_nothing(port: int) -> bytes:
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = await reader.read()
        writer.close()
        return answer


async def _says(service: Service, text: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while text not in service.log.read_text():
            await asyncio.sleep(0.05)


PROGRAM = """
import asyncio, logging, os, resource, socket, sys
from types import SimpleNamespace
import uvloop
from hubs import health
from hubs.servers import accepting

logging.basicConfig(format="%(message)s", stream=sys.stdout)
LIMIT = 64
resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
accepting.REFUSING_SECS = 0.2

class Served(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(b"served")

async def main():
    loop = asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0), backlog=100)
    acceptors = accepting.Acceptors(SimpleNamespace(loaded_app=None), lambda config: Served())
    acceptors.open([listening])
    # Before there is nothing left; a client needs a descriptor, too.
    clients = [socket.socket() for _ in range(10)]
    files = []
    while True:
        try:
            files.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            break
    for client in clients:
        client.connect(listening.getsockname())
        client.sendall(b"GET")
        client.setblocking(False)
    one = asyncio.create_task(loop.sock_recv(clients[0], 100))
    await asyncio.wait([one], timeout=0.5)
    print("waits" if not one.done() else one.result())
    # Two of those that are kept back.
    for file in files[-2:]:
        os.close(file)
    answers = [await one] + [await loop.sock_recv(client, 1000) for client in clients[1:]]
    print({answer.split(b"\\r\\n")[0].decode() for answer in answers})
    print(health.reachability())
    for file in files[:-2]:
        os.close(file)
    for client in clients[1:]:
        client.close()
    while acceptors._is_full:
        await asyncio.sleep(0.02)
    with socket.create_connection(listening.getsockname()) as client:
        client.setblocking(False)
        print((await loop.sock_recv(client, 100)).decode())
    print(health.reachability())
    acceptors.close()
    listening.close()

runner = asyncio.Runner(loop_factory=getattr(sys.modules[sys.argv[1]], "new_event_loop"))
with runner:
    runner.run(main())
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_where_nothing_is_left_clients_wait_and_are_answered_later(loop: str) -> None:
    """What the service needs for itself may be more than what is kept back."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, loop], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stderr == ""
    first, *others = done.stdout.splitlines()
    assert first.startswith("There is no room for more clients: Too many open files. This process may open 64 files")
    assert others == [
        "waits",
        "{'HTTP/1.1 503 Service Unavailable'}",
        "['open files: there is no room for more clients, as this process may open 64 files']",
        "There is room for clients again; 10 were refused meanwhile",
        "served",
        "[]",
    ]


def test_the_limit_is_raised_as_far_as_it_goes() -> None:
    said = subprocess.check_output(
        [
            sys.executable,
            "-c",
            "import resource; from hubs.servers import accepting; accepting.raise_limit();"
            "accepting.raise_limit(); print(resource.getrlimit(resource.RLIMIT_NOFILE))",
        ],
        cwd=ROOT,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 3000)),
    )
    assert said == "(3000, 3000)\n"
