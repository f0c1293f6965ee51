"""What hubs, events and groups may be called."""

from __future__ import annotations

import pytest

from hubs.rules.names import canonical_hub, is_event_name, is_group_name, is_hub_name


@pytest.mark.parametrize("name", ["a", "Z", "chat", "Chat_1", "a`b,c.d[e]", "a" * 128])
def test_hub_names(name: str) -> None:
    assert is_hub_name(name)


@pytest.mark.parametrize(
    "name", ["", "1a", "_a", ".a", "a b", "a-b", "a/b", "é", "aé", "a\n", "a\0", "a" * 129, "a%20", "а"]
)
def test_not_hub_names(name: str) -> None:
    assert not is_hub_name(name)


def test_hubs_are_the_same_in_any_case() -> None:
    assert canonical_hub("Chat_A") == canonical_hub("cHAT_a") == "chat_a"


@pytest.mark.parametrize("name", ["a", "Message", "chat.login", "a_b-c.D9", "a" * 128])
def test_event_names(name: str) -> None:
    assert is_event_name(name)


@pytest.mark.parametrize("name", ["", "1", "-a", "a b", "a/b", "a`", "a[", "é", "a\n", "a" * 129])
def test_not_event_names(name: str) -> None:
    assert not is_event_name(name)


@pytest.mark.parametrize("name", ["g", " g ", "a.b", "*", "\\", "\0", "é👋", "g" * 1024, "👋" * 1024, "\u200b"])
def test_group_names(name: str) -> None:
    assert is_group_name(name)


@pytest.mark.parametrize("name", ["", " ", "\t\n", "\u2003\u00a0", "g" * 1025, " " * 1024, "\ud800", "a\udfffb"])
def test_not_group_names(name: str) -> None:
    assert not is_group_name(name)
