"""What several modules here do to processes: have them meet, ask them, let them die."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import pytest

from hubs.messaging.envelope import Audience
from hubs.messaging.switchboard import ANSWERS, Answering, Switchboard
from tests.messaging.conftest import Client, soon


class Visitor(Client):
    """A connection that need not be in a group, and goes as operations have connections go."""

    async def attach(self) -> Visitor:
        await soon(self.board.attach(self))
        return self

    async def join_group(self, group: str) -> None:
        self.groups.add(group)
        await soon(self.board.join(self, group))

    def go(self) -> None:
        self.board.detach(self)
        for group in self.groups:
            self.board.leave(self, group)
        self.groups.clear()


async def hears_hello(board: Switchboard, *, of: Switchboard) -> None:
    """Wait until a process has heard the next hello of a process (itself, mostly)."""
    before = board._peers._heard.get(of.process)
    while board._peers._heard.get(of.process) == before:
        await soon(board._hearing.heard_hello.wait())


async def trusts_all(board: Switchboard) -> None:
    """Wait until a process has no doubt that all others it knows of hear it."""
    while not board._peers.all_hear:
        await soon(board._hearing.heard_hello.wait())


async def knows(board: Switchboard, *others: Switchboard) -> None:
    """Wait until a process takes these others for all that live."""
    processes = {other.process for other in others}
    while await soon(board._hearing.others()) != processes:
        await soon(board._hearing.heard_hello.wait())


async def all_meet(*boards: Switchboard) -> None:
    """Start processes and wait until each knows all others."""
    for board in boards:
        await soon(board.start())
    for board in boards:
        await knows(board, *(other for other in boards if other is not board))


async def die(board: Switchboard, *, heard_by: Iterable[Switchboard]) -> None:
    """End a process without a goodbye; nothing it said is on its way any more when this returns."""
    tasks = {*board._trunk.tasks, *board._trunk.running, *board._trunk.lines.tasks}
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.05)
    board._trunk.running.clear()
    board._hearing.started = False
    for witness in heard_by:
        for _ in range(2):
            await hears_hello(witness, of=witness)


async def who(board: Switchboard, audience: Audience | None = None) -> list[str]:
    """Ask everybody for the ids of the connections that are meant, sorted (see `answering_who`)."""
    answers = await soon(board.ask_everybody("who", audience or Audience("chat"), {}))
    return sorted(connection_id for answer in answers for connection_id in answer)


def ids(clients: Iterable[Client]) -> list[str]:
    """What `who` gives for these."""
    return sorted(client.id for client in clients)


def answering(
    monkeypatch: pytest.MonkeyPatch, verb: str, answer: Callable[[Sequence[Any]], Awaitable[Any]] | None = None
) -> None:
    """Give processes a verb: by default one that tells the ids of those that are meant."""

    async def respond(members: Sequence[Any], arguments: dict[str, Any]) -> Any:
        return [member.id for member in members] if answer is None else await answer(members)

    row: Answering = respond
    monkeypatch.setitem(ANSWERS, verb, row)
