"""Functions mounted as a webhook: a project of its own on a real server, called as Azure and as Hubwire call it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.contrib.auth.models import AnonymousUser
from django.test import AsyncRequestFactory, RequestFactory

from hubs.errors import HandlerFailed, HandshakeRefused
from hubs.hub_settings import EventHandlerSettings
from hubs.protocols.frames import BINARY, JSON, PROTOBUF, TEXT, Payload
from hubs.upstream import ConnectAnswer, ConnectRequest, EventContext, Rejected, Reply, UserEventRequest, dispatch
from hubs.upstream import mount as mounting
from hubs.upstream.cloudevents import MAX_STATE_BYTES
from hubs.upstream.handlers import HubHandlers
from hubs.upstream.mount import webhook
from hubs.upstream.session import Session
from hubs.upstream.webhooks import Webhooks
from tests.running import PATIENCE, ROOT, free_port
from tests.upstream.conftest import KEYS, Rows
from tests.upstream.mounted_service import CONNECTION_STRING, KEY, MAX_BODY_BYTES, ORIGIN

PATH = "/events/chat"


@dataclass
class Got:
    """An answer, as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def trouble(self) -> str:
        """What an error says; it is never plain text, which would be for clients."""
        assert self.headers["content-type"] == "application/json"
        return str(json.loads(self.body)["message"])


class Project:
    """The project of mounted_project.py, on a server of its own."""

    def __init__(self, server: str, directory: Path) -> None:
        self.server = server
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / f"{server}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "tests.upstream.mounted_project", server, str(self.port)],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> Project:
        deadline = time.monotonic() + PATIENCE * 2
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.request("OPTIONS", PATH, {})
            except OSError:
                time.sleep(0.02)
            else:
                return self
        raise AssertionError(f"The project's server did not start:\n{self.log.read_text()}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    def request(self, method: str, path: str, headers: Mapping[str, str | bytes], body: bytes = b"") -> Got:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            found = {
                name.lower(): value.encode("latin-1").decode("utf-8", "replace")
                for name, value in response.getheaders()
            }
            return Got(response.status, found, response.read())
        finally:
            connection.close()

    def told(self, connection_id: str, number: int) -> list[Any]:
        """What the functions were told of a connection, once it is so much."""
        got = self.request("GET", f"/told/{connection_id}/{number}", {})
        return list(json.loads(got.body)["told"])


