"""The flame graph needs a profiler, and says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import flame
from bench.machine import CannotStart
from bench.servers import Wrong


def test_without_the_profiler_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotStart, match=r"requirements-dev\.txt"):
        flame._profiler()


def test_the_profiler_beside_python_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "py-spy").touch()
    assert flame._profiler() == str(tmp_path / "py-spy")


def test_the_picture_has_a_title_of_its_own() -> None:
    picture = '<svg><text id="title" x="50%">py-spy record --pid 7</text><text id="details">&nbsp;</text></svg>'
    titled = flame.entitle(picture, "a & b")
    assert titled == picture.replace("py-spy record --pid 7", "a &amp; b")
    with pytest.raises(Wrong):
        flame.entitle("<svg></svg>", "a")
