"""The official Python client SDK, with the plain JSON subprotocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from azure.messaging.webpubsubservice import WebPubSubServiceClient

from tests.tutorials.programs import Program, python

GROUP = "desk"


def told(data_type: str, data: Any) -> dict[str, Any]:
    return {"told": "message", "group": GROUP, "fromUserId": "ada", "dataType": data_type, "data": data}


def failed(name: str, error: str, message: str) -> dict[str, Any]:
    return {"failed": name, "error": {"name": error, "message": message}}


def denied(what: str) -> str:
    return f"The client does not have permission to {what} group 'elsewhere'."


def test_everything_the_client_does(
    run: Callable[..., Program], client_url: Callable[..., str], connection_string: str, hub: str
) -> None:
    url = client_url("ada", f"webpubsub.joinLeaveGroup.{GROUP}", f"webpubsub.sendToGroup.{GROUP}")
    program = run(python("client.py", url, GROUP))

    first = program.object()
    assert first | {"connectionId": ""} == {"told": "connected", "connectionId": "", "userId": "ada"}
    messages = [
        told("json", {"price": 12.5, "tags": ["ü"]}),
        told("text", "Grüße ✓"),
        told("binary", {"bytes": "00017f80ff"}),
        told("protobuf", {"bytes": "00017f80ff"}),
        told("text", "unacknowledged"),
    ]
    done = ["join", "again", "json", "text", "binary", "protobuf", "no echo", "no ack", "leave", "outside", "return"]
    operations = [
        *({"did": name} for name in done),
        failed("event", "InternalServerError", "Internal server error"),
        failed("elsewhere", "Forbidden", denied("join")),
        failed("send elsewhere", "Forbidden", denied("send to")),
        {"waiting": True},
    ]
    # The SDK hands each message over in a thread of its own: when they are printed says nothing.
    facts = [program.object() for _ in range(len(operations) + len(messages))]
    assert [fact for fact in facts if "told" not in fact] == operations
    assert sorted((fact for fact in facts if "told" in fact), key=repr) == sorted(messages, key=repr)

    with WebPubSubServiceClient.from_connection_string(connection_string, hub=hub) as service_client:
        service_client.close_connection(first["connectionId"], reason="moving house")
    goodbye = "Application server closed the connection. Reason: moving house"
    news = [program.object(), program.object()]
    assert {"told": "disconnected", "connectionId": first["connectionId"], "message": goodbye} in news
    [second] = [fact for fact in news if fact["told"] == "connected"]
    assert second | {"connectionId": ""} == first | {"connectionId": ""}
    assert second["connectionId"] != first["connectionId"]

    facts = program.objects_until(lambda fact: fact == {"told": "stopped"})
    program.end()
    assert told("text", "back again") in facts
    assert {"told": "disconnected", "connectionId": second["connectionId"], "message": None} in facts


def test_a_forged_token_cannot_open(run: Callable[..., Program], client_url: Callable[..., str]) -> None:
    url = client_url("ada")
    program = run(python("client.py", url[:-8] + ("BBBBBBBB" if url.endswith("A" * 8) else "A" * 8), GROUP))
    assert program.end(code=1) == []
    assert "OpenClientError" in program.complaints
    assert "401" in program.complaints
