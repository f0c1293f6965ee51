"""The WebSocket door: one socket, ASGI events in, ASGI events out.

Channels' stock consumer gives every socket a channel of its own and handles one thing at a time,
entering a thread after each message to close database connections that the message might have
used. Here no message touches the ORM, deliveries come from the process's node, and reading
goes on while an event handler works; so `__call__` is ours, and `dispatch` is not used.

A connection of a reliable subprotocol outlives its socket, and this consumer with it: a socket that
asks for an earlier connection is put together with that (connections/recovery.py).

Translated here, once: HandshakeRefused to an HTTP status, NotRecovered to a close frame.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from channels.consumer import AsyncConsumer

from hubs import callers, close_codes, endpoints, operations
from hubs.connections import eviction, snapshots
from hubs.connections.connection import Connection
from hubs.connections.direct import DirectOutbox
from hubs.connections.handshake import Admission, Handshake, admit, asks_for_recovery, hub_of
from hubs.connections.outbox import AsgiOutbox
from hubs.connections.recovery import NotRecovered, bring_back
from hubs.errors import DatabaseUnavailable, HandshakeRefused, NotFound, Refusal, Unavailable
from hubs.node.node import node
from hubs.protocols.codec import choose
from hubs.protocols.extension import EXTENSION, SILENT_SECS

logger = logging.getLogger(__name__)

Scope = Mapping[str, Any]
Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


# When a client that is refused for the service's own sake may come again.
RETRY_AFTER_SECS = b"1"

# The close code of a socket that ended without any.
LOST = 1006


class HubConsumer(AsyncConsumer):
    """Serves one client of a hub."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the conversation from the server's `websocket.connect` to the end of the socket."""
        event = await receive()
        if event["type"] != "websocket.connect":
            return
        hub = None
        try:
            handshake = _handshake(scope)
            hub = hub_of(handshake)
            recovering = asks_for_recovery(handshake)
            if recovering is None:
                if operations.unreachable() is not None:
                    # Before an event handler hears of a client that would be turned away behind it.
                    raise HandshakeRefused(503, operations.UNREACHABLE)
                connection_id = node().new_connection_id()
                admission = await admit(handshake, connection_id)
        except HandshakeRefused as refused:
            logger.info(
                "A handshake was refused: hub %s, from %s: %d, %s",
                hub or "none",
                callers.of_scope(scope),
                refused.status,
                callers.legible(refused.message),
            )
            await _refuse(scope, send, refused)
            return
        except DatabaseUnavailable as unavailable:
            # The log has its line (hubs.hub_settings); one for each client would say no more.
            await _refuse(scope, send, HandshakeRefused(503, unavailable.message))
            return
        except Exception:
            logger.exception("A handshake failed")
            await _refuse(scope, send, HandshakeRefused(500, "Internal server error."))
            return
        if recovering is None:
            await _Conversation(scope, receive, send).begin(scope, connection_id, admission)
            return
        # Nothing but the end of the socket comes before it is accepted.
        leaving = asyncio.ensure_future(receive())
        try:
            connection = await bring_back(hub, *recovering, has_left=leaving.done)
            if await _stays(leaving):
                await _Conversation(scope, receive, send).resume(connection)
        except Unavailable as unavailable:
            # Cancelled: it was no longer needed, and the socket is still there.
            if leaving.done() and not leaving.cancelled():
                return
            # Clients take an HTTP error for what it is here: a reason to try again.
            await _refuse(scope, send, HandshakeRefused(503, unavailable.message))
        except NotRecovered:
            if await _stays(leaving):
                await _not_recovered(handshake, receive, send)
        except Exception:
            logger.exception("A recovery failed")
            if await _stays(leaving):
                await _not_recovered(handshake, receive, send)
        finally:
            leaving.cancel()


