"""Under which addresses this service is known: those configured, and the one a request used.

A token is made out to an address, so every door needs the same list. The address a request came to
is its Host header with the scheme it arrived by; what a proxy says about these in X-Forwarded-*
headers counts only where TRUST_FORWARDED_HEADERS is set, since anybody can send them. Addresses are
compared as in hubs/addresses.py: without the scheme, which only the proxy that ends TLS knows.

An event handler may know one of the service's names alone, the one in its connection string. So events
say that they come from the host by which their client came (`origin`), and a handler that allows events
of any configured endpoint allows them all.

A Host header is text that a client chose, and it becomes the front of an audience. So it counts
only as a plain host and port: with more in it ("host/client/hubs/other#") it could turn the
address of one hub into that of another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from hubs import addresses, conf

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


def configured_and(own: str | None) -> tuple[str, ...]:
    """Every endpoint that a token may be made out to: those configured, and the one of the request it came with."""
    endpoints: list[str] = conf.settings.PUBLIC_ENDPOINTS
    return (*endpoints, own) if own and own not in endpoints else tuple(endpoints)


def configured(own: str | None) -> str | None:
    """The configured endpoint that has the host and port of a request's own; None if there is none."""
    here = addresses.read(own or "")
    if here is None:
        return None
    endpoints: list[str] = conf.settings.PUBLIC_ENDPOINTS
    return next((endpoint for endpoint in endpoints if _authority(endpoint) == here.authority), None)


def origin(own: str | None = None) -> str:
    """The host that events of a client say they come from, without a port.

    It is the host of `own`, by which the client came, where a configured endpoint has it; else that of the first one.
    """
    here = addresses.read(own or "")
    endpoints: list[str] = conf.settings.PUBLIC_ENDPOINTS
    if here is not None and here.host in origins():
        return here.host
    first = addresses.read(endpoints[0])
    return "" if first is None else first.host


def origins() -> frozenset[str]:
    """What a handler may call the service to allow events: host, and host with port, of each configured endpoint."""
    return _origins(tuple(conf.settings.PUBLIC_ENDPOINTS))


@lru_cache(maxsize=8)
def _origins(endpoints: tuple[str, ...]) -> frozenset[str]:
    names: set[str] = set()
    for endpoint in endpoints:
        address = addresses.read(endpoint)
        if address is not None:
            default = ":443" if endpoint.startswith("https") else ":80"
            names |= {address.host, f"{address.host}{address.port or default}"}
    return frozenset(names)


def _authority(endpoint: str) -> str | None:
    address = addresses.read(endpoint)
    return None if address is None else address.authority


def _first(value: str | None) -> str:
    return (value or "").partition(",")[0].strip()
