"""What one process of the service says to another, as bytes.

    Publication   a group's members are to get this
    Question      do or tell something about a connection of yours
    Answer        how that went

Layer group names allow few characters, and a group may be called anything; so an address is hashed
into the layer's name, and the real names travel inside.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import msgspec

from hubs.protocols.frames import GroupMessage, Payload


class Publication(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """A message for the members of a group. `excluded`: connection ids that do not get it."""

    hub: str
    group: str
    data_type: str
    data: bytes
    from_user_id: str | None = None
    metadata: dict[str, str] | None = None
    excluded: tuple[str, ...] = ()

    @property
    def frame(self) -> GroupMessage:
        """The publication as members are told of it."""
        return GroupMessage(self.group, Payload(self.data_type, self.data), self.from_user_id, self.metadata)


class Question(msgspec.Struct, frozen=True, array_like=True, tag="q"):
    """Something one process asks the home of a connection. `about` is the connection's id."""

    number: int
    asker: str
    verb: str
    hub: str
    about: str
    arguments: dict[str, str | None] = {}


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """What came of a question. `problem` names the refusal, if it was one; then `message` explains."""

    number: int
    value: bool = True
    problem: str | None = None
    message: str = ""


Envelope = Publication | Question | Answer

encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Envelope] = msgspec.msgpack.Decoder(Envelope)


def decode(body: bytes) -> Envelope:
    """Read an envelope; raises msgspec.MsgspecError when it is none."""
    return _decoder.decode(body)


# Names have up to 1024 characters, so this may grow to some megabytes.
@lru_cache(maxsize=8192)
def group_address(hub: str, group: str) -> str:
    """The layer's name for a group of a hub."""
    digest = blake2b(group.encode("utf-8", "surrogatepass"), key=hub.encode()[:64], digest_size=20)
    digest.update(b"\0" + hub.encode())
    return f"g.{digest.hexdigest()}"


def process_address(process: str) -> str:
    """The layer's name under which one process is asked."""
    return f"p.{process}"
