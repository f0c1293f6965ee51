"""Connections that are meant together, and how a message gets to all of them with the least work.

Most members of a group differ in nothing that matters for a message: their sockets are open, their
servers take finished frames (protocols/extension.py), and all frames of one wire format are the same.
Such members are one audience of their server, which is told once. What is left is told one by one:
reliable members, each of whose frames has a number of its own, and those of other servers.

Who is in which audience is worked out when a message comes, and again after members came or went.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from hubs.protocols.codec import Codec, Outgoing, Sized, Stamps
from hubs.protocols.extension import Audience, Socket

# Two are not worth the trouble of putting them together.
LEAST_TOGETHER = 3


class Member(Protocol):
    """What the switchboard needs of a connection."""

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

    def number(self, sized: Sized, stamps: Stamps, ttl_secs: int | None) -> None:
        """As `deliver`, for a member whose codec is reliable."""


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

    def deliver(self, outgoing: Outgoing) -> None:
        """Give a frame to all."""
        ways = self._ways
        if ways is None:
            ways = self._ways = _Ways(self.values())
        for codec, audience in ways.audiences:
            frames = outgoing.frames(codec)
            if frames is not None:
                audience.write(frames)
        # Neither of these changes membership: who overflows is closed, and leaves, in its own time.
        for codec, members in ways.numbered:
            sized = outgoing.sized(codec)
            if sized is not None:
                stamps, ttl_secs = outgoing.stamps(codec), outgoing.ttl_secs
                for member in members:
                    member.number(sized, stamps, ttl_secs)
        for member in ways.others:
            member.deliver(outgoing)


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
