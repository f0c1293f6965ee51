"""The service under test, as its clients see it: a connection string.

By default our own servers are started, each test once per server. With TARGET_CONNECTION_STRING set
the same tests run against that service instead; those that need event handlers of their own
(marked `needs_handlers`) are then deselected, for they cannot be brought there.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.running import Service
from tests.service.client import Target

EXTERNAL = os.environ.get("TARGET_CONNECTION_STRING")
SERVERS = ["external"] if EXTERNAL else ["uvicorn", "daphne"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if EXTERNAL:
        gone = [item for item in items if item.get_closest_marker("needs_handlers")]
        if gone:
            config.hook.pytest_deselected(items=gone)
            items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="session", params=SERVERS)
def live_service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service | None]:
    if request.param == "external":
        yield None
        return
    folder: Path = tmp_path_factory.mktemp(request.param)
    running = Service(folder, server=request.param, env={"EXTRA_APPS": "tests.service.handlers"}).set_up()
    try:
        yield running.start()
        log = running.log.read_text()
        # Fuzzed, cut off and lied to, a server must not once have been surprised.
        assert log.count("Traceback") == log.count("RuntimeError: a handler's own fault"), log
    finally:
        running.stop()


@pytest.fixture(scope="session")
def target(live_service: Service | None) -> Target:
    return Target(EXTERNAL or live_service.connection_string)  # type: ignore[union-attr]


@pytest.fixture
def unique() -> Callable[[str], str]:
    """`unique("room")`: a name that no other test uses, since all share one server."""
    return lambda name: f"{name}-{uuid.uuid4().hex[:12]}"
