"""What one process publishes and asks reaches those who are meant, in all processes: over every kind of layer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from hubs.cluster import log as logs
from hubs.cluster.entries import CONTROL_LOG, Change, Publication, hub_log, process_log
from hubs.errors import NotFound, TooMany
from hubs.node import publishing
from hubs.node.node import ANSWERS, CHANGES, Node
from hubs.protocols.frames import GroupMessage, Payload, ServerMessage
from hubs.rules.audiences import Audience
from tests.node.conftest import Client, Nodes, meet, publication, publish, soon, until

SHARED = pytest.mark.parametrize("process", ["ours", "pubsub"], indirect=True)
OURS = pytest.mark.parametrize("process", ["ours"], indirect=True)


def _nodes(process: Nodes, count: int = 2) -> list[Node]:
    first = process()
    return [first] if first.log.alone else [first, *(process() for _ in range(count - 1))]


# Publishing


async def test_whom_a_publication_reaches_in_all_processes(process: Nodes) -> None:
    nodes = _nodes(process, 3)
    clients = [
        await Client(node, user_id=user_id).attach(*groups)
        for node in nodes
        for user_id, groups in ((None, ("g",)), ("ann", ("g", "h")), ("ann", ()), ("bob", ("G",)))
    ]
    stranger = await Client(nodes[-1], "chat2", "ann").attach("g")
    excluded = (clients[0].id, clients[-3].id)
    audiences: list[tuple[dict[str, Any], Callable[[Client], bool]]] = [
        ({}, lambda client: "g" in client.groups),
        ({"group": None}, lambda client: True),
        ({"group": "nowhere"}, lambda client: False),
        ({"group": None, "user_id": "ann"}, lambda client: client.user_id == "ann"),
        ({"user_id": "ann"}, lambda client: client.user_id == "ann" and "g" in client.groups),
        ({"excluded": excluded}, lambda client: "g" in client.groups and client.id not in excluded),
        ({"group": None, "filter": "'h' in groups"}, lambda client: "h" in client.groups),
        ({"group": None, "connection": clients[-1].id}, lambda client: client is clients[-1]),
        ({"group": None, "connection": stranger.id}, lambda client: False),
        ({"group": None, "connection": "no such id"}, lambda client: False),
    ]
    expected: dict[str, list[str]] = {client.id: [] for client in clients}
    for node in nodes:
        for number, (audience, meant) in enumerate(audiences):
            text = f"{node.process} {number}"
            await publish(node, publication(text, **audience))
            for client in clients:
                if meant(client):
                    expected[client.id].append(text)
                    if client.node is node:
                        # Whoever publishes has it when that is known: an echo precedes its ack.
                        assert client.texts[-1] == text
        await publish(node, publication(f"end {node.process}", group=None))
        for client in clients:
            expected[client.id].append(f"end {node.process}")
            await client.hears(f"end {node.process}")
    for client in clients:
        assert client.texts == expected[client.id]
    assert stranger.texts == []


async def test_the_order_of_each_publisher_is_kept(process: Nodes) -> None:
    nodes = _nodes(process, 3)
    clients = [await Client(node).attach("g") for node in nodes]
    numbers = range(60)
    for number in numbers:
        for node in nodes:
            node.post(publication(f"{node.process} {number}"))
        if number % 7 == 0:
            await asyncio.sleep(0)
    for client in clients:
        for node in nodes:
            await client.hears(f"{node.process} {numbers[-1]}")
            texts = [text for text in client.texts if text.startswith(node.process)]
            assert texts == [f"{node.process} {number}" for number in numbers]
    if nodes[0].log.keeps:
        # One order for all.
        assert clients[0].texts == clients[1].texts == clients[2].texts


async def test_everything_about_a_message_crosses(process: Nodes) -> None:
    here, *others = _nodes(process)
    client = await Client((others or [here])[0]).attach("👋" * 1024)
    metadata = {"Trace-Id": "1", "a": ""}
    frames: list[Any] = []
    for data_type, data in (("json", b'"end"'), ("binary", bytes(range(256))), ("protobuf", b""), ("text", b"end")):
        for group in (None, "👋" * 1024):
            await publish(here, Publication(Audience("chat", group), data_type, data, "user é", metadata, ttl_secs=7))
            payload = Payload(data_type, data)
            frames.append(
                ServerMessage(payload, metadata) if group is None else GroupMessage(group, payload, "user é", metadata)
            )
    await until(lambda: len(client.outgoing) == len(frames))
    assert [outgoing.frame for outgoing in client.outgoing] == frames
    assert {outgoing.ttl_secs for outgoing in client.outgoing} == {7}


@OURS
async def test_what_one_turn_publishes_is_one_entry_up_to_a_bound(
    process: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "MAX_TOGETHER", 10)
    monkeypatch.setattr(publishing, "MAX_TOGETHER_BYTES", 1000)
    here = process()
    client = await Client(here).attach("g")
    await publish(here, *[publication(str(number)) for number in range(25)])
    places = [outgoing.place for outgoing in client.outgoing]
    assert len(set(places)) == 25
    assert places == sorted(places)
    entries = [place >> publishing.PLACE_BITS for place in places]
    assert [entries.count(entry) for entry in sorted(set(entries))] == [10, 10, 5]
    await publish(here, *[publication("x" * 600) for _ in range(3)])
    entries = [outgoing.place >> publishing.PLACE_BITS for outgoing in client.outgoing[25:]]
    assert [entries.count(entry) for entry in sorted(set(entries))] == [2, 1]


@SHARED
async def test_a_fault_in_one_delivery_is_not_one_of_the_others(
    process: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    here = process()
    broken, client = await Client(here).attach("broken"), await Client(here).attach("g")

    def fail(outgoing: Any) -> None:
        raise ZeroDivisionError

    broken.deliver = fail  # type: ignore[method-assign]
    if here.log.alone:
        # Whoever publishes gets the fault.
        with pytest.raises(ZeroDivisionError):
            await publish(here, publication("1", "broken"))
        await publish(here, publication("2"))
    else:
        await publish(here, publication("1", "broken"), publication("2"))
        assert "could not be delivered" in caplog.text
    assert client.texts == ["2"]


# Coming and going


async def test_who_went_gets_nothing_and_the_log_is_left(process: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LINGER_SECS", 0.05)
    here, *others = _nodes(process)
    there = (others or [here])[0]
    gone, stays = await Client(there, user_id="ann").attach("g"), await Client(there).attach("g")
    member: Any = gone
    assert there.detach(member)
    assert not there.detach(member)
    await publish(here, publication("1"), publication("2", None, user_id="ann"), publication("3", None, gone.id))
    await publish(here, publication("end"))
    await stays.hears("end")
    assert (gone.texts, stays.texts) == ([], ["1", "end"])
    last: Any = stays
    there.detach(last)
    log: Any = there.log
    if not log.alone:
        await until(lambda: set(log._positions) == {CONTROL_LOG, process_log(there.process)})
        assert not there.wanted(hub_log("chat"))
    assert [there.registry.connections, there.registry.hubs, there.registry.users, there.registry.groups] == [{}] * 4


# Asking


def _answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Sequence[Any]], Any]) -> None:
    """Give processes the verb `try`."""

    async def respond(members: Sequence[Any], arguments: dict[str, Any]) -> Any:
        return answer(members)

    monkeypatch.setitem(ANSWERS, "try", respond)


async def test_everybody_is_asked_for_those_who_are_meant(process: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    _answering(monkeypatch, lambda members: sorted(member.id for member in members))
    nodes = _nodes(process, 3)
    await meet(*nodes)
    clients = [await Client(node, user_id=user_id).attach("g") for node in nodes for user_id in ("ann", "bob")]
    for asker in nodes:
        for audience, meant in (
            (Audience("chat", "g"), clients),
            (Audience("chat", user_id="ann"), clients[::2]),
            (Audience("chat", filter="userId eq 'bob'"), clients[1::2]),
            (Audience("chat", excluded=(clients[0].id,)), clients[1:]),
            (Audience("chat2"), []),
        ):
            answers = await soon(asker.ask_everybody("try", audience, {}))
            assert len(answers) == len(nodes)
            assert sorted(each for answer in answers for each in answer) == sorted(client.id for client in meant)


async def test_one_connection_is_asked_wherever_it_is(process: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    _answering(monkeypatch, lambda members: [member.id for member in members])
    nodes = _nodes(process)
    await meet(*nodes)
    clients = [await Client(node).attach() for node in nodes]
    for asker in nodes:
        for client in clients:
            assert await soon(asker.ask("try", "chat", client.id, {})) == [client.id]
            # In its hub alone.
            with pytest.raises(NotFound):
                await soon(asker.ask("try", "chat2", client.id, {}))
        for connection_id in ("f" * 32, "", "x", "0" * 33, "A" * 32, "é" * 32, "0" * 31 + "\n"):
            with pytest.raises(NotFound, match="is not found"):
                await soon(asker.ask("try", "chat", connection_id, {}))


async def test_one_refusal_is_the_answer(process: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(members: Sequence[Any]) -> int:
        if members:
            raise TooMany("that is enough")
        return 0

    _answering(monkeypatch, refuse)
    nodes = _nodes(process)
    await meet(*nodes)
    await Client(nodes[-1]).attach()
    with pytest.raises(TooMany, match="that is enough"):
        await soon(nodes[0].ask_everybody("try", Audience("chat"), {}))


@SHARED
async def test_who_said_goodbye_is_not_waited_for(process: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    _answering(monkeypatch, len)
    here, there = _nodes(process)
    await meet(here, there)
    client = await Client(there).attach()
    assert await soon(here.ask("try", "chat", client.id, {})) == 1
    await soon(there.stop())
    with pytest.raises(NotFound):
        await soon(here.ask("try", "chat", client.id, {}))
    assert sum(await soon(here.ask_everybody("try", Audience("chat"), {}))) == 0


# What the log says


@OURS
async def test_changes_are_done_by_whoever_has_the_connections(process: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[Any, dict[str, Any], int]] = []
    monkeypatch.setitem(CHANGES, "try", lambda *change: done.append(change))
    here, there = _nodes(process)
    near, far = await Client(here).attach(), await Client(there).attach()
    appended = here.append("chat", Change("try", [near.id, far.id], {"a": 1}))
    assert appended is not None
    await soon(appended)
    await publish(here, publication("end", None))
    await far.hears("end")
    # Whoever was never claimed has one process, and that has appended it.
    assert {member for member, _, _ in done} == {near, far}
    assert [arguments for _, arguments, _ in done] == [{"a": 1}] * 2
    assert len({place for _, _, place in done}) == 1


@OURS
async def test_a_gap_is_told_to_all_processes_with_connections_of_that_hub(process: Nodes) -> None:
    here, there = _nodes(process)
    near, far = await Client(here).attach(), await Client(there).attach()
    other = await Client(there, "chat2").attach()
    here.gap(hub_log("chat"))
    await until(lambda: far.lost)
    assert near.lost >= 1
    assert other.lost == 0
