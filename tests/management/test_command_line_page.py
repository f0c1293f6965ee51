"""docs/command-line.md: what it tells to type can be typed."""

from __future__ import annotations

import re
import shlex

import pytest

from hubs.management.commands.webpubsub import BRANCHES
from hubs.models import AccessKey, Hub
from tests.management.conftest import Run
from tests.running import ROOT

PAGE = (ROOT / "docs" / "command-line.md").read_text()
FENCED = re.findall(r"^ *```sh\n(.*?)```", PAGE, re.M | re.S)
# Those of `service` need a running one: tests/management/test_service.py types them.
LINES = [
    line.strip()
    for block in FENCED
    for line in block.splitlines()
    if line.strip().startswith("manage.py") and " service " not in line
]


def test_there_are_lines_to_try() -> None:
    assert len(LINES) >= 12


@pytest.mark.django_db
@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_page_works(run: Run, line: str) -> None:
    AccessKey.objects.ensure_pair()
    if "hub create" not in line:
        for name in ("chat", "news"):
            AccessKey.objects.ensure_pair(Hub.objects.create(name=name))
    assert run(*shlex.split(line)[1:]).out


def test_every_branch_has_its_part() -> None:
    for branch in BRANCHES:
        assert f"## `webpubsub {branch.__name__.rpartition('.')[2]}" in PAGE
