"""What processes append, and under which names the logs are."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from channels.layers import InMemoryChannelLayer
from hypothesis import given, settings
from hypothesis import strategies as st

from hubs.cluster.entries import (
    CONTROL_LOG,
    Adopted,
    Answer,
    Begun,
    Change,
    Claim,
    Done,
    Ended,
    Entry,
    Gap,
    Goodbye,
    Hello,
    Parted,
    Publication,
    Publications,
    Question,
    Skipped,
    Takeover,
    decode,
    encode,
    hub_log,
    process_log,
)
from hubs.protocols.frames import DATA_TYPES, GroupMessage, Payload, ServerMessage
from hubs.rules.audiences import Audience

_HUBS = st.from_regex(r"[a-z][a-z0-9_`,.\[\]]{0,127}", fullmatch=True)
_TEXTS = st.text(max_size=20)
_NUMBERS = st.integers(0, 2**63 - 1)
_METADATA = st.none() | st.dictionaries(_TEXTS, _TEXTS, max_size=3)
_VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | _TEXTS | st.lists(_TEXTS, max_size=3)
_ARGUMENTS = st.dictionaries(_TEXTS, _VALUES, max_size=3)
_MAYBE = st.none() | _TEXTS

_AUDIENCES = st.builds(
    Audience,
    hub=_HUBS,
    group=_MAYBE,
    user_id=_MAYBE,
    filter=_MAYBE,
    excluded=st.lists(_TEXTS, max_size=3).map(tuple),
)
_PUBLICATIONS = st.builds(
    Publication,
    audience=_AUDIENCES,
    data_type=st.sampled_from(DATA_TYPES),
    data=st.binary(),
    from_user_id=_MAYBE,
    metadata=_METADATA,
    connection=_MAYBE,
    ttl_secs=st.none() | _NUMBERS,
    sender=_MAYBE,
    ack_id=st.none() | st.integers(0, 2**64 - 1),
)
ENTRIES: list[st.SearchStrategy[Entry]] = [
    st.builds(Publications, items=st.lists(_PUBLICATIONS, max_size=3)),
    st.builds(
        Change, verb=_TEXTS, connections=st.lists(_TEXTS, max_size=3), arguments=_ARGUMENTS, ack_id=st.none() | _NUMBERS
    ),
    st.builds(Claim, connection=_TEXTS, began=_NUMBERS, of=_MAYBE),
    st.builds(
        Parted,
        connection=_TEXTS,
        acknowledged=_NUMBERS,
        acks=st.lists(st.tuples(_NUMBERS, _NUMBERS), max_size=3),
        sent=_NUMBERS,
    ),
    st.builds(Begun, connection=_TEXTS, ack_id=_NUMBERS, number=_NUMBERS),
    st.builds(
        Done,
        connection=_TEXTS,
        ack_id=st.none() | _NUMBERS,
        problem=_MAYBE,
        message=_MAYBE,
        session=st.none() | _ARGUMENTS,
        reply=st.none() | st.tuples(_TEXTS, st.binary(), _METADATA),
    ),
    st.builds(Skipped, connection=_TEXTS, frames=st.lists(st.tuples(_NUMBERS, _NUMBERS), max_size=3)),
    st.builds(Ended, connection=_TEXTS),
    st.builds(Gap),
    st.builds(Hello, process=_TEXTS, number=_NUMBERS, asks=st.booleans(), secrets=st.tuples(_TEXTS)),
    st.builds(Goodbye, process=_TEXTS),
    st.builds(Takeover, process=_TEXTS),
    st.builds(Adopted, process=_TEXTS),
    st.builds(Question, number=_NUMBERS, verb=_TEXTS, audience=_AUDIENCES, connection=_MAYBE, arguments=_ARGUMENTS),
    st.builds(Answer, number=_NUMBERS, value=_VALUES, problem=_MAYBE, message=_TEXTS, moved=st.booleans()),
]


@given(st.one_of(ENTRIES))
@settings(max_examples=200)
def test_what_is_written_is_read(entry: Entry) -> None:
    read = decode(encode(entry))
    assert read == entry
    assert type(read) is type(entry)


def test_a_large_payload_crosses() -> None:
    entry = Publications([Publication(Audience("chat", "g"), "binary", bytes(range(256)) * 4096)])
    assert decode(encode(entry)) == entry


def test_what_a_newer_version_adds_at_the_end_is_passed_over() -> None:
    assert decode(msgspec.msgpack.encode(["e", "id", "added", 7])) == Ended("id")


@pytest.mark.parametrize(
    ("audience", "connection", "frame"),
    [
        (Audience("chat", "g"), None, GroupMessage("g", Payload("json", b"1"), "u", {"a": "b"})),
        (Audience("chat"), None, ServerMessage(Payload("json", b"1"), {"a": "b"})),
        (Audience("chat", user_id="u"), None, ServerMessage(Payload("json", b"1"), {"a": "b"})),
        (Audience("chat"), "0" * 32, ServerMessage(Payload("json", b"1"), {"a": "b"})),
    ],
)
def test_a_publication_as_its_frame(
    audience: Audience, connection: str | None, frame: GroupMessage | ServerMessage
) -> None:
    assert Publication(audience, "json", b"1", "u", {"a": "b"}, connection).frame == frame


@given(st.binary(max_size=60))
@settings(max_examples=200)
def test_anything_else_is_refused(body: bytes) -> None:
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        decode(body)


@pytest.mark.parametrize("value", [None, 1, "p", [], ["p"], ["x", 1], ["p", 1], ["k", "id"], {"hub": "chat"}])
def test_other_values_are_no_entries(value: object) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode(msgspec.msgpack.encode(value))


@given(st.lists(_HUBS, min_size=2, max_size=8, unique=True))
def test_every_hub_has_a_log_of_its_own_under_a_name_that_layers_take(hubs: list[str]) -> None:
    names = {hub_log(hub) for hub in hubs} | {CONTROL_LOG, process_log("0123abcd")}
    assert len(names) == len(hubs) + 2
    for name in names:
        InMemoryChannelLayer().require_valid_group_name(name)
        assert len(name) < 60


def test_names_are_the_same_in_every_process() -> None:
    """They are agreed on between versions of the service: changing them parts old servers from new ones."""
    assert (CONTROL_LOG, process_log("0123abcd")) == ("processes", "process.0123abcd")
    assert hub_log("chat") == "hub.da85f76722e62aaeef37c35375cdcf87605caeb4"
