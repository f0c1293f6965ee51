"""The consumer of the Channels tutorial, speaking the frames that the bench's clients speak."""

from typing import Any
from urllib.parse import parse_qs

from channels.generic.websocket import AsyncJsonWebsocketConsumer


class ChatConsumer(AsyncJsonWebsocketConsumer):
    """Joins groups and sends to them; every connection is a channel of its own."""

    async def connect(self) -> None:
        self.user_id = parse_qs(self.scope["query_string"].decode()).get("user", ["anonymous"])[0]
        self.joined: set[str] = set()
        await self.accept()

    async def disconnect(self, code: int) -> None:
        for group in self.joined:
            await self.channel_layer.group_discard(group, self.channel_name)

    async def receive_json(self, content: dict[str, Any], **kwargs: Any) -> None:
        kind, group = content["type"], content["group"]
        if kind == "joinGroup":
            await self.channel_layer.group_add(group, self.channel_name)
            self.joined.add(group)
        elif kind == "sendToGroup":
            await self.channel_layer.group_send(
                group,
                {
                    "type": "group.message",
                    "group": group,
                    "fromUserId": self.user_id,
                    "dataType": content["dataType"],
                    "data": content["data"],
                },
            )
        if "ackId" in content:
            await self.send_json({"type": "ack", "ackId": content["ackId"], "success": True})

    async def group_message(self, event: dict[str, Any]) -> None:
        await self.send_json(
            {
                "type": "message",
                "from": "group",
                "group": event["group"],
                "fromUserId": event["fromUserId"],
                "dataType": event["dataType"],
                "data": event["data"],
            }
        )
