"""Event handlers at URLs, over real HTTP: the lines of the event handlers' checklist that show here."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hubs.errors import DatabaseUnavailable, HandlerFailed, HandshakeRefused, NoHandler, NotFound, TooMany
from hubs.hub_settings import EventHandlerSettings
from hubs.protocols.frames import BINARY, JSON, PROTOBUF, TEXT, Payload
from hubs.upstream import ConnectAnswer, ConnectRequest, Reply, UserEventRequest, dispatch, records
from hubs.upstream.handlers import HubHandlers
from hubs.upstream.session import Session
from hubs.upstream.webhooks import Webhooks
from tests.running import PATIENCE
from tests.upstream.conftest import KEYS, Rows, Time
from tests.upstream.server import ALLOWED, RawServer, Say, Seen, WebhookServer, never

SYSTEM = frozenset(["connect", "connected", "disconnected"])
ORIGIN = "pubsub.example.com"


async def soon(awaitable: Any) -> Any:
    """Wait for something that has to happen."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def send(session: Session, name: str = "message", payload: Payload | None = None, **metadata: str) -> Reply:
    """A client's event, and what comes of it."""
    payload = payload or Payload(TEXT, b"hello")
    reply: Reply = await soon(dispatch.user_event(session, UserEventRequest(session.context, name, payload, metadata)))
    return reply


async def join(session: Session, **request: Any) -> ConnectAnswer:
    """A client's handshake, and what comes of it."""
    answer: ConnectAnswer = await soon(dispatch.connect(session, ConnectRequest(session.context, **request)))
    return answer


async def refused(session: Session, **request: Any) -> int:
    """The status that a handshake is refused with."""
    with pytest.raises(HandshakeRefused) as caught:
        await join(session, **request)
    return int(caught.value.status)


async def notified() -> None:
    """Wait for the notifications that are on their way."""
    while dispatch._notifications:
        await soon(asyncio.wait(set(dispatch._notifications)))
        await asyncio.sleep(0)


def problem(hub: str = "chat") -> str:
    """What the record of the last call says."""
    return records.recent(hub)[0].problem


# Routing


@pytest.fixture
async def other() -> AsyncIterator[WebhookServer]:
    """Another application's server."""
    own = await WebhookServer().start()
    yield own
    await own.stop()


@pytest.mark.usefixtures("client")
async def test_line_01_the_first_handler_that_matches_wins(
    rows: Rows, session: Session, server: WebhookServer, other: WebhookServer
) -> None:
    rows.set(
        "chat",
        EventHandlerSettings(1, server.url, "a"),
        EventHandlerSettings(2, other.url, "*", SYSTEM),
        EventHandlerSettings(3, server.url, "*", SYSTEM),
    )
    server.answers = other.answers
    await send(session, "a")
    assert (len(server.events), len(other.events)) == (1, 0)
    await send(session, "b")
    await join(Session("chat", "x"))
    assert (len(server.events), len(other.events)) == (1, 2)
    with pytest.raises(NoHandler):
        await send(Session("elsewhere", "x"))


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("pattern", "name", "taken"),
    [
        ("*", "any.thing", True),
        ("a,b", "b", True),
        (" a , B ", "b", True),
        ("a", "A", True),
        ("a", "b", False),
        ("", "a", False),
        ("room.*", "room.message", True),
        ("room.*", "room.message.more", False),
        ("room.**", "room.message.more", True),
        ("room.?", "room.a", True),
    ],
)
async def test_line_02_the_user_event_pattern(
    rows: Rows, session: Session, server: WebhookServer, pattern: str, name: str, taken: bool
) -> None:
    rows.set("chat", EventHandlerSettings(1, server.url, pattern, SYSTEM))
    if taken:
        assert await send(session, name) == Reply()
    else:
        with pytest.raises(NoHandler):
            await send(session, name)
    assert len(server.events) == taken


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("wanted", ["connect", "connected", "disconnected"])
async def test_line_03_system_events_that_are_not_listed_are_not_sent(
    rows: Rows, session: Session, server: WebhookServer, wanted: str
) -> None:
    rows.set("chat", EventHandlerSettings(1, server.url, "*", frozenset([wanted])))
    await join(session)
    dispatch.connected(session)
    dispatch.disconnected(session, "")
    await notified()
    assert [seen.headers["ce-eventName"] for seen in server.events] == [wanted]


@pytest.mark.usefixtures("client")
async def test_line_04_without_a_connect_handler_the_token_decides(
    rows: Rows, session: Session, server: WebhookServer
) -> None:
    rows.set("chat", EventHandlerSettings(1, server.url, "*"))
    assert await join(session) == ConnectAnswer()
    assert server.seen == []


@pytest.mark.usefixtures("client")
async def test_line_05_the_url_has_the_hub_and_the_event_in_it(rows: Rows, server: WebhookServer) -> None:
    rows.set("a`b[1]", EventHandlerSettings(1, server.url + "/%7B/{HUB}/x?code=%2F&e={Event}", "*"))
    await send(Session("a`b[1]", "c"), "my.event")
    assert [(seen.method, seen.path) for seen in server.seen] == [
        ("OPTIONS", "/%7B/a%60b%5B1%5D/x?code=%2F&e=validate"),
        ("POST", "/%7B/a%60b%5B1%5D/x?code=%2F&e=my.event"),
    ]


# Abuse protection


@pytest.mark.usefixtures("chat")
async def test_line_06_the_owner_is_asked_first(session: Session, server: WebhookServer) -> None:
    session.cookies.take(server.url, ["a=b"], 0)
    await send(session)
    asked = server.seen[0]
    assert (asked.method, asked.body) == ("OPTIONS", b"")
    assert asked.headers["WebHook-Request-Origin"] == ORIGIN
    assert asked.headers["ce-awpsversion"] == "1.0"
    assert not {"ce-signature", "Authorization", "Cookie", "ce-type", "Content-Type"} & set(asked.headers)
    assert server.seen[1].method == "POST"


