"""Lines typed into the console client, and the frames they become."""

from __future__ import annotations

from typing import Any

import pytest

from hubs.management.cli import input


@pytest.mark.parametrize(
    ("line", "frame"),
    [
        ("joingroup room", {"type": "joinGroup", "group": "room"}),
        ("  JoinGroup   my room  ", {"type": "joinGroup", "group": "my room"}),
        ('joingroup "my room"', {"type": "joinGroup", "group": "my room"}),
        ('joingroup "half', {"type": "joinGroup", "group": '"half'}),
        ('joingroup "a" b', {"type": "joinGroup", "group": '"a" b'}),
        ("leavegroup room", {"type": "leaveGroup", "group": "room"}),
        ("sendtogroup room Hello", {"type": "sendToGroup", "group": "room", "data": "Hello"}),
        ("sendtogroup room  two  words ", {"type": "sendToGroup", "group": "room", "data": "two  words"}),
        ('sendtogroup "my room" "quoted"', {"type": "sendToGroup", "group": "my room", "data": '"quoted"'}),
        ('sendtogroup room {"a": 1}', {"type": "sendToGroup", "group": "room", "data": '{"a": 1}'}),
        ("event greet hello there", {"type": "event", "event": "greet", "data": "hello there"}),
        ("ping", {"type": "ping"}),
    ],
)
def test_lines_become_frames(line: str, frame: dict[str, Any]) -> None:
    assert input.read(line)[1] == frame


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("joingroup", "Write: joingroup <group>"),
        ('joingroup ""', "Write: joingroup <group>"),
        ("sendtogroup room", "Write: sendtogroup <group> <message>"),
        ('sendtogroup "my room"', "Write: sendtogroup <group> <message>"),
        ("event", "Write: event <name> <message>"),
        ("ping now", "Write: ping"),
        ("joingruop room", "There is no command 'joingruop'. Did you mean joingroup?"),
        ("SELECT 1", "There is no command 'SELECT'. Type help."),
    ],
)
def test_other_lines_are_answered(line: str, answer: str) -> None:
    with pytest.raises(input.TypoError) as refused:
        input.read(line)
    assert str(refused.value) == answer


def test_help_names_every_word() -> None:
    shown = input.help_text()
    for word in input.WORDS:
        assert word in shown
