"""Filter text to tokens, one at a time, in a single pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from hubs.rules.filters.errors import SyntaxMistake, quoted

WORD, STRING, INTEGER, END = "word", "string", "integer", "end"
# What begins as a number does and is no whole one: fractions, dates, hexadecimal digits.
NUMBER = "number"
OPEN, CLOSE, COMMA = "(", ")", ","

# Possessive quantifiers (*+): what was read is not given back, so that no text takes more than one pass.
_TOKEN = re.compile(
    r"""\s*+(?:
        (?P<word>[^\W\d]\w*+)
      | (?P<string>'[^']*+(?:''[^']*+)*+')
      | (?P<integer>-?[0-9]++(?![\w.]|-\w))
      | (?P<mark>[(),])
      | (?P<number>-?[0-9](?:[\w.]|-(?=\w))*+)
      | (?P<sign>[=!<>&|]++)
      | (?P<end>\Z)
      | (?P<other>.)
    )""",
    re.VERBOSE | re.DOTALL,
)

_SIGNS = {
    **dict.fromkeys(("=", "=="), "write eq instead"),
    **dict.fromkeys(("!=", "<>"), "write ne instead"),
    ">": "write gt instead",
    ">=": "write ge instead",
    "<": "write lt instead",
    "<=": "write le instead",
    **dict.fromkeys(("&", "&&"), "write and instead"),
    **dict.fromkeys(("|", "||"), "write or instead"),
    "!": "write not instead",
    **dict.fromkeys('"`‘’“”', "put text in straight single quotes, as in userId eq 'ada'"),
    **dict.fromkeys("[{", "put lists in parentheses, as in userId in ('ada', 'bob')"),
    "+": "there is no arithmetic; concat(…, …) joins texts",
    "-": "there is no arithmetic; a minus sign stands right before its digits, as in -1",
    "*": "there is no arithmetic and there are no wildcards; see startswith, endswith and contains",
    "/": "there are no paths and no arithmetic; names are userId, connectionId, groups and protocol",
    "%": "percent-encode the filter once, not twice; there is no arithmetic and there are no wildcards",
    "$": "write the filter alone, without $filter=",
}
_OTHERWISE = "only words, whole numbers, 'text', parentheses and commas make a filter"


class Token(NamedTuple):
    """A piece of a filter; `word` is its lower-case form where letter case does not count."""

    kind: str
    text: str
    start: int
    end: int
    word: str = ""


def tokens(text: str) -> Iterator[Token]:
    """Read tokens up to and including END. Raises SyntaxMistake at the first character that begins none."""
    position = 0
    match_at = _TOKEN.match
    while True:
        match = match_at(text, position)
        if match is None or match.lastgroup is None:  # `other` takes what nothing else does.
            raise AssertionError("every text begins with some token")
        kind = match.lastgroup
        start, position = match.span(kind)
        piece = text[start:position]
        if kind == WORD:
            yield Token(WORD, piece, start, position, piece.lower())
        elif kind == "mark":
            yield Token(piece, piece, start, position)
        elif kind in (STRING, INTEGER, NUMBER):
            yield Token(kind, piece, start, position)
        elif kind == END:
            yield Token(END, "", start, position)
            return
        else:
            raise _no_token(piece, start, len(text) if piece == "'" else position)


def _no_token(piece: str, start: int, reached: int) -> SyntaxMistake:
    if piece == "'":
        problem = "This text is never closed."
        advice = "end it with a single quote, and write a quote inside it twice, as in 'O''Brien'"
    else:
        problem, advice = f"'{quoted(piece)}' means nothing here.", _SIGNS.get(piece, _OTHERWISE)
    return SyntaxMistake(start, problem, advice, reached=reached)
