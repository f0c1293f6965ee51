"""The WebSocket door, where a real server would show too little: a handshake that is given up half-way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hubs.connections.handshake import Admission
from hubs.consumers import HubConsumer, _Conversation, _handshake
from hubs.node.node import node
from hubs.protocols.codec import CODECS
from hubs.rules.roles import Permissions
from tests.running import PATIENCE

RELIABLE = "json.reliable.webpubsub.azure.v1"


@pytest.mark.parametrize(
    ("host", "forwarded", "trusted", "origin"),
    [
        ("app.example.test:8242", None, False, "app.example.test"),
        ("APP.example.test", None, False, "app.example.test"),
        ("localhost:8080", None, False, "localhost"),
        ("127.0.0.1:8080", None, False, "localhost"),
        ("not a host", None, False, "localhost"),
        ("10.0.0.1:8080", "app.example.test, inner", True, "app.example.test"),
        ("10.0.0.1:8080", "app.example.test", False, "localhost"),
    ],
)
def test_which_host_a_clients_events_come_from(
    settings: Any, host: str, forwarded: str | None, trusted: bool, origin: str
) -> None:
    settings.WEBPUBSUB = settings.WEBPUBSUB | {
        "PUBLIC_ENDPOINTS": ["http://localhost:8080", "http://app.example.test:8242"],
        "TRUST_FORWARDED_HEADERS": trusted,
    }
    headers = [(b"Host", host.encode())] + ([(b"x-forwarded-host", forwarded.encode())] if forwarded else [])
    handshake = _handshake({"headers": headers, "scheme": "ws", "url_route": {"kwargs": {"hub": "chat"}}})
    assert handshake.origin == origin


async def test_a_cancelled_beginning_leaves_nobody_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    attached = asyncio.Event()

    async def slow_create(hub: str, connection_id: str, snapshot: Any) -> None:
        attached.set()
        await asyncio.Event().wait()

    async def unused(*_: Any) -> Any:
        raise AssertionError("nothing is sent or received before the beginning is done")

    here = node()
    monkeypatch.setattr(here.records, "create", slow_create)
    admission = Admission("chat", CODECS[RELIABLE], RELIABLE, None, Permissions(), ("room",), None, 0)
    conversation = _Conversation({}, unused, unused)
    running = asyncio.create_task(conversation.begin({"extensions": {}}, here.new_connection_id(), admission))
    try:
        await asyncio.wait_for(attached.wait(), PATIENCE)
        assert len(here) == 1
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(here) == 0
    finally:
        await here.stop()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("hub", "query", "line"),
    [
        (
            "Chat",
            b"access_token=eyJsecret",
            "hub chat, from 192.0.2.1: 401, Invalid access token: the token is not ",
        ),
        ("1\r\n", b"", "hub none, from 192.0.2.1: 400, Invalid hub name. Use /client/hubs/{hub}; a hub starts with a"),
    ],
)
async def test_a_refused_handshake_is_told_in_the_log(
    hub: str, query: bytes, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    scope = {
        "url_route": {"kwargs": {"hub": hub}},
        "query_string": query,
        "headers": [(b"host", b"localhost")],
        "client": ("192.0.2.1", 5),
        "extensions": {"websocket.http.response": {}},
    }
    caplog.set_level("INFO", "hubs")
    await HubConsumer()(scope, receive, send)
    [said] = [record.getMessage() for record in caplog.records if record.name == "hubs.consumers"]
    assert said.startswith(f"A handshake was refused: {line}")
    assert "secret" not in said
    assert sent[0]["status"] in (400, 401)