REFUSALS = [
    Say(200),
    Say(200, headers={"WebHook-Allowed-Origin": "other.example.com"}),
    Say(200, headers={"WebHook-Allowed-Origin": f"{ORIGIN},other.example.com"}),
    Say(200, headers={"WebHook-Allowed-Origin": f"x{ORIGIN}"}),
    Say(200, headers={"WebHook-Allowed-Origin": ""}),
    Say(400, headers={"WebHook-Allowed-Origin": "*"}),
    Say(429, headers={"WebHook-Allowed-Origin": "*"}),
    Say(302, headers={"WebHook-Allowed-Origin": "*", "Location": "/else"}),
]


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_line_07_who_does_not_allow_events_gets_none(
    session: Session, server: WebhookServer, refusal: Say
) -> None:
    server.permissions[0] = refusal
    assert await refused(Session("chat", "c")) == 500
    with pytest.raises(HandlerFailed):
        await send(session)
    assert problem().startswith("abuse protection: ")
    assert server.questions == ["OPTIONS"]
    assert server.events == []


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize("value", ["*", ORIGIN, ORIGIN.upper(), f"{ORIGIN}:8443"])
async def test_line_07_who_allows_events_gets_them(session: Session, server: WebhookServer, value: str) -> None:
    server.permissions[0] = Say(204, headers={"WebHook-Allowed-Origin": value})
    assert await send(session) == Reply()
    assert len(server.events) == 1


@pytest.mark.usefixtures("chat")
async def test_line_08_get_where_options_is_not_found(session: Session, server: WebhookServer) -> None:
    server.permissions.appendleft(Say(404))
    await send(session)
    assert server.questions == ["OPTIONS", "GET"]
    first, second = server.seen[:2]
    assert {**first.headers} == {**second.headers}
    assert first.path == second.path


@pytest.mark.usefixtures("chat")
async def test_line_08_not_found_twice_is_no_permission(session: Session, server: WebhookServer) -> None:
    server.permissions[0] = Say(404, headers={"WebHook-Allowed-Origin": "*"})
    assert await refused(session) == 500
    assert server.questions == ["OPTIONS", "GET"]


async def _asked_again(client: Webhooks) -> None:
    """Wait until the question in the background is answered."""
    known = next(iter(client.abuse_protection._known.values()))
    if known.asking is not None:
        await soon(asyncio.wait({known.asking}))


@pytest.mark.usefixtures("chat")
async def test_line_09_a_permission_holds_for_a_minute(
    session: Session, server: WebhookServer, client: Webhooks, clock: Time
) -> None:
    await send(session)
    clock.now += 59.9
    await send(session)
    assert server.questions == ["OPTIONS"]
    # Over: the next event goes by the old answer, and has the question asked anew.
    server.permissions[0] = Say(403)
    clock.now += 0.2
    await send(session)
    await _asked_again(client)
    assert server.questions == ["OPTIONS"] * 2
    with pytest.raises(HandlerFailed):
        await send(session)
    assert len(server.events) == 3


@pytest.mark.usefixtures("chat")
async def test_line_09_a_refusal_holds_longer_and_longer(
    session: Session, server: WebhookServer, client: Webhooks, clock: Time
) -> None:
    server.permissions[0] = Say(403)
    with pytest.raises(HandlerFailed):
        await send(session)
    asked = 1
    for secs in (1, 2, 4, 8, 16, 32, 60, 60):
        clock.now += secs - 0.01
        with pytest.raises(HandlerFailed):
            await send(session)
        assert len(server.questions) == asked
        clock.now += 0.02
        with pytest.raises(HandlerFailed):
            await send(session)
        await _asked_again(client)
        asked += 1
        assert len(server.questions) == asked
    # Allowed at last: the event that has it found out still fails. A refusal after that starts at a second again.
    server.permissions.append(Say(403))
    server.permissions[0] = ALLOWED
    clock.now += 61
    with pytest.raises(HandlerFailed):
        await send(session)
    await _asked_again(client)
    await send(session)
    clock.now += 61
    await send(session)
    await _asked_again(client)
    asked = len(server.questions)
    clock.now += 1.01
    with pytest.raises(HandlerFailed):
        await send(session)
    await _asked_again(client)
    assert len(server.questions) == asked + 1


@pytest.mark.usefixtures("chat")
async def test_line_09_events_that_wait_share_one_question(server: WebhookServer) -> None:
    go_on = asyncio.Event()

    async def later(seen: Seen) -> Say:
        await go_on.wait()
        return ALLOWED

    server.permissions[0] = later
    waiting = [asyncio.create_task(send(Session("chat", f"c{number}"))) for number in range(5)]
    await server.question()
    # One of them leaves; the others still get their answer.
    waiting[0].cancel()
    await asyncio.sleep(0)
    go_on.set()
    assert await soon(asyncio.gather(*waiting[1:])) == [Reply()] * 4
    assert server.questions == ["OPTIONS"]
    assert len(server.events) == 4


