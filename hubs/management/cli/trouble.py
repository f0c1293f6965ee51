"""Bad news on the command line: one clear line on stderr and exit code 1, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management.base import CommandError
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor


class Error(CommandError):
    """A command could not do what was asked; the text says what to do. Django prints it as `Error: …`."""


def one_line(text: object) -> str:
    """Bring a message into one line."""
    return " ".join(str(text).split())


@contextmanager
def explained() -> Iterator[None]:
    """Turn what the database and the settings complain about into an `Error`."""
    try:
        yield
    except ImproperlyConfigured as problem:
        raise Error(one_line(problem)) from None
    except ValidationError as problem:
        raise Error(one_line(" ".join(problem.messages))) from None
    except DatabaseError as problem:
        raise Error(_about_database(problem)) from None


def is_behind() -> bool:
    """Tell whether the database lacks migrations of this version. Raises DatabaseError when it cannot be reached."""
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _about_database(problem: DatabaseError) -> str:
    try:
        behind = is_behind()
    except DatabaseError as unreachable:
        return f"The database cannot be used: {one_line(unreachable)}. Check DATABASE_URL."
    if behind:
        return "The database is not set up for this version. Run: manage.py migrate"
    return f"The database refused: {one_line(problem)}"
