"""Many connections held at once, and what they do to the server while they are.

`Held` is one WebSocket connection that hands every message on, answers pings and remembers how it
ended; `hold` opens thousands of them. Two limits of the machine stand in the way and are dealt with
here: the files one process may have open, and the ports of one source address. Loopback has sixteen
million addresses, so each block of clients connects from another one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import signal
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, cast

import psutil

from bench.report import OTHERS_BUSY, RESULTS
from bench.servers import ROOT, Server, busy_secs, cores
from bench.wire import CLOSE, PING, PONG, TEXT, FrameCounter, Handshake, Unexpected, client_frame

PACKAGES = ("Django", "channels", "channels_redis", "uvicorn", "uvloop", "websockets", "msgspec", "redis", "hiredis")

PATIENCE_SECS = 30.0
HANDSHAKES_AT_ONCE = 64

# Clients per source address. A port stays taken for a minute after its connection was closed, and of the
# 28,000 that Linux gives out, two generations of clients have to fit.
PER_ADDRESS = 8_000
ADDRESSES = 200

# Files of a process that are not connections: logs, database, loop, listening sockets.
OTHER_FILES = 300

# At rest: less than this share of a core, in two looks one after the other.
REST_SHARE = 0.04
LOOK_SECS = 0.5


# What the payload of a numbered message begins with.
MARK, DIGITS = b"#", 9
# What was sent has arrived, or nothing has for so long; in any case nobody waits longer than this.
NOTHING_SECS, DRAIN_SECS = 5.0, 60.0


class Wrong(Exception):
    """What was measured does not count; the text says what was lost, doubled or not answered."""


class Held(asyncio.Protocol):
    """One connection, from its handshake to its end."""

    def __init__(self, handshake: Handshake, heard: Callable[[Held, list[bytes]], None] | None) -> None:
        self._handshake: Handshake | None = handshake
        self._frames = FrameCounter()
        self._transport: asyncio.Transport | None = None
        # Told of every batch of messages.
        self.heard = heard
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.pings = 0
        # The last ackId.
        self.asked = 0
        # How it ended: the close frame's code and reason, None without one.
        self.close_code: int | None = None
        self.close_reason = ""

    @property
    def alive(self) -> bool:
        """Whether nothing has ended it so far."""
        return self.opened.done() and not self.closed.done() and self.close_code is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, only of their kind.
        self._transport = cast(asyncio.Transport, transport)
        assert self._handshake is not None
        self._transport.write(self._handshake.request)

    def data_received(self, data: bytes) -> None:
        try:
            if self._handshake is not None:
                rest = self._handshake.feed(data)
                if rest is None:
                    return
                self._handshake = None
                self.opened.set_result(None)
                data = rest
            self._frames.feed(data)
        except Unexpected as problem:
            self._end(problem)
            self.cut()
            return
        frames = self._frames
        if frames.messages:
            messages, frames.messages = frames.messages, []
            if self.heard is not None:
                self.heard(self, messages)
        if frames.control:
            self._answer_control()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or Unexpected("the server closed the socket"))

    def send(self, frame: bytes) -> None:
        """Write a finished frame."""
        assert self._transport is not None
        self._transport.write(frame)

    def stop_reading(self) -> None:
        """From now on take nothing from the socket, as a client does that hangs."""
        assert self._transport is not None
        self._transport.pause_reading()

    def read_on(self) -> None:
        """Take what lies in the socket, and what comes."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def cut(self) -> None:
        """Let go of the socket without a word."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Say goodbye; who does not answer in time is cut off."""
        if self._transport is None or self.closed.done():
            return
        if self.close_code is None:
            self.send(client_frame(CLOSE, (1000).to_bytes(2, "big")))
        await asyncio.wait({self.closed}, timeout=PATIENCE_SECS / 3)
        self.cut()

    def _answer_control(self) -> None:
        control, self._frames.control = self._frames.control, []
        for opcode, payload in control:
            if opcode == PING:
                self.pings += 1
                self.send(client_frame(PONG, payload))
            elif opcode == CLOSE and self.close_code is None:
                self.close_code = int.from_bytes(payload[:2], "big")
                self.close_reason = payload[2:].decode("utf-8", "replace")
                self.send(client_frame(CLOSE, payload[:2]))

    def _end(self, problem: Exception) -> None:
        if not self.opened.done():
            self.opened.set_exception(problem)
        if not self.closed.done():
            self.closed.set_result(None)


@dataclass(frozen=True)
class Door:
    """Where connections are opened."""

    port: int
    subprotocol: str | None

    @classmethod
    def of(cls, server: Server) -> Door:
        """The door of a running server."""
        return cls(server.port, server.contestant.subprotocol)


_made = 0


