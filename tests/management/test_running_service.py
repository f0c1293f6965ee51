"""What the command line changes is in force in a running service within two seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.running import Service

IN_FORCE_SECS = 2.0


@pytest.fixture
def own_service(data_dir: Path) -> Iterator[Service]:
    """A service whose keys may be changed."""
    running = Service(data_dir).set_up()
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


def assert_within_two_seconds(url: str, expected: bool) -> None:
    deadline = time.monotonic() + IN_FORCE_SECS
    while opens(url) is not expected:
        assert time.monotonic() < deadline, f"not in force after {IN_FORCE_SECS} s"
        time.sleep(0.05)


def test_a_regenerated_key_is_in_force_and_nobody_is_thrown_out(own_service: Service) -> None:
    url = ["webpubsub", "client", "url", "--hub", "chat"]
    old = own_service.manage(*url).stdout.strip()
    secondary = own_service.manage_json("key", "show")["secondaryKey"]
    with connect(old, subprotocols=["json.webpubsub.azure.v1"], proxy=None) as socket:
        socket.recv()
        shown = own_service.manage_json("key", "regenerate", "--key", "primary")
        assert_within_two_seconds(old, False)
        assert shown["secondaryKey"] == secondary
        assert_within_two_seconds(own_service.manage(*url).stdout.strip(), True)
        socket.send('{"type":"ping"}')
        assert socket.recv() == '{"type":"pong"}'


def test_hub_settings_are_in_force(own_service: Service) -> None:
    bare = f"ws://localhost:{own_service.port}/client/hubs/lounge"
    assert not opens(bare)
    own_service.manage("webpubsub", "hub", "create", "lounge", "--allow-anonymous", "true")
    assert_within_two_seconds(bare, True)
    own_service.manage("webpubsub", "hub", "update", "lounge", "--allow-anonymous", "false")
    assert_within_two_seconds(bare, False)
    own_service.manage("webpubsub", "hub", "update", "lounge", "--allow-anonymous")
    assert_within_two_seconds(bare, True)
    own_service.manage("webpubsub", "hub", "delete", "lounge", "--yes")
    assert_within_two_seconds(bare, False)


def test_a_hubs_own_key_opens_that_hub_only(own_service: Service) -> None:
    own_service.manage("webpubsub", "hub", "create", "lounge")
    key = own_service.manage_json("key", "regenerate", "--key", "primary", "--hub", "lounge")["primaryKey"]

    def url(hub: str) -> str:
        base = f"{own_service.endpoint}/client/hubs/{hub}"
        token = jwt.encode({"aud": base, "exp": int(time.time()) + 60}, key, algorithm="HS256")
        return f"ws{base.removeprefix('http')}?access_token={token}"

    assert_within_two_seconds(url("lounge"), True)
    assert not opens(url("chat"))
