"""The conversation with one client: frame in, operation done, answer out."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from hubs import hub_settings, operations
from hubs.cluster.entries import Publication
from hubs.connections.connection import Connection
from hubs.connections.outbox import AsgiOutbox
from hubs.errors import Disconnect, Unavailable
from hubs.node.node import Node, node
from hubs.protocols.codec import CODECS, Codec
from hubs.protocols.frames import (
    JoinGroup,
    LeaveGroup,
    Payload,
    Ping,
    SendToGroup,
    SequenceAck,
    Upstream,
    UserEvent,
)
from hubs.protocols.plain import PlainCodec
from hubs.rules.roles import Permissions
from hubs.upstream import EventContext, Reply, UserEventRequest
from hubs.upstream.handlers import HubHandlers
from tests.connections.conftest import Server, WebPubSub, soon

JSON = CODECS["json.webpubsub.azure.v1"]
ANY_GROUP = ("webpubsub.joinLeaveGroup", "webpubsub.sendToGroup")
HI = Payload("text", b"hi")


@pytest.fixture(autouse=True)
def _no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub has settings of its own; no test here needs the database for that."""

    async def none() -> hub_settings.Snapshot:
        return hub_settings.Snapshot(0)

    monkeypatch.setattr(hub_settings, "acurrent", none)


@pytest.fixture
async def here() -> AsyncIterator[Node]:
    """The node that connections of this test are on."""
    own = node()
    yield own
    await own.stop()


class Client:
    """A connection, its fake server, and what its client was told."""

    def __init__(
        self,
        here: Node,
        *,
        hub: str = "chat",
        codec: Codec = JSON,
        user_id: str | None = "u",
        roles: Sequence[str] = ANY_GROUP,
    ) -> None:
        self.server = Server()
        self.overflowed = 0
        self.connection = Connection(
            here.new_connection_id(),
            hub,
            codec,
            AsgiOutbox(self.server.send, self._overflow),
            user_id=user_id,
            permissions=Permissions(roles),
            subprotocol="json.webpubsub.azure.v1" if codec.named else None,
        )

    def _overflow(self, cause: str, waiting: str) -> None:
        self.overflowed += 1

    async def begin(self, *groups: str) -> Client:
        await soon(self.connection.begin(groups))
        self.connection.begun()
        return self

    async def say(self, *frames: Upstream) -> list[Any]:
        """Have frames handled; gives what the client is told of them."""
        self.heard()
        for frame in frames:
            rest = self.connection.handle_frame(frame)
            if rest is not None:
                await soon(rest())
        return self.heard()

    def heard(self) -> list[Any]:
        """What the client was told since the last look; JSON frames read."""
        said = [
            json.loads(item) if self.connection.codec.named and isinstance(item, str) else item
            for item in self.server.said
        ]
        self.server.events.clear()
        return said


def _ack(ack_id: int, name: str | None = None, message: str = "") -> dict[str, Any]:
    if name is None:
        return {"type": "ack", "ackId": ack_id, "success": True}
    return {"type": "ack", "ackId": ack_id, "success": False, "error": {"name": name, "message": message}}


def _message(text: str = "hi", group: str = "g", user_id: str | None = "u") -> dict[str, Any]:
    message = {"type": "message", "from": "group", "group": group, "dataType": "text", "data": text}
    return message | ({"fromUserId": user_id} if user_id else {})


# Beginning and end


async def test_connected_comes_first_and_not_before_the_socket_is_open(here: Node) -> None:
    client, other = Client(here), await Client(here).begin()
    await soon(client.connection.begin(("g", "h")))
    assert client.heard() == []
    # The groups are joined already: what is published now waits behind the greeting.
    await other.say(SendToGroup("h", HI))
    client.connection.begun()
    assert client.heard() == [
        {"type": "system", "event": "connected", "userId": "u", "connectionId": client.connection.id},
        _message(group="h"),
    ]


