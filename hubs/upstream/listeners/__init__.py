"""Event listeners: whoever wants copies of events, and answers nothing.

A listener's row says what kind it is, where it is, and which events it wants. Each kind has a `Sink`
in the table below, which takes events without keeping anybody waiting: the handler of the event is
called at the same time, and does not know.

Both kinds there are a bounded queue for each listener (queues.py), emptied by a transport of the
kind's own. Kafka, say, or Event Hubs would be one more class beside redis_stream.py and a row:
``SINKS["kafka"] = QueuedSink(KafkaTopic)``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from hubs.hub_settings import EventListenerSettings
from hubs.rules.event_routing import LISTENER_SYSTEM_EVENTS, event_pattern
from hubs.upstream.events import Event
from hubs.upstream.listeners.queues import QueuedSink
from hubs.upstream.listeners.redis_stream import RedisStream
from hubs.upstream.listeners.webhook import WebhookBatches

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Carries events to the listeners of one kind."""

    def put(self, listener: EventListenerSettings, event: Event) -> None:
        """Take an event. Returns at once; what cannot be carried now waits in a bounded queue, or is logged."""

    async def close(self, patience: float) -> None:
        """Carry what still waits, for at most `patience` seconds, and let go of everything."""


SINKS: dict[str, Sink] = {
    "redis_stream": QueuedSink(RedisStream),
    "webhook": QueuedSink(WebhookBatches),
}


def tell(event: Event, listeners: Sequence[EventListenerSettings]) -> bool:
    """Give an event to those of a hub's listeners that want it; tells whether there was one."""
    wanted = False
    for listener in listeners:
        if not takes(listener, event):
            continue
        wanted = True
        sink = SINKS.get(listener.kind)
        try:
            if sink is None:
                raise LookupError(f"there is no listener of the kind {listener.kind!r}")
            sink.put(listener, event)
        except Exception:
            # A listener's failure is never the client's.
            logger.exception("The event %s of hub %s did not reach a listener", event.name, event.context.hub)
    return wanted


def takes(listener: EventListenerSettings, event: Event) -> bool:
    """Whether a listener wants an event."""
    if event.is_user_event:
        return event_pattern(listener.user_event_pattern).matches(event.name)
    # `connect` is a question, and listeners cannot answer.
    return event.name in listener.system_events and event.name in LISTENER_SYSTEM_EVENTS


async def close(patience: float) -> None:
    """Close every sink, all at the same time."""
    for problem in await asyncio.gather(*(sink.close(patience) for sink in SINKS.values()), return_exceptions=True):
        if isinstance(problem, Exception):
            logger.error("A sink of event listeners could not be closed", exc_info=problem)
