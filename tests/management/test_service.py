"""`webpubsub service …`, typed at a running service and watched by a client."""

from __future__ import annotations

import json
import re
import shlex
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from django.core.management.base import CommandError
from websockets.sync.client import ClientConnection, connect

from hubs import conf
from hubs.models import AccessKey
from tests.management.conftest import Done, Run
from tests.running import PATIENCE, ROOT, Service, free_port

pytestmark = pytest.mark.django_db

PAGE = (ROOT / "docs" / "command-line.md").read_text()
LINES = re.findall(r"^manage\.py webpubsub (service .*)$", PAGE, re.M)


class Watcher:
    """A client of the JSON subprotocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.id = self.hear()["connectionId"]

    def hear(self) -> Any:
        return json.loads(self.socket.recv(timeout=PATIENCE))

    def nothing_more(self) -> None:
        self.socket.send('{"type":"ping"}')
        assert self.hear() == {"type": "pong"}


@pytest.fixture
def hub() -> str:
    return f"cli{uuid.uuid4().hex[:12]}"


@pytest.fixture
def watcher(service: Service, hub: str) -> Iterator[Watcher]:
    with WebPubSubServiceClient.from_connection_string(service.connection_string, hub) as sdk:
        url = sdk.get_client_access_token(user_id="ada")["url"]
    with connect(url, subprotocols=["json.webpubsub.azure.v1"], proxy=None) as socket:  # type: ignore[list-item]
        yield Watcher(socket)


@pytest.fixture
def typed(service: Service, webpubsub: Run, hub: str) -> Callable[..., Done]:
    """`typed("user", "exist", …)`: a command of the branch, about the test's own hub of the running service."""
    connection_string = service.connection_string
    return lambda *words: webpubsub("service", *words, "--hub-name", hub, "--connection-string", connection_string)


def server(data: Any, kind: str) -> dict[str, Any]:
    return {"type": "message", "from": "server", "dataType": kind, "data": data}


def group(data: Any, kind: str) -> dict[str, Any]:
    return {"type": "message", "from": "group", "group": "news/ü", "dataType": kind, "data": data}


def test_sending(typed: Callable[..., Done], watcher: Watcher) -> None:
    assert typed("broadcast", "--payload", "Grüße").out == "Sent to everybody, as text.\n"
    assert watcher.hear() == server("Grüße", "text")
    assert typed("broadcast", "--payload", '{"n": 1}').out == "Sent to everybody, as json.\n"
    assert watcher.hear() == server({"n": 1}, "json")
    typed("broadcast", "--payload", "1", "--data-type", "text")
    assert watcher.hear() == server("1", "text")
    typed("broadcast", "--payload", "not for you", "--excluded", "other", watcher.id)
    typed("broadcast", "--payload", "nor this", "--filter", "userId eq null")
    typed("user", "send", "--user-id", "ada", "--payload", "you")
    assert watcher.hear() == server("you", "text")
    typed("connection", "send", "--connection-id", watcher.id, "--payload", "null")
    assert watcher.hear() == server(None, "json")
    watcher.nothing_more()


def test_groups(typed: Callable[..., Done], watcher: Watcher) -> None:
    news = ("--group-name", "news/ü")
    assert typed("group", "add-user", *news, "--user-id", "ada").out.startswith("The present connections of ada")
    typed("group", "send", *news, "--payload", "1")
    assert watcher.hear() == group(1, "json")
    typed("group", "remove-user", *news, "--user-id", "ada")
    typed("group", "send", *news, "--payload", "2")
    typed("group", "add-connection", *news, "--connection-id", watcher.id)
    typed("group", "send", *news, "--payload", "3")
    assert watcher.hear() == group(3, "json")
    typed("group", "remove-connection", *news, "--connection-id", watcher.id)
    typed("group", "send", *news, "--payload", "4")
    watcher.nothing_more()


