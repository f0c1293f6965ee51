"""What a codec is, the table of all of them, and which one a handshake gets.

A WebSocket message is `str` (a text message) or `bytes` (a binary one), both ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from hubs.protocols.frames import Downstream, Upstream
from hubs.protocols.framing import frames_of
from hubs.protocols.json import JsonCodec
from hubs.protocols.plain import PlainCodec
from hubs.protocols.protobuf import ProtobufCodec

Message = str | bytes

# A data frame as its codec wrote it for everybody, and its size in bytes.
Sized = tuple[Message, int]


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


def size_of(message: Message) -> int:
    """How many bytes a message is on the wire."""
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())


class Outgoing:
    """One frame on its way to many clients: each wire format is encoded at most once.

    `ttl_secs`: how long it may wait for a client that is away; None, as long as the client may be.
    `source`: the process that published it, and its number there.
    """

    __slots__ = ("_forms", "_frames", "_sized", "_stamped", "frame", "source", "ttl_secs")

    def __init__(
        self, frame: Downstream, *, ttl_secs: int | None = None, source: tuple[str, int] | None = None
    ) -> None:
        self.frame = frame
        self.ttl_secs = ttl_secs
        self.source = source
        self._forms: dict[str, Message | None] = {}
        self._frames: dict[str, bytes | None] = {}
        self._sized: dict[str, Sized | None] = {}
        self._stamped: dict[str, dict[int, bytes]] = {}

    def form(self, codec: Codec) -> Message | None:
        """The frame as `codec` writes it."""
        try:
            return self._forms[codec.wire]
        except KeyError:
            form = self._forms[codec.wire] = codec.encode(self.frame)
            return form

    def frames(self, codec: Codec) -> bytes | None:
        """The same as finished WebSocket frames; None where clients of this codec are not told."""
        try:
            return self._frames[codec.wire]
        except KeyError:
            form = self.form(codec)
            frames = self._frames[codec.wire] = None if form is None else frames_of(form)
            return frames

    def sized(self, codec: Codec) -> Sized | None:
        """The frame as `codec` writes it, with its size."""
        try:
            return self._sized[codec.wire]
        except KeyError:
            form = self.form(codec)
            sized = self._sized[codec.wire] = None if form is None else (form, size_of(form))
            return sized

    def stamped(self, codec: Codec, sequence_id: int) -> bytes:
        """Finished WebSocket frames with a sequence id; clients that have come as far share them."""
        try:
            return self._stamped[codec.wire][sequence_id]
        except KeyError:
            form = self.form(codec)
            assert form is not None  # noqa: S101 - it was kept under this id
            frames = frames_of(codec.stamp(form, sequence_id))
            self._stamped.setdefault(codec.wire, {})[sequence_id] = frames
            return frames
