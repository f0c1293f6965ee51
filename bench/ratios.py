"""The table of ratios: what the benches measured, against what was asked for and against the others.

It reads the raw figures that the benches of one run have written, so it knows no more than anybody who
has those files. A figure that was not measured is not in the table.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.azure import IN_TIME
from bench.connections import SERVERS
from bench.rest import GROUP, YARDSTICK
from bench.scale import LAYERS, ON_REDIS, OURS, STOCK, TWO
from bench.servers import BASELINE, CONTESTANTS

# The servers that ours has to be ahead of, and by how much, whatever the shape.
AHEAD_OF = {"nchan": 1.0, "nats": 1.0, "socketio": 1.0, "uwebsockets": 0.8, "uwebsockets-json": None, BASELINE: None}
AHEAD_OF_STOCK = {"1×1000": 60.0}
RELIABLE_OF_PLAIN = 0.6
# Of the latency at 100 messages a second, in milliseconds: half of the deliveries, 99 % of them.
LATENCY = {"1×100": (1.0, 4.0), "1×1000": (None, 20.0)}

Raw = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One figure of ours, beside another, with what was asked for."""

    what: str
    ours: float
    unit: str
    beside: str = ""
    other: float | None = None
    # What is asked of the ratio, or of our figure where there is no other.
    at_least: float | None = None
    at_most: float | None = None
    # Whether it is our figure that something is asked of, whatever it is beside.
    itself: bool = False

    @property
    def ratio(self) -> float | None:
        """Ours in units of the other."""
        return self.ours / self.other if self.other else None

    @property
    def met(self) -> bool | None:
        """Whether it is what was asked for; None when nothing was."""
        judged = self.ours if self.itself or self.ratio is None else self.ratio
        if self.at_least is not None:
            return judged >= self.at_least
        if self.at_most is not None:
            return judged <= self.at_most
        return None


def rows(results: Mapping[str, Path]) -> list[Row]:
    """All that can be said from these files, by the name of their bench."""
    found: list[Row] = []
    for name, path in results.items():
        if name in _READERS:
            found += _READERS[name](json.loads(path.read_text(encoding="utf-8")))
    return found


def as_json(found: Iterable[Row]) -> str:
    """The same for programs."""

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    lines = [asdict(row) | {"ratio": row.ratio, "met": row.met} for row in found]
    return json.dumps([{name: finite(value) for name, value in line.items()} for line in lines], indent=1) + "\n"


def table(found: Iterable[Row]) -> Table:
    """The same for people."""
    shown = Table(title="Ratios", title_justify="left")
    for name in ("what", "unit"):
        shown.add_column(name)
    for name in ("ours", "other", "ratio", "asked"):
        shown.add_column(name, justify="right")
    shown.add_column("beside")
    shown.add_column("")
    for row in found:
        bound = "" if row.at_least is None else f"≥ {row.at_least:g}"
        bound = bound if row.at_most is None else f"≤ {row.at_most:g}"
        shown.add_row(
            row.what,
            row.unit,
            _number(row.ours),
            "" if row.other is None else _number(row.other),
            "" if row.ratio is None else f"{row.ratio:.2f} ×",
            bound and bound + ("" if row.itself or row.ratio is None else " ×"),
            row.beside,
            {True: "[green]met[/]", False: "[bold red]missed[/]", None: ""}[row.met],
        )
    return shown


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


# From the raw figures of each bench


def _fan_out(raw: Raw) -> Iterator[Row]:
    yield from _throughput(raw)
    runs: dict[tuple[str, str], list[Raw]] = {}
    for run in raw["paced"]:
        if run["delivered"] == run["expected"] and not run["surplus"]:
            runs.setdefault((run["shape"], run["server"]), []).append(run)
    for shape, asked in LATENCY.items():
        for key, share, bound in zip(("p50_ms", "p99_ms"), ("p50", "p99"), asked, strict=True):
            # A server that does not keep up has no latency.
            ours, other = (
                _median(run[key] if run["held"] else math.inf for run in runs.get((shape, name), ()))
                for name in ("hubwire", "uwebsockets")
            )
            if ours is not None:
                title = CONTESTANTS["uwebsockets"].title if other else ""
                yield Row(f"latency {share}, {shape}", ours, "ms", title, other, at_most=bound, itself=True)


