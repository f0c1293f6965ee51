"""Which codec a handshake gets, and encoding once for many."""

from __future__ import annotations

import pytest

from hubs.protocols.codec import CODECS, Outgoing, choose
from hubs.protocols.frames import TEXT, Downstream, GroupMessage, Payload, Pong, Upstream
from hubs.protocols.plain import PlainCodec

JSON_NAME = "json.webpubsub.azure.v1"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([JSON_NAME], JSON_NAME),
        (["JSON.WebPubSub.Azure.V1"], "JSON.WebPubSub.Azure.V1"),
        (["custom", JSON_NAME], JSON_NAME),
        (["protobuf.reliable.webpubsub.azure.v1", JSON_NAME], "protobuf.reliable.webpubsub.azure.v1"),
        (["PROTOBUF.webpubsub.azure.v1"], "PROTOBUF.webpubsub.azure.v1"),
        ([JSON_NAME, JSON_NAME.upper()], JSON_NAME),
        ([JSON_NAME.upper(), JSON_NAME], JSON_NAME.upper()),
        ([], None),
        (["custom"], None),
        ([""], None),
        (["json.webpubsub.azure.v10", "json.webpubsub.azure", f" {JSON_NAME}"], None),
    ],
)
def test_choice(offered: list[str], chosen: str | None) -> None:
    name, codec = choose(offered)
    assert name == chosen
    assert codec.named is (chosen is not None)
    assert isinstance(codec, PlainCodec) is (chosen is None)


def test_the_table_is_by_lower_case_name() -> None:
    for name, codec in CODECS.items():
        assert name == name.lower()
        assert choose([name]) == (name, codec)


@pytest.mark.parametrize("wire", ["json", "protobuf"])
@pytest.mark.parametrize("reliable", [False, True])
def test_each_wire_has_both_kinds(wire: str, reliable: bool) -> None:
    """Both kinds have the same wire, so that a frame for their clients together is encoded once."""
    name, codec = choose([f"{wire}.reliable.webpubsub.azure.v1" if reliable else f"{wire}.webpubsub.azure.v1"])
    assert name is not None
    assert (codec.wire, codec.reliable, codec.named) == (wire, reliable, True)
    assert len(CODECS) == 4


class CountingCodec:
    """Writes frames as their number, and counts."""

    named = True

    def __init__(self, wire: str, form: str | None = "x") -> None:
        self.wire = wire
        self.form = form
        self.encoded = 0

    def decode(self, message: str | bytes) -> Upstream:
        raise NotImplementedError

    def encode(self, frame: Downstream) -> str | None:
        self.encoded += 1
        return self.form


def test_a_frame_is_encoded_once_per_wire() -> None:
    first, second, other = CountingCodec("a", "A"), CountingCodec("a", "A"), CountingCodec("b", "B")
    outgoing = Outgoing(GroupMessage("g", Payload(TEXT, b"x")))
    assert [outgoing.form(codec) for codec in (first, second, other, first, other)] == ["A", "A", "B", "A", "B"]
    assert (first.encoded, second.encoded, other.encoded) == (1, 0, 1)


def test_that_nothing_is_told_is_remembered_too() -> None:
    codec = CountingCodec("quiet", None)
    outgoing = Outgoing(Pong())
    assert outgoing.form(codec) is outgoing.form(codec) is None
    assert codec.encoded == 1


def test_a_frame_knows_how_long_it_may_wait_and_its_place() -> None:
    frame = GroupMessage("g", Payload(TEXT, b"x"))
    plain, kept = Outgoing(frame), Outgoing(frame, ttl_secs=0, place=7)
    assert (plain.frame, plain.ttl_secs, plain.place) == (frame, None, 0)
    assert (kept.frame, kept.ttl_secs, kept.place) == (frame, 0, 7)


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (Payload(TEXT, b"hi"), "text 'hi'"),
        (Payload("binary", b"\xff"), r"binary '\\xff'"),
        (Payload(TEXT, b"x" * 61), f"text '{'x' * 60}'… 61 bytes"),
    ],
)
def test_payloads_are_short_in_logs(payload: Payload, shown: str) -> None:
    assert str(payload) == shown
