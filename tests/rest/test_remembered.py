"""Answers that are kept for the time when the database is away: used then alone, bounded in number and age."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError

from hubs.errors import DatabaseUnavailable
from hubs.rest import remembered
from hubs.rest.remembered import Remembered


class Table:
    """What is read; away where there is a problem."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {"a": 1, "b": 2, "c": 3, "nobody": None}
        self.problem: Exception | None = None

    def read(self, name: str) -> Callable[[], Any]:
        def read() -> Any:
            if self.problem is not None:
                raise self.problem
            return self.rows[name]

        return read


@pytest.fixture
def table() -> Table:
    return Table()


def test_while_the_database_answers_it_is_asked(table: Table) -> None:
    kept: Remembered[int] = Remembered("This", 10)
    assert kept.ask("a", table.read("a")) == 1
    table.rows["a"] = 5
    assert kept.ask("a", table.read("a")) == 5


def test_while_it_is_away_the_last_answer_holds(table: Table) -> None:
    kept: Remembered[int] = Remembered("This", 10)
    assert kept.ask("a", table.read("a")) == 1
    table.problem = OperationalError("away")
    assert kept.ask("a", table.read("a")) == 1
    with pytest.raises(DatabaseUnavailable):
        kept.ask("b", table.read("b"))
    table.problem = IntegrityError("not away")
    with pytest.raises(IntegrityError):
        kept.ask("a", table.read("a"))


@pytest.mark.parametrize("refusal", [None, PermissionError("switched off")])
def test_what_has_ended_is_not_kept(table: Table, refusal: Exception | None) -> None:
    """Signed out, or refused: what was true before must not come back when the database goes."""
    kept: Remembered[int] = Remembered("This", 10)
    kept.ask("a", table.read("a"))
    if refusal is None:
        table.rows["a"] = None
        assert kept.ask("a", table.read("a")) is None
    else:
        table.problem = refusal
        with pytest.raises(type(refusal)):
            kept.ask("a", table.read("a"))
    table.problem = OperationalError("away")
    with pytest.raises(DatabaseUnavailable):
        kept.ask("a", table.read("a"))


def test_no_answer_is_older_than_the_bound(
    table: Table, monkeypatch: pytest.MonkeyPatch, configure: Callable[..., None]
) -> None:
    configure(SETTINGS_STALE_SECS=100)
    now = [1000.0]
    monkeypatch.setattr(remembered.time, "monotonic", lambda: now[0])
    kept: Remembered[int] = Remembered("This", 10)
    kept.ask("a", table.read("a"))
    table.problem = OperationalError("away")
    now[0] += 100
    assert kept.ask("a", table.read("a")) == 1
    now[0] += 1
    with pytest.raises(DatabaseUnavailable):
        kept.ask("a", table.read("a"))


def test_no_more_answers_are_kept_than_there_is_room_for(table: Table) -> None:
    kept: Remembered[int] = Remembered("This", 2)
    for name in ("a", "b", "a", "nobody", "c"):
        kept.ask(name, table.read(name))
    table.problem = OperationalError("away")
    assert kept.ask("a", table.read("a")) == 1
    assert kept.ask("c", table.read("c")) == 3
    with pytest.raises(DatabaseUnavailable):
        kept.ask("b", table.read("b"))
