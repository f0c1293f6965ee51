"""What pubsub_site/settings.py makes of the environment, where a service shows it only by how long it takes."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from tests.running import PATIENCE, ROOT, Redis, Service, free_port

LOOK_UP = """
import time
from django.core.cache import cache
begun = time.monotonic()
cache.set("asked", "answered")
print(cache.get("asked"), time.monotonic() - begun)
"""


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[int]:
    """The port of a sentinel that watches a Redis under the name `main`, and answers."""
    redis, port, settings = Redis(tmp_path).start(), free_port(), tmp_path / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 {redis.port} 1\n"
    )
    with (tmp_path / "sentinel.log").open("wb") as log:
        process = subprocess.Popen([Redis.executable(), str(settings), "--sentinel"], stdout=log, stderr=log)
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
    yield port
    process.terminate()
    process.wait(PATIENCE)
    redis.stop()


def test_the_cache_asks_the_next_sentinel_where_the_first_ones_are_away(
    sentinel: int, data_dir: Path, tmp_path: Path
) -> None:
    """One refuses connections, one takes them and says nothing: a second is lost with it, none with the other."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        sentinels = f"127.0.0.1:{free_port()},127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{sentinel}"
        service = Service(data_dir, env={"REDIS_URL": "redis://main/0", "REDIS_SENTINELS": sentinels})
        # Not by manage.py: the cache needs the settings alone, and they are sooner there.
        said = subprocess.check_output(
            [sys.executable, "-c", LOOK_UP],
            cwd=ROOT,
            env=service.env | {"DJANGO_SETTINGS_MODULE": "pubsub_site.settings"},
            text=True,
            timeout=PATIENCE * 3,
        )
    answer, secs = said.split()
    assert answer == "answered"
    # redis-py's own ten tries with one of them take four seconds and more, and those with the silent one ten.
    assert 1 <= float(secs) < 8


def settings_say(service: Service, code: str) -> str:
    return subprocess.check_output(
        [sys.executable, "-c", f"import django; django.setup(); {code}"],
        cwd=ROOT,
        env=service.env | {"DJANGO_SETTINGS_MODULE": "pubsub_site.settings"},
        text=True,
        timeout=PATIENCE * 3,
    ).strip()


def test_what_stands_in_redis_is_json_and_not_where_earlier_versions_look(redis_server: Redis, data_dir: Path) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/9"
    service = Service(data_dir, env={"REDIS_URL": url})
    redis = redis_client.Redis.from_url(url)
    code = "from django.core.cache import cache; "
    written = "cache.set('list', [1.5, 'é', None]); cache.set('number', 1); cache.incr('number'); "
    assert (
        settings_say(service, f"{code}{written}print(cache.get('list'), cache.get('number'))") == "[1.5, 'é', None] 2"
    )
    assert sorted(redis.keys()) == [b"hubwire-json:1:list", b"hubwire-json:1:number"]
    assert redis.get("hubwire-json:1:number") == b"2"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("code was run",)

    redis.set("hubwire-json:1:trap", pickle.dumps(Trap()))
    refused = "\ntry: print(cache.get('trap'))\nexcept ValueError: print('refused')"
    assert settings_say(service, f"{code}{refused}") == "refused"


def test_strict_transport_is_told_over_https_alone(data_dir: Path) -> None:
    service = Service(
        data_dir,
        env={
            "HSTS_SECS": "3600",
            "PUBLIC_ENDPOINT": "https://pubsub.example.com",
            "TRUST_FORWARDED_HEADERS": "true",
            "NUM_PROXIES": "1",
        },
    )
    code = (
        "from django.test import Client; answer = Client().get('/admin/login/', headers={'host': 'pubsub.example.com', "
        "'x-forwarded-proto': '%s'}); print(answer.headers.get('Strict-Transport-Security'))"
    )
    assert settings_say(service, code % "https") == "max-age=3600"
    assert settings_say(service, code % "http") == "None"
