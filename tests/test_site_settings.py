"""What pubsub_site/settings.py makes of the environment, where a service shows it only by how long it takes."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
