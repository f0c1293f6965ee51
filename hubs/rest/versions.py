"""The `api-version` parameter.

The service behaves the same in all versions; a version only says which operations and parameters
a caller knows. Naming none means the newest.
"""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.versioning import BaseVersioning

from hubs.rest.exceptions import BadRequest
from hubs.rest.parameters import Parameters

PARAMETER = "api-version"
SUPPORTED = ("2021-10-01", "2022-11-01", "2023-07-01", "2024-01-01", "2024-12-01")
NEWEST = SUPPORTED[-1]
SUPPORTED_HEADER = ("api-supported-versions", ", ".join(SUPPORTED))


def named(parameters: Parameters) -> str:
    """Give the version a request names. Raises BadRequest."""
    version = parameters.one(PARAMETER)
    if not version:
        return NEWEST
    if version not in SUPPORTED:
        raise BadRequest(
            f"This {PARAMETER} is not supported. Use one of {SUPPORTED_HEADER[1]}, or leave it out.",
            target=PARAMETER,
        )
    return version


class ApiVersion(BaseVersioning):
    """Reads the version before anything else of a request is looked at."""

    def determine_version(self, request: Request, *args: Any, **kwargs: Any) -> str:
        """Give the version a request names. Raises BadRequest."""
        return named(Parameters(request.query_params))