@pytest.mark.usefixtures("chat")
async def test_line_10_several_hosts(session: Session, server: WebhookServer) -> None:
    several = [("WebHook-Allowed-Origin", "other.example.com"), ("WebHook-Allowed-Origin", ORIGIN)]
    server.permissions[0] = Say(200, headers=several)
    await send(session)
    assert len(server.events) == 1


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize("allowed", ["*", ORIGIN, "App.Example.Test", "app.example.test:443", f"{ORIGIN}:8443"])
async def test_events_come_from_the_host_the_client_came_by(
    server: WebhookServer, webpubsub: Any, allowed: str
) -> None:
    """And who allows one name of the service allows it, whichever was asked about."""
    webpubsub(PUBLIC_ENDPOINTS=[f"https://{ORIGIN}:8443/prefix", "https://app.example.test"])
    server.permissions[0] = Say(headers={"WebHook-Allowed-Origin": allowed})
    here = Session("chat", "here", origin="app.example.test")
    await join(here)
    dispatch.connected(here)
    await notified()
    moved = Session.unpacked(json.loads(json.dumps(here.packed())))
    await send(moved)
    dispatch.disconnected(moved, "")
    await notified()
    assert {seen.headers["WebHook-Request-Origin"] for seen in server.seen} == {"app.example.test"}
    assert server.questions == ["OPTIONS"]
    # One that came from a process of an older version has none.
    packed = here.packed()
    del packed["origin"]
    await send(Session.unpacked(packed))
    assert [seen.headers["WebHook-Request-Origin"] for seen in server.seen[-2:]] == [ORIGIN, ORIGIN]
    assert server.questions == ["OPTIONS"] * 2


@pytest.mark.usefixtures("chat")
async def test_an_owner_that_knows_one_name_alone_gets_the_events_of_that_one(
    server: WebhookServer, webpubsub: Any
) -> None:
    """As .NET's middleware, whose connection string has one endpoint."""
    webpubsub(PUBLIC_ENDPOINTS=[f"https://{ORIGIN}", "https://app.example.test"])

    async def permission(seen: Seen) -> Say:
        return ALLOWED if seen.headers["WebHook-Request-Origin"] == "app.example.test" else Say(400)

    server.permissions[0] = permission
    for _ in range(2):
        assert await refused(Session("chat", "a")) == 500
        await join(Session("chat", "b", origin="app.example.test"))
    assert [seen.headers["WebHook-Request-Origin"] for seen in server.events] == ["app.example.test"] * 2


@pytest.mark.usefixtures("chat")
async def test_the_question_is_repeated_like_an_event(session: Session, server: WebhookServer, clock: Time) -> None:
    server.permissions.appendleft(Say(503))
    await send(session)
    assert server.questions == ["OPTIONS"] * 2
    assert clock.slept == [1]


# Requests


@pytest.mark.usefixtures("client")
async def test_line_11_the_headers(rows: Rows, server: WebhookServer) -> None:
    rows.set("chat", EventHandlerSettings(1, server.url, "*", SYSTEM, authorization="Bearer abc"))
    session = Session("chat", "c0ffee", "Änne 🙂", "json.webpubsub.azure.v1", "")
    await send(session, "Event.1")
    headers = dict(server.events[0].headers)
    request_id = headers.pop("x-ms-client-request-id")
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", request_id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", headers.pop("ce-time"))
    headers.pop("ce-signature")
    assert headers == {
        "Host": f"127.0.0.1:{server.port}",
        "User-Agent": "Hubwire",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": "5",
        "Authorization": "Bearer abc",
        "WebHook-Request-Origin": ORIGIN,
        "ce-specversion": "1.0",
        "ce-awpsversion": "1.0",
        "ce-type": "azure.webpubsub.user.Event.1",
        "ce-source": "/hubs/chat/client/c0ffee",
        "ce-id": "0",
        "ce-connectionId": "c0ffee",
        "ce-hub": "chat",
        "ce-eventName": "Event.1",
        "ce-userId": "Änne 🙂",
        "ce-subprotocol": "json.webpubsub.azure.v1",
        "ce-connectionState": "",
    }


@pytest.mark.usefixtures("client")
async def test_line_11_what_there_is_not_is_not_sent(rows: Rows, server: WebhookServer) -> None:
    rows.set("chat", EventHandlerSettings(1, server.url, "*", SYSTEM))
    for session in (Session("chat", "c"), Session("chat", "c", "")):
        await send(session)
    for seen in server.events:
        absent = {"ce-userId", "ce-subprotocol", "ce-connectionState", "Authorization", "Cookie"}
        assert not absent & set(seen.headers)


@pytest.mark.usefixtures("client")
async def test_line_11_a_user_id_goes_as_utf_8(rows: Rows) -> None:
    server = await RawServer(b"HTTP/1.1 204 No Content\r\n\r\n").start()
    rows.set("chat", EventHandlerSettings(1, server.url, "*"))
    await send(Session("chat", "c0ffee", "José 用户"))
    assert "ce-userid: josé 用户\r\n".encode() in server.head
    await server.stop()


@pytest.mark.usefixtures("chat")
async def test_line_12_the_signature_verifies_with_either_key(session: Session, server: WebhookServer) -> None:
    await send(session)
    expected = ["sha256=" + hmac.new(key.encode(), b"c0ffee", hashlib.sha256).hexdigest() for key in KEYS]
    assert server.events[0].headers["ce-signature"].split(",") == expected


@pytest.mark.usefixtures("chat")
async def test_line_13_the_body_of_connect(session: Session, server: WebhookServer) -> None:
    request = {
        "claims": {"sub": ["ann"], "exp": ["1700000000"]},
        "query": {"k": ["v1", "v2"]},
        "headers": {"Host": ["h"], "X-Ä": ["é"]},
        "subprotocols": ["json.webpubsub.azure.v1"],
    }
    await join(session, **request)
    await join(Session("chat", "d"))
    first, second = server.events
    assert json.loads(first.body) == request | {"clientCertificates": []}
    assert json.loads(second.body) == {
        "claims": {},
        "query": {},
        "headers": {},
        "subprotocols": [],
        "clientCertificates": [],
    }
    assert first.headers["Content-Type"] == "application/json"
    assert first.headers["ce-type"] == "azure.webpubsub.sys.connect"


