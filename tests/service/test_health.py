"""Health checks of running servers; tests/service/test_redis_away.py has what they say in an outage."""

from __future__ import annotations

import http.client
import json

import pytest

from tests.running import PATIENCE, Service


def ask(port: int, path: str, method: str = "GET", host: str = "10.9.8.7:1234") -> tuple[int, bytes]:
    """Status and body, for somebody who calls the service by an address that it does not know."""
    connection = http.client.HTTPConnection("localhost", port, timeout=PATIENCE)
    try:
        connection.request(method, path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.needs_handlers
def test_health_checks_need_no_host_no_token_and_no_line_in_the_log(live_service: Service) -> None:
    before = live_service.log.read_text()
    for path, said in (("/healthz/live", {"live": True}), ("/healthz/ready", {"ready": True, "reasons": []})):
        status, body = ask(live_service.port, path)
        assert (status, json.loads(body)) == (200, said)
        assert ask(live_service.port, path, "HEAD") == (200, b"")
        assert ask(live_service.port, path, "DELETE")[0] == 405
    # A request that is logged, as a mark.
    assert ask(live_service.port, "/healthz/other")[0] == 400
    written = live_service.log.read_text().removeprefix(before)
    assert "/healthz/live" not in written
    assert "/healthz/ready" not in written
