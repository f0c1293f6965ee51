"""The checklist of event handlers, from outside: a real service between real clients and a real web server.

Tests are named after the lines of the checklist. What an application's server sees is recorded by one
that runs beside the test; what a hub's owner sets goes through the management API. Each test has a hub
of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from tests.running import Service
from tests.service.applications import (
    PROMPT,
    SYSTEM,
    Application,
    ConcurrencyLimit,
    Staff,
    came,
    echo,
    failed,
    name_of,
    number_of,
    raise_event,
    running_application,
    serving,
)
from tests.service.client import (
    JSON,
    JSON_RELIABLE,
    PROTOBUF,
    PROTOBUF_RELIABLE,
    SUBPROTOCOLS,
    Sdk,
    Target,
    b64,
    group_message,
    ok,
    opened,
    refused,
    reliable,
    server_message,
)
from tests.upstream.server import Say, Seen

pytestmark = pytest.mark.needs_handlers

Unique = Callable[[str], str]

# Long enough to come back in, short enough to wait for.
RECOVERY_SECS = 3

# A google.protobuf.Any: its type's URL is "x".
ANY = b"\x0a\x01x"

# What HTTP itself says in a request.
TRANSPORT = {"host", "accept", "accept-encoding", "user-agent", "content-length", "connection"}


@pytest.fixture(scope="module", params=["uvicorn", "daphne"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp(f"event-handlers-{request.param}")
    with serving(folder, request.param, **PROMPT, RECOVERY_SECS=str(RECOVERY_SECS)) as running:
        yield running


@pytest.fixture(scope="module")
def staff(service: Service) -> Staff:
    return Staff(service)


@pytest.fixture
async def keys(staff: Staff) -> list[str]:
    shown = await staff.call("POST", "/listKeys", {})
    return [shown["primaryKey"], shown["secondaryKey"]]


@pytest.fixture(scope="module")
def target(service: Service) -> Target:
    return Target(service.connection_string)


@pytest.fixture
async def other() -> AsyncIterator[Application]:
    """Another application."""
    async with running_application() as application:
        yield application


@pytest.fixture
async def everything(staff: Staff, hub: str, app: Application) -> Application:
    """The application, which takes every event of the hub."""
    await staff.set(hub, app.everything())
    return app


# Routing


async def test_line_01_the_first_handler_that_matches_wins(
    staff: Staff, target: Target, hub: str, app: Application, other: Application
) -> None:
    app.on["join"] = Say(200, b"the first", {"Content-Type": "text/plain"})
    other.on["leave"] = Say(200, b"the second", {"Content-Type": "text/plain"})
    await staff.set(hub, app.handler("connect", events="join"), other.everything())
    async with came(target.url(hub)) as (client, connected):
        assert await raise_event(client, "join") == [server_message("the first", "text"), ok(1)]
        assert await raise_event(client, "leave", ack_id=2) == [server_message("the second", "text"), ok(2)]
    connection_id = connected["connectionId"]
    await other.told(connection_id, "connected", "leave", "disconnected")
    await app.told(connection_id, "connect", "join")


@pytest.mark.parametrize(
    ("pattern", "taken", "not_taken"),
    [
        ("*", ["message", "room.message", "ROOM", "a_b-c"], []),
        ("join", ["join", "JOIN"], ["joined", "join.x", "message"]),
        ("Join , leave", ["join", "leave", "LEAVE"], ["message", "join.leave"]),
        ("room.*", ["room.message", "Room.x"], ["room", "room.message.more"]),
        ("room.**", ["room.message", "room.message.more"], ["room"]),
        ("room.?", ["room.a"], ["room..", "room.ab"]),
        ("", [], ["message", "connect"]),
    ],
)
async def test_line_02_user_event_patterns(
    staff: Staff, target: Target, hub: str, app: Application, pattern: str, taken: list[str], not_taken: list[str]
) -> None:
    await staff.set(hub, app.handler(events=pattern))
    async with came(target.url(hub)) as (client, connected):
        for event in taken:
            await client.say(type="event", event=event, data=1)
        for event in not_taken:
            assert failed(await raise_event(client, event))
        await client.barrier()
    events = await app.told(connected["connectionId"], *taken)
    assert [seen.headers["ce-type"] for seen in events] == [f"azure.webpubsub.user.{event}" for event in taken]


@pytest.mark.parametrize("wanted", [SYSTEM, *((event,) for event in SYSTEM), ("connect", "disconnected"), ()])
async def test_line_03_system_events_that_are_not_listed_are_not_told(
    staff: Staff, target: Target, hub: str, app: Application, other: Application, wanted: tuple[str, ...]
) -> None:
    # What the one does not want falls to the other: when that has it, the one would have had it.
    await staff.set(hub, app.handler(*wanted), other.handler(*SYSTEM))
    async with came(target.url(hub)) as (client, connected):
        await client.barrier()
    await other.told(connected["connectionId"], *(event for event in SYSTEM if event not in wanted))
    await app.told(connected["connectionId"], *wanted)


async def test_line_04_without_a_connect_handler_the_token_decides(
    staff: Staff, target: Target, hub: str, app: Application
) -> None:
    await staff.set(hub, app.handler("disconnected", events="*"))
    async with came(target.url(hub, user="ann", roles=[], groups=["g"])) as (client, connected):
        assert connected["userId"] == "ann"
        await Sdk(target, hub).send_to_group("g", "hello", content_type="text/plain")
        assert await client.hear() == group_message("g", "hello", "text")
        assert app.seen == []
    assert await refused(target.address(hub), JSON) == 401


async def test_line_05_the_url_template_gets_hub_and_event_percent_encoded(
    staff: Staff, target: Target, hub: str, app: Application
) -> None:
    hub = f"{hub},[1]"
    encoded = quote(hub, safe="")
    assert encoded.endswith("%2C%5B1%5D")
    await staff.set(encoded, app.everything(path="/api/{HUB}/{Event}/x?e={event}&h={hub}&code=a%2Fb"))
    url = f"ws://{target.host}/client/hubs/{encoded}?access_token={target.token(hub)}"
    async with came(url) as (client, connected):
        assert await raise_event(client, "room.message-1") == ok(1)
    events = await app.told(connected["connectionId"], *SYSTEM, "room.message-1")
    paths = [app.seen[0].path, *(seen.path for seen in events)]
    names = ["validate", *(name_of(seen) for seen in events)]
    assert paths == [f"/api/{encoded}/{name}/x?e={name}&h={encoded}&code=a%2Fb" for name in names]
    assert events[0].headers["ce-source"] == f"/hubs/{hub}/client/{connected['connectionId']}"


async def test_hub_names_compare_without_regard_to_case(target: Target, hub: str, everything: Application) -> None:
    async with came(target.url(hub.upper())) as (_, connected):
        [connect, *_] = everything.of(connected["connectionId"])
        assert connect.headers["ce-hub"] == hub
        assert connect.path == "/connect"


# Abuse protection


async def test_line_06_the_owner_is_asked_before_the_first_event(
    staff: Staff, target: Target, hub: str, app: Application
) -> None:
    await staff.set(hub, app.everything(auth={"type": "Bearer", "token": "s3cret"}))
    async with came(target.url(hub)):
        question, connect = app.seen[:2]
        assert (question.method, question.path, question.body) == ("OPTIONS", "/validate", b"")
        said = {name.lower(): value for name, value in question.headers.items() if name.lower() not in TRANSPORT}
        assert said == {"webhook-request-origin": "localhost", "ce-awpsversion": "1.0"}
        assert (connect.method, name_of(connect)) == ("POST", "connect")
        assert connect.headers["Authorization"] == "Bearer s3cret"


def _permission(*values: str, status: int = 200) -> Say:
    return Say(status, headers=[("WebHook-Allowed-Origin", value) for value in values])


@pytest.mark.parametrize(
    "permission",
    [
        _permission("*"),
        _permission("localhost"),
        _permission("LocalHost"),
        _permission("localhost", status=204),
    ],
    ids=["everybody", "host", "letter case", "204"],
)
async def test_line_07_an_owner_that_allows_it_gets_events(
    target: Target, hub: str, everything: Application, permission: Say
) -> None:
    everything.permissions[0] = permission
    async with came(target.url(hub)) as (client, connected):
        assert await raise_event(client, "message") == ok(1)
    await everything.told(connected["connectionId"], *SYSTEM, "message")


async def test_line_07_express_names_the_host_with_its_port(target: Target, hub: str, everything: Application) -> None:
    everything.permissions[0] = _permission(target.host)
    async with came(target.url(hub)):
        assert everything.questions == ["OPTIONS"]


@pytest.mark.parametrize(
    "permission",
    [
        _permission(),
        _permission("example.com"),
        _permission("*", status=403),
        _permission("*", status=301),
        _permission("localhost:1"),
    ],
    ids=["no header", "another host", "403", "redirect", "another port"],
)
async def test_line_07_an_owner_that_does_not_gets_none(
    staff: Staff, target: Target, hub: str, app: Application, permission: Say
) -> None:
    app.permissions[0] = permission
    await staff.set(hub, app.everything())
    assert await refused(target.url(hub), JSON) == 500
    await staff.set(hub, app.handler(events="*"))
    async with came(target.url(hub)) as (client, _), opened(target.url(hub)) as simple:
        assert failed(await raise_event(client, "message"))
        await client.barrier()
        await simple.say_raw("x")
        assert (await simple.closed())[0] == 1011
    assert app.events == []


async def test_line_08_404_is_asked_again_with_get(target: Target, hub: str, everything: Application) -> None:
    everything.permissions.appendleft(Say(404))
    async with came(target.url(hub)):
        options, get, connect = everything.seen[:3]
        assert (options.method, get.method, connect.method) == ("OPTIONS", "GET", "POST")
        assert get.path == options.path
        assert get.headers["WebHook-Request-Origin"] == options.headers["WebHook-Request-Origin"] == "localhost"
        assert get.headers["ce-awpsversion"] == "1.0"
        assert get.body == b""


async def test_line_09_the_permission_is_not_asked_for_again_and_again(
    staff: Staff, target: Target, hub: str, app: Application
) -> None:
    await staff.set(hub, app.everything(path="/events"))

    async def visit() -> None:
        async with came(target.url(hub)) as (client, connected):
            for number in range(5):
                assert await raise_event(client, "message", ack_id=number) == ok(number)
        await app.told(connected["connectionId"], *SYSTEM, *["message"] * 5)

    # Those who come together wait for one answer.
    await asyncio.gather(*(visit() for _ in range(10)))
    await visit()
    assert app.questions == ["OPTIONS"]


async def test_line_10_several_hosts_are_several_headers(target: Target, hub: str, everything: Application) -> None:
    everything.permissions[0] = _permission("example.com", "localhost")
    async with came(target.url(hub)) as (client, _):
        assert await raise_event(client, "message") == ok(1)


async def test_line_10_a_list_in_one_header_names_nobody(target: Target, hub: str, everything: Application) -> None:
    everything.permissions[0] = _permission("example.com, localhost")
    assert await refused(target.url(hub), JSON) == 500
    assert everything.events == []


# Requests


async def test_line_11_every_header(target: Target, hub: str, everything: Application, keys: list[str]) -> None:
    begun = datetime.now(UTC)
    async with came(target.url(hub, user="ann")) as (client, connected):
        assert await raise_event(client, "message", "hello") == ok(1)
    connection_id = connected["connectionId"]
    events = await everything.told(connection_id, *SYSTEM, "message")
    ended = datetime.now(UTC)
    kinds = {"connect": "sys", "connected": "sys", "message": "user", "disconnected": "sys"}
    assert len({seen.headers["x-ms-client-request-id"] for seen in events}) == 4
    for number, seen in enumerate(events):
        headers = {name.lower(): value for name, value in seen.headers.items()}
        name = name_of(seen)
        assert uuid.UUID(headers.pop("x-ms-client-request-id"))
        time = headers.pop("ce-time")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", time)
        assert begun.replace(microsecond=0) <= datetime.fromisoformat(time) <= ended
        subprotocol = {} if name == "connect" else {"ce-subprotocol": JSON}
        assert {name: value for name, value in headers.items() if name not in TRANSPORT} == {
            "content-type": "text/plain; charset=utf-8" if name == "message" else "application/json",
            "webhook-request-origin": "localhost",
            "ce-specversion": "1.0",
            "ce-awpsversion": "1.0",
            "ce-type": f"azure.webpubsub.{kinds[name]}.{name}",
            "ce-source": f"/hubs/{hub}/client/{connection_id}",
            "ce-id": str(number),
            "ce-signature": ",".join(_signed(key, connection_id) for key in keys),
            "ce-connectionid": connection_id,
            "ce-hub": hub,
            "ce-eventname": name,
            "ce-userid": "ann",
            **subprotocol,
        }
        assert seen.path == f"/{name}"


def _signed(key: str, connection_id: str) -> str:
    return "sha256=" + hmac.new(key.encode(), connection_id.encode(), hashlib.sha256).hexdigest()


async def test_line_11_user_ids_are_utf_8_and_left_out_of_nobody(
    target: Target, hub: str, everything: Application
) -> None:
    async with came(target.url(hub, user="Zoë 🎈")) as (_, named), came(target.url(hub)) as (_, nobody):
        [connect] = [seen for seen in everything.of(named["connectionId"]) if name_of(seen) == "connect"]
        assert connect.headers["ce-userId"].encode("utf-8", "surrogateescape").decode() == "Zoë 🎈"
        assert all("ce-userId" not in seen.headers for seen in everything.of(nobody["connectionId"]))


async def test_line_11_bearer_tokens_go_with_every_event(
    staff: Staff, target: Target, hub: str, app: Application
) -> None:
    await staff.set(hub, app.everything(auth={"type": "Bearer", "token": "s3cret"}))
    async with came(target.url(hub)) as (client, connected):
        assert await raise_event(client, "message") == ok(1)
    events = await app.told(connected["connectionId"], *SYSTEM, "message")
    assert [seen.headers["Authorization"] for seen in events] == ["Bearer s3cret"] * 4


async def test_line_12_the_signature_verifies_with_both_keys(
    staff: Staff, service: Service, target: Target, hub: str, everything: Application, keys: list[str]
) -> None:
    async with came(target.url(hub)) as (_, connected):
        [connect, *_] = everything.of(connected["connectionId"])
        signatures = connect.headers["ce-signature"].split(",")
        assert signatures == [_signed(key, connected["connectionId"]) for key in keys]


async def test_line_13_what_connect_says(target: Target, hub: str, everything: Application) -> None:
    token = target.token(hub, sub="ann", role=["a", "b"], name="Änne", level=3, admin=True, nested={"a": [1]})
    query = "&x=1&x=2&y=&Z=%C3%BC&access_token="
    url = f"{target.address(hub)}?k=v%20w{query}{token}"
    headers = {"X-Own": "yes", "Cookie": "session=1", "Authorization": "Bearer nobody's"}
    async with opened(url, "other.protocol", JSON, headers=headers, connected=False) as client:
        connected = await client.hear()
        [connect, *_] = everything.of(connected["connectionId"])
    body = json.loads(connect.body)
    assert set(body) == {"claims", "query", "headers", "subprotocols", "clientCertificates"}
    claims = body["claims"]
    assert claims.pop("aud") == [f"{target.endpoint}/client/hubs/{hub}"]
    assert claims.pop("exp")[0].isdigit()
    assert claims == {
        "sub": ["ann"],
        "role": ["a", "b"],
        "name": ["Änne"],
        "level": ["3"],
        "admin": ["true"],
        "nested": ['{"a":[1]}'],
    }
    assert body["query"] == {"k": ["v w"], "x": ["1", "2"], "y": [""], "Z": ["ü"]}
    shown = {name.lower(): value for name, value in body["headers"].items()}
    assert shown["x-own"] == ["yes"]
    assert shown["cookie"] == ["session=1"]
    assert shown["host"] == [target.host]
    assert "authorization" not in shown
    assert token not in connect.body.decode()
    assert body["subprotocols"] == ["other.protocol", JSON]
    assert body["clientCertificates"] == []


async def test_line_13_empty_things_are_there_too(target: Target, staff: Staff, hub: str, app: Application) -> None:
    await staff.set(hub, app.everything(), anonymousConnectPolicy="allow")
    async with opened(target.address(hub)):
        body = json.loads(app.events[0].body)
    assert {name: body[name] for name in body if name != "headers"} == {
        "claims": {},
        "query": {},
        "subprotocols": [],
        "clientCertificates": [],
    }


@pytest.mark.parametrize("subprotocol", [*SUBPROTOCOLS, None])
async def test_line_14_the_subprotocol_is_told_once_it_is_agreed(
    target: Target, hub: str, everything: Application, subprotocol: str | None
) -> None:
    offered = [subprotocol] if subprotocol else []
    async with opened(target.url(hub), *offered) as client:
        await (client.say(type="event", event="message", data=1) if subprotocol else client.say_raw("1"))
        await everything.event(3)
        await client.close(1000)
    connection_id = everything.events[0].headers["ce-connectionId"]
    connect, *others = await everything.told(connection_id, *SYSTEM, "message")
    assert "ce-subprotocol" not in connect.headers
    assert [seen.headers.get("ce-subprotocol") for seen in others] == [subprotocol] * 3


async def test_line_15_events_of_a_connection_are_counted(target: Target, hub: str, everything: Application) -> None:
    everything.on["bad"] = Say(400)
    async with came(target.url(hub)) as (one, first), came(target.url(hub)) as (two, second):
        for ack_id, event in enumerate(("message", "bad", "message"), 1):
            await raise_event(one, event, ack_id=ack_id)
        await raise_event(two, "message")
    events = await everything.told(first["connectionId"], *SYSTEM, "message", "bad", "message")
    assert [number_of(seen) for seen in events] == list(range(6))
    assert name_of(events[0]) == "connect"
    assert name_of(events[5]) == "disconnected"
    events = await everything.told(second["connectionId"], *SYSTEM, "message")
    assert [number_of(seen) for seen in events] == list(range(4))


async def test_line_15_a_connection_whose_connect_nobody_took_counts_on_from_one(
    staff: Staff, target: Target, hub: str, app: Application
) -> None:
    await staff.set(hub, app.handler("connected"))
    async with came(target.url(hub)) as (_, connected):
        [event] = await app.told(connected["connectionId"], "connected")
        assert number_of(event) == 1


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
async def test_line_16_what_clients_send_arrives_as_it_was_sent(
    target: Target, hub: str, everything: Application, subprotocol: str
) -> None:
    sent = [
        ("text", "Grüße 🎈", "text/plain; charset=utf-8", "Grüße 🎈".encode()),
        ("json", {"a": [1, "ü"]}, "application/json", None),
        ("json", "only a text", "application/json", b'"only a text"'),
        ("binary", b64(b"\0\xff"), "application/octet-stream", b"\0\xff"),
        ("protobuf", b64(ANY), "application/x-protobuf", ANY),
        ("text", "", "text/plain; charset=utf-8", b""),
    ]
    async with came(target.url(hub), subprotocol) as (client, _):
        for ack_id, (data_type, data, content_type, body) in enumerate(sent, 1):
            assert await raise_event(client, "typed", data, ack_id, dataType=data_type) == ok(ack_id)
            seen = [seen for seen in everything.events if name_of(seen) == "typed"][-1]
            assert seen.headers["Content-Type"] == content_type
            assert (seen.body == body) if body is not None else json.loads(seen.body) == data


async def test_line_16_simple_clients_send_the_event_message(target: Target, hub: str, everything: Application) -> None:
    everything.on["message"] = echo
    async with opened(target.url(hub)) as client:
        for sent, content_type in (("Grüße", "text/plain; charset=utf-8"), (b"\0\xff", "application/octet-stream")):
            await client.say_raw(sent)
            assert await client.hear_raw() == sent
            seen = [seen for seen in everything.events if name_of(seen) == "message"][-1]
            assert seen.headers["ce-type"] == "azure.webpubsub.user.message"
            assert seen.headers["Content-Type"] == content_type


@pytest.mark.parametrize("subprotocol", [JSON, PROTOBUF])
async def test_line_17_metadata_go_both_ways(
    target: Target, hub: str, everything: Application, subprotocol: str
) -> None:
    back = [("X-WebPubSub-Metadata-Colour", "green"), ("x-webpubsub-metadata-n", "1"), ("x-webpubsub-metadata-n", "2")]
    everything.on["labelled"] = Say(200, b"hello", [("Content-Type", "text/plain"), *back])
    everything.on["bare"] = Say(204, headers=back)
    async with came(target.url(hub), subprotocol) as (client, _):
        given = {"Trace-Id": "abc", "lang": "en"}
        answer = server_message("hello", "text") | {"metadata": {"colour": "green", "n": "2"}}
        assert await raise_event(client, "labelled", metadata=given) == [answer, ok(1)]
        assert await raise_event(client, "bare", ack_id=2) == [answer | {"data": ""}, ok(2)]
    seen = next(seen for seen in everything.events if name_of(seen) == "labelled")
    metadata = {name: value for name, value in seen.headers.items() if name.lower().startswith("x-webpubsub")}
    assert metadata == {"x-webpubsub-metadata-trace-id": "abc", "x-webpubsub-metadata-lang": "en"}


# Responses to connect


@pytest.mark.parametrize(
    "answer",
    [Say(204), Say(200), Say(200, b"null"), Say(200, b"{}"), Say(201, b'{"unknown": 1, "userId": null, "groups": []}')],
    ids=["204", "empty 200", "null", "empty object", "nulls"],
)
async def test_line_18_the_values_of_the_token_are_kept(
    target: Target, hub: str, everything: Application, answer: Say
) -> None:
    everything.on["connect"] = answer
    url = target.url(hub, user="ann", roles=["webpubsub.joinLeaveGroup.mine"], groups=["g"])
    async with came(url) as (client, connected):
        assert connected["userId"] == "ann"
        await client.join("mine")
        assert (await client.ask(type="joinGroup", group="other", ackId=1))["error"]["name"] == "Forbidden"
        await Sdk(target, hub).send_to_group("g", "hello", content_type="text/plain")
        assert await client.hear() == group_message("g", "hello", "text")


async def test_line_19_the_answer_replaces_the_values_of_the_token(
    target: Target, hub: str, everything: Application
) -> None:
    everything.on["connect"] = Say(
        200, json.dumps({"userId": "ben", "roles": ["webpubsub.joinLeaveGroup.b"], "groups": ["of ben"]}).encode()
    )
    async with came(target.url(hub, user="ann", roles=["webpubsub.joinLeaveGroup.a"], groups=["of ann"])) as (
        client,
        connected,
    ):
        assert connected["userId"] == "ben"
        assert (await client.ask(type="joinGroup", group="a", ackId=1))["error"]["name"] == "Forbidden"
        await client.join("b")
        sdk = Sdk(target, hub)
        await sdk.send_to_group("of ann", "not meant", content_type="text/plain")
        await sdk.send_to_group("of ben", "meant", content_type="text/plain")
        assert await client.hear() == group_message("of ben", "meant", "text")
    events = await everything.told(connected["connectionId"], *SYSTEM)
    assert [seen.headers["ce-userId"] for seen in events] == ["ann", "ben", "ben"]


async def test_line_19_roles_and_user_can_be_taken_away(target: Target, hub: str, everything: Application) -> None:
    everything.on["connect"] = Say(200, b'{"userId": "", "roles": []}')
    async with came(target.url(hub, user="ann")) as (client, connected):
        assert connected["userId"] is None
        assert (await client.ask(type="joinGroup", group="a", ackId=1))["error"]["name"] == "Forbidden"
    events = await everything.told(connected["connectionId"], *SYSTEM)
    assert ["ce-userId" in seen.headers for seen in events] == [True, False, False]


async def test_line_19_the_answer_chooses_the_subprotocol(target: Target, hub: str, everything: Application) -> None:
    everything.on["connect"] = Say(200, b'{"subprotocol": "%s"}' % PROTOBUF.upper().encode())
    async with opened(target.url(hub), JSON, PROTOBUF) as client:
        assert client.subprotocol == PROTOBUF
    everything.on["connect"] = Say(200, b'{"subprotocol": "own.protocol"}')
    async with opened(target.url(hub), JSON, "own.protocol") as client:
        assert client.subprotocol == "own.protocol"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 418, 429, 451])
async def test_line_20_a_refusal_is_passed_on(target: Target, hub: str, everything: Application, status: int) -> None:
    everything.on["connect"] = Say(status, b"not today", {"Content-Type": "text/plain"})
    assert await refused(target.url(hub), JSON) == status
    everything.on["connect"] = Say(204)
    async with came(target.url(hub)) as (_, connected):
        pass
    await everything.told(connected["connectionId"], *SYSTEM)
    # Nothing more was told of the one who was refused.
    assert sorted(map(name_of, everything.events)) == sorted([*SYSTEM, "connect"])


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'"text"',
        b"\xff",
        b'{"userId": 1}',
        b'{"userId": "a\\u0000b"}',
        b'{"groups": "g"}',
        b'{"groups": [""]}',
        b'{"groups": [" "]}',
        b'{"groups": ["%s"]}' % (b"x" * 1025),
        b'{"roles": [null]}',
        b'{"subprotocol": "not.offered"}',
    ],
)
async def test_line_21_an_answer_that_means_nothing_is_500(
    target: Target, hub: str, everything: Application, body: bytes
) -> None:
    everything.on["connect"] = Say(200, body)
    assert await refused(target.url(hub), JSON) == 500


# Responses to user events

REPLIES = [
    ("text/plain", "Grüße".encode(), "text", "Grüße"),
    ("Text/Plain; charset=UTF-8", b"x", "text", "x"),
    ("application/json", b'{"a": [1]}', "json", {"a": [1]}),
    ("application/json; charset=utf-8", b'"x"', "json", "x"),
    ("application/octet-stream", b"\0\xff", "binary", b64(b"\0\xff")),
    ("application/x-protobuf", ANY, "protobuf", b64(ANY)),
]


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
async def test_line_22_the_answer_comes_before_the_ack(
    target: Target, hub: str, everything: Application, subprotocol: str
) -> None:
    async with came(target.url(hub), subprotocol) as (client, _):
        for ack_id, (content_type, body, data_type, data) in enumerate(REPLIES, 1):
            everything.on["ask"] = Say(200, body, {"Content-Type": content_type})
            await client.say(type="event", event="ask", data=1, ackId=ack_id)
            message = await client.hear()
            message.pop("sequenceId", None)
            assert message == server_message(data, data_type)
            assert await client.hear() == ok(ack_id)
        # Without an ackId there is the answer alone.
        await client.say(type="event", event="ask", data=1)
        assert (await client.hear())["dataType"] == "protobuf"
        await client.barrier()


async def test_line_22_simple_clients_get_the_answer_bare(target: Target, hub: str, everything: Application) -> None:
    async with opened(target.url(hub)) as client:
        for content_type, body, data_type, _ in REPLIES:
            everything.on["message"] = Say(200, body, {"Content-Type": content_type})
            await client.say_raw("x")
            assert await client.hear_raw() == (body.decode() if data_type in ("text", "json") else body)


@pytest.mark.parametrize(
    "answer",
    [Say(204), Say(200), Say(200, b"", {"Content-Type": "text/plain"}), Say(202)],
    ids=["204", "200 as express says it", "empty text", "202"],
)
async def test_line_23_an_empty_answer_is_only_an_ack(
    target: Target, hub: str, everything: Application, answer: Say
) -> None:
    everything.on["message"] = everything.on["ask"] = answer
    async with came(target.url(hub)) as (client, _), opened(target.url(hub)) as simple:
        assert await raise_event(client, "ask") == ok(1)
        await client.say(type="event", event="ask", data=1)
        await client.barrier()
        # The next that a simple client hears is something else.
        everything.on["message"] = first = ConcurrencyLimit(answer)
        await simple.say_raw("x")
        await first.reached()
        everything.on["message"] = echo
        first.open()
        await simple.say_raw("y")
        assert await simple.hear_raw() == "y"


@pytest.mark.parametrize("status", [400, 401, 404, 429, 301])
async def test_line_24_a_failure_is_an_ack_with_an_error_or_ends_a_simple_client(
    target: Target, hub: str, everything: Application, status: int
) -> None:
    everything.on["message"] = Say(status, b"a secret of the application", {"Content-Type": "text/plain"})
    async with came(target.url(hub)) as (client, _), opened(target.url(hub)) as simple:
        assert failed(await raise_event(client, "message"))
        await client.say(type="event", event="message", data=1)
        await client.barrier()
        # It failed, so it may be sent again by the same ackId.
        everything.on["message"] = Say(204)
        assert await raise_event(client, "message") == ok(1)
        everything.on["message"] = Say(status)
        await simple.say_raw("x")
        assert (await simple.closed())[0] == 1011
        assert await raise_event(client, "other", ack_id=2) == ok(2)


async def test_lines_24_and_29_a_failing_server_is_asked_four_times(
    target: Target, hub: str, everything: Application
) -> None:
    everything.on["message"] = Say(500, b"a secret of the application")
    async with came(target.url(hub)) as (client, connected), opened(target.url(hub)) as simple:
        await simple.say_raw("x")
        await client.say(type="event", event="message", data=1, ackId=1)
        everything.on["connect"] = Say(503)
        # At once with these, since each takes its time.
        assert await refused(target.url(hub), JSON) == 503
        assert failed(await client.hear())
        assert (await simple.closed())[0] == 1011
    attempts = [seen for seen in everything.of(connected["connectionId"]) if name_of(seen) == "message"]
    assert len(attempts) == 4
    assert len({(number_of(seen), seen.headers["x-ms-client-request-id"], seen.body) for seen in attempts}) == 1


# State and cookies


def states(events: list[Seen]) -> list[str | None]:
    return [seen.headers.get("ce-connectionState") for seen in events]


async def test_line_25_state_is_kept_and_sent_with_all_that_follows(
    target: Target, hub: str, everything: Application
) -> None:
    def state(value: str, status: int = 200) -> Say:
        return Say(status, headers={"ce-connectionState": value})

    everything.on |= {
        "connect": state("from connect"),
        "connected": state("ignored: a notification"),
        "keep": Say(200),
        "change": state("changed"),
        "fail": state("ignored: a failure", 400),
        "clear": state("", 204),
        "disconnected": state("ignored: the end"),
    }
    events = ["keep", "change", "fail", "keep", "clear", "keep"]
    async with came(target.url(hub)) as (client, connected):
        # So that the order of all is known.
        await everything.told(connected["connectionId"], "connect", "connected")
        for ack_id, event in enumerate(events, 1):
            assert (await raise_event(client, event, ack_id=ack_id))["success"] == (event != "fail")
    seen = await everything.told(connected["connectionId"], *SYSTEM, *events)
    first = "from connect"
    assert states(seen) == [None, first, first, first, "changed", "changed", "changed", "", ""]


async def test_line_25_no_state_no_header(target: Target, hub: str, everything: Application) -> None:
    everything.on["connect"] = Say(401, headers={"ce-connectionState": "of somebody else"})
    assert await refused(target.url(hub), JSON) == 401
    everything.on["connect"] = Say(204)
    async with came(target.url(hub)) as (client, connected):
        assert await raise_event(client, "message") == ok(1)
    assert states(await everything.told(connected["connectionId"], *SYSTEM, "message")) == [None] * 4


@pytest.mark.parametrize(
    "state",
    ["eyJhIjoiw7wifQ==", '{"a": "b,c", "d": [1]}', "a  b\tc", "x" * 8192, "Grüße 🎈", "%00%FF+=&;", '"', "null"],
    ids=["base64", "json", "blanks", "8 KiB", "utf-8", "escapes", "quote", "null"],
)
async def test_line_26_state_comes_back_byte_for_byte(
    target: Target, hub: str, everything: Application, state: str
) -> None:
    everything.on["connect"] = Say(204, headers={"ce-connectionState": state})
    async with came(target.url(hub)) as (client, connected):
        assert await raise_event(client, "message") == ok(1)
    events = await everything.told(connected["connectionId"], *SYSTEM, "message")
    # This server takes header values for UTF-8, as this service does.
    assert states(events) == [None, state, state, state]


async def test_cookies_of_any_answer_come_back_with_later_events(
    target: Target, hub: str, everything: Application
) -> None:
    def cookie(value: str, status: int = 200) -> Say:
        return Say(status, headers=[("Set-Cookie", value)])

    everything.on |= {
        "connect": Say(204, headers=[("Set-Cookie", "route=a; Path=/; HttpOnly"), ("Set-Cookie", "b=1; Path=/")]),
        "connected": cookie("c=2; Path=/"),
        "fail": cookie("route=lost; Path=/", 400),
        "move": cookie("route=z; Path=/"),
        "drop": cookie("b=; Max-Age=0; Path=/"),
    }
    names = ["keep", "fail", "keep", "move", "keep", "drop", "keep"]
    async with came(target.url(hub)) as (client, connected), came(target.url(hub)) as (_, stranger):
        await everything.told(connected["connectionId"], "connect", "connected")
        await everything.told(stranger["connectionId"], "connect", "connected")
        for ack_id, event in enumerate(names, 1):
            await raise_event(client, event, ack_id=ack_id)
    events = await everything.told(connected["connectionId"], *SYSTEM, *names)

    def cookies(seen: Seen) -> set[str]:
        return set(filter(None, seen.headers.get("Cookie", "").split("; ")))

    first = {"route=a", "b=1"}
    assert cookies(events[0]) == set()
    assert cookies(events[1]) == first
    # Of a notification too, from when its answer has come.
    assert first <= cookies(events[2]) <= first | {"c=2"}
    assert [cookies(seen) - {"c=2"} for seen in events[3:]] == [
        first,
        first,
        first,
        {"route=z", "b=1"},
        {"route=z", "b=1"},
        {"route=z"},
        {"route=z"},
    ]
    assert "c=2" in events[-1].headers["Cookie"]
    # Nobody else gets them.
    [connect, *_] = everything.of(stranger["connectionId"])
    assert "Cookie" not in connect.headers


# Notifications


@pytest.mark.parametrize("answer", [None, Say(400), Say(500)], ids=["hangs", "400", "500"])
async def test_line_27_connected_delays_nobody(
    target: Target, hub: str, everything: Application, answer: Say | None
) -> None:
    gate = ConcurrencyLimit(Say(204))
    everything.on["connected"] = answer or gate
    async with came(target.url(hub), JSON) as (client, connected):
        await everything.told(connected["connectionId"], "connect", "connected")
        assert await raise_event(client, "message") == ok(1)
        gate.open()
        await client.barrier()


async def test_line_28_disconnected_is_told_once_with_the_reason(
    target: Target, hub: str, everything: Application
) -> None:
    sdk = Sdk(target, hub)
    ends: dict[str, str] = {}
    for subprotocol in (*SUBPROTOCOLS, None):
        offered = [subprotocol] if subprotocol else []
        for way in ("said", "service", "reset"):
            if way == "reset" and subprotocol in (JSON_RELIABLE, PROTOBUF_RELIABLE):
                continue
            before = {seen.headers["ce-connectionId"] for seen in everything.events}
            async with opened(target.url(hub), *offered) as client:
                [connection_id] = {seen.headers["ce-connectionId"] for seen in everything.events} - before
                if way == "said":
                    await client.close(1000, "so long")
                    ends[connection_id] = "so long"
                elif way == "service":
                    await sdk.close_connection(connection_id, reason="enough")
                    await client.hear_out()
                    ends[connection_id] = "Application server closed the connection. Reason: enough"
                else:
                    await client.reset()
                    ends[connection_id] = ""
    for connection_id, reason in ends.items():
        events = await everything.told(connection_id, *SYSTEM)
        assert json.loads(events[1].body) == {}
        if reason:
            assert json.loads(events[2].body) == {"reason": reason}
        else:
            assert isinstance(json.loads(events[2].body)["reason"], str)


@pytest.mark.parametrize("subprotocol", [JSON_RELIABLE, PROTOBUF_RELIABLE])
async def test_line_28_a_connection_that_is_recovered_has_not_ended(
    target: Target, hub: str, everything: Application, subprotocol: str
) -> None:
    everything.on["connect"] = Say(204, headers={"ce-connectionState": "kept", "Set-Cookie": "route=a; Path=/"})
    async with reliable(target.url(hub, user="ann"), subprotocol) as client:
        await client.reset()
        await client.recover()
        assert await client.ask(type="event", event="back", data=1, ackId=1) == ok(1)
        await client.close(1000, "so long")
    events = await everything.told(client.id, *SYSTEM, "back")
    assert [number_of(seen) for seen in events] == [0, 1, 2, 3]
    assert states(events) == [None, "kept", "kept", "kept"]
    assert [seen.headers.get("Cookie") for seen in events] == [None, "route=a", "route=a", "route=a"]
    assert json.loads(events[-1].body) == {"reason": "so long"}


async def test_line_28_a_reliable_connection_ends_when_its_client_does_not_come_back(
    target: Target, hub: str, everything: Application
) -> None:
    async with reliable(target.url(hub)) as client:
        await client.reset()
        events = await everything.told(client.id, *SYSTEM)
        assert json.loads(events[-1].body) == {"reason": "The connection recovery timeout expired."}
        times = [datetime.fromisoformat(seen.headers["ce-time"]) for seen in events]
        assert (times[2] - times[1]).total_seconds() >= RECOVERY_SECS - 1


# Retries


async def test_line_29_what_a_moment_mends_is_the_same_event_once_more(
    target: Target, hub: str, everything: Application
) -> None:
    answers = {
        name: iter([Say(503), Say(408 if name == "message" else 500), Say(200, b'{"userId": "x"}')])
        for name in ("connect", "connected", "message")
    }

    async def third_time_lucky(seen: Seen) -> Say:
        return next(answers[name_of(seen)])

    everything.on |= dict.fromkeys(answers, third_time_lucky)
    async with came(target.url(hub)) as (client, connected):
        assert connected["userId"] == "x"
        await client.say(type="event", event="message", dataType="text", data="same", ackId=1)
        frame = await client.hear()
        assert (frame["type"], frame["from"]) == ("message", "server")
        assert await client.hear() == ok(1)
        connection_id = connected["connectionId"]
        events = await everything.told(connection_id, *[name for name in answers for _ in range(3)])
    for name in answers:
        attempts = [seen for seen in events if name_of(seen) == name]
        # All that was said is said again, to the letter.
        said = {(seen.path, seen.body, tuple(sorted(seen.headers.items()))) for seen in attempts}
        assert len(said) == 1


@pytest.mark.parametrize("status", [400, 429])
async def test_line_30_what_it_does_not_mend_is_not_tried_again(
    target: Target, hub: str, everything: Application, status: int
) -> None:
    everything.on |= {name: Say(status) for name in ("connected", "message", "disconnected")}
    async with came(target.url(hub)) as (client, connected):
        assert failed(await raise_event(client, "message"))
    await everything.told(connected["connectionId"], *SYSTEM, "message")
    everything.on["connect"] = Say(status)
    assert await refused(target.url(hub), JSON) == status
    assert [name_of(seen) for seen in everything.events].count("connect") == 2


# What is asked of event handlers besides


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
async def test_invocations_are_answered_by_the_handler(
    target: Target, hub: str, everything: Application, subprotocol: str
) -> None:
    everything.on["add"] = Say(200, b"3", {"Content-Type": "application/json", "ce-connectionState": "added"})
    everything.on["fail"] = Say(400)
    async with came(target.url(hub), subprotocol) as (client, connected):
        answer = await client.ask(type="invoke", invocationId="1", target="event", event="add", data=[1, 2])
        assert answer == {"type": "invokeResponse", "invocationId": "1", "success": True, "dataType": "json", "data": 3}
        answer = await client.ask(type="invoke", invocationId="2", target="event", event="fail", data=1)
        assert (answer["success"], answer["error"]["name"]) == (False, "InternalServerError")
        seen = next(seen for seen in everything.of(connected["connectionId"]) if name_of(seen) == "fail")
        assert seen.headers["ce-connectionState"] == "added"


async def test_events_of_one_client_come_one_at_a_time_and_in_order(
    target: Target, hub: str, everything: Application
) -> None:
    busy = most = 0

    async def slowly(seen: Seen) -> Say:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        # Whatever else the loop has to do first.
        for _ in range(3):
            await asyncio.sleep(0)
        busy -= 1
        return await echo(seen)

    everything.on["count"] = slowly
    async with came(target.url(hub)) as (client, connected):
        for number in range(50):
            await client.say(type="event", event="count", data=number, ackId=number)
        heard = [await client.hear() for _ in range(100)]
    expected: list[Any] = []
    for number in range(50):
        expected += [server_message(number), ok(number)]
    assert heard == expected
    assert most == 1
    events = [seen for seen in everything.of(connected["connectionId"]) if name_of(seen) == "count"]
    assert [json.loads(seen.body) for seen in events] == list(range(50))


async def test_an_event_that_a_client_calls_connect_is_a_user_event(
    staff: Staff, target: Target, hub: str, app: Application
) -> None:
    await staff.set(hub, app.handler("connect"))
    async with came(target.url(hub)) as (client, connected):
        assert failed(await raise_event(client, "connect"))
        await app.told(connected["connectionId"], "connect")
    await staff.set(hub, app.handler(events="connect"))
    async with came(target.url(hub)) as (client, connected):
        assert await raise_event(client, "connect") == ok(1)
        [event] = await app.told(connected["connectionId"], "connect")
        assert event.headers["ce-type"] == "azure.webpubsub.user.connect"
        assert event.headers["ce-subprotocol"] == JSON


async def test_a_handler_that_is_switched_off_is_as_none(
    staff: Staff, target: Target, hub: str, app: Application, other: Application
) -> None:
    await staff.set(hub, app.everything(enabled=False), other.everything())
    async with came(target.url(hub)) as (client, connected):
        assert await raise_event(client, "message") == ok(1)
    await other.told(connected["connectionId"], *SYSTEM, "message")
    assert app.seen == []


async def test_staff_sees_what_became_of_the_calls(
    staff: Staff, target: Target, hub: str, everything: Application
) -> None:
    everything.on["fail"] = Say(400)
    async with came(target.url(hub)) as (client, connected):
        assert await raise_event(client, "message") == ok(1)
        assert failed(await raise_event(client, "fail", ack_id=2))
    await everything.told(connected["connectionId"], *SYSTEM, "message", "fail")
    everything.on["connect"] = Say(401)
    assert await refused(target.url(hub), JSON) == 401
    template = everything.handler()["urlTemplate"]
    calls = await asyncio.to_thread(staff.calls, hub, 6)
    by_event = {(call["event"], call["outcome"], call["status"]) for call in calls}
    assert by_event == {
        ("connect", "succeeded", 200),
        ("connected", "succeeded", 200),
        ("user.message", "succeeded", 200),
        ("user.fail", "failed", 400),
        ("disconnected", "succeeded", 200),
        ("connect", "refused", 401),
    }
    assert {call["handler"] for call in calls} == {template}
    assert {call["attempts"] for call in calls} == {1}