async def test_simple_clients_are_not_greeted(here: Node) -> None:
    client = await Client(here, codec=PlainCodec()).begin("g")
    assert client.heard() == []
    await operations.send_to_group("chat", "g", HI)
    await operations.send_to_group("chat", "g", Payload("binary", b"\xff"))
    assert client.heard() == ["hi", b"\xff"]


async def test_an_aborted_beginning_leaves_nothing(here: Node) -> None:
    client = Client(here)
    await soon(client.connection.begin(("g",)))
    client.connection.abort()
    await operations.send_to_group("chat", "g", HI)
    assert client.server.events == []
    assert len(here) == 0


async def test_the_end_leaves_everything(here: Node) -> None:
    client = await Client(here).begin("g")
    assert len(here) == 1
    client.connection.end("")
    client.connection.end("")
    client.heard()
    await operations.send_to_group("chat", "g", HI)
    assert client.heard() == []
    assert len(here) == 0
    assert not await operations.connection_exists("chat", client.connection.id)


@pytest.mark.parametrize(
    ("codec", "reason", "message", "told"),
    [
        (JSON, "r", None, [(1000, "r")]),
        (
            JSON,
            "r",
            "Bye. Reason: r",
            [{"type": "system", "event": "disconnected", "message": "Bye. Reason: r"}, (1000, "")],
        ),
        (PlainCodec(), "r", "Bye. Reason: r", [(1000, "r")]),
    ],
)
async def test_closing(here: Node, codec: Codec, reason: str, message: str | None, told: list[Any]) -> None:
    client = await Client(here, codec=codec).begin("g")
    client.heard()
    client.connection.close(1000, reason, message=message)
    client.connection.close(1008, "again")
    # Gone at once, before the client has answered the close frame.
    await operations.send_to_group("chat", "g", HI)
    assert client.heard() == told
    assert client.connection.closing
    assert len(here) == 0


async def test_frames_that_waited_while_it_was_closed_are_not_handled(here: Node) -> None:
    client, other = await Client(here).begin(), await Client(here).begin("g")
    client.connection.close(1000)
    other.heard()
    assert await client.say(JoinGroup("g", 1), SendToGroup("g", HI, 2)) == []
    assert client.connection.groups == set()
    assert other.heard() == []


async def test_the_event_handler_is_told_of_beginning_and_end(here: Node, application: HubHandlers) -> None:
    told: asyncio.Queue[Any] = asyncio.Queue()

    @application.on_connected
    async def opened(context: EventContext) -> None:
        told.put_nowait(context)

    @application.on_disconnected
    async def closed(context: EventContext, reason: str) -> None:
        told.put_nowait((context, reason))

    for close, reason in (
        (lambda connection: None, "client's reason"),
        (lambda connection: connection.close(1000, "r", message="Bye. Reason: r"), "Bye. Reason: r"),
        (lambda connection: connection.close(1007, "broken"), "broken"),
    ):
        client = await Client(here, hub=application.hub).begin()
        context = client.connection.session.context
        assert context == EventContext(application.hub, client.connection.id, "u", "json.webpubsub.azure.v1", None)
        assert await soon(told.get()) == context
        close(client.connection)  # type: ignore[no-untyped-call]
        client.connection.end("client's reason")
        assert await soon(told.get()) == (context, reason)


async def test_an_aborted_connection_is_no_news(here: Node, application: HubHandlers) -> None:
    told: list[Any] = []
    application.on_connected(told.append)
    application.on_disconnected(lambda *arguments: told.append(arguments))
    client = Client(here, hub=application.hub)
    await soon(client.connection.begin(()))
    client.connection.abort()
    await asyncio.sleep(0)
    assert told == []


# Groups


