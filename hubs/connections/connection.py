"""One logical connection: a frame comes in, an operation is done, an answer goes out.

The connection knows who the client is, what it may do and where it is a member. Its socket is an
outbox and whoever feeds messages in; a simple client and one of a plain subprotocol has one socket
for its whole life. The connection of a reliable client outlives its sockets:

    begin ── begun ──► has a socket ◄── resume ──┐
                            │  lost              │
                            ├──────────► away ───┤
                            │              │     └─► hand_over (it goes on in another process)
                            ▼              ▼
                          end (by a close of either side, or after RECOVERY_SECS away)

While it is away it stays a member of its groups, is found by REST, and its backlog (backlog.py)
collects what is sent to it. recovery.py brings it together with its client's next socket.

Frames are handled one at a time (lane.py sees to it); deliveries from others arrive at any moment
through `deliver`. Errors are translated here, once: a Refusal becomes an ack (or silence, without
ackId) and the connection lives; a Disconnect closes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from hubs import conf, operations
from hubs.connections import eviction, reconnection
from hubs.connections.backlog import Backlog, BacklogFull
from hubs.connections.lane import Lane, Rest
from hubs.connections.outbox import Outbox
from hubs.errors import Disconnect, Duplicate, Forbidden, NotFound, Refusal, Unavailable
from hubs.messaging.switchboard import switchboard
from hubs.protocols.codec import Batch, Codec, Message, Outgoing
from hubs.protocols.extension import Socket
from hubs.protocols.frames import (
    TEXT,
    Ack,
    CancelInvocation,
    Connected,
    Disconnected,
    Downstream,
    Invoke,
    InvokeResponse,
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
from hubs.upstream import UserEventRequest, dispatch
from hubs.upstream.session import Session

logger = logging.getLogger(__name__)

TOO_LARGE = "The client message is too large."
NOT_ALLOWED = "The client does not have permission to {verb} group '{group}'."
INTERNAL_ERROR = "Internal server error"
BUFFER_FULL = "The reliable message buffer is full."
TAKEN_OVER = "The connection was recovered by another socket."
EXPIRED = "The connection recovery timeout expired."
STOPPING = "The server is stopping; try again."

GOING_AWAY = 1001

MAX_HALF_DONE = 1000

# So much of RECOVERY_SECS a client has left when its absence is noticed, however long it has been silent: it may have
# left just before it was sent the ping that it did not answer. With the defaults both together take 42 s at most.
LEAST_PART_LEFT = 0.4

# Beyond a handler's own time: what its answer needs to come from another process.
FINISHING_SECS = 10.0
TELL_AGAIN_SECS = 0.5

# How a client ends its connection: a close frame that says so, or one that says nothing (what some SDKs' stop() sends).
# So do those of a broken protocol: the same frames would come again. Anything else, the loss of the socket above
# all, is an accident.
FINAL_CODES = (1000, 1005, 1002, 1003, 1007, 1009)


class Connection:
    """A client's place in a hub, from handshake to goodbye. `outbox`: its present socket, None while it has none."""

    # There may be ten thousands.
    __slots__ = (
        "__weakref__",
        "_closed",
        "_departed",
        "_end_reason",
        "_ended",
        "_expiry",
        "_invocations",
        "_opened",
        "_overflowing",
        "_reply",
        "_retiring",
        "_unconfirmed",
        "ack_pause_secs",
        "acks",
        "backlog",
        "claim",
        "codec",
        "earlier",
        "groups",
        "half_done",
        "hub",
        "id",
        "lane",
        "moves",
        "outbox",
        "permissions",
        "session",
        "subprotocol",
        "user_id",
    )

    def __init__(
        self,
        connection_id: str,
        hub: str,
        codec: Codec,
        outbox: Outbox | None,
        *,
        user_id: str | None,
        permissions: Permissions,
        subprotocol: str | None = None,
        session: Session | None = None,
        ack_pause_secs: float = 0,
    ) -> None:
        self.id = connection_id
        self.hub = hub
        self.codec = codec
        self.outbox = outbox
        self.user_id = user_id
        self.permissions = permissions
        self.subprotocol = subprotocol
        self.session = session or Session(hub, connection_id, user_id, subprotocol)
        self.groups: set[str] = set()
        # How often it has changed process; and which other process wants it, and knows of which groups (recovery.py).
        self.moves = 0
        self.claim: tuple[str, frozenset[str]] | None = None
        self.lane = Lane(self.begin_frame, self._broke_off)
        self.earlier: asyncio.Event | None = None
        self.backlog: Backlog | None = None
        if codec.reliable:
            self.backlog = Backlog(conf.settings.RELIABLE_BUFFER_MESSAGES, conf.settings.RELIABLE_BUFFER_BYTES)
        self.ack_pause_secs = ack_pause_secs
        self.acks = AckMemory(conf.settings.DUPLICATE_MEMORY)
        # Publications that some got and others perhaps not, by ackId: the name they can be repeated under.
        self.half_done: dict[int, tuple[str, int]] = {}
        self._end_reason = ""
        # Closed: the service has said goodbye. Ended: all is over. Departed: it goes on in another process.
        self._closed = self._ended = self._departed = False
        # Its client has had an open socket, and so may know how to come back.
        self._opened = False
        self._overflowing = False
        # The server stops: no more frames are taken here.
        self._retiring = False
        self._expiry: asyncio.TimerHandle | None = None
        self._invocations: dict[str, asyncio.Task[None]] = {}
        # What an event handler has answered since the connection departed.
        self._reply: tuple[Payload, Mapping[str, str] | None] | None = None
        # Publications without ackId that the channel layer has not taken yet.
        self._unconfirmed = 0

    # Beginning and end

    async def begin(self, groups: tuple[str, ...]) -> None:
        """Say `connected`, then become reachable; nothing of it leaves before the outbox is uncorked.

        The frame is put first so that it stays first, and sent last, so that whoever reads it finds
        the connection and its groups in place.
        """
        token = None if self.backlog is None else reconnection.token_for(self.hub, self.id)
        self._tell(Connected(self.id, self.user_id, token))
        await operations.attach(self, groups)

    def begun(self) -> None:
        """The socket is open: send what waits, and tell the event handler."""
        self._opened = True
        if self.outbox is not None:
            self.outbox.uncork()
            operations.opened(self)
        dispatch.connected(self.session)

    def abort(self) -> None:
        """Undo a beginning that did not succeed; nobody was told of it."""
        self._ended = True
        self._drop_outbox()
        self.leave()

    def end(self, reason: str) -> None:
        """It is over: leave everything, and tell the event handler. Doing it twice is doing it once."""
        if self._ended or self._departed:
            return
        self._ended = True
        self._stop_expiry()
        self.lane.stop()
        self._drop_outbox()
        self.leave()
        dispatch.disconnected(self.session, self._end_reason or reason)

    def leave(self) -> None:
        """Leave all groups and be reachable no more; doing it twice is doing it once."""
        operations.detach(self)

    def close(self, code: int, reason: str = "", *, message: str | None = None) -> None:
        """Close the socket and leave everything at once; nobody gets this connection back.

        `message` is what a client with a subprotocol is told before; its close frame has no reason then.
        """
        if self.closing:
            return
        self._settle()
        self._closed = True
        self._end_reason = message or reason
        if self.outbox is None:
            self.end(self._end_reason)
            return
        if message is not None and self.codec.named:
            self._tell(Disconnected(message))
            reason = ""
        self.outbox.close(code, reason)
        # Not when the client answers the close frame: it is told nothing more, so it is not here any more.
        self.leave()

    def give_up(self, reason: str) -> None:
        """The socket was closed because its client reads too slowly: leave everything at once."""
        if not (self._closed or self._ended):
            self._closed = True
            self._end_reason = reason
            self.leave()

    def retire(self) -> None:
        """The server stops: finish what the client has sent so far, and send it elsewhere with 1001.

        A reliable connection stays, away, so that the process its client comes to can have it.
        """
        self._retiring = True
        self.lane.close(self._acknowledged)

    def _acknowledged(self) -> None:
        if self.ack_pause_secs:
            # The last acks are on their way to a client that has to wait for them.
            asyncio.get_running_loop().call_later(self.ack_pause_secs, self._retired)
        else:
            self._retired()

    def _retired(self) -> None:
        if self.outbox is None or self.closing:
            return
        if self.backlog is None:
            self.outbox.close(GOING_AWAY)
        else:
            self._lose_socket(GOING_AWAY, "")
            self.wait_for_client()

    @property
    def closing(self) -> bool:
        """Whether this is the end of the connection, here at least; frames that still come are not handled."""
        return self._closed or self._ended or self._departed or (self.outbox is not None and self.outbox.closing)

    # Sockets

    @property
    def recoverable(self) -> bool:
        """Whether its client may have it back with another socket."""
        self._settle()
        # Overflowing: it has lost a message, and is about to be closed for that.
        if self.backlog is None or self._closed or self._ended or self._departed or self._overflowing:
            return False
        # A socket that was lost is no goodbye, even before the server says that it was lost.
        return self.outbox is None or self.outbox.lost or not self.outbox.closing

    def socket_gone(self, outbox: Outbox, code: int, reason: str) -> None:
        """A socket is closed: with what its client said, or 1006 if it was lost. Only the present one matters."""
        if outbox is not self.outbox:
            return
        if self.backlog is None or self._closed or not self._opened or code in FINAL_CODES:
            self.end(reason)
        else:
            self._go_away(outbox.silent_secs)

    def resume(self, outbox: Outbox) -> None:
        """Go on with a new socket: put everything that the client has not acknowledged.

        Raises NotFound; Unavailable where the client is to try elsewhere.
        """
        if self.backlog is None or not self.recoverable:
            raise NotFound(f"Connection `{self.id}` cannot be recovered.")
        if self._retiring:
            raise Unavailable(STOPPING)
        self._lose_socket()
        self._stop_expiry()
        self.claim = None
        self._opened = True
        self.outbox = outbox
        for sequence_id, form in self.backlog.replay(_now()):
            outbox.put(self.codec.stamp(form, sequence_id))

    def wait_for_client(self, silent_secs: float = 0) -> None:
        """Be away from now on for as long as a client may be; a socket that is still open is closed.

        A client that was cut off because nothing came from it for `silent_secs` has been away for that time already.
        """
        self._lose_socket()
        self._stop_expiry()
        most = conf.settings.RECOVERY_SECS
        left = max(most - silent_secs, most * LEAST_PART_LEFT)
        self._expiry = asyncio.get_running_loop().call_later(left, self.end, EXPIRED)

    def depart(self) -> None:
        """The connection goes on in another process. What an event handler works on is finished, and told there."""
        self._departed = True
        self._stop_expiry()
        self.lane.finish()
        # If it came from a third process: that tells the next one.
        if self.earlier is not None:
            self.earlier.set()

    def _go_away(self, silent_secs: float) -> None:
        self._drop_outbox()
        self.wait_for_client(silent_secs)

    def _lose_socket(self, code: int = 1008, reason: str = TAKEN_OVER) -> None:
        # 1008, because a client that is told so does not fight for the connection.
        if self.outbox is not None:
            outbox, self.outbox = self.outbox, None
            outbox.close(code, reason)
        # Clients give up what they invoked when they lose their socket.
        self._cancel_invocations()

    def _drop_outbox(self) -> None:
        if self.outbox is not None:
            self.outbox.abandon()
            self.outbox = None
        self._cancel_invocations()

    def _cancel_invocations(self) -> None:
        for task in self._invocations.values():
            task.cancel()
        self._invocations.clear()

    def _stop_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    # To the client

    @property
    def socket(self) -> Socket | None:
        """Where frames that many get alike can be written for it. Not those of a reliable one: they are numbered."""
        return None if self.backlog is not None or self.outbox is None else self.outbox.socket

    def deliver(self, outgoing: Outgoing) -> None:
        """Take a frame that others get too."""
        if self.backlog is not None:
            batch = Batch()
            batch.add(outgoing, self.codec)
            self.number(batch)
        elif self.outbox is not None:
            self.outbox.put_shared(outgoing, self.codec)

    def number(self, batch: Batch) -> None:
        """Take data frames that others get too, as one of the reliable ones."""
        outbox, backlog = self.outbox, self.backlog
        if outbox is None or backlog is None:
            for (form, _), ttl_secs in zip(batch.sized, batch.ttl_secs, strict=True):
                self._put_data(form, ttl_secs)
            return
        first = backlog.send_all(batch)
        if first is not None:
            outbox.put_batch(batch, first)
            return
        try:
            for sized, stamps in zip(batch.sized, batch.stamps, strict=True):
                outbox.put_stamped(stamps, backlog.send_sized(sized))
        except BacklogFull:
            self._overflow()

    def _put_data(self, form: Message, ttl_secs: float | None = None) -> None:
        self._settle()
        if self.backlog is None:
            if self.outbox is not None:
                self.outbox.put(form)
            return
        try:
            if self.outbox is None:
                self.backlog.hold(form, ttl_secs, _now())
            else:
                self.outbox.put(self.codec.stamp(form, self.backlog.send(form)))
        except BacklogFull:
            self._overflow()

    def _overflow(self) -> None:
        if not self._overflowing:
            # In the middle of a fan-out, perhaps: acted on in the next turn.
            self._overflowing = True
            eviction.log(self, *self.backlog.overflow(_now()))  # type: ignore[union-attr]
            asyncio.get_running_loop().call_soon(self.close, 1008, BUFFER_FULL)

    def _tell(self, frame: Downstream) -> None:
        """Say something that concerns the present socket alone."""
        self._settle()
        form = self.codec.encode(frame)
        if form is not None and self.outbox is not None:
            self.outbox.put(form)

    def _settle(self) -> None:
        """Have what was published before numbered first, here: that is put off to the end of a turn of the loop."""
        if self.backlog is not None:
            operations.settle()

    def _acknowledge(self, ack: Ack) -> None:
        """Tell how an operation went, and remember it if it succeeded."""
        if ack.error_name is None:
            self.acks.remember(ack.ack_id)
        if self.ack_pause_secs:
            # The ack alone waits: the next frame is handled meanwhile, and acks keep their order.
            asyncio.get_running_loop().call_later(self.ack_pause_secs, self._tell, ack)
        else:
            self._tell(ack)

    # From the client

    def take(self, message: Message) -> bool:
        """Take a message from the client. False: so many are being handled that its reader should wait (`lane`)."""
        frame = self._read(message)
        return frame is None or self.lane.take(frame)

    async def receive(self, message: Message) -> None:
        """As `take`, but waits."""
        frame = self._read(message)
        if frame is not None:
            await self.lane.put(frame)

    def _read(self, message: Message) -> Upstream | None:
        try:
            return self.decode(message)
        except Disconnect as disconnect:
            # In its turn: an event before it may still wait for its handler's answer.
            self.lane.fail(disconnect)
            return None

    def _broke_off(self, disconnect: Disconnect) -> None:
        self.close(disconnect.code, disconnect.message)

    def decode(self, message: Message) -> Upstream:
        """Read one message. Raises Disconnect when the client breaks the protocol."""
        # A text of n characters has at least n bytes and at most four times as many.
        limit = conf.settings.MAX_MESSAGE_BYTES
        size = len(message)
        if size > limit or (isinstance(message, str) and size * 4 > limit and len(message.encode()) > limit):
            raise Disconnect(1009, TOO_LARGE)
        return self.codec.decode(message)

    def begin_frame(self, frame: Upstream) -> Rest | None:
        """Do what one frame asks and answer it, as far as that goes without waiting; gives the rest.

        Raises Disconnect.
        """
        if self.closing:
            # It waited for its turn, and meanwhile the connection was closed and has left everything.
            return None
        ack_id: int | None = getattr(frame, "ack_id", None)
        try:
            # Before the permission check, and before anything is done: it was done already.
            if ack_id is not None and ack_id in self.acks:
                raise Duplicate(ack_id)
            waits = self._WAITING.get(type(frame))
            rest = self._AT_ONCE[type(frame)](self, frame) if waits is None else partial(waits, self, frame)
        except Exception as problem:
            ack = self._failed(frame, ack_id, problem)
        else:
            if rest is not None:
                return partial(self._finish, frame, ack_id, rest)
            ack = None if ack_id is None else Ack(ack_id)
        if ack is not None:
            self._acknowledge(ack)
        return None

    async def _finish(self, frame: Upstream, ack_id: int | None, rest: Rest) -> None:
        """Do the rest of what a frame asks, and answer it. Raises Disconnect."""
        try:
            await rest()
        except Exception as problem:
            ack = self._failed(frame, ack_id, problem)
        else:
            ack = None if ack_id is None else Ack(ack_id)
        if self._departed:
            await self._finish_elsewhere(ack)
        elif ack is not None:
            self._acknowledge(ack)

    def _failed(self, frame: Upstream, ack_id: int | None, problem: Exception) -> Ack | None:
        """What a client is told of a frame that could not be handled. Raises Disconnect."""
        if isinstance(problem, Disconnect):
            raise problem
        if not isinstance(problem, Refusal):
            logger.error("A %s frame could not be handled", type(frame).__name__, exc_info=problem)
        refusal = problem if isinstance(problem, Refusal) else Refusal(INTERNAL_ERROR)
        if ack_id is not None:
            return Ack(ack_id, refusal.name, refusal.message)
        if not self.codec.named:
            # A simple client cannot be told in any other way.
            code = 1008 if isinstance(refusal, Forbidden) else 1011
            raise Disconnect(code, refusal.message if code == 1008 else INTERNAL_ERROR)
        logger.debug("A %s frame without ackId was refused: %s", type(frame).__name__, refusal.name)
        return None

    async def _finish_elsewhere(self, ack: Ack | None) -> None:
        """Tell the connection how a frame went which came before it departed, for as long as it waits to be told."""
        told: dict[str, Any] = {
            "ack": None if ack is None else [ack.ack_id, ack.error_name, ack.error_message],
            "state": self.session.state,
            "published": None if ack is None else self.half_done.get(ack.ack_id),
            "reply": None,
        }
        if self._reply is not None:
            payload, metadata = self._reply
            told["reply"] = [payload.data_type, payload.data, None if metadata is None else dict(metadata)]
        deadline = _now() + conf.settings.HANDLER_SECS + FINISHING_SECS
        while True:
            try:
                await switchboard().ask("finish frame", self.hub, self.id, told)
                return
            except Refusal as refusal:
                if not isinstance(refusal, Unavailable) or _now() > deadline:
                    logger.info("Connection %s cannot be told of a frame's end: %s", self.id, refusal.message)
                    return
            await asyncio.sleep(TELL_AGAIN_SECS)

    def wait_for_earlier(self) -> None:
        """Handle nothing until the process it came from has told how the frame went that was being handled there."""
        self.earlier = asyncio.Event()
        self.lane.hold(self.earlier, conf.settings.HANDLER_SECS + FINISHING_SECS)

    def finished_elsewhere(
        self,
        ack: Ack | None,
        state: str | None,
        *,
        published: tuple[str, int] | None,
        reply: tuple[Payload, Mapping[str, str] | None] | None,
    ) -> None:
        """A frame that came before the connection moved here has been handled; `published`: as in `half_done`."""
        if self.earlier is None or self.earlier.is_set():
            # Told twice, because the first answer was lost.
            return
        self.session.state = state
        if reply is not None:
            self._put_reply(*reply)
        if ack is not None:
            if published is not None:
                self._half_done(ack.ack_id, published)
            self._acknowledge(ack)
        self.earlier.set()

    async def _join_group(self, frame: JoinGroup) -> None:
        if not self.permissions.may_join_or_leave(frame.group):
            raise Forbidden(NOT_ALLOWED.format(verb="join", group=frame.group))
        await operations.join_group(self, frame.group)

    async def _leave_group(self, frame: LeaveGroup) -> None:
        if not self.permissions.may_join_or_leave(frame.group):
            raise Forbidden(NOT_ALLOWED.format(verb="leave", group=frame.group))
        await operations.leave_group(self, frame.group)

    def _send_to_group(self, frame: SendToGroup) -> Rest | None:
        if not self.permissions.may_send(frame.group):
            raise Forbidden(NOT_ALLOWED.format(verb="send to", group=frame.group))
        ack_id = frame.ack_id
        posted = operations.post_to_group(
            self.hub,
            frame.group,
            frame.payload,
            from_user_id=self.user_id,
            metadata=frame.metadata,
            excluded=(self.id,) if frame.no_echo else (),
            ttl_secs=frame.ttl_secs,
            again=None if ack_id is None else self.half_done.pop(ack_id, None),
        )
        if posted is None:
            return None
        may_wait = self._unconfirmed < conf.settings.MAX_WAITING_FRAMES
        if ack_id is None and self.codec.named and may_wait and operations.posts_in_order():
            # Nobody is told how it goes, so nobody has to wait until it is known.
            self._unconfirmed += 1
            posted.add_done_callback(self._confirmed)
            return None
        return partial(self._confirm, ack_id, posted)

    def _confirmed(self, _: object) -> None:
        self._unconfirmed -= 1

    async def _confirm(self, ack_id: int | None, posted: asyncio.Future[None]) -> None:
        """Wait until the other processes will get a publication. Raises Unavailable."""
        try:
            await asyncio.shield(posted)
        except Unavailable as unavailable:
            if ack_id is not None and unavailable.published is not None:
                self._half_done(ack_id, unavailable.published)
            raise

    def _half_done(self, ack_id: int, published: tuple[str, int]) -> None:
        """Some got it: the client will send it again under this ackId, and then they shall not get it twice."""
        self.half_done[ack_id] = published
        if len(self.half_done) > MAX_HALF_DONE:
            del self.half_done[next(iter(self.half_done))]

    async def _event(self, frame: UserEvent) -> None:
        request = UserEventRequest(self.session.context, frame.event, frame.payload, frame.metadata or {})
        reply = await dispatch.user_event(self.session, request)
        payload = reply.payload
        if payload is None and reply.metadata:
            # Metadata needs a message to travel with.
            payload = Payload(TEXT, b"")
        if payload is None:
            return
        if self._departed:
            # It travels with the ack, or a frame might be answered with an error that has been handled.
            self._reply = (payload, reply.metadata)
            return
        self._put_reply(payload, reply.metadata)

    def _put_reply(self, payload: Payload, metadata: Mapping[str, str] | None) -> None:
        form = self.codec.encode(ServerMessage(payload, metadata))
        if form is not None:
            self._put_data(form)

    def _ping(self, frame: Ping) -> None:
        self._tell(Pong())

    def _sequence_ack(self, frame: SequenceAck) -> None:
        # Nothing waits for it where no frame carries a sequence id.
        if self.backlog is not None:
            self.backlog.acknowledge(frame.sequence_id, _now())

    def _invoke(self, frame: Invoke) -> None:
        """Have an invocation answered beside the other frames: it neither waits for them nor holds them up."""
        if frame.invocation_id in self._invocations:
            self._tell(_failure(frame, "BadRequest", "There is an unanswered invocation with this invocationId."))
        elif len(self._invocations) >= conf.settings.MAX_INVOCATIONS:
            message = f"At most {conf.settings.MAX_INVOCATIONS} invocations may wait for their answers."
            self._tell(_failure(frame, "BadRequest", message))
        else:
            task = asyncio.create_task(self._answer_invocation(frame), name="invocation")
            self._invocations[frame.invocation_id] = task

    async def _answer_invocation(self, frame: Invoke) -> None:
        try:
            payload = frame.payload or Payload(TEXT, b"")
            request = UserEventRequest(self.session.context, frame.event, payload, frame.metadata or {})
            reply = await dispatch.invoke(self.session, request)
            response = InvokeResponse(frame.invocation_id, reply.payload, metadata=reply.metadata)
        except Refusal as refusal:
            response = _failure(frame, refusal.name, refusal.message)
        except Exception:
            logger.exception("An invocation could not be answered")
            response = _failure(frame, "InternalServerError", INTERNAL_ERROR)
        # Gone: cancelled, or given up with its socket.
        if self._invocations.get(frame.invocation_id) is asyncio.current_task():
            del self._invocations[frame.invocation_id]
            self._tell(response)

    def _cancel_invocation(self, frame: CancelInvocation) -> None:
        task = self._invocations.pop(frame.invocation_id, None)
        if task is not None:
            task.cancel()

    def _invoke_response(self, frame: InvokeResponse) -> None:
        """Nothing is invoked on clients, so nobody waits for it."""

    # Frames whose handling may wait, and those of which at most a rest is left to wait for.
    _WAITING: ClassVar[Mapping[type, Callable[[Any, Any], Awaitable[None]]]] = {
        JoinGroup: _join_group,
        LeaveGroup: _leave_group,
        UserEvent: _event,
    }
    _AT_ONCE: ClassVar[Mapping[type, Callable[[Any, Any], Rest | None]]] = {
        SendToGroup: _send_to_group,
        Ping: _ping,
        SequenceAck: _sequence_ack,
        Invoke: _invoke,
        CancelInvocation: _cancel_invocation,
        InvokeResponse: _invoke_response,
    }


def _failure(frame: Invoke, name: str, message: str) -> InvokeResponse:
    return InvokeResponse(frame.invocation_id, error_name=name, error_message=message)


def _now() -> float:
    return asyncio.get_running_loop().time()
