"""The way out to one client through a direct socket: order, bounds, and ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubs import conf
from hubs.close_codes import NO_PONG, NOT_READ, QUEUE_FULL, UNREACHABLE
from hubs.connections import direct as room
from hubs.connections.direct import DirectOutbox
from hubs.errors import Disconnect
from hubs.protocols.codec import CODECS, Outgoing
from hubs.protocols.frames import TEXT as TEXT_TYPE
from hubs.protocols.frames import Payload, ServerMessage
from hubs.protocols.framing import frames_of
from hubs.servers import direct
from hubs.servers.direct import DirectSocket, Sockets
from tests.connections.conftest import WebPubSub, turns
from tests.servers.raw import frame
from tests.servers.transports import Transport

TEXT, CLOSE = 0x1, 0x8
JSON = CODECS["json.webpubsub.azure.v1"]


class FrameQueue:
    """What a reader waits for."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.failures: list[Disconnect] = []

    def when_room(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def fail(self, disconnect: Disconnect) -> None:
        self.failures.append(disconnect)


class Connection:
    """Whose outbox it is, as far as that asks."""

    id, hub, user_id = "c", "chat", "anna"

    def __init__(self, outbox: DirectOutbox) -> None:
        self.outbox: DirectOutbox | None = outbox
        self.taken: list[str | bytes] = []
        self.has_room = True
        self.frames = FrameQueue()
        self.ends: list[tuple[int, str]] = []
        self.given_up: list[str] = []

    @property
    def closing(self) -> bool:
        return self.outbox is None or self.outbox.closing

    def receive_nowait(self, message: str | bytes) -> bool:
        self.taken.append(message)
        return self.has_room

    def give_up(self, reason: str) -> None:
        assert self.ends == [], "too late: its end was taken for an accident"
        self.given_up.append(reason)

    def socket_gone(self, outbox: DirectOutbox, code: int, reason: str) -> None:
        self.ends.append((code, reason))


class End:
    """A client with all that stands between it and its connection."""

    def __init__(self, sockets: Sockets, **bounds: int) -> None:
        self.sockets = sockets
        self.outbox = DirectOutbox()
        self.connection = Connection(self.outbox)
        self.transport = Transport(asyncio.get_running_loop(), **bounds)
        self.outbox.begin_with(self.connection, self.outbox.uncork)  # type: ignore[arg-type]

    def open(self) -> End:
        DirectSocket(self.sockets, self.transport.as_transport(), self.outbox, None, b"")
        return self

    @property
    def read(self) -> list[str]:
        """What the client has read; of a close frame its code and reason."""
        return [
            payload.decode() if opcode == TEXT else f"{int.from_bytes(payload[:2], 'big')} {payload[2:].decode()}"
            for opcode, payload in self.transport.frames
        ]

    async def reads(self) -> list[str]:
        """Have the client read until nothing comes any more."""
        for _ in range(6):
            await turns(2)
            self.transport.take()
        return self.read


def _evictions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "hubs.connections.eviction"]


@pytest.fixture
async def sockets() -> Sockets:
    return Sockets(set(), 1 << 20, 1000.0)


# In order


async def test_what_is_put_before_the_socket_is_open_waits(sockets: Sockets) -> None:
    end = End(sockets)
    assert end.outbox.socket is None
    end.outbox.put("one")
    end.outbox.put_frames(frames_of("two"))
    end.open()
    assert end.outbox.socket is not None
    end.outbox.put("three")
    assert await end.reads() == ["one", "two", "three"]


async def test_a_close_before_the_socket_is_open_comes_behind_what_was_put(sockets: Sockets) -> None:
    end = End(sockets)
    end.outbox.put("one")
    end.outbox.close(1001, "elsewhere")
    end.outbox.put("late")
    end.open()
    assert await end.reads() == ["one", "1001 elsewhere"]
    assert end.connection.ends == [(1001, "elsewhere")]


