"""A filter as a tree in which every node has a type.

Nodes are made by the functions in the second half, which hold the language's type rules and raise
Unsupported when one is broken. So a tree that exists is right, and to evaluate it cannot fail: that matters,
because it is evaluated for one connection after the other while a message is on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hubs.rules.filters.errors import Unsupported, unsupported
from hubs.rules.filters.functions import FUNCTIONS, Function, Type


@dataclass(slots=True)
class Node:
    """A part of a filter that gives a value; `start` and `end` are its place in the text.

    Nothing changes it but the parser, which widens its place by the parentheses around it.
    """

    type: Type
    start: int
    end: int


@dataclass(slots=True)
class Literal(Node):
    """A value written down."""

    value: str | int | bool | None


@dataclass(slots=True)
class Property(Node):
    """Something known of a connection, by the attribute that holds it."""

    attribute: str


@dataclass(slots=True)
class Call(Node):
    """A function applied to its arguments."""

    function: Function
    arguments: tuple[Node, ...]


@dataclass(slots=True)
class Items(Node):
    """A list written down; it stands only after `in`."""

    items: tuple[Node, ...]

    @property
    def computed(self) -> tuple[Node, ...]:
        """Those that are not written down as they are."""
        return tuple([item for item in self.items if not isinstance(item, Literal)])


@dataclass(slots=True)
class Comparison(Node):
    """`eq`, `ne` between values of one type, or `gt`, `ge`, `lt`, `le` between numbers."""

    operator: str
    left: Node
    right: Node


@dataclass(slots=True)
class Membership(Node):
    """`in`: whether a value is among those of a list, or among the connection's groups."""

    member: Node
    collection: Items | Property


@dataclass(slots=True)
class Not(Node):
    """The opposite."""

    operand: Node


@dataclass(slots=True)
class Junction(Node):
    """Two or more terms joined by `and` or by `or`."""

    word: str
    terms: tuple[Node, ...]


PROPERTIES = {
    "userid": ("userId", "user_id", Type.STRING),
    "connectionid": ("connectionId", "id", Type.STRING),
    "groups": ("groups", "groups", Type.COLLECTION),
    "protocol": ("protocol", "subprotocol", Type.STRING),
}
ORDERS = ("gt", "ge", "lt", "le")

_WRITE_COMPARISON = "write a comparison or another condition, as in userId eq 'ada'"
_WRITE_IN_GROUPS = "groups stands after in, as in 'chess' in groups, or in length(groups)"


def property_named(word: str, start: int, end: int) -> Property | None:
    """The property that the lower-case `word` names, if it names one."""
    if word not in PROPERTIES:
        return None
    _, attribute, kind = PROPERTIES[word]
    return Property(kind, start, end, attribute)


def call(name: str, arguments: Sequence[Node], start: int, end: int, written: Callable[[], str]) -> Call:
    """Apply the function `name`; `written` gives the call as an error quotes it.

    Raises Unsupported when number or types of the arguments are not its own.
    """
    function = FUNCTIONS[name]
    most = len(function.parameters)
    least = most - function.optional
    if not least <= len(arguments) <= most:
        numbers = str(most) if least == most else f"{least} or {most}"
        raise unsupported(
            written(),
            start,
            f"{name} takes {numbers} value{'' if numbers == '1' else 's'}, not {len(arguments)}; write it as in "
            f"{function.example}",
            (start, end),
        )
    for argument, accepted in zip(arguments, function.parameters, strict=False):
        if argument.type not in (*accepted, Type.NULL):
            raise _wrong(argument, accepted[0], (start, end), f"write {name} as in {function.example}")
    return Call(function.result, start, end, function, tuple(arguments))


def comparison(operator: str, left: Node, right: Node) -> Comparison:
    """Compare. Raises Unsupported when the sides cannot be compared so."""
    span = (left.start, right.end)
    if operator in ORDERS:
        for side in (left, right):
            if side.type not in (Type.INT, Type.NULL):
                raise _wrong(
                    side,
                    Type.INT,
                    span,
                    f"{operator} compares whole numbers, as in length(userId) {operator} 3; compare other values with "
                    "eq and ne",
                )
    else:
        _check_same(
            left,
            right,
            span,
            f"both sides of {operator} must be of one type, or null; text stands in single quotes, numbers without",
        )
    return Comparison(Type.BOOL, *span, operator, left, right)


def membership(member: Node, collection: Node) -> Membership:
    """Ask whether a value is among others. Raises Unsupported when it could not be."""
    span = (member.start, collection.end)
    if not isinstance(collection, Items | Property) or collection.type is not Type.COLLECTION:
        raise _wrong(
            collection,
            Type.COLLECTION,
            span,
            "write a list in parentheses after in, as in userId in ('ada', 'bob'), or groups, as in 'chess' in groups",
        )
    if isinstance(collection, Items):
        for item in collection.items:
            _check_same(member, item, span, "all values of a list must be of the type before in, or null")
    elif member.type not in (Type.STRING, Type.NULL):
        raise _wrong(member, Type.STRING, span, "groups holds names, as in 'chess' in groups")
    return Membership(Type.BOOL, *span, member, collection)


def negation(start: int, operand: Node) -> Not:
    """Turn a condition round. Raises Unsupported when it is none."""
    span = (start, operand.end)
    check_condition(operand, span)
    return Not(Type.BOOL, *span, operand)


def junction(word: str, terms: Sequence[Node]) -> Junction:
    """Join conditions by `word`. Raises Unsupported when one is no condition."""
    start = terms[0].start
    for number, term in enumerate(terms):
        # Two are joined, and then the next one to these.
        check_condition(term, (start, terms[max(number, 1)].end))
    return Junction(Type.BOOL, start, terms[-1].end, word, tuple(terms))


def check_condition(node: Node, span: tuple[int, int]) -> None:
    """Raise Unsupported unless `node` is true or false."""
    if node.type is not Type.BOOL:
        raise _wrong(node, Type.BOOL, span, _WRITE_COMPARISON)


def _check_same(one: Node, other: Node, span: tuple[int, int], advice: str) -> None:
    if one.type is other.type and one.type is not Type.COLLECTION:
        return
    for side, opposite in ((one, other), (other, one)):
        if side.type is Type.COLLECTION:
            expected = Type.STRING if opposite.type in (Type.COLLECTION, Type.NULL) else opposite.type
            raise _wrong(side, expected, span, _WRITE_IN_GROUPS)
    if Type.NULL not in (one.type, other.type):
        raise _wrong(other, one.type, span, advice)


def _wrong(node: Node, expected: Type, span: tuple[int, int], advice: str) -> Unsupported:
    if node.type is Type.COLLECTION:
        advice = _WRITE_IN_GROUPS
    return Unsupported(node.start, f"Type '{node.type}', expect '{expected}'.", advice, span)
