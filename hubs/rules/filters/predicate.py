"""Tree to predicate: one plain function for each node, made of those for the nodes within it.

Calling functions that were put together beforehand is faster than walking the tree for every
connection, and needs no eval. `and` and `or` stop at the first term that decides: types were
checked before, so what is skipped could not have failed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any, Protocol

from hubs.rules.filters import tree
from hubs.rules.filters.errors import InvalidFilter, Mistake
from hubs.rules.filters.parser import parse

# Filters come from programs, which repeat themselves. The largest of them takes some 200 KB.
REMEMBERED_FILTERS = 256


class Subject(Protocol):
    """What a filter looks at: a connection, or whatever has the same attributes."""

    @property
    def id(self) -> str:
        """The connection id."""

    @property
    def user_id(self) -> str | None:
        """Who is connected; None for anonymous clients."""

    @property
    def groups(self) -> Collection[str]:
        """The groups it is in; a set answers fastest."""

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol; None for simple clients."""


Predicate = Callable[[Subject], bool]
Evaluate = Callable[[Subject], Any]


@lru_cache(maxsize=REMEMBERED_FILTERS)
def compile_filter(text: str) -> Predicate:
    """Make a filter into a function that tells whether a connection passes. Raises InvalidFilter."""
    try:
        return _evaluate(parse(text))
    except Mistake as mistake:
        raise InvalidFilter.from_mistake(text, mistake) from None


def _literal(node: tree.Literal) -> Evaluate:
    value = node.value
    return lambda subject: value


def _property(node: tree.Property) -> Evaluate:
    return operator.attrgetter(node.attribute)


def _call(node: tree.Call, *arguments: Evaluate) -> Evaluate:
    apply, on_null = node.function.apply, node.function.on_null
    if len(arguments) == 1:
        (only,) = arguments

        def unary(subject: Subject) -> Any:
            value = only(subject)
            return on_null if value is None else apply(value)

        return unary
    if len(arguments) == 2:
        first, second = arguments

        def binary(subject: Subject) -> Any:
            one, other = first(subject), second(subject)
            return on_null if one is None or other is None else apply(one, other)

        return binary

    def several(subject: Subject) -> Any:
        values = []
        for argument in arguments:
            value = argument(subject)
            if value is None:
                return on_null
            values.append(value)
        return apply(*values)

    return several


_OPERATORS = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}


def _comparison(node: tree.Comparison, left: Evaluate, right: Evaluate) -> Evaluate:
    compare = _OPERATORS[node.operator]
    if node.operator not in tree.ORDERS:
        return lambda subject: compare(left(subject), right(subject))

    def ordered(subject: Subject) -> bool:
        one, other = left(subject), right(subject)
        return one is not None and other is not None and compare(one, other)

    return ordered


def _membership(node: tree.Membership, member: Evaluate, collection: Evaluate) -> Evaluate:
    return lambda subject: member(subject) in collection(subject)


def _items(node: tree.Items, *computed: Evaluate) -> Evaluate:
    constants = frozenset([item.value for item in node.items if isinstance(item, tree.Literal)])
    if not computed:
        return lambda subject: constants
    return lambda subject: constants.union([evaluate(subject) for evaluate in computed])


def _not(node: tree.Not, operand: Evaluate) -> Evaluate:
    return lambda subject: not operand(subject)


def _junction(node: tree.Junction, *terms: Evaluate) -> Evaluate:
    # The value of the first term that decides: false ends an `and`, true an `or`.
    decisive = node.word == "or"

    def joined(subject: Subject) -> bool:
        for term in terms:
            if term(subject) is decisive:
                return decisive
        return not decisive

    return joined


# What a node's own function is made of; values in lists that are written down need none of their own.
_CHILDREN: dict[type[tree.Node], Callable[[Any], tuple[tree.Node, ...]]] = {
    tree.Literal: lambda node: (),
    tree.Property: lambda node: (),
    tree.Call: lambda node: node.arguments,
    tree.Items: lambda node: node.computed,
    tree.Comparison: lambda node: (node.left, node.right),
    tree.Membership: lambda node: (node.member, node.collection),
    tree.Not: lambda node: (node.operand,),
    tree.Junction: lambda node: node.terms,
}
_BUILDERS: dict[type[tree.Node], Callable[..., Evaluate]] = {
    tree.Literal: _literal,
    tree.Property: _property,
    tree.Call: _call,
    tree.Items: _items,
    tree.Comparison: _comparison,
    tree.Membership: _membership,
    tree.Not: _not,
    tree.Junction: _junction,
}


def _evaluate(node: tree.Node) -> Evaluate:
    # A loop, since a comprehension would double the depth of the stack.
    inner = []
    for child in _CHILDREN[type(node)](node):
        inner.append(_evaluate(child))
    return _BUILDERS[type(node)](node, *inner)
