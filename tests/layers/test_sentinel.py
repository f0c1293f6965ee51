"""Redis watched by Sentinel: a master dies, another takes its place, and the layer follows."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis as SyncClient
from redis.asyncio import Redis as Client
from redis.asyncio.sentinel import Sentinel

from hubs.layers.errors import LayerAway
from hubs.layers.redis import RedisLayer
from tests.layers.conftest import Ear, soon
from tests.running import PATIENCE, Redis, Service, free_port


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Redis]:
    redis = Redis(tmp_path)
    yield redis.start()
    redis.stop()


@pytest.fixture
def replica(master: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A replica that the master knows. A sentinel that starts after it finds it at once, not ten seconds later."""
    redis = Redis(tmp_path_factory.mktemp("replica")).start()
    with SyncClient.from_url(redis.url) as client, SyncClient.from_url(master.url) as asked:
        client.replicaof("127.0.0.1", master.port)
        deadline = time.monotonic() + PATIENCE
        while not asked.info("replication")["connected_slaves"]:
            assert time.monotonic() < deadline
    yield redis
    redis.stop()


@pytest.fixture
def sentinel(master: Redis, tmp_path: Path) -> Iterator[int]:
    """The port of a sentinel that watches the master under the name `Main`, and is quick to replace it."""
    port, settings = free_port(), tmp_path / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor Main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds Main 300\nsentinel failover-timeout Main 3000\n"
    )
    with (tmp_path / "sentinel.log").open("wb") as log:
        process = subprocess.Popen([Redis.executable(), str(settings), "--sentinel"], stdout=log, stderr=log)
    yield port
    process.terminate()
    process.wait(PATIENCE)


async def test_a_failover(master: Redis, replica: Redis, sentinel: int, prefix: str) -> None:
    watched = Sentinel([("127.0.0.1", sentinel)], socket_timeout=1)
    async with watched, asyncio.timeout(PATIENCE * 2):
        # It finds the replica by asking the master.
        while True:
            try:
                if await watched.discover_replicas("Main"):
                    break
            except ConnectionError:
                pass
            await asyncio.sleep(0.05)

    # The first sentinel is dead; the next one is asked.
    sentinels = [("127.0.0.1", free_port()), ("127.0.0.1", sentinel)]
    here, there = (RedisLayer(hosts=[{"master_name": "Main", "sentinels": sentinels}], prefix=prefix) for _ in range(2))
    ear = await Ear(there).open("g")
    await soon(here.post("g", {"at": "the old master"}))
    assert await ear.hears() == {"at": "the old master"}
    async with Client.from_url(replica.url) as client, asyncio.timeout(PATIENCE):
        while not await client.exists(f"{prefix}:log:g"):
            await asyncio.sleep(0.01)

    await asyncio.to_thread(master.stop)
    assert await ear.line() is False
    async with asyncio.timeout(PATIENCE * 2):
        assert await ear.lines.get() is True
        while True:
            try:
                position = await here.post("g", {"at": "the new master"})
                break
            except LayerAway:
                pass
            await asyncio.sleep(0.02)
    assert await ear.hears() == {"at": "the new master"}
    assert ear.heard[1:] == [("g", position, {"at": "the new master"})]
    async with Client.from_url(replica.url) as client:
        assert (await client.info("replication"))["role"] == "master"
    await soon(asyncio.gather(here.flush(), there.flush()))


async def test_nobody_knows_the_master(sentinel: int, master: Redis) -> None:
    layer = RedisLayer(hosts=[{"master_name": "Other", "sentinels": [("127.0.0.1", sentinel)]}])
    with pytest.raises(LayerAway, match="No master found for 'Other'"):
        await soon(layer.group_send("g", {"type": "x"}))
    await soon(layer.flush())


_USES_BOTH = """
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.core.cache import cache
cache.set("key", "kept")
async_to_sync(get_channel_layer().group_send)("g", {"type": "x"})
print(cache.get("key"), cache.is_away)
"""


async def test_the_service_configured_for_sentinel(sentinel: int, master: Redis, tmp_path: Path) -> None:
    """By environment variables; the channel layer and the cache both find the master."""
    async with Client.from_url(master.url) as client:
        await client.config_set("requirepass", "p@ss")
    async with Client(port=sentinel) as client:
        await client.execute_command("SENTINEL", "SET", "Main", "auth-pass", "p@ss")
        async with asyncio.timeout(PATIENCE):
            # Until it has been let in with that it names no master.
            while (await client.sentinel_master("Main"))["flags"] != "master":
                await asyncio.sleep(0.05)
    env = {
        "REDIS_URL": "redis://:p%40ss@Main/1",
        "REDIS_SENTINELS": f"127.0.0.1:{free_port()},127.0.0.1:{sentinel}",
    }
    assert await asyncio.to_thread(Service(tmp_path, env=env).python, _USES_BOTH) == "kept False"


@pytest.mark.parametrize(
    ("env", "advice"),
    [
        ({"REDIS_SENTINELS": "10.0.0.5:26379"}, "REDIS_SENTINELS needs REDIS_URL too"),
        ({"REDIS_SENTINELS": "10.0.0.5:26379", "REDIS_URL": "redis:///0"}, "redis://mymaster/0"),
        ({"REDIS_SENTINELS": "10.0.0.5:26379", "REDIS_URL": "unix://mymaster/0"}, "redis://mymaster/0"),
        ({"REDIS_SENTINELS": "10.0.0.5:26379", "REDIS_URL": "http://mymaster/0"}, "redis://mymaster/0"),
        ({"REDIS_SENTINELS": ":26379", "REDIS_URL": "redis://:secret@mymaster/0"}, "redis://mymaster/0"),
        ({"REDIS_SENTINELS": "10.0.0.5:many", "REDIS_URL": "redis://:secret@mymaster/0"}, "redis://mymaster/0"),
        ({"REDIS_SENTINELS": "10.0.0.5", "REDIS_URL": "redis://:secret@mymaster/0?db=x"}, "redis://mymaster/0"),
    ],
)
def test_a_configuration_that_cannot_work(tmp_path: Path, env: dict[str, str], advice: str) -> None:
    done = Service(tmp_path, env=env).manage("check", check=False)
    assert done.returncode == 1
    assert advice in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
