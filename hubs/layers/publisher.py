"""Publishing: what one turn of the event loop posts goes out in one write, and is answered as Redis answers.

A publication is a future and a few bytes; there is no task for it and no lock. Redis answers the
commands of a connection in their order, so the futures wait in a queue, and the order of calls is
the order on the wire and the order of completion.
"""

from __future__ import annotations

import asyncio
from collections import deque

from hubs.layers.errors import LayerAway, LayerFull
from hubs.layers.link import Link
from hubs.layers.wire import PING, Host


def head(topic: bytes) -> bytes:
    """The beginning of a PUBLISH to a topic, up to the length of the message."""
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$" % (len(topic), topic)


class Publisher(Link):
    """Publishes through one connection."""

    purpose = "to publish"

    def __init__(self, host: Host, max_messages: int, max_bytes: int) -> None:
        super().__init__(host)
        self._loop = asyncio.get_running_loop()
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._outgoing: list[bytes] = []
        # In the order of the commands; None stands for a sign of life that was asked for.
        self._unanswered: deque[tuple[asyncio.Future[int] | None, int]] = deque()
        self._bytes = 0

    def post(self, topic_head: bytes, payload: bytes) -> asyncio.Future[int]:
        """Publish. The future is done when Redis has taken it, with the number of receivers that it counted."""
        future: asyncio.Future[int] = self._loop.create_future()
        if self.wire is None:
            if self.away is not None:
                return _fail(future, LayerAway(str(self.away)))
            self.need()
        size = len(payload)
        if len(self._unanswered) >= self._max_messages or self._bytes + size > self._max_bytes:
            return _fail(future, LayerFull("Too much waits for Redis; try again later."))
        self._bytes += size
        self._unanswered.append((future, size))
        outgoing = self._outgoing
        if not outgoing and self.wire is not None:
            self._loop.call_soon(self._flush)
        outgoing.append(b"%b%d\r\n%b\r\n" % (topic_head, size, payload))
        return future

    def _flush(self) -> None:
        if self.wire is not None and self._outgoing:
            self.wire.write(b"".join(self._outgoing))
            self._outgoing.clear()

    def _replied(self, replies: list[int | Exception | bytes]) -> None:
        next_unanswered = self._unanswered.popleft
        if len(replies) > len(self._unanswered) and self.wire is not None:
            self.wire.lose(LayerAway("Redis answered what it was not asked."))
            return
        for reply in replies:
            future, size = next_unanswered()
            self._bytes -= size
            if future is None or future.done():
                continue
            if type(reply) is int:
                future.set_result(reply)
            else:
                _fail(future, reply if isinstance(reply, Exception) else LayerAway(f"Redis answered {reply!r}"))

    def _ping(self) -> None:
        if not self._outgoing and self.wire is not None:
            self._loop.call_soon(self._flush)
        self._outgoing.append(PING)
        self._unanswered.append((None, 0))

    def _came_up(self) -> None:
        self._stands()
        self._flush()

    def _went_away(self) -> None:
        unanswered, self._unanswered = self._unanswered, deque()
        self._outgoing.clear()
        self._bytes = 0
        for future, _ in unanswered:
            if future is not None and not future.done():
                _fail(future, LayerAway(str(self.away)))


def _fail(future: asyncio.Future[int], problem: Exception) -> asyncio.Future[int]:
    future.set_exception(problem)
    # Looked at: a future that nobody waits for does not complain when it is collected.
    future.exception()
    return future
