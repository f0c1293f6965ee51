"""The service's own settings: one dictionary, `WEBPUBSUB`, in Django's settings.

Defaults stand here and nowhere else. A name that is not below is an error that says what was
probably meant; values are checked by `manage.py check` (hubs/checks.py) with the rules given here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from hubs import addresses


class Option(NamedTuple):
    """One setting: its default, what it means, and a rule giving a complaint or None.

    `read` makes of a value without complaint what the service works with.
    """

    default: Any
    meaning: str
    complaint: Callable[[Any], str | None]
    read: Callable[[Any], Any] = lambda value: value


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "write True or False"


def _between(low: float, high: float) -> Callable[[Any], str | None]:
    def complaint(value: Any) -> str | None:
        good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        return None if good else f"write a number from {low:g} to {high:g}"

    return complaint


def _endpoints(value: Any) -> str | None:
    if not isinstance(value, list | tuple) or not value:
        return 'write a list of at least one URL, such as ["https://pubsub.example.com"]'
    for url in value:
        if not isinstance(url, str):
            return f"{url!r} is not an endpoint; {addresses.EXPECTED}"
        try:
            addresses.endpoint(url)
        except ValueError as problem:
            return str(problem)
    return None


def _normal_endpoints(value: Any) -> list[str]:
    return list(dict.fromkeys(map(addresses.endpoint, value)))


def _origins(value: Any) -> str | None:
    if not isinstance(value, list | tuple):
        return 'write a list of origins, such as ["https://app.example.com"]'
    return next((complaint for complaint in map(_origin_complaint, value) if complaint), None)


def _own_origins(value: Any) -> str | None:
    if isinstance(value, list | tuple) and "*" in value:
        return (
            "name the origins. Negotiate answers for whoever is signed in, so with * every page on the web could "
            "connect as its visitor"
        )
    return _origins(value)


def _any_origins(value: Any) -> str | None:
    return None if value in (["*"], ("*",)) else _origins(value)


def _origin_complaint(origin: Any) -> str | None:
    """Browsers compare nothing: an origin counts as they write it."""
    try:
        parts = urlsplit(origin)
        port, host, address = parts.port, parts.hostname, addresses.read(origin)
    except (ValueError, TypeError, AttributeError):
        parts, port, host, address = None, None, None, None
    if host and "*" in host:
        return f"{origin!r} has a wildcard; name each origin"
    known = parts is not None and parts.scheme in addresses.SCHEMES
    if parts is None or not parts.scheme or not host or port == 0 or "@" in parts.netloc or (known and not address):
        return f"{origin!r} is not an origin; write scheme://host[:port], such as https://app.example.com"
    if parts.path or parts.query or parts.fragment:
        return f"{origin!r} is more than an origin; write {parts.scheme}://{parts.netloc}"
    # Of schemes that only apps use, such as capacitor, nothing but the letter case is known.
    written = f"{parts.scheme}://{parts.netloc.lower() if address is None else address.authority}"
    return None if written == origin else f"browsers write {origin!r} as {written}; write that"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "write a text that is not empty"


def _rate(value: Any) -> str | None:
    if value is None:
        return None
    number, _, period = str(value).partition("/")
    return (
        None if number.isdigit() and period[:1] in ("s", "m", "h", "d") else 'write a rate such as "120/min", or None'
    )


OPTIONS: dict[str, Option] = {
    "PUBLIC_ENDPOINTS": Option(
        ["http://localhost:8080"],
        "URLs under which clients reach the service. The first is used in connection strings and client URLs; "
        "tokens made out to any of them, or to the Host that a request names, are accepted, whatever the scheme.",
        _endpoints,
        _normal_endpoints,
    ),
    "TRUST_FORWARDED_HEADERS": Option(
        False, "Believe X-Forwarded-Proto/-Host; only behind a proxy that sets them.", _flag
    ),
    "REQUIRE_KNOWN_HUBS": Option(
        False, "False: any well-named hub works, as in Azure. True: only hubs that were created.", _flag
    ),
    "DEFAULT_HUB": Option("chat", "The hub of a negotiate call that names none.", _text),
    "CLOCK_SKEW_SECS": Option(300, "How far clocks may differ when a token's times are checked.", _between(0, 3600)),
    "NEGOTIATE_LIFETIME_MINUTES": Option(60, "How long a negotiated token opens new connections.", _between(1, 1440)),
    "NEGOTIATE_RATE_ANONYMOUS": Option("120/min", "Negotiate calls per client address; None = no limit.", _rate),
    "NEGOTIATE_RATE_USER": Option("600/min", "Negotiate calls per signed-in user; None = no limit.", _rate),
    "NEGOTIATE_ORIGINS": Option(
        [],
        "Origins, besides the service's own, whose pages may negotiate as whoever is signed in to this service.",
        _own_origins,
    ),
    "REST_ORIGINS": Option(
        [], 'Origins whose pages may call the REST API, with a token; ["*"] = all of them.', _any_origins
    ),
    "MANAGE_RATE": Option("600/min", "Calls to the management API per staff account; None = no limit.", _rate),
    "SIGN_IN_FAILURES": Option(
        5,
        "Failed sign-ins to one account from one address in SIGN_IN_COOL_OFF_SECS; further ones get 429.",
        _between(1, 1000),
    ),
    "SIGN_IN_FAILURES_PER_ADDRESS": Option(
        30,
        "Failed sign-ins from one address and, counted separately, wrong API tokens, in SIGN_IN_COOL_OFF_SECS; further "
        "ones get 429.",
        _between(1, 100_000),
    ),
    "SIGN_IN_FAILURES_PER_ACCOUNT": Option(
        100,
        "Failed sign-ins to one account from addresses from which nobody signed in to it recently, in "
        "SIGN_IN_COOL_OFF_SECS; further ones get 429.",
        _between(1, 1_000_000),
    ),
    "SIGN_IN_COOL_OFF_SECS": Option(
        300, "For how many seconds failed sign-ins are counted against a caller.", _between(1, 86_400)
    ),
    "REST_RATE": Option(
        None, 'Calls to the REST API per access key, such as "6000/min"; None = no limit, as in Azure.', _rate
    ),
    "MAX_CONCURRENT_REQUESTS": Option(
        64,
        "HTTP requests that Django works on at once, per process, each in a thread; more wait for 10 s, then get 503.",
        _between(1, 10_000),
    ),
    "MAX_MESSAGE_BYTES": Option(
        1024 * 1024,
        "Largest message, in bytes; a larger one closes its client's socket with 1009, in REST it is refused with 413.",
        _between(1024, 64 << 20),
    ),
    "MAX_OUTBOX_MESSAGES": Option(
        4000, "Messages that may wait for one slow client; more closes it with 1008.", _between(10, 1_000_000)
    ),
    "MAX_OUTBOX_BYTES": Option(
        16 << 20, "Bytes that may wait for one slow client; more closes it with 1008.", _between(1 << 20, 1 << 30)
    ),
    "MAX_WAITING_FRAMES": Option(
        64,
        "Frames of one client read ahead while an earlier one is being handled; then its socket waits.",
        _between(1, 10_000),
    ),
    "MAX_WAITING_BYTES": Option(
        1 << 20,
        "Bytes in such frames; past either bound nothing more is read. The frame that passes it is still taken.",
        _between(1024, 1 << 30),
    ),
    "MAX_GROUPS_PER_CONNECTION": Option(
        10_000, "Groups one connection may be in; joining more is refused.", _between(1, 1_000_000)
    ),
    "DUPLICATE_MEMORY": Option(1000, "Succeeded ackIds remembered per connection.", _between(1, 100_000)),
    "RECOVERY_SECS": Option(
        30, "How long the connection of a reliable client is kept while its client is away.", _between(0.05, 3600)
    ),
    "RELIABLE_BUFFER_MESSAGES": Option(
        1000, "Messages a reliable client may leave unacknowledged; more closes it with 1008.", _between(10, 1_000_000)
    ),
    "RELIABLE_BUFFER_BYTES": Option(
        16_000_000,
        "Bytes a reliable client may leave unacknowledged; more closes it with 1008.",
        _between(1 << 16, 1 << 30),
    ),
    "MAX_INVOCATIONS": Option(
        64, "Invocations of one client that may wait for their answers; more are refused.", _between(1, 10_000)
    ),
    "DRAIN_PER_SEC": Option(
        500,
        "Clients that a process which stops sends away in a second, where there are others to take them; "
        "more, if DRAIN_SECS would not suffice.",
        _between(1, 1_000_000),
    ),
    "DRAIN_SECS": Option(
        30,
        "How long a process that stops may take to part with its clients; half of it is for telling them.",
        _between(0, 3600),
    ),
    "WORKER_SILENCE_SECS": Option(
        20,
        "How long the event loop of one of several workers may stand still before it is killed and replaced; 0 = for "
        "ever. Its clients do not notice before that, so reliable ones come too late unless this is well below "
        "RECOVERY_SECS.",
        _between(0, 3600),
    ),
    "KEEP_ALIVE_SECS": Option(
        20,
        "Seconds between WebSocket pings to a client; one that has not answered after half of that is cut off.",
        _between(1, 120),
    ),
    "WRITE_TIMEOUT_SECS": Option(
        10,
        "How long a client that something waits for may take less than 1 KiB a second of it; then it is cut off.",
        _between(1, 3600),
    ),
    "HTTP_KEEP_ALIVE_SECS": Option(
        75,
        "How long an idle HTTP connection is kept for another request; longer than any proxy in front keeps its own.",
        _between(1, 3600),
    ),
    "SETTINGS_MAX_AGE_SECS": Option(
        1, "How old a process's view of hubs and keys may be before it looks again.", _between(0, 2)
    ),
    "SETTINGS_STALE_SECS": Option(
        3600,
        "For how many seconds hubs, keys and the answers of negotiate are used while the database cannot be read.",
        _between(0, 30 * 86_400),
    ),
    "ANSWER_SECS": Option(
        5, "How long a process waits for the answers of others about connections there.", _between(1.5, 60)
    ),
    "HANDLER_SECS": Option(100, "Time limit of a blocking event handler.", _between(0.05, 100)),
    "MAX_HANDLER_CALLS": Option(
        200, "Calls of one event handler under way at once, in each process; more wait.", _between(1, 10_000)
    ),
    "MAX_WAITING_HANDLER_CALLS": Option(
        2000, "Calls that may wait for one event handler; more are refused.", _between(0, 100_000)
    ),
    "MAX_WAITING_NOTIFICATIONS": Option(
        20_000,
        "Connected and disconnected events that may wait for one event handler; more are logged and dropped.",
        _between(1, 1_000_000),
    ),
    "MAX_HANDLER_ANSWER_BYTES": Option(
        16 << 20, "Largest answer of an event handler; a larger one is a failure.", _between(1024, 1 << 30)
    ),
    "HANDLER_PRIVATE_ADDRESSES": Option(
        False,
        "Whether event handlers and listeners may be at loopback, private and link-local addresses.",
        _flag,
    ),
    "HANDLER_THREADS": Option(
        16, "Threads in which the plain (not async) event handlers of one hub run, in each process.", _between(1, 1000)
    ),
    "HANDLER_RECORDS": Option(
        200, "Calls of event handlers remembered per hub, for staff to look at.", _between(0, 100_000)
    ),
    "RECORD_PAYLOADS": Option(
        False, "Whether what clients sent is remembered with these calls; it may be private.", _flag
    ),
    "MAX_LISTENER_MESSAGES": Option(
        10_000, "Events that may wait for one event listener; more are logged and dropped.", _between(1, 1_000_000)
    ),
    "MAX_LISTENER_BYTES": Option(
        16 << 20, "Bytes that may wait for one event listener; more are logged and dropped.", _between(1 << 16, 1 << 30)
    ),
    "LISTENER_STREAM_LENGTH": Option(
        100_000,
        "Entries that a Redis stream of an event listener keeps, about; older ones are dropped by Redis.",
        _between(1, 100_000_000),
    ),
}


class Settings:
    """Reads `WEBPUBSUB` lazily: `conf.settings.DEFAULT_HUB`."""

    def __getattr__(self, name: str) -> Any:
        if name not in OPTIONS:
            raise AttributeError(f"WEBPUBSUB has no setting {name!r}")
        option = OPTIONS[name]
        value = chosen().get(name, option.default)
        # What there is a complaint about is told by `manage.py check`, and left as it is.
        if option.complaint(value) is None:
            value = option.read(value)
        # Kept on the instance, so the next read costs an attribute look-up; dropped by reset().
        self.__dict__[name] = value
        return value

    def reset(self) -> None:
        """Forget what was read, after the settings changed (tests do that)."""
        self.__dict__.clear()


settings = Settings()


def chosen() -> dict[str, Any]:
    """Give the installation's `WEBPUBSUB` dictionary; raise ImproperlyConfigured on names we do not know."""
    given: dict[str, Any] = getattr(django_settings, "WEBPUBSUB", {})
    if not isinstance(given, dict):
        raise ImproperlyConfigured(f"WEBPUBSUB has to be a dictionary of settings, not {type(given).__name__}.")
    for name in given:
        if name not in OPTIONS:
            near = difflib.get_close_matches(str(name).upper(), OPTIONS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Known names: {', '.join(sorted(OPTIONS))}."
            raise ImproperlyConfigured(f"WEBPUBSUB[{name!r}] is not a setting of this service.{hint}")
    return given


def _reset_when_changed(*, setting: str, **_: Any) -> None:
    if setting == "WEBPUBSUB":
        settings.reset()


setting_changed.connect(_reset_when_changed)
