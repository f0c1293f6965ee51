"""The clients of a measurement: many sockets in one process, nearly free of cost.

A `Client` is one WebSocket connection. A `Crowd` is the clients of one fan-out shape: members in
groups, and one publisher per group that is a member of none. Everything is bounded: how many
handshakes run at once, how long an answer may take, how many deliveries are under way.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from bench.servers import Server
from bench.wire import CLOSE, PING, PONG, TEXT, FrameCounter, Handshake, Unexpected, client_frame

# 64 bytes, and a frame in which they are seen at once.
PAYLOAD = "sixty-four bytes of text, neither more nor less, in each message"
assert len(PAYLOAD) == 64

PATIENCE_SECS = 30.0
HANDSHAKES_AT_ONCE = 32

# A number of deliveries under way that is never reached from above: nothing more is sent.
_NO_REFILL = -sys.maxsize


Result = TypeVar("Result")


async def _patiently(coming: Awaitable[Result], what: str) -> Result:
    """Wait for something, but not for ever. Raises Unexpected."""
    try:
        return await asyncio.wait_for(coming, PATIENCE_SECS)
    except TimeoutError:
        raise Unexpected(f"{what} did not come within {PATIENCE_SECS:g} s") from None


class Client(asyncio.Protocol):
    """One WebSocket connection that counts what it is sent."""

    def __init__(self, handshake: Handshake) -> None:
        self._handshake: Handshake | None = handshake
        self._request = handshake.request
        self._counter = FrameCounter()
        self._waiting: tuple[Callable[[dict[str, Any]], bool], asyncio.Future[None]] | None = None
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.received = 0
        # Why the connection is of no use any more.
        self.problem: str | None = None
        # Told of every batch of messages, once counting has started.
        self.arrived: Callable[[Client, int], None] | None = None

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, only of their kind.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            if self._handshake is not None:
                rest = self._handshake.feed(data)
                if rest is None:
                    return
                self._handshake = None
                self.opened.set_result(None)
                data = rest
            count = self._counter.feed(data)
        except Unexpected as problem:
            self._fail(problem)
            return
        if self._counter.control:
            self._answer_control()
        if count and self.arrived is not None:
            self.received += count
            self.arrived(self, count)
        elif self._counter.messages:
            self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or Unexpected("the server closed the socket"))
        if not self.closed.done():
            self.closed.set_result(None)

    # The bench's side

    def send(self, frame: bytes) -> None:
        """Write a finished frame."""
        assert self._transport is not None
        self._transport.write(frame)

    async def ask(self, message: dict[str, Any], answer: Callable[[dict[str, Any]], bool]) -> None:
        """Send a message and wait for the message that answers it."""
        reply = self.expect(answer)
        self.send(text_frame(message))
        await _patiently(reply, f"the answer to {message['type']}")

    def expect(self, wanted: Callable[[dict[str, Any]], bool]) -> asyncio.Future[None]:
        """A future that is done when a message comes that `wanted` says yes to. One at a time."""
        self._waiting = (wanted, asyncio.get_running_loop().create_future())
        return self._waiting[1]

    def count_for(self, arrived: Callable[[Client, int], None]) -> None:
        """From now on count messages instead of reading them, starting from none."""
        self._counter.keep = False
        self._counter.messages.clear()
        self.received = 0
        self.arrived = arrived

    async def close(self) -> None:
        """Say goodbye; who does not answer in time is cut off."""
        if self._transport is None or self.closed.done():
            return
        self.send(client_frame(CLOSE, (1000).to_bytes(2, "big")))
        await asyncio.wait({self.closed}, timeout=PATIENCE_SECS / 3)
        self._transport.abort()

    def _answer_control(self) -> None:
        for opcode, payload in self._counter.control:
            if opcode == PING:
                self.send(client_frame(PONG, payload))
            elif opcode == CLOSE:
                reason = payload[2:].decode("utf-8", "replace")
                self._fail(Unexpected(f"the server closed with {int.from_bytes(payload[:2], 'big')} {reason}"))
        self._counter.control.clear()

    def _look(self) -> None:
        for raw in self._counter.messages:
            if self._waiting is not None and self._waiting[0](json.loads(raw)):
                if not self._waiting[1].done():
                    self._waiting[1].set_result(None)
                self._waiting = None
        self._counter.messages.clear()

    def _fail(self, problem: Exception) -> None:
        self.problem = self.problem or str(problem) or type(problem).__name__
        if not self.opened.done():
            self.opened.set_exception(problem)
        if self._waiting is not None and not self._waiting[1].done():
            self._waiting[1].set_exception(problem)


def text_frame(message: dict[str, Any]) -> bytes:
    """A message as a client's text frame."""
    return client_frame(TEXT, json.dumps(message, separators=(",", ":")).encode())


