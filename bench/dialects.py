"""What is said to each kind of server, and what it must say back, byte for byte.

The members of a group are sent the same messages, so all of them are sent the same stream of bytes, and
the generator knows it before it comes. An `Expectation` is that stream. A member's `Reading` compares what
it reads with it block by block, which costs no more than a comparison of memory, however many frames a
read brings, and is stricter than parsing them: one byte that differs is found. Only where bytes differ are
frames looked at, since a ping may stand between two of them.

A `Dialect` is how one kind of server is spoken to: how a client joins a group and publishes to it, and
what expectation follows from the first message, which is read and understood.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.wire import BINARY, CLOSE, CONTROL, PING, PONG, TEXT, Unexpected, client_frame, payload_of, server_frame

if TYPE_CHECKING:
    from bench.clients import Client

# What one read of a socket may bring.
READ_BYTES = 64 * 1024
# Numbered messages that everybody has read are forgotten once they are so many bytes.
FORGET_BYTES = 4 * 1024 * 1024

Answer = Callable[[bytes], None]


# Expectations: what every member of a group is sent


class Reading:
    """Where one member stands in what it is sent. `answer` writes to its socket."""

    __slots__ = ("_answer", "_stray")

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        # The beginning of a control frame.
        self._stray = b""

    def take(self, data: bytes) -> int:
        """Take what was read; gives how many messages ended in it. Raises Unexpected."""
        raise NotImplementedError

    def _ahead(self, size: int) -> bytes:
        """The next bytes that are due, as many as are asked for or are known."""
        raise NotImplementedError

    def _step(self, size: int) -> int:
        """So many bytes were right; gives how many messages ended in them."""
        raise NotImplementedError

    def _between_frames(self) -> bool:
        raise NotImplementedError

    def _examine(self, data: bytes) -> int:
        """Take a piece that is not what is due, or not all of it. Raises Unexpected."""
        data = self._stray + data
        self._stray = b""
        count = 0
        while data:
            # A control frame differs in its first byte, so what is right ends where it begins.
            right = _alike(data, self._ahead(len(data)))
            count += self._step(right)
            data = data[right:]
            if not data:
                break
            if not self._between_frames() or data[0] not in CONTROL:
                raise Unexpected(f"a message differs from what was sent; what came goes on with {data[:120]!r}")
            rest = after_control(data, self._answer)
            if rest is None:
                self._stray = data
                break
            data = rest
        return count


class Expectation:
    """What each member of a group is sent from now on."""

    # One message on the wire.
    frame_bytes: int

    def published(self, count: int) -> None:
        """So many more messages are on their way to the group."""

    def follow(self, other: Expectation) -> None:
        """Begin where another one has come to, of which everything was read."""

    def reading(self, answer: Answer) -> Reading:
        """A member that begins to read here."""
        raise NotImplementedError


def _alike(one: bytes, other: bytes) -> int:
    """How many bytes at the beginning are the same."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def after_control(data: bytes, answer: Answer) -> bytes | None:
    """Obey the control frame that stands first; gives what follows it once it is complete. Raises Unexpected."""
    payload = payload_of(data)
    if payload is None or payload[1] > len(data):
        return None
    start, end = payload
    opcode = data[0] & 0x0F
    if opcode == PING:
        answer(client_frame(PONG, data[start:end]))
    elif opcode == CLOSE:
        reason = data[start + 2 : end].decode("utf-8", "replace")
        raise Unexpected(f"the server closed with {int.from_bytes(data[start : start + 2], 'big')} {reason}")
    return data[end:]


