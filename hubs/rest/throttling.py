"""How often one caller may negotiate, and how often one access key may call the data plane.

The counts are kept in Django's cache, so Redis shares them between processes.
"""

from __future__ import annotations

import ipaddress
import logging
import time

from django.core.cache import cache
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle, SimpleRateThrottle
from rest_framework.views import APIView

from hubs import conf

logger = logging.getLogger(__name__)

_PERIOD_SECS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

# A household or a rented server has at least this much IPv6 of its own.
_IPV6_NEIGHBOURHOOD = 64


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
        return self.cache_format % {"scope": self.scope, "ident": _neighbourhood(self.get_ident(request) or "")}


def secs_to_wait(key: str) -> float | None:
    """Count a data plane call made with an access key; None when it may be answered, else seconds until the next may.

    `key` is what KeyHolder has of it. Servers call often, so a call costs one counter, not a list of times
    as above: calls are counted in periods of fixed length. Around the turn of a period a key may
    get up to twice its rate.
    """
    rate = conf.settings.REST_RATE
    if rate is None or not key:
        return None
    most, _, unit = rate.partition("/")
    period = _PERIOD_SECS[unit[0]]
    number, gone = divmod(time.time(), period)
    counter = f"rest_rate:{key}:{int(number)}"
    try:
        cache.add(counter, 0, timeout=period + 1)
        return None if cache.incr(counter) <= int(most) else period - gone
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


def _neighbourhood(address: str) -> str:
    """What counts as one caller: an IPv4 address, or the IPv6 network around one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        # A proxy's made-up word, or a Unix socket. Cache keys have neither spaces nor control characters.
        return "".join(character for character in address if character.isalnum())[:64]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed), _IPV6_NEIGHBOURHOOD), strict=False).network_address)
    return str(parsed)
