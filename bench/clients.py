"""The clients of a measurement: one WebSocket connection each, thousands in one process, nearly free of cost.

`connect` opens many, a bounded number of handshakes at a time. Two limits of the machine stand in the way: the files
one process may have open (`bench.machine`), and the ports of one source address. Loopback has sixteen million
addresses, so each block of clients connects from another one.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from bench.dialects import Dialect
from bench.wire import CLOSE, PING, PONG, TEXT, FrameCounter, Handshake, Unexpected, client_frame

# 64 bytes, and a frame in which they are seen at once.
PAYLOAD = "sixty-four bytes of text, neither more nor less, in each message"
assert len(PAYLOAD) == 64
PAYLOADS = {64: PAYLOAD, 2048: PAYLOAD * 32}

PATIENCE_SECS = 30.0
HANDSHAKES_AT_ONCE = 32

# Clients per source address. A port stays taken for a minute after its connection was closed, and of the
# 28,000 that Linux gives out, two generations of clients have to fit.
PER_ADDRESS = 8_000
ADDRESSES = 200

Result = TypeVar("Result")


async def patiently(coming: Awaitable[Result], what: str) -> Result:
    """Wait for something, but not for ever. Raises Unexpected."""
    try:
        return await asyncio.wait_for(coming, PATIENCE_SECS)
    except TimeoutError:
        raise Unexpected(f"{what} did not come within {PATIENCE_SECS:g} s") from None


def text_frame(message: dict[str, Any]) -> bytes:
    """A message as a client's text frame."""
    return client_frame(TEXT, json.dumps(message, separators=(",", ":")).encode())


