"""The OpenAPI document of the management API, written from its table and descriptions."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from hubs.manage_api import description
from hubs.manage_api.description import Described
from hubs.manage_api.table import ROWS, Row
from hubs.rest.description import Answer, refusal
from hubs.rest.openapi import Document, Undescribed


def management() -> dict[str, Any]:
    """The OpenAPI document of the management API."""
    document = Document(description.INFO, security=description.SECURITY)
    for row in ROWS:
        described = _described(row)
        operation = described.operation
        permissions = " or ".join(f"`hubs.{permission}`" for permission in row.needs)
        operation = operation._replace(details=f"{operation.details} Needs the permission {permissions}.".strip())
        in_path = [description.IN_PATH[name] for name in re.findall(r"\{(\w+)\}", row.path)]
        document.add(row.method, row.path, operation, [*in_path, *operation.parameters], _answers(row, described))
    return document.as_dict()


def _described(row: Row) -> Described:
    try:
        return description.OPERATIONS[f"{row.method} {row.path}"]
    except KeyError:
        raise Undescribed(f"Describe {row.method} {row.path} in hubs/manage_api/description.py.") from None


def _answers(row: Row, described: Described) -> dict[HTTPStatus, Answer]:
    operation = described.operation
    statuses = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS}
    if operation.body is not None:
        statuses |= {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE}
    # Whatever can be written wrongly: a body, a parameter, a name.
    if operation.body is not None or operation.parameters or "{" in row.path:
        statuses.add(HTTPStatus.BAD_REQUEST)
    refused = {status: refusal(status) for status in statuses}
    refused[HTTPStatus.SERVICE_UNAVAILABLE] = refusal(HTTPStatus.SERVICE_UNAVAILABLE, "The database is unavailable")
    refused |= {status: refusal(status, words) for status, words in described.refuses.items()}
    return {row.ok: operation.answer, **described.also, **refused}
