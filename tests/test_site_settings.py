"""What pubsub_site/settings.py makes of the environment and of the files around it."""

from __future__ import annotations

import errno
import os
import pickle
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from django.core.exceptions import ImproperlyConfigured

from pubsub_site.settings import _stored_secret
from tests.running import PATIENCE, ROOT, Redis, Service, free_port

SECRET = "0123456789abcdefghijklmnopqrstuvwxyz0123"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of the project in a directory of its own, with as much of it as the settings need."""
    shutil.copytree(ROOT / "pubsub_site", tmp_path / "site/pubsub_site", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "site"


def _settings(site: Path, code: str = "print('good')", **environment: str) -> subprocess.CompletedProcess[str]:
    """Read the settings of that copy, in a process whose umask is the usual one, and run code with them as `s`."""
    env = Service(site).env | environment
    env = {name: value for name, value in env.items() if name != "DATA_DIR" or name in environment}
    return subprocess.run(
        [sys.executable, "-c", f"import os; os.umask(0o022); import pubsub_site.settings as s; {code}"],
        cwd=site,
        env=env | {"PYTHONPATH": f"{site}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def _mode(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


# Files


def test_what_is_kept_is_for_its_owner_alone(site: Path) -> None:
    """SQLite gives the files beside a database the mode of that."""
    code = "import sqlite3; c = sqlite3.connect(s.DATABASES['default']['NAME']); c.executescript('"
    code += "PRAGMA journal_mode=WAL; create table t(n)'); print(*sorted(os.listdir(s.DATA_DIR))); "
    code += "print(*{oct(f.stat().st_mode & 0o777) for f in os.scandir(s.DATA_DIR)})"
    done = _settings(site, code, DATA_DIR=str(site / "new/data"))
    assert done.stdout.splitlines() == ["db.sqlite3 db.sqlite3-shm db.sqlite3-wal secret_key", "0o600"], done.stderr
    assert _mode(site / "new/data") == "0o700"


@pytest.mark.parametrize("folder", ["var", "elsewhere"])
def test_what_earlier_versions_left_open_is_closed(site: Path, folder: str) -> None:
    """A directory of another name may be in use for more than this."""
    data = site / folder
    data.mkdir(mode=0o755)
    for name in ("db.sqlite3", "secret_key", "another"):
        (data / name).write_text("earlier")
        (data / name).chmod(0o644)
    environment = {} if folder == "var" else {"DATA_DIR": str(data)}
    done = _settings(site, "print(s.SECRET_KEY)", **environment)
    assert done.stdout == "earlier\n", done.stderr
    assert [_mode(data / name) for name in ("db.sqlite3", "secret_key", "another")] == ["0o600", "0o600", "0o644"]
    assert _mode(data) == ("0o700" if folder == "var" else "0o755")


def test_what_is_open_to_a_group_stays_so(site: Path) -> None:
    (site / "var").mkdir()
    (site / "var").chmod(0o750)
    (site / "var/secret_key").write_text("earlier")
    (site / "var/secret_key").chmod(0o640)
    assert _settings(site).stdout == "good\n"
    assert (_mode(site / "var"), _mode(site / "var/secret_key")) == ("0o750", "0o640")


def test_nothing_is_written_where_the_environment_gives_all(site: Path) -> None:
    before = sorted(site.rglob("*"))
    everything = {"SECRET_KEY": SECRET, "DATABASE_URL": "postgres://u:p@127.0.0.1:1/n", "PYTHONDONTWRITEBYTECODE": "1"}
    assert _settings(site, **everything).stdout == "good\n"
    assert sorted(site.rglob("*")) == before


def test_the_whole_service_loads_without_a_data_directory() -> None:
    """And nothing complains of one that is missing, whitenoise for example."""
    everything = {"SECRET_KEY": SECRET, "DATABASE_URL": "postgres://u:p@127.0.0.1:1/n", "DATA_DIR": "/proc/none"}
    service = Service(Path("/proc/none"), env=everything)
    done = service.manage("shell", "--verbosity", "0", "-c", "import pubsub_site.asgi; print('loaded')")
    assert (done.stdout, done.stderr) == ("loaded\n", "")


# The secret


def _make(path: Path, starting: threading.Barrier) -> str:
    starting.wait(PATIENCE)
    return _stored_secret(path)


def test_all_who_start_together_have_one_secret(tmp_path: Path) -> None:
    starters = 6
    with ThreadPoolExecutor(starters) as pool:
        for number in range(30):
            path, starting = tmp_path / str(number) / "secret_key", threading.Barrier(starters)
            path.parent.mkdir()
            [secret] = set(pool.map(_make, [path] * starters, [starting] * starters))
            assert len(secret) == 86
            assert _mode(path) == "0o600"
            assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_is_full_leaves_no_half_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(ImproperlyConfigured, match=r"secret_key \(No space left on device\)\. .*set SECRET_KEY"):
            _stored_secret(tmp_path / "secret_key")
    assert list(tmp_path.iterdir()) == []
    assert _stored_secret(tmp_path / "secret_key")


def test_a_secret_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "secret_key").mkdir()
    with pytest.raises(ImproperlyConfigured, match=r"secret_key \(Is a directory\)"):
        _stored_secret(tmp_path / "secret_key")


# The .env file


@pytest.mark.parametrize("kind", ["directory", "binary"])
def test_a_dotenv_that_cannot_be_read_is_not_passed_over(site: Path, kind: str) -> None:
    if kind == "directory":
        (site / ".env").mkdir()
    else:
        (site / ".env").write_bytes(b"PORT=\xff\xfe")
    done = _settings(site)
    assert done.returncode == 1
    assert f"{site}/.env cannot be read (" in done.stderr.splitlines()[-1]


# The cache

LOOK_UP = """
import time
from django.core.cache import cache
begun = time.monotonic()
cache.set("asked", "answered")
print(cache.get("asked"), cache.is_away, time.monotonic() - begun)
"""


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[int]:
    """The port of a sentinel that watches a Redis under the name `main`, and answers."""
    redis, port, settings = Redis(tmp_path).start(), free_port(), tmp_path / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 {redis.port} 1\n"
    )
    with (tmp_path / "sentinel.log").open("wb") as log:
        process = subprocess.Popen([Redis.executable(), str(settings), "--sentinel"], stdout=log, stderr=log)
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
    yield port
    process.terminate()
    process.wait(PATIENCE)
    redis.stop()


def test_the_cache_asks_the_next_sentinel_where_the_first_ones_are_away(
    sentinel: int, data_dir: Path, tmp_path: Path
) -> None:
    """One refuses connections, one takes them and says nothing: half a second is lost with it, none with the other."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        sentinels = f"127.0.0.1:{free_port()},127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{sentinel}"
        service = Service(data_dir, env={"REDIS_URL": "redis://main/0", "REDIS_SENTINELS": sentinels})
        # Not by manage.py: the cache needs the settings alone, and they are sooner there.
        said = subprocess.check_output(
            [sys.executable, "-c", LOOK_UP],
            cwd=ROOT,
            env=service.env | {"DJANGO_SETTINGS_MODULE": "pubsub_site.settings"},
            text=True,
            timeout=PATIENCE * 3,
        )
    *answer, secs = said.split()
    assert answer == ["answered", "False"]
    # redis-py's own ten tries with one of them take four seconds and more, and those with the silent one ten.
    assert 0.5 <= float(secs) < 8


