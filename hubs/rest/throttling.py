"""How often one caller may negotiate, and how often one access key may call the data plane.

The counts are kept in Django's cache, so Redis shares them between processes.
"""

from __future__ import annotations

import logging

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle, SimpleRateThrottle
from rest_framework.views import APIView

from hubs import callers, conf, rates

logger = logging.getLogger(__name__)

_PERIOD_SECS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _NegotiateRate(SimpleRateThrottle):
    """A rate from the service's own settings, read when a request comes."""

    setting = ""
    duration: int | None

    def get_rate(self) -> str | None:
        """The rate as in "120/min"; None = no limit."""
        return getattr(conf.settings, self.setting)

    def wait(self) -> float:
        """Seconds until the next call is answered again."""
        waiting = super().wait()
        # DRF knows none when the limit was lowered while calls were on record.
        return waiting if waiting is not None else float(self.duration or 1)


class PerUser(_NegotiateRate):
    """Negotiate calls of one signed-in user."""

    scope = "negotiate_user"
    setting = "NEGOTIATE_RATE_USER"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        """Count by account; None = not for visitors."""
        if not request.user.is_authenticated:
            return None
        return self.cache_format % {"scope": self.scope, "ident": request.user.pk}


class PerAddress(_NegotiateRate):
    """Negotiate calls of visitors from one network address."""

    scope = "negotiate_address"
    setting = "NEGOTIATE_RATE_ANONYMOUS"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        """Count by address; None = not for signed-in users."""
        if request.user.is_authenticated:
            return None
        return self.cache_format % {"scope": self.scope, "ident": callers.neighbourhood(callers.of_request(request))}


def secs_to_wait(key: str) -> float | None:
    """Count a data plane call made with an access key; None when it may be answered, else seconds until the next may.

    `key` is what KeyHolder has of it. Servers call often, so a call costs one counter, not a list of times
    as above. Around the turn of a period a key may get up to twice its rate.
    """
    rate = conf.settings.REST_RATE
    if rate is None or not key:
        return None
    most, _, unit = rate.partition("/")
    try:
        number, wait, _ = rates.count(f"rest_rate:{key}", _PERIOD_SECS[unit[0]])
        return None if number <= int(most) else wait
    except Exception as problem:
        # A cache that is away says nothing about this caller; refusing everybody would be worse than not counting.
        logger.warning("Calls cannot be counted: %s", problem)
        return None


class PerKey(BaseThrottle):
    """Data plane calls made with one access key."""

    _waiting: float | None = None

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Count the call; False when the key has had its calls of this period."""
        self._waiting = secs_to_wait(getattr(request.user, "key", ""))
        return self._waiting is None

    def wait(self) -> float | None:
        """Seconds until the next period."""
        return self._waiting
