"""What a codec is, the table of all of them, and which one a handshake gets.

A WebSocket message is `str` (a text message) or `bytes` (a binary one), both ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from hubs.protocols.frames import Downstream, Upstream
from hubs.protocols.json import JsonCodec
from hubs.protocols.plain import PlainCodec
from hubs.protocols.protobuf import ProtobufCodec

Message = str | bytes


class Codec(Protocol):
    """Translates between WebSocket messages and frames.

    `wire` names the format: codecs of the same wire write the same bytes for a data frame, so one
    encoding serves all their clients. `named` is False where no subprotocol was agreed on. `reliable`:
    its clients are told of data frames by number, acknowledge them, and may come back for the rest.
    """

    @property
    def wire(self) -> str:
        """Name of the format, the key under which encoded frames are shared."""

    @property
    def named(self) -> bool:
        """Whether clients of this codec speak one of the service's subprotocols."""

    @property
    def reliable(self) -> bool:
        """Whether data frames are numbered and kept until the client has acknowledged them."""

    def decode(self, message: Message) -> Upstream:
        """Read one message; raises Disconnect with the close code the protocol asks for."""

    def encode(self, frame: Downstream) -> Message | None:
        """Write one frame; None when clients of this codec are not told."""

    def stamp(self, form: Message, sequence_id: int) -> Message:
        """Add a client's own sequence id to a data frame that `encode` has written for all of them."""


# By lower-case name, as they compare.
CODECS: Mapping[str, Codec] = {
    codec.name: codec
    for codec in (
        JsonCodec("json.webpubsub.azure.v1"),
        JsonCodec("json.reliable.webpubsub.azure.v1", reliable=True),
        ProtobufCodec("protobuf.webpubsub.azure.v1"),
        ProtobufCodec("protobuf.reliable.webpubsub.azure.v1", reliable=True),
    )
}


def choose(offered: Sequence[str]) -> tuple[str | None, Codec]:
    """Give the first offered subprotocol that is known, in the client's spelling, and its codec.

    With none known the connection is a simple client without a subprotocol.
    """
    for name in offered:
        codec = CODECS.get(name.lower())
        if codec is not None:
            return name, codec
    return None, PlainCodec()


class Outgoing:
    """One frame on its way to many clients: each wire format is encoded at most once.

    `ttl_secs`: how long it may wait for a client that is away; None, as long as the client may be.
    `source`: the process that published it, and its number there.
    """

    __slots__ = ("_forms", "frame", "source", "ttl_secs")

    def __init__(
        self, frame: Downstream, *, ttl_secs: int | None = None, source: tuple[str, int] | None = None
    ) -> None:
        self.frame = frame
        self.ttl_secs = ttl_secs
        self.source = source
        self._forms: dict[str, Message | None] = {}

    def form(self, codec: Codec) -> Message | None:
        """The frame as `codec` writes it."""
        try:
            return self._forms[codec.wire]
        except KeyError:
            form = self._forms[codec.wire] = codec.encode(self.frame)
            return form
