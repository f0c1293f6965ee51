"""A reliable client as the official SDKs are, and light enough for hundreds of them beside the server.

What it does is what the client protocol describes (reliable protocols, §6):

* Data frames with a sequence id that was seen before are dropped; the highest one seen is acknowledged
  every second, and at once when it is far ahead of what was acknowledged last.
* When the socket is lost for whatever reason but close code 1008 or a `stop`, the client tries to recover the
  connection: at once, then every second, for thirty seconds. An answer that is not a WebSocket is a
  passing trouble; 1008 is final.
* A frame with an ackId is kept until its ack has come, and sent again with the same ackId on every
  recovery. An ack that says Duplicate is a success: the frame had been handled, its first ack was lost.

* A frame that was refused is sent again after a pause with the same ackId, if its pace says so.

Unlike an SDK it does not start afresh after a failed recovery: it notes the failure, which is what the experiments
look for, and who runs it starts the next one (harness.py). On a subprotocol that is not reliable the first lost socket
is the end.

The WebSocket is bench/wire.py's: a general library would cost more than the server under test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlencode, urlsplit

from bench.wire import CLOSE, PING, PONG, FrameCounter, Handshake, Unexpected, client_frame
from tests.faults.dialects import Ack, Connected, Data, Dialect, Disconnected, Pong, Strange

# Close codes. The last two never travel: an empty close frame, and no close frame at all.
NORMAL, POLICY, NO_CODE, NO_FRAME = 1000, 1008, 1005, 1006

# How far the sequence ids may run ahead of what was acknowledged.
AHEAD = 300


@dataclass(frozen=True)
class Pace:
    """How often and how long a client tries; what the official clients do is the default."""

    retry_secs: float = 1.0
    window_secs: float = 30.0
    acknowledge_secs: float = 1.0
    open_secs: float = 10.0
    # The pause before a frame that was refused is sent again. None: the refusal is the answer.
    again_secs: float | None = None


class Gone(ConnectionError):
    """The connection is lost for good."""


class Socket(asyncio.Protocol):
    """One WebSocket. `opened` and `closed` are its beginning and its end; `heard` gets each message."""

    def __init__(self, handshake: Handshake, opened: Callable[[Socket], None], heard: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        # The close code, and the reason or what went wrong.
        self.closed: asyncio.Future[tuple[int, str]] = loop.create_future()
        self._handshake: Handshake | None = handshake
        self._on_opened, self._on_heard = opened, heard
        self._frames = FrameCounter()
        self._transport: asyncio.Transport | None = None
        # Whether no message has come yet.
        self.silent = True

    @property
    def open(self) -> bool:
        return self.opened.done() and not self.opened.cancelled() and not self.closed.done()

    def send(self, frame: bytes) -> None:
        """Write finished frames."""
        assert self._transport is not None
        self._transport.write(frame)

    def abort(self) -> None:
        """Let go of the socket without a word."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, only of their kind.
        self._transport = cast(asyncio.Transport, transport)
        assert self._handshake is not None
        self._transport.write(self._handshake.request)

    def data_received(self, data: bytes) -> None:
        if self.closed.done():
            return
        try:
            if self._handshake is not None:
                rest = self._handshake.feed(data)
                if rest is None:
                    return
                self._handshake = None
                self.opened.set_result(None)
                self._on_opened(self)
                data = rest
            self._frames.feed(data)
            if self._frames.messages:
                self.silent = False
            for message in self._frames.messages:
                self._on_heard(message)
            self._frames.messages.clear()
            for opcode, payload in self._frames.control:
                self._control(opcode, payload)
            self._frames.control.clear()
        except (Unexpected, Strange) as problem:
            self._end(NO_FRAME, str(problem))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(NO_FRAME, str(exc or "the socket was closed"))

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.send(client_frame(PONG, payload))
        elif opcode == CLOSE:
            self.send(client_frame(CLOSE, payload[:2]))
            code = int.from_bytes(payload[:2], "big") if payload else NO_CODE
            self._end(code, payload[2:].decode("utf-8", "replace"))

    def _end(self, code: int, reason: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(reason))
            # Whoever gave up waiting does not ask for it any more.
            self.opened.exception()
        if not self.closed.done():
            self.closed.set_result((code, reason))


@dataclass(frozen=True)
class _Asked:
    """A frame whose ack has not come, who waits for it, and who wants to know of refusals before that."""

    frame: bytes
    answer: asyncio.Future[str | None]
    refused: Callable[[], None]


