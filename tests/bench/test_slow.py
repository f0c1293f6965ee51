"""The bench of clients that stop reading."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest

from bench.holding import Usage, Wrong
from bench.slow import OUTBOX_BYTES, SLACK_BYTES, Phase, _bounded
from tests.bench.running import LONG, run_bench


@pytest.mark.timeout(LONG)
def test_a_quick_run_sees_slow_clients_closed_and_readers_unharmed(tmp_path: Path) -> None:
    # Large messages, so that soon more than enough waits.
    done, raw = run_bench("slow", "--quick", "--readers", "4", "--bytes", "32768", results=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    phases, waves = raw["runs"]["phases"], raw["runs"]["waves"]
    assert [phase["name"] for phase in phases] == ["without", "with slow clients", "without, after"]
    assert all(phase["delivered"] == phase["expected"] > 0 for phase in phases)
    assert [wave["codes"] for wave in waves] == [{"1008": 2}]


def _phase(most: int) -> Phase:
    return Phase("without", 1, 1, 1.0, 1.0, 1.0, 100 << 20, most, 100 << 20, Usage(1, 1, 1, 0))


def test_memory_beyond_what_may_wait_is_an_error() -> None:
    options = argparse.Namespace(slow=3)
    quiet = _phase(100 << 20)
    allowed = quiet.memory_end + 3 * OUTBOX_BYTES + SLACK_BYTES
    _bounded([quiet, dataclasses.replace(quiet, memory_most=allowed)], options)
    with pytest.raises(Wrong, match="the server grew by"):
        _bounded([quiet, dataclasses.replace(quiet, memory_most=allowed + 1)], options)
