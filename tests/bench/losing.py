"""A channel layer that loses a message now and then, for the bench to notice."""

from __future__ import annotations

from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer


class LosingLayer(RedisPubSubChannelLayer):
    """Forgets an early message that is sent to a group: a busy machine may send few in the time that it is given."""

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if message.get("number") != 2:
            await super()._get_layer().group_send(group, message)
