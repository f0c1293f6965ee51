"""Roles: who may join, leave and publish to which group.

A connection has two permissions, joinLeaveGroup and sendToGroup. Each is a rule set, filled from
the token's roles, and a small table of literal exceptions ("overrides") that REST grants and
revocations write at run time:

    role string                           effect on the permission
    webpubsub.sendToGroup                 every group
    webpubsub.sendToGroup.<group>         that group; everything behind the dot is literal
    webpubsub.sendToGroups.<pattern>      groups matching the pattern (below)

An override answers first, then the rule set. Revoking under a broad role therefore leaves a denial
for that one group, while revoking a plain literal grant just removes it.

Patterns know `?` (one character but a dot), `*` (any run without dots), `**` (any run) and
backslash escapes of those three characters. What is malformed or beyond the bounds is ignored and
never an error: a token with one bad role still opens a connection with its other roles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from hubs.rules.names import is_group_name

JOIN_LEAVE = "joinLeaveGroup"
SEND = "sendToGroup"
PERMISSIONS = (JOIN_LEAVE, SEND)

MAX_PATTERN_CHARACTERS = 1024
MAX_PATTERN_STARS = 5
MAX_PATTERNS = 9  # one fewer than documented: the tenth is dropped, as the reference emulator does
MAX_LITERALS = 1000

_PREFIX = "webpubsub."

# What a pattern is made of: literal, ?, *, ** and, for a literal, its character.
Token = tuple[str, str]


class TooManyOverrides(ValueError):
    """A connection already holds the most literal permissions it may."""


class Permission:
    """One permission of one connection: a rule set and its literal exceptions."""

    __slots__ = ("_all", "_overrides", "_patterns")

    def __init__(self) -> None:
        self._all = False
        self._patterns: list[Pattern] = []
        self._overrides: dict[str, bool] = {}

    def allows(self, group: str) -> bool:
        """Tell whether `group` may be touched."""
        override = self._overrides.get(group)
        return self._by_rules(group) if override is None else override

    def _by_rules(self, group: str) -> bool:
        return self._all or any(pattern.matches(group) for pattern in self._patterns)

    def packed(self) -> tuple[bool, list[str], dict[str, bool]]:
        """As plain values: everything?, patterns, exceptions."""
        return self._all, [pattern.text for pattern in self._patterns], dict(self._overrides)

    @classmethod
    def unpacked(cls, everything: bool, patterns: Iterable[str], overrides: Mapping[str, bool]) -> Permission:
        """Make what `packed` gave again."""
        permission = cls()
        permission._all = everything
        permission._patterns = [pattern for text in patterns if (pattern := compile_pattern(text)) is not None]
        permission._overrides = dict(overrides)
        return permission

    def allow_all(self) -> None:
        """Grant every group, forgetting exceptions made so far."""
        self._all = True
        self._overrides.clear()

    def add_pattern(self, pattern: Pattern) -> None:
        """Grant the groups that match."""
        self._patterns.append(pattern)

    def set_literal(self, group: str, allowed: bool) -> None:
        """Grant or deny one group by name; a call without effect changes nothing. Raises TooManyOverrides."""
        present = self._overrides.get(group)
        if present is allowed:
            return
        if present is not None:
            del self._overrides[group]
        if self._by_rules(group) is allowed:
            return
        if len(self._overrides) >= MAX_LITERALS:
            raise TooManyOverrides(f"a connection holds at most {MAX_LITERALS} literal permissions")
        self._overrides[group] = allowed


class Permissions:
    """Both permissions of one connection."""

    __slots__ = ("_by_name",)

    def __init__(self, roles: Iterable[str] = ()) -> None:
        self._by_name = {name: Permission() for name in PERMISSIONS}
        for name, permission in self._by_name.items():
            _fill(permission, f"{_PREFIX}{name}", sorted(roles))

    def __getitem__(self, name: str) -> Permission:
        return self._by_name[name]

    def packed(self) -> dict[str, tuple[bool, list[str], dict[str, bool]]]:
        """As plain values, exceptions made at run time included."""
        return {name: permission.packed() for name, permission in self._by_name.items()}

    @classmethod
    def unpacked(cls, packed: Mapping[str, tuple[bool, list[str], dict[str, bool]]]) -> Permissions:
        """Make what `packed` gave again."""
        permissions = cls()
        permissions._by_name = {name: Permission.unpacked(*packed[name]) for name in PERMISSIONS}
        return permissions

    def may_join_or_leave(self, group: str) -> bool:
        """Tell whether frames may join and leave `group`."""
        return self._by_name[JOIN_LEAVE].allows(group)

    def may_send(self, group: str) -> bool:
        """Tell whether frames may publish to `group`."""
        return self._by_name[SEND].allows(group)


def _fill(permission: Permission, role: str, roles: list[str]) -> None:
    """Read the roles that speak of one permission. Sorted, so that "the first ten" is the same everywhere."""
    if role in roles:
        permission.allow_all()
        return
    patterns = 0
    literals = 0
    for candidate in roles:
        if candidate.startswith(f"{role}."):
            group = candidate[len(role) + 1 :]
            if is_group_name(group) and literals < MAX_LITERALS:
                literals += 1
                permission.set_literal(group, True)
        elif candidate.startswith(f"{role}s."):
            text = candidate[len(role) + 2 :]
            literal = literal_of(text)
            if literal is not None:
                # Without wildcards it names one group, and takes no pattern's place.
                if is_group_name(literal) and literals < MAX_LITERALS:
                    literals += 1
                    permission.set_literal(literal, True)
                continue
            pattern = compile_pattern(text)
            if pattern is None:
                continue
            patterns += 1
            if patterns <= MAX_PATTERNS:
                permission.add_pattern(pattern)


class Pattern:
    """A group pattern, matched in time proportional to the name's length.

    Regular expressions backtrack: five stars against a long unlucky name would take hours. Here
    every way to match is followed at once, one bit per position in the pattern: bit i is set while
    the first i tokens may have matched what was read so far.
    """

    __slots__ = ("_anything_but_dot", "_end", "_here", "_star", "_star_over_dot", "text")

    def __init__(self, text: str, tokens: list[Token]) -> None:
        self.text = text
        self._here: dict[str, int] = {}
        self._anything_but_dot = self._star = self._star_over_dot = 0
        self._end = 1 << len(tokens)
        for position, (kind, character) in enumerate(tokens):
            bit = 1 << position
            if kind == "literal":
                self._here[character] = self._here.get(character, 0) | bit
            elif kind == "?":
                self._anything_but_dot |= bit
            else:
                self._star |= bit
                if kind == "**":
                    self._star_over_dot |= bit

    def matches(self, name: str) -> bool:
        """Tell whether the whole of `name` matches."""
        # A star may also match nothing. Two stars never stand side by side (a run is one token),
        # so one step over them is enough.
        states = 1 | (self._star & 1) << 1
        for character in name:
            takes = self._here.get(character, 0)
            if character == ".":
                stays = states & self._star_over_dot
            else:
                takes |= self._anything_but_dot
                stays = states & self._star
            states = stays | (states & takes) << 1
            states |= (states & self._star) << 1
            if not states:
                return False
        return bool(states & self._end)


@lru_cache(maxsize=4096)
def compile_pattern(text: str) -> Pattern | None:
    """Read a group pattern; None when it is malformed or beyond the bounds."""
    tokens = _tokens(text)
    return None if tokens is None else Pattern(text, tokens)


@lru_cache(maxsize=4096)
def literal_of(text: str) -> str | None:
    """Give the one name that a pattern without wildcards stands for; None when it has wildcards or is malformed."""
    name = []
    characters = iter(text)
    for character in characters:
        if character in "*?":
            return None
        if character == "\\":
            character = next(characters, "")
            if character not in ("*", "?", "\\"):
                return None
        name.append(character)
    return "".join(name)


def role_string(permission: str, group_text: str = "") -> str:
    """Write the role that gives `permission` on what `group_text` means: "" = every group, a name, or a pattern."""
    if not group_text:
        return f"{_PREFIX}{permission}"
    literal = named_group(group_text)
    if literal is not None:
        return f"{_PREFIX}{permission}.{literal}"
    return f"{_PREFIX}{permission}s.{group_text}"


def named_group(group_text: str) -> str | None:
    """Give the one group that a name or a pattern without wildcards stands for; None for every other text."""
    literal = literal_of(group_text)
    return literal if literal is not None and is_group_name(literal) else None


def is_group_text(group_text: str) -> bool:
    """Tell whether `role_string` makes a role of it that grants something: a group's name or a sound pattern."""
    return named_group(group_text) is not None or (
        literal_of(group_text) is None and compile_pattern(group_text) is not None
    )


def _tokens(text: str) -> list[Token] | None:
    if not 0 < len(text) <= MAX_PATTERN_CHARACTERS:
        return None
    tokens: list[Token] = []
    stars = 0
    position = 0
    while position < len(text):
        character = text[position]
        if character == "\\":
            escaped = text[position + 1 : position + 2]
            if escaped not in ("*", "?", "\\"):
                return None
            tokens.append(("literal", escaped))
            position += 2
        elif character == "*":
            run = len(text[position:]) - len(text[position:].lstrip("*"))
            stars += run
            tokens.append(("*" if run == 1 else "**", ""))
            position += run
        else:
            tokens.append(("?", "") if character == "?" else ("literal", character))
            position += 1
    return tokens if stars <= MAX_PATTERN_STARS else None
