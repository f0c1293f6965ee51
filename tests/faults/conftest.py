"""The version before this one, for tests of two versions side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import lanes, stages


@pytest.fixture(scope="session")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of it."""
    try:
        return stages.checkout(tmp_path_factory.mktemp("before") / "checkout", lanes.BEFORE)
    except stages.NotThere as missing:
        pytest.skip(str(missing))
