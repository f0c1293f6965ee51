"""What processes append to the logs, as bytes.

To the log of a hub, in the order that decides:

    Publications  messages; whoever is meant is to get them
    Change        reliable connections join or leave a group, or are granted or denied a permission
    Claim         a reliable connection goes on in another process, or with another socket
    Parted        what had been acknowledged, by the client and to it, in the process that it has left
    Begun, Done   an event handler works on an event of a reliable connection; what came of it
    Skipped       frames that came too late for a client that was away are left out
    Ended         a reliable connection is over
    Gap           entries before this one were lost

To the log that all processes read:

    Hello         I am here
    Goodbye       this process is not here any more
    Takeover      that process is dead, and I look after its connections
    Adopted       I have them
    Question      do or tell something about a connection of yours, or about all that are meant

To the log of one process:

    Answer        how that went

Every entry travels with the version of this list (`VERSION`). Of a newer one a process reads what it knows: fields are
only ever added at the end, with defaults, and kinds that are not known are passed over.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from hubs.protocols.frames import GroupMessage, Payload, ServerMessage
from hubs.rules.audiences import Audience

VERSION = 1


class Publication(msgspec.Struct, frozen=True, array_like=True):
    """A message for an audience. `connection`: for that one connection only.

    `ttl_secs`: how long it may wait for a client that is away; None, as long as the client may be.
    `sender`, `ack_id`: the reliable connection that published it, and the ackId under which it may do so again.
    """

    audience: Audience
    data_type: str
    data: bytes
    from_user_id: str | None = None
    metadata: dict[str, str] | None = None
    connection: str | None = None
    ttl_secs: int | None = None
    sender: str | None = None
    ack_id: int | None = None

    @property
    def frame(self) -> GroupMessage | ServerMessage:
        """The publication as those who get it are told of it."""
        payload = Payload(self.data_type, self.data)
        if self.audience.group is None or self.connection is not None:
            return ServerMessage(payload, self.metadata)
        return GroupMessage(self.audience.group, payload, self.from_user_id, self.metadata)


class Publications(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """What a process published to one hub in a turn of its loop, in that order."""

    items: list[Publication]


class Change(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """A verb (operations.py) that is done with reliable connections of the process that appends it.

    `ack_id`: under which the client of the one connection has asked for it.
    """

    verb: str
    connections: list[str]
    arguments: dict[str, Any] = {}
    ack_id: int | None = None


class Claim(msgspec.Struct, frozen=True, array_like=True, tag="k"):
    """The process that appends it is to have a reliable connection.

    `began`: when the handshake of its socket began, in milliseconds of the log's clock; who began earlier loses.
    `of`: the dead process in whose place this is done, for a client that is away; it loses to any socket's.
    """

    connection: str
    began: int
    of: str | None = None


class Parted(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    """The process that appends it has read a claim, and had this connection until then.

    `acknowledged`: the number of the last frame that its client had acknowledged there; `acks`: ranges of the ackIds of
    its client's operations that had succeeded, first and last; `sent`: the number up to which a socket has had frames;
    `session`: what event handlers keep of the connection (upstream/session.py).
    """

    connection: str
    acknowledged: int
    acks: list[tuple[int, int]] = []
    sent: int = 0
    session: dict[str, Any] | None = None


class Begun(msgspec.Struct, frozen=True, array_like=True, tag="b"):
    """The process that appends it has an event of a reliable connection handled. `number`: that of the event."""

    connection: str
    ack_id: int
    number: int = 0


class Done(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """An event was handled; `problem` and `message`, if it failed. `reply`: data type, data, metadata.

    `session`: what the handlers keep of the connection since (upstream/session.py)."""

    connection: str
    ack_id: int | None = None
    problem: str | None = None
    message: str | None = None
    session: dict[str, Any] | None = None
    reply: tuple[str, bytes, dict[str, str] | None] | None = None


class Skipped(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """Frames of a reliable connection are left out; those behind them move up.

    `frames`: the entries that brought them, by position, and which of its publications each was. Not by number: a
    snapshot may be of a later time than its place in the log, and then its numbers have moved up already.
    """

    connection: str
    frames: list[tuple[int, int]]


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    """A reliable connection is over."""

    connection: str


class Gap(msgspec.Struct, frozen=True, array_like=True, tag="g"):
    """Redis forgot entries that some processes have read, and others may not have."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="h"):
    """A process is here, and says so for the `number`th time; 0: out of turn, because somebody asked (`asks`).

    `secrets`: marks of the secrets that it reads with, in its first hello and in those out of turn.
    """

    process: str
    number: int = 0
    asks: bool = False
    secrets: tuple[str, ...] = ()


class Goodbye(msgspec.Struct, frozen=True, array_like=True, tag="y"):
    """A process has stopped. Its reliable connections are there for others to take."""

    process: str


class Takeover(msgspec.Struct, frozen=True, array_like=True, tag="t"):
    """A process has stopped or is dead; the one that says so first looks after what it leaves."""

    process: str


class Adopted(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """What that process left is looked after."""

    process: str


class Question(msgspec.Struct, frozen=True, array_like=True, tag="q"):
    """Something a process asks whoever has `connection`, or, without one, everybody about an audience."""

    number: int
    verb: str
    audience: Audience
    connection: str | None = None
    arguments: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """What came of a question. `problem` names the refusal, if it was one; then `message` explains.

    `moved`: connections that may be meant have come to this process or gone from it since the question was put.
    """

    number: int
    value: Any = None
    problem: str | None = None
    message: str = ""
    moved: bool = False


Entry = (
    Publications
    | Change
    | Claim
    | Parted
    | Begun
    | Done
    | Skipped
    | Ended
    | Gap
    | Hello
    | Goodbye
    | Takeover
    | Adopted
    | Question
    | Answer
)

encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)


def decode(body: bytes) -> Entry:
    """Read an entry; raises msgspec.MsgspecError when it is none that this version knows."""
    return _decoder.decode(body)


# Names of logs. A name of the layer has few characters, and a hub may be called anything.


@lru_cache(maxsize=1024)
def hub_log(hub: str) -> str:
    """The log of a hub."""
    return f"hub.{blake2b(hub.encode(), digest_size=20).hexdigest()}"


def process_log(process: str) -> str:
    """The log in which a process finds answers."""
    return f"process.{process}"


# The log that all processes read.
CONTROL_LOG = "processes"
