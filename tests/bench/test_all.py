"""`python -m bench`: its parts, its table of targets, and how it ends."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import targets
from bench.__main__ import PARTS, Outcome
from tests.bench.running import LONG, figures_in, start_bench


def _fan_out(server: str, *per_cpu_sec: float, **more: Any) -> list[dict[str, Any]]:
    usage = {"generator_share": 0.5}
    usual = {"server": server, "shape": "1×1000", "payload_bytes": 64, "expected": 10, "delivered": 10, "usage": usage}
    return [
        {**usual, "fault": None, "round": number, "per_cpu_sec": speed, **more}
        for number, speed in enumerate(per_cpu_sec, 1)
    ]


def _row(runs: list[dict[str, Any]], beside: str, what: str = "1×1000, 64 B") -> targets.Row:
    found = targets.rows({"fanout": {"fan_out": runs, "paced": []}})
    [row] = [row for row in found if (row.what, row.beside) == (what, beside)]
    return row


def test_a_ratio_is_of_figures_of_the_same_round() -> None:
    # A machine that was half as fast in the second round.
    row = _row([*_fan_out("hubwire", 900, 450, 900), *_fan_out("uwebsockets", 1000, 500, 1000)], "uWebSockets")
    assert row.ratios == [0.9, 0.9, 0.9]
    assert (row.target, row.verdict) == ("≥ 0.8 ×", "met")


def test_what_is_not_so_in_every_round_is_said() -> None:
    runs = [*_fan_out("hubwire", 700, 900, 900), *_fan_out("uwebsockets", 1000, 1000, 1000)]
    assert _row(runs, "uWebSockets").verdict == "met, not in every round"
    runs = [*_fan_out("hubwire", 900, 700, 700), *_fan_out("uwebsockets", 1000, 1000, 1000)]
    assert _row(runs, "uWebSockets").verdict == "missed, not in every round"


def test_a_run_with_a_loss_is_no_figure_and_a_target_of_its_own() -> None:
    runs = [*_fan_out("hubwire", 900, 900), *_fan_out("uwebsockets", 1000, fault="lost", delivered=9)]
    assert _row(runs, "uWebSockets").verdict == "not measured"
    assert _row(runs, "", "deliveries of ours that were lost").verdict == "met"
    runs = _fan_out("hubwire", 900, fault="lost", delivered=9)
    assert _row(runs, "", "deliveries of ours that were lost").verdict == "missed"


def test_what_was_not_measured_is_in_the_table() -> None:
    found = targets.rows({name: {} for name in PARTS})
    asked = [row for row in found if row.target]
    assert len(asked) > 30
    assert {row.verdict for row in asked} == {"not measured"}
    assert targets.table(found).row_count == len(found)


def test_a_part_that_failed_is_said_with_its_reasons() -> None:
    assert Outcome("rest", 0).failure is None
    assert Outcome("rest", None, 9.0).failure == "bench.rest did not end by itself, 9 s."
    failed = Outcome("rest", 1, 9.0, {"failures": ["it answered 500"]})
    assert failed.failure == "bench.rest ended with status 1, 9 s.\n  it answered 500"


# Of servers that start soon; what is measured of ours is the same code.
SHORT = {
    "fanout": ("--servers", "stock-uvicorn", "--shapes", "1x5,2x3", "--seconds", "0.2", "--paced-seconds", "0.2"),
    "connections": ("--servers", "uvicorn", "--connections", "20", "--ping-rounds", "1", "--keep-alive", "2"),
}


@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("name", SHORT)
def test_a_bench_shows_and_writes_what_it_measured(name: str, tmp_path: Path) -> None:
    bench = start_bench(f"bench.{name}", "--quick", "--markdown", *SHORT[name], results=tmp_path)
    shown, problems = bench.communicate(timeout=LONG)
    assert bench.returncode == 0, shown + problems
    raw = figures_in(tmp_path)
    assert raw["failures"] == []
    if name == "fanout":
        runs = raw["runs"]["fan_out"]
        assert [run["shape"] for run in runs] == ["1×5", "2×3"]
        [paced] = raw["runs"]["paced"]
        assert paced["expected"] == paced["delivered"] == 20 * 5
        assert all(run["expected"] == run["delivered"] > 0 for run in runs)
        assert f"| 1×5 | stock Channels in memory, uvicorn | {runs[0]['per_cpu_sec']:,.0f} |" in shown
    else:
        [run] = raw["runs"]
        assert run["pings"] >= run["connections"] == 20
        assert f"| plain uvicorn, accepts everybody | {run['connects_per_cpu_sec']:,.0f} |" in shown


@pytest.mark.timeout(LONG)
def test_interrupted_it_ends_what_it_started_and_keeps_what_it_has(tmp_path: Path) -> None:
    bench = start_bench("bench", "--quick", "--only", "rest,slow", results=tmp_path)
    assert bench.stderr is not None
    try:
        # What the second part says first: its server is up, and slow clients hang.
        while not (line := bench.stderr.readline()).startswith("wave 1"):
            assert line
        started = psutil.Process(bench.pid).children(recursive=True)
        # The part, and its server.
        assert len(started) == 2
    finally:
        bench.send_signal(signal.SIGINT)
        shown, problems = bench.communicate(timeout=LONG)
    assert bench.returncode == 130, shown + problems
    assert [process for process in started if process.is_running()] == []
    raw = figures_in(tmp_path)
    assert raw["interrupted"] is True
    assert [(part["name"], part["status"]) for part in raw["parts"]] == [("rest", 0), ("slow", 130)]
    assert {run["round"] for run in raw["parts"][0]["figures"]["runs"]} == {1}
    verdicts = [row["verdict"].partition(",")[0] for row in raw["targets"] if row["section"] == "REST"]
    assert len(verdicts) == 2
    assert {*verdicts} <= {"met", "missed"}
    assert shown.count("requests per CPU-s") == 2
