"""Complaints about several handlers, in a log that limits lines of a kind."""

from __future__ import annotations

import logging

import pytest

from hubs.servers.logs import Throttle
from hubs.throttled_log import ThrottledLog


def test_a_handler_that_fails_does_not_use_up_the_lines_of_another(caplog: pytest.LogCaptureFixture) -> None:
    complaints = ThrottledLog(logging.getLogger("hubs.test"))
    for number in range(200):
        complaints.warn("Events of hub %s do not reach %s", "chat", f"handler {number}")
    throttle = Throttle(per_minute=1, exempt=())
    assert [throttle.admits(record) for record in caplog.records] == [True] * 200
    assert [throttle.admits(caplog.records[0]) for _ in range(2)] == [True, False]
