"""Filters that are right, and who passes them."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from hubs.rules.filters import compile_filter
from hubs.rules.filters.functions import FUNCTIONS as FUNCTION_TABLE
from hubs.rules.filters.functions import lower, upper
from hubs.rules.filters.parser import MAX_CALLS, MAX_CHARACTERS, MAX_CLAUSES, MAX_NESTING, MAX_TOKENS
from tests.rules.filter_subjects import ALL, NOBODY, SUBJECTS, passing

EQUALITY = [
    ("userId eq 'ada'", "a"),
    ("userId eq 'Ada'", NOBODY),
    ("'ada' eq userId", "a"),
    ("userId ne 'ada'", "bonem"),
    ("userId eq ''", "e"),
    ("userId ne ''", "abonm"),
    ("userId eq null", "n"),
    ("null eq userId", "n"),
    ("userId ne null", "aboem"),
    ("userId eq userId", ALL),
    ("userId ne userId", NOBODY),
    ("userId eq connectionId", NOBODY),
    ("userId eq protocol", "n"),
    ("userId eq 'null'", NOBODY),
    ("userId eq 'O''Brien'", "o"),
    ("userId eq 'O''''Brien'", NOBODY),
    ("userId eq ''''", NOBODY),
    ("userId eq ' Straße Σ😀 '", "m"),
    ("userId eq 'Straße Σ😀'", NOBODY),
    ("connectionId eq 'conn-a'", "a"),
    ("connectionId eq 'CONN-a'", NOBODY),
    ("connectionId ne 'conn-a'", "bonem"),
    ("connectionId eq null", NOBODY),
    ("connectionId ne null", ALL),
    ("protocol eq null", "bnm"),
    ("protocol ne null", "aoe"),
    ("protocol eq 'json.webpubsub.azure.v1'", "a"),
    ("protocol eq 'JSON.webpubsub.azure.v1'", NOBODY),
    ("protocol ne 'json.webpubsub.azure.v1'", "bonem"),
    ("1 eq 1", ALL),
    ("1 ne 1", NOBODY),
    ("1 eq 2", NOBODY),
    ("1 eq 01", ALL),
    ("0 eq -0", ALL),
    ("-1 eq -1", ALL),
    ("1 eq null", NOBODY),
    ("1 ne null", ALL),
    ("'1' eq '1'", ALL),
    ("null eq null", ALL),
    ("null ne null", NOBODY),
    ("true eq true", ALL),
    ("true eq false", NOBODY),
    ("true ne false", ALL),
    ("true eq null", NOBODY),
    ("false eq null", NOBODY),
    ("9223372036854775807 eq 9223372036854775807", ALL),
    ("-9223372036854775808 eq -9223372036854775808", ALL),
    ("9223372036854775807 eq 9223372036854775806", NOBODY),
    ("contains(userId, 'd') eq true", "a"),
    ("contains(userId, 'd') eq false", "bonem"),
    ("contains(userId, 'd') ne contains(connectionId, 'a')", NOBODY),
    ("length(userId) eq null", "n"),
    ("length(userId) ne null", "aboem"),
    ("(userId eq 'ada') eq (connectionId eq 'conn-a')", ALL),
    ("(userId eq 'ada') ne (userId eq 'Bob')", "ab"),
]

ORDER = [
    ("length(userId) gt 3", "om"),
    ("length(userId) ge 3", "abom"),
    ("length(userId) lt 3", "e"),
    ("length(userId) le 3", "abe"),
    ("3 lt length(userId)", "om"),
    ("3 ge length(userId)", "abe"),
    ("length(userId) gt -1", "aboem"),
    ("length(userId) ge 0", "aboem"),
    ("length(userId) lt 0", NOBODY),
    ("1 gt null", NOBODY),
    ("1 ge null", NOBODY),
    ("1 lt null", NOBODY),
    ("1 le null", NOBODY),
    ("null gt 1", NOBODY),
    ("null le 1", NOBODY),
    ("null ge null", NOBODY),
    ("not (length(userId) gt 3)", "abne"),
    ("2 gt 1", ALL),
    ("1 gt 2", NOBODY),
    ("-2 lt -1", ALL),
    ("10 gt 9", ALL),
    ("length(userId) gt length(connectionId)", "om"),
    ("length(groups) gt 0", "aboem"),
    ("length(groups) eq 0", "n"),
    ("length(groups) ge 2", "aoem"),
    ("length(groups) lt length(userId)", "abom"),
    ("9223372036854775807 gt -9223372036854775808", ALL),
]

MEMBERSHIP = [
    ("'chess' in groups", "a"),
    ("'go' in groups", "ab"),
    ("'Go' in groups", "m"),
    ("'go' in GROUPS", "ab"),
    ("'g' in groups", NOBODY),
    ("'' in groups", NOBODY),
    ("'it''s' in groups", "o"),
    ("'日本' in groups", "o"),
    ("'42' in groups", "m"),
    ("'a,b' in groups", "m"),
    ("'null' in groups", "e"),
    ("null in groups", NOBODY),
    ("userId in groups", NOBODY),
    ("tolower('GO') in groups", "ab"),
    ("concat('che', 'ss') in groups", "a"),
    ("not ('go' in groups)", "onem"),
    ("not('go' in groups)", "onem"),
    ("not 'go' in groups", "onem"),
    ("('go' in groups)", "ab"),
    ("('go') in groups", "ab"),
    ("('go' in groups) eq true", "ab"),
    ("'go' in groups and not('chess' in groups)", "b"),
    ("'go' in groups or 'Go' in groups", "abm"),
    ("userId in ('ada')", "a"),
    ("userId in ('ada', 'Bob')", "ab"),
    ("userId in ('ada','Bob','O''Brien')", "abo"),
    ("userId in ( 'ada' , 'Bob' )", "ab"),
    ("userId in ('ada', 'ada')", "a"),
    ("userId in ('bob')", NOBODY),
    ("userId in (null)", "n"),
    ("userId in ('ada', null)", "an"),
    ("userId in ('')", "e"),
    ("userId in ('null')", NOBODY),
    ("userId in (connectionId, 'ada')", "a"),
    ("userId in (substring(connectionId, 0, 0), 'x')", "e"),
    ("userId in (protocol)", "n"),
    ("userId in (('ada'), (('Bob')))", "ab"),
    ("userId in ('(ada)', 'ada,Bob', ')')", NOBODY),
    ("not (userId in ('ada', 'Bob'))", "onem"),
    ("not userId in ('ada', 'Bob')", "onem"),
    ("connectionId in ('conn-a', 'conn-n')", "an"),
    ("protocol in (null, 'json.webpubsub.azure.v1')", "abnm"),
    ("'ada' in (userId, connectionId)", "a"),
    ("length(userId) in (3, 7)", "abo"),
    ("length(userId) in (null)", "n"),
    ("1 in (1, 2)", ALL),
    ("3 in (1, 2)", NOBODY),
    ("-1 in (-1)", ALL),
    ("null in (null)", ALL),
    ("null in ('a', 'b')", NOBODY),
    ("null in ('a', 1, true)", NOBODY),
    ("true in (true)", ALL),
    ("true in (false, (userId eq 'ada'))", "a"),
    ("contains(userId, 'd') in (true)", "a"),
    ("(1 eq 1) in (false)", NOBODY),
]

LOGIC = [
    ("true", ALL),
    ("false", NOBODY),
    ("not false", ALL),
    ("not true", NOBODY),
    ("not not true", ALL),
    ("not not not true", NOBODY),
    ("not(true)", NOBODY),
    ("not(not(true))", ALL),
    ("(true)", ALL),
    ("((true))", ALL),
    ("true and true", ALL),
    ("true and false", NOBODY),
    ("false or true", ALL),
    ("false or false", NOBODY),
    ("userId eq 'ada' or userId eq 'Bob'", "ab"),
    ("userId eq 'ada' and connectionId eq 'conn-a'", "a"),
    ("userId eq 'ada' and connectionId eq 'conn-b'", NOBODY),
    ("userId ne 'ada' and userId ne 'Bob' and userId ne null", "oem"),
    ("userId eq 'ada' or userId eq 'Bob' or userId eq null", "abn"),
    # and before or
    ("true or true and false", ALL),
    ("(true or true) and false", NOBODY),
    ("false and false or true", ALL),
    ("false and (false or true)", NOBODY),
    ("false and true or true and true", ALL),
    ("userId eq 'ada' or userId eq 'Bob' and 'chess' in groups", "a"),
    ("(userId eq 'ada' or userId eq 'Bob') and 'go' in groups", "ab"),
    ("'go' in groups and userId eq 'Bob' or userId eq null", "bn"),
    # not before and and or
    ("not false and false", NOBODY),
    ("not (false and false)", ALL),
    ("not true or true", ALL),
    ("not (true or true)", NOBODY),
    ("true and not false", ALL),
    ("true or not true", ALL),
    ("not userId eq 'ada' and not userId eq 'Bob'", "onem"),
    # the comparison is within the not
    ("not userId eq 'ada'", "bonem"),
    ("not userId eq null", "aboem"),
    ("not length(userId) gt 3", "abne"),
    ("not 1 eq 2", ALL),
    ("not true eq false", ALL),
    ("not true eq null", ALL),
    ("(not true) eq false", ALL),
    ("(not true) eq null", NOBODY),
    ("not contains(userId, 'd')", "bonem"),
    ("contains(userId, 'd')", "a"),
    ("contains(userId, 'd') or startswith(userId, 'B')", "ab"),
    ("(((userId eq 'ada')) or ((userId eq 'Bob')))", "ab"),
]

SPELLING = [
    ("userid eq 'ada'", "a"),
    ("USERID EQ 'ada'", "a"),
    ("UserId Eq 'ada'", "a"),
    ("CONNECTIONID ne 'conn-a'", "bonem"),
    ("connectionid Eq 'conn-a'", "a"),
    ("Protocol eq NULL", "bnm"),
    ("'go' IN Groups", "ab"),
    ("userId IN ('ada')", "a"),
    ("NOT TRUE", NOBODY),
    ("True AND False Or TRUE", ALL),
    ("LENGTH(userId) GT 3", "om"),
    ("StartsWith(userId, 'a')", "a"),
    ("length(userId) Ge 3 And length(userId) Lt 4", "ab"),
    ("userId eq'ada'", "a"),
    ("'ada'eq userId", "a"),
    ("userId in('ada')", "a"),
    ("'go'in groups", "ab"),
    ("(userId eq 'ada')or(userId eq 'Bob')", "ab"),
    ("  userId   eq\t'ada'\r\n", "a"),
    ("\u00a0userId\u2003eq 'ada'\u3000", "a"),
    ("length ( userId ) gt 3", "om"),
    ("contains(userId,'d')", "a"),
    ("contains( userId , 'd' )", "a"),
    ("'eq' eq 'eq'", ALL),
    ("'userId' eq userId", NOBODY),
    ("'a and b' eq 'a and b'", ALL),
    ("'(' eq '('", ALL),
    ("'\n' eq '\n'", ALL),
    ("'\x00' ne userId", ALL),
    ("'\ud800' ne userId", ALL),
    (r"'\' ne userId", ALL),
    ("'%27' ne userId", ALL),
    ("'''' eq ''''", ALL),
    ("'''''' ne ''''", ALL),
    ("startswith('''a', '''')", ALL),
    ("length('''''') eq 2", ALL),
]

FUNCTIONS = [
    ("length('') eq 0", ALL),
    ("length('abc') eq 3", ALL),
    ("length('日本😀') eq 3", ALL),
    ("length(null) eq null", ALL),
    ("length(userId) eq 0", "e"),
    ("length(connectionId) eq 6", ALL),
    ("length(protocol) gt 30", "oe"),
    ("tolower(userId) eq 'bob'", "b"),
    ("tolower(userId) eq 'o''brien'", "o"),
    ("tolower(userId) eq 'BOB'", NOBODY),
    ("tolower(userId) eq userId", "ane"),
    ("tolower(null) eq null", ALL),
    ("tolower('ÀÉΣ') eq 'àéσ'", ALL),
    ("length(tolower('İ')) eq 1", ALL),
    ("tolower(connectionId) eq 'conn-o'", "o"),
    ("toupper(userId) eq 'ADA'", "a"),
    ("toupper('straße') eq 'STRAßE'", ALL),
    ("toupper('àéω') eq 'ÀÉΩ'", ALL),
    ("toupper(userId) eq null", "n"),
    ("toupper(null) eq null", ALL),
    ("trim(userId) eq 'Straße Σ😀'", "m"),
    ("trim('  a b  ') eq 'a b'", ALL),
    ("trim('\t\na\u00a0') eq 'a'", ALL),
    ("trim(' ') eq ''", ALL),
    ("trim(userId) ne userId", "m"),
    ("trim(null) eq null", ALL),
    ("startswith(userId, 'a')", "a"),
    ("startswith(userId, 'A')", NOBODY),
    ("startswith(userId, '')", "aboem"),
    ("startswith(userId, 'adam')", NOBODY),
    ("startswith('adam', userId)", "ae"),
    ("startswith(userId, null)", NOBODY),
    ("startswith(null, 'a')", NOBODY),
    ("startswith(null, null)", NOBODY),
    ("not startswith(userId, 'a')", "bonem"),
    ("startswith(connectionId, 'conn-')", "abnem"),
    ("endswith(userId, 'a')", "a"),
    ("endswith(userId, 'da')", "a"),
    ("endswith(userId, 'n')", "o"),
    ("endswith(userId, '')", "aboem"),
    ("endswith(protocol, '.v1')", "aoe"),
    ("endswith(null, '')", NOBODY),
    ("endswith(userId, null)", NOBODY),
    ("contains(userId, 'B')", "bo"),
    ("contains(userId, '''')", "o"),
    ("contains(userId, '')", "aboem"),
    ("contains(userId, '😀')", "m"),
    ("contains(userId, null)", NOBODY),
    ("contains(null, 'a')", NOBODY),
    ("contains(protocol, 'reliable')", "oe"),
    ("not contains(protocol, 'reliable')", "abnm"),
    ("indexof(userId, 'd') eq 1", "a"),
    ("indexof(userId, 'a') eq 0", "a"),
    ("indexof(userId, 'zz') eq -1", ALL),
    ("indexof(userId, '') eq 0", "aboem"),
    ("indexof(userId, '') eq -1", "n"),
    ("indexof(null, 'a') eq -1", ALL),
    ("indexof('a', null) eq -1", ALL),
    ("indexof('a', null) eq null", NOBODY),
    ("indexof('😀a', 'a') eq 1", ALL),
    ("indexof(connectionId, '-') eq 4", ALL),
    ("indexof(userId, 'd') gt 0", "a"),
    ("indexof('abcabc', 'c') eq 2", ALL),
    ("concat(userId, '!') eq 'ada!'", "a"),
    ("concat('', '') eq ''", ALL),
    ("concat('a', 'b') eq 'ab'", ALL),
    ("concat(userId, '') eq userId", ALL),
    ("concat(userId, 'x') eq null", "n"),
    ("concat('x', userId) eq null", "n"),
    ("concat(null, null) eq null", ALL),
    ("concat(concat(userId, '/'), connectionId) eq 'ada/conn-a'", "a"),
    ("concat(userId, protocol) eq null", "bnm"),
    ("substring(userId, 0) eq userId", ALL),
    ("substring(userId, 1) eq 'da'", "a"),
    ("substring(userId, 1, 1) eq 'd'", "a"),
    ("substring(userId, 0, 2) eq 'ad'", "a"),
    ("substring(userId, 0, 0) eq ''", "aboem"),
    ("substring(userId, 3) eq ''", "ab"),
    ("substring(userId, 3, 0) eq ''", "abom"),
    ("substring(userId, 4) eq null", "abne"),
    ("substring(userId, 1, 3) eq null", "abne"),
    ("substring(userId, 1) eq null", "ne"),
    ("substring(userId, -1) eq null", ALL),
    ("substring(userId, 0, -1) eq null", ALL),
    ("substring(userId, 9223372036854775807) eq null", ALL),
    ("substring(userId, 0, 9223372036854775807) eq null", ALL),
    ("substring(userId, null) eq null", ALL),
    ("substring('abc', 1, null) eq null", ALL),
    ("substring(null, 0) eq null", ALL),
    ("substring('abc', length(userId)) eq ''", "ab"),
    ("substring('a😀b', 1, 1) eq '😀'", ALL),
    ("substring(userId, indexof(userId, '''')) eq '''Brien'", "o"),
    ("substring(connectionId, indexof(connectionId, '-'), 2) eq '-a'", "a"),
    ("length(concat(userId, connectionId)) eq 9", "ab"),
    ("tolower(substring(connectionId, 0, 4)) eq 'conn'", ALL),
    ("startswith(tolower(connectionId), 'conn-')", ALL),
    ("contains(toupper(userId), 'BRIEN')", "o"),
    ("tolower(('Bob')) eq 'bob'", ALL),
    ("substring(trim(userId), 0, 6) eq 'Straße'", "m"),
]

# The examples of Azure's own page about filters, and of its SDKs.
DOCUMENTED = [
    ("userId eq 'ada' or (not (startswith(userId, 'O')))", "abnem"),
    ("length(userId) le 10 and length(userId) gt 3", "o"),
    ("length(userId) gt 10 or length(userId) le 3", "abem"),
    ("not endswith(userId, 'da')", "bonem"),
    ("tolower(userId) in ('ada', 'bob')", "ab"),
    ("'chess' in groups and not('dance' in groups)", "a"),
    ("connectionId ne 'conn-a' and startswith(userId, 'B')", "b"),
]

ROWS = [*EQUALITY, *ORDER, *MEMBERSHIP, *LOGIC, *SPELLING, *FUNCTIONS, *DOCUMENTED]


@pytest.mark.parametrize(("text", "expected"), ROWS, ids=ascii)
def test_who_passes(text: str, expected: str) -> None:
    assert passing(text) == expected


def test_no_row_is_there_twice() -> None:
    texts = [text for text, _ in ROWS]
    assert len(set(texts)) == len(texts) >= 200


# Letter case: one character for one character


def _every_character() -> str:
    return "".join(map(chr, range(sys.maxunicode + 1)))


def test_letter_case_keeps_every_length() -> None:
    text = _every_character()
    assert len(lower(text)) == len(upper(text)) == len(text)


def test_letter_case_does_not_look_at_neighbours() -> None:
    text = _every_character()
    assert lower(text) == "".join(map(lower, text))
    assert upper(text) == "".join(map(upper, text))


# Bounds: the last that is allowed. tests/rules/test_filters_mistakes.py has the first that is not.


@pytest.mark.parametrize(
    "text",
    [
        "(" * MAX_NESTING + "true" + ")" * MAX_NESTING,
        "not " * MAX_NESTING + "true",
        "not (" * (MAX_NESTING // 2) + "true" + ")" * (MAX_NESTING // 2),
        "tolower(" * MAX_NESTING + "'a'" + ")" * MAX_NESTING + " eq 'a'",
        " and ".join(["not not tolower('a') in (('a'))"] * MAX_CLAUSES),
        "true eq (" * MAX_NESTING + "true" + ")" * MAX_NESTING,
        "true in (true, (" * (MAX_NESTING // 2) + "true" + "))" * (MAX_NESTING // 2),
        " and ".join(["true"] * MAX_CLAUSES),
        " or ".join(["userId eq 'ada'"] * (MAX_CLAUSES - 1)) + " or true",
        "userId ne '" + "x" * (MAX_CHARACTERS - 12) + "'",
        "1 in (" + ",".join(map(str, range(1000))) + ")",
        "1 in (1," + ",".join(["length(userId)"] * MAX_CALLS) + ")",
    ],
    ids=lambda text: text[:20],
)
def test_what_is_just_within_bounds_works(text: str) -> None:
    assert passing(text) == ALL


def test_the_bounds_are_those_of_the_documents() -> None:
    documented = (Path(__file__).parents[2] / "docs/rest-api.md").read_text().split("## Filters")[1].split("\n## ")[0]
    documented = " ".join(documented.split())
    for bound in (MAX_CHARACTERS, MAX_TOKENS, MAX_NESTING, MAX_CLAUSES, MAX_CALLS):
        assert f" {bound:,} " in documented
    for name in [*FUNCTION_TABLE, "userId", "connectionId", "groups", "protocol"]:
        assert f"`{name}" in documented


def test_the_deepest_filter_works_deep_in_the_stack() -> None:
    """A request is some hundred calls deep when its filter is read; here it is four times that."""
    text = "true or true and true eq (" * 49 + "true eq (" * 51 + "true" + ")" * 100
    verdicts: list[bool] = []

    def descend(levels: int) -> None:
        if levels:
            descend(levels - 1)
        else:
            compile_filter.cache_clear()
            verdicts.append(compile_filter(text)(SUBJECTS["a"]))

    # In a thread of its own, because the tests' own depth differs.
    thread = threading.Thread(target=descend, args=(400,))
    thread.start()
    thread.join()
    assert verdicts == [True]


def test_every_term_of_a_long_chain_counts() -> None:
    chain = [f"userId ne '{number}'" for number in range(MAX_CLAUSES - 1)]
    assert passing(" and ".join([*chain, "userId eq 'ada'"])) == "a"
    assert passing(" and ".join(["userId eq 'ada'", *chain])) == "a"
    equal = [f"userId eq '{number}'" for number in range(MAX_CLAUSES - 1)]
    assert passing(" or ".join([*equal, "userId eq 'ada'"])) == "a"


def test_the_same_text_is_compiled_once() -> None:
    assert compile_filter("userId eq 'cached'") is compile_filter("userId eq 'cached'")


def test_the_memory_of_filters_is_bounded() -> None:
    size = compile_filter.cache_info().maxsize
    assert size
    for number in range(size + 10):
        compile_filter(f"userId eq '{number}'")
    assert compile_filter.cache_info().currsize <= size


@pytest.mark.parametrize("groups", [{"go"}, frozenset({"go"}), ["go"], ("go",), {"go": None}, {"go": None}.keys()])
def test_any_collection_serves_as_groups(groups: object) -> None:
    class Anyone:
        id = "c"
        user_id = None
        subprotocol = None

    subject = Anyone()
    subject.groups = groups  # type: ignore[attr-defined]
    assert compile_filter("'go' in groups and length(groups) eq 1")(subject)  # type: ignore[arg-type]
