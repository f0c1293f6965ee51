"""`python -m tests.cuts`: the long form of the experiment in tests/cuts/harness.py, as a table.

Exits with 1 if anything was lost, doubled or out of order, or if a recovery failed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from tests.cuts.dialects import DIALECTS
from tests.cuts.harness import Outcome, Plan, experiment, workers
from tests.running import SERVERS

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
        prog="python -m tests.cuts",
        description="Cut the connections of many reliable clients while messages flow, and count what arrives.",
    )
    usual = Plan()
    parser.add_argument(
        "--clients", type=_whole(1, MAX_PEOPLE), default=usual.clients, help="who hears (default: %(default)s)"
    )
    parser.add_argument(
        "--publishers", type=_whole(1, MAX_PEOPLE), default=usual.publishers, help="who sends (default: %(default)s)"
    )
    parser.add_argument(
        "--senders",
        type=_whole(0, MAX_PEOPLE),
        default=usual.senders,
        help="who sends by REST, by turns in all ways (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=_number(1, MAX_SECONDS), default=usual.seconds, help="how long (default: %(default)g)"
    )
    parser.add_argument(
        "--rate",
        type=_number(0.01, MAX_RATE),
        default=usual.rate,
        help="messages a second of each publisher, to every client (default: %(default)g)",
    )
    parser.add_argument(
        "--cut-every",
        type=_number(0.1, MAX_SECONDS),
        default=usual.cut_every_secs,
        help="seconds between the cuts of one client, on average (default: %(default)g)",
    )
    parser.add_argument(
        "--cut-for",
        type=_number(0, 15),
        default=usual.cut_secs,
        help="seconds that a cut lasts, on average; 0 for no cuts (default: %(default)g)",
    )
    parser.add_argument(
        "--workers", type=_counts, default=(1, 2), help="one experiment with each number of them (default: 1,2)"
    )
    parser.add_argument("--server", choices=SERVERS, default="uvicorn", help="default: %(default)s")
    parser.add_argument(
        "--protocol", choices=(*DIALECTS, "both"), default="both", help="default: both, by turns among the clients"
    )
    parser.add_argument(
        "--seed", type=_whole(0, 2**32), default=random.SystemRandom().randrange(2**32), help="default: a new one"
    )
    arguments = parser.parse_args()
    away_secs = 1.5 * arguments.cut_for + 2 * usual.pace.retry_secs
    if (arguments.publishers + arguments.senders) * arguments.rate * away_secs > MOST_MESSAGES_AWAY:
        parser.error("a client that is away would miss more than its buffer holds: lower --rate or --cut-for")
    return arguments


def _table(rows: list[Outcome], arguments: argparse.Namespace) -> Table:
    table = Table(
        title=f"Reliable clients in bad weather, {arguments.server}, seed {arguments.seed}", show_header=False
    )
    table.add_column()
    for _ in rows:
        table.add_column(justify="right")
    figures: tuple[tuple[str, Callable[[Outcome], int | float]], ...] = (
        ("workers", lambda row: row.workers),
        ("clients", lambda row: arguments.clients),
        ("publishers", lambda row: arguments.publishers),
        ("cuts", lambda row: row.cuts + row.silent_cuts),
        ("  of them silent", lambda row: row.silent_cuts),
        ("recoveries", lambda row: row.recoveries),
        ("  on another worker", lambda row: row.elsewhere),
        ("messages sent", lambda row: row.sent),
        ("  of them by REST", lambda row: row.sent_by_rest),
        ("  refused by REST", lambda row: row.refused_by_rest),
        ("  acknowledged", lambda row: row.acknowledged),
        ("deliveries expected", lambda row: row.verdict.expected),
        ("  got", lambda row: row.verdict.delivered),
        ("  repeated by the service, dropped by the client", lambda row: row.replayed),
        ("lost", lambda row: row.verdict.lost),
        ("duplicated", lambda row: row.verdict.duplicated),
        ("out of order", lambda row: row.verdict.out_of_order),
        ("sequence ids skipped", lambda row: row.skipped),
        ("failed recoveries", lambda row: len(row.failures)),
        ("seconds", lambda row: round(row.seconds, 1)),
    )
    for name, figure in figures:
        table.add_row(name, *(f"{figure(row):,}" for row in rows))
    return table


def main() -> int:
    """Run what the command line asks for."""
    arguments = _arguments()
    console = Console()
    needed = SOCKETS_EACH * (arguments.clients + arguments.publishers) + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        console.print(f"That takes {needed:,} open files, and the limit here is {hard:,} (ulimit -Hn).")
        return 2
    # The services inherit it, and have a socket for each client too.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    plan = Plan(
        clients=arguments.clients,
        publishers=arguments.publishers,
        senders=arguments.senders,
        seconds=arguments.seconds,
        rate=arguments.rate,
        cut_every_secs=arguments.cut_every,
        cut_secs=arguments.cut_for,
        dialects=tuple(DIALECTS) if arguments.protocol == "both" else (arguments.protocol,),
        seed=arguments.seed,
    )
    rows: list[Outcome] = []
    violations: list[str] = []
    for count in arguments.workers:
        console.print(f"{count} × {arguments.server}, {plan.seconds:g} seconds of bad weather, seed {plan.seed} …")
        with (
            tempfile.TemporaryDirectory(prefix="cuts-") as folder,
            workers(Path(folder), count, arguments.server) as services,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            outcome = runner.run(experiment(services, plan))
            for service in services if outcome.violations() else ():
                console.print(f"The end of what the worker on port {service.port} wrote:")
                console.print(service.log.read_text()[-LOG_CHARACTERS:], markup=False, highlight=False)
        rows.append(outcome)
        violations += [f"{outcome.workers} × {arguments.server}: {what}" for what in outcome.violations()]
    console.print(_table(rows, arguments))
    for violation in violations:
        console.print(violation, markup=False, style="red")
    if not violations:
        console.print("Every acknowledged message came to everybody, once and in order.")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
