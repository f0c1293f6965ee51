"""Fan-out and questions between processes, over every kind of layer that is deployed."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from channels.layers import InMemoryChannelLayer

from hubs.errors import Forbidden, NotFound, Refusal, TooMany, Unavailable
from hubs.messaging import lines
from hubs.messaging import switchboard as room
from hubs.messaging.envelope import (
    Answer,
    Audience,
    Publication,
    Question,
    encode,
    group_address,
    process_address,
)
from hubs.messaging.switchboard import ANSWERS, Switchboard, switchboard
from hubs.protocols.frames import GroupMessage, Payload
from tests.messaging.conftest import HELLO_SECS, Client, Line, Processes, line_of, publication, soon

# Publishing


async def test_a_publication_reaches_members_of_both_processes_once(process: Processes) -> None:
    here, there = process(), process()
    near, far = await Client(here).join(), await Client(there).join()
    await soon(here.publish(publication("one")))
    await soon(here.publish(publication("two")))
    await far.hears("two")
    await soon(there.publish(publication("three")))
    # The third comes last on both lines, so what came twice would have come by now.
    assert len(await near.hears("three")) == 3
    assert len(await far.hears("three")) == 3


async def test_local_members_have_it_before_publish_returns(process: Processes) -> None:
    here = process()
    near = await Client(here).join()
    await soon(here.publish(publication("one")))
    assert len(near.outgoing) == 1


async def test_members_of_one_process_share_the_encoding(process: Processes) -> None:
    here, there = process(), process()
    near = [await Client(here).join() for _ in range(3)]
    far = [await Client(there).join() for _ in range(3)]
    await soon(here.publish(publication("one")))
    for client in far:
        await client.hears("one")
    assert len({id(client.outgoing[0]) for client in near}) == 1
    assert len({id(client.outgoing[0]) for client in far}) == 1


async def test_the_excluded_are_passed_over_wherever_they_are(process: Processes) -> None:
    here, there = process(), process()
    near, far = [await Client(here).join() for _ in range(2)], [await Client(there).join() for _ in range(2)]
    await soon(here.publish(publication("secret", excluded=(near[0].id, far[0].id))))
    await soon(here.publish(publication("open")))
    for client in (near[0], far[0]):
        assert len(await client.hears("open")) == 1
    for client in (near[1], far[1]):
        assert len(await client.hears("open")) == 2


async def test_groups_and_hubs_are_kept_apart(process: Processes) -> None:
    here, there = process(), process()
    member = await Client(there).join("g")
    others = [await Client(there).join(group) for group in ("G", "g ", "g.", "*", "g\0", "ĝ")]
    others += [await Client(there, hub).join("g") for hub in ("chat2", "cha")]
    await soon(here.publish(publication("one")))
    await member.hears("one")
    for other in others:
        await soon(here.publish(publication("own", next(iter_groups(there, other)), hub=other.hub)))
        assert len(await other.hears("own")) == 1


def iter_groups(board: Switchboard, client: Client) -> Any:
    return (group for (hub, group), members in board._groups.items() if hub == client.hub and client.id in members)


async def test_groups_of_any_name_cross(process: Processes) -> None:
    here, there = process(), process()
    for group in ("x" * 1024, "👋" * 1024, "\0\n ", "a/b?c#d", "__group__"):
        far = await Client(there).join(group)
        await soon(here.publish(publication("one", group)))
        await far.hears("one")
        assert far.outgoing[0].frame == GroupMessage(group, Payload("text", b"one"))


async def test_everything_about_a_message_crosses(process: Processes) -> None:
    here, there = process(), process()
    far = await Client(there).join()
    metadata = {"Trace-Id": "1", "a": ""}
    for data_type, data in (("json", b'"end"'), ("binary", bytes(range(256))), ("protobuf", b""), ("text", b"end")):
        await soon(here.publish(Publication(Audience("chat", "g"), data_type, data, "user é", metadata)))
    while len(far.outgoing) < 4:
        far._heard.append(await soon(far._told.get()))
    assert [outgoing.frame for outgoing in far.outgoing] == [
        GroupMessage("g", Payload(data_type, data), "user é", metadata)
        for data_type, data in (("json", b'"end"'), ("binary", bytes(range(256))), ("protobuf", b""), ("text", b"end"))
    ]


async def test_the_order_of_one_publisher_is_kept(process: Processes) -> None:
    here, there = process(), process()
    far = await Client(there).join()
    for number in range(100):
        await soon(here.publish(publication(str(number))))
    await far.hears("99")
    assert [outgoing.frame.payload.data for outgoing in far.outgoing] == [str(number).encode() for number in range(100)]  # type: ignore[union-attr]


async def test_a_process_with_several_members_is_sent_one_copy(process: Processes) -> None:
    here, there = process(), process()
    clients = [await Client(there).join() for _ in range(5)]
    await soon(here.start())
    line_of(here).noted()
    await soon(here.publish(publication("one")))
    assert line_of(here).noted() == [("group_send", group_address("chat", "g"))]
    for client in clients:
        await client.hears("one")


async def test_without_members_nobody_complains(process: Processes) -> None:
    await soon(process().publish(publication("one")))


async def test_who_left_gets_nothing_more(process: Processes) -> None:
    here, there = process(), process()
    near, far = await Client(here).join(), await Client(there).join()
    stays = await Client(there).join()
    here.leave(near, "g")
    there.leave(far, "g")
    await soon(here.publish(publication("one")))
    await stays.hears("one")
    assert near.heard_nothing
    assert far.heard_nothing


async def test_leaving_what_one_is_not_in(process: Processes) -> None:
    here = process()
    near, other = await Client(here).join(), Client(here)
    here.leave(other, "g")
    here.leave(near, "nowhere")
    here.leave(near, "g")
    here.leave(near, "g")
    await soon(here.publish(publication("one")))
    assert near.heard_nothing


# Other audiences


async def test_a_hub_a_user_and_a_connection_are_audiences(process: Processes) -> None:
    here, there = process(), process()
    ann = [await Client(board, user_id="ann").join() for board in (here, there)]
    bob = [await Client(board, user_id="bob").join() for board in (here, there)]
    nobody = [await Client(board).join("other") for board in (here, there)]
    stranger = await Client(there, "chat2", "ann").join()
    everybody = [*ann, *bob, *nobody]
    for number, (audience, connection, meant) in enumerate(
        [
            (Audience("chat"), None, everybody),
            (Audience("chat", excluded=(ann[0].id, ann[1].id)), None, [*bob, *nobody]),
            (Audience("chat", user_id="ann"), None, ann),
            (Audience("chat", user_id="Ann"), None, []),
            (Audience("chat", user_id=""), None, []),
            (Audience("chat", "g"), None, [*ann, *bob]),
            (Audience("chat", "g", user_id="bob"), None, bob),
            (Audience("chat"), ann[0].id, [ann[0]]),
            (Audience("chat"), ann[1].id, [ann[1]]),
            (Audience("chat"), stranger.id, []),
            (Audience("chat"), "no such id", []),
        ]
    ):
        text = f"message {number}"
        await soon(here.publish(Publication(audience, "text", text.encode(), connection=connection)))
        # To one connection it goes by another address, so each kind is waited for by itself.
        for client in meant:
            assert [heard for heard in await client.hears(text) if text in heard] == [client._heard[-1]]
    await soon(here.publish(Publication(Audience("chat"), "text", b"end")))
    for client in everybody:
        expected = {ann[0]: 5, ann[1]: 5, bob[0]: 5, bob[1]: 5, nobody[0]: 3, nobody[1]: 3}[client]
        assert len(await client.hears("end")) == expected
    assert stranger.heard_nothing


async def test_after_detaching_no_audience_means_it(process: Processes) -> None:
    here, there = process(), process()
    gone, stays = await Client(there, user_id="ann").join(), await Client(there, user_id="ann").join()
    there.leave(gone, "g")
    there.detach(gone)
    there.detach(gone)
    for audience in (Audience("chat"), Audience("chat", user_id="ann"), Audience("chat", "g")):
        await soon(here.publish(Publication(audience, "text", b"one")))
    await soon(here.publish(Publication(Audience("chat"), "text", b"gone", connection=gone.id)))
    await soon(here.publish(publication("end")))
    await stays.hears("end")
    assert gone.heard_nothing


# Coming and going on the layer


async def test_a_layer_group_is_joined_with_the_first_and_left_after_the_last(
    process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 0.02)
    board, address = process(), group_address("chat", "g")
    first = await Client(board).join()
    assert ("group_add", address) in line_of(board).noted()
    second = await Client(board).join()
    board.leave(first, "g")
    assert line_of(board).noted() == []
    board.leave(second, "g")
    assert await soon(line_of(board).calls.get()) == ("group_discard", address)
    await Client(board).join()
    assert line_of(board).noted() == [("group_add", address)]


async def test_many_groups_are_left_in_turn(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 0.02)
    board = process()
    client = Client(board)
    for number in range(20):
        await client.join(str(number))
    line_of(board).noted()
    for number in range(20):
        board.leave(client, str(number))
    left = [await soon(line_of(board).calls.get()) for _ in range(20)]
    assert left == [("group_discard", group_address("chat", str(number))) for number in range(20)]


async def test_who_comes_back_soon_costs_nothing(process: Processes) -> None:
    here, there = process(), process()
    far = await Client(there).join()
    line_of(there).noted()
    there.leave(far, "g")
    await soon(there.join(far, "g"))
    assert line_of(there).noted() == []
    await soon(here.publish(publication("one")))
    await far.hears("one")


async def test_who_comes_back_while_the_layer_group_is_being_left(
    process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 0.0)
    here, there = process(), process()
    far = await Client(there).join()
    line, leaving, go_on = line_of(there), asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        leaving.set()
        await go_on.wait()

    line.before["group_discard"] = hold
    there.leave(far, "g")
    await soon(leaving.wait())
    joining = asyncio.create_task(there.join(far, "g"))
    await asyncio.sleep(0)
    assert not joining.done()
    go_on.set()
    await soon(joining)
    await soon(here.publish(publication("one")))
    await far.hears("one")


async def test_two_who_come_at_once_both_wait_for_the_layer(process: Processes) -> None:
    here, there = process(), process()
    line, go_on = line_of(there), asyncio.Event()
    await soon(there.start())
    line.before["group_add"] = go_on.wait  # type: ignore[assignment]
    clients = [Client(there), Client(there)]
    joins = [asyncio.create_task(there.join(client, "g")) for client in clients]
    for _ in range(5):
        await asyncio.sleep(0)
    assert [join.done() for join in joins] == [False, False]
    go_on.set()
    await soon(asyncio.gather(*joins))
    await soon(here.publish(publication("one")))
    for client in clients:
        await client.hears("one")


async def test_who_leaves_while_joining_is_no_member(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 0.0)
    board = process()
    line, go_on = line_of(board), asyncio.Event()
    client = Client(board)
    await soon(board.attach(client))
    line.noted()
    line.before["group_add"] = go_on.wait  # type: ignore[assignment]
    joining = asyncio.create_task(board.join(client, "g"))
    assert await soon(line.calls.get()) == ("group_add", group_address("chat", "g"))
    board.leave(client, "g")
    go_on.set()
    await soon(joining)
    assert await soon(line.calls.get()) == ("group_discard", group_address("chat", "g"))
    await soon(board.publish(publication("one")))
    assert client.heard_nothing


# When the layer fails


class Broken(Exception):
    """What a layer without its server raises."""


async def _break() -> None:
    raise Broken("details of the network")


@pytest.mark.usefixtures("quick_answers")
async def test_who_cannot_reach_the_others_is_told(process: Processes, caplog: pytest.LogCaptureFixture) -> None:
    here = process()
    near = await Client(here).join()
    line_of(here).before["group_send"] = _break
    with pytest.raises(Unavailable) as refused:
        await soon(here.publish(publication("one")))
    assert refused.value.message == "The other servers of this service cannot be reached."
    # Members here have it nevertheless, and the log says why the others have not.
    await near.hears("one")
    assert "details of the network" in caplog.text
    with pytest.raises(Unavailable, match="cannot be reached"):
        await soon(here.ask("count", "chat", "0" * 32, {}))


async def test_a_failed_join_leaves_nothing_behind(process: Processes) -> None:
    here, there = process(), process()
    far = Client(there)
    await soon(there.attach(far))
    line_of(there).before["group_add"] = _break
    with pytest.raises(Broken):
        await soon(there.join(far, "g"))
    await soon(there.publish(publication("one")))
    assert far.heard_nothing
    # With the layer back, joining works.
    del line_of(there).before["group_add"]
    await soon(there.join(far, "g"))
    await soon(here.publish(publication("two")))
    assert len(await far.hears("two")) == 1


async def test_one_failed_join_does_not_take_another_with_it(process: Processes) -> None:
    here, there = process(), process()
    unlucky, lucky = Client(there), Client(there)
    await soon(there.start())
    failing, fail = asyncio.Event(), asyncio.Event()

    async def fail_once() -> None:
        del line_of(there).before["group_add"]
        failing.set()
        await fail.wait()
        raise Broken

    line_of(there).before["group_add"] = fail_once
    first = asyncio.create_task(there.join(unlucky, "g"))
    await soon(failing.wait())
    second = asyncio.create_task(there.join(lucky, "g"))
    await asyncio.sleep(0)
    fail.set()
    with pytest.raises(Broken):
        await soon(first)
    await soon(second)
    await soon(here.publish(publication("one")))
    await lucky.hears("one")
    assert unlucky.heard_nothing


async def test_a_cancelled_join_is_left_on_the_layer_again(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer may have done it all the same; without leaving, messages would come for ever."""
    monkeypatch.setattr(lines, "LINGER_SECS", 0.0)
    board, address = process(), group_address("chat", "g")
    line, client = line_of(board), Client(board)
    await soon(board.attach(client))
    line.noted()
    added = asyncio.Event()

    async def hold() -> None:
        added.set()
        await asyncio.Event().wait()

    line.after["group_add"] = hold
    joining = asyncio.create_task(board.join(client, "g"))
    await soon(added.wait())
    assert line.noted() == [("group_add", address)]
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(joining)
    assert await soon(line.calls.get()) == ("group_discard", address)


