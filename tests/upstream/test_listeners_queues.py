"""Queues in front of listeners: order, bounds, trying again, settings that change, ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from hubs import hub_settings
from hubs.hub_settings import EventListenerSettings
from hubs.protocols.frames import TEXT, Payload
from hubs.rules import event_routing
from hubs.upstream import UserEventRequest, listeners, records
from hubs.upstream.events import Event
from hubs.upstream.listeners import queues
from hubs.upstream.listeners.message import Message
from hubs.upstream.listeners.queues import QueuedSink
from hubs.upstream.listeners.transport import TransportError
from hubs.upstream.session import Session
from tests.running import PATIENCE
from tests.upstream.conftest import Rows

ROW = EventListenerSettings(1, "tape", "tape://a/path?code=secret", "*", frozenset(["connected"]), "secret")


class Tape:
    """A place where listeners are: by address, what arrived, and what it says to a batch before that."""

    def __init__(self) -> None:
        self.arrived: dict[str, list[Message]] = {}
        self.batches: list[int] = []
        self.obstacle: Callable[[Sequence[Message]], Any] = lambda batch: None
        self.open = 0
        self.changed = asyncio.Condition()

    async def now(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE), self.changed:
            await self.changed.wait_for(condition)

    def data(self, address: str = ROW.address) -> list[str]:
        return [message.payload.data.decode() for message in self.arrived.get(address, ())]


class ToTape:
    """A transport to the test's tape."""

    max_messages = 4
    max_bytes = 10_000

    def __init__(self, tape: Tape, listener: EventListenerSettings) -> None:
        self.tape = tape
        self.listener = listener
        tape.open += 1

    async def send(self, batch: Sequence[Message]) -> None:
        batch = list(batch)
        obstacle = self.tape.obstacle(batch)
        if obstacle is not None:
            await obstacle
        self.tape.batches.append(len(batch))
        self.tape.arrived.setdefault(self.listener.address, []).extend(batch)
        await self.tape.now()

    async def close(self) -> None:
        self.tape.open -= 1
        await self.tape.now()


class Hurdle:
    """An obstacle that fails each attempt with what it is told, and counts them; None lets it pass."""

    def __init__(self, tape: Tape, *troubles: Exception | None) -> None:
        self.tape = tape
        self.troubles = list(troubles)
        self.attempts: list[list[str]] = []

    async def __call__(self, batch: Sequence[Message]) -> None:
        self.attempts.append([message.payload.data.decode() for message in batch])
        await self.tape.now()
        trouble = self.troubles.pop(0) if len(self.troubles) > 1 else self.troubles[0]
        if trouble is not None:
            raise trouble


