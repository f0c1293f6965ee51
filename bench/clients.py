"""The clients of a measurement: many sockets in one process, nearly free of cost.

A `Client` is one WebSocket connection. A `Crowd` is the clients of one fan-out shape: members in
groups, and one publisher per group that is a member of none. Everything is bounded: how many
handshakes run at once, how long an answer may take, how many deliveries are under way.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from bench.dialects import READ_BYTES, Expectation
from bench.servers import Server
from bench.wire import CLOSE, PING, PONG, TEXT, FrameCounter, Handshake, Unexpected, client_frame

# 64 bytes, and a frame in which they are seen at once.
PAYLOAD = "sixty-four bytes of text, neither more nor less, in each message"
assert len(PAYLOAD) == 64
PAYLOADS = {64: PAYLOAD, 2048: PAYLOAD * 32}

PATIENCE_SECS = 30.0
HANDSHAKES_AT_ONCE = 32

# How long the loop waits for its sockets before it looks at the clock, and how often asyncio has a turn.
LOOK_SECS = 0.1
TURN_SECS = 0.05
# How soon a write is tried again that the socket did not take.
FLUSH_SECS = 0.002
# How long it is waited for what should not come any more.
SURPLUS_SECS = 0.02
# A server this far behind a pace does not keep up with it.
BEHIND_SECS = 0.5


Result = TypeVar("Result")


async def _patiently(coming: Awaitable[Result], what: str) -> Result:
    """Wait for something, but not for ever. Raises Unexpected."""
    try:
        return await asyncio.wait_for(coming, PATIENCE_SECS)
    except TimeoutError:
        raise Unexpected(f"{what} did not come within {PATIENCE_SECS:g} s") from None


class Client(asyncio.Protocol):
    """One WebSocket connection that counts what it is sent."""

    def __init__(self, handshake: Handshake, connection: socket.socket) -> None:
        self.socket = connection
        self.descriptor = connection.fileno()
        self._handshake: Handshake | None = handshake
        self._request = handshake.request
        self._counter = FrameCounter()
        self._waiting: tuple[Callable[[bytes], bool], asyncio.Future[bytes]] | None = None
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.received = 0
        # Whether somebody else has read from the socket.
        self._lent = False
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

    def expect(self, wanted: Callable[[dict[str, Any]], bool]) -> asyncio.Future[bytes]:
        """A future that is done when a JSON message comes that `wanted` says yes to. One at a time."""
        return self.expect_raw(lambda raw: wanted(json.loads(raw)))

    def expect_raw(self, wanted: Callable[[bytes], bool]) -> asyncio.Future[bytes]:
        """The same for any message; its bytes are the result."""
        self._counter.messages.clear()
        self._waiting = (wanted, asyncio.get_running_loop().create_future())
        return self._waiting[1]

    async def hear(self, wanted: Callable[[bytes], bool]) -> None:
        """Wait for what the server says first, which may have come with the handshake."""
        came = self._counter.messages[:]
        coming = self.expect_raw(wanted)
        self._counter.messages += came
        self._look()
        await _patiently(coming, "a greeting")

    async def converse(self, frame: bytes, wanted: Callable[[bytes], bool]) -> None:
        """Send a finished frame and wait for the message that answers it."""
        reply = self.expect_raw(wanted)
        self.send(frame)
        await _patiently(reply, "an answer")

    def lend(self) -> int:
        """Let another loop read and write the socket; gives its descriptor."""
        assert self._transport is not None
        self._transport.pause_reading()
        return self.descriptor

    def begun(self) -> bytes:
        """What was read of a frame that is not complete."""
        return self._counter.rest()

    def take_back(self) -> None:
        """Read by ourselves again, from the middle of anything: only the end is still listened for."""
        if self._transport is not None and not self._transport.is_closing():
            self._lent = True
            self._transport.resume_reading()

    def fail(self, problem: Exception) -> None:
        """The connection is of no use any more."""
        self._fail(problem)

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
        if self._waiting is None:
            # A greeting may be waited for in a moment.
            return
        for raw in self._counter.messages:
            if self._waiting is not None and self._waiting[0](raw):
                if not self._waiting[1].done():
                    self._waiting[1].set_result(raw)
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
            connection = socket.socket()
            connection.setblocking(False)
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await loop.sock_connect(connection, ("127.0.0.1", server.port))
                _, client = await loop.create_connection(lambda: Client(handshake, connection), sock=connection)
            except BaseException:
                connection.close()
                raise
            await _patiently(client.opened, "the answer to a handshake")
            await server.contestant.dialect.enter(client)
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
    # Whether the server kept up with the pace.
    held: bool = True


class Crowd:
    """The clients of one shape on one server.

    While messages fly, the sockets are not asyncio's: a loop of their own waits for them, reads and
    compares (`bench.dialects`), which is all that is left to do per read. asyncio gets a turn now and
    then, so that whoever watches meanwhile is not kept waiting.
    """

    def __init__(self, server: Server, shape: Shape, payload: str = PAYLOAD) -> None:
        self._server = server
        self._shape = shape
        self._payload = payload
        self._dialect = server.contestant.dialect
        self._members: list[list[Client]] = []
        self._publishers: list[Client] = []
        self._frames: list[bytes] = []
        self._expected: list[Expectation] = []
        self._lines: dict[int, _Line] = {}
        # Publishers whose server is slower to read than they are to write.
        self._unsent: set[_Line] = set()
        self._poll = _Poll()
        self._next = 0
        self._sent = [0] * shape.groups
        self._under_way = 0
        self._last_arrival = 0.0
        self._sent_at: list[float] = []
        self._latencies: list[float] = []
        self._turn_due = 0.0

    async def __aenter__(self) -> Crowd:
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    @property
    def frame_bytes(self) -> int:
        """What one delivery is on the wire, without TCP."""
        return self._expected[0].frame_bytes

    async def _open(self) -> None:
        shape, dialect = self._shape, self._dialect
        names = [f"group-{index}" for index in range(shape.groups)]
        seats = [name for name in names for _ in range(shape.members)]
        targets = self._server.targets(len(seats))
        clients = await self._connect(
            [dialect.address(target, name, False) for target, name in zip(targets, seats, strict=True)], publish=False
        )
        self._members = [clients[index * shape.members : (index + 1) * shape.members] for index in range(shape.groups)]
        targets = self._server.targets(shape.groups)
        self._publishers = await self._connect(
            [dialect.address(target, name, True) for target, name in zip(targets, names, strict=True)], publish=True
        )
        room = asyncio.Semaphore(HANDSHAKES_AT_ONCE)

        async def join(client: Client, group: str) -> None:
            async with room:
                await dialect.join(client, group)

        await asyncio.gather(*(join(client, name) for client, name in zip(clients, seats, strict=True)))
        self._frames = [dialect.publication(name, self._payload) for name in names]
        await self._rehearse(names)
        self._take_over()

    async def _connect(self, targets: list[str], publish: bool) -> list[Client]:
        """Open the connections of all members, in their order, or of the publishers."""
        return await connect(self._server, targets)

    async def _rehearse(self, names: Sequence[str]) -> None:
        """Send one message to each group and read every delivery; from it is known what has to come later."""
        for name, members, publisher, frame in zip(names, self._members, self._publishers, self._frames, strict=True):

            def right(raw: bytes, group: str = name) -> bool:
                return self._dialect.is_delivery(raw, group, self._payload)

            arriving = [client.expect_raw(right) for client in members]
            publisher.send(frame)
            came = await _patiently(asyncio.gather(*arriving), f"the first message to {name}")
            if len(set(came)) > 1:
                raise Unexpected(f"the members of {name} were sent different messages")
            self._expected.append(self._dialect.expectation(came[0]))

    def _take_over(self) -> None:
        """From now on, the sockets are ours."""
        for expected, members in zip(self._expected, self._members, strict=True):
            for client in members:
                line = _Line(client)
                line.take = expected.reading(line.answer).take
                self._add(line)
        for client in self._publishers:
            line = _Line(client)
            line.take = line.ignore
            self._add(line)

    def _add(self, line: _Line) -> None:
        descriptor = line.client.lend()
        self._lines[descriptor] = line
        self._poll.register(descriptor)
        begun = line.client.begun()
        if begun:
            line.take(begun)

    async def _close(self) -> None:
        for descriptor, line in self._lines.items():
            self._poll.unregister(descriptor)
            line.client.take_back()
        self._lines.clear()
        self._poll.close()
        await disconnect([*self._publishers, *(client for members in self._members for client in members)])

    # Sending as fast as deliveries arrive

    async def flood(self, seconds: float, most_under_way: int) -> Traffic:
        """Send for so long that the server is never idle, then wait until everything has arrived.

        At most `most_under_way` deliveries are outstanding (but two messages at least, so that one can
        be on its way while the other is being fanned out): the server always has work, and no buffer grows.
        """
        self._begin()
        members = self._shape.members
        most = max(most_under_way, 2 * members)
        started = time.perf_counter()
        until = started + seconds
        while True:
            room = (most - self._under_way) // members
            if room:
                self._publish(room)
            self._sweep(LOOK_SECS)
            now = time.perf_counter()
            if now >= until:
                break
            if now >= self._turn_due:
                await self._give_way(now)
        await self._drained()
        return self._result(self._last_arrival - started)

    def _publish(self, messages: int) -> None:
        """Send so many messages, to one group after the other; those to the same group are joined."""
        each, more = divmod(messages, self._shape.groups)
        for offset in range(self._shape.groups if each else more):
            index = (self._next + offset) % self._shape.groups
            count = each + 1 if offset < more else each
            # Before it is sent, so that it is known when it comes.
            self._expected[index].published(count)
            self._sent[index] += count
            self._send(self._line(self._publishers[index]), self._frames[index] * count)
        self._next = (self._next + more) % self._shape.groups
        self._under_way += messages * self._shape.members

    # Sending at a pace

    async def pace(self, seconds: float, rate: float) -> Traffic:
        """Send `rate` messages a second to the first group and time each delivery.

        A server that falls `BEHIND_SECS` behind is sent no more; what it has is waited for.
        """
        self._begin()
        self._sent_at = []
        members = self._shape.members
        most = max(2.0, rate * BEHIND_SECS) * members
        held = True
        started = time.perf_counter()
        for number in range(max(1, round(seconds * rate))):
            due = started + number / rate
            while (early := due - time.perf_counter()) > 0:
                self._sweep(early)
                if time.perf_counter() >= self._turn_due:
                    await self._give_way(time.perf_counter())
            if self._under_way > most:
                held = False
                break
            self._expected[0].published(1)
            self._sent[0] += 1
            self._under_way += members
            self._sent_at.append(time.perf_counter())
            self._send(self._line(self._publishers[0]), self._frames[0])
        last = time.perf_counter()
        await self._drained()
        return self._result(self._last_arrival - started, held and self._last_arrival - last <= BEHIND_SECS)

    # The loop

    def _line(self, client: Client) -> _Line:
        return self._lines[client.descriptor]

    def _sweep(self, secs: float) -> None:
        """Wait so long at most until something can be read, and read it."""
        lines = self._lines
        came = 0
        timed = self._sent_at
        if self._unsent:
            secs = min(secs, self._flush())
        for descriptor, _ in self._poll.wait(secs):
            line = lines[descriptor]
            try:
                data = line.recv(READ_BYTES)
                count = line.take(data) if data else self._gone(line, Unexpected("the server closed the socket"))
            except BlockingIOError:
                continue
            except (Unexpected, OSError) as problem:
                count = self._gone(line, problem)
            if not count:
                continue
            if timed:
                now = time.perf_counter()
                # A publisher's messages arrive in the order in which they were sent, so a member's nth is the nth sent.
                self._latencies += [now - sent for sent in timed[line.received : line.received + count]]
            line.received += count
            came += count
        if came:
            self._under_way -= came
            self._last_arrival = time.perf_counter()

    def _send(self, line: _Line, data: bytes) -> None:
        line.send(data)
        if line.waits:
            self._unsent.add(line)

    def _flush(self) -> float:
        """Try again what a socket did not take; gives how long to wait at most before the next time."""
        for line in tuple(self._unsent):
            line.flush()
            if not line.waits:
                self._unsent.discard(line)
        return FLUSH_SECS if self._unsent else LOOK_SECS

    def _gone(self, line: _Line, problem: Exception) -> int:
        line.client.fail(problem)
        self._poll.unregister(line.client.descriptor)
        return 0

    async def _give_way(self, now: float) -> None:
        self._turn_due = now + TURN_SECS
        await asyncio.sleep(0)

    # Accounts

    def _begin(self) -> None:
        self._sent = [0] * self._shape.groups
        self._under_way = 0
        self._sent_at, self._latencies = [], []
        for line in self._lines.values():
            line.received = 0

    async def _drained(self) -> None:
        """Wait until everything sent has arrived, or nothing has for a while; then whether more comes."""
        self._last_arrival = time.perf_counter()
        while self._is_owed() and time.perf_counter() - self._last_arrival < PATIENCE_SECS / 3:
            self._sweep(LOOK_SECS)
            await asyncio.sleep(0)
        arrived = self._last_arrival
        self._sweep(SURPLUS_SECS)
        self._last_arrival = arrived

    def _is_owed(self) -> bool:
        """Whether anybody lacks a message. The number under way may be nought because another got one twice."""
        return self._under_way > 0 or any(
            self._line(client).received < sent
            for sent, members in zip(self._sent, self._members, strict=True)
            for client in members
        )

    def _result(self, wall_secs: float, held: bool = True) -> Traffic:
        delivered = surplus = 0
        problem = None
        for sent, members in zip(self._sent, self._members, strict=True):
            for client in members:
                received = self._line(client).received
                # One by one, so that a double here does not make up for a loss there.
                delivered += min(received, sent)
                surplus += max(received - sent, 0)
                problem = problem or client.problem
        for publisher in self._publishers:
            problem = problem or publisher.problem
        expected = sum(self._sent) * self._shape.members
        return Traffic(expected, delivered, surplus, wall_secs, problem, self._latencies, held)


class _Poll:
    """Which of many sockets can be read: epoll, or poll where there is none."""

    def __init__(self) -> None:
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._other = select.poll()

    def register(self, descriptor: int) -> None:
        """Watch a socket."""
        (self._epoll or self._other).register(descriptor, select.POLLIN)

    def unregister(self, descriptor: int) -> None:
        """Watch it no more; nothing happens if it is not watched."""
        with suppress(KeyError, OSError):
            (self._epoll or self._other).unregister(descriptor)

    def wait(self, secs: float) -> list[tuple[int, int]]:
        """Wait so long at most; gives pairs of descriptor and events."""
        return self._epoll.poll(secs) if self._epoll else self._other.poll(secs * 1000)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._epoll:
            self._epoll.close()


class _Line:
    """One socket while it is the loop's."""

    __slots__ = ("_control", "_unsent", "client", "received", "recv", "take")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.recv = client.socket.recv
        self.take: Callable[[bytes], int] = self.ignore
        self.received = 0
        self._control = FrameCounter()
        self._control.keep = False
        self._unsent = bytearray()

    def ignore(self, data: bytes) -> int:
        """What a publisher is told by some servers; pings are answered."""
        self._control.feed(data)
        for opcode, payload in self._control.control:
            if opcode == PING:
                self.answer(client_frame(PONG, payload))
            elif opcode == CLOSE:
                raise Unexpected("the server closed the publisher's connection")
        self._control.control.clear()
        return 0

    def answer(self, frame: bytes) -> None:
        """Send something short. Raises OSError if there is no room for it."""
        if self.client.socket.send(frame) < len(frame):
            raise Unexpected("the server did not read what a member says")

    def send(self, data: bytes) -> None:
        """Send, or keep what the socket does not take for later."""
        if not self._unsent:
            try:
                data = data[self.client.socket.send(data) :]
            except BlockingIOError:
                pass
            except OSError as problem:
                self.client.fail(problem)
                return
        self._unsent += data

    @property
    def waits(self) -> bool:
        """Whether something is kept for later."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Send what was kept."""
        if self._unsent:
            unsent, self._unsent = bytes(self._unsent), bytearray()
            self.send(unsent)