async def test_a_slow_client_gets_its_echo_before_the_ack(sockets: Sockets) -> None:
    end, other = End(sockets, high=100, low=0).open(), End(sockets).open()
    socket = end.outbox.socket
    assert socket is not None
    audience = socket.together([socket, other.outbox.socket])
    end.outbox.put("x" * 200)
    await turns()
    audience.write(frames_of("echo"))
    end.outbox.put("ack")
    end.outbox.close(1000)
    audience.write(frames_of("late"))
    await turns()
    assert await end.reads() == ["x" * 200, "echo", "ack", "1000 "]
    assert await other.reads() == ["echo", "late"]


async def test_what_went_to_many_just_before_a_close_is_not_lost(sockets: Sockets) -> None:
    end, other = End(sockets, high=100, low=0).open(), End(sockets).open()
    socket = end.outbox.socket
    assert socket is not None
    first, second = (socket.together([socket, other.outbox.socket]) for _ in range(2))
    first.write(frames_of("x" * 200))
    # The first fills it, and so the second comes back while it is being closed.
    second.write(frames_of("last"))
    end.outbox.close(1000, "bye")
    assert await end.reads() == ["x" * 200, "last", "1000 bye"]


_ENDS = 3
_STEP = st.one_of(
    st.tuples(st.just("many"), st.sets(st.integers(0, _ENDS - 1), min_size=1).map(sorted).map(tuple)),
    st.tuples(st.just("put"), st.integers(0, _ENDS - 1)),
    st.tuples(st.just("shared"), st.integers(0, _ENDS - 1)),
    st.tuples(st.just("take"), st.integers(0, _ENDS - 1)),
    st.tuples(st.just("sip"), st.integers(0, _ENDS - 1)),
    st.tuples(st.just("turn"), st.just(0)),
    st.tuples(st.just("turn"), st.just(0)),
)
_LAST = st.tuples(st.sampled_from(["close", "open"]), st.integers(0, _ENDS - 1))


@given(st.lists(st.one_of(_STEP, _STEP, _STEP, _LAST), max_size=60), st.sampled_from([1, 40]))
@settings(max_examples=250)
def test_everything_put_arrives_in_order_and_the_close_last(steps: list[Any], size: int) -> None:
    async def run() -> None:
        sockets = Sockets(set(), 1 << 20, 1000.0)
        ends = [End(sockets, high=120, low=50) for _ in range(_ENDS)]
        ends[0].open()
        expected: list[list[str]] = [[] for _ in ends]
        for number, (step, who) in enumerate(steps):
            text = f"{number}".ljust(size, ".")
            if step == "turn":
                await asyncio.sleep(0)
            elif step == "many":
                present = [(one, ends[one].outbox.socket) for one in who if ends[one].outbox.socket is not None]
                if present:
                    for one, _ in present:
                        expected[one].append(text)
                    present[0][1].together([socket for _, socket in present]).write(frames_of(text))  # type: ignore[union-attr]
            elif step in ("put", "shared"):
                if not ends[who].outbox.closing:
                    if step == "put":
                        expected[who].append(text)
                        ends[who].outbox.put(text)
                    else:
                        outgoing = Outgoing(ServerMessage(Payload(TEXT_TYPE, text.encode())))
                        expected[who].append(str(outgoing.form(JSON)))
                        ends[who].outbox.put_shared(outgoing, JSON)
            elif step == "close":
                if not ends[who].outbox.closing:
                    expected[who].append("4000 bye")
                    ends[who].outbox.close(4000, "bye")
            elif step == "open":
                if not sockets.connections & {ends[who].outbox._socket}:
                    ends[who].open()
            else:
                ends[who].transport.take(None if step == "take" else 30)
        for end, wanted in zip(ends, expected, strict=True):
            if end.outbox._socket is None and not end.connection.ends:
                end.open()
            for _ in range(30):
                await asyncio.sleep(0)
                end.transport.take()
            assert end.read == wanted
            assert end.outbox._queue is None
            assert end.outbox._bytes == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "MAX_COLLECTED_BYTES", 250)
        asyncio.run(run())


# Bounds


