"""The protobuf codec against what a client may send that only this wire can say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubs.errors import Disconnect
from hubs.protocols.codec import CODECS
from hubs.protocols.frames import (
    GroupMessage,
    InvokeResponse,
    JoinGroup,
    Payload,
    SendToGroup,
    ServerMessage,
    Upstream,
    UserEvent,
)
from tests.protocols.client import ProtobufClient
from tests.protocols.strategies import UPSTREAM_OF_BOTH
from tests.protocols.wires import (
    ANY,
    NO_JSON,
    UPSTREAM_PROTOBUF,
    UPSTREAM_WIRES,
    UpstreamWires,
    field,
    number,
    varint,
)

CODEC = CODECS["protobuf.webpubsub.azure.v1"]
INVALID = "The client message is not a valid protobuf.webpubsub.azure.v1 protocol message."
ROWS = [row for row in UPSTREAM_WIRES if row.protobuf is not None]


def _decoded(message: bytes) -> Upstream | None:
    """Decode; the one way to fail is a Disconnect that says so."""
    frame, said = None, (1007, INVALID)
    try:
        frame = CODEC.decode(message)
    except Disconnect as refused:
        said = refused.code, refused.message
    assert said == (1007, INVALID)
    return frame


@pytest.mark.parametrize(("message", "frame"), UPSTREAM_PROTOBUF.values(), ids=UPSTREAM_PROTOBUF.keys())
def test_reads(message: bytes, frame: Upstream) -> None:
    assert CODEC.decode(message) == frame


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_refuses_every_beginning(row: UpstreamWires) -> None:
    """The frame is one field with its length before it, so nothing shorter is whole."""
    assert row.protobuf is not None
    for end in range(len(row.protobuf)):
        assert _decoded(row.protobuf[:end]) is None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_message_cut_off_within_its_frame_is_another_or_none(row: UpstreamWires) -> None:
    assert row.protobuf is not None
    body = row.protobuf[2:] if row.protobuf[1] < 0x80 else row.protobuf[3:]
    assert row.protobuf == row.protobuf[:1] + varint(len(body)) + body
    refused = 0
    for end in range(len(body)):
        frame = _decoded(row.protobuf[:1] + varint(end) + body[:end])
        refused += frame is None
        # Shorter by a whole field: still the same kind of frame.
        assert frame is None or type(frame) is type(row.frame)
    assert refused or not body or row.name == "sequence ack"


TAILS = {
    "number": number(2000, 7),
    "text": field(2000, "x"),
    "eight bytes": varint(2000 * 8 + 1) + bytes(8),
    "four bytes": varint(2000 * 8 + 5) + bytes(4),
    "group": varint(2000 * 8 + 3) + number(1, 1) + varint(2000 * 8 + 4),
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS.keys())
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_unknown_fields_are_ignored(row: UpstreamWires, tail: bytes) -> None:
    assert row.protobuf is not None
    assert CODEC.decode(row.protobuf + tail) == row.frame
    assert CODEC.decode(tail + row.protobuf) == row.frame
    body = row.protobuf[2:] if row.protobuf[1] < 0x80 else row.protobuf[3:]
    assert CODEC.decode(row.protobuf[:1] + varint(len(body + tail)) + body + tail) == row.frame


@pytest.mark.parametrize("tail", [b"\0", b"\x07", b"\xff", b"\x0a", b"\x0c", b"\x32\x05g", b"\x80" * 11])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_tail_that_is_no_field_is_refused(row: UpstreamWires, tail: bytes) -> None:
    assert row.protobuf is not None
    assert _decoded(row.protobuf + tail) is None


@pytest.mark.parametrize("text", NO_JSON.values(), ids=NO_JSON.keys())
def test_json_data_has_to_be_json(text: str) -> None:
    assert _decoded(field(1, field(1, "g"), field(3, field(4, text)))) is None
    assert _decoded(field(5, field(1, "e"), field(2, field(4, text)))) is None
    assert _decoded(field(10, field(1, "e"), field(2, "1"), field(3, field(4, text)))) is None


@pytest.mark.parametrize(
    "message",
    [
        field(6, field(1, b"\xff")),
        field(6, field(1, b"\xed\xa0\x80")),  # half a surrogate pair
        field(5, field(1, "e"), field(2, field(1, b"\xc0\x80"))),
        field(5, field(1, "e"), field(2, field(4, b'"\xff"'))),
        field(5, field(1, "e"), field(2, field(1, "")), field(4, field(1, "a"), field(2, b"\xff"))),
        field(11, field(1, b"\xff")),
        field(5, field(1, "e"), field(2, field(3, field(1, b"\xff")))),
        field(5, field(1, "e"), field(2, field(3, b"\xff"))),
    ],
)
def test_texts_have_to_be_text(message: bytes) -> None:
    assert _decoded(message) is None


@pytest.mark.parametrize("depth", [10, 90, 101, 10_000, 200_000])
def test_depth_is_bounded(depth: int) -> None:
    start, end = varint(9 * 8 + 3), varint(9 * 8 + 4)
    nested = start * depth + end * depth
    for message in (
        nested + field(9),
        field(6, field(1, "g"), nested),
        field(5, field(1, "e"), field(2, field(3, field(1, "t"), nested))),
    ):
        assert (_decoded(message) is None) is (depth > 100)


@pytest.mark.parametrize(
    "message",
    [
        number(6, 1),  # a message as a number
        field(8, field(1, "1")),  # a number as a text
        field(6, number(1, 1)),  # a text as a number
    ],
)
def test_a_field_of_another_type_is_not_that_field(message: bytes) -> None:
    """Fields are known by number and type; what remains is a frame without them."""
    frame = _decoded(message)
    assert frame is None or frame == CODEC.decode(field(8))  # a sequence ack of 0


def test_refusals_do_not_quote_the_message() -> None:
    with pytest.raises(Disconnect) as refused:
        CODEC.decode(field(5, field(1, "my secret")))
    assert "secret" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_an_any_keeps_its_bytes() -> None:
    frame = CODEC.decode(field(1, field(1, "g"), field(3, field(3, ANY))))
    assert frame == SendToGroup("g", Payload("protobuf", ANY))


@pytest.mark.parametrize(
    "data",
    [
        number(3, 1),
        field(1, "type") + field(3, "x"),
        field(1, "type") + number(2, 1),
        (varint(9 * 8 + 3) * 99) + (varint(9 * 8 + 4) * 99),
        b"\xff",
        b"\n\5type",
    ],
)
def test_bytes_of_another_message_are_no_any(data: bytes) -> None:
    """JSON clients may say protobuf of anything; protobuf clients get it whole, and can read what is around it."""
    for frame, head in (
        (ServerMessage(Payload("protobuf", data)), field(1, "server")),
        (GroupMessage("g", Payload("protobuf", data)), field(1, "group") + field(2, "g")),
    ):
        assert CODEC.encode(frame) == field(2, head, field(3, field(2, data)))
    assert CODEC.encode(InvokeResponse("1", Payload("protobuf", data))) == field(
        5, field(1, "1"), number(2, 1), field(3, field(2, data))
    )


def test_metadata_has_one_order() -> None:
    pairs = [field(4, field(1, f"k{key}"), field(2, str(key))) for key in range(40)]
    for order in (pairs, pairs[::-1], pairs[20:] + pairs[:20]):
        frame = CODEC.decode(field(5, field(1, "e"), field(2, field(1, "")), *order))
        assert isinstance(frame, UserEvent)
        assert frame.metadata is not None
        assert list(frame.metadata) == sorted(f"k{key}" for key in range(40))
    forms = {
        CODEC.encode(ServerMessage(Payload("text", b""), {f"k{key}": "" for key in order}))
        for order in (range(40), reversed(range(40)))
    }
    assert len(forms) == 1


# Anything at all


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_read_or_refused(message: bytes) -> None:
    _decoded(message)


FIELDS = st.recursive(
    st.builds(number, st.integers(1, 20), st.integers(0, 2**64 - 1))
    | st.builds(field, st.integers(1, 20), st.text(max_size=8) | st.binary(max_size=8)),
    lambda fields: st.builds(
        lambda number, parts: field(number, *parts), st.integers(1, 20), st.lists(fields, max_size=5)
    ),
    max_leaves=15,
)


@given(st.lists(FIELDS, max_size=3))
@settings(max_examples=500, deadline=None)
def test_any_fields_are_read_or_refused(fields: list[bytes]) -> None:
    _decoded(b"".join(fields))


@given(UPSTREAM_OF_BOTH, st.data())
@settings(max_examples=500, deadline=None)
def test_damaged_frames_are_read_or_refused(frame: Upstream, data: st.DataObject) -> None:
    message = ProtobufClient().write(frame)
    start = data.draw(st.integers(0, len(message)))
    end = data.draw(st.integers(start, min(start + 8, len(message))))
    _decoded(message[:start] + data.draw(st.binary(max_size=6)) + message[end:])


def test_frames_without_an_ack_id_have_none() -> None:
    assert CODEC.decode(field(6, field(1, "g"))) == JoinGroup("g", None)
    assert CODEC.decode(field(6, field(1, "g"), number(2, 0))) == JoinGroup("g", 0)
