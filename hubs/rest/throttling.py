"""How often one caller may negotiate, one staff account manage, and one access key call the data plane.

The counts are kept in Django's cache, so Redis shares them between processes. Around the turn of a period a caller
may get up to twice its rate (hubs.rates).
"""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from hubs import callers, conf, rates

_PERIOD_SECS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def secs_to_wait(setting: str, who: str) -> float | None:
    """Count a call; None when it may be answered, else seconds until the next may.

    `setting` names the rate, "120/min", or None for no limit. `who` goes into a cache key.
    """
    rate = getattr(conf.settings, setting)
    if rate is None:
        return None
    most, _, unit = rate.partition("/")
    number, wait, _ = rates.count(f"{setting}:{who}", _PERIOD_SECS[unit[0]])
    return None if number <= int(most) else wait


class _Rate(BaseThrottle):
    """A rate from the service's own settings, read when a request comes."""

    setting = ""
    _waiting: float | None = None

    def who(self, request: Request) -> str | None:
        """Whose calls are counted together; None = this one is not counted."""
        raise NotImplementedError

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Count the call; False when the caller has had its calls of this period."""
        who = self.who(request)
        self._waiting = None if who is None else secs_to_wait(self.setting, who)
        return self._waiting is None

    def wait(self) -> float | None:
        """Seconds until the next period."""
        return self._waiting


class PerUser(_Rate):
    """Negotiate calls of one signed-in user."""

    setting = "NEGOTIATE_RATE_USER"

    def who(self, request: Request) -> str | None:
        """The account; visitors are not counted here."""
        return str(request.user.pk) if request.user.is_authenticated else None


class PerAddress(_Rate):
    """Negotiate calls of visitors from one network address."""

    setting = "NEGOTIATE_RATE_ANONYMOUS"

    def who(self, request: Request) -> str | None:
        """The address; those who are signed in are not counted here."""
        return None if request.user.is_authenticated else callers.neighbourhood(callers.of_request(request))


class PerKey(_Rate):
    """Data plane calls made with one access key."""

    setting = "REST_RATE"

    def who(self, request: Request) -> str | None:
        """What KeyHolder has of the key; nobody else is counted."""
        return getattr(request.user, "key", None) or None
