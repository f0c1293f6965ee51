"""Which event goes where: the rules for what operators write into event handlers and listeners.

A handler has a URL template, such as ``https://example.com/api/{event}?hub={hub}``, a user event
pattern, such as ``*`` or ``join, room.*``, and the system events it wants. A listener has the same
without a template. Each thing has two functions here: one that says what is wrong with a text, or
"" (forms, the management API and the command line all ask it), and one that uses a good text.

Using is lenient where complaining is strict. A text that got past the complaints before they knew
better, or that was written into the database by hand, takes no events; it does not raise while a
client waits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit

from hubs.rules.roles import MAX_PATTERN_STARS, Pattern, compile_pattern, literal_of

CONNECT = "connect"
CONNECTED = "connected"
DISCONNECTED = "disconnected"

# What handlers may ask for, and what listeners may: those cannot answer, so connect is not theirs.
SYSTEM_EVENTS = (CONNECT, CONNECTED, DISCONNECTED)
LISTENER_SYSTEM_EVENTS = (CONNECTED, DISCONNECTED)

MAX_URL_CHARACTERS = 2048
MAX_EVENT_PATTERN_CHARACTERS = 2048
# Names cost one look-up whatever their number; each pattern costs a walk along the event's name.
MAX_EVENT_WILDCARDS = 20
MAX_STREAM_CHARACTERS = 256
MAX_TOKEN_CHARACTERS = 4096

MAX_HANDLERS_PER_HUB = 50
MAX_LISTENERS = 10  # over all hubs, as in Azure

# The event that {event} stands for while a URL is validated.
VALIDATE = "validate"

_PARAMETER = re.compile(r"\{(hub|event)\}", re.IGNORECASE)
# RFC 3986: what a URL is written with. Everything else has to be percent-encoded.
_NOT_OF_A_URL = re.compile(r"[^A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_VISIBLE = re.compile(r"[\x21-\x7e]+")


# URLs


def template_problem(template: str) -> str:
    """Say what is wrong with a URL template; "" if nothing is."""
    without = _PARAMETER.sub("", template)
    if "{" in without or "}" in without:
        return (
            "The only parameters are {hub} and {event}. Write a brace that is meant literally as %7B or %7D; "
            "references to a key vault are not supported."
        )
    before_path = re.match(r"[^/?#]*//[^/?#]*", template)
    if before_path is not None and _PARAMETER.search(before_path[0]):
        return "{hub} and {event} may stand in the path and in the query, not before them."
    if len(template) > MAX_URL_CHARACTERS:
        return _TOO_LONG
    return _url_problem(without, schemes=("http", "https"))


def webhook_problem(url: str) -> str:
    """Say what is wrong with the URL of a listener's webhook, which has no parameters; "" if nothing is."""
    if _PARAMETER.search(url):
        return "A listener's URL has no parameters; the event's name is in the headers of the request."
    return _url_problem(url, schemes=("http", "https"))


def redis_problem(url: str) -> str:
    """Say what is wrong with the URL of a Redis server; "" if nothing is."""
    problem = _url_problem(url, schemes=("redis", "rediss"), user_allowed=True)
    if problem:
        return problem
    parts = urlsplit(url)
    if "?" in url:
        return "Leave the query out: the stream has a field of its own, and nothing else can be set here."
    if not re.fullmatch(r"(?:/\d{0,5})?", parts.path, re.ASCII):
        return "Behind the host there may be the number of a database, such as redis://localhost:6379/0."
    return ""


_TOO_LONG = f"The URL is longer than {MAX_URL_CHARACTERS} characters."


def _url_problem(url: str, *, schemes: Sequence[str], user_allowed: bool = False) -> str:
    if len(url) > MAX_URL_CHARACTERS:
        return _TOO_LONG
    stray = _NOT_OF_A_URL.search(url)
    if stray:
        return f"A URL cannot have the character {stray[0]!r} in it; percent-encode it (a host's name: in punycode)."
    if _BAD_ESCAPE.search(url):
        return "After a percent sign there have to be two hexadecimal digits; write a literal % as %25."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "The host or the port cannot be read."
    if parts.scheme not in schemes:
        return f"Start with {' or '.join(f'{scheme}://' for scheme in schemes)}."
    if parts.password is not None or (parts.username is not None and not user_allowed):
        return "Leave the password out of the URL, where every list would show it; there is a field for secrets."
    if not parts.hostname or port == 0:
        return "The URL has to name a host, and a port above 0 if any."
    if "[" not in parts.netloc and not _HOST.fullmatch(parts.hostname):
        return f"{parts.hostname!r} cannot be the name of a host."
    if parts.fragment or url.endswith("#"):
        return "Leave out the # and what follows it: it would never be sent."
    return ""


def resolve_url(template: str, hub: str, event: str) -> str:
    """Put a hub and an event into a template, percent-encoded."""
    values = {"hub": quote(hub, safe=""), "event": quote(event, safe="")}
    return _PARAMETER.sub(lambda found: values[found[1].lower()], template)


def origin_of(url: str) -> str:
    """Where a URL or a template leads: scheme, host and port. What is no URL leads nowhere ("")."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 6379)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.hostname}:{port}" if parts.hostname else ""


def without_query(url: str) -> str:
    """The part of a URL or a template that may be shown and kept: queries often carry a code that is a secret."""
    return url.partition("?")[0]


# Redis streams: a listener's address is one text, so the stream's name travels in the URL's query.


def stream_problem(name: str) -> str:
    """Say what is wrong with the name of a stream; "" if nothing is."""
    if not 0 < len(name) <= MAX_STREAM_CHARACTERS or not name.isprintable() or name != name.strip():
        return f"A stream's name has 1 to {MAX_STREAM_CHARACTERS} printable characters, and no spaces at its ends."
    return ""


def stream_address(url: str, stream: str) -> str:
    """Join the URL of a Redis server and a stream's name."""
    return f"{url}?stream={quote(stream, safe='')}"


