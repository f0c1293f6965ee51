"""Roles, group patterns, and permissions that change at run time."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hubs.rules.roles import (
    JOIN_LEAVE,
    MAX_LITERALS,
    MAX_PATTERN_CHARACTERS,
    PERMISSIONS,
    SEND,
    Permission,
    Permissions,
    TooManyOverrides,
    compile_pattern,
    is_group_text,
    literal_of,
    named_group,
    role_string,
)


def _allowed(roles: Sequence[str], groups: str) -> list[str]:
    """Which of some groups (by their names, parted by spaces) the roles let a client publish to."""
    permissions = Permissions(roles)
    return [group for group in groups.split(" ") if permissions.may_send(group)]


# Whole roles


@pytest.mark.parametrize("name", PERMISSIONS)
@pytest.mark.parametrize(
    ("suffix", "allowed", "denied"),
    [
        ("", ["g", "a.b", "*", " x "], []),
        (".g1", ["g1"], ["G1", "g", "g11", "g1.", ".g1", " g1"]),
        (".a.b.c", ["a.b.c"], ["a", "a.b", "a.b.c.d"]),
        (".a*", ["a*"], ["a", "ab", "a**"]),
        (".a?", ["a?"], ["ab"]),
        (".**", ["**"], ["a"]),
        (r".a\*", [r"a\*"], ["a*"]),
        (". a", [" a"], ["a"]),
        (".", [], ["", ".", "a"]),
        (".  ", [], ["  ", " "]),
        ("." + "g" * 1025, [], ["g" * 1025, "g" * 1024]),
        ("s", [], ["g", ""]),
        ("s.", [], ["g", ""]),
        ("s.a.*", ["a.b", "a."], ["a.b.c", "a", "xa.b", "A.b"]),
        ("s.a.**", ["a.b", "a.b.c", "a.", "a.."], ["a", "ab"]),
        ("s.a?", ["ab", "a*"], ["a.", "a", "abc"]),
        ("s.**", ["a", "a.b", " ", "*"], []),
        ("s.*", ["a", "*"], ["a.b", "."]),
        ("s.g1", ["g1"], ["g2", "g11"]),
        (r"s.a\*b", ["a*b"], [r"a\*b", "axb"]),
        (r"s.a\?", ["a?"], ["ab"]),
        (r"s.a\\b", [r"a\b"], [r"a\\b", "ab"]),
        (r"s.\**", ["*", "*a"], ["a", r"\*"]),
        ("s.   ", [], ["   "]),
    ],
)
def test_one_role(name: str, suffix: str, allowed: list[str], denied: list[str]) -> None:
    permission = Permissions([f"webpubsub.{name}{suffix}"])[name]
    assert [group for group in allowed if not permission.allows(group)] == []
    assert [group for group in denied if permission.allows(group)] == []


def test_no_role_allows_nothing() -> None:
    permissions = Permissions()
    assert not permissions.may_send("g")
    assert not permissions.may_join_or_leave("g")


@pytest.mark.parametrize("suffix", ["", ".g", "s.g*"])
def test_neither_permission_implies_the_other(suffix: str) -> None:
    sending, joining = Permissions([f"webpubsub.{SEND}{suffix}"]), Permissions([f"webpubsub.{JOIN_LEAVE}{suffix}"])
    assert (sending.may_send("g"), sending.may_join_or_leave("g")) == (True, False)
    assert (joining.may_send("g"), joining.may_join_or_leave("g")) == (False, True)


@pytest.mark.parametrize(
    "role",
    [
        "",
        "webpubsub",
        "webpubsub.",
        "sendToGroup",
        "webpubsub.sendtogroup",
        "Webpubsub.sendToGroup",
        "webpubsub.SendToGroup",
        " webpubsub.sendToGroup",
        "webpubsub.sendToGroup ",
        "webpubsub.sendToGroupX.g",
        "webpubsub.sendToGroups",
        "xwebpubsub.sendToGroup.g",
        "webpubsub.getGroupState",
        "webpubsub.sendToGroup\0",
        "*",
        "👋",
    ],
)
def test_other_roles_are_ignored(role: str) -> None:
    assert _allowed([role], "g sendToGroup .g") == []
    assert _allowed([role, "webpubsub.sendToGroup.g"], "g h") == ["g"]


def test_roles_add_up() -> None:
    roles = [
        "webpubsub.sendToGroup.b",
        "webpubsub.sendToGroups.a*",
        "webpubsub.sendToGroup.b",
        "webpubsub.sendToGroup.c",
    ]
    assert _allowed(roles, "a ab b c d") == ["a", "ab", "b", "c"]
    assert _allowed([*roles, "webpubsub.sendToGroup"], "a ab b c d") == ["a", "ab", "b", "c", "d"]


# Bounds: what is malformed or too much is ignored, and nothing else is


@pytest.mark.parametrize(
    ("pattern", "sound"),
    [
        ("*****", True),
        ("******", False),
        ("*.*.*.*.*", True),
        ("*.*.*.*.*.*", False),
        ("**.**.*", True),
        ("***.***", False),
        (r"\******", True),
        (r"\*******", False),
        (r"*****\*\*\*", True),
        ("?" * 1000, True),
        ("*" + "a" * 1023, True),
        ("*" + "a" * 1024, False),
        ("", False),
        ("*\\", False),
        (r"*\a", False),
        (r"*\.", False),
        (r"*\\", True),
        (r"*\\\*", True),
        ("*\\\\\\", False),
        ("*é👋\0 ", True),
    ],
)
def test_which_patterns_are_sound(pattern: str, sound: bool) -> None:
    assert (compile_pattern(pattern) is not None) is sound
    assert is_group_text(pattern) is sound
    # Ignored or not, it takes nothing away from the other roles.
    assert _allowed([f"webpubsub.sendToGroups.{pattern}", "webpubsub.sendToGroup.other"], "other") == ["other"]


def test_nine_patterns_count_by_their_order() -> None:
    roles = [f"webpubsub.sendToGroups.{letter}*" for letter in "jihgfedcba"]
    assert _allowed(roles, "a1 b1 c1 d1 e1 f1 g1 h1 i1 j1") == ["a1", "b1", "c1", "d1", "e1", "f1", "g1", "h1", "i1"]


def test_duplicates_take_places_and_malformed_ones_do_not() -> None:
    duplicates = ["webpubsub.sendToGroups.a*"] * 8
    assert _allowed([*duplicates, "webpubsub.sendToGroups.b*", "webpubsub.sendToGroups.c*"], "a b c") == ["a", "b"]
    malformed = ["webpubsub.sendToGroups.******", r"webpubsub.sendToGroups.*\x"] * 8
    assert _allowed([*malformed, "webpubsub.sendToGroups.b*"], "b") == ["b"]


def test_literals_take_no_pattern_places() -> None:
    literals = [f"webpubsub.sendToGroup.a{number}" for number in range(20)]
    escaped = [rf"webpubsub.sendToGroups.a\*{number}" for number in range(20)]
    assert _allowed([*literals, *escaped, "webpubsub.sendToGroups.z*"], "a19 a*19 z") == ["a19", "a*19", "z"]


def test_each_permission_has_places_of_its_own() -> None:
    roles = [f"webpubsub.{name}s.{letter}*" for name in PERMISSIONS for letter in "abcdefghi"]
    permissions = Permissions(roles)
    assert permissions.may_send("i")
    assert permissions.may_join_or_leave("i")


def test_at_most_a_thousand_literals() -> None:
    permissions = Permissions([f"webpubsub.sendToGroup.g{number:04}" for number in range(MAX_LITERALS + 1)])
    assert permissions.may_send(f"g{MAX_LITERALS - 1:04}")
    assert not permissions.may_send(f"g{MAX_LITERALS:04}")


# The matcher


def _reference(pattern: str) -> re.Pattern[str]:
    """The same language as a regular expression; good for short names only."""
    parts = {r"\*": r"\*", r"\?": r"\?", r"\\": r"\\", "?": r"[^.]", "*": r"[^.]*"}
    text = ""
    for token in re.findall(r"\\.|\*{2,}|.", pattern, re.DOTALL):
        text += parts.get(token) or (r".*" if token.startswith("**") else re.escape(token))
    return re.compile(text, re.DOTALL)


_TOKENS = st.sampled_from(["a", "b", ".", "?", "*", "**", "***", r"\*", r"\?", r"\\", "\n", "é"])
_PATTERNS = (
    st.lists(_TOKENS, min_size=1, max_size=8)
    .map("".join)
    .filter(lambda text: text.replace(r"\\", "").replace(r"\*", "").count("*") <= 5)
)
_NAMES = st.text("ab.*?\\\né", max_size=8)


@given(_PATTERNS, _NAMES)
@settings(max_examples=1500, deadline=None)
@example("*?", "a")
@example("?*?", "a")
@example("**.", "..")
@example("*a*b*", "ab")
@example("**a", ".a")
@example("a*", "a")
@example(r"\\*", "\\a")
def test_matches_like_a_regular_expression(pattern: str, name: str) -> None:
    compiled = compile_pattern(pattern)
    assert compiled is not None
    assert compiled.matches(name) is bool(_reference(pattern).fullmatch(name))


@given(_PATTERNS, st.data())
@settings(max_examples=300, deadline=None)
def test_matches_names_made_for_the_pattern(pattern: str, data: st.DataObject) -> None:
    name = data.draw(st.from_regex(_reference(pattern), fullmatch=True, alphabet=st.sampled_from("ab.*?\\\né")))
    compiled = compile_pattern(pattern)
    assert compiled is not None
    assert compiled.matches(name)


@given(st.text(r"a*?\.", max_size=10))
@settings(max_examples=500)
def test_any_text_is_a_pattern_or_none(text: str) -> None:
    pattern, literal = compile_pattern(text), literal_of(text)
    if literal is not None and text:
        assert pattern is not None
        assert pattern.matches(literal)
        assert not pattern.matches(literal + "a")
    if pattern is not None:
        pattern.matches(text)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        # Each would keep a backtracking matcher busy for longer than the universe is old.
        ("*a*a*a*a*b", "a" * 100_000, False),
        ("*a*a*a*a*", "a" * 100_000, True),
        ("**a**a*", "a" * 100_000 + ".", False),
        ("**" + "?" * 1000 + "**", "a" * 100_000, True),
        ("?" * 1024, "a" * 100_000, False),
        ("*" + "a?" * 511, "a" * 100_000, True),
    ],
)
def test_hostile_patterns_come_to_an_end(pattern: str, name: str, matches: bool) -> None:
    assert len(pattern) <= MAX_PATTERN_CHARACTERS
    compiled = compile_pattern(pattern)
    assert compiled is not None
    assert compiled.matches(name) is matches


def test_a_token_full_of_roles_comes_to_an_end() -> None:
    roles = ["webpubsub.sendToGroups." + "?*" * 5 + "a" * 1000 + str(number) for number in range(2000)]
    roles += ["webpubsub.sendToGroups." + "*" * 1024] * 500 + ["webpubsub.sendToGroups." + "?\\" * 512] * 500
    assert not Permissions(roles).may_send("a" * 1024)


# At run time


def test_granting_and_revoking_without_roles() -> None:
    permission = Permission()
    permission.set_literal("g", True)
    assert permission.allows("g")
    assert not permission.allows("h")
    permission.set_literal("g", False)
    assert not permission.allows("g")


@pytest.mark.parametrize("role", ["webpubsub.sendToGroup", "webpubsub.sendToGroups.g*", "webpubsub.sendToGroups.**"])
def test_revoking_under_a_broader_role_lasts_until_granted_again(role: str) -> None:
    permission = Permissions([role])[SEND]
    permission.set_literal("g1", False)
    assert not permission.allows("g1")
    assert permission.allows("g2")
    permission.set_literal("g1", False)
    assert not permission.allows("g1")
    permission.set_literal("g1", True)
    assert permission.allows("g1")


def test_revoking_what_both_a_literal_and_a_pattern_grant() -> None:
    permission = Permissions(["webpubsub.sendToGroup.g1", "webpubsub.sendToGroups.g*"])[SEND]
    permission.set_literal("g1", False)
    assert not permission.allows("g1")
    assert permission.allows("g2")


def test_revoking_a_literal_role() -> None:
    permission = Permissions(["webpubsub.sendToGroup.g1"])[SEND]
    permission.set_literal("g1", False)
    assert not permission.allows("g1")


def test_allowing_all_forgets_exceptions() -> None:
    permission = Permissions(["webpubsub.sendToGroups.g*"])[SEND]
    permission.set_literal("g1", False)
    permission.allow_all()
    assert permission.allows("g1")
    assert permission.allows("other")
    permission.set_literal("g1", False)
    assert not permission.allows("g1")


def test_exceptions_are_bounded() -> None:
    permission = Permission()
    for number in range(MAX_LITERALS):
        permission.set_literal(f"g{number}", True)
    with pytest.raises(TooManyOverrides, match="1000"):
        permission.set_literal("one more", True)
    assert not permission.allows("one more")
    # What needs no place of its own still works, and gives places back.
    permission.set_literal("g0", True)
    permission.set_literal("never granted", False)
    permission.set_literal("g0", False)
    permission.set_literal("one more", True)
    assert permission.allows("one more")


_STEPS = st.lists(st.tuples(st.sampled_from(["a", "a.b", "b"]), st.booleans()), max_size=12)


@given(st.lists(st.sampled_from(["", ".a", ".b", "s.a*", "s.**"]), max_size=3), _STEPS)
def test_the_last_word_counts(suffixes: list[str], steps: list[tuple[str, bool]]) -> None:
    permission = Permissions([f"webpubsub.{SEND}{suffix}" for suffix in suffixes])[SEND]
    expected = {group: permission.allows(group) for group in ("a", "a.b", "b")}
    for group, allowed in steps:
        permission.set_literal(group, allowed)
        expected[group] = allowed
    assert {group: permission.allows(group) for group in expected} == expected


# Writing roles


@pytest.mark.parametrize(
    ("group_text", "role"),
    [
        ("", "webpubsub.sendToGroup"),
        ("g", "webpubsub.sendToGroup.g"),
        ("a.b", "webpubsub.sendToGroup.a.b"),
        ("a*", "webpubsub.sendToGroups.a*"),
        ("a?", "webpubsub.sendToGroups.a?"),
        (r"a\*", "webpubsub.sendToGroup.a*"),
        (r"a\\b", r"webpubsub.sendToGroup.a\b"),
    ],
)
def test_role_strings(group_text: str, role: str) -> None:
    assert role_string(SEND, group_text) == role


@pytest.mark.parametrize(
    ("group_text", "group"),
    [("g", "g"), (r"\*", "*"), ("a*", None), ("?", None), ("a\\", None), (" ", None), ("", None), ("g" * 1025, None)],
)
def test_named_groups(group_text: str, group: str | None) -> None:
    assert named_group(group_text) == group


@given(st.text("ab.*?\\ ", min_size=1, max_size=8), st.text("ab.*?\\ ", min_size=1, max_size=6))
@settings(max_examples=500)
def test_a_written_role_grants_what_the_text_means(group_text: str, group: str) -> None:
    permissions = Permissions([role_string(SEND, group_text)])
    if not is_group_text(group_text):
        return
    pattern = compile_pattern(group_text)
    assert pattern is not None
    assert permissions.may_send(group) is pattern.matches(group)


# On the way to another process


@given(
    roles=st.lists(
        st.sampled_from(
            [
                "webpubsub.sendToGroup",
                "webpubsub.joinLeaveGroup.a",
                "webpubsub.sendToGroup.b",
                "webpubsub.sendToGroups.a*",
                "webpubsub.joinLeaveGroups.**",
                "webpubsub.sendToGroups.x.?",
                "webpubsub.sendToGroups.\\*",
            ]
        )
    ),
    changes=st.lists(
        st.tuples(st.sampled_from(PERMISSIONS), st.sampled_from(["a", "b", "ab", "x.y", "*"]), st.booleans())
    ),
)
def test_permissions_are_the_same_elsewhere(roles: list[str], changes: list[tuple[str, str, bool]]) -> None:
    here = Permissions(roles)
    for name, group, allowed in changes:
        here[name].set_literal(group, allowed)
    # As they travel: only what msgpack can carry.
    there = Permissions.unpacked(msgspec.msgpack.decode(msgspec.msgpack.encode(here.packed())))
    assert there.packed() == here.packed()
    for name in PERMISSIONS:
        for group in ("a", "b", "ab", "x.y", "x.yy", "*", "c"):
            assert there[name].allows(group) == here[name].allows(group)
    # And each goes its own way from then on.
    before = here.packed()
    there[PERMISSIONS[0]].set_literal("new", not there[PERMISSIONS[0]].allows("new"))
    assert here.packed() == before != there.packed()


def test_packing_does_not_share() -> None:
    permissions = Permissions(["webpubsub.sendToGroup.a"])
    packed = permissions.packed()
    Permissions.unpacked(packed)[SEND].set_literal("b", True)
    permissions[SEND].set_literal("c", True)
    assert packed[SEND] == (False, [], {"a": True})
    assert not permissions.may_send("b")
