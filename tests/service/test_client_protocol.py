"""The client protocol's checklist, lines 1 to 29 and 41 to 45, one test per line, on every server."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.running import PATIENCE
from tests.service.client import EVERY_ROLE, JSON, Target, b64, group_message, ok, opened, refused

INVALID = (1007, "The client message is not a valid JSON protocol message.")

Unique = Callable[[str], str]


# Connecting


@pytest.mark.parametrize("path", ["/client/hubs/chat?", "/client/?hub=chat&", "/client?hub=chat&"])
async def test_line_01_canonical_and_legacy_path(target: Target, path: str) -> None:
    async with opened(f"ws://{target.host}{path}access_token={target.token()}", JSON) as client:
        await client.barrier()


async def test_line_02_token_in_query_or_header_and_the_query_wins(target: Target) -> None:
    good, bad = target.token(), target.token(key="x" * 64)
    async with opened(target.address(access_token=good), JSON):
        pass
    async with opened(target.address(), JSON, headers={"Authorization": f"Bearer {good}"}):
        pass
    async with opened(target.address(access_token=good), JSON, headers={"Authorization": f"Bearer {bad}"}):
        pass
    header = {"Authorization": f"Bearer {good}"}
    assert await refused(target.address(access_token=bad), JSON, headers=header) == 401


async def test_line_03_no_bad_expired_or_misaddressed_token_is_401(target: Target) -> None:
    assert await refused(target.address()) == 401
    for token in (
        target.token(key="y" * 64),
        target.token(exp=1),
        target.token(aud="http://localhost:1/client/hubs/other"),
        "not.a.token",
        "",
    ):
        assert await refused(target.address(access_token=token)) == 401


@pytest.mark.parametrize("path", ["/client/hubs/chat", "/client/", "/client"])
def test_line_04_plain_http_is_400(target: Target, path: str) -> None:
    connection = http.client.HTTPConnection(target.host, timeout=PATIENCE)
    connection.request("GET", path)
    assert connection.getresponse().status == 400
    connection.close()


@pytest.mark.parametrize(
    "path", ["/client/hubs/1chat", "/client/hubs/a%2Fb", "/client/?hub=", "/client/", "/client/hubs/" + "a" * 129]
)
async def test_line_04_invalid_hub_is_400(target: Target, path: str) -> None:
    assert await refused(f"ws://{target.host}{path}") == 400


async def test_line_05_hub_names_ignore_case(target: Target, unique: Unique) -> None:
    room = unique("room")
    async with opened(target.url("Chat"), JSON) as one, opened(target.url("cHAT"), JSON) as other:
        await one.join(room)
        await other.say(type="sendToGroup", group=room, data=1)
        assert await one.hear() == group_message(room, 1)


@pytest.mark.parametrize("group", ["", "   ", "g" * 1025])
async def test_line_06_invalid_group_in_the_token_is_400(target: Target, group: str) -> None:
    token = target.token(**{"webpubsub.group": ["fine", group]})
    assert await refused(target.address(access_token=token)) == 400


@pytest.mark.needs_handlers
@pytest.mark.parametrize("status", [400, 401, 403, 418, 503])
async def test_line_07_the_connect_handlers_status_is_the_handshakes(target: Target, status: int) -> None:
    assert await refused(target.url("handled", extra={"status": str(status)}), JSON) == status


@pytest.mark.needs_handlers
async def test_line_07_a_crashing_connect_handler_is_500(target: Target) -> None:
    assert await refused(target.url("handled", extra={"crash": "1"}), JSON) == 500


async def test_line_08_json_is_echoed_and_connected_comes_first(target: Target) -> None:
    async with opened(target.url(user="bob"), JSON, connected=False) as client:
        assert client.subprotocol == JSON
        raw = await client.hear_raw()
        connection_id = json.loads(raw)["connectionId"]
        assert raw == f'{{"type":"system","event":"connected","userId":"bob","connectionId":"{connection_id}"}}'


async def test_line_09_the_clients_own_spelling_is_echoed(target: Target) -> None:
    async with opened(target.url(), JSON.upper(), connected=False) as client:
        assert client.subprotocol == JSON.upper()
        assert (await client.hear())["event"] == "connected"


async def test_line_10_no_subprotocol_makes_a_simple_client(target: Target, unique: Unique) -> None:
    room = unique("room")
    async with opened(target.url(groups=[room])) as simple, opened(target.url(), JSON) as publisher:
        assert simple.subprotocol is None
        await publisher.say(type="sendToGroup", group=room, dataType="text", data="first")
        # What comes first is the message: no connected frame was sent.
        assert await simple.hear_raw() == "first"


async def test_line_11_only_unknown_subprotocols_upgrade_without_one(target: Target) -> None:
    connection = http.client.HTTPConnection(target.host, timeout=PATIENCE)
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Protocol": "my.own.protocol",
    }
    connection.request("GET", target.url().split(target.host)[1], headers=headers)
    response = connection.getresponse()
    assert (response.status, response.getheader("Sec-WebSocket-Protocol")) == (101, None)
    connection.close()


async def test_line_12_the_first_known_of_several_is_chosen(target: Target) -> None:
    async with opened(target.url(), "my.own.protocol", JSON) as client:
        assert client.subprotocol == JSON
        await client.barrier()


@pytest.mark.needs_handlers
async def test_line_13_the_handlers_choice_counts(target: Target) -> None:
    async with opened(target.url("handled", extra={"choose": "mine"}), JSON, "mine", connected=False) as client:
        assert client.subprotocol == "mine"
        # A subprotocol of the application's own is spoken in bare messages.
        await client.say_raw("hello")
        assert await client.hear_raw() == "HELLO"
    assert await refused(target.url("handled", extra={"choose": "other"}), JSON, "mine") == 500


# JSON frames


@pytest.mark.needs_handlers
async def test_line_14_success_acks_have_no_error_member(target: Target, unique: Unique) -> None:
    room = unique("room")
    async with opened(target.url("handled"), JSON) as client:
        for number, frame in enumerate(
            [
                {"type": "joinGroup", "group": room},
                {"type": "sendToGroup", "group": room, "data": "x", "noEcho": True},
                {"type": "leaveGroup", "group": room},
                {"type": "event", "event": "release", "data": "x"},
            ]
        ):
            await client.say(**frame, ackId=number)
            assert await client.hear_raw() == f'{{"type":"ack","ackId":{number},"success":true}}'


async def test_line_15_without_role_forbidden_and_without_ack_id_silence(target: Target) -> None:
    async with opened(target.url(roles=[]), JSON) as client:
        assert await client.ask(type="joinGroup", group="g", ackId=7) == {
            "type": "ack",
            "ackId": 7,
            "success": False,
            "error": {"name": "Forbidden", "message": "The client does not have permission to join group 'g'."},
        }
        await client.say(type="joinGroup", group="g")
        await client.barrier()


async def test_line_16_a_succeeded_ack_id_is_a_duplicate_for_every_operation(target: Target, unique: Unique) -> None:
    room = unique("room")
    duplicate = {
        "type": "ack",
        "ackId": 5,
        "success": False,
        "error": {"name": "Duplicate", "message": "Message with ack-id: 5 has been processed"},
    }
    async with opened(target.url(), JSON) as client:
        await client.join(room, ack_id=5)
        for frame in (
            {"type": "sendToGroup", "group": room, "data": 1},
            {"type": "leaveGroup", "group": room},
            {"type": "event", "event": "e", "data": 1},
            {"type": "joinGroup", "group": room},
        ):
            # Had the sending been executed, its echo would come before the ack.
            assert await client.ask(**frame, ackId=5) == duplicate
        assert await client.ask(type="sendToGroup", group=room, data=2) == group_message(room, 2)


async def test_line_17_a_failed_ack_id_may_be_used_again(target: Target, unique: Unique) -> None:
    room = unique("room")
    async with opened(target.url(roles=["webpubsub.joinLeaveGroup"]), JSON) as client:
        answer = await client.ask(type="sendToGroup", group=room, data=1, ackId=9)
        assert answer["error"]["name"] == "Forbidden"
        await client.join(room, ack_id=9)


async def test_line_18_no_echo_suppresses_the_senders_copy_alone(target: Target, unique: Unique) -> None:
    room = unique("room")
    async with opened(target.url(), JSON) as sender, opened(target.url(), JSON) as other:
        await sender.join(room)
        await other.join(room)
        await sender.say(type="sendToGroup", group=room, data="quiet", noEcho=True)
        await sender.say(type="sendToGroup", group=room, data="loud")
        assert await sender.hear() == group_message(room, "loud")
        assert await other.hear() == group_message(room, "quiet")
        assert await other.hear() == group_message(room, "loud")


async def test_line_19_sending_needs_no_membership_and_gives_none(target: Target, unique: Unique) -> None:
    room = unique("room")
    async with (
        opened(target.url(), JSON) as member,
        opened(target.url(roles=["webpubsub.sendToGroup"]), JSON) as outsider,
    ):
        await member.join(room)
        assert await outsider.ask(type="sendToGroup", group=room, data=1, ackId=1) == ok(1)
        assert await member.hear() == group_message(room, 1)
        await member.say(type="sendToGroup", group=room, data=2)
        assert await member.hear() == group_message(room, 2)
        await outsider.barrier()


async def test_line_20_data_type_defaults_to_json_and_ignores_case(target: Target, unique: Unique) -> None:
    room = unique("room")
    async with opened(target.url(), JSON) as client:
        await client.join(room)
        assert await client.ask(type="sendToGroup", group=room, data={"a": [1]}) == group_message(room, {"a": [1]})
        answer = await client.ask(type="sendToGroup", group=room, dataType="Text", data="hi")
        assert answer == group_message(room, "hi", "text")


@pytest.mark.parametrize("data_type", ["binary", "protobuf"])
async def test_line_21_binary_and_protobuf_are_base64(target: Target, unique: Unique, data_type: str) -> None:
    room = unique("room")
    data = b64(b"\x0a\x01x\xff\x00")
    async with opened(target.url(), JSON) as client:
        await client.join(room)
        answer = await client.ask(type="sendToGroup", group=room, dataType=data_type, data=data)
        assert answer == group_message(room, data, data_type)
        await client.say(type="sendToGroup", group=room, dataType=data_type, data="*not base64*")
        assert await client.closed() == INVALID


@pytest.mark.needs_handlers
async def test_line_22_who_a_message_is_from(target: Target, unique: Unique) -> None:
    room = unique("room")
    async with opened(target.url("handled", user="ann"), JSON) as ann, opened(target.url("handled"), JSON) as nobody:
        await ann.join(room)
        await ann.say(type="sendToGroup", group=room, dataType="text", data="hi")
        assert (
            await ann.hear_raw()
            == f'{{"type":"message","from":"group","group":"{room}","fromUserId":"ann","dataType":"text","data":"hi"}}'
        )
        await nobody.say(type="sendToGroup", group=room, dataType="text", data="hi")
        message = await ann.hear()
        assert "fromUserId" not in message
        await ann.say(type="event", event="echo", data=[1])
        assert await ann.hear_raw() == '{"type":"message","from":"server","dataType":"json","data":[1]}'


async def test_line_23_ping_pong(target: Target) -> None:
    async with opened(target.url(), JSON) as client:
        await client.say(type="ping")
        assert await client.hear_raw() == '{"type":"pong"}'


@pytest.mark.parametrize(
    "message",
    [
        "{nonsense",
        '{"type":"other"}',
        "[]",
        '"text"',
        '{"type":"joinGroup","group":"g","ackId":"1"}',
        '{"type":"joinGroup","group":"g","ackId":-1}',
        '{"type":"sendToGroup","group":"g","data":1,"ttlSeconds":301}',
    ],
)
async def test_line_24_malformed_frames_close_with_1007(target: Target, message: str) -> None:
    async with opened(target.url(), JSON) as client:
        await client.say_raw(message)
        assert await client.closed() == INVALID


async def test_line_25_a_binary_message_on_json_closes_with_1003(target: Target) -> None:
    async with opened(target.url(), JSON) as client:
        await client.say_raw(b'{"type":"ping"}')
        assert await client.closed() == (1003, "The JSON subprotocol requires text messages.")


async def test_line_26_a_message_over_one_mebibyte_closes_with_1009(target: Target, unique: Unique) -> None:
    room = unique("room")
    frame = {"type": "sendToGroup", "group": room, "dataType": "text", "data": "", "noEcho": True, "ackId": 1}
    room_left = 1024 * 1024 - len(json.dumps(frame))
    async with opened(target.url(), JSON) as client:
        assert await client.ask(**frame | {"data": "x" * room_left}) == ok(1)
        await client.say(**frame | {"data": "x" * (room_left + 1), "ackId": 2})
        assert await client.closed() == (1009, "The client message is too large.")


@pytest.mark.needs_handlers
async def test_line_27_the_handlers_reply_comes_before_the_ack(target: Target) -> None:
    async with opened(target.url("handled"), JSON) as client:
        await client.say(type="event", event="echo", dataType="text", data="hi", ackId=3)
        assert await client.hear() == {"type": "message", "from": "server", "dataType": "text", "data": "hi"}
        assert await client.hear() == ok(3)


async def test_line_28_the_echo_comes_before_the_ack(target: Target, unique: Unique) -> None:
    room = unique("room")
    async with opened(target.url(), JSON) as client:
        await client.join(room)
        for number in range(50):
            await client.say(type="sendToGroup", group=room, data=number, ackId=number)
        for number in range(50):
            assert await client.hear() == group_message(room, number)
            assert await client.hear() == ok(number)


async def test_line_29_sequence_ack_is_accepted_and_ignored(target: Target) -> None:
    async with opened(target.url(), JSON) as client:
        await client.say(type="sequenceAck", sequenceId=2**64 - 1)
        await client.barrier()


# Simple clients


@pytest.mark.needs_handlers
async def test_line_41_messages_of_simple_clients_are_message_events(target: Target) -> None:
    async with opened(target.url("handled")) as client:
        await client.say_raw("hello")
        assert await client.hear_raw() == "HELLO"
        await client.say_raw(b"bytes\xff")
        assert await client.hear_raw() == b"BYTES\xff"


@pytest.mark.needs_handlers
@pytest.mark.parametrize(("sent", "heard"), [("text", "TEXT"), (b"\x00binary", b"\x00BINARY")])
async def test_line_42_replies_to_simple_clients_are_bare(
    target: Target, sent: str | bytes, heard: str | bytes
) -> None:
    async with opened(target.url("handled")) as client:
        await client.say_raw(sent)
        assert await client.hear_raw() == heard


async def test_line_42_payload_types_become_text_or_binary_messages(target: Target, unique: Unique) -> None:
    room = unique("room")
    async with opened(target.url(groups=[room])) as simple, opened(target.url(), JSON) as publisher:
        for data_type, data, heard in (
            ("json", {"a": 1}, '{"a": 1}'),
            ("text", "plain", "plain"),
            ("binary", b64(b"\x01\x02"), b"\x01\x02"),
            ("protobuf", b64(b"\x0a\x00"), b"\x0a\x00"),
            ("text", "", ""),
        ):
            await publisher.say(type="sendToGroup", group=room, dataType=data_type, data=data)
            assert await simple.hear_raw() == heard


async def test_line_43_simple_clients_may_publish(target: Target, unique: Unique) -> None:
    room = unique("room")
    mode = {"webpubsub_mode": "SendToGroup", "group": room}
    async with opened(target.url(), JSON) as member, opened(target.url(user="pub", extra=mode)) as publisher:
        await member.join(room)
        await publisher.say_raw("text")
        assert await member.hear() == group_message(room, "text", "text", user="pub")
        await publisher.say_raw(b"\x01")
        assert await member.hear() == group_message(room, "AQ==", "binary", user="pub")


async def test_line_43_no_echo_for_simple_publishers(target: Target, unique: Unique) -> None:
    room = unique("room")
    mode = {"webpubsub_mode": "sendToGroup", "group": room}
    async with (
        opened(target.url(groups=[room], extra=mode | {"noEcho": "true"})) as quiet,
        opened(target.url(groups=[room], extra=mode)) as loud,
    ):
        await quiet.say_raw("one")
        assert await loud.hear_raw() == "one"
        await loud.say_raw("two")
        assert (await quiet.hear_raw(), await loud.hear_raw()) == ("two", "two")


async def test_line_43_publishing_without_role_closes_with_1008(target: Target) -> None:
    url = target.url(roles=["webpubsub.sendToGroup.other"], extra={"webpubsub_mode": "sendToGroup", "group": "g"})
    async with opened(url) as client:
        await client.say_raw("text")
        assert (await client.closed())[0] == 1008


@pytest.mark.parametrize(
    "query",
    [
        {"webpubsub_mode": "other"},
        {"webpubsub_mode": "sendToGroup"},
        {"webpubsub_mode": "sendToGroup", "group": "g" * 1025},
        {"webpubsub_mode": "sendToGroup", "group": "g", "noEcho": "perhaps"},
    ],
)
@pytest.mark.parametrize("offered", [(), (JSON,)])
async def test_line_43_invalid_modes_are_400(target: Target, query: dict[str, str], offered: tuple[str, ...]) -> None:
    assert await refused(target.url(extra=query), *offered) == 400


async def test_line_44_a_simple_client_without_handler_is_closed_with_1011(target: Target) -> None:
    async with opened(target.url("nobody")) as client:
        await client.say_raw("anyone?")
        assert await client.closed() == (1011, "Internal server error")


@pytest.mark.needs_handlers
async def test_line_44_a_simple_client_with_a_failing_handler_is_closed_with_1011(target: Target) -> None:
    async with opened(target.url("handled")) as client:
        await client.say_raw("fail")
        assert await client.closed() == (1011, "Internal server error")


async def test_events_without_handler_are_refused_and_the_client_stays(target: Target) -> None:
    """Section 4.3: a subprotocol client's event that nobody takes is an error ack, or silence."""
    async with opened(target.url(), JSON) as client:
        answer = await client.ask(type="event", event="nobody", data=1, ackId=4)
        assert answer["error"] == {"name": "InternalServerError", "message": "Internal server error"}
        await client.say(type="event", event="nobody", data=1)
        await client.barrier()