@pytest.fixture(scope="module", params=["asgi", "wsgi"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    running = Project(request.param, tmp_path_factory.mktemp("project"))
    try:
        yield running.wait()
    finally:
        running.stop()


def signature(connection_id: str, *keys: str) -> str:
    return ",".join(
        "sha256=" + hmac.new(key.encode(), connection_id.encode(), hashlib.sha256).hexdigest() for key in keys
    )


def event(kind: str, connection_id: str = "c0ffee", **changes: str | bytes | None) -> dict[str, str | bytes]:
    """The headers of an event as the service sends them; `changes` by name with `_` for `-`, None takes one out."""
    headers: dict[str, str | bytes | None] = {
        "Content-Type": "application/json",
        "WebHook-Request-Origin": ORIGIN,
        "ce-specversion": "1.0",
        "ce-awpsversion": "1.0",
        "ce-type": f"azure.webpubsub.{kind}",
        "ce-source": f"/hubs/chat/client/{connection_id}",
        "ce-id": "1",
        "ce-time": "2026-01-01T00:00:00Z",
        "ce-signature": signature(connection_id, *KEYS),
        "ce-connectionId": connection_id,
        "ce-hub": "chat",
        "ce-eventName": kind.partition(".")[2],
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in headers.items() if value is not None}


Send = Callable[..., Got]


@pytest.fixture
def send(project: Project) -> Send:
    """`send("user.echo", b"body", ce_userId="ann")`: POST an event."""

    def post(kind: str, body: bytes = b"{}", path: str = PATH, **changes: str | bytes | None) -> Got:
        return project.request("POST", path, event(kind, **changes), body)  # type: ignore[arg-type]

    return post


def said(send: Send, kind: str, text: str, **changes: str | None) -> Got:
    return send(kind, text.encode(), Content_Type="text/plain; charset=utf-8", **changes)


def connect(send: Send, **query: list[str]) -> Got:
    return send("sys.connect", json.dumps({"query": query, "subprotocols": ["a", "b"]}).encode())


# Byte for byte


def raw(project: Project, request: str, body: bytes = b"") -> tuple[str, bytes]:
    """Send a request as it is written in Azure's documents; gives the head and the body of the answer."""
    import socket

    lines = request.strip().replace("{length}", str(len(body))).replace("\n", "\r\n").encode()
    with socket.create_connection(("127.0.0.1", project.port), PATIENCE) as connection:
        connection.sendall(lines + b"\r\nConnection: close\r\n\r\n" + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, rest = answer.partition(b"\r\n\r\n")
    return head.decode().lower(), rest


def test_the_validation_request_of_azures_documents(project: Project) -> None:
    head, body = raw(
        project,
        """
OPTIONS /events/chat HTTP/1.1
Host: xxx
WebHook-Request-Origin: pubsub.example.com
Date: Fri, 01 Jan 2021 00:00:00 GMT
""",
    )
    assert " 200 " in head.partition("\r\n")[0]
    assert "\r\nwebhook-allowed-origin: pubsub.example.com" in head
    assert body == b""


HEADS = """
POST /events/chat?code=abc HTTP/1.1
Host: xxxxxx
WebHook-Request-Origin: pubsub.example.com
Content-Type: {content_type}
Content-Length: {length}
ce-specversion: 1.0
ce-awpsversion: 1.0
ce-type: azure.webpubsub.{kind}
ce-source: /hubs/chat/client/0123abcd
ce-id: {id}
ce-time: 2021-01-01T00:00:00Z
ce-signature: {signature}
ce-connectionId: 0123abcd
ce-hub: chat
ce-eventName: {name}
"""


def azure(kind: str, content_type: str, more: str = "") -> str:
    values = {
        "kind": kind,
        "content_type": content_type,
        "name": kind.partition(".")[2],
        "id": "1",
        "signature": signature("0123abcd", *KEYS),
    }
    text = HEADS
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text + more


def test_the_connect_request_of_azures_documents(project: Project) -> None:
    body = b"""{
    "claims": {"iat": ["1600000000"], "nbf": ["1600000000"], "role": ["webpubsub.joinLeaveGroup"]},
    "query": {"want": ["everything"], "q": ["v1", "v2"]},
    "headers": {"User-Agent": ["\xc3\xa4"]},
    "subprotocols": ["json.webpubsub.azure.v1"],
    "clientCertificates": [{"thumbprint": "ABC", "content": "-----BEGIN CERTIFICATE-----"}]
}"""
    head, answer = raw(project, azure("sys.connect", "application/json; charset=utf-8"), body)
    assert " 200 " in head.partition("\r\n")[0]
    assert "\r\ncontent-type: application/json" in head
    assert json.loads(json.loads(answer)["userId"]) == [
        {"iat": ["1600000000"], "nbf": ["1600000000"], "role": ["webpubsub.joinLeaveGroup"]},
        {"want": ["everything"], "q": ["v1", "v2"]},
        {"User-Agent": ["ä"]},
        ["json.webpubsub.azure.v1"],
        "0123abcd",
    ]


def test_the_user_events_of_azures_documents(project: Project) -> None:
    more = "ce-userId: {userId}\nce-subprotocol: json.webpubsub.azure.v1\nce-connectionState: anystring\n"
    for content_type, body, answered in [
        ("application/octet-stream", b"\x00\xff", "application/octet-stream"),
        ("text/plain", b"text payload", "text/plain; charset=utf-8"),
        ("application/json", b'{"a": 1.0}', "application/json"),
    ]:
        head, answer = raw(project, azure("user.echo", content_type, more), body)
        assert " 200 " in head.partition("\r\n")[0]
        assert f"\r\ncontent-type: {answered}" in head
        assert answer == body


def test_the_notifications_of_azures_documents(project: Project) -> None:
    before = len(project.told("0123abcd", 0))
    for kind, body in [("sys.connected", b"{}"), ("sys.disconnected", b'{"reason": "{Reason}"}')]:
        head, answer = raw(project, azure(kind, "application/json; charset=utf-8"), body)
        assert " 204 " in head.partition("\r\n")[0]
        assert answer == b""
        before += 1
        project.told("0123abcd", before)
    assert project.told("0123abcd", before)[-2:] == ["connected", ["{Reason}", None]]


# Who may send


@pytest.mark.parametrize("method", ["OPTIONS", "GET"])
@pytest.mark.parametrize(
    ("path", "origin", "status", "allowed"),
    [
        (PATH, ORIGIN, 200, ORIGIN),
        (PATH, "PubSub.Example.com", 200, "PubSub.Example.com"),
        (PATH, f"{ORIGIN}:8443", 200, f"{ORIGIN}:8443"),
        (PATH, "elsewhere.example.com", 403, None),
        (PATH, "*", 403, None),
        (PATH, "[::1]x@", 403, None),
        (PATH, None, 400, None),
        ("/events/open", "anywhere.example.com", 200, "anywhere.example.com"),
    ],
)
def test_abuse_protection(
    project: Project, method: str, path: str, origin: str | None, status: int, allowed: str | None
) -> None:
    got = project.request(method, path, {"WebHook-Request-Origin": origin} if origin else {})
    assert (got.status, got.headers.get("webhook-allowed-origin")) == (status, allowed)


def test_other_methods_are_refused(project: Project) -> None:
    got = project.request("PUT", PATH, event("user.echo"))
    assert (got.status, got.headers["allow"]) == (405, "OPTIONS, GET, POST")


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (signature("c0ffee", "first key", KEY), 200),
        (signature("c0ffee", KEY), 200),
        (signature("c0ffee", KEY, "another"), 200),
        (signature("c0ffee", KEY).upper(), 200),
        (signature("c0ffee", "another"), 401),
        (signature("another", KEY), 401),
        (signature("c0ffee", KEY)[:-2], 401),
        (signature("c0ffee", KEY).removeprefix("sha256="), 401),
        (signature("c0ffee", KEY).replace("sha256", "sha1"), 401),
        ("sha256=,sha256=é,,=", 401),
        (",".join(["sha256=00"] * 8 + [signature("c0ffee", KEY)]), 401),
        ("", 401),
        (None, 401),
    ],
)
def test_the_signature_is_looked_at(send: Send, given: str | None, status: int) -> None:
    got = said(send, "user.shout", "hi", ce_signature=given and given.encode())
    assert got.status == status
    if status == 401:
        assert "ce-signature" in got.trouble
        assert KEY not in got.text


def test_without_keys_no_signature_is_needed(send: Send) -> None:
    assert said(send, "user.shout", "hi", path="/events/open", ce_signature=None).text == "HI"


def test_events_of_other_senders_are_refused(send: Send) -> None:
    for origin in ("elsewhere.example.com", None):
        got = said(send, "user.shout", "hi", WebHook_Request_Origin=origin)
        assert got.status == (403 if origin else 400)


# What is no event of this hub


@pytest.mark.parametrize(
    ("kind", "changes", "status", "trouble"),
    [
        ("user.echo", {"ce_awpsversion": None}, 400, "ce-awpsversion is missing"),
        ("user.echo", {"ce_awpsversion": "2.0"}, 400, "version '2.0'"),
        ("user.echo", {"ce_type": None}, 400, "ce-type is missing"),
        ("user.echo", {"ce_type": "com.example.created"}, 400, "com.example.created"),
        ("user.echo", {"ce_type": "azure.webpubsub.user."}, 400, "azure.webpubsub.user."),
        ("sys.other", {}, 400, "azure.webpubsub.sys.other"),
        ("gp.joined", {}, 400, "azure.webpubsub.gp.joined"),
        ("user.echo", {"ce_hub": None}, 400, "ce-hub is missing"),
        ("user.echo", {"ce_hub": "another"}, 400, "the hub chat, not 'another'"),
        ("user.echo", {"ce_connectionId": None}, 400, "ce-connectionId is missing"),
        ("user.echo", {"ce_userId": b"\xff"}, 400, "ce-userId is not UTF-8"),
        ("user.echo", {"Content_Type": "text/html"}, 415, "'text/html'; it can be one of application/json, "),
        ("user.unknown", {"Content_Type": "text/plain"}, 404, "No function takes this event"),
    ],
)
def test_what_is_no_event_of_this_hub(
    send: Send, kind: str, changes: dict[str, Any], status: int, trouble: str
) -> None:
    got = send(kind, **changes)
    assert got.status == status
    assert trouble in got.trouble


def test_a_header_that_says_who_it_is_about_comes_once(project: Project) -> None:
    head, _ = raw(project, azure("user.echo", "text/plain", "ce-connectionId: another\n"), b"hi")
    # WSGI servers join the two into one value, which nobody has signed.
    assert f" {400 if project.server == 'asgi' else 401} " in head.partition("\r\n")[0]


@pytest.mark.parametrize(
    ("kind", "content_type", "body"),
    [
        ("user.echo", "text/plain", b"\xff"),
        ("user.echo", "application/json", b"{"),
        ("user.echo", "application/json", b" "),
        ("user.echo", "application/json", b"[" * 50_000),
        ("user.echo", "application/json", b'"\xff"'),
        ("sys.connect", "application/json", b"{"),
        ("sys.connect", "application/json", b'{"query": {"a": "text"}}'),
        ("sys.connect", "application/json", b'{"subprotocols": [1]}'),
        ("sys.disconnected", "application/json", b'{"reason": 1}'),
    ],
)
def test_bodies_that_cannot_be_read(send: Send, kind: str, content_type: str, body: bytes) -> None:
    got = send(kind, body, Content_Type=content_type)
    assert got.status == 400
    assert "body" in got.trouble.lower()


def test_the_body_has_a_bound(send: Send) -> None:
    assert said(send, "user.echo", "x" * MAX_BODY_BYTES).status == 200
    got = said(send, "user.echo", "x" * (MAX_BODY_BYTES + 1))
    assert (got.status, got.trouble) == (413, f"The body has more than {MAX_BODY_BYTES} bytes.")


# Connect


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"claims": null, "query": null, "mqtt": {}}'])
def test_connect_may_say_little(send: Send, body: bytes) -> None:
    got = send("sys.connect", body)
    assert (got.status, got.body) == (204, b"")
    assert "content-type" not in got.headers