@pytest.mark.usefixtures("chat")
async def test_line_14_the_subprotocol(session: Session, server: WebhookServer) -> None:
    await join(session)
    dispatch.connected(session)
    await notified()
    await send(session)
    await send(session, "connect")  # a client may call its event so
    dispatch.disconnected(session, "")
    await notified()
    assert [seen.headers.get("ce-subprotocol") for seen in server.events] == [None, *["json.webpubsub.azure.v1"] * 4]


@pytest.mark.usefixtures("chat")
async def test_line_15_events_are_counted(session: Session, server: WebhookServer) -> None:
    await join(session)
    dispatch.connected(session)
    await notified()
    await send(session)
    await send(session)
    dispatch.disconnected(session, "bye")
    await notified()
    assert [seen.headers["ce-id"] for seen in server.events] == ["0", "1", "2", "3", "4"]
    assert [seen.body for seen in (server.events[1], server.events[4])] == [b"{}", b'{"reason":"bye"}']


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize(
    ("payload", "content_type"),
    [
        (Payload(TEXT, "é".encode()), "text/plain; charset=utf-8"),
        (Payload(TEXT, b""), "text/plain; charset=utf-8"),
        (Payload(JSON, b'{ "a": 1.0 }'), "application/json"),
        (Payload(BINARY, bytes(range(256))), "application/octet-stream"),
        (Payload(BINARY, bytes(3 << 20)), "application/octet-stream"),
        (Payload(PROTOBUF, b"\x0a\x01x"), "application/x-protobuf"),
    ],
    ids=["text", "no text", "json", "binary", "3 MiB", "protobuf"],
)
async def test_line_16_user_events(
    session: Session, server: WebhookServer, payload: Payload, content_type: str
) -> None:
    await send(session, payload=payload)
    assert server.events[0].headers["Content-Type"] == content_type
    assert server.events[0].body == payload.data


@pytest.mark.usefixtures("chat")
async def test_line_17_metadata(session: Session, server: WebhookServer) -> None:
    await send(session, **{"My-Key": "first", "my-key": "second", "b": "a, b"})
    assert server.events[0].headers.getall("x-webpubsub-metadata-my-key") == ["second"]
    assert server.events[0].headers["x-webpubsub-metadata-b"] == "a, b"


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize("bad", ["a\nb", "a\r\nce-userId: eve", "\0", "\x7f", "\ud800"])
async def test_what_no_header_can_carry_is_not_sent(server: WebhookServer, bad: str) -> None:
    assert await refused(Session("chat", "c", bad)) == 500
    assert problem() == "the value of ce-userId has a character that no HTTP header can carry"
    with pytest.raises(HandlerFailed):
        await send(Session("chat", "c", "u"), key=bad)
    assert problem() == "the value of x-webpubsub-metadata-key has a character that no HTTP header can carry"
    with pytest.raises(HandlerFailed):
        await send(Session("chat", "c", "u", None, bad))
    assert server.seen == []


# Answers to connect


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize(
    "answer", [Say(204), Say(200), Say(200, b"null"), Say(202, b" \n"), Say(200, b"{}"), Say(200, b'{"userId":null}')]
)
async def test_line_18_nothing_said_keeps_the_tokens_values(
    session: Session, server: WebhookServer, answer: Say
) -> None:
    server.answers[0] = answer
    assert await join(session) == ConnectAnswer()


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"userId": "v"}, ConnectAnswer(user_id="v")),
        ({"userId": ""}, ConnectAnswer(user_id="")),
        ({"roles": []}, ConnectAnswer(roles=[])),
        ({"roles": None, "groups": None, "subprotocol": None}, ConnectAnswer()),
        ({"groups": ["a", "b"]}, ConnectAnswer(groups=["a", "b"])),
        ({"subprotocol": "Mine", "more": 1}, ConnectAnswer(subprotocol="Mine")),
        ({"subprotocol": ""}, ConnectAnswer(subprotocol="")),
        # Names in any letter case, as .NET writes and reads them; the later of two counts, there as here.
        (
            {"UserId": "v", "Groups": ["a"], "Roles": [], "SubProtocol": "mine"},
            ConnectAnswer("v", ["a"], [], subprotocol="mine"),
        ),
        ({"userid": "v", "ROLES": ["r"]}, ConnectAnswer(user_id="v", roles=["r"])),
        ({"roles": ["r"], "Roles": []}, ConnectAnswer(roles=[])),
        ({"Roles": [], "roles": ["r"], "ROLE": ["x"]}, ConnectAnswer(roles=["r"])),
    ],
)
async def test_line_19_what_connect_may_answer(
    session: Session, server: WebhookServer, body: dict[str, Any], answer: ConnectAnswer
) -> None:
    # Whatever the content type.
    server.answers[0] = Say(200, json.dumps(body).encode(), {"Content-Type": "text/html"})
    assert await join(session, subprotocols=["mine"]) == answer


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize(
    ("status", "told"), [(400, 400), (401, 401), (403, 403), (404, 404), (429, 429), (499, 400), (503, 503), (302, 500)]
)
async def test_line_20_a_refusal_is_passed_on(session: Session, server: WebhookServer, status: int, told: int) -> None:
    server.answers[0] = Say(status, b"", {"Location": "http://127.0.0.1:1/", "ce-connectionState": "no"})
    assert await refused(session) == told
    # Never open, so it cannot end either.
    dispatch.disconnected(session, "")
    await notified()
    assert {seen.headers["ce-eventName"] for seen in server.events} == {"connect"}
    assert session.state is None
    assert (records.recent("chat")[0].outcome, records.recent("chat")[0].status) == (records.REJECTED, status)


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize(
    ("status", "content_type", "body", "told"),
    [
        (401, "text/plain; charset=utf-8", "who are you, é?", "who are you, é?"),
        (401, "text/html", "<h1>", "Unauthorized"),
        (401, "text/plain", "x" * 2000, "Unauthorized"),
        (500, "text/plain", "inner details", "Internal Server Error"),
    ],
)
async def test_a_refusal_in_few_words_is_passed_on(
    session: Session, server: WebhookServer, status: int, content_type: str, body: str, told: str
) -> None:
    server.answers[0] = Say(status, body.encode(), {"Content-Type": content_type})
    with pytest.raises(HandshakeRefused) as caught:
        await join(session)
    assert caught.value.message == told


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        b'{"roles":[null]}',
        b'{"roles":"all"}',
        b'{"Roles":"all"}',
        b'{"more":' + b"[" * 100_000,
        b'{"groups":[""]}',
        b'{"groups":["  "]}',
        b'{"groups":[1]}',
        b'{"userId":5}',
        b'{"userId":"a\\nb"}',
        b'{"userId":"\xff"}',
        b'{"subprotocol":"theirs"}',
    ],
)
async def test_line_21_answers_that_mean_nothing(session: Session, server: WebhookServer, body: bytes) -> None:
    server.answers[0] = Say(200, body, {"ce-connectionState": "no"})
    assert await refused(session, subprotocols=["mine"]) == 500
    assert problem()
    assert session.state is None
    assert len(server.events) == 1


