"""Whether this process can serve anybody new: a registry of probes, which rooms fill and load balancers have asked.

A room that something has to work for, or a server that stops, registers a probe under a name: a function that gives
None while all is well, else why clients who come now cannot be served. Whoever asks `reachability` gets all reasons.

    from hubs import health

    health.register("database", lambda: None if answers() else "it has not answered for 12 seconds")

Probes are called on the event loop, each time that somebody asks. So they look at what is known already and neither
wait nor do I/O. A reason is read by operators, and by whoever can reach the port: it says what is wrong and never
holds an address with a password, a token or a key.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)

# Gives why nobody new can be served, in a few words without the name; None while somebody can.
Probe = Callable[[], str | None]

_probes: dict[str, Probe] = {}


def register(name: str, probe: Probe) -> None:
    """Have `probe` asked from now on, in place of any of the same name. `name`: what it is about, in a word or two."""
    _probes[name] = probe


def unregister(name: str) -> None:
    """Have the probe of that name asked no more; there may be none."""
    _probes.pop(name, None)


def reason(name: str) -> str | None:
    """Why what `name` stands for keeps this process from serving anybody new; None where it does not."""
    probe = _probes.get(name)
    if probe is None:
        return None
    try:
        return probe()
    except Exception:
        # Whoever asks is told all the same, and by an answer rather than by its absence.
        logger.exception("The health probe %s failed", name)
        return "it cannot be told, see the log"


def reachability() -> list[str]:
    """Why this process can serve nobody new, as "name: reason", in the order in which probes came; empty if it can."""
    return [f"{name}: {found}" for name in list(_probes) if (found := reason(name)) is not None]
