"""The sockets that clients come to.

One process listens on a socket per address. Several workers of one machine could share these; whoever
asks first would get the next client, and that is far from even: a worker that wakes up takes all who
wait. A WebSocket stays for hours, so who got too many keeps too many. On Linux each worker therefore has
sockets of its own at the same port (SO_REUSEPORT), and the kernel deals clients out by a hash of their
address and port. docs/scale-out.md has what was measured. Elsewhere that option means something else, and
the sockets are shared.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import Any

LISTEN_BACKLOG = 2048

# Whether the kernel spreads clients over sockets at the same port.
SPREADS = sys.platform == "linux"


class CannotListen(Exception):
    """No socket could be bound; the text says what to do."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address `host` stands for, so that "localhost" answers on IPv4 and IPv6. Raises CannotListen."""
    return bind_each(host, port, 1)[0]


def bind_each(host: str, port: int, workers: int) -> list[list[socket.socket]]:
    """Bind for several workers: the sockets of each, which may be the same ones. Raises CannotListen."""
    try:
        addresses = _addresses(host, port)
    except (socket.gaierror, UnicodeError) as problem:
        said = problem.strerror if isinstance(problem, socket.gaierror) else problem
        raise CannotListen(
            f"HOST={host} cannot be resolved ({said}). Set HOST to a name or address of this machine."
        ) from None
    bound: list[list[socket.socket]] = []
    problems: list[OSError] = []
    for family, address in addresses:
        try:
            bound.append(_bound(family, address, workers))
        except OSError as problem:
            problems.append(problem)
    taken = next((problem for problem in problems if problem.errno == errno.EADDRINUSE), None)
    if taken is not None or not bound:
        close([listening for sockets in bound for listening in sockets])
        if taken is not None:
            other = _free_port(host, port)
            raise CannotListen(
                f"Port {port} is in use by another program. Stop it, or choose another port"
                + (f": PORT={other}" if other else ".")
            )
        raise CannotListen(f"Cannot listen on HOST={host} PORT={port}: {_explained(problems[0])}")
    # One family missing (no IPv6 on this machine, say) is no reason not to serve the other.
    return [list(sockets) for sockets in zip(*bound, strict=True)]


def inherited(descriptors: list[list[int]]) -> list[list[socket.socket]]:
    """The sockets of each worker, bound before this process ran this program; one may stand in several places."""
    opened = {each: socket.socket(fileno=each) for each in {each for place in descriptors for each in place}}
    for each in opened:
        os.set_inheritable(each, False)
    return [[opened[each] for each in place] for place in descriptors]


def close(sockets: list[socket.socket]) -> None:
    """Listen no more."""
    for listening in sockets:
        listening.close()


def _addresses(host: str, port: int) -> dict[tuple[int, Any], None]:
    """The addresses that a name stands for, each once and with its family; raises gaierror, UnicodeError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses: dict[tuple[int, Any], None] = dict.fromkeys((family, address) for family, _, _, _, address in found)
    if host == "localhost":
        # Some machines list only one of the two in /etc/hosts; browsers try both.
        addresses |= dict.fromkeys([(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port, 0, 0))])
    return addresses


def _free_port(host: str, taken: int) -> int | None:
    """The next port above one that is taken at which nothing listens on any address; None: none of the next hundred."""
    for port in range(taken + 1, min(taken + 101, 65536)):
        if not any(_is_taken(family, address) for family, address in _addresses(host, port)):
            return port
    return None


def _is_taken(family: int, address: Any) -> bool:
    try:
        _listening(family, address).close()
    except OSError as problem:
        return problem.errno == errno.EADDRINUSE
    return False


def _explained(problem: OSError) -> str:
    if problem.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address. Use one of its own, localhost, or 0.0.0.0 for all."
    if problem.errno in (errno.EACCES, errno.EPERM):
        return "this account may not use that port. Use one above 1023, with a proxy in front if need be."
    return f"{problem.strerror}."


def _bound(family: int, address: Any, workers: int) -> list[socket.socket]:
    """The sockets at one address, one for each worker."""
    if workers == 1 or not SPREADS:
        return [_listening(family, address)] * workers
    # Any number of sockets that share may be bound; so one that does not asks whether the port is free.
    _listening(family, address).close()
    sockets: list[socket.socket] = []
    try:
        for _ in range(workers):
            sockets.append(_listening(family, address, shares=True))
    except OSError:
        close(sockets)
        raise
    return sockets


def _listening(family: int, address: Any, *, shares: bool = False) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(LISTEN_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
