"""Two running services, one without the fast path: on the wire they cannot be told apart."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from websockets.sync.client import connect

from tests.running import PATIENCE, Service

# A name that both are known by.
ENDPOINT = "http://both.example"
GROUP = "/api/hubs/chat/groups/g/:send"
BODY = b'{"a": 1}'
JSON_TYPE = "Content-Type: application/json"


@pytest.fixture(scope="module", params=["uvicorn", "daphne"])
def services(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    """One with the fast path, one without, of one database."""
    folder: Path = tmp_path_factory.mktemp("fast path")
    common = {"EXTRA_ENDPOINTS": ENDPOINT}
    without = common | {"DJANGO_SETTINGS_MODULE": "tests.rest.project.settings"}
    made = [Service(folder, server=request.param, env=env) for env in (common, without)]
    made[0].set_up()
    try:
        yield [service.start() for service in made]
    finally:
        for service in made:
            service.stop()


@pytest.fixture(scope="module")
def key(services: list[Service]) -> str:
    return dict(part.split("=", 1) for part in services[0].connection_string.split(";") if part)["AccessKey"]


def exchange(service: Service, request: bytes) -> list[bytes]:
    """Send bytes, and give the lines of what comes back until the server closes."""
    with socket.create_connection(("localhost", service.port), timeout=PATIENCE) as wire:
        wire.sendall(request)
        received = b""
        while data := wire.recv(65536):
            received += data
    return [line for line in received.split(b"\r\n") if not line.lower().startswith(b"date:")]


def written(target: str, key: str, *headers: str, method: str = "POST", body: bytes = BODY, **claims: Any) -> bytes:
    token = jwt.encode({"aud": f"{ENDPOINT}{target}", "exp": int(time.time()) + 60} | claims, key, "HS256")
    lines = [f"{method} {target} HTTP/1.1", "Host: both.example", "Connection: close", f"Authorization: Bearer {token}"]
    lines += headers or (JSON_TYPE,)
    if not any(header.startswith(("Content-Length", "Transfer-Encoding")) for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


REQUESTS: dict[str, dict[str, Any]] = {
    "to a group": {"target": f"{GROUP}?api-version=2024-12-01"},
    "to all": {"target": "/api/hubs/chat/:send/"},
    "to a user": {"target": "/api/hubs/chat/users/a%2Fb%20%C3%BC/:send"},
    "to a connection": {"target": "/api/hubs/CHAT/connections/nobody/%3Asend?messageTtlSeconds=1"},
    "request id": {"headers": [JSON_TYPE, "x-ms-client-request-id: 6f1c-77"]},
    "metadata": {"headers": [JSON_TYPE, "X-WebPubSub-Metadata-A: 1", "X-WebPubSub-Metadata-A: 2"]},
    "bad metadata": {"headers": [JSON_TYPE, f"X-WebPubSub-Metadata-A: {'v' * 1025}"]},
    "expect": {"headers": [JSON_TYPE, "Expect: 100-continue"]},
    "an offer": {"headers": [JSON_TYPE, "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA"]},
    "another type": {"headers": ["Content-Type: application/xml"]},
    "no type": {"headers": ["Accept: */*"]},
    "broken JSON": {"body": b'{"a"'},
    "no body": {"body": b""},
    "chunked": {"headers": [JSON_TYPE, "Transfer-Encoding: chunked"], "body": b"8\r\n" + BODY + b"\r\n0\r\n\r\n"},
    "version": {"target": f"{GROUP}?api-version=1"},
    "two versions": {"target": f"{GROUP}?api-version=2024-12-01&API-VERSION=2024-12-01"},
    "filter": {"target": f"{GROUP}?filter=userId%20eq%201"},
    "ttl": {"target": f"{GROUP}?messageTtlSeconds=301"},
    "many parameters": {"target": GROUP + "?" + "&".join(f"excluded={number}" for number in range(1100))},
    "another address": {"aud": f"{ENDPOINT}/api/hubs/chat/groups/h/:send"},
    "expired": {"exp": 1_700_000_000},
    "hub": {"target": "/api/hubs/1st/:send"},
    "group": {"target": "/api/hubs/chat/groups/%20/:send"},
    "no UTF-8": {"target": "/api/hubs/chat/groups/%FF/:send"},
    "no such thing": {"target": "/api/hubs/chat/groups/g/x/:send"},
    "HEAD": {"method": "HEAD"},
    "OPTIONS": {"method": "OPTIONS"},
    "GET": {"method": "GET"},
    "cookie": {"headers": [JSON_TYPE, "Cookie: a=b"]},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_on_the_wire(services: list[Service], key: str, name: str) -> None:
    made = {"target": GROUP} | REQUESTS[name]
    request = written(made.pop("target"), key, *made.pop("headers", ()), **made)
    with_fast_path, without = (exchange(service, request) for service in services)
    assert with_fast_path == without
    assert with_fast_path[0].startswith(b"HTTP/1.1 ")


def test_requests_one_behind_the_other(services: list[Service], key: str) -> None:
    """Pipelined: answered in order, whichever way each takes."""
    first = written(GROUP, key, JSON_TYPE, "x-ms-client-request-id: 1").replace(b"Connection: close\r\n", b"")
    second = written(GROUP, key, method="GET").replace(b"Connection: close\r\n", b"")
    third = written(GROUP, "s" * 64)
    with_fast_path, without = (exchange(service, first + second + third) for service in services)
    assert with_fast_path == without
    # A body has no line's end of its own.
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", b"\n".join(with_fast_path))
    assert statuses == [b"202", b"405", b"401"]


def test_the_official_sdk_sends_to_either(services: list[Service]) -> None:
    """Also to a project without the fast path."""
    for service in services:
        with WebPubSubServiceClient.from_connection_string(service.connection_string, "chat") as sdk:
            url = sdk.get_client_access_token(user_id="ann", groups=["g"])["url"]
            with connect(url, open_timeout=PATIENCE) as client:
                sdk.send_to_group("g", "to the group", content_type="text/plain")
                sdk.send_to_user("ann", {"to": "the user"})
                sdk.send_to_all(b"\x00\xff", content_type="application/octet-stream")
                heard = [client.recv(timeout=PATIENCE) for _ in range(3)]
            assert heard == ["to the group", '{"to": "the user"}', b"\x00\xff"]
