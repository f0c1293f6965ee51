"""Each test of this room runs once per server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running import Service
from tests.servers.running import Running

# "direct" is uvicorn with an application that takes its extension.
SERVERS = ["uvicorn", "direct", "daphne"]


@pytest.fixture(scope="module", params=SERVERS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that the tests of a module share. In the end it must not once have been surprised."""
    server = Running(tmp_path_factory.mktemp(request.param), request.param)
    try:
        yield server
        log = server.log.read_text()
        assert log.count("Traceback") == log.count("RuntimeError: the test's own"), log
    finally:
        server.stop()


@pytest.fixture(params=SERVERS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """`start(KEEP_ALIVE_SECS=1)`: a server of the test's own."""
    started: list[Running] = []

    def begin(**options: Any) -> Running:
        started.append(Running(tmp_path, request.param, **options))
        return started[-1]

    yield begin
    for server in started:
        server.stop()
        assert "Traceback" not in server.log.read_text()


@pytest.fixture(params=["uvicorn", "daphne"])
def serve(request: pytest.FixtureRequest, service: Service) -> Iterator[Callable[[], Service]]:
    """`serve()`: the service itself, on the data of the shared one but with a process of its own."""
    started: list[Service] = []

    def begin() -> Service:
        started.append(Service(service.data_dir, server=request.param).start())
        return started[-1]

    yield begin
    for running in started:
        running.stop()
        assert "Traceback" not in running.log.read_text()
