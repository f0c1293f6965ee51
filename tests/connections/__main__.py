"""`python -m tests.connections`: as many storms (storm.py) as you like. Exits with 1 if one of them broke something.

With the environment variable PYTHONHASHSEED=0 a storm that is run again is the same to the last step.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections import Counter

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pubsub_site.settings")
django.setup()

from tests.connections.storm import ACCOUNTS, WEATHERS, Storm  # noqa: E402 - models are there only now


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.connections", description="Run storms, one per seed.")
    parser.add_argument("--weather", choices=(*WEATHERS, "all"), default="all", help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="what happened before, and the service's log")
    arguments = parser.parse_args()
    logging.disable(logging.NOTSET if arguments.verbose else logging.CRITICAL)
    names = list(WEATHERS) if arguments.weather == "all" else [arguments.weather]
    failed = 0
    rows: list[list[str]] = []
    for name in names:
        accounts: Counter[str] = Counter()
        recoveries: list[float] = []
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            storm = Storm(seed, WEATHERS[name])
            try:
                storm.rage()
            except Exception as problem:
                failed += 1
                accounts["broken"] += 1
                shown = "".join(traceback.format_exception(problem)) if arguments.verbose else str(problem)
                print(f"{name} {seed}: {type(problem).__name__}: {shown}", flush=True)
            accounts += storm.accounts
            recoveries += storm.recoveries
        recoveries.sort()
        times = [f"{recoveries[int(len(recoveries) * part)]:.2f}" if recoveries else "" for part in (0.5, 0.99)]
        rows.append([name, *(f"{accounts[account]:,}" for account in ACCOUNTS), *times])
    _show([["weather", *ACCOUNTS, "recovery p50 s", "p99 s"], *rows])
    print(f"{failed} of {len(names) * arguments.seeds} storms broke something")
    return 1 if failed else 0


def _show(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