async def test_joining_and_leaving(here: Node) -> None:
    client = await Client(here).begin()
    assert await client.say(JoinGroup("g", 0), JoinGroup("g", 1), SendToGroup("g", HI)) == [
        _ack(0),
        _ack(1),
        _message(),
    ]
    assert await client.say(LeaveGroup("g", 2), LeaveGroup("g", 3), SendToGroup("g", HI, 4)) == [
        _ack(2),
        _ack(3),
        _ack(4),
    ]
    assert await client.say(JoinGroup("g"), LeaveGroup("g")) == []


async def test_an_echo_comes_before_its_ack_and_can_be_switched_off(here: Node) -> None:
    client, other = await Client(here).begin("g"), await Client(here, user_id=None).begin("g")
    other.heard()
    assert await client.say(SendToGroup("g", HI, 1)) == [_message(), _ack(1)]
    assert await client.say(SendToGroup("g", HI, 2, no_echo=True)) == [_ack(2)]
    assert other.heard() == [_message(), _message()]
    await other.say(SendToGroup("g", HI))
    assert client.heard() == [_message(user_id=None)]


async def test_sending_does_not_join_and_needs_no_members(here: Node) -> None:
    client = await Client(here).begin()
    assert await client.say(SendToGroup("g", HI, 1), SendToGroup("g", HI, 2)) == [_ack(1), _ack(2)]


async def test_metadata_goes_with_the_message(here: Node) -> None:
    client = await Client(here).begin("g")
    assert await client.say(SendToGroup("g", HI, metadata={"A": "1"}, ttl_secs=300)) == [
        _message() | {"metadata": {"A": "1"}}
    ]


async def test_hubs_are_apart(here: Node) -> None:
    client, other = await Client(here).begin("g"), await Client(here, hub="other").begin("g")
    other.heard()
    await client.say(SendToGroup("g", HI))
    assert other.heard() == []


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (JoinGroup("g", 1), "The client does not have permission to join group 'g'."),
        (LeaveGroup("g", 1), "The client does not have permission to leave group 'g'."),
        (SendToGroup("g", HI, 1), "The client does not have permission to send to group 'g'."),
    ],
)
async def test_without_the_role_it_is_forbidden(here: Node, frame: Upstream, message: str) -> None:
    other = await Client(here).begin("g")
    client = await Client(here, roles=["webpubsub.joinLeaveGroup.h", "webpubsub.sendToGroup.h"]).begin()
    other.heard()
    assert await client.say(frame) == [_ack(1, "Forbidden", message)]
    # Refused again, and not as a duplicate.
    assert await client.say(frame) == [_ack(1, "Forbidden", message)]
    assert other.heard() == []
    assert await client.say(type(frame)(**_fields(frame) | {"ack_id": None})) == []
    assert not client.connection.closing


def _fields(frame: Upstream) -> dict[str, Any]:
    return {name: getattr(frame, name) for name in frame.__slots__}  # type: ignore[attr-defined]


async def test_permissions_that_change_are_in_force_at_once(here: Node) -> None:
    client = await Client(here, roles=[]).begin()
    await operations.grant("chat", client.connection.id, "joinLeaveGroup", "g")
    assert await client.say(JoinGroup("g", 1)) == [_ack(1)]
    await operations.revoke("chat", client.connection.id, "joinLeaveGroup", "g")
    assert (await client.say(LeaveGroup("g", 2)))[0]["error"]["name"] == "Forbidden"


async def test_groups_of_a_connection_are_bounded(here: Node, webpubsub: WebPubSub) -> None:
    webpubsub(MAX_GROUPS_PER_CONNECTION=2)
    client = await Client(here).begin("a")
    assert await client.say(JoinGroup("b", 1)) == [_ack(1)]
    [refused] = await client.say(JoinGroup("c", 2))
    assert refused["error"] == {"name": "InternalServerError", "message": "A connection can be in at most 2 groups."}
    assert await client.say(JoinGroup("a", 3), LeaveGroup("b", 4), JoinGroup("c", 2)) == [_ack(3), _ack(4), _ack(2)]


# ackIds


