"""Filter text to tree.

    filter     = condition
    condition  = both *("or" both)
    both       = term *("and" term)
    term       = *"not" comparison
    comparison = value [("eq" | "ne" | "gt" | "ge" | "lt" | "le") value | "in" (list | "groups")]
    value      = literal | property | function "(" [value *("," value)] ")" | "(" condition ")"
    literal    = 'text' | integer | "true" | "false" | "null"
    list       = "(" value *("," value) ")"

One method for each of `condition`, `term`, `comparison` and `value`, and one token of foresight. The method of
a rule calls those of the rules within it, so nesting uses Python's stack: at most four calls for each
level and a hundred levels. That, and every other quantity, is bounded here, which keeps time and memory in
bounds for all who come after. Letter case counts only inside quotes.

A comparison is not a value: `1 eq 1 eq true` needs parentheses. `not` reaches over the comparison that follows
it, as the grammar says. Where Azure reads `not a eq b` as `(not a) eq b`, a must be true or false,
and then both readings have the same result.
"""

from __future__ import annotations

import difflib
from typing import NoReturn

from hubs.rules.filters import tree
from hubs.rules.filters.functions import FUNCTIONS, Type
from hubs.rules.filters.mistake import Mistake, quoted
from hubs.rules.filters.tokens import CLOSE, COMMA, END, INTEGER, OPEN, STRING, WORD, Token, tokens
from hubs.rules.filters.tree import Node

MAX_CHARACTERS = 16_384
# Of these, a list of a thousand values has two thousand.
MAX_TOKENS = 2048
MAX_NESTING = 100
MAX_CLAUSES = 100
MAX_CALLS = 200

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_LONGEST_INTEGER = len(str(_SMALLEST))

_CONSTANTS = {"true": (Type.BOOL, True), "false": (Type.BOOL, False), "null": (Type.NULL, None)}
_COMPARISONS = ("eq", "ne", *tree.ORDERS)
_INFIX = (*_COMPARISONS, "in", "and", "or")
_NAMES = {word: row[0] for word, row in tree.PROPERTIES.items()}
_VOCABULARY = {**_NAMES, **{word: word for word in (*FUNCTIONS, *_CONSTANTS, *_INFIX, "not")}}
_LISTED_FUNCTIONS = ", ".join(FUNCTIONS)
_LISTED_NAMES = f"names are {', '.join(_NAMES.values())}"

# Words of other languages, and of parts of OData that Azure has left out.
_INSTEAD = {
    "equals": "write eq instead",
    "is": "write eq instead",
    "like": "see contains, startswith and endswith",
    "matches": "see contains, startswith and endswith",
    "substringof": "write contains(userId, 'a') instead",
    "none": "write null instead",
    "nil": "write null instead",
    "undefined": "write null instead",
    "id": "write connectionId or userId",
    "user": "write userId instead",
    "username": "write userId instead",
    "any": "write 'chess' in groups to ask for a group",
    "all": "write 'chess' in groups to ask for a group",
    "has": "write 'chess' in groups to ask for a group",
    **dict.fromkeys(("add", "sub", "mul", "div", "divby", "mod"), "there is no arithmetic"),
}
_LONGEST_GUESS = 32

_WRITE_VALUE = "write a value: 'text', a whole number, true, false, null, userId, connectionId, protocol or a function"
_WRITE_MORE = "join conditions with and or with or, or end the filter here"


def parse(text: str) -> Node:
    """Read a filter. Raises Mistake."""
    if len(text) > MAX_CHARACTERS:
        raise Mistake(
            MAX_CHARACTERS,
            f"The filter has {len(text)} characters; {MAX_CHARACTERS} are allowed.",
            "shorten it; members of a group are sooner reached by 'chess' in groups than by their ids",
        )
    return _Parser(text).filter()