@pytest.mark.parametrize("half_done", [False, True])
async def test_after_a_failed_leave_the_group_is_heard_again(
    process: Processes, monkeypatch: pytest.MonkeyPatch, half_done: bool
) -> None:
    """A layer may forget a group although its server could not be told; taking it for held would be deafness."""
    monkeypatch.setattr(lines, "LINGER_SECS", 0.0)
    here, there = process(), process()
    far = await Client(there).join()
    line = line_of(there)
    line.noted()
    moment = line.after if half_done else line.before
    moment["group_discard"] = _break
    there.leave(far, "g")
    assert (await soon(line.calls.get()))[0] == "group_discard"
    while there._lines._leaving or not there._lines._sweep.done():  # type: ignore[union-attr]
        await asyncio.sleep(0)
    del moment["group_discard"]
    await soon(there.join(far, "g"))
    await soon(here.publish(publication("one")))
    await far.hears("one")
    there.leave(far, "g")
    while (await soon(line.calls.get()))[0] != "group_discard":
        pass


async def test_a_disturbed_line_is_listened_to_again(process: Processes, caplog: pytest.LogCaptureFixture) -> None:
    here, there = process(), process()

    async def break_once() -> None:
        del line_of(there).before["receive"]
        raise Broken

    line_of(there).before["receive"] = break_once
    far = await Client(there).join()
    await soon(here.publish(publication("one")))
    await far.hears("one")
    assert "disturbed" in caplog.text