def _throughput(raw: Raw) -> Iterator[Row]:
    speeds: dict[tuple[int, int, str], dict[str, list[float]]] = {}
    for run in raw["fan_out"]:
        if run["delivered"] == run["expected"] and not run["surplus"]:
            kind = run["payload_bytes"], run["under_way"], run["shape"]
            speed = run["delivered"] / max(run["server_cpu_secs"], 0.01)
            speeds.setdefault(kind, {}).setdefault(run["server"], []).append(speed)
    unit = "deliveries per CPU-s"
    for (size, under_way, shape), by_server in speeds.items():
        what = f"{shape}, {size:,} B, {under_way:,} under way"
        medians = {name: statistics.median(values) for name, values in by_server.items()}
        if "hubwire" not in medians:
            continue
        ours = medians["hubwire"]
        for name, asked in AHEAD_OF.items():
            if name in medians:
                asked = AHEAD_OF_STOCK.get(shape) if name == BASELINE else asked
                yield Row(what, ours, unit, CONTESTANTS[name].title, medians[name], at_least=asked)
        if "hubwire-reliable" in medians:
            reliable = medians["hubwire-reliable"]
            yield Row(f"reliable, {what}", reliable, unit, "ours, plain JSON", ours, at_least=RELIABLE_OF_PLAIN)


def _rest(raw: Raw) -> Iterator[Row]:
    figures = {title: statistics.median(values) for title, values in raw["requests per CPU-second"].items()}
    unit = "requests per CPU-s"
    yield Row("REST :send to a group", figures[GROUP], unit, at_least=2000)
    yield Row("REST :send to a group", figures[GROUP], unit, YARDSTICK, figures[YARDSTICK], at_least=4)


def _upstream(raw: Raw) -> Iterator[Row]:
    speeds: dict[str, list[float]] = {}
    for run in raw["runs"]:
        speeds.setdefault(run["what"], []).append(run["per_cpu_sec"])
    (_, ours), *others = ((what, statistics.median(values)) for what, values in speeds.items())
    for what, other in others:
        yield Row("event to a handler and back", ours, "events per CPU-s", what, other)


def _connections(raw: Raw) -> Iterator[Row]:
    def median(server: str, value: Callable[[Raw], float]) -> float | None:
        return _median(value(run) for run in raw["runs"] if run["server"] == server)

    def kib(run: Raw) -> float:
        return float(run["grown"]["resident"] / run["connections"] / 1024)

    def idle(run: Raw) -> float:
        return float(run["idle_cpu_secs"] / run["idle_wall_secs"] * 100)

    def connects(run: Raw) -> float:
        return float(run["connections"] / run["connect_cpu_secs"])

    plain = SERVERS["uvicorn"].title
    for what, unit, value, bounds in (
        ("memory of an idle connection", "KiB", kib, {"at_most": 20.0}),
        ("idle connections with pings", "% of a core", idle, {"at_most": 5.0}),
        ("connects with a checked token", "per CPU-s", connects, {"at_least": 600.0}),
    ):
        ours, other = median("hubwire", value), median("uvicorn", value)
        if ours is not None:
            yield Row(what, ours, unit, plain if other else "", other, itself=True, **bounds)


def _scale(raw: Raw) -> Iterator[Row]:
    def speeds(part: str, shape: str | None = None) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for run in raw["runs"]:
            if run["part"] == part and shape in (None, run["shape"]) and run["cpu_secs"]:
                found.setdefault(run["what"], []).append(run["delivered"] / run["cpu_secs"])
        return {what: statistics.median(values) for what, values in found.items()}

    for shape in dict.fromkeys(run["shape"] for run in raw["runs"] if run["part"] == "workers"):
        per_server = speeds("workers", shape)
        if {TWO.title, ON_REDIS.title} <= per_server.keys():
            other = per_server[ON_REDIS.title]
            yield Row(f"two workers, {shape}", per_server[TWO.title], "per CPU-s", ON_REDIS.title, other, at_least=0.8)
    layers = speeds("layers")
    stock = next((layers[title] for title, path, _ in LAYERS if path == STOCK and title in layers), None)
    beside = next((title for title, path, _ in LAYERS if path == STOCK), "") if stock else ""
    for title, path, _ in LAYERS:
        if path == OURS and title in layers:
            # The first is the one that is asked about: publications that come together go together.
            asked = 15_000.0 if title == LAYERS[0][0] else None
            yield Row(title, layers[title], "publishes per CPU-s", beside, stock, at_least=asked, itself=True)


def _azure(raw: Raw) -> Iterator[Row]:
    best: dict[str, Raw] = {}
    for step in raw["runs"]:
        held = step["delivered"] == step["expected"] and not step["closed"] and step["in_time"] >= IN_TIME
        if held and (step["kind"] not in best or step["units"] > best[step["kind"]]["units"]):
            best[step["kind"]] = step
    for kind, step in best.items():
        yield Row(f"Azure's own measure, {kind} groups: connections", step["connections"], "connections")
        yield Row(f"Azure's own measure, {kind} groups: units", step["units"], "units")


_READERS: dict[str, Callable[[Raw], Iterator[Row]]] = {
    "fanout": _fan_out,
    "rest": _rest,
    "upstream": _upstream,
    "connections": _connections,
    "scale": _scale,
    "azure": _azure,
}


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None
