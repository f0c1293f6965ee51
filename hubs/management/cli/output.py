"""What is printed: the same result as a table for people, as JSON or tab-separated for programs.

Results go to stdout and nothing else does, so that a pipe gets clean data; remarks go to stderr. In a
pipe there are no colours and no line is wrapped or cut: a connection string stays in one piece.
"""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jmespath
from django.core.management.base import OutputWrapper
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hubs.management.cli.errors import Error, one_line

FORMATS = ("table", "json", "tsv")

# Invisible, but harmless, and Persian or a family of emoji needs them.
_JOINERS = "\u200c\u200d"

# Wider than anything printed: what goes into a pipe is not wrapped.
_NO_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class Rows:
    """Several things of a kind: a heading for each column, and a row for each thing."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    nothing: str = "Nothing to show."


@dataclass(frozen=True, slots=True)
class Record:
    """One thing: names and values, one a line."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Line:
    """One plain line."""

    text: str


View = Rows | Record | Line


class Output:
    """Where one command's results go, and in which form."""

    def __init__(
        self,
        stdout: OutputWrapper,
        stderr: OutputWrapper,
        form: str = "table",
        query: str | None = None,
        label: Callable[[str], str] = str,
    ) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.form = form
        self.label = label
        self.query = _compiled(query) if query else None

    @property
    def for_programs(self) -> bool:
        """Tell whether a program reads this, so that courtesies are left out."""
        return self.form != "table"

    def result(self, data: Any, view: View) -> None:
        """Print a result: `data` for programs and queries, `view` for people."""
        shown: View | None = view
        if self.query is not None:
            data = self._picked(data)
            shown = None
        if self.form == "json":
            self.stdout.write(json.dumps(data, indent=2, ensure_ascii=False))
        elif self.form == "tsv":
            self._write_lines(_tab_separated(data))
        else:
            self._draw(shown if shown is not None else _view_of(data))

    def note(self, text: str) -> None:
        """Say something beside the result."""
        self.stderr.write(text)

    def done(self, text: str) -> None:
        """Confirm to people that something was done; programs have the exit code."""
        if not self.for_programs:
            self.stdout.write(text)

    def _picked(self, data: Any) -> Any:
        assert self.query is not None  # noqa: S101 - for the type checker
        try:
            return self.query.search(data)
        except jmespath.exceptions.JMESPathError as problem:
            raise Error(f"--query: {one_line(problem)}") from None

    def _write_lines(self, lines: Iterable[str]) -> None:
        text = "\n".join(lines)
        if text:
            self.stdout.write(text)

    def _draw(self, view: View) -> None:
        match view:
            case Line(text):
                self.stdout.write(printable(text))
            case Record(pairs):
                width = max((len(name) for name, _ in pairs), default=0)
                # Not a table: a terminal may break a long value, and copying it still gives one piece.
                for name, value in pairs:
                    self.stdout.write(f"{self.label(name.ljust(width))}  {printable(value)}".rstrip())
            case Rows(columns, rows, nothing):
                self.stdout.write(self._table(columns, rows) if rows else nothing)

    def _table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        terminal = self.stdout.isatty()
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        drawn = io.StringIO()
        # The box is drawn into memory; whether its lines can be shown depends on where it goes then.
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        console = Console(
            file=drawn,
            force_terminal=terminal,
            width=None if terminal else _NO_LIMIT,
            safe_box=not encoding.lower().startswith("utf"),
        )
        if not encoding.lower().startswith("utf"):
            table.box = box.ASCII
        console.print(table)
        return "\n".join(line.rstrip() for line in drawn.getvalue().splitlines())


def printable(text: str) -> str:
    """Show control characters by their escapes: what others send must not steer this terminal."""
    if text.isprintable():
        return text
    return "".join(
        # Cc, Cf, Cs, Zl, Zp …: everything that moves the cursor, hides text or turns its direction.
        character
        if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def yes_or_no(value: bool) -> str:
    """A flag, for people."""
    return "yes" if value else "no"


def _compiled(query: str) -> Any:
    try:
        return jmespath.compile(query)
    except jmespath.exceptions.JMESPathError as problem:
        raise Error(f"--query is not a JMESPath expression: {one_line(problem)}") from None


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _tab_separated(data: Any) -> Iterable[str]:
    """One thing a line; its values, in the order of the JSON, between tabs."""
    for item in data if isinstance(data, list) else [data]:
        values = item.values() if isinstance(item, Mapping) else item if isinstance(item, list) else [item]
        yield "\t".join(printable(_cell(value)) for value in values)


def _view_of(data: Any) -> View:
    """Draw something that a query picked."""
    if isinstance(data, Mapping):
        return Record([(str(name), _cell(value)) for name, value in data.items()])
    if isinstance(data, list) and data and all(isinstance(item, Mapping) for item in data):
        columns = list(dict.fromkeys(name for item in data for name in item))
        return Rows(columns, [[_cell(item.get(name)) for name in columns] for item in data])
    if isinstance(data, list):
        return Rows(["Result"], [[_cell(item)] for item in data])
    return Line(_cell(data))