class _Conversation:
    """One socket, and the connection it is for."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        direct = EXTENSION in (scope.get("extensions") or {})
        self._outbox: DirectOutbox | AsgiOutbox = DirectOutbox() if direct else AsgiOutbox(send, self._overflowed)
        self._too_slow = False
        self._task = asyncio.current_task()

    async def begin(self, scope: Scope, connection_id: str, admission: Admission) -> None:
        """Run a new connection."""
        connection = Connection(
            connection_id,
            admission.hub,
            admission.codec,
            self._outbox,
            user_id=admission.user_id,
            permissions=admission.permissions,
            subprotocol=admission.subprotocol,
            session=admission.session,
            ack_pause_secs=admission.ack_pause_secs,
        )
        self._connection = connection
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
            await _refuse(scope, self._send, refused)
            return
        await self._run(self._begun)

    def _begun(self) -> None:
        self._connection.begun()
        here = node()
        if here.keeps and self._connection.is_reliable:
            # The first one does not say yet that it was open.
            snapshots.write(here, self._connection)
            snapshots.keep(here)
        if self._connection.outbox is not self._outbox:
            # The server began to stop meanwhile: the client is told what it was to be told, and goes elsewhere.
            self._outbox.uncork()

    async def resume(self, connection: Connection) -> None:
        """Go on with a connection whose client is back. Raises NotRecovered if it has just ended, Unavailable."""
        self._connection = connection
        try:
            connection.resume(self._outbox)
        except NotFound:
            raise NotRecovered from None
        await self._run(self._outbox.uncork)

    async def _run(self, opened: Callable[[], None]) -> None:
        accept: Event = {"type": "websocket.accept"}
        if self._connection.subprotocol is not None:
            accept["subprotocol"] = self._connection.subprotocol
        if isinstance(self._outbox, DirectOutbox):
            await self._hand_over(accept, self._outbox, opened)
        else:
            await self._converse(accept, self._outbox, opened)

    async def _hand_over(self, accept: Event, outbox: DirectOutbox, opened: Callable[[], None]) -> None:
        """Leave the rest to server and outbox; this coroutine ends, and the conversation goes on."""
        outbox.begin_with(self._connection, opened)
        try:
            await self._send(accept | {EXTENSION: outbox})
        except BaseException as problem:
            outbox.gone(LOST, "")
            # The client left while the handshake was being answered.
            if not isinstance(problem, OSError):
                raise

    async def _converse(self, accept: Event, outbox: AsgiOutbox, opened: Callable[[], None]) -> None:
        connection = self._connection
        code, reason = LOST, ""
        try:
            await self._send(accept)
            opened()
            code, reason = await self._listen()
        except OSError:
            # The client left while the handshake was being answered.
            pass
        except asyncio.CancelledError:
            if not self._too_slow:
                raise
            reason = close_codes.QUEUE_FULL.reason
            await outbox.drained()
        finally:
            if connection.outbox is outbox:
                outbox.log_end(connection, reason)
            connection.socket_gone(outbox, code, reason)

    async def _listen(self) -> tuple[int, str]:
        """Feed messages to the connection until the socket is closed; gives the client's code and reason."""
        connection = self._connection
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                self._outbox.silent_secs = event.get(SILENT_SECS, 0.0)
                return _code(event), event.get("reason") or ""
            # Not when it is over, nor when another socket has taken its place.
            if connection.outbox is self._outbox and not connection.closing:
                text = event.get("text")
                await connection.receive(event["bytes"] if text is None else text)

    def _overflowed(self, cause: str, waiting: str) -> None:
        """The client reads too slowly. Called in the middle of a fan-out, so acted on in the next turn."""
        self._too_slow = True
        asyncio.get_running_loop().call_soon(self._give_up, cause, waiting)

    def _give_up(self, cause: str, waiting: str) -> None:
        connection = self._connection
        if connection.outbox is self._outbox:
            eviction.log(connection, cause, waiting)
            connection.give_up(close_codes.QUEUE_FULL.reason)
        if self._task is not None:
            self._task.cancel()


async def _stays(leaving: asyncio.Future[Event]) -> bool:
    """Wait no longer for the end of a socket; tells whether it has not come."""
    leaving.cancel()
    await asyncio.wait([leaving])
    return leaving.cancelled()


async def _not_recovered(handshake: Handshake, receive: Receive, send: Send) -> None:
    """Refuse a recovery as SDKs understand it: an open socket that closes with 1008.

    An HTTP error would look like a passing fault to them, and be tried again for half a minute. Many
    clients open a socket only if one of the subprotocols they offered is chosen.
    """
    accept: Event = {"type": "websocket.accept"}
    subprotocol, _ = choose(handshake.subprotocols)
    if subprotocol is not None:
        accept["subprotocol"] = subprotocol
    try:
        await send(accept)
        code, reason = close_codes.NOT_RECOVERED.frame
        await send({"type": "websocket.close", "code": code, "reason": reason})
    except OSError:
        return
    while (await receive())["type"] != "websocket.disconnect":
        pass


def _code(event: Event) -> int:
    """The close code of a `websocket.disconnect`, 1006 if the socket was lost without a close frame.

    Our servers say so themselves (hubs/servers). A plain uvicorn says 1005 for both a close frame
    without code and a loss, but gives a reason, if an empty one, in the first case alone.
    """
    code = event.get("code")
    if code is None:
        return 1005
    return LOST if code == 1005 and "reason" not in event else int(code)


def _handshake(scope: Scope) -> Handshake:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    own = endpoints.requested(scope.get("scheme", "ws"), {name.lower(): value for name, value in headers})
    return Handshake(
        hub=scope["url_route"]["kwargs"].get("hub"),
        query_string=scope.get("query_string", b"").decode("latin-1"),
        headers=headers,
        subprotocols=list(scope.get("subprotocols") or ()),
        endpoints=endpoints.configured_and(own),
        origin=endpoints.origin(own),
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
    if refused.status == 503:
        headers.append((b"retry-after", RETRY_AFTER_SECS))
    await send({"type": "websocket.http.response.start", "status": int(refused.status), "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


class NoSuchAddress(AsyncConsumer):
    """Answers WebSockets at addresses that are not of this service."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the handshake with 404."""
        await receive()
        await _refuse(scope, send, HandshakeRefused(404, "Not found. Clients connect to /client/hubs/{hub}."))
