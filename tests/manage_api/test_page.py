"""docs/management-api.md: its examples are run in their order, and answer what the page says."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command

from hubs.manage_api.table import ROOT as PREFIX
from hubs.manage_api.table import ROWS
from hubs.models import AccessKey
from tests.running import ROOT

from .conftest import ENDPOINT, Caller

pytestmark = pytest.mark.django_db

PAGE = (ROOT / "docs/management-api.md").read_text()
BLOCKS = re.findall(r"^```(sh|json)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]


class Shell:
    """What of a shell and of curl the page uses."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.variables: dict[str, str] = {}

    def run(self, line: str) -> Any:
        assigned = re.fullmatch(r"([A-Z]+)=(.*)", line)
        if assigned:
            self.variables[assigned[1]] = shlex.split(assigned[2])[0]
            return None
        words = shlex.split(re.sub(r"\$([A-Z]+)", lambda found: self.variables[found[1]], line))
        if words[0] == "manage.py":
            call_command(*words[1:])
            return None
        assert words[0] == "curl"
        method, headers, body, url = "GET", {}, None, ""
        rest = iter(words[1:])
        for word in rest:
            match word:
                case "-X":
                    method = next(rest)
                case "-H":
                    name, _, value = next(rest).partition(": ")
                    headers[name] = value
                case "--json":
                    body = next(rest).encode()
                case _:
                    url = word
        return self.caller(method, url.removeprefix(self.variables["HUBWIRE"]), body, headers=headers)


def like(shown: Any, expected: Any) -> bool:
    """Compare, with … standing for any text."""
    if isinstance(expected, dict):
        return list(shown) == list(expected) and all(like(shown[name], value) for name, value in expected.items())
    if isinstance(expected, str):
        pattern = ".+".join(re.escape(part) for part in expected.split("…"))
        return isinstance(shown, str) and re.fullmatch(pattern, shown) is not None
    return bool(shown == expected)


def test_the_examples_work_and_answer_as_the_page_says(capsys: Any) -> None:
    User.objects.create_superuser("admin")
    AccessKey.objects.ensure_pair()
    shell = Shell(Caller(None))
    answered = compared = 0
    response: Any = None
    for kind, block in BLOCKS:
        if kind == "json":
            assert like(response.json(), json.loads(block)), response.content.decode()
            compared += 1
            continue
        for line in block.splitlines():
            response = shell.run(line)
            if line.startswith("AUTH="):
                # The page has a made-up token; this is the one that its first command made and printed.
                made = re.search(r"[0-9a-f]{40}", capsys.readouterr().out)
                assert made is not None
                shell.variables["AUTH"] = f"Authorization: Token {made[0]}"
            if response is not None:
                expected = (400,) if '"yes"' in line else (200, 201, 204)
                assert response.status_code in expected, line
                answered += 1
    assert shell.variables["HUBWIRE"] == ENDPOINT
    assert (answered, compared) == (12, 6)


def test_every_path_is_on_the_page() -> None:
    paths = {row.path.removeprefix(f"{PREFIX}/") for row in ROWS}
    named = {path.replace("{hubName}", "{name}").replace("{roleGrantName}", "{name}") for path in paths}
    assert [path for path in sorted(named) if f"{path}`" not in PAGE] == []


def test_every_permission_is_on_the_page() -> None:
    for row in ROWS:
        for permission in row.needs:
            act, _, model = permission.partition("_")
            assert permission in PAGE or (f"`{act}_`" in PAGE and model in PAGE), permission