# Answers to user events


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize(
    ("content_type", "body", "data_type"),
    [
        ("text/plain", "é".encode(), TEXT),
        ("Text/Plain; charset=utf-8", b"x", TEXT),
        ("application/json", b'{ "a": 12345678901234567890.0 }', JSON),
        ("application/json;v=1", b"null", JSON),
        ("application/octet-stream", b"\xff\0", BINARY),
        ("application/x-protobuf", b"\x0a\x01x", PROTOBUF),
    ],
)
async def test_line_22_a_reply(
    session: Session, server: WebhookServer, content_type: str, body: bytes, data_type: str
) -> None:
    server.answers[0] = Say(200, body, {"Content-Type": content_type})
    assert await send(session) == Reply(Payload(data_type, body))


@pytest.mark.usefixtures("client")
async def test_line_22_a_reply_of_no_type_is_binary(rows: Rows, session: Session) -> None:
    raw = await RawServer(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx").start()
    try:
        rows.set("chat", EventHandlerSettings(1, raw.url, "*"))
        assert await send(session) == Reply(Payload(BINARY, b"x"))
    finally:
        await raw.stop()


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize(
    "answer",
    [
        Say(204),
        Say(200),
        Say(200, b"", {"Content-Type": "application/octet-stream"}),
        Say(201, b"", {"Content-Type": "text/html"}),
    ],
)
async def test_line_23_no_reply(session: Session, server: WebhookServer, answer: Say) -> None:
    server.answers[0] = answer
    assert await send(session) == Reply()


@pytest.mark.usefixtures("chat")
async def test_metadata_of_a_reply(session: Session, server: WebhookServer) -> None:
    several = [
        ("X-WebPubSub-Metadata-Key", "old"),
        ("x-webpubsub-metadata-KEY", "a, last "),
        ("x-webpubsub-metadata-b", "c"),
        ("X-WebPubSub-Metadata-", "no key"),
    ]
    server.answers[0] = Say(200, b"", several)
    assert await send(session) == Reply(None, {"key": "last", "b": "c"})
    server.answers[0] = Say(200, b"x", [*several, ("Content-Type", "text/plain")])
    assert await send(session) == Reply(Payload(TEXT, b"x"), {"key": "last", "b": "c"})
    server.answers[0] = Say(200, b"", [several[-1]])
    assert await send(session) == Reply()


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize(
    "answer",
    [
        Say(400),
        Say(401, b"no", {"Content-Type": "text/plain"}),
        Say(500, b"x", {"Content-Type": "text/plain"}),
        Say(302, headers={"Location": "/else"}),
        Say(200, b"<p>", {"Content-Type": "text/html"}),
        Say(200, b"\xff", {"Content-Type": "text/plain"}),
        Say(200, b"{", {"Content-Type": "application/json"}),
        Say(200, b'"\xff"', {"Content-Type": "application/json"}),
        Say(200, b"", {"x-webpubsub-metadata-k": "é"}),
        Say(200, b"", {"x-webpubsub-metadata-k": "x" * 1025}),
        Say(200, b"x", {"Content-Type": "text/plain", "Content-Encoding": "gzip"}),
    ],
)
async def test_line_24_failures(session: Session, server: WebhookServer, answer: Say) -> None:
    server.answers[0] = answer
    with pytest.raises(HandlerFailed) as failed:
        await send(session)
    assert (failed.value.name, failed.value.message) == ("InternalServerError", "Internal server error")
    record = records.recent("chat")[0]
    assert (record.outcome, record.status) == (records.FAILED, answer.status)
    assert record.problem
    assert {seen.path for seen in server.seen} == {"/chat/validate", "/chat/message"}


# State and cookies


@pytest.mark.usefixtures("chat")
async def test_line_25_the_state_follows_successful_blocking_events(session: Session, server: WebhookServer) -> None:
    states: list[str | None] = []

    async def answer(seen: Seen) -> Say:
        states.append(seen.headers.get("ce-connectionState"))
        number = len(states)
        status = 400 if seen.headers["ce-eventName"] == "bad" else 200
        return Say(status, headers=[("ce-connectionState", "ignored"), ("ce-connectionState", f"after {number}")])

    server.answers[0] = answer
    await join(session)
    dispatch.connected(session)
    await notified()
    await send(session)
    with pytest.raises(HandlerFailed):
        await send(session, "bad")
    assert session.context.state == "after 3"
    dispatch.disconnected(session, "")
    await notified()
    assert states == [None, "after 1", "after 1", "after 3", "after 3"]


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize(
    "state",
    [base64.b64encode(b'{"a":1}').decode(), "", "a\tb c", "é 🙂", "=,;%", "x" * 16384],
    ids=["base64", "empty", "blanks", "not ascii", "signs", "long"],
)
async def test_line_26_the_state_is_not_touched(session: Session, server: WebhookServer, state: str) -> None:
    server.answers[0] = Say(200, headers={"ce-connectionState": state})
    await send(session)
    await send(session)
    assert server.events[1].headers["ce-connectionState"] == state


@pytest.mark.usefixtures("chat")
async def test_a_state_that_is_too_long_is_a_failure(session: Session, server: WebhookServer) -> None:
    server.answers[0] = Say(200, headers={"ce-connectionState": "x" * 16385})
    with pytest.raises(HandlerFailed):
        await send(session)
    assert problem() == "the connection's state has more than 16384 bytes"
    assert session.state is None


@pytest.mark.usefixtures("chat")
async def test_cookies_come_back_on_later_events_of_the_connection(session: Session, server: WebhookServer) -> None:
    server.answers.extendleft(
        reversed(
            [
                Say(200, headers={"Set-Cookie": "route=a; Path=/"}),
                Say(200, headers={"Set-Cookie": "route=b; Path=/; HttpOnly"}),
                Say(400, headers={"Set-Cookie": "route=c; Path=/"}),
            ]
        )
    )
    await join(session)
    dispatch.connected(session)
    await notified()
    with pytest.raises(HandlerFailed):
        await send(session)
    await send(session)
    await send(Session("chat", "another"))
    assert [seen.headers.get("Cookie") for seen in server.events] == [None, "route=a", "route=b", "route=b", None]


# Notifications


@pytest.mark.usefixtures("chat")
async def test_line_27_a_slow_connected_handler_delays_nobody(session: Session, server: WebhookServer) -> None:
    go_on = asyncio.Event()

    async def answer(seen: Seen) -> Say:
        if seen.headers["ce-eventName"] == "connected":
            await go_on.wait()
        return Say()

    server.answers[0] = answer
    dispatch.connected(session)
    await server.event()
    assert await send(session) == Reply()
    # Nor is its end held back by the answer.
    dispatch.disconnected(session, "")
    await server.event(3)
    assert [seen.headers["ce-eventName"] for seen in server.events] == ["connected", "message", "disconnected"]
    go_on.set()
    await notified()


@pytest.mark.usefixtures("chat")
async def test_line_27_an_end_is_not_told_before_the_beginning(session: Session, server: WebhookServer) -> None:
    go_on = asyncio.Event()

    async def permission(seen: Seen) -> Say:
        await go_on.wait()
        return ALLOWED

    server.permissions[0] = permission
    dispatch.connected(session)
    dispatch.disconnected(session, "")
    await server.question()
    await asyncio.sleep(0.05)
    assert not server.events
    go_on.set()
    await notified()
    assert [seen.headers["ce-eventName"] for seen in server.events] == ["connected", "disconnected"]


@pytest.mark.usefixtures("chat")
async def test_line_27_nor_while_the_beginning_waits_for_another_attempt(
    session: Session, server: WebhookServer, client: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, go_on = asyncio.Event(), asyncio.Event()

    async def pause(_: float) -> None:
        waits.set()
        await go_on.wait()

    monkeypatch.setattr(client, "_sleep", pause)
    server.answers.appendleft(Say(503))
    dispatch.connected(session)
    await soon(waits.wait())
    dispatch.disconnected(session, "")
    await asyncio.sleep(0.05)
    assert len(server.events) == 1
    go_on.set()
    await notified()
    assert [seen.headers["ce-eventName"] for seen in server.events] == ["connected", "connected", "disconnected"]


@pytest.mark.usefixtures("chat")
async def test_line_28_each_is_told_once(session: Session, server: WebhookServer, clock: Time) -> None:
    server.answers.extendleft([Say(503), Say(503)])
    dispatch.connected(session)
    dispatch.connected(session)
    await notified()
    dispatch.disconnected(session, "gone")
    dispatch.disconnected(session, "again")
    await notified()
    assert [(seen.headers["ce-eventName"], seen.headers["ce-id"]) for seen in server.events] == [
        *[("connected", "0")] * 3,
        ("disconnected", "1"),
    ]
    assert clock.slept == [1, 3]


@pytest.mark.usefixtures("chat")
async def test_line_28_a_moved_connection_is_told_once(session: Session, server: WebhookServer) -> None:
    dispatch.connected(session)
    await notified()
    moved = Session.unpacked(session.packed())
    dispatch.connected(moved)
    dispatch.disconnected(moved, "")
    await notified()
    dispatch.disconnected(Session.unpacked(moved.packed()), "")
    await notified()
    assert [seen.headers["ce-id"] for seen in server.events] == ["0", "1"]


@pytest.mark.usefixtures("chat")
async def test_notifications_that_fail_are_in_the_log(
    session: Session, server: WebhookServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers[0] = Say(500)
    dispatch.connected(session)
    await notified()
    assert len(server.events) == 4
    label = f"{server.url}/{{hub}}/{{event}}"
    text = f"The event connected of hub chat failed at {label}: the answer's status is 500"
    assert text in caplog.text
    # The same again at once is not worth another line.
    dispatch.connected(Session("chat", "another"))
    await notified()
    assert caplog.text.count(text) == 1
    assert [record.attempts for record in records.recent("chat")] == [4, 4]


@pytest.mark.usefixtures("chat")
async def test_a_stopping_process_waits_for_notifications(
    session: Session, server: WebhookServer, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = asyncio.Event()

    async def answer(seen: Seen) -> Say:
        await go_on.wait()
        return Say()

    server.answers[0] = answer
    dispatch.connected(session)
    await server.event()
    stopping = asyncio.create_task(dispatch.stop(PATIENCE))
    await asyncio.sleep(0)
    go_on.set()
    await soon(stopping)
    assert records.recent("chat")[0].outcome == records.ANSWERED
    server.answers[0] = never
    dispatch.disconnected(session, "")
    await server.event(2)
    await soon(dispatch.stop(0.01))
    assert records.recent("chat")[0].outcome == records.CANCELLED
    assert "1 notifications of event handlers are given up" in caplog.text
    assert dispatch._notifications == set()


# Retries and time


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
async def test_line_29_what_a_moment_can_mend_is_tried_again(
    session: Session, server: WebhookServer, clock: Time, status: int
) -> None:
    server.answers.extendleft([Say(status)] * 3)
    server.answers[-1] = Say(200, b"at last", {"Content-Type": "text/plain"})
    assert await send(session) == Reply(Payload(TEXT, b"at last"))
    assert clock.slept == [1, 3, 5]
    attempts = [(dict(seen.headers), seen.body, seen.path) for seen in server.events]
    assert len(attempts) == 4
    assert all(attempt == attempts[0] for attempt in attempts)
    record = records.recent("chat")[0]
    assert (record.outcome, record.status, record.attempts) == (records.ANSWERED, 200, 4)


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize("status", [400, 401, 404, 409, 429, 301, 307])
async def test_line_30_what_is_meant_is_not_tried_again(
    session: Session, server: WebhookServer, clock: Time, status: int
) -> None:
    server.answers[0] = Say(status, headers={"Location": "/else"})
    with pytest.raises(HandlerFailed):
        await send(session)
    assert (len(server.events), clock.slept) == (1, [])


@pytest.mark.usefixtures("chat")
async def test_line_31_no_answer_in_time(session: Session, server: WebhookServer, webpubsub: Any, clock: Time) -> None:
    webpubsub(HANDLER_SECS=0.3)
    server.answers[0] = never
    with pytest.raises(HandlerFailed):
        await send(session)
    assert (len(server.events), clock.slept) == (1, [])
    assert problem() == "no answer within 0.3 seconds"
    assert await refused(Session("chat", "c")) == 500


@pytest.mark.usefixtures("chat")
async def test_a_client_that_leaves_has_its_request_given_up(session: Session, server: WebhookServer) -> None:
    server.answers[0] = never
    task = asyncio.create_task(send(session))
    await server.event()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(server.cancelled.wait())
    assert records.recent("chat")[0].outcome == records.CANCELLED


# Servers that break HTTP, or are not there

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("broken", "attempts"),
    [
        (None, 2),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 20\r\nConnection: close\r\n\r\nhalf", 2),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", 2),
        (b"HTTP/1.1 200", 2),
    ],
    ids=["hangs up", "half of it", "half of its chunks", "half of the first line"],
)
async def test_a_connection_that_breaks_is_tried_again(
    rows: Rows, session: Session, clock: Time, broken: bytes | None, attempts: int
) -> None:
    raw = await RawServer(broken, OK).start()
    try:
        rows.set("chat", EventHandlerSettings(1, raw.url, "*"))
        assert await send(session) == Reply(Payload(TEXT, b"ok"))
        assert (raw.events, clock.slept) == (attempts, [1])
    finally:
        await raw.stop()


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.7\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nce-connectionState: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nce-connectionState: \xff\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nce-connectionState: a\x01b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=\xff\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ],
    ids=["not http", "null", "not utf-8", "control", "cookie", "long header", "length"],
)
async def test_an_answer_that_is_not_sound(
    rows: Rows, session: Session, clock: Time, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    raw = await RawServer(answer).start()
    try:
        rows.set("chat", EventHandlerSettings(1, raw.url + "?code=secret", "*"))
        with pytest.raises(HandlerFailed):
            await send(session)
        assert problem()
        assert raw.events == 1
        assert session.state is None
        assert "secret" not in caplog.text + problem()
    finally:
        await raw.stop()


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 3000000\r\n", b"Connection: close\r\n"],
    ids=["announced", "not announced"],
)
async def test_a_huge_answer_is_cut_off(rows: Rows, session: Session, webpubsub: Any, head: bytes) -> None:
    webpubsub(MAX_HANDLER_ANSWER_BYTES=1 << 20)
    raw = await RawServer(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n" + head + b"\r\n" + b"x" * 3_000_000
    ).start()
    try:
        rows.set("chat", EventHandlerSettings(1, raw.url, "*"))
        with pytest.raises(HandlerFailed):
            await send(session)
        assert problem() == "the answer has more than 1048576 bytes"
        assert raw.events == 1
    finally:
        await raw.stop()


