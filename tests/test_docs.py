"""What the documents promise is held against the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from hubs import conf
from tests.running import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@cache
def _tests_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _section_homes(text: str) -> list[tuple[str, str]]:
    """Each `test_…` or `file::test_…` in code quotes, with the file its section names for bare ones."""
    found: list[tuple[str, str]] = []
    home = ""
    for line in text.splitlines():
        stated = re.match(r"Tests without a file name are in `([^`]+)`", line)
        home = stated.group(1) if stated else home
        for file, name in re.findall(r"`(?:([\w/]+\.py)::)?(test_\w+)`", line):
            found.append((file or home, name))
    return found


def test_every_test_named_in_the_compatibility_page_exists() -> None:
    references = _section_homes((ROOT / "docs/compatibility.md").read_text())
    assert len(references) > 70
    missing = [f"{file}::{name}" for file, name in references if name not in _tests_in(ROOT / file)]
    assert not missing


@pytest.mark.parametrize("checklist", ["client_protocol", "access_tokens"])
def test_every_checklist_test_is_named_in_the_compatibility_page(checklist: str) -> None:
    named = {name for _, name in _section_homes((ROOT / "docs/compatibility.md").read_text())}
    written = {name for name in _tests_in(ROOT / f"tests/service/test_{checklist}.py") if "_line_" in name}
    assert written <= named


@cache
def _anchors_in(path: Path) -> frozenset[str]:
    """The anchors of a page's headings, as forges make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        page = document.parent / name if name else document
        assert page.exists(), target
        assert not anchor or anchor in _anchors_in(page), target


def test_every_setting_is_described() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    in_settings = set(
        re.findall(r'(?:env\.\w+|_number|_switch)\(\s*"([A-Z_]+)"', (ROOT / "pubsub_site/settings.py").read_text())
    )
    assert in_settings, "no variable found: has settings.py changed its way of reading them?"
    assert [name for name in sorted(in_settings | set(conf.OPTIONS)) if f"`{name}`" not in text] == []


def test_every_pinned_library_has_its_reason() -> None:
    reasons = (ROOT / "docs/decisions/libraries.md").read_text().lower()
    pinned = re.findall(r"^([\w-]+)(?:\[\w+\])?==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert [name for name in pinned if name.lower() not in reasons] == []


def test_the_constraints_agree_with_the_requirements() -> None:
    def pins(name: str) -> dict[str, str]:
        found = re.findall(r"^([\w.-]+)(?:\[[\w-]+\])?==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
        return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}

    constraints = pins("constraints.txt")
    asked = pins("requirements.txt") | pins("requirements-dev.txt")
    assert {name: constraints.get(name) for name in asked} == asked


def test_the_readme_has_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "make run" in readme
    assert "make test" in readme


def test_every_room_says_what_it_is_for() -> None:
    rooms = [path for path in (ROOT / "hubs").rglob("__init__.py") if "migrations" not in path.parts]
    silent = [str(path) for path in rooms if len((ast.get_docstring(ast.parse(path.read_text())) or "").split()) < 25]
    assert silent == []