async def test_what_succeeded_is_not_done_twice(here: Node) -> None:
    client = await Client(here).begin("g")
    assert await client.say(SendToGroup("g", HI, 1)) == [_message(), _ack(1)]
    duplicate = _ack(1, "Duplicate", "Message with ack-id: 1 has been processed")
    for frame in (SendToGroup("g", HI, 1), JoinGroup("h", 1), LeaveGroup("g", 1), UserEvent("e", HI, 1)):
        assert await client.say(frame) == [duplicate]
    assert client.connection.groups == {"g"}


async def test_a_duplicate_is_told_before_permissions_are_looked_at(here: Node) -> None:
    client = await Client(here, roles=["webpubsub.joinLeaveGroup.g"]).begin()
    await client.say(JoinGroup("g", 0))
    [answer] = await client.say(JoinGroup("forbidden", 0))
    assert answer["error"]["name"] == "Duplicate"


async def test_what_failed_is_tried_again(here: Node) -> None:
    client = await Client(here, roles=[]).begin()
    assert (await client.say(JoinGroup("g", 1)))[0]["error"]["name"] == "Forbidden"
    await operations.grant("chat", client.connection.id, "joinLeaveGroup", "g")
    assert await client.say(JoinGroup("g", 1)) == [_ack(1)]


async def test_the_memory_of_ack_ids_is_bounded(here: Node, webpubsub: WebPubSub) -> None:
    webpubsub(DUPLICATE_MEMORY=2)
    client = await Client(here).begin()
    await client.say(JoinGroup("g", 1), JoinGroup("g", 2), JoinGroup("g", 3))
    assert await client.say(JoinGroup("g", 1)) == [_ack(1)]
    assert (await client.say(JoinGroup("g", 3)))[0]["error"]["name"] == "Duplicate"


async def test_each_connection_has_a_memory_of_its_own(here: Node) -> None:
    for _ in range(2):
        client = await Client(here).begin()
        assert await client.say(JoinGroup("g", 1)) == [_ack(1)]


async def test_ping_is_answered_in_order(here: Node) -> None:
    client = await Client(here).begin("g")
    assert await client.say(Ping(), SendToGroup("g", HI), Ping()) == [{"type": "pong"}, _message(), {"type": "pong"}]


async def test_a_sequence_ack_is_ignored(here: Node) -> None:
    client = await Client(here).begin()
    assert await client.say(SequenceAck(5), Ping()) == [{"type": "pong"}]


# Events


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("text", {"dataType": "text", "data": "text"}),
        (b"\0", {"dataType": "binary", "data": "AA=="}),
        ({"a": [1, "é"]}, {"dataType": "json", "data": {"a": [1, "é"]}}),
        (0, {"dataType": "json", "data": 0}),
        (
            Reply(Payload("protobuf", b"\0"), {"k": "v"}),
            {"dataType": "protobuf", "data": "AA==", "metadata": {"k": "v"}},
        ),
        (Reply(metadata={"k": "v"}), {"dataType": "text", "data": "", "metadata": {"k": "v"}}),
        (None, None),
        (Reply(), None),
    ],
)
async def test_the_handlers_reply_comes_before_the_ack(
    here: Node, application: HubHandlers, value: Any, told: dict[str, Any] | None
) -> None:
    application.on_event("*")(lambda request: value)
    client = await Client(here, hub=application.hub).begin()
    messages = [{"type": "message", "from": "server"} | told] if told else []
    assert await client.say(UserEvent("e", HI, 1)) == [*messages, _ack(1)]
    assert await client.say(UserEvent("e", HI)) == messages


async def test_what_the_handler_is_told(here: Node, application: HubHandlers) -> None:
    told: list[UserEventRequest] = []
    application.on_event("*")(told.append)
    client = await Client(here, hub=application.hub).begin()
    await client.say(UserEvent("Chat.Say", Payload("json", b'{"a":1}'), 1, {"k": "v"}), UserEvent("e", HI))
    context = EventContext(application.hub, client.connection.id, "u", "json.webpubsub.azure.v1", None)
    assert told == [
        UserEventRequest(context, "Chat.Say", Payload("json", b'{"a":1}'), {"k": "v"}),
        UserEventRequest(context, "e", HI, {}),
    ]


