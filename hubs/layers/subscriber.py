"""Subscribing: which topics are wanted, and that Redis has confirmed them.

What one turn of the event loop wants and no longer wants goes out as one SUBSCRIBE and one UNSUBSCRIBE.
Redis confirms each topic by itself, in order. A topic is in force when no SUBSCRIBE for it is
unconfirmed: one that was left and wanted again meanwhile has two on the way, and the confirmation of
the first says nothing about the second.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from hubs.layers.errors import LayerAway
from hubs.layers.link import Link
from hubs.layers.wire import PING, Host

# In one SUBSCRIBE; more topics go out in several commands, still in one write.
MAX_TOPICS_PER_COMMAND = 10_000


class Subscriber(Link):
    """The subscriptions of one connection."""

    purpose = "to subscribe"

    def __init__(
        self,
        host: Host,
        on_message: Callable[[bytes, bytes], None],
        on_line: Callable[[bool], None],
        on_silence: Callable[[], None],
    ) -> None:
        super().__init__(host)
        self._loop = asyncio.get_running_loop()
        self._on_message, self._on_line, self._on_silence = on_message, on_line, on_silence
        self._wanted: set[bytes] = set()
        # What Redis was asked for over the present connection, and how much of it is not confirmed.
        self._asked: set[bytes] = set()
        self._unconfirmed: Counter[bytes] = Counter()
        self._changed: dict[bytes, None] = {}
        self._waiting: dict[bytes, list[asyncio.Future[None]]] = {}
        # Told that the line is down, and not yet that it is there again.
        self.is_down = False

    async def subscribe(self, topic: bytes) -> None:
        """Have a topic; when this returns Redis has confirmed it. Raises LayerAway, and the topic is wanted still."""
        self._wanted.add(topic)
        if self.away is not None:
            self._change(topic)
            raise LayerAway(str(self.away))
        if topic in self._asked and topic not in self._changed and topic not in self._unconfirmed:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.setdefault(topic, []).append(future)
        self._change(topic)
        self.need()
        await future

    def unsubscribe(self, topic: bytes) -> None:
        """Leave a topic; never waits."""
        self._wanted.discard(topic)
        self._change(topic)
        # It was had, and then no longer.
        self._done(topic)

    def _change(self, topic: bytes) -> None:
        if self.wire is None:
            # All that is wanted is asked for when there is a connection.
            return
        if not self._changed:
            self._loop.call_soon(self._flush)
        self._changed[topic] = None

    def _flush(self) -> None:
        if self.wire is None:
            return
        changed = list(self._changed)
        self._changed.clear()
        wanted, asked = self._wanted, self._asked
        leaving = [topic for topic in changed if topic in asked and topic not in wanted]
        coming = [topic for topic in changed if topic in wanted and topic not in asked]
        asked.difference_update(leaving)
        asked.update(coming)
        self._unconfirmed.update(coming)
        commands = b"".join([*_commands(b"UNSUBSCRIBE", leaving), *_commands(b"SUBSCRIBE", coming)])
        if commands:
            self.wire.write(commands)
        for topic in changed:
            # Left and wanted again before anybody heard of it.
            if topic in asked and topic not in self._unconfirmed:
                self._done(topic)

    def _done(self, topic: bytes) -> None:
        for future in self._waiting.pop(topic, ()):
            if not future.done():
                future.set_result(None)

    def _replied(self, replies: list[Any]) -> None:
        on_message = self._on_message
        for reply in replies:
            if type(reply) is list:
                kind = reply[0]
                if kind == b"message":
                    on_message(reply[1], reply[2])
                elif kind == b"subscribe":
                    self._confirmed(reply[1])
            elif isinstance(reply, Exception):
                # A subscription that is not allowed, for example. Which one Redis does not say.
                if self.wire is not None:
                    self.wire.lose(LayerAway(f"Redis refused a subscription: {reply}"))
                return

    def _confirmed(self, topic: bytes) -> None:
        if self._unconfirmed[topic] > 1:
            self._unconfirmed[topic] -= 1
            return
        del self._unconfirmed[topic]
        if topic in self._asked:
            self._done(topic)
        self._perhaps_all_there()

    def _perhaps_all_there(self) -> None:
        if self.wire is None or self._unconfirmed:
            return
        if self.away is not None:
            self._stands()
        if self.is_down:
            self.is_down = False
            self._on_line(True)

    def _ping(self) -> None:
        if self.wire is not None:
            self.wire.write(PING)

    def _silent(self) -> None:
        self._on_silence()

    def _came_up(self) -> None:
        self._changed = dict.fromkeys(self._wanted)
        self._flush()
        self._perhaps_all_there()

    def _went_away(self) -> None:
        self._asked.clear()
        self._unconfirmed.clear()
        self._changed.clear()
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(LayerAway(str(self.away)))
                    future.exception()
        if not self.is_down and not self._closed:
            self.is_down = True
            self._on_line(False)


def _commands(name: bytes, topics: list[bytes]) -> Iterable[bytes]:
    for start in range(0, len(topics), MAX_TOPICS_PER_COMMAND):
        chunk = topics[start : start + MAX_TOPICS_PER_COMMAND]
        parts = [b"*%d\r\n$%d\r\n%b\r\n" % (len(chunk) + 1, len(name), name)]
        parts += [b"$%d\r\n%b\r\n" % (len(topic), topic) for topic in chunk]
        yield b"".join(parts)
