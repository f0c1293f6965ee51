"""What the tutorials' programs start from."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from azure.messaging.webpubsubservice import WebPubSubServiceClient

from tests.running import Redis, Service
from tests.tutorials.programs import Program
from tests.tutorials.stage import Stage, staged


@pytest.fixture(scope="session")
def connection_string(service: Service) -> str:
    """The one thing that a tutorial's reader changes."""
    return service.connection_string


@pytest.fixture
def hub() -> str:
    """A hub of the test's own."""
    return f"tutorial{uuid.uuid4().hex[:12]}"


@pytest.fixture
def client_url(connection_string: str, hub: str) -> Callable[..., str]:
    """`client_url("ada", "webpubsub.sendToGroup")`: a client URL by the official Python SDK."""

    def make(user_id: str | None, *roles: str) -> str:
        with WebPubSubServiceClient.from_connection_string(connection_string, hub=hub) as client:
            return str(client.get_client_access_token(user_id=user_id, roles=list(roles))["url"])

    return make


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """`run(python("pubsub/publisher.py", url))`: a program; what still runs when the test ends is stopped."""
    programs: list[Program] = []

    def start(command: Sequence[str], *, cwd: Path = tmp_path) -> Program:
        programs.append(Program(command, cwd=cwd))
        return programs[-1]

    yield start
    for program in programs:
        program.stop()


def _with_handlers(data_dir: Path, recovery_secs: int) -> Iterator[str]:
    env = {"EXTRA_APPS": "tests.service.handlers", "RECOVERY_SECS": str(recovery_secs)}
    running = Service(data_dir, env=env).set_up()
    try:
        yield running.start().connection_string
        log = running.log.read_text()
        # Whatever happens to the line, the service has not once been surprised.
        assert log.count("Traceback") == log.count("RuntimeError: a handler's own fault"), log
    finally:
        running.stop()


@pytest.fixture(scope="session")
def patient_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that waits for its clients longer than any test has patience; its connection string."""
    yield from _with_handlers(tmp_path_factory.mktemp("patient"), 120)


@pytest.fixture(scope="session")
def hurried_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that waits for its clients one second; its connection string."""
    yield from _with_handlers(tmp_path_factory.mktemp("hurried"), 1)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, redis_server: Redis) -> Iterator[tuple[str, int]]:
    """A service of two processes: its connection string, which names the first, and the second's port."""
    folder = tmp_path_factory.mktemp("pair")
    env = {"REDIS_URL": redis_server.url, "RECOVERY_SECS": "120"}
    first = Service(folder, env=env).set_up()
    # Two machines behind one public address: a token opens either.
    second = Service(folder, env=env | {"EXTRA_ENDPOINTS": first.endpoint})
    try:
        first.start()
        second.start()
        yield first.connection_string, second.port
    finally:
        second.stop()
        first.stop()


@pytest.fixture
def stage(patient_service: str) -> Iterator[Stage]:
    """A line to the patient service."""
    with staged(patient_service) as stage:
        yield stage


@pytest.fixture
def hurried_stage(hurried_service: str) -> Iterator[Stage]:
    """A line to the hurried service."""
    with staged(hurried_service) as stage:
        yield stage
