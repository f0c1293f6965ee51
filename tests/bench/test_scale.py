"""The bench of several workers, and of the layers between them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.clients import Shape
from bench.holding import Wrong
from bench.scale import ALONE, LAYERS, OURS, PARTS, STOCK, STOCK_TWO, TWO, _apart, _evenly, _layer
from tests.bench.running import LONG, run_bench
from tests.running import Redis


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path).start()
    yield server
    server.stop()


@pytest.mark.timeout(LONG)
def test_a_quick_run_delivers_everything(tmp_path: Path) -> None:
    done, raw = run_bench("scale", "--quick", "--seconds", "0.2", results=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    whats: dict[str, list[str]] = {part: [] for part in PARTS}
    for run in raw["runs"]:
        assert run["delivered"] == run["expected"] > 0
        assert run["cpu_secs"] > 0
        whats[run["part"]].append(run["what"])
    assert whats == {
        "workers": [ALONE.title, ALONE.title, TWO.title, TWO.title],
        "crossing": [TWO.title, STOCK_TWO.title],
        "layers": [title for title, *_ in LAYERS],
    }


def test_a_layer_that_loses_a_message_does_not_count(redis: Redis) -> None:
    with pytest.raises(Wrong, match="message 101 came where 100 was due"):
        _layer("losing", "tests.bench.losing.LosingLayer", 0, redis.url, psutil.Process(os.getpid()), 1, 0.3)


@pytest.mark.parametrize("path", [OURS, STOCK])
def test_a_redis_that_is_not_there_does_not_count(path: str) -> None:
    with pytest.raises(Wrong, match=r"Redis|[Cc]onnect"):
        _layer("nowhere", path, 0, "redis://127.0.0.1:1/0", psutil.Process(os.getpid()), 1, 0.3)


def test_members_are_spread_within_each_group_and_publishers_in_turn() -> None:
    place = _evenly(Shape(3, 10), 2)
    for group in range(3):
        assert [place(group * 10 + member, False) for member in range(10)] == [0, 1] * 5
    assert [place(number, True) % 2 for number in range(3)] == [0, 1, 0]


def test_for_crossing_publishers_and_members_are_apart() -> None:
    assert {_apart(number, True) for number in range(9)} == {1}
    assert {_apart(number, False) for number in range(9)} == {0}
