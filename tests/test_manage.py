"""A configuration that cannot work is refused in a sentence that says what to write."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from django.db import OperationalError

from hubs.management.cli.errors import about_database
from hubs.servers import listening
from tests.running import PATIENCE, ROOT, Redis, Service, free_port


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("PORT", "abc", "PORT=abc is not a number"),
        ("PORT", "0", "PORT=0 is not a port. Write a number from 1 to 65535"),
        ("PORT", "99999", "PORT=99999 is not a port. Write a number from 1 to 65535"),
        ("KEEP_ALIVE_SECS", "soon", "KEEP_ALIVE_SECS=soon is not a number"),
        ("DEBUG", "perhaps", "DEBUG=perhaps is neither true nor false"),
        ("DATABASE_URL", "foo", "postgres://user:password@host:5432/name"),
        ("DATABASE_URL", "oops://user:secret@host/name", "postgres://user:password@host:5432/name"),
        ("DATABASE_URL", "mysql://user:secret@host/name", "postgres://user:password@host:5432/name"),
        ("DATABASE_URL", "postgres://user:secr/et@host/name", "%2F for a / in the password"),
        ("DATABASE_URL", "sqlite://:memory:", "sqlite:////path/to/file"),
        ("DATA_DIR", __file__, f"DATA_DIR={__file__} cannot be made (File exists"),
        ("DATA_DIR", f"{__file__}/data", "Set DATA_DIR to a directory that this account may write to"),
        ("REDIS_URL", "localhost:6379", "redis://host:6379/0"),
        ("REDIS_URL", "redis://:secr/et@host", "redis://host:6379/0"),
        ("EXTRA_APPS", "not.there", "EXTRA_APPS names not.there, but Python cannot find not."),
        ("LOG_LEVEL", "loud", "LOG_LEVEL=LOUD is not a level. Write DEBUG, INFO, WARNING or ERROR."),
        ("PUBLIC_ENDPOINT", "http://[broken", "http(s)://host[:port][/prefix]"),
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


@pytest.fixture(scope="module")
def occupied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service, not set up, at whose port something else listens already, and at the one above it, too."""
    while True:
        service = Service(tmp_path_factory.mktemp("occupied"))
        with closing(socket.socket()) as first, closing(socket.socket()) as second, suppress(OSError):
            for number, other in enumerate((first, second)):
                other.bind(("127.0.0.1", service.port + number))
                other.listen()
            yield service
            return


def _said_of(occupied: Service) -> str:
    return (
        f"Error: Port {occupied.port} is in use by another program. "
        f"Stop it, or choose another port: PORT={occupied.port + 2}"
    )


