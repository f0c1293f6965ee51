"""What carries events to a listener, and how it says that it could not.

A transport is as small as can be, so that another one is soon written: it carries a batch, or says
what was in the way. Queues, bounds, order, trying again and what is logged are in queues.py, once for
all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from hubs.hub_settings import EventListenerSettings
from hubs.upstream.listeners.message import Message


class Transport(Protocol):
    """A way to one listener. At most one `send` is under way at any time, and it may be cancelled."""

    # The largest batch it is given; one larger message comes alone.
    max_messages: int
    max_bytes: int

    async def send(self, batch: Sequence[Message]) -> None:
        """Carry all of a batch, in order. Raises TransportError; then all of it may come again."""

    async def close(self) -> None:
        """Let go of connections."""


# Makes a transport without connecting anywhere. May raise TransportError, which is tried again as well.
Open = Callable[[EventListenerSettings], Transport]


class TransportError(Exception):
    """A batch was not taken. The text is for operators and holds nothing secret.

    `tries`: after how many attempts the batch is given up; None: never, since nobody was there who
    could have objected to it. `too_large`: a smaller batch might be taken, so that is tried.
    """

    def __init__(
        self, text: str, *, status: int | None = None, tries: int | None = None, too_large: bool = False
    ) -> None:
        super().__init__(text)
        self.status = status
        self.tries = tries
        self.too_large = too_large
