"""What happens when a server process starts and stops (ASGI lifespan).

The process makes itself known to the others and reads its settings before it serves; where that fails, it serves all
the same, is not ready (hubs/health.py), and tries again. When it has served its last client, it lets events that are on
their way arrive, writes what is left to write, and takes leave. A server without lifespan loses that: the process makes
itself known and reads its settings with its first client, the others notice after a few seconds that it is gone, and
the last events and records may be lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hubs import health, hub_settings, operations
from hubs.connections import recovery
from hubs.node.node import node
from hubs.upstream import dispatch, records

logger = logging.getLogger(__name__)

Event = dict[str, Any]

# How often a process that has not reached the others yet tries again.
RETRY_SECS = 1.0


async def lifespan_application(
    scope: Mapping[str, Any], receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]
) -> None:
    """Answer the server's `lifespan.startup` and `lifespan.shutdown`."""
    beginning: asyncio.Task[None] | None = None
    while True:
        event = await receive()
        if event["type"] == "lifespan.startup":
            beginning = asyncio.create_task(_begin(tried := asyncio.Event()), name="reach the other processes")
            await tried.wait()
            await hub_settings.start()
            records.start()
            await send({"type": "lifespan.startup.complete"})
        elif event["type"] == "lifespan.shutdown":
            if beginning is not None:
                beginning.cancel()
                await asyncio.wait([beginning])
            health.unregister(_PROBE)
            # First whoever says something last, then those it is said to.
            recovery.stop()
            await operations.all_told()
            await dispatch.stop()
            await records.stop()
            await hub_settings.stop()
            await node().stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


_PROBE = "redis"


async def _begin(tried: asyncio.Event) -> None:
    """Make the process known to the others; `tried` is set when that was done, or has failed for the first time."""
    health.register(_PROBE, lambda: "it has not been reached since this process started; the log says why")
    while True:
        try:
            await node().start()
        except Exception as problem:
            if not tried.is_set():
                # Clients are refused until it can be reached; the process need not be restarted then.
                logger.error("Redis cannot be used (is REDIS_URL right?): %s", problem.__cause__ or problem)
        else:
            health.register(_PROBE, operations.unreachable)
            return
        finally:
            tried.set()
        await asyncio.sleep(RETRY_SECS)
