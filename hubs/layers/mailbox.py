"""What came for one channel of this process: handed to a listener, or kept for `receive`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from hubs.layers.positions import Position

logger = logging.getLogger(__name__)

Message = dict[str, Any]
OnEntry = Callable[[str, Position, Message], None]


class Member:
    """A channel in a group."""

    __slots__ = ("adds", "mailbox", "position")

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        # The last entry that it got; None when it gets none: it left, or where the log ends is being asked, by so many.
        self.position: Position | None = None
        self.adds = 0


class Mailbox:
    """One channel's messages.

    Bounded: a channel that nobody reads loses what comes over the bound, and the log says so.
    """

    def __init__(self, channel: str, decode: Callable[[bytes], Any], max_messages: int, max_bytes: int) -> None:
        self.channel = channel
        # By name, the groups that this channel is in, or is being added to.
        self.groups: dict[str, Member] = {}
        self.on_entry: OnEntry | None = None
        self.on_line: Callable[[bool], None] | None = None
        self.on_gap: Callable[[str], None] | None = None
        # How many read, and what ends it when nobody does any more.
        self.readers = 0
        self.leaving: asyncio.TimerHandle | None = None
        self._decode = decode
        self._queue: asyncio.Queue[tuple[str, Position, bytes]] = asyncio.Queue(max_messages)
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lost = 0

    def take(self, source: str, position: Position, payload: bytes) -> None:
        """An entry of a group came, or one for the channel itself."""
        if self.on_entry is not None:
            try:
                message = self._decode(payload)
            except Exception as problem:
                self._unreadable(problem)
                return
            try:
                self.on_entry(source, position, message)
            except Exception:
                logger.exception("A message from the channel layer could not be handled")
            return
        if self._queue.full() or self._bytes + len(payload) > self._max_bytes:
            self._lost += 1
            if self._lost == 1:
                logger.error("Channel %s is not read; what comes for it now is lost", self.channel)
            return
        self._bytes += len(payload)
        self._queue.put_nowait((source, position, payload))

    async def receive(self) -> Any:
        """The next message."""
        while True:
            _, _, payload = await self._queue.get()
            self._bytes -= len(payload)
            if self._lost:
                logger.error("Channel %s is read again; %d messages were lost", self.channel, self._lost)
                self._lost = 0
            try:
                return self._decode(payload)
            except Exception as problem:
                self._unreadable(problem)

    def listen(self, on_entry: OnEntry, on_line: Callable[[bool], None], on_gap: Callable[[str], None]) -> None:
        """Have messages handed over as they come, beginning with those that came already."""
        self.on_entry, self.on_line, self.on_gap = on_entry, on_line, on_gap
        while not self._queue.empty():
            source, position, payload = self._queue.get_nowait()
            self._bytes -= len(payload)
            self.take(source, position, payload)

    def close(self) -> None:
        """Hand over nothing any more."""
        self.on_entry, self.on_line, self.on_gap = _pass_over, None, None

    def tell(self, up: bool) -> None:
        """Say to the listener, if there is one, that the line is there again, or is not."""
        if self.on_line is None:
            return
        try:
            self.on_line(up)
        except Exception:
            logger.exception("The state of the line could not be handled")

    def tell_of_gap(self, source: str) -> None:
        """Say to the listener, or in the log, that entries may be missing."""
        if self.on_gap is None:
            if self.on_entry is None:
                logger.error("Channel %s may have missed messages of %s: Redis has lost them", self.channel, source)
            return
        try:
            self.on_gap(source)
        except Exception:
            logger.exception("A gap in a log could not be handled")

    def _unreadable(self, problem: Exception) -> None:
        logger.warning("Passed over a message on the channel layer that cannot be read: %s", problem)


def _pass_over(source: str, position: Position, message: Message) -> None:
    pass
