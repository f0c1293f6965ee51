"""`python -m bench.hostile`: what hostile clients cost, and whether honest ones notice.

Four attacks, one after the other, on a service that was started as `make run` does:

    half handshakes    thousands of connections that send the head of a WebSocket handshake, one byte a second
    slow bodies        hundreds of requests to REST, the admin's login and negotiate whose bodies come as slowly
    large heads        requests with headers, one header, an address or trailers that never end, as fast as they are
                       taken
    floods             one connection at a time that sends something tiny over and over, as fast as it is taken: empty
                       lines and chunks without a token; pings, messages and pieces of a message with one

All the time an honest client opens a WebSocket and sends a message by REST, each on a connection of its own, about four
times a second; both are timed from the first packet to the answer. Shown are the memory of the service, how long it
bore with each attacker, how much it took of a head, and the times of the honest ones, without and during each attack.
An attacker that is borne with for longer than CLOSED_SECS, a head of which more is taken than kernels keep, or an
honest client that is not served within HONEST_SECS, ends the bench with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jwt
import psutil
import uvloop
from rich.table import Table

from bench import command, figures
from bench.clients import PATIENCE_SECS, connect, disconnect
from bench.command import say, seconds, whole
from bench.contestants import CONTESTANTS
from bench.machine import Meter, Usage, at_rest, need_files
from bench.servers import Server, Wrong

# How long a service may bear with somebody who sends a byte a second.
CLOSED_SECS = 12.5
# Within which an honest client gets in and is answered.
HONEST_SECS = 1.0
# What two kernels keep of a head that nobody reads any more, at most.
KEPT_BYTES = 24 << 20

HONEST_PAUSE_SECS = 0.25
OPENED_AT_ONCE = 200
# A second's bytes are sent in so many turns, not all at once.
TURNS = 20
# What a flood writes at a time.
_WRITTEN_BYTES = 64 * 1024
# No attack is watched for longer.
ATTACK_SECS = 60.0

_HANDSHAKE = (
    "GET /client/hubs/bench HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-Padding: "
)
_POST = "POST {target} HTTP/1.1\r\nHost: localhost:{{port}}\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
_BODIES = (
    _POST.format(target="/api/hubs/bench/:send?api-version=2024-12-01", kind="text/plain"),
    _POST.format(target="/admin/login/", kind="application/x-www-form-urlencoded"),
    _POST.format(target="/api/negotiate/bench", kind="application/json"),
)
_MANY = b"".join(b"x%d: %s\r\n" % (number, b"y" * 50) for number in range(1000))
_LONG = b"y" * 65536
# How each begins, and what it goes on with.
_HEADS = {
    "headers": ("GET / HTTP/1.1\r\nHost: localhost:{port}\r\n", _MANY),
    "one header": ("GET / HTTP/1.1\r\nHost: localhost:{port}\r\nx: ", _LONG),
    "the address": ("GET /", _LONG),
    "headers of a handshake": (_HANDSHAKE + "\r\n", _MANY),
    "trailers": (
        "POST / HTTP/1.1\r\nHost: localhost:{port}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
        _MANY,
    ),
}
_CHUNKED = "POST /api/negotiate/bench HTTP/1.1\r\nHost: localhost:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
_OPENED = (
    "GET {target} HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    "Sec-WebSocket-Protocol: json.webpubsub.azure.v1\r\n\r\n"
)
_NO_MASK = bytes(4)
# How each begins, what comes once, and what then comes again and again.
_FLOODS = {
    "empty lines": ("", b"", b"\r\n"),
    "chunks": (_CHUNKED, b"", b"1\r\nx\r\n"),
    "pings": (_OPENED, b"", b"\x89\x80" + _NO_MASK),
    "messages": (_OPENED, b"", b"\x81\x8f" + _NO_MASK + b'{"type":"ping"}'),
    "pieces": (_OPENED, b"\x01\x80" + _NO_MASK, b"\x00\x80" + _NO_MASK),
}


@dataclasses.dataclass(frozen=True)
class Attack:
    """One attack, or the time without any."""

    name: str
    attackers: int
    # How long each was borne with.
    borne_secs: list[float]
    # What was sent before the service took no more, by the kind of head.
    taken_bytes: dict[str, int]
    handshakes_ms: list[float]
    sends_ms: list[float]
    memory_before: int
    memory_most: int
    usage: Usage


class Attacker(asyncio.Protocol):
    """A connection that says a little at a time."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self.borne_secs: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvloop has it
        self.transport = transport
        self._began = time.monotonic()
        transport.write(self._head)

    def drip(self) -> None:
        """Say one byte more."""
        if self.borne_secs is None:
            self.transport.write(b"a")

    def eof_received(self) -> None:
        """It is hung up on."""
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if self.borne_secs is None:
            self.borne_secs = time.monotonic() - self._began


