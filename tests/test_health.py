"""What keeps a process from serving anybody new, as rooms report it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hubs import health


@pytest.fixture(autouse=True)
def _no_probes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This test's own, without those that other tests have left."""
    monkeypatch.setattr(health, "_probes", {})
    return


def test_all_reasons_in_the_order_in_which_probes_came() -> None:
    assert health.reachability() == []
    health.register("redis", lambda: "it does not answer")
    health.register("database", lambda: None)
    health.register("draining", lambda: "the process is stopping")
    assert health.reachability() == ["redis: it does not answer", "draining: the process is stopping"]
    health.register("redis", lambda: None)
    assert health.reachability() == ["draining: the process is stopping"]
    assert (health.reason("redis"), health.reason("draining")) == (None, "the process is stopping")
    health.unregister("draining")
    health.unregister("draining")
    assert health.reachability() == []
    assert health.reason("draining") is None


def test_a_probe_that_fails_is_a_reason_and_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    health.register("broken", lambda: str(1 / 0))
    health.register("redis", lambda: "it does not answer")
    assert health.reachability() == ["broken: it cannot be told, see the log", "redis: it does not answer"]
    assert "The health probe broken failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text
