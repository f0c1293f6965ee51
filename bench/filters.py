"""`python -m bench.filters`: what a filter costs, to compile and for each connection.

A filter is compiled once for a text that is used again and again, and evaluated for every connection
that a message might go to, so the second figure is the one that counts. Three kinds of filters:
what programs send, the most expensive ones that the bounds let through, and random ones, of
which many are refused (that has to be quick too). Nothing runs but the rule itself, and its processor
time is what counts.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.figures import percentile
from hubs.rules.filters import InvalidFilter, Predicate, compile_filter

TARGET_MSECS = 5.0
MAX_TEXTS = 1_000_000


@dataclass(frozen=True)
class Connection:
    """A connection as filters see it."""

    id: str
    user_id: str | None
    groups: frozenset[str]
    subprotocol: str | None


USUAL = Connection("0f3c9a5571e24b1b8f4f6a0d5a3b7c11", "user-1234", frozenset({"chess", "go"}), None)
# Nobody's user id is longer: a token travels in the request line, which ends at 64 KiB.
LARGE = Connection("0f3c9a5571e24b1b8f4f6a0d5a3b7c11", "Ä" * 16_000, frozenset(map(str, range(1000))), None)

TYPICAL = (
    "userId eq null",
    "userId eq 'user-1234'",
    "connectionId ne '0f3c9a5571e24b1b8f4f6a0d5a3b7c11'",
    "'chess' in groups and not('go' in groups)",
    "userId in ('user-1','user-2','user-3','user-1234')",
    "startswith(userId,'tenant1-') and length(userId) gt 3",
    "tolower(userId) eq 'user-1234' or ('go' in groups and protocol ne null)",
)
COSTLY = {
    "a list of 1000 users": "userId in (" + ",".join(f"'user-{number:04}'" for number in range(1000)) + ")",
    "100 conditions": " and ".join(["length(userId) gt 1"] * 100),
    "100 parentheses": "(" * 100 + "true" + ")" * 100,
    "1000 parentheses, in tens": " and ".join(["(" * 10 + "true" + ")" * 10] * 90),
    "200 calls": " and ".join(["startswith(toupper(userId), 'Ä')"] * 100),
    "100 concats in each other": "concat(" * 100 + "userId" + ", userId)" * 100 + " ne ''",
    "16 000 quotes": "userId ne '" + "''" * 8000 + "'",
    "16 000 digits": "1 eq " + "9" * 16_000,
}
CONDITIONS = (
    *("userId eq 'ada'", "'go' in groups", "connectionId in ('a','b','c')", "1 eq 1", "length(userId) gt 3", "true"),
    *("contains(userId,'a')", "startswith(tolower(userId),'ä')", "substring(userId,1,2) ne null", "protocol eq null"),
)
PIECES = (
    *("userId", "connectionId", "groups", "protocol", "null", "true", "false", "'a'", "'go'", "0", "1", "-1", "1.5"),
    *("eq", "ne", "gt", "lt", "in", "and", "or", "not", "(", "(", ")", ")", ",", "'", "=", "length(", "tolower("),
    *CONDITIONS,
    *("nonsense", "\u2603"),
)


def random_text(chance: random.Random) -> str:
    """A third is right, a third is right up to one piece, a third is any pieces; some have thousands of them."""
    kind = chance.choice(("right", "nearly", "any"))
    if kind == "any":
        return " ".join(chance.choices(PIECES, k=chance.randrange(1, chance.choice((20, 20, 3000)))))
    pieces = []
    for _ in range(chance.randrange(1, chance.choice((6, 6, 101)))):
        layers = chance.choice((0, 0, 1, 3))
        pieces += [*["not ("] * layers, chance.choice(CONDITIONS), *[")"] * layers, chance.choice(("and", "or"))]
    pieces.pop()
    if kind == "nearly":
        pieces[chance.randrange(len(pieces))] = chance.choice(PIECES)
    return " ".join(pieces)


def compiled(text: str) -> tuple[float, Predicate | None]:
    """The seconds it took to compile or to refuse a text, and what came of it."""
    compile_filter.cache_clear()
    began = time.thread_time()
    predicate: Predicate | None
    try:
        predicate = compile_filter(text)
    except InvalidFilter:
        predicate = None
    return time.thread_time() - began, predicate


def best(repeat: int, measure: Callable[[], float]) -> float:
    """The least of several measurements: what is more came from elsewhere on the machine."""
    return min(measure() for _ in range(repeat))


def evaluated(predicate: Predicate, connection: Connection, times: int) -> float:
    """The seconds that one evaluation takes, over `times` of them."""
    began = time.thread_time()
    for _ in range(times):
        predicate(connection)
    return (time.thread_time() - began) / times


def show_filters(console: Console, title: str, rows: Iterable[tuple[str, str]], connection: Connection) -> None:
    """Print what each filter costs."""
    table = Table(title=title, title_justify="left")
    for column, justify in (("filter", "left"), ("characters", "right"), ("compile", "right"), ("evaluate", "right")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for name, text in rows:
        _, predicate = compiled(text)
        compiling = best(20, lambda text=text: compiled(text)[0])  # type: ignore[misc]
        cells = [name, f"{len(text)}", f"{compiling * 1e6:.1f} µs"]
        if predicate is None:
            cells.append("refused")
        else:
            once = evaluated(predicate, connection, 1)
            times = max(1, min(20_000, int(0.02 / once)))
            evaluating = best(5, lambda p=predicate, n=times: evaluated(p, connection, n))  # type: ignore[misc]
            cells.append(f"{evaluating * 1e6:.2f} µs")
        table.add_row(*cells)
    console.print(table)


def show_random(console: Console, texts: int, seed: int) -> None:
    """Print how long random texts take, each measured once."""
    chance = random.Random(seed)
    compiling: dict[str, list[float]] = {"compiled": [], "refused": []}
    evaluating: list[float] = []
    for _ in range(texts):
        seconds, predicate = compiled(random_text(chance))
        compiling["refused" if predicate is None else "compiled"].append(seconds)
        if predicate is not None:
            evaluating.append(evaluated(predicate, LARGE, 1))
    table = Table(title=f"{texts} random texts (seed {seed}), target {TARGET_MSECS:g} ms", title_justify="left")
    for column in ("", "texts", "median", "p99", "p99.9", "maximum"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds_each in {**compiling, "evaluated, for a very large connection": evaluating}.items():
        shares = [percentile(seconds_each, share) * 1e3 for share in (0.5, 0.99, 0.999, 1.0)]
        table.add_row(name, str(len(seconds_each)), *(f"{msecs:.3f} ms" for msecs in shares))
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=20_000, help="how many random texts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="what the random texts grow from (default: %(default)s)")
    options = parser.parse_args()
    if not 1 <= options.texts <= MAX_TEXTS:
        parser.error(f"--texts must be from 1 to {MAX_TEXTS:,}")
    # What exists already is none of a filter's business; the collector would search it now and then and add 20 ms.
    gc.collect()
    gc.freeze()
    console = Console()
    show_filters(console, "What programs send", [(text, text) for text in TYPICAL], USUAL)
    show_filters(console, "The most expensive, for a very large connection", COSTLY.items(), LARGE)
    show_random(console, options.texts, options.seed)


if __name__ == "__main__":
    main()
