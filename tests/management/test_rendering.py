"""What arrives at the console client, as lines for people and for programs."""

from __future__ import annotations

import json

import pytest

from hubs.management.cli import rendering

SHOWN = [
    (
        '{"type":"system","event":"connected","userId":"ada","connectionId":"c1"}',
        "Connected as ada; the connection is c1.",
    ),
    (
        '{"type":"system","event":"connected","userId":null,"connectionId":"c1"}',
        "Connected without a user id; the connection is c1.",
    ),
    ('{"type":"system","event":"disconnected","message":"bye"}', "The service ends the connection: bye"),
    (
        '{"type":"message","from":"group","group":"g","fromUserId":"ada","dataType":"text","data":"hi"}',
        "[g] ada: hi",
    ),
    ('{"type":"message","from":"group","group":"g","dataType":"json","data":"hi"}', "[g] somebody: hi"),
    (
        '{"type":"message","from":"group","group":"g","fromUserId":null,"dataType":"json","data":{"ä":[1]}}',
        '[g] somebody: {"ä": [1]}',
    ),
    (
        '{"type":"message","from":"group","group":"g","fromUserId":"b","dataType":"binary","data":"AAEC"}',
        "[g] b: (3 bytes) AAEC",
    ),
    ('{"type":"message","from":"server","dataType":"binary","data":"?"}', "[server] ?"),
    ('{"type":"message","from":"server","dataType":"text","data":"news"}', "[server] news"),
    ('{"type":"pong"}', "pong"),
    # Of a newer service, or not of one at all: shown as it came.
    ('{"type":"streamAck","streamId":"s"}', '{"type":"streamAck","streamId":"s"}'),
    ('{"type":"message","from":"group"}', '{"type":"message","from":"group"}'),
    ("[1, 2]", "[1, 2]"),
    ("not json", "not json"),
    ("[" * 100_000, "[" * 4000 + "… (96,000 more characters)"),
]


@pytest.mark.parametrize(("text", "line"), SHOWN, ids=[text[:60] for text, _ in SHOWN])
def test_lines_for_people(text: str, line: str) -> None:
    assert rendering.line_for(text) == line


def test_a_stranger_cannot_steer_the_terminal() -> None:
    evil = "\x1b[2J\r\nroot#"
    frames = [
        {"type": "message", "from": "group", "group": evil, "fromUserId": evil, "dataType": "text", "data": evil},
        {"type": "message", "from": "server", "dataType": "json", "data": {evil: evil}},
        {"type": "system", "event": "connected", "userId": evil, "connectionId": evil},
        {"type": "system", "event": "disconnected", "message": evil},
        {"type": evil},
    ]
    for frame in frames:
        for text in (json.dumps(frame), json.dumps(frame, ensure_ascii=False)):
            assert rendering.line_for(text).isprintable()
    assert rendering.line_for(evil).isprintable()


def test_long_messages_are_cut() -> None:
    frame = {"type": "message", "from": "server", "dataType": "text", "data": "x" * 1_000_000}
    line = rendering.line_for(json.dumps(frame))
    assert len(line) < 4100
    assert line.endswith("x… (996,000 more characters)")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ('{"type": "pong"}', '{"type":"pong"}'),
        ('{"data": "ä\u2028\u009b"}', '{"data":"\\u00e4\\u2028\\u009b"}'),
        ("plain", '"plain"'),
        (b"\x00\x01", '{"type": "binary", "data": "AAE="}'),
    ],
)
def test_lines_for_programs(message: str | bytes, line: str) -> None:
    assert rendering.as_json(message) == line


def test_binary_messages_say_their_size() -> None:
    assert rendering.binary_line(b"abc") == "(3 bytes) YWJj"
