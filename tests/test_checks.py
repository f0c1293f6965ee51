"""`manage.py check`: every complaint says what to write instead."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, run_checks

from hubs import checks, conf
from tests.running import ROOT


def _complaints(settings: Any, **chosen: Any) -> list[CheckMessage]:
    settings.WEBPUBSUB = chosen
    return checks.check_settings()


def test_defaults_are_fine(settings: Any) -> None:
    assert _complaints(settings) == []


def test_django_runs_them(settings: Any) -> None:
    settings.WEBPUBSUB = {"DEFAULT_HUBS": "x"}
    settings.CHANNEL_LAYERS = {}
    assert {message.id for message in run_checks(tags=["hubs"])} == {"hubs.E001", "hubs.E003"}


def test_an_unknown_name(settings: Any) -> None:
    [problem] = _complaints(settings, KEEP_ALIVE=20)
    assert (problem.id, type(problem)) == ("hubs.E001", Error)
    assert "Did you mean 'KEEP_ALIVE_SECS'?" in problem.msg


def test_no_dictionary(settings: Any) -> None:
    settings.WEBPUBSUB = None
    [problem] = checks.check_settings()
    assert problem.id == "hubs.E001"


@pytest.mark.parametrize("name", conf.OPTIONS)
def test_a_wrong_value(settings: Any, name: str) -> None:
    value = object()
    [problem] = _complaints(settings, **{name: value})
    assert (problem.id, type(problem)) == ("hubs.E002", Error)
    assert problem.msg.startswith(f"WEBPUBSUB[{name!r}] is {value!r}: write ")
    assert problem.hint == conf.OPTIONS[name].meaning


def test_all_wrong_values_are_told_at_once(settings: Any) -> None:
    problems = _complaints(settings, DEFAULT_HUB="", KEEP_ALIVE_SECS=0, REQUIRE_KNOWN_HUBS="no", CLOCK_SKEW_SECS=5)
    assert [problem.id for problem in problems] == ["hubs.E002"] * 3


def test_endpoints_that_python_cannot_read(settings: Any) -> None:
    [problem] = _complaints(settings, PUBLIC_ENDPOINTS=["https://[broken"])
    assert problem.id == "hubs.E002"
    assert "write http(s)://host[:port][/prefix]" in problem.msg


@pytest.mark.parametrize("name", ["1chat", "my hub", "a" * 129, "é"])
def test_a_default_hub_that_cannot_be(settings: Any, name: str) -> None:
    [problem] = _complaints(settings, DEFAULT_HUB=name)
    assert (problem.id, type(problem)) == ("hubs.E004", Error)
    assert "start with a letter" in str(problem.hint)


@pytest.mark.parametrize("endpoint", ["http://pubsub.example.com", "http://10.0.0.1:8080"])
def test_tokens_over_plain_http(settings: Any, endpoint: str) -> None:
    [problem] = _complaints(settings, PUBLIC_ENDPOINTS=[endpoint])
    assert (problem.id, type(problem)) == ("hubs.W001", Warning)
    assert "https" in str(problem.hint)


@pytest.mark.parametrize("endpoint", ["http://localhost:8080", "http://127.0.0.1", "http://[::1]:1", "https://h"])
def test_no_warning_at_home_or_behind_tls(settings: Any, endpoint: str) -> None:
    assert _complaints(settings, PUBLIC_ENDPOINTS=[endpoint]) == []


@pytest.mark.parametrize(
    ("folder", "file", "warned"),
    [
        (0o700, 0o644, False),
        (0o755, 0o600, False),
        (0o750, 0o640, False),
        (0o755, 0o644, True),
        (0o777, 0o600, True),
        (0o1777, 0o600, False),
    ],
)
def test_a_database_that_everybody_can_get_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: int, file: int, warned: bool
) -> None:
    path = tmp_path / "db.sqlite3"
    path.touch()
    path.chmod(file)
    tmp_path.chmod(folder)
    monkeypatch.setitem(settings.DATABASES["default"], "NAME", str(path))
    problems = checks.check_database_file()
    assert [problem.id for problem in problems] == ["hubs.W020"] * warned
    if warned:
        assert f"chmod 600 {path}" in str(problems[0].hint)


@pytest.mark.parametrize("layers", [{}, {"other": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}])
def test_there_has_to_be_a_channel_layer(settings: Any, layers: dict[str, Any]) -> None:
    settings.CHANNEL_LAYERS = layers
    [problem] = checks.check_channel_layer()
    assert (problem.id, type(problem)) == ("hubs.E003", Error)
    assert "REDIS_URL" in str(problem.hint)


def test_a_channel_layer_is_fine(settings: Any) -> None:
    assert checks.check_channel_layer() == []


@pytest.mark.parametrize(
    ("kept", "waiting", "size"), [("MESSAGES", "MAX_OUTBOX_MESSAGES", 5000), ("BYTES", "MAX_OUTBOX_BYTES", 2 << 20)]
)
def test_a_buffer_that_no_outbox_holds(settings: Any, kept: str, waiting: str, size: int) -> None:
    name = f"RELIABLE_BUFFER_{kept}"
    [problem] = _complaints(settings, **{name: size, waiting: size - 1})
    assert (problem.id, type(problem)) == ("hubs.W002", Warning)
    assert waiting in str(problem.hint)
    assert _complaints(settings, **{name: size, waiting: size}) == []


@pytest.mark.parametrize(
    "secret",
    ["changeme", "x" * 100, "django-insecure-3k2j5h4g6f7d8s9a0qwertyuiopzxcvbnm12345", "0123456789abcdef" * 2 + "x"],
)
@pytest.mark.parametrize("name", ["SECRET_KEY", "SECRET_KEY_FALLBACKS"])
def test_a_secret_that_can_be_guessed(settings: Any, name: str, secret: str) -> None:
    strong = "hY3k9TqW2mZx7LbV5nRc8DfG1jPs4aEu6oiX"
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = strong, [strong]
    assert checks.check_secret_key() == []
    setattr(settings, name, secret if name == "SECRET_KEY" else [strong, secret])
    found = checks.check_secret_key()
    if secret.endswith("fx"):
        # Hexadecimal digits are as good, only longer.
        assert found == []
        return
    [problem] = found
    assert (problem.id, type(problem)) == ("hubs.W010", Warning)
    assert name in problem.msg
    assert secret not in problem.msg
    assert "openssl rand" in str(problem.hint)


def test_callers_that_all_count_as_the_proxy(settings: Any) -> None:
    [problem] = _complaints(settings, TRUST_FORWARDED_HEADERS=True)
    assert (problem.id, type(problem)) == ("hubs.W015", Warning)
    settings.REST_FRAMEWORK = settings.REST_FRAMEWORK | {"NUM_PROXIES": 1}
    assert _complaints(settings, TRUST_FORWARDED_HEADERS=True) == []


def test_strict_transport_without_https(settings: Any) -> None:
    settings.SECURE_HSTS_SECONDS = 3600
    [problem] = _complaints(settings, PUBLIC_ENDPOINTS=["http://localhost:8080"])
    assert (problem.id, type(problem)) == ("hubs.W012", Warning)
    assert _complaints(settings, PUBLIC_ENDPOINTS=["https://pubsub.example.com"]) == []


def test_a_cache_that_takes_others_down_with_it(settings: Any) -> None:
    assert checks.check_caches() == []
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://a"}}
    [problem] = checks.check_caches()
    assert (problem.id, type(problem)) == ("hubs.W013", Warning)
    assert "hubs.redis_cache.RedisCache" in str(problem.hint)


def test_a_log_that_is_not_kept_for_as_long_as_clients_may_be_away(settings: Any) -> None:
    config = {"hosts": ["redis://127.0.0.1:1/0"], "retention_secs": 60}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "hubs.layers.redis.RedisLayer", "CONFIG": config}}
    assert _complaints(settings, RECOVERY_SECS=59) == []
    [problem] = _complaints(settings, RECOVERY_SECS=60)
    assert (problem.id, type(problem)) == ("hubs.W021", Warning)
    assert "LOG_RETENTION_SECS is 60" in problem.msg
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    assert _complaints(settings, RECOVERY_SECS=300) == []


def test_each_complaint_has_an_id_of_its_own() -> None:
    """SILENCED_SYSTEM_CHECKS silences by id."""
    ids = re.findall(r'id="(hubs\.[EW]\d+)"', (ROOT / "hubs/checks.py").read_text())
    assert len(ids) > 10
    assert sorted(ids) == sorted(set(ids))
