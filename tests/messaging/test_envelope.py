"""What processes say to each other, and under which names."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from channels.layers import InMemoryChannelLayer
from hypothesis import given, settings
from hypothesis import strategies as st

from hubs.messaging.envelope import (
    EVERYBODY,
    Answer,
    Audience,
    Envelope,
    Goodbye,
    Hello,
    Publication,
    Question,
    decode,
    encode,
    group_address,
    hub_address,
    process_address,
)
from hubs.protocols.frames import DATA_TYPES, GroupMessage, Payload, ServerMessage

_HUBS = st.from_regex(r"[a-z][a-z0-9_`,.\[\]]{0,127}", fullmatch=True)
_GROUPS = st.text(min_size=1, max_size=40)
_TEXTS = st.text(max_size=20)

_AUDIENCES = st.builds(
    Audience,
    hub=_HUBS,
    group=st.none() | _GROUPS,
    user_id=st.none() | _TEXTS,
    filter=st.none() | _TEXTS,
    excluded=st.lists(_TEXTS).map(tuple),
)
_PUBLICATIONS = st.builds(
    Publication,
    audience=_AUDIENCES,
    data_type=st.sampled_from(DATA_TYPES),
    data=st.binary(),
    from_user_id=st.none() | _TEXTS,
    metadata=st.none() | st.dictionaries(_TEXTS, _TEXTS),
    connection=st.none() | _TEXTS,
)
_VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | _TEXTS | st.lists(_TEXTS)
_QUESTIONS = st.builds(
    Question,
    number=st.integers(0, 2**63 - 1),
    asker=_TEXTS,
    verb=_TEXTS,
    audience=_AUDIENCES,
    connection=st.none() | _TEXTS,
    arguments=st.dictionaries(_TEXTS, _VALUES),
)
_ANSWERS = st.builds(
    Answer,
    number=st.integers(0, 2**63 - 1),
    process=_TEXTS,
    value=_VALUES,
    problem=st.none() | _TEXTS,
    message=_TEXTS,
)
_NUMBERS = st.none() | st.integers(0, 2**63)
_HELLOS = st.builds(Hello, process=_TEXTS, asks=_NUMBERS, answers=_NUMBERS, deaf=st.booleans()) | st.builds(
    Goodbye, process=_TEXTS
)


@given(_PUBLICATIONS | _QUESTIONS | _ANSWERS | _HELLOS)
@settings(max_examples=300)
def test_what_is_said_is_understood(envelope: Envelope) -> None:
    heard = decode(encode(envelope))
    assert heard == envelope
    assert type(heard) is type(envelope)


def test_a_large_payload_crosses() -> None:
    publication = Publication(Audience("chat", "g"), "binary", bytes(range(256)) * 4096)
    assert decode(encode(publication)) == publication


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
@settings(max_examples=300)
def test_anything_else_is_refused(body: bytes) -> None:
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        decode(body)


@pytest.mark.parametrize("value", [None, 1, "p", [], ["p"], ["x", 1], ["p", 1, 2, 3, 4], {"hub": "chat"}])
def test_other_values_are_no_envelopes(value: object) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode(msgspec.msgpack.encode(value))


@given(_HUBS, st.text(min_size=1, max_size=50) | st.just("👋" * 1024) | st.just("\ud800"))
def test_any_group_has_a_name_that_layers_take(hub: str, group: str) -> None:
    address = group_address(hub, group)
    InMemoryChannelLayer().require_valid_group_name(address)
    assert len(address) < 60


@given(_HUBS)
def test_other_addresses_are_names_that_layers_take_too(hub: str) -> None:
    for address in (hub_address(hub), process_address("0123abcd"), EVERYBODY):
        InMemoryChannelLayer().require_valid_group_name(address)


@given(st.lists(st.tuples(_HUBS, _GROUPS), min_size=2, max_size=8, unique=True))
def test_groups_do_not_share_addresses(groups: list[tuple[str, str]]) -> None:
    assert len({group_address(hub, group) for hub, group in groups}) == len(groups)


def test_groups_made_to_collide_do_not() -> None:
    """Names joined in some other way would be the same here."""
    pairs = [
        ("ab", "c"),
        ("a", "bc"),
        ("a", "c\0ab"),
        ("ab", "c\0ab"),
        ("b", "a"),
        ("a", "b"),
        ("a" * 64, "g"),
        ("a" * 65, "g"),
        ("a" * 64 + "b", "g"),
        ("a" * 64, "ag"),
        ("chat", "G"),
        ("chat", "g"),
        ("chat", "g "),
        ("chat", "é"),
        ("chat", "e\u0301"),
    ]
    assert len({group_address(hub, group) for hub, group in pairs}) == len(pairs)


def test_addresses_are_the_same_in_every_process() -> None:
    """They are agreed on between versions of the service: changing them parts old servers from new ones."""
    assert group_address("chat", "room é") == "g.32bc938d70129bf9b299df975a42d5b853e82613"
    assert process_address("0123abcd") == "p.0123abcd"
