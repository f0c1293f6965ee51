"""Cookies of event handlers, kept per connection.

A load balancer in front of an application sets a cookie to lead the later events of a connection to
the same machine. That is what they are good for here, so this is a small jar: cookies go back to the
very host that set them, `Domain` is not looked at, and there are never many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

MAX_COOKIES = 20
MAX_COOKIE_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class Cookie:
    """One cookie, and where it may go."""

    host: str
    path: str
    name: str
    value: str
    secure: bool


class Cookies:
    """The cookies of one connection."""

    __slots__ = ("_kept",)

    def __init__(self, packed: Iterable[Sequence[Any]] = ()) -> None:
        self._kept: dict[tuple[str, str, str], Cookie] = {}
        for fields in packed:
            self._keep(Cookie(*fields))

    def __bool__(self) -> bool:
        return bool(self._kept)

    def take(self, url: str, values: Iterable[str], now: float) -> None:
        """Read the `Set-Cookie` headers of an answer from `url`; what makes no sense is passed over."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        for value in values:
            pair, *attributes = value.split(";")
            name, equals, content = pair.strip().partition("=")
            if not equals or not name or len(pair) > MAX_COOKIE_CHARACTERS or not _is_plain(pair):
                continue
            said = {key.strip().lower(): text.strip() for key, _, text in (item.partition("=") for item in attributes)}
            path = said.get("path", "")
            cookie = Cookie(
                host, path if path.startswith("/") else _folder(parts.path), name, content, "secure" in said
            )
            if _is_over(said, now):
                self._kept.pop((cookie.host, cookie.path, cookie.name), None)
            else:
                self._keep(cookie)

    def _keep(self, cookie: Cookie) -> None:
        key = (cookie.host, cookie.path, cookie.name)
        # Put last again, so that the first is the one that was set longest ago.
        self._kept.pop(key, None)
        self._kept[key] = cookie
        if len(self._kept) > MAX_COOKIES:
            del self._kept[next(iter(self._kept))]

    def header(self, url: str) -> str | None:
        """The `Cookie` header of a request to `url`."""
        if not self._kept:
            return None
        parts = urlsplit(url)
        host, path = (parts.hostname or "").lower(), parts.path or "/"
        meant = [
            cookie
            for cookie in self._kept.values()
            if cookie.host == host and _is_inside(path, cookie.path) and (parts.scheme == "https" or not cookie.secure)
        ]
        # The more exact path first, as browsers do.
        meant.sort(key=lambda cookie: len(cookie.path), reverse=True)
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in meant) or None

    def packed(self) -> list[list[Any]]:
        """Everything, as plain lists."""
        return [[cookie.host, cookie.path, cookie.name, cookie.value, cookie.secure] for cookie in self._kept.values()]


def _is_plain(pair: str) -> bool:
    return pair.isascii() and all(character.isprintable() or character == "\t" for character in pair)


def _folder(path: str) -> str:
    folder = path.rpartition("/")[0]
    return folder if folder.startswith("/") else "/"


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder if folder.endswith("/") else f"{folder}/")


def _is_over(said: dict[str, str], now: float) -> bool:
    """Whether the cookie is being taken back. One that ends later is kept as long as its connection."""
    age = said.get("max-age")
    if age is not None:
        return age.startswith("-") or age.strip("0") == ""
    try:
        ends = parsedate_to_datetime(said.get("expires", ""))
    except (TypeError, ValueError):
        return False
    if ends.tzinfo is None:
        ends = ends.replace(tzinfo=UTC)
    return ends <= datetime.fromtimestamp(now, UTC)
