"""What the tutorials' programs start from."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from azure.messaging.webpubsubservice import WebPubSubServiceClient

from tests.running import Service
from tests.tutorials.programs import Program


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
