"""The PostgreSQL backend: every wait has an end, on a real server behind a proxy that freezes and cuts."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from django.db import OperationalError
from django.db.utils import ConnectionHandler

from pubsub_site.postgresql.base import DatabaseWrapper, _Door
from tests.proxy import CuttingProxy
from tests.running import PATIENCE

# Of a test's own connection to a frozen server; those that wait for a server that works have all the time there is.
SHORT_SECS = 0.3


@pytest.fixture(scope="module")
def proxy(postgresql_url: str) -> Iterator[CuttingProxy]:
    [folder] = parse_qs(urlsplit(postgresql_url).query)["host"]
    with CuttingProxy(0, f"{folder}/.s.PGSQL.5432") as running:
        yield running


@pytest.fixture
def connect(proxy: CuttingProxy, django_db_blocker: Any) -> Iterator[Any]:
    """`connect(statement_secs=1)`: a connection of Django's to the server behind the proxy."""
    opened: list[Any] = []

    def made(**options: Any) -> Any:
        settings = {
            "ENGINE": "pubsub_site.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": "127.0.0.1",
            "PORT": str(proxy.port),
            "OPTIONS": {"connect_timeout": 2, "statement_secs": PATIENCE, "sslmode": "disable"} | options,
        }
        connection = ConnectionHandler({"default": settings})["default"]
        # To be closed from here, whichever thread made it.
        connection.inc_thread_sharing()
        opened.append(connection)
        return connection

    DatabaseWrapper._doors.clear()
    with django_db_blocker.unblock():
        yield made
        for connection in opened:
            connection.close()
    DatabaseWrapper._doors.clear()
    proxy.accept()
    proxy.thaw()


def asked(connection: Any, query: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        [[value]] = cursor.fetchall()
    return value


def test_the_server_knows_the_limits(connect: Any) -> None:
    connection = connect(statement_secs=7)
    assert asked(connection, "SHOW statement_timeout") == "7s"
    assert asked(connection, "SHOW idle_in_transaction_session_timeout") == "1min"
    assert asked(connect(statement_secs=0), "SHOW statement_timeout") == "0"


def test_the_server_ends_a_long_statement(connect: Any) -> None:
    connection = connect(statement_secs=SHORT_SECS)
    with pytest.raises(OperationalError, match="statement timeout"):
        asked(connection, f"SELECT pg_sleep({PATIENCE})::text")
    # The connection is as it was.
    assert asked(connection, "SELECT 1") == 1


def test_a_server_that_does_not_answer_is_given_up(connect: Any, proxy: CuttingProxy) -> None:
    connection = connect(statement_secs=SHORT_SECS)
    assert asked(connection, "SELECT 1") == 1
    proxy.freeze()
    with pytest.raises(OperationalError, match=r"no answer within 1\.3 s"):
        asked(connection, "SELECT 2")
    proxy.thaw()
    # What the server says late is not taken for an answer to something else.
    connection.close()
    assert asked(connection, "SELECT 3") == 3


def test_a_server_that_vanishes_in_a_transaction_is_given_up(connect: Any, proxy: CuttingProxy) -> None:
    connection = connect(statement_secs=SHORT_SECS)
    connection.set_autocommit(False)
    assert asked(connection, "SELECT 1") == 1
    proxy.freeze()
    with pytest.raises(OperationalError):
        connection.commit()
    proxy.thaw()


def test_a_migration_takes_as_long_as_it_takes(connect: Any) -> None:
    connection = connect(statement_secs=SHORT_SECS)
    with connection.schema_editor() as editor:
        assert asked(connection, "SHOW statement_timeout") == "0"
        # Longer than this side would wait, too.
        editor.execute("SELECT pg_sleep(1.5)")
    assert asked(connection, "SHOW statement_timeout") == "300ms"
    with pytest.raises(OperationalError, match="statement timeout"):
        asked(connection, f"SELECT pg_sleep({PATIENCE})::text")


def test_a_server_that_takes_connections_and_says_nothing(connect: Any, proxy: CuttingProxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy.to(silent.getsockname()[1])
        try:
            with pytest.raises(OperationalError, match="timeout"):
                connect().ensure_connection()
            # Others do not wait as well.
            silent.settimeout(0)
            with suppress(BlockingIOError):
                while True:
                    silent.accept()[0].close()
            with pytest.raises(OperationalError, match="timeout"):
                connect().ensure_connection()
            with pytest.raises(BlockingIOError):
                silent.accept()
        finally:
            proxy.to(*reversed(proxy._target))


def test_a_connection_that_was_cut_is_made_anew(connect: Any, proxy: CuttingProxy) -> None:
    connection = connect()
    assert asked(connection, "SELECT 1") == 1
    proxy.abort()
    with pytest.raises(OperationalError):
        asked(connection, "SELECT 1")
    connection.close_if_unusable_or_obsolete()
    assert asked(connection, "SELECT 1") == 1


# Who tries


def test_one_at_a_time_tries_to_connect_while_none_can() -> None:
    now = [0.0]
    door = _Door(lambda: now[0])
    tries: list[float] = []

    def attempt(secs: float = 0.0) -> None:
        with door.attempt(10):
            tries.append(now[0])
            now[0] += secs
            raise psycopg.OperationalError(f"gone at {now[0]:g}")

    with pytest.raises(psycopg.OperationalError, match="gone at 0"):
        attempt()
    now[0] = 0.9
    with pytest.raises(psycopg.OperationalError, match="gone at 0"):
        attempt()
    assert tries == [0]
    now[0] = 1.0
    # One tries for five seconds. Whoever comes meanwhile does not wait.
    with door.attempt(10):
        with pytest.raises(psycopg.OperationalError, match="gone at 0"):
            attempt()
        now[0] = 6.0
    assert tries == [0]
    # It succeeded, so all may.
    with pytest.raises(psycopg.OperationalError, match="gone at 6"):
        attempt()


def test_one_that_never_says_what_it_met_keeps_nobody_out_for_ever() -> None:
    now = [0.0]
    door = _Door(lambda: now[0])
    with pytest.raises(psycopg.OperationalError), door.attempt(10):
        raise psycopg.OperationalError("gone")
    now[0] = 2.0
    with pytest.raises(KeyboardInterrupt), door.attempt(10):
        raise KeyboardInterrupt
    with pytest.raises(psycopg.OperationalError), door.attempt(10):
        raise AssertionError
    now[0] = 12.0
    with door.attempt(10):
        pass


def test_threads_that_come_together_while_none_can_connect(connect: Any, proxy: CuttingProxy) -> None:
    proxy.refuse()
    with pytest.raises(OperationalError):
        connect().ensure_connection()
    met: list[str] = []

    def run() -> None:
        try:
            connect().ensure_connection()
        except OperationalError as problem:
            met.append(str(problem))

    threads = [threading.Thread(target=run) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(met) == 20
    proxy.accept()
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            assert asked(connect(), "SELECT 1") == 1
            break
        except OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
