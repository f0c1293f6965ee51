"""A client of the service as raw as a test needs it, and tokens as the official SDK makes them."""

from __future__ import annotations

import asyncio
import base64
import json
import socket as sockets
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import urlencode, urlsplit

import jwt
import pytest
from azure.core.exceptions import HttpResponseError
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.running import PATIENCE
from tests.service import protobuf_frames

JSON = "json.webpubsub.azure.v1"
JSON_RELIABLE = "json.reliable.webpubsub.azure.v1"
PROTOBUF = "protobuf.webpubsub.azure.v1"
PROTOBUF_RELIABLE = "protobuf.reliable.webpubsub.azure.v1"
SUBPROTOCOLS = (JSON, JSON_RELIABLE, PROTOBUF, PROTOBUF_RELIABLE)
NOT_RECOVERED = (1008, "The connection could not be recovered.")
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

    def moved(self, url: str) -> str:
        """The same client URL at this service's address: another process of the same service."""
        return urlsplit(url)._replace(netloc=self.host).geturl()

    def address(self, hub: str = "chat", **query: str) -> str:
        """The WebSocket address of a hub, with no token unless one is given."""
        return f"ws://{self.host}/client/hubs/{hub}" + (f"?{urlencode(query)}" if query else "")


class Sdk:
    """The official service SDK for one hub, awaited."""

    def __init__(self, target: Target, hub: str = "chat") -> None:
        self._target, self._hub = target, hub

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return partial(asyncio.to_thread, self._call, name)

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        with self._target.service_client(self._hub) as client:
            return getattr(client, name)(*arguments, **options)

    async def members(self, group: str) -> list[str]:
        """The connection ids of a group's members, in order."""

        def listed() -> list[str]:
            with self._target.service_client(self._hub) as client:
                return [member.connection_id for member in client.list_connections(group=group)]

        return await asyncio.to_thread(listed)


async def known_members(target: Target, group: str) -> list[str]:
    """The members of a group, as soon as they are known."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await Sdk(target).members(group)
            except HttpResponseError as unknown:
                if unknown.status_code != 503:
                    raise


class Client:
    """One open socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    @property
    def subprotocol(self) -> str | None:
        return self.socket.subprotocol

    @property
    def _speaks_protobuf(self) -> bool:
        return (self.subprotocol or "").lower() in (PROTOBUF, PROTOBUF_RELIABLE)

    async def hear(self) -> Any:
        """The next message: an object where it is JSON text or a protobuf frame, else as it came."""
        message = await self.hear_raw()
        if self._speaks_protobuf:
            assert isinstance(message, bytes), f"a text message on {self.subprotocol}: {message!r}"
            return protobuf_frames.read(message)
        return json.loads(message) if isinstance(message, str) and message.startswith("{") else message

    async def hear_raw(self) -> str | bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.socket.recv()

    async def fragments(self) -> list[bytes]:
        """The next message as the WebSocket frames it came in."""
        async with asyncio.timeout(PATIENCE):
            return [fragment async for fragment in self.socket.recv_streaming(decode=False)]

    async def say(self, **frame: Any) -> None:
        """Send one frame, given as in JSON, in the client's subprotocol."""
        await self.socket.send(protobuf_frames.write(frame) if self._speaks_protobuf else json.dumps(frame))

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

    async def hear_out(self) -> tuple[list[Any], tuple[int, str] | None]:
        """All that comes until the socket ends, and the service's close frame if there is one."""
        heard: list[Any] = []
        try:
            while True:
                heard.append(await self.hear())
        except ConnectionClosed as closed:
            return heard, closed.rcvd and (closed.rcvd.code, closed.rcvd.reason)

    # Ways to go

    async def reset(self) -> None:
        """Lose the TCP connection at once (RST), as when a machine breaks down."""
        # Lingering for no time at all makes closing a reset.
        self.socket.transport.get_extra_info("socket").setsockopt(
            sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.socket.transport.abort()
        async with asyncio.timeout(PATIENCE):
            await self.socket.wait_closed()

    async def drop(self) -> None:
        """Close the socket without a close frame, as a process does that is killed."""
        self.socket.transport.abort()
        async with asyncio.timeout(PATIENCE):
            await self.socket.wait_closed()

    async def hang_up(self) -> None:
        """End the TCP stream without a close frame (FIN), and wait until the service has ended its side.

        What was on its way to the client is lost.
        """
        self.socket.transport.write_eof()
        await self._drained()

    async def close(self, code: int | None = None, reason: str = "") -> None:
        """Close with a close frame; without a code, as browsers' `close()` does."""
        async with asyncio.timeout(PATIENCE):
            if code is None:
                async with self.socket.send_context():
                    self.socket.protocol.send_close()
            else:
                await self.socket.close(code, reason)
        await self._drained()

    async def _drained(self) -> None:
        with suppress(ConnectionClosed):
            async with asyncio.timeout(PATIENCE):
                while True:
                    await self.socket.recv()

    def stop_reading(self) -> None:
        """Take nothing from the socket any more, as a machine that cannot be reached."""
        # What its kernel still takes is bounded, by less than the tens of megabytes it could grow to.
        self.socket.transport.get_extra_info("socket").setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 64 * 1024)
        self.socket.transport.pause_reading()

    def go_on_reading(self) -> None:
        self.socket.transport.resume_reading()