# Closing


async def test_line_45_a_rest_close_is_announced_to_subprotocol_clients(target: Target) -> None:
    async with opened(target.url("chat"), JSON, connected=False) as client:
        connection_id = (await client.hear())["connectionId"]
        service = target.service_client("chat")
        await asyncio.to_thread(service.close_connection, connection_id, reason="x")
        assert await client.hear() == {
            "type": "system",
            "event": "disconnected",
            "message": "Application server closed the connection. Reason: x",
        }
        assert await client.closed() == (1000, "")
        assert not await asyncio.to_thread(service.connection_exists, connection_id)


@pytest.mark.needs_handlers
async def test_line_45_a_rest_close_of_a_simple_client_has_the_reason_in_the_close_frame(target: Target) -> None:
    async with opened(target.url("handled")) as client:
        await client.say_raw("id")
        connection_id = await client.hear_raw()
        await asyncio.to_thread(target.service_client("handled").close_connection, connection_id, reason="über")
        assert await client.closed() == (1000, "über")


# What the checklist leaves unsaid


@pytest.mark.needs_handlers
async def test_a_slow_handler_delays_neither_deliveries_nor_others_nor_reorders(target: Target, unique: Unique) -> None:
    room = unique("room")
    async with opened(target.url("handled"), JSON) as waiting, opened(target.url("handled"), JSON) as other:
        await waiting.join(room)
        await waiting.say(type="event", event="slow", data=1, ackId=1)
        await waiting.say(type="sendToGroup", group=room, data="after", ackId=2)
        # Deliveries from others reach it while its own event is being handled …
        await other.say(type="sendToGroup", group=room, data="meanwhile")
        assert await waiting.hear() == group_message(room, "meanwhile")
        await other.say(type="event", event="release", data=1)
        # … and its own frames keep their order.
        assert (await waiting.hear())["data"] == "slow is done"
        assert await waiting.hear() == ok(1)
        assert await waiting.hear() == group_message(room, "after")
        assert await waiting.hear() == ok(2)