def test_a_port_in_use_is_said_first(occupied: Service) -> None:
    """Before a database is made and a key is shown; and a port is proposed that nothing listens at."""
    done = occupied.manage("serve", "--set-up", check=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", _said_of(occupied))


def test_make_run_says_it_too(occupied: Service) -> None:
    done = subprocess.run(
        # The environment that this test runs in; pip is not asked whether anything is missing in it.
        ["make", "-s", "-o", f"{sys.prefix}/.installed", f"VENV={sys.prefix}", "run"],
        cwd=ROOT,
        env=occupied.env,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
    )
    version = platform.python_version()
    assert done.stdout == f"Running on Python {version}, which is in {sys.prefix}.\n"
    first, *of_make = done.stderr.splitlines()
    assert first == _said_of(occupied)
    assert len(of_make) == 1
    # With its depth, where make runs the tests.
    assert re.match(r"make(\[\d+\])?: \*\*\*", of_make[0])
    assert done.returncode != 0


def test_one_command_sets_up_and_serves(tmp_path: Path) -> None:
    service = Service(tmp_path, serve=["--set-up"]).start()
    try:
        assert json.load(urllib.request.urlopen(f"{service.endpoint}/api/negotiate/chat", timeout=PATIENCE))["url"]
    finally:
        service.stop()
    banner, told, serving = service.log.read_text().partition("\nServing ")
    assert banner.startswith("Hubwire is set up.\n")
    assert "\nEndpoint=http://localhost:" in banner
    assert told
    assert serving.startswith(f"{service.endpoint} on ")


@pytest.mark.parametrize(
    ("host", "advice"),
    [
        ("no-such-host.invalid", "Set HOST to a name or address of this machine."),
        ("192.0.2.1", "this machine does not have that address. Use one of its own, localhost, or 0.0.0.0 for all."),
    ],
)
def test_a_host_that_is_not_this_machine(host: str, advice: str) -> None:
    with pytest.raises(listening.CannotListen, match=re.escape(advice)):
        listening.bind(host, free_port())


def test_a_port_of_workers_in_use_is_said(tmp_path: Path, redis_server: Redis) -> None:
    """Their sockets share a port with each other; with another program's that shares its own, too, they do not."""
    service = Service(tmp_path, env={"WORKERS": "2", "REDIS_URL": redis_server.url}).set_up()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", service.port))
        other.listen()
        done = service.manage("serve", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: Port {service.port} is in use by another program.")


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
    done = Service(tmp_path, env={"WORKERS": workers}).manage("serve", check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == f"Error: {advice}"


def test_workers_are_an_option_too(tmp_path: Path) -> None:
    done = Service(tmp_path, env={"WORKERS": "1"}).manage("serve", "--workers", "129", check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "Error: WORKERS=129 is not possible; use 1 to 128."


def test_an_unmigrated_database_is_said(tmp_path: Path) -> None:
    done = Service(tmp_path).manage("serve", check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "Error: The database is not up to date. Run: python manage.py migrate"


@pytest.mark.parametrize(
    "command",
    [
        "migrate",
        "bootstrap",
        "createsuperuser --username a --email a@b.c",
        "serve",
        "webpubsub client url --hub-name chat",
        "webpubsub service broadcast --hub-name chat --payload x",
    ],
)
def test_a_database_that_is_away_is_said(tmp_path: Path, command: str) -> None:
    service = Service(tmp_path, env={"DATABASE_URL": "postgres://u:secret@127.0.0.1:1/n"})
    done = service.manage(*command.split(), check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: The database cannot be used: connection failed: ")
    assert line.endswith("Connection refused. Start it if it is down, else check DATABASE_URL.")
    assert "secret" not in line


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite3").write_text("Dear diary,\n" * 100)
    done = Service(tmp_path).manage("serve", "--set-up", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"Error: The database {tmp_path}/db.sqlite3 cannot be used: file is not a database. Move ")


def test_a_database_that_can_only_be_read_is_said(tmp_path: Path) -> None:
    service = Service(tmp_path).set_up()
    file = tmp_path / "db.sqlite3"
    file.chmod(0o400)
    # Root may write to any file, unless it gives that up.
    wrap = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [*wrap, sys.executable, "manage.py", "serve"]
    done = subprocess.run(command, cwd=ROOT, env=service.env, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"Error: The database {file} cannot be used: attempt to write a readonly database. ")


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("unable to open database file", "Its directory has to exist"),
        ("attempt to write a readonly database", "This account has to be able to write to it"),
        ("database is locked", "Another program keeps it locked"),
        ("database disk image is malformed", "Put a backup in the place of"),
        ("database or disk is full", "Make room on that disk"),
        ("disk I/O error", "Check the disk"),
    ],
)
def test_what_sqlite_says_is_followed_by_what_to_do(said: str, advice: str) -> None:
    told = about_database(OperationalError(said))
    assert f" cannot be used: {said}. {advice}" in told
    assert "{" not in told


@pytest.mark.parametrize("url", ["redis://:secret@127.0.0.1:1/0", "redis://:secret@no-such-host.invalid/0"])
def test_a_redis_that_is_away_is_said(tmp_path: Path, url: str) -> None:
    done = Service(tmp_path, env={"REDIS_URL": url}).set_up().manage("serve", check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: Redis cannot be used: ")
    assert line.endswith(". Start it if it is down, else check REDIS_URL.")
    assert "secret" not in line


def test_what_a_redis_lacks_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    redis = Redis(tmp_path / "redis", "--maxmemory-policy", "allkeys-lru")
    service = Service(tmp_path, env={"REDIS_URL": redis.url})
    try:
        redis.start()
        service.set_up().start()
        assert service.log.read_text().count("Warning: Redis' maxmemory-policy is allkeys-lru") == 1
    finally:
        service.stop()
        redis.stop()


def test_a_dotenv_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    """Tried on a copy of the project, as the file stands beside manage.py."""
    import shutil

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
