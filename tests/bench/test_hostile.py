"""The bench of strangers without credentials."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bench.hostile import CLOSED_SECS, HONEST_SECS, KEPT_BYTES, Attack, check
from bench.machine import Usage
from bench.servers import Wrong

GOOD = Attack(
    name="an attack",
    attackers=2,
    borne_secs=[10.0, CLOSED_SECS],
    taken_bytes={"headers": KEPT_BYTES},
    handshakes_ms=[1.0, HONEST_SECS * 1000],
    sends_ms=[1.0, HONEST_SECS * 1000],
    memory_before=100 << 20,
    memory_most=120 << 20,
    usage=Usage(1, 1, 1, 0),
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"borne_secs": [1.0, CLOSED_SECS + 1]}, "was borne with for 13.5 s"),
        ({"taken_bytes": {"headers": 60_000_000}}, "57 MiB were taken of headers"),
        ({"handshakes_ms": [1.0, 2000.0]}, "an honest WebSocket handshake took 2000 ms"),
        ({"sends_ms": []}, "an honest send by REST took 0 ms"),
    ],
)
def test_what_the_service_promises(change: dict[str, Any], said: str) -> None:
    check(GOOD)
    with pytest.raises(Wrong, match=said):
        check(dataclasses.replace(GOOD, **change))
