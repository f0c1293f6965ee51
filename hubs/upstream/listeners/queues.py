"""A bounded queue in front of each listener, and one task that empties it.

Telling a listener costs the teller an append. From there on everything is the task's: it takes what
waits, up to a batch, carries it, and forgets it when the transport says that it arrived. So an idle
listener hears of an event at once, and under load batches grow by themselves, to as much as comes
while the previous one is on its way.

    order       one batch at a time, from the front, so that the events of a connection stay in order
    failure     the same batch again, after 1, 3, 5, 10, 20 and then every 30 seconds: at least once
    full        what no longer fits is dropped; each drop is counted, logged and recorded
    settings    another address or token of the same listener: its queue goes there
    removal     the queue has FLUSH_SECS to be carried; what is left then is dropped, with a log line

Batches stay in the queue until they arrived, so its bounds hold for all that a listener costs. Who
told does not learn of any of this: a listener that is down delays neither clients nor others.

A change of settings reaches a queue with the next event of its hub. For hubs where nothing happens,
and for listeners that are gone, one task looks at the settings twice a second while there are queues;
a queue that had nothing to carry for a minute ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from weakref import WeakKeyDictionary

from hubs import conf, hub_settings
from hubs.hub_settings import EventListenerSettings
from hubs.rules.event_routing import LISTENER_KINDS
from hubs.throttled_log import ThrottledLog
from hubs.upstream import records
from hubs.upstream.cloudevents import Unsendable
from hubs.upstream.events import Event
from hubs.upstream.listeners.message import Message, message_of, size_of
from hubs.upstream.listeners.transport import Open, Transport, TransportError
from hubs.upstream.records import Record

logger = logging.getLogger(__name__)
_log = ThrottledLog(logger)

RETRY_SECS = (1.0, 3.0, 5.0, 10.0, 20.0, 30.0)

# For one batch. Transports have shorter limits of their own; this one is for what they forgot.
SEND_SECS = 30.0

# How long a batch on its way to where a listener no longer is may still take.
CHANGE_SECS = 0.5

# For the queue of a listener that was removed or disabled.
FLUSH_SECS = 5.0

IDLE_SECS = 60.0
LOOK_SECS = 0.5
CLOSE_SECS = 1.0

# Events that are dropped are reported at most once in so many seconds, with their number.
REPORT_SECS = 10.0


def label_of(listener: EventListenerSettings) -> str:
    """What a listener is called in logs and records: its address, without what may be secret."""
    return LISTENER_KINDS[listener.kind].label(listener.address)


class ListenerQueue:
    """What waits for one listener, and the task that carries it there."""

    def __init__(
        self, hub: str, listener: EventListenerSettings, opened: Open, ended: Callable[[ListenerQueue], None]
    ) -> None:
        self.hub = hub
        self.listener = listener
        self._open = opened
        self._ended = ended
        self._transport: Transport | None = None
        self._waiting: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        # The messages of the batch that is being tried: as many events stand first in the queue.
        self._batch: list[Message] = []
        self._attempts = 0
        # Set when there is something to do, and when waiting for a better moment makes no more sense.
        self._wake = asyncio.Event()
        self._now = asyncio.Event()
        self._limit: asyncio.Timeout | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._leaving: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._lost = 0
        self._lost_last: tuple[Event, str] | None = None
        self._report: asyncio.TimerHandle | None = None
        self.task = self._loop.create_task(self._run(), name=f"event listener {listener.id}")

    # What tellers and the keeper call

    def put(self, listener: EventListenerSettings, event: Event) -> None:
        """Take an event; or count it as dropped."""
        self.renew(listener)
        size = size_of(event)
        max_messages, max_bytes = conf.settings.MAX_LISTENER_MESSAGES, conf.settings.MAX_LISTENER_BYTES
        # The largest message always fits into an empty queue, whatever the two bounds are.
        if self._waiting and (len(self._waiting) >= max_messages or self._bytes + size > max_bytes):
            self._drop(1, event, f"{len(self._waiting)} wait for the listener already, {self._bytes} bytes in all")
            return
        self._waiting.append((event, size))
        self._bytes += size
        self._wake.set()

    def renew(self, listener: EventListenerSettings) -> None:
        """Go by these settings of the listener, which is there (again)."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if listener is self.listener:
            return
        moved = _whereabouts(listener) != _whereabouts(self.listener)
        self.listener = listener
        if moved and self._transport is not None:
            stale, self._transport = self._transport, None
            grace = 0.0 if self._limit is None else CHANGE_SECS
            closing = self._loop.create_task(_closed(stale, grace), name="close event listener")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._now.set()
            if self._limit is not None:
                self._limit.reschedule(self._loop.time() + grace)

    def leave(self, patience: float) -> None:
        """Carry what waits within `patience` seconds, and end."""
        if self._leaving is None:
            self._leaving = self._loop.call_later(patience, self.task.cancel)
            self._now.set()
            self._wake.set()

    # The task

    async def _run(self) -> None:
        try:
            while await self._something():
                await self._try()
        finally:
            # First of all: an event that comes from now on gets a queue of its own.
            self._ended(self)
            if self._leaving is not None:
                self._leaving.cancel()
            if self._waiting:
                event = self._waiting[-1][0]
                self._drop(len(self._waiting), event, "the listener was removed, or the process stops")
            if self._report is not None:
                self._report.cancel()
            self._tell_of_drops()
            if self._transport is not None:
                await _closed(self._transport)

    async def _something(self) -> bool:
        """Wait for something to carry; False when there will be nothing."""
        if not self._waiting and self._leaving is None:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECS):
                    await self._wake.wait()
        return bool(self._waiting)

    async def _try(self) -> None:
        """Carry a batch; after a failure, wait until it may be tried again."""
        self._now.clear()
        self._attempts += 1
        begun = time.perf_counter()
        error: TransportError
        listener = self.listener
        try:
            if self._transport is None:
                self._transport = self._open(listener)
            if not self._batch and not self._fill(self._transport):
                return
            async with asyncio.timeout(SEND_SECS) as self._limit:
                await self._transport.send(self._batch)
        except TransportError as problem:
            error = problem
        except TimeoutError:
            if _whereabouts(self.listener) != _whereabouts(listener):
                # Not the listener's fault, and no reason to wait.
                self._attempts = 0
                return
            error = TransportError(f"no answer within {SEND_SECS:g} seconds", tries=4)
        except Exception as problem:
            logger.exception("Events of hub %s cannot be carried to the listener %s", self.hub, label_of(listener))
            error = TransportError(f"the transport failed: {type(problem).__name__}", tries=1)
        else:
            if self._attempts > 1:
                left = len(self._waiting) - len(self._batch)
                logger.info("The listener %s of hub %s takes events again; %d wait", label_of(listener), self.hub, left)
            self._done(len(self._batch))
            return
        finally:
            self._limit = None
        text = str(error)
        self._record(self._waiting[0][0], text, time.perf_counter() - begun, error.status)
        _log.warn("Events of hub %s do not reach the listener %s: %s", self.hub, label_of(listener), text)
        if error.too_large and len(self._batch) > 1:
            del self._batch[(len(self._batch) + 1) // 2 :]
            self._attempts = 0
            return
        if error.tries is not None and self._attempts >= error.tries:
            given_up = len(self._batch)
            self._drop(given_up, self._waiting[given_up - 1][0], text)
            self._done(given_up)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECS[min(self._attempts, len(RETRY_SECS)) - 1]):
                await self._now.wait()

    def _fill(self, transport: Transport) -> bool:
        """Make a batch of what stands first; False when nothing of it can be carried."""
        size = 0
        for event, bytes_of_event in islice(self._waiting, transport.max_messages):
            size += bytes_of_event
            if self._batch and size > transport.max_bytes:
                break
            try:
                self._batch.append(message_of(event))
            except Unsendable as problem:
                if not self._batch:
                    self._drop(1, event, str(problem))
                    self._done(1)
                # Else it will stand first the next time.
                break
        return bool(self._batch)

    def _done(self, count: int) -> None:
        """Forget the first events of the queue; the next is another batch."""
        for _ in range(count):
            self._bytes -= self._waiting.popleft()[1]
        self._batch = []
        self._attempts = 0

    # Nothing is lost silently

    def _drop(self, count: int, event: Event, problem: str) -> None:
        """Count events that will not be carried; `event` is the last of them."""
        self._lost += count
        self._lost_last = event, problem
        if self._report is None:
            self._tell_of_drops()
            self._report = self._loop.call_later(REPORT_SECS, self._report_again)

    def _report_again(self) -> None:
        self._report = self._loop.call_later(REPORT_SECS, self._report_again) if self._lost else None
        self._tell_of_drops()

    def _tell_of_drops(self) -> None:
        if self._lost_last is None:
            return
        event, problem = self._lost_last
        lost, self._lost, self._lost_last = self._lost, 0, None
        events = "1 event was" if lost == 1 else f"{lost} events were"
        logger.error("%s dropped for the listener %s of hub %s: %s", events, label_of(self.listener), self.hub, problem)
        self._record(event, f"{events} dropped: {problem}", 0)

    def _record(self, event: Event, problem: str, secs: float, status: int | None = None) -> None:
        records.note(
            Record(
                at=time.time(),
                hub=self.hub,
                event=event.name,
                handler=label_of(self.listener),
                connection_id=event.context.connection_id,
                outcome=records.FAILED,
                duration_ms=secs * 1000,
                status=status,
                attempts=self._attempts,
                problem=problem,
                payload=event.payload,
            )
        )


