"""The reliable subprotocols: lines 30 to 40, 45 and 46 of the client protocol's checklist, on every server.

Each test runs in JSON and in protobuf. `Reliable` (client.py) watches over the sequence ids: every
data frame it hears has to follow the last one, and after a recovery the last one acknowledged.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ResourceNotFoundError

from tests.running import PATIENCE, Service
from tests.service.client import (
    JSON,
    JSON_RELIABLE,
    NOT_RECOVERED,
    PROTOBUF,
    PROTOBUF_RELIABLE,
    Client,
    Reliable,
    Sdk,
    Target,
    ask_event,
    group_message,
    hears,
    ok,
    opened,
    publish,
    refused,
    reliable,
    server_message,
)
from tests.service.conftest import SERVERS
from tests.service.rest import call

Unique = Callable[[str], str]
Open = Callable[..., AbstractAsyncContextManager[Reliable]]

BUFFER_FULL = (1008, "The reliable message buffer is full.")
BUFFER_MESSAGES = 1000
WINDOW_OVER = "disconnected: The connection recovery timeout expired."

# What leaves a connection recoverable.
LOSSES: dict[str, Callable[[Client], Awaitable[None]]] = {
    "reset": Client.reset,
    "no close frame": Client.hang_up,
    "1001": partial(Client.close, code=1001),
    "3000": partial(Client.close, code=3000, reason="keep-alive"),
    "4000": partial(Client.close, code=4000),
}


def duplicate(ack_id: int) -> dict[str, Any]:
    error = {"name": "Duplicate", "message": f"Message with ack-id: {ack_id} has been processed"}
    return {"type": "ack", "ackId": ack_id, "success": False, "error": error}


RELIABLE = [JSON_RELIABLE, PROTOBUF_RELIABLE]


@pytest.fixture(params=RELIABLE, ids=["json", "protobuf"])
def subprotocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def come(target: Target, subprotocol: str) -> Open:
    """`come(groups=["g"])`: a reliable client of the hub `chat`, or of another."""
    return lambda hub="chat", **options: reliable(target.url(hub, **options), subprotocol)


@pytest.fixture
def rest(target: Target) -> Sdk:
    return Sdk(target)


@pytest.fixture
async def other(target: Target) -> AsyncIterator[Client]:
    """Somebody else in the hub `chat`, who publishes."""
    async with opened(target.url(), JSON) as client:
        yield client


@pytest.fixture
async def insider(target: Target) -> AsyncIterator[Client]:
    """Somebody else in the hub that has event handlers."""
    async with opened(target.url("handled"), JSON) as client:
        yield client


async def gone(client: Client, witness: Client) -> None:
    """Leave, and wait until the service has noticed: its side has ended, and it has done things since."""
    await client.hang_up()
    for _ in range(3):
        await witness.barrier()


# The connected frame and sequence ids


async def test_line_30_only_reliable_clients_get_a_reconnection_token(target: Target, come: Open) -> None:
    async with come() as one, come() as another:
        for client in (one, another):
            assert client.token
            # It has to survive as part of a query.
            assert client.token.isascii()
            assert not set(client.token) & set("&#+% ")
        assert one.token != another.token
    for plain in (JSON, PROTOBUF):
        async with opened(target.url(), plain, connected=False) as unreliable:
            assert "reconnectionToken" not in await unreliable.hear()


async def test_line_30_the_connected_frame_as_it_is_written(target: Target) -> None:
    async with opened(target.url(user="bob"), JSON_RELIABLE, connected=False) as client:
        raw = await client.hear_raw()
        assert isinstance(raw, str)
        members = json.loads(raw)
        connection_id, token = members["connectionId"], members["reconnectionToken"]
        assert raw == (
            f'{{"type":"system","event":"connected","userId":"bob","connectionId":"{connection_id}",'
            f'"reconnectionToken":"{token}"}}'
        )


@pytest.mark.parametrize("offered", [JSON_RELIABLE.upper(), PROTOBUF_RELIABLE.title()])
async def test_line_30_the_clients_own_spelling_is_echoed(target: Target, offered: str, unique: Unique) -> None:
    room = unique("room")
    async with reliable(target.url(groups=[room]), offered) as client:
        assert client.subprotocol == offered
        await client.reset()
        await client.recover()
        assert client.subprotocol == offered
        assert await client.ask(type="sendToGroup", group=room, data=1) == group_message(room, 1)


@pytest.mark.needs_handlers
async def test_line_31_data_frames_are_numbered_and_others_are_not(
    target: Target, come: Open, insider: Client, unique: Unique
) -> None:
    room, rest = unique("room"), Sdk(target, "handled")
    async with come("handled", user="ann") as client:
        # A frame that is no data and has a sequence id fails in hear(), and so does a number left out.
        await client.join(room)
        await client.barrier()
        await publish(insider, room, "one")
        await hears(client, room, "one")
        assert client.heard == 1
        await client.say(type="sendToGroup", group=room, data="own", noEcho=True, ackId=1)
        assert await client.hear() == ok(1)
        await client.say(type="event", event="mirror", data="two", ackId=2)
        assert await client.hear() == server_message("two")
        assert await client.hear() == ok(2)
        await rest.send_to_connection(client.id, "three")
        await rest.send_to_user("ann", "four")
        assert await client.hear() == server_message("three")
        assert await client.hear() == server_message("four")
        assert (await client.ask(type="joinGroup", group=room, ackId=1))["error"]["name"] == "Duplicate"
        await publish(insider, room, "five")
        await hears(client, room, "five")
        assert client.heard == 5


async def test_line_31_every_connection_counts_for_itself(come: Open, other: Client, unique: Unique) -> None:
    room = unique("room")
    async with come(groups=[room]) as first:
        await publish(other, room, 1)
        await hears(first, room, 1)
        async with come(groups=[room]) as second:
            await publish(other, room, 2)
            await hears(first, room, 2)
            await hears(second, room, 2)
            assert (first.heard, second.heard) == (2, 1)


async def test_line_31_the_sequence_id_is_the_last_member(target: Target, other: Client, unique: Unique) -> None:
    room = unique("room")
    async with opened(target.url(groups=[room]), JSON_RELIABLE) as client:
        await publish(other, room, {"a": "}"}, metadata={"m": "1"})
        assert await client.hear_raw() == (
            f'{{"type":"message","from":"group","group":"{room}","dataType":"json","data":{{"a": "}}"}},'
            f'"metadata":{{"m":"1"}},"sequenceId":1}}'
        )


# Recovery


@pytest.mark.needs_handlers
async def test_line_32_recovery_gives_the_connection_back(
    target: Target, come: Open, insider: Client, unique: Unique
) -> None:
    by_token, by_frame, by_rest, left = (unique(name) for name in ("token", "frame", "rest", "left"))
    rest = Sdk(target, "handled")
    async with come("handled", user="ann", groups=[by_token, left], extra={"state": "kept"}) as client:
        await client.join(by_frame)
        await rest.add_connection_to_group(by_rest, client.id)
        await client.say(type="leaveGroup", group=left)
        await client.barrier()
        await publish(insider, by_token, "acknowledged")
        await hears(client, by_token, "acknowledged")
        await client.acknowledge()
        await publish(insider, by_frame, "heard", "heard too")
        await hears(client, by_frame, "heard", "heard too")
        await client.reset()
        await publish(insider, by_token, "missed")
        await publish(insider, left, "not meant")
        await publish(insider, by_rest, "missed too")
        await client.recover()
        # What was heard and not acknowledged once more, then what came meanwhile: nothing before it.
        await hears(client, by_frame, "heard", "heard too")
        await hears(client, by_token, "missed")
        await hears(client, by_rest, "missed too")
        await publish(insider, by_rest, "live")
        await hears(client, by_rest, "live")
        assert client.heard == 6
        assert await rest.members(by_frame) == [client.id]
        answer = await client.ask(type="event", event="whoami", data=1)
        assert answer["data"]["user"] == "ann"
        assert answer["data"]["state"] == "kept"
        await client.say(type="event", event="mirror", dataType="text", data="x", ackId=9)
        assert (await client.hear())["data"] == "x"
        assert await client.hear() == ok(9)


async def test_line_32_a_connection_can_be_recovered_again_and_again(come: Open, other: Client, unique: Unique) -> None:
    room = unique("room")
    async with come(groups=[room]) as client:
        for round_ in range(20):
            await publish(other, room, f"live {round_}")
            await list(LOSSES.values())[round_ % len(LOSSES)](client)
            await publish(other, room, f"missed {round_}")
            await client.recover()
            await hears(client, room, f"live {round_}", f"missed {round_}")
            await client.acknowledge()


async def test_line_32_recovered_without_having_read_anything(come: Open, other: Client, unique: Unique) -> None:
    room = unique("room")
    async with come(groups=[room]) as client:
        for round_ in range(5):
            # Lost again before the replay is read: it is replayed again, and the new behind it.
            await publish(other, room, round_)
            await client.reset()
            await client.recover()
        await hears(client, room, *range(5))


async def test_line_32_messages_published_during_the_recovery_queue_behind_the_replay(
    come: Open, other: Client, unique: Unique
) -> None:
    room = unique("room")

    async def publishing() -> None:
        for start in range(0, 900, 10):
            await publish(other, room, *range(start, start + 10))

    async with come(groups=[room]) as client, asyncio.TaskGroup() as group:
        done = group.create_task(publishing())
        while not done.done():
            await client.reset()
            await client.recover()
            # Nothing was acknowledged: all from the first on, wherever the replay ends and the new begins.
            await hears(client, room, *range(10))
        await hears(client, room, *range(10, 900))


async def test_line_33_sequence_ack_discards_all_up_to_it(come: Open, other: Client, unique: Unique) -> None:
    room = unique("room")
    async with come(groups=[room]) as client:
        await publish(other, room, *range(1, 8))
        await hears(client, room, *range(1, 8))
        await client.acknowledge(3)
        await client.reset()
        await client.recover()
        await hears(client, room, 4, 5, 6, 7)
        # Again, and backwards: that takes nothing back.
        await client.acknowledge(5)
        await client.acknowledge(5)
        await client.acknowledge(1)
        await client.acknowledge(0)
        await client.reset()
        await client.recover()
        await hears(client, room, 6, 7)
        await client.acknowledge()
        await client.reset()
        await client.recover()
        await client.barrier()
        await publish(other, room, 8)
        await hears(client, room, 8)
        assert client.heard == 8


@pytest.mark.parametrize("sequence_id", [100, 2**63 - 1])
async def test_line_33_what_was_not_sent_yet_cannot_be_acknowledged(
    come: Open, other: Client, unique: Unique, sequence_id: int
) -> None:
    room = unique("room")
    async with come(groups=[room]) as client:
        await publish(other, room, 1)
        await hears(client, room, 1)
        await client.acknowledge(sequence_id)
        await publish(other, room, 2)
        await hears(client, room, 2)
        await client.reset()
        await publish(other, room, 3)
        await client.recover()
        await hears(client, room, 2, 3)


# Failing to recover


@pytest.mark.parametrize(
    "changed",
    [
        {"awps_reconnection_token": None},
        {"awps_reconnection_token": ""},
        {"awps_reconnection_token": "guessed"},
        {"awps_reconnection_token": "\u00fc%00&"},
        {"awps_connection_id": "0" * 32},
        {"awps_connection_id": "../\u00fc \x00"},
        {"awps_connection_id": "x" * 5000},
    ],
    ids=["no token", "empty token", "bad token", "strange token", "unknown id", "strange id", "long id"],
)
async def test_line_34_a_failed_recovery_is_101_then_1008(
    come: Open, other: Client, unique: Unique, changed: dict[str, str | None]
) -> None:
    room = unique("room")
    async with come(groups=[room]) as client:
        await publish(other, room, "before")
        await client.cannot_recover(url=client.recovery_url(**changed))
        # The connection that was meant goes on as if nothing had been tried, and is still recoverable.
        await publish(other, room, "after")
        await hears(client, room, "before", "after")
        await client.barrier()
        await client.reset()
        await client.cannot_recover(url=client.recovery_url(**changed))
        await client.recover()
        await hears(client, room, "before", "after")


async def test_line_34_the_token_of_another_connection(come: Open) -> None:
    async with come() as one, come() as another:
        await one.cannot_recover(url=one.recovery_url(awps_reconnection_token=another.token))
        for client in (one, another):
            await client.barrier()
            await client.reset()
            await client.recover()
            await client.barrier()


async def test_line_34_another_hub(target: Target, come: Open) -> None:
    async with come() as client:
        elsewhere = client.recovery_url().replace("/client/hubs/chat", "/client/hubs/other")
        await client.cannot_recover(url=elsewhere)
        await client.barrier()
        await client.reset()
        await client.cannot_recover(url=elsewhere)
        await client.recover()
        await client.barrier()


@pytest.mark.parametrize("path", ["/client/hubs/CHAT?", "/client/?hub=Chat&", "/client?hub=chat&"])
async def test_line_32_another_spelling_of_the_hub(target: Target, come: Open, path: str) -> None:
    async with come() as client:
        await client.reset()
        query = client.recovery_url().partition("?")[2]
        await client.recover(url=f"ws://{target.host}{path}{query}")
        await client.barrier()


async def test_line_34_a_failed_recovery_without_subprotocol(target: Target) -> None:
    async with opened(target.address(awps_connection_id="0" * 32), connected=False) as client:
        assert client.subprotocol is None
        assert await client.closed() == NOT_RECOVERED


@pytest.mark.parametrize("subprotocol", [JSON, JSON_RELIABLE])
async def test_an_empty_connection_id_asks_for_no_recovery(target: Target, subprotocol: str) -> None:
    url = target.url(user="ann", extra={"awps_connection_id": "", "awps_reconnection_token": ""})
    async with opened(url, subprotocol, connected=False) as client:
        connected = await client.hear()
        assert (connected["event"], connected["userId"]) == ("connected", "ann")


@pytest.mark.parametrize("hub", ["1chat", "a%2Fb"])
async def test_line_34_only_an_invalid_hub_is_refused_with_400(target: Target, come: Open, hub: str) -> None:
    async with come() as client:
        url = client.recovery_url().replace("/client/hubs/chat", f"/client/hubs/{hub}")
        assert await refused(url, JSON_RELIABLE) == 400


async def test_a_reconnection_token_alone_is_an_ordinary_connect(target: Target, come: Open) -> None:
    async with come() as client:
        url = client.recovery_url(awps_connection_id=None)
        async with reliable(url, client.subprotocol or "") as newcomer:
            assert newcomer.id != client.id
            await newcomer.barrier()
        await client.barrier()


@pytest.mark.parametrize("plain", [JSON, PROTOBUF, None], ids=["json", "protobuf", "simple"])
async def test_line_34_clients_of_other_subprotocols_are_not_recoverable(
    target: Target, come: Open, other: Client, rest: Sdk, unique: Unique, plain: str | None
) -> None:
    room = unique("room")
    async with come() as client, opened(target.url(groups=[room]), *filter(None, [plain])) as unreliable:
        # A simple client is not told its id, but its group is.
        [connection_id] = await rest.members(room)
        borrowed = client.recovery_url(awps_connection_id=connection_id)
        await client.cannot_recover(url=borrowed)
        assert await rest.connection_exists(connection_id)
        await gone(unreliable, other)
        assert not await rest.connection_exists(connection_id)
        await client.cannot_recover(url=borrowed)


async def test_line_35_the_access_token_is_not_looked_at(target: Target, come: Open, unique: Unique) -> None:
    room = unique("room")
    async with come(groups=[room]) as client:
        recovery = {"awps_connection_id": client.id, "awps_reconnection_token": client.token}
        for token in (target.token(exp=1), target.token(key="x" * 64), "nonsense", "", target.token(), None):
            query = recovery if token is None else {"access_token": token} | recovery
            await client.reset()
            await client.recover(url=target.address(**query))
            assert await client.ask(type="sendToGroup", group=room, data=1) == group_message(room, 1)
            await client.acknowledge()
        # Nor is a new one of somebody else, as Java's client fetches it: the connection stays what it was.
        await client.reset()
        await client.recover(url=target.url(user="eve", roles=[]) + client.recovery_url().partition(client.url)[2])
        assert await client.ask(type="sendToGroup", group=room, data=2) == group_message(room, 2)


@pytest.mark.parametrize("offered", [(), ("unknown",), (JSON,), (PROTOBUF, JSON_RELIABLE), (PROTOBUF_RELIABLE,)])
async def test_the_original_subprotocol_is_answered_whatever_is_offered(
    target: Target, come: Open, offered: tuple[str, ...]
) -> None:
    async with come() as client:
        await client.reset()
        # A library would refuse a subprotocol that it has not offered.
        answer = await asyncio.to_thread(upgraded, target, client.recovery_url(), offered)
        assert answer == (101, client.subprotocol)
        await client.recover()
        await client.barrier()


def upgraded(target: Target, url: str, offered: tuple[str, ...]) -> tuple[int, str | None]:
    """Status and subprotocol with which a handshake is answered; the socket is left open and closed without a word."""
    connection = http.client.HTTPConnection(target.host, timeout=PATIENCE)
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    if offered:
        headers["Sec-WebSocket-Protocol"] = ", ".join(offered)
    try:
        connection.request("GET", url.partition(target.host)[2], headers=headers)
        response = connection.getresponse()
        return response.status, response.getheader("Sec-WebSocket-Protocol")
    finally:
        connection.close()


# Event handlers


@pytest.mark.needs_handlers
@pytest.mark.parametrize("loss", LOSSES)
async def test_line_36_handlers_are_told_nothing_of_a_recovery(come: Open, insider: Client, loss: str) -> None:
    async with come("handled") as client:
        await LOSSES[loss](client)
        await client.recover()
        await client.barrier()
        # `connected` is told beside the conversation, so of the first beginning it may be told after its frame.
        told: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while "connected" not in told:
                told = await ask_event(insider, "history", client.id)
        assert told == ["connect", "connected"]
        await client.close(1000)
        told = await ask_event(insider, "gone", client.id)
        assert told[:2] == ["connect", "connected"]
        assert len(told) == 3


@pytest.fixture(scope="module", params=SERVERS)
def impatient(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A service that waits for lost clients for four seconds only: more than a busy machine takes for a recovery."""
    folder: Path = tmp_path_factory.mktemp("impatient")
    env = {"EXTRA_APPS": "tests.service.handlers", "RECOVERY_SECS": "4"}
    running = Service(folder, server=request.param, env=env).set_up()
    try:
        yield Target(running.start().connection_string)
        assert "Traceback" not in running.log.read_text()
    finally:
        running.stop()


