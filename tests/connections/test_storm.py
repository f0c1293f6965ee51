"""A few storms, and those that found a fault; `python -m tests.connections` runs as many as you like."""

from __future__ import annotations

import pytest

from tests.connections.storm import WEATHERS, rage

# Nothing may be lost in these, and nobody be told of a loss.
EXACT = ("calm", "draining", "deaths", "outages", "kicks", "impatient")

# What each of them found is told in the history of the code it was found in.
FOUND = [("fair", 3), ("calm", 5), ("draining", 1), ("draining", 4), ("outages", 0), ("outages", 4), ("deaths", 0)]


@pytest.mark.parametrize("weather", EXACT)
def test_what_was_claimed_has_happened(weather: str) -> None:
    storm = rage(100, WEATHERS[weather])
    # It was worth the name.
    assert storm.accounts["acked"] > 20
    assert storm.accounts["delivered"] > 100
    assert sum(len(person.sockets) - 1 for person in storm.persons) > 5


@pytest.mark.parametrize(("weather", "seed"), FOUND)
def test_what_has_failed_once(weather: str, seed: int) -> None:
    rage(seed, WEATHERS[weather])
