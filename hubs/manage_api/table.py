"""The table of the management API: which method on which path calls which verb, and who may.

URL patterns and the OpenAPI document are made from it. To add an operation, add a row here and its
description in hubs/manage_api/description.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

from django.http import HttpResponse
from django.urls import URLPattern, re_path

from hubs.manage_api.views import HubKeys, Hubs, Management, RoleGrants, RoleGrantsOfHub, ServiceKeys


class Row(NamedTuple):
    """One operation. `needs` are permissions of the app `hubs`, one of which is enough; `ok` is its status."""

    method: str
    path: str
    view: type[Management]
    verb: str
    needs: tuple[str, ...]
    ok: HTTPStatus = HTTPStatus.OK


_NO_CONTENT, _CREATED = HTTPStatus.NO_CONTENT, HTTPStatus.CREATED

ROOT = "/manage/api"
_HUB = f"{ROOT}/hubs/{{hubName}}"
_GRANT = f"{ROOT}/roleGrants/{{roleGrantName}}"

# As in the admin: who may change something may look at it, and a key is shown to those who may change it.
_SEE_HUBS = ("view_hub", "change_hub")
_SEE_GRANTS = ("view_rolegrant", "change_rolegrant")
_KEYS = ("change_accesskey",)

ROWS = (
    Row("GET", f"{ROOT}/hubs", Hubs, "listing", _SEE_HUBS),
    Row("GET", _HUB, Hubs, "show", _SEE_HUBS),
    Row("PUT", _HUB, Hubs, "create_or_replace", ("add_hub", "change_hub")),
    Row("PATCH", _HUB, Hubs, "change", ("change_hub",)),
    Row("DELETE", _HUB, Hubs, "remove", ("delete_hub",), _NO_CONTENT),
    Row("POST", f"{_HUB}/listKeys", HubKeys, "show", _KEYS),
    Row("POST", f"{_HUB}/regenerateKey", HubKeys, "regenerate", _KEYS),
    Row("DELETE", f"{_HUB}/keys", HubKeys, "remove", ("delete_accesskey",), _NO_CONTENT),
    Row("GET", f"{_HUB}/roleGrants", RoleGrantsOfHub, "listing", _SEE_GRANTS),
    Row("POST", f"{ROOT}/listKeys", ServiceKeys, "show", _KEYS),
    Row("POST", f"{ROOT}/regenerateKey", ServiceKeys, "regenerate", _KEYS),
    Row("GET", f"{ROOT}/roleGrants", RoleGrants, "listing", _SEE_GRANTS),
    Row("POST", f"{ROOT}/roleGrants", RoleGrants, "create", ("add_rolegrant",), _CREATED),
    Row("GET", _GRANT, RoleGrants, "show", _SEE_GRANTS),
    Row("PUT", _GRANT, RoleGrants, "replace", ("change_rolegrant",)),
    Row("PATCH", _GRANT, RoleGrants, "change", ("change_rolegrant",)),
    Row("DELETE", _GRANT, RoleGrants, "remove", ("delete_rolegrant",), _NO_CONTENT),
)

# Python's names of what stands in the braces.
_ARGUMENTS = {"hubName": "hub_name", "roleGrantName": "grant_name"}


def url_patterns() -> list[URLPattern]:
    """One pattern for each path, with the views of its methods. A slash at the end does not count."""
    by_path: dict[str, dict[str, Row]] = {}
    for row in ROWS:
        by_path.setdefault(row.path, {})[row.method] = row
    return [re_path(_expression(path), _view(rows)) for path, rows in by_path.items()]


def _expression(path: str) -> str:
    parts = re.split(r"\{(\w+)\}", path.removeprefix("/"))
    named = [f"(?P<{_ARGUMENTS[part]}>[^/]+)" if at % 2 else re.escape(part) for at, part in enumerate(parts)]
    return rf"^{''.join(named)}/?\Z"


def _view(rows: dict[str, Row]) -> Callable[..., HttpResponse]:
    (view,) = {row.view for row in rows.values()}
    actions: Any = {method.lower(): row.verb for method, row in rows.items()}
    return view.as_view(actions, rows=rows)
