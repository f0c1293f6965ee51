"""The module that is kept is the one that the schema makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCHEMA = "hubs/protocols/webpubsub.proto"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={out}", f"--pyi_out={out}", SCHEMA]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    return out


@pytest.mark.parametrize("name", ["webpubsub_pb2.py", "webpubsub_pb2.pyi"])
def test_the_generated_module_is_up_to_date(made: Path, name: str) -> None:
    kept = Path("hubs/protocols") / name
    assert (made / kept).read_text() == (ROOT / kept).read_text()