def test_what_becomes_of_a_connection(send: Send) -> None:
    assert connect(send, want=["nothing"]).status == 204
    got = connect(send, become=["grüße"], into=["g", "ö"], roles=["r"], choose=["b"], state=["söme state"])
    assert json.loads(got.body) == {"userId": "grüße", "groups": ["g", "ö"], "roles": ["r"], "subprotocol": "b"}
    assert (got.status, got.headers["ce-connectionstate"]) == (200, "söme state")
    assert json.loads(connect(send, become=[""]).body) == {"userId": ""}
    assert json.loads(connect(send, roles=[]).body) == {"roles": []}
    got = connect(send, state=[""])
    assert (got.status, got.headers["ce-connectionstate"]) == (204, "")


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({"status": ["401"]}, 401, ""),
        ({"status": ["403"], "words": ["Du heißt nicht so."]}, 403, "Du heißt nicht so."),
        ({"status": ["503"]}, 503, ""),
    ],
)
def test_a_client_that_is_turned_away(send: Send, query: dict[str, list[str]], status: int, words: str) -> None:
    got = connect(send, **query)
    assert (got.status, got.text) == (status, words)
    assert got.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("query", "logged"),
    [
        ({"crash": [""]}, "RuntimeError: a secret of the project"),
        ({"choose": ["c"]}, "the subprotocol is not one that the client offered"),
        ({"into": [" "]}, "one of the groups has a name that no group can have"),
        ({"state": ["two\nlines"]}, "the connection's state has a control character"),
        ({"state": ["x" * (MAX_STATE_BYTES + 1)]}, f"the connection's state has more than {MAX_STATE_BYTES} bytes"),
        ({"become": ["\x00"]}, "the userId has a character that no HTTP header can carry"),
        ({"want": ["half a character"]}, "half a surrogate pair"),
    ],
)
def test_faults_of_a_function_are_logged_and_not_told(
    project: Project, send: Send, query: dict[str, list[str]], logged: str
) -> None:
    got = connect(send, **query)
    assert (got.status, got.trouble) == (500, "The function failed.")
    assert logged in project.log.read_text()


