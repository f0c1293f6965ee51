"""A direct socket, with a transport and a client that do what a test wants: order, bounds and ends."""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import Callable, Iterator
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubs.close_codes import NO_PONG, NOT_READ, UNREACHABLE
from hubs.protocols.framing import frames_of
from hubs.servers import direct, endings, keep_alive
from hubs.servers.direct import DirectSocket, Sockets
from tests.running import PATIENCE
from tests.servers.raw import frame
from tests.servers.transports import Transport, unframed

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MAX_BYTES = 1000
KEEP_ALIVE_SECS = 10.0


class Receiver:
    """An application that writes whatever a socket has room for, and keeps the rest."""

    def __init__(self) -> None:
        self.socket: Any = None
        self.heard: list[str | bytes] = []
        self.ends: list[tuple[int, str]] = []
        self.kept: list[bytes] = []
        # How many messages were kept in the end.
        self.lost = 0
        self.full_now = False
        self.close_with: tuple[int, str] | None = None
        self.on_message: Callable[[str | bytes], None] = lambda message: None

    def opened(self, socket: Any) -> None:
        self.socket = socket

    def receive(self, message: str | bytes) -> None:
        assert not self.ends
        self.heard.append(message)
        self.on_message(message)

    def broken(self, code: int, reason: str) -> None:
        assert not self.ends
        self.close(code, reason)

    def full(self) -> None:
        assert not self.full_now
        assert not self.ends
        self.full_now = True

    def room(self) -> None:
        assert self.full_now
        assert not self.ends
        self.full_now = False
        # No more than there is room for: what came back now, after a close, would be taken for late.
        while self.kept and not self.full_now:
            self.socket.write(self.kept.pop(0))
        self._close_if_done()

    def missed(self, frames: bytes) -> None:
        assert not self.ends
        if self.close_with is None:
            self.kept.append(frames)

    def gone(self, code: int, reason: str) -> None:
        self.ends.append((code, reason))
        self.lost = len(unframed(b"".join(self.kept)))

    def close(self, code: int, reason: str = "bye") -> None:
        """Close behind what is kept."""
        if self.close_with is None:
            self.socket.settle()
            self.close_with = code, reason
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self.close_with is not None and not self.kept:
            self.socket.close(*self.close_with)


class Bench:
    """One server's sockets on a loop that goes round when a test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop or asyncio.SelectorEventLoop()
        self.problems: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.connections: set[Any] = set()
        self.sockets: Sockets = self.within(lambda: Sockets(self.connections, MAX_BYTES, KEEP_ALIVE_SECS))

    def within(self, work: Callable[[], Any]) -> Any:
        """Do something in one turn of the loop."""

        async def run() -> Any:
            return work()

        task = self.loop.create_task(run())
        self.turn()
        return task.result()

    def turn(self) -> None:
        """Let the loop go round once."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def settle(self) -> None:
        rest = 6
        while rest:
            self.turn()
            # Of those that are read in parts every part.
            rest = 6 if any(socket._yields for socket in self.connections) else rest - 1

    def run_until(self, reached: Callable[[], bool]) -> None:
        """Let it go round until something has come about."""
        deadline = self.loop.time() + PATIENCE
        while not reached():
            assert self.loop.time() < deadline
            self.turn()

    def open(self, early: bytes = b"", receiver: Any = None, **bounds: int) -> tuple[Transport, Receiver]:
        """A socket, its transport and its receiver."""
        transport, receiver = Transport(self.loop, **bounds), receiver or Receiver()
        self.within(lambda: DirectSocket(self.sockets, transport.as_transport(), receiver, None, early))
        return transport, receiver

    def end(self) -> None:
        """All clients leave; nothing may be left."""
        for connection in list(self.connections):
            connection._transport.cut()
        self.settle()
        assert self.connections == set()
        assert len(self.sockets.wheel) == 0
        assert self.sockets.wheel._timer is None
        assert self.sockets.entries == []
        assert self.problems == []


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    try:
        yield made
        made.end()
    finally:
        made.loop.close()


# Order

NUMBER = 4

_WHO = st.integers(0, NUMBER - 1)
_MANY = st.sets(_WHO, min_size=1).map(sorted).map(tuple)
_SIZE = st.sampled_from([1, 5, 20, 60, 150])
_STEP = st.one_of(
    st.tuples(st.just("many"), _MANY, _SIZE),
    st.tuples(st.just("many"), _MANY, _SIZE),
    st.tuples(st.just("one"), _WHO, _SIZE),
    st.tuples(st.just("take"), _WHO, st.sampled_from([1, 30, 100, 1000])),
    st.tuples(st.just("take"), _WHO, st.just(1000)),
    st.tuples(st.just("ping"), _WHO, st.just(0)),
    # What a client says is told to many, it among them perhaps, and then answered.
    st.tuples(st.just("say"), _WHO, _SIZE),
    st.tuples(st.just("turn"), st.just(0), st.just(0)),
    st.tuples(st.just("turn"), st.just(0), st.just(0)),
)
_END = st.tuples(st.sampled_from(["close", "leave", "cut", "wrong", "beat"]), _WHO, st.just(0))


