"""One logical connection: a frame comes in, an operation is done, an answer goes out.

The connection knows who the client is, what it may do and where it is a member. Its socket is an
outbox and whoever feeds messages in; a simple client and one of a plain subprotocol has one socket
for its whole life. The connection of a reliable client outlives its sockets:

    begin ── begun ──► has a socket ◄── resume ──┐
                            │  lost              │
                            ├──────────► away ───┤
                            │              │     └─► depart (another process has claimed it)
                            ▼              ▼
                          end (by a close of either side, or after RECOVERY_SECS away)

While it is away it stays a member of its groups, is found by REST, and its backlog (backlog.py)
collects what is sent to it. recovery.py brings it together with its client's next socket.

Where processes share a log that is kept, whatever changes a reliable connection is an entry of that log and
happens when the entry is read: what it is sent, its groups and permissions, that an event of it was handled. So any
process can make the same of a snapshot and the entries behind it (snapshots.py).

Frames are handled one at a time (frame_queue.py sees to it); deliveries from others arrive at any moment
through `deliver`. Errors are translated here, once: a Refusal becomes an ack (or silence, without
ackId) and the connection lives; a Disconnect closes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from hubs import close_codes, conf, operations
from hubs.close_codes import CloseReason
from hubs.cluster.entries import Begun, Done, Parted, Skipped
from hubs.cluster.log import applied
from hubs.connections import eviction, reconnection
from hubs.connections.backlog import Backlog
from hubs.connections.frame_queue import Continuation, FrameQueue
from hubs.connections.outbox import Outbox
from hubs.errors import Disconnect, Duplicate, Forbidden, NotFound, Refusal, Unavailable
from hubs.node.publishing import PLACE_BITS
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

NOT_ALLOWED = "The client does not have permission to {verb} group '{group}'."
STOPPING = "The server is stopping; try again."
STILL_HANDLED = "Another server handles this event still; try again."

# Of a client's publications, so many whose fate is not known.
MAX_IN_DOUBT = 1000

# So much of RECOVERY_SECS a client has left when its absence is noticed, however long it has been silent: it may have
# left just before it was sent the ping that it did not answer. With the defaults both together take 42 s at most.
LEAST_PART_LEFT = 0.4

# Beyond a handler's own time: what its outcome needs to come from another process.
FINISHING_SECS = 10.0

# How long a client waits for the end of its event to be in the log, and how soon that is tried again.
TELLING_SECS = 1.0
AGAIN_SECS = 0.2


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
        "_retiring",
        "_unconfirmed",
        "ack_pause_secs",
        "acks",
        "backlog",
        "begun_events",
        "changes",
        "codec",
        "frames",
        "groups",
        "hub",
        "id",
        "in_doubt",
        "outbox",
        "owners",
        "permissions",
        "sent_unsure",
        "session",
        "subprotocol",
        "user_id",
        "written",
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
        # Whose it was since the frame that was acknowledged last: the process, when the handshake of its socket began,
        # in milliseconds of the log's clock, and the position of the claim.
        self.owners: list[tuple[str, int, int]] | None = None
        self.frames = FrameQueue(self.handle_frame, self._broke_off)
        self.backlog: Backlog | None = None
        if codec.reliable:
            self.backlog = Backlog(conf.settings.RELIABLE_BUFFER_MESSAGES, conf.settings.RELIABLE_BUFFER_BYTES)
        self.ack_pause_secs = ack_pause_secs
        self.acks = AckMemory(conf.settings.DUPLICATE_MEMORY)
        # Publications of which is not known whether they are in the log, by ackId.
        self.in_doubt: dict[int, asyncio.Future[bool]] | None = None
        # Groups that were joined (True) and left since the frame that was acknowledged last, with places in the log.
        self.changes: list[tuple[int, str, bool]] | None = None
        # Events that are being handled, or were since the frame that was acknowledged last, by ackId.
        self.begun_events: dict[int, _Begun] | None = None
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
        # Publications without ackId that the channel layer has not taken yet.
        self._unconfirmed = 0
        # Made again of a time when it had a socket somewhere: what of its frames that has had, nobody knows.
        self.sent_unsure = False
        # Of its snapshot: the place in the log where that was written last, and when.
        self.written = (0, float("-inf"))

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
        if not self._ended:
            # Before it is recorded: whoever tells of its end has to know that it was open.
            dispatch.connected(self.session)
        if self.outbox is not None:
            self.outbox.uncork()
            operations.opened(self)

    def record(self) -> None:
        """Have it written down anew that this connection is here, if whoever tells of its end is to find it."""
        if self._opened:
            # Soon, with all others.
            self.written = (0, float("-inf"))
            operations.record(self)

    def abort(self) -> None:
        """Undo a beginning that did not succeed; nobody was told of it."""
        self._ended = True
        self._drop_outbox()
        self.leave()
        operations.ended(self)

    def end(self, reason: str) -> None:
        """It is over: leave everything, and tell the event handler. Doing it twice is doing it once."""
        if self._ended or self._departed:
            return
        self._ended = True
        self._stop_expiry()
        self.frames.stop()
        self._drop_outbox()
        self.leave()
        operations.ended(self, partial(dispatch.disconnected, self.session, self._end_reason or reason))

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

        A reliable connection stays, away, until another process has claimed it or looks after what this one leaves.
        """
        self._retiring = True
        self.frames.close(self._acknowledged)

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
            self.outbox.close(*close_codes.STOPPING.frame)
        else:
            self._lose_socket(close_codes.STOPPING)
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
        if self.backlog is None or self._closed or not self._opened or code in close_codes.BY_CLIENT_FOR_GOOD:
            self.end(reason)
        else:
            self._go_away(outbox.silent_secs)

    def resume(self, outbox: Outbox) -> None:
        """Go on with a new socket: put everything that the client has not acknowledged.

        Raises NotFound; Unavailable where the client is to try elsewhere.
        """
        if self._departed:
            # Another socket was faster; a client that comes again may have it back.
            raise Unavailable(close_codes.TAKEN_OVER.reason)
        if self.backlog is None or not self.recoverable:
            raise NotFound(f"Connection `{self.id}` cannot be recovered.")
        if self._retiring:
            raise Unavailable(STOPPING)
        self._lose_socket()
        self._stop_expiry()
        self._opened = True
        self.sent_unsure = False
        self.outbox = outbox
        for sequence_id, form in self.backlog.replay():
            outbox.put(self.codec.stamp(form, sequence_id))

    def wait_for_client(self, silent_secs: float = 0) -> None:
        """Be away from now on for as long as a client may be; a socket that is still open is closed.

        A client that was cut off because nothing came from it for `silent_secs` has been away for that time already.
        """
        self._lose_socket()
        self._stop_expiry()
        most = conf.settings.RECOVERY_SECS
        left = max(most - silent_secs, most * LEAST_PART_LEFT)
        self._expiry = asyncio.get_running_loop().call_later(left, self.end, close_codes.RECOVERY_EXPIRED.reason)

    def depart(self, *, taken_over: bool) -> None:
        """It goes on in another process (`taken_over`: this one was taken for dead); a plain one ends.

        What an event handler works on is finished, and its outcome appended to the log.
        """
        if self._ended or self._departed:
            return
        if self.backlog is None:
            self._lose_socket(close_codes.STOPPING)
            self.end(close_codes.PROCESS_DIED.reason)
            return
        self._departed = True
        self._stop_expiry()
        self.frames.finish()
        if self.frames.busy:
            _unfinished[self] = asyncio.get_running_loop()
            self.frames.close(lambda: _finished(self))
        if taken_over:
            self._lose_socket(close_codes.STOPPING)
        else:
            self._lose_socket()
        self._settle()
        parted = None
        if not taken_over:
            backlog = self.backlog
            parted = Parted(self.id, backlog.acknowledged[0], self.acks.ranges(), backlog.sent, self.session.packed())
        operations.departed(
            self, parted, partial(dispatch.disconnected, self.session, close_codes.MESSAGES_LOST.reason)
        )

    def ended_elsewhere(self) -> None:
        """The process that had it has ended it before it knew that it is here, and told the event handler so."""
        if self._ended or self._departed:
            return
        self._ended = True
        self._stop_expiry()
        self.frames.stop()
        self._lose_socket(close_codes.STOPPING)
        self.leave()
        operations.ended(self)

    def lose_messages(self) -> None:
        """What was published for it may be lost: a reliable client is told, by having to begin anew."""
        if self.backlog is not None:
            self.close(*close_codes.MESSAGES_LOST.frame)

    async def skip_late(self) -> None:
        """Leave out what it is too late for, before the next socket is given the rest. Raises Unavailable."""
        self._settle()
        backlog = self.backlog
        late = [] if backlog is None else backlog.late(_now())
        if backlog is None or not late:
            return
        if not operations.keeps_log():
            backlog.skip(late)
            return
        frames = [(place >> PLACE_BITS, place & (1 << PLACE_BITS) - 1) for place in backlog.places(late)]
        await applied(operations.append(self, Skipped(self.id, frames)))

    def parted(self, parted: Parted, *, just_now: bool) -> None:
        """A process that it has left says what was acknowledged there; `just_now`: the last one, for this one."""
        self._settle()
        if self.backlog is not None:
            self.backlog.acknowledge(parted.acknowledged, _now())
            if just_now and self.sent_unsure and self.outbox is None:
                self.sent_unsure = False
                self.backlog.mark_sent(parted.sent)
        self.acks.remember_all(parted.acks)
        if parted.session is not None:
            self.session.update(parted.session)

    def skip(self, places: list[int]) -> None:
        """Frames with these places in the log are left out."""
        self._settle()
        if self.backlog is not None:
            self.backlog.skip(self.backlog.numbers(places))

    def _go_away(self, silent_secs: float) -> None:
        self._drop_outbox()
        self.wait_for_client(silent_secs)

    def _lose_socket(self, why: CloseReason = close_codes.TAKEN_OVER) -> None:
        # Not 1008, which SDKs take for the end of the connection. A client may have given up the attempt that got it,
        # and comes back to it by this socket's end.
        if self.outbox is not None:
            outbox, self.outbox = self.outbox, None
            outbox.close(*why.frame)
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

    @property
    def is_reliable(self) -> bool:
        """Whether its client may come back to it."""
        return self.backlog is not None

    @property
    def departed(self) -> bool:
        """Whether it goes on in another process."""
        return self._departed

    @property
    def closing_for_good(self) -> bool:
        """Whether it is over for its client, wherever that may be."""
        return self._closed or self._ended or self._departed

    def snapshot(self) -> dict[str, Any]:
        """How it is, for whoever goes on with it: see snapshots.py."""
        self._settle()
        backlog = self.backlog
        assert backlog is not None  # noqa: S101 - only reliable ones have snapshots
        number, place = backlog.acknowledged
        if not len(backlog):
            # All that came for it so far has arrived.
            place = operations.place(self.hub)
            backlog.arrived(place)
        groups = set(self.groups)
        if self.changes:
            for at, group, joined in reversed(self.changes):
                if at > place:
                    (groups.discard if joined else groups.add)(group)
            self.changes = [change for change in self.changes if change[0] > place] or None
        owners = self.owners or [(operations.process(), 0, 0)]
        while len(owners) > 1 and operations.is_before(owners[1][2], place):
            del owners[0]
        if self.begun_events:
            kept = {
                ack_id: begun
                for ack_id, begun in self.begun_events.items()
                if begun.place is None or begun.place > place
            }
            self.begun_events = kept or None
        return {
            "owner": operations.process(),
            # At its place; whoever has it now has claimed it since.
            "claimed": owners[0],
            "id": self.id,
            "hub": self.hub,
            "user_id": self.user_id,
            "subprotocol": self.subprotocol,
            "ack_pause_secs": self.ack_pause_secs,
            "place": place,
            "number": number,
            "sent": backlog.sent if self.outbox is None and not self.sent_unsure else None,
            "groups": sorted(groups),
            "permissions": self.permissions.packed(),
            "acks": self.acks.ranges(),
            "begun": [(ack_id, begun.process) for ack_id, begun in (self.begun_events or {}).items()],
            # The first snapshot is written just before; whoever reads it finds a client that was let in.
            "session": self.session.packed() | {"opened": True},
        }

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
            self.number(batch, _now())
        elif self.outbox is not None:
            self.outbox.put_shared(outgoing, self.codec)

    def number(self, batch: Batch, now: float) -> None:
        """Take data frames that others get too, as one of the reliable ones."""
        backlog = self.backlog
        # What comes behind a frame that was lost would get its number.
        if backlog is None or self._closed or self._overflowing or not batch.sized:
            return
        first = backlog.put(batch, now, sent=self.outbox is not None or self.sent_unsure)
        if first is None:
            self._overflow()
        elif self.outbox is not None:
            self.outbox.put_batch(batch, first)

    def _overflow(self) -> None:
        if not self._overflowing:
            # In the middle of a fan-out, perhaps: acted on in the next turn.
            self._overflowing = True
            eviction.log(self, *self.backlog.overflow(_now()))  # type: ignore[union-attr]
            asyncio.get_running_loop().call_soon(self.close, *close_codes.BUFFER_FULL.frame)

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

    def receive_nowait(self, message: Message) -> bool:
        """Take a message from the client. False: so many are being handled that its reader should wait (`frames`)."""
        frame = self._read(message)
        return frame is None or self.frames.put_nowait(frame)

    async def receive(self, message: Message) -> None:
        """As `receive_nowait`, but wait until it can be handled."""
        frame = self._read(message)
        if frame is not None:
            await self.frames.put(frame)

    def _read(self, message: Message) -> Upstream | None:
        try:
            return self.decode(message)
        except Disconnect as disconnect:
            # In its turn: an event before it may still wait for its handler's answer.
            self.frames.fail(disconnect)
            return None

    def _broke_off(self, disconnect: Disconnect) -> None:
        self.close(disconnect.code, disconnect.message)

    def decode(self, message: Message) -> Upstream:
        """Read one message. Raises Disconnect when the client breaks the protocol."""
        # A text of n characters has at least n bytes and at most four times as many.
        limit = conf.settings.MAX_MESSAGE_BYTES
        size = len(message)
        if size > limit or (isinstance(message, str) and size * 4 > limit and len(message.encode()) > limit):
            raise Disconnect(*close_codes.MESSAGE_TOO_LARGE.frame)
        return self.codec.decode(message)

    def handle_frame(self, frame: Upstream) -> Continuation | None:
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

    async def _finish(self, frame: Upstream, ack_id: int | None, rest: Continuation) -> None:
        """Do the rest of what a frame asks, and answer it. Raises Disconnect."""
        try:
            await rest()
        except Exception as problem:
            ack = self._failed(frame, ack_id, problem)
        else:
            ack = None if ack_id is None else Ack(ack_id)
        if ack is not None and not self._departed:
            self._acknowledge(ack)

    def _failed(self, frame: Upstream, ack_id: int | None, problem: Exception) -> Ack | None:
        """What a client is told of a frame that could not be handled. Raises Disconnect."""
        if isinstance(problem, Disconnect):
            raise problem
        if not isinstance(problem, Refusal):
            logger.error("A %s frame could not be handled", type(frame).__name__, exc_info=problem)
        refusal = problem if isinstance(problem, Refusal) else Refusal(close_codes.FAILED.reason)
        if ack_id is not None:
            return Ack(ack_id, refusal.name, refusal.message)
        if not self.codec.named:
            # A simple client cannot be told in any other way.
            why = close_codes.forbidden(refusal.message) if isinstance(refusal, Forbidden) else close_codes.FAILED
            raise Disconnect(*why.frame)
        logger.debug("A %s frame without ackId was refused: %s", type(frame).__name__, refusal.name)
        return None

    async def _join_group(self, frame: JoinGroup) -> None:
        if not self.permissions.may_join_or_leave(frame.group):
            raise Forbidden(NOT_ALLOWED.format(verb="join", group=frame.group))
        await operations.join_group(self, frame.group, frame.ack_id)

    async def _leave_group(self, frame: LeaveGroup) -> None:
        if not self.permissions.may_join_or_leave(frame.group):
            raise Forbidden(NOT_ALLOWED.format(verb="leave", group=frame.group))
        await operations.leave_group(self, frame.group, frame.ack_id)

    def _send_to_group(self, frame: SendToGroup) -> Continuation | None:
        if not self.permissions.may_send(frame.group):
            raise Forbidden(NOT_ALLOWED.format(verb="send to", group=frame.group))
        ack_id = frame.ack_id
        if ack_id is not None and self.in_doubt and ack_id in self.in_doubt:
            return partial(self._send_again, frame, ack_id)
        posted = self._post(frame)
        if posted is None:
            return None
        may_wait = self._unconfirmed < conf.settings.MAX_WAITING_FRAMES
        if ack_id is None and self.codec.named and may_wait:
            # Nobody is told how it goes, so nobody has to wait until it is known.
            self._unconfirmed += 1
            posted.add_done_callback(self._confirmed)
            return None
        return partial(self._confirm, ack_id, posted)

    def _post(self, frame: SendToGroup) -> asyncio.Future[None] | None:
        return operations.post_to_group(
            self.hub,
            frame.group,
            frame.payload,
            from_user_id=self.user_id,
            metadata=frame.metadata,
            excluded=(self.id,) if frame.no_echo else (),
            ttl_secs=frame.ttl_secs,
            sender=self,
            ack_id=frame.ack_id,
        )

    def _confirmed(self, _: object) -> None:
        self._unconfirmed -= 1

    async def _confirm(self, ack_id: int | None, posted: asyncio.Future[None]) -> None:
        """Wait until a publication has been delivered. Raises Unavailable."""
        try:
            await asyncio.shield(posted)
        except Unavailable as unavailable:
            if ack_id is not None and unavailable.outcome is not None:
                if self.in_doubt is None:
                    self.in_doubt = {}
                self.in_doubt[ack_id] = unavailable.outcome
                if len(self.in_doubt) > MAX_IN_DOUBT:
                    del self.in_doubt[next(iter(self.in_doubt))]
            raise

    async def _send_again(self, frame: SendToGroup, ack_id: int) -> None:
        """Publish what may be in the log already, unless it is. Raises Duplicate, Unavailable."""
        assert self.in_doubt is not None  # noqa: S101 - the caller has looked
        outcome = self.in_doubt[ack_id]
        try:
            async with asyncio.timeout(1):
                is_in_log = await asyncio.shield(outcome)
        except TimeoutError:
            raise Unavailable(operations.UNREACHABLE) from None
        self.in_doubt.pop(ack_id, None)
        if is_in_log:
            self.acks.remember(ack_id)
            raise Duplicate(ack_id)
        posted = self._post(frame)
        if posted is not None:
            await self._confirm(ack_id, posted)

    @property
    def owner(self) -> tuple[str, int, int] | None:
        """The claim that made it this process's: by whom, when the handshake began, and its position."""
        return None if self.owners is None else self.owners[-1]

    def claimed(self, process: str, began: int, position: int) -> None:
        """A claim of it holds."""
        if self.owners is None:
            self.owners = []
        self.owners.append((process, began, position))

    def published(self, ack_id: int) -> None:
        """What this client asked for under an ackId is in the log, and has been done here."""
        self.acks.remember(ack_id)

    # Events. Those of a reliable client are in the log from before the handler is called until it has answered,
    # where there is one: so they are handled once, though the client comes back elsewhere and sends them again.

    async def _event(self, frame: UserEvent) -> None:
        ack_id = frame.ack_id
        logged = self.backlog is not None and operations.keeps_log()
        if logged and ack_id is not None:
            await self._begin_event(ack_id)
        state = self.session.state
        try:
            request = UserEventRequest(self.session.context, frame.event, frame.payload, frame.metadata or {})
            reply = await dispatch.user_event(self.session, request)
        except BaseException as problem:
            if logged and ack_id is not None:
                refusal = problem if isinstance(problem, Refusal) else Refusal(close_codes.FAILED.reason)
                self._append_surely(Done(self.id, ack_id, refusal.name, refusal.message, self.session.packed()))
            raise
        payload = reply.payload
        if payload is None and reply.metadata:
            # Metadata needs a message to travel with.
            payload = Payload(TEXT, b"")
        if not logged:
            if payload is not None:
                self._put_reply(payload, reply.metadata, 0)
            if state != self.session.state:
                self._keep_state()
        elif ack_id is not None or payload is not None or state != self.session.state:
            metadata = None if reply.metadata is None else dict(reply.metadata)
            answer = None if payload is None else (payload.data_type, payload.data, metadata)
            done = Done(self.id, ack_id, None, None, self.session.packed(), answer)
            if ack_id is None:
                # Nobody would know one that comes twice.
                operations.append(self, done)
                return
            try:
                async with asyncio.timeout(TELLING_SECS):
                    await asyncio.shield(self._append_surely(done))
            except TimeoutError:
                raise Unavailable(operations.UNREACHABLE) from None

    def _keep_state(self) -> None:
        """The handler's state is another: whoever goes on with this connection, or tells of its end, needs it."""
        if self.backlog is not None and operations.keeps_log():
            operations.append(self, Done(self.id, session=self.session.packed()))
        else:
            operations.state_changed(self)

    async def _begin_event(self, ack_id: int) -> None:
        """Wait for whoever handles this event already, or say that it is handled here.

        Raises Duplicate, Unavailable.
        """
        try:
            async with asyncio.timeout(conf.settings.HANDLER_SECS + FINISHING_SECS):
                while (begun := (self.begun_events or {}).get(ack_id)) is not None and begun.is_handled():
                    # Also when the process that handles it has died meanwhile.
                    await asyncio.wait([begun.over], timeout=1)
                    if self._departed or self._ended:
                        raise Unavailable(STOPPING)
        except TimeoutError:
            raise Unavailable(STILL_HANDLED) from None
        if ack_id in self.acks:
            raise Duplicate(ack_id)
        try:
            await applied(operations.append(self, Begun(self.id, ack_id, self.session.next_number)))
        except Unavailable as problem:
            if problem.outcome is not None:
                # It may be in the log, and then others wait for its end. Nobody handles it here, until that is told.
                self._begin(ack_id, operations.process())
                self._append_surely(Done(self.id, ack_id, problem.name, problem.message, self.session.packed()))
            raise
        begun = (self.begun_events or {}).get(ack_id)
        if begun is None or begun.process != operations.process():
            # Another process had claimed it before: it handles the event, when the client sends that again.
            raise Unavailable(STOPPING)

    def _append_surely(self, done: Done) -> asyncio.Task[None]:
        """Append the end of an event, again if need be: those that come second mean nothing."""

        async def append() -> None:
            while not operations.stopped():
                try:
                    await applied(operations.append(self, done))
                    return
                except Refusal:
                    await asyncio.sleep(AGAIN_SECS)

        task = asyncio.create_task(append(), name="append the end of an event")
        _telling[task] = asyncio.get_running_loop()
        task.add_done_callback(_telling.pop)
        return task

    def event_begun(self, begun: Begun, process: str) -> None:
        """An event of this client is being handled, by the process that has it or had it then."""
        known = (self.begun_events or {}).get(begun.ack_id)
        if known is None or known.process != process or known.place is not None:
            self._begin(begun.ack_id, process)
        if process != operations.process() or not operations.is_here(self):
            self.session.skip(begun.number)

    def _begin(self, ack_id: int, process: str) -> None:
        if self.begun_events is None:
            self.begun_events = {}
        self.begun_events[ack_id] = _Begun(process)

    def event_done(self, done: Done, process: str, place: int) -> None:
        """An event of this client was handled, by whoever has it or has begun with that before it went on elsewhere."""
        begun = None
        if done.ack_id is None:
            # Who was never claimed is of the process that has it.
            handler = operations.process() if self.owner is None else self.owner[0]
        else:
            begun = (self.begun_events or {}).get(done.ack_id)
            if begun is None or begun.place is not None:
                # It comes again, and the event may be forgotten here: all it brought has been acknowledged.
                return
            handler = begun.process
        if process != handler:
            return
        # Not where it is being made again.
        here = process == operations.process() and operations.is_here(self)
        if done.problem is None and done.ack_id is not None:
            self.acks.remember(done.ack_id)
        if not here and done.session is not None:
            self.session.update(done.session)
        if done.reply is not None:
            data_type, data, metadata = done.reply
            self._put_reply(Payload(data_type, data), metadata, place)
        if done.ack_id is None or begun is None:
            return
        begun.place = place
        begun.over.set_result(None)
        if not here:
            # Who waits for the ack is here now.
            self._acknowledge(Ack(done.ack_id, done.problem, done.message or ""))

    def _put_reply(self, payload: Payload, metadata: Mapping[str, str] | None, place: int) -> None:
        self._settle()
        self.deliver(Outgoing(ServerMessage(payload, metadata), place=place))

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
            state = self.session.state
            reply = await dispatch.invoke(self.session, request)
            if state != self.session.state:
                self._keep_state()
            response = InvokeResponse(frame.invocation_id, reply.payload, metadata=reply.metadata)
        except Refusal as refusal:
            response = _failure(frame, refusal.name, refusal.message)
        except Exception:
            logger.exception("An invocation could not be answered")
            response = _failure(frame, "InternalServerError", close_codes.FAILED.reason)
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
    _AT_ONCE: ClassVar[Mapping[type, Callable[[Any, Any], Continuation | None]]] = {
        SendToGroup: _send_to_group,
        Ping: _ping,
        SequenceAck: _sequence_ack,
        Invoke: _invoke,
        CancelInvocation: _cancel_invocation,
        InvokeResponse: _invoke_response,
    }


class _Begun:
    """An event that a process has begun to handle."""

    __slots__ = ("over", "place", "process")

    def __init__(self, process: str) -> None:
        self.process = process
        # Where its end is in the log.
        self.place: int | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def is_handled(self) -> bool:
        """Whether it is being handled still."""
        return self.place is None and operations.lives(self.process)


# Those that have gone to another process while an event of theirs was being handled.
_unfinished: dict[Connection, asyncio.AbstractEventLoop] = {}
# And ends of events that have to be told still.
_telling: dict[asyncio.Task[None], asyncio.AbstractEventLoop] = {}


def _finished(connection: Connection) -> None:
    _unfinished.pop(connection, None)


def unfinished(loop: asyncio.AbstractEventLoop) -> int:
    """How many events are still being handled here of connections that have gone elsewhere."""
    return sum(where is loop for where in (*_unfinished.values(), *_telling.values()))


def _failure(frame: Invoke, name: str, message: str) -> InvokeResponse:
    return InvokeResponse(frame.invocation_id, error_name=name, error_message=message)


def _now() -> float:
    return asyncio.get_running_loop().time()
