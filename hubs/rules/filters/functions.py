"""The functions of the filter language, one row each."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Type(StrEnum):
    """What a part of a filter gives, under the names that Azure's error texts use."""

    BOOL = "bool"
    STRING = "string"
    INT = "int"
    NULL = "null"
    COLLECTION = "collection"


@dataclass(frozen=True, slots=True)
class Function:
    """A function: what it takes and gives. `apply` never meets None: then the result is `on_null`."""

    name: str
    parameters: tuple[tuple[Type, ...], ...]
    result: Type
    apply: Callable[..., Any]
    example: str
    on_null: Any = None
    optional: int = 0


def lower(text: str) -> str:
    """Lower case, one character for one character, whatever stands beside it.

    Python's own lower() looks at neighbours (a Greek sigma at the end of a word) and makes two of
    the Turkish İ. Then positions and lengths would not be those of the text before.
    """
    lowered = text.replace("Σ", "σ").lower()
    if len(lowered) == len(text):
        return lowered
    return "".join([c if len(lowered := c.lower()) > 1 else lowered for c in text])


def upper(text: str) -> str:
    """Upper case, one character for one character; ß and its like stay as they are."""
    raised = text.upper()
    if len(raised) == len(text):
        return raised
    return "".join([c if len(raised := c.upper()) > 1 else raised for c in text])


def substring(text: str, start: int, length: int | None = None) -> str | None:
    """A part of `text`; None when it does not lie within."""
    if not 0 <= start <= len(text):
        return None
    if length is None:
        return text[start:]
    return text[start : start + length] if 0 <= length <= len(text) - start else None


_TEXT = (Type.STRING,)
_NUMBER = (Type.INT,)

FUNCTIONS = {
    function.name: function
    for function in (
        Function("length", ((Type.STRING, Type.COLLECTION),), Type.INT, len, "length(userId)"),
        Function("tolower", (_TEXT,), Type.STRING, lower, "tolower(userId)"),
        Function("toupper", (_TEXT,), Type.STRING, upper, "toupper(userId)"),
        Function("trim", (_TEXT,), Type.STRING, str.strip, "trim(userId)"),
        Function("startswith", (_TEXT, _TEXT), Type.BOOL, str.startswith, "startswith(userId, 'a')", on_null=False),
        Function("endswith", (_TEXT, _TEXT), Type.BOOL, str.endswith, "endswith(userId, 'a')", on_null=False),
        Function("contains", (_TEXT, _TEXT), Type.BOOL, operator.contains, "contains(userId, 'a')", on_null=False),
        Function("indexof", (_TEXT, _TEXT), Type.INT, str.find, "indexof(userId, 'a')", on_null=-1),
        Function("concat", (_TEXT, _TEXT), Type.STRING, operator.add, "concat(userId, '-1')"),
        Function("substring", (_TEXT, _NUMBER, _NUMBER), Type.STRING, substring, "substring(userId, 0, 3)", optional=1),
    )
}