class _Parser:
    """The place reached in one text, and what has been counted so far."""

    def __init__(self, text: str) -> None:
        self._tokens = tokens(text)
        self._token = next(self._tokens)
        self._text = text
        self._read = 1
        self._nesting = 0
        self._clauses = 1
        self._calls = 0

    def filter(self) -> Node:
        if self._token.kind == END:
            raise Mistake(0, "The filter is empty.", "write a condition, as in userId eq 'ada', or leave filter out")
        node = self._condition()
        if self._token.kind != END:
            self._refuse_after(node)
        tree.check_condition(node, (node.start, node.end))
        return node

    def _condition(self) -> Node:
        alternatives: list[Node] = []
        while True:
            node = self._term()
            if self._token.word == "and":
                terms = [node]
                while self._token.word == "and":
                    self._count_clause()
                    terms.append(self._term())
                node = tree.junction("and", terms)
            if self._token.word != "or":
                break
            alternatives.append(node)
            self._count_clause()
        return tree.junction("or", [*alternatives, node]) if alternatives else node

    def _count_clause(self) -> None:
        self._clauses += 1
        if self._clauses > MAX_CLAUSES:
            raise Mistake(
                self._token.start,
                f"The filter has more than {MAX_CLAUSES} conditions.",
                "take some out, or write userId eq 'ada' or userId eq 'bob' shorter: userId in ('ada', 'bob')",
            )
        self._advance()

    def _term(self) -> Node:
        if self._token.word != "not":
            return self._comparison()
        negations: list[int] = []
        while self._token.word == "not":
            negations.append(self._token.start)
            self._enter()
        node = self._comparison()
        for start in reversed(negations):
            node = tree.negation(start, node)
        self._nesting -= len(negations)
        return node

    def _comparison(self) -> Node:
        left = self._value()
        word = self._token.word
        if word == "in":
            self._advance()
            return tree.membership(left, self._collection())
        if word in _COMPARISONS:
            self._advance()
            return tree.comparison(word, left, self._value())
        return left

    def _collection(self) -> tree.Items | tree.Property:
        token = self._token
        if token.kind == OPEN:
            items, end = self._values()
            return tree.Items(Type.COLLECTION, token.start, end, items)
        if token.word == "groups":
            self._advance()
            return tree.Property(Type.COLLECTION, token.start, token.end, "groups")
        raise Mistake(
            token.start,
            "A list or groups is missing after in.",
            "write a list in parentheses, as in userId in ('ada', 'bob'), or groups, as in 'chess' in groups",
        )

    def _value(self) -> Node:
        token = self._token
        kind, _, start, end, word = token
        if kind == STRING:
            self._advance()
            return tree.Literal(Type.STRING, start, end, token.text[1:-1].replace("''", "'"))
        if kind == INTEGER:
            self._advance()
            return tree.Literal(Type.INT, start, end, _integer(token))
        if kind == OPEN:
            self._enter()
            node = self._condition()
            if self._token.kind != CLOSE:
                self._refuse_unclosed(node, start)
            node.start, node.end = start, self._token.end
            self._leave()
            return node
        if word in FUNCTIONS:
            return self._call()
        if word in _CONSTANTS:
            self._advance()
            return tree.Literal(_CONSTANTS[word][0], start, end, _CONSTANTS[word][1])
        known = tree.property_named(word, start, end)
        if known is None:
            self._refuse_value()
        self._advance()
        return known

    def _call(self) -> Node:
        name = self._token
        self._advance()
        function = FUNCTIONS[name.word]
        if self._token.kind != OPEN:
            raise Mistake(
                name.start, f"Function '{name.word}' stands without values.", f"write it as in {function.example}"
            )
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise Mistake(name.start, f"The filter calls more than {MAX_CALLS} functions.", "take some out")
        arguments, end = self._values()
        return tree.call(name.word, arguments, name.start, end)

    def _values(self) -> tuple[tuple[Node, ...], int]:
        """Read values in parentheses, parted by commas."""
        opening = self._token.start
        self._enter()
        values: list[Node] = []
        while True:
            values.append(self._value())
            if self._token.kind == CLOSE:
                end = self._token.end
                self._leave()
                return tuple(values), end
            if self._token.kind != COMMA:
                self._refuse_in_list(opening)
            self._advance()

    # Moving on

    def _advance(self) -> None:
        self._token = next(self._tokens)
        self._read += 1
        if self._read > MAX_TOKENS:
            raise Mistake(
                self._token.start,
                f"The filter has more than {MAX_TOKENS} words, values and signs.",
                "shorten it; a list holds about a thousand values",
            )

    def _enter(self) -> None:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise Mistake(
                self._token.start,
                f"The filter is nested more than {MAX_NESTING} deep.",
                "take out parentheses, functions or nots",
            )
        self._advance()

    def _leave(self) -> None:
        self._nesting -= 1
        self._advance()

    # Saying no

    def _refuse_value(self) -> NoReturn:
        """Refuse the present token where a value has to stand."""
        token = self._token
        if token.kind == END:
            raise Mistake(token.start, "A value is missing at the end.", _WRITE_VALUE)
        if token.kind == WORD and token.word not in _VOCABULARY:
            called = self._text[token.end :].lstrip().startswith(OPEN)
            known = f"functions are {_LISTED_FUNCTIONS}" if called else f"put text in single quotes; {_LISTED_NAMES}"
            raise Mistake(token.start, f"Token '{quoted(token.text)}' is not supported.", _instead(token) or known)
        negated = token.word == "not"
        advice = "put not and what follows it in parentheses" if negated else f"{_WRITE_VALUE} before it"
        raise Mistake(token.start, f"A value is missing before '{token.text}'.", advice)

    def _refuse_after(self, node: Node) -> NoReturn:
        """Refuse the present token, which stands behind a whole condition and cannot."""
        token = self._token
        if token.kind == CLOSE:
            raise Mistake(
                token.start, "This parenthesis closes nothing.", "take it out, or open one before the condition"
            )
        if token.kind == WORD and token.word not in _VOCABULARY:
            raise Mistake(
                token.start, f"Token '{quoted(token.text)}' is not supported.", _instead(token) or _WRITE_MORE
            )
        if token.kind == OPEN and isinstance(node, tree.Property):
            advice = f"only functions have values in parentheses: {_LISTED_FUNCTIONS}"
        elif token.word in _COMPARISONS or token.word == "in":
            advice = "compare once, or put the first comparison in parentheses"
        elif token.kind == COMMA:
            advice = "lists stand only after in, as in userId in ('ada', 'bob')"
        else:
            advice = _WRITE_MORE
        raise Mistake(token.start, f"Token '{quoted(token.text)}' cannot stand here.", advice)

    def _refuse_unclosed(self, node: Node, opening: int) -> NoReturn:
        if self._token.kind == END:
            raise Mistake(opening, "This parenthesis is never closed.", "close it behind the condition that it opens")
        self._refuse_after(node)

    def _refuse_in_list(self, opening: int) -> NoReturn:
        token = self._token
        if token.kind == END:
            raise Mistake(opening, "This parenthesis is never closed.", "close it behind the last value")
        raise Mistake(
            token.start,
            f"A comma or a closing parenthesis is missing before '{quoted(token.text)}'.",
            "part values by commas, and put a comparison among them in parentheses",
        )


def _integer(token: Token) -> int:
    # Counted before it is read: reading takes time that grows with the square of the length.
    if len(token.text) <= _LONGEST_INTEGER:
        number = int(token.text)
        if _SMALLEST <= number <= _LARGEST:
            return number
    raise Mistake(token.start, "This number is too large.", f"write one from {_SMALLEST} to {_LARGEST}")


def _instead(token: Token) -> str | None:
    """What might be meant by an unknown word."""
    if token.word in _INSTEAD:
        return _INSTEAD[token.word]
    if len(token.word) > _LONGEST_GUESS:
        return None
    near = difflib.get_close_matches(token.word, _VOCABULARY, n=1, cutoff=0.7)
    return f"perhaps {_VOCABULARY[near[0]]} is meant; text goes in single quotes" if near else None
