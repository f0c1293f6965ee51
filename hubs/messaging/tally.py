"""Which publications have been taken, so that a connection can change process without losing or doubling one.

While a connection moves, its old process and its new one both hear what is meant for it. To tell
what the old one has taken already, every publication that goes to other processes has a number,
counted by the process that published it, and a floor: all numbers below the floor had reached the
channel layer, or had failed, before this one was sent.

The layer gives a process what was sent in the order in which it was sent. So whoever has read a
publication with the floor n has read all earlier ones that were for it, and needs to remember
single numbers from n upwards only. These are few: what one process sends at the same time.

Numbers also name a publication that has to be repeated because nobody knows whom it reached: who has
it already takes it no second time. That is known of a process (`Recent`), and for a while of a connection that has
come from another one (`Had`).

All of this relies on one order for all processes, which one Redis gives; a layer that spreads its
addresses over several hosts does not.

Pure: numbers in, answers out.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping

# Repetitions come within seconds.
RECENT_RUNS = 2000


class Tally:
    """What has been taken from one publisher: everything below `floor`, and `beyond` it these numbers."""

    __slots__ = ("beyond", "floor")

    def __init__(self, floor: int = 0, beyond: Iterable[int] = ()) -> None:
        self.floor = floor
        self.beyond = set(beyond)

    def take(self, number: int, floor: int) -> None:
        """Note a publication that was read."""
        if floor > self.floor:
            self.floor = floor
            self.beyond = {one for one in self.beyond if one >= floor}
        self.beyond.add(number)

    def __contains__(self, number: int) -> bool:
        return number < self.floor or number in self.beyond

    def packed(self) -> tuple[int, list[int]]:
        """As plain values; `Tally(*packed)` makes it again."""
        return self.floor, sorted(self.beyond)


class Recent:
    """The numbers that were read last from one publisher, each of them exactly, and in which order."""

    __slots__ = ("_runs", "count")

    def __init__(self, count: int = 0) -> None:
        # So many were noted; a new one in the place of one that was forgotten counts on.
        self.count = count
        # Most follow each other: the first and last of a run, and the count when the first was noted.
        self._runs: deque[list[int]] = deque(maxlen=RECENT_RUNS)

    def note(self, number: int) -> None:
        """It was read; the oldest are forgotten when there are too many."""
        runs = self._runs
        if runs and runs[-1][1] + 1 == number:
            runs[-1][1] = number
        else:
            runs.append([number, number, self.count])
        self.count += 1

    def has(self, number: int, since: int = 0) -> bool:
        """Whether it was read, when so many had been noted or later."""
        return any(first <= number <= last and at + number - first >= since for first, last, at in self._runs)

    def packed(self, since: int = 0) -> bytes:
        """Those that were noted since then, for `Had`."""
        runs = array("Q")
        for first, last, at in self._runs:
            first += max(0, since - at)
            if first <= last:
                runs.extend((first, last))
        return runs.tobytes()


class Had:
    """What a connection was given before it came here: by publisher, runs of numbers as `Recent` packs them."""

    __slots__ = ("packed",)

    def __init__(self, packed: Mapping[str, bytes]) -> None:
        self.packed = dict(packed)

    def __contains__(self, name: tuple[str, int]) -> bool:
        process, number = name
        runs = array("Q", self.packed.get(process, b""))
        return any(first <= number <= last for first, last in zip(runs[::2], runs[1::2], strict=True))

    def reaches(self, name: tuple[str, int]) -> bool:
        """Whether what is known goes back so far. The tally knows of what is older, but also counts what never came."""
        process, number = name
        runs = array("Q", self.packed.get(process, b""))
        return bool(runs) and number >= min(runs[::2])

    def and_then(self, later: Mapping[str, bytes]) -> dict[str, bytes]:
        """Packed, with what it was given here."""
        size = 2 * RECENT_RUNS * array("Q").itemsize
        return {
            process: (self.packed.get(process, b"") + later.get(process, b""))[-size:]
            for process in {**self.packed, **later}
        }


NOTHING = Had({})


class Departures:
    """The publications of this process: their numbers, and which are still on their way."""

    __slots__ = ("_last", "_not_here", "_on_the_way")

    def __init__(self) -> None:
        self._last = 0
        # Dictionaries for their order: the first is the oldest.
        self._on_the_way: dict[int, None] = {}
        self._not_here: dict[int, None] = {}

    @property
    def last(self) -> int:
        """The number given last."""
        return self._last

    @property
    def floor(self) -> int:
        """All numbers below are done."""
        return next(iter(self._on_the_way), self._last + 1)

    def begin(self, *, here_first: bool) -> int:
        """Number a publication. `here_first`: local members get it before anything else happens."""
        self._last += 1
        self._on_the_way[self._last] = None
        if not here_first:
            self._not_here[self._last] = None
        return self._last

    def done(self, number: int) -> None:
        """It has reached the layer and the local members, or it failed."""
        self._on_the_way.pop(number, None)
        self._not_here.pop(number, None)

    def is_coming_here(self, last: int) -> bool:
        """Whether local members are still to be given a number up to `last`."""
        return next(iter(self._not_here), last + 1) <= last

    def taken_here(self) -> Tally:
        """What local members have been given."""
        if not self._not_here:
            return Tally(self._last + 1)
        floor = next(iter(self._not_here))
        return Tally(floor, (number for number in range(floor, self._last + 1) if number not in self._not_here))