@pytest.mark.needs_handlers
async def test_line_36_disconnected_is_told_once_when_the_window_ends(impatient: Target, unique: Unique) -> None:
    room, user, rest = unique("room"), unique("user"), Sdk(impatient, "handled")
    url = impatient.url("handled", user=user, groups=[room])
    async with AsyncExitStack() as stack:
        witness = await stack.enter_async_context(opened(impatient.url("handled"), JSON))
        # All wait at the same time.
        ways = [(subprotocol, lose) for subprotocol in RELIABLE for lose in LOSSES.values()]
        clients = [await stack.enter_async_context(reliable(url, subprotocol)) for subprotocol, _ in ways]
        await asyncio.gather(*(lose(client) for (_, lose), client in zip(ways, clients, strict=True)))
        for client in clients:
            told = await ask_event(witness, "gone", client.id)
            assert told == ["connect", "connected", WINDOW_OVER]
            assert not await rest.connection_exists(client.id)
            await client.cannot_recover()
        assert not await rest.group_exists(room)
        assert not await rest.user_exists(user)
        # The vain attempts to recover have changed nothing.
        for client in clients:
            assert await ask_event(witness, "history", client.id) == ["connect", "connected", WINDOW_OVER]


@pytest.mark.needs_handlers
async def test_line_36_the_window_begins_anew_with_every_loss(impatient: Target, unique: Unique) -> None:
    room, url = unique("room"), impatient.url("handled")
    async with AsyncExitStack() as stack:
        witness = await stack.enter_async_context(opened(url, JSON))
        clock = await stack.enter_async_context(opened(url, JSON))
        at = impatient.url("handled", groups=[room])
        often = [await stack.enter_async_context(reliable(at, subprotocol)) for subprotocol in RELIABLE]
        once = [await stack.enter_async_context(reliable(url, subprotocol)) for subprotocol in RELIABLE]
        for client in once:
            await client.reset()
            await client.recover()
        # More than a window's time altogether, in which none is away for a whole one.
        for number in range(8):
            for client in often:
                await client.reset()
            await publish(witness, room, number)
            await clock.say(type="event", event="wait", data=0.6)
            await clock.hear()
            for client in often:
                await client.recover()
                await hears(client, room, number)
                await client.acknowledge()
        # And a client that is there is not waited for.
        for present in (*often, *once):
            await present.barrier()
            assert len(await ask_event(witness, "history", present.id)) == 2


