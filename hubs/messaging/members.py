"""Connections that are meant together, and how a message gets to all of them with the least work.

Most members of a group differ in nothing that matters for a message: their sockets are open, their
servers take finished frames (protocols/extension.py), and all frames of one wire format are the same.
Such members are one audience of their server, which is told once. What is left is told one by one:
reliable members, whose frames are numbered, and those of other servers.

Who is in which audience is worked out when a message comes, and again after members came or went.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from hubs.protocols.codec import Codec, Outgoing
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
        # `deliver` never changes membership: who overflows is closed, and leaves, in its own time.
        for member in ways.others:
            member.deliver(outgoing)


class _Ways:
    """How each of some members is reached."""

    __slots__ = ("audiences", "others")

    def __init__(self, members: Iterable[Member]) -> None:
        alike: dict[tuple[str, object], tuple[Codec, list[Socket], list[Member]]] = {}
        self.others: list[Member] = []
        for member in members:
            socket = member.socket
            if socket is None:
                self.others.append(member)
            else:
                codec = member.codec
                _, sockets, together = alike.setdefault((codec.wire, socket.server), (codec, [], []))
                sockets.append(socket)
                together.append(member)
        self.audiences: list[tuple[Codec, Audience]] = []
        for codec, sockets, together in alike.values():
            if len(sockets) < LEAST_TOGETHER:
                self.others += together
            else:
                self.audiences.append((codec, sockets[0].together(sockets)))
