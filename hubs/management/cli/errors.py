"""Bad news on the command line: one clear line on stderr and exit code 1, never a traceback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management.base import CommandError
from django.db import DatabaseError, OperationalError, connection
from django.db.migrations.executor import MigrationExecutor

from hubs import hub_settings
from hubs.errors import DatabaseUnavailable


class Error(CommandError):
    """A command could not do what was asked; the text says what to do. Django prints it as `Error: …`."""


def one_line(text: object) -> str:
    """Bring a message into one line."""
    return " ".join(str(text).split())


@contextmanager
def explained() -> Iterator[None]:
    """Turn what the database and the settings complain about into an `Error`."""
    log = hub_settings.logger
    was_disabled, log.disabled = log.disabled, True
    try:
        yield
    except ImproperlyConfigured as problem:
        raise Error(one_line(problem)) from None
    except ValidationError as problem:
        raise Error(one_line(" ".join(problem.messages))) from None
    except DatabaseUnavailable as problem:
        cause = problem.__cause__
        raise Error(about_database(cause) if isinstance(cause, DatabaseError) else problem.message) from None
    except DatabaseError as problem:
        raise Error(about_database(problem)) from None
    finally:
        log.disabled = was_disabled


def is_behind() -> bool:
    """Tell whether the database lacks migrations of this version. Raises DatabaseError when it cannot be used."""
    _check_writable()
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _check_writable() -> None:
    """Raise what SQLite would at the first write: it opens a file that can only be read, and makes more such files."""
    file = Path(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite" and file.exists() and not os.access(file, os.W_OK):
        raise OperationalError("attempt to write a readonly database")


# What SQLite says, and what helps; `{file}` is the database's.
_SQLITE_ADVICE = {
    "unable to open database file": "Its directory has to exist, and this account has to be able to write there: check "
    "DATA_DIR or DATABASE_URL.",
    "readonly database": "This account has to be able to write to it and to its directory: check DATA_DIR or "
    "DATABASE_URL, and who owns {file}.",
    "locked": "Another program keeps it locked: end that program, then start again.",
    "not a database": "Move {file} away to start with an empty one, put a backup in its place, or set DATABASE_URL.",
    "malformed": "Put a backup in the place of {file}, or move it away to start with an empty one.",
    "full": "Make room on that disk, or set DATA_DIR to a directory on another.",
    "disk I/O error": "Check the disk, or set DATA_DIR to a directory on another.",
}


def about_database(problem: DatabaseError) -> str:
    """Say in a sentence or two what is wrong with the database and what to do; never quotes a password."""
    if (advice := _advice_for_sqlite(problem)) is not None:
        return advice
    try:
        behind = is_behind()
    except DatabaseError as unreachable:
        # Its first line: what libpq says below that is advice, too.
        said = str(unreachable).strip().partition("\n")[0].removesuffix(".")
        return _advice_for_sqlite(unreachable) or (
            f"The database cannot be used: {said}. Start it if it is down, else check DATABASE_URL."
        )
    if behind:
        return "The database is not set up for this version. Run: manage.py migrate"
    return f"The database refused: {one_line(problem)}"


def _advice_for_sqlite(problem: DatabaseError) -> str | None:
    if connection.vendor != "sqlite":
        return None
    file, said = connection.settings_dict["NAME"], one_line(problem)
    advice = next((advice for sign, advice in _SQLITE_ADVICE.items() if sign in said), None)
    return advice and f"The database {file} cannot be used: {said}. {advice.format(file=file)}"