@pytest.mark.usefixtures("client")
async def test_a_handler_that_is_down(rows: Rows, session: Session, clock: Time) -> None:
    raw = await RawServer(OK).start()
    await raw.stop()
    rows.set("chat", EventHandlerSettings(1, raw.url + "/?code=secret", "*"))
    with pytest.raises(HandlerFailed):
        await send(session)
    assert clock.slept == [1, 3, 5]
    assert f"127.0.0.1:{raw.port} cannot be reached" in problem()
    assert "secret" not in repr(records.recent("chat"))


@pytest.mark.usefixtures("client")
async def test_a_handler_whose_token_cannot_be_read(rows: Rows, session: Session, server: WebhookServer) -> None:
    rows.set("chat", EventHandlerSettings(1, server.url, "*", SYSTEM, problem="the token cannot be read"))
    assert await refused(session) == 500
    assert problem() == "the token cannot be read"
    assert server.seen == []


# Many at once


@pytest.mark.usefixtures("client")
async def test_a_handler_gets_so_many_calls_at_once_and_one_more_is_refused(
    rows: Rows, server: WebhookServer, other: WebhookServer, webpubsub: Any
) -> None:
    webpubsub(MAX_HANDLER_CALLS=2, MAX_WAITING_HANDLER_CALLS=1)
    rows.set("chat", EventHandlerSettings(1, server.url, "slow", SYSTEM), EventHandlerSettings(2, other.url, "*"))
    go_on = asyncio.Event()

    async def later(seen: Seen) -> Say:
        await go_on.wait()
        return Say()

    server.answers[0] = later
    waiting = [asyncio.create_task(send(Session("chat", f"c{number}"), "slow")) for number in range(3)]
    await server.event(2)
    with pytest.raises(TooMany) as refusal:
        await send(Session("chat", "d"), "slow")
    assert refusal.value.message == "The event handler has too many calls waiting."
    assert records.recent("chat")[0].outcome == records.REFUSED
    assert await refused(Session("chat", "d")) == 503
    # Nobody else's events wait for the slow one.
    assert await send(Session("chat", "d"), "quick") == Reply()
    assert len(server.events) == 2
    go_on.set()
    assert await soon(asyncio.gather(*waiting)) == [Reply()] * 3
    assert await send(Session("chat", "d"), "slow") == Reply()


