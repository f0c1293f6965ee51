"""A configuration that cannot work is refused in a sentence that says what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import ROOT, Redis, Service


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("PORT", "abc", "PORT=abc is not a number"),
        ("KEEP_ALIVE_SECS", "soon", "KEEP_ALIVE_SECS=soon is not a number"),
        ("DEBUG", "perhaps", "DEBUG=perhaps is neither true nor false"),
        ("DATABASE_URL", "foo", "postgres://user:password@host:5432/name"),
        ("DATABASE_URL", "oops://user:secret@host/name", "postgres://user:password@host:5432/name"),
        ("REDIS_URL", "localhost:6379", "redis://host:6379/0"),
        ("PUBLIC_ENDPOINT", "pubsub.example.com", "write http(s)://host[:port][/prefix]"),
        ("KEEP_ALIVE_SECS", "500", "write a number from 1 to 120"),
        ("DEFAULT_HUB", "1st", "Hub names start with a letter"),
        ("WORKERS", "two", "WORKERS=two is not a number"),
        ("DRAIN_PER_SEC", "0", "write a number from 1 to 1e+06"),
        ("NEGOTIATE_RATE_USER", "many", 'write a rate such as "120/min"'),
    ],
)
def test_bad_configuration(tmp_path: Path, name: str, value: str, advice: str) -> None:
    done = Service(tmp_path, env={name: value}).manage("check", check=False)
    assert done.returncode == 1
    assert advice in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    import socket

    service = Service(tmp_path).set_up()
    with socket.socket() as other:
        other.bind(("127.0.0.1", service.port))
        other.listen()
        done = service.manage("serve", check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"CommandError: Port {service.port} is in use by another program. "
        f"Stop it, or choose another port: PORT={service.port + 1}"
    )


def test_a_port_of_workers_in_use_is_said(tmp_path: Path, redis_server: Redis) -> None:
    """Their sockets share a port with each other; with another program's that shares its own, too, they do not."""
    import socket

    service = Service(tmp_path, env={"WORKERS": "2", "REDIS_URL": redis_server.url}).set_up()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", service.port))
        other.listen()
        done = service.manage("serve", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"CommandError: Port {service.port} is in use by another program.")


@pytest.mark.parametrize(
    ("workers", "advice"),
    [
        (
            "2",
            "WORKERS=2 needs a Redis, by which the workers reach each other's clients. "
            "Set REDIS_URL=redis://host:6379/0, or WORKERS=1.",
        ),
        ("0", "WORKERS=0 is not possible; use 1 to 128."),
        ("129", "WORKERS=129 is not possible; use 1 to 128."),
    ],
)
def test_workers_that_cannot_be_are_said(tmp_path: Path, workers: str, advice: str) -> None:
    for done in (
        Service(tmp_path, env={"WORKERS": workers}).manage("serve", check=False),
        Service(tmp_path).manage("serve", "--workers", workers, check=False),
    ):
        assert done.returncode == 1
        assert done.stderr.strip() == f"CommandError: {advice}"


def test_an_unmigrated_database_is_said(tmp_path: Path) -> None:
    done = Service(tmp_path).manage("serve", check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "CommandError: The database is not up to date. Run: python manage.py migrate"


def test_a_database_that_is_away_is_said(tmp_path: Path) -> None:
    done = Service(tmp_path, env={"DATABASE_URL": "postgres://u:secret@127.0.0.1:1/n"}).manage("serve", check=False)
    assert done.returncode == 1
    assert "Check DATABASE_URL." in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_dotenv_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    """Tried on a copy of the project, as the file stands beside manage.py."""
    import shutil
    import subprocess
    import sys

    for name in ("manage.py", "pubsub_site", "hubs", "static", "templates"):
        source, copy = ROOT / name, tmp_path / name
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    (tmp_path / ".env").write_text("DEFAULT_HUB=fromfile\nKEEP_ALIVE_SECS=7\n")
    env = Service(tmp_path / "data", env={"KEEP_ALIVE_SECS": "9"}).env
    shown = subprocess.run(
        [
            sys.executable,
            "manage.py",
            "shell",
            "--verbosity",
            "0",
            "-c",
            # Workers read the file for themselves, so what stood there at first is not handed on to them.
            "from django.conf import settings; from hubs.conf import settings as s; "
            "print(s.DEFAULT_HUB, s.KEEP_ALIVE_SECS, *settings.VARIABLES_FROM_FILE)",
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == "fromfile 9 DEFAULT_HUB"
