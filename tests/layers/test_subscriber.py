"""Which confirmation stands for what, with a Redis that answers when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from hubs.layers.errors import LayerAway
from hubs.layers.subscriber import Subscriber


class Held:
    """Both a host and its one wire: takes commands, and answers what it is told to."""

    patience_secs = 1.0

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.reply: Callable[[list[Any]], None]
        self.closed = asyncio.get_running_loop().create_future()

    async def dial(self) -> Held:
        return self

    def serve(self, on_replies: Callable[[list[Any]], None], on_lost: Any, *on_beats: Any) -> None:
        self.reply, self.lost = on_replies, on_lost

    def write(self, data: bytes) -> None:
        self.written += [command.decode() for command in _commands(data)]  # type: ignore[misc]

    def lose(self, problem: Exception) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
            self.lost(problem)

    def confirm(self, kind: str, topic: str) -> None:
        self.reply([[kind.encode(), topic.encode(), 1]])


def _commands(data: bytes) -> list[bytes]:
    parts = data.split(b"\r\n")
    commands: list[bytes] = []
    while parts and parts[0]:
        count = int(parts[0][1:])
        commands.append(b" ".join(parts[2 : 2 + 2 * count : 2]))
        parts = parts[1 + 2 * count :]
    return commands


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def subscriber() -> Any:
    made = Subscriber(Held(), lambda topic, payload: None, lambda up: None, lambda: None)  # type: ignore[arg-type]
    yield made
    await made.close()


async def wanted(subscriber: Subscriber, topic: str) -> asyncio.Task[None]:
    task = asyncio.create_task(subscriber.subscribe(topic.encode()))
    await turns()
    return task


async def test_a_first_confirmation_does_not_stand_for_a_second_wish(subscriber: Subscriber) -> None:
    first = await wanted(subscriber, "t")
    wire: Any = subscriber.wire
    subscriber.unsubscribe(b"t")
    await turns()
    assert first.done()
    second = await wanted(subscriber, "t")
    assert wire.written == ["SUBSCRIBE t", "UNSUBSCRIBE t", "SUBSCRIBE t"]
    wire.confirm("subscribe", "t")
    wire.confirm("unsubscribe", "t")
    await turns()
    assert not second.done()
    wire.confirm("subscribe", "t")
    await turns()
    assert second.done()


async def test_each_is_confirmed_by_itself(subscriber: Subscriber) -> None:
    tasks = [asyncio.create_task(subscriber.subscribe(topic)) for topic in (b"a", b"b", b"a")]
    await turns()
    wire: Any = subscriber.wire
    assert [sorted(command.split()) for command in wire.written] == [["SUBSCRIBE", "a", "b"]]
    wire.confirm("subscribe", "a")
    await turns()
    assert [task.done() for task in tasks] == [True, False, True]
    late = await wanted(subscriber, "b")
    wire.confirm("subscribe", "b")
    await turns()
    assert tasks[1].done()
    assert late.done()
    # Had already: nothing is asked.
    assert (await wanted(subscriber, "a")).done()
    assert [sorted(command.split()) for command in wire.written] == [["SUBSCRIBE", "a", "b"]]


async def test_a_loss_fails_those_who_wait(subscriber: Subscriber) -> None:
    waiting = await wanted(subscriber, "t")
    wire: Any = subscriber.wire
    wire.lose(LayerAway("gone"))
    with pytest.raises(LayerAway, match="gone"):
        await waiting