# User events


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain; charset=utf-8", "grüße".encode()),
        ("application/json", b'{"n": 12345678901234567890.10}'),
        ("application/octet-stream", bytes(range(256))),
        ("application/x-protobuf", b"\x0a\x01x"),
    ],
)
def test_payloads_of_every_type_go_through(send: Send, content_type: str, body: bytes) -> None:
    got = send("user.echo", body, Content_Type=content_type)
    assert (got.status, got.headers["content-type"], got.body) == (200, content_type, body)


def test_who_an_event_is_about(send: Send) -> None:
    user = "jürgen, the first"
    got = send("user.Who", ce_hub="CHAT", ce_userId=user.encode(), ce_subprotocol="x", ce_connectionState="")
    assert json.loads(got.body) == ["chat", "c0ffee", user, "x", "", "Who"]
    assert json.loads(send("user.who").body) == ["chat", "c0ffee", None, None, None, "who"]


@pytest.mark.parametrize("state", ["anystring", "a, b", "eyJhIjoiYiJ9", "ähm"])
def test_state_is_opaque(send: Send, state: str) -> None:
    assert said(send, "user.remember", state).headers["ce-connectionstate"] == state
    assert json.loads(send("user.who", ce_connectionState=state.encode()).body)[4] == state


def test_metadata_goes_both_ways(send: Send) -> None:
    got = said(send, "user.echo", "hi", X_WebPubSub_Metadata_Colour="Teal")
    assert got.headers["x-webpubsub-metadata-colour"] == "Teal"
    got = said(send, "user.label", "red")
    assert (got.status, got.headers["x-webpubsub-metadata-colour"]) == (204, "red")


