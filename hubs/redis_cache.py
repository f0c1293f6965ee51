"""Django's cache on Redis, which goes on in the memory of the process while Redis cannot be used.

What is kept in the cache helps: rate limits and failed sign-ins are counted there. A Redis that is away, stands still,
is full, has become a read-only replica or refuses the account must not take down what it helps. So where an operation
on Redis fails, it and all that follow are done in memory, and limits hold for each process by itself; they are neither
lifted nor shared.

Nobody waits for such a Redis twice. The first operation to fail may take SOCKET_SECS to connect and as long again for
an answer; from then on none is sent to it, and a thread tries the commands that counting takes, until all succeed.
Reading alone would not tell: a full Redis reads. The log has one line when an outage begins and one when it is over.

    CACHES = {"default": {"BACKEND": "hubs.redis_cache.RedisCache", "LOCATION": "redis://host:6379/0"}}

Settings are those of Django's own backend; `max_entries` bounds the memory. Caches with the same LOCATION and the same
OPTIONS object share connections, in all threads, and have their outages together; what is in memory is apart for each
KEY_PREFIX.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import cached_property, partial
from typing import Any

from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache as DjangoRedisCache
from django.core.cache.backends.redis import RedisCacheClient
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

logger = logging.getLogger(__name__)

# How long Redis may take to be connected to, and to answer.
SOCKET_SECS = 0.5
# How often it is tried in an outage.
RETRY_SECS = 1.0

# What is kept in memory of each cache, unless `max_entries` says how much.
MAX_ENTRIES = 10_000

_FAILURES = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ResponseError,
    exceptions.InvalidResponse,
    OSError,
)

# In the words of redis-py. RESP2 spares old servers, and those that have HELLO renamed, a question they refuse.
_BOUNDS = {
    "socket_connect_timeout": SOCKET_SECS,
    "socket_timeout": SOCKET_SECS,
    "retry": Retry(NoBackoff(), 0),
    "protocol": 2,
    # One for each thread that is counting; redis-py's own bound of 100 would be an outage.
    "max_connections": 1 << 16,
}

# What to do about it, by the first kind that fits.
_ADVICE: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.OutOfMemoryError, "Redis is full: raise its maxmemory, or see what else is stored there"),
    (
        exceptions.ReadOnlyError,
        "That is a read-only replica: have REDIS_URL lead to the master, or set REDIS_SENTINELS",
    ),
    (
        exceptions.NoPermissionError,
        "Let the account of REDIS_URL use GET, SET, EXISTS and INCRBY on the keys of the cache (~hubwire-json*)",
    ),
    (exceptions.AuthenticationError, "Check user and password in REDIS_URL"),
    (exceptions.TimeoutError, "It does not answer in time: see whether it is overloaded, or stopped"),
    (Exception, "Start Redis if it is down, else check REDIS_URL"),
)


class RedisCache(DjangoRedisCache):
    """The backend, as CACHES names it."""

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        django: Any = self
        self._redis = _shared(django._servers, params.get("OPTIONS"), self.make_key("probe"))
        # An instance is made in each thread, and all mean the same memory by its name.
        self._memory = LocMemCache(
            f"{id(self._redis)} {self.key_prefix}", {"max_entries": params.get("max_entries", MAX_ENTRIES)}
        )

    @property
    def is_away(self) -> bool:
        """Whether the memory of this process is used in the place of Redis."""
        return self._redis.is_away

    @cached_property
    def _cache(self) -> Any:
        return _RedisOrMemory(self._redis, self._memory)


class _RedisOrMemory:
    """The operations of Django's Redis client, which LocMemCache has, too; keys come with prefix and version."""

    def __init__(self, redis: _Redis, memory: LocMemCache) -> None:
        self._redis, self._memory = redis, memory

    def __getattr__(self, name: str) -> Any:
        return partial(self._do, name)

    def _do(self, name: str, *arguments: Any) -> Any:
        if not self._redis.is_away:
            operation = getattr(self._redis.client, name)
            try:
                return operation(*arguments)
            except _FAILURES as problem:
                if isinstance(problem, exceptions.ResponseError) and self._redis.counts():
                    # It is the caller who wants what cannot be, such as to count up a text; or all is well again.
                    return operation(*arguments)
                self._redis.went_away(problem)
        return getattr(self._memory, name)(*arguments)


class _Redis:
    """One Redis, as all threads and caches of this process see it."""

    def __init__(self, servers: list[str], options: dict[str, Any] | None, probe_key: str) -> None:
        self.client = RedisCacheClient(servers, **{**_BOUNDS, **(options or {})})
        self.is_away = False
        # Kept, so that no other object gets its id.
        self.options = options
        self._probe_key = probe_key
        self._lock = threading.Lock()

    def went_away(self, problem: Exception) -> None:
        """An operation has failed: use it no more until it works again."""
        with self._lock:
            if self.is_away:
                return
            self.is_away = True
        advice = next(advice for kind, advice in _ADVICE if isinstance(problem, kind))
        logger.warning(
            "The cache in Redis cannot be used (%s). Until it can, rate limits and failed sign-ins are counted in the "
            "memory of each process, so each allows as much as all did together. %s",
            # Without the client's settings, which redis-py adds where no sentinel knows the master.
            str(problem).partition(" : <")[0] or type(problem).__name__,
            advice,
        )
        threading.Thread(target=self._wait, name="wait for the cache in Redis", daemon=True).start()

    def _wait(self) -> None:
        began = time.monotonic()
        while self.is_away:
            time.sleep(RETRY_SECS)
            self.is_away = not self.counts()
        secs = time.monotonic() - began
        logger.warning("The cache in Redis is used again, after %.0f seconds; limits hold for all processes", secs)

    def counts(self) -> bool:
        """Whether all that counting takes can be done."""
        key, pipeline = self._probe_key, self.client.get_client(write=True).pipeline(transaction=False)
        for command in (("SET", key, 0, "EX", 60), ("EXISTS", key), ("INCRBY", key, 1), ("GET", key)):
            pipeline.execute_command(*command)
        try:
            pipeline.execute()
        except _FAILURES as problem:
            logger.debug("The cache in Redis cannot be used: %s", problem)
            return False
        return True


_all: dict[tuple[Any, ...], _Redis] = {}
_making = threading.Lock()


def _shared(servers: list[str], options: dict[str, Any] | None, probe_key: str) -> _Redis:
    with _making:
        known = (*servers, id(options))
        if known not in _all:
            _all[known] = _Redis(servers, options, probe_key)
        return _all[known]
