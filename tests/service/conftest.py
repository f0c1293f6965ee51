"""The service under test, as its clients see it: a connection string.

By default our own servers are started, each test once per server. With TARGET_CONNECTION_STRING set
the same tests run against that service instead; those that need event handlers of their own
(marked `needs_handlers`) are then deselected, for they cannot be brought there.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.running import Service
from tests.service.applications import Application, running_application
from tests.service.client import Target

EXTERNAL = os.environ.get("TARGET_CONNECTION_STRING")
SERVERS = ["external"] if EXTERNAL else ["uvicorn", "daphne"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if EXTERNAL:
        gone = [item for item in items if item.get_closest_marker("needs_handlers")]
        if gone:
            config.hook.pytest_deselected(items=gone)
            items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="session")
def live_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Service]]:
    """`live_services("uvicorn")`: a service on that server, which runs from when it is first asked for to the end."""
    running: dict[str, Service] = {}

    def get(server: str) -> Service:
        if server not in running:
            folder: Path = tmp_path_factory.mktemp(server)
            running[server] = Service(folder, server=server, env={"EXTRA_APPS": "tests.service.handlers"}).set_up()
            running[server].start()
        return running[server]

    yield get
    for service in running.values():
        service.stop()


@pytest.fixture(scope="module", params=SERVERS)
def live_service(request: pytest.FixtureRequest, live_services: Callable[[str], Service]) -> Iterator[Service | None]:
    if request.param == "external":
        yield None
        return
    running = live_services(request.param)
    yield running
    log = running.log.read_text()
    # Fuzzed, cut off and lied to, a server must not once have been surprised.
    assert log.count("Traceback") == log.count("RuntimeError: a handler's own fault"), log


@pytest.fixture(scope="module")
def target(live_service: Service | None) -> Target:
    return Target(EXTERNAL or live_service.connection_string)  # type: ignore[union-attr]


@pytest.fixture
def unique() -> Callable[[str], str]:
    """`unique("room")`: a name that no other test uses, since all share one server."""
    return lambda name: f"{name}-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def hub(unique: Callable[[str], str]) -> str:
    """A hub of the test's own."""
    return unique("hub").replace("-", "")


@pytest.fixture
async def app() -> AsyncIterator[Application]:
    """An application whose web server is well."""
    async with running_application() as application:
        yield application
