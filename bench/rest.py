"""`python -m bench.rest`: what a REST `:send` costs the server, beside views that do nothing.

The figure is requests per CPU-second of the server process. The same generator sends the same body
over keep-alive connections to several addresses in turns: our `:send` to a group, a user, a connection and all
(token checked, body read, published), and an empty DRF view and an empty asynchronous Django view, these two on a bare
project behind the same uvicorn. SDKs sign a token per request, made of the address and the second, so a busy
server sends the same one many times; one row has a token that was never seen before in each request,
which is the other end. Another row goes through Django instead of the lane: its requests carry a cookie,
and those are for Django's middleware. An answer that is not 202 ends the bench.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path

import jwt
import uvloop
from rich.console import Console
from rich.table import Table

from bench.report import RESULTS
from bench.servers import CONTESTANTS, EMPTY_VIEWS, CannotStart, Server, cores

BODY = b'"' + b"x" * 62 + b'"'
CONNECTIONS = 8
MAX_SECONDS = 60.0
MAX_ROUNDS = 20

# Far more than a server remembers, and each is used once in a while only.
NEW_TOKENS = 20_000

GROUP = "Hubwire :send to a group"
YARDSTICK = "empty DRF view"
_CRLF = b"\r\n"
_HEAD_END = _CRLF * 2


class Wrong(Exception):
    """A server answered something else than 202."""


@dataclass(frozen=True)
class Address:
    """One thing to ask for, again and again. `tokens`: taken in turns, where there are several."""

    title: str
    server: Server
    target: str
    tokens: Sequence[str] = ()
    header: str = ""

    @property
    def requests(self) -> list[bytes]:
        """The whole requests, as they are sent."""
        return [self._request(token) for token in self.tokens or [""]]

    def _request(self, token: str) -> bytes:
        lines = [
            f"POST {self.target} HTTP/1.1",
            f"Host: localhost:{self.server.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(BODY)}",
        ]
        if token:
            lines.append(f"Authorization: Bearer {token}")
        if self.header:
            lines.append(self.header)
        return "\r\n".join([*lines, "", ""]).encode() + BODY


async def _client(address: Address, requests: Sequence[bytes], until: float) -> int:
    """Ask over one connection, one request at a time, until the clock says so; gives how often."""
    reader, writer = await asyncio.open_connection("127.0.0.1", address.server.port)
    answered = 0
    try:
        for request in cycle(requests):
            if time.monotonic() >= until:
                break
            writer.write(request)
            head = await asyncio.wait_for(reader.readuntil(_HEAD_END), 30)
            if not head.startswith(b"HTTP/1.1 202"):
                raise Wrong(f"{address.title}: {head.split(_CRLF, 1)[0].decode('latin-1')}")
            for line in head.split(_CRLF):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length" and int(value):
                    await reader.readexactly(int(value))
            answered += 1
    finally:
        writer.close()
    return answered


async def _measure(address: Address, seconds: float) -> float:
    """Requests per CPU-second of the server; a tenth of the time goes before, to warm up."""
    requests = address.requests
    # Each connection has a share of its own, so that no token is used by two.
    shares = [requests[at::CONNECTIONS] or requests for at in range(CONNECTIONS)]

    async def ask(seconds: float) -> int:
        until = time.monotonic() + seconds
        return sum(await asyncio.gather(*(_client(address, share, until) for share in shares)))

    await ask(seconds / 10)
    before = address.server.cpu_secs()
    answered = await ask(seconds)
    return answered / (address.server.cpu_secs() - before)


def _tokens(server: Server, target: str, count: int = 1) -> list[str]:
    """Tokens for an address, each with an expiry of its own, as SDKs make one per second."""
    key = dict(part.split("=", 1) for part in server.connection_string.split(";") if part)["AccessKey"]
    audience = f"http://localhost:{server.port}{target}"
    now = int(time.time()) + 3600
    return [jwt.encode({"aud": audience, "exp": now + number}, key, algorithm="HS256") for number in range(count)]


def _addresses(ours: Server, empty: Server) -> list[Address]:
    group, *others = (
        f"/api/hubs/bench/{of}:send?api-version=2024-12-01" for of in ("groups/g/", "users/u/", "connections/c/", "")
    )
    token = _tokens(ours, group)
    return [
        Address(GROUP, ours, group, token),
        *(
            Address(f"Hubwire :send to {what}", ours, target, _tokens(ours, target))
            for what, target in zip(("a user", "a connection", "all"), others, strict=True)
        ),
        Address("… to a group, each token new", ours, group, _tokens(ours, group, NEW_TOKENS)),
        Address("… to a group, through Django", ours, group, token, "Cookie: a=b"),
        Address(YARDSTICK, empty, "/drf"),
        Address("empty async Django view", empty, "/async"),
    ]


def _report(figures: dict[str, list[float]]) -> Table:
    baseline = statistics.median(figures[YARDSTICK])
    table = Table(title="Requests per CPU-second of the server")
    for heading in ("address", "median", "lowest", "highest", "× empty DRF view"):
        table.add_column(heading, justify="left" if heading == "address" else "right")
    for title, values in figures.items():
        median = statistics.median(values)
        table.add_row(title, f"{median:,.0f}", f"{min(values):,.0f}", f"{max(values):,.0f}", f"{median / baseline:.2f}")
    return table


def _write(figures: dict[str, list[float]]) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"rest-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps({"requests per CPU-second": figures}, indent=2, ensure_ascii=False) + "\n")
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.rest", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help=f"1 to {MAX_ROUNDS} (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help=f"per address, up to {MAX_SECONDS:g}")
    parser.add_argument("--quick", action="store_true", help="one round of a second each")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    if not 1 <= options.rounds <= MAX_ROUNDS or not 0.1 <= options.seconds <= MAX_SECONDS:
        parser.error("--rounds or --seconds is out of bounds")
    console = Console()
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    both = cores()
    if both is not None:
        os.sched_setaffinity(0, {both[0]})
    try:
        with ExitStack() as stack:
            ours = stack.enter_context(Server(CONTESTANTS["hubwire"], both and both[1]))
            empty = stack.enter_context(Server(EMPTY_VIEWS, both and both[1]))
            addresses = _addresses(ours, empty)
            figures: dict[str, list[float]] = {address.title: [] for address in addresses}
            for _ in range(options.rounds):
                for address in addresses:
                    figures[address.title].append(uvloop.run(_measure(address, options.seconds)))
    except (CannotStart, Wrong) as problem:
        console.print(str(problem), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if own is not None:
            os.sched_setaffinity(0, own)
    console.print(_report(figures))
    console.print(f"All figures: {_write(figures)}", markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
