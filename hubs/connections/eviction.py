"""The service parts with a client that does not do its part: each time one line in the log says why.

A client does not read what is sent to it, does not acknowledge it, or is not there any more. Lines of one cause are of
one kind, so a flood of them does not keep those of another out of the log (hubs/servers/logs.py).
"""

from __future__ import annotations

import logging
from typing import Protocol

from hubs import callers

logger = logging.getLogger(__name__)


class Evicted(Protocol):
    """A connection, as far as a log line names it."""

    id: str
    hub: str
    user_id: str | None


def log(connection: Evicted, cause: str, waiting: str) -> None:
    """Write the line. `cause`: one sentence out of few; `waiting`: what was there for the client to take."""
    user = "anonymous" if connection.user_id is None else f"user {callers.legible(connection.user_id)}"
    logger.info(
        "Connection %s (hub %s, %s) is cut off: %s Waiting: %s.",
        *(connection.id, connection.hub, user, cause, waiting),
        extra={"kind": f"cut off: {cause}"},
    )


def exceeded(setting: str) -> str:
    """The cause where more waits for a client than a setting allows."""
    return f"More waits for its client than {setting} allows."