def _whereabouts(listener: EventListenerSettings) -> tuple[str, str | None]:
    """What of a listener's settings makes another transport necessary."""
    return listener.address, listener.authorization


async def _closed(transport: Transport, grace: float = 0.0) -> None:
    """Close a transport, within bounds; one that carries a batch gets some time for that first."""
    await asyncio.sleep(grace)
    try:
        async with asyncio.timeout(CLOSE_SECS):
            await transport.close()
    except Exception as problem:
        logger.info("The connection to an event listener was not closed in order: %s", type(problem).__name__)


class QueuedSink:
    """The listeners of one kind: a queue for each, made at its first event."""

    def __init__(self, opened: Open) -> None:
        self._open = opened
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Queues] = WeakKeyDictionary()

    def put(self, listener: EventListenerSettings, event: Event) -> None:
        """Take an event for a listener. Call it in the event loop."""
        loop = asyncio.get_running_loop()
        queues = self._loops.get(loop)
        if queues is None:
            queues = self._loops[loop] = _Queues(self._open)
        queues.put(listener, event)

    async def close(self, patience: float) -> None:
        """Carry what waits, for at most `patience` seconds; the rest is dropped, with a log line."""
        queues = self._loops.pop(asyncio.get_running_loop(), None)
        if queues is not None:
            await queues.close(patience)


