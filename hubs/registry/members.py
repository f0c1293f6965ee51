"""Connections that are meant together, and how a message gets to all of them with the least work.

Most members of a group differ in nothing that matters for a message: their sockets are open, their
servers take finished frames (protocols/extension.py), and all frames of one wire format are the same.
Such members are one audience of their server, which is told once. What is left is told one by one:
reliable members, each of whose frames has a number of its own, and those of other servers.

Who is in which audience is worked out when a message comes, and again after members came or went.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from hubs.cluster.entries import Begun, Done, Parted
from hubs.protocols.codec import Batch, Codec, Outgoing
from hubs.protocols.extension import Audience, Socket

# Two are not worth the trouble of putting them together.
LEAST_TOGETHER = 3

# Frames that wait for their numbers; more than a turn of the loop ever has, and much less than a reliable buffer holds.
MOST_PUT_OFF = 100
MOST_PUT_OFF_BYTES = 128 * 1024


class Member(Protocol):
    """What the registry needs of a connection."""

    id: str
    hub: str
    codec: Codec
    user_id: str | None
    subprotocol: str | None

    @property
    def groups(self) -> Collection[str]:
        """The groups it is a member of."""

    @property
    def socket(self) -> Socket | None:
        """Where frames that many get alike can be written for it; None where it has to have them by `deliver`."""

    def deliver(self, outgoing: Outgoing) -> None:
        """Take a frame for the client; never waits."""

    def number(self, batch: Batch, now: float) -> None:
        """Take several frames at once, as a member whose codec is reliable; `now` by the loop's clock."""

    def published(self, ack_id: int) -> None:
        """What it asked for under an ackId has been done."""

    @property
    def owner(self) -> tuple[str, int, int] | None:
        """The claim that made it this process's: by whom, when the handshake began, and its position."""

    def claimed(self, process: str, began: int, position: int) -> None:
        """A claim of it holds."""

    def depart(self, *, taken_over: bool) -> None:
        """It goes on in another process; `taken_over`: this process was taken for dead."""

    def ended_elsewhere(self) -> None:
        """The process that had it has ended it, before it knew that it is here."""

    def lose_messages(self) -> None:
        """What was published for it may be lost."""

    def parted(self, parted: Parted, *, just_now: bool) -> None:
        """A process that it has left says what was acknowledged there; `just_now`: the last one, for this one."""

    def skip(self, places: list[int]) -> None:
        """Frames with these places in the log came too late for it."""

    def event_begun(self, begun: Begun, process: str) -> None:
        """A process has an event of it handled."""

    def event_done(self, done: Done, process: str, place: int) -> None:
        """An event of it was handled."""


class Members(dict[str, Member]):
    """Connections of this process by id."""

    __slots__ = ("_ways",)

    def __init__(self) -> None:
        super().__init__()
        self._ways: _Ways | None = None

    def put(self, member: Member) -> None:
        """One comes."""
        self[member.id] = member
        self._ways = None

    def remove(self, member: Member) -> None:
        """One goes."""
        del self[member.id]
        self._ways = None

    def changed(self) -> None:
        """The socket of one is another than before."""
        self._ways = None

    def deliver(self, outgoing: Outgoing, numbering: Numbering) -> None:
        """Give a frame to all; reliable ones get it when `numbering` is settled."""
        ways = self._ways
        if ways is None:
            ways = self._ways = _Ways(self.values())
        for codec, audience in ways.audiences:
            frames = outgoing.frames(codec)
            if frames is not None:
                audience.write(frames)
        for codec, members in ways.numbered:
            numbering.add(members, codec, outgoing)
        # This never changes membership: who overflows is closed, and leaves, in its own time.
        for member in ways.others:
            member.deliver(outgoing)


class Numbering:
    """What reliable members are to get and has no number yet.

    A turn of the loop often has several messages for the same members. To number them one by one
    costs several times what it costs to number all of a turn at once, so that is put off to its end, or until something
    else happens to one of these members (`settle`): whoever gives a reliable connection anything,
    or looks at what it has, settles first.
    """

    def __init__(self) -> None:
        self._members: Sequence[Member] = ()
        self._batch = Batch()
        self._scheduled = False

    def add(self, members: Sequence[Member], codec: Codec, outgoing: Outgoing) -> None:
        """Give a frame to these members, all of this codec's format. The same members are the same object."""
        if members is not self._members:
            self.settle()
            self._members = members
        self._batch.add(outgoing, codec)
        if len(self._batch) >= MOST_PUT_OFF or self._batch.bytes >= MOST_PUT_OFF_BYTES:
            self.settle()
        elif not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._end_of_turn)

    def settle(self) -> None:
        """Number what was put off."""
        if self._batch:
            members, batch = self._members, self._batch
            self._members, self._batch = (), Batch()
            now = asyncio.get_running_loop().time()
            for member in members:
                member.number(batch, now)

    def _end_of_turn(self) -> None:
        self._scheduled = False
        self.settle()


class _Ways:
    """How each of some members is reached."""

    __slots__ = ("audiences", "numbered", "others")

    def __init__(self, members: Iterable[Member]) -> None:
        alike: dict[tuple[str, object], tuple[Codec, list[Socket], list[Member]]] = {}
        numbered: dict[str, tuple[Codec, list[Member]]] = {}
        self.others: list[Member] = []
        for member in members:
            codec, socket = member.codec, member.socket
            if codec.reliable:
                numbered.setdefault(codec.wire, (codec, []))[1].append(member)
            elif socket is None:
                self.others.append(member)
            else:
                _, sockets, together = alike.setdefault((codec.wire, socket.server), (codec, [], []))
                sockets.append(socket)
                together.append(member)
        self.numbered = list(numbered.values())
        self.audiences: list[tuple[Codec, Audience]] = []
        for codec, sockets, together in alike.values():
            if len(sockets) < LEAST_TOGETHER:
                self.others += together
            else:
                self.audiences.append((codec, sockets[0].together(sockets)))