@pytest.mark.parametrize("value", ["red, green", " red ", "ä", "x" * 1025, "two\nlines"])
def test_metadata_that_would_not_arrive_is_a_fault(project: Project, send: Send, value: str) -> None:
    assert said(send, "user.label", value).status == 500
    assert "metadata" in project.log.read_text()


def test_nothing_to_say(send: Send) -> None:
    for kind in ("user.nothing", "user.echo"):
        got = send(kind, b"", Content_Type="text/plain")
        assert (got.status, got.body) == (204, b"")


def test_a_crash_is_logged_and_not_told(project: Project, send: Send) -> None:
    got = send("user.crash")
    assert (got.status, got.trouble) == (500, "The function failed.")
    assert "The handler of event crash in hub chat failed" in project.log.read_text()


# Notifications


def notify(project: Project, kind: str, connection_id: str, **body: str) -> Got:
    return project.request(
        "POST", PATH, event(kind, connection_id, ce_connectionState="state"), json.dumps(body).encode()
    )


@pytest.mark.parametrize("project", ["asgi"], indirect=True)
def test_the_answer_does_not_wait_for_the_function(project: Project, send: Send) -> None:
    connection_id = secrets.token_hex(8)
    assert notify(project, "sys.disconnected", connection_id, reason="slow").status == 204
    assert project.told(connection_id, 0) == []
    send("user.release")
    assert project.told(connection_id, 1) == [["slow", "state"]]


@pytest.mark.parametrize("project", ["wsgi"], indirect=True)
def test_under_wsgi_the_function_is_done_when_the_answer_comes(project: Project) -> None:
    connection_id = secrets.token_hex(8)
    assert notify(project, "sys.connected", connection_id).status == 204
    assert notify(project, "sys.disconnected", connection_id, reason="bye").status == 204
    assert project.told(connection_id, 0) == ["connected", ["bye", "state"]]


def test_a_crash_in_a_notification_is_logged(project: Project, send: Send) -> None:
    assert send("sys.disconnected", b'{"reason": "crash"}').status == 204
    # What is told next shows that the one before is over.
    connection_id = secrets.token_hex(8)
    notify(project, "sys.disconnected", connection_id)
    assert project.told(connection_id, 1) == [["", "state"]]
    assert "The disconnected handler of hub chat failed" in project.log.read_text()


def test_functions_that_nobody_registered(send: Send, project: Project) -> None:
    got = send("sys.connect", path="/events/forgotten", ce_hub="forgotten")
    assert (got.status, got.trouble) == (500, "No functions are registered for this hub.")
    assert "import the module that registers them" in project.log.read_text()


def test_nothing_else_of_the_service_came_along(project: Project) -> None:
    modules = set(json.loads(project.request("GET", "/loaded", {}).body)["modules"])
    assert "hubs.upstream.mount" in modules
    assert not modules & {
        "hubs.models",
        "hubs.hub_settings",
        "hubs.node",
        "hubs.cluster",
        "hubs.operations",
        "channels.layers",
    }


# The view itself