async def test_the_handler_keeps_state_on_the_connection(here: Node, application: HubHandlers) -> None:
    states: list[str | None] = []

    @application.on_event("count")
    def count(request: UserEventRequest) -> Reply:
        states.append(request.context.state)
        return Reply(state=f"{len(states)}") if len(states) != 2 else Reply()

    client = await Client(here, hub=application.hub).begin()
    await client.say(*[UserEvent("count", HI)] * 4)
    assert states == [None, "1", "1", "3"]
    assert client.connection.session.context.state == "4"


async def test_no_handler(here: Node) -> None:
    client = await Client(here, hub="without_handlers").begin()
    failed = _ack(1, "InternalServerError", "Internal server error")
    assert await client.say(UserEvent("e", HI, 1), UserEvent("e", HI)) == [failed]
    assert not client.connection.closing


async def test_a_failing_handler(here: Node, application: HubHandlers, caplog: pytest.LogCaptureFixture) -> None:
    @application.on_event("*")
    def fail(request: UserEventRequest) -> None:
        raise ValueError("inner details")

    client = await Client(here, hub=application.hub).begin()
    failed = _ack(1, "InternalServerError", "Internal server error")
    assert await client.say(UserEvent("e", HI, 1), UserEvent("e", HI, 1), UserEvent("e", HI)) == [failed, failed]
    assert "inner details" in caplog.text


# Simple clients


async def test_a_simple_client_gets_the_reply_bare(here: Node, application: HubHandlers) -> None:
    replies = iter(["text", b"bytes", {"a": 1}, None, Reply(metadata={"k": "v"})])
    application.on_event("message")(lambda request: next(replies))
    client = await Client(here, hub=application.hub, codec=PlainCodec()).begin()
    assert await client.say(*[UserEvent("message", HI)] * 5) == ["text", b"bytes", '{"a":1}', ""]


async def test_a_simple_client_without_handler_is_closed(here: Node) -> None:
    client = await Client(here, hub="without_handlers", codec=PlainCodec()).begin()
    with pytest.raises(Disconnect) as ended:
        await client.say(UserEvent("message", HI))
    assert (ended.value.code, ended.value.message) == (1011, "Internal server error")


async def test_a_simple_client_that_may_not_publish_is_closed(here: Node) -> None:
    client = await Client(here, codec=PlainCodec("g"), roles=[]).begin()
    with pytest.raises(Disconnect) as ended:
        await client.say(SendToGroup("g", HI))
    assert (ended.value.code, ended.value.message) == (
        1008,
        "The client does not have permission to send to group 'g'.",
    )


# Reading


