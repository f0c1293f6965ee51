"""What came for one channel of this process: handed to a listener, or kept for `receive`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

Message = dict[str, Any]


class Mailbox:
    """One channel's messages.

    Bounded: a channel that nobody reads loses what comes over the bound, and the log says so.
    """

    def __init__(self, channel: str, decode: Callable[[bytes], Any], max_messages: int, max_bytes: int) -> None:
        self.channel = channel
        # The groups that this channel is in.
        self.groups: set[str] = set()
        self.on_message: Callable[[Message], None] | None = None
        self.on_line: Callable[[bool], None] | None = None
        self.on_silence: Callable[[], None] | None = None
        # How many read, and what ends it when nobody does any more.
        self.readers = 0
        self.leaving: asyncio.TimerHandle | None = None
        # What messages that nobody need read begin with, behind their first byte.
        self._passed_over: bytes | None = None
        self._decode = decode
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(max_messages)
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lost = 0

    def take(self, payload: bytes) -> None:
        """A message came."""
        if self.on_message is not None:
            if self._passed_over is not None and payload.startswith(self._passed_over, 1):
                return
            try:
                message = self._decode(payload)
            except Exception as problem:
                self._unreadable(problem)
                return
            try:
                self.on_message(message)
            except Exception:
                logger.exception("A message from the channel layer could not be handled")
            return
        if self._queue.full() or self._bytes + len(payload) > self._max_bytes:
            self._lost += 1
            if self._lost == 1:
                logger.error("Channel %s is not read; what comes for it now is lost", self.channel)
            return
        self._bytes += len(payload)
        self._queue.put_nowait(payload)

    async def receive(self) -> Any:
        """The next message."""
        while True:
            payload = await self._queue.get()
            self._bytes -= len(payload)
            if self._lost:
                logger.error("Channel %s is read again; %d messages were lost", self.channel, self._lost)
                self._lost = 0
            try:
                return self._decode(payload)
            except Exception as problem:
                self._unreadable(problem)

    def listen(
        self,
        on_message: Callable[[Message], None],
        on_line: Callable[[bool], None],
        on_silence: Callable[[], None] | None = None,
        passed_over: bytes | None = None,
    ) -> None:
        """Have messages handed over as they come, beginning with those that came already."""
        self.on_message, self.on_line, self.on_silence = on_message, on_line, on_silence
        self._passed_over = passed_over
        while not self._queue.empty():
            payload = self._queue.get_nowait()
            self._bytes -= len(payload)
            self.take(payload)

    def tell(self, up: bool) -> None:
        """Say to the listener, if there is one, that the line is there again, or is not."""
        if self.on_line is None:
            return
        try:
            self.on_line(up)
        except Exception:
            logger.exception("The state of the line could not be handled")

    def tell_of_silence(self) -> None:
        """Say to the listener, if it wants to know, that Redis does not answer."""
        if self.on_silence is None:
            return
        try:
            self.on_silence()
        except Exception:
            logger.exception("The silence of the line could not be handled")

    def _unreadable(self, problem: Exception) -> None:
        logger.warning("Passed over a message on the channel layer that cannot be read: %s", problem)
