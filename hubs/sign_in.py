"""How often somebody may fail to sign in: with a password, or with an API token.

Three counts of wrong passwords, each per SIGN_IN_COOL_OFF_SECS. The narrow one, of an account from one address,
stops those who guess, and nobody else. The other two are wider: one address that tries many accounts, and one
account that is tried from many addresses. The last would let strangers lock an account's owner out for as long as
they like, so an address from which the account was signed in to within thirty days is exempt from both, and only
its own mistakes count there.

An attempt is counted before its password is looked at and taken back when it was right, so a hundred attempts
at once are a hundred. What is refused at the narrow count does not reach the wider ones, and an address that is
refused leaves no more counters behind, whichever accounts it names.

API tokens cannot be guessed, so a wrong one is usually an old one in a program; they are counted by address, apart
from passwords, so that such a program keeps nobody from signing in.

A cache in memory is bounded, so counts and known addresses have one each, if the project has set them up (COUNTS,
KNOWN_ADDRESSES): only who signs in adds to the latter, so strangers cannot push an owner's address out of it. That goes
for caches on Redis, too: where Redis is away, each process counts in its memory (hubs.redis_cache).
"""

from __future__ import annotations

import math
import secrets
import unicodedata
from hashlib import blake2b

from django.conf import settings as django_settings
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache

from hubs import conf, rates
from hubs.callers import neighbourhood

KNOWN_ADDRESS_SECS = 30 * 86_400

# Names in Django's CACHES; `default` takes the place of one that is not there.
COUNTS, KNOWN_ADDRESSES = "sign_in", "sign_in_known_addresses"


class TooManyFailures(Exception):
    """Refused without a look at the password or token. `wait`: seconds until the next attempt may be made."""

    def __init__(self, wait: float) -> None:
        super().__init__()
        self.wait = max(1, math.ceil(wait))


class CountsAway(Exception):
    """The cache that all processes count in cannot be reached, so this process alone has done what was asked."""


class Attempt:
    """One attempt to sign in to an account with a password."""

    def __init__(self, account: str, address: str) -> None:
        """Note who wants in: the account's name as it was typed, and the address as hubs.callers gives it."""
        self._account = _folded(account)
        self._address = neighbourhood(address)
        self._counters: list[str] = []

    def begin(self) -> None:
        """Count the attempt. Raises TooManyFailures."""
        wait = self._count()
        if wait is not None:
            raise TooManyFailures(wait)

    def _count(self) -> float | None:
        period, store = conf.settings.SIGN_IN_COOL_OFF_SECS, store_of(COUNTS)
        series = store.get(_key("series", self._account), "")
        limits = [(_key("both", self._account, self._address, series), conf.settings.SIGN_IN_FAILURES)]
        if not store_of(KNOWN_ADDRESSES).get(_key("known", self._account, self._address)):
            address, most = _key("address", self._address), conf.settings.SIGN_IN_FAILURES_PER_ADDRESS
            number, wait = rates.look(address, period, store)
            if number >= most:
                return wait
            limits += [
                (address, most),
                (_key("account", self._account, series), conf.settings.SIGN_IN_FAILURES_PER_ACCOUNT),
            ]
        for name, most in limits:
            number, wait, counter = rates.count(name, period, store)
            if number > most:
                return wait
            self._counters.append(counter)
        return None

    def succeeded(self) -> None:
        """Take the attempt back, and remember the address as one of the account's owner."""
        for counter in self._counters:
            rates.take_back(counter, store_of(COUNTS))
        known = _key("known", self._account, self._address)
        store_of(KNOWN_ADDRESSES).set(known, 1, timeout=KNOWN_ADDRESS_SECS)


def check_tokens_of(address: str) -> None:
    """Raise TooManyFailures where too many wrong API tokens came from an address."""
    period = conf.settings.SIGN_IN_COOL_OFF_SECS
    number, wait = rates.look(_tokens_of(address), period, store_of(COUNTS))
    if number >= conf.settings.SIGN_IN_FAILURES_PER_ADDRESS:
        raise TooManyFailures(wait)


def count_wrong_token(address: str) -> None:
    """Count a wrong API token that came from an address."""
    rates.count(_tokens_of(address), conf.settings.SIGN_IN_COOL_OFF_SECS, store_of(COUNTS))


def forget(account: str) -> None:
    """Let an account be signed in to again at once, from addresses that are not refused themselves.

    Raises CountsAway.
    """
    # A new series of counters takes the place of the old ones, whichever addresses those were of.
    series, store = secrets.token_hex(8), store_of(COUNTS)
    store.set(_key("series", _folded(account)), series, timeout=conf.settings.SIGN_IN_COOL_OFF_SECS * 2)
    if getattr(store, "is_away", False):
        raise CountsAway


def store_of(name: str) -> BaseCache:
    """The cache for COUNTS or KNOWN_ADDRESSES."""
    return caches[name if name in django_settings.CACHES else "default"]


def _tokens_of(address: str) -> str:
    return _key("tokens", neighbourhood(address))


def _folded(account: str) -> str:
    return unicodedata.normalize("NFKC", account).casefold()


def _key(kind: str, *parts: str) -> str:
    digest = blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16)
    return f"sign_in:{kind}:{digest.hexdigest()}"
