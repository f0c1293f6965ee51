"""Which errors say that the database is away, and how often the log tells of it."""

from __future__ import annotations

import logging

import psycopg
import pytest
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
)

from hubs import database


def caused(problem: Exception, cause: Exception) -> Exception:
    problem.__cause__ = cause
    return problem


@pytest.mark.parametrize(
    ("problem", "away"),
    [
        (OperationalError("database is locked"), True),
        (OperationalError("database or disk is full"), True),
        (OperationalError("FATAL:  sorry, too many clients already"), True),
        (InterfaceError("connection already closed"), True),
        (DatabaseError("file is not a database"), True),
        (caused(InternalError("cannot execute"), psycopg.errors.ReadOnlySqlTransaction()), True),
        (caused(InternalError("ended"), psycopg.errors.IdleInTransactionSessionTimeout()), True),
        (caused(InternalError("aborted"), psycopg.errors.InFailedSqlTransaction()), False),
        (IntegrityError("UNIQUE constraint failed"), False),
        (DataError("value too long"), False),
        (ProgrammingError("syntax error"), False),
        (OSError("disk"), False),
        (ValueError("x"), False),
    ],
    ids=repr,
)
def test_which_errors_say_that_the_database_is_away(problem: Exception, away: bool) -> None:
    assert database.is_unavailable(problem) is away


def test_of_what_a_driver_says_the_first_line_is_told() -> None:
    assert database.brief(OperationalError("server closed the connection.\n\tLINE 1: SELECT secret")) == (
        "server closed the connection"
    )
    assert database.brief(OperationalError("")) == "OperationalError"
    assert len(database.brief(OperationalError("x" * 5000))) == 300


def test_each_kind_of_work_has_a_line_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    complaints = database.ThrottledLog(logging.getLogger("hubs.database"), lambda: now[0], every_secs=60)
    monkeypatch.setattr(database, "_log", complaints)
    for number in range(10):
        database.report("this", OperationalError(f"away {number}"))
    database.report("that", OperationalError("away"))
    now[0] = 60.0
    database.report("this", OperationalError("still away"))
    assert caplog.messages == [
        "The database is unavailable, needed for this: away 0",
        "The database is unavailable, needed for that: away",
        "The database is unavailable, needed for this: still away (9 times more since the last such line)",
    ]
