"""One client's frames: in order, and never in the reader's way for long."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from hubs.connections.frame_queue import URGENT_FRAMES, Continuation, FrameQueue
from hubs.errors import Disconnect
from hubs.protocols.frames import CancelInvocation, JoinGroup, Payload, Ping, SequenceAck, Upstream, UserEvent
from tests.connections.conftest import WebPubSub, soon, turns


def _event(name: str, size: int = 0) -> UserEvent:
    return UserEvent(name, Payload("text", bytes(size)))


class Handler:
    """Notes frames by name; an event waits until it is let go."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []
        self.cancelled: list[str] = []
        self.failures: list[Disconnect] = []
        self.go_on = asyncio.Event()
        self.fails_at: str | None = None
        self.frames = FrameQueue(self.begin, self.failures.append)

    def begin(self, frame: Upstream) -> Continuation | None:
        name = frame.event if isinstance(frame, UserEvent) else frame.group if isinstance(frame, JoinGroup) else "ping"
        self.begun.append(name)
        if isinstance(frame, UserEvent):
            return partial(self.wait, name)
        self.end(name)
        return None

    async def wait(self, name: str) -> None:
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        self.end(name)

    def end(self, name: str) -> None:
        if name == self.fails_at:
            raise Disconnect(1011, "Internal server error")
        self.done.append(name)

    async def finished(self, count: int) -> None:
        """Wait until so many frames are done."""
        while len(self.done) < count:
            await asyncio.sleep(0)


@pytest.fixture
def handler() -> Handler:
    return Handler()


async def test_most_frames_are_done_when_put_returns(handler: Handler) -> None:
    before = asyncio.all_tasks()
    await handler.frames.put(JoinGroup("a"))
    await handler.frames.put(Ping())
    assert handler.done == ["a", "ping"]
    assert asyncio.all_tasks() == before


async def test_a_slow_frame_does_not_hold_up_the_reader(handler: Handler) -> None:
    await soon(handler.frames.put(_event("e")))
    await soon(handler.frames.put(JoinGroup("a")))
    await turns()
    assert (handler.begun, handler.done) == (["e"], [])
    handler.go_on.set()
    await soon(handler.finished(2))
    assert handler.done == ["e", "a"]


async def test_frames_are_done_in_order_and_one_at_a_time(handler: Handler) -> None:
    for name in ("e1", "e2", "e3"):
        await handler.frames.put(_event(name))
        await handler.frames.put(JoinGroup(f"after {name}"))
    await turns()
    assert handler.begun == ["e1"]
    handler.go_on.set()
    await soon(handler.finished(6))
    assert handler.done == ["e1", "after e1", "e2", "after e2", "e3", "after e3"]
    # And the queue is free again.
    await turns()
    await handler.frames.put(Ping())
    assert handler.done[-1] == "ping"


@pytest.mark.parametrize("bound", [1, 2, 5])
async def test_so_many_frames_are_read_ahead_and_then_the_reader_waits(
    handler: Handler, webpubsub: WebPubSub, bound: int
) -> None:
    webpubsub(MAX_WAITING_FRAMES=bound)
    await soon(handler.frames.put(_event("e")))
    await turns()
    for number in range(bound - 1):
        await soon(handler.frames.put(JoinGroup(str(number))))
    last = asyncio.create_task(handler.frames.put(JoinGroup("last")))
    await turns()
    assert not last.done()
    handler.go_on.set()
    await soon(last)
    await soon(handler.finished(bound + 1))
    assert handler.done[-1] == "last"


async def test_what_waits_is_bounded_in_bytes(handler: Handler, webpubsub: WebPubSub) -> None:
    webpubsub(MAX_WAITING_BYTES=1000)
    queue = handler.frames
    assert queue.put_nowait(_event("e", 5000))
    # Not what is being handled, and the one that passes the bound is still taken.
    assert queue.put_nowait(_event("a", 600))
    assert not queue.put_nowait(_event("b", 600))
    called: list[str] = []
    queue.when_room(lambda: called.append("room"))
    # Nor is there room for one that is small.
    assert not queue.put_nowait(JoinGroup("small"))
    assert called == []
    handler.go_on.set()
    await soon(handler.finished(4))
    assert (called, queue._bytes) == (["room"], 0)
    queue.stop()
    assert queue.put_nowait(_event("late", 5000))
    assert queue._bytes == 0


