"""The table of targets: what was asked for, what was measured, and whether that is enough.

It reads the raw figures that the benches of one run have written, so it knows no more than anybody who has that file.
A ratio is taken within each round, of two figures that were measured within a minute, and the median of these is
judged; where some rounds would have been judged otherwise, the table says so. What was not measured is in it too.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from bench import figures
from bench.clients import PAYLOADS
from bench.contestants import BASELINE, CONTESTANTS, PEER
from bench.crowd import SHAPES
from bench.layers import LAYERS
from bench.rest import GROUP, YARDSTICK
from bench.scale import CROSSED, USUAL, WORKERS
from bench.slow import CLIENTS, OUTBOX_BYTES, SLACK_BYTES
from bench.upstream import EMPTY_CLIENT, OURS

Raw = Mapping[str, Any]
# One figure per round.
Rounds = Mapping[int, float]

# The servers that ours has to be ahead of, and by how much, whatever the shape; some are only shown.
AHEAD_OF = {"nchan": 1.0, "nats": 1.0, "socketio": 1.0, PEER: 0.8, "uwebsockets-json": None, BASELINE: None}
AHEAD_OF_STOCK = {"1×1000": 60.0}
RELIABLE_OF_PLAIN = 0.6
# Of the latency at 100 messages a second, in milliseconds: half of the deliveries, 99 % of them.
LATENCY = {"1×100": (1.0, 4.0), "1×1000": (None, 20.0)}
TWO_OF_ONE = 0.8
CROSSINGS_PER_CPU_SEC = 15_000


@dataclass(frozen=True)
class Row:
    """One figure of ours, by itself or in units of another's, with what was asked for."""

    section: str
    what: str
    unit: str
    # Of each round.
    ours: Sequence[float]
    beside: str = ""
    theirs: Sequence[float] = ()
    # Ours in units of theirs, of each round that has both.
    ratios: Sequence[float] = ()
    at_least: float | None = None
    at_most: float | None = None
    # Whether something is asked of the ratio, and not of our figure.
    of_ratio: bool = False

    @property
    def judged(self) -> Sequence[float]:
        """What the target is about."""
        return self.ratios if self.of_ratio else self.ours

    @property
    def target(self) -> str:
        """What was asked for, nothing if nothing was."""
        if self.at_least is not None:
            return f"≥ {self.at_least:,g}" + (" ×" if self.of_ratio else "")
        return "" if self.at_most is None else f"≤ {self.at_most:,g}"

    @property
    def verdict(self) -> str:
        """Whether it is what was asked for."""
        if not self.judged:
            return "not measured"
        if not self.target:
            return ""
        rounds = {self._enough(value) for value in self.judged}
        verdict = "met" if self._enough(statistics.median(self.judged)) else "missed"
        return verdict if len(rounds) == 1 else f"{verdict}, not in every round"

    def _enough(self, value: float) -> bool:
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is None or value <= self.at_most


def rows(parts: Mapping[str, Raw]) -> list[Row]:
    """All that is asked of these benches, and what their raw figures say to it."""
    found = (row for name, read in _READERS.items() if name in parts for row in read(parts[name]))
    return [row for row in found if row.target or row.judged]


_COLORS = (("met", "green"), ("missed", "bold red"), ("not measured", "yellow"))


def table(found: Iterable[Row]) -> Table:
    """The same for people."""
    shown = figures.table(
        "Targets",
        *("", "what", "unit"),
        right=("ours", "theirs", "beside", "ratio", "target", ""),
    )
    for column in shown.columns[-2:]:
        column.no_wrap = True
    section = ""
    for row in found:
        if section and row.section != section:
            shown.add_section()
        color = next((color for word, color in _COLORS if row.verdict.startswith(word)), "default")
        shown.add_row(
            "" if row.section == section else row.section,
            row.what,
            row.unit,
            _spread(row.ours),
            _middle(row.theirs),
            row.beside,
            _spread(row.ratios) + (" ×" if row.ratios else ""),
            row.target,
            f"[{color}]{row.verdict}[/]",
        )
        section = row.section
    return shown


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "does not keep up"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _middle(values: Sequence[float]) -> str:
    return _number(statistics.median(values)) if values else ""


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = _number(min(values)), _number(max(values))
    return _middle(values) if low == high else f"{_middle(values)} ({low}–{high})"


