"""Addresses of the service: how an endpoint is written, and what of two addresses is compared.

People write an address as they please: in capitals, with the port that goes without saying, with an umlaut, with a
slash at its end. Browsers and most SDKs bring it into one form before they use or sign it, others sign what they were
given. So an endpoint is brought into that form where it is configured, and two addresses are compared by it.

The scheme says nothing about where an address leads: http, https, ws and wss of a host are one service, seen before
or behind whatever ends TLS, by a page or by a socket. The port that goes without saying is that of the scheme which
was written. So ``https://h:443``, ``wss://h`` and ``http://h`` are one address, and ``http://h:443`` is another.

yarl reads and writes URLs here, international names (UTS 46) and IPv6 included. Pure.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address
from typing import NamedTuple

from yarl import URL

SCHEMES = ("http", "https", "ws", "wss")
EXPECTED = "write http(s)://host[:port][/prefix]"

# An endpoint with one of these hosts is for programs of the same machine alone.
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

# Of scheme, host and port; a host's name has at most 253.
MAX_CHARACTERS = 300

_START = re.compile(rf"({'|'.join(SCHEMES)})://([^/?#]*)", re.IGNORECASE)
# In normal form. Underscores occur in the names of containers and machines.
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|\[[0-9a-f:]+\]")
_PORT = re.compile(r":[0-9]+$")
# What browsers take for an IPv4 address, and then for a wrong one if it is not four decimal numbers.
_ENDS_IN_NUMBER = re.compile(r"(^|\.)([0-9]+|0x[0-9a-f]*)\.?$")


class Address(NamedTuple):
    """An absolute address in two parts: where it leads, and what is wanted there.

    `authority`: host and port in normal form, without the scheme's default port. `rest`: path, query and fragment as
    they were written.
    """

    authority: str
    rest: str

    @property
    def host(self) -> str:
        """The host alone, of IPv6 in its brackets."""
        return host(self.authority)

    @property
    def port(self) -> str:
        """The port with its colon, empty where it is the scheme's default."""
        return self.authority[len(self.host) :]


def host(authority: str) -> str:
    """The host of ``host[:port]``."""
    return _PORT.sub("", authority)


def read(text: str) -> Address | None:
    """Read an address of http, https, ws or wss; None for what is none, or has a user in it."""
    start = _START.match(text)
    authority = _authority(start[0]) if start is not None and start.end() <= MAX_CHARACTERS else None
    return None if start is None or authority is None else Address(authority, text[start.end() :])


# The same few come with every token.
@lru_cache(maxsize=1024)
def _authority(url: str) -> str | None:
    if "@" in url:
        # Not for yarl: behind a user it takes any character for a host's, and fails on some.
        return None
    try:
        parts = URL(url)
        host, authority = parts.host_subcomponent, parts.host_port_subcomponent
    except ValueError:
        return None
    return authority if host is not None and _HOST.fullmatch(host) else None


def endpoint(text: str) -> str:
    """Give an endpoint in normal form: ``http(s)://host[:port][/prefix]``, without a slash at its end.

    Raises ValueError; its text says what is wrong and what to write.
    """
    text = text.strip()
    address = read(text)
    scheme = text.partition(":")[0].lower()
    if address is None or scheme not in ("http", "https"):
        raise ValueError(f"{text!r} is not an endpoint; {EXPECTED}")
    if "?" in address.rest or "#" in address.rest:
        raise ValueError(f"{text!r} is not an endpoint, as it has a query or a fragment; {EXPECTED}")
    if address.authority.endswith(":0"):
        raise ValueError(f"{text!r} is not an endpoint, as port 0 cannot be reached; {EXPECTED}")
    if _ENDS_IN_NUMBER.search(address.host) and not _is_ipv4(address.host):
        raise ValueError(f"{text!r} is not an endpoint: write the IPv4 address as four decimal numbers")
    return f"{scheme}://{address.authority}{URL(f'{scheme}://h{address.rest}').raw_path.rstrip('/')}"


def _is_ipv4(host: str) -> bool:
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True
