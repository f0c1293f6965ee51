"""Simple clients: bare payloads both ways."""

from __future__ import annotations

import pytest

from hubs.protocols.frames import (
    BINARY,
    TEXT,
    Ack,
    Connected,
    Disconnected,
    Downstream,
    GroupMessage,
    Payload,
    Pong,
    SendToGroup,
    ServerMessage,
    UserEvent,
)
from hubs.protocols.plain import PlainCodec
from tests.protocols.vectors import PAYLOADS, PayloadRow


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        ("hi", Payload(TEXT, b"hi")),
        ("", Payload(TEXT, b"")),
        ("ñ 👋", Payload(TEXT, "ñ 👋".encode())),
        ('{"type":"ping"}', Payload(TEXT, b'{"type":"ping"}')),
        (b"\xff\0", Payload(BINARY, b"\xff\0")),
        (b"", Payload(BINARY, b"")),
    ],
)
def test_any_message_is_a_payload(message: str | bytes, payload: Payload) -> None:
    assert PlainCodec().decode(message) == UserEvent("message", payload)
    assert PlainCodec("room").decode(message) == SendToGroup("room", payload)
    assert PlainCodec("room", no_echo=True).decode(message) == SendToGroup("room", payload, no_echo=True)


@pytest.mark.parametrize("row", PAYLOADS, ids=lambda row: row.name)
def test_clients_get_the_payload_alone(row: PayloadRow) -> None:
    assert PlainCodec().encode(GroupMessage("g", row.payload, "u", {"a": "b"})) == row.bare
    assert PlainCodec("room").encode(ServerMessage(row.payload)) == row.bare


@pytest.mark.parametrize("frame", [Connected("c", "u"), Disconnected("bye"), Ack(1), Ack(1, "Forbidden"), Pong()])
def test_frames_without_payload_are_not_told(frame: Downstream) -> None:
    assert PlainCodec().encode(frame) is None
