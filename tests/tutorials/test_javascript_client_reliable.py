"""What only the official JavaScript client SDK does: it invokes events, and it listens for silence."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.tutorials.driven import DrivenClient
from tests.tutorials.programs import Program, node
from tests.tutorials.stage import Stage

BYTES = "00017f80ff"

Start = Callable[..., DrivenClient]


@pytest.fixture
def start(run: Callable[..., Program]) -> Start:
    """`start(url, protocol="plain")`: the SDK's program, connecting, with these options of the SDK."""

    def start_on(url: str, **options: Any) -> DrivenClient:
        return DrivenClient(run(node("reliable.js", url, json.dumps(options))))

    return start_on


@pytest.fixture(params=["plain", "reliable"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def held(client: DrivenClient) -> str:
    """Have the client invoke an event, "slow", that is not answered until the gate is free; gives the gate's name."""
    gate = uuid.uuid4().hex
    client.begin("invoke", "slow", "hold", "text", gate)
    assert client.does("invoke", "quick", "held", "text", gate)["data"] == 1
    return gate


def test_events_are_invoked(start: Start, stage: Stage, protocol: str) -> None:
    client = start(stage.url("ada"), protocol=protocol)
    connection_id = client.told("connected")["connectionId"]

    def gives(invocation_id: str, data: Any, data_type: str) -> dict[str, Any]:
        return {"invocationId": invocation_id, "dataType": data_type, "data": data}

    assert client.does("invoke", "1", "echo", "text", "Grüße ✓") == gives("1", "Grüße ✓", "text")
    assert client.does("invoke", "2", "echo", "json", {"a": ["ü"]}) == gives("2", {"a": ["ü"]}, "json")
    assert client.does("invoke", "3", "echo", "binary", BYTES) == gives("3", BYTES, "binary")
    assert client.does("invoke", "4", "mirror", "protobuf", BYTES) == gives("4", BYTES, "protobuf")
    assert client.does("invoke", "ü/5", "echo", None, None) == gives("ü/5", "", "text")
    assert client.does("invoke", "1", "message", "text", "id") == gives("1", connection_id, "text")
    assert client.does("invoke", "6", "free", "text", "nobody") == {"invocationId": "6"}
    assert client.fails("invoke", "7", "message", "text", "fail") == {
        "name": "InternalServerError",
        "message": "Internal server error",
    }
    assert client.fails("invoke", "8", "unheard-of", "text", "x") == {
        "name": "NotFound",
        "message": "No event handler takes the event unheard-of.",
    }
    client.stop(connection_id)


def test_invocations_do_not_wait_for_each_other(start: Start, stage: Stage, protocol: str) -> None:
    client = start(stage.url("ada"), protocol=protocol)
    connection_id = client.told("connected")["connectionId"]
    gate = held(client)
    client.does("event", "free", "text", gate)
    assert client.did("invoke") == {"invocationId": "slow", "dataType": "text", "data": f"{gate} is free"}
    client.stop(connection_id)


def test_an_invocation_is_withdrawn(start: Start, stage: Stage, protocol: str) -> None:
    client = start(stage.url("ada"), protocol=protocol)
    connection_id = client.told("connected")["connectionId"]
    gate = held(client)
    client.does("withdraw", "slow")
    withdrawn = client.take(lambda fact: fact.get("failed") == "invoke")
    assert withdrawn["message"] == "Invocation cancelled by abortSignal."
    # The id is free again for the service, too, while the gate is not.
    assert client.does("invoke", "slow", "echo", "text", "anew")["data"] == "anew"
    client.does("event", "free", "text", gate)
    client.stop(connection_id)


def test_an_invocation_fails_with_its_line(start: Start, stage: Stage) -> None:
    client = start(stage.url("ada"))
    connection_id = client.told("connected")["connectionId"]
    gate = held(client)
    assert stage.line.abort() == 1
    lost = client.take(lambda fact: fact.get("failed") == "invoke")
    assert lost["message"] == "Connection is disconnected before receiving invoke response from the service"
    # The client is back on the same connection, where the old invocation is in nobody's way.
    stage.service.send_to_connection(connection_id, "you are back", content_type="text/plain")
    assert client.messages(1)[0]["data"] == "you are back"
    client.does("event", "free", "text", gate)
    assert client.does("invoke", "slow", "echo", "text", "anew")["data"] == "anew"
    client.stop(connection_id)


def test_pings_keep_a_quiet_line(start: Start, stage: Stage, protocol: str) -> None:
    quick = {"keepAliveIntervalInMs": 100, "keepAliveTimeoutInMs": 2000}
    watched = start(stage.url("ada"), protocol=protocol, **quick)
    watched_id = watched.told("connected")["connectionId"]
    # Without pings the same time is a silence: what this client notices, the other has been spared.
    silent = start(stage.url("eve"), protocol=protocol, keepAliveIntervalInMs=0, keepAliveTimeoutInMs=2500)
    silent_id = silent.told("connected")["connectionId"]
    silent.told("silence")
    assert silent.told("disconnected") == {"connectionId": silent_id}
    stage.forgets(silent_id)
    watched.stop(watched_id)


def test_a_dead_line_is_noticed(start: Start, stage: Stage) -> None:
    client = start(stage.url("ada"), keepAliveIntervalInMs=100, keepAliveTimeoutInMs=1500)
    first = client.told("connected")["connectionId"]
    assert stage.line.freeze() == 1
    client.told("silence")
    assert stage.knows(first)
    # The client has closed its socket, without a code; for the service that is the end of the connection, and the
    # client, which tries to recover it, begins a new one.
    stage.line.thaw()
    assert client.told("disconnected") == {"connectionId": first}
    second = client.told("connected")["connectionId"]
    assert second != first
    assert not stage.knows(first)
    client.stop(second)
    stage.forgets(second)