async def test_the_first_slow_frame_alone_never_makes_the_reader_wait(handler: Handler, webpubsub: WebPubSub) -> None:
    webpubsub(MAX_WAITING_FRAMES=1)
    await soon(handler.frames.put(_event("e")))
    assert handler.done == []
    handler.frames.stop()


async def test_stopping_gives_up_what_runs_and_what_waits(handler: Handler) -> None:
    await handler.frames.put(_event("e"))
    await handler.frames.put(JoinGroup("a"))
    await turns()
    handler.frames.stop()
    await turns()
    handler.go_on.set()
    await handler.frames.put(Ping())
    await handler.frames.put(_event("late"))
    await turns()
    assert handler.cancelled == ["e"]
    assert handler.done == []
    assert handler.failures == []


async def test_stopping_before_anything_began(handler: Handler) -> None:
    await handler.frames.put(_event("e"))
    handler.frames.stop()
    handler.go_on.set()
    await turns()
    assert handler.done == []


async def test_stopping_frees_a_reader_that_waits(handler: Handler, webpubsub: WebPubSub) -> None:
    webpubsub(MAX_WAITING_FRAMES=1)
    await handler.frames.put(_event("e"))
    reader = asyncio.create_task(handler.frames.put(JoinGroup("a")))
    await turns()
    assert not reader.done()
    handler.frames.stop()
    await soon(reader)
    assert handler.done == []


async def test_a_frame_that_ends_the_connection_is_the_last(handler: Handler) -> None:
    handler.fails_at = "bad"
    await handler.frames.put(JoinGroup("bad"))
    await handler.frames.put(JoinGroup("b"))
    await handler.frames.put(_event("e"))
    handler.go_on.set()
    await turns()
    assert handler.begun == ["bad"]
    assert [failure.code for failure in handler.failures] == [1011]


async def test_frames_behind_a_slow_one_that_ends_the_connection_are_not_done(
    handler: Handler, webpubsub: WebPubSub
) -> None:
    webpubsub(MAX_WAITING_FRAMES=3)
    handler.fails_at = "bad"
    await handler.frames.put(_event("bad"))
    await turns()
    await handler.frames.put(JoinGroup("b"))
    await handler.frames.put(_event("e"))
    reader = asyncio.create_task(handler.frames.put(JoinGroup("c")))
    await turns()
    assert not reader.done()
    handler.go_on.set()
    await soon(reader)
    await handler.frames.put(Ping())
    assert handler.begun == ["bad"]
    assert len(handler.failures) == 1


BROKEN = Disconnect(1007, "broken")


async def test_a_broken_message_ends_it_at_once_when_nothing_is_waited_for(handler: Handler) -> None:
    handler.frames.fail(BROKEN)
    handler.frames.fail(Disconnect(1003))
    await handler.frames.put(Ping())
    assert handler.failures == [BROKEN]
    assert handler.begun == []


async def test_a_broken_message_takes_its_turn(handler: Handler) -> None:
    await handler.frames.put(_event("e"))
    await handler.frames.put(JoinGroup("before"))
    handler.frames.fail(BROKEN)
    handler.frames.fail(Disconnect(1003))
    await handler.frames.put(JoinGroup("behind"))
    await turns()
    assert handler.failures == []
    handler.go_on.set()
    await soon(handler.finished(2))
    await turns()
    assert handler.done == ["e", "before"]
    assert handler.failures == [BROKEN]


async def test_a_broken_message_behind_a_frame_that_ends_the_connection(handler: Handler) -> None:
    handler.fails_at = "bad"
    await handler.frames.put(_event("bad"))
    handler.frames.fail(BROKEN)
    handler.go_on.set()
    await turns(10)
    assert [failure.code for failure in handler.failures] == [1011]


async def test_stopping_forgets_a_broken_message(handler: Handler) -> None:
    await handler.frames.put(_event("e"))
    await turns()
    handler.frames.fail(BROKEN)
    handler.frames.stop()
    await turns()
    assert handler.failures == []


# Two readers: a reliable client that changes sockets


class ConcurrencyLimit(Handler):
    """Has every frame wait until it is let go."""

    def begin(self, frame: Upstream) -> Continuation | None:
        self.begun.append(_name(frame))
        if not isinstance(frame, URGENT_FRAMES):
            return partial(self.wait, _name(frame))
        self.end(_name(frame))
        return None


def _name(frame: Upstream) -> str:
    return frame.group if isinstance(frame, JoinGroup) else frame.event if isinstance(frame, UserEvent) else "ack"