class ReliableClient:
    """One logical connection, over as many sockets as it takes.

    `url` is where the connection belongs; `port` gives the port on loopback to which the next socket goes.
    """

    def __init__(self, url: str, port: Callable[[], int], dialect: Dialect, pace: Pace | None = None) -> None:
        parts = urlsplit(url)
        self._host = parts.netloc
        self._target = f"{parts.path}?{parts.query}"
        self._port = port
        self._dialect = dialect
        self.pace = pace or Pace()
        self.connection_id = ""
        self._token: str | None = None
        self._socket: Socket | None = None
        self._life: asyncio.Task[None] | None = None
        self._connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pong: asyncio.Future[None] | None = None
        # Set when a socket opens, and when none will any more.
        self._changed = asyncio.Event()
        # Sequence ids: the highest seen, the highest acknowledged, whether there is something to acknowledge.
        self.sequence_id = 0
        self._acknowledged = 0
        self._due = False
        self._clock: asyncio.TimerHandle | None = None
        # By ackId in the order of sending.
        self._last_ack_id = 0
        self._unacknowledged: dict[int, _Asked] = {}
        self._stopping = False
        # Since when there is no socket.
        self._down_since = 0.0
        # What happened, for the experiment to count.
        self.on_text: Callable[[str], None] = lambda text: None
        self.on_recovered: Callable[[], None] = lambda: None
        # How long it was without a socket each time, in seconds.
        self.recovered_after: list[float] = []
        self.attempts = 0
        self.replayed = 0
        self.skipped = 0
        # Why the connection is lost for good, and that it is.
        self.failure: str | None = None
        self.lost = asyncio.Event()

    # Coming and going

    async def start(self) -> None:
        """Connect and wait for the connected frame."""
        socket = await self._open(self._target)
        try:
            async with asyncio.timeout(self.pace.open_secs):
                await asyncio.wait({self._connected, socket.closed}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            socket.abort()
            raise
        if socket.closed.done():
            raise Gone(f"closed before it was connected: {socket.closed.result()}")
        self._life = asyncio.get_running_loop().create_task(self._live(socket))
        self._tick()

    async def stop(self) -> None:
        """Say goodbye with close code 1000, after which there is no recovery."""
        self._stopping = True
        if self._clock is not None:
            self._clock.cancel()
        socket = self._socket
        if socket is not None and socket.open:
            socket.send(client_frame(CLOSE, NORMAL.to_bytes(2, "big")))
            with suppress(TimeoutError):
                async with asyncio.timeout(self.pace.open_secs):
                    await asyncio.wait({socket.closed})
        if self._life is not None:
            self._life.cancel()
            with suppress(asyncio.CancelledError):
                await self._life
        if socket is not None:
            socket.abort()
        self._fail("stopped")

    def abandon(self) -> None:
        """Let go of the socket, as a client does that has heard nothing for too long; then recover."""
        if self._socket is not None:
            self._socket.abort()

    # Speaking

    def join(self, group: str) -> asyncio.Future[str | None]:
        """Join a group; the future gives the ack's error, None on success."""
        return self._ask(lambda ack_id: self._dialect.join(group, ack_id))

    def publish(
        self, group: str, text: str, on_refused: Callable[[], None] = lambda: None
    ) -> asyncio.Future[str | None]:
        """Send a text to a group, once; the future gives the ack's error, None on success or Duplicate.

        `on_refused` is called for each refusal after which the frame is sent again. Raises Gone through the future when
        the connection is lost for good.
        """
        return self._ask(lambda ack_id: self._dialect.publish(group, text, ack_id), on_refused)

    @property
    def waiting(self) -> int:
        """How many frames have not been acknowledged."""
        return len(self._unacknowledged)

    async def barrier(self) -> None:
        """Ping until a pong comes: all that the service had put into that socket before has been heard.

        Raises Gone when the connection is lost for good.
        """
        while self.failure is None:
            if self._socket is None or not self._socket.open:
                self._changed.clear()
                await self._changed.wait()
                continue
            self._pong = asyncio.get_running_loop().create_future()
            self._socket.send(self._dialect.ping())
            await asyncio.wait({self._pong, self._socket.closed}, return_when=asyncio.FIRST_COMPLETED)
            if self._pong.done():
                return
        raise Gone(self.failure)

    @property
    def recoveries(self) -> int:
        """How often the connection was recovered."""
        return len(self.recovered_after)

    def _ask(
        self, frame_of: Callable[[int], bytes], on_refused: Callable[[], None] = lambda: None
    ) -> asyncio.Future[str | None]:
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        if self.failure is not None:
            answer.set_exception(Gone(self.failure))
            return answer
        self._last_ack_id += 1
        frame = frame_of(self._last_ack_id)
        self._unacknowledged[self._last_ack_id] = _Asked(frame, answer, on_refused)
        if self._socket is not None and self._socket.open:
            self._socket.send(frame)
        return answer

    # The connection's life

    async def _live(self, socket: Socket) -> None:
        while True:
            code, reason = await socket.closed
            socket.abort()
            if self._stopping:
                return
            if code == POLICY:
                if socket.silent and self.recovered_after:
                    # What looked like a recovery was the refusal of one.
                    self.recovered_after.pop()
                self._fail(f"{code} {reason}")
                return
            if self._token is None:
                self._fail(f"there is no recovery on {self._dialect.subprotocol} (closed with {code} {reason})")
                return
            recovered = await self._recovered()
            if recovered is None:
                self._fail(f"not recovered within {self.pace.window_secs:g} s of {code} {reason}")
                return
            socket = recovered

    async def _recovered(self) -> Socket | None:
        loop = asyncio.get_running_loop()
        self._down_since = loop.time()
        deadline = self._down_since + self.pace.window_secs
        proof = urlencode({"awps_connection_id": self.connection_id, "awps_reconnection_token": self._token})
        while loop.time() < deadline:
            self.attempts += 1
            try:
                return await self._open(f"{self._target}&{proof}")
            except OSError:
                await asyncio.sleep(self.pace.retry_secs)
        return None

    async def _open(self, target: str) -> Socket:
        loop = asyncio.get_running_loop()
        handshake = Handshake(target, self._host, self._dialect.subprotocol)
        socket = Socket(handshake, self._opened, self._heard)
        try:
            # A TimeoutError is an OSError.
            async with asyncio.timeout(self.pace.open_secs):
                await loop.create_connection(lambda: socket, "127.0.0.1", self._port())
                await socket.opened
        except BaseException:
            socket.abort()
            raise
        return socket

    def _opened(self, socket: Socket) -> None:
        self._socket = socket
        self._changed.set()
        if not self._connected.done():
            return
        self.recovered_after.append(asyncio.get_running_loop().time() - self._down_since)
        # The last acknowledgement may have been lost with the socket.
        self._due = self.sequence_id > 0
        if self._unacknowledged:
            socket.send(b"".join(asked.frame for asked in self._unacknowledged.values()))
        self.on_recovered()

    def _fail(self, why: str) -> None:
        if self.failure is None:
            self.failure = why
        self.lost.set()
        self._changed.set()
        for asked in self._unacknowledged.values():
            if not asked.answer.done():
                asked.answer.set_exception(Gone(why))
                # Nobody has to wait for it.
                asked.answer.exception()
        self._unacknowledged.clear()

    # Hearing

    def _heard(self, message: bytes) -> None:
        heard = self._dialect.read(message)
        match heard:
            case Data():
                self._data(heard)
            case Ack():
                self._answered(heard)
            case Connected():
                # After a recovery it may come again, and then renews the token alone.
                self.connection_id = heard.connection_id
                self._token = heard.reconnection_token
                if not self._connected.done():
                    self._connected.set_result(None)
            case Pong():
                if self._pong is not None and not self._pong.done():
                    self._pong.set_result(None)
            case Disconnected():
                # The close frame comes behind it, and says what to do.
                pass

    def _answered(self, ack: Ack) -> None:
        asked = self._unacknowledged.get(ack.ack_id)
        if asked is None:
            return
        error = None if ack.error == "Duplicate" else ack.error
        if error is not None and self.pace.again_secs is not None:
            asked.refused()
            asyncio.get_running_loop().call_later(self.pace.again_secs, self._again, ack.ack_id)
            return
        del self._unacknowledged[ack.ack_id]
        if not asked.answer.done():
            asked.answer.set_result(error)

    def _again(self, ack_id: int) -> None:
        asked = self._unacknowledged.get(ack_id)
        # Without a socket, the next recovery sends it.
        if asked is not None and self._socket is not None and self._socket.open:
            self._socket.send(asked.frame)

    def _data(self, data: Data) -> None:
        if data.sequence_id is not None:
            self._due = True
            if data.sequence_id <= self.sequence_id:
                self.replayed += 1
                return
            self.skipped += data.sequence_id - self.sequence_id - 1
            self.sequence_id = data.sequence_id
            if self.sequence_id - self._acknowledged > AHEAD:
                self._acknowledge()
        self.on_text(data.text)

    def _acknowledge(self) -> None:
        if self._due and self._socket is not None and self._socket.open:
            self._due = False
            self._acknowledged = self.sequence_id
            self._socket.send(self._dialect.sequence_ack(self.sequence_id))

    def _tick(self) -> None:
        self._acknowledge()
        self._clock = asyncio.get_running_loop().call_later(self.pace.acknowledge_secs, self._tick)
