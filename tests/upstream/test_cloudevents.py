"""Events as requests and answers as what they mean, without any HTTP; the rows over HTTP are in test_webhooks.py."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubs.protocols.frames import DATA_TYPES, Payload
from hubs.upstream import ConnectAnswer, ConnectRequest, EventContext, Rejected, Reply, UserEventRequest
from hubs.upstream.cloudevents import (
    Answer,
    BadAnswer,
    Unsendable,
    allows,
    content_of,
    read_connect,
    read_reply,
    request_headers,
    signature,
    source_of,
    time_of,
    type_of,
    validation_headers,
)
from hubs.upstream.events import Event

CONTEXT = EventContext("chat", "c0ffee")


def headers_of(event: Event, **options: str) -> dict[str, str]:
    return request_headers(event, "text/plain", origin="h", keys=["k"], request_id="r", **options)


def test_an_events_attributes() -> None:
    event = Event(CONTEXT, "connect", 0, 1_700_000_000.999)
    assert type_of(event) == "azure.webpubsub.sys.connect"
    assert source_of(event) == "/hubs/chat/client/c0ffee"
    assert time_of(event) == "2023-11-14T22:13:20Z"
    of_a_user = Event(CONTEXT, "connect", 7, 0, UserEventRequest(CONTEXT, "connect", Payload("text", b"x")))
    assert type_of(of_a_user) == "azure.webpubsub.user.connect"
    assert headers_of(of_a_user)["ce-id"] == "7"


def test_the_signature_is_the_one_that_openssl_makes() -> None:
    # echo -n c0ffee | openssl dgst -sha256 -hmac key
    assert signature(["key"], "c0ffee") == "sha256=557acebcf9c68ae3b7218a76ec5bb23903fe996665e878b979fac9ec87cac7ab"


def test_without_keys_nothing_is_signed() -> None:
    assert "ce-signature" not in request_headers(
        Event(CONTEXT, "connected", 1, 0), "application/json", origin="h", keys=[], request_id="r"
    )


def test_the_owner_is_asked_with_two_headers() -> None:
    assert validation_headers("h") == {"WebHook-Request-Origin": "h", "ce-awpsversion": "1.0"}


@pytest.mark.parametrize(
    ("values", "allowed"),
    [
        ([], False),
        (["*"], True),
        (["h"], True),
        (["H"], True),
        (["h:80"], True),
        (["h:81"], False),
        (["x", "h"], True),
        (["x, h"], False),
        (["*,h"], False),
        ([""], False),
        (["https://h"], False),
    ],
)
def test_permissions(values: list[str], allowed: bool) -> None:
    assert allows(values, ("h", "h:80")) is allowed


def test_claims_that_utf_8_cannot_say() -> None:
    event = Event(CONTEXT, "connect", 0, 0, ConnectRequest(CONTEXT, claims={"sub": ["\ud800"]}))
    with pytest.raises(Unsendable):
        content_of(event)


_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")


@given(st.text(), st.text(), st.dictionaries(st.text("abcXYZ-", min_size=1), st.text()))
def test_no_header_ever_has_a_control_character(user_id: str, state: str, metadata: dict[str, str]) -> None:
    context = EventContext("chat", "c", user_id, None, state)
    request = UserEventRequest(context, "e", Payload("text", b""), metadata)
    try:
        headers = headers_of(Event(context, "e", 0, 0, request))
    except Unsendable:
        assert _CONTROL.search("".join([user_id, state, *metadata.values()]))
    else:
        assert not any(_CONTROL.search(value) for value in headers.values())
        assert headers.get("ce-userId", "") == user_id
        assert headers["ce-connectionState"] == state


_ANSWERS = st.builds(
    Answer,
    st.integers(100, 599),
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"Content-Type", b"ce-connectionState", b"x-webpubsub-metadata-k", b"X-WebPubSub-Metadata-"]
            ),
            st.binary(max_size=20) | st.sampled_from([b"text/plain", b"application/json", b"a;b"]),
        ),
        max_size=4,
    ),
    st.binary(max_size=50) | st.sampled_from([b"{}", b"null", b'{"userId":"u"}', b'{"groups":["g",""]}', b"[1]"]),
)


@given(_ANSWERS)
def test_every_answer_to_a_user_event_means_something_or_is_a_bad_one(answer: Answer) -> None:
    with contextlib.suppress(BadAnswer):
        reply = read_reply(answer)
        assert isinstance(reply, Reply)
        assert answer.accepted
        assert reply.payload is None or reply.payload.data_type in DATA_TYPES


@given(_ANSWERS)
def test_every_answer_to_connect_is_a_yes_a_no_or_a_bad_one(answer: Answer) -> None:
    if answer.accepted:
        with contextlib.suppress(BadAnswer):
            assert isinstance(read_connect(answer, ["p"]), ConnectAnswer)
    else:
        with pytest.raises(Rejected) as rejected:
            read_connect(answer, ["p"])
        assert 400 <= rejected.value.status < 600
