"""A user whose Python is another one: what `make run` gives, a first message, REST, and the fast tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pythons.found import others
from tests.running import PATIENCE, ROOT, Service

# Beside what the service runs on; in the versions of constraints.txt.
NEEDED = [
    *("azure-messaging-webpubsubservice", "pytest", "pytest-asyncio", "pytest-django", "pytest-timeout", "hypothesis")
]

# What a version of Python can break, at least cost: syntax, typing, asyncio, C extensions, deprecations (errors here).
FAST = [
    *("tests/rules/test_tokens.py", "tests/rules/test_names.py", "tests/protocols/test_json.py"),
    *(
        "tests/protocols/test_framing.py",
        "tests/connections/test_frame_queue.py",
        "tests/test_conf.py",
        "tests/test_checks.py",
    ),
]
# Without the tests that make up hundreds of examples: those try our code more than Python.
QUICK = "not test_any and not test_what_one_client and not test_damaged"
PLUGINS = "--strict-markers --disable-plugin-autoload -p asyncio -p django -p timeout -p hypothesispytest"

BY_REST = """
with connect(url, subprotocols=["json.webpubsub.azure.v1"]) as ws:
    ws.recv()
    service.send_to_all("By REST", content_type="text/plain")
    print(ws.recv())
"""


def run(*command: str | Path, **environment: str) -> str:
    """Run a program that has to succeed, without what pytest has set for this process; gives what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | environment
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE * 15)
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done.stdout


def install(version: str, folder: Path) -> Path:
    """Make an environment as `make install` does, by uv because that links from its cache; gives its Python."""
    uv, python = Path(sys.executable).with_name("uv"), folder / "bin/python"
    run(uv, "venv", "--quiet", "--no-config", "--python", others()[version], folder)
    given = ["-r", "requirements.txt", "-c", "constraints.txt", *NEEDED]
    run(uv, "pip", "install", "--quiet", "--no-config", "--python", python, *given)
    return python


if others():

    @pytest.fixture(scope="module", params=others())
    def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        """The Python of an environment that the service is installed in."""
        return install(request.param, tmp_path_factory.mktemp("python") / request.param)

    @pytest.mark.timeout(300)
    def test_the_service_and_the_sdk(python: Path, tmp_path: Path) -> None:
        service = Service(tmp_path, serve=["--set-up"], python=str(python)).start()
        try:
            banner = service.log.read_text()
            program = re.search(r"^import json\n.*(?=\nServing )", banner, re.DOTALL | re.MULTILINE)
            assert program is not None, banner
            said = run(python, "-c", program[0] + BY_REST, **service.env).splitlines()
        finally:
            service.stop()
        assert ["It works!" in line for line in said] == [False, False, True, False, False]
        assert "By REST" in said[-1]
        log = service.log.read_text()
        assert "Warning" not in log
        assert "Traceback" not in log

    @pytest.mark.timeout(300)
    def test_the_fast_tests(python: Path, tmp_path: Path) -> None:
        said = run(
            *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", f"addopts={PLUGINS}", "-k", QUICK, *FAST),
            DATA_DIR=str(tmp_path),
        )
        count = re.search(r"^(\d+) passed", said, re.MULTILINE)
        assert count is not None
        assert int(count[1]) > 300
