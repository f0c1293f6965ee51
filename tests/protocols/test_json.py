"""The JSON codec against the vectors, and against whatever else a client may send."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubs import close_codes
from hubs.errors import Disconnect
from hubs.protocols.codec import CODECS
from hubs.protocols.frames import (
    DATA_TYPES,
    Downstream,
    GroupMessage,
    SendToGroup,
    ServerMessage,
    Upstream,
    UserEvent,
)
from tests.protocols.vectors import DOWNSTREAM, MALFORMED, PAYLOADS, UPSTREAM, DownstreamRow, PayloadRow, UpstreamRow

CODEC = CODECS["json.webpubsub.azure.v1"]


def _name(row: Any) -> str:
    return str(row.name)


@pytest.mark.parametrize("row", UPSTREAM, ids=_name)
def test_reads(row: UpstreamRow) -> None:
    assert CODEC.decode(row.text) == row.frame


@pytest.mark.parametrize("row", DOWNSTREAM, ids=_name)
def test_writes(row: DownstreamRow) -> None:
    assert CODEC.encode(row.frame) == row.text


@pytest.mark.parametrize("row", DOWNSTREAM, ids=_name)
def test_writes_json(row: DownstreamRow) -> None:
    """The rows themselves are JSON without a member that is there twice."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    assert isinstance(json.loads(row.text, object_pairs_hook=members), dict)


def test_every_frame_has_a_row() -> None:
    assert {type(row.frame) for row in UPSTREAM} == set(get_args(Upstream))
    assert {type(row.frame) for row in DOWNSTREAM} == set(get_args(Downstream))
    assert {row.data_type for row in PAYLOADS} == set(DATA_TYPES)


@pytest.mark.parametrize("row", PAYLOADS, ids=_name)
def test_reads_payloads(row: PayloadRow) -> None:
    data = f'"dataType":"{row.data_type}","data":{row.data}}}'
    assert CODEC.decode(f'{{"type":"sendToGroup","group":"g",{data}') == SendToGroup("g", row.payload)
    assert CODEC.decode(f'{{"type":"event","event":"e",{data}') == UserEvent("e", row.payload)


@pytest.mark.parametrize("row", [row for row in PAYLOADS if row.data_type == "json"], ids=_name)
def test_reads_json_where_no_type_is_given(row: PayloadRow) -> None:
    frame = CODEC.decode(f'{{"type":"sendToGroup","group":"g","data": {row.data} }}')
    assert frame == SendToGroup("g", row.payload)


@pytest.mark.parametrize("row", PAYLOADS, ids=_name)
def test_writes_payloads(row: PayloadRow) -> None:
    group = CODEC.encode(GroupMessage("g", row.payload))
    server = CODEC.encode(ServerMessage(row.payload))
    assert isinstance(group, str)
    assert isinstance(server, str)
    if row.data_type == "json":
        # The very text: what is passed on is not written anew.
        assert group.endswith(f'"data":{row.data}}}')
        assert server.endswith(f'"data":{row.data}}}')
    else:
        assert json.loads(group)["data"] == json.loads(server)["data"] == json.loads(row.data)
    assert json.loads(group)["dataType"] == row.data_type


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_refuses_what_is_malformed(text: str) -> None:
    with pytest.raises(Disconnect) as refused:
        CODEC.decode(text)
    assert (refused.value.code, refused.value.message) == (1007, close_codes.INVALID_JSON.reason)
    assert close_codes.INVALID_JSON.reason == "The client message is not a valid JSON protocol message."


@pytest.mark.parametrize("message", [b"", b'{"type":"ping"}', b"\xff"])
def test_refuses_binary_messages(message: bytes) -> None:
    with pytest.raises(Disconnect) as refused:
        CODEC.decode(message)
    assert (refused.value.code, refused.value.message) == (1003, close_codes.JSON_NEEDS_TEXT.reason)
    assert close_codes.JSON_NEEDS_TEXT.reason == "The JSON subprotocol requires text messages."


