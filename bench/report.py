"""What was measured, summed up: medians for people in tables, everything for programs in JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from bench.servers import BASELINE, CONTESTANTS, PEER, peer_versions

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("Django", "channels", "daphne", "uvicorn", "uvloop", "websockets", "msgspec", "autobahn", "Twisted")

# Above this share of its core the generator may have been what limited the rate, if the server had time left.
GENERATOR_BUSY = 0.9
SERVER_BUSY = 0.9
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
    payload_bytes: int
    # One delivery on the wire.
    frame_bytes: int
    under_way: int
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

    @property
    def server_share(self) -> float:
        """How much of its core the server used."""
        return self.server_cpu_secs / self.wall_secs

    @property
    def limited(self) -> bool:
        """Whether the generator was what made it no faster."""
        return self.generator_share > GENERATOR_BUSY and self.server_share < SERVER_BUSY


@dataclass
class Paced(Sending):
    """One run at a pace; latencies in milliseconds."""

    shape: str
    # Messages a second, and whether the server kept up with them.
    per_sec: float
    held: bool
    p50_ms: float
    p99_ms: float
    generator_share: float


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
                what = f"{run.shape}, {run.payload_bytes} B" if isinstance(run, FanOut) else "paced"
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

    def write(self, directory: Path | None = None) -> Path:
        """Write everything as JSON; gives the file."""
        directory = directory or RESULTS
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"fanout-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
        machine = {"system": platform.system(), "cores": os.cpu_count(), "python": platform.python_version()}
        everything = asdict(self) | {
            "machine": machine,
            "versions": {name: version(name) for name in PACKAGES} | peer_versions(),
        }
        path.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    # For people

    def tables(self) -> Iterator[Table]:
        """All that was measured, as tables."""
        for size, under_way in dict.fromkeys((run.payload_bytes, run.under_way) for run in self.fan_out):
            yield self._fan_out_table(size, under_way)
        if len({run.under_way for run in self.fan_out}) > 1:
            yield self._window_table()
        if self.paced:
            yield self._paced_table()
        if self.idle:
            yield self._idle_table()

    def show(self, console: Console, as_markdown: bool = False) -> None:
        """Print the tables, and what did not count."""
        for table in self.tables():
            if as_markdown:
                console.print(markdown(table), markup=False, highlight=False, soft_wrap=True)
            else:
                console.print(table)
        where = "server and generator pinned to a core each" if self.pinned else "not pinned to cores"
        found = {name: version(name) for name in PACKAGES} | peer_versions()
        versions = ", ".join(f"{name} {number}" for name, number in found.items())
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
            if run.limited:
                console.print(
                    f"{CONTESTANTS[run.server].title}, {run.shape}, {run.payload_bytes} B, round {run.round}: the "
                    f"generator used {run.generator_share:.0%} of its core and the server {run.server_share:.0%}, so "
                    "the rate per second is the generator's limit.",
                    style="yellow",
                    markup=False,
                )

    @property
    def _others_share(self) -> float:
        wall = sum(run.wall_secs for run in self.fan_out)
        return sum(run.others_cpu_secs for run in self.fan_out) / wall if wall else 0.0

    def _fan_out_table(self, size: int, under_way: int) -> Table:
        table = Table(title=f"Fan-out of {size}-byte messages, {under_way:,} under way", title_justify="left")
        for name in ("shape", "server"):
            table.add_column(name)
        for name in (
            *("deliveries per CPU-s", f"× {BASELINE}", "× uWS", "bytes each", "delivered / expected"),
            *("per second", "server", "generator"),
        ):
            table.add_column(name, justify="right")
        for shape, per_server in self._by_shape(size, under_way).items():
            base, peer = (_speed(per_server.get(name, ())) for name in (BASELINE, PEER))
            for server, runs in per_server.items():
                good = [run for run in runs if run.counts]
                speed = _speed(runs)
                table.add_row(
                    shape,
                    CONTESTANTS[server].title,
                    _spread(good, lambda run: run.per_cpu_sec, ",.0f"),
                    _ratio(speed, base),
                    _ratio(speed, peer),
                    f"{runs[0].frame_bytes:,}",
                    f"{sum(run.delivered for run in runs):,} / {sum(run.expected for run in runs):,}",
                    _middle(good, lambda run: run.per_sec, ",.0f"),
                    _middle(good, lambda run: run.server_share, ".0%"),
                    _middle(good, lambda run: run.generator_share, ".0%"),
                )
            table.add_section()
        return table

    def _window_table(self) -> Table:
        table = Table(title="Deliveries per CPU-second by how many are under way", title_justify="left")
        windows = sorted({run.under_way for run in self.fan_out})
        for name in ("bytes", "shape", "server"):
            table.add_column(name)
        for window in windows:
            table.add_column(f"{window:,}", justify="right")
        for size in dict.fromkeys(run.payload_bytes for run in self.fan_out):
            tables = [self._by_shape(size, window) for window in windows]
            for shape in tables[0]:
                for server in tables[0][shape]:
                    speeds = [_speed(each.get(shape, {}).get(server, ())) for each in tables]
                    shown = [f"{speed:,.0f}" if speed else "–" for speed in speeds]
                    table.add_row(f"{size:,}", shape, CONTESTANTS[server].title, *shown)
                table.add_section()
        return table

    def _by_shape(self, size: int, under_way: int) -> dict[str, dict[str, list[FanOut]]]:
        found: dict[str, dict[str, list[FanOut]]] = {}
        for run in self.fan_out:
            if (run.payload_bytes, run.under_way) == (size, under_way):
                found.setdefault(run.shape, {}).setdefault(run.server, []).append(run)
        return found

    def _paced_table(self) -> Table:
        table = Table(title=f"Latency at {self.paced[0].per_sec:g} messages a second", title_justify="left")
        for name in ("shape", "server"):
            table.add_column(name)
        for name in ("p50 ms", "p99 ms", "generator"):
            table.add_column(name, justify="right")
        for shape in dict.fromkeys(run.shape for run in self.paced):
            for server in dict.fromkeys(run.server for run in self.paced if run.shape == shape):
                runs = [run for run in self.paced if (run.shape, run.server) == (shape, server) and run.counts]
                held = [run for run in runs if run.held]
                if len(held) == len(runs):
                    p50, p99 = (
                        _spread(held, lambda run: run.p50_ms, ".2f"),
                        _spread(held, lambda run: run.p99_ms, ".2f"),
                    )
                else:
                    p50 = p99 = "does not keep up"
                generator = _middle(held, lambda run: run.generator_share, ".0%")
                table.add_row(shape, CONTESTANTS[server].title, p50, p99, generator)
            table.add_section()
        return table

    def _idle_table(self) -> Table:
        table = Table(title="Idle connections", title_justify="left")
        table.add_column("server")
        for name in ("KiB per connection", "connects per CPU-s"):
            table.add_column(name, justify="right")
        for server in dict.fromkeys(run.server for run in self.idle):
            idle = [run for run in self.idle if run.server == server and run.counts]
            table.add_row(
                CONTESTANTS[server].title,
                _spread(idle, lambda run: run.kib_per_connection, ".1f"),
                _spread(idle, lambda run: run.connects_per_cpu_sec, ",.0f"),
            )
        return table


def _speed(runs: Iterable[FanOut]) -> float | None:
    """The median of the runs that count."""
    return _median(run.per_cpu_sec for run in runs if run.counts)


def _ratio(speed: float | None, other: float | None) -> str:
    return f"{speed / other:.2f}" if speed and other else "–"


def markdown(table: Table) -> str:
    """A table as it stands in a document."""
    heads = [str(column.header) for column in table.columns]
    rules = ["---:" if column.justify == "right" else "---" for column in table.columns]
    rows = zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, rules, *rows)]
    return "\n".join([f"### {table.title}", "", *lines, ""])


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def _middle(runs: Sequence[Run], value: Callable[[Run], float], form: str) -> str:
    found = _median(value(run) for run in runs)
    return "–" if found is None else format(found, form)


def _spread(runs: Sequence[Run], value: Callable[[Run], float], form: str) -> str:
    found = sorted(value(run) for run in runs)
    if not found:
        return "–"
    middle = format(statistics.median(found), form)
    return middle if len(found) == 1 else f"{middle} ({found[0]:{form}}–{found[-1]:{form}})"
