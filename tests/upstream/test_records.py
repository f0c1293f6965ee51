"""What calls leave behind, and how failures are logged."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from hubs.protocols.frames import Payload
from hubs.throttled_log import EVERY_SECS, MAX_KINDS, ThrottledLog
from hubs.upstream import records
from hubs.upstream.records import Record
from tests.upstream.conftest import Time


def record(number: int, hub: str = "chat", payload: Payload | None = None) -> Record:
    return Record(number, hub, "e", "h", "c", records.ANSWERED, 1.0, payload=payload)


def test_the_latest_calls_of_each_hub_are_remembered(webpubsub: Any) -> None:
    webpubsub(HANDLER_RECORDS=3)
    for number in range(5):
        records.note(record(number))
    records.note(record(9, "other"))
    assert [kept.at for kept in records.recent("chat")] == [4, 3, 2]
    assert [kept.at for kept in records.recent("other")] == [9]
    assert records.recent("nobody") == []
    webpubsub(HANDLER_RECORDS=2)
    records.note(record(5))
    assert [kept.at for kept in records.recent("chat")] == [5, 4]
    webpubsub(HANDLER_RECORDS=0)
    records.note(record(6))
    assert [kept.at for kept in records.recent("chat")] == [5, 4]


def test_quiet_hubs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_MAX_HUBS", 2)
    for hub in ("a", "b", "a", "c"):
        records.note(record(1, hub))
    assert [len(records.recent(hub)) for hub in ("a", "b", "c")] == [2, 0, 1]


def test_payloads_are_private_and_cut(webpubsub: Any) -> None:
    records.note(record(1, payload=Payload("text", b"x")))
    webpubsub(RECORD_PAYLOADS=True)
    records.note(record(2, payload=Payload("binary", b"x" * 10_000)))
    second, first = records.recent("chat")
    assert first.payload is None
    assert second.payload == Payload("binary", b"x" * 4096)


def test_the_same_complaint_is_logged_seldom(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    complaints = ThrottledLog(logging.getLogger("hubs.test"), time.clock)
    for _ in range(5):
        complaints.warn("%s failed: %s", "a", "down")
    complaints.warn("%s failed: %s", "b", "down")
    time.now += EVERY_SECS
    complaints.warn("%s failed: %s", "a", "down")
    complaints.warn("%s failed: %s", "b", "down")
    assert caplog.messages == [
        "a failed: down",
        "b failed: down",
        "a failed: down (4 times more since the last such line)",
        "b failed: down",
    ]


def test_complaints_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    complaints = ThrottledLog(logging.getLogger("hubs.test"), Time().clock)
    for number in range(MAX_KINDS + 10):
        complaints.warn("%s", number)
    assert len(complaints._held) == MAX_KINDS
