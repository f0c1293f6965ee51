"""The bench of clients that stop reading."""

from __future__ import annotations

import dataclasses

import pytest

from bench.machine import Usage
from bench.servers import Wrong
from bench.slow import OUTBOX_BYTES, SLACK_BYTES, Phase, check_memory


def _phase(most: int) -> Phase:
    return Phase("without", 1, 1, 1.0, 1.0, 1.0, 100 << 20, most, 100 << 20, Usage(1, 1, 1, 0))


def test_memory_beyond_what_may_wait_is_an_error() -> None:
    quiet = _phase(100 << 20)
    allowed = quiet.memory_end + 3 * OUTBOX_BYTES + SLACK_BYTES
    check_memory([quiet, dataclasses.replace(quiet, memory_most=allowed)], 3)
    with pytest.raises(Wrong, match="the server grew by"):
        check_memory([quiet, dataclasses.replace(quiet, memory_most=allowed + 1)], 3)