async def hold(
    door: Door,
    targets: Sequence[str],
    heard: Callable[[Held, list[bytes]], None] | None = None,
    at_once: int = HANDSHAKES_AT_ONCE,
) -> list[Held]:
    """Open a connection for each request target, in order, so many handshakes at a time. Raises Unexpected."""
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(at_once)
    opened: list[Held] = []

    async def one(target: str) -> Held:
        global _made
        async with room:
            source = f"127.0.{_made // PER_ADDRESS % ADDRESSES}.1"
            _made += 1
            handshake = Handshake(target, f"localhost:{door.port}", door.subprotocol)
            _, held = await loop.create_connection(
                lambda: Held(handshake, heard), "127.0.0.1", door.port, local_addr=(source, 0)
            )
            opened.append(held)
            try:
                await asyncio.wait_for(held.opened, PATIENCE_SECS)
            except TimeoutError:
                raise Unexpected(f"a handshake was not answered within {PATIENCE_SECS:g} s") from None
            return held

    attempts = [loop.create_task(one(target)) for target in targets]
    try:
        return list(await asyncio.gather(*attempts))
    except BaseException:
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
        for held in opened:
            held.cut()
        raise


async def let_go(clients: Iterable[Held]) -> None:
    """Close connections and wait for their end."""
    await asyncio.gather(*(client.close() for client in clients))