class _Story:
    """What happens to some sockets, and what each client has to read."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.ends = [self.bench.open(high=100, low=40) for _ in range(NUMBER)]
        self.audiences: dict[Any, Any] = {}
        self.written: list[list[bytes]] = [[] for _ in range(NUMBER)]
        self.count = 0
        # Those whose end has begun, from which side, and those of which everything has to arrive.
        self.over: dict[int, str] = {}
        for who, (_, receiver) in enumerate(self.ends):
            receiver.on_message = lambda message, who=who: self._heard(who, str(message))

    def _message(self, size: int) -> bytes:
        self.count += 1
        return f"{self.count}:".encode().ljust(size, b".")

    def _note(self, who: int, message: bytes) -> None:
        if who not in self.over:
            self.written[who].append(message)

    def many(self, who: tuple[int, ...], size: int) -> None:
        audience = self.audiences.get(who)
        if audience is None:
            sockets = [self.ends[one][1].socket for one in who]
            audience = self.audiences[who] = sockets[0].together(sockets)
        message = self._message(size)
        for one in who:
            self._note(one, message)
        audience.write(frames_of(message))

    def one(self, who: int, size: int) -> None:
        message = self._message(size)
        self._note(who, message)
        self.ends[who][1].socket.write(frames_of(message))

    def _heard(self, who: int, size: str) -> None:
        self.many((who, (who + 1) % NUMBER), int(size))
        self.one(who, 5)

    def say(self, who: int, size: int) -> None:
        if who not in self.over:
            self.ends[who][0].say(frame(TEXT, str(size).encode()))

    def ping(self, who: int, _: int) -> None:
        self.ends[who][0].say(frame(PING, b"?"))

    def take(self, who: int, size: int) -> None:
        self.ends[who][0].take(size)

    def close(self, who: int, _: int) -> None:
        if who not in self.over:
            self.over[who] = "here"
            self.ends[who][1].close(1000)

    def leave(self, who: int, _: int) -> None:
        self._ends_there(who)
        self.ends[who][0].say(frame(CLOSE, b"\x03\xe8"))

    def _ends_there(self, who: int) -> None:
        # Or it answers our close frame, if that is out already.
        if self.over.get(who) != "here" or self.ends[who][1].kept:
            self.over[who] = "there"

    def wrong(self, who: int, _: int) -> None:
        self._ends_there(who)
        self.ends[who][0].say(b"\xff\xff")

    def cut(self, who: int, _: int) -> None:
        self.over[who] = "cut"
        self.ends[who][0].cut()

    def beat(self, who: int, _: int) -> None:
        self.ends[who][1].socket.beat(b"beat")

    def finish(self) -> None:
        for _ in range(50):
            self.bench.within(lambda: [transport.take() for transport, _ in self.ends])

    def check(self) -> None:
        for who, (transport, receiver) in enumerate(self.ends):
            frames = transport.frames
            closes = [place for place, (opcode, _) in enumerate(frames) if opcode == CLOSE]
            assert closes in ([], [len(frames) - 1]), "something came behind the close frame"
            read = [payload for opcode, payload in frames if opcode == BINARY]
            expected = self.written[who]
            assert read == expected[: len(read)], f"{who} read {read} of {expected}"
            if not transport.aborted:
                assert len(read) == len(expected) - receiver.lost
            over = self.over.get(who)
            if over is None and not transport.aborted:
                assert (receiver.ends, closes) == ([], [])
            if over == "here" and not transport.aborted:
                assert frames[-1] == (CLOSE, b"\x03\xe8bye")
                assert (receiver.ends, receiver.lost) == ([(1000, "bye")], 0)
            assert len(receiver.ends) <= 1
            # A full buffer, what one turn had for it, and control frames.
            assert transport.most < 100 + 300 + 200 + 50


@given(st.lists(st.one_of(_STEP, _STEP, _STEP, _END), max_size=60))
@settings(max_examples=400)
def test_everybody_reads_what_was_written_in_its_order_and_the_end_last(steps: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "MAX_COLLECTED_BYTES", 300)
        story = _Story()
        try:
            while steps:
                # All up to the next turn happens in one.
                length = next((place for place, step in enumerate(steps) if step[0] == "turn"), len(steps))
                now, steps = steps[:length], steps[length + 1 :]
                story.bench.within(lambda now=now: [getattr(story, name)(who, size) for name, who, size in now])
            story.finish()
            story.check()
            story.bench.end()
        finally:
            story.bench.loop.close()


def test_a_turn_of_the_loop_is_one_write_for_each(bench: Bench) -> None:
    ends = [bench.open() for _ in range(3)]
    sockets = [receiver.socket for _, receiver in ends]

    def write() -> None:
        everybody = sockets[0].together(sockets)
        for number in range(10):
            everybody.write(frames_of(str(number)))
        sockets[0].write(frames_of("you"))
        sockets[0].write(frames_of("alone"))

    bench.within(write)
    bench.settle()
    assert [transport.writes for transport, _ in ends] == [2, 1, 1]
    for transport, _ in ends:
        transport.take()
    assert ends[0][0].frames == [(TEXT, b"%d" % number) for number in range(10)] + [(TEXT, b"you"), (TEXT, b"alone")]
    assert ends[2][0].frames == ends[0][0].frames[:10]


def test_after_many_writes_what_comes_in_the_next_turns_leaves_together(bench: Bench) -> None:
    looks = 3
    ends = [bench.open() for _ in range(looks * direct.WRITES_PER_LOOK)]
    sockets = [receiver.socket for _, receiver in ends]
    everybody = sockets[0].together(sockets)
    bench.within(lambda: everybody.write(frames_of("many")))
    bench.settle()
    before = ends[0][0].writes
    for number in range(looks):
        bench.within(lambda number=number: everybody.write(frames_of(str(number))))
        assert ends[0][0].writes == before
    bench.settle()
    assert ends[0][0].writes == before + 1
    # And after a turn with few writes it is as quick as ever.
    bench.settle()
    bench.within(lambda: sockets[0].write(frames_of("one")))
    for _ in range(looks + 1):
        bench.turn()
    bench.within(lambda: sockets[0].write(frames_of("two")))
    bench.turn()
    assert ends[0][0].writes == before + 3
    ends[0][0].take()
    texts = [text for _, text in ends[0][0].frames]
    assert texts == [b"many", *(b"%d" % number for number in range(looks)), b"one", b"two"]


def test_an_echo_is_out_before_what_is_said_behind_it_also_when_the_socket_becomes_full_between(bench: Bench) -> None:
    transport, receiver = bench.open(high=100, low=0)
    others = [bench.open()[1].socket for _ in range(2)]
    audience = receiver.socket.together([receiver.socket, *others])
    second = receiver.socket.together([receiver.socket, others[0]])

    def write() -> None:
        audience.write(frames_of("x" * 200))
        second.write(frames_of("echo"))
        receiver.socket.write(frames_of("ack"))

    bench.within(write)
    for _ in range(3):
        bench.within(transport.take)
        bench.settle()
    assert [payload for _, payload in transport.frames] == [b"x" * 200, b"echo", b"ack"]


def test_what_is_written_while_it_is_full_comes_behind_what_was_kept(bench: Bench) -> None:
    transport, receiver = bench.open(high=100, low=0)
    other = bench.open()[1].socket
    audience = receiver.socket.together([receiver.socket, other])
    bench.within(lambda: receiver.socket.write(frames_of("x" * 200)))
    bench.settle()
    bench.within(lambda: receiver.socket.write(frames_of("kept")))
    assert receiver.kept == [frames_of("kept")]

    def write() -> None:
        audience.write(frames_of("behind"))
        # The client reads in the same turn.
        transport.take()

    bench.within(write)
    bench.settle()
    transport.take()
    assert [payload for _, payload in transport.frames] == [b"x" * 200, b"kept", b"behind"]


def test_sockets_of_several_servers_on_one_loop_are_not_mixed(bench: Bench) -> None:
    other = Bench(bench.loop)
    here, there = bench.open()[1].socket, other.open()[1].socket
    assert here.server is not there.server
    assert here.server is bench.open()[1].socket.server
    other.end()


# Beginning


def test_what_came_early_comes_first(bench: Bench) -> None:
    early = frame(TEXT, b"one") + frame(TEXT, b"two")
    transport = Transport(bench.loop)
    receiver = Receiver()

    def hand_over() -> None:
        DirectSocket(bench.sockets, transport.as_transport(), receiver, None, early[:-2])
        # Read by the loop before it comes to what was called for the next turn, as uvloop does it.
        transport.say(early[-2:] + frame(TEXT, b"three"))

    bench.within(hand_over)
    bench.settle()
    assert receiver.heard == ["one", "two", "three"]


def test_early_messages_wait_for_a_receiver_that_begins_by_holding(bench: Bench) -> None:
    class Busy(Receiver):
        def opened(self, socket: Any) -> None:
            super().opened(socket)
            socket.hold()

    transport, receiver = bench.open(frame(TEXT, b"early"), receiver=Busy())
    bench.within(lambda: transport.say(frame(TEXT, b"late")))
    bench.settle()
    assert receiver.heard == []
    bench.within(receiver.socket.read_on)
    bench.settle()
    assert receiver.heard == ["early", "late"]


def test_a_client_whose_messages_wait_is_read_ahead(bench: Bench) -> None:
    transport, receiver = bench.open()
    bench.within(receiver.socket.hold)
    bench.within(lambda: transport.say(frame(TEXT, b"one") + frame(PING, b"there?") + frame(TEXT, b"two")))
    bench.settle()
    transport.take()
    assert (receiver.heard, transport.frames) == ([], [(PONG, b"there?")])
    # It says goodbye, and is heard to the end.
    bench.within(lambda: transport.say(frame(TEXT, b"three") + frame(CLOSE, b"\x03\xe8bye")))
    bench.settle()
    assert (receiver.heard, receiver.ends) == (["one", "two", "three"], [(1000, "bye")])


def test_what_is_read_ahead_is_bounded(bench: Bench) -> None:
    transport, receiver = bench.open()
    bench.within(receiver.socket.hold)
    message = frame(BINARY, bytes(MAX_BYTES))
    for _ in range(200):
        bench.within(lambda: transport.say(message))
    kept = receiver.socket._ahead
    assert sum(map(len, kept)) <= direct.MAX_AHEAD_BYTES + MAX_BYTES
    assert len(transport.unread) > 100 * MAX_BYTES
    # So are tiny ones, by their number.
    tiny, other = bench.open()
    bench.within(other.socket.hold)
    bench.within(lambda: tiny.say(frame(TEXT) * 100_000))
    bench.settle()
    assert len(other.socket._ahead) <= direct.MAX_AHEAD_BYTES // direct.AHEAD_BYTES_EACH + 1
    bench.within(other.socket.read_on)
    bench.within(receiver.socket.read_on)
    bench.settle()
    assert (len(receiver.heard), len(other.heard)) == (200, 100_000)
    assert (transport.reading, tiny.reading) == (True, True)
    assert bench.sockets.wheel._watched == {}


class Peer:
    """The kernel's end of a client's connection."""

    def __init__(self, state: int = 1, unacked: int = 0, last_ack_ms: int = 0) -> None:
        self.state, self.unacked, self.last_ack_ms = state, unacked, last_ack_ms
        self.linger: tuple[int, int] | None = None

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        assert (level, option) == (SOL_SOCKET, SO_LINGER)
        self.linger = struct.unpack("ii", value)

    def getsockopt(self, *_: Any) -> bytes:
        info = bytearray(60)
        info[0] = self.state
        info[24:28] = self.unacked.to_bytes(4, sys.byteorder)
        info[56:60] = self.last_ack_ms.to_bytes(4, sys.byteorder)
        return bytes(info)


def _past_the_bound(bench: Bench, peer: Peer | None) -> tuple[Transport, Receiver]:
    """A client of which more has come than is read, and which the wheel watches."""
    transport, receiver = bench.open()
    transport.socket = peer
    bench.within(receiver.socket.hold)
    bench.within(lambda: transport.say(frame(TEXT) * 5000 + frame(CLOSE, b"\x03\xe8bye")))
    bench.settle()
    assert not transport.reading
    assert receiver.socket in bench.sockets.wheel._watched
    return transport, receiver


def test_a_client_that_is_not_read_is_sent_pings_and_stays(bench: Bench) -> None:
    for peer in (None, Peer(), Peer(last_ack_ms=100_000), Peer(unacked=1, last_ack_ms=9000)):
        transport, receiver = _past_the_bound(bench, peer)
        for payload in (None, b"1111", None, b"2222"):
            bench.within(lambda receiver=receiver, payload=payload: receiver.socket.probe(payload))
            # Nor is it dropped for not answering them.
            bench.within(lambda receiver=receiver: receiver.socket.beat(b"beat"))
        bench.settle()
        transport.take()
        assert (transport.frames, receiver.ends) == ([(PING, b"1111"), (PING, b"2222")], [])


CLOSED, CLOSE_WAIT = 7, 8


@pytest.mark.parametrize("state", [CLOSED, CLOSE_WAIT])
def test_of_a_client_that_has_left_what_was_not_read_is_read_for_its_goodbye_alone(bench: Bench, state: int) -> None:
    _, receiver = _past_the_bound(bench, Peer(state))
    ahead = len(receiver.socket._ahead)
    bench.within(lambda: receiver.socket.probe(None))
    bench.settle()
    assert (len(receiver.heard), receiver.ends) == (ahead, [(1000, "bye")])
    assert receiver.socket not in bench.sockets.wheel._watched


def test_a_client_whose_machine_is_gone_is_dropped(bench: Bench) -> None:
    transport, receiver = _past_the_bound(bench, Peer(unacked=2, last_ack_ms=11_000))
    bench.within(lambda: receiver.socket.probe(b"1111"))
    bench.settle()
    assert (transport.aborted, receiver.ends) == (True, [(1006, UNREACHABLE.reason)])
    assert transport.socket.linger == (1, 0)


def test_a_server_that_stops_takes_leave_of_a_client_that_is_not_read(bench: Bench) -> None:
    transport, receiver = _past_the_bound(bench, Peer())
    bench.within(receiver.socket.shutdown)
    bench.settle()
    transport.take()
    # Its own close frame lies behind what nobody reads, and is found all the same.
    assert (transport.frames, receiver.ends, receiver.heard) == ([(CLOSE, b"\x03\xe9")], [(1001, "")], [])
    bench.settle()
    assert transport.lost


def test_a_receiver_that_cannot_begin(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Receiver):
        def opened(self, socket: Any) -> None:
            raise RuntimeError("the test's own")

    transport, receiver = bench.open(receiver=Failing())
    bench.settle()
    transport.take()
    assert transport.frames == [(CLOSE, b"\x03\xf3Internal server error")]
    assert receiver.ends == [(1011, "Internal server error")]
    assert "could not be begun" in caplog.text
    caplog.clear()


# Reading


def test_messages_of_one_read_are_given_one_after_the_other_and_none_while_it_holds(bench: Bench) -> None:
    transport, receiver = bench.open()
    receiver.on_message = lambda message: receiver.socket.hold()
    bench.within(lambda: transport.say(b"".join(frame(TEXT, b"%d" % number) for number in range(3))))
    for number in range(3):
        assert receiver.heard == [str(one) for one in range(number + 1)]
        bench.within(receiver.socket.read_on)
        bench.settle()
    assert transport.reading


def test_a_receiver_may_read_on_at_once(bench: Bench) -> None:
    transport, receiver = bench.open()
    depth = [0]

    def at_once(message: str | bytes) -> None:
        assert depth[0] == 0, "a message within another"
        depth[0] += 1
        receiver.socket.hold()
        receiver.socket.read_on()
        depth[0] -= 1

    receiver.on_message = at_once
    bench.within(lambda: transport.say(frame(TEXT, b"x") * 2000))
    while len(receiver.heard) < 2000:
        before = len(receiver.heard)
        bench.settle()
        assert len(receiver.heard) > before


FLOODS = {
    "pings": (frame(PING), 0),
    "messages": (frame(TEXT, b"x"), 5000),
    "pieces": (frame(CONTINUATION, final=False), 0),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_client_gets_no_more_than_its_part_of_the_loop(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled = [0]
    unwatched = direct.Reader.next

    def next_frame(reader: direct.Reader) -> Any:
        handled[0] += 1
        return unwatched(reader)

    monkeypatch.setattr(direct.Reader, "next", next_frame)
    # Time stands still between the turns, for however long this program is held up.
    now = bench.loop.time()
    monkeypatch.setattr(bench.loop, "time", lambda: now)
    transport, receiver = bench.open()
    (other, _), (sent, messages) = bench.open(), FLOODS[name]
    begin, end = (frame(BINARY, final=False), frame(CONTINUATION)) if name == "pieces" else (b"", b"")
    bench.within(lambda: transport.say(begin + sent * 5000 + end + frame(TEXT, b"last")))
    for _ in range(3):
        # It is not read further, nor taken for silent, and another client is answered meanwhile.
        assert not transport.reading
        receiver.socket.beat(b"beat")
        bench.within(lambda: other.say(frame(PING, b"other")))
        bench.turn()
        other.take()
        assert other.frames.pop() == (PONG, b"other")
        other.taken.clear()
        before, handled[0] = handled[0], 0
        assert before <= direct.FRAMES_PER_TURN + 3
        now += direct.REST_SECS
        bench.turn()
        assert handled[0] > 0
    monkeypatch.undo()
    bench.settle()
    assert receiver.heard[messages + (name == "pieces") :] == ["last"]
    assert transport.reading
    assert not receiver.socket._unanswered


@pytest.mark.parametrize("how", ["cut", "close"])
def test_what_was_read_of_a_client_is_handled_though_it_is_gone(bench: Bench, how: str) -> None:
    transport, receiver = bench.open()
    close = frame(CLOSE, b"\x03\xe8bye") if how == "close" else b""
    receiver.on_message = lambda message: receiver.socket.write(frames_of("answer"))
    bench.within(lambda: transport.say(frame(TEXT, b"x") * 1000 + close + frame(TEXT, b"behind")))
    assert len(receiver.heard) == direct.FRAMES_PER_TURN
    transport.cut()
    bench.settle()
    assert len(receiver.heard) == (1000 if how == "close" else 1001)
    assert receiver.ends == [(1000, "bye") if how == "close" else (1006, "")]
    assert receiver.socket not in bench.connections


def test_a_socket_that_is_read_in_parts_is_held_and_closed_as_any(bench: Bench) -> None:
    transport, receiver = bench.open()
    bench.within(lambda: transport.say(frame(BINARY, b"x" * 100) * 2000))
    bench.within(receiver.socket.hold)
    bench.settle()
    # Read ahead up to the bound, and not read any more.
    before = len(receiver.heard)
    assert before < 2000
    assert not transport.reading
    bench.within(receiver.socket.read_on)
    bench.settle()
    assert (len(receiver.heard), transport.reading) == (2000, True)
    bench.within(lambda: transport.say(frame(BINARY, b"x" * 100) * 2000 + frame(CLOSE, b"\x03\xe9")))
    bench.within(receiver.socket.shutdown)
    bench.settle()
    assert len(receiver.heard) < 3000
    assert (receiver.ends, transport.ended) == ([(1001, "")], True)


def test_a_large_read_is_the_last_for_now(bench: Bench) -> None:
    transport, receiver = bench.open()
    bench.within(lambda: transport.say(frame(BINARY, b"x" * MAX_BYTES) * (direct.LARGE_READ_BYTES // MAX_BYTES)))
    assert len(receiver.heard) == direct.LARGE_READ_BYTES // MAX_BYTES
    assert not transport.reading
    bench.run_until(lambda: transport.reading)


def test_a_receiver_that_fails(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    transport, receiver = bench.open()

    def fail(message: str | bytes) -> None:
        # One that could be taken for the client's fault.
        b"\xff".decode()

    receiver.on_message = fail
    bench.within(lambda: transport.say(frame(TEXT, b"a") + frame(TEXT, b"b")))
    bench.settle()
    transport.take()
    assert receiver.heard == ["a"]
    assert transport.frames == [(CLOSE, b"\x03\xf3Internal server error")]
    assert receiver.ends == [(1011, "Internal server error")]
    assert "could not be handled" in caplog.text
    caplog.clear()


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        (b"\xff\xff", 1002, "The client frame is invalid."),
        (frame(TEXT, b"\xff"), 1007, "The client message is not valid UTF-8."),
        (frame(BINARY, b"x" * (MAX_BYTES + 1)), 1009, "The client message is too large."),
        (frame(CLOSE, b"\x03"), 1002, "The client frame is invalid."),
    ],
    ids=["noise", "no text", "too large", "no close frame"],
)
def test_faults(bench: Bench, sent: bytes, code: int, reason: str) -> None:
    transport, receiver = bench.open(frame(TEXT, b"before"))
    bench.within(lambda: transport.say(sent + frame(TEXT, b"behind")))
    bench.within(lambda: transport.say(frame(TEXT, b"later")))
    bench.settle()
    transport.take()
    assert receiver.heard == ["before"]
    assert receiver.ends == [(code, reason)]
    assert transport.frames == [(CLOSE, code.to_bytes(2, "big") + reason.encode())]
    # Our side is shut at once; the client's follows.
    assert transport.ended
    bench.settle()
    assert transport.lost


def test_a_receiver_may_finish_before_it_closes_for_a_fault(bench: Bench) -> None:
    class Busy(Receiver):
        def broken(self, code: int, reason: str) -> None:
            self.fault = code, reason

    transport, receiver = bench.open(receiver=Busy())
    bench.within(receiver.socket.hold)
    bench.within(lambda: transport.say(frame(TEXT, b"before") + b"\xff\xff" + frame(TEXT, b"behind")))
    # Nothing more is read, and it is kept alive by what it sends.
    for _ in range(3):
        bench.within(lambda: receiver.socket.beat(b"beat"))
        bench.within(lambda: transport.say(b"noise" * 100_000))
    assert (receiver.heard, receiver.ends, transport.ended) == (["before"], [], False)
    bench.within(lambda: receiver.socket.write(frames_of("answer")))
    bench.within(lambda: receiver.close(*receiver.fault))
    bench.settle()
    transport.take()
    assert [payload for opcode, payload in transport.frames if opcode != PING] == [
        b"answer",
        b"\x03\xeaThe client frame is invalid.",
    ]
    assert (receiver.ends, transport.ended) == ([(1002, "The client frame is invalid.")], True)
    # One that leaves meanwhile is gone.
    transport, receiver = bench.open(receiver=Busy())
    bench.within(lambda: transport.say(b"\xff\xff"))
    bench.within(transport.end)
    bench.settle()
    assert receiver.ends == [(1006, "")]


def test_a_fault_behind_an_early_message_is_found_once(bench: Bench) -> None:
    transport, receiver = bench.open(frame(TEXT, b"before") + b"\xff\xff", receiver=None)
    bench.within(lambda: transport.say(b"more"))
    bench.settle()
    transport.take()
    assert [opcode for opcode, _ in transport.frames] == [CLOSE]
    assert len(receiver.ends) == 1


# The end


def test_the_close_frame_comes_last_and_what_is_written_behind_it_is_dropped(bench: Bench) -> None:
    transport, receiver = bench.open()
    other = bench.open()[1].socket
    audience = receiver.socket.together([receiver.socket, other])

    def end() -> None:
        audience.write(frames_of("to many"))
        receiver.socket.write(frames_of("to one"))
        audience.write(frames_of("to many again"))
        receiver.socket.close(4000, "why")
        assert receiver.ends == []
        receiver.socket.write(frames_of("behind"))
        audience.write(frames_of("behind"))
        receiver.socket.close(1000)

    bench.within(end)
    bench.settle()
    transport.take()
    assert [payload for _, payload in transport.frames] == [b"to many", b"to one", b"to many again", b"\x0f\xa0why"]
    assert receiver.ends == [(4000, "why")]
    bench.within(lambda: transport.say(frame(TEXT, b"late") + frame(CLOSE, b"\x0f\xa0")))
    bench.settle()
    assert (receiver.heard, receiver.ends, transport.lost) == ([], [(4000, "why")], True)


def test_behind_a_close_frame_our_side_is_shut_and_the_client_is_read_until_it_shuts_its_own(bench: Bench) -> None:
    transport, receiver = bench.open()
    transport.stays = True
    bench.within(lambda: transport.say(frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"behind")))
    bench.settle()
    transport.take()
    # To close now, with bytes unread, would reset the connection.
    bench.within(lambda: transport.say(frame(TEXT, b"late") * 100 + b"\xff\xff"))
    assert (transport.ended, transport.closing, transport.unread) == (True, False, b"")
    assert (transport.frames, receiver.heard) == ([(CLOSE, b"\x03\xe8")], [])
    bench.within(transport.end)
    bench.settle()
    assert transport.lost


def test_the_rest_of_a_frame_that_is_too_large_is_waited_for_but_not_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = frame(BINARY, bytes(10 * MAX_BYTES))
    transport, receiver = bench.open()
    bench.within(lambda: transport.say(large[:-10]))
    bench.settle()
    # It is told so, and can send to the end what it has begun.
    assert (receiver.ends[0][0], transport.ended) == (1009, False)
    bench.within(lambda: transport.say(large[-10:]))
    assert transport.ended
    monkeypatch.setattr(endings, "QUIET_SECS", 0.0)
    transport, receiver = bench.open()
    bench.within(lambda: transport.say(large[:-10]))
    bench.run_until(lambda: transport.ended)
    bench.within(lambda: transport.say(large[-10:]))


def test_a_client_that_says_goodbye_gets_what_was_written_before(bench: Bench) -> None:
    transport, receiver = bench.open()
    audience = receiver.socket.together([receiver.socket, bench.open()[1].socket])
    receiver.on_message = lambda message: audience.write(frames_of(f"echo of {message}"))
    bench.within(lambda: transport.say(frame(TEXT, b"this") + frame(CLOSE, b"\x03\xe9why") + frame(TEXT, b"behind")))
    bench.settle()
    transport.take()
    assert transport.frames == [(TEXT, b"echo of this"), (CLOSE, b"\x03\xe9why")]
    assert (receiver.heard, receiver.ends) == (["this"], [(1001, "why")])


def test_a_socket_that_is_lost_while_it_holds(bench: Bench) -> None:
    transport, receiver = bench.open()
    receiver.on_message = lambda message: receiver.socket.hold()
    bench.within(lambda: transport.say(frame(TEXT, b"a") + frame(TEXT, b"b")))
    bench.within(transport.cut)
    bench.settle()
    assert receiver.ends == [(1006, "")]
    # What was read is given before the end. What waited for room goes on now; there is nothing to go on with.
    bench.within(receiver.socket.read_on)
    bench.settle()
    assert receiver.heard == ["a", "b"]


def test_one_that_closes_while_it_holds_hears_the_answer(bench: Bench) -> None:
    transport, receiver = bench.open()
    receiver.on_message = lambda message: receiver.socket.hold()
    bench.within(lambda: transport.say(frame(TEXT, b"a")))
    bench.within(lambda: receiver.socket.close(1000))
    bench.within(receiver.socket.hold)
    bench.within(lambda: transport.say(frame(TEXT, b"b") + frame(CLOSE, b"\x03\xe8")))
    transport.take()
    bench.settle()
    assert (receiver.heard, transport.lost) == (["a"], True)


def test_who_fails_at_the_end_is_gone_all_the_same(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Receiver):
        def gone(self, code: int, reason: str) -> None:
            raise RuntimeError("the test's own")

    transport, _ = bench.open(receiver=Failing())
    bench.within(transport.cut)
    bench.settle()
    assert bench.connections == set()
    assert "could not be handled" in caplog.text
    caplog.clear()


def test_a_client_that_does_not_answer_a_close_is_cut_off(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "CLOSING_SECS", 0.0)
    transport, receiver = bench.open(high=10)
    bench.within(lambda: receiver.socket.write(frames_of("x" * 100)))
    bench.within(lambda: receiver.socket.close(1000))
    while not transport.lost:
        bench.turn()
    assert transport.aborted
    bench.settle()


def test_the_server_stops(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "STOPPING_SECS", 0.2)
    transport, receiver = bench.open()
    closing, _ = bench.open()
    bench.within(lambda: receiver.socket.write(frames_of("last")))

    def stop() -> None:
        for socket in list(bench.connections):
            socket.shutdown()

    bench.within(stop)
    bench.settle()
    transport.take()
    assert transport.frames == [(TEXT, b"last"), (CLOSE, b"\x03\xe9")]
    assert receiver.ends == [(1001, "")]
    closing.take()
    # The clients have a moment to answer; asked again, the server gives them none beyond that.
    monkeypatch.setattr(endings, "STOPPING_SECS", 1000.0)
    bench.within(stop)
    bench.run_until(lambda: not bench.connections)
    assert (transport.lost, closing.lost) == (True, True)


def test_a_server_that_stops_waits_no_longer_for_ends_that_had_begun(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has more time for its end than a server has that stops, and uses it."""
    monkeypatch.setattr(endings, "STOPPING_SECS", 0.0)
    ends = [bench.open(high=10) for _ in range(4)]
    for _, receiver in ends:
        bench.within(lambda receiver=receiver: receiver.socket.write(frames_of("x" * 100)))
    closed, left, wrong, _ = ends
    bench.within(lambda: closed[1].socket.close(1000))
    bench.within(lambda: left[0].say(frame(CLOSE, b"\x03\xe8")))
    bench.within(lambda: wrong[0].say(b"\xff\xff"))
    bench.settle()
    assert len(bench.connections) == 4
    bench.within(lambda: [socket.shutdown() for socket in list(bench.connections)])
    bench.run_until(lambda: not bench.connections)
    assert [transport.aborted for transport, _ in ends] == [True] * 4
    assert [receiver.ends[0][0] for _, receiver in ends] == [1000, 1000, 1002, 1001]


