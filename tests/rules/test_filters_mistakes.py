"""Filters that are wrong: where, why, and what to write instead."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from hubs.rules.filters import InvalidFilter, compile_filter, parser
from hubs.rules.filters.errors import MAX_QUOTED_CHARACTERS
from hubs.rules.filters.parser import MAX_CALLS, MAX_CHARACTERS, MAX_CLAUSES, MAX_NESTING, MAX_TOKENS

LARGE = "9223372036854775808"

# The caret stands before the character that the error names. No row has one of its own.
ROWS = [
    # nothing, or half of something
    ("^", "The filter is empty."),
    ("^ ", "The filter is empty."),
    ("^\t\r\n", "The filter is empty."),
    ("userId eq^", "A value is missing at the end."),
    ("userId eq  ^", "A value is missing at the end."),
    ("true and^", "A value is missing at the end."),
    ("true or^", "A value is missing at the end."),
    ("not^", "A value is missing at the end."),
    ("(^", "A value is missing at the end."),
    ("userId in^", "A value is missing at the end."),
    ("userId in (^", "A value is missing at the end."),
    ("length(^", "A value is missing at the end."),
    ("^and true", "A value is missing before 'and'."),
    ("true and ^or true", "A value is missing before 'or'."),
    ("^eq 'a'", "A value is missing before 'eq'."),
    ("userId eq ^eq 'a'", "A value is missing before 'eq'."),
    ("^in groups", "A value is missing before 'in'."),
    ("true eq ^not false", "put not and what follows it in parentheses"),
    # parentheses, lists and commas
    ("^(userId eq 'a'", "This parenthesis is never closed."),
    ("^((true) and (true)", "This parenthesis is never closed."),
    ("^((true)", "This parenthesis is never closed."),
    ("userId eq 'a'^)", "This parenthesis closes nothing."),
    ("^)", "A value is missing before ')'."),
    ("(^)", "A value is missing before ')'."),
    ("userId in ^('a'", "close it behind the last value"),
    ("userId in (^)", "A value is missing before ')'."),
    ("userId in ('a',^)", "A value is missing before ')'."),
    ("userId in (^,'a')", "A value is missing before ','."),
    ("userId in ('a',^,'b')", "A value is missing before ','."),
    ("userId in ('a' ^'b')", "A comma or a closing parenthesis is missing before ''b''."),
    ("userId in ('a' ^or 'b')", "A comma or a closing parenthesis is missing before 'or'."),
    ("userId in ('a', true ^eq true)", "put a comparison among them in parentheses"),
    ("userId eq ('a'^, 'b')", "lists stand only after in"),
    ("('a'^, 'b') eq userId", "lists stand only after in"),
    ("true^, true", "',' cannot stand here."),
    ("contains(userId ^'a')", "A comma or a closing parenthesis is missing before ''a''."),
    # what follows a condition
    ("userId eq 'a' ^'b'", "''b'' cannot stand here."),
    ("userId eq 'a' ^userId eq 'b'", "join conditions with and or with or"),
    ("true ^not false", "'not' cannot stand here."),
    ("true ^(false)", "'(' cannot stand here."),
    ("1 eq 1 ^eq true", "compare once, or put the first comparison in parentheses"),
    ("1 lt 2 ^lt 3", "compare once"),
    ("'a' in groups ^in groups", "compare once"),
    ("^userId('a')", "functions are length, tolower"),
    # names
    ("^ab eq 1", "Token 'ab' is not supported."),
    ("userId eq ^ada", "put text in single quotes"),
    ("^usrId eq 'a'", "perhaps userId is meant"),
    ("^connectionIds eq 'a'", "perhaps connectionId is meant"),
    ("'a' in ^group", "perhaps groups is meant"),
    ("^subprotocol eq null", "perhaps protocol is meant"),
    ("^user eq 'a'", "write userId instead"),
    ("^id eq 'a'", "write connectionId or userId"),
    ("userId eq ^none", "write null instead"),
    ("^юзер eq 'a'", "Token 'юзер' is not supported."),
    ("^userİd eq 'a'", "Token 'userİd' is not supported."),
    ("^invalid(ab,c)", "functions are length, tolower"),
    ("^invalid (ab,c)", "functions are length, tolower"),
    ("^startwith(userId, 'a')", "perhaps startswith is meant"),
    ("^substringof('a', userId)", "write contains(userId, 'a') instead"),
    ("^eval('1')", "functions are length, tolower"),
    ("^__import__('os')", "functions are length, tolower"),
    ("userId ^equals 'a'", "write eq instead"),
    ("userId ^like 'a%'", "see contains, startswith and endswith"),
    ("userId ^xor 'a'", "'xor' cannot stand here."),
    ("1 ^add 1 eq 2", "there is no arithmetic"),
    ("groups ^has 'a'", "write 'chess' in groups"),
    # signs
    ("userId ^= 'a'", "write eq instead"),
    ("userId ^== 'a'", "write eq instead"),
    ("userId ^!= 'a'", "write ne instead"),
    ("userId ^<> 'a'", "write ne instead"),
    ("length(userId) ^> 3", "write gt instead"),
    ("length(userId) ^>= 3", "write ge instead"),
    ("length(userId) ^< 3", "write lt instead"),
    ("length(userId)^<=3", "write le instead"),
    ("true ^&& true", "write and instead"),
    ("true ^|| true", "write or instead"),
    ("^!true", "write not instead"),
    ('userId eq ^"a"', "put text in straight single quotes"),
    ("userId eq ^‘a’", "put text in straight single quotes"),
    ("userId in ^['a']", "put lists in parentheses"),
    ("groups^/any(g: g eq 'a')", "there are no paths"),
    ("^$filter=userId eq 'a'", "write the filter alone"),
    ("userId eq ^%27a%27", "percent-encode the filter once"),
    ("1 ^+ 1 eq 2", "there is no arithmetic"),
    ("1 ^- 1 eq 2", "there is no arithmetic"),
    ("1 eq ^- 1", "a minus sign stands right before its digits"),
    ("2 ^* 2 eq 4", "there are no wildcards"),
    ("userId eq 'a'^;", "only words, whole numbers"),
    ("^@p eq 'a'", "'@' means nothing here."),
    ("userId eq ^\x00", r"'\x00' means nothing here."),
    ("userId eq ^\ud800", r"'\ud800' means nothing here."),
    # text and numbers
    ("userId eq ^'a", "This text is never closed."),
    ("userId eq ^'", "This text is never closed."),
    ("userId eq ^'a''", "This text is never closed."),
    ("userId eq 'O'^Brien'", "'Brien' cannot stand here."),
    ("length(userId) gt ^1.5", "there are only whole numbers"),
    ("length(userId) gt ^1e3", "there are only whole numbers"),
    ("length(userId) gt ^1L", "there are only whole numbers"),
    ("length(userId) gt ^0x10", "there are only whole numbers"),
    ("length(userId) gt ^1.", "there are only whole numbers"),
    (f"1 lt ^{LARGE}", "this number is too large"),
    (f"1 gt ^-{LARGE[:-1]}9", "this number is too large"),
    ("1 lt ^" + "9" * 5000, "this number is too large"),
    ("userId eq ^2024-01-01", "put text in single quotes"),
    ("1 eq 2024 ^-01", "'-01' cannot stand here."),
    # types
    ("^userId", "Type 'string', expect 'bool'."),
    ("^'a'", "Type 'string', expect 'bool'."),
    ("^1", "Type 'int', expect 'bool'."),
    ("^null", "Type 'null', expect 'bool'."),
    ("^groups", "Type 'collection', expect 'bool'."),
    ("^length(userId)", "Type 'int', expect 'bool'."),
    ("^(userId)", "Type 'string', expect 'bool'."),
    ("( not ^'a' )", "Type 'string', expect 'bool'."),
    ("not ^null", "Type 'null', expect 'bool'."),
    ("not ^groups", "Type 'collection', expect 'bool'."),
    ("true and ^userId", "Type 'string', expect 'bool'."),
    ("^userId and true", "Type 'string', expect 'bool'."),
    ("true or ^1", "Type 'int', expect 'bool'."),
    ("false and ^null", "Type 'null', expect 'bool'."),
    ("true or true and ^'a'", "Type 'string', expect 'bool'."),
    ("^userId lt 1", "Type 'string', expect 'int'."),
    ("1 lt ^userId", "Type 'string', expect 'int'."),
    ("^userId gt 'a'", "Type 'string', expect 'int'."),
    ("^userId ge null", "Type 'string', expect 'int'."),
    ("^true le 1", "Type 'bool', expect 'int'."),
    ("^groups gt 1", "Type 'collection', expect 'int'."),
    ("userId eq ^1", "Type 'int', expect 'string'."),
    ("1 eq ^userId", "Type 'string', expect 'int'."),
    ("1 eq ^true", "Type 'bool', expect 'int'."),
    ("true ne ^'true'", "Type 'string', expect 'bool'."),
    ("length(userId) eq ^'3'", "Type 'string', expect 'int'."),
    ("^groups eq 'a'", "'chess' in groups"),
    ("'a' eq ^groups", "Type 'collection', expect 'string'."),
    ("^groups eq groups", "Type 'collection', expect 'string'."),
    ("^groups eq null", "Type 'collection', expect 'string'."),
    ("userId in ('a', ^1)", "all values of a list must be of the type before in"),
    ("1 in (^'1')", "Type 'string', expect 'int'."),
    ("userId in (^groups)", "Type 'collection', expect 'string'."),
    ("'a' in (^groups)", "Type 'collection', expect 'string'."),
    ("^groups in ('a')", "Type 'collection', expect 'string'."),
    ("^groups in groups", "Type 'collection', expect 'string'."),
    ("^1 in groups", "Type 'int', expect 'string'."),
    ("^length(userId) in groups", "Type 'int', expect 'string'."),
    ("'a' in ^userId", "write a list in parentheses after in"),
    ("'a' in ^'abc'", "Type 'string', expect 'collection'."),
    # both sides are always checked, whatever the first says
    ("false and ^1", "Type 'int', expect 'bool'."),
    ("true or ^userId lt 1", "Type 'string', expect 'int'."),
    ("true or ^nobody eq 'a'", "Token 'nobody' is not supported."),
    # functions
    ("^length eq 3", "a function has values in parentheses, as in length(userId)"),
    ("userId eq ^tolower", "a function has values in parentheses, as in tolower(userId)"),
    ("^length() eq 0", "length takes 1 value, not 0"),
    ("^length(userId, 'a') eq 1", "length takes 1 value, not 2"),
    ("^contains(userId)", "contains takes 2 values, not 1"),
    ("^contains(userId, 'a', 'b')", "contains takes 2 values, not 3"),
    ("^substring(userId) eq 'a'", "substring takes 2 or 3 values, not 1"),
    ("^substring(userId, 1, 2, 3) eq 'a'", "substring takes 2 or 3 values, not 4"),
    ("length(^1) eq 1", "Type 'int', expect 'string'."),
    ("length(^(true)) eq 1", "Type 'bool', expect 'string'."),
    ("tolower(^groups) eq 'a'", "Type 'collection', expect 'string'."),
    ("contains(^groups, 'a')", "'chess' in groups"),
    ("contains(userId, ^1)", "write contains as in contains(userId, 'a')"),
    ("startswith(^length(userId), 'a')", "Type 'int', expect 'string'."),
    ("substring(userId, ^'1') eq 'a'", "Type 'string', expect 'int'."),
    ("substring(userId, 1, ^'1') eq 'a'", "Type 'string', expect 'int'."),
    ("concat(userId, ^true) eq 'a'", "Type 'bool', expect 'string'."),
    ("contains(userId, 'a') eq ^'true'", "Type 'string', expect 'bool'."),
    # bounds
    ("(" * MAX_NESTING + "^(true" + ")" * (MAX_NESTING + 1), f"nested more than {MAX_NESTING} deep"),
    ("not " * MAX_NESTING + "^not true", f"nested more than {MAX_NESTING} deep"),
    ("tolower(" * MAX_NESTING + "tolower^('a'" + ")" * (MAX_NESTING + 1), f"nested more than {MAX_NESTING} deep"),
    ("(" * MAX_NESTING + "^(", f"nested more than {MAX_NESTING} deep"),
    (" and ".join(["true"] * MAX_CLAUSES) + " ^and true", f"more than {MAX_CLAUSES} conditions"),
    (" or ".join(["true"] * MAX_CLAUSES) + " ^or true", f"more than {MAX_CLAUSES} conditions"),
    ("1 in (1" + ",length(userId)" * MAX_CALLS + ",^length(userId))", f"calls more than {MAX_CALLS} functions"),
    ("1 in (1" + ",1" * 1022 + "^,1)", f"more than {MAX_TOKENS} words"),
    ("userId ne '" + "x" * (MAX_CHARACTERS - 11) + "^'", f"{MAX_CHARACTERS} are allowed"),
    ("x" * MAX_CHARACTERS + "^" + "x" * 1_000_000, f"{MAX_CHARACTERS} are allowed"),
]


# The three sentences there are.
AZURES = re.compile(
    r"Invalid syntax for '.*': (Syntax error at position \d+ in '.*'|Token '.*' is not supported"
    r"|Type '(bool|string|int|null|collection)', expect '(bool|string|int|collection)')\. \(Parameter 'filter'\)"
)


def _refused(text: str) -> InvalidFilter:
    with pytest.raises(InvalidFilter) as caught:
        compile_filter(text)
    return caught.value


@pytest.mark.parametrize(("marked", "part"), ROWS, ids=lambda part: ascii(part)[:60])
def test_what_is_wrong_and_where(marked: str, part: str) -> None:
    position = marked.index("^")
    error = _refused(marked.replace("^", ""))
    assert part.lower() in str(error).lower()
    assert error.position == position, error.detail
    assert error.detail.startswith(f"At character {position + 1}: ")
    assert str(error) == f"{error.message} {error.detail}"
    assert AZURES.fullmatch(error.message)


def test_there_are_enough_rows() -> None:
    assert len({marked for marked, _ in ROWS}) == len(ROWS) >= 60


# What Azure says of them: the part of the filter, and the sentence


@pytest.mark.parametrize(
    ("text", "part", "sentence"),
    [
        # Its reader has gone past the token that cannot stand there.
        ("invalid filter", "invalid filter", "Syntax error at position 14 in 'invalid filter'."),
        ("true true and true", "true true and true", "Syntax error at position 9 in 'true true and true'."),
        ("userId eq", "userId eq", "Syntax error at position 9 in 'userId eq'."),
        ("userId eq  ", "userId eq  ", "Syntax error at position 11 in 'userId eq  '."),
        ("(true", "(true", "Syntax error at position 5 in '(true'."),
        ("userId eq 'ab", "userId eq 'ab", "Syntax error at position 13 in 'userId eq 'ab'."),
        ("userId == 'a'", "userId == 'a'", "Syntax error at position 9 in 'userId == 'a''."),
        (" ", " ", "Syntax error at position 1 in ' '."),
        # A name: the comparison, the call or the conditions around it; a function: all of its call
        ("nick eq 'x'", "nick eq 'x'", "Token 'nick' is not supported."),
        ("true and (nick eq 'x' or true)", "nick eq 'x'", "Token 'nick' is not supported."),
        ("nick and true and true", "nick and true", "Token 'nick' is not supported."),
        ("true or true or nick", "true or true or nick", "Token 'nick' is not supported."),
        ("(nick) or (1 eq 1)", "(nick) or (1 eq 1)", "Token 'nick' is not supported."),
        ("not nick", "not nick", "Token 'nick' is not supported."),
        ("nick", "nick", "Token 'nick' is not supported."),
        ("tolower(nick) eq 'x'", "tolower(nick)", "Token 'nick' is not supported."),
        ("true and 'x' in nicks", "'x' in nicks", "Token 'nicks' is not supported."),
        ("nick(ab,c)", "nick(ab,c)", "Token 'nick(ab,c)' is not supported."),
        (
            "not nick( ab , trim( 'c  d' ) )",
            "nick( ab , trim( 'c  d' ) )",
            "Token 'nick(ab,trim('c  d'))' is not supported.",
        ),
        ("nick() eq 1", "nick()", "Token 'nick()' is not supported."),
        ("length() eq 1", "length()", "Token 'length()' is not supported."),
        ("length(userId, 1) eq 1", "length(userId, 1)", "Token 'length(userId,1)' is not supported."),
        ("length eq 1", "length eq 1", "Token 'length' is not supported."),
        ("length(userId) eq 1.5", "length(userId) eq 1.5", "Token '1.5' is not supported."),
        ("userId eq 2024-01-01", "userId eq 2024-01-01", "Token '2024-01-01' is not supported."),
        # Types
        ("( not 'x' )", "not 'x'", "Type 'string', expect 'bool'."),
        ("userId ge 7", "userId ge 7", "Type 'string', expect 'int'."),
        ("(userId lt 1) or true", "userId lt 1", "Type 'string', expect 'int'."),
        ("(1 eq 1) eq 'x'", "(1 eq 1) eq 'x'", "Type 'string', expect 'bool'."),
        ("trim( 1 ) eq ''", "trim( 1 )", "Type 'int', expect 'string'."),
        ("true and 1 and true", "true and 1", "Type 'int', expect 'bool'."),
        ("'a' in userId", "'a' in userId", "Type 'string', expect 'collection'."),
        # Text that is no expression comes first, then what stands first.
        ("nick eq 1 and", "nick eq 1 and", "Syntax error at position 13 in 'nick eq 1 and'."),
        ("userId lt 1 true", "userId lt 1 true", "Syntax error at position 16 in 'userId lt 1 true'."),
        ("userId lt 1 or nick eq 1", "userId lt 1", "Type 'string', expect 'int'."),
        ("nick eq 1 or userId lt 1", "nick eq 1", "Token 'nick' is not supported."),
    ],
)
def test_messages_are_those_of_azure(text: str, part: str, sentence: str) -> None:
    assert _refused(text).message == f"Invalid syntax for '{part}': {sentence} (Parameter 'filter')"


def test_a_long_filter_is_quoted_in_part() -> None:
    error = _refused("userId eq 'a' and " * 80)
    assert len(error.message) < 2 * MAX_QUOTED_CHARACTERS + 100
    assert "userId eq 'a' and userId eq 'a'" in error.message
    assert "…'" in error.message


def test_a_long_word_is_quoted_in_part() -> None:
    assert len(_refused("x" * 10_000).message) < 2 * MAX_QUOTED_CHARACTERS + 100


@pytest.mark.parametrize(
    "text",
    [
        f"userId in ({', '.join(['usrid'] * 1000)})",
        f"{'zq(' * 99}usrid{')' * 99}",
        f"{'concat(' * 99}usrid{')' * 99}",
        " or ".join(["lenght(userId)"] * MAX_CLAUSES),
    ],
)
def test_words_are_found_for_one_mistake(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Many mistakes take no longer to answer than one: a process reads filters on its event loop."""
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(difflib, "get_close_matches", counted("guesses", difflib.get_close_matches))
    monkeypatch.setattr(parser, "tokens", counted("passes", parser.tokens))
    _refused(text)
    assert calls["guesses"] <= 1
    # To read it, and to write a call.
    assert calls["passes"] <= 2


@pytest.mark.parametrize(
    "text", ["userId eq \ud800", "a\udfff", "'\ud800' eq", "\x1b[31m eq 1", "a\x00b", "\u202e eq 1"]
)
def test_messages_can_be_sent_and_shown(text: str) -> None:
    message = str(_refused(text))
    assert message.isprintable()
    assert json.loads(json.dumps({"message": message}).encode())["message"] == message
    message.encode()


def test_a_refused_filter_is_not_remembered() -> None:
    before = compile_filter.cache_info().currsize
    _refused("this will not do")
    assert compile_filter.cache_info().currsize == before
