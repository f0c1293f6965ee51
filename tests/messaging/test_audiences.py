"""Who is meant: every kind of audience, published to and asked about, and nothing left of those who went."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from hubs.messaging import lines
from hubs.messaging.envelope import EVERYBODY, Audience, Publication, hub_address, process_address
from hubs.messaging.switchboard import Switchboard
from tests.messaging.conftest import Processes, line_of, soon
from tests.messaging.processes import Visitor, all_meet, answering, ids, who

# The test's own idea of each filter.
FILTERS: dict[str | None, Callable[[Visitor], bool]] = {
    None: lambda visitor: True,
    "userId eq 'ann'": lambda visitor: visitor.user_id == "ann",
    "userId eq null": lambda visitor: visitor.user_id is None,
    "'g' in groups and not('h' in groups)": lambda visitor: "g" in visitor.groups and "h" not in visitor.groups,
    "userId ne 'ann' or 'h' in groups": lambda visitor: visitor.user_id != "ann" or "h" in visitor.groups,
}
GROUPS = (None, "g", "h", "nowhere")
USERS = (None, "ann", "é 👋", "", "nobody")


async def _populate(board: Switchboard) -> list[Visitor]:
    visitors = []
    for user_id, groups in product((None, "ann", "é 👋"), ((), ("g",), ("g", "h"))):
        visitor = await Visitor(board, user_id=user_id).attach()
        for group in groups:
            await visitor.join_group(group)
        visitors.append(visitor)
    return visitors


def _texts(visitor: Visitor) -> list[str]:
    return [outgoing.frame.payload.data.decode() for outgoing in visitor.outgoing]  # type: ignore[union-attr]


async def test_an_audience_is_all_that_every_part_holds_for(
    process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "who")
    boards = [process(), process()]
    visitors = [visitor for board in boards for visitor in await _populate(board)]
    strangers = [await Visitor(board, "chat2", "ann").join("g") for board in boards]
    await all_meet(*boards)
    excluded = (visitors[2].id, visitors[4].id, visitors[-1].id, "no such id")
    audiences = [
        Audience("chat", group, user_id, filter, out)
        for group, user_id, filter, out in product(GROUPS, USERS, FILTERS, ((), excluded))
    ]

    def meant(audience: Audience) -> list[Visitor]:
        return [
            visitor
            for visitor in visitors
            if (audience.group is None or audience.group in visitor.groups)
            and (audience.user_id is None or audience.user_id == visitor.user_id)
            and FILTERS[audience.filter](visitor)
            and visitor.id not in audience.excluded
        ]

    for audience in audiences:
        assert await who(boards[0], audience) == ids(meant(audience)), audience

    expected: dict[str, list[str]] = {visitor.id: [] for visitor in visitors}
    for publisher in boards:
        for number, audience in enumerate(audiences):
            text = f"{publisher.process} {number}"
            await soon(publisher.publish(Publication(audience, "text", text.encode())))
            for visitor in meant(audience):
                expected[visitor.id].append(text)
        await soon(publisher.publish(Publication(Audience("chat"), "text", b"end")))
        # What one process says comes in its order, so all has come before this.
        for visitor in visitors:
            await visitor.hears("end")
            expected[visitor.id].append("end")
            visitor._heard.clear()
    for visitor in visitors:
        assert _texts(visitor) == expected[visitor.id]
    for stranger in strangers:
        assert stranger.heard_nothing


async def test_a_message_for_one_connection_reaches_it_in_its_hub_only(process: Processes) -> None:
    boards = [process(), process()]
    visitors = [visitor for board in boards for visitor in await _populate(board)]
    for publisher in boards:
        for visitor in visitors:
            for hub, text in (("chat2", "wrong"), ("chat", f"{publisher.process} to {visitor.id}")):
                publication = Publication(Audience(hub), "text", text.encode(), connection=visitor.id)
                await soon(publisher.publish(publication))
            await visitor.hears(f"{publisher.process} to {visitor.id}")
    for visitor in visitors:
        assert _texts(visitor) == [f"{publisher.process} to {visitor.id}" for publisher in boards]


async def test_what_changes_about_a_connection_counts_at_once(
    process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "who")
    here, there = process(), process()
    far = await Visitor(there).attach()
    await all_meet(here, there)
    audiences = (Audience("chat", "g"), Audience("chat", filter="'g' in groups"))
    for audience in audiences:
        assert await who(here, audience) == []
    await far.join_group("g")
    for audience in audiences:
        assert await who(here, audience) == [far.id]
    far.groups.discard("g")
    there.leave(far, "g")
    for audience in audiences:
        assert await who(here, audience) == []
    far.go()
    assert await who(here) == []


# Coming and going


class _Noting:
    """A layer that notes which groups are added and discarded."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.calls: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    async def group_add(self, address: str, channel: str) -> None:
        await self.layer.group_add(address, channel)
        self.calls.put_nowait(("group_add", address))

    async def group_discard(self, address: str, channel: str) -> None:
        await self.layer.group_discard(address, channel)
        self.calls.put_nowait(("group_discard", address))