class _Queues:
    """The queues of one event loop."""

    def __init__(self, opened: Open) -> None:
        self._open = opened
        self._by_listener: dict[int, ListenerQueue] = {}
        self._keeper: asyncio.Task[None] | None = None

    def put(self, listener: EventListenerSettings, event: Event) -> None:
        queue = self._by_listener.get(listener.id)
        if queue is None:
            queue = ListenerQueue(event.context.hub, listener, self._open, self._forget)
            self._by_listener[listener.id] = queue
            if self._keeper is None or self._keeper.done():
                self._keeper = asyncio.get_running_loop().create_task(self._keep(), name="settings of event listeners")
        queue.put(listener, event)

    def _forget(self, queue: ListenerQueue) -> None:
        if self._by_listener.get(queue.listener.id) is queue:
            del self._by_listener[queue.listener.id]

    async def _keep(self) -> None:
        """Bring queues to what the settings say."""
        while self._by_listener:
            await asyncio.sleep(LOOK_SECS)
            try:
                snapshot = await hub_settings.acurrent()
            except Exception:
                # Listeners are where they were. Of a database that is away the log has its line (hubs.hub_settings).
                logger.debug("The settings of event listeners cannot be read", exc_info=True)
                continue
            for queue in list(self._by_listener.values()):
                rows = snapshot.hub(queue.hub).event_listeners
                there = next((row for row in rows if row.id == queue.listener.id), None)
                if there is None or there.kind != queue.listener.kind:
                    queue.leave(FLUSH_SECS)
                else:
                    queue.renew(there)

    async def close(self, patience: float) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        tasks = [queue.task for queue in self._by_listener.values()]
        for queue in list(self._by_listener.values()):
            # One that has less time left keeps to it.
            queue.leave(patience)
        if tasks:
            await asyncio.wait(tasks, timeout=patience + 2 * CLOSE_SECS)
