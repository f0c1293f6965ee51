"""A few storms; `python -m tests.connections` runs as many as you like."""

from __future__ import annotations

import pytest

from tests.connections.storm import WEATHERS, rage

# In the others something may be lost, as the documentation says; they are for those who look for faults.
EXACT = ("fair", "calm", "draining", "outages")


@pytest.mark.parametrize("weather", EXACT)
@pytest.mark.parametrize("first", [0, 2, 4])
def test_what_was_claimed_has_happened(first: int, weather: str) -> None:
    for seed in (first, first + 1):
        storm = rage(seed, WEATHERS[weather])
        # It was worth the name.
        assert sum(message.claimed for message in storm.messages.values()) > 50
        assert sum(len(person.sockets) - 1 for person in storm.persons) > 5