async def ask(client: Held, message: dict[str, Any]) -> None:
    """Send a message and wait for its ack; what comes in between is dropped. Raises Unexpected."""
    client.asked += 1
    number = client.asked
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    before = client.heard

    def look(_: Held, messages: list[bytes]) -> None:
        for raw in messages:
            # Only acks are parsed, since a busy group may be talking meanwhile.
            if b'"ack"' in raw and not done.done():
                answer = json.loads(raw)
                if answer.get("ackId") == number:
                    if answer.get("success") is True:
                        done.set_result(None)
                    else:
                        done.set_exception(Unexpected(f"{message['type']} was answered {raw.decode()}"))

    client.heard = look
    try:
        client.send(client_frame(TEXT, json.dumps({**message, "ackId": number}, separators=(",", ":")).encode()))
        await asyncio.wait({done, client.closed}, timeout=PATIENCE_SECS, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise Unexpected(f"{message['type']} was not answered within {PATIENCE_SECS:g} s, or the connection ended")
        done.result()
    finally:
        client.heard = before


async def join(members: Iterable[tuple[Held, str]]) -> None:
    """Have each client join its group, and wait for all acks."""
    room = asyncio.Semaphore(HANDSHAKES_AT_ONCE)

    async def one(client: Held, group: str) -> None:
        async with room:
            await ask(client, {"type": "joinGroup", "group": group})

    await asyncio.gather(*(one(client, group) for client, group in members))


# Deliveries that are timed one by one


class Reader:
    """One member that writes down how long each message took since it was due, and checks that it got the right ones.

    Messages are numbered; the number stands in the payload, between a character that no name has and the filling.
    """

    __slots__ = ("_arrived", "_due", "client", "group", "received", "total")

    def __init__(self, client: Held, group: int = 0) -> None:
        self.client = client
        self.group = group
        self.begin([], array("d"))
        client.heard = self._heard

    def begin(self, due: list[float], arrived: array[float]) -> None:
        """Forget what came; from now on append to `arrived`. `due` tells when each message should have been sent."""
        self._due, self._arrived = due, arrived
        self.received = self.total = 0

    def _heard(self, client: Held, messages: list[bytes]) -> None:
        now = time.perf_counter()
        for raw in messages:
            at = raw.find(MARK) + 1
            if at:
                number = int(raw[at : at + DIGITS])
                self._arrived.append(now - self._due[number])
                self.received += 1
                self.total += number


class Numbered:
    """Frames that send numbered messages of one size to one group."""

    def __init__(self, group: str, payload_bytes: int) -> None:
        head = {"type": "sendToGroup", "group": group, "dataType": "text", "data": ""}
        self._head = json.dumps(head, separators=(",", ":")).encode()[:-2] + MARK
        self._filling = b"x" * (payload_bytes - len(MARK) - DIGITS) + b'"}'

    def frame(self, number: int) -> bytes:
        """The frame with this number."""
        return client_frame(TEXT, b"%s%0*d%s" % (self._head, DIGITS, number, self._filling))


async def drained(arrived: Sequence[float], expected: int) -> None:
    """Wait until so much has arrived, or nothing has for a while."""
    deadline = time.monotonic() + DRAIN_SECS
    before, since = len(arrived), time.monotonic()
    while len(arrived) < expected and time.monotonic() < deadline and time.monotonic() - since < NOTHING_SECS:
        await asyncio.sleep(0.02)
        if len(arrived) > before:
            before, since = len(arrived), time.monotonic()


# What it does to the server


@dataclass(frozen=True)
class Memory:
    """Memory of a process tree, in bytes. `shared_out` is what smaps calls PSS: pages shared are divided."""

    resident: int
    shared_out: int
    own: int

    def __sub__(self, before: Memory) -> Memory:
        return Memory(self.resident - before.resident, self.shared_out - before.shared_out, self.own - before.own)


def memory(processes: Iterable[psutil.Process]) -> Memory:
    """The memory of processes now. Where the system has no PSS, the resident size stands for it."""
    resident = shared_out = own = 0
    for process in processes:
        info = process.memory_full_info()
        resident += info.rss
        shared_out += getattr(info, "pss", info.rss)
        own += info.uss
    return Memory(resident, shared_out, own)


@dataclass(frozen=True)
class Usage:
    """Processor time in a stretch of time, in seconds: the server's, ours, and everybody else's on this machine."""

    wall_secs: float
    server_secs: float
    generator_secs: float
    others_secs: float

    @property
    def server_share(self) -> float:
        """Of one core."""
        return self.server_secs / self.wall_secs

    @property
    def generator_share(self) -> float:
        """Of one core."""
        return self.generator_secs / self.wall_secs

    @property
    def others_share(self) -> float:
        """Of one core; a machine with two has two to give."""
        return self.others_secs / self.wall_secs


class Meter:
    """Measures usage from when it is made."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._began, self._cpu, self._own, self._busy = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        return time.perf_counter(), self._server.cpu_secs(), time.process_time(), busy_secs()

    def read(self) -> Usage:
        """Usage so far."""
        now, cpu, own, busy = self._now()
        wall, cpu, own = now - self._began, cpu - self._cpu, own - self._own
        return Usage(wall, cpu, own, max(0.0, busy - self._busy - cpu - own))


def disturbed(usages: Iterable[Usage]) -> str | None:
    """A warning, if other programs had enough of the machine to matter."""
    usages = list(usages)
    wall = sum(usage.wall_secs for usage in usages)
    share = sum(usage.others_secs for usage in usages) / wall if wall else 0.0
    return f"Other programs used {share:.0%} of a core meanwhile; times suffer most." if share > OTHERS_BUSY else None


async def at_rest(server: Server, at_most_secs: float = 20.0) -> None:
    """Wait until the server does next to nothing."""
    deadline = time.monotonic() + at_most_secs
    before = server.cpu_secs()
    still = 0
    while still < 2 and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_SECS)
        now = server.cpu_secs()
        still = still + 1 if now - before <= REST_SHARE * LOOK_SECS else 0
        before = now


# The machine, and the command line


def allow_files(connections: int) -> int:
    """Raise our limit of open files, which servers we start inherit; gives how many connections it holds."""
    wanted = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(wanted, soft)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == resource.RLIM_INFINITY else min(connections, soft - OTHER_FILES)


def keep_to_own_core() -> tuple[int, int] | None:
    """Keep this process to the generator's core; gives the two cores, or None where there is one."""
    both = cores()
    if both is not None:
        os.sched_setaffinity(0, {both[0]})
    return both


def interruptible() -> None:
    """Make Ctrl-C and SIGTERM end us past every `finally` that stops a server."""

    def terminated(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    # A shell starts its background jobs with Ctrl-C ignored; servers must not outlive us there either.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, terminated)


def whole(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number between the two."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: write a whole number from {low} to {high}")
        return int(text)

    return read


def seconds(low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a number of seconds between the two."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: write a number of seconds from {low:g} to {high:g}")
        return value

    return read


def one_of(names: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """An argparse type: some of these names, with commas between."""
    known = tuple(names)

    def read(text: str) -> tuple[str, ...]:
        wanted = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        for name in wanted:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; choose from {', '.join(known)}")
        return wanted

    return read


def read_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None, **quick: Any) -> argparse.Namespace:
    """Read the command line; with `--quick`, these are the defaults of what it does not say."""
    options = parser.parse_args(argv)
    if options.quick:
        parser.set_defaults(**quick)
        options = parser.parse_args(argv)
    return options


def write_raw(name: str, options: dict[str, Any], runs: Any, pinned: bool, directory: Path | None = None) -> str:
    """Write a bench's raw figures as JSON beside those of the others; gives the file's path."""
    directory = directory or RESULTS
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    everything = {
        "options": {key: value for key, value in options.items() if key != "results"},
        "pinned": pinned,
        "runs": runs,
        "machine": {"system": platform.system(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {package: version(package) for package in PACKAGES},
    }
    path.write_text(json.dumps(everything, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def say(text: str) -> None:
    """Tell how far the bench is; tables go to standard output, this to standard error."""
    print(text, file=sys.stderr, flush=True)