@pytest.mark.parametrize("bound", ["messages", "bytes"])
async def test_a_client_that_does_not_read_is_evicted(
    sockets: Sockets, webpubsub: WebPubSub, bound: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    message = frames_of("x" * (10 if bound == "messages" else 100_000))
    webpubsub(MAX_OUTBOX_MESSAGES=50 if bound == "messages" else 10_000, MAX_OUTBOX_BYTES=1 << 20)
    end, other = End(sockets, high=100).open(), End(sockets).open()
    socket = end.outbox.socket
    assert socket is not None
    audience = socket.together([socket, other.outbox.socket])
    for number in range(200):
        if number % 2:
            end.outbox.put_frames(message)
        else:
            audience.write(message)
        other.transport.take()
        await turns(1)
        assert end.outbox._bytes <= conf.settings.MAX_OUTBOX_BYTES
        assert len(end.outbox._queue or ()) <= conf.settings.MAX_OUTBOX_MESSAGES
    # Once, and before its end is told of.
    assert end.connection.given_up == [QUEUE_FULL.reason]
    assert end.connection.ends == [QUEUE_FULL.frame]
    assert end.transport.most < direct.MAX_COLLECTED_BYTES + 5 * len(message)
    [line] = _evictions(caplog)
    assert line.startswith(
        "Connection c (hub chat, user anna) is cut off: "
        f"More waits for its client than MAX_OUTBOX_{bound.upper()} allows. Waiting: "
    )
    assert ("51 messages, " if bound == "messages" else f"{11 * len(message):,} bytes, ") in line
    assert (await end.reads())[-1] == f"1008 {QUEUE_FULL.reason}"
    assert len(await other.reads()) == 100
    assert other.connection.given_up == []


@pytest.mark.parametrize("reason", [NO_PONG.reason, NOT_READ.reason, UNREACHABLE.reason, "bye"])
async def test_that_the_server_parts_with_a_client_is_one_line(
    sockets: Sockets, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    caplog.set_level(logging.INFO)
    end, closed = End(sockets, high=100).open(), End(sockets, high=100).open()
    for each in (end, closed):
        each.outbox.put("x" * 200)
    await turns()
    for each in (end, closed):
        each.outbox.put("y" * 98)
    # Its end was decided before, and told of where that was done.
    closed.outbox.close(1000)
    for each in (end, closed):
        each.outbox.gone(1006, reason)
        each.outbox.gone(1006, reason)
    said = f"Connection c (hub chat, user anna) is cut off: {reason} Waiting: 1 messages, 100 bytes, for 0.0 s."
    assert _evictions(caplog) == ([] if reason == "bye" else [said])
    # Each cause is a kind of its own, so that many of one do not hide another.
    assert [getattr(record, "kind", None) for record in caplog.records] == [f"cut off: {reason}"] * (reason != "bye")
    assert end.outbox._queue is None


async def test_one_turn_is_enough_to_be_evicted(sockets: Sockets, webpubsub: WebPubSub) -> None:
    webpubsub(MAX_OUTBOX_BYTES=1 << 20)
    end, other = End(sockets).open(), End(sockets).open()
    socket = end.outbox.socket
    assert socket is not None
    audience = socket.together([socket, other.outbox.socket])
    for _ in range(100):
        audience.write(frames_of("x" * 50_000))
    await turns()
    assert end.connection.given_up == [QUEUE_FULL.reason]
    assert end.transport.most + other.transport.most < 10 * direct.MAX_COLLECTED_BYTES


async def test_too_much_before_the_socket_is_open(sockets: Sockets, webpubsub: WebPubSub) -> None:
    webpubsub(MAX_OUTBOX_MESSAGES=10)
    end = End(sockets)
    for number in range(20):
        end.outbox.put(str(number))
    await turns()
    assert end.connection.given_up == [QUEUE_FULL.reason]
    end.open()
    assert await end.reads() == [f"1008 {QUEUE_FULL.reason}"]


async def test_a_client_that_takes_nothing_does_not_keep_a_close_from_coming(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "CLOSING_SECS", 0.0)
    end = End(sockets, high=100, low=0).open()
    end.outbox.put("x" * 200)
    await turns()
    end.outbox.put("kept")
    end.outbox.close(1000)
    while not end.connection.ends:
        await turns(1)
    assert end.outbox._queue is None
    assert end.connection.ends == [(1000, "")]


async def test_one_that_reads_slowly_gets_all_before_the_close(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "CLOSING_SECS", 0.0)
    end = End(sockets, high=100, low=0).open()
    end.outbox.put("x" * 200)
    await turns()
    for number in range(50):
        end.outbox.put(f"{number}".ljust(150))
    end.outbox.close(1000, "bye")
    while not end.connection.ends:
        end.transport.take()
        await turns(1)
    read = await end.reads()
    assert (len(read), read[-1]) == (52, "1000 bye")


async def test_one_that_reads_slowly_does_not_take_for_ever(sockets: Sockets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CLOSING_SECS", 0.0)
    monkeypatch.setattr(room, "MAX_CLOSING_SECS", 0.0)
    end = End(sockets, high=100, low=0).open()
    end.outbox.put("x" * 200)
    await turns()
    for number in range(50):
        end.outbox.put(f"{number}".ljust(20_000))
    end.outbox.close(1000, "bye")
    while not end.connection.ends:
        end.transport.take()
        await turns(1)
    read = await end.reads()
    assert len(read) < 50
    assert read[-1] == "1000 bye"


# From the client


async def test_a_reader_waits_until_there_is_room(sockets: Sockets) -> None:
    end = End(sockets).open()
    end.connection.has_room = False
    end.transport.say(frame(TEXT, b"one") + frame(TEXT, b"two"))
    assert end.connection.taken == ["one"]
    end.connection.frames.calls.pop()()
    await turns()
    assert end.connection.taken == ["one", "two"]
    # Lost before there is room.
    end.transport.cut()
    await turns()
    end.connection.frames.calls.pop()()
    await turns()
    assert (end.connection.taken, end.connection.ends) == (["one", "two"], [(1006, "")])


async def test_what_a_closed_or_replaced_socket_brings_is_not_taken(sockets: Sockets) -> None:
    end = End(sockets).open()
    end.connection.outbox = DirectOutbox()
    end.transport.say(frame(TEXT, b"replaced"))
    end.connection.outbox = end.outbox
    end.outbox.close(1000)
    end.transport.say(frame(TEXT, b"closed"))
    await turns()
    assert end.connection.taken == []


# The end


async def test_what_came_before_a_fault_is_answered_first(sockets: Sockets) -> None:
    end = End(sockets).open()
    end.transport.say(frame(TEXT, b"event") + b"\xff\xff" + frame(TEXT, b"behind"))
    await turns()
    # The queue closes when it has come to this.
    [fault] = end.connection.frames.failures
    assert (end.connection.taken, end.connection.ends) == (["event"], [])
    end.outbox.put("answer")
    end.outbox.close(fault.code, fault.message)
    assert await end.reads() == ["answer", "1002 The client frame is invalid."]
    assert end.connection.ends == [(1002, "The client frame is invalid.")]
    # One of a socket that is not the connection's any more is closed at once.
    end = End(sockets).open()
    end.connection.outbox = None
    end.transport.say(b"\xff\xff")
    assert await end.reads() == ["1002 The client frame is invalid."]
    assert end.connection.frames.failures == []


async def test_of_those_who_went_nothing_is_kept(sockets: Sockets) -> None:
    end = End(sockets, high=10).open()
    end.outbox.put("x" * 100)
    await turns()
    end.outbox.put("kept")
    end.outbox.close(1000)
    end.transport.cut()
    await turns()
    assert end.connection.ends == [(1006, "")]
    end.outbox.put("late")
    assert (end.outbox._queue, end.outbox._bytes, end.outbox.connection, end.outbox.socket) == (None, 0, None, None)
    assert sockets.connections == set()
    assert len(sockets.wheel) == 0


async def test_a_socket_that_is_gone_is_freed_without_the_collector(sockets: Sockets) -> None:
    end = End(sockets).open()
    end.outbox.put("one")
    await end.reads()
    seen = weakref.ref(end.connection)
    end.transport.cut()
    await turns()
    gc.disable()
    try:
        del end
        assert seen() is None
    finally:
        gc.enable()


async def test_a_handshake_that_fails_leaves_nothing(sockets: Sockets) -> None:
    end = End(sockets)
    end.outbox.put("one")
    end.outbox.gone(1006, "")
    assert (end.connection.ends, end.outbox._begin, end.outbox._queue) == ([(1006, "")], None, None)
