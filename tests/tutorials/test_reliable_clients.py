"""The official client SDKs with the reliable JSON subprotocol: what they do, and what they do when the line breaks."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.tutorials.driven import DrivenClient
from tests.tutorials.programs import Program, node, python
from tests.tutorials.stage import Stage, staged

SDKS = {
    "python": (python, "reliable_client.py"),
    "python-asyncio": (python, "reliable_client_aio.py"),
    "javascript": (node, "reliable.js"),
}
BYTES = "00017f80ff"
GOODBYE = "Application server closed the connection. Reason: moving house"


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(run: Callable[..., Program], sdk: str) -> Callable[[str], DrivenClient]:
    """`start(url)`: the SDK's program, connecting."""

    def start_on(url: str) -> DrivenClient:
        command, program = SDKS[sdk]
        return DrivenClient(run(command(program, url)))

    return start_on


@pytest.fixture
def group() -> str:
    """A group of the test's own; the hub is everybody's."""
    return f"desk {uuid.uuid4().hex[:12]}"


@pytest.fixture
def roles(group: str) -> tuple[str, str]:
    return (f"webpubsub.joinLeaveGroup.{group}", f"webpubsub.sendToGroup.{group}")


def heard(group: str, sequence_id: int, data: Any, data_type: str = "text", user: str | None = None) -> dict[str, Any]:
    message = {"told": "group message", "group": group, "dataType": data_type, "data": data, "sequenceId": sequence_id}
    return message | ({"fromUserId": user} if user else {})


def answered(sequence_id: int, data: Any, data_type: str = "text") -> dict[str, Any]:
    return {"told": "server message", "dataType": data_type, "data": data, "sequenceId": sequence_id}


def connection_of(client: DrivenClient, user_id: str) -> str:
    connected = client.told("connected")
    assert connected == {"connectionId": connected["connectionId"], "userId": user_id}
    return str(connected["connectionId"])


def test_everything_a_client_does(
    start: Callable[[str], DrivenClient], stage: Stage, group: str, roles: tuple[str, str], sdk: str
) -> None:
    client = start(stage.url("ada", *roles))
    connection_id = connection_of(client, "ada")
    client.does("join", group)
    client.does("send", group, "json", {"price": 12.5, "tags": ["ü"]})
    client.does("send", group, "text", "Grüße ✓")
    client.does("send", group, "binary", BYTES)
    client.does("send", group, "protobuf", BYTES)
    client.does("send", group, "text", "not for myself", no_echo=True)
    client.does("send", group, "text", "unacknowledged", ack=False)
    client.does("send", group, "text", "once", ack_id=1000)
    again = client.does("send", group, "text", "twice", ack_id=1000)
    assert again == ({"isDuplicated": True} if sdk == "javascript" else {})
    assert client.messages(6) == [
        heard(group, 1, {"price": 12.5, "tags": ["ü"]}, "json", "ada"),
        heard(group, 2, "Grüße ✓", "text", "ada"),
        heard(group, 3, BYTES, "binary", "ada"),
        heard(group, 4, BYTES, "protobuf", "ada"),
        heard(group, 5, "unacknowledged", "text", "ada"),
        heard(group, 6, "once", "text", "ada"),
    ]

    client.does("leave", group)
    client.does("send", group, "text", "from outside")
    client.does("join", group)
    client.does("send", group, "text", "from inside")
    assert client.messages(1) == [heard(group, 7, "from inside", "text", "ada")]

    client.does("event", "echo", "json", {"any": ["thing"]})
    client.does("event", "echo", "text", "Grüße ✓")
    client.does("event", "echo", "binary", BYTES)
    client.does("event", "echo", "text", "unacknowledged", ack=False)
    client.does("event", "echo", "text", "once", ack_id=1001)
    client.does("event", "echo", "text", "twice", ack_id=1001)
    assert client.messages(5) == [
        answered(8, {"any": ["thing"]}, "json"),
        answered(9, "Grüße ✓"),
        answered(10, BYTES, "binary"),
        answered(11, "unacknowledged"),
        answered(12, "once"),
    ]
    assert client.fails("event", "unheard-of", "text", "x") == {
        "name": "InternalServerError",
        "message": "Internal server error",
    }
    assert client.fails("join", "elsewhere") == {
        "name": "Forbidden",
        "message": "The client does not have permission to join group 'elsewhere'.",
    }
    assert client.fails("send", "elsewhere", "text", "x") == {
        "name": "Forbidden",
        "message": "The client does not have permission to send to group 'elsewhere'.",
    }
    stage.service.send_to_connection(connection_id, {"to": "you"}, content_type="application/json")
    assert client.messages(1) == [answered(13, {"to": "you"}, "json")]

    # Its service would wait for it for two minutes if it took this for a broken line.
    client.stop(connection_id)
    stage.forgets(connection_id)


def test_a_broken_line_is_mended_unnoticed(
    start: Callable[[str], DrivenClient], stage: Stage, group: str, roles: tuple[str, str], sdk: str
) -> None:
    client = start(stage.url("ada", *roles))
    connection_id = connection_of(client, "ada")
    client.does("join", group)
    client.does("send", group, "text", "once", ack_id=1000)
    assert client.messages(1) == [heard(group, 1, "once", "text", "ada")]

    stage.cut()
    stage.publish(group, "away 1", "away 2")
    stage.service.send_to_connection(connection_id, "away 3", content_type="text/plain")
    assert stage.knows(connection_id)
    stage.mend()
    assert client.messages(3) == [heard(group, 2, "away 1"), heard(group, 3, "away 2"), answered(4, "away 3")]

    # It is the connection that it was: its id, its groups and roles, and what it has done are still known.
    stage.gathers(group, connection_id)
    stage.service.send_to_connection(connection_id, "still you", content_type="text/plain")
    again = client.does("send", group, "text", "twice", ack_id=1000)
    assert again == ({"isDuplicated": True} if sdk == "javascript" else {})
    client.does("send", group, "text", "still here")
    assert client.messages(2) == [answered(5, "still you"), heard(group, 6, "still here", "text", "ada")]

    # And it was told of nothing else, neither that it was disconnected nor that it is connected again.
    client.stop(connection_id)
    stage.forgets(connection_id)