def test_existence_and_permissions(typed: Callable[..., Done], watcher: Watcher) -> None:
    assert typed("user", "exist", "--user-id", "ada").out == "yes\n"
    assert typed("user", "exist", "--user-id", "bob", "--output", "json").json == {"exist": False}
    assert typed("connection", "exist", "--connection-id", watcher.id).out == "yes\n"
    assert typed("connection", "exist", "--connection-id", "x", "--query", "exist", "-o", "tsv").out == "false\n"
    may = ("--connection-id", watcher.id, "--permission", "sendToGroup", "--group-name", "news")
    assert typed("permission", "check", *may).out == "no\n"
    assert typed("permission", "grant", *may).out == f"Connection {watcher.id} may sendToGroup news.\n"
    assert typed("permission", "check", *may, "--output", "json").json == {"permission": True}
    assert typed("permission", "revoke", *may, "--output", "json").out == ""
    assert typed("permission", "check", *may).out == "no\n"


def test_closing(typed: Callable[..., Done], watcher: Watcher) -> None:
    typed("connection", "close", "--connection-id", watcher.id, "--reason", "über")
    assert watcher.hear()["message"] == "Application server closed the connection. Reason: über"
    assert typed("connection", "exist", "--connection-id", watcher.id).out == "no\n"
    typed("connection", "close", "--connection-id", watcher.id)


def test_what_the_service_refuses_is_told_in_one_line(typed: Callable[..., Done]) -> None:
    for words, said in (
        (("broadcast", "--payload", "x", "--filter", "userId >"), "Invalid syntax for 'userId >'"),
        (("group", "add-user", "--group-name", "g", "--user-id", "nobody"), "User `nobody` is not found."),
        (("group", "add-connection", "--group-name", " ", "--connection-id", "x"), "Invalid group name."),
        (("user", "exist", "--user-id", " "), "The service answered 400 (Error.BadRequest)."),
    ):
        with pytest.raises(CommandError) as refused:
            typed(*words)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_wrong_key(service: Service, webpubsub: Run) -> None:
    wrong = f"Endpoint={service.endpoint};AccessKey={'k' * 44};Version=1.0;"
    with pytest.raises(CommandError, match="not signed with a key"):
        webpubsub("service", "broadcast", "chat", "--payload", "x", "--connection-string", wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Endpoint=https://x",
        "AccessKey=secret",
        "Endpoint=ws://x;AccessKey=secret",
        "Endpoint=http://[;AccessKey=secret",
    ],
)
def test_what_is_no_connection_string(webpubsub: Run, text: str) -> None:
    with pytest.raises(CommandError, match="--connection-string has to read") as refused:
        webpubsub("service", "broadcast", "chat", "--payload", "x", "--connection-string", text)
    assert "secret" not in str(refused.value)


def test_nobody_answers(webpubsub: Run, settings: Any) -> None:
    AccessKey.objects.ensure_pair()
    settings.WEBPUBSUB = {**settings.WEBPUBSUB, "PUBLIC_ENDPOINTS": [f"http://localhost:{free_port()}"]}
    conf.settings.reset()
    with pytest.raises(CommandError, match=r"No service answers at http://localhost:.*make run"):
        webpubsub("service", "broadcast", "chat", "--payload", "x")
    conf.settings.reset()


def test_without_keys(webpubsub: Run) -> None:
    with pytest.raises(CommandError, match=r"no access keys yet\. Run: manage\.py bootstrap"):
        webpubsub("service", "broadcast", "chat", "--payload", "x")


@pytest.mark.parametrize("words", [("service",), ("service", "group"), ("service", "group", "add")])
def test_slips(webpubsub: Run, words: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        webpubsub(*words)


def test_the_services_own_endpoint_and_key_as_a_user_types(service: Service) -> None:
    assert service.manage("webpubsub", "service", "user", "exist", "chat", "--user-id", "nobody").stdout == "no\n"


def test_every_line_of_the_page_works(typed: Callable[..., Done], watcher: Watcher) -> None:
    assert len(LINES) == 15
    assert shlex.split(LINES[0])[-1] == "Hello everybody"
    for line in LINES:
        words = [watcher.id if word == "ID" else word for word in shlex.split(line)[1:]]
        at = words.index("--hub-name")
        assert typed(*words[:at], *words[at + 2 :]).out
