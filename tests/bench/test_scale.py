"""The bench of several workers, and of the layers between them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import layers
from bench.contestants import CONTESTANTS
from bench.crowd import Shape
from bench.layers import OURS, STOCK, Layer
from bench.scale import FAMILIES
from bench.servers import Server, Wrong
from bench.spread import SpreadCrowd, apart, evenly, together


@pytest.fixture(scope="module")
def redis() -> Iterator[Server]:
    with Server(CONTESTANTS["redis"], None) as server:
        yield server


def test_a_layer_that_loses_a_message_does_not_count(redis: Server) -> None:
    losing = Layer("losing", "tests.bench.losing.LosingLayer", 0)
    with pytest.raises(Wrong, match="message 3 came where 2 was due"):
        layers.measure(losing, f"redis://127.0.0.1:{redis.port}/0", redis, None, 1, 0.3)


@pytest.mark.parametrize("path", [OURS, STOCK])
def test_a_redis_that_is_not_there_does_not_count(path: str, redis: Server) -> None:
    with pytest.raises(Wrong, match=r"Redis|[Cc]onnect"):
        layers.measure(Layer("nowhere", path, 0), "redis://127.0.0.1:1/0", redis, None, 1, 0.3)


def test_a_layer_that_keeps_its_word_counts(redis: Server) -> None:
    run = layers.measure(Layer("ours", OURS, 16), f"redis://127.0.0.1:{redis.port}/0", redis, None, 1, 0.3)
    assert run.published == run.received > 0
    assert run.per_cpu_sec > run.per_cpu_sec_with_redis > 0


async def test_half_of_a_group_is_at_each_worker() -> None:
    shape = Shape(2, 4)
    with Server(CONTESTANTS["stock-two"], None) as server:
        async with SpreadCrowd(server, shape, 2, evenly(shape, 2)) as crowd:
            assert [sorted(crowd.homes(members)) for members in crowd.members] == [[0, 0, 1, 1]] * 2
            assert sorted(crowd.homes(crowd.publishers)) == [0, 1]
            traffic = await crowd.flood(0.2, 16)
            assert traffic.fault is None
            assert traffic.delivered > 0
            assert server.own_cpu_secs() > server.companions_cpu_secs() > 0


def test_members_are_spread_within_each_group_and_publishers_in_turn() -> None:
    place = evenly(Shape(3, 10), 2)
    for group in range(3):
        assert [place(group * 10 + member, False) for member in range(10)] == [0, 1] * 5
    assert [place(number, True) % 2 for number in range(3)] == [0, 1, 0]


def test_groups_that_are_kept_together_have_their_publisher_with_them() -> None:
    place = together(Shape(4, 10), 2)
    for group in range(4):
        assert {place(group * 10 + member, False) for member in range(10)} == {place(group, True)} == {group % 2}


def test_for_crossing_publishers_and_members_are_apart() -> None:
    place = apart(Shape(9, 1), 2)
    assert {place(number, True) for number in range(9)} == {1}
    assert {place(number, False) for number in range(9)} == {0}


def test_each_family_is_one_and_two_of_the_same() -> None:
    for family in FAMILIES.values():
        alone, two = CONTESTANTS[family.alone], CONTESTANTS[family.two]
        assert (alone.dialect, alone.targets, alone.cwd) == (two.dialect, two.targets, two.cwd)
        assert two.instances == 2 or two.command[-2:] == ("--workers", "2")