@pytest.mark.parametrize("unit", ["x", "é", "中", "👋", b"x"])
async def test_messages_beyond_the_limit(here: Node, webpubsub: WebPubSub, unit: str | bytes) -> None:
    webpubsub(MAX_MESSAGE_BYTES=12_000)
    connection = Client(here, codec=PlainCodec()).connection
    size = len(unit.encode() if isinstance(unit, str) else unit)
    largest = unit * (12_000 // size)
    assert isinstance(connection.decode(largest), UserEvent)
    with pytest.raises(Disconnect) as refused:
        connection.decode(largest + unit)
    assert (refused.value.code, refused.value.message) == (1009, "The client message is too large.")


async def test_size_is_looked_at_before_anything_else(here: Node, webpubsub: WebPubSub) -> None:
    webpubsub(MAX_MESSAGE_BYTES=1024)
    connection = Client(here).connection
    for message in (b"x" * 1025, "{" * 1025):
        with pytest.raises(Disconnect) as refused:
            connection.decode(message)
        assert refused.value.code == 1009
    assert connection.decode('{"type":"ping"}') == Ping()


# Trouble below


async def test_when_other_servers_cannot_be_reached(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> asyncio.Future[None]:
        posted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        posted.set_exception(Unavailable("The other servers of this service cannot be reached."))
        return posted

    client = await Client(here).begin()
    monkeypatch.setattr(here, "post", fail)
    [answer] = await client.say(SendToGroup("g", HI, 1))
    assert answer == _ack(1, "InternalServerError", "The other servers of this service cannot be reached.")
    monkeypatch.undo()
    assert await client.say(SendToGroup("g", HI, 1)) == [_ack(1)]


@pytest.mark.parametrize("codec", [JSON, PlainCodec("g")])
async def test_an_unexpected_fault_is_logged_and_answered(
    here: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, codec: Codec
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise ZeroDivisionError("inner details")

    client = await Client(here, codec=codec).begin()
    monkeypatch.setattr(here, "post", fail)
    if codec.named:
        assert await client.say(SendToGroup("g", HI, 1)) == [_ack(1, "InternalServerError", "Internal server error")]
    else:
        with pytest.raises(Disconnect) as ended:
            await client.say(SendToGroup("g", HI))
        assert (ended.value.code, ended.value.message) == (1011, "Internal server error")
    assert "inner details" in caplog.text


async def test_a_client_that_reads_too_slowly_does_not_disturb_the_others(here: Node, webpubsub: WebPubSub) -> None:
    webpubsub(MAX_OUTBOX_MESSAGES=10)
    slow, fast = await Client(here).begin("g"), await Client(here).begin("g")
    fast.heard()
    slow.server.gate.clear()
    for number in range(20):
        await operations.send_to_group("chat", "g", Payload("text", str(number).encode()))
    assert slow.overflowed == 1
    assert len(fast.heard()) == 20
    slow.heard()
    slow.server.gate.set()
    await soon(slow.connection.outbox.drained())
    assert slow.heard() == [_message("0", user_id=None), (1008, "The outbound message queue is full.")]


async def test_payloads_and_groups_are_not_logged(
    here: Node, application: HubHandlers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "hubs")
    secret = Payload("text", b"secret")
    client = await Client(here, hub=application.hub, roles=[], user_id="secret").begin()
    await client.say(
        JoinGroup("secret"), SendToGroup("secret", secret, 1), UserEvent("e", secret, 2), UserEvent("e", secret)
    )
    assert "secret" not in caplog.text


async def test_what_may_be_in_the_log_already_is_published_again_only_if_it_is_not(
    here: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted: list[bytes] = []
    fails = True
    outcomes = [asyncio.get_running_loop().create_future() for _ in range(2)]

    def post(publication: Publication) -> asyncio.Future[None]:
        posted.append(publication.data)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if fails:
            unavailable = Unavailable("They are away.")
            unavailable.outcome = outcomes[len(posted) - 1]
            future.set_exception(unavailable)
            # As the node's: one that nobody looks at fails in silence.
            future.exception()
        else:
            future.set_result(None)
        return future

    client = await Client(here).begin()
    client.heard()
    monkeypatch.setattr(here, "post", post)
    is_in_log, is_not = SendToGroup("g", Payload("text", b"is in the log"), 1), SendToGroup("g", HI, 2)
    refusals = [_ack(ack_id, "InternalServerError", "They are away.") for ack_id in (1, 2)]
    assert await client.say(is_in_log, is_not) == refusals
    fails = False
    outcomes[0].set_result(True)
    outcomes[1].set_result(False)
    duplicate = _ack(1, "Duplicate", "Message with ack-id: 1 has been processed")
    assert await client.say(is_in_log, is_not) == [duplicate, _ack(2)]
    assert posted == [b"is in the log", b"hi", b"hi"]
    # That was that; it is as any other now.
    assert client.connection.in_doubt == {}
    assert await client.say(is_in_log, SendToGroup("g", HI, 3)) == [duplicate, _ack(3)]
