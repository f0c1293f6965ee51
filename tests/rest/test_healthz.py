"""The addresses for load balancers. tests/service/test_health.py asks running servers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from hubs import health
from hubs.rest.healthz import HealthChecks
from pubsub_site.prefix import BelowPrefix
from tests.rest.doors import Wire, scope


class Behind:
    """The application behind, which counts what comes to it."""

    reached = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached += 1
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture(autouse=True)
def _no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_probes", {})


def ask(method: str, path: str, prefix: str = "", **options: Any) -> tuple[int, Any, dict[str, str]]:
    """Status, body and headers; a status of 0: the application behind was asked."""
    behind = Behind()
    application: Any = HealthChecks(behind)
    if prefix:
        application = BelowPrefix(application, prefix)
    wire = Wire()
    async_to_sync(application)(
        scope(method, path.encode(), [(b"host", b"10.1.2.3")], **options), wire.receive, wire.send
    )
    answer = wire.answered
    assert answer is not None
    if behind.reached:
        return 0, None, {}
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return answer.status, json.loads(answer.body) if answer.body else None, headers


def test_live_whatever_is_amiss() -> None:
    health.register("redis", lambda: "it does not answer")
    status, said, headers = ask("GET", "/healthz/live")
    assert (status, said) == (200, {"live": True})
    assert (headers["content-type"], headers["cache-control"]) == ("application/json", "no-store")


def test_ready_or_all_the_reasons_why_not() -> None:
    assert ask("GET", "/healthz/ready")[:2] == (200, {"ready": True, "reasons": []})
    health.register("redis", lambda: "it does not answer")
    health.register("draining", lambda: "the process is stopping")
    reasons = ["redis: it does not answer", "draining: the process is stopping"]
    assert ask("GET", "/healthz/ready")[:2] == (503, {"ready": False, "reasons": reasons})


def test_head_has_the_length_of_the_body_and_no_body() -> None:
    status, said, headers = ask("HEAD", "/healthz/ready")
    assert (status, said, headers["content-length"]) == (200, None, str(len('{"ready":true,"reasons":[]}')))


def test_other_methods_are_told_which() -> None:
    status, said, headers = ask("POST", "/healthz/live")
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert "GET or HEAD" in said["message"]


@pytest.mark.parametrize("path", ["/healthz/ready", "/rt/healthz/ready", "/healthz/ready?probe=1"])
def test_below_a_path_prefix_and_without_it(path: str) -> None:
    assert ask("GET", path, prefix="/rt")[0] == 200
    # A server that is told of the prefix says so itself.
    assert ask("GET", "/healthz/ready", root_path="/rt")[0] == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/healthz/", "/healthz/other", "/x/healthz/ready", "/api/health"])
def test_all_else_goes_on(path: str) -> None:
    assert ask("GET", path)[0] == 0
