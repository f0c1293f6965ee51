"""Java's own WebSocket client takes and gives long messages (tests/java/Fragments.java), with both servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.running import Service
from tests.service.client import Target
from tests.tutorials.programs import Program, java

LIMIT = 65_536


def test_messages_around_the_limit_of_a_frame(serve: Callable[[], Service], tmp_path: Path) -> None:
    url = Target(serve().connection_string).url("java", user="ada")
    program = Program(java("Fragments.java", url, "long"), cwd=tmp_path)
    try:
        *messages, closed = program.objects_until(lambda printed: "closed" in printed)
        program.end()
    finally:
        program.stop()
    around = messages[0]["size"] - 10
    assert [message["size"] for message in messages] == [
        10 + around,
        LIMIT - 1,
        LIMIT,
        LIMIT + 1,
        300 * 1024,
        LIMIT + 1,
        300 * 1024,
    ]
    assert all(message["same"] for message in messages)
    assert max(message["largest"] for message in messages) <= LIMIT
    assert closed == {"closed": 1000}