class Gate:
    """An obstacle that holds every batch until it is opened."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.held = 0
        self.opened = asyncio.Event()

    async def __call__(self, batch: Sequence[Message]) -> None:
        self.held += 1
        await self.tape.now()
        await self.opened.wait()


@pytest.fixture
async def tape(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tape]:
    own = Tape()
    monkeypatch.setitem(event_routing.LISTENER_KINDS, "tape", event_routing.LISTENER_KINDS["webhook"])
    monkeypatch.setitem(listeners.SINKS, "tape", QueuedSink(lambda listener: ToTape(own, listener)))
    monkeypatch.setattr(queues, "RETRY_SECS", (0.01,))
    monkeypatch.setattr(queues, "LOOK_SECS", 0.01)
    monkeypatch.setattr(queues, "FLUSH_SECS", 0.1)
    queues._log._held.clear()
    rows.set("chat", listeners=(ROW,))
    yield own
    own.obstacle = lambda batch: None
    await listeners.close(PATIENCE)
    # Nothing stays open, whatever happened.
    await own.until(lambda: own.open == 0)


def event(data: str, connection: str = "c") -> Event:
    session = Session("chat", connection, "ann")
    return session.event("message", UserEventRequest(session.context, "message", Payload(TEXT, data.encode())))


def tell(*data: str, row: EventListenerSettings = ROW) -> None:
    for text in data:
        assert listeners.tell(event(text), (row,))


def problems() -> list[str]:
    return [record.problem for record in reversed(records.recent("chat"))]


async def test_events_arrive_in_order_and_in_batches(tape: Tape) -> None:
    told = [str(number) for number in range(11)]
    tell(*told)
    await tape.until(lambda: len(tape.data()) == 11)
    assert tape.data() == told
    assert tape.batches == [4, 4, 3]
    # Nothing waits for company.
    tell("alone")
    await tape.until(lambda: len(tape.data()) == 12)
    assert tape.batches[-1] == 1
    assert problems() == []


async def test_batches_are_bounded_in_bytes(tape: Tape) -> None:
    tell("a" * 4000, "b" * 4000, "c" * 50_000, "d")
    await tape.until(lambda: len(tape.data()) == 4)
    assert tape.batches == [2, 1, 1]


async def test_a_failed_batch_comes_again_before_everything_else(tape: Tape, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    hurdle = Hurdle(tape, *[TransportError("nobody there", status=503)] * 10, None)
    tape.obstacle = lambda batch: hurdle(batch)
    tell("1", "2")
    await tape.until(lambda: len(hurdle.attempts) >= 2)
    tell("3")
    await tape.until(lambda: len(tape.data()) == 3)
    assert hurdle.attempts == [["1", "2"]] * 11 + [["3"]]
    assert tape.data() == ["1", "2", "3"]
    assert problems() == ["nobody there"] * 10
    last = records.recent("chat")[0]
    assert (last.outcome, last.status, last.attempts, last.handler) == (records.FAILED, 503, 10, "tape://a/path")
    assert caplog.text.count("do not reach the listener tape://a/path: nobody there") == 1
    assert "takes events again; 1 wait" in caplog.text
    assert "secret" not in caplog.text + repr(records.recent("chat"))


async def test_a_batch_that_is_not_wanted_is_dropped_and_counted(tape: Tape, caplog: pytest.LogCaptureFixture) -> None:
    hurdle = Hurdle(tape, *[TransportError("not like this", tries=3)] * 3, None)
    tape.obstacle = lambda batch: hurdle(batch)
    tell("1", "2")
    await tape.until(lambda: len(hurdle.attempts) == 1)
    tell("3")
    await tape.until(lambda: len(tape.data()) == 1)
    assert hurdle.attempts == [["1", "2"]] * 3 + [["3"]]
    assert tape.data() == ["3"]
    assert "2 events were dropped for the listener tape://a/path of hub chat: not like this" in caplog.text
    assert problems()[-1] == "2 events were dropped: not like this"


async def test_a_batch_that_is_too_large_comes_in_halves(tape: Tape) -> None:
    def obstacle(batch: Sequence[Message]) -> None:
        if len(batch) > 1 or batch[0].payload.data == b"2":
            raise TransportError("too large", tries=1, too_large=True)

    tape.obstacle = obstacle
    tell("1", "2", "3", "4")
    await tape.until(lambda: len(tape.data()) == 3)
    assert tape.data() == ["1", "3", "4"]
    assert "1 event was dropped: too large" in problems()
    assert problems().count("too large") == len(problems()) - 1


async def test_a_transport_that_breaks_does_not_end_the_queue(tape: Tape, caplog: pytest.LogCaptureFixture) -> None:
    hurdle = Hurdle(tape, RuntimeError("of its own"), None)
    tape.obstacle = lambda batch: hurdle(batch)
    tell("1")
    await tape.until(lambda: len(hurdle.attempts) == 1)
    tell("2")
    await tape.until(lambda: tape.data() == ["2"])
    assert "RuntimeError: of its own" in caplog.text
    assert "1 event was dropped: the transport failed: RuntimeError" in problems()


async def test_a_batch_that_is_never_answered(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "SEND_SECS", 0.01)
    gate = Gate(tape)
    tape.obstacle = lambda batch: gate(batch)
    tell("1")
    await tape.until(lambda: gate.held == 4)
    tape.obstacle = lambda batch: None
    tell("2")
    await tape.until(lambda: tape.data() == ["2"])
    assert problems() == ["no answer within 0.01 seconds"] * 4 + ["1 event was dropped: no answer within 0.01 seconds"]


async def test_what_cannot_be_said_is_dropped_alone(tape: Tape) -> None:
    session = Session("chat", "c", "half \ud800")
    bad = session.event("message", UserEventRequest(session.context, "message", Payload(TEXT, b"x")))
    tell("1")
    listeners.tell(bad, (ROW,))
    tell("2")
    await tape.until(lambda: len(tape.data()) == 2)
    assert problems() == [
        "1 event was dropped: something in the event is half a surrogate pair, which UTF-8 cannot say"
    ]


# Bounds


async def test_what_no_longer_fits_is_dropped_counted_and_reported(
    tape: Tape, webpubsub: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "REPORT_SECS", 0.05)
    webpubsub(MAX_LISTENER_MESSAGES=5)
    gate = Gate(tape)
    tape.obstacle = lambda batch: gate(batch)
    tell(*"123456789")
    reports = "5 wait for the listener already, "
    # The first at once, the others together a moment later.
    assert [problem.partition(": ")[0] for problem in problems()] == ["1 event was dropped"]
    async with asyncio.timeout(PATIENCE):
        while len(problems()) < 2:
            await asyncio.sleep(0.01)
    assert problems()[1].startswith(f"3 events were dropped: {reports}")
    gate.opened.set()
    await tape.until(lambda: len(tape.data()) == 5)
    assert tape.data() == list("12345")
    tell("later")
    await tape.until(lambda: tape.data()[-1] == "later")
    assert caplog.text.count("dropped for the listener") == 2


async def test_a_queue_is_bounded_in_bytes_but_for_one_event(tape: Tape, webpubsub: Any) -> None:
    webpubsub(MAX_LISTENER_BYTES=100_000)
    gate = Gate(tape)
    tape.obstacle = lambda batch: gate(batch)
    tell("a" * 500_000, "b")
    await tape.until(lambda: gate.held == 1)
    gate.opened.set()
    await tape.until(lambda: len(tape.data()) == 1)
    tell("c" * 60_000, "d" * 60_000, "e")
    await tape.until(lambda: len(tape.data()) == 3)
    assert [text[0] for text in tape.data()] == ["a", "c", "e"]
    # One was reported at once; the other has been counted and is reported when the queue ends.
    await listeners.close(PATIENCE)
    assert [problem.partition(": ")[0] for problem in problems()] == ["1 event was dropped"] * 2


async def test_a_dead_listener_delays_nobody(tape: Tape, rows: Rows) -> None:
    dead = replace(ROW, id=2, address="tape://dead")
    rows.set("chat", listeners=(ROW, dead))
    gate = Gate(tape)
    tape.obstacle = lambda batch: gate(batch) if batch[0].payload.data.startswith(b"dead") else None
    tell("dead", row=dead)
    await tape.until(lambda: gate.held == 1)
    tell("1", "2")
    await tape.until(lambda: tape.data() == ["1", "2"])
    assert tape.data(dead.address) == []
    gate.opened.set()


# Settings


async def test_another_address_takes_the_queue_over(tape: Tape, rows: Rows) -> None:
    gate = Gate(tape)
    tape.obstacle = lambda batch: gate(batch)
    tell("1", "2")
    await tape.until(lambda: gate.held == 1)
    tape.obstacle = lambda batch: None
    # No event says so: the queue learns it from the settings.
    moved = replace(ROW, address="tape://b")
    rows.set("chat", listeners=(moved,))
    await tape.until(lambda: len(tape.data(moved.address)) == 2)
    assert tape.data() == []
    assert tape.data(moved.address) == ["1", "2"]
    assert problems() == []
    tell("3", row=moved)
    await tape.until(lambda: len(tape.data(moved.address)) == 3)
    await tape.until(lambda: tape.open == 1)


async def test_what_is_on_its_way_still_arrives_where_the_listener_was(tape: Tape) -> None:
    gate = Gate(tape)
    tape.obstacle = lambda batch: gate(batch)
    tell("1")
    await tape.until(lambda: gate.held == 1)
    tell("2", row=replace(ROW, address="tape://b"))
    gate.opened.set()
    await tape.until(lambda: tape.data() == ["1"] and tape.data("tape://b") == ["2"])


async def test_a_new_token_is_used_at_once(tape: Tape, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "RETRY_SECS", (PATIENCE * 10,))
    hurdle = Hurdle(tape, TransportError("wrong password"), None)
    tape.obstacle = lambda batch: hurdle(batch)
    tell("1")
    await tape.until(lambda: len(hurdle.attempts) == 1)
    rows.set("chat", listeners=(replace(ROW, authorization="better"),))
    await tape.until(lambda: tape.data() == ["1"])


async def test_other_settings_change_nothing(tape: Tape) -> None:
    tell("1")
    await tape.until(lambda: tape.data() == ["1"])
    tell("2", row=replace(ROW, user_event_pattern="message"))
    await tape.until(lambda: tape.data() == ["1", "2"])
    assert tape.open == 1


@pytest.mark.parametrize("row", [None, replace(ROW, kind="webhook")])
async def test_a_removed_listener_has_a_moment_for_what_waits(
    tape: Tape,
    rows: Rows,
    row: EventListenerSettings | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queues, "FLUSH_SECS", PATIENCE)
    hurdle = Hurdle(tape, *[TransportError("busy")] * 2, None)
    tape.obstacle = lambda batch: hurdle(batch)
    tell(*"123456")
    rows.set("chat", listeners=() if row is None else (row,))
    await tape.until(lambda: len(tape.data()) == 6)
    await tape.until(lambda: tape.open == 0)
    assert "dropped" not in caplog.text


async def test_a_removed_listener_that_does_not_listen(
    tape: Tape, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(tape)
    tape.obstacle = lambda batch: gate(batch)
    tell(*"123456")
    await tape.until(lambda: gate.held == 1)
    rows.set("chat")
    await tape.until(lambda: tape.open == 0)
    text = "6 events were dropped for the listener tape://a/path of hub chat: the listener was removed"
    assert text in caplog.text
    assert len(problems()) == 1


async def test_a_listener_that_comes_back_in_time_keeps_its_queue(
    tape: Tape, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "FLUSH_SECS", PATIENCE)
    gate = Gate(tape)
    tape.obstacle = lambda batch: gate(batch)
    tell("1")
    await tape.until(lambda: gate.held == 1)
    (queue,) = _queues()
    rows.set("chat")
    async with asyncio.timeout(PATIENCE):
        while queue._leaving is None:
            await asyncio.sleep(0.01)
    rows.set("chat", listeners=(ROW,))
    async with asyncio.timeout(PATIENCE):
        while queue._leaving is not None:
            await asyncio.sleep(0.01)
    tell("2")
    gate.opened.set()
    await tape.until(lambda: tape.data() == ["1", "2"])
    assert _queues() == [queue]


async def test_while_the_settings_cannot_be_read_everything_stays(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    async def away() -> None:
        nonlocal looks
        looks += 1
        await tape.now()
        raise RuntimeError("no database")

    monkeypatch.setattr(hub_settings, "acurrent", away)
    tell("1")
    await tape.until(lambda: tape.data() == ["1"] and looks > 3)
    (queue,) = _queues()
    assert queue._leaving is None


async def test_an_idle_queue_ends_and_another_one_begins(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "IDLE_SECS", 0.01)
    tell("1")
    await tape.until(lambda: tape.data() == ["1"] and tape.open == 0)
    assert _queues() == []
    tell("2")
    await tape.until(lambda: tape.data() == ["1", "2"])


def _queues() -> list[queues.ListenerQueue]:
    sink: Any = listeners.SINKS["tape"]
    return list(sink._loops[asyncio.get_running_loop()]._by_listener.values())


# The end


async def test_what_waits_is_carried_before_the_process_ends(tape: Tape) -> None:
    told = [str(number) for number in range(30)]
    tell(*told)
    await listeners.close(PATIENCE)
    assert tape.data() == told


async def test_the_end_does_not_wait_for_a_dead_listener(
    tape: Tape, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    dead = replace(ROW, id=2, address="tape://dead")
    rows.set("chat", listeners=(ROW, dead))
    gate = Gate(tape)
    tape.obstacle = lambda batch: gate(batch) if batch[0].payload.data.startswith(b"dead") else None
    tell("dead", "dead 2", row=dead)
    await tape.until(lambda: gate.held == 1)
    tell("1")
    async with asyncio.timeout(PATIENCE):
        await listeners.close(0.05)
    assert tape.data() == ["1"]
    assert "2 events were dropped for the listener tape://dead of hub chat" in caplog.text
    # And once more, with nothing there.
    await listeners.close(0.05)


async def test_a_listener_whose_place_cannot_be_read(
    tape: Tape, monkeypatch: pytest.MonkeyPatch, webpubsub: Any
) -> None:
    webpubsub(HANDLER_PRIVATE_ADDRESSES=True)
    row = replace(ROW, kind="redis_stream", address="redis://h:port/0?stream=s")
    tell("1", row=row)
    async with asyncio.timeout(PATIENCE):
        while not problems():
            await asyncio.sleep(0.01)
    assert problems()[0] == "the address of the Redis server cannot be read"
    await listeners.close(0)
