"""What all benches have in common as commands: how one begins, what it does when something fails, and how it ends.

A bench says what can be chosen and measures; `main` does the rest, whatever happens on the way: what was measured until
then is shown and written, and what does not count is said. The exit status is 0 when all was measured and nothing
lost, 1 when not, 2 for options that make no sense, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

from bench import figures
from bench.machine import Usage, disturbed, interruptible, take_cores, unless_interrupted
from bench.servers import PROBLEMS

MAX_ROUNDS = 100
MAX_WITHIN_SECS = 24 * 3600


class Bench(ABC):
    """One bench, from its options to its figures."""

    # As in `python -m bench.<name>` and in its file of raw figures.
    name: ClassVar[str]
    # What is measured, in a line.
    summary: ClassVar[str]
    # How many rounds there are if nothing else is said; None where it has none.
    usual_rounds: ClassVar[int | None] = None
    # What `--quick` makes the default of other options.
    quick: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self._began = time.monotonic()
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.cores = take_cores()
        # What does not count or could not be measured, in a line or more each.
        self.failures: list[str] = []
        # What else a reader should know.
        self.remarks: list[str] = []

    # What each bench has of its own

    @classmethod
    @abstractmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """What can be chosen, beyond what can be everywhere."""

    @abstractmethod
    def measure(self) -> None:
        """Measure, keeping each figure as soon as it is there. May raise any of PROBLEMS where there is no going on."""

    @abstractmethod
    def tables(self) -> Iterable[Table]:
        """What was measured, for people."""

    @abstractmethod
    def raw(self) -> Any:
        """What was measured, for programs: dataclasses, lists, texts and numbers."""

    def usages(self) -> Iterable[Usage]:
        """Where it was looked how busy the machine was."""
        return ()

    # For all of them

    def rounds(self) -> Iterator[int]:
        """The numbers of the rounds: as many as were asked for, or as fit into the time; one in any case."""
        longest = 0.0
        for number in range(1, self.options.rounds + 1):
            began = time.monotonic()
            if number > 1 and began + longest > self._began + self.options.within:
                self.remarks.append(f"{number - 1} of {self.options.rounds} rounds, since there was no time for more.")
                return
            yield number
            longest = max(longest, time.monotonic() - began)

    def time_is_up(self, share: float = 1.0) -> bool:
        """Whether nothing more should be begun of what has this share of the time, counted from the beginning."""
        return time.monotonic() > self._began + self.options.within * share

    def show(self, console: Console) -> None:
        """Print everything."""
        for table in self.tables():
            if self.options.markdown:
                console.print(figures.markdown(table), markup=False, highlight=False, soft_wrap=True)
            else:
                console.print(table)
        if not self.cores.pinned:
            self.remarks.append("Server and generator were not kept to a core each.")
        if warning := disturbed(self.usages()):
            self.remarks.append(warning)
        for line in self.remarks:
            console.print(line, style="yellow", markup=False)
        for line in self.failures:
            console.print(f"DOES NOT COUNT: {line}", style="bold red", markup=False)

    def write(self) -> Path:
        """Write the raw figures; gives the file."""
        contents = {
            "bench": self.name,
            "started": self.started,
            "took_secs": round(time.monotonic() - self._began, 1),
            "options": {name: value for name, value in vars(self.options).items() if name != "results"},
            "pinned": self.cores.pinned,
            "failures": self.failures,
            "remarks": self.remarks,
            "runs": self.raw(),
            **figures.surroundings(),
        }
        return figures.write(self.name, contents, self.options.results)


def main(kind: type[Bench], argv: Sequence[str] | None = None) -> int:
    """Run a bench as a command."""
    options = _read_options(kind, argv)
    interruptible()
    console = wide_console()
    bench = kind(options)
    interrupted = False
    try:
        try:
            bench.measure()
        except PROBLEMS as problem:
            unless_interrupted(problem)
            bench.failures.append(str(problem))
    except KeyboardInterrupt:
        interrupted = True
        console.print("Interrupted; the servers are stopped. What was measured so far:")
    bench.show(console)
    path = bench.write()
    if not options.part:
        console.print(f"Raw figures: {figures.shown_path(path)}", markup=False, highlight=False, soft_wrap=True)
    if interrupted:
        return 130
    return 1 if bench.failures else 0


def wide_console() -> Console:
    """Standard output. A pipe has no width of its own, and 80 columns would break the tables."""
    return Console() if sys.stdout.isatty() else Console(width=170)


def say(text: str) -> None:
    """Tell how far the bench is; tables go to standard output, this to standard error."""
    print(text, file=sys.stderr, flush=True)


def _read_options(kind: type[Bench], argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m bench.{kind.name}", description=kind.summary)
    kind.add_options(parser)
    if kind.usual_rounds is not None:
        parser.add_argument(
            "--rounds",
            type=whole(1, MAX_ROUNDS),
            default=kind.usual_rounds,
            help="turns of each (default: %(default)s)",
        )
    parser.add_argument("--quick", action="store_true", help="a short look, of which no figure should be kept")
    parser.add_argument(
        "--within",
        type=seconds(1, MAX_WITHIN_SECS),
        default=math.inf,
        help="begin nothing more after so many seconds (default: no limit)",
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables for a document")
    parser.add_argument("--results", type=Path, help="directory for the raw figures (default: bench/results)")
    # Of a run of all, which has a file of its own.
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.quick:
        parser.set_defaults(**kind.quick)
        options = parser.parse_args(argv)
    return options


# Types of options, for argparse


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number between the two."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: write a whole number from {low} to {high}")
        return int(text)

    return read


def seconds(low: float, high: float) -> Callable[[str], float]:
    """A number of seconds between the two."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: write a number of seconds from {low:g} to {high:g}")
        return value

    return read


def one_of(names: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """Some of these names, with commas between."""
    known = tuple(names)

    def read(text: str) -> tuple[str, ...]:
        wanted = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        for name in wanted:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; choose from {', '.join(known)}")
        return wanted

    return read


def several(one: Callable[[str], int]) -> Callable[[str], tuple[int, ...]]:
    """Several of them, with commas between."""
    return lambda text: tuple(dict.fromkeys(one(part.strip()) for part in text.split(",")))
