"""The reliable JSON subprotocol frame by frame, from the WebSocket that Java brings along."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

from tests.tutorials.programs import Program, java
from tests.tutorials.stage import Stage

RELIABLE = "json.reliable.webpubsub.azure.v1"
# Three bytes each, so that no frame is likely to end between two.
LARGE = "✓" * 100_000


def said(program: Program, **frame: Any) -> None:
    program.type("send " + json.dumps(frame, ensure_ascii=False))


def ack(number: int) -> dict[str, Any]:
    return {"type": "ack", "ackId": number, "success": True}


def test_frames_before_and_after_an_abort(run: Callable[..., Program], stage: Stage) -> None:
    group = f"desk {uuid.uuid4().hex[:12]}"

    def message(sequence_id: int, data: str, user: str | None = None) -> dict[str, Any]:
        origin = {"type": "message", "from": "group", "group": group} | ({"fromUserId": user} if user else {})
        return origin | {"dataType": "text", "data": data, "sequenceId": sequence_id}

    url = stage.url("ada", f"webpubsub.joinLeaveGroup.{group}", f"webpubsub.sendToGroup.{group}")
    program = run(java("ReliableClient.java", url))
    assert program.object() == {"open": RELIABLE}
    connected = program.object()
    assert list(connected) == ["type", "event", "userId", "connectionId", "reconnectionToken"]
    assert (connected["event"], connected["userId"]) == ("connected", "ada")
    connection_id = connected["connectionId"]

    said(program, type="joinGroup", group=group, ackId=1)
    assert program.object() == ack(1)
    said(program, type="sendToGroup", group=group, dataType="text", data=LARGE, ackId=2)
    assert program.object()["parts"] > 1
    assert program.object() == message(1, LARGE, "ada")
    assert program.object() == ack(2)
    said(program, type="sequenceAck", sequenceId=1)
    said(program, type="sendToGroup", group=group, dataType="text", data="unacknowledged", ackId=3)
    assert program.object() == message(2, "unacknowledged", "ada")
    assert program.object() == ack(3)

    # What was acknowledged does not come again; the rest does, then what came meanwhile.
    program.type("abort")
    assert program.object() == {"aborted": True}
    stage.publish(group, "away", LARGE)
    program.type("recover")
    assert program.object() == {"open": RELIABLE}
    assert program.object() == message(2, "unacknowledged", "ada")
    assert program.object() == message(3, "away")
    assert program.object()["parts"] > 1
    assert program.object() == message(4, LARGE)
    said(program, type="sendToGroup", group=group, dataType="text", data="once more", ackId=3)
    refused = program.object()
    assert (refused["ackId"], refused["success"], refused["error"]["name"]) == (3, False, "Duplicate")

    said(program, type="sequenceAck", sequenceId=4)
    said(program, type="ping")
    assert program.object() == {"type": "pong"}
    program.type("abort", "recover")
    assert program.object() == {"aborted": True}
    assert program.object() == {"open": RELIABLE}
    stage.service.send_to_connection(connection_id, "still you", content_type="text/plain")
    assert program.object() == {
        "type": "message",
        "from": "server",
        "dataType": "text",
        "data": "still you",
        "sequenceId": 5,
    }

    program.type("close")
    assert program.object() == {"closed": 1000, "reason": ""}
    stage.forgets(connection_id)
    program.type("recover")
    assert program.object() == {"open": RELIABLE}
    assert program.object() == {"closed": 1008, "reason": "The connection could not be recovered."}
    assert program.end() == []
