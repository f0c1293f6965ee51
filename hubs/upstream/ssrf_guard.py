"""Where event handlers may be: a guard against requests into the service's own network.

A handler's URL is written by whoever administers a hub, and the request is sent from where the
service runs: from there it could reach what is closed to its author, such as a cloud's metadata
address or a database's port. So only public addresses are connected to, unless the installation says
HANDLER_PRIVATE_ADDRESSES.

Looking at the URL is not enough, since a name can mean any address, and another one a second later.
Here addresses are judged where they are used. `GuardedResolver` passes on only the good ones of what
a name means, and exactly those are connected to, without a second look-up. `open_socket` judges once
more the address that a socket is about to be connected to; what is written as a number in the URL
never comes by a resolver.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from hubs import conf

# IANA's special-purpose registries, and one address that a cloud gave a purpose of its own.
_NOT_PUBLIC_4: tuple[tuple[IPv4Network, str], ...] = tuple(
    (IPv4Network(network), purpose)
    for network, purpose in (
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a provider"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "Azure's own"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "for documents"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documents"),
        ("203.0.113.0/24", "for documents"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
# Of IPv6 only 2000::/3 is given out, and not all of that leads where it seems to.
_GIVEN_OUT_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(network), purpose)
    for network, purpose in (
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "an IPv4 address in disguise"),
        ("64:ff9b:1::/48", "translated locally"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),
        ("ff00::/8", "multicast"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "for documents"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "for documents"),
    )
)
# Networks without IPv4 reach all of it through these, so the address inside decides.
_NAT64 = ip_network("64:ff9b::/96")

_RESOLVER_THREADS = 8


class ForbiddenAddress(OSError):
    """An address that event handlers may not be at. An OSError, since that is what connecting raises."""

    def __init__(self, text: str) -> None:
        # With a number in front, or it would be taken for a time limit by those who look at errno.
        super().__init__(-1, text)
        self.text = text

    def __str__(self) -> str:
        return self.text


def purpose_of(address: str) -> str:
    """Say what an IP address is for if it is not public; "" if it is."""
    try:
        parsed: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return "not an address"
    if isinstance(parsed, IPv6Address) and parsed in _NAT64:
        parsed = IPv4Address(int(parsed) & 0xFFFFFFFF)
    if isinstance(parsed, IPv4Address):
        return next((purpose for network, purpose in _NOT_PUBLIC_4 if parsed in network), "")
    found = next((purpose for network, purpose in _NOT_PUBLIC_6 if parsed in network), "")
    return found or ("" if parsed in _GIVEN_OUT_6 else "reserved")


def _refusal(addresses: list[str]) -> ForbiddenAddress:
    shown = ", ".join(f"{address} ({purpose_of(address)})" for address in addresses[:3])
    return ForbiddenAddress(
        f"events go to public addresses only, and this is at {shown}; the setting HANDLER_PRIVATE_ADDRESSES allows it"
    )


class SystemResolver(AbstractResolver):
    """Asks the system, in threads of its own: a name that is long in coming delays nobody else's threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="handler names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Give every address of a name. Raises OSError."""
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._threads,
                lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG),
            )
        except UnicodeError:
            raise OSError(socket.EAI_NONAME, "not the name of a host") from None
        return [
            ResolveResult(
                hostname=host,
                host=_numeric(address),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _numeric(address: Any) -> str:
    host, _, *rest = address
    scope = rest[1] if len(rest) == 2 else 0
    return f"{host}%{scope}" if scope and "%" not in host else host


class GuardedResolver(AbstractResolver):
    """Passes on the public addresses of what another resolver finds."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Give the addresses that may be connected to. Raises ForbiddenAddress when there is no other."""
        found = await self._inner.resolve(host, port, family)
        if conf.settings.HANDLER_PRIVATE_ADDRESSES:
            return found
        good = [result for result in found if not purpose_of(result["host"])]
        if found and not good:
            raise _refusal([result["host"] for result in found])
        return good

    async def close(self) -> None:
        """Close the other one."""
        await self._inner.close()


def open_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make the socket for an address as `getaddrinfo` gives it. Raises ForbiddenAddress."""
    family, kind, protocol, _, place = address
    if not conf.settings.HANDLER_PRIVATE_ADDRESSES and purpose_of(place[0]):
        raise _refusal([place[0]])
    return socket.socket(family, kind, protocol)
