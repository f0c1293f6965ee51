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


class Stamps(dict[int, bytes]):
    """Finished WebSocket frames of one data frame by sequence id, made as they are asked for.

    Clients that have come as far share them. `message` is for those who need it before it is framed.
    """

    __slots__ = ("_codec", "_form")

    def __init__(self, codec: Codec, form: Message) -> None:
        super().__init__()
        self._codec = codec
        self._form = form

    def message(self, sequence_id: int) -> Message:
        """The data frame with a sequence id."""
        return self._codec.stamp(self._form, sequence_id)

    def __missing__(self, sequence_id: int) -> bytes:
        frames = self[sequence_id] = frames_of(self.message(sequence_id))
        return frames


class Batch:
    """Data frames of one wire format that the same reliable clients get, one behind the other."""

    __slots__ = ("_joined", "bytes", "places", "sized", "stamps", "ttl_secs")

    def __init__(self) -> None:
        self.sized: list[Sized] = []
        self.stamps: list[Stamps] = []
        # By the frame's place in the batch: how long it may wait, where that is bounded.
        self.ttl_secs: dict[int, int] = {}
        # Places in the log of the hub (see Outgoing); empty where there is none.
        self.places: list[int] = []
        # The size of all together.
        self.bytes = 0
        self._joined: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.sized)

    def add(self, outgoing: Outgoing, codec: Codec) -> None:
        """Put one more behind the others."""
        sized = outgoing.sized(codec)
        if sized is not None:
            if outgoing.ttl_secs:
                self.ttl_secs[len(self.sized)] = outgoing.ttl_secs
            if outgoing.place:
                self.places.append(outgoing.place)
            self.sized.append(sized)
            self.stamps.append(outgoing.stamps(codec))
            self.bytes += sized[1]

    def frames(self, first: int) -> bytes:
        """All as finished WebSocket frames with ids from `first` on; clients that have come as far share them."""
        try:
            return self._joined[first]
        except KeyError:
            frames = b"".join([stamps[first + place] for place, stamps in enumerate(self.stamps)])
            self._joined[first] = frames
            return frames


class Outgoing:
    """One frame on its way to many clients: each wire format is encoded at most once.

    `ttl_secs`: how long it may wait for a client that is away; None, as long as the client may be.
    `place`: its place in the log of the hub; 0 where there is none.
    """

    __slots__ = ("_forms", "_frames", "_sized", "_stamps", "frame", "place", "ttl_secs")

    def __init__(self, frame: Downstream, *, ttl_secs: int | None = None, place: int = 0) -> None:
        self.frame = frame
        self.ttl_secs = ttl_secs
        self.place = place
        self._forms: dict[str, Message | None] = {}
        self._frames: dict[str, bytes | None] = {}
        self._sized: dict[str, Sized | None] = {}
        self._stamps: dict[str, Stamps] = {}

    def form(self, codec: Codec) -> Message | None:
        """The frame as `codec` writes it."""
        wire, forms = codec.wire, self._forms
        if wire not in forms:
            forms[wire] = codec.encode(self.frame)
        return forms[wire]

    def frames(self, codec: Codec) -> bytes | None:
        """The same as finished WebSocket frames; None where clients of this codec are not told."""
        wire, frames = codec.wire, self._frames
        if wire not in frames:
            form = self.form(codec)
            frames[wire] = None if form is None else frames_of(form)
        return frames[wire]

    def sized(self, codec: Codec) -> Sized | None:
        """The frame as `codec` writes it, with its size."""
        wire, sized = codec.wire, self._sized
        if wire not in sized:
            form = self.form(codec)
            sized[wire] = None if form is None else (form, size_of(form))
        return sized[wire]

    def stamps(self, codec: Codec) -> Stamps:
        """The finished WebSocket frames of a data frame, by sequence id."""
        wire, stamps = codec.wire, self._stamps
        if wire not in stamps:
            form = self.form(codec)
            assert form is not None  # noqa: S101 - all clients are told of data frames
            stamps[wire] = Stamps(codec, form)
        return stamps[wire]
