"""`python -m tests.faults LANE …`: the long form of the experiments, each ending in a table.

`cuts` cuts the connections of clients (cuts.py), the others are those of lanes.py. Exits with 1 if anything was lost
silently, doubled or out of order, or if a lane cost more than it may.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from tests.faults import cuts, lanes, stages
from tests.faults.cuts import Cuts
from tests.faults.dialects import DIALECTS
from tests.faults.harness import Outcome, Plan, Promise
from tests.faults.lanes import LANES
from tests.running import SERVERS, Service

# Bounds of the options, so that a slip of the finger does not take the machine down.
MAX_PEOPLE = 2000
MAX_SECONDS = 3600.0
MAX_RATE = 100.0
MAX_WORKERS = 8
# A client that is away for so long must find its messages within the service's buffer of 1,000.
MOST_MESSAGES_AWAY = 500
# Sockets for each client: its own, and at the proxy one listening, two forwarding, two frozen.
SOCKETS_EACH = 8
# Of each worker's log, where something went wrong.
LOG_CHARACTERS = 4000


def _whole(low: int, high: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: write a whole number from {low} to {high}")
        return int(text)

    return whole


def _number(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: write a number from {low:g} to {high:g}")
        return value

    return number


def _counts(text: str) -> tuple[int, ...]:
    whole = _whole(1, MAX_WORKERS)
    return tuple(dict.fromkeys(whole(part.strip()) for part in text.split(",")))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description="Let things fail under many reliable clients while messages flow, and count what arrives.",
        epilog="Lanes: "
        + "; ".join(f"{name}: {title}" for name, title in (("cuts", CUTS), *((n, x.title) for n, x in LANES.items()))),
    )
    lanes_of, cuts_of, cut = lanes.PLAN, Plan(), Cuts()
    parser.add_argument(
        "lanes", nargs="*", choices=[[], "all", "cuts", *LANES], metavar="LANE", help="what fails (default: all)"
    )
    parser.add_argument("--short", action="store_true", help="as in the tests: seconds, few clients; not for cuts")
    parser.add_argument(
        "--other",
        metavar="VERSION",
        default=lanes.BEFORE,
        help="another version, for the lanes with two: a checkout, or a git revision (default: %(default).7s)",
    )
    parser.add_argument(
        "--clients", type=_whole(1, MAX_PEOPLE), help=f"reliable clients that hear (default: {cuts_of.clients})"
    )
    parser.add_argument("--publishers", type=_whole(1, MAX_PEOPLE), help=f"who sends (default: {cuts_of.publishers})")
    parser.add_argument(
        "--senders",
        type=_whole(0, MAX_PEOPLE),
        help=f"who sends by REST, by turns in all ways (default: {cuts_of.senders}, {lanes_of.senders} in lanes)",
    )
    parser.add_argument(
        "--rate",
        type=_number(0.01, MAX_RATE),
        help="messages a second of each publisher, to every client "
        f"(default: {cuts_of.rate:g}, {lanes_of.rate:g} in lanes)",
    )
    parser.add_argument(
        "--protocol", choices=(*DIALECTS, "both"), default="both", help="default: both, by turns among the clients"
    )
    parser.add_argument(
        "--seed", type=_whole(0, 2**32), default=random.SystemRandom().randrange(2**32), help="default: a new one"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIRECTORY", help="a new directory for the databases and logs, which stay there"
    )
    only = parser.add_argument_group("cuts alone")
    only.add_argument(
        "--seconds", type=_number(1, MAX_SECONDS), default=cut.seconds, help="how long (default: %(default)g)"
    )
    only.add_argument(
        "--cut-every",
        type=_number(0.1, MAX_SECONDS),
        default=cut.every_secs,
        help="seconds between the cuts of one client, on average (default: %(default)g)",
    )
    only.add_argument(
        "--cut-for",
        type=_number(0, 15),
        default=cut.secs,
        help="seconds that a cut lasts, on average; 0 for no cuts (default: %(default)g)",
    )
    only.add_argument(
        "--workers", type=_counts, default=(1, 2), help="one experiment with each number of processes (default: 1,2)"
    )
    only.add_argument("--server", choices=SERVERS, default="uvicorn", help="default: %(default)s")
    arguments = parser.parse_args()
    plan = _plan(cuts_of, arguments)
    away_secs = 1.5 * arguments.cut_for + 2 * plan.pace.retry_secs
    if (plan.publishers + plan.senders) * plan.rate * away_secs > MOST_MESSAGES_AWAY:
        parser.error("a client that is away would miss more than its buffer holds: lower --rate or --cut-for")
    if not arguments.lanes or "all" in arguments.lanes:
        arguments.lanes = ["cuts", *LANES]
    return arguments


def _plan(usual: Plan, arguments: argparse.Namespace) -> Plan:
    """The usual plan with what the command line says otherwise."""
    names = ("clients", "publishers", "senders", "rate", "seed")
    said = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.protocol != "both":
        said["dialects"] = (arguments.protocol,)
    return replace(usual, **said)


CUTS = "connections of clients are cut"


@dataclass(frozen=True)
class Row:
    """One experiment, and what came of it."""

    name: str
    outcome: Outcome
    promise: Promise
    cuts: int = 0
    silent_cuts: int = 0

    def violations(self) -> list[str]:
        return [f"{self.name}: {what}" for what in self.outcome.violations(self.promise)]


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def _table(rows: list[Row], seed: int) -> Table:
    table = Table(title=f"What reliable clients lose, seed {seed}", show_header=False)
    table.add_column()
    for _ in rows:
        table.add_column(justify="right")

    def secs(share: float) -> Callable[[Row], str]:
        return lambda row: f"{_percentile(row.outcome.recovered_after, share):.2f}"

    def ended(row: Row) -> str:
        told = row.outcome.disconnected
        return "–" if told is None else f"{told.once:,} of {told.ended:,}"

    figures: tuple[tuple[str, Callable[[Row], int | str]], ...] = (
        ("", lambda row: row.name),
        ("cuts, of them silent", lambda row: f"{row.cuts + row.silent_cuts:,}, {row.silent_cuts:,}"),
        ("messages sent", lambda row: row.outcome.sent),
        ("  of them by REST", lambda row: row.outcome.sent_by_rest),
        ("    refused, or not answered", lambda row: row.outcome.refused_by_rest),
        ("  acknowledged", lambda row: row.outcome.acknowledged),
        ("  refused by an ack, and repeated", lambda row: row.outcome.refused),
        ("deliveries expected", lambda row: row.outcome.verdict.expected),
        ("  delivered", lambda row: row.outcome.verdict.delivered),
        ("  lost silently", lambda row: row.outcome.verdict.lost),
        ("  lost, and told", lambda row: row.outcome.verdict.told),
        ("  doubled", lambda row: row.outcome.verdict.duplicated),
        ("  reordered", lambda row: row.outcome.verdict.out_of_order),
        ("  repeated by the service, dropped by the client", lambda row: row.outcome.replayed),
        ("sequence ids skipped", lambda row: row.outcome.skipped),
        ("reliable connections lost", lambda row: f"{len(row.outcome.failures):,} of {row.outcome.connections:,}"),
        ("recoveries", lambda row: len(row.outcome.recovered_after)),
        ("  on another process", lambda row: row.outcome.elsewhere),
        ("  after seconds, p50", secs(0.5)),
        ("  p99", secs(0.99)),
        ("plain clients: expected", lambda row: row.outcome.plain.expected),
        ("  lost silently", lambda row: row.outcome.plain.lost),
        ("  lost, and told", lambda row: row.outcome.plain.told),
        ("  doubled", lambda row: row.outcome.plain.duplicated),
        ("`disconnected` told once", ended),
        ("  more than once", lambda row: row.outcome.disconnected.repeated if row.outcome.disconnected else "–"),
        ("  never", lambda row: row.outcome.disconnected.missing if row.outcome.disconnected else "–"),
        ("seconds", lambda row: f"{row.outcome.seconds:.1f}"),
    )
    for name, figure in figures:
        cells = [figure(row) for row in rows]
        table.add_row(name, *(f"{cell:,}" if isinstance(cell, int) else cell for cell in cells))
    return table


class Command:
    """What the command line asks for, one experiment after the other."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, other: Path | None) -> None:
        self._arguments, self._folder, self._other = arguments, folder, other
        self.console = Console()
        self.rows: list[Row] = []

    def run(self) -> list[str]:
        """Run all of them; gives the violations."""
        for name in dict.fromkeys(self._arguments.lanes):
            if name == "cuts":
                for count in self._arguments.workers:
                    self._cuts(count)
            else:
                self._lane(name)
        self.console.print(_table(self.rows, self._arguments.seed))
        return [violation for row in self.rows for violation in row.violations()]

    def _cuts(self, count: int) -> None:
        plan = _plan(Plan(), self._arguments)
        given = Cuts(
            seconds=self._arguments.seconds, every_secs=self._arguments.cut_every, secs=self._arguments.cut_for
        )
        self.console.print(f"{count} × {self._arguments.server}, {CUTS}, seed {plan.seed} …")
        folder = self._folder / f"cuts-{count}"
        folder.mkdir()
        with (
            cuts.processes(folder, count, self._arguments.server) as services,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            done = runner.run(cuts.run(services, plan, given))
            self._note(Row(f"cuts, {count}", done.outcome, cuts.PROMISE, done.cuts, done.silent_cuts), services)

    def _lane(self, name: str) -> None:
        lane = LANES[name]
        plan = _plan(lanes.SHORT if self._arguments.short else lanes.PLAN, self._arguments)
        timing = lane.short if self._arguments.short else lane.long
        self.console.print(f"{lane.title}, seed {plan.seed} …")
        folder = self._folder / name
        folder.mkdir()
        with (
            lane.stage(folder, self._other) as stage,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            outcome = runner.run(lanes.run(lane, stage, plan, timing))
            self._note(Row(name, outcome, lane.promise), stage.services)

    def _note(self, row: Row, services: Sequence[Service]) -> None:
        self.rows.append(row)
        for violation in row.violations():
            self.console.print(violation, markup=False, style="red")
        for service in services if row.violations() else ():
            self.console.print(f"The end of what the process on port {service.port} wrote:")
            self.console.print(service.log.read_text()[-LOG_CHARACTERS:], markup=False, highlight=False)


def main() -> int:
    """Run what the command line asks for."""
    arguments = _arguments()
    console = Console()
    clients = max(_plan(usual, arguments).clients for usual in (Plan(), lanes.PLAN))
    publishers = max(_plan(usual, arguments).publishers for usual in (Plan(), lanes.PLAN))
    needed = SOCKETS_EACH * (clients + publishers) + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        console.print(f"That takes {needed:,} open files, and the limit here is {hard:,} (ulimit -Hn).")
        return 2
    # The services inherit it, and have a socket for each client too.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    with ExitStack() as stack:
        if arguments.keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        else:
            folder = arguments.keep.absolute()
            folder.mkdir(parents=True)
        takes_two = any(LANES[name].versions for name in arguments.lanes if name in LANES)
        try:
            other = stages.checkout(folder / "other", arguments.other) if takes_two else None
        except stages.NotThere as missing:
            console.print(str(missing), markup=False)
            return 2
        Service.prepared = folder / "prepared"
        violations = Command(arguments, folder, other).run()
    for violation in violations:
        console.print(violation, markup=False, style="red")
    if not violations:
        console.print("Every acknowledged message came once and in order, or its loss was told where it may be.")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