def test_what_was_on_its_way_when_the_line_broke_is_sent_again(
    start: Callable[[str], DrivenClient], stage: Stage, group: str, roles: tuple[str, str]
) -> None:
    client = start(stage.url("ada", *roles))
    connection_id = connection_of(client, "ada")
    client.does("join", group)
    stage.publish(group, "before")
    assert client.messages(1) == [heard(group, 1, "before")]

    # The service has written these to a socket that nobody reads any more.
    assert stage.line.freeze() == 1
    stage.publish(group, "lost 1", "lost 2", "lost 3")
    assert stage.line.abort() == 1
    assert client.messages(3) == [heard(group, number, f"lost {number - 1}") for number in (2, 3, 4)]

    client.stop(connection_id)
    stage.forgets(connection_id)


def test_a_line_that_breaks_again_and_again(
    start: Callable[[str], DrivenClient], stage: Stage, group: str, roles: tuple[str, str]
) -> None:
    client = start(stage.url("ada", *roles))
    connection_id = connection_of(client, "ada")
    client.does("join", group)
    for cut in range(4):
        stage.publish(group, *(f"{cut}.{number} before" for number in range(10)))
        stage.cut()
        stage.publish(group, *(f"{cut}.{number} meanwhile" for number in range(10)))
        stage.mend()
        texts = [f"{cut}.{number} {when}" for when in ("before", "meanwhile") for number in range(10)]
        expected = [heard(group, cut * 20 + place, text) for place, text in enumerate(texts, start=1)]
        assert client.messages(20) == expected
    client.stop(connection_id)
    stage.forgets(connection_id)


def test_a_line_that_is_mended_to_another_process(
    start: Callable[[str], DrivenClient], pair: tuple[str, int], group: str, roles: tuple[str, str]
) -> None:
    connection_string, second = pair
    with staged(connection_string) as stage:
        client = start(stage.url("ada", *roles))
        connection_id = connection_of(client, "ada")
        client.does("join", group)
        client.does("send", group, "text", "once", ack_id=1000)
        assert client.messages(1) == [heard(group, 1, "once", "text", "ada")]

        # There, and back again.
        for number, port in enumerate([second, stage.port]):
            stage.cut()
            stage.publish(group, f"{number} away")
            stage.line.to(port)
            stage.mend()
            assert client.messages(1) == [heard(group, 2 + 3 * number, f"{number} away")]
            stage.publish(group, f"{number} from the first")
            client.does("send", group, "text", "twice", ack_id=1000)
            client.does("send", group, "text", f"{number} from the client")
            assert client.messages(2) == [
                heard(group, 3 + 3 * number, f"{number} from the first"),
                heard(group, 4 + 3 * number, f"{number} from the client", "text", "ada"),
            ]
        stage.gathers(group, connection_id)
        client.stop(connection_id)
        stage.forgets(connection_id)


def joined_again(client: DrivenClient, stage: Stage, group: str, connection_id: str) -> None:
    """Wait until the SDK has joined the group by itself, and knows that it has."""
    stage.gathers(group, connection_id)
    # Acks come in order, so that of the SDK's own joining is there when this one is.
    client.does("join", group)


def test_a_closed_client_comes_back_as_another_connection(
    start: Callable[[str], DrivenClient], stage: Stage, group: str, roles: tuple[str, str]
) -> None:
    client = start(stage.url("ada", *roles))
    first = connection_of(client, "ada")
    client.does("join", group)

    # It cannot be recovered from that, and it is told so when it tries.
    stage.service.close_connection(first, reason="moving house")
    assert client.told("disconnected") == {"connectionId": first, "message": GOODBYE}
    second = connection_of(client, "ada")
    assert second != first
    assert not stage.knows(first)
    joined_again(client, stage, group, second)
    stage.publish(group, "welcome back")
    assert client.messages(1) == [heard(group, 1, "welcome back")]
    client.stop(second)
    stage.forgets(second)


def test_a_client_closed_while_it_was_away(
    start: Callable[[str], DrivenClient], stage: Stage, group: str, roles: tuple[str, str]
) -> None:
    client = start(stage.url("ada", *roles))
    first = connection_of(client, "ada")
    client.does("join", group)

    stage.cut()
    stage.service.close_connection(first, reason="moving house")
    stage.forgets(first)
    stage.mend()
    assert client.told("disconnected") == {"connectionId": first}
    second = connection_of(client, "ada")
    assert second != first
    joined_again(client, stage, group, second)
    client.stop(second)
    stage.forgets(second)


def test_a_line_broken_for_too_long(
    start: Callable[[str], DrivenClient], hurried_stage: Stage, group: str, roles: tuple[str, str]
) -> None:
    stage = hurried_stage
    client = start(stage.url("ada", *roles))
    first = connection_of(client, "ada")
    client.does("join", group)

    stage.cut()
    stage.publish(group, "lost")
    stage.forgets(first)
    stage.mend()
    assert client.told("disconnected") == {"connectionId": first}
    second = connection_of(client, "ada")
    assert second != first
    joined_again(client, stage, group, second)
    stage.publish(group, "welcome back")
    assert client.messages(1) == [heard(group, 1, "welcome back")]
    client.stop(second)
    stage.forgets(second)
