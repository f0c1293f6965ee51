"""What handlers are told and what they answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubs.protocols.frames import Payload
from hubs.upstream import ConnectAnswer, EventContext, Rejected, Reply, UserEventRequest

CONTEXT = EventContext("chat", "c")


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (Payload("text", "é".encode()), "é"),
        (Payload("binary", b"\xff"), b"\xff"),
        (Payload("protobuf", b"\n\0"), b"\n\0"),
        (Payload("json", b'{"a":[1,null]}'), {"a": [1, None]}),
        (Payload("json", b"123456789012345678901234567890"), 123456789012345678901234567890),
        (Payload("json", b'"a"'), "a"),
    ],
)
def test_data_as_python_has_it(payload: Payload, data: Any) -> None:
    assert UserEventRequest(CONTEXT, "e", payload).data == data


@pytest.mark.parametrize(
    ("value", "payload"),
    [
        (None, None),
        ("", Payload("text", b"")),
        ("é", Payload("text", "é".encode())),
        (b"", Payload("binary", b"")),
        (bytearray(b"\xff"), Payload("binary", b"\xff")),
        (memoryview(b"\xff"), Payload("binary", b"\xff")),
        ({}, Payload("json", b"{}")),
        ({"a": ["é", None, True]}, Payload("json", '{"a":["é",null,true]}'.encode())),
        ([], Payload("json", b"[]")),
        ((1, 2), Payload("json", b"[1,2]")),
        (0, Payload("json", b"0")),
        (False, Payload("json", b"false")),
        (1.5, Payload("json", b"1.5")),
    ],
)
def test_values_as_replies(value: Any, payload: Payload | None) -> None:
    assert Reply.of(value) == Reply(payload)


def test_a_reply_stays_itself() -> None:
    reply = Reply(Payload("text", b"a"), {"k": "v"}, "state")
    assert Reply.of(reply) is reply


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_numbers_that_json_does_not_have(value: Any) -> None:
    with pytest.raises(ValueError):
        Reply.of(value)


@pytest.mark.parametrize("value", [object(), {1, 2}, {"a": b"b"}, {("a",): 1}])
def test_values_that_json_does_not_have(value: Any) -> None:
    with pytest.raises(TypeError):
        Reply.of(value)


@pytest.mark.parametrize("payload", ["text", b"bytes", {"a": 1}])
def test_a_reply_takes_a_payload(payload: Any) -> None:
    with pytest.raises(TypeError, match=r"Reply.of\(value\) makes one"):
        Reply(payload)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=8,
)


@given(st.lists(_VALUES) | st.dictionaries(st.text(), _VALUES))
def test_json_replies_are_read_back_equal(value: Any) -> None:
    payload = Reply.of(value).payload
    assert payload is not None
    assert json.loads(payload.data) == value
    assert UserEventRequest(CONTEXT, "e", payload).data == value


@pytest.mark.parametrize(
    ("given_status", "status"),
    [
        (400, 400),
        (401, 401),
        (429, 429),
        (503, 503),
        (599, 500),
        (499, 400),
        (460, 400),
        (200, 500),
        (302, 500),
        (600, 500),
        (0, 500),
    ],
)
def test_statuses_of_a_refusal(given_status: int, status: int) -> None:
    rejected = Rejected(given_status, "why")
    assert (rejected.status, rejected.reason, str(rejected)) == (status, "why", "why")


def test_a_refusal_is_401_unless_it_says_otherwise() -> None:
    assert (Rejected().status, Rejected().reason) == (401, "")


@pytest.mark.parametrize(
    "members",
    [
        {"user_id": 5},
        {"state": {"a": 1}},
        {"subprotocol": ["x"]},
        {"groups": "room"},
        {"groups": [1]},
        {"groups": 5},
        {"roles": "webpubsub.sendToGroup"},
        {"roles": [None]},
    ],
)
def test_answers_of_a_wrong_type_name_the_member(members: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        ConnectAnswer(**members)


def test_answers_take_any_sequence_of_texts() -> None:
    answer = ConnectAnswer(groups=("a",), roles=[])
    assert (answer.groups, answer.roles) == (("a",), [])
