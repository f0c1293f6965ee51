"""The official middleware for Express, as it is, beside a running service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.running import PATIENCE, Service
from tests.service.applications import SYSTEM, Staff, recorded
from tests.service.client import (
    JSON,
    JSON_RELIABLE,
    PROTOBUF,
    PROTOBUF_RELIABLE,
    SUBPROTOCOLS,
    Client,
    Sdk,
    Target,
    answered,
    b64,
    group_message,
    ok,
    opened,
    refused,
    reliable,
    server_message,
)
from tests.tutorials.programs import Program, node

Run = Callable[..., Program]


class Middleware:
    """The running application: what it was told, by connection."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._facts: list[dict[str, Any]] = []

    def of(self, connection_id: str) -> list[dict[str, Any]]:
        """What it was told of a connection so far, in the order in which it was told."""
        return [fact for fact in self._facts if fact["connectionId"] == connection_id]

    async def listening(self) -> dict[str, Any]:
        fact: dict[str, Any] = await asyncio.to_thread(self._program.object)
        return fact

    async def told(self, connection_id: str, *events: str) -> list[dict[str, Any]]:
        """Wait until it was told these things of a connection; no others may be among them."""
        while len(self.of(connection_id)) < len(events):
            self._facts.append(await asyncio.to_thread(self._program.object))
        facts = self.of(connection_id)
        assert sorted(fact["told"] for fact in facts) == sorted(events)
        return facts

    async def connect_of(self, name: str) -> dict[str, Any]:
        """What it was told when the client came that has this name in its query."""
        while True:
            for fact in self._facts:
                if fact["told"] == "connect" and fact["queries"].get("name") == [name]:
                    return fact
            self._facts.append(await asyncio.to_thread(self._program.object))


@asynccontextmanager
async def application(run: Run, service: Service, hub: str, *allowed: str) -> AsyncIterator[Middleware]:
    """The application, which the hub has for its event handler, and in force."""
    program = run(node("express.js", hub, *allowed))
    middleware = Middleware(program)
    listening = await middleware.listening()
    assert listening["path"] == f"/api/webpubsub/hubs/{hub}/"
    url_template = f"http://localhost:{listening['listening']}/api/webpubsub/hubs/{{hub}}/"
    await Staff(service).set(hub, {"urlTemplate": url_template, "userEventPattern": "*", "systemEvents": SYSTEM})
    target = Target(service.connection_string)
    async with asyncio.timeout(PATIENCE):
        # Before, there is no handler, and everybody is let in.
        while await answered(target.url(hub, extra={"status": "401"})) == 101:
            await asyncio.sleep(0.05)
    yield middleware
    program.stop()


@pytest.fixture
def target(service: Service) -> Target:
    return Target(service.connection_string)


@pytest.fixture
async def middleware(run: Run, service: Service, hub: str) -> AsyncIterator[Middleware]:
    async with application(run, service, hub) as running:
        yield running


async def ask(client: Client, event: str, data: Any, data_type: str, ack_id: int) -> Any:
    """Send an event; gives the answer without a sequence id, and sees the ack."""
    await client.say(type="event", event=event, data=data, dataType=data_type, ackId=ack_id)
    message = await client.hear()
    assert await client.hear() == ok(ack_id)
    return {name: value for name, value in message.items() if name != "sequenceId"}


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
async def test_a_conversation(middleware: Middleware, target: Target, hub: str, subprotocol: str) -> None:
    answer = {"userId": "ben", "roles": ["webpubsub.joinLeaveGroup.mine"], "groups": ["his"]}
    wish = {"name": "n", "answer": json.dumps(answer), "state": "at connect", "x": "1"}
    url = target.url(hub, user="ann", roles=["webpubsub.joinLeaveGroup.hers"], groups=["hers"], extra=wish)
    async with opened(url, subprotocol, connected=False) as client:
        connected = await client.hear()
        connection_id = connected["connectionId"]
        assert connected["userId"] == "ben"
        # Roles and groups are the ones of the answer.
        await client.join("mine")
        assert (await client.ask(type="joinGroup", group="hers", ackId=1))["error"]["name"] == "Forbidden"
        sdk = Sdk(target, hub)
        await sdk.send_to_group("hers", "not meant", content_type="text/plain")
        await sdk.send_to_group("his", "meant", content_type="text/plain")
        message = await client.hear()
        message.pop("sequenceId", None)
        assert message == group_message("his", "meant", "text")
        # Text, JSON and bytes, there and back.
        for ack_id, (data_type, data) in enumerate(
            [("text", "Grüße 🎈"), ("json", {"a": [1, None, "ü"]}), ("json", "x"), ("binary", b64(b"\0\xff"))], 11
        ):
            assert await ask(client, "echo", data, data_type, ack_id) == server_message(data, data_type)
        # State, set at connect and by events; without data there is only the ack.
        for ack_id in (21, 22):
            assert await client.ask(type="event", event="count", data=1, ackId=ack_id) == ok(ack_id)
        states = {"said": "at connect", "count": 2}
        assert await ask(client, "states", 1, "json", 23) == server_message(states)
        # What it will not do, and what it does not understand.
        for ack_id, (event, data_type) in enumerate((("fail", "text"), ("echo", "protobuf")), 31):
            data = "x" if data_type == "text" else b64(b"\x0a\x01x")
            await client.say(type="event", event=event, data=data, dataType=data_type, ackId=ack_id)
            refusal = await client.hear()
            assert (refusal["ackId"], refusal["error"]["name"]) == (ack_id, "InternalServerError")
        await client.close(1000, "so long")

    facts = await middleware.told(connection_id, "connect", "connected", *["user event"] * 8, "disconnected")
    connect, ended = facts[0], facts[-1]
    assert connect["told"] == "connect"
    assert connect["claims"]["sub"] == ["ann"]
    assert connect["claims"]["role"] == ["webpubsub.joinLeaveGroup.hers"]
    assert connect["queries"] == {name: [value] for name, value in wish.items()}
    assert connect["subprotocols"] == [subprotocol]
    assert connect["clientCertificates"] == []
    assert {name.lower() for name in connect["headers"]} >= {"host", "upgrade"}
    assert (connect["userId"], connect["states"]) == ("ann", {})
    for fact in facts[1:]:
        assert (fact["userId"], fact["states"]["said"]) == ("ben", "at connect")
    for fact in facts:
        assert (fact["hub"], fact["origin"], fact["clientProtocol"]) == (hub, "localhost", "default")
    assert ended["told"] == "disconnected"
    assert (ended["reason"], ended["states"]) == ("so long", states)
    texts = [fact for fact in facts if fact["eventName"] == "echo"]
    assert [fact["data"] for fact in texts] == ["Grüße 🎈", {"a": [1, None, "ü"]}, "x", {"bytes": "00ff"}]
    assert [fact["dataType"] for fact in texts] == ["text", "json", "json", "binary"]