# From rounds to rows


def _beside(section: str, what: str, unit: str, ours: Rounds, title: str, theirs: Rounds, **asked: Any) -> Row:
    """Ours beside another's, of the same rounds where both have several."""
    ratios = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
    return Row(section, what, unit, [*ours.values()], title, [*theirs.values()], ratios, **asked)


def _rounds(runs: Iterable[Raw], value: str | Callable[[Raw], float], **having: Any) -> Rounds:
    """A figure of each round, of the runs that have these properties and count."""
    found = {}
    for run in runs:
        if not run.get("fault") and all(run[name] == wanted for name, wanted in having.items()):
            found[int(run["round"])] = float(run[value] if isinstance(value, str) else value(run))
    return found


def _fan_out(raw: Raw) -> Iterator[Row]:
    runs = raw.get("fan_out", ())
    section, unit = "Fan-out", "deliveries per CPU-s"
    for size in PAYLOADS:
        for shape in map(str, SHAPES):

            def speed(name: str, size: int = size, shape: str = shape) -> Rounds:
                return _rounds(runs, "per_cpu_sec", server=name, payload_bytes=size, shape=shape)

            what, ours = f"{shape}, {size:,} B", speed("hubwire")
            for name, asked in AHEAD_OF.items():
                asked = AHEAD_OF_STOCK.get(shape) if name == BASELINE else asked
                title = CONTESTANTS[name].title
                yield _beside(section, what, unit, ours, title, speed(name), at_least=asked, of_ratio=True)
            reliable = speed("hubwire-reliable")
            title = "Hubwire, plain JSON"
            asked = RELIABLE_OF_PLAIN
            yield _beside(section, f"reliable, {what}", unit, reliable, title, ours, at_least=asked, of_ratio=True)
    own = [run for run in runs if run["server"].startswith("hubwire")]
    lost = [float(sum(run["expected"] - run["delivered"] for run in own))] if own else []
    yield Row(section, "deliveries of ours that were lost", "deliveries", lost, at_most=0)
    shares = [max(run["usage"]["generator_share"] for run in own)] if own else []
    yield Row(section, "generator's core in a run of ours, at most", "of a core", shares)
    yield from _latency(raw)


def _latency(raw: Raw) -> Iterator[Row]:
    for shape, asked in LATENCY.items():
        for share, bound in zip(("p50", "p99"), asked, strict=True):

            def late(name: str, share: str = share, shape: str = shape) -> Rounds:
                def value(run: Raw) -> float:
                    # A server that does not keep up has no latency.
                    return float(run[f"{share}_ms"]) if run["held"] else math.inf

                return _rounds(raw.get("paced", ()), value, server=name, shape=shape)

            what = f"{shape}, 100 a second, {share}"
            yield _beside("Latency", what, "ms", late("hubwire"), CONTESTANTS[PEER].title, late(PEER), at_most=bound)


def _connections(raw: Raw) -> Iterator[Row]:
    runs = raw.get("runs", ())
    plain = CONTESTANTS["uvicorn"].title
    measured: tuple[tuple[str, str, Callable[[Raw], float], dict[str, float]], ...] = (
        ("memory of each", "kB", lambda run: run["grown"]["resident"] / run["connections"] / 1000, {"at_most": 20}),
        ("all, with pings", "% of a core", lambda run: run["idle_share"] * 100, {"at_most": 5}),
        ("connects, token checked", "per CPU-s", lambda run: run["connects_per_cpu_sec"], {"at_least": 600}),
    )
    for what, unit, value, asked in measured:
        ours, other = (_rounds(runs, value, server=name) for name in ("hubwire", "uvicorn"))
        yield _beside("10,000 idle connections", what, unit, ours, plain, other, **asked)


