"""What was measured, summed up: medians for people in tables, everything for programs in JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from bench.servers import BASELINE, CONTESTANTS

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("Django", "channels", "daphne", "uvicorn", "uvloop", "websockets", "msgspec", "autobahn", "Twisted")

# Above this share of its core the generator may have been what limited the wall rate.
GENERATOR_BUSY = 0.9
# The unit in which the kernel counts processor time; a run may be shorter.
TICK_SECS = 0.01
# Above this share of one core, other programs disturbed the measurement enough to say so.
OTHERS_BUSY = 0.1

Run = TypeVar("Run")


@dataclass
class Sending:
    """What was sent to members on one server in one round, and what arrived."""

    server: str
    round: int
    expected: int
    delivered: int
    surplus: int
    problem: str | None

    @property
    def counts(self) -> bool:
        """Whether every member got every message once; if not, no other figure means anything."""
        return self.delivered == self.expected and not self.surplus


@dataclass
class FanOut(Sending):
    """One run of one shape."""

    shape: str
    server_cpu_secs: float
    generator_cpu_secs: float
    # What everything else on the machine spent meanwhile.
    others_cpu_secs: float
    wall_secs: float

    @property
    def per_cpu_sec(self) -> float:
        """Deliveries per CPU-second of the server."""
        return self.delivered / max(self.server_cpu_secs, TICK_SECS)

    @property
    def per_sec(self) -> float:
        """Deliveries per second of the clock."""
        return self.delivered / self.wall_secs

    @property
    def generator_share(self) -> float:
        """How much of its core the generator used."""
        return self.generator_cpu_secs / self.wall_secs


@dataclass
class Paced(Sending):
    """One run at a pace; latencies in milliseconds."""

    p50_ms: float
    p99_ms: float


@dataclass
class Idle:
    """Connections opened on a fresh server and left alone."""

    server: str
    round: int
    connections: int
    alive: int
    memory_bytes: int
    server_cpu_secs: float
    generator_cpu_secs: float
    wall_secs: float

    @property
    def counts(self) -> bool:
        """Whether all of them were there at the end."""
        return self.alive == self.connections

    @property
    def kib_per_connection(self) -> float:
        """Growth of the server's resident memory per connection."""
        return self.memory_bytes / self.connections / 1024

    @property
    def connects_per_cpu_sec(self) -> float:
        """Handshakes per CPU-second of the server."""
        return self.connections / max(self.server_cpu_secs, TICK_SECS)