class Client(asyncio.Protocol):
    """One connection, from its handshake to its end."""

    def __init__(self, handshake: Handshake, connection: socket.socket) -> None:
        self.socket = connection
        self.descriptor = connection.fileno()
        self._handshake: Handshake | None = handshake
        self._request = handshake.request
        self._frames = FrameCounter()
        self._transport: asyncio.Transport | None = None
        self._waiting: tuple[Callable[[bytes], bool], asyncio.Future[bytes]] | None = None
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.pings = 0
        # How it ended: the close frame's code and reason, None without one.
        self.close_code: int | None = None
        self.close_reason = ""
        # Why it is of no use any more.
        self.problem: str | None = None
        # Told of every batch of messages, unless an answer is waited for.
        self.heard: Callable[[Client, list[bytes]], None] | None = None
        # Told of every batch's number instead, where messages are counted and not read.
        self._counted: Callable[[Client, int], None] | None = None
        self.received = 0
        # Until it has been greeted, what comes is kept for whoever waits for a greeting in a moment.
        self._greeted = False
        # Whether somebody else has read from the socket.
        self._lent = False
        # The last ackId.
        self._asked = 0

    @property
    def alive(self) -> bool:
        """Whether nothing has ended it so far."""
        return self.opened.done() and not self.closed.done() and self.close_code is None and self.problem is None

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, only of their kind.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._lent:
            return
        try:
            if self._handshake is not None:
                rest = self._handshake.feed(data)
                if rest is None:
                    return
                self._handshake = None
                self.opened.set_result(None)
                data = rest
            count = self._frames.feed(data)
        except Unexpected as problem:
            self.fail(problem)
            self.cut()
            return
        if self._frames.control:
            self._answer_control()
        if count and self._counted is not None:
            self.received += count
            self._counted(self, count)
        elif self._frames.messages:
            self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(exc or Unexpected("the server closed the socket"))
        if not self.closed.done():
            self.closed.set_result(None)

    def _read(self) -> None:
        if self._waiting is None and not self._greeted:
            return
        messages, self._frames.messages = self._frames.messages, []
        if self._waiting is None:
            if self.heard is not None:
                self.heard(self, messages)
            return
        for raw in messages:
            if self._waiting is not None and self._waiting[0](raw):
                if not self._waiting[1].done():
                    self._waiting[1].set_result(raw)
                self._waiting = None

    def _answer_control(self) -> None:
        control, self._frames.control = self._frames.control, []
        for opcode, payload in control:
            if opcode == PING:
                self.pings += 1
                self.send(client_frame(PONG, payload))
            elif opcode == CLOSE and self.close_code is None:
                self.close_code = int.from_bytes(payload[:2], "big")
                self.close_reason = payload[2:].decode("utf-8", "replace")
                self.fail(Unexpected(f"the server closed with {self.close_code} {self.close_reason}"))
                self.send(client_frame(CLOSE, payload[:2]))

    # What is said and heard

    def send(self, frame: bytes) -> None:
        """Write a finished frame."""
        assert self._transport is not None
        self._transport.write(frame)

    def expect(self, wanted: Callable[[bytes], bool]) -> asyncio.Future[bytes]:
        """A future that is done when a message comes that `wanted` says yes to. One at a time; others are dropped."""
        coming: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting = (wanted, coming)
        if not self.alive:
            coming.set_exception(Unexpected(self.problem or "the connection has ended"))
        return coming

    async def hear(self, wanted: Callable[[bytes], bool]) -> None:
        """Wait for what the server says first, which may have come with the handshake."""
        coming = self.expect(wanted)
        self._read()
        await patiently(coming, "a greeting")

    def greeted(self) -> None:
        """Nothing is waited for any more that goes before the conversation."""
        self._greeted = True
        self._frames.messages.clear()

    async def converse(self, frame: bytes, wanted: Callable[[bytes], bool], what: str = "an answer") -> bytes:
        """Send a finished frame and wait for the message that answers it."""
        coming = self.expect(wanted)
        self.send(frame)
        return await patiently(coming, what)

    async def ask(self, message: dict[str, Any]) -> None:
        """Send a message with an ackId and wait for its ack; what comes in between is dropped. Raises Unexpected."""
        self._asked += 1
        number = self._asked

        def acks(raw: bytes) -> bool:
            # Only acks are parsed, since a busy group may be talking meanwhile.
            return b'"ackId"' in raw and json.loads(raw).get("ackId") == number

        what = f"the answer to {message['type']}"
        answer = await self.converse(text_frame({**message, "ackId": number}), acks, what)
        if json.loads(answer).get("success") is not True:
            raise Unexpected(f"{message['type']} was answered {answer.decode()}")

    def count_for(self, counted: Callable[[Client, int], None]) -> None:
        """From now on count messages instead of reading them, starting from none."""
        self._frames.keep = False
        self._frames.messages.clear()
        self.received = 0
        self._counted = counted

    def stop_reading(self) -> None:
        """From now on take nothing from the socket, as a client does that hangs."""
        assert self._transport is not None
        self._transport.pause_reading()

    def read_on(self) -> None:
        """Take what lies in the socket, and what comes."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # Lent to another loop

    def lend(self) -> tuple[int, bytes]:
        """Let another loop read and write the socket; gives its descriptor and what was read of a frame so far."""
        self.stop_reading()
        return self.descriptor, self._frames.rest()

    def take_back(self) -> None:
        """Read by ourselves again, from the middle of anything: only the end is still listened for."""
        self._lent = True
        self.read_on()

    # The end

    def fail(self, problem: Exception) -> None:
        """The connection is of no use any more."""
        self.problem = self.problem or str(problem) or type(problem).__name__
        if not self.opened.done():
            self.opened.set_exception(problem)
        if self._waiting is not None and not self._waiting[1].done():
            self._waiting[1].set_exception(problem)

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


@dataclass(frozen=True)
class Door:
    """Where connections are opened, and what is said there first."""

    port: int
    subprotocol: str | None = None
    dialect: Dialect = field(default_factory=Dialect)


_made = 0


def _next_source() -> str:
    global _made
    source = f"127.0.{_made // PER_ADDRESS % ADDRESSES}.1"
    _made += 1
    return source


async def _open(door: Door, target: str) -> Client:
    loop = asyncio.get_running_loop()
    handshake = Handshake(target, f"localhost:{door.port}", door.subprotocol)
    connection = socket.socket()
    client: Client | None = None
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.bind((_next_source(), 0))
        await loop.sock_connect(connection, ("127.0.0.1", door.port))
        _, client = await loop.create_connection(lambda: Client(handshake, connection), sock=connection)
        await patiently(client.opened, "the answer to a handshake")
        await door.dialect.enter(client)
        client.greeted()
    except BaseException:
        if client is None:
            connection.close()
        else:
            client.cut()
        raise
    return client


async def connect(door: Door, targets: Iterable[str], at_once: int = HANDSHAKES_AT_ONCE) -> list[Client]:
    """Open a connection for each request target, in order, so many handshakes at a time. Raises Unexpected."""
    room = asyncio.Semaphore(at_once)
    opened: list[Client] = []

    async def one(target: str) -> Client:
        async with room:
            opened.append(await _open(door, target))
            return opened[-1]

    attempts = [asyncio.ensure_future(one(target)) for target in targets]
    try:
        return list(await asyncio.gather(*attempts))
    except BaseException:
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
        for client in opened:
            client.cut()
        raise


async def disconnect(clients: Iterable[Client]) -> None:
    """Close connections and wait for their end."""
    await asyncio.gather(*(client.close() for client in clients))


async def join(members: Sequence[Client], groups: Sequence[str], dialect: Dialect) -> None:
    """Have each client join its group, and wait until all are members."""
    room = asyncio.Semaphore(HANDSHAKES_AT_ONCE)

    async def one(client: Client, group: str) -> None:
        async with room:
            await dialect.join(client, group)

    await asyncio.gather(*(one(client, group) for client, group in zip(members, groups, strict=True)))
