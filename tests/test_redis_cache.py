"""The cache goes on in memory while its Redis cannot be used, says so once, and asks nobody to wait.

Each outage is one of a real Redis. tests/service/test_redis_away.py has the service with the same outages.
"""

from __future__ import annotations

import logging
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client

from hubs import rates, redis_cache
from hubs.redis_cache import RedisCache
from tests.running import PATIENCE, Redis, free_port

PREFIX = "hubwire-json"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis of this module's own, for it to break and repair."""
    own = Redis(tmp_path_factory.mktemp("redis")).start()
    yield own
    own.stop()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(redis_cache, "RETRY_SECS", 0.05)
    caplog.set_level(logging.INFO, "hubs")


@pytest.fixture
def cache(redis: Redis) -> RedisCache:
    """A cache with its own connections, which starts with Redis at hand."""
    made = RedisCache(redis.url, {"OPTIONS": {"socket_timeout": 0.2}, "KEY_PREFIX": PREFIX})
    made.clear()
    return made


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "hubs.redis_cache"]


def frozen(redis: Redis) -> Callable[[], Any]:
    assert redis.process is not None
    redis.process.send_signal(signal.SIGSTOP)
    return lambda: redis.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]


def away(redis: Redis) -> Callable[[], Any]:
    redis.stop()
    return redis.start


def _commands(redis: Redis, breaking: Sequence[str], repairing: str) -> Callable[[], Any]:
    # One connection, which stays signed in.
    client = redis_client.Redis(port=redis.port, single_connection_client=True)
    for command in breaking:
        client.execute_command(*command.split())
    return lambda: client.execute_command(*shlex.split(repairing))


def full(redis: Redis) -> Callable[[], Any]:
    return _commands(redis, ["CONFIG SET maxmemory 1"], "CONFIG SET maxmemory 0")


def read_only(redis: Redis) -> Callable[[], Any]:
    return _commands(redis, ["REPLICAOF 127.0.0.1 1"], "REPLICAOF NO ONE")


def no_keys(redis: Redis) -> Callable[[], Any]:
    return _commands(redis, ["ACL SETUSER default resetkeys"], "ACL SETUSER default allkeys")


def no_counting(redis: Redis) -> Callable[[], Any]:
    return _commands(redis, ["ACL SETUSER default -incrby"], "ACL SETUSER default +incrby")


def password(redis: Redis) -> Callable[[], Any]:
    # Those that are connected would stay signed in.
    breaking = ["CONFIG SET requirepass other", "CLIENT KILL TYPE normal SKIPME yes"]
    return _commands(redis, breaking, "CONFIG SET requirepass ''")