async def test_the_hubs_address_is_joined_with_the_first_and_left_after_the_last(
    process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 0.02)
    board, address = process(), hub_address("chat")
    await soon(board.start())
    line_of(board).layer = noting = _Noting(line_of(board).layer)
    for _ in range(2):
        first = await Visitor(board).attach()
        assert await soon(noting.calls.get()) == ("group_add", address)
        second = await Visitor(board, user_id="ann").attach()
        first.go()
        first.go()
        assert noting.calls.empty()
        assert board._trunk.lines._leaving == {}
        second.go()
        assert await soon(noting.calls.get()) == ("group_discard", address)
    line_of(board).layer = noting.layer


async def test_of_those_who_went_nothing_is_kept(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 0.0)
    answering(monkeypatch, "who")
    boards = [process(), process()]
    await all_meet(*boards)
    visitors = [visitor for board in boards for visitor in await _populate(board)]
    visitors += [await Visitor(boards[0], "chat2", f"user {number}").join(str(number)) for number in range(20)]
    for number in range(5):
        await soon(boards[0].publish(Publication(Audience("chat", user_id="ann"), "text", str(number).encode())))
        assert len(await who(boards[number % 2])) == 18
    for visitor in visitors:
        visitor.go()
        visitor.go()
    for board in boards:
        while board._trunk.lines._leaving or board._trunk.lines._locks or board._trunk.tasks:
            await asyncio.sleep(0)
        own = {EVERYBODY, process_address(board.process)}
        assert (board._trunk.lines._held, board._trunk.lines._perhaps, board._trunk.lines._wanted) == (own, own, own)
        assert [
            board._directory.connections,
            board._directory.hubs,
            board._directory.users,
            board._directory.groups,
            board._questions.open,
        ] == [{}] * 5
        assert len(board) == 0


async def test_who_goes_while_it_is_attached_is_not_there(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 0.0)
    board = process()
    await soon(board.start())
    go_on = asyncio.Event()
    line_of(board).before["group_add"] = go_on.wait  # type: ignore[assignment]
    visitor = Visitor(board, user_id="ann")
    attaching = asyncio.create_task(board.attach(visitor))
    while visitor not in board:
        await asyncio.sleep(0)
    visitor.go()
    go_on.set()
    await soon(attaching)
    assert visitor not in board
    while hub_address("chat") in board._trunk.lines._perhaps:
        await asyncio.sleep(0)
    assert [board._directory.connections, board._directory.hubs, board._directory.users] == [{}] * 3


@pytest.mark.parametrize("fails", [False, True])
async def test_an_attachment_that_fails_or_is_given_up_leaves_nothing(
    process: Processes, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 0.0)
    board = process()
    await soon(board.start())
    asked = asyncio.Event()

    async def hold() -> None:
        asked.set()
        if fails:
            raise OSError("details of the network")
        await asyncio.Event().wait()

    line_of(board).before["group_add"] = hold
    attaching = asyncio.create_task(board.attach(Visitor(board, user_id="ann")))
    await soon(asked.wait())
    attaching.cancel()
    with pytest.raises(OSError if fails else asyncio.CancelledError):
        await soon(attaching)
    while hub_address("chat") in board._trunk.lines._perhaps:
        await asyncio.sleep(0)
    assert [board._directory.connections, board._directory.hubs, board._directory.users, board._trunk.lines._locks] == [
        {}
    ] * 4
