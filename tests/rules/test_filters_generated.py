"""Filters that nobody thought of: random text, and random conditions against a second, plain evaluator."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from hubs.rules.filters import InvalidFilter, compile_filter
from hubs.rules.filters.errors import MAX_QUOTED_CHARACTERS
from tests.rules.filter_subjects import SUBJECTS, Connection, passing
from tests.rules.test_filters_mistakes import AZURES

# Any text at all


def _check_any(text: str) -> None:
    """Either it compiles and tells yes or no for everybody, or the refusal says where and can be sent."""
    try:
        passing(text)
    except InvalidFilter as refused:
        error = refused
    else:
        return
    assert 0 <= error.position <= len(text)
    assert error.detail.startswith(f"At character {error.position + 1}: ")
    assert AZURES.fullmatch(error.message)
    assert str(error).isprintable()
    assert len(error.message) < 2 * MAX_QUOTED_CHARACTERS + 100
    assert len(error.detail) < MAX_QUOTED_CHARACTERS + 300
    str(error).encode()


PIECES = st.sampled_from(
    [
        *("userId", "connectionId", "groups", "protocol", "USERID", "null", "true", "false", "'a'", "'ada'", "'go'"),
        *("eq", "ne", "gt", "ge", "lt", "le", "in", "and", "or", "not", "any", "has", "x", "(", "(", ")", ")", ","),
        *("length(", "tolower(", "trim(", "contains(", "startswith(", "indexof(", "concat(", "substring(", "length"),
        *("0", "1", "-1", "3", "99999999999999999999", "1.5", "'", "''", '"', "=", "!=", ">", ";", "/", "$", "-", "+"),
        *("'a',", "userId,", ",1)", "('a','b')", "(null)", "true)", "(true", "1 eq 1", "not (", "'go' in groups"),
    ]
)


@settings(max_examples=600, deadline=None)
@given(st.text(max_size=80))
@example("'" * 1001)
@example("(" * 20_000)
@example("not " * 4000)
@example("-" * 5000)
@example("9" * 5000)
@example("\x00")
def test_any_text_is_understood_or_refused(text: str) -> None:
    _check_any(text)


@settings(max_examples=1000, deadline=None)
@given(st.lists(PIECES, max_size=25), st.sampled_from([" ", " ", ""]))
def test_any_words_are_understood_or_refused(pieces: list[str], between: str) -> None:
    _check_any(between.join(pieces))


# Conditions as nested tuples, (kind, …); a plain reading of the language's description evaluates them

ALPHABET = "aAdbB -'ßΣİ😀go"
NAMES = {"userId": "user_id", "connectionId": "id", "protocol": "subprotocol"}
Tree = tuple[Any, ...]


def _texts(depth: int) -> st.SearchStrategy[Tree]:
    plain = st.one_of(
        st.tuples(st.just("name"), st.sampled_from(sorted(NAMES))),
        st.tuples(st.just("literal"), st.text(ALPHABET, max_size=4)),
        st.just(("literal", None)),
    )
    if not depth:
        return plain
    inner, number = _texts(depth - 1), _numbers(depth - 1)
    return st.one_of(
        plain,
        st.tuples(st.just("call"), st.sampled_from(["tolower", "toupper", "trim"]), st.tuples(inner)),
        st.tuples(st.just("call"), st.just("concat"), st.tuples(inner, inner)),
        st.tuples(st.just("call"), st.just("substring"), st.tuples(inner, number)),
        st.tuples(st.just("call"), st.just("substring"), st.tuples(inner, number, number)),
    )


def _numbers(depth: int) -> st.SearchStrategy[Tree]:
    plain = st.one_of(
        st.tuples(st.just("literal"), st.integers(-2, 8)),
        st.tuples(st.just("literal"), st.sampled_from([None, -(2**63), 2**63 - 1])),
        st.just(("call", "length", (("groups",),))),
    )
    if not depth:
        return plain
    inner = _texts(depth - 1)
    return st.one_of(
        plain,
        st.tuples(st.just("call"), st.just("length"), st.tuples(inner)),
        st.tuples(st.just("call"), st.just("indexof"), st.tuples(inner, inner)),
    )


def _conditions(depth: int) -> st.SearchStrategy[Tree]:
    text, number = _texts(min(depth, 2)), _numbers(min(depth, 2))
    plain = st.one_of(
        st.tuples(st.just("literal"), st.booleans()),
        st.tuples(st.sampled_from(["eq", "ne"]), text, text),
        st.tuples(st.sampled_from(["eq", "ne", "gt", "ge", "lt", "le"]), number, number),
        st.tuples(st.just("in"), text, st.lists(text, min_size=1, max_size=4).map(tuple)),
        st.tuples(st.just("in"), number, st.lists(number, min_size=1, max_size=4).map(tuple)),
        st.tuples(st.just("in"), text, st.just(("groups",))),
        st.tuples(st.just("call"), st.sampled_from(["startswith", "endswith", "contains"]), st.tuples(text, text)),
    )
    if not depth:
        return plain
    inner = _conditions(depth - 1)
    return st.one_of(
        plain,
        st.tuples(st.just("not"), inner),
        st.tuples(st.sampled_from(["and", "or"]), inner, inner),
        st.tuples(st.sampled_from(["eq", "ne"]), inner, inner),
        st.tuples(st.sampled_from(["eq", "ne"]), inner, st.just(("literal", None))),
        st.tuples(st.just("in"), inner, st.lists(inner, min_size=1, max_size=2).map(tuple)),
    )


CONDITIONS = _conditions(3)


def _one_for_one(characters: str, change: str) -> str:
    changed = [getattr(character, change)() for character in characters]
    return "".join(new if len(new) == 1 else old for old, new in zip(characters, changed, strict=True))


def _call(name: str, values: list[Any]) -> Any:
    if None in values:
        return {"startswith": False, "endswith": False, "contains": False, "indexof": -1}.get(name)
    first, *rest = values
    match name:
        case "length":
            return len(first)
        case "tolower":
            return _one_for_one(first, "lower")
        case "toupper":
            return _one_for_one(first, "upper")
        case "trim":
            return first.strip()
        case "concat":
            return first + rest[0]
        case "startswith":
            return first[: len(rest[0])] == rest[0]
        case "endswith":
            return rest[0] == first[len(first) - len(rest[0]) :] if len(rest[0]) <= len(first) else False
        case "contains":
            return rest[0] in first
        case "indexof":
            return next((i for i in range(len(first) + 1) if first[i : i + len(rest[0])] == rest[0]), -1)
        case "substring":
            start = rest[0]
            length = rest[1] if len(rest) == 2 else len(first) - start
            inside = start >= 0 and length >= 0 and start + length <= len(first)
            return first[start : start + length] if inside else None
    raise AssertionError(name)


def _expected(node: Tree, subject: Connection) -> Any:
    kind, *parts = node
    if kind == "literal":
        return parts[0]
    if kind == "name":
        return getattr(subject, NAMES[parts[0]])
    if kind == "groups":
        return subject.groups
    if kind == "call":
        return _call(parts[0], [_expected(argument, subject) for argument in parts[1]])
    if kind == "in" and parts[1] != ("groups",):
        return _expected(parts[0], subject) in [_expected(item, subject) for item in parts[1]]
    values = [_expected(part, subject) for part in parts]
    match kind:
        case "not":
            return not values[0]
        case "and":
            return values[0] and values[1]
        case "or":
            return values[0] or values[1]
        case "in":
            return values[0] in values[1]
        case "eq":
            return values[0] == values[1]
        case "ne":
            return values[0] != values[1]
    if None in values:
        return False
    left, right = values
    return {"gt": left > right, "ge": left >= right, "lt": left < right, "le": left <= right}[kind]


# How tightly a kind holds its parts together; what binds less than its place asks for gets parentheses.
BINDING = {"or": 0, "and": 1, "not": 2, "eq": 3, "ne": 3, "gt": 3, "ge": 3, "lt": 3, "le": 3, "in": 3}
VALUE = 4


class Writer:
    """Writes a condition as text; `chance` decides on parentheses that need not be, letter case and spaces."""

    def __init__(self, chance: random.Random | None = None, everywhere: bool = False) -> None:
        self.chance = chance
        self.everywhere = everywhere

    def write(self, node: Tree, place: int = 0) -> str:
        text = self._plain(node)
        needed = BINDING.get(node[0], VALUE) < place
        wished = self.everywhere or (self.chance is not None and self.chance.random() < 0.1)
        if needed or (wished and node[0] != "groups"):
            return f"({self._space()}{text}{self._space()})"
        return text

    def _plain(self, node: Tree) -> str:
        kind, *parts = node
        if kind == "literal":
            value = parts[0]
            if isinstance(value, bool) or value is None:
                return self._word({True: "true", False: "false", None: "null"}[value])
            return f"""'{value.replace("'", "''")}'""" if isinstance(value, str) else str(value)
        if kind == "name":
            return self._word(parts[0])
        if kind == "groups":
            return self._word("groups")
        if kind == "call":
            return f"{self._word(parts[0])}({self._space()}{self._list(parts[1])}{self._space()})"
        if kind == "not":
            return f"{self._word('not')} {self.write(parts[0], BINDING['not'])}"
        if kind == "in":
            right = self.write(parts[1]) if parts[1] == ("groups",) else f"({self._list(parts[1])})"
            return f"{self.write(parts[0], VALUE)} {self._word('in')} {right}"
        own = BINDING[kind] if kind in ("and", "or") else VALUE
        # The right side too: `a or b or c` is the same whichever way it is grouped.
        return f"{self.write(parts[0], own)} {self._word(kind)} {self._space()}{self.write(parts[1], own)}"

    def _list(self, nodes: tuple[Tree, ...]) -> str:
        return f"{self._space()},{self._space()}".join(self.write(node, VALUE) for node in nodes)

    def _space(self) -> str:
        return self.chance.choice(["", "", " ", "\t\n"]) if self.chance else ""

    def _word(self, word: str) -> str:
        return self.chance.choice([word, word, word.upper(), word.lower()]) if self.chance else word


@settings(max_examples=800, deadline=None)
@given(CONDITIONS, st.randoms(use_true_random=False))
def test_conditions_mean_what_a_second_reading_says(condition: Tree, chance: random.Random) -> None:
    predicate = compile_filter(Writer(chance).write(condition))
    for subject in SUBJECTS.values():
        assert predicate(subject) is _expected(condition, subject)


@settings(max_examples=400, deadline=None)
@given(CONDITIONS)
def test_precedence_needs_no_parentheses(condition: Tree) -> None:
    """Written with as few parentheses as precedence allows and with all there can be, a condition is the same."""
    few, many = Writer().write(condition), Writer(everywhere=True).write(condition)
    assert passing(few) == passing(many)


@settings(max_examples=400, deadline=None)
@given(CONDITIONS, st.randoms(use_true_random=False), st.text("()', aeqx1", max_size=2))
def test_a_slip_of_the_finger_is_understood_or_refused(condition: Tree, chance: random.Random, slip: str) -> None:
    text = Writer().write(condition)
    place = chance.randrange(len(text))
    _check_any(text[:place] + slip + text[place + chance.randrange(3) :])
