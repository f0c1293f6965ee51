"""What a layer says no with. Both are kinds of what callers of any Channels layer on Redis expect already."""

from __future__ import annotations

from channels.exceptions import ChannelFull
from redis.exceptions import ConnectionError as RedisConnectionError


class LayerAway(RedisConnectionError):
    """Redis cannot be reached, or did not answer in time. What was asked of it may have been done all the same."""


class LayerFull(ChannelFull):
    """More waits for Redis than may; what was asked has not been done."""
