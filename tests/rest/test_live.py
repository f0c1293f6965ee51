"""The data plane of a running service, driven by the official SDK and by bare HTTP."""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.running import PATIENCE, Service

from .conftest import bearer


@pytest.fixture(scope="module")
def connection_string(service: Service) -> str:
    return service.connection_string


@pytest.fixture
def hub() -> str:
    return f"rest{uuid.uuid4().hex[:12]}"


@pytest.fixture
def sdk(connection_string: str, hub: str) -> Iterator[WebPubSubServiceClient]:
    with WebPubSubServiceClient.from_connection_string(connection_string, hub, retry_total=0) as client:
        yield client


class Opened:
    """A client of the JSON subprotocol and the id it was given."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.id: str = self.receive()["connectionId"]

    def receive(self) -> dict:
        return json.loads(self.socket.recv(timeout=PATIENCE))

    def ask(self, **frame: object) -> dict:
        self.socket.send(json.dumps({"ackId": 1, **frame}))
        return self.receive()


@contextmanager
def http_connection(service: Service) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("localhost", service.port, timeout=PATIENCE)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def opening(url: str) -> Iterator[Opened]:
    with connect(url, subprotocols=[Subprotocol("json.webpubsub.azure.v1")], open_timeout=PATIENCE) as socket:
        yield Opened(socket)


@pytest.fixture
def opened(sdk: WebPubSubServiceClient) -> Iterator[Opened]:
    with opening(sdk.get_client_access_token(user_id="somebody")["url"]) as client:
        yield client


def exchange(service: Service, method: str, target: str, **headers: str) -> http.client.HTTPResponse:
    """One HTTP request, its target sent as it stands."""
    connection = http.client.HTTPConnection(urlsplit(service.endpoint).netloc, timeout=PATIENCE)
    connection.request(method, target, headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


def test_the_sdk_sees_and_closes_a_connection(sdk: WebPubSubServiceClient, opened: Opened) -> None:
    assert sdk.connection_exists(opened.id)
    assert not sdk.connection_exists("nobody")
    sdk.close_connection(opened.id, reason="time for bed, Jürgen")
    farewell = opened.receive()
    assert (farewell["type"], farewell["event"]) == ("system", "disconnected")
    assert farewell["message"] == "Application server closed the connection. Reason: time for bed, Jürgen"
    with pytest.raises(ConnectionClosed) as closed:
        opened.socket.recv(timeout=PATIENCE)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000
    assert not sdk.connection_exists(opened.id)
    sdk.close_connection(opened.id)


def test_the_sdk_grants_checks_and_revokes(sdk: WebPubSubServiceClient, opened: Opened) -> None:
    group = "a/b ü%2F?#"
    assert not sdk.has_permission("joinLeaveGroup", opened.id, target_name=group)
    sdk.grant_permission("joinLeaveGroup", opened.id, target_name=group)
    assert sdk.has_permission("joinLeaveGroup", opened.id, target_name=group)
    assert not sdk.has_permission("sendToGroup", opened.id, target_name=group)
    assert opened.ask(type="joinGroup", group=group)["success"]
    sdk.revoke_permission("joinLeaveGroup", opened.id, target_name=group)
    assert not sdk.has_permission("joinLeaveGroup", opened.id, target_name=group)
    with pytest.raises(ResourceNotFoundError) as missing:
        sdk.grant_permission("sendToGroup", "nobody", target_name=group)
    assert missing.value.response is not None
    assert missing.value.response.headers["x-ms-error-code"] == "Info.Connection.NotExisted"
    with pytest.raises(HttpResponseError, match="Invalid group name"):
        sdk.grant_permission("sendToGroup", opened.id)


def test_a_connection_of_another_hub_is_out_of_reach(
    connection_string: str, sdk: WebPubSubServiceClient, opened: Opened
) -> None:
    with WebPubSubServiceClient.from_connection_string(connection_string, "elsewhere") as other:
        assert not other.connection_exists(opened.id)
        other.close_connection(opened.id)
        with pytest.raises(ResourceNotFoundError):
            other.grant_permission("sendToGroup", opened.id, target_name="g")
    assert sdk.connection_exists(opened.id)


def test_line_27_a_generated_token_opens_a_socket(service: Service, connection_string: str, hub: str) -> None:
    """27. `:generateToken` returns `{"token": "…"}` usable for a client connect."""
    key = dict(part.split("=", 1) for part in connection_string.strip(";").split(";"))["AccessKey"]
    target = f"/api/hubs/{hub}/%3AgenerateToken?userId=me&role=webpubsub.joinLeaveGroup.g&api-version=2024-12-01"
    connection = http.client.HTTPConnection(urlsplit(service.endpoint).netloc, timeout=PATIENCE)
    connection.request("POST", target, headers=bearer(key, f"{service.endpoint}{target}"))
    response = connection.getresponse()
    token = json.loads(response.read())["token"]
    connection.close()
    with opening(f"ws{service.endpoint.removeprefix('http')}/client/hubs/{hub}?access_token={token}") as client:
        assert client.ask(type="joinGroup", group="g")["success"]


def test_wrong_keys_are_refused(service: Service, hub: str) -> None:
    stranger = f"Endpoint={service.endpoint};AccessKey={'k' * 64};Version=1.0;"
    with (
        WebPubSubServiceClient.from_connection_string(stranger, hub) as sdk,
        pytest.raises(ClientAuthenticationError) as refused,
    ):
        sdk.connection_exists("nobody")
    assert refused.value.response is not None
    assert refused.value.response.headers["WWW-Authenticate"] == "Bearer"


def test_an_encoded_slash_is_part_of_a_name(service: Service, connection_string: str) -> None:
    key = dict(part.split("=", 1) for part in connection_string.strip(";").split(";"))["AccessKey"]

    def delete(target: str) -> int:
        return exchange(service, "DELETE", target, **bearer(key, f"{service.endpoint}{target}")).status

    assert delete("/api/hubs/chat/connections/a%2Fb") == 204
    assert delete("/api/hubs/chat/connections/a/b") == 404


def test_a_head_answer_has_the_headers_of_its_body_and_no_body(service: Service) -> None:
    response = exchange(service, "HEAD", "/api/hubs/chat/connections/x", **{"x-ms-client-request-id": "abc"})
    assert response.status == 401
    assert int(response.headers["Content-Length"]) > 0
    assert response.headers["x-ms-client-request-id"] == "abc"
    assert response.headers["api-supported-versions"].endswith("2024-12-01")


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_health(service: Service, method: str) -> None:
    response = exchange(service, method, "/api/health")
    assert (response.status, response.headers["Content-Length"]) == (200, "0")


def test_a_negotiated_url_opens_a_socket(service: Service) -> None:
    """Also one negotiated under another name of loopback."""
    for host in (f"localhost:{service.port}", f"127.0.0.1:{service.port}"):
        connection = http.client.HTTPConnection("localhost", service.port, timeout=PATIENCE)
        connection.request("GET", "/negotiate", headers={"Host": host})
        url = json.loads(connection.getresponse().read())["url"]
        connection.close()
        assert url.startswith(f"ws://{host}/client/hubs/")
        with opening(url) as client:
            assert client.id


def test_bodies_of_strangers(service: Service) -> None:
    """Chunked ones are read, and what is larger than they need is not, whatever page it is for."""
    with http_connection(service) as connection:
        connection.request(
            "POST", "/api/negotiate/chat", iter([b'{"hub"', b': "chat"}']), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["url"].partition("?")[0]) == (
            200,
            f"ws://localhost:{service.port}/client/hubs/chat",
        )
    for path in ("/admin/login/", "/api/negotiate/chat", "/manage/api/hubs/chat", "/nowhere"):
        with http_connection(service) as connection:
            connection.request("POST", path, b"x" * 1_000_000, {"Content-Type": "application/x-www-form-urlencoded"})
            response = connection.getresponse()
            assert (response.status, response.read()) == (
                413,
                b"The body of this request is larger than 16384 bytes.\n",
            )


@pytest.mark.parametrize("path", ["/client/hubs/chat", "/client/?hub=chat", "/client"])
def test_plain_http_where_websockets_are_spoken(service: Service, path: str) -> None:
    """Client protocol checklist, line 4."""
    assert exchange(service, "GET", path).status == 400
