"""What a process appends is read by one of the version before, and the other way round, while both are on one Redis."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hubs.cluster.entries import Entry, decode, encode
from tests.cluster.test_entries import ENTRIES
from tests.faults import stages
from tests.faults.stages import NotThere

# Says which kinds of entries it knows, and of each entry that it is given what it is and how it would write it.
_OTHER = """
import sys
from typing import get_args
from hubs.cluster.entries import Entry, decode, encode
print(*(kind.__name__ for kind in get_args(Entry)), flush=True)
for line in sys.stdin:
    entry = decode(bytes.fromhex(line))
    print(type(entry).__name__, encode(entry).hex(), flush=True)
"""


class _Other:
    """Another version's code in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.kinds = set(self._line())

    def read_and_write(self, body: bytes) -> tuple[str, bytes]:
        """The kind of an entry, and the bytes that the other version writes for what it has read."""
        assert self._process.stdin is not None
        print(body.hex(), file=self._process.stdin, flush=True)
        kind, again = self._line()
        return kind, bytes.fromhex(again)

    def _line(self) -> list[str]:
        assert self._process.stdout is not None
        return self._process.stdout.readline().split()


@pytest.fixture(scope="module")
def other(before: Path) -> Iterator[_Other]:
    """The version before this one."""
    command = [sys.executable, "-c", _OTHER]
    with subprocess.Popen(
        command, cwd=before, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii"
    ) as process:
        yield _Other(process)


def _begins_with(whole: Any, beginning: Any) -> bool:
    """Whether one is the other, but for fields that were added at the end."""
    if isinstance(whole, list) and isinstance(beginning, list):
        return len(beginning) <= len(whole) and all(map(_begins_with, whole, beginning))
    return bool(whole == beginning)


@given(st.one_of(ENTRIES))
@settings(max_examples=200)
def test_both_versions_read_what_the_other_appends(other: _Other, entry: Entry) -> None:
    # What is new is passed over by those who do not know it.
    assume(type(entry).__name__ in other.kinds)
    body = encode(entry)
    kind, again = other.read_and_write(body)
    assert kind == type(entry).__name__
    assert _begins_with(msgspec.msgpack.decode(body), msgspec.msgpack.decode(again))
    assert type(decode(again)) is type(entry)


def test_a_revision_that_this_clone_does_not_have_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match=r"git fetch --unshallow"):
        stages.checkout(tmp_path / "other", "0" * 40)
    assert not (tmp_path / "other").exists()
