"""The management API of a running service: what is changed is what clients and servers meet, within two seconds."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.running import PATIENCE, Service


class Program:
    """A program of the staff's."""

    def __init__(self, service: Service) -> None:
        self.endpoint = service.endpoint
        self.headers = {"Authorization": f"Token {service.admin_token}", "Content-Type": "application/json"}

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.endpoint}/manage/api{path}", data, headers=self.headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as problem:
            with problem:
                return problem.code, json.loads(problem.read())


@pytest.fixture(scope="module")
def program(service: Service) -> Program:
    return Program(service)


@pytest.fixture
def hub(program: Program) -> Iterator[str]:
    name = f"managed{uuid.uuid4().hex[:12]}"
    assert program("PUT", f"/hubs/{name}", {"properties": {}})[0] == 201
    yield name
    assert program("DELETE", f"/hubs/{name}") == (204, None)
    assert program("GET", f"/hubs/{name}")[0] == 404


def becomes(expected: Any, look: Callable[[], Any]) -> None:
    """Look until it is as expected."""
    deadline = time.monotonic() + PATIENCE
    while (seen := look()) != expected:
        assert time.monotonic() < deadline, f"still {seen!r}"
        time.sleep(0.05)


def test_anonymous_connections(service: Service, program: Program, hub: str) -> None:
    url = f"{service.endpoint.replace('http', 'ws')}/client/hubs/{hub}"

    def handshake() -> int:
        try:
            with connect(url, open_timeout=PATIENCE):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    assert handshake() == 401
    for policy, status in (("allow", 101), ("deny", 401)):
        assert program("PATCH", f"/hubs/{hub}", {"properties": {"anonymousConnectPolicy": policy}})[0] == 200
        becomes(status, handshake)


def test_keys_of_a_hub(program: Program, hub: str) -> None:
    def opens(keys: dict[str, str]) -> bool:
        with WebPubSubServiceClient.from_connection_string(keys["primaryConnectionString"], hub, retry_total=0) as sdk:
            try:
                return not sdk.connection_exists("nobody")
            except ClientAuthenticationError:
                return False

    assert program("POST", f"/hubs/{hub}/listKeys")[0] == 404
    status, first = program("POST", f"/hubs/{hub}/regenerateKey", {"keyType": "Primary"})
    assert status == 200
    becomes(True, lambda: opens(first))
    assert program("POST", f"/hubs/{hub}/listKeys") == (200, first)
    _, second = program("POST", f"/hubs/{hub}/regenerateKey", {"keyType": "Primary"})
    becomes(True, lambda: opens(second))
    becomes(False, lambda: opens(first))
    assert program("DELETE", f"/hubs/{hub}/keys") == (204, None)
    becomes(False, lambda: opens(second))


def test_role_grants(service: Service, program: Program, hub: str) -> None:
    def roles() -> Any:
        with urllib.request.urlopen(f"{service.endpoint}/api/negotiate/{hub}", timeout=PATIENCE) as response:
            token = json.loads(response.read())["token"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(f"{token}=="))
        return claims.get("role")

    before = roles()
    grant = {"who": "anonymous", "role": "sendToGroup", "groupPattern": "live", "hub": hub}
    status, made = program("POST", "/roleGrants", {"properties": grant})
    assert status == 201
    assert program("GET", f"/hubs/{hub}/roleGrants") == (200, {"value": [made]})
    assert "webpubsub.sendToGroup.live" in str(roles())
    assert program("DELETE", f"/roleGrants/{made['name']}") == (204, None)
    assert roles() == before


def test_bad_news_of_the_server_itself(program: Program, hub: str) -> None:
    assert program("PUT", f"/hubs/{hub}", {"properties": {"x": "y" * 200_000}})[0] == 413
    assert program("PUT", "/hubs/a%2Fb", {"properties": {}})[0] == 404
    assert program("OPTIONS", "/hubs")[0] == 405
    for path in (f"/hubs/{hub}%00", f"/hubs/{hub}%0A", "/hubs/%ff"):
        assert program("GET", path)[0] == 400


def test_no_key_and_no_token_is_in_the_servers_log(service: Service, program: Program, hub: str) -> None:
    _, keys = program("POST", f"/hubs/{hub}/regenerateKey", {"keyType": "Primary"})
    program("POST", "/listKeys")
    log = service.log.read_text()
    assert not any(text in log for text in (*keys.values(), program.headers["Authorization"].split()[1]))
