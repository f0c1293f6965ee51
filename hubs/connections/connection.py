"""One logical connection: a frame comes in, an operation is done, an answer goes out.

The connection knows who the client is, what it may do and where it is a member. It does not know
sockets: messages come as `str` or `bytes`, and go to an outbox. Frames are handled one at a time
(connections/lane.py sees to it); deliveries from others arrive at any moment through `deliver`.

Errors are translated here, once: a Refusal becomes an ack (or silence, without ackId) and the
connection lives; a Disconnect travels up to whoever feeds messages in and ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from hubs import conf, operations
from hubs.connections.outbox import Outbox
from hubs.errors import Disconnect, Duplicate, Forbidden, Refusal
from hubs.protocols.codec import Codec, Message, Outgoing
from hubs.protocols.frames import (
    TEXT,
    Ack,
    Connected,
    Disconnected,
    Downstream,
    JoinGroup,
    LeaveGroup,
    Payload,
    Ping,
    Pong,
    SendToGroup,
    SequenceAck,
    ServerMessage,
    Upstream,
    UserEvent,
)
from hubs.rules.reliability import AckMemory
from hubs.rules.roles import Permissions
from hubs.upstream import EventContext, UserEventRequest, dispatch

logger = logging.getLogger(__name__)

TOO_LARGE = "The client message is too large."
NOT_ALLOWED = "The client does not have permission to {verb} group '{group}'."
INTERNAL_ERROR = "Internal server error"


class Connection:
    """A client's place in a hub, from handshake to goodbye."""

    def __init__(
        self,
        connection_id: str,
        hub: str,
        codec: Codec,
        outbox: Outbox,
        *,
        user_id: str | None,
        permissions: Permissions,
        subprotocol: str | None = None,
        state: str | None = None,
        ack_pause_secs: float = 0,
    ) -> None:
        self.id = connection_id
        self.hub = hub
        self.codec = codec
        self.outbox = outbox
        self.user_id = user_id
        self.permissions = permissions
        self.subprotocol = subprotocol
        self.state = state
        self.groups: set[str] = set()
        self._end_reason = ""
        self._ack_pause_secs = ack_pause_secs
        self._acks = AckMemory(conf.settings.DUPLICATE_MEMORY)

    @property
    def context(self) -> EventContext:
        """The connection as event handlers see it."""
        return EventContext(self.hub, self.id, self.user_id, self.subprotocol, self.state)

    # Beginning and end

    async def begin(self, groups: tuple[str, ...]) -> None:
        """Say `connected`, then become reachable; nothing of it leaves before the outbox is uncorked.

        The frame is put first so that it stays first, and sent last, so that whoever reads it finds
        the connection and its groups in place.
        """
        self._tell(Connected(self.id, self.user_id))
        await operations.attach(self, groups)

    def begun(self) -> None:
        """The socket is open: send what waits, and tell the event handler."""
        self.outbox.uncork()
        dispatch.connected(self.context)

    def abort(self) -> None:
        """Undo a beginning that did not succeed; nobody was told of it."""
        self.leave()
        self.outbox.abandon()

    def end(self, reason: str) -> None:
        """The socket is gone: leave everything, and tell the event handler."""
        self.leave()
        self.outbox.abandon()
        dispatch.disconnected(self.context, self._end_reason or reason)

    def leave(self) -> None:
        """Leave all groups and be reachable no more; doing it twice is doing it once."""
        operations.detach(self)

    def close(self, code: int, reason: str = "", *, message: str | None = None) -> None:
        """Close the socket and leave everything at once.

        `message` is what a client with a subprotocol is told before; its close frame has no reason then.
        """
        if self.outbox.closing:
            return
        self._end_reason = message or reason
        if message is not None and self.codec.named:
            self._tell(Disconnected(message))
            reason = ""
        self.outbox.close(code, reason)
        # Not when the client answers the close frame: it is told nothing more, so it is not here any more.
        self.leave()

    @property
    def closing(self) -> bool:
        """Whether the socket is being closed; frames that still come are not handled."""
        return self.outbox.closing

    # To the client

    def deliver(self, outgoing: Outgoing) -> None:
        """Take a frame that others get too."""
        form = outgoing.form(self.codec)
        if form is not None:
            self.outbox.put(form)

    def _tell(self, frame: Downstream) -> None:
        form = self.codec.encode(frame)
        if form is not None:
            self.outbox.put(form)

    def _acknowledge(self, ack: Ack) -> None:
        if self._ack_pause_secs:
            # The ack alone waits: the next frame is handled meanwhile, and acks keep their order.
            asyncio.get_running_loop().call_later(self._ack_pause_secs, self._tell, ack)
        else:
            self._tell(ack)

    # From the client

    def decode(self, message: Message) -> Upstream:
        """Read one message. Raises Disconnect when the client breaks the protocol."""
        # A text of n characters has at least n bytes and at most four times as many.
        limit = conf.settings.MAX_MESSAGE_BYTES
        size = len(message)
        if size > limit or (isinstance(message, str) and size * 4 > limit and len(message.encode()) > limit):
            raise Disconnect(1009, TOO_LARGE)
        return self.codec.decode(message)

    async def handle(self, frame: Upstream) -> None:
        """Do what one frame asks and answer it. Raises Disconnect."""
        if self.closing:
            # It waited for its turn, and meanwhile the connection was closed and has left everything.
            return
        ack_id: int | None = getattr(frame, "ack_id", None)
        try:
            # Before the permission check, and before anything is done: it was done already.
            if ack_id is not None and ack_id in self._acks:
                raise Duplicate(ack_id)
            await self._HANDLERS[type(frame)](self, frame)
        except Refusal as refusal:
            self._refused(frame, ack_id, refusal)
        except Disconnect:
            raise
        except Exception:
            logger.exception("A %s frame could not be handled", type(frame).__name__)
            self._refused(frame, ack_id, Refusal(INTERNAL_ERROR))
        else:
            if ack_id is not None:
                self._acks.remember(ack_id)
                self._acknowledge(Ack(ack_id))

    def _refused(self, frame: Upstream, ack_id: int | None, refusal: Refusal) -> None:
        if ack_id is not None:
            self._acknowledge(Ack(ack_id, refusal.name, refusal.message))
        elif not self.codec.named:
            # A simple client cannot be told in any other way.
            code = 1008 if isinstance(refusal, Forbidden) else 1011
            raise Disconnect(code, refusal.message if code == 1008 else INTERNAL_ERROR)
        else:
            logger.debug("A %s frame without ackId was refused: %s", type(frame).__name__, refusal.name)

    async def _join_group(self, frame: JoinGroup) -> None:
        if not self.permissions.may_join_or_leave(frame.group):
            raise Forbidden(NOT_ALLOWED.format(verb="join", group=frame.group))
        await operations.join_group(self, frame.group)

    async def _leave_group(self, frame: LeaveGroup) -> None:
        if not self.permissions.may_join_or_leave(frame.group):
            raise Forbidden(NOT_ALLOWED.format(verb="leave", group=frame.group))
        await operations.leave_group(self, frame.group)

    async def _send_to_group(self, frame: SendToGroup) -> None:
        if not self.permissions.may_send(frame.group):
            raise Forbidden(NOT_ALLOWED.format(verb="send to", group=frame.group))
        await operations.send_to_group(
            self.hub,
            frame.group,
            frame.payload,
            from_user_id=self.user_id,
            metadata=frame.metadata,
            excluded=(self.id,) if frame.no_echo else (),
            all_or_nobody=False,
        )

    async def _event(self, frame: UserEvent) -> None:
        reply = await dispatch.user_event(
            UserEventRequest(self.context, frame.event, frame.payload, frame.metadata or {})
        )
        if reply.state is not None:
            self.state = reply.state
        payload = reply.payload
        if payload is None and reply.metadata:
            # Metadata needs a message to travel with.
            payload = Payload(TEXT, b"")
        if payload is not None:
            self._tell(ServerMessage(payload, reply.metadata))

    async def _ping(self, frame: Ping) -> None:
        self._tell(Pong())

    async def _sequence_ack(self, frame: SequenceAck) -> None:
        """Nothing waits for it where no frame carries a sequence id."""

    _HANDLERS: ClassVar[Mapping[type, Callable[[Any, Any], Awaitable[None]]]] = {
        SendToGroup: _send_to_group,
        JoinGroup: _join_group,
        LeaveGroup: _leave_group,
        UserEvent: _event,
        Ping: _ping,
        SequenceAck: _sequence_ack,
    }
