"""`python -m bench`: all benches one after the other, one table of targets, and one file of raw figures.

Each bench is a process of its own, so that none finds the memory, the core or the open files of another. One that fails
does not keep the others from going on; it is said at the end, and in the exit status. Each has a share of the time and
begins no further round when that is used up; one that does not end at all is ended.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import figures, targets
from bench.command import one_of, whole, wide_console
from bench.contestants import ROOT
from bench.machine import end_tree, interruptible, uninterrupted
from bench.servers import SET_UPS

# A bench that its share of the time has run out for finishes the round that it is in, and shows and writes what it has.
FINISHING_SECS = 240.0
# One that was interrupted ends its servers, each within a quarter of a minute.
ENDING_SECS = 60.0


@dataclass(frozen=True)
class Part:
    """A bench as a part of all."""

    name: str
    # Its share of the time.
    minutes: float
    # How it is made thorough.
    thorough: tuple[str, ...]


PARTS = {
    part.name: part
    for part in (
        Part("fanout", 7.5, ("--rounds", "9", "--seconds", "2", "--paced-seconds", "5")),
        Part("rest", 1.2, ("--rounds", "5", "--seconds", "3")),
        Part("upstream", 0.6, ("--rounds", "5", "--seconds", "4")),
        Part("connections", 5.3, ("--rounds", "3")),
        Part("scale", 5, ("--rounds", "5", "--seconds", "2")),
        Part("azure", 3.2, ("--secs", "10")),
        Part("slow", 1.5, ("--secs", "20", "--waves", "5")),
        Part("hostile", 1.4, ("--secs", "20")),
    )
}
MINUTES = sum(part.minutes for part in PARTS.values())


@dataclass
class Outcome:
    """What became of a part."""

    name: str
    # None if it had to be ended.
    status: int | None = None
    took_secs: float = 0.0
    # What its file holds, if it came to write one.
    figures: Mapping[str, Any] | None = None

    @property
    def failure(self) -> str | None:
        """What there is to say, if it is not that all went well."""
        if self.status == 0:
            return None
        how = "did not end by itself" if self.status is None else f"ended with status {self.status}"
        reasons = (self.figures or {}).get("failures", ())
        return "\n  ".join([f"bench.{self.name} {how}, {self.took_secs:.0f} s.", *reasons])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts and print the table; 0 when all of them ran and lost nothing, whatever the targets."""
    options = _options(argv)
    interruptible()
    console = wide_console()
    began = time.monotonic()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    outcomes: list[Outcome] = []
    interrupted = False
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        for name in options.only:
            console.rule(f"bench.{name}")
            outcomes.append(Outcome(name))
            try:
                _run(PARTS[name], options, Path(directory), outcomes[-1])
            except KeyboardInterrupt:
                interrupted = True
                break
    console.rule("bench")
    found = targets.rows({name: _runs(outcomes, name) for name in options.only})
    console.print(targets.table(found))
    failures = [each.failure for each in outcomes if each.failure]
    contents = {
        "bench": "all",
        "started": started,
        "took_secs": round(time.monotonic() - began, 1),
        "options": vars(options),
        "interrupted": interrupted,
        "failures": failures,
        "targets": found,
        "parts": [vars(each) for each in outcomes],
        **figures.surroundings(),
    }
    path = figures.shown_path(figures.write("bench", contents, options.results))
    console.print(f"Took {(time.monotonic() - began) / 60:.1f} minutes. Raw figures: {path}", soft_wrap=True)
    for line in failures:
        console.print(line, style="bold red", markup=False)
    if interrupted:
        return 130
    return 1 if failures else 0


def _run(part: Part, options: argparse.Namespace, directory: Path, outcome: Outcome) -> None:
    """Run a part, and write down what became of it however that was. Raises KeyboardInterrupt."""
    within = part.minutes * 60 * options.minutes / MINUTES
    results = directory / part.name
    arguments = ["--part", "--results", str(results)]
    if options.quick:
        arguments += ["--quick"]
    elif options.thorough:
        arguments += part.thorough
    else:
        arguments += ["--within", f"{within:.0f}"]
    set_ups = directory / "set-ups"
    set_ups.mkdir(exist_ok=True)
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", f"bench.{part.name}", *arguments],
        cwd=ROOT,
        env=os.environ | {SET_UPS: str(set_ups)},
        # Ctrl-C is for us; we tell it.
        process_group=0,
    )
    try:
        outcome.status = process.wait(None if options.thorough else within + FINISHING_SECS)
    except subprocess.TimeoutExpired:
        _end(process)
    except KeyboardInterrupt:
        _end(process)
        outcome.status = process.returncode
        raise
    finally:
        outcome.took_secs = time.monotonic() - began
        for path in results.glob("*.json"):
            # One that had to be ended may have written half of it.
            with suppress(ValueError):
                outcome.figures = json.loads(path.read_text(encoding="utf-8"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have a part end its servers, show and write what it has, or end all of it."""
    with uninterrupted():
        process.send_signal(signal.SIGINT)
        try:
            process.wait(ENDING_SECS)
        except subprocess.TimeoutExpired:
            end_tree(process.pid)
            process.wait()


def _runs(outcomes: Sequence[Outcome], name: str) -> Mapping[str, Any]:
    """What a part has measured, nothing if it did not come to that."""
    written = next((each.figures for each in outcomes if each.name == name), None) or {}
    runs = written.get("runs", {})
    return runs if isinstance(runs, Mapping) else {"runs": runs}


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure everything, and say which targets are met."
    )
    parser.add_argument(
        "--only", type=one_of(PARTS), default=tuple(PARTS), help=f"of {', '.join(PARTS)} (default: all)"
    )
    parser.add_argument(
        "--minutes",
        type=whole(5, 600),
        default=round(MINUTES),
        help="for all parts together: as many rounds as fit into them (default: %(default)s)",
    )
    longer = parser.add_mutually_exclusive_group()
    longer.add_argument("--quick", action="store_true", help="a few minutes' look, of which no figure should be kept")
    longer.add_argument("--thorough", action="store_true", help="more and longer rounds, however long they take")
    parser.add_argument("--results", type=Path, help="directory for the raw figures (default: bench/results)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
