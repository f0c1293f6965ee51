"""What is printed: clean for pipes, safe for terminals."""

from __future__ import annotations

import io

import pytest
from django.core.management.base import OutputWrapper

from hubs.management.cli.output import Line, Output, Record, Rows, printable


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Latin(io.StringIO):
    encoding = "iso-8859-1"  # type: ignore[assignment]


def drawn(view: Rows | Record | Line, stream: io.StringIO) -> str:
    Output(OutputWrapper(stream), OutputWrapper(io.StringIO())).result(None, view)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcode, 漢字, 👋", "plain, ünïcode, 漢字, 👋"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x1b[2Jcleared", "\\x1b[2Jcleared"),
        ("\x9b31m", "\\x9b31m"),
        ("right\u202eleft", "right\\u202eleft"),
        ("a\u2028b\u00a0c", "a\\u2028b\u00a0c"),
        ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
        ("half \udc80", "half \\udc80"),
        ("", ""),
    ],
)
def test_control_characters_are_shown_not_obeyed(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_table_in_a_pipe_is_neither_coloured_nor_cut() -> None:
    shown = drawn(Rows(["Name", "Text"], [["a", "x" * 500], ["[bold]b[/]", "\x1b[31mred"]]), io.StringIO())
    assert "x" * 500 in shown
    assert "[bold]b[/]" in shown, "no markup is read in data"
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 4


def test_a_table_at_a_terminal_fits_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = drawn(Rows(["Name", "Text"], [["a", "x" * 90]]), Terminal())
    assert shown.count("x") == 91 - 1 + shown.split("\n")[0].count("x")
    assert "…" not in shown


def test_a_table_for_a_narrow_encoding_is_drawn_in_ascii() -> None:
    assert drawn(Rows(["Name"], [["a"]]), Latin()).isascii()


def test_rows_of_nothing_say_so() -> None:
    assert drawn(Rows(["Name"], [], "None yet."), io.StringIO()) == "None yet.\n"


def test_a_record_aligns_its_values() -> None:
    assert drawn(Record([("Key", "a"), ("Longer name", "b"), ("None", "")]), io.StringIO()).splitlines() == [
        "Key          a",
        "Longer name  b",
        "None",
    ]
