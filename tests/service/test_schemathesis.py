"""Requests made up from our own OpenAPI description: none is answered with a fault, every answer is as described.

Schemathesis makes up most of them when its tests are collected, which takes seconds, and would be done by each process
of a test run. So described.py is collected by the pytest that is started here alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.running import PATIENCE, ROOT
from tests.service.client import Target


@pytest.mark.timeout(300)
@pytest.mark.parametrize("live_service", ["uvicorn"], indirect=True)
def test_whatever_is_asked_is_answered_as_described(target: Target) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "schemathesis",
            "-p",
            "no:cacheprovider",
            "tests/service/described.py",
        ],
        cwd=ROOT,
        env=env | {"TARGET_CONNECTION_STRING": target.connection_string},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 14,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    paths = json.loads((ROOT / "docs/openapi/data-plane.json").read_text())["paths"]
    assert f"{sum(map(len, paths.values()))} passed" in done.stdout