# Bounds, and one that fails among many


def test_pongs_for_a_client_that_does_not_read_are_bounded(bench: Bench) -> None:
    transport, receiver = bench.open(high=1000)
    for _ in range(200):
        bench.within(lambda: transport.say(frame(PING, b"x" * 100) * 50))
    assert transport.most < direct.MAX_COLLECTED_BYTES + 10_000
    assert receiver.kept == []
    # The last one is answered when there is room, and those that come then.
    bench.within(lambda: transport.say(frame(PING, b"then")))
    bench.within(transport.take)
    bench.within(lambda: transport.say(frame(PING, b"now")))
    bench.settle()
    transport.take()
    assert transport.frames[-2:] == [(PONG, b"then"), (PONG, b"now")]


def test_one_turn_does_not_fill_the_memory_for_a_client_that_does_not_read(bench: Bench) -> None:
    transport, receiver = bench.open()
    other = bench.open()[1].socket
    audience = receiver.socket.together([receiver.socket, other])
    message = frames_of(b"x" * 10_000)

    def write() -> None:
        for _ in range(500):
            audience.write(message)
            receiver.socket.write(message)
        # The server has not kept it, in this turn either.
        assert sum(map(len, receiver.socket._collected)) <= direct.MAX_COLLECTED_BYTES
        assert sum(len(frames) for _, entry in bench.sockets.entries for frames in entry) <= direct.MAX_COLLECTED_BYTES

    bench.within(write)
    bench.settle()
    assert transport.most <= 64 * 1024 + 2 * (direct.MAX_COLLECTED_BYTES + len(message))
    assert len(b"".join(receiver.kept)) + transport.most == 1000 * len(message)