@pytest.mark.needs_handlers
async def test_an_unreliable_client_is_gone_at_once(target: Target, insider: Client) -> None:
    for plain in (JSON, PROTOBUF):
        async with opened(target.url("handled"), plain, connected=False) as client:
            connection_id = (await client.hear())["connectionId"]
            await client.reset()
            assert len(await ask_event(insider, "gone", connection_id)) == 3


@pytest.mark.needs_handlers
async def test_a_busy_handler_does_not_hold_up_recovery(come: Open, insider: Client, unique: Unique) -> None:
    name, room = unique("gate"), unique("room")
    async with come("handled", groups=[room]) as client:
        await client.say(type="event", event="hold", data=name, ackId=1)
        assert await ask_event(insider, "held", name) == 1
        await client.reset()
        await publish(insider, room, "meanwhile")
        await client.recover()
        await hears(client, room, "meanwhile")
        await insider.say(type="event", event="free", data=name)
        assert await client.hear() == server_message(f"{name} is free", "text")
        assert await client.hear() == ok(1)


@pytest.mark.needs_handlers
async def test_a_handlers_reply_waits_for_a_client_that_is_away(come: Open, insider: Client, unique: Unique) -> None:
    name = unique("gate")
    async with come("handled") as client:
        await client.say(type="event", event="hold", data=name, ackId=1)
        assert await ask_event(insider, "held", name) == 1
        await gone(client, insider)
        assert await insider.ask(type="event", event="free", data=name, ackId=1) == ok(1)
        await client.recover()
        assert await client.hear() == server_message(f"{name} is free", "text")
        # The ack was said once, to a socket that is no more. Asked again, the service knows.
        answer = await client.ask(type="event", event="hold", data=name, ackId=1)
        if answer == ok(1):
            answer = await client.hear()
        assert answer == duplicate(1)


