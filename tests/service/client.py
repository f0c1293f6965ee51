"""A client of the service as raw as a test needs it, and tokens as the official SDK makes them."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

import jwt
import pytest
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.running import PATIENCE

JSON = "json.webpubsub.azure.v1"
EVERY_ROLE = ("webpubsub.joinLeaveGroup", "webpubsub.sendToGroup")


class Target:
    """A running service, known by its connection string and nothing else."""

    def __init__(self, connection_string: str) -> None:
        self.connection_string = connection_string
        parts = dict(part.split("=", 1) for part in connection_string.split(";") if part)
        self.endpoint = parts["Endpoint"].rstrip("/")
        self.key = parts["AccessKey"]
        self.host = urlsplit(self.endpoint).netloc

    def service_client(self, hub: str) -> WebPubSubServiceClient:
        """The official service SDK."""
        return WebPubSubServiceClient.from_connection_string(self.connection_string, hub=hub)

    def url(
        self,
        hub: str = "chat",
        *,
        user: str | None = None,
        roles: Sequence[str] = EVERY_ROLE,
        groups: Sequence[str] = (),
        extra: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    ) -> str:
        """A client URL as the official SDK writes it, with more query parameters behind."""
        made = self.service_client(hub).get_client_access_token(user_id=user, roles=list(roles), groups=list(groups))
        return made["url"] + (f"&{urlencode(extra, doseq=True)}" if extra else "")

    def token(self, hub: str = "chat", *, key: str | None = None, algorithm: str = "HS256", **claims: Any) -> str:
        """A token of the test's own making; a claim of None is left out."""
        whole = {"aud": f"{self.endpoint}/client/hubs/{hub}", "exp": int(time.time()) + 3600} | claims
        whole = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(whole, self.key if key is None else key, algorithm=algorithm)

    def address(self, hub: str = "chat", **query: str) -> str:
        """The WebSocket address of a hub, with no token unless one is given."""
        return f"ws://{self.host}/client/hubs/{hub}" + (f"?{urlencode(query)}" if query else "")


class Client:
    """One open socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    @property
    def subprotocol(self) -> str | None:
        return self.socket.subprotocol

    async def hear(self) -> Any:
        """The next message: an object where it is JSON text, else as it came."""
        message = await self.hear_raw()
        return json.loads(message) if isinstance(message, str) and message.startswith("{") else message

    async def hear_raw(self) -> str | bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.socket.recv()

    async def say(self, **frame: Any) -> None:
        """Send one frame of the JSON subprotocol."""
        await self.socket.send(json.dumps(frame))

    async def say_raw(self, message: str | bytes, *, as_text: bool | None = None) -> None:
        await self.socket.send(message, text=as_text)

    async def ask(self, **frame: Any) -> Any:
        """Send a frame and give the next message."""
        await self.say(**frame)
        return await self.hear()

    async def join(self, group: str, ack_id: int = 1_000_001) -> None:
        """Join a group and see that it worked."""
        answer = await self.ask(type="joinGroup", group=group, ackId=ack_id)
        assert answer == {"type": "ack", "ackId": ack_id, "success": True}

    async def barrier(self) -> None:
        """All that was said before has been handled, and nothing was answered."""
        assert await self.ask(type="ping") == {"type": "pong"}

    async def closed(self) -> tuple[int | None, str]:
        """Wait for the service's close frame; gives code and reason. Messages before it fail the test."""
        with pytest.raises(ConnectionClosed) as closed:
            raise AssertionError(f"expected a close frame, heard {await self.hear_raw()!r}")
        frame = closed.value.rcvd
        assert frame is not None, "the connection ended without a close frame"
        return frame.code, frame.reason


@asynccontextmanager
async def opened(
    url: str, *offered: str, headers: Mapping[str, str] | None = None, connected: bool | None = None
) -> AsyncIterator[Client]:
    """A socket to `url`. The connected frame is taken off it, unless `connected` is False."""
    subprotocols = [Subprotocol(name) for name in offered]
    async with connect(
        url,
        subprotocols=subprotocols or None,
        additional_headers=headers,
        compression=None,
        max_size=None,
        open_timeout=PATIENCE,
        close_timeout=PATIENCE,
        proxy=None,
    ) as socket:
        client = Client(socket)
        if connected is None and socket.subprotocol is not None and socket.subprotocol.lower() == JSON:
            assert (await client.hear())["event"] == "connected"
        yield client


async def refused(url: str, *offered: str, headers: Mapping[str, str] | None = None) -> int:
    """The HTTP status with which a handshake is refused."""
    status = await answered(url, *offered, headers=headers)
    assert status != 101, "the handshake was accepted"
    return status


async def answered(url: str, *offered: str, headers: Mapping[str, str] | None = None) -> int:
    """The HTTP status with which a handshake is answered."""
    try:
        async with opened(url, *offered, headers=headers, connected=False):
            return 101
    except InvalidStatus as status:
        return status.response.status_code


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ok(ack_id: int) -> dict[str, Any]:
    return {"type": "ack", "ackId": ack_id, "success": True}


def group_message(group: str, data: Any, data_type: str = "json", user: str | None = None) -> dict[str, Any]:
    """A group message as JSON clients get it."""
    message = {"type": "message", "from": "group", "group": group, "dataType": data_type, "data": data}
    return message | ({"fromUserId": user} if user else {})
