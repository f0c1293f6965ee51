"""Counting in periods of fixed length, in Django's cache, so that Redis shares the counts between processes.

One counter per count costs less than a list of times. Around the turn of a period a limit may be reached twice.
"""

from __future__ import annotations

import time
from contextlib import suppress

from django.core.cache import cache
from django.core.cache.backends.base import BaseCache


def count(name: str, period: float, store: BaseCache = cache) -> tuple[int, float, str]:
    """Count one more of `name` in this period of so many seconds.

    Gives how many there are now, the seconds until the period ends, and the counter, for `take_back`.
    `name` goes into a cache key: ASCII without spaces, 150 characters at most. Raises whatever the cache raises.
    """
    number, gone = divmod(time.time(), period)
    counter = f"{name}:{int(number)}"
    store.add(counter, 0, timeout=period + 1)
    try:
        counted = store.incr(counter)
    except ValueError:
        # It was pushed out in between, or the cache has changed its place (hubs.redis_cache).
        store.set(counter, counted := 1, timeout=period + 1)
    return counted, period - gone, counter


def look(name: str, period: float, store: BaseCache = cache) -> tuple[int, float]:
    """How many of `name` were counted in this period, and the seconds until it ends."""
    number, gone = divmod(time.time(), period)
    return store.get(f"{name}:{int(number)}", 0), period - gone


def take_back(counter: str, store: BaseCache = cache) -> None:
    """Count one less; nothing, where the counter's period is over."""
    with suppress(ValueError):
        store.decr(counter)