@pytest.mark.needs_handlers
async def test_what_is_sent_again_after_a_recovery_is_done_once(come: Open, insider: Client, unique: Unique) -> None:
    name, room = unique("gate"), unique("room")
    await insider.join(room)
    async with come("handled") as client:
        await client.say(type="event", event="hold", data=name, ackId=1)
        await client.say(type="sendToGroup", group=room, data="once", ackId=2)
        assert await ask_event(insider, "held", name) == 1
        await client.reset()
        await client.recover()
        # The client cannot know how far its frames came. The service can.
        await client.say(type="event", event="hold", data=name, ackId=1)
        await client.say(type="sendToGroup", group=room, data="once", ackId=2)
        await client.say(type="sendToGroup", group=room, data="last", ackId=3)
        await insider.say(type="event", event="free", data=name)
        await hears(insider, room, "once", "last")
        assert await ask_event(insider, "held", name) == 1
        heard = []
        while ok(3) not in heard:
            heard.append(await client.hear())
        assert heard.count(server_message(f"{name} is free", "text")) == 1
        assert client.heard == 1


# What recovery keeps


async def test_line_37_the_memory_of_ack_ids_survives_recovery(come: Open, other: Client, unique: Unique) -> None:
    room = unique("room")
    async with come(roles=["webpubsub.joinLeaveGroup"]) as client:
        await client.join(room, ack_id=7)
        refused = await client.ask(type="sendToGroup", group=room, data=1, ackId=8)
        assert refused["error"]["name"] == "Forbidden"
        for _ in range(3):
            await client.reset()
            await client.recover()
            assert await client.ask(type="leaveGroup", group=room, ackId=7) == duplicate(7)
        # The failed one may be used again, and leaving was not done.
        await client.join(room, ack_id=8)
        await publish(other, room, "still in")
        await hears(client, room, "still in")