async def test_a_simple_client(middleware: Middleware, target: Target, hub: str) -> None:
    async with opened(target.url(hub, user="ann", extra={"name": "simple"})) as client:
        await client.say_raw("Grüße")
        assert await client.hear_raw() == "Grüße"
        await client.say_raw(b"\0\xff")
        assert await client.hear_raw() == b"\0\xff"
        await client.close(1000, "so long")
    connect = await middleware.connect_of("simple")
    facts = await middleware.told(
        connect["connectionId"], "connect", "connected", "user event", "user event", "disconnected"
    )
    events = [fact for fact in facts if fact["told"] == "user event"]
    assert [(fact["eventName"], fact["dataType"]) for fact in events] == [("message", "text"), ("message", "binary")]
    assert facts[-1]["reason"] == "so long"


async def test_the_middleware_chooses_the_subprotocol(middleware: Middleware, target: Target, hub: str) -> None:
    chosen = {"answer": json.dumps({"subprotocol": PROTOBUF})}
    async with opened(target.url(hub, extra=chosen), JSON, PROTOBUF) as client:
        assert client.subprotocol == PROTOBUF


@pytest.mark.parametrize("status", [400, 401])
async def test_somebody_is_turned_away(middleware: Middleware, target: Target, hub: str, status: int) -> None:
    refusing = {"name": "unwanted", "status": str(status)}
    assert await refused(target.url(hub, extra=refusing), JSON) == status
    async with opened(target.url(hub, extra={"name": "wanted"}), JSON):
        pass
    wanted = await middleware.connect_of("wanted")
    await middleware.told(wanted["connectionId"], "connect", "connected", "disconnected")
    # By now it would have been told of the other, too.
    unwanted = await middleware.connect_of("unwanted")
    await middleware.told(unwanted["connectionId"], "connect")


@pytest.mark.parametrize("subprotocol", [JSON_RELIABLE, PROTOBUF_RELIABLE])
async def test_a_client_that_comes_back_has_neither_left_nor_come(
    middleware: Middleware, target: Target, hub: str, subprotocol: str
) -> None:
    async with reliable(target.url(hub, user="ann", extra={"state": "kept"}), subprotocol) as client:
        for ack_id in (1, 2, 3):
            assert await client.ask(type="event", event="count", data=1, ackId=ack_id) == ok(ack_id)
            await client.reset()
            await client.recover()
        assert await client.ask(type="event", event="states", data=1) == server_message({"said": "kept", "count": 3})
        await client.close(1000)
    facts = await middleware.told(client.id, "connect", "connected", *["user event"] * 4, "disconnected")
    assert facts[-1]["told"] == "disconnected"
    assert facts[-1]["states"] == {"said": "kept", "count": 3}


async def test_endpoints_that_are_allowed(run: Run, service: Service, target: Target, hub: str) -> None:
    # The middleware names the host with its port, beside others.
    async with application(run, service, hub, "https://other.example.com", service.endpoint) as middleware:
        async with opened(target.url(hub, extra={"name": "n"}), JSON) as client:
            assert await ask(client, "echo", "x", "text", 1) == server_message("x", "text")
        connect = await middleware.connect_of("n")
        await middleware.told(connect["connectionId"], "connect", "connected", "user event", "disconnected")


async def test_endpoints_that_are_not_allowed(run: Run, service: Service, target: Target, hub: str) -> None:
    async with application(run, service, hub, "https://other.example.com", "https://localhost.example.com"):
        # `application` waited until nobody was let in, and this is why.
        assert await refused(target.url(hub), JSON) == 500
    calls = await asyncio.to_thread(recorded, service, hub)
    problem = "abuse protection: the header WebHook-Allowed-Origin is neither * nor localhost"
    assert {call["problem"] for call in calls} == {problem}