async def test_a_layer_that_is_not_there_at_first(process: Processes) -> None:
    here, there = process(), process()
    line_of(there).before["new_channel"] = _break
    far = Client(there)
    with pytest.raises(Broken):
        await soon(there.attach(far))
    line_of(there).before = {"group_add": _break}
    with pytest.raises(Broken):
        await soon(there.attach(far))
    line_of(there).before = {}
    await far.join()
    await soon(here.publish(publication("one")))
    await far.hears("one")


# What is not for us


UNREADABLE: list[dict[str, Any]] = [
    {},
    {"body": None},
    {"body": "text"},
    {"body": 5},
    {"body": b""},
    {"body": b"garbage"},
    {"body": b"\xc1"},
    {"body": msgspec.msgpack.encode(["z", 1])},
    {"body": msgspec.msgpack.encode(["p", "chat"])},
    {"body": encode(Publication(Audience("chat", "g"), "hologram", b"secret"))},
    {"body": encode(Publication(Audience("chat", "g"), "text", b"secret \xff"))},
    {"body": encode(Answer(4711, "0" * 8))},
    {"body": encode(Question(1, "00000000", "dance", Audience("chat"), "0" * 32))},
    {"origin": 5, "body": b"garbage"},
    {"origin": None},
]


async def test_what_cannot_be_read_is_passed_over(process: Processes, caplog: pytest.LogCaptureFixture) -> None:
    here, there = process(), process()
    far = await Client(there).join()
    await soon(here.start())
    for number, message in enumerate(UNREADABLE):
        garbage = {"type": room.MESSAGE_TYPE, "origin": "x"} | message
        await soon(line_of(here).layer.group_send(process_address(there.process), garbage))
        # The line is sound behind each.
        await soon(here.publish(publication(str(number))))
        assert len(await far.hears(str(number))) == number + 1
    assert "disturbed" not in caplog.text
    assert "secret" not in caplog.text