async def test_line_37_exactly_once(come: Open, other: Client, unique: Unique) -> None:
    room = unique("room")
    await other.join(room)
    async with come() as client:
        # Each message is sent, the socket lost before the ack is read, and the message sent again until it is known.
        for number in range(20):
            await client.say(type="sendToGroup", group=room, data=number, ackId=number)
            await client.reset()
            await client.recover()
            answer = await client.ask(type="sendToGroup", group=room, data=number, ackId=number)
            assert answer in (ok(number), duplicate(number))
    await hears(other, room, *range(20))
    await other.barrier()


async def test_permissions_survive_recovery(come: Open, rest: Sdk, unique: Unique) -> None:
    granted, revoked = unique("granted"), unique("revoked")
    async with come(roles=[f"webpubsub.joinLeaveGroup.{revoked}"]) as client:
        await rest.grant_permission("joinLeaveGroup", client.id, target_name=granted)
        await client.reset()
        await rest.revoke_permission("joinLeaveGroup", client.id, target_name=revoked)
        assert await rest.has_permission("joinLeaveGroup", client.id, target_name=granted)
        await client.recover()
        await client.join(granted)
        assert (await client.ask(type="joinGroup", group=revoked, ackId=1))["error"]["name"] == "Forbidden"


# How a connection ends for good


@pytest.mark.needs_handlers
@pytest.mark.parametrize("code", [1000, None])
async def test_line_38_closing_with_1000_or_without_code_ends_it_at_once(
    target: Target, come: Open, insider: Client, unique: Unique, code: int | None
) -> None:
    room, rest = unique("room"), Sdk(target, "handled")
    async with come("handled", groups=[room]) as client:
        await client.close(code)
        # Had it been kept, this would be answered when its window ends, and with another reason.
        told = await ask_event(insider, "gone", client.id)
        assert len(told) == 3
        assert told[2] != WINDOW_OVER
        assert not await rest.connection_exists(client.id)
        assert not await rest.group_exists(room)
        await client.cannot_recover()
        assert await ask_event(insider, "history", client.id) == told


@pytest.mark.parametrize("loss", LOSSES)
async def test_line_38a_any_other_loss_leaves_it_recoverable(
    come: Open, other: Client, rest: Sdk, unique: Unique, loss: str
) -> None:
    room, user = unique("room"), unique("user")
    async with come(user=user, groups=[room]) as client:
        await publish(other, room, 1)
        await hears(client, room, 1)
        await LOSSES[loss](client)
        assert await rest.connection_exists(client.id)
        assert await rest.user_exists(user)
        assert await rest.members(room) == [client.id]
        await publish(other, room, 2)
        await client.recover()
        await hears(client, room, 1, 2)


