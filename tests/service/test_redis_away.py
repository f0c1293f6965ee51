"""Redis goes and comes back: local traffic lives on, and nothing is claimed that did not happen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from azure.core.exceptions import HttpResponseError
from azure.messaging.webpubsubservice import WebPubSubServiceClient

from tests.running import PATIENCE, Redis, Service
from tests.service.client import JSON, Target, answered, group_message, ok, opened


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    own = Redis(tmp_path_factory.mktemp("redis"))
    yield own.start()
    own.stop()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, redis: Redis) -> Iterator[Target]:
    service = Service(tmp_path_factory.mktemp("service"), env={"REDIS_URL": redis.url}).set_up().start()
    yield Target(service.connection_string)
    log = service.log.read_text()
    service.stop()
    assert "Cannot reach the other processes" in log


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
        # A client's message reaches the members in its own process, and its ack says that others were not reached.
        answer = await sender.ask(type="sendToGroup", group=room, data="here", ackId=1)
        assert answer["error"] == {
            "name": "InternalServerError",
            "message": "The other servers of this service cannot be reached.",
        }
        assert await member.hear() == group_message(room, "here")
        # A server's message is refused, and reaches nobody: it will be sent again.
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
