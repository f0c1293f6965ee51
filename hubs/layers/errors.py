"""What a layer says no with. Most are kinds of what callers of any Channels layer on Redis expect already."""

from __future__ import annotations

from asyncio import Future

from channels.exceptions import ChannelFull
from redis.exceptions import ConnectionError as RedisConnectionError


class LayerAway(RedisConnectionError):
    """Redis cannot be reached, did not answer in time, or refused.

    Of a post it says that its entry is not in the log and never will be. A command of another kind may have been
    executed.
    """


class LayerInDoubt(LayerAway):
    """The connection was lost after a post was written and before it was answered.

    `outcome` is done once Redis has been asked again: with the entry's position, or with None, which means that the
    entry is not in the log and never will be. It fails with LogTrimmed if the part of the log in which the entry would
    be is gone meanwhile, and with LayerAway if the layer is closed before anybody could ask.
    """

    def __init__(self, message: str, outcome: Future[int | None]) -> None:
        super().__init__(message)
        self.outcome = outcome


class LayerFull(ChannelFull):
    """More waits for Redis than may; what was asked has not been done and will not be."""


class LogTrimmed(Exception):
    """The entry at the position to read behind is not in the log any more, so entries behind it may be missing too."""
