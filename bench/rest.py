"""`python -m bench.rest`: what a REST `:send` costs the server, beside views that do nothing.

The figure is requests per CPU-second of the server process. The same generator sends the same body
over keep-alive connections to three addresses in turns: our `:send` to a group (token checked, body
read, published), an empty DRF view, and an empty asynchronous Django view, the last two on a bare
project behind the same uvicorn. An answer that is not 202 ends the bench.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass

import jwt
import uvloop
from rich.console import Console
from rich.table import Table

from bench.servers import CONTESTANTS, EMPTY_VIEWS, CannotStart, Server, cores

BODY = b'"' + b"x" * 62 + b'"'
CONNECTIONS = 8
MAX_SECONDS = 60.0
MAX_ROUNDS = 20
_CRLF = b"\r\n"
_HEAD_END = _CRLF * 2


class Wrong(Exception):
    """A server answered something else than 202."""


@dataclass(frozen=True)
class Address:
    """One thing to ask for, again and again."""

    title: str
    server: Server
    target: str
    authorization: str = ""

    @property
    def request(self) -> bytes:
        """The whole request, as it is sent each time."""
        lines = [
            f"POST {self.target} HTTP/1.1",
            f"Host: localhost:{self.server.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(BODY)}",
        ]
        if self.authorization:
            lines.append(f"Authorization: Bearer {self.authorization}")
        return "\r\n".join([*lines, "", ""]).encode() + BODY


async def _client(address: Address, until: float) -> int:
    """Ask over one connection, one request at a time, until the clock says so; gives how often."""
    reader, writer = await asyncio.open_connection("127.0.0.1", address.server.port)
    request = address.request
    answered = 0
    try:
        while time.monotonic() < until:
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
    await asyncio.gather(*(_client(address, time.monotonic() + seconds / 10) for _ in range(CONNECTIONS)))
    before = address.server.cpu_secs()
    answered = await asyncio.gather(*(_client(address, time.monotonic() + seconds) for _ in range(CONNECTIONS)))
    return sum(answered) / (address.server.cpu_secs() - before)


def _token(server: Server, target: str) -> str:
    key = dict(part.split("=", 1) for part in server.connection_string.split(";") if part)["AccessKey"]
    audience = f"http://localhost:{server.port}{target}"
    return jwt.encode({"aud": audience, "exp": int(time.time()) + 3600}, key, algorithm="HS256")


def _report(figures: dict[str, list[float]]) -> Table:
    baseline = statistics.median(figures["empty DRF view"])
    table = Table(title="Requests per CPU-second of the server")
    for heading in ("address", "median", "lowest", "highest", "× empty DRF view"):
        table.add_column(heading, justify="left" if heading == "address" else "right")
    for title, values in figures.items():
        median = statistics.median(values)
        table.add_row(title, f"{median:,.0f}", f"{min(values):,.0f}", f"{max(values):,.0f}", f"{median / baseline:.2f}")
    return table


def main() -> int:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.rest", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help=f"1 to {MAX_ROUNDS} (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help=f"per address, up to {MAX_SECONDS:g}")
    options = parser.parse_args()
    if not 1 <= options.rounds <= MAX_ROUNDS or not 0.1 <= options.seconds <= MAX_SECONDS:
        parser.error("--rounds or --seconds is out of bounds")
    console = Console()
    both = cores()
    if both is not None:
        os.sched_setaffinity(0, {both[0]})
    try:
        with ExitStack() as stack:
            ours = stack.enter_context(Server(CONTESTANTS["hubwire"], both and both[1]))
            empty = stack.enter_context(Server(EMPTY_VIEWS, both and both[1]))
            target = "/api/hubs/bench/groups/g/:send?api-version=2024-12-01"
            addresses = [
                Address("Hubwire :send to a group", ours, target, _token(ours, target)),
                Address("empty DRF view", empty, "/drf"),
                Address("empty async Django view", empty, "/async"),
            ]
            figures: dict[str, list[float]] = {address.title: [] for address in addresses}
            for _ in range(options.rounds):
                for address in addresses:
                    figures[address.title].append(uvloop.run(_measure(address, options.seconds)))
    except (CannotStart, Wrong) as problem:
        console.print(str(problem), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(_report(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