# Questions


Asked = list[tuple[Any, dict[str, Any]]]


def _answers(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], bool]) -> Asked:
    """Give processes the verb `try`."""
    asked: Asked = []

    async def attempt(members: Sequence[Any], arguments: dict[str, Any]) -> bool:
        [member] = members
        asked.append((member, arguments))
        return answer()

    monkeypatch.setitem(ANSWERS, "try", attempt)
    return asked


def _raises(problem: Exception) -> Callable[[], bool]:
    def answer() -> bool:
        raise problem

    return answer


@pytest.mark.parametrize("value", [True, False])
async def test_the_home_of_a_connection_answers(
    process: Processes, monkeypatch: pytest.MonkeyPatch, value: bool
) -> None:
    here, there = process(), process()
    asked = _answers(monkeypatch, lambda: value)
    near, far = await Client(here).join(), await Client(there).join()
    arguments = {"group": "é", "reason": None, "": "x" * 10_000}
    for client in (near, far):
        assert await soon(here.ask("try", "chat", client.id, arguments)) is value
    assert asked == [(near, arguments), (far, arguments)]


@pytest.mark.parametrize("problem", [NotFound("no such thing é"), TooMany("that is enough"), Refusal("just no")])
async def test_refusals_cross(process: Processes, monkeypatch: pytest.MonkeyPatch, problem: Refusal) -> None:
    here, there = process(), process()
    _answers(monkeypatch, _raises(problem))
    for client in (await Client(here).join(), await Client(there).join()):
        with pytest.raises(Refusal) as refused:
            await soon(here.ask("try", "chat", client.id, {}))
        assert type(refused.value) is type(problem)
        assert refused.value.message == problem.message