class Scene:
    """The service, whoever attacks it, and an honest client."""

    def __init__(self, server: Server, options: argparse.Namespace) -> None:
        self._server = server
        self._options = options
        [self._target] = server.targets(1)
        self._processes: list[psutil.Process] = server.processes()
        self._handshakes: list[float] = []
        self._sends: list[float] = []
        self._most = 0

    async def watch(self, name: str, attack: Callable[[], Any], attackers: int) -> Attack:
        """Have an attack made, and look at everything meanwhile. Raises Wrong."""
        await at_rest(self._server)
        self._handshakes, self._sends = [], []
        before = self._most = self._resident()
        meter = Meter(self._server)
        looking = [asyncio.ensure_future(each()) for each in (self._look, self._open, self._send)]
        try:
            borne, taken = await attack()
        finally:
            for each in looking:
                each.cancel()
            failures = await asyncio.gather(*looking, return_exceptions=True)
        for failure in failures:
            if isinstance(failure, Exception):
                raise failure
        usage = meter.read()
        return Attack(name, attackers, borne, taken, self._handshakes, self._sends, before, self._most, usage)

    # The honest ones

    async def _open(self) -> None:
        while True:
            began = time.perf_counter()
            opened = await connect(self._server.door, [self._target])
            self._handshakes.append((time.perf_counter() - began) * 1000)
            await disconnect(opened)
            await asyncio.sleep(HONEST_PAUSE_SECS)

    async def _send(self) -> None:
        port, target = self._server.port, "/api/hubs/bench/:send?api-version=2024-12-01"
        claims = {"aud": f"http://localhost:{port}{target}", "exp": int(time.time()) + 3600}
        token = jwt.encode(claims, self._server.access_key, algorithm="HS256")
        request = (
            f"POST {target} HTTP/1.1\r\nHost: localhost:{port}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
        ).encode()
        while True:
            began = time.perf_counter()
            async with asyncio.timeout(PATIENCE_SECS):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                status = (await reader.readline()).split()[1:2]
            self._sends.append((time.perf_counter() - began) * 1000)
            writer.close()
            if status != [b"202"]:
                raise Wrong(f"an honest send was answered {status}")
            await asyncio.sleep(HONEST_PAUSE_SECS)

    async def _look(self) -> None:
        while True:
            self._most = max(self._most, self._resident())
            await asyncio.sleep(HONEST_PAUSE_SECS)

    def _resident(self) -> int:
        return sum(process.memory_info().rss for process in self._processes)

    # The others

    async def nobody(self) -> tuple[list[float], dict[str, int]]:
        """No attack."""
        await asyncio.sleep(self._options.secs)
        return [], {}

    async def half_handshakes(self) -> tuple[list[float], dict[str, int]]:
        """Handshakes a byte at a time."""
        return await self._drip([_HANDSHAKE] * self._options.handshakes), {}

    async def slow_bodies(self) -> tuple[list[float], dict[str, int]]:
        """Bodies a byte at a time."""
        return await self._drip([_BODIES[number % len(_BODIES)] for number in range(self._options.bodies)]), {}

    async def _drip(self, heads: Sequence[str]) -> list[float]:
        loop, port = asyncio.get_running_loop(), self._server.port
        attackers = [Attacker(head.format(port=port).encode()) for head in heads]
        began = loop.time()
        dripping = asyncio.ensure_future(self._keep_dripping(attackers))
        try:
            for at in range(0, len(attackers), OPENED_AT_ONCE):
                made = attackers[at : at + OPENED_AT_ONCE]
                await asyncio.gather(*(loop.create_connection(lambda one=one: one, "127.0.0.1", port) for one in made))
            say(f"{len(attackers):,} connections were opened in {loop.time() - began:.1f} s")
            while any(one.borne_secs is None for one in attackers) and loop.time() - began < ATTACK_SECS:
                await asyncio.sleep(HONEST_PAUSE_SECS)
        finally:
            dripping.cancel()
            for one in attackers:
                if hasattr(one, "transport"):
                    one.transport.abort()
        if left := sum(one.borne_secs is None for one in attackers):
            raise Wrong(f"{left} of {len(attackers)} attackers were still borne with after {ATTACK_SECS:g} s")
        return [one.borne_secs for one in attackers if one.borne_secs is not None]

    async def _keep_dripping(self, attackers: Sequence[Attacker]) -> None:
        turn = 0
        while True:
            for one in attackers[turn % TURNS :: TURNS]:
                if hasattr(one, "transport"):
                    one.drip()
            turn += 1
            await asyncio.sleep(1 / TURNS)

    async def large_heads(self) -> tuple[list[float], dict[str, int]]:
        """Heads that do not end, one kind after the other."""
        taken = {}
        for name, (head, more) in _HEADS.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
            sent = 0
            writer.write(head.format(port=self._server.port).encode())
            with contextlib.suppress(OSError):
                async with asyncio.timeout(PATIENCE_SECS):
                    while sent < self._options.megabytes * 1_000_000:
                        writer.write(more)
                        sent += len(more)
                        await writer.drain()
            taken[name] = sent
            writer.transport.abort()
            del reader
        await asyncio.sleep(1)
        return [], taken

    async def floods(self) -> tuple[list[float], dict[str, int]]:
        """One connection at a time, as fast as it is taken, one kind after the other."""
        for head, once, again in _FLOODS.values():
            more = again * (_WRITTEN_BYTES // len(again))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._options.flood_secs):
                    while True:
                        with contextlib.suppress(OSError):
                            await self._flood(
                                head.format(port=self._server.port, target=self._target).encode(), once, more
                            )
        return [], {}

    async def _flood(self, head: bytes, once: bytes, more: bytes) -> None:
        """Until it is hung up on."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        hearing = asyncio.ensure_future(_hear_out(reader))
        try:
            writer.write(head + once)
            while not hearing.done():
                writer.write(more)
                await writer.drain()
        finally:
            hearing.cancel()
            writer.transport.abort()


async def _hear_out(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1 << 16):
            pass


def check(attack: Attack) -> None:
    """Raises Wrong where the service promises more."""
    if attack.borne_secs and max(attack.borne_secs) > CLOSED_SECS:
        raise Wrong(f"{attack.name}: one was borne with for {max(attack.borne_secs):.1f} s, more than {CLOSED_SECS:g}")
    for name, taken in attack.taken_bytes.items():
        if taken > KEPT_BYTES:
            raise Wrong(f"{attack.name}: {taken / (1 << 20):.0f} MiB were taken of {name}")
    for name, times in (("WebSocket handshake", attack.handshakes_ms), ("send by REST", attack.sends_ms)):
        if not times or max(times) > HONEST_SECS * 1000:
            raise Wrong(f"{attack.name}: an honest {name} took {max(times, default=0):.0f} ms")


class Hostile(command.Bench):
    """The attacks, one after the other on the same service."""

    name = "hostile"
    summary = "What hostile clients cost, and whether honest ones notice."
    quick = {"handshakes": 200, "bodies": 60, "megabytes": 60, "flood_secs": 1.0, "secs": 1.0}

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.attacks: list[Attack] = []

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--handshakes", type=whole(1, 20_000), default=5000, help="default: %(default)s")
        parser.add_argument("--bodies", type=whole(1, 20_000), default=900, help="default: %(default)s")
        parser.add_argument("--megabytes", type=whole(1, 1000), default=60, help="of each head (default: %(default)s)")
        parser.add_argument(
            "--flood-secs", type=seconds(1, 60), default=3.0, help="of each flood (default: %(default)g)"
        )
        parser.add_argument("--secs", type=seconds(1, 120), default=10.0, help="without attack (default: %(default)g)")

    def measure(self) -> None:
        need_files(max(self.options.handshakes, self.options.bodies) + 100)
        with Server(CONTESTANTS["hubwire"], self.cores.servers) as server:
            # Asked once, before the loop runs: it starts a process.
            assert server.access_key
            uvloop.run(self._look_at(server))
        for attack in self.attacks:
            check(attack)

    async def _look_at(self, server: Server) -> None:
        scene = Scene(server, self.options)
        for name, attack, attackers in (
            ("none", scene.nobody, 0),
            ("half handshakes", scene.half_handshakes, self.options.handshakes),
            ("slow bodies", scene.slow_bodies, self.options.bodies),
            ("large heads", scene.large_heads, len(_HEADS)),
            ("floods", scene.floods, len(_FLOODS)),
        ):
            self.attacks.append(await scene.watch(name, attack, attackers))

    def usages(self) -> Iterator[Usage]:
        return (attack.usage for attack in self.attacks)

    def raw(self) -> dict[str, object]:
        return {"attacks": self.attacks}

    def tables(self) -> Iterator[Table]:
        attacks = figures.table(
            "Attacks",
            "attack",
            right=(
                *("attackers", "borne with for s: median", "longest", "server MiB: before", "most", "server's core"),
                *("honest handshake ms: p50", "worst", "honest REST send ms: p50", "worst"),
            ),
        )
        for attack in self.attacks:
            borne = sorted(attack.borne_secs)
            attacks.add_row(
                attack.name,
                f"{attack.attackers:,}",
                *((f"{figures.percentile(borne, 0.5):.1f}", f"{borne[-1]:.1f}") if borne else ("–", "–")),
                *(f"{size / (1 << 20):.0f}" for size in (attack.memory_before, attack.memory_most)),
                f"{attack.usage.server_share:.0%}",
                *(
                    f"{text:.1f}"
                    for times in (sorted(attack.handshakes_ms), sorted(attack.sends_ms))
                    for text in (figures.percentile(times, 0.5), times[-1])
                ),
            )
        heads = figures.table(
            f"Heads of {self.options.megabytes} MB",
            "what does not end",
            right=("MB sent before the service took no more, buffers of both kernels included",),
        )
        for name, taken in (item for attack in self.attacks for item in attack.taken_bytes.items()):
            heads.add_row(name, f"{taken / 1e6:.1f}")
        if self.attacks:
            yield attacks
        if heads.row_count:
            yield heads


if __name__ == "__main__":
    sys.exit(command.main(Hostile))
