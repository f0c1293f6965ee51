"""Under which addresses this service is known: those configured, and the one a request used.

A token is made out to an address, so every door needs the same list. The address a request came to
is its Host header with the scheme it arrived by; what a proxy says about these in X-Forwarded-*
headers counts only where TRUST_FORWARDED_HEADERS is set, since anybody can send them.

A Host header is text that a client chose, and it becomes the front of an audience. So it counts
only as a plain host and port: with more in it ("host/client/hubs/other#") it could turn the
address of one hub into that of another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hubs import conf

_HOST_AND_PORT = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def requested(scheme: str, headers: Mapping[str, str]) -> str | None:
    """The endpoint a request was sent to, as ``http(s)://host[:port]``; None without a usable Host header.

    `scheme` is http, https, ws or wss; `headers` have lower-case names.
    """
    host = headers.get("host", "")
    if conf.settings.TRUST_FORWARDED_HEADERS:
        # Each proxy appends its view; the first entry is what the client used.
        host = _first(headers.get("x-forwarded-host")) or host
        scheme = _first(headers.get("x-forwarded-proto")) or scheme
    secure = scheme.lower() in ("https", "wss")
    return f"{'https' if secure else 'http'}://{host}" if _HOST_AND_PORT.fullmatch(host) else None


def accepted(scheme: str, headers: Mapping[str, str]) -> tuple[str, ...]:
    """Every endpoint that a token presented with this request may be made out to."""
    return configured_and(requested(scheme, headers))


def configured_and(own: str | None) -> tuple[str, ...]:
    """The configured endpoints, and a request's own if it has one that is not among them."""
    configured: list[str] = conf.settings.PUBLIC_ENDPOINTS
    return (*configured, own) if own and own not in configured else tuple(configured)


def _first(value: str | None) -> str:
    return (value or "").partition(",")[0].strip()
