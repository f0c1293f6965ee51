"""`python -m bench.rest`: what a REST `:send` costs the server, beside views that do nothing.

The figure is requests per CPU-second of the server process. The same generator sends the same body
over keep-alive connections to several addresses in turns: our `:send` to a group, a user, a connection and all
(token checked, body read, published), and an empty DRF view and an empty asynchronous Django view, these two on a bare
project behind the same uvicorn. SDKs sign a token per request, made of the address and the second, so a busy
server sends the same one many times; one row has a token that was never seen before in each request,
which is the other end. Another row goes through Django instead of the fast path: its requests carry a cookie,
and those are for Django's middleware. An answer that is not 202 ends the bench.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle

import jwt
import uvloop
from rich.table import Table

from bench import command, figures
from bench.clients import PATIENCE_SECS
from bench.command import say, seconds
from bench.contestants import CONTESTANTS
from bench.machine import Meter, Usage
from bench.servers import Server, Wrong

BODY = b'"' + b"x" * 62 + b'"'
CONNECTIONS = 8

# Far more than a server remembers, and each is used once in a while only.
NEW_TOKENS = 20_000

GROUP = "Hubwire :send to a group"
YARDSTICK = "empty DRF view"
_CRLF = b"\r\n"
_HEAD_END = _CRLF * 2


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
            head = await asyncio.wait_for(reader.readuntil(_HEAD_END), PATIENCE_SECS)
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


@dataclass(frozen=True)
class Run:
    """One address in one round."""

    address: str
    round: int
    answered: int
    usage: Usage

    @property
    def per_cpu_sec(self) -> float:
        """Requests for one CPU-second of the server."""
        return self.usage.per_cpu_sec(self.answered)


async def _ask(address: Address, secs: float, number: int) -> Run:
    """Ask for so long; a tenth of the time goes before, to warm up."""
    requests = address.requests
    # Each connection has a share of its own, so that no token is used by two.
    shares = [requests[at::CONNECTIONS] or requests for at in range(CONNECTIONS)]

    async def stretch(secs: float) -> int:
        until = time.monotonic() + secs
        return sum(await asyncio.gather(*(_client(address, share, until) for share in shares)))

    await stretch(secs / 10)
    meter = Meter(address.server)
    answered = await stretch(secs)
    return Run(address.title, number, answered, meter.read())


def _tokens(server: Server, target: str, count: int = 1) -> list[str]:
    """Tokens for an address, each with an expiry of its own, as SDKs make one per second."""
    audience = f"http://localhost:{server.port}{target}"
    now = int(time.time()) + 3600
    claims = ({"aud": audience, "exp": now + number} for number in range(count))
    return [jwt.encode(each, server.access_key, algorithm="HS256") for each in claims]


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


class Rest(command.Bench):
    """All addresses in turns."""

    name = "rest"
    summary = "What a REST `:send` costs the server, beside views that do nothing."
    usual_rounds = 3
    quick = {"rounds": 1, "seconds": 0.2}

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.runs: list[Run] = []

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--seconds", type=seconds(0.1, 60), default=2.0, help="per address (default: %(default)g)")

    def measure(self) -> None:
        with ExitStack() as stack:
            ours, empty = (
                stack.enter_context(Server(CONTESTANTS[name], self.cores.servers))
                for name in ("hubwire", "empty-views")
            )
            addresses = _addresses(ours, empty)
            for number in self.rounds():
                for address in addresses:
                    run = uvloop.run(_ask(address, self.options.seconds, number))
                    self.runs.append(run)
                    say(f"{number}  {run.address}: {run.per_cpu_sec:,.0f} per CPU-s")

    def usages(self) -> Iterator[Usage]:
        return (run.usage for run in self.runs)

    def raw(self) -> list[Run]:
        return self.runs

    def tables(self) -> Iterator[Table]:
        table = figures.table(
            "Requests per CPU-second of the server",
            "address",
            right=("per CPU-second", f"× {YARDSTICK}", "server's core", "generator's core"),
        )
        baseline = figures.median(run.per_cpu_sec for run in self.runs if run.address == YARDSTICK)
        for address in dict.fromkeys(run.address for run in self.runs):
            own = [run for run in self.runs if run.address == address]
            table.add_row(
                address,
                figures.spread((run.per_cpu_sec for run in own), ",.0f"),
                figures.ratio(figures.median(run.per_cpu_sec for run in own), baseline),
                figures.middle((run.usage.server_share for run in own), ".0%"),
                figures.middle((run.usage.generator_share for run in own), ".0%"),
            )
        if self.runs:
            yield table


if __name__ == "__main__":
    sys.exit(command.main(Rest))