async def test_a_second_reader_waits_for_the_frame_of_the_first() -> None:
    handler = ConcurrencyLimit()
    first = asyncio.create_task(handler.frames.put(JoinGroup("1")))
    await turns()
    await soon(handler.frames.put(JoinGroup("2")))
    await soon(handler.frames.put(_event("3")))
    await turns()
    assert handler.begun == ["1"]
    handler.go_on.set()
    await soon(first)
    await soon(handler.finished(3))
    assert handler.done == ["1", "2", "3"]
    await turns()
    await handler.frames.put(JoinGroup("4"))
    assert handler.done[-1] == "4"


async def test_what_a_reader_brought_that_is_given_up_is_done_all_the_same() -> None:
    handler = ConcurrencyLimit()
    first = asyncio.create_task(handler.frames.put(JoinGroup("1")))
    await turns()
    await soon(handler.frames.put(JoinGroup("2")))
    first.cancel()
    handler.go_on.set()
    await soon(handler.finished(2))
    assert handler.done == ["1", "2"]


async def test_a_broken_message_of_the_second_reader_takes_its_turn() -> None:
    handler = ConcurrencyLimit()
    first = asyncio.create_task(handler.frames.put(JoinGroup("1")))
    await turns()
    handler.frames.fail(BROKEN)
    assert handler.failures == []
    handler.go_on.set()
    await soon(first)
    await turns()
    assert (handler.done, handler.failures) == (["1"], [BROKEN])


async def test_a_frame_of_the_first_reader_that_ends_the_connection_ends_it_for_the_second() -> None:
    handler = ConcurrencyLimit()
    handler.fails_at = "1"
    first = asyncio.create_task(handler.frames.put(JoinGroup("1")))
    await turns()
    await soon(handler.frames.put(JoinGroup("2")))
    handler.go_on.set()
    await soon(first)
    await turns()
    assert (handler.begun, [failure.code for failure in handler.failures]) == (["1"], [1011])


# Frames that do not queue


async def test_an_acknowledgement_waits_for_nothing(handler: Handler) -> None:
    await handler.frames.put(_event("e"))
    await turns()
    await soon(handler.frames.put(SequenceAck(1)))
    await soon(handler.frames.put(CancelInvocation("1")))
    assert handler.done == ["ping", "ping"]
    handler.frames.stop()


async def test_an_acknowledgement_goes_past_a_full_queue(handler: Handler, webpubsub: WebPubSub) -> None:
    webpubsub(MAX_WAITING_FRAMES=1)
    await handler.frames.put(_event("e"))
    reader = asyncio.create_task(handler.frames.put(JoinGroup("a")))
    await turns()
    await soon(handler.frames.put(SequenceAck(1)))
    assert handler.done == ["ping"]
    handler.frames.stop()
    await soon(reader)


async def test_finishing_lets_the_handler_finish_and_does_nothing_else(handler: Handler, webpubsub: WebPubSub) -> None:
    webpubsub(MAX_WAITING_FRAMES=1)
    await handler.frames.put(_event("e"))
    await turns()
    reader = asyncio.create_task(handler.frames.put(JoinGroup("a")))
    handler.frames.fail(BROKEN)
    handler.frames.finish()
    await handler.frames.put(SequenceAck(1))
    handler.go_on.set()
    await soon(reader)
    await soon(handler.finished(1))
    await turns()
    assert (handler.begun, handler.done, handler.failures) == (["e"], ["e"], [])


# Two readers, as a reliable client has for a moment


async def test_both_readers_of_a_queue_go_on_when_there_is_room(handler: Handler, webpubsub: WebPubSub) -> None:
    webpubsub(MAX_WAITING_FRAMES=1)
    handler.frames.put_nowait(_event("slow"))
    readers = [asyncio.create_task(handler.frames.put(_event(str(number)))) for number in range(2)]
    await turns()
    assert [reader.done() for reader in readers] == [False, False]
    handler.go_on.set()
    for reader in readers:
        await soon(reader)


@pytest.mark.parametrize("begun", [True, False])
async def test_no_reader_waits_for_room_in_a_queue_that_is_stopped(
    handler: Handler, webpubsub: WebPubSub, begun: bool
) -> None:
    webpubsub(MAX_WAITING_FRAMES=1)
    called: list[str] = []
    handler.frames.put_nowait(_event("slow"))
    if begun:
        await turns()
    assert not handler.frames.put_nowait(_event("waits"))
    handler.frames.when_room(lambda: called.append("one"))
    handler.frames.when_room(lambda: called.append("another"))
    handler.frames.stop()
    await turns()
    assert called == ["one", "another"]
