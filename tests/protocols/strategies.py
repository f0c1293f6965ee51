"""Any frame that the service may be sent, and any that it may send."""

from __future__ import annotations

from typing import Any

from google.protobuf.any_pb2 import Any as ProtobufAny
from hypothesis import strategies as st

from hubs.protocols.frames import (
    BINARY,
    JSON,
    PROTOBUF,
    TEXT,
    Ack,
    CancelInvocation,
    Connected,
    Disconnected,
    Downstream,
    GroupMessage,
    Invoke,
    InvokeResponse,
    JoinGroup,
    LeaveGroup,
    Payload,
    Ping,
    Pong,
    SendToGroup,
    SequenceAck,
    ServerMessage,
    Upstream,
    UserEvent,
)
from tests.protocols.client import python_json
from tests.protocols.vectors import MAX_UINT64

FINITE_JSON: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: (
        st.lists(values | st.none(), max_size=4) | st.dictionaries(st.text(), values | st.none(), max_size=4)
    ),
    max_leaves=8,
)

PAYLOADS = st.one_of(
    st.builds(Payload, st.just(JSON), FINITE_JSON.map(python_json)),
    st.builds(Payload, st.just(TEXT), st.text().map(str.encode)),
    st.builds(Payload, st.just(BINARY), st.binary()),
    st.builds(
        Payload,
        st.just(PROTOBUF),
        st.builds(ProtobufAny, type_url=st.text(), value=st.binary()).map(ProtobufAny.SerializeToString),
    ),
)
METADATA = st.none() | st.dictionaries(
    st.from_regex(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,12}", fullmatch=True),
    st.text(st.characters(codec="ascii"), max_size=20),
    min_size=1,
    max_size=5,
)
GROUPS = st.text(min_size=1, max_size=50).filter(lambda group: not group.isspace())
EVENTS = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,127}", fullmatch=True)
IDS = st.text(min_size=1, max_size=50)
SEQUENCE_IDS = st.integers(0, MAX_UINT64)
ACK_IDS = st.none() | SEQUENCE_IDS


def _responses(message: st.SearchStrategy[str]) -> st.SearchStrategy[InvokeResponse]:
    return st.builds(InvokeResponse, IDS, st.none() | PAYLOADS, st.none(), st.just(""), METADATA) | st.builds(
        InvokeResponse, IDS, st.none() | PAYLOADS, st.text(), message, METADATA
    )


# Both wires have these. Only JSON clients can write an InvokeResponse.
UPSTREAM_OF_BOTH: st.SearchStrategy[Upstream] = st.one_of(
    st.builds(JoinGroup, GROUPS, ACK_IDS),
    st.builds(LeaveGroup, GROUPS, ACK_IDS),
    st.builds(SendToGroup, GROUPS, PAYLOADS, ACK_IDS, st.booleans(), st.none() | st.integers(0, 300), METADATA),
    st.builds(UserEvent, EVENTS, PAYLOADS, ACK_IDS, METADATA),
    st.just(Ping()),
    st.builds(SequenceAck, SEQUENCE_IDS),
    st.builds(Invoke, IDS, EVENTS, st.none() | PAYLOADS, METADATA),
    st.builds(CancelInvocation, IDS),
)
UPSTREAM: st.SearchStrategy[Upstream] = UPSTREAM_OF_BOTH | _responses(st.text())

DATA: st.SearchStrategy[GroupMessage | ServerMessage] = st.builds(
    GroupMessage, GROUPS, PAYLOADS, st.none() | st.text(), METADATA
) | st.builds(ServerMessage, PAYLOADS, METADATA)

# An empty user id is no user id: protobuf has one word for both.
DOWNSTREAM: st.SearchStrategy[Downstream] = st.one_of(
    st.builds(Connected, IDS, st.none() | IDS, st.none() | st.text()),
    st.builds(Disconnected, st.text()),
    st.builds(Ack, SEQUENCE_IDS),
    st.builds(Ack, SEQUENCE_IDS, st.text(), st.text()),
    DATA,
    st.just(Pong()),
    _responses(st.text()),
)