@pytest.mark.parametrize("kind", [None, JSON, JSON_RELIABLE, PROTOBUF, PROTOBUF_RELIABLE])
async def test_line_38b_long_messages_come_in_frames_of_64_kib(
    target: Target, other: Client, unique: Unique, kind: str | None
) -> None:
    room = unique("room")
    async with opened(target.url(groups=[room]), *filter(None, [kind])) as client:
        # The shortest first, to know how much is around the payload; protobuf's three lengths take more room then.
        await publish(other, room, "", dataType="text")
        around = len(b"".join(await client.fragments())) + (6 if kind in (PROTOBUF, PROTOBUF_RELIABLE) else 0)
        for text in ("x" * (65_536 - around), "ü" * ((65_536 - around) // 2)):
            await publish(other, room, text, dataType="text")
            [whole] = await client.fragments()
            assert len(whole) in (65_536, 65_535)
            assert text.encode() in whole
        for text in ("x" * (65_537 - around), "y" * 500_000, "ü€" * 40_000, "z" * 900_000):
            await publish(other, room, text, "behind it", dataType="text")
            fragments = await client.fragments()
            assert max(map(len, fragments)) <= 65_536
            assert text.encode() in b"".join(fragments)
            assert b"behind it" in b"".join(await client.fragments())


async def test_line_38b_a_long_message_is_replayed_whole(come: Open, other: Client, unique: Unique) -> None:
    room, texts = unique("room"), ["a" * 900_000, "ü" * 100_000, "short"]
    async with come(groups=[room]) as client:
        await gone(client, other)
        await publish(other, room, *texts, dataType="text")
        await client.recover()
        for text in texts:
            fragments = await client.fragments()
            assert max(map(len, fragments)) <= 65_536
            assert text.encode() in b"".join(fragments)


@pytest.mark.needs_handlers
@pytest.mark.parametrize("away", [False, True], ids=["attached", "away"])
async def test_line_39_a_rest_close_prevents_recovery(
    target: Target, come: Open, insider: Client, unique: Unique, away: bool
) -> None:
    room, rest = unique("room"), Sdk(target, "handled")
    async with come("handled", groups=[room]) as client:
        await publish(insider, room, "unacknowledged")
        await hears(client, room, "unacknowledged")
        if away:
            await gone(client, insider)
        await rest.close_connection(client.id, reason="enough")
        assert not await rest.connection_exists(client.id)
        assert not await rest.group_exists(room)
        message = "Application server closed the connection. Reason: enough"
        if not away:
            assert await client.hear() == {"type": "system", "event": "disconnected", "message": message}
            assert await client.closed() == (1000, "")
        await client.cannot_recover()
        told = await ask_event(insider, "gone", client.id)
        assert told == ["connect", "connected", f"disconnected: {message}"]
        with pytest.raises(ResourceNotFoundError):
            await rest.add_connection_to_group(room, client.id)


@pytest.mark.parametrize("how", ["close_all_connections", "close_user_connections", "close_group_connections"])
async def test_line_39_closing_many_reaches_those_that_are_away(
    target: Target, come: Open, unique: Unique, how: str
) -> None:
    hub, room, user = unique("away").replace("-", "_"), unique("room"), unique("user")
    rest = Sdk(target, hub)
    whom = {"close_user_connections": [user], "close_group_connections": [room]}.get(how, [])
    async with come(hub, user=user, groups=[room]) as client:
        await client.reset()
        await getattr(rest, how)(*whom)
        assert not await rest.connection_exists(client.id)
        assert not await rest.user_exists(user)
        await client.cannot_recover()


@pytest.mark.parametrize(
    ("message", "code"),
    [("malformed", 1007), ("wrong opcode", 1003), ("too large", 1009)],
)
async def test_breaking_the_protocol_ends_it_for_good(
    come: Open, rest: Sdk, subprotocol: str, message: str, code: int
) -> None:
    textual = subprotocol == JSON_RELIABLE
    async with come() as client:
        if message == "malformed":
            await client.say_raw("{" if textual else b"\xff")
        elif message == "wrong opcode":
            await client.say_raw(b"{}" if textual else "text")
        else:
            await client.say_raw("x" * (1024 * 1024 + 1) if textual else b"x" * (1024 * 1024 + 1))
        assert (await client.closed())[0] == code
        await client.cannot_recover()
        assert not await rest.connection_exists(client.id)


# Bounds


async def test_line_40_too_many_frames_end_it_while_it_is_there(
    come: Open, other: Client, rest: Sdk, unique: Unique
) -> None:
    room = unique("room")
    async with come(groups=[room]) as client, come(groups=[room]) as dutiful:
        await publish(other, room, *range(BUFFER_MESSAGES))
        await hears(client, room, *range(BUFFER_MESSAGES))
        # As many as may be: it lives.
        await client.barrier()
        await hears(dutiful, room, *range(BUFFER_MESSAGES))
        await dutiful.acknowledge()
        await publish(other, room, "one too many")
        assert (await client.hear_out())[1] == BUFFER_FULL
        assert client.heard in (BUFFER_MESSAGES, BUFFER_MESSAGES + 1)
        await client.cannot_recover()
        assert not await rest.connection_exists(client.id)
        await hears(dutiful, room, "one too many")
        assert await rest.members(room) == [dutiful.id]


async def test_line_40_acknowledged_frames_do_not_count(come: Open, other: Client, unique: Unique) -> None:
    room = unique("room")
    async with come(groups=[room]) as client:
        for _ in range(3):
            await publish(other, room, *range(BUFFER_MESSAGES))
            await hears(client, room, *range(BUFFER_MESSAGES))
            await client.acknowledge()
        assert client.heard == 3 * BUFFER_MESSAGES


async def test_line_40_too_many_frames_end_it_while_it_is_away(
    come: Open, other: Client, rest: Sdk, unique: Unique
) -> None:
    room = unique("room")
    async with come(groups=[room]) as client, come(groups=[room]) as fuller:
        await publish(other, room, "first")
        await hears(client, room, "first")
        await client.acknowledge()
        for away in (client, fuller):
            await gone(away, other)
        await publish(other, room, *range(BUFFER_MESSAGES))
        # For the one that had nothing waiting there was room for exactly these.
        assert not await rest.connection_exists(fuller.id)
        await fuller.cannot_recover()
        assert await rest.connection_exists(client.id)
        await client.recover()
        await hears(client, room, *range(BUFFER_MESSAGES))
        await client.acknowledge()
        await publish(other, room, "and on")
        await hears(client, room, "and on")


@pytest.mark.parametrize("away", [False, True], ids=["attached", "away"])
async def test_line_40_too_many_bytes_end_it(come: Open, other: Client, rest: Sdk, unique: Unique, away: bool) -> None:
    room, megabyte = unique("room"), "x" * 1_000_000
    async with come(groups=[room]) as client:
        if away:
            await gone(client, other)
        # 15 MB fit, 17 MB do not; 16 depend on what a megabyte is and on the frames around the payload.
        for count in (15, 2):
            assert await rest.connection_exists(client.id)
            await publish(other, room, *[megabyte] * count, dataType="text")
        assert not await rest.connection_exists(client.id)
        if not away:
            assert (await client.hear_out())[1] == BUFFER_FULL
            assert client.heard >= 15
        await client.cannot_recover()


async def test_line_40_a_client_that_reads_nothing_is_ended_too(
    come: Open, other: Client, rest: Sdk, unique: Unique
) -> None:
    room = unique("room")
    async with come(groups=[room]) as client, come(groups=[room]) as dutiful:
        client.stop_reading()
        for _ in range(3):
            await publish(other, room, *["x" * 1000] * 400)
            await hears(dutiful, room, *["x" * 1000] * 400)
            await dutiful.acknowledge()
        assert not await rest.connection_exists(client.id)
        await client.cannot_recover()
        await client.reset()


# While it is away


@pytest.mark.parametrize("loss", LOSSES)
async def test_messages_sent_by_rest_wait_for_a_client_that_is_away(
    target: Target, come: Open, unique: Unique, loss: str
) -> None:
    hub = unique("away").replace("-", "_")
    rest = Sdk(target, hub)
    async with come(hub, user="ann", groups=["g", "h"]) as client, come(hub, user="ben", groups=["g"]) as ben:
        await LOSSES[loss](client)
        await rest.send_to_connection(client.id, {"to": "connection"})
        await rest.send_to_user("ann", "to user", content_type="text/plain")
        await rest.send_to_group("g", "to group")
        await rest.send_to_all("to all")
        await rest.send_to_all("by filter", filter="userId eq 'ann' and 'h' in groups")
        await rest.send_to_group("g", "not meant", excluded=[client.id])
        await rest.send_to_all("not meant", excluded=[client.id])
        await rest.send_to_all("not meant", filter="userId eq 'ben'")
        await rest.send_to_all("last")
        await client.recover()
        assert await client.hear() == server_message({"to": "connection"})
        assert await client.hear() == server_message("to user", "text")
        assert await client.hear() == group_message("g", "to group")
        for data in ("to all", "by filter", "last"):
            assert await client.hear() == server_message(data)
        assert await ben.hear() == group_message("g", "to group")


async def test_memberships_can_be_changed_while_it_is_away(
    come: Open, other: Client, rest: Sdk, unique: Unique
) -> None:
    joined, left, user = unique("joined"), unique("left"), unique("user")
    async with come(user=user, groups=[left]) as client:
        await gone(client, other)
        await rest.add_connection_to_group(joined, client.id)
        await rest.remove_user_from_group(left, user)
        assert await rest.members(joined) == [client.id]
        assert not await rest.group_exists(left)
        await publish(other, joined, "in")
        await publish(other, left, "out")
        await client.recover()
        await hears(client, joined, "in")
        await client.barrier()


async def test_its_own_messages_come_back_unless_it_says_no_echo(come: Open, unique: Unique) -> None:
    room = unique("room")
    async with come(groups=[room]) as client:
        await client.say(type="sendToGroup", group=room, data="quiet", noEcho=True)
        await client.say(type="sendToGroup", group=room, data="loud")
        await hears(client, room, "loud")
        await client.reset()
        await client.recover()
        await client.say(type="sendToGroup", group=room, data="quiet again", noEcho=True)
        await client.say(type="sendToGroup", group=room, data="loud again")
        await hears(client, room, "loud", "loud again")


@pytest.mark.needs_handlers
@pytest.mark.parametrize("by", ["frame", "rest"])
async def test_time_to_live_counts_while_it_is_away(
    target: Target, come: Open, insider: Client, unique: Unique, by: str
) -> None:
    room = unique("room")

    async def send(data: str, ttl: int | None = None) -> None:
        if by == "frame":
            await publish(insider, room, data, **{} if ttl is None else {"ttlSeconds": ttl})
        else:
            path = f"/api/hubs/handled/groups/{room}/:send" + ("" if ttl is None else f"?messageTtlSeconds={ttl}")
            answer = await call(target, "POST", path, json.dumps(data), Content_Type="application/json")
            assert answer.status == 202

    async with come("handled", groups=[room]) as client:
        # Who is there gets it, however short its life.
        await send("here", ttl=1)
        assert (await client.hear())["data"] == "here"
        await client.acknowledge()
        await gone(client, insider)
        await send("zero", ttl=0)
        await send("kept")
        await send("stale", ttl=1)
        await send("fresh", ttl=300)
        await send("zero again", ttl=0)
        await ask_event(insider, "wait", 1.2)
        await client.recover()
        # No gap in the sequence ids, or hear() would say so.
        assert [(await client.hear())["data"] for _ in range(4)] == ["zero", "kept", "fresh", "zero again"]
        await send("here again", ttl=1)
        assert (await client.hear())["data"] == "here again"


@pytest.mark.needs_handlers
async def test_time_to_live_ends_while_frames_wait_to_be_replayed(come: Open, insider: Client, unique: Unique) -> None:
    room = unique("room")
    async with come("handled", groups=[room]) as client:
        # It has a number already, and the client may have heard it: taken out, it would leave a gap.
        await publish(insider, room, "one", ttlSeconds=1)
        await publish(insider, room, "two")
        await hears(client, room, "one", "two")
        await gone(client, insider)
        await ask_event(insider, "wait", 1.2)
        await client.recover()
        await publish(insider, room, "three")
        await hears(client, room, "one", "two", "three")


@pytest.mark.needs_handlers
async def test_messages_that_expire_make_room(come: Open, insider: Client, unique: Unique) -> None:
    room = unique("room")
    async with come("handled", groups=[room]) as client:
        await gone(client, insider)
        await publish(insider, room, *range(BUFFER_MESSAGES), ttlSeconds=1)
        await ask_event(insider, "wait", 1.2)
        await publish(insider, room, "fits")
        await client.recover()
        await hears(client, room, "fits")


# Two sockets for one connection


async def test_a_half_open_socket_is_superseded(come: Open, other: Client, unique: Unique) -> None:
    room = unique("room")
    async with come(groups=[room]) as client:
        client.stop_reading()
        half_open = Client(client.socket)
        await publish(other, room, "lost in the network")
        await client.recover()
        await hears(client, room, "lost in the network")
        await publish(other, room, "found")
        await hears(client, room, "found")
        await half_open.reset()
        # The end of the old socket is not the connection's.
        await publish(other, room, "still here")
        await hears(client, room, "still here")


async def test_an_open_socket_is_closed_when_another_recovers(come: Open, other: Client, unique: Unique) -> None:
    room = unique("room")
    async with come(groups=[room]) as client:
        old = Client(client.socket)
        await client.recover()
        assert (await old.closed())[0] == 1001
        await publish(other, room, "to the new one")
        await hears(client, room, "to the new one")
        await client.reset()
        await client.recover()
        await hears(client, room, "to the new one")


async def test_of_many_recoveries_at_once_one_wins(come: Open, other: Client, unique: Unique) -> None:
    room = unique("room")
    async with come(groups=[room]) as client:
        await publish(other, room, 1, 2)
        await gone(client, other)
        await publish(other, room, 3, 4, 5)
        await client.claim(*[client.recovery_url()] * 8)
        await publish(other, room, 6)
        await hears(client, room, 1, 2, 3, 4, 5, 6)
        await client.acknowledge()
        await client.reset()
        await client.recover()
        await client.barrier()


# Closing


async def test_line_45_a_rest_close_is_announced(target: Target, come: Open, rest: Sdk) -> None:
    async with come() as client:
        await rest.close_connection(client.id, reason="x")
        message = "Application server closed the connection. Reason: x"
        assert await client.hear() == {"type": "system", "event": "disconnected", "message": message}
        assert await client.closed() == (1000, "")


@pytest.mark.parametrize("kind", [JSON, PROTOBUF, None], ids=["json", "protobuf", "simple"])
async def test_line_46_a_slow_consumer_is_dropped_alone(
    live_service: Service | None, target: Target, other: Client, rest: Sdk, unique: Unique, kind: str | None
) -> None:
    room, user, megabyte = unique("room"), unique("user"), "x" * 1_000_000
    async with (
        opened(target.url(user=user, groups=[room]), *filter(None, [kind])) as slow,
        opened(target.url(groups=[room]), *filter(None, [kind])) as fast,
    ):
        slow.stop_reading()
        # The sockets' own buffers take some megabytes, and 16 may wait behind them.
        for _ in range(5):
            await publish(other, room, *[megabyte] * 8, dataType="text")
            for _ in range(8):
                assert len(await fast.hear_raw()) >= len(megabyte)
            if not await rest.user_exists(user):
                break
        assert not await rest.user_exists(user), "40 MB wait for one client"
        await publish(other, room, "after", dataType="text")
        assert "after" in str(await fast.hear_raw())
        slow.go_on_reading()
        _, close = await slow.hear_out()
        # It is cut off where its socket takes not even the close frame.
        assert close in (None, (1008, "The outbound message queue is full."))
        if live_service is not None:
            assert live_service.log.read_text().count(f"(hub chat, user {user}) is cut off: ") == 1
