"""What happens when a server process starts and stops (ASGI lifespan).

The process makes itself known to the others before it serves. When it has served its last client, it
lets events that are on their way arrive, writes what is left to write, and takes leave. A server
without lifespan loses that: the process makes itself known with its first client, the others notice
after a few seconds that it is gone, and the last events and records may be lost.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hubs.connections import recovery
from hubs.messaging.switchboard import switchboard
from hubs.upstream import dispatch, records

logger = logging.getLogger(__name__)

Event = dict[str, Any]


async def lifespan_application(
    scope: Mapping[str, Any], receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]
) -> None:
    """Answer the server's `lifespan.startup` and `lifespan.shutdown`."""
    while True:
        event = await receive()
        if event["type"] == "lifespan.startup":
            try:
                await switchboard().start()
            except Exception as problem:
                # Clients are refused until it can be reached; the process need not be restarted then.
                logger.error("The channel layer cannot be reached (is REDIS_URL right?): %s", problem)
            records.start()
            await send({"type": "lifespan.startup.complete"})
        elif event["type"] == "lifespan.shutdown":
            # First whoever says something last, then those it is said to.
            recovery.stop()
            await dispatch.stop()
            await records.stop()
            await switchboard().stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