@pytest.mark.needs_handlers
async def test_the_connect_handlers_answer_is_merged(target: Target, unique: Unique) -> None:
    room = unique("room")
    wishes = [("become", "eve"), ("into", room), ("roles", "webpubsub.sendToGroup"), ("state", "s1")]
    async with opened(target.url("handled", user="ann", roles=[], extra=wishes), JSON, connected=False) as client:
        assert (await client.hear())["userId"] == "eve"
        assert await client.ask(type="sendToGroup", group=room, data=1) == group_message(room, 1, user="eve")
        answer = await client.ask(type="event", event="whoami", data=1)
        assert answer["data"] == {"user": "eve", "subprotocol": JSON, "state": "s1"}


@pytest.mark.needs_handlers
async def test_disconnected_is_told_once_with_the_clients_reason(target: Target) -> None:
    async with opened(target.url("handled"), JSON, connected=False) as client:
        gone: str = (await client.hear())["connectionId"]
        await client.socket.close(1000, "going home")
    async with opened(target.url("handled"), JSON) as other:
        told: list[Any] = []
        async with asyncio.timeout(PATIENCE):
            while not told:
                told = (await other.ask(type="event", event="ended", data=gone))["data"]
        assert [entry["id"] for entry in told] == [gone]


async def test_recovery_of_an_unknown_connection_is_101_then_1008(target: Target) -> None:
    url = target.url(extra={"awps_connection_id": "0" * 32, "awps_reconnection_token": "none"})
    async with opened(url, JSON, connected=False) as client:
        assert await client.closed() == (1008, "The connection could not be recovered.")


async def test_metadata_travels_with_the_message(target: Target, unique: Unique) -> None:
    room = unique("room")
    async with opened(target.url(), JSON) as client:
        await client.join(room)
        answer = await client.ask(type="sendToGroup", group=room, data=1, metadata={"X-Trace": "7"}, ttlSeconds=300)
        assert answer == group_message(room, 1) | {"metadata": {"X-Trace": "7"}}
        answer = await client.ask(type="sendToGroup", group=room, metadata={"only": "this"})
        assert answer == group_message(room, "", "text") | {"metadata": {"only": "this"}}


async def test_roles_are_those_of_the_token(target: Target, unique: Unique) -> None:
    assert set(EVERY_ROLE) == {"webpubsub.joinLeaveGroup", "webpubsub.sendToGroup"}
    room = unique("room")
    async with opened(target.url(roles=[f"webpubsub.joinLeaveGroup.{room}"]), JSON) as client:
        await client.join(room)
        answer = await client.ask(type="joinGroup", group=room + "x", ackId=2)
        assert answer["error"]["name"] == "Forbidden"
