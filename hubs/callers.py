"""Who calls, as a network address: what is counted when callers are limited, and what the log says of them.

The address is the socket's peer, or an entry of `X-Forwarded-For` where REST_FRAMEWORK["NUM_PROXIES"] says how
many proxies in front are believed. Whatever else stands in that header was written by the client.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from rest_framework.settings import api_settings

# A household or a rented server has at least this much IPv6 of its own.
_IPV6_NEIGHBOURHOOD = 64

# Some proxies write the port as well: 192.0.2.1:52011, [2001:db8::1]:52011.
_WITH_PORT = re.compile(r"(?P<v4>[0-9.]+):[0-9]{1,5}|\[(?P<v6>[0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?")

# In place of an address where there is none.
LOCAL = "local"

MAX_LOGGED_CHARACTERS = 200


def of_request(request: Any) -> str:
    """The address that an HTTP request comes from; `request` is Django's or DRF's; LOCAL for a Unix socket."""
    return _believed(request.META.get("REMOTE_ADDR"), request.META.get("HTTP_X_FORWARDED_FOR"))


def of_scope(scope: Mapping[str, Any]) -> str:
    """The address that an ASGI scope comes from; LOCAL for a Unix socket."""
    forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"x-forwarded-for"]
    return _believed((scope.get("client") or ("",))[0], ",".join(forwarded))


def _believed(peer: str | None, forwarded: str | None) -> str:
    proxies: int = api_settings.NUM_PROXIES or 0
    if proxies and forwarded:
        # Each proxy appends whom it heard.
        entries = forwarded.split(",")
        return _plain(entries[-min(proxies, len(entries))])
    return _plain(peer or LOCAL)


def _plain(text: str) -> str:
    """An address as it is usually written; what is none as letters and digits, for it goes into keys and logs."""
    text = text.strip()
    found = _WITH_PORT.fullmatch(text)
    if found:
        text = found["v4"] or found["v6"]
    try:
        # Without a zone (fe80::1%eth0), which may be any text.
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return "".join(character for character in text if character.isascii() and character.isalnum())[:64]
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def neighbourhood(address: str) -> str:
    """What counts as one caller: an IPv4 address, or the IPv6 network around one; other texts as they are."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(parsed), _IPV6_NEIGHBOURHOOD), strict=False).network_address)
    return address


def legible(text: object) -> str:
    """Text that a client chose, for one line of a log: at most 200 characters, all of them printable."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in str(text)[:MAX_LOGGED_CHARACTERS]
    )
