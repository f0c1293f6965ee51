"""What an operator is told of a Redis that lacks something."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.core.checks import Error, run_checks
from redis import Redis as Sync
from redis.asyncio import Redis as Client

from hubs.layers.errors import LayerAway
from tests.layers.conftest import Layers, answering, soon
from tests.running import PATIENCE, Redis, free_port


async def test_what_a_redis_lacks(layers: Layers, own_redis: Redis, prefix: str) -> None:
    layer = layers(own_redis.url)
    async with Client.from_url(own_redis.url) as client:
        assert await soon(layer.requirements()) == []
        for policy in ("volatile-lru", "allkeys-lru"):
            await client.config_set("maxmemory-policy", policy)
            (complaint,) = await soon(layer.requirements())
            assert policy in complaint
            assert "noeviction" in complaint
        await client.config_set("maxmemory-policy", "noeviction")

        async def complaints(*commands: str, keys: str = "*") -> list[str]:
            await client.acl_setuser(
                "some", enabled=True, reset=True, passwords=["+pw"], keys=[keys], commands=["+@all", *commands]
            )
            found: list[str] = await soon(layers(own_redis.url.replace("//", "//some:pw@")).requirements())
            return found

        # That one cannot look is no complaint.
        assert await complaints("-config") == []
        (complaint,) = await complaints("-xtrim")
        assert "XTRIM" in complaint
        client_and_memory = await complaints("-client", "-memory")
        assert ["CLIENT" in each or "MEMORY" in each for each in client_and_memory] == [True, True]
        assert "may be delivered after all" in " ".join(client_and_memory)
        assert await complaints(keys=f"{prefix}:*") == []
        assert f"begin with {prefix}:" in (await complaints(keys=f"{prefix}:log:*"))[0]

        # What was tried is gone.
        async with asyncio.timeout(PATIENCE):
            while await client.keys("*"):
                await asyncio.sleep(0.01)


async def test_the_permissions_that_the_documentation_names(layers: Layers, own_redis: Redis, prefix: str) -> None:
    permissions = "+@read +@write +@connection +time +info +client|id +client|kill"
    async with Client.from_url(own_redis.url) as client:
        await client.execute_command(
            "ACL", "SETUSER", "some", "on", ">pw", f"~{prefix}:*", "resetchannels", *permissions.split()
        )
    layer = layers(own_redis.url.replace("//", "//some:pw@"))
    assert await soon(layer.requirements()) == []
    assert await soon(layer.post("g", {"type": "x"}))


async def test_a_redis_that_takes_nothing(layers: Layers, own_redis: Redis) -> None:
    async with Client.from_url(own_redis.url) as client:
        await client.config_set("maxmemory", 1)
        (complaint,) = await soon(layers(own_redis.url).requirements())
        assert "OOM" in complaint or "maxmemory" in complaint
        await client.config_set("maxmemory", 0)
        await client.replicaof("127.0.0.1", free_port())
        (complaint,) = await soon(layers(own_redis.url).requirements())
        assert "READONLY" in complaint


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (b"redis_version:5.0.14", "Redis 5.0 is too old"),
        (b"redis_version:6.0.16", "Redis 6.0 is too old"),
        (b"redis_version:7.2.4\r\nredis_mode:cluster", "Redis Cluster"),
        (b"redis_version:10.0.1", ""),
    ],
)
async def test_versions(layers: Layers, info: bytes, text: str) -> None:
    answers = (b"+OK\r\n", b"+OK\r\n", b"+PONG\r\n", b"$%d\r\n%b\r\n*0\r\n" % (len(info), info), b":0\r\n" * 18)
    async with answering(*answers) as url:
        complaints = await soon(layers(url).requirements())
    assert [text in complaint for complaint in complaints] == ([True] if text else [])


async def test_no_redis_at_all(layers: Layers) -> None:
    with pytest.raises(LayerAway):
        await soon(layers(f"redis://127.0.0.1:{free_port()}/0").requirements())


def test_only_a_check_before_deployment_asks(settings: Any, own_redis: Redis) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "hubs.layers.redis.RedisLayer", "CONFIG": {"hosts": [own_redis.url]}}
    }
    with Sync.from_url(own_redis.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    assert run_checks(tags=["hubs"]) == []
    [found] = run_checks(tags=["hubs"], include_deployment_checks=True)
    assert (found.id, "allkeys-lru" in found.msg) == ("hubs.W014", True)
    own_redis.stop()
    [problem] = run_checks(tags=["hubs"], include_deployment_checks=True)
    assert (problem.id, type(problem)) == ("hubs.E005", Error)