def test_one_that_cannot_be_written_to_does_not_keep_the_others_from_anything(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    ends = [bench.open() for _ in range(6)]
    sockets = [receiver.socket for _, receiver in ends]
    audience = sockets[0].together(sockets)
    for place in (0, 2):
        ends[place][0].problem = RuntimeError("the test's own")

    def write() -> None:
        audience.write(frames_of("to many"))
        for socket in sockets[2:4]:
            socket.write(frames_of("to one"))

    bench.within(write)
    bench.settle()
    for place, (transport, receiver) in enumerate(ends):
        transport.take()
        assert (transport.lost, receiver.ends != []) == (place in (0, 2),) * 2
        if place not in (0, 2):
            assert (TEXT, b"to many") in transport.frames
    assert ends[3][0].frames == [(TEXT, b"to many"), (TEXT, b"to one")]
    assert "could not be written" in caplog.text
    caplog.clear()


# Keeping alive


def _beat(bench: Bench, *receivers: Receiver) -> None:
    """Half of the time between two pings has passed."""
    bench.within(lambda: [receiver.socket.beat(b"beat") for receiver in receivers])
    bench.settle()


def _pings(transport: Transport) -> int:
    transport.take()
    return [opcode for opcode, _ in transport.frames].count(PING)


def test_a_client_that_answers_pings_stays_and_one_that_does_not_goes(bench: Bench) -> None:
    alive, dead, held = (bench.open() for _ in range(3))
    dead[0].socket = Peer()
    bench.within(held[1].socket.hold)
    for pings in (1, 2, 3):
        _beat(bench, alive[1], dead[1], held[1])
        assert _pings(alive[0]) == pings
        assert dead[1].ends == ([] if pings == 1 else [(1006, NO_PONG.reason)])
        bench.within(lambda: alive[0].say(frame(PONG, b"beat")))
        # To see whether it was answered.
        _beat(bench, alive[1], dead[1], held[1])
        assert _pings(alive[0]) == pings
    # With a reset: nothing of it is left in the system.
    assert dead[0].socket.linger == (1, 0)
    # That its receiver is busy is no excuse: it is read, and pings are answered.
    assert (alive[1].ends, held[1].ends, alive[1].heard) == ([], [(1006, NO_PONG.reason)], [])


def test_to_send_is_not_to_answer(bench: Bench) -> None:
    silent, chatty, uploading = (bench.open() for _ in range(3))
    ends: dict[str, int] = {}
    for half in range(1, 20):
        _beat(bench, silent[1], chatty[1], uploading[1])
        for name, (transport, receiver) in {"silent": silent, "chatty": chatty, "uploading": uploading}.items():
            if receiver.ends:
                assert receiver.ends == [(1006, NO_PONG.reason)]
                ends.setdefault(name, half)
            elif name == "chatty":
                bench.within(lambda transport=transport: transport.say(frame(TEXT, b"hello")))
            elif name == "uploading":
                # Its pong is behind that, perhaps; but not for ever.
                messages = keep_alive.UPLOAD_BYTES // MAX_BYTES + 1
                bench.within(lambda transport=transport, n=messages: transport.say(frame(BINARY, bytes(MAX_BYTES)) * n))
        bench.settle()
    assert ends == {"silent": 2, "chatty": 2, "uploading": 2 * keep_alive.MOST_UNANSWERED}


def test_for_how_long_a_client_was_silent(bench: Bench) -> None:
    transport, receiver = bench.open()
    half = KEEP_ALIVE_SECS / 2
    said = [frame(TEXT), frame(PONG, b"beat"), b"", b""]
    silence: list[float] = []
    for data in said:
        bench.within(lambda data=data: data and transport.say(data))
        _beat(bench, receiver)
        silence.append(receiver.socket.silent_secs)
    # Told when it matters: all that is known is that it was silent for two halves, and less than three.
    assert silence == [0, 0, 0, 2 * half]
    assert receiver.ends == [(1006, NO_PONG.reason)]


class _Clock:
    """A wheel that turns when a test says so."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.wheel = bench.sockets.wheel
        self.wheel.write_secs = 10.0

    def slots(self, count: int, each: Callable[[], None] = lambda: None) -> None:
        for _ in range(count):
            each()
            self.bench.within(self.wheel._turn)
            self.bench.settle()


def test_a_client_that_takes_nothing_is_cut_off_in_time(bench: Bench) -> None:
    clock = _Clock(bench)
    slots = round(clock.wheel.write_secs / clock.wheel.slot_secs)
    (_, one), (slow, two), (quick, three) = (bench.open(high=1 << 16) for _ in range(3))
    bench.within(lambda: [each.socket.write(frames_of(bytes(100_000))) for each in (one, two, three)])
    bench.settle()
    # What is written meanwhile comes back: it does not count as waiting in the transport.
    bench.within(lambda: [each.socket.write(frames_of(b"more")) for each in (one, two, three)])
    assert (one.full_now, two.full_now, three.full_now) == (True, True, True)
    least = keep_alive.LEAST_BYTES_PER_SEC * clock.wheel.write_secs / slots

    def reads() -> None:
        slow.take(int(least * 0.9))
        quick.take(int(least * 1.2))

    clock.slots(slots - 1, reads)
    assert (one.ends, two.ends, three.ends) == ([], [], [])
    clock.slots(1, reads)
    assert (one.ends, two.ends, three.ends) == ([(1008, NOT_READ.reason)], [(1008, NOT_READ.reason)], [])
    # Behind what the transport has, in case they read on.
    slow.take()
    assert slow.frames == [(BINARY, bytes(100_000)), (CLOSE, b"\x03\xf0" + NOT_READ.reason.encode())]
    # As long as it takes enough; and it is sent no ping that would come behind all of that.
    clock.slots(2 * slots, reads)
    assert three.ends == []
    assert three.socket in clock.wheel._watched
    quick.take()
    bench.settle()
    quick.take()
    assert three.socket not in clock.wheel._watched
    assert [opcode for opcode, _ in quick.frames] == [BINARY, BINARY]
