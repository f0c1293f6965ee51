"""The official JavaScript client SDK, with the plain JSON subprotocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from azure.messaging.webpubsubservice import WebPubSubServiceClient

from tests.tutorials.programs import Program, node

GROUP = "desk"
GOODBYE = "Application server closed the connection. Reason: moving house"


def told(data_type: str, data: Any) -> dict[str, Any]:
    return {"told": "group-message", "group": GROUP, "fromUserId": "ada", "dataType": data_type, "data": data}


def did(name: str, *, duplicated: bool = False) -> dict[str, Any]:
    return {"did": name, "isDuplicated": duplicated}


def test_everything_the_client_does(
    run: Callable[..., Program], client_url: Callable[..., str], connection_string: str, hub: str
) -> None:
    url = client_url("ada", f"webpubsub.joinLeaveGroup.{GROUP}", f"webpubsub.sendToGroup.{GROUP}")
    program = run(node("client.js", url, GROUP))

    first = program.object()
    assert first | {"connectionId": ""} == {"told": "connected", "connectionId": "", "userId": "ada"}
    # An operation is done when its ack is there, and the ack comes after the message that it caused.
    facts = program.objects_until(lambda fact: fact.get("did") == "return")
    assert [fact for fact in facts if fact != told("text", "unacknowledged")] == [
        did("join"),
        told("json", {"price": 12.5, "tags": ["ü"]}),
        did("json"),
        told("text", "Grüße ✓"),
        did("text"),
        told("binary", {"bytes": "00017f80ff"}),
        did("binary"),
        told("protobuf", {"bytes": "00017f80ff"}),
        did("protobuf"),
        did("no echo"),
        did("no ack"),
        told("text", "once"),
        did("first"),
        did("again", duplicated=True),
        did("leave"),
        did("outside"),
        did("return"),
    ]
    assert facts.count(told("text", "unacknowledged")) == 1
    assert facts.index(told("text", "unacknowledged")) < facts.index(told("text", "once"))

    failures = {fact["failed"]: fact["error"] for fact in (program.object(), program.object())}
    assert failures == {
        "event": {"name": "InternalServerError", "message": "Internal server error"},
        "elsewhere": {
            "name": "Forbidden",
            "message": "The client does not have permission to join group 'elsewhere'.",
        },
    }
    assert program.object() == {"waiting": True}

    with WebPubSubServiceClient.from_connection_string(connection_string, hub=hub) as service_client:
        service_client.close_connection(first["connectionId"], reason="moving house")
    assert program.object() == {"told": "disconnected", "message": GOODBYE}
    second = program.object()
    assert second | {"connectionId": ""} == first | {"connectionId": ""}
    assert second["connectionId"] != first["connectionId"]

    *heard, disconnected, stopped = program.end()
    assert heard
    assert '"data":"back again"' in heard[0]
    assert (disconnected, stopped) == ('{"told":"disconnected"}', '{"told":"stopped"}')
