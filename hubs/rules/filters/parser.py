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

Text that is no expression ends the reading at once. A part that means nothing or has the wrong type does not: it
is noted, null stands in for it, and the reading goes on, because a syntax error later on is what Azure would report
(hubs/rules/filters/errors.py). Only the first such part is kept, and words are found for no other: to guess what is
meant, or to write a call as Azure does, takes longer than all the reading.

A comparison is not a value: `1 eq 1 eq true` needs parentheses. `not` reaches over the comparison that follows
it, as the grammar says. Where Azure reads `not a eq b` as `(not a) eq b`, a must be true or false,
and then both readings have the same result.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, NoReturn

from hubs.rules.filters import tree
from hubs.rules.filters.errors import SyntaxMistake, Unsupported, quoted, unsupported
from hubs.rules.filters.functions import FUNCTIONS, Type
from hubs.rules.filters.tokens import CLOSE, COMMA, END, INTEGER, NUMBER, OPEN, STRING, WORD, Token, tokens
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
_WRITE_INTEGER = "there are only whole numbers, as in length(userId) gt 3; put text in single quotes"
_WRITE_MORE = "join conditions with and or with or, or end the filter here"


def parse(text: str) -> Node:
    """Read a filter. Raises Mistake."""
    if len(text) > MAX_CHARACTERS:
        raise SyntaxMistake(
            MAX_CHARACTERS,
            f"The filter has {len(text)} characters; {MAX_CHARACTERS} are allowed.",
            "shorten it; members of a group are sooner reached by 'chess' in groups than by their ids",
            reached=MAX_CHARACTERS,
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
        self._found: Unsupported | None = None

    def filter(self) -> Node:
        if self._token.kind == END:
            self._refuse(0, "The filter is empty.", "write a condition, as in userId eq 'ada', or leave filter out")
        node = self._condition()
        if self._token.kind != END:
            self._refuse_after(node)
        if self._found is not None:
            raise self._found
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
                    self._locate(terms[0].start, terms[-1].end)
                node = self._make(tree.junction, "and", terms)
            if alternatives:
                self._locate(alternatives[0].start, node.end)
            if self._token.word != "or":
                break
            alternatives.append(node)
            self._count_clause()
        return self._make(tree.junction, "or", [*alternatives, node]) if alternatives else node

    def _count_clause(self) -> None:
        self._clauses += 1
        if self._clauses > MAX_CLAUSES:
            self._refuse(
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
            node = self._make(tree.negation, start, node)
        self._nesting -= len(negations)
        return node

    def _comparison(self) -> Node:
        left = self._value()
        word = self._token.word
        if word != "in" and word not in _COMPARISONS:
            return left
        self._advance()
        right = self._collection() if word == "in" else self._value()
        self._locate(left.start, right.end)
        if word == "in":
            return self._make(tree.membership, left, right)
        return self._make(tree.comparison, word, left, right)

    def _collection(self) -> Node:
        start = self._token.start
        if self._token.kind == OPEN:
            items, end = self._values()
            return tree.Items(Type.COLLECTION, start, end, items)
        return self._value()

    def _value(self) -> Node:
        token = self._token
        kind, _, start, end, word = token
        if kind == STRING:
            self._advance()
            return tree.Literal(Type.STRING, start, end, token.text[1:-1].replace("''", "'"))
        if kind == INTEGER:
            return self._integer(token)
        if kind == NUMBER:
            self._advance()
            return self._note(lambda: unsupported(token.text, start, _WRITE_INTEGER), start, end)
        if kind == OPEN:
            self._enter()
            node = self._condition()
            if self._token.kind != CLOSE:
                self._refuse_unclosed(node, start)
            node.start, node.end = start, self._token.end
            self._leave()
            return node
        if kind == WORD and (word in FUNCTIONS or word not in _VOCABULARY):
            return self._named()
        if word in _CONSTANTS:
            self._advance()
            return tree.Literal(_CONSTANTS[word][0], start, end, _CONSTANTS[word][1])
        known = tree.property_named(word, start, end)
        if known is None:
            self._refuse_value()
        self._advance()
        if self._token.kind == OPEN:
            return self._unknown_call(token)
        return known

    def _named(self) -> Node:
        """Read a function and its values, or a name that means nothing."""
        name = self._token
        self._advance()
        function = FUNCTIONS.get(name.word)
        if function is None and self._token.kind == OPEN:
            return self._unknown_call(name)
        if function is None or self._token.kind != OPEN:
            return self._note(lambda: _unknown_name(name), name.start, name.end)
        self._count_call(name)
        arguments, end = self._values(may_be_none=True)
        self._locate(name.start, end)
        return self._make(tree.call, name.word, arguments, name.start, end, lambda: self._quoted_call(name.start, end))

    def _unknown_call(self, name: Token) -> Node:
        self._count_call(name)
        found = self._found
        # Azure does not look at the values of a function that it does not know.
        self._found = found or _NOT_LOOKED_AT
        _, end = self._values(may_be_none=True)
        self._found = found
        span = (name.start, end)

        def mistake() -> Unsupported:
            meant = None if name.word in tree.PROPERTIES else _instead(name)
            advice = meant or f"functions are {_LISTED_FUNCTIONS}"
            return unsupported(self._written(*span), name.start, advice, span)

        return self._note(mistake, *span)

    def _count_call(self, name: Token) -> None:
        self._calls += 1
        if self._calls > MAX_CALLS:
            self._refuse(name.start, f"The filter calls more than {MAX_CALLS} functions.", "take some out")

    def _integer(self, token: Token) -> Node:
        _, text, start, end, _ = token
        self._advance()
        # Counted before it is read: reading takes time that grows with the square of the length.
        if len(text) <= _LONGEST_INTEGER:
            number = int(text)
            if _SMALLEST <= number <= _LARGEST:
                return tree.Literal(Type.INT, start, end, number)
        advice = f"this number is too large; write one from {_SMALLEST} to {_LARGEST}"
        return self._note(lambda: unsupported(text, start, advice), start, end)

    def _values(self, *, may_be_none: bool = False) -> tuple[tuple[Node, ...], int]:
        """Read values in parentheses, parted by commas."""
        opening = self._token.start
        self._enter()
        values: list[Node] = []
        if may_be_none and self._token.kind == CLOSE:
            end = self._token.end
            self._leave()
            return (), end
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
            self._refuse(
                self._token.start,
                f"The filter has more than {MAX_TOKENS} words, values and signs.",
                "shorten it; a list holds about a thousand values",
            )

    def _enter(self) -> None:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            self._refuse(
                self._token.start,
                f"The filter is nested more than {MAX_NESTING} deep.",
                "take out parentheses, functions or nots",
            )
        self._advance()

    def _leave(self) -> None:
        self._nesting -= 1
        self._advance()

    # Parts that mean nothing, or not what is needed

    def _make(self, make: Callable[..., Node], *arguments: Any) -> Node:
        """Make a node, or note why it cannot be made."""
        try:
            return make(*arguments)
        except Unsupported as mistake:
            found = mistake
            start, end = found.span or (0, len(self._text))
            return self._note(lambda: found, start, end)

    def _note(self, mistake: Callable[[], Unsupported], start: int, end: int) -> Node:
        """Keep the first mistake, and give what stands in for the part that it is about."""
        if self._found is None:
            self._found = mistake()
        return tree.Literal(Type.NULL, start, end, None)

    def _locate(self, start: int, end: int) -> None:
        """Tell a mistake that was noted that this is the part of the filter around it, if it is."""
        found = self._found
        if found is not None and found.span is None and start <= found.position < end:
            found.span = (start, end)

    def _quoted_call(self, start: int, end: int) -> str:
        """A call as a mistake quotes it; nothing, where that will not be kept."""
        return self._written(start, end) if self._found is None else ""

    def _written(self, start: int, end: int) -> str:
        """A call as Azure writes it: without the spaces around its values."""
        text = ""
        last: Token | None = None
        for token in tokens(self._text[start:end]):
            joined = (
                last is None
                or last.kind in (OPEN, COMMA)
                or token.kind in (CLOSE, COMMA, END)
                or (token.kind == OPEN and last.word not in (*_INFIX, "not"))
            )
            text += token.text if joined else f" {token.text}"
            last = token
        return text

    # Saying no

    def _refuse(self, position: int, problem: str, advice: str) -> NoReturn:
        raise SyntaxMistake(position, problem, advice, reached=self._token.end)

    def _refuse_value(self) -> NoReturn:
        """Refuse the present token where a value has to stand."""
        token = self._token
        if token.kind == END:
            self._refuse(token.start, "A value is missing at the end.", _WRITE_VALUE)
        negated = token.word == "not"
        advice = "put not and what follows it in parentheses" if negated else f"{_WRITE_VALUE} before it"
        self._refuse(token.start, f"A value is missing before '{token.text}'.", advice)

    def _refuse_after(self, node: Node) -> NoReturn:
        """Refuse the present token, which stands behind a whole condition and cannot."""
        token = self._token
        if token.kind == CLOSE:
            self._refuse(
                token.start, "This parenthesis closes nothing.", "take it out, or open one before the condition"
            )
        if token.kind == WORD and token.word not in _VOCABULARY:
            advice = _instead(token) or _WRITE_MORE
        elif token.word in _COMPARISONS or token.word == "in":
            advice = "compare once, or put the first comparison in parentheses"
        elif token.kind == COMMA:
            advice = "lists stand only after in, as in userId in ('ada', 'bob')"
        else:
            advice = _WRITE_MORE
        self._refuse(token.start, f"'{quoted(token.text)}' cannot stand here.", advice)

    def _refuse_unclosed(self, node: Node, opening: int) -> NoReturn:
        if self._token.kind == END:
            self._refuse(opening, "This parenthesis is never closed.", "close it behind the condition that it opens")
        self._refuse_after(node)

    def _refuse_in_list(self, opening: int) -> NoReturn:
        token = self._token
        if token.kind == END:
            self._refuse(opening, "This parenthesis is never closed.", "close it behind the last value")
        self._refuse(
            token.start,
            f"A comma or a closing parenthesis is missing before '{quoted(token.text)}'.",
            "part values by commas, and put a comparison among them in parentheses",
        )


# Stands for a mistake already found while values are read in which none is looked for.
_NOT_LOOKED_AT = Unsupported(0, "", "", (0, 0))


def _unknown_name(name: Token) -> Unsupported:
    function = FUNCTIONS.get(name.word)
    if function is None:
        advice = _instead(name) or f"put text in single quotes; {_LISTED_NAMES}"
    else:
        advice = f"a function has values in parentheses, as in {function.example}"
    return unsupported(name.text, name.start, advice)


def _instead(token: Token) -> str | None:
    """What might be meant by an unknown word."""
    if token.word in _INSTEAD:
        return _INSTEAD[token.word]
    if len(token.word) > _LONGEST_GUESS:
        return None
    near = difflib.get_close_matches(token.word, _VOCABULARY, n=1, cutoff=0.7)
    return f"perhaps {_VOCABULARY[near[0]]} is meant; text goes in single quotes" if near else None