class Repeated(Expectation):
    """The same frame over and over."""

    def __init__(self, frame: bytes) -> None:
        self.frame_bytes = len(frame)
        self.block = frame * (READ_BYTES // len(frame) + 2)

    def reading(self, answer: Answer) -> Reading:
        """A member that has read nothing of the next frame."""
        return _RepeatedReading(self, answer)


class _RepeatedReading(Reading):
    __slots__ = ("_at", "_block", "_frame_bytes")

    def __init__(self, expected: Repeated, answer: Answer) -> None:
        super().__init__(answer)
        self._block = expected.block
        self._frame_bytes = expected.frame_bytes
        # How much of the frame under way was read.
        self._at = 0

    def take(self, data: bytes) -> int:
        if self._stray or not self._block.startswith(data, self._at):
            return self._examine(data)
        count, self._at = divmod(self._at + len(data), self._frame_bytes)
        return count

    def _ahead(self, size: int) -> bytes:
        return self._block[self._at : self._at + size]

    def _step(self, size: int) -> int:
        count, self._at = divmod(self._at + size, self._frame_bytes)
        return count

    def _between_frames(self) -> bool:
        return not self._at


class Numbered(Expectation):
    """Frames that differ in a number, which grows by one: the sequence ids of a reliable subprotocol.

    The stream is written when its messages are published, once for the whole group. A member that is
    sent another number, one twice or one too few has bytes that differ, and one too many has bytes that
    are not there yet. Every member acknowledges every so many messages.
    """

    def __init__(
        self, frame_of: Callable[[int], bytes], last: int, ack_of: Callable[[int], bytes], ack_every: int
    ) -> None:
        self.frame_bytes = len(frame_of(last))
        self.ack_of = ack_of
        self.ack_every = ack_every
        self._frame_of = frame_of
        self._next = last + 1
        # The stream without the `start` bytes that are forgotten; where each of its frames ends; their first number.
        self.stream = bytearray()
        self.start = 0
        self.ends: list[int] = []
        self.first = last + 1
        self._readings: list[_NumberedReading] = []

    def published(self, count: int) -> None:
        """Write so many more messages into the stream."""
        if len(self.stream) > FORGET_BYTES:
            self._forget()
        for number in range(self._next, self._next + count):
            self.stream += self._frame_of(number)
            self.ends.append(self.start + len(self.stream))
        self._next += count

    def follow(self, other: Expectation) -> None:
        """Go on with the next number."""
        assert isinstance(other, Numbered)
        self._next = self.first = other._next

    def reading(self, answer: Answer) -> Reading:
        """A member to whom everything published so far is past."""
        reading = _NumberedReading(self, answer)
        self._readings.append(reading)
        return reading

    def _forget(self) -> None:
        read = bisect_right(self.ends, min(reading.at for reading in self._readings))
        if read:
            end = self.ends[read - 1]
            del self.stream[: end - self.start], self.ends[:read]
            self.start = end
            self.first += read


class _NumberedReading(Reading):
    __slots__ = ("_expected", "_unacked", "at")

    def __init__(self, expected: Numbered, answer: Answer) -> None:
        super().__init__(answer)
        self._expected = expected
        self._unacked = 0
        # How much of the whole stream was read.
        self.at = expected.start + len(expected.stream)

    def take(self, data: bytes) -> int:
        expected = self._expected
        if self._stray or not expected.stream.startswith(data, self.at - expected.start):
            return self._examine(data)
        return self._step(len(data))

    def _ahead(self, size: int) -> bytes:
        begin = self.at - self._expected.start
        return bytes(self._expected.stream[begin : begin + size])

    def _step(self, size: int) -> int:
        expected = self._expected
        before = bisect_right(expected.ends, self.at)
        self.at += size
        after = bisect_right(expected.ends, self.at, before)
        self._unacked += after - before
        if self._unacked >= expected.ack_every:
            self._unacked = 0
            self._answer(expected.ack_of(expected.first + after - 1))
        return after - before

    def _between_frames(self) -> bool:
        expected = self._expected
        index = bisect_left(expected.ends, self.at)
        return self.at == expected.start or (index < len(expected.ends) and expected.ends[index] == self.at)


class Unframed(Expectation):
    """The same bytes over and over in frames that end anywhere: a protocol for a plain stream, put into WebSocket.

    Between two messages the server may ask `question`, which has its `reply`.
    """

    def __init__(self, message: bytes, question: bytes, reply: bytes) -> None:
        self.question = question
        self.reply = reply
        self.frame_bytes = len(message)
        self.block = message * (READ_BYTES // len(message) + 2)

    def reading(self, answer: Answer) -> Reading:
        """A member that has read nothing of the next message."""
        return _UnframedReading(self, answer)


class _UnframedReading(Reading):
    __slots__ = ("_asked", "_at", "_expected", "_left")

    def __init__(self, expected: Unframed, answer: Answer) -> None:
        super().__init__(answer)
        self._expected = expected
        # How much of the message under way was read, and how much of a question.
        self._at = 0
        self._asked = 0
        # What is still to come of the payload of the frame under way.
        self._left = 0

    def take(self, data: bytes) -> int:
        if self._stray:
            data = self._stray + data
            self._stray = b""
        count = begin = 0
        while begin < len(data):
            if not self._left:
                if data[begin] in CONTROL:
                    rest = after_control(data[begin:], self._answer)
                    if rest is None:
                        self._stray = data[begin:]
                        break
                    data, begin = rest, 0
                    continue
                payload = payload_of(data, begin)
                if payload is None:
                    self._stray = data[begin:]
                    break
                begin, self._left = payload[0], payload[1] - payload[0]
                continue
            piece = data[begin : begin + self._left]
            begin += len(piece)
            self._left -= len(piece)
            if self._asked or not self._expected.block.startswith(piece, self._at):
                count += self._examine(piece)
            else:
                count += self._step(len(piece))
        return count

    def _step(self, size: int) -> int:
        count, self._at = divmod(self._at + size, self._expected.frame_bytes)
        return count

    def _examine(self, data: bytes) -> int:
        expected = self._expected
        count = 0
        while data:
            right = 0
            if not self._asked:
                right = _alike(data, expected.block[self._at : self._at + len(data)])
                count += self._step(right)
            data = data[right:]
            asked = _alike(data, expected.question[self._asked :])
            self._asked += asked
            if data and (self._at or not asked):
                raise Unexpected(f"a message differs from what was sent; what came goes on with {data[:120]!r}")
            data = data[asked:]
            if self._asked == len(expected.question):
                self._asked = 0
                self._answer(expected.reply)
        return count


# Dialects: one for each kind of server


class Dialect:
    """The JSON subprotocol's frames, which Hubwire and the comparison consumers of ours speak."""

    def address(self, target: str, group: str, publishes: bool) -> str:
        """The request target of a client of this group."""
        return target

    async def enter(self, client: Client) -> None:
        """What goes before anything else on a new connection."""

    async def join(self, client: Client, group: str) -> None:
        """Become a member."""
        await client.ask({"type": "joinGroup", "group": group})

    def publication(self, group: str, payload: str) -> bytes:
        """The frame that sends a message to a group."""
        return _json_frame({"type": "sendToGroup", "group": group, "dataType": "text", "data": payload})

    def is_delivery(self, raw: bytes, group: str, payload: str) -> bool:
        """Whether a frame's payload is the message to this group."""
        message = json.loads(raw)
        return bool(message.get("group") == group and message.get("data") == payload)

    def expectation(self, raw: bytes) -> Expectation:
        """What follows for the next messages from the one that was read."""
        return Repeated(server_frame(TEXT, raw))


class WebPubSub(Dialect):
    """The same where the service speaks first, as the JSON subprotocol has it."""

    async def enter(self, client: Client) -> None:
        """Wait for the `connected` event, so that it falls into nothing later."""
        await client.hear(lambda raw: b'"connected"' in raw)


class ReliableJson(WebPubSub):
    """The reliable JSON subprotocol: numbered messages, which are acknowledged."""

    def __init__(self, ack_every: int = 100) -> None:
        self._ack_every = ack_every

    def expectation(self, raw: bytes) -> Expectation:
        number = json.loads(raw)["sequenceId"]
        name = b'"sequenceId":'
        written = name + b"%d" % number
        if type(number) is not int or raw.count(written) != 1:
            raise Unexpected(f"a message without a sequence id that can be found in it: {raw[:200]!r}")
        before, after = raw.split(written)
        return Numbered(
            lambda number: server_frame(TEXT, b"%b%b%d%b" % (before, name, number, after)),
            number,
            lambda number: client_frame(TEXT, b'{"type":"sequenceAck","sequenceId":%d}' % number),
            self._ack_every,
        )


class Topics(Dialect):
    """Servers whose clients name their group in the address. They send the payload and get the payload."""

    def __init__(self, subscriber: str, publisher: str) -> None:
        self._addresses = subscriber, publisher

    def address(self, target: str, group: str, publishes: bool) -> str:
        """One address for members, another for publishers."""
        return self._addresses[publishes].format(group=group)

    async def join(self, client: Client, group: str) -> None:
        """Has happened with the handshake."""

    def publication(self, group: str, payload: str) -> bytes:
        """The payload alone."""
        return client_frame(TEXT, payload.encode())

    def is_delivery(self, raw: bytes, group: str, payload: str) -> bool:
        """Whether it is the payload."""
        return raw == payload.encode()


class SocketIo(Dialect):
    """Socket.IO 5 in Engine.IO 4, by WebSocket from the start."""

    async def enter(self, client: Client) -> None:
        await client.hear(lambda raw: raw.startswith(b"0{"))
        await client.converse(client_frame(TEXT, b"40"), lambda raw: raw.startswith(b"40{"))

    async def join(self, client: Client, group: str) -> None:
        await client.converse(client_frame(TEXT, b"420" + _json("join", group)), lambda raw: raw == b"430[]")

    def publication(self, group: str, payload: str) -> bytes:
        return client_frame(TEXT, b"42" + _json("publish", group, payload))

    def is_delivery(self, raw: bytes, group: str, payload: str) -> bool:
        return raw == b"42" + _json("message", payload)


class Nats(Dialect):
    """The NATS client protocol, in binary frames."""

    async def enter(self, client: Client) -> None:
        await client.hear(lambda raw: raw.startswith(b"INFO "))
        hello = b'CONNECT {"verbose":false,"pedantic":false,"lang":"bench","version":"1","protocol":1,"headers":false}'
        await client.converse(client_frame(BINARY, hello + b"\r\nPING\r\n"), lambda raw: raw.startswith(b"PONG\r\n"))

    async def join(self, client: Client, group: str) -> None:
        subscribe = f"SUB {group} 1\r\nPING\r\n".encode()
        await client.converse(client_frame(BINARY, subscribe), lambda raw: raw.startswith(b"PONG\r\n"))

    def publication(self, group: str, payload: str) -> bytes:
        return client_frame(BINARY, f"PUB {group} {len(payload)}\r\n{payload}\r\n".encode())

    def is_delivery(self, raw: bytes, group: str, payload: str) -> bool:
        return raw == f"MSG {group} 1 {len(payload)}\r\n{payload}\r\n".encode()

    def expectation(self, raw: bytes) -> Expectation:
        return Unframed(raw, b"PING\r\n", client_frame(BINARY, b"PONG\r\n"))


def _json(*values: Any) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()


def _json_frame(message: dict[str, Any]) -> bytes:
    return client_frame(TEXT, json.dumps(message, separators=(",", ":")).encode())