def settings_say(service: Service, code: str) -> str:
    return subprocess.check_output(
        [sys.executable, "-c", f"import django; django.setup(); {code}"],
        cwd=ROOT,
        env=service.env | {"DJANGO_SETTINGS_MODULE": "pubsub_site.settings"},
        text=True,
        timeout=PATIENCE * 3,
    ).strip()


def test_what_stands_in_redis_is_json_and_not_where_earlier_versions_look(redis_server: Redis, data_dir: Path) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/9"
    service = Service(data_dir, env={"REDIS_URL": url})
    redis = redis_client.Redis.from_url(url)
    code = "from django.core.cache import cache; "
    written = "cache.set('list', [1.5, 'é', None]); cache.set('number', 1); cache.incr('number'); "
    assert (
        settings_say(service, f"{code}{written}print(cache.get('list'), cache.get('number'))") == "[1.5, 'é', None] 2"
    )
    assert sorted(redis.keys()) == [b"hubwire-json:1:list", b"hubwire-json:1:number"]
    assert redis.get("hubwire-json:1:number") == b"2"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("code was run",)

    redis.set("hubwire-json:1:trap", pickle.dumps(Trap()))
    refused = "\ntry: print(cache.get('trap'))\nexcept ValueError: print('refused')"
    assert settings_say(service, f"{code}{refused}") == "refused"


def test_a_deployment_that_does_what_security_md_says_passes_its_check(data_dir: Path) -> None:
    env = {
        "PUBLIC_ENDPOINT": "https://pubsub.example.com",
        "SECRET_KEY": secrets.token_urlsafe(64),
        "TRUST_FORWARDED_HEADERS": "true",
        "NUM_PROXIES": "1",
        "HSTS_SECS": "3600",
    }
    service = Service(data_dir, env=env)
    # The browser tests of this process set it for themselves.
    service.env.pop("DJANGO_ALLOW_ASYNC_UNSAFE", None)
    done = service.manage("check", "--deploy", "--fail-level", "WARNING", check=False)
    assert done.returncode == 0, done.stderr


def test_strict_transport_is_told_over_https_alone(data_dir: Path) -> None:
    service = Service(
        data_dir,
        env={
            "HSTS_SECS": "3600",
            "PUBLIC_ENDPOINT": "https://pubsub.example.com",
            "TRUST_FORWARDED_HEADERS": "true",
            "NUM_PROXIES": "1",
        },
    )
    code = (
        "from django.test import Client; answer = Client().get('/admin/login/', headers={'host': 'pubsub.example.com', "
        "'x-forwarded-proto': '%s'}); print(answer.headers.get('Strict-Transport-Security'))"
    )
    assert settings_say(service, code % "https") == "max-age=3600"
    assert settings_say(service, code % "http") == "None"
