"""The protobuf subprotocols: the checklist's lines 8 to 29, 42 and 45 as protobuf clients see them, on every server.

What makes them reliable is tested with JSON's (test_reliable.py), invocations in test_invoke.py.
Frames are told in JSON's words and translated by the tests' own schema (protobuf_frames.py).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import StringValue

from tests.service import protobuf_frames
from tests.service.client import (
    JSON,
    JSON_RELIABLE,
    PROTOBUF,
    PROTOBUF_RELIABLE,
    SUBPROTOCOLS,
    Client,
    Target,
    b64,
    group_message,
    ok,
    opened,
)

Unique = Callable[[str], str]

pytestmark = pytest.mark.parametrize("subprotocol", [PROTOBUF, PROTOBUF_RELIABLE], ids=["plain", "reliable"])


def wrapped(message: Any) -> bytes:
    """A message in a google.protobuf.Any, serialised."""
    whole = AnyMessage()
    whole.Pack(message)
    return whole.SerializeToString()


async def hears(client: Client, expected: dict[str, Any]) -> None:
    """The next frame, whose sequence id (if there is one) does not matter here."""
    frame = await client.hear()
    frame.pop("sequenceId", None)
    assert frame == expected


# Connecting


async def test_line_08_connected_comes_first(target: Target, subprotocol: str) -> None:
    async with opened(target.url(user="bob"), subprotocol, connected=False) as client:
        assert client.subprotocol == subprotocol
        frame = await client.hear()
        token = frame.pop("reconnectionToken", None)
        assert bool(token) is (subprotocol == PROTOBUF_RELIABLE)
        connection_id = frame.pop("connectionId")
        assert connection_id
        assert frame == {"type": "system", "event": "connected", "userId": "bob"}
    async with opened(target.url(), subprotocol, connected=False) as nobody:
        assert (await nobody.hear())["userId"] is None


async def test_line_09_the_clients_own_spelling_is_echoed(target: Target, subprotocol: str) -> None:
    async with opened(target.url(), subprotocol.upper()) as client:
        assert client.subprotocol == subprotocol.upper()
        await client.barrier()


async def test_line_12_the_first_known_of_several_is_chosen(target: Target, subprotocol: str) -> None:
    async with opened(target.url(), "my.own", subprotocol, JSON) as client:
        assert client.subprotocol == subprotocol
        await client.barrier()
    async with opened(target.url(), "my.own", JSON, subprotocol) as client:
        assert client.subprotocol == JSON
        await client.barrier()


# The documented messages, byte for byte


async def test_documented_bytes_are_understood(target: Target, unique: Unique, subprotocol: str) -> None:
    async with opened(target.url(), subprotocol) as client:
        for message, ack_id in (
            ("MgcKBWdyb3Vw", None),  # join "group"
            ("MgsKBWdyb3VwEOXYAg==", 44133),
            ("Cg4KBWdyb3VwGgUKA3h6eQ==", None),  # send text "xzy"
            ("Ch8KBWdyb3VwELlgGhEiD3sidmFsdWUiOiJ4enkifSAB", 12345),  # send JSON, no echo
            ("QgQIwMQH", None),  # sequenceAck
            ("OgoKBWdyb3VwELpg", 12346),  # leave
        ):
            await client.say_raw(base64.b64decode(message))
            if message == "Cg4KBWdyb3VwGgUKA3h6eQ==":
                await hears(client, group_message("group", "xzy", "text"))
            if ack_id is not None:
                assert await client.hear() == ok(ack_id)
        await client.say_raw(bytes.fromhex("32080A04726F6F6D1000"))  # join "room", ackId 0, which is not absent
        assert await client.hear() == ok(0)
        await client.say_raw(bytes.fromhex("4A00"))
        assert await client.hear_raw() == bytes.fromhex("2200")


async def test_documented_bytes_are_written(target: Target, unique: Unique, subprotocol: str) -> None:
    async with opened(target.url(user="user"), subprotocol, connected=False) as client:
        connected = await client.hear_raw()
        assert isinstance(connected, bytes)
        told = protobuf_frames.read(connected)
        # The documented one, with this connection's own values, which are longer.
        built = protobuf_frames.Downstream()
        built.system_message.connected_message.connection_id = told["connectionId"]
        built.system_message.connected_message.user_id = "user"
        if "reconnectionToken" in told:
            built.system_message.connected_message.reconnection_token = told["reconnectionToken"]
        assert connected == built.SerializeToString()
        await client.say(type="joinGroup", group="groupName", ackId=123)
        assert await client.hear_raw() == base64.b64decode("CgQIexAB")
        await client.say(type="sendToGroup", group="groupName", dataType="text", data="xyz")
        numbered = b"\x20\x01" if subprotocol == PROTOBUF_RELIABLE else b""
        data = b"\x0a\x05group\x12\x09groupName\x1a\x05\x0a\x03xyz" + numbered
        assert await client.hear_raw() == b"\x12" + bytes([len(data)]) + data


# Frames


@pytest.mark.needs_handlers
async def test_line_14_every_operation_is_acknowledged(target: Target, unique: Unique, subprotocol: str) -> None:
    room = unique("room")
    async with opened(target.url("handled"), subprotocol) as client:
        for ack_id, frame in zip(
            (0, 1, 2**32, 2**63, 2**64 - 1),
            (
                {"type": "joinGroup", "group": room},
                {"type": "sendToGroup", "group": room, "data": "x", "noEcho": True},
                {"type": "event", "event": "release", "data": "x"},
                {"type": "leaveGroup", "group": room},
                {"type": "leaveGroup", "group": room},
            ),
            strict=True,
        ):
            assert await client.ask(**frame, ackId=ack_id) == ok(ack_id)


async def test_line_15_without_role_forbidden_and_without_ack_id_silence(target: Target, subprotocol: str) -> None:
    async with opened(target.url(roles=[]), subprotocol) as client:
        for kind, verb in (("joinGroup", "join"), ("leaveGroup", "leave")):
            assert await client.ask(type=kind, group="g", ackId=7) == {
                "type": "ack",
                "ackId": 7,
                "success": False,
                "error": {"name": "Forbidden", "message": f"The client does not have permission to {verb} group 'g'."},
            }
        answer = await client.ask(type="sendToGroup", group="g", data=1, ackId=7)
        assert answer["error"]["message"] == "The client does not have permission to send to group 'g'."
        await client.say(type="joinGroup", group="g")
        await client.barrier()


async def test_line_16_and_17_duplicates(target: Target, unique: Unique, subprotocol: str) -> None:
    room = unique("room")
    async with opened(target.url(roles=["webpubsub.joinLeaveGroup"]), subprotocol) as client:
        answer = await client.ask(type="sendToGroup", group=room, data=1, ackId=5)
        assert answer["error"]["name"] == "Forbidden"
        await client.join(room, ack_id=5)
        for frame in ({"type": "leaveGroup", "group": room}, {"type": "event", "event": "e", "data": 1}):
            answer = await client.ask(**frame, ackId=5)
            assert answer["error"] == {"name": "Duplicate", "message": "Message with ack-id: 5 has been processed"}
            assert answer["success"] is False


async def test_line_18_and_28_no_echo_and_the_echo_before_the_ack(
    target: Target, unique: Unique, subprotocol: str
) -> None:
    room = unique("room")
    async with opened(target.url(), subprotocol) as sender, opened(target.url(), subprotocol) as member:
        await sender.join(room)
        await member.join(room)
        assert await sender.ask(type="sendToGroup", group=room, data="quiet", noEcho=True, ackId=1) == ok(1)
        await sender.say(type="sendToGroup", group=room, data="loud", ackId=2)
        await hears(sender, group_message(room, "loud"))
        assert await sender.hear() == ok(2)
        for data in ("quiet", "loud"):
            await hears(member, group_message(room, data))


async def test_line_19_sending_needs_no_membership(target: Target, unique: Unique, subprotocol: str) -> None:
    room = unique("room")
    async with (
        opened(target.url(groups=[room]), subprotocol) as member,
        opened(target.url(roles=["webpubsub.sendToGroup"]), subprotocol) as outsider,
    ):
        assert await outsider.ask(type="sendToGroup", group=room, data=1, ackId=1) == ok(1)
        await hears(member, group_message(room, 1))
        await member.say(type="leaveGroup", group=room)
        await member.say(type="sendToGroup", group=room, data=2)
        await member.barrier()
        await outsider.barrier()


PAYLOADS = [
    ("json", {"a": [1, None, "ü"]}),
    ("json", "text"),
    ("json", 0),
    ("text", "ü \u20ac \U0001f600"),
    ("text", ""),
    ("binary", b64(b"\x00\xff\x0a")),
    ("binary", ""),
    ("protobuf", b64(wrapped(StringValue(value="hello")))),
    ("protobuf", b64(wrapped(Timestamp(seconds=1)))),
    ("protobuf", ""),
]


@pytest.mark.parametrize("publisher", SUBPROTOCOLS)
async def test_line_20_to_22_payloads_reach_clients_of_every_kind(
    target: Target, unique: Unique, subprotocol: str, publisher: str
) -> None:
    room = unique("room")
    async with AsyncExitStack() as stack:

        async def member(*offered: str) -> Client:
            return await stack.enter_async_context(opened(target.url(groups=[room]), *offered))

        simple, speakers = await member(), [await member(name) for name in (JSON, JSON_RELIABLE, subprotocol)]
        sender = await stack.enter_async_context(opened(target.url(), publisher))
        for data_type, data in PAYLOADS:
            await sender.say(type="sendToGroup", group=room, dataType=data_type, data=data)
            for speaker in speakers:
                await hears(speaker, group_message(room, data, data_type))
            heard = await simple.hear_raw()
            if data_type == "json":
                assert json.loads(heard) == data
            elif data_type == "text":
                assert heard == data
            else:
                assert heard == base64.b64decode(data)


async def test_line_22_protobuf_messages_do_not_say_who_they_are_from(
    target: Target, unique: Unique, subprotocol: str
) -> None:
    room = unique("room")
    async with (
        opened(target.url(user="ann", groups=[room]), subprotocol) as ann,
        opened(target.url(groups=[room]), JSON) as member,
    ):
        await ann.say(type="sendToGroup", group=room, dataType="text", data="hi", metadata={"X-Trace": "7", "a": ""})
        metadata = {"metadata": {"X-Trace": "7", "a": ""}}
        await hears(ann, group_message(room, "hi", "text") | metadata)
        await hears(member, group_message(room, "hi", "text", user="ann") | metadata)


async def test_simple_publishers_reach_protobuf_clients(target: Target, unique: Unique, subprotocol: str) -> None:
    room = unique("room")
    mode = {"webpubsub_mode": "sendToGroup", "group": room}
    async with (
        opened(target.url(groups=[room]), subprotocol) as member,
        opened(target.url(extra=mode)) as publisher,
    ):
        await publisher.say_raw("text")
        await hears(member, group_message(room, "text", "text"))
        await publisher.say_raw(b"\xff")
        await hears(member, group_message(room, b64(b"\xff"), "binary"))


async def test_an_any_that_is_none_harms_nobody(target: Target, unique: Unique, subprotocol: str) -> None:
    room = unique("room")
    async with (
        opened(target.url(groups=[room]), subprotocol) as member,
        opened(target.url(groups=[room]), JSON) as json_member,
        opened(target.url(), JSON) as publisher,
        opened(target.url(), JSON) as other,
    ):
        # JSON clients and servers may call any bytes protobuf.
        await publisher.say(type="sendToGroup", group=room, dataType="protobuf", data=b64(b"\xff\xff"))
        assert (await json_member.hear())["data"] == b64(b"\xff\xff")
        await other.say(type="sendToGroup", group=room, data="next")
        frame = await member.hear()
        if frame["data"] != "next":
            # Not as an Any: no client could read that.
            assert (frame["dataType"], frame["data"]) == ("binary", b64(b"\xff\xff"))
            frame = await member.hear()
        assert frame["data"] == "next"
        await member.barrier()


async def test_servers_reach_protobuf_clients(target: Target, unique: Unique, subprotocol: str) -> None:
    room = unique("room")
    sdk = target.service_client("chat")
    any_ = wrapped(StringValue(value="x"))
    async with opened(target.url(groups=[room]), subprotocol) as member:
        for body, content_type, data_type, data in (
            ("plain", "text/plain", "text", "plain"),
            ({"a": 1}, "application/json", "json", {"a": 1}),
            (b"\x00\xff", "application/octet-stream", "binary", b64(b"\x00\xff")),
            (any_, "application/x-protobuf", "protobuf", b64(any_)),
        ):
            try:
                await asyncio.to_thread(sdk.send_to_group, room, body, content_type=content_type)
            except ValueError:
                # The SDK knows three content types only.
                assert data_type == "protobuf"
                continue
            await hears(member, group_message(room, data, data_type))


async def test_line_23_ping_pong(target: Target, subprotocol: str) -> None:
    async with opened(target.url(), subprotocol) as client:
        await client.barrier()


def upstream(**fields: Any) -> bytes:
    return bytes(protobuf_frames.Upstream(**fields).SerializeToString())


MALFORMED = {
    "empty": b"",
    "cut off": bytes.fromhex("320A0A04726F6F6D"),
    "no varint ends so": b"\xff" * 12,
    "unknown message": bytes.fromhex("9A0600"),
    "an unused number": bytes.fromhex("6200"),
    "join without group": bytes.fromhex("3200"),
    "join with a blank group": upstream(join_group_message={"group": "  "}),
    "join with a long group": upstream(join_group_message={"group": "g" * 1025}),
    "leave without group": bytes.fromhex("3A00"),
    "send without group": upstream(send_to_group_message={"data": {"text_data": "x"}}),
    "send without data": upstream(send_to_group_message={"group": "g"}),
    "send with empty data": upstream(send_to_group_message={"group": "g", "data": {}}),
    "send with empty data and metadata": upstream(
        send_to_group_message={"group": "g", "data": {}, "metadata": {"a": "b"}}
    ),
    "send with a long life": upstream(
        send_to_group_message={"group": "g", "data": {"text_data": "x"}, "ttl_seconds": 301}
    ),
    "send with bad metadata": upstream(
        send_to_group_message={"group": "g", "data": {"text_data": "x"}, "metadata": {"a b": "c"}}
    ),
    "send with JSON that is none": upstream(send_to_group_message={"group": "g", "data": {"json_data": "{"}}),
    "send with null": upstream(send_to_group_message={"group": "g", "data": {"json_data": "null"}}),
    "event without name": upstream(event_message={"data": {"text_data": "x"}}),
    "event with a bad name": upstream(event_message={"event": "1 2", "data": {"text_data": "x"}}),
    "event without data": upstream(event_message={"event": "e"}),
    # Field 1 of the group's text is not UTF-8.
    "not UTF-8": bytes.fromhex("32030A01FF"),
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED)
async def test_line_24_malformed_messages_close_with_1007(target: Target, message: bytes, subprotocol: str) -> None:
    async with opened(target.url(), subprotocol) as client:
        await client.say_raw(message)
        code, reason = await client.closed()
        assert code == 1007
        assert "protobuf" in reason


async def test_line_25_a_text_message_closes_with_1003(target: Target, subprotocol: str) -> None:
    async with opened(target.url(), subprotocol) as client:
        await client.say_raw('{"type":"ping"}')
        assert await client.closed() == (1003, f"The {subprotocol} subprotocol requires binary messages.")


async def test_line_26_a_message_over_one_mebibyte_closes_with_1009(
    target: Target, unique: Unique, subprotocol: str
) -> None:
    room = unique("room")
    async with opened(target.url(), subprotocol) as client:

        def frame(size: int) -> bytes:
            send = {"group": room, "no_echo": True, "ack_id": 1, "data": {"binary_data": b"x" * size}}
            return upstream(send_to_group_message=send)

        around = len(frame(1_000_000)) - 1_000_000
        assert len(frame(1024 * 1024 - around)) == 1024 * 1024
        await client.say_raw(frame(1024 * 1024 - around))
        assert await client.hear() == ok(1)
        await client.say_raw(frame(1024 * 1024 - around + 1))
        assert await client.closed() == (1009, "The client message is too large.")


async def test_unknown_fields_are_ignored(target: Target, subprotocol: str) -> None:
    async with opened(target.url(), subprotocol) as client:
        # A join with a field 15 inside, and a field 200 of the whole.
        await client.say_raw(bytes.fromhex("320A0A04726F6F6D10017A00") + bytes.fromhex("C20C0178"))
        assert await client.hear() == ok(1)


async def test_of_several_messages_in_one_the_last_counts(target: Target, subprotocol: str) -> None:
    """As protobuf has it for a oneof."""
    async with opened(target.url(), subprotocol) as client:
        await client.say_raw(upstream(join_group_message={"group": "g", "ack_id": 1}) + bytes.fromhex("4A00"))
        assert await client.hear() == {"type": "pong"}
        await client.barrier()


# Event handlers


@pytest.mark.needs_handlers
@pytest.mark.parametrize(("data_type", "data"), PAYLOADS)
async def test_line_27_handlers_reply_before_the_ack(
    target: Target, subprotocol: str, data_type: str, data: Any
) -> None:
    async with opened(target.url("handled"), subprotocol) as client:
        await client.say(type="event", event="mirror", dataType=data_type, data=data, metadata={"k": "v"}, ackId=3)
        await hears(
            client,
            {"type": "message", "from": "server", "dataType": data_type, "data": data, "metadata": {"k": "v"}},
        )
        assert await client.hear() == ok(3)


@pytest.mark.needs_handlers
async def test_the_subprotocol_as_handlers_see_it(target: Target, subprotocol: str) -> None:
    async with opened(target.url("handled", user="ann"), subprotocol) as client:
        answer = await client.ask(type="event", event="whoami", data=1)
        assert answer["data"] == {"user": "ann", "subprotocol": subprotocol, "state": None}


@pytest.mark.needs_handlers
async def test_a_failing_handler_is_an_error_ack(target: Target, subprotocol: str) -> None:
    async with opened(target.url("handled"), subprotocol) as client:
        for event, data in (("message", "fail"), ("nobody", "x")):
            answer = await client.ask(type="event", event=event, dataType="text", data=data, ackId=4)
            assert answer["error"] == {"name": "InternalServerError", "message": "Internal server error"}


async def test_line_29_sequence_ack_is_accepted(target: Target, subprotocol: str) -> None:
    async with opened(target.url(), subprotocol) as client:
        for sequence_id in (0, 1, 2**64 - 1):
            await client.say(type="sequenceAck", sequenceId=sequence_id)
        await client.barrier()


@pytest.mark.needs_handlers
async def test_line_42_a_protobuf_reply_to_a_simple_client_is_a_binary_message(
    target: Target, subprotocol: str
) -> None:
    any_ = b"\x0a\x01x"
    async with opened(target.url("handled")) as simple:
        await simple.say_raw("any")
        assert await simple.hear_raw() == any_
    # And the same reply to one that speaks protobuf.
    async with opened(target.url("handled"), subprotocol) as client:
        await client.say(type="event", event="message", dataType="text", data="any")
        await hears(client, {"type": "message", "from": "server", "dataType": "protobuf", "data": b64(any_)})


async def test_line_45_a_rest_close_is_announced(target: Target, subprotocol: str) -> None:
    async with opened(target.url(), subprotocol, connected=False) as client:
        connection_id = (await client.hear())["connectionId"]
        await asyncio.to_thread(target.service_client("chat").close_connection, connection_id, reason="x")
        message = "Application server closed the connection. Reason: x"
        assert await client.hear() == {"type": "system", "event": "disconnected", "message": message}
        assert await client.closed() == (1000, "")