async def connect(server: Server, targets: Iterable[str]) -> list[Client]:
    """Open a connection for each request target, a bounded number at a time."""
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(HANDSHAKES_AT_ONCE)

    async def one(target: str) -> Client:
        async with room:
            handshake = Handshake(target, f"localhost:{server.port}", server.contestant.subprotocol)
            _, client = await loop.create_connection(lambda: Client(handshake), "127.0.0.1", server.port)
            await _patiently(client.opened, "the answer to a handshake")
            return client

    return list(await asyncio.gather(*(one(target) for target in targets)))


async def disconnect(clients: Sequence[Client]) -> None:
    """Close connections and wait for their end."""
    await asyncio.gather(*(client.close() for client in clients))


@dataclass(frozen=True)
class Shape:
    """How many groups of how many members."""

    groups: int
    members: int

    def __str__(self) -> str:
        return f"{self.groups}×{self.members}"


@dataclass
class Traffic:
    """What one stretch of sending came to."""

    expected: int
    delivered: int
    # Messages that a member received beyond those sent to its group.
    surplus: int
    wall_secs: float
    # Why the first of the lost connections was lost, if any was.
    problem: str | None
    # Of paced sending only: how long each delivery took, in seconds.
    latencies: list[float]


class Crowd:
    """The clients of one shape on one server."""

    def __init__(self, server: Server, shape: Shape) -> None:
        self._server = server
        self._shape = shape
        self._members: list[list[Client]] = []
        self._publishers: list[Client] = []
        self._frames: list[bytes] = []
        self._next = 0
        self._sent = [0] * shape.groups
        self._under_way = 0
        self._refill_at = _NO_REFILL
        self._most_under_way = 0
        self._last_arrival = 0.0
        self._done: asyncio.Future[None] | None = None
        self._sent_at: list[float] = []
        self._latencies: list[float] = []

    async def __aenter__(self) -> Crowd:
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _open(self) -> None:
        shape = self._shape
        clients = await connect(self._server, self._server.targets(shape.groups * shape.members))
        self._members = [clients[index * shape.members : (index + 1) * shape.members] for index in range(shape.groups)]
        self._publishers = await connect(self._server, self._server.targets(shape.groups))
        room = asyncio.Semaphore(HANDSHAKES_AT_ONCE)

        async def join(client: Client, group: str) -> None:
            async with room:
                await client.ask(
                    {"type": "joinGroup", "group": group, "ackId": 1},
                    lambda message: message.get("ackId") == 1 and message.get("success") is True,
                )

        names = [f"group-{index}" for index in range(shape.groups)]
        await asyncio.gather(
            *(join(client, name) for name, members in zip(names, self._members, strict=True) for client in members)
        )
        self._frames = [
            text_frame({"type": "sendToGroup", "group": name, "dataType": "text", "data": PAYLOAD}) for name in names
        ]
        await self._rehearse(names)
        for client in clients:
            client.count_for(self._counted)

    async def _rehearse(self, names: Sequence[str]) -> None:
        """Send one message to each group and read every delivery, so that what is counted later is known."""
        for name, members, publisher, frame in zip(names, self._members, self._publishers, self._frames, strict=True):

            def right(message: dict[str, Any], group: str = name) -> bool:
                return message.get("group") == group and message.get("data") == PAYLOAD

            arriving = [client.expect(right) for client in members]
            publisher.send(frame)
            await _patiently(asyncio.gather(*arriving), f"the first message to {name}")

    async def _close(self) -> None:
        await disconnect([*self._publishers, *(client for members in self._members for client in members)])

    # Sending as fast as deliveries arrive

    async def flood(self, seconds: float, most_under_way: int) -> Traffic:
        """Send for so long that the server is never idle, then wait until everything has arrived.

        At most `most_under_way` deliveries are outstanding (but two messages at least, so that one can
        be on its way while the other is being fanned out): the server always has work, and no buffer grows.
        """
        self._begin(self._counted)
        self._most_under_way = max(most_under_way, 2 * self._shape.members)
        self._refill_at = self._most_under_way - self._shape.members
        started = time.perf_counter()
        self._refill()
        await asyncio.sleep(seconds)
        self._refill_at = _NO_REFILL
        await self._drained()
        return self._result(self._last_arrival - started)

    def _refill(self) -> None:
        while self._under_way <= self._refill_at:
            index = self._next
            self._next = (index + 1) % self._shape.groups
            self._publishers[index].send(self._frames[index])
            self._sent[index] += 1
            self._under_way += self._shape.members

    def _counted(self, client: Client, count: int) -> None:
        self._under_way -= count
        if self._under_way <= self._refill_at:
            self._refill()
        elif self._under_way <= 0:
            self._all_arrived()

    # Sending at a pace

    async def pace(self, seconds: float, rate: float) -> Traffic:
        """Send `rate` messages a second to the first group and time each delivery."""
        self._begin(self._timed)
        publisher, frame, members = self._publishers[0], self._frames[0], self._shape.members
        started = time.perf_counter()
        for number in range(max(1, round(seconds * rate))):
            await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
            self._sent[0] += 1
            self._under_way += members
            self._sent_at.append(time.perf_counter())
            publisher.send(frame)
        await self._drained()
        return self._result(self._last_arrival - started)

    def _timed(self, client: Client, count: int) -> None:
        now = time.perf_counter()
        # A publisher's messages arrive in the order in which they were sent, so a member's nth is the nth sent.
        for number in range(client.received - count, client.received):
            self._latencies.append(now - self._sent_at[number])
        self._under_way -= count
        if self._under_way <= 0:
            self._all_arrived()

    # Accounts

    def _begin(self, arrived: Callable[[Client, int], None]) -> None:
        self._sent = [0] * self._shape.groups
        self._under_way = 0
        self._sent_at, self._latencies = [], []
        self._done = None
        for members in self._members:
            for client in members:
                client.count_for(arrived)

    def _all_arrived(self) -> None:
        self._last_arrival = time.perf_counter()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    async def _drained(self) -> None:
        """Wait until everything sent has arrived, or nothing has for a while."""
        self._done = asyncio.get_running_loop().create_future()
        if self._under_way <= 0:
            return
        while True:
            before = self._under_way
            done, _ = await asyncio.wait({self._done}, timeout=PATIENCE_SECS / 3)
            if done:
                return
            if self._under_way == before:
                self._last_arrival = time.perf_counter()
                return

    def _result(self, wall_secs: float) -> Traffic:
        delivered = surplus = 0
        problem = None
        for sent, members in zip(self._sent, self._members, strict=True):
            for client in members:
                # One by one, so that a double here does not make up for a loss there.
                delivered += min(client.received, sent)
                surplus += max(client.received - sent, 0)
                problem = problem or client.problem
        expected = sum(self._sent) * self._shape.members
        return Traffic(expected, delivered, surplus, wall_secs, problem, self._latencies)