@pytest.mark.usefixtures("chat")
async def test_those_who_come_are_let_in_while_many_leave(server: WebhookServer, webpubsub: Any) -> None:
    webpubsub(MAX_HANDLER_CALLS=4, MAX_WAITING_NOTIFICATIONS=10)
    go_on = asyncio.Event()

    async def answer(seen: Seen) -> Say:
        if seen.headers["ce-eventName"] == "connected":
            await go_on.wait()
        return Say()

    server.answers[0] = answer
    for number in range(15):
        dispatch.connected(Session("chat", f"c{number}"))
    await server.event(2)
    assert await join(Session("chat", "d")) == ConnectAnswer()
    assert [seen.headers["ce-eventName"] for seen in server.events] == ["connected", "connected", "connect"]
    go_on.set()
    await notified()
    outcomes = [record.outcome for record in records.recent("chat") if record.event == "connected"]
    assert sorted(outcomes) == [records.ANSWERED] * 10 + [records.REFUSED] * 5


@pytest.mark.usefixtures("chat")
async def test_while_a_call_waits_to_be_tried_again_others_have_its_place(
    server: WebhookServer, webpubsub: Any, client: Webhooks
) -> None:
    webpubsub(MAX_HANDLER_CALLS=1)
    server.answers.appendleft(Say(503))
    resting, go_on = asyncio.Event(), asyncio.Event()

    async def sleep(secs: float) -> None:
        resting.set()
        await go_on.wait()

    client._sleep = sleep
    first = asyncio.create_task(send(Session("chat", "a")))
    await soon(resting.wait())
    assert await send(Session("chat", "b")) == Reply()
    go_on.set()
    assert await soon(first) == Reply()