def test_no_form_guard_and_no_sign_in_stand_before_it(application: HubHandlers) -> None:
    view: Any = webhook(application.hub, allowed_origins=["*"])
    assert view.csrf_exempt
    request = RequestFactory().post("/")
    request.user = AnonymousUser()
    assert LoginRequiredMiddleware(lambda request: None).process_view(request, view, (), {}) is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "say whose events are taken"),
        ({"access_keys": ["k"]}, "say whose events are taken"),
        ({"connection_string": ""}, "a connection string reads"),
        ({"connection_string": "Endpoint=https://a.example;AccessKey=;"}, "a connection string reads"),
        ({"allowed_origins": [""]}, "name hosts"),
        ({"allowed_origins": ["a host"]}, "name hosts"),
        ({"connection_string": "Endpoint=https://;AccessKey=k"}, "name hosts"),
        ({"allowed_origins": ["*"], "access_keys": [""]}, "must not contain empty strings"),
    ],
)
def test_a_mistake_shows_when_the_project_starts(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        webhook("chat", **arguments)


@pytest.mark.parametrize("arguments", [{"access_keys": "key"}, {"allowed_origins": "*"}, {"allowed_origins": [None]}])
def test_a_text_is_no_list_of_texts(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="takes a list of texts"):
        webhook("chat", **{"allowed_origins": ["*"], **arguments})


def asked(kind: str, hub: str, body: bytes = b"{}") -> Any:
    headers = {name: str(value) for name, value in event(kind, ce_hub=hub, Content_Type=None).items()}
    return AsyncRequestFactory().post("/", body, content_type="application/json", headers=headers)


async def test_two_connection_strings_are_two_services(application: HubHandlers) -> None:
    application.on_connect(lambda request: None)
    strings = [CONNECTION_STRING, "Endpoint=http://localhost:8080;AccessKey=mine"]
    view = webhook(application.hub, connection_string=strings)
    ask = AsyncRequestFactory().options
    for origin, status in [("localhost", 200), (ORIGIN, 200), ("a.example", 403)]:
        assert (await view(ask("/", headers={"WebHook-Request-Origin": origin}))).status_code == status
    assert (await view(asked("sys.connect", application.hub))).status_code == 204


async def test_too_many_notifications_are_sent_again_later(application: HubHandlers, webpubsub: Any) -> None:
    webpubsub(MAX_WAITING_NOTIFICATIONS=1)
    released, told = asyncio.Event(), []

    @application.on_connected
    async def connected(context: EventContext) -> None:
        await released.wait()
        told.append(context.connection_id)

    view = webhook(application.hub, allowed_origins=["*"])
    statuses = [(await view(asked("sys.connected", application.hub))).status_code for _ in range(2)]
    assert statuses == [204, 503]
    released.set()
    await asyncio.wait_for(asyncio.gather(*mounting._notifications), PATIENCE)
    assert told == ["c0ffee"]


async def test_too_many_calls_are_said_to_be_too_many(application: HubHandlers, webpubsub: Any) -> None:
    webpubsub(HANDLER_THREADS=1, MAX_WAITING_HANDLER_CALLS=0)
    import threading

    begun, released = threading.Event(), threading.Event()

    @application.on_event("*")
    def busy(request: UserEventRequest) -> str:
        begun.set()
        released.wait(PATIENCE)
        return "done"

    view = webhook(application.hub, allowed_origins=["*"])
    first = asyncio.create_task(view(asked("user.a", application.hub)))  # type: ignore[arg-type]
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    assert (await view(asked("user.b", application.hub))).status_code == 503
    released.set()
    assert (await first).content == b"done"


@pytest.mark.parametrize(
    "answer",
    [
        Reply(state=1),  # type: ignore[arg-type]
        Reply(state="\ud800"),
        Reply(metadata={"a": 1}),  # type: ignore[dict-item]
        Reply(metadata={1: "a"}),  # type: ignore[dict-item]
        Reply(metadata={"a b": "c"}),
        {"a", "set"},
        ConnectAnswer(),
        Rejected(403),
    ],
)
async def test_what_no_client_can_be_told(application: HubHandlers, answer: Any) -> None:
    @application.on_event("*")
    async def function(request: UserEventRequest) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    view = webhook(application.hub, allowed_origins=["*"])
    assert (await view(asked("user.a", application.hub))).status_code == 500


async def test_words_that_no_client_can_be_told_are_told_as_far_as_they_can(application: HubHandlers) -> None:
    @application.on_connect
    async def function(request: ConnectRequest) -> None:
        raise Rejected(403, "half \ud800 a character")

    view = webhook(application.hub, allowed_origins=["*"])
    answer = await view(asked("sys.connect", application.hub))
    assert (answer.status_code, answer.content) == (403, b"half ? a character")


async def test_a_function_that_takes_too_long_is_a_failure(application: HubHandlers, webpubsub: Any) -> None:
    webpubsub(HANDLER_SECS=0.05)

    @application.on_event("*")
    async def slow(request: UserEventRequest) -> None:
        await asyncio.Event().wait()

    view = webhook(application.hub, allowed_origins=["*"])
    assert (await view(asked("user.a", application.hub))).status_code == 500


# In a loop: Hubwire's own event handlers call the mounted functions


@pytest.fixture
def mounted(project: Project, rows: Rows, client: Webhooks) -> EventHandlerSettings:
    """The project as an event handler of the hub `chat`."""
    every = frozenset(["connect", "connected", "disconnected"])
    row = EventHandlerSettings(1, f"{project.url}{PATH}?event={{event}}", "*", every)
    rows.set("chat", row)
    return row


async def soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, PATIENCE)


