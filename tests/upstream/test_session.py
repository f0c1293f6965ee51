"""What the upstream side keeps of a connection."""

from __future__ import annotations

import msgspec

from hubs.upstream import EventContext
from hubs.upstream.session import Session


def test_who_it_is_is_settled_by_the_handshake() -> None:
    session = Session("chat", "c", "token's")
    session.admitted("handler's", "json.webpubsub.azure.v1")
    session.state = "s"
    assert session.context == EventContext("chat", "c", "handler's", "json.webpubsub.azure.v1", "s")


def test_events_are_counted_and_keep_the_state_of_their_time() -> None:
    session = Session("chat", "c")
    first = session.event("connect")
    session.state = "s"
    second = session.event("connected")
    assert [(event.number, event.context.state) for event in (first, second)] == [(0, None), (1, "s")]


def test_beginning_and_end_are_news_once() -> None:
    never_open = Session("chat", "c")
    assert not never_open.end()
    session = Session("chat", "c")
    assert [session.open(), session.open(), session.end(), session.end()] == [True, False, True, False]


def test_it_moves_with_everything() -> None:
    session = Session("chat", "c", "Änne", "p", "state")
    session.cookies.take("https://h/", ["a=b"], 0)
    session.event("connect")
    session.open()
    packed = session.packed()
    moved = Session.unpacked(msgspec.msgpack.decode(msgspec.msgpack.encode(packed)))
    assert moved.packed() == packed
    assert moved.context == session.context
    assert moved.cookies.header("https://h/") == "a=b"
    assert moved.event("e").number == 1
    assert not moved.open()
    assert moved.end()
