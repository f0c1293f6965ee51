"""A crowd: the clients of one fan-out shape, members in groups and one publisher per group that is a member of none.

Everything is bounded: how many handshakes run at once, how long an answer may take, how many deliveries are under way.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bench.clients import PATIENCE_SECS, PAYLOAD, Client, connect, disconnect, join, patiently
from bench.dialects import READ_BYTES, Expectation
from bench.servers import Server
from bench.wire import CLOSE, PING, PONG, FrameCounter, Unexpected, client_frame

# How long the loop waits for its sockets before it looks at the clock, and how often asyncio has a turn.
LOOK_SECS = 0.1
TURN_SECS = 0.05
# How soon a write is tried again that the socket did not take.
FLUSH_SECS = 0.002
# How long it is waited for what should not come any more.
SURPLUS_SECS = 0.02
# A server this far behind a pace does not keep up with it.
BEHIND_SECS = 0.5


@dataclass(frozen=True)
class Shape:
    """How many groups of how many members."""

    groups: int
    members: int

    def __str__(self) -> str:
        return f"{self.groups}×{self.members}"

    @property
    def clients(self) -> int:
        """How many connections that is, with one publisher per group."""
        return self.groups * (self.members + 1)


# The shapes that everything is measured with.
SHAPES = (Shape(1, 100), Shape(1, 1000), Shape(100, 10))


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

    @property
    def fault(self) -> str | None:
        """What is wrong with it, if not every member got every message once: then no other figure means anything."""
        if self.delivered == self.expected and not self.surplus:
            return None
        return f"{self.delivered:,} of {self.expected:,} delivered, {self.surplus:,} too many" + (
            f" ({self.problem})" if self.problem else ""
        )


class Crowd:
    """The clients of one shape on one server.

    While messages fly, the sockets are not asyncio's: a loop of their own waits for them, reads and
    compares (`bench.dialects`), which is all that is left to do per read. asyncio gets a turn now and
    then, so that whoever watches meanwhile is not kept waiting.
    """

    def __init__(self, server: Server, shape: Shape, payloads: Sequence[str] = (PAYLOAD,)) -> None:
        self._server = server
        self._shape = shape
        self._payloads = payloads
        # Of each payload, for each group: the frame that sends it, and the first message that came of it.
        self._rehearsed: dict[str, list[tuple[bytes, bytes]]] = {}
        self._dialect = server.contestant.dialect
        self.members: list[list[Client]] = []
        self.publishers: list[Client] = []
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
        self.members = [clients[index * shape.members : (index + 1) * shape.members] for index in range(shape.groups)]
        targets = self._server.targets(shape.groups)
        self.publishers = await self._connect(
            [dialect.address(target, name, True) for target, name in zip(targets, names, strict=True)], publish=True
        )
        await join(clients, seats, dialect)
        for payload in self._payloads:
            self._rehearsed[payload] = await self._rehearse(names, payload)
        self._take_over()
        self._expected = self._expectations(self._payloads[-1])
        self.speak(self._payloads[0])

    async def _connect(self, targets: list[str], publish: bool) -> list[Client]:
        """Open the connections of all members, in their order, or of the publishers."""
        return await connect(self._server.door, targets)

    async def _rehearse(self, names: Sequence[str], payload: str) -> list[tuple[bytes, bytes]]:
        """Send one message to each group and read every delivery; from it is known what has to come later."""
        rehearsed = []
        for name, members, publisher in zip(names, self.members, self.publishers, strict=True):

            def right(raw: bytes, group: str = name) -> bool:
                return self._dialect.is_delivery(raw, group, payload)

            frame = self._dialect.publication(name, payload)
            arriving = [client.expect(right) for client in members]
            publisher.send(frame)
            came = await patiently(asyncio.gather(*arriving), f"the first message to {name}")
            if len(set(came)) > 1:
                raise Unexpected(f"the members of {name} were sent different messages")
            rehearsed.append((frame, came[0]))
        return rehearsed

    def _expectations(self, payload: str) -> list[Expectation]:
        return [self._dialect.expectation(raw) for _, raw in self._rehearsed[payload]]

    def speak(self, payload: str) -> None:
        """From now on send this payload, one of those that the crowd was made with."""
        before, self._expected = self._expected, self._expectations(payload)
        self._frames = [frame for frame, _ in self._rehearsed[payload]]
        for expected, other, members in zip(self._expected, before, self.members, strict=True):
            expected.follow(other)
            for client in members:
                line = self._line(client)
                line.take = expected.reading(line.answer).take
        for line in self._lines.values():
            line.begin()

    def _take_over(self) -> None:
        """From now on, the sockets are ours."""
        for client in (*(client for members in self.members for client in members), *self.publishers):
            descriptor, begun = client.lend()
            self._lines[descriptor] = _Line(client, begun)
            self._poll.register(descriptor)

    async def _close(self) -> None:
        for descriptor, line in self._lines.items():
            self._poll.unregister(descriptor)
            line.client.take_back()
        self._lines.clear()
        self._poll.close()
        await disconnect([*self.publishers, *(client for members in self.members for client in members)])

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
            self._send(self._line(self.publishers[index]), self._frames[index] * count)
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
            self._send(self._line(self.publishers[0]), self._frames[0])
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
            for sent, members in zip(self._sent, self.members, strict=True)
            for client in members
        )

    def _result(self, wall_secs: float, held: bool = True) -> Traffic:
        delivered = surplus = 0
        problem = None
        for sent, members in zip(self._sent, self.members, strict=True):
            for client in members:
                received = self._line(client).received
                # One by one, so that a double here does not make up for a loss there.
                delivered += min(received, sent)
                surplus += max(received - sent, 0)
                problem = problem or client.problem
        for publisher in self.publishers:
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

    __slots__ = ("_begun", "_control", "_unsent", "client", "received", "recv", "take")

    def __init__(self, client: Client, begun: bytes) -> None:
        self.client = client
        # What was read of a frame before.
        self._begun = begun
        self.recv = client.socket.recv
        self.take: Callable[[bytes], int] = self.ignore
        self.received = 0
        self._control = FrameCounter()
        self._control.keep = False
        self._unsent = bytearray()

    def begin(self) -> None:
        """Take what was read before."""
        begun, self._begun = self._begun, b""
        if begun:
            self.take(begun)

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
