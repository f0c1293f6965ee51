"""What one process of the service says to another, as bytes.

    Parcel        messages for many; whoever is meant is to get them
    Publication   the connection that is meant is to get this message
    Question      do or tell something about a connection of yours, or about all that are meant
    Answer        how that went
    Moved         a connection of yours is with me now, or has ended here
    Probe         does this way work already?
    Hello         I am here
    Goodbye       I am not here any more

Layer group names allow few characters, and a hub or group may be called anything; so an address is
hashed into the layer's name, and the real names travel inside.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from hubs.protocols.frames import GroupMessage, Payload, ServerMessage


class Audience(msgspec.Struct, frozen=True, array_like=True):
    """Which connections of a hub are meant: all that every given part holds for.

    `group`: members of it; `user_id`: the user's; `filter`: those it is true for (rules/filters.py);
    `excluded`: connection ids that are not meant. Nothing given means the whole hub.
    """

    hub: str
    group: str | None = None
    user_id: str | None = None
    filter: str | None = None
    excluded: tuple[str, ...] = ()


class Publication(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """A message for an audience. `connection`: for that one connection only.

    `ttl_secs`: how long it may wait for a client that is away; None, as long as the client may be.
    """

    audience: Audience
    data_type: str
    data: bytes
    from_user_id: str | None = None
    metadata: dict[str, str] | None = None
    connection: str | None = None
    ttl_secs: int | None = None

    @property
    def frame(self) -> GroupMessage | ServerMessage:
        """The publication as those who get it are told of it."""
        payload = Payload(self.data_type, self.data)
        if self.audience.group is None or self.connection is not None:
            return ServerMessage(payload, self.metadata)
        return GroupMessage(self.audience.group, payload, self.from_user_id, self.metadata)


class Parcel(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """Publications of one hub in the order in which a process made them.

    Each has its number there, and the name it has from an earlier time, if it was published before (tally.py).
    """

    items: list[tuple[Publication, int, tuple[str, int] | None]]


class Question(msgspec.Struct, frozen=True, array_like=True, tag="q"):
    """Something a process asks: the home of `connection`, or, without one, everybody about an audience.

    `answer_for`: the process that was asked, where that passed the question on.
    """

    number: int
    asker: str
    verb: str
    audience: Audience
    connection: str | None = None
    arguments: dict[str, Any] = {}
    answer_for: str = ""


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """What came of a question. `problem` names the refusal, if it was one; then `message` explains."""

    number: int
    process: str
    value: Any = None
    problem: str | None = None
    message: str = ""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="h"):
    """A process is here. `asks`: who hears it is to answer, to it alone, with a hello that `answers` this number.

    `deaf`: it is here, but has lost its way to hear the others, and what is published now is missed there.
    """

    process: str
    asks: int | None = None
    answers: int | None = None
    deaf: bool = False


class Goodbye(msgspec.Struct, frozen=True, array_like=True, tag="g"):
    """A process stops; its connections are gone."""

    process: str


class Moved(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """To the home of a connection: it is with `process` since its move number `moves`; empty, if it has ended."""

    connection: str
    process: str
    moves: int


class Probe(msgspec.Struct, frozen=True, array_like=True, tag="t"):
    """A process tries whether it hears what is sent to an address."""

    process: str
    number: int


Envelope = Parcel | Publication | Question | Answer | Hello | Goodbye | Moved | Probe

encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Envelope] = msgspec.msgpack.Decoder(Envelope)


def decode(body: bytes) -> Envelope:
    """Read an envelope; raises msgspec.MsgspecError when it is none."""
    return _decoder.decode(body)


# Names have up to 1024 characters, so this may grow to some megabytes.
@lru_cache(maxsize=8192)
def group_address(hub: str, group: str) -> str:
    """The layer's name for the members of a group."""
    digest = blake2b(group.encode("utf-8", "surrogatepass"), key=hub.encode()[:64], digest_size=20)
    digest.update(b"\0" + hub.encode())
    return f"g.{digest.hexdigest()}"


@lru_cache(maxsize=1024)
def hub_address(hub: str) -> str:
    """The layer's name for all connections of a hub."""
    return f"h.{blake2b(hub.encode(), digest_size=20).hexdigest()}"


def address_of(audience: Audience) -> str:
    """Where an audience is reached: its group's address, or its hub's."""
    return hub_address(audience.hub) if audience.group is None else group_address(audience.hub, audience.group)


def process_address(process: str) -> str:
    """The layer's name under which one process is asked."""
    return f"p.{process}"


# The layer's name under which all processes hear each other.
EVERYBODY = "everybody"
