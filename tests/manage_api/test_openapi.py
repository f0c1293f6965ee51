"""docs/openapi/management.json, and the command that writes both documents. The answers are checked in test_matrix."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from openapi_spec_validator import validate

from hubs.manage_api.openapi import _described, management
from hubs.manage_api.table import ROWS
from hubs.rest.openapi import Undescribed, text
from tests.running import ROOT

DOCUMENT = management()


def test_it_is_a_valid_document() -> None:
    validate(DOCUMENT)


def test_the_document_in_the_tree_is_this_one() -> None:
    kept = (ROOT / "docs/openapi/management.json").read_text()
    assert kept == text(DOCUMENT), "The management API changed. Write its document anew: manage.py openapi"


def test_a_row_without_description_is_an_error() -> None:
    with pytest.raises(Undescribed, match=r"hubs/manage_api/description\.py"):
        _described(ROWS[0]._replace(path="/manage/api/new"))


def test_objects_take_only_what_they_name() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert schema["additionalProperties"] is False, name


def test_every_operation_names_its_permissions() -> None:
    for row in ROWS:
        written = DOCUMENT["paths"][row.path][row.method.lower()]
        assert all(f"`hubs.{permission}`" in written["description"] for permission in row.needs)


def test_the_command_writes_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("openapi", str(tmp_path))
    names = {"data-plane.json", "management.json"}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert all((tmp_path / name).read_text() == (ROOT / "docs/openapi" / name).read_text() for name in names)
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in sorted(names)]


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is not a directory"):
        call_command("openapi", str(tmp_path / "nowhere"))
    (tmp_path / "data-plane.json").mkdir()
    with pytest.raises(CommandError, match="cannot be written"):
        call_command("openapi", str(tmp_path))