@dataclass
class Report:
    """Everything of one run of the bench."""

    options: dict[str, Any]
    pinned: bool
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    idle: list[Idle] = field(default_factory=list)
    fan_out: list[FanOut] = field(default_factory=list)
    paced: list[Paced] = field(default_factory=list)

    @property
    def uncounted(self) -> list[str]:
        """The runs that do not count, each with what happened."""
        lines = []
        sendings: list[Sending] = [*self.fan_out, *self.paced]
        for run in sendings:
            if not run.counts:
                what = run.shape if isinstance(run, FanOut) else "paced"
                lines.append(
                    f"{CONTESTANTS[run.server].title}, {what}, round {run.round}: "
                    f"{run.delivered:,} of {run.expected:,} delivered, {run.surplus:,} too many"
                    + (f" ({run.problem})" if run.problem else "")
                )
        for idle in self.idle:
            if not idle.counts:
                lines.append(
                    f"{CONTESTANTS[idle.server].title}, idle, round {idle.round}: "
                    f"{idle.alive:,} of {idle.connections:,} still open"
                )
        return lines

    # For programs

    def write(self) -> Path:
        """Write everything as JSON; gives the file."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"fanout-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
        machine = {"system": platform.system(), "cores": os.cpu_count(), "python": platform.python_version()}
        everything = asdict(self) | {"machine": machine, "versions": {name: version(name) for name in PACKAGES}}
        path.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    # For people

    def show(self, console: Console) -> None:
        """Print the tables, and what did not count."""
        if self.fan_out:
            console.print(self._fan_out_table())
        if self.idle or self.paced:
            console.print(self._connections_table())
        where = "server and generator pinned to a core each" if self.pinned else "not pinned to cores"
        versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        console.print(
            f"{os.cpu_count()} cores, {platform.system()}, {where}; Python {platform.python_version()}, {versions}."
        )
        console.print("Medians; in brackets the lowest and the highest round.")
        others = self._others_share
        if others > OTHERS_BUSY:
            console.print(
                f"Other programs used {others:.0%} of a core meanwhile; times suffer most from that.",
                style="yellow",
                markup=False,
            )
        for line in self.uncounted:
            console.print(f"DOES NOT COUNT: {line}", style="bold red", markup=False)
        for run in self.fan_out:
            if run.generator_share > GENERATOR_BUSY:
                console.print(
                    f"{CONTESTANTS[run.server].title}, {run.shape}, round {run.round}: the generator used "
                    f"{run.generator_share:.0%} of its core, so the rate per second is its limit, not the server's.",
                    style="yellow",
                    markup=False,
                )

    @property
    def _others_share(self) -> float:
        wall = sum(run.wall_secs for run in self.fan_out)
        return sum(run.others_cpu_secs for run in self.fan_out) / wall if wall else 0.0

    def _fan_out_table(self) -> Table:
        table = Table(title="Fan-out of 64-byte messages", title_justify="left")
        for name in ("groups × members", "server"):
            table.add_column(name)
        for name in ("deliveries per CPU-s", "× stock", "delivered / expected", "deliveries per s", "generator CPU"):
            table.add_column(name, justify="right")
        for shape in dict.fromkeys(run.shape for run in self.fan_out):
            runs = [run for run in self.fan_out if run.shape == shape]
            base = _median(run.per_cpu_sec for run in runs if run.server == BASELINE and run.counts)
            for server in dict.fromkeys(run.server for run in runs):
                all_of_it = [run for run in runs if run.server == server]
                good = [run for run in all_of_it if run.counts]
                speed = _median(run.per_cpu_sec for run in good)
                table.add_row(
                    shape,
                    CONTESTANTS[server].title,
                    _spread(good, lambda run: run.per_cpu_sec, ",.0f"),
                    "" if server == BASELINE or not base or not speed else f"{speed / base:.1f}",
                    f"{sum(run.delivered for run in all_of_it):,} / {sum(run.expected for run in all_of_it):,}",
                    _spread(good, lambda run: run.per_sec, ",.0f"),
                    _spread(good, lambda run: run.generator_share, ".0%"),
                )
            table.add_section()
        return table

    def _connections_table(self) -> Table:
        table = Table(title="Connections", title_justify="left")
        table.add_column("server")
        for name in ("KiB per idle connection", "connects per CPU-s", "paced: p50 ms", "p99 ms"):
            table.add_column(name, justify="right")
        for server in dict.fromkeys([*(run.server for run in self.idle), *(run.server for run in self.paced)]):
            idle = [run for run in self.idle if run.server == server and run.counts]
            paced = [run for run in self.paced if run.server == server and run.counts]
            table.add_row(
                CONTESTANTS[server].title,
                _spread(idle, lambda run: run.kib_per_connection, ".1f"),
                _spread(idle, lambda run: run.connects_per_cpu_sec, ",.0f"),
                _spread(paced, lambda run: run.p50_ms, ".2f"),
                _spread(paced, lambda run: run.p99_ms, ".2f"),
            )
        return table


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def _spread(runs: Sequence[Run], value: Callable[[Run], float], form: str) -> str:
    found = sorted(value(run) for run in runs)
    if not found:
        return "–"
    middle = format(statistics.median(found), form)
    return middle if len(found) == 1 else f"{middle} ({found[0]:{form}}–{found[-1]:{form}})"