def test_refusals_do_not_quote_the_message() -> None:
    with pytest.raises(Disconnect) as refused:
        CODEC.decode('{"type":"event","event":"my secret"}')
    assert "secret" not in str(refused.value)
    # Nor does the traceback lead to an error that does.
    assert refused.value.__suppress_context__


# Anything at all

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=12,
)
_TYPES = st.sampled_from(
    ["joinGroup", "leaveGroup", "sendToGroup", "event", "ping", "sequenceAck", "invoke", "invokeResponse", "PING", "x"]
)
_MEMBERS = st.fixed_dictionaries(
    {"type": _TYPES | JSON_VALUES},
    optional={
        "group": st.text() | JSON_VALUES,
        "event": st.from_regex(r"[A-Za-z][a-z.]*") | JSON_VALUES,
        "ackId": st.integers() | JSON_VALUES,
        "sequenceId": st.integers() | JSON_VALUES,
        "dataType": st.sampled_from([*DATA_TYPES, "Text", "xml"]) | JSON_VALUES,
        "data": JSON_VALUES,
        "noEcho": st.booleans() | JSON_VALUES,
        "ttlSeconds": st.integers() | JSON_VALUES,
        "metadata": st.dictionaries(st.text(), st.text()) | JSON_VALUES,
        "stream": st.none() | JSON_VALUES,
        "invocationId": st.text() | JSON_VALUES,
        "target": st.just("event") | JSON_VALUES,
        "success": st.booleans() | JSON_VALUES,
        "error": st.fixed_dictionaries({"name": st.text(), "message": st.text()}) | JSON_VALUES,
    },
)


def _decoded(text: str) -> Upstream | None:
    """Decode; the one way to fail is a Disconnect that says so."""
    frame, code = None, 1007
    try:
        frame = CODEC.decode(text)
    except Disconnect as refused:
        code = refused.code
    assert code == 1007
    return frame


@given(st.text(st.characters(), max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    _decoded(text)


@given(JSON_VALUES | _MEMBERS, st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_json_is_read_or_refused(value: Any, ascii_only: bool) -> None:
    _decoded(json.dumps(value, ensure_ascii=ascii_only))


@given(st.sampled_from([row.text for row in UPSTREAM if len(row.text) < 500]), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_frames_are_read_or_refused(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 8, len(text))))
    _decoded(text[:start] + data.draw(st.text('{}[]",:\\0e-nulltrue\0é \ud800', max_size=6)) + text[end:])


FINITE_JSON: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: (
        st.lists(values | st.none(), max_size=4) | st.dictionaries(st.text(), values | st.none(), max_size=4)
    ),
    max_leaves=12,
)


@given(FINITE_JSON, st.text(min_size=1).filter(lambda group: not group.isspace()), st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_one_client_publishes_another_reads(value: Any, group: str, ascii_only: bool) -> None:
    sent = CODEC.decode(json.dumps({"type": "sendToGroup", "group": group, "data": value}, ensure_ascii=ascii_only))
    assert isinstance(sent, SendToGroup)
    received = CODEC.encode(GroupMessage(sent.group, sent.payload))
    assert isinstance(received, str)
    assert json.loads(received) == {
        "type": "message",
        "from": "group",
        "group": group,
        "dataType": "json",
        "data": value,
    }


@given(st.text(), st.booleans())
@settings(deadline=None)
def test_texts_arrive_as_they_were_sent(text: str, ascii_only: bool) -> None:
    message = {"type": "sendToGroup", "group": "g", "dataType": "text", "data": text}
    sent = CODEC.decode(json.dumps(message, ensure_ascii=ascii_only))
    assert isinstance(sent, SendToGroup)
    received = CODEC.encode(GroupMessage("g", sent.payload))
    assert isinstance(received, str)
    assert json.loads(received)["data"] == text
