"""PostgreSQL that may go away: every wait for it ends.

Django and libpq wait for a server as long as the system does, which is two hours where a host vanished without a word
and for ever where the server's process is frozen. Here

- a connection is made within `connect_timeout` (libpq's own option, 5 seconds unless DATABASE_URL says otherwise);
- a statement takes `statement_secs` at most (an option of this backend). The server is told, so that it gives up the
  work, too; and this side does not rely on that: a second later it closes the connection and raises OperationalError,
  whatever the server does. Transactions that stand idle for IDLE_SECS are ended by the server;
- while no connection can be made, one thread at a time tries. Others get its error at once, for a second after each
  failure, so that requests that need the database do not take the threads of those that do not.

Migrations have no limit: they may have to rewrite a table.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar

import psycopg
from django.db.backends.postgresql import base, schema
from psycopg.abc import PQGen

# What is done in a transaction between its statements (hashing a password, say) is not the database's to hurry.
IDLE_SECS = 60
# How much longer than the server this side waits.
GRACE_SECS = 1.0
# For how long a failure to connect is everybody's.
PAUSE_SECS = 1.0


class BoundedConnection(psycopg.Connection[Any]):
    """A connection on which nothing takes longer than `limit_secs`; None = no limit."""

    limit_secs: float | None = None

    def wait(self, gen: PQGen[Any], *args: Any, **options: Any) -> Any:
        """Wait for an operation. Raises OperationalError when it takes too long; the connection is closed then."""
        if self.limit_secs is None:
            return super().wait(gen, *args, **options)
        return super().wait(self._within(gen, self.limit_secs), *args, **options)

    def _within(self, gen: PQGen[Any], secs: float) -> PQGen[Any]:
        deadline = time.monotonic() + secs
        try:
            waits_for = next(gen)
            while True:
                # Comes back about ten times a second, with nothing if nothing came.
                ready = yield waits_for
                if not ready and time.monotonic() >= deadline:
                    break
                waits_for = gen.send(ready)
        except StopIteration as done:
            return done.value
        gen.close()
        # What the server says later is no answer to what is asked next.
        self.pgconn.finish()
        raise psycopg.OperationalError(f"no answer within {secs:g} s")


class _Driver(ModuleType):
    """psycopg as Django's backend knows it, but for what its connections are."""

    connect = staticmethod(BoundedConnection.connect)

    def __getattr__(self, name: str) -> Any:
        return getattr(psycopg, name)


class _Door:
    """Who may try to connect, for one database."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._problem: psycopg.OperationalError | None = None
        self._shut_until = 0.0

    @contextmanager
    def attempt(self, limit_secs: float) -> Iterator[None]:
        """Try to connect, which takes so long at most. Raises what the last attempt met if it was just now."""
        with self._lock:
            if self._problem is not None:
                if self._clock() < self._shut_until:
                    raise psycopg.OperationalError(str(self._problem))
                # The others wait for what this one meets.
                self._shut_until = self._clock() + limit_secs
        try:
            yield
        except psycopg.OperationalError as problem:
            with self._lock:
                self._problem, self._shut_until = problem.with_traceback(None), self._clock() + PAUSE_SECS
            raise
        with self._lock:
            self._problem = None


class SchemaEditor(schema.DatabaseSchemaEditor):
    """Changes of tables take as long as they take."""

    connection: DatabaseWrapper

    def __enter__(self) -> Any:
        self.connection.limit(None)
        return super().__enter__()

    def __exit__(self, *problem: Any) -> None:
        try:
            super().__exit__(*problem)
        finally:
            if self.connection.connection is not None and not self.connection.connection.closed:
                self.connection.limit(self.connection.statement_secs)


class DatabaseWrapper(base.DatabaseWrapper):
    """The backend."""

    Database = _Driver("psycopg")
    SchemaEditorClass = SchemaEditor
    _doors: ClassVar[dict[str, _Door]] = {}

    @property
    def statement_secs(self) -> float | None:
        """The limit of a statement; None = there is none."""
        return float(self.settings_dict["OPTIONS"].get("statement_secs") or 0) or None

    def get_connection_params(self) -> dict[str, Any]:
        """Give what psycopg.connect takes."""
        options = super().get_connection_params()
        options.pop("statement_secs", None)
        return options

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Connect, unless that has just failed. Raises OperationalError."""
        door = self._doors.setdefault(self.alias, _Door())
        with door.attempt(2 * float(conn_params.get("connect_timeout") or PAUSE_SECS)):
            return super().get_new_connection(conn_params)

    def limit(self, secs: float | None) -> None:
        """Let statements on this connection take so long from now on."""
        self.ensure_connection()
        if self.statement_secs is not None:
            self._limit(self.connection, secs)

    def _configure_connection(self, connection: Any) -> bool:
        if self.statement_secs is None:
            return bool(super()._configure_connection(connection))  # type: ignore[misc]
        self._limit(connection, self.statement_secs)
        super()._configure_connection(connection)  # type: ignore[misc]
        return True

    @staticmethod
    def _limit(connection: Any, secs: float | None) -> None:
        connection.limit_secs = None if secs is None else secs + GRACE_SECS
        # Not as `options` of the connection: poolers such as PgBouncer refuse those.
        connection.execute(
            "SELECT set_config('statement_timeout', %s, false), "
            "set_config('idle_in_transaction_session_timeout', %s, false)",
            [str(round((secs or 0) * 1000)), f"{0 if secs is None else IDLE_SECS}s"],
        )
