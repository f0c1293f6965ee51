"""What happens when a server process starts and stops (ASGI lifespan).

The process makes itself known to the others before it serves, and takes leave when it has served
its last client. Servers without lifespan (daphne) lose nothing but that: the process makes itself
known with its first client, and the others notice after a few seconds that it is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hubs.messaging.switchboard import switchboard

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
            await send({"type": "lifespan.startup.complete"})
        elif event["type"] == "lifespan.shutdown":
            await switchboard().stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
