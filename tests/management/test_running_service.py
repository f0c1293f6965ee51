"""What the command line changes is soon in force in a running service (tests/test_hub_settings.py says how soon)."""

from __future__ import annotations

import time
from collections.abc import Iterator

import jwt
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.running import PATIENCE, Service


@pytest.fixture(scope="module")
def own_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose keys may be changed."""
    running = Service(tmp_path_factory.mktemp("service")).set_up()
    try:
        yield running.start()
    finally:
        running.stop()


def opens(url: str) -> bool:
    """Tell whether a client gets in."""
    try:
        with connect(url, subprotocols=["json.webpubsub.azure.v1"], proxy=None) as socket:
            socket.recv()
            return True
    except InvalidStatus as refused:
        if refused.response.status_code != 401:
            raise
        return False


def becomes(expected: bool, url: str) -> None:
    """Wait until a client gets in, or until none does."""
    deadline = time.monotonic() + PATIENCE
    while opens(url) is not expected:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_regenerated_key_is_in_force_and_nobody_is_thrown_out(own_service: Service) -> None:
    url = ["webpubsub", "client", "url", "--hub", "chat"]
    old = own_service.manage(*url).stdout.strip()
    secondary = own_service.manage_json("key", "show")["secondaryKey"]
    with connect(old, subprotocols=["json.webpubsub.azure.v1"], proxy=None) as socket:
        socket.recv()
        shown = own_service.manage_json("key", "regenerate", "--key", "primary")
        becomes(False, old)
        assert shown["secondaryKey"] == secondary
        becomes(True, own_service.manage(*url).stdout.strip())
        socket.send('{"type":"ping"}')
        assert socket.recv() == '{"type":"pong"}'


def test_hub_settings_are_in_force(own_service: Service) -> None:
    bare = f"ws://localhost:{own_service.port}/client/hubs/lounge"
    assert not opens(bare)
    own_service.manage("webpubsub", "hub", "create", "lounge", "--allow-anonymous", "true")
    becomes(True, bare)
    own_service.manage("webpubsub", "hub", "update", "lounge", "--allow-anonymous", "false")
    becomes(False, bare)
    own_service.manage("webpubsub", "hub", "update", "lounge", "--allow-anonymous")
    becomes(True, bare)
    own_service.manage("webpubsub", "hub", "delete", "lounge", "--yes")
    becomes(False, bare)


def test_a_hubs_own_key_opens_that_hub_only(own_service: Service) -> None:
    own_service.manage("webpubsub", "hub", "create", "salon")
    key = own_service.manage_json("key", "regenerate", "--key", "primary", "--hub", "salon")["primaryKey"]

    def url(hub: str) -> str:
        base = f"{own_service.endpoint}/client/hubs/{hub}"
        token = jwt.encode({"aud": base, "exp": int(time.time()) + 60}, key, algorithm="HS256")
        return f"ws{base.removeprefix('http')}?access_token={token}"

    becomes(True, url("salon"))
    assert not opens(url("chat"))