def _scale(raw: Raw) -> Iterator[Row]:
    runs = raw.get("workers", ())
    section, unit = "Two workers", "deliveries per CPU-s"
    for shape in map(str, SHAPES):
        for family in USUAL.values():
            two = _rounds(runs, "per_cpu_sec", part=WORKERS, shape=shape, server=family.two)
            for name in (family.alone, family.connected):
                if name is None:
                    continue
                one = _rounds(runs, "per_cpu_sec", part=WORKERS, shape=shape, server=name)
                asked = TWO_OF_ONE if name == "hubwire" else None
                what = f"{shape}: {family.title}, two"
                title = CONTESTANTS[name].title + ", one"
                yield _beside(section, what, unit, two, title, one, at_least=asked, of_ratio=True)
    section, unit = "Crossing", "messages per CPU-s"
    ours, *others = USUAL.values()
    crossed = {family: _rounds(runs, "per_cpu_sec", part=CROSSED, server=family.two) for family in USUAL.values()}
    for family in others:
        title, asked = CONTESTANTS[family.two].title, CROSSINGS_PER_CPU_SEC if family is others[0] else None
        yield _beside(section, "frame in, frame out", unit, crossed[ours], title, crossed[family], at_least=asked)
    first, *_, stock = ({"layer": layer.title} for layer in LAYERS)
    one, other = (_rounds(raw.get("layers", ()), "per_cpu_sec", **layer) for layer in (first, stock))
    yield _beside(section, first["layer"], unit, one, stock["layer"], other, at_least=CROSSINGS_PER_CPU_SEC)


def _rest(raw: Raw) -> Iterator[Row]:
    runs = raw.get("runs", ())
    ours, other = (_rounds(runs, "per_cpu_sec", address=address) for address in (GROUP, YARDSTICK))
    unit = "requests per CPU-s"
    yield Row("REST", ":send to a group", unit, [*ours.values()], at_least=2000)
    yield _beside("REST", ":send to a group", unit, ours, YARDSTICK, other, at_least=4, of_ratio=True)


def _upstream(raw: Raw) -> Iterator[Row]:
    runs = raw.get("runs", ())
    ours, other = (_rounds(runs, "per_cpu_sec", what=what) for what in (OURS, EMPTY_CLIENT))
    yield _beside("Event handlers", "event and answer", "per CPU-s", ours, EMPTY_CLIENT, other)


def _azure(raw: Raw) -> Iterator[Row]:
    steps = raw.get("runs", ())
    for kind, title in (("big", "ten big groups"), ("small", "groups of ten")):
        held = [step for step in steps if step["kind"] == kind and step["held"]]
        best = max(held, key=lambda step: int(step["units"]), default=None)
        for name, what, unit in (("connections", "held", "connections"), ("units", "that many", "Azure units")):
            yield Row("Azure's measure", f"{title}: {what}", unit, [best[name]] if best else [])


def _slow(raw: Raw) -> Iterator[Row]:
    section, waves = "Slow clients", raw.get("waves", ())
    phases = {phase["name"]: phase for phase in raw.get("phases", ())}
    before, meanwhile = (
        {1: phases[name]["p99_ms"]} if name in phases else {} for name in ("without", "with slow clients")
    )
    yield _beside(section, "readers' p99", "ms", meanwhile, "without slow clients", before)
    clients = sum(wave["clients"] for wave in waves)
    closed = sum(wave["codes"].get("1008", 0) for wave in waves)
    yield Row(section, "closed with 1008", "%", [closed / clients * 100] if clients else [], at_least=100)
    grown = []
    if before and meanwhile:
        grown = [(phases["with slow clients"]["memory_most"] - phases["without"]["memory_end"]) / 1e6]
    allowed = max((wave["clients"] for wave in waves), default=CLIENTS) * OUTBOX_BYTES + SLACK_BYTES
    yield Row(section, "growth of memory", "MB", grown, at_most=round(allowed / 1e6))


_READERS: dict[str, Callable[[Raw], Iterator[Row]]] = {
    "fanout": _fan_out,
    "connections": _connections,
    "scale": _scale,
    "rest": _rest,
    "upstream": _upstream,
    "azure": _azure,
    "slow": _slow,
}