class Reliable(Client):
    """A client of a reliable subprotocol: it outlives its socket.

    It watches over the sequence ids itself. Whatever data frame it hears has to bear the one that
    follows the last; after a recovery, the one that follows the last it acknowledged.
    """

    def __init__(self, socket: ClientConnection, url: str, connected: Mapping[str, Any], stack: AsyncExitStack) -> None:
        super().__init__(socket)
        self.url = url
        self.id: str = connected["connectionId"]
        self.token: str = connected["reconnectionToken"]
        self.heard = self.acknowledged = 0
        self._stack = stack
        self._offers = self.subprotocol or ""

    async def hear(self) -> Any:
        """The next frame, without its sequence id, which has to be the next one."""
        frame = await super().hear()
        if frame["type"] == "message":
            sequence_id = frame.pop("sequenceId")
            assert sequence_id == self.heard + 1, f"{sequence_id} follows {self.heard}"
            self.heard = sequence_id
        else:
            assert "sequenceId" not in frame
        return frame

    async def acknowledge(self, sequence_id: int | None = None) -> None:
        """Acknowledge all that was heard, or up to `sequence_id`, and see that it arrived."""
        sequence_id = self.heard if sequence_id is None else sequence_id
        await self.say(type="sequenceAck", sequenceId=sequence_id)
        await self.barrier()
        self.acknowledged = max(self.acknowledged, min(sequence_id, self.heard))

    def recovery_url(self, at: Target | None = None, **changed: str | None) -> str:
        """The URL of the connection with what recovers it, as the SDKs write it; a change to None leaves it out."""
        recovery = {"awps_connection_id": self.id, "awps_reconnection_token": self.token} | changed
        url = self.url if at is None else at.moved(self.url)
        return f"{url}&{urlencode({name: value for name, value in recovery.items() if value is not None})}"

    async def recover(self, at: Target | None = None, *, url: str | None = None) -> None:
        """Open a new socket for the connection, at another process where one is given; the old one stays as it is."""
        client = await self._stack.enter_async_context(
            opened(url or self.recovery_url(at), self._offers, connected=False)
        )
        self.take_over(client)

    def take_over(self, client: Client) -> None:
        """Go on with a socket that has recovered the connection."""
        # At the end of the test nobody reads the old one's last words, so they are not waited for.
        self._stack.callback(self.socket.transport.abort)
        self.socket = client.socket
        self.heard = self.acknowledged

    async def claim(self, *urls: str) -> None:
        """Recover with several URLs at once: one socket gets the connection.

        Each other one is closed with 1001, or told by 503 that it came second.
        """
        attempts = await asyncio.gather(
            *(self._stack.enter_async_context(opened(url, self._offers, connected=False)) for url in urls),
            return_exceptions=True,
        )
        claims = [attempt for attempt in attempts if isinstance(attempt, Client)]
        refused = [attempt for attempt in attempts if not isinstance(attempt, Client)]
        assert all(isinstance(each, InvalidStatus) and each.response.status_code == 503 for each in refused), refused
        closings = {asyncio.create_task(claim.socket.wait_closed()): claim for claim in claims}
        try:
            async with asyncio.timeout(PATIENCE):
                while len(closings) > 1:
                    done, _ = await asyncio.wait(closings, return_when=asyncio.FIRST_COMPLETED)
                    for claim in map(closings.pop, done):
                        assert claim.socket.close_code == 1001
        finally:
            for closing in closings:
                closing.cancel()
        [winner] = closings.values()
        self.take_over(winner)

    async def cannot_recover(self, at: Target | None = None, *, url: str | None = None) -> None:
        """See that the connection cannot be recovered."""
        async with opened(url or self.recovery_url(at), self._offers, connected=False) as client:
            # Browsers give up on a socket whose offer is not answered, and would never read the code.
            assert client.subprotocol == self._offers
            assert await client.closed() == NOT_RECOVERED


@asynccontextmanager
async def reliable(url: str, subprotocol: str = JSON_RELIABLE) -> AsyncIterator[Reliable]:
    """A reliable client, connected to `url`."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(opened(url, subprotocol, connected=False))
        connected = await client.hear()
        assert connected["event"] == "connected"
        yield Reliable(client.socket, url, connected, stack)


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
        if connected is None and (socket.subprotocol or "").lower() in SUBPROTOCOLS:
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


def server_message(data: Any, data_type: str = "json") -> dict[str, Any]:
    """A message from the application's server or event handler as JSON clients get it."""
    return {"type": "message", "from": "server", "dataType": data_type, "data": data}


async def publish(publisher: Client, group: str, *data: Any, **more: Any) -> None:
    """Publish to a group, and see that the publisher's process has done so."""
    for item in data:
        await publisher.say(type="sendToGroup", group=group, data=item, noEcho=True, **more)
    await publisher.barrier()


async def hears(client: Client, group: str, *data: Any) -> None:
    """The next messages are these, from the group, published by nobody known."""
    for item in data:
        assert await client.hear() == group_message(group, item)


async def ask_event(client: Client, event: str, data: Any) -> Any:
    """What the event handler answers."""
    return (await client.ask(type="event", event=event, data=data))["data"]
