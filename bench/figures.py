"""Figures: how they are summed up, shown and written.

A measurement is repeated in rounds; what is shown is the median, with the lowest and the highest round in brackets.
The raw figures go to a JSON file, with the machine and the versions of all that took part.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.contestants import PEERS, ROOT, program

RESULTS = ROOT / "bench" / "results"
PACKAGES = (
    *("Django", "channels", "channels_redis", "daphne", "uvicorn", "uvloop", "websockets", "msgspec", "aiohttp"),
    *("redis", "hiredis", "autobahn", "Twisted"),
)
PROGRAMS = (("node", "--version"), ("nginx", "-v"), ("nats-server", "--version"), ("redis-server", "-v"))
NODE_PACKAGES = ("socket.io", "@socket.io/redis-adapter", "uwebsockets")
ANSWER_SECS = 20.0


# Summed up


def median(values: Iterable[float]) -> float | None:
    """The median, None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


# Shown


def middle(values: Iterable[float], form: str) -> str:
    """The median alone."""
    found = median(values)
    return "–" if found is None else format(found, form)


def spread(values: Iterable[float], form: str) -> str:
    """The median, and in brackets the lowest and the highest where there are several."""
    found = sorted(values)
    if len(found) < 2:
        return middle(found, form)
    return f"{middle(found, form)} ({found[0]:{form}}–{found[-1]:{form}})"


def ratio(one: float | None, other: float | None) -> str:
    """One in units of the other."""
    return f"{one / other:.2f}" if one and other else "–"


def table(title: str, *left: str, right: Iterable[str]) -> Table:
    """An empty table with columns of words on the left and of numbers on the right."""
    made = Table(title=title, title_justify="left")
    for heading in left:
        made.add_column(heading)
    for heading in right:
        made.add_column(heading, justify="right")
    return made


def markdown(made: Table) -> str:
    """A table as it stands in a document."""
    heads = [str(column.header) for column in made.columns]
    rules = ["---:" if column.justify == "right" else "---" for column in made.columns]
    rows = zip(*([str(cell) for cell in column.cells] for column in made.columns), strict=True)
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, rules, *rows)]
    return "\n".join([f"### {made.title}", "", *lines, ""])


# Written


def versions() -> dict[str, str]:
    """What took part, as far as it is installed and says it."""
    found = {package: version(package) for package in PACKAGES}
    for name, option in PROGRAMS:
        if shutil.which(program(name)) is not None:
            said = subprocess.run((program(name), option), capture_output=True, text=True, timeout=ANSWER_SECS)
            number = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
            if number:
                found[name] = number[0]
    for package in NODE_PACKAGES:
        described = PEERS / "node_modules" / package / "package.json"
        if described.exists():
            found[package] = json.loads(described.read_text())["version"]
    return found


def surroundings() -> dict[str, Any]:
    """The machine and what runs on it."""
    machine = {"system": platform.system(), "cores": os.cpu_count(), "python": platform.python_version()}
    return {"machine": machine, "versions": versions()}


def plain(value: Any) -> Any:
    """A run as JSON has it: a dataclass with its properties, which spare readers of the file the sums."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        worked_out = (name for name in dir(type(value)) if isinstance(getattr(type(value), name), property))
        names = [*(field.name for field in dataclasses.fields(value)), *worked_out]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def write(name: str, contents: Mapping[str, Any], directory: Path | None = None) -> Path:
    """Write raw figures as `<name>-<time>.json`; gives the file."""
    directory = directory or RESULTS
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(plain(contents), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def shown_path(path: Path) -> str:
    """A path as short as it can be told."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
