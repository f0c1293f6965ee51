"""docs/openapi/data-plane.json: it is valid and up to date, and refuses what the data plane refuses.

That it promises what the data plane really answers is seen in test_matrix.py.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from openapi_spec_validator import validate

from hubs.rest import description
from hubs.rest.openapi import Undescribed, described, text
from hubs.rest.table import ROWS
from hubs.rest.versions import SUPPORTED
from tests.running import ROOT

from .test_matrix import CONTRACT, HUB_ROWS, cases, described_path

DOCUMENT = CONTRACT.document


def test_it_is_a_valid_document() -> None:
    validate(DOCUMENT)


def test_the_document_in_the_tree_is_this_one() -> None:
    kept = (ROOT / "docs/openapi/data-plane.json").read_text()
    assert kept == text(DOCUMENT), "The data plane changed. Write its document anew: manage.py openapi"


def test_every_row_is_described_and_nothing_else_is() -> None:
    assert {f"{row.method} {row.path}" for row in ROWS} == set(description.OPERATIONS)


def test_a_row_without_description_is_an_error() -> None:
    with pytest.raises(Undescribed, match=r"Describe POST /api/new in hubs/rest/description\.py"):
        described(ROWS[0]._replace(method="POST", path="/api/new"))


def test_every_operation_of_azures_description_is_there() -> None:
    ids = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids)) == len(ROWS) + len(description.HEALTH_CHECKS)
    # 24 below the hubs, and health by HEAD; by GET it is ours.
    assert sum(name.startswith("WebPubSub_") for name in ids) == 24


def parameters(row: Any) -> dict[str, Any]:
    written = CONTRACT.operation(row.method, described_path(row))["parameters"]
    return {parameter["name"]: parameter for parameter in map(CONTRACT.resolved, written)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
def test_parameters_come_from_the_row(row: Any) -> None:
    written = parameters(row)
    assert set(row.options) <= set(written)
    assert written["api-version"]["schema"]["enum"] == list(SUPPORTED)
    in_path = {name for name, parameter in written.items() if parameter["in"] == "path"}
    assert len(in_path) == row.path.count("{")
    assert all(written[name]["required"] for name in in_path)


def test_every_schema_says_what_it_allows() -> None:
    """No object without a word on further members, no text parameter without a type."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert schema["additionalProperties"] is False, name
        assert schema["required"], name
    for parameter in DOCUMENT["components"]["parameters"].values():
        assert parameter["schema"]["type"] in ("string", "integer", "array"), parameter["name"]
        assert parameter["description"].endswith(".")


# What a query says has to be refused by the document where the service refuses it.
_REFUSED_VALUES = [
    (asked.row, name, value)
    for row in HUB_ROWS
    for _, asked, expected in cases(row)
    for name, value in asked.query
    if expected.target == name and [key for key, _ in asked.query].count(name) == 1
]
# Only a parser can tell, and only the service knows its own tokens.
_HINTS = ("odata-filter", "continuation-token")


@pytest.mark.parametrize(("row", "name", "value"), _REFUSED_VALUES)
def test_values_that_are_refused_are_refused_by_the_document(row: Any, name: str, value: str) -> None:
    schema = parameters(row)[name]["schema"]
    if schema.get("format") in _HINTS and schema["type"] == "string" and CONTRACT.validator(schema).is_valid(value):
        return
    read: Any = value
    if schema["type"] == "integer":
        try:
            read = json.loads(value)
        except ValueError:
            read = value
    assert not CONTRACT.validator(schema).is_valid(read)
