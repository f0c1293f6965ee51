"""What both wires have in common: the same frames, the same strictness, payloads that cross over, sequence ids."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubs.errors import Disconnect
from hubs.protocols import webpubsub_pb2 as pb
from hubs.protocols.codec import CODECS, Codec
from hubs.protocols.frames import (
    BINARY,
    DATA_FRAMES,
    DATA_TYPES,
    JSON,
    PROTOBUF,
    TEXT,
    CancelInvocation,
    Downstream,
    GroupMessage,
    InvokeResponse,
    Payload,
    SendToGroup,
    ServerMessage,
    Upstream,
    UserEvent,
)
from hubs.protocols.plain import PlainCodec
from tests.protocols.client import JsonClient, ProtobufClient
from tests.protocols.strategies import DATA, DOWNSTREAM, SEQUENCE_IDS, UPSTREAM, UPSTREAM_OF_BOTH
from tests.protocols.vectors import MAX_UINT64
from tests.protocols.vectors import PAYLOADS as PAYLOAD_ROWS
from tests.protocols.wires import (
    CONVERSIONS,
    DOWNSTREAM_WIRES,
    MALFORMED_WIRES,
    STAMPED,
    UPSTREAM_WIRES,
    Conversion,
    DownstreamWires,
    Stamped,
    UpstreamWires,
    field,
)

JSON_CODECS = [CODECS["json.webpubsub.azure.v1"], CODECS["json.reliable.webpubsub.azure.v1"]]
PROTOBUF_CODECS = [CODECS["protobuf.webpubsub.azure.v1"], CODECS["protobuf.reliable.webpubsub.azure.v1"]]
JSON_CODEC, PROTOBUF_CODEC = JSON_CODECS[0], PROTOBUF_CODECS[0]
JSON_CLIENT, PROTOBUF_CLIENT = JsonClient(), ProtobufClient()

IN_PROTOBUF = [row for row in UPSTREAM_WIRES if row.protobuf is not None]


def _name(row: Any) -> str:
    return str(row.name)


def _refusal(codec: Codec, message: str | bytes) -> tuple[int, str]:
    with pytest.raises(Disconnect) as refused:
        codec.decode(message)
    return refused.value.code, refused.value.message


def test_every_frame_has_a_row() -> None:
    assert {type(row.frame) for row in UPSTREAM_WIRES} == set(get_args(Upstream))
    # A protobuf client has no way to answer an invocation, which it is never asked to.
    assert {type(row.frame) for row in IN_PROTOBUF} == set(get_args(Upstream)) - {InvokeResponse}
    assert {type(row.frame) for row in DOWNSTREAM_WIRES} == set(get_args(Downstream))
    assert {type(row.frame) for row in STAMPED} == set(DATA_FRAMES)


# Vectors, in both directions


@pytest.mark.parametrize("codec", JSON_CODECS)
@pytest.mark.parametrize("row", UPSTREAM_WIRES, ids=_name)
def test_reads_json(row: UpstreamWires, codec: Codec) -> None:
    assert codec.decode(row.json) == row.frame
    assert codec.decode(f" \r\n\t{row.json}\n ") == row.frame


@pytest.mark.parametrize("codec", PROTOBUF_CODECS)
@pytest.mark.parametrize("row", IN_PROTOBUF, ids=_name)
def test_reads_protobuf(row: UpstreamWires, codec: Codec) -> None:
    assert row.protobuf is not None
    assert codec.decode(row.protobuf) == row.frame


@pytest.mark.parametrize("row", UPSTREAM_WIRES, ids=_name)
def test_clients_write_what_the_rows_say(row: UpstreamWires) -> None:
    assert json.loads(JSON_CLIENT.write(row.frame)) == json.loads(row.json)
    if row.protobuf is not None:
        assert pb.UpstreamMessage.FromString(PROTOBUF_CLIENT.write(row.frame)) == pb.UpstreamMessage.FromString(
            row.protobuf
        )


@pytest.mark.parametrize("row", DOWNSTREAM_WIRES, ids=_name)
def test_writes(row: DownstreamWires) -> None:
    assert {codec.encode(row.frame) for codec in JSON_CODECS} == {row.json}
    assert {codec.encode(row.frame) for codec in PROTOBUF_CODECS} == {row.protobuf}


def _as_protobuf_clients_see(frame: Downstream) -> Downstream:
    """Data messages of this wire do not say who published them."""
    return msgspec.structs.replace(frame, from_user_id=None) if isinstance(frame, GroupMessage) else frame


@pytest.mark.parametrize("row", DOWNSTREAM_WIRES, ids=_name)
def test_clients_read_what_the_rows_say(row: DownstreamWires) -> None:
    json_frame, json_id = JSON_CLIENT.read(row.json)
    protobuf_frame, protobuf_id = PROTOBUF_CLIENT.read(row.protobuf)
    assert (json_frame, json_id) == (row.frame, None)
    assert (protobuf_frame, protobuf_id) == (_as_protobuf_clients_see(row.frame), None)


def test_an_explicit_false_says_the_same() -> None:
    """Some services write success=false out; for clients it is the same message."""
    written_out = bytes.fromhex("0a1a087b1000") + bytes.fromhex("1a140a09466f7262696464656e12076d657373616765")
    row = next(row for row in DOWNSTREAM_WIRES if row.name == "ack of a failure")
    assert PROTOBUF_CLIENT.read(written_out) == PROTOBUF_CLIENT.read(row.protobuf)


# Any frame, there and back


@given(UPSTREAM)
@settings(max_examples=400, deadline=None)
def test_json_frames_arrive_as_clients_wrote_them(frame: Upstream) -> None:
    assert JSON_CODEC.decode(JSON_CLIENT.write(frame)) == frame


@given(UPSTREAM_OF_BOTH)
@settings(max_examples=400, deadline=None)
def test_protobuf_frames_arrive_as_clients_wrote_them(frame: Upstream) -> None:
    assert PROTOBUF_CODEC.decode(PROTOBUF_CLIENT.write(frame)) == frame


@given(DOWNSTREAM)
@settings(max_examples=400, deadline=None)
def test_clients_read_what_was_written(frame: Downstream) -> None:
    assert JSON_CLIENT.read(JSON_CODEC.encode(frame)) == (frame, None)
    assert PROTOBUF_CLIENT.read(PROTOBUF_CODEC.encode(frame)) == (_as_protobuf_clients_see(frame), None)


# The same strictness


@pytest.mark.parametrize(("text", "data"), MALFORMED_WIRES.values(), ids=MALFORMED_WIRES.keys())
def test_both_refuse_what_is_malformed(text: str | None, data: bytes | None) -> None:
    if text is not None:
        for codec in JSON_CODECS:
            assert _refusal(codec, text) == (1007, "The client message is not a valid JSON protocol message.")
    if data is not None:
        for name in ("protobuf.webpubsub.azure.v1", "protobuf.reliable.webpubsub.azure.v1"):
            reason = f"The client message is not a valid {name} protocol message."
            assert _refusal(CODECS[name], data) == (1007, reason)


@pytest.mark.parametrize("row", UPSTREAM_WIRES, ids=_name)
def test_both_refuse_the_other_kind_of_message(row: UpstreamWires) -> None:
    """Even where the bytes would do, a message of the wrong kind is not looked into."""
    for codec in JSON_CODECS:
        assert _refusal(codec, row.json.encode()) == (1003, "The JSON subprotocol requires text messages.")
    for name in ("protobuf.webpubsub.azure.v1", "protobuf.reliable.webpubsub.azure.v1"):
        text = (row.protobuf or b"").decode("latin-1")
        assert _refusal(CODECS[name], text) == (1003, f"The {name} subprotocol requires binary messages.")


def test_reasons_fit_a_close_frame() -> None:
    for codec in CODECS.values():
        for message in ("", b""):
            assert len(_refusal(codec, message)[1].encode()) <= 123


@pytest.mark.parametrize("row", UPSTREAM_WIRES, ids=_name)
@pytest.mark.parametrize("tail", ["}", ",", "x", "{}", "\0", "null", '{"type":"ping"}', "\ufeff"])
def test_json_refuses_a_tail(row: UpstreamWires, tail: str) -> None:
    assert _refusal(JSON_CODEC, row.json + tail)[0] == 1007


@pytest.mark.parametrize("row", UPSTREAM_WIRES, ids=_name)
def test_json_refuses_every_beginning(row: UpstreamWires) -> None:
    for end in range(len(row.json)):
        assert _refusal(JSON_CODEC, row.json[:end])[0] == 1007


# Payloads from one kind of client to another


@pytest.mark.parametrize("row", CONVERSIONS, ids=_name)
@pytest.mark.parametrize("sender", ["json", "protobuf"])
def test_payloads_cross_over(row: Conversion, sender: str) -> None:
    if sender == "protobuf":
        # What only other wires can say does not parse, so nobody gets to publish it.
        if row.sent_protobuf is None:
            data = field(3, row.simple)
            assert _refusal(PROTOBUF_CODEC, field(1, field(1, "g"), field(3, data)))[0] == 1007
            return
        sent = PROTOBUF_CODEC.decode(field(1, field(1, "g"), field(3, row.sent_protobuf)))
    else:
        sent = JSON_CODEC.decode(f'{{"type":"sendToGroup","group":"g",{row.sent_json}}}')
    assert isinstance(sent, SendToGroup)
    for frame, json_head, protobuf_head in (
        (GroupMessage("g", sent.payload), '"from":"group","group":"g"', field(1, "group") + field(2, "g")),
        (ServerMessage(sent.payload), '"from":"server"', field(1, "server")),
    ):
        assert JSON_CODEC.encode(frame) == f'{{"type":"message",{json_head},{row.json}}}'
        assert PROTOBUF_CODEC.encode(frame) == field(2, protobuf_head, field(3, row.protobuf))
        assert PlainCodec().encode(frame) == row.simple


def test_every_type_crosses_over() -> None:
    sent = [JSON_CODEC.decode(f'{{"type":"event","event":"e",{row.sent_json}}}') for row in CONVERSIONS]
    assert {frame.payload.data_type for frame in sent if isinstance(frame, UserEvent)} == set(DATA_TYPES)


@pytest.mark.parametrize(("message", "number"), [("é", 1), ("{}", 1), ("", 1), (b"\0\xff", 2), (b"", 2), (b"\n\1t", 2)])
def test_what_simple_clients_publish(message: str | bytes, number: int) -> None:
    sent = PlainCodec("g").decode(message)
    assert isinstance(sent, SendToGroup)
    frame = GroupMessage("g", sent.payload)
    assert PlainCodec().encode(frame) == message
    assert PROTOBUF_CODEC.encode(frame) == field(2, field(1, "group"), field(2, "g"), field(3, field(number, message)))
    read, _ = JSON_CLIENT.read(JSON_CODEC.encode(frame))
    assert read == frame


@pytest.mark.parametrize("row", PAYLOAD_ROWS, ids=_name)
def test_json_payloads_keep_their_text(row: Any) -> None:
    number = {TEXT: 1, BINARY: 2, PROTOBUF: 3, JSON: 4}[row.data_type]
    message = field(2, field(1, "server"), field(3, field(number, row.payload.data)))
    assert PROTOBUF_CODEC.encode(ServerMessage(row.payload)) == message
    event = field(5, field(1, "e"), field(2, field(number, row.payload.data)))
    assert PROTOBUF_CODEC.decode(event) == UserEvent("e", row.payload)


@given(st.binary(max_size=100))
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_called_protobuf_are_never_lost(data: bytes) -> None:
    frame = ServerMessage(Payload(PROTOBUF, data))
    read, _ = PROTOBUF_CLIENT.read(PROTOBUF_CODEC.encode(frame))
    assert isinstance(read, ServerMessage)
    if read.payload.data_type == BINARY:
        assert read.payload.data == data
    else:
        # An Any; if it was written in an unusual way, it is now written in the usual one.
        assert read.payload.data_type == PROTOBUF
        assert ServerMessage(Payload(PROTOBUF, read.payload.data)) == read
        assert PROTOBUF_CODEC.encode(read) == PROTOBUF_CODEC.encode(frame)
    assert JSON_CLIENT.read(JSON_CODEC.encode(frame))[0] == frame


# Sequence ids


@pytest.mark.parametrize("row", STAMPED)
def test_stamps(row: Stamped) -> None:
    for codec, expected in ((JSON_CODECS[1], row.json), (PROTOBUF_CODECS[1], row.protobuf)):
        form = codec.encode(row.frame)
        assert form is not None
        assert codec.stamp(form, row.sequence_id) == expected


@given(DATA, SEQUENCE_IDS)
@settings(max_examples=300, deadline=None)
def test_a_stamp_is_as_if_written_with_the_frame(frame: GroupMessage | ServerMessage, sequence_id: int) -> None:
    text = JSON_CODECS[1].encode(frame)
    assert isinstance(text, str)
    stamped = JSON_CODECS[1].stamp(text, sequence_id)
    members = [*json.loads(text).items(), ("sequenceId", sequence_id)]
    assert list(json.loads(stamped).items()) == members
    assert JSON_CLIENT.read(stamped) == (frame, sequence_id)

    form = PROTOBUF_CODECS[1].encode(frame)
    assert isinstance(form, bytes)
    stamped = PROTOBUF_CODECS[1].stamp(form, sequence_id)
    message = pb.DownstreamMessage.FromString(form)
    message.data_message.sequence_id = sequence_id
    assert pb.DownstreamMessage.FromString(stamped) == message
    if not frame.metadata:
        # Metadata's number is higher, so there alone the order of the fields is another.
        assert stamped == message.SerializeToString(deterministic=True)
    assert PROTOBUF_CLIENT.read(stamped) == (_as_protobuf_clients_see(frame), sequence_id)


# Where the length takes one byte more, before or because of the stamp.
@pytest.mark.parametrize("size", [*range(95, 130), *range(16_350, 16_390), 65_536, 2_097_100, 2_097_152])
@pytest.mark.parametrize("sequence_id", [1, 127, 128, 2**32, MAX_UINT64])
def test_stamps_of_every_length(size: int, sequence_id: int) -> None:
    frame = ServerMessage(Payload(BINARY, b"x" * size))
    form = PROTOBUF_CODECS[1].encode(frame)
    assert form is not None
    message = pb.DownstreamMessage.FromString(PROTOBUF_CODECS[1].stamp(form, sequence_id))
    assert len(message.data_message.data.binary_data) == size
    assert message.data_message.sequence_id == sequence_id
    assert message.SerializeToString() == PROTOBUF_CODECS[1].stamp(form, sequence_id)


def test_a_stamp_leaves_the_form_for_the_others() -> None:
    frame = GroupMessage("g", Payload(TEXT, b"x"))
    for codec in (JSON_CODECS[1], PROTOBUF_CODECS[1]):
        form = codec.encode(frame)
        assert form is not None
        first, second = codec.stamp(form, 1), codec.stamp(form, 2)
        assert first != second
        assert form == codec.encode(frame)


@pytest.mark.parametrize("form", ["x", "", b"\0", b""])
def test_simple_clients_are_not_told_numbers(form: str | bytes) -> None:
    assert PlainCodec().stamp(form, 7) == form
    assert not PlainCodec().reliable


def test_ids_of_invocations_may_be_any_text() -> None:
    for text in (" ", "\0", "é" * 1024, "👋" * 1024):
        frame = CancelInvocation(text)
        assert JSON_CODEC.decode(JSON_CLIENT.write(frame)) == frame
        assert PROTOBUF_CODEC.decode(PROTOBUF_CLIENT.write(frame)) == frame