@pytest.fixture
def session() -> Session:
    return Session("chat", secrets.token_hex(16), "änn", "json.webpubsub.azure.v1")


async def happens(session: Session, name: str, payload: Payload, **metadata: str) -> Reply:
    reply: Reply = await soon(dispatch.user_event(session, UserEventRequest(session.context, name, payload, metadata)))
    return reply


async def joins(session: Session, **query: list[str]) -> ConnectAnswer:
    request = ConnectRequest(session.context, {"sub": ["änn"]}, query, {"Host": ["h"]}, ["a", "b"])
    answer: ConnectAnswer = await soon(dispatch.connect(session, request))
    return answer


@pytest.mark.usefixtures("mounted")
async def test_a_connection_from_its_beginning_to_its_end(project: Project, session: Session) -> None:
    answer = await joins(session, become=["grüße"], into=["g", "h"], roles=["r"], choose=["b"], state=["söme state"])
    assert answer == ConnectAnswer("grüße", ["g", "h"], ["r"], "b", "söme state")
    assert json.loads((await joins(session, want=["everything"])).user_id or "") == [
        {"sub": ["änn"]},
        {"want": ["everything"]},
        {"Host": ["h"]},
        ["a", "b"],
        session.connection_id,
    ]
    dispatch.connected(session)
    assert (await asyncio.to_thread(project.told, session.connection_id, 1)) == ["connected"]
    for payload in (
        Payload(TEXT, "grüße".encode()),
        Payload(JSON, b'{"a":[1.0]}'),
        Payload(BINARY, b"\x00\xff"),
        Payload(PROTOBUF, b"\x0a\x01x"),
    ):
        reply = await happens(session, "echo", payload, colour="teal", other="a b")
        assert reply == Reply(payload, {"colour": "teal", "other": "a b"})
    assert (await happens(session, "shout", Payload(TEXT, b"hi"))).payload == Payload(TEXT, b"HI")
    await happens(session, "remember", Payload(TEXT, "new, stäte".encode()))
    who = await happens(session, "who", Payload(TEXT, b"?"))
    assert who.payload is not None
    assert json.loads(who.payload.data)[1:] == [session.connection_id, "änn", session.subprotocol, "new, stäte", "who"]
    assert await happens(session, "nothing", Payload(TEXT, b"?")) == Reply()
    dispatch.disconnected(session, "bye – for now")
    assert (await asyncio.to_thread(project.told, session.connection_id, 2))[1] == ["bye – for now", "new, stäte"]


@pytest.mark.usefixtures("mounted")
async def test_a_connection_that_is_turned_away(session: Session) -> None:
    with pytest.raises(HandshakeRefused, match="Du heißt nicht so") as refused:
        await joins(session, status=["403"], words=["Du heißt nicht so."])
    assert refused.value.status == 403


@pytest.mark.usefixtures("mounted")
@pytest.mark.parametrize(("name", "status"), [("crash", 500), ("unknown", 404)])
async def test_a_fault_of_the_function_is_one_of_the_handler(
    session: Session, caplog: pytest.LogCaptureFixture, name: str, status: int
) -> None:
    with pytest.raises(HandlerFailed):
        await happens(session, name, Payload(TEXT, b"?"))
    assert f"the answer's status is {status}" in caplog.text


@pytest.mark.usefixtures("mounted")
async def test_a_service_with_other_keys_is_refused(
    rows: Rows, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    rows.snapshot = type(rows.snapshot)(rows.snapshot.version, rows.snapshot.hubs, ("another key",))
    with pytest.raises(HandlerFailed):
        await happens(session, "shout", Payload(TEXT, b"hi"))
    assert "the answer's status is 401" in caplog.text
