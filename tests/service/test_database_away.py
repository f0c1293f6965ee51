"""The database fails in every way that it has, and each door of a running service does what it can do without.

Clients, REST calls and people whose roles were asked for a moment ago go on by what the process read last. What needs
the database is answered 503 with Retry-After. Nothing is answered 500, nothing hangs, and the log has a few lines.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import resource
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from websockets.exceptions import InvalidStatus

from tests.proxy import CuttingProxy
from tests.running import PATIENCE, Service
from tests.service.client import JSON, Target, opened

# What a door answers: a status, and whether it said when to come again.
Answer = tuple[int, bool]
OK, AWAY = (200, False), (503, True)

PASSWORD = "correct horse battery"
CSRF = "a" * 32


class Doors:
    """All ways into a service."""

    def __init__(self, service: Service, token: str, session: str) -> None:
        self.service, self.session = service, session
        self.target = Target(service.connection_string)
        self.token = {"Authorization": f"Token {token}"}

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("localhost", self.service.port, timeout=PATIENCE)
        with closing(connection):
            connection.request(method, path, body, {"Host": self.target.host} | headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers.get("Retry-After") is not None

    def signed(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """A call of the data plane."""
        token = self.target.token(aud=f"{self.target.endpoint}{path}")
        return self.ask(method, path, body, **{"Authorization": f"Bearer {token}", "Content-Type": "text/plain"})

    def connect(self) -> Answer:
        async def come() -> Answer:
            try:
                async with opened(self.target.url(), JSON):
                    return 101, False
            except InvalidStatus as refused:
                return refused.response.status_code, "Retry-After" in refused.response.headers

        return asyncio.run(asyncio.wait_for(come(), PATIENCE))

    def reading(self) -> dict[str, Answer]:
        """What reads at most, and of whom the process has heard."""
        in_session = {"Cookie": f"sessionid={self.session}"}
        return {
            "connect": self.connect(),
            "send": self.signed("POST", "/api/hubs/chat/:send", b"x"),
            "exists": self.signed("HEAD", "/api/hubs/chat/users/nobody"),
            "a visitor": self.ask("GET", "/api/negotiate/chat"),
            "a visitor with a name": self.ask("GET", "/api/negotiate/named?userId=zoe"),
            "a token": self.ask("GET", "/api/negotiate/chat", **self.token),
            "a session": self.ask("GET", "/api/negotiate/chat", **in_session),
            "health": self.ask("GET", "/api/health"),
            "ready": self.ask("GET", "/healthz/ready"),
            "front page": self.ask("GET", "/"),
        }

    def needing(self) -> dict[str, Answer]:
        """What cannot be done without the database."""
        in_session = {"Cookie": f"sessionid={self.session}"}
        return {
            "management API": self.ask("GET", "/manage/api/hubs", **self.token),
            "admin": self.ask("GET", "/admin/", **in_session),
            "a long form": self.ask("POST", "/admin/", b"x" * 20_000, **in_session),
            "negotiate of a stranger": self.ask("GET", "/api/negotiate/chat", Authorization="Token nobody"),
        }

    def writing(self) -> dict[str, Answer]:
        """What changes rows."""
        form = f"csrfmiddlewaretoken={CSRF}&username=admin&password={PASSWORD.replace(' ', '+')}&next=/admin/".encode()
        return {
            "management API": self.ask(
                "PUT",
                "/manage/api/hubs/other",
                b'{"properties":{}}',
                **self.token,
                **{"Content-Type": "application/json"},
            ),
            "sign in": self.ask(
                "POST",
                "/admin/login/",
                form,
                Cookie=f"csrftoken={CSRF}",
                **{"Content-Type": "application/x-www-form-urlencoded"},
            ),
        }


GOES_ON = {
    "connect": (101, False),
    "send": (202, False),
    "exists": (404, False),
    "a visitor": OK,
    "a visitor with a name": OK,
    "a token": OK,
    "a session": OK,
    "health": OK,
    "ready": OK,
    "front page": OK,
}
# Once it is set up.
SHORT = {"DATABASE_CONNECT_SECS": "1", "DATABASE_STATEMENT_SECS": "2"}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# What the doors need in the database: a hub, a password, a token and a session.
PREPARING = f"""
from io import StringIO
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
from rest_framework.authtoken.models import Token
call_command("webpubsub", "hub", "create", "named", "--allow-anonymous-user-ids", "true", stdout=StringIO())
user = get_user_model().objects.get()
user.set_password({PASSWORD!r})
user.save()
session = SessionStore()
session[SESSION_KEY], session[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session.create()
print(Token.objects.get_or_create(user=user)[0].key, session.session_key)
"""


def ready_doors(service: Service) -> Doors:
    doors = Doors(service, *service.python(PREPARING).split())
    service.env |= SHORT
    service.start()
    return doors


class Log:
    """What a service has logged since this was made."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._begin = service.log.stat().st_size

    def lines(self, kind: str) -> list[str]:
        text = self._service.log.read_bytes()[self._begin :].decode()
        return [line for line in text.splitlines() if kind in line]


@contextmanager
def an_outage(doors: Doors) -> Iterator[Log]:
    """Whatever is done to the database within is undone at the end; the log has one line for each."""
    assert doors.reading() == GOES_ON
    log = Log(doors.service)
    yield log
    until(lambda: doors.ask("GET", "/manage/api/hubs", **doors.token) == OK)
    until(lambda: doors.connect() == (101, False) and len(log.lines("can be read from the database again")) == 1)
    assert doors.reading() == GOES_ON
    assert len(log.lines("Hubs and keys cannot be read from the database")) == 1
    assert not log.lines("Traceback")
    # One for each kind of work, and not for each request.
    said = [re.sub(r"^.*?needed for |: .*", "", line) for line in log.lines(" hubs.database: ")]
    assert len(said) == len(set(said))


def reading_fails(doors: Doors, log: Log) -> None:
    """Check every door while nothing can be read. Twice: in an outage that has just begun, and in one that is known."""
    for _ in range(2):
        begun = time.monotonic()
        answered = doors.needing()
        assert answered == dict.fromkeys(answered, AWAY)
        assert doors.reading() == GOES_ON
        # Nothing hangs; how fast it is on this machine is another matter.
        assert time.monotonic() - begun < PATIENCE * 2
    noticed(doors, log)


def noticed(doors: Doors, log: Log) -> None:
    """Come until the process has looked at the database: for whoever comes a second after it did so last."""

    def is_said() -> bool:
        assert doors.connect() == (101, False)
        return bool(log.lines("Hubs and keys cannot be read from the database"))

    until(is_said)


def writing_fails(doors: Doors, log: Log) -> None:
    answered = doors.writing()
    assert answered == dict.fromkeys(answered, AWAY)
    assert doors.reading() == GOES_ON


# SQLite


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    service = Service(tmp_path_factory.mktemp("service")).set_up()
    try:
        yield ready_doors(service)
    finally:
        service.stop()


@contextmanager
def moved_away(file: Path) -> Iterator[None]:
    aside = file.with_name("aside")
    file.rename(aside)
    file.mkdir()
    try:
        yield
    finally:
        file.rmdir()
        aside.rename(file)


@contextmanager
def damaged(file: Path) -> Iterator[None]:
    aside = file.with_name("aside")
    file.rename(aside)
    file.write_bytes(b"no database" * 1000)
    try:
        yield
    finally:
        file.unlink()
        aside.rename(file)


@pytest.mark.parametrize("failing", [moved_away, damaged])
def test_a_file_that_cannot_be_read(on_sqlite: Doors, failing: Callable[[Path], Any]) -> None:
    with an_outage(on_sqlite) as log, failing(on_sqlite.service.data_dir / "db.sqlite3"):
        reading_fails(on_sqlite, log)


def test_a_disk_that_takes_nothing(on_sqlite: Doors) -> None:
    """SQLite cannot even read then: it keeps a file for its readers beside the database."""
    process = on_sqlite.service.process
    assert process is not None
    assert on_sqlite.reading() == GOES_ON
    limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    # As far as the log is concerned the disk is as full: what it says in this time is lost.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        for _ in range(2):
            answered = on_sqlite.writing()
            assert answered == dict.fromkeys(answered, AWAY)
            assert on_sqlite.reading() == GOES_ON
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
    until(lambda: on_sqlite.ask("GET", "/manage/api/hubs", **on_sqlite.token) == OK)


def test_a_file_that_another_program_keeps_locked(on_sqlite: Doors) -> None:
    log = Log(on_sqlite.service)
    assert on_sqlite.reading() == GOES_ON
    with closing(sqlite3.connect(on_sqlite.service.data_dir / "db.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing_fails(on_sqlite, log)
        assert set(on_sqlite.needing().values()) <= {OK, (401, False), (302, False), (403, False)}
    assert not log.lines("Traceback")


# PostgreSQL


@pytest.fixture(scope="module")
def postgres(postgresql_url: str) -> Iterator[tuple[CuttingProxy, psycopg.Connection[Any], dict[str, str]]]:
    """A way to the server that can be cut, a connection past it, and the environment of a service."""
    [folder] = parse_qs(urlsplit(postgresql_url).query)["host"]
    with (
        CuttingProxy(0, f"{folder}/.s.PGSQL.5432") as proxy,
        psycopg.connect(host=folder, user="postgres", dbname="postgres", autocommit=True) as own,
    ):
        # No superuser, because such have connections of their own.
        own.execute("CREATE ROLE hubwire LOGIN")
        own.execute("CREATE DATABASE hubwire OWNER hubwire")
        url = f"postgres://hubwire@127.0.0.1:{proxy.port}/hubwire?sslmode=disable"
        yield proxy, own, {"DATABASE_URL": url}
        own.execute("DROP DATABASE hubwire WITH (FORCE)")
        own.execute("DROP ROLE hubwire")


@pytest.fixture(scope="module")
def on_postgres(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    service = Service(tmp_path_factory.mktemp("service"), env=postgres[2]).set_up()
    try:
        yield ready_doors(service)
    finally:
        service.stop()


@contextmanager
def refused(proxy: CuttingProxy, own: psycopg.Connection[Any]) -> Iterator[None]:
    proxy.refuse()
    proxy.abort()
    try:
        yield
    finally:
        proxy.accept()


@contextmanager
def silent(proxy: CuttingProxy, own: psycopg.Connection[Any]) -> Iterator[None]:
    """It takes connections, and that is all."""
    host, port = proxy._target
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as nobody:
        proxy.to(nobody.getsockname()[1])
        proxy.freeze()
        try:
            yield
        finally:
            proxy.to(port, host)
            proxy.abort()


@contextmanager
def out_of_slots(proxy: CuttingProxy, own: psycopg.Connection[Any]) -> Iterator[None]:
    own.execute("ALTER ROLE hubwire CONNECTION LIMIT 0")
    own.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'hubwire'")
    try:
        yield
    finally:
        own.execute("ALTER ROLE hubwire CONNECTION LIMIT -1")


@pytest.mark.parametrize("failing", [refused, silent, out_of_slots])
def test_a_server_that_cannot_be_asked(on_postgres: Doors, postgres: Any, failing: Callable[..., Any]) -> None:
    with an_outage(on_postgres) as log, failing(*postgres[:2]):
        reading_fails(on_postgres, log)


def test_tables_that_somebody_keeps_locked(on_postgres: Doors, postgres: Any) -> None:
    """A statement that never ends, on connections that work."""
    own = postgres[1]
    with an_outage(on_postgres) as log, psycopg.connect(own.info.dsn, dbname="hubwire", autocommit=False) as other:
        names = "hubs_settingsversion, hubs_rolegrant, authtoken_token, django_session, auth_user"
        other.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        reading_fails(on_postgres, log)
        other.rollback()


def test_a_server_that_only_reads(on_postgres: Doors, postgres: Any) -> None:
    """As a standby does after a failover that went wrong."""
    own = postgres[1]
    log = Log(on_postgres.service)
    assert on_postgres.reading() == GOES_ON
    own.execute("ALTER ROLE hubwire SET default_transaction_read_only = on")
    own.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'hubwire'")
    try:
        writing_fails(on_postgres, log)
    finally:
        own.execute("ALTER ROLE hubwire RESET default_transaction_read_only")
        own.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'hubwire'")
    until(lambda: AWAY not in on_postgres.writing().values())
    assert not log.lines("Traceback")


# A bound of its own for what is remembered, and staff that is told


def test_when_what_was_read_is_too_old(tmp_path: Path) -> None:
    service = Service(tmp_path, env={"SETTINGS_STALE_SECS": "1"}).set_up()
    doors = ready_doors(service)
    try:
        assert doors.reading() == GOES_ON
        log = Log(service)
        with moved_away(tmp_path / "db.sqlite3"):
            until(lambda: doors.connect() == AWAY)
            answered = doors.reading()
            stays = {"health": OK, "ready": (503, False), "front page": OK}
            assert answered == dict.fromkeys(answered, AWAY) | stays
            assert len(log.lines("have not been read for more than 1 s")) == 1
            connection = http.client.HTTPConnection("localhost", service.port, timeout=PATIENCE)
            with closing(connection):
                connection.request("GET", "/healthz/ready")
                assert json.loads(connection.getresponse().read())["reasons"] == [
                    "database: hubs and keys cannot be read, and none that were read lately are known; the log says why"
                ]
        until(lambda: doors.connect() == (101, False))
        assert doors.reading() == GOES_ON
        assert not log.lines("Traceback")
    finally:
        service.stop()


def test_staff_is_told(on_sqlite: Doors) -> None:
    def page() -> tuple[int, str]:
        connection = http.client.HTTPConnection("localhost", on_sqlite.service.port, timeout=PATIENCE)
        with closing(connection):
            headers = {"Cookie": f"sessionid={on_sqlite.session}", "Accept": "text/html"}
            connection.request("GET", "/admin/", headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    with an_outage(on_sqlite) as log, moved_away(on_sqlite.service.data_dir / "db.sqlite3"):
        noticed(on_sqlite, log)
        status, text = page()
        assert status == 503
        assert "<h1>The database is unavailable</h1>" in text
        assert "the service goes on with what it read last" in text
        # For whoever may read the log.
        assert "unable to open" not in text
    status, text = page()
    assert status == 200
    assert "The database could not be read from" in text
    assert "unable to open database file" in text