@pytest.mark.parametrize(
    ("outage", "advice"),
    [
        (away, "Start Redis if it is down"),
        (frozen, "It does not answer in time"),
        (full, "raise its maxmemory"),
        (read_only, "a read-only replica"),
        (no_keys, "use GET, SET, EXISTS and INCRBY on the keys of the cache"),
        (no_counting, "use GET, SET, EXISTS and INCRBY"),
        (password, "Check user and password"),
    ],
)
def test_an_outage_is_said_once_and_counting_goes_on(
    outage: Callable[[Redis], Callable[[], Any]],
    advice: str,
    redis: Redis,
    cache: RedisCache,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert [rates.count("calls", 86_400, cache)[0] for _ in range(3)] == [1, 2, 3]
    repair = outage(redis)
    try:
        assert [rates.count("calls", 86_400, cache)[0] for _ in range(40)] == list(range(1, 41))
        assert rates.look("calls", 86_400, cache)[0] == 40
        assert cache.is_away
        [line] = lines(caplog)
        assert line.startswith("The cache in Redis cannot be used (")
        assert advice in line
    finally:
        repair()
    until(lambda: not cache.is_away)
    until(lambda: len(lines(caplog)) == 2)
    assert lines(caplog)[1].startswith("The cache in Redis is used again, after ")
    # What Redis knows from before counts again, unless it has forgotten.
    assert rates.count("calls", 86_400, cache)[0] == (1 if outage is away else 4)


def test_nobody_waits_for_a_redis_that_stands_still_but_those_who_find_out(
    redis: Redis, cache: RedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    for name in ("add", "get", "set", "incr"):
        operation = getattr(cache._redis.client, name)
        monkeypatch.setattr(
            cache._redis.client, name, lambda *given, name=name, do=operation: (sent.append(name), do(*given))[1]
        )
    repair = frozen(redis)
    try:
        for number in range(200):
            cache.set(f"key{number}", number)
            assert cache.get(f"key{number}") == number
        assert sent == ["set"]
    finally:
        repair()
    until(lambda: not cache.is_away)
    cache.set("key", "kept")
    assert (cache.get("key"), sent) == ("kept", ["set", "set", "get"])


def test_many_threads_find_out_at_once_and_it_is_said_once(
    redis: Redis, cache: RedisCache, caplog: pytest.LogCaptureFixture
) -> None:
    repair = full(redis)
    try:
        threads = [threading.Thread(target=rates.count, args=("calls", 86_400, cache)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert rates.look("calls", 86_400, cache)[0] == 20
        assert len(lines(caplog)) == 1
    finally:
        repair()
    until(lambda: not cache.is_away)


def test_all_operations_go_on(redis: Redis, cache: RedisCache) -> None:
    def all_operations() -> None:
        cache.set("one", [1.5, "é", None], timeout=60)
        assert cache.get("one") == [1.5, "é", None]
        assert not cache.add("one", 1)
        assert cache.touch("one", 90)
        assert cache.has_key("one")
        cache.set_many({"two": 2, "three": 3}, timeout=60)
        assert cache.get_many(["two", "three", "four"]) == {"two": 2, "three": 3}
        assert (cache.incr("two"), cache.decr("two")) == (3, 2)
        cache.delete_many(["two", "three"])
        assert cache.delete("one")
        assert cache.get("one", "nothing") == "nothing"
        with pytest.raises(ValueError, match="not found"):
            cache.incr("one")
        cache.set("gone", 1, timeout=0)
        assert cache.get("gone") is None
        cache.clear()

    all_operations()
    assert not cache.is_away
    repair = read_only(redis)
    try:
        all_operations()
        assert cache.is_away
    finally:
        repair()
    until(lambda: not cache.is_away)


def test_a_caller_who_wants_what_cannot_be_is_no_outage(cache: RedisCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.set("name", "ada")
    with pytest.raises(redis_client.ResponseError, match="not an integer"):
        cache.incr("name")
    with pytest.raises(redis_client.DataError):
        cache._cache.set("name", "ada", object())
    assert not cache.is_away
    assert lines(caplog) == []


def test_instances_of_one_configuration_are_one_and_their_memory_is_apart_by_prefix() -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    options: dict[str, Any] = {}

    def made(prefix: str, **more: Any) -> RedisCache:
        return RedisCache(nowhere, {"OPTIONS": options, "KEY_PREFIX": prefix, **more})

    made("counts").set("name", 1)
    assert made("counts").is_away
    assert made("counts").get("name") == 1
    assert made("others").get("name") is None
    few = made("few", max_entries=10)
    for number in range(50):
        few.set(f"name{number}", number)
    assert sum(few.get(f"name{number}") is not None for number in range(50)) <= 10
    # Without options they are one as well, and other options are another Redis.
    assert RedisCache(nowhere, {})._redis is RedisCache(nowhere, {})._redis
    assert RedisCache(nowhere, {"OPTIONS": {}})._redis is not made("counts")._redis


def test_a_redis_without_hello(tmp_path: Path) -> None:
    """As version 5 is, and one that has the command renamed: RESP2 needs none."""
    redis = Redis(tmp_path, "--rename-command", "HELLO", "").start()
    try:
        cache = RedisCache(redis.url, {})
        assert [rates.count("calls", 86_400, cache)[0] for _ in range(2)] == [1, 2]
        assert not cache.is_away
    finally:
        redis.stop()


def test_connections_are_shared_and_not_made_for_each_thread(redis: Redis) -> None:
    options: dict[str, Any] = {"client_name": "counting"}
    for _ in range(30):
        cache = RedisCache(redis.url, {"OPTIONS": options})
        thread = threading.Thread(target=rates.count, args=("calls", 86_400, cache))
        thread.start()
        thread.join(PATIENCE)
    clients = redis_client.Redis(port=redis.port).client_list()
    assert len([client for client in clients if client["name"] == "counting"]) == 1


def test_a_counter_that_is_pushed_out_in_between_begins_anew() -> None:
    class Forgetful(dict):
        def add(self, name: str, value: int, timeout: float) -> None:
            """Nothing is kept."""

        def incr(self, name: str) -> int:
            raise ValueError(name)

        def set(self, name: str, value: int, timeout: float) -> None:
            self[name] = value

    store: Any = Forgetful()
    assert rates.count("calls", 60, store)[0] == 1
    assert list(store.values()) == [1]


def test_what_listens_and_says_nothing_is_not_waited_for_either(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        cache = RedisCache(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", {"OPTIONS": {"socket_timeout": 0.2}})
        cache.set("name", 1)
        assert cache.get("name") == 1
        assert "It does not answer in time" in lines(caplog)[0]
