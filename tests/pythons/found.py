"""Which other Pythons this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Those that Hubwire says it runs on.
SUPPORTED = [f"3.{minor}" for minor in range(11, 15)]
OURS = f"3.{sys.version_info.minor}"

# What a shim of pyenv's for a version that is not selected cannot do, nor a Python that was built without a library.
_WORKS = "import ensurepip, sqlite3, ssl, sys; print('%d.%d' % sys.version_info[:2])"


@cache
def others() -> dict[str, Path]:
    """An executable that works for each supported version that can be found, but for the one this is."""
    found = {}
    for version in SUPPORTED:
        if version != OURS and (works := next(filter(lambda path: _is(path, version), _candidates(version)), None)):
            found[version] = works
    return found


def report() -> str:
    """Say in a line which were found."""
    missing = [version for version in SUPPORTED if version != OURS and version not in others()]
    tried = ", ".join([f"{OURS} (all tests)", *others()])
    return f"Pythons: {tried}" + (f"; not on this machine: {', '.join(missing)}" if missing else "")


def _candidates(version: str) -> Iterator[Path]:
    for root in filter(None, (os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv")):
        # The newest patch release first.
        folders = Path(root).glob(f"versions/{version}.*")
        for folder in sorted(folders, key=lambda path: [int(part) for part in path.name.split(".") if part.isdigit()])[
            ::-1
        ]:
            yield folder / f"bin/python{version}"
    for folder in os.get_exec_path():
        if executable := shutil.which(f"python{version}", path=folder):
            yield Path(executable)


def _is(path: Path, version: str) -> bool:
    try:
        done = subprocess.run([path, "-c", _WORKS], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == version
