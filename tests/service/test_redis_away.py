"""Redis goes and comes back: clients stay, and nothing is claimed that did not happen."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from azure.core.exceptions import HttpResponseError
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from websockets.exceptions import InvalidStatus

from tests.running import PATIENCE, Redis, Service
from tests.service.client import JSON, Target, answered, group_message, ok, opened


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    own = Redis(tmp_path_factory.mktemp("redis"))
    yield own.start()
    own.stop()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, redis: Redis) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("service"), env={"REDIS_URL": redis.url}).set_up().start()
    yield running
    # The last test may have ended just as Redis was reached. An outage that is over at once is not told of.
    deadline = time.monotonic() + PATIENCE
    while (outages := _outages(log := running.log.read_text())) > log.count("Redis can be used again"):
        assert time.monotonic() < deadline, log
        time.sleep(0.05)
    running.stop()
    assert log.count("Redis can be used again") == outages
    assert "Traceback" not in log


def _outages(log: str) -> int:
    return log.count("hubs.cluster.log: Redis cannot be used: ")


@pytest.fixture
def target(service: Service) -> Target:
    # Another test may have ended just as Redis was reached, or the service has just begun.
    service.until_ready()
    return Target(service.connection_string)


def _get(service: Service, path: str) -> tuple[int, bytes]:
    headers = {"Authorization": f"Token {service.admin_token}"} if path.startswith("/manage") else {}
    try:
        request = urllib.request.Request(service.endpoint + path, headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


async def asked(service: Service, path: str) -> int:
    return (await asyncio.to_thread(_get, service, path))[0]


async def becomes(service: Service, *reasons: str) -> None:
    """Wait until the service gives these reasons for serving nobody new; none = until it is ready."""
    async with asyncio.timeout(PATIENCE):
        while True:
            status, body = await asyncio.to_thread(_get, service, "/healthz/ready")
            said = json.loads(body)
            assert said["ready"] == (status == 200) == (not said["reasons"])
            if [reason.split(",")[0] for reason in said["reasons"]] == list(reasons):
                return
            await asyncio.sleep(0.05)


async def test_redis_goes_and_comes_back(target: Target, redis: Redis, unique: Callable[[str], str]) -> None:
    room = unique("room")
    # Without retries, which would outlast the absence.
    service = WebPubSubServiceClient.from_connection_string(target.connection_string, hub="chat", retry_total=0)

    async def send(data: str) -> int:
        try:
            await asyncio.to_thread(service.send_to_group, room, data, content_type="text/plain")
        except HttpResponseError as refused:
            return (
                int(refused.status_code or 0) if refused.response and refused.response.headers.get("Retry-After") else 0
            )
        return 202

    async with opened(target.url(), JSON) as sender, opened(target.url(groups=[room]), JSON) as member:
        assert await send("before") == 202
        assert await member.hear() == group_message(room, "before", "text")

        await asyncio.to_thread(redis.stop)
        # A message that is not in the log reaches nobody, and the ack says so.
        answer = await sender.ask(type="sendToGroup", group=room, data="here", ackId=1)
        assert answer["error"] == {
            "name": "InternalServerError",
            "message": "The other servers of this service cannot be reached.",
        }
        assert await send("refused") == 503
        # What needs no other process goes on.
        await sender.barrier()
        # Clients that come now are turned away, because nobody could reach them.
        assert await answered(target.url("newhub", groups=[unique("other")]), JSON) == 503

        await asyncio.to_thread(redis.start)
        async with asyncio.timeout(PATIENCE):
            while await send("after") != 202:
                await asyncio.sleep(0.1)
        assert await member.hear() == group_message(room, "after", "text")
        async with asyncio.timeout(PATIENCE):
            answer, number = {"success": False}, 2
            while not answer["success"]:
                answer = await sender.ask(type="sendToGroup", group=unique("empty"), data="again", ackId=number)
                number += 1
        assert answer == ok(number - 1)
        # What it hears by may be back a moment later than what it publishes by; until then it says so.
        async with asyncio.timeout(PATIENCE):
            while (status := await answered(target.url("newhub", groups=[unique("other")]), JSON)) != 101:
                assert status == 503
                await asyncio.sleep(0.05)


AWAY = "redis: it cannot be reached"


@contextmanager
def frozen(redis: Redis) -> Iterator[None]:
    assert redis.process is not None
    redis.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        redis.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def stopped(redis: Redis) -> Any:
    await asyncio.to_thread(redis.stop)
    try:
        yield
    finally:
        await asyncio.to_thread(redis.start)


@contextmanager
def commanded(redis: Redis, breaking: str, repairing: str) -> Iterator[None]:
    client = redis_client.Redis(port=redis.port)
    client.execute_command(*breaking.split())
    try:
        yield
    finally:
        client.execute_command(*repairing.split())


async def goes_on(service: Service) -> None:
    """What needs no other process is answered."""
    assert await asked(service, "/negotiate") == 200
    assert await asked(service, "/manage/api/hubs") == 200
    assert await asked(service, "/admin/login/") == 200
    assert await asked(service, "/healthz/live") == 200
    assert await asked(service, "/api/health") == 200


async def test_new_clients_of_a_hub_that_has_some_are_turned_away_too(
    target: Target, service: Service, redis: Redis
) -> None:
    await becomes(service)
    async with opened(target.url(), JSON) as staying:
        async with stopped(redis):
            await becomes(service, AWAY)
            for _ in range(3):
                with pytest.raises(InvalidStatus) as refused:
                    async with opened(target.url(), JSON):
                        pass
                assert refused.value.response.status_code == 503
                assert refused.value.response.headers["retry-after"] == "1"
            await staying.barrier()
            await goes_on(service)
        await becomes(service)
        async with opened(target.url(), JSON):
            await staying.barrier()


async def test_a_redis_that_stands_still(target: Target, service: Service, redis: Redis) -> None:
    await becomes(service)
    async with opened(target.url(), JSON) as staying:
        with frozen(redis):
            await becomes(service, AWAY)
            assert await answered(target.url(), JSON) == 503
            await staying.barrier()
            await goes_on(service)
        await becomes(service)
        assert await answered(target.url(), JSON) == 101


@pytest.mark.parametrize(
    ("breaking", "repairing"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("ACL SETUSER default resetkeys", "ACL SETUSER default allkeys"),
    ],
    ids=["full", "read-only", "no-keys"],
)
async def test_a_redis_that_does_not_count(
    breaking: str, repairing: str, target: Target, service: Service, redis: Redis
) -> None:
    with commanded(redis, breaking, repairing):
        await goes_on(service)


async def test_a_redis_that_lets_nobody_append(target: Target, service: Service, redis: Redis) -> None:
    await becomes(service)
    with commanded(redis, "ACL SETUSER default -xadd", "ACL SETUSER default +xadd"):
        await becomes(service, AWAY)
        assert await answered(target.url(), JSON) == 503
        await goes_on(service)
    await becomes(service)


async def test_a_process_that_never_reached_redis_goes_on_trying(tmp_path: Path) -> None:
    redis = Redis(tmp_path)
    # daphne begins without; uvicorn alone looks first, and a worker of several does as daphne.
    service = Service(tmp_path, server="daphne", env={"REDIS_URL": redis.url}).set_up().start()
    try:
        await becomes(service, "redis: it has not been reached since this process started; the log says why")
        assert await answered(Target(service.connection_string).url(), JSON) == 503
        await asyncio.to_thread(redis.start)
        await becomes(service)
        assert await answered(Target(service.connection_string).url(), JSON) == 101
    finally:
        service.stop()
        redis.stop()
    assert "Traceback" not in service.log.read_text()
