"""The way out to one client: order, bounds, and servers that make it wait."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubs.close_codes import QUEUE_FULL
from hubs.connections import outbox as room
from hubs.connections.outbox import AsgiOutbox
from tests.connections.conftest import Server, WebPubSub, soon, turns


class Overflows:
    """Counts how often an outbox complains, and of what."""

    def __init__(self) -> None:
        self.count = 0
        self.said: list[str] = []

    def __call__(self, cause: str, waiting: str) -> None:
        self.count += 1
        self.said.append(f"{cause} {waiting}")


@pytest.fixture
def overflows() -> Overflows:
    return Overflows()


@pytest.fixture
def outbox(server: Server, overflows: Overflows) -> AsgiOutbox:
    """An outbox whose handshake is done."""
    opened = AsgiOutbox(server.send, overflows)
    opened.uncork()
    return opened


async def _settled(outbox: AsgiOutbox) -> None:
    await soon(outbox.drained())


# A server with room


async def test_a_message_is_handed_over_at_once_and_without_a_task(outbox: AsgiOutbox, server: Server) -> None:
    before = asyncio.all_tasks()
    outbox.put("text é")
    outbox.put(b"bytes")
    outbox.put("")
    outbox.put(b"")
    assert server.events == [
        {"type": "websocket.send", "text": "text é"},
        {"type": "websocket.send", "bytes": b"bytes"},
        {"type": "websocket.send", "text": ""},
        {"type": "websocket.send", "bytes": b""},
    ]
    assert asyncio.all_tasks() == before
    await _settled(outbox)


async def test_closing_is_handed_over_at_once_and_ends_it(outbox: AsgiOutbox, server: Server) -> None:
    assert not outbox.closing
    outbox.close(1000, "bye")
    assert outbox.closing
    outbox.put("late")
    outbox.close(1008, "later")
    assert server.events == [{"type": "websocket.close", "code": 1000, "reason": "bye"}]


# A server that makes it wait


async def test_messages_queue_behind_one_that_waits(outbox: AsgiOutbox, server: Server) -> None:
    server.gate.clear()
    for number in range(5):
        outbox.put(str(number))
    outbox.close(1000)
    await turns()
    # The first was begun once, and is not begun again.
    assert server.started == 1
    assert server.events == []
    server.gate.set()
    await _settled(outbox)
    assert server.said == ["0", "1", "2", "3", "4", (1000, "")]
    assert server.started == 6


async def test_after_waiting_it_is_fast_again(outbox: AsgiOutbox, server: Server) -> None:
    server.gate.clear()
    outbox.put("slow")
    server.gate.set()
    await _settled(outbox)
    outbox.put("fast")
    assert server.said == ["slow", "fast"]


async def test_it_goes_on_from_exactly_where_the_server_stopped(overflows: Overflows) -> None:
    """A send that waits many times, and looks at what it gets back, sees nothing unusual."""
    log: list[Any] = []
    loop = asyncio.get_running_loop()

    async def send(event: dict[str, Any]) -> None:
        future = loop.create_future()
        loop.call_soon(future.set_result, f"{event['text']} result")
        log.append(f"{event['text']} begins")
        log.append(await future)
        await asyncio.sleep(0)
        failing = loop.create_future()
        loop.call_soon(failing.set_exception, KeyError("k"))
        try:
            await failing
        except KeyError:
            log.append(f"{event['text']} caught")
        async with asyncio.timeout(10):
            await asyncio.sleep(0.001)
        log.append(f"{event['text']} ends")

    outbox = AsgiOutbox(send, overflows)
    outbox.uncork()
    outbox.put("a")
    outbox.put("b")
    assert log == ["a begins"]
    await _settled(outbox)
    assert log == [f"{name} {part}" for name in "ab" for part in ("begins", "result", "caught", "ends")]


async def test_the_awaited_future_may_be_done_before_the_task_runs(overflows: Overflows) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done: list[str] = []

    async def send(event: dict[str, Any]) -> None:
        await future
        done.append(event["text"])

    outbox = AsgiOutbox(send, overflows)
    outbox.uncork()
    outbox.put("a")
    future.set_result(None)
    await _settled(outbox)
    assert done == ["a"]


@pytest.mark.parametrize("wait", [True, False])
async def test_awaitables_that_are_no_coroutines(overflows: Overflows, wait: bool) -> None:
    sent: list[Any] = []

    class Sending:
        def __init__(self, event: dict[str, Any]) -> None:
            self.event = event

        def __await__(self) -> Generator[Any, Any, None]:
            if wait:
                yield from asyncio.sleep(0).__await__()
            sent.append(self.event["text"])

    outbox = AsgiOutbox(Sending, overflows)
    outbox.uncork()
    outbox.put("a")
    outbox.put("b")
    await _settled(outbox)
    outbox.put("c")
    outbox.abandon()
    await turns()
    gc.collect()
    assert sent == ["a", "b"]


# Corked


async def test_nothing_leaves_before_the_handshake_is_done(server: Server, overflows: Overflows) -> None:
    outbox = AsgiOutbox(server.send, overflows)
    outbox.put("a")
    outbox.put(b"b")
    assert server.started == 0
    outbox.uncork()
    assert server.said == ["a", b"b"]
    outbox.put("c")
    assert server.said == ["a", b"b", "c"]


async def test_closed_before_the_handshake_is_done(server: Server, overflows: Overflows) -> None:
    outbox = AsgiOutbox(server.send, overflows)
    outbox.put("a")
    outbox.close(1000, "bye")
    outbox.put("b")
    assert outbox.closing
    outbox.uncork()
    assert server.said == ["a", (1000, "bye")]


async def test_uncorking_onto_a_server_that_waits(server: Server, overflows: Overflows) -> None:
    outbox = AsgiOutbox(server.send, overflows)
    for text in "abc":
        outbox.put(text)
    server.gate.clear()
    outbox.uncork()
    outbox.put("d")
    assert server.started == 1
    server.gate.set()
    await _settled(outbox)
    assert server.said == ["a", "b", "c", "d"]


# Bounds


async def test_too_many_messages_close_it_once(
    outbox: AsgiOutbox, server: Server, overflows: Overflows, webpubsub: WebPubSub
) -> None:
    webpubsub(MAX_OUTBOX_MESSAGES=10)
    server.gate.clear()
    for number in range(11):
        outbox.put(str(number))
    assert overflows.count == 0
    for number in range(20):
        outbox.put(f"too many {number}")
    assert overflows.count == 1
    assert overflows.said[0].startswith(
        "More waits for its client than MAX_OUTBOX_MESSAGES allows. 11 messages, 21 bytes, for "
    )
    assert outbox.closing
    server.gate.set()
    await _settled(outbox)
    # The one that was being handed over stays; the others are not worth the wait any more.
    assert server.said == ["0", (1008, QUEUE_FULL.reason)]
    assert QUEUE_FULL.reason == "The outbound message queue is full."


@pytest.mark.parametrize("message", ["x" * 1000, b"x" * 1000, "é" * 500, "中" * 333 + "x", "👋" * 250])
async def test_too_many_bytes_close_it(
    outbox: AsgiOutbox, server: Server, overflows: Overflows, webpubsub: WebPubSub, message: str | bytes
) -> None:
    webpubsub(MAX_OUTBOX_BYTES=10_000)
    server.gate.clear()
    for _ in range(11):
        outbox.put(message)
    assert overflows.count == 0
    outbox.put("x")
    assert overflows.count == 1
    server.gate.set()
    await _settled(outbox)
    assert server.said == [message, (1008, QUEUE_FULL.reason)]


async def test_what_was_sent_counts_no_more(
    outbox: AsgiOutbox, server: Server, overflows: Overflows, webpubsub: WebPubSub
) -> None:
    webpubsub(MAX_OUTBOX_BYTES=10_000, MAX_OUTBOX_MESSAGES=10)
    for _ in range(10):
        server.gate.clear()
        for _ in range(10):
            outbox.put("é" * 500)
        server.gate.set()
        await _settled(outbox)
    assert overflows.count == 0
    assert len(server.events) == 100


async def test_bounds_hold_while_corked(server: Server, overflows: Overflows, webpubsub: WebPubSub) -> None:
    webpubsub(MAX_OUTBOX_MESSAGES=10)
    outbox = AsgiOutbox(server.send, overflows)
    for number in range(20):
        outbox.put(str(number))
    assert overflows.count == 1
    outbox.uncork()
    assert server.said == [(1008, QUEUE_FULL.reason)]


async def test_one_slow_client_does_not_hold_up_another(outbox: AsgiOutbox, server: Server) -> None:
    other = Server()
    fast = AsgiOutbox(other.send, Overflows())
    fast.uncork()
    server.gate.clear()
    for box in (outbox, fast, outbox, fast):
        box.put("x")
    assert len(other.events) == 2
    server.gate.set()
    await _settled(outbox)


# Trouble


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("problem", [OSError("gone"), ConnectionResetError(), BrokenPipeError()])
async def test_a_client_that_left_is_no_news(
    outbox: AsgiOutbox, server: Server, caplog: pytest.LogCaptureFixture, problem: Exception, waiting: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    server.problem = problem
    if waiting:
        server.gate.clear()
    outbox.put("a")
    outbox.put("b")
    server.gate.set()
    await _settled(outbox)
    outbox.put("c")
    outbox.close(1000)
    assert outbox.closing
    assert server.events == []
    assert server.started == 1
    assert [record for record in caplog.records if record.name.startswith("hubs")] == []


@pytest.mark.parametrize("waiting", [False, True])
async def test_a_fault_of_the_server_is_logged_once(
    outbox: AsgiOutbox, server: Server, caplog: pytest.LogCaptureFixture, waiting: bool
) -> None:
    server.problem = RuntimeError("Unexpected ASGI message")
    if waiting:
        server.gate.clear()
    outbox.put("my secret")
    outbox.put("my secret")
    server.gate.set()
    await _settled(outbox)
    outbox.put("my secret")
    assert caplog.text.count("Unexpected ASGI message") == 1
    assert "secret" not in caplog.text


async def test_what_waits_is_dropped_when_the_socket_is_gone(outbox: AsgiOutbox, server: Server) -> None:
    server.gate.clear()
    outbox.put("a")
    outbox.put("b")
    await turns()
    outbox.abandon()
    server.gate.set()
    await turns()
    outbox.put("c")
    await _settled(outbox)
    assert server.events == []
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.filterwarnings("error")
async def test_abandoned_before_its_task_ran(outbox: AsgiOutbox, server: Server) -> None:
    server.gate.clear()
    outbox.put("a")
    outbox.abandon()
    await turns()
    gc.collect()
    await _settled(outbox)
    assert server.events == []


async def test_abandoning_is_a_cancellation_to_the_server(overflows: Overflows) -> None:
    seen: list[str] = []

    async def send(event: dict[str, Any]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    outbox = AsgiOutbox(send, overflows)
    outbox.uncork()
    outbox.put("a")
    await turns()
    outbox.abandon()
    await turns()
    assert seen == ["cancelled"]


async def test_a_stuck_socket_does_not_hold_up_the_end(
    outbox: AsgiOutbox, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "CLOSING_SECS", 0.01)
    server.gate.clear()
    outbox.put("a")
    await _settled(outbox)
    assert server.events == []
    outbox.abandon()


@pytest.mark.parametrize("has_room", [True, False])
async def test_a_stuck_socket_is_closed_all_the_same(
    overflows: Overflows, monkeypatch: pytest.MonkeyPatch, has_room: bool
) -> None:
    monkeypatch.setattr(room, "CLOSING_SECS", 0.01)
    said: list[str] = []

    async def send(event: dict[str, Any]) -> None:
        # As our servers have it, which wait before they write, and have room for a close frame.
        if event["type"] == "websocket.send" or not has_room:
            await asyncio.Event().wait()
        said.append(event["reason"])

    outbox = AsgiOutbox(send, overflows)
    outbox.uncork()
    outbox.put("a")
    outbox.put("b")
    outbox.close(1008, QUEUE_FULL.reason)
    await _settled(outbox)
    assert said == ([QUEUE_FULL.reason] if has_room else [])
    assert (outbox._queue, outbox._task, outbox._bytes) == (None, None, 0)


# Reasons


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("", ""),
        ("bye", "bye"),
        ("x" * 123, "x" * 123),
        ("x" * 124, "x" * 123),
        ("é" * 100, "é" * 61),
        ("x" + "é" * 100, "x" + "é" * 61),
        ("中" * 100, "中" * 41),
        ("👋" * 100, "👋" * 30),
        ("half a pair \ud800", "half a pair ?"),
    ],
)
async def test_reasons_are_cut_between_characters(outbox: AsgiOutbox, server: Server, reason: str, shown: str) -> None:
    outbox.close(4000, reason)
    assert server.said == [(4000, shown)]


@given(st.text())
def test_any_reason_fits_a_close_frame(reason: str) -> None:
    short = room.short(reason)
    assert len(short.encode()) <= room.MAX_REASON_BYTES
    assert reason.startswith(short)