@pytest.mark.usefixtures("chat")
async def test_connections_are_used_again(rows: Rows, session: Session) -> None:
    raw = await RawServer(OK).start()
    try:
        rows.set("chat", EventHandlerSettings(1, raw.url, "*"))
        for _ in range(10):
            await send(session)
        assert (raw.connections, raw.events) == (1, 10)
    finally:
        await raw.stop()


# Functions before rows, and invocations


@pytest.mark.usefixtures("client")
async def test_functions_take_an_event_before_rows(rows: Rows, application: HubHandlers, server: WebhookServer) -> None:
    rows.set(application.hub, EventHandlerSettings(1, server.url, "*", SYSTEM))
    application.on_event("mine")(lambda request: "function")
    session = Session(application.hub, "c")
    assert await send(session, "mine") == Reply(Payload(TEXT, b"function"))
    assert await send(session, "theirs") == Reply()
    assert [seen.headers["ce-eventName"] for seen in server.events] == ["theirs"]
    assert [record.handler for record in records.recent(application.hub)] == [
        server.url,
        f"{__name__}.test_functions_take_an_event_before_rows.<locals>.<lambda>",
    ]


@pytest.mark.usefixtures("chat")
async def test_invocations(rows: Rows, session: Session, server: WebhookServer) -> None:
    request = UserEventRequest(session.context, "add", Payload(JSON, b"[1,2]"))
    server.answers[0] = Say(200, b"3", {"Content-Type": "application/json", "ce-connectionState": "s"})
    assert await soon(dispatch.invoke(session, request)) == Reply(Payload(JSON, b"3"), None, "s")
    assert session.state == "s"
    server.answers[0] = Say(400)
    with pytest.raises(HandlerFailed):
        await soon(dispatch.invoke(session, request))
    rows.set("chat")
    with pytest.raises(NotFound):
        await soon(dispatch.invoke(session, request))


@pytest.mark.usefixtures("chat")
async def test_without_settings_nobody_is_let_past_a_handler(
    rows: Rows, session: Session, server: WebhookServer, caplog: pytest.LogCaptureFixture
) -> None:
    """There may be one that would turn this client away; the database has been away for too long to know."""
    rows.problem = DatabaseUnavailable()
    with pytest.raises(DatabaseUnavailable):
        await join(Session("chat", "c"))
    with pytest.raises(HandlerFailed):
        await send(session)
    assert server.events == []
    # hub_settings has said it, once.
    assert caplog.records == []


@pytest.mark.usefixtures("chat")
async def test_payloads_are_recorded_only_where_that_is_wanted(session: Session, webpubsub: Any) -> None:
    await send(session)
    assert records.recent("chat")[0].payload is None
    webpubsub(RECORD_PAYLOADS=True)
    await send(session)
    assert records.recent("chat")[0].payload == Payload(TEXT, b"hello")