def split_stream_address(address: str) -> tuple[str, str]:
    """Give the URL of the Redis server and the stream's name."""
    url, _, name = address.partition("?stream=")
    return url, unquote(name)


# Kinds of event listeners


@dataclass(frozen=True, slots=True)
class ListenerKind:
    """What the rows of one kind of event listener mean. Texts say what is wrong, or are empty."""

    # In the APIs and on the command line.
    name: str
    url_problem: Callable[[str], str]
    stream_problem: Callable[[str], str]
    # The authorization that makes no sense for it, and why.
    refused_authorization: tuple[str, str]
    # URL and stream as one text, and that without what may be secret.
    address: Callable[[str, str], str]
    label: Callable[[str], str]


def _no_stream(name: str) -> str:
    return "Leave this empty: a webhook has no stream." if name else ""


def _stream_label(address: str) -> str:
    url, stream = split_stream_address(address)
    return f"{without_query(url)} {stream}"


# By what the database has in the column `kind`.
LISTENER_KINDS = {
    "redis_stream": ListenerKind(
        name="RedisStream",
        url_problem=redis_problem,
        stream_problem=stream_problem,
        refused_authorization=("bearer", "A Redis server takes a password, not a bearer token."),
        address=stream_address,
        label=_stream_label,
    ),
    "webhook": ListenerKind(
        name="Webhook",
        url_problem=webhook_problem,
        stream_problem=_no_stream,
        refused_authorization=("password", "A webhook takes a bearer token, not a password."),
        address=lambda url, stream: url,
        label=without_query,
    ),
}


# Which events


class EventPattern:
    """A user event pattern: names and patterns between commas, compared without regard to letter case."""

    __slots__ = ("_all", "_names", "_patterns")

    def __init__(self, entries: Collection[str]) -> None:
        # A lone star takes every event; in a longer entry it stops at dots, as in roles.
        self._all = "*" in entries
        self._names: set[str] = set()
        self._patterns: list[Pattern] = []
        for entry in entries:
            literal = literal_of(entry)
            pattern = None if literal is not None else compile_pattern(entry)
            if literal is not None:
                self._names.add(literal)
            elif pattern is not None and len(self._patterns) < MAX_EVENT_WILDCARDS:
                self._patterns.append(pattern)

    def matches(self, name: str) -> bool:
        """Tell whether the user event `name` is among them."""
        if self._all:
            return True
        name = name.lower()
        return name in self._names or any(pattern.matches(name) for pattern in self._patterns)

    def __bool__(self) -> bool:
        """Whether it takes any event at all."""
        return self._all or bool(self._names or self._patterns)


@lru_cache(maxsize=1024)
def event_pattern(text: str) -> EventPattern:
    """Read a user event pattern. "" takes no event, "*" takes all; what cannot be read in it is left out."""
    return EventPattern(_entries(text))


def event_pattern_problem(text: str) -> str:
    """Say what is wrong with a user event pattern; "" if nothing is."""
    if len(text) > MAX_EVENT_PATTERN_CHARACTERS:
        return f"The pattern is longer than {MAX_EVENT_PATTERN_CHARACTERS} characters."
    entries = _entries(text)
    for entry in entries:
        if not entry.isprintable() or " " in entry:
            return f"{entry!r} is not the name of an event. Put commas between names."
        if literal_of(entry) is None and compile_pattern(entry) is None:
            return f"{entry!r} is not a pattern: at most {MAX_PATTERN_STARS} stars; a backslash only before ? * or \\."
    wildcards = sum(entry != "*" and literal_of(entry) is None for entry in entries)
    if wildcards > MAX_EVENT_WILDCARDS:
        return f"There are {wildcards} entries with ? or *; at most {MAX_EVENT_WILDCARDS} are possible."
    return ""


def _entries(text: str) -> list[str]:
    stripped = (entry.strip().lower() for entry in text.split(","))
    return [entry for entry in stripped if entry]


# Secrets


def token_problem(token: str) -> str:
    """Say what is wrong with a bearer token, which becomes part of a header; "" if nothing is."""
    if len(token) > MAX_TOKEN_CHARACTERS or not _VISIBLE.fullmatch(token):
        return f"A token has 1 to {MAX_TOKEN_CHARACTERS} visible ASCII characters, and no spaces."
    return ""


def password_problem(password: str) -> str:
    """Say what is wrong with a password of Redis; "" if nothing is."""
    if not 0 < len(password) <= MAX_TOKEN_CHARACTERS or not password.isprintable():
        return f"A password has 1 to {MAX_TOKEN_CHARACTERS} printable characters."
    return ""


@dataclass(frozen=True, slots=True)
class HandlerFunction:
    """An event handler in code: its name with its module, and what it takes in the words of event handler rows."""

    function: str
    system_events: tuple[str, ...]
    # Names and patterns between commas; "" for no user events.
    user_event_pattern: str

    def __str__(self) -> str:
        """A line to read: the function and its events."""
        user_events = [f"user events {self.user_event_pattern}"] if self.user_event_pattern else []
        return f"{self.function}; {', '.join([*self.system_events, *user_events])}"
