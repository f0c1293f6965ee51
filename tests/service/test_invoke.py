"""Invocations: line 47 of the client protocol's checklist, in each subprotocol and on every server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

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
    reliable,
)

Unique = Callable[[str], str]

# What a client may leave pending has a bound; this is beyond any sensible one.
MANY = 300

pytestmark = pytest.mark.needs_handlers
in_every_subprotocol = pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)


async def invoke(client: Client, event: str, invocation_id: str = "1", **more: Any) -> None:
    await client.say(type="invoke", invocationId=invocation_id, target="event", event=event, **more)


def response(invocation_id: str, data: Any = None, data_type: str = "json") -> dict[str, Any]:
    frame = {"type": "invokeResponse", "invocationId": invocation_id, "success": True}
    return frame if data is None else frame | {"dataType": data_type, "data": data}


def error(frame: dict[str, Any], invocation_id: str) -> str:
    """The name of the error that this response has to be."""
    assert set(frame) == {"type", "invocationId", "success", "error"}
    assert (frame["type"], frame["invocationId"], frame["success"]) == ("invokeResponse", invocation_id, False)
    # Both members always: clients rely on it.
    assert set(frame["error"]) == {"name", "message"}
    assert frame["error"]["message"]
    return str(frame["error"]["name"])


async def free(client: Client, *gates: str) -> None:
    """Let handlers go on that hold these gates, and see that they were told."""
    for gate in gates:
        await client.say(type="event", event="free", data=gate)
    await client.barrier()


@in_every_subprotocol
@pytest.mark.parametrize(
    ("data_type", "data"),
    [
        ("text", "ü"),
        ("text", ""),
        ("json", {"a": [1, None]}),
        ("json", "text"),
        ("json", 0),
        ("binary", b64(b"\x00\xff")),
        ("protobuf", b64(b"\x0a\x01x")),
    ],
)
async def test_line_47_the_handlers_answer_is_the_response(
    target: Target, subprotocol: str, data_type: str, data: Any
) -> None:
    async with opened(target.url("handled", roles=[]), subprotocol) as client:
        await invoke(client, "mirror", "first", dataType=data_type, data=data)
        assert await client.hear() == response("first", data, data_type)
        # It is the whole answer: no message, no ack.
        await client.barrier()


async def test_line_47_the_response_as_it_is_written(target: Target) -> None:
    async with opened(target.url("handled"), JSON) as client:
        await invoke(client, "echo", "7", data={"a": 1})
        assert await client.hear_raw() == (
            '{"type":"invokeResponse","invocationId":"7","success":true,"dataType":"json","data":{"a":1}}'
        )
        await invoke(client, "release", "8", data=1)
        assert await client.hear_raw() == '{"type":"invokeResponse","invocationId":"8","success":true}'
    async with opened(target.url("handled"), PROTOBUF) as client:
        await invoke(client, "release", "8", data=1)
        assert await client.hear_raw() == b"\x2a\x05\x0a\x018\x10\x01"


@in_every_subprotocol
async def test_line_47_without_payload(target: Target, subprotocol: str) -> None:
    async with opened(target.url("handled", user="ann"), subprotocol) as client:
        # Neither way, in one only, or in the other only.
        await invoke(client, "release", "a")
        assert await client.hear() == response("a")
        await invoke(client, "release", "b", dataType="text", data="x")
        assert await client.hear() == response("b")
        await invoke(client, "whoami", "c")
        assert (await client.hear())["data"]["user"] == "ann"


@in_every_subprotocol
async def test_line_47_invocation_ids_are_any_text(target: Target, subprotocol: str) -> None:
    async with opened(target.url("handled"), subprotocol) as client:
        for invocation_id in ("0", " ", 'ü"\\', "x" * 1024):
            await invoke(client, "echo", invocation_id, data=1)
            assert await client.hear() == response(invocation_id, 1)
            # Answered, an id may be used again.
            await invoke(client, "echo", invocation_id, data=2)
            assert await client.hear() == response(invocation_id, 2)


@in_every_subprotocol
async def test_line_47_metadata_reaches_the_handler(target: Target, subprotocol: str) -> None:
    async with opened(target.url("handled"), subprotocol) as client:
        await invoke(client, "mirror", data=1, metadata={"X-Trace": "7"})
        assert await client.hear() in (response("1", 1) | {"metadata": {"X-Trace": "7"}}, response("1", 1))


# Errors


@in_every_subprotocol
async def test_line_47_errors(target: Target, subprotocol: str) -> None:
    async with opened(target.url("handled"), subprotocol) as client:
        await invoke(client, "nobody", "1", data=1)
        assert error(await client.hear(), "1") == "NotFound"
        await invoke(client, "message", "2", dataType="text", data="fail")
        assert error(await client.hear(), "2") == "InternalServerError"
        # The ids are free again, and the connection lives.
        await invoke(client, "echo", "1", data=1)
        assert await client.hear() == response("1", 1)
    async with opened(target.url(), subprotocol) as client:
        await invoke(client, "echo", "1", data=1)
        assert error(await client.hear(), "1") == "NotFound"


@in_every_subprotocol
async def test_line_47_a_pending_id_cannot_be_used_again(target: Target, unique: Unique, subprotocol: str) -> None:
    gate = unique("gate")
    async with opened(target.url("handled"), subprotocol) as client, opened(target.url("handled"), JSON) as other:
        await invoke(client, "hold", "same", data=gate)
        await other.ask(type="event", event="held", data=gate)
        await invoke(client, "hold", "same", data=gate)
        assert error(await client.hear(), "same") == "BadRequest"
        await free(other, gate)
        # The one that was first is answered all the same, and was done once.
        assert await client.hear() == response("same", f"{gate} is free", "text")
        assert (await other.ask(type="event", event="held", data=gate))["data"] == 1
        await client.barrier()


@in_every_subprotocol
async def test_pending_invocations_are_bounded(target: Target, unique: Unique, subprotocol: str) -> None:
    gate = unique("gate")
    async with opened(target.url("handled"), subprotocol) as client, opened(target.url("handled"), JSON) as other:
        for number in range(MANY):
            await invoke(client, "hold", str(number), data=gate)
        await client.say(type="ping")
        # Those that are too many are refused at once, and nothing else is held up.
        refused: set[str] = set()
        while (frame := await client.hear()) != {"type": "pong"}:
            refused.add(frame["invocationId"])
            assert error(frame, frame["invocationId"])
        assert 0 < len(refused) < MANY
        await free(other, gate)
        answered = [await client.hear() for _ in range(MANY - len(refused))]
        assert all(frame["success"] for frame in answered)
        assert {frame["invocationId"] for frame in answered} | refused == set(map(str, range(MANY)))
        # And there is room again.
        await invoke(client, "mirror", "0", data="again")
        assert await client.hear() == response("0", "again")


MALFORMED: dict[str, dict[str, Any]] = {
    "no id": {"type": "invoke", "target": "event", "event": "echo", "data": 1},
    "empty id": {"type": "invoke", "invocationId": "", "target": "event", "event": "echo", "data": 1},
    "long id": {"type": "invoke", "invocationId": "x" * 1025, "target": "event", "event": "echo", "data": 1},
    "no event": {"type": "invoke", "invocationId": "1", "target": "event", "data": 1},
    "bad event": {"type": "invoke", "invocationId": "1", "target": "event", "event": "1 2", "data": 1},
    "bad metadata": {
        "type": "invoke",
        "invocationId": "1",
        "target": "event",
        "event": "echo",
        "data": 1,
        "metadata": {"a b": "c"},
    },
    "cancel without id": {"type": "cancelInvocation"},
    "cancel with empty id": {"type": "cancelInvocation", "invocationId": ""},
}
MALFORMED_JSON: dict[str, dict[str, Any]] = {
    "a number for an id": {"type": "invoke", "invocationId": 1, "target": "event", "event": "echo", "data": 1},
    "no target": {"type": "invoke", "invocationId": "1", "event": "echo", "data": 1},
    "another target": {"type": "invoke", "invocationId": "1", "target": "client", "event": "echo", "data": 1},
    "null": {"type": "invoke", "invocationId": "1", "target": "event", "event": "echo", "data": None},
    "no base64": {
        "type": "invoke",
        "invocationId": "1",
        "target": "event",
        "event": "echo",
        "dataType": "binary",
        "data": "*",
    },
    "unknown type": {
        "type": "invoke",
        "invocationId": "1",
        "target": "event",
        "event": "echo",
        "dataType": "xml",
        "data": "<a/>",
    },
}


def cases(subprotocols: Iterable[str], frames: dict[str, dict[str, Any]]) -> list[Any]:
    return [
        pytest.param(subprotocol, frame, id=f"{subprotocol}-{name}")
        for subprotocol in subprotocols
        for name, frame in frames.items()
    ]


@pytest.mark.parametrize(
    ("subprotocol", "frame"),
    cases(SUBPROTOCOLS, MALFORMED) + cases((JSON, JSON_RELIABLE), MALFORMED_JSON),
)
async def test_malformed_invocations_close_with_1007(target: Target, subprotocol: str, frame: dict[str, Any]) -> None:
    async with opened(target.url("handled"), subprotocol) as client:
        await client.say(**frame)
        assert (await client.closed())[0] == 1007


@pytest.mark.parametrize("subprotocol", [PROTOBUF, PROTOBUF_RELIABLE])
async def test_an_empty_payload_in_protobuf_closes_with_1007(target: Target, subprotocol: str) -> None:
    message = protobuf_frames.Upstream(invoke_event_message={"event": "echo", "invocation_id": "1", "data": {}})
    async with opened(target.url("handled"), subprotocol) as client:
        await client.say_raw(message.SerializeToString())
        assert (await client.closed())[0] == 1007


# At the same time


@in_every_subprotocol
async def test_line_47_a_slow_invocation_holds_up_nothing(target: Target, unique: Unique, subprotocol: str) -> None:
    room, one, two = unique("room"), unique("one"), unique("two")
    async with opened(target.url("handled"), subprotocol) as client, opened(target.url("handled"), JSON) as other:
        await invoke(client, "hold", "1", data=one)
        await invoke(client, "hold", "2", data=two)
        for gate in (one, two):
            await other.ask(type="event", event="held", data=gate)
        await client.barrier()
        await client.join(room)
        await other.say(type="sendToGroup", group=room, data="meanwhile")
        frame = await client.hear()
        frame.pop("sequenceId", None)
        assert frame == group_message(room, "meanwhile")
        frame = await client.ask(type="event", event="echo", data="an event", ackId=1)
        assert frame["data"] == "an event"
        assert await client.hear() == ok(1)
        await invoke(client, "mirror", "3", data="quick")
        assert await client.hear() == response("3", "quick")
        # They are answered as they are done, not as they were asked.
        await free(other, two)
        assert await client.hear() == response("2", f"{two} is free", "text")
        await free(other, one)
        assert await client.hear() == response("1", f"{one} is free", "text")


@in_every_subprotocol
async def test_a_slow_event_does_not_hold_up_an_invocation_of_another_client(
    target: Target, unique: Unique, subprotocol: str
) -> None:
    gate = unique("gate")
    async with opened(target.url("handled"), subprotocol) as client, opened(target.url("handled"), JSON) as other:
        await other.say(type="event", event="hold", data=gate, ackId=1)
        await invoke(client, "held", "1", data=gate)
        assert await client.hear() == response("1", 1)
        await free(client, gate)
        assert (await other.hear())["data"] == f"{gate} is free"


@in_every_subprotocol
async def test_line_47_nothing_is_sent_after_a_cancellation(target: Target, unique: Unique, subprotocol: str) -> None:
    gate, kept = unique("gate"), unique("kept")
    async with opened(target.url("handled"), subprotocol) as client, opened(target.url("handled"), JSON) as other:
        await invoke(client, "hold", "cancelled", data=gate)
        await invoke(client, "hold", "kept", data=kept)
        for name in (gate, kept):
            await other.ask(type="event", event="held", data=name)
        await client.say(type="cancelInvocation", invocationId="cancelled")
        await client.barrier()
        await free(other, gate, kept)
        assert await client.hear() == response("kept", f"{kept} is free", "text")
        await client.barrier()
        # Nobody waits for it, so the id is free.
        await invoke(client, "mirror", "cancelled", data="again")
        assert await client.hear() == response("cancelled", "again")


@in_every_subprotocol
async def test_a_cancelled_id_may_be_used_again_at_once(target: Target, unique: Unique, subprotocol: str) -> None:
    gate = unique("gate")
    async with opened(target.url("handled"), subprotocol) as client, opened(target.url("handled"), JSON) as other:
        await invoke(client, "hold", data=gate)
        await other.ask(type="event", event="held", data=gate)
        await client.say(type="cancelInvocation", invocationId="1")
        await invoke(client, "mirror", data="mine")
        assert await client.hear() == response("1", "mine")
        await free(other, gate)
        await client.barrier()


@in_every_subprotocol
async def test_cancelling_what_is_not_there_is_ignored(target: Target, subprotocol: str) -> None:
    async with opened(target.url("handled"), subprotocol) as client:
        await client.say(type="cancelInvocation", invocationId="never")
        await client.barrier()
        await invoke(client, "echo", "done", data=1)
        assert await client.hear() == response("done", 1)
        await client.say(type="cancelInvocation", invocationId="done")
        await client.barrier()


@in_every_subprotocol
async def test_a_cancellation_does_not_queue_behind_an_event(target: Target, unique: Unique, subprotocol: str) -> None:
    invoked, event = unique("invoked"), unique("event")
    async with opened(target.url("handled"), subprotocol) as client, opened(target.url("handled"), JSON) as other:
        await invoke(client, "hold", data=invoked)
        await client.say(type="event", event="hold", data=event, ackId=1)
        for name in (invoked, event):
            await other.ask(type="event", event="held", data=name)
        await client.say(type="cancelInvocation", invocationId="1")
        # It cannot be seen to arrive, as frames behind the event are not answered; a WebSocket ping is.
        await (await client.socket.ping())
        for _ in range(3):
            await other.barrier()
        await free(other, invoked)
        await free(other, event)
        assert (await client.hear())["data"] == f"{event} is free"
        assert await client.hear() == ok(1)
        await client.barrier()


@pytest.mark.parametrize("subprotocol", [JSON, JSON_RELIABLE])
async def test_a_clients_own_response_is_ignored(target: Target, subprotocol: str) -> None:
    async with opened(target.url("handled"), subprotocol) as client:
        await client.say(type="invokeResponse", invocationId="1", success=True, dataType="text", data="x")
        failed = {"name": "InternalServerError", "message": "m"}
        await client.say(type="invokeResponse", invocationId="2", success=False, error=failed)
        await client.barrier()


# Beyond the socket


@pytest.mark.parametrize("subprotocol", [JSON_RELIABLE, PROTOBUF_RELIABLE])
async def test_responses_are_no_data(target: Target, unique: Unique, subprotocol: str) -> None:
    room = unique("room")
    async with reliable(target.url("handled", groups=[room]), subprotocol) as client:
        # A response has no sequence id and takes none: hear() watches over both.
        await invoke(client, "echo", data=1)
        assert await client.hear() == response("1", 1)
        await client.say(type="sendToGroup", group=room, data="first")
        assert await client.hear() == group_message(room, "first")
        await invoke(client, "echo", data=2)
        assert await client.hear() == response("1", 2)
        await client.reset()
        await client.recover()
        # It is not sent again either.
        assert await client.hear() == group_message(room, "first")
        await client.barrier()
        await invoke(client, "echo", data=3)
        assert await client.hear() == response("1", 3)


@pytest.mark.parametrize("subprotocol", [JSON_RELIABLE, PROTOBUF_RELIABLE])
async def test_pending_invocations_do_not_hold_up_recovery(target: Target, unique: Unique, subprotocol: str) -> None:
    gate = unique("gate")
    async with (
        reliable(target.url("handled"), subprotocol) as client,
        opened(target.url("handled"), JSON) as other,
    ):
        await invoke(client, "hold", "lost", data=gate)
        await other.ask(type="event", event="held", data=gate)
        await client.reset()
        await client.recover()
        # Clients give up what was pending when their socket was lost, and may count from the beginning again.
        await invoke(client, "echo", "new", data=1)
        assert await client.hear() == response("new", 1)
        await free(other, gate)
        # Where a late response comes, it is one that the client can tell from its own.
        frame = await client.ask(type="ping")
        if frame != {"type": "pong"}:
            assert frame["invocationId"] == "lost"
            frame = await client.hear()
        assert frame == {"type": "pong"}


async def test_simple_clients_have_no_invocations(target: Target) -> None:
    async with opened(target.url("handled")) as client:
        frame = '{"type":"invoke","invocationId":"1","target":"event","event":"echo","data":1}'
        await client.say_raw(frame)
        assert await client.hear_raw() == frame.upper()
