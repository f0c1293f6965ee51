"""Running a command in this process, as `manage.py` would."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from django.core.management import call_command

from hubs import hub_settings


class Done(NamedTuple):
    """What a command printed."""

    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def run() -> Iterator[Run]:
    """Run a command; give what it printed."""

    def run(*words: str) -> Done:
        # Each command line is a process of its own, which starts with nothing remembered.
        hub_settings.drop()
        out, err = io.StringIO(), io.StringIO()
        call_command(*words, stdout=out, stderr=err)
        return Done(out.getvalue(), err.getvalue())

    yield run
    hub_settings.drop()


@pytest.fixture
def webpubsub(run: Run) -> Run:
    """Run `webpubsub …`."""
    return lambda *words: run("webpubsub", *words)
