"""The WebSocket door: one socket, ASGI events in, ASGI events out.

Channels' stock consumer gives every socket a channel of its own and handles one thing at a time,
entering a thread after each message to close database connections that the message might have
used. Here no message touches the ORM, deliveries come from the process's switchboard, and reading
goes on while an event handler works; so `__call__` is ours, and `dispatch` is not used.

Translated here, once: HandshakeRefused to an HTTP status, Disconnect to a close frame.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from channels.consumer import AsyncConsumer

from hubs import endpoints
from hubs.connections.connection import Connection
from hubs.connections.handshake import Admission, Handshake, admit, asks_for_recovery, hub_of
from hubs.connections.lane import Lane
from hubs.connections.outbox import QUEUE_FULL, Outbox
from hubs.errors import Disconnect, HandshakeRefused, Refusal
from hubs.messaging.switchboard import switchboard

logger = logging.getLogger(__name__)

Scope = Mapping[str, Any]
Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

NOT_RECOVERED = "The connection could not be recovered."


class HubConsumer(AsyncConsumer):
    """Serves one client of a hub."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the conversation from the server's `websocket.connect` to the end of the socket."""
        event = await receive()
        if event["type"] != "websocket.connect":
            return
        try:
            handshake = _handshake(scope)
            hub_of(handshake)
            if asks_for_recovery(handshake):
                await self._not_recovered(receive, send)
                return
            connection_id = switchboard().new_connection_id()
            admission = await admit(handshake, connection_id)
        except HandshakeRefused as refused:
            await _refuse(scope, send, refused)
            return
        except Exception:
            logger.exception("A handshake failed")
            await _refuse(scope, send, HandshakeRefused(500, "Internal server error."))
            return
        await _Conversation(connection_id, admission).run(scope, receive, send)

    @staticmethod
    async def _not_recovered(receive: Receive, send: Send) -> None:
        """Refuse a recovery as SDKs understand it: an open socket that closes with 1008.

        An HTTP error would look like a passing fault to them, and be tried again for half a minute.
        """
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1008, "reason": NOT_RECOVERED})
        while (await receive())["type"] != "websocket.disconnect":
            pass


class _Conversation:
    """One socket and its connection."""

    def __init__(self, connection_id: str, admission: Admission) -> None:
        self._connection_id = connection_id
        self._admission = admission
        self._too_slow = False

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        admission = self._admission
        outbox = Outbox(send, self._overflowed)
        connection = Connection(
            self._connection_id,
            admission.hub,
            admission.codec,
            outbox,
            user_id=admission.user_id,
            permissions=admission.permissions,
            subprotocol=admission.subprotocol,
            state=admission.state,
            ack_pause_secs=admission.ack_pause_secs,
        )
        self._connection = connection
        self._task = asyncio.current_task()
        try:
            await connection.begin(admission.groups)
        except BaseException as problem:
            # Also when cancelled: half a beginning must not stay reachable.
            connection.abort()
            if isinstance(problem, Refusal):
                logger.warning("A client was turned away: %s", problem.message)
                refused = HandshakeRefused(503, problem.message)
            elif isinstance(problem, Exception):
                logger.exception("A connection could not be attached")
                refused = HandshakeRefused(500, "Internal server error.")
            else:
                raise
            await _refuse(scope, send, refused)
            return
        reason = ""
        try:
            accept: Event = {"type": "websocket.accept"}
            if admission.subprotocol is not None:
                accept["subprotocol"] = admission.subprotocol
            await send(accept)
            connection.begun()
            reason = await self._listen(receive)
        except OSError:
            # The client left while the handshake was being answered.
            pass
        except asyncio.CancelledError:
            if not self._too_slow:
                raise
            reason = QUEUE_FULL
            await outbox.drained()
        finally:
            connection.end(reason)

    async def _listen(self, receive: Receive) -> str:
        """Feed messages to the connection until the socket is closed; gives the client's reason."""
        connection = self._connection
        lane = Lane(connection.handle, self._broke_off)
        try:
            while True:
                event = await receive()
                if event["type"] == "websocket.disconnect":
                    return event.get("reason") or ""
                if connection.closing:
                    continue
                text = event.get("text")
                try:
                    frame = connection.decode(event["bytes"] if text is None else text)
                except Disconnect as disconnect:
                    # In its turn: an event before it may still wait for its handler's answer.
                    lane.fail(disconnect)
                else:
                    await lane.put(frame)
        finally:
            lane.stop()

    def _broke_off(self, disconnect: Disconnect) -> None:
        self._connection.close(disconnect.code, disconnect.message)

    def _overflowed(self) -> None:
        """The client reads too slowly. Called in the middle of a fan-out, so acted on in the next turn."""
        self._too_slow = True
        asyncio.get_running_loop().call_soon(self._give_up)

    def _give_up(self) -> None:
        logger.info("Connection %s is closed: its client reads too slowly", self._connection.id)
        self._connection.leave()
        if self._task is not None:
            self._task.cancel()


def _handshake(scope: Scope) -> Handshake:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    return Handshake(
        hub=scope["url_route"]["kwargs"].get("hub"),
        query_string=scope.get("query_string", b"").decode("latin-1"),
        headers=headers,
        subprotocols=list(scope.get("subprotocols") or ()),
        endpoints=endpoints.accepted(scope.get("scheme", "ws"), {name.lower(): value for name, value in headers}),
    )


async def _refuse(scope: Scope, send: Send, refused: HandshakeRefused) -> None:
    """Answer the handshake with an HTTP status; a server that cannot will say 403."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    body = refused.message.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "websocket.http.response.start", "status": int(refused.status), "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


class NoSuchAddress(AsyncConsumer):
    """Answers WebSockets at addresses that are not of this service."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the handshake with 404."""
        await receive()
        await _refuse(scope, send, HandshakeRefused(404, "Not found. Clients connect to /client/hubs/{hub}."))
