"""The database as something that may be away: which errors say so, and how the log tells of it.

PostgreSQL may be down, out of connection slots, frozen, or a standby that takes no writes; SQLite's file may be
locked, read-only, damaged or on a full disk. None of that is a fault of the request that comes upon it, or worth a
traceback each time. Doors ask `is_unavailable` and answer 503; `report` logs one line a minute for each kind of work
that was not done.
"""

from __future__ import annotations

import logging

from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, NotSupportedError, ProgrammingError

from hubs.throttled_log import ThrottledLog

logger = logging.getLogger(__name__)

EVERY_SECS = 60.0

_log = ThrottledLog(logger, every_secs=EVERY_SECS)

# What is wrong with a query or its values, and would be with a database that is well.
_FAULTS_OF_QUERIES = (DataError, IntegrityError, NotSupportedError, ProgrammingError)

# Of PostgreSQL, for queries after one that failed: whoever sends them has overlooked that.
_IN_FAILED_TRANSACTION = "25P02"

_MAX_CHARACTERS = 300


def is_unavailable(problem: BaseException) -> bool:
    """Tell whether an error of Django's ORM says that the database cannot do its work at the moment.

    OperationalError and InterfaceError are what drivers mostly raise then. A standby that is asked to write and a
    session that was ended are InternalError; a damaged SQLite file is a plain DatabaseError.
    """
    if isinstance(problem, InterfaceError):
        return True
    if getattr(problem.__cause__, "sqlstate", None) == _IN_FAILED_TRANSACTION:
        return False
    return isinstance(problem, DatabaseError) and not isinstance(problem, _FAULTS_OF_QUERIES)


def brief(problem: BaseException) -> str:
    """Give the first line of what a driver says, which names no values; what follows may quote a query."""
    first = str(problem).strip().partition("\n")[0].removesuffix(".")
    return first[:_MAX_CHARACTERS] or type(problem).__name__


def report(what: str, problem: BaseException) -> None:
    """Log that `what` (a constant, such as “a page”) needs the database, at most once a minute for each `what`."""
    _log.warn("The database is unavailable, needed for %s: %s", what, brief(problem), kind=(what,))
