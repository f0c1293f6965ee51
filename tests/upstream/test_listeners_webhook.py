"""Listeners that are webhooks, on a real web server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from hubs.hub_settings import EventListenerSettings
from hubs.protocols.frames import BINARY, JSON, PROTOBUF, TEXT, Payload
from hubs.upstream import UserEventRequest, listeners, records
from hubs.upstream.events import Event
from hubs.upstream.listeners import queues, webhook
from hubs.upstream.listeners.message import message_of
from hubs.upstream.listeners.webhook import in_json
from hubs.upstream.session import Session
from hubs.upstream.webhooks import Webhooks
from tests.running import PATIENCE, free_port
from tests.upstream.conftest import Rows
from tests.upstream.server import Say, Seen, WebhookServer, never

pytestmark = pytest.mark.usefixtures("client")


@pytest.fixture
def row(rows: Rows, server: WebhookServer, monkeypatch: pytest.MonkeyPatch) -> EventListenerSettings:
    monkeypatch.setattr(queues, "RETRY_SECS", (0.01,))
    monkeypatch.setattr(queues, "LOOK_SECS", 0.02)
    queues._log._held.clear()
    own = EventListenerSettings(1, "webhook", f"{server.url}/in?code=secret", "*", frozenset(), "Bearer secret")
    rows.set("chat", listeners=(own,))
    return own


def event(payload: Payload, state: str | None = None) -> Event:
    session = Session("chat", "c0ffee", "Zoë", "json.webpubsub.azure.v1", state)
    session.event("connect")
    return session.event("message", UserEventRequest(session.context, "message", payload))


def tell(row: EventListenerSettings, *data: str) -> None:
    for text in data:
        listeners.tell(event(Payload(TEXT, text.encode())), (row,))


def data_of(seen: Seen) -> list[str]:
    return [item["data"] for item in json.loads(seen.body)]


def problems() -> list[str]:
    return [record.problem for record in reversed(records.recent("chat"))]


async def recorded(text: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while not any(text in problem for problem in problems()):
            await asyncio.sleep(0.01)


async def test_one_batch_of_cloudevents(row: EventListenerSettings, server: WebhookServer) -> None:
    for payload in (
        Payload(TEXT, "héllo".encode()),
        Payload(JSON, b'{"a": 1.00, "b": [12345678901234567890]}'),
        Payload(BINARY, b"\x00\xff"),
        Payload(PROTOBUF, b"\x0a"),
    ):
        listeners.tell(event(payload, "a state"), (row,))
    seen = await server.event()
    assert (seen.method, seen.path) == ("POST", "/in?code=secret")
    assert seen.headers["Content-Type"] == "application/cloudevents-batch+json; charset=utf-8"
    assert seen.headers["Authorization"] == "Bearer secret"
    batch = json.loads(seen.body)
    assert all(item.pop("time").endswith("Z") for item in batch)
    common = {
        "specversion": "1.0",
        "awpsversion": "1.0",
        "type": "azure.webpubsub.user.message",
        "source": "/hubs/chat/client/c0ffee",
        "id": "1",
        "hub": "chat",
        "eventname": "message",
        "connectionid": "c0ffee",
        "userid": "Zoë",
        "subprotocol": "json.webpubsub.azure.v1",
        "connectionstate": "a state",
    }
    assert batch == [
        common | {"datacontenttype": "text/plain; charset=utf-8", "data": "héllo"},
        common | {"datacontenttype": "application/json", "data": {"a": 1.0, "b": [12345678901234567890]}},
        common | {"datacontenttype": "application/octet-stream", "data_base64": "AP8="},
        common | {"datacontenttype": "application/x-protobuf", "data_base64": "Cg=="},
    ]
    # As the client wrote them: no digit less.
    assert b'{"a": 1.00, "b": [12345678901234567890]}' in seen.body
    await listeners.close(PATIENCE)
    assert len(server.seen) == 1
    assert problems() == []


@pytest.mark.parametrize("payload", [Payload(JSON, b"{"), Payload(JSON, b"\xff"), Payload(TEXT, b"\xff")])
def test_what_is_not_what_it_says_does_not_spoil_a_batch(payload: Payload) -> None:
    assert "data_base64" in in_json(message_of(event(payload)))


def test_system_events() -> None:
    session = Session("chat", "c")
    item = in_json(message_of(session.event("disconnected", reason="bye")))
    assert bytes(item["data"]) == b'{"reason":"bye"}'
    assert item["datacontenttype"] == "application/json"
    assert not {"userid", "subprotocol", "connectionstate"} & set(item)


async def test_what_comes_meanwhile_goes_together(row: EventListenerSettings, server: WebhookServer) -> None:
    opened = asyncio.Event()

    async def slow(seen: Seen) -> Say:
        await opened.wait()
        return Say(202)

    server.answers.appendleft(slow)
    tell(row, "1")
    await server.event()
    tell(row, *map(str, range(2, 153)))
    opened.set()
    await server.event(3)
    assert [len(data_of(seen)) for seen in server.events] == [1, 100, 51]
    assert [text for seen in server.events for text in data_of(seen)] == [str(n) for n in range(1, 153)]


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
async def test_nobody_took_it(row: EventListenerSettings, server: WebhookServer, status: int) -> None:
    server.answers.extendleft([Say(status)] * 6)
    tell(row, "1")
    await server.event(7)
    await listeners.close(PATIENCE)
    assert [data_of(seen) for seen in server.events] == [["1"]] * 7
    assert problems() == [f"the answer's status is {status}"] * 6
    assert records.recent("chat")[0].status == status


@pytest.mark.parametrize(("status", "attempts"), [(500, 4), (501, 4), (400, 1), (401, 1), (404, 1), (302, 1)])
async def test_somebody_did_not_want_it(
    row: EventListenerSettings, server: WebhookServer, status: int, attempts: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers.extendleft([Say(status, headers={"Location": f"{server.url}/elsewhere"})] * attempts)
    tell(row, "1", "2")
    await recorded(f"2 events were dropped: the answer's status is {status}")
    tell(row, "3")
    await server.event(attempts + 1)
    assert [data_of(seen) for seen in server.events] == [["1", "2"]] * attempts + [["3"]]
    # Redirects are not followed.
    assert {seen.path for seen in server.seen} == {"/in?code=secret"}
    assert "secret" not in caplog.text + repr(records.recent("chat"))


async def test_a_batch_that_is_too_large(row: EventListenerSettings, server: WebhookServer) -> None:
    async def few(seen: Seen) -> Say:
        return Say(413 if len(data_of(seen)) > 2 else 200)

    server.answers[0] = few
    tell(row, *"1234567")
    await listeners.close(PATIENCE)
    taken = [text for seen in server.events if len(data_of(seen)) <= 2 for text in data_of(seen)]
    assert taken == list("1234567")
    assert set(problems()) == {"the answer's status is 413"}


async def test_a_server_that_is_not_there_yet(rows: Rows, row: EventListenerSettings, server: WebhookServer) -> None:
    away = EventListenerSettings(2, "webhook", f"http://127.0.0.1:{free_port()}/", "*")
    rows.set("chat", listeners=(row, away))
    tell(away, "1")
    await recorded("cannot be reached")
    # Others are not delayed by it.
    tell(row, "2")
    await server.event()
    # And it gets everything once its address is right.
    rows.set("chat", listeners=(row, EventListenerSettings(2, "webhook", f"{server.url}/mended", "*")))
    await server.event(2)
    assert [(seen.path, data_of(seen)) for seen in server.events] == [("/in?code=secret", ["2"]), ("/mended", ["1"])]


async def test_a_server_that_does_not_answer(
    row: EventListenerSettings, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "ANSWER_SECS", 0.05)
    server.answers.extendleft([never] * 4)
    tell(row, "1")
    await recorded("1 event was dropped: no answer within 0.05 seconds")
    tell(row, "2")
    await listeners.close(PATIENCE)
    assert data_of(server.events[-1]) == ["2"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_private_addresses(
    rows: Rows, row: EventListenerSettings, server: WebhookServer, client: Webhooks, webpubsub: Any, host: str
) -> None:
    webpubsub(HANDLER_PRIVATE_ADDRESSES=False)
    private = EventListenerSettings(2, "webhook", f"http://{host}:{server.port}/", "*")
    rows.set("chat", listeners=(private,))
    tell(private, "1")
    await recorded("1 event was dropped: events go to public addresses only")
    assert server.seen == []
