"""Fan-out over every kind of layer that is deployed: whom a publication reaches, once and in order."""

from __future__ import annotations

from typing import Any

from hubs.messaging.envelope import (
    Audience,
    Publication,
    group_address,
)
from hubs.messaging.switchboard import Switchboard
from hubs.protocols.frames import GroupMessage, Payload
from tests.messaging.conftest import Client, Processes, line_of, publication, soon


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
    return (
        group for (hub, group), members in board._directory.groups.items() if hub == client.hub and client.id in members
    )


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