async def test_refusals_of_another_kind_keep_their_words(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    _answers(monkeypatch, _raises(Forbidden("not you")))
    far = await Client(there).join()
    with pytest.raises(Refusal, match="not you"):
        await soon(here.ask("try", "chat", far.id, {}))


async def test_faults_do_not_cross(
    process: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = process(), process()
    _answers(monkeypatch, _raises(ZeroDivisionError("inner details")))
    far = await Client(there).join()
    with pytest.raises(Refusal) as refused:
        await soon(here.ask("try", "chat", far.id, {}))
    assert refused.value.message == "Internal server error"
    assert "inner details" in caplog.text


async def test_many_questions_at_once_get_their_own_answers(
    process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = process(), process()

    async def is_even(members: Sequence[Any], arguments: dict[str, Any]) -> bool:
        await asyncio.sleep(0)
        return int(arguments["number"]) % 2 == 0

    monkeypatch.setitem(ANSWERS, "even", is_even)
    far = await Client(there).join()
    questions = [here.ask("even", "chat", far.id, {"number": str(number)}) for number in range(50)]
    assert await soon(asyncio.gather(*questions)) == [number % 2 == 0 for number in range(50)]
    assert here._questions == {}


@pytest.fixture
def quick_answers(settings: Any) -> None:
    """A process that does not answer is given up sooner, but still after several of its hellos."""
    settings.WEBPUBSUB = settings.WEBPUBSUB | {"ANSWER_SECS": 4 * HELLO_SECS}


@pytest.mark.usefixtures("quick_answers")
async def test_a_process_that_is_gone_has_no_connections(process: Processes) -> None:
    here, gone = process(), process()
    connection_id = Client(gone).id
    await soon(here.start())
    with pytest.raises(NotFound) as refused:
        await soon(here.ask("exists", "chat", connection_id, {}))
    assert refused.value.message == f"Connection `{connection_id}` is not found."
    assert here._questions == {}


async def test_connections_that_are_not_there(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    asked = _answers(monkeypatch, lambda: True)
    near, far = await Client(here).join(), await Client(there).join()
    for board, client in ((here, near), (there, far)):
        board.detach(client)
        for connection_id in (client.id, board.new_connection_id()):
            with pytest.raises(NotFound):
                await soon(here.ask("try", "chat", connection_id, {}))
    assert asked == []


async def test_a_connection_is_in_its_hub_only(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    asked = _answers(monkeypatch, lambda: True)
    for client in (await Client(here).join(), await Client(there).join()):
        with pytest.raises(NotFound):
            await soon(here.ask("try", "other", client.id, {}))
    assert asked == []


@pytest.mark.parametrize(
    "connection_id", ["", "x", "0" * 31, "0" * 33, "0" * 31 + "g", "A" * 32, "é" * 32, "../" * 10, "0" * 31 + "\n"]
)
async def test_what_is_no_connection_id_is_asked_of_nobody(process: Processes, connection_id: str) -> None:
    here = process()
    await soon(here.start())
    line_of(here).noted()
    with pytest.raises(NotFound):
        await soon(here.ask("exists", "chat", connection_id, {}))
    assert line_of(here).noted() == []


async def test_open_questions_are_bounded(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(members: Sequence[Any], arguments: dict[str, Any]) -> bool:
        asked.set()
        return await go_on.wait()

    monkeypatch.setitem(ANSWERS, "wait", wait)
    monkeypatch.setattr(room, "MAX_OPEN_QUESTIONS", 1)
    far = await Client(there).join()
    first = asyncio.create_task(here.ask("wait", "chat", far.id, {}))
    await soon(asked.wait())
    with pytest.raises(Unavailable, match="Too many questions"):
        await soon(here.ask("wait", "chat", far.id, {}))
    go_on.set()
    assert await soon(first)
    assert await soon(here.ask("wait", "chat", far.id, {}))


async def test_an_asker_who_gave_up_is_forgotten(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(members: Sequence[Any], arguments: dict[str, Any]) -> bool:
        asked.set()
        return await go_on.wait()

    monkeypatch.setitem(ANSWERS, "wait", wait)
    far = await Client(there).join()
    question = asyncio.create_task(here.ask("wait", "chat", far.id, {}))
    await soon(asked.wait())
    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(question)
    assert here._questions == {}
    # The answer still comes, and disturbs nobody.
    go_on.set()
    assert await soon(here.ask("wait", "chat", far.id, {}))


async def test_everybody_answers(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    boards = [process() for _ in range(3)]

    async def who(members: Sequence[Any], arguments: dict[str, Any]) -> list[str]:
        return [member.id for member in members]

    monkeypatch.setitem(ANSWERS, "who", who)
    clients = [await Client(board, user_id=user).join() for board in boards for user in ("ann", "bob")]
    for audience, meant in (
        (Audience("chat"), clients),
        (Audience("chat", "g"), clients),
        (Audience("chat", user_id="ann"), clients[::2]),
        (Audience("chat", "nowhere"), []),
        (Audience("chat2"), []),
        (Audience("chat", excluded=(clients[0].id, clients[5].id)), clients[1:5]),
    ):
        answers = await soon(boards[0].ask_everybody("who", audience, {}))
        assert len(answers) == 3
        assert sorted(connection_id for answer in answers for connection_id in answer) == sorted(
            client.id for client in meant
        )


async def test_one_refusal_is_the_answer(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    far = await Client(there).join()

    async def refuse(members: Sequence[Any], arguments: dict[str, Any]) -> int:
        if members:
            raise TooMany("that is enough")
        return 0

    monkeypatch.setitem(ANSWERS, "try", refuse)
    with pytest.raises(TooMany, match="that is enough"):
        await soon(here.ask_everybody("try", Audience(far.hub), {}))


@pytest.mark.usefixtures("quick_answers")
async def test_a_process_that_lives_and_does_not_answer(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would have said is not known, so nothing is claimed."""
    here, there = process(), process()

    async def wait(members: Sequence[Any], arguments: dict[str, Any]) -> int:
        if members:
            await asyncio.Event().wait()
        return 0

    monkeypatch.setitem(ANSWERS, "wait", wait)
    far = await Client(there).join()
    with pytest.raises(Unavailable, match="did not answer in time"):
        await soon(here.ask("wait", "chat", far.id, {}))
    with pytest.raises(Unavailable, match="did not answer in time"):
        await soon(here.ask_everybody("wait", Audience("chat"), {}))
    assert here._questions == {}


async def test_who_said_goodbye_is_not_waited_for(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    _answers(monkeypatch, lambda: True)
    far = await Client(there).join()
    assert await soon(here.ask("try", "chat", far.id, {}))
    await soon(there.stop())
    with pytest.raises(NotFound):
        await soon(here.ask("try", "chat", far.id, {}))


@pytest.mark.usefixtures("quick_answers")
async def test_who_died_is_not_waited_for_for_ever(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = process(), process()
    _answers(monkeypatch, lambda: True)
    far = await Client(there).join()
    assert await soon(here.ask("try", "chat", far.id, {}))
    for task in there._running:
        task.cancel()
    while far.id[:8] in await soon(here._others()):
        await asyncio.sleep(0)
    with pytest.raises(NotFound):
        await soon(here.ask("try", "chat", far.id, {}))


@pytest.mark.usefixtures("quick_answers")
async def test_an_answer_that_cannot_be_sent_is_no_loose_end(
    process: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = process(), process()
    _answers(monkeypatch, lambda: True)
    far = await Client(there).join()
    line_of(there).before["group_send"] = _break
    with pytest.raises(NotFound):
        await soon(here.ask("try", "chat", far.id, {}))
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


# One process


async def test_alone_there_is_nobody_to_tell_or_ask() -> None:
    line = Line(InMemoryChannelLayer())
    board = Switchboard(line, alone=True)
    client = await Client(board).join()
    line.noted()
    await board.publish(publication("one"))
    await client.hears("one")
    with pytest.raises(NotFound):
        await board.ask("exists", "chat", "0" * 32, {})
    assert line.noted() == []
    await board.stop()


async def test_connections_are_counted() -> None:
    board = Switchboard(InMemoryChannelLayer(), alone=True)
    clients = [await Client(board).join() for _ in range(3)]
    assert len(board) == 3
    board.detach(clients[0])
    board.detach(clients[0])
    assert len(board) == 2
    await board.stop()


def test_connection_ids() -> None:
    board = Switchboard(InMemoryChannelLayer(), alone=True)
    ids = {board.new_connection_id() for _ in range(100)}
    assert len(ids) == 100
    assert {len(connection_id) for connection_id in ids} == {32}
    assert {connection_id[:8] for connection_id in ids} == {board.process}
    assert all(set(connection_id) <= set("0123456789abcdef") for connection_id in ids)


async def test_stopping_ends_everything(process: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINGER_SECS", 60.0)
    before = asyncio.all_tasks()
    board = process()
    client = await Client(board).join()
    board.leave(client, "g")
    assert {task.get_name() for task in asyncio.all_tasks() - before} >= {
        "switchboard",
        "leave unwanted groups",
        "hello to other processes",
    }
    await soon(board.stop())
    await soon(line_of(board).layer.flush())
    assert asyncio.all_tasks() - before == set()


async def test_each_loop_has_its_switchboard() -> None:
    board = switchboard()
    assert board is switchboard()

    def elsewhere() -> Switchboard:
        async def ask() -> Switchboard:
            return switchboard()

        return asyncio.run(ask())

    other = await asyncio.to_thread(elsewhere)
    assert other is not board
    assert other.process != board.process


async def test_nothing_secret_is_logged(process: Processes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "hubs")
    here, there = process(), process()
    far = await Client(there).join("secret group")
    await soon(here.publish(publication("secret text", "secret group")))
    await far.hears("secret text")
    line_of(here).before["group_send"] = _break
    with pytest.raises(Refusal):
        await soon(here.publish(publication("secret text", "secret group")))
    assert "secret" not in caplog.text
