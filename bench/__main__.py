"""`python -m bench`: all benches one after the other, and one table of ratios.

Each is a process of its own, so that none finds the memory, the core or the open files of another. What
they measured is in `bench/results/`, as of each bench alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import ratios
from bench.report import RESULTS
from bench.servers import ROOT, SET_UPS

# In this order: the long ones last, but for the one that everything is about.
BENCHES = ("fanout", "rest", "upstream", "connections", "scale", "azure", "slow")
# Those without a short form of their own, and how they are made short.
SHORT = {"upstream": ("--rounds", "1", "--seconds", "1")}
# Far more than the longest needs.
MOST_SECS = 3 * 3600


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in BENCHES:
            raise argparse.ArgumentTypeError(f"{name!r} is not a bench; choose from {', '.join(BENCHES)}")
    return names


def _run(name: str, quick: bool, set_ups: str) -> int:
    options = SHORT.get(name, ("--quick",)) if quick else ()
    env = os.environ | {SET_UPS: set_ups}
    process = subprocess.Popen([sys.executable, "-m", f"bench.{name}", *options], cwd=ROOT, env=env)
    try:
        return process.wait(MOST_SECS)
    except BaseException:
        # It has heard the Ctrl-C too, or is told now; it stops its servers itself.
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise


def _newest(name: str, since: float) -> Path | None:
    written = [path for path in RESULTS.glob(f"{name}-*.json") if path.stat().st_mtime >= since]
    return max(written, key=lambda path: path.stat().st_mtime, default=None)


def _terminated(number: int, frame: object) -> None:
    signal.raise_signal(signal.SIGINT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benches and print the table; 0 when all of them ran and lost nothing."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Run all benches and print a table of ratios.")
    parser.add_argument("--only", type=_names, default=BENCHES, help=f"of {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few minutes' look, of which no figure should be kept")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminated)
    console = Console() if sys.stdout.isatty() else Console(width=170)
    results: dict[str, Path] = {}
    failed: list[str] = []
    ended = 0
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as set_ups:
            for name in options.only:
                console.rule(f"bench.{name}")
                since = time.time()
                code = _run(name, options.quick, set_ups)
                if code:
                    failed.append(f"bench.{name} ended with status {code}")
                path = _newest(name, since)
                if path is not None:
                    results[name] = path
    except KeyboardInterrupt:
        ended = 130
    except subprocess.TimeoutExpired as late:
        failed.append(str(late))
    found = ratios.rows(results)
    if found:
        console.print(ratios.table(found))
        path = RESULTS / f"ratios-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
        path.write_text(ratios.as_json(found), encoding="utf-8")
        console.print(f"Raw figures: {path}", markup=False, highlight=False, soft_wrap=True)
    for line in failed:
        console.print(line, style="bold red", markup=False)
    return ended or (1 if failed else 0)


if __name__ == "__main__":
    sys.exit(main())
