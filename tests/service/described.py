"""What test_schemathesis.py has a pytest of its own run, on the service that TARGET_CONNECTION_STRING names."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.running import PATIENCE, ROOT
from tests.service.client import Target

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

# Longer ones no HTTP parser takes.
MAX_ADDRESS = 60_000

description = schemathesis.openapi.from_path(ROOT / "docs/openapi/data-plane.json")


class Signing(requests.auth.AuthBase):
    """Signs a token for the URL that is going to be called."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: Any) -> Any:
        claims = {"aud": request.url, "exp": int(time.time()) + 60}
        request.headers["Authorization"] = f"Bearer {jwt.encode(claims, self._key, 'HS256')}"
        return request


@pytest.fixture(scope="module")
def signing(target: Target) -> Signing:
    return Signing(target.key)


@description.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)
def test_an_operation(case: Case, target: Target, signing: Signing) -> None:
    response = case.call(base_url=target.endpoint, auth=signing, timeout=PATIENCE)
    if len(response.request.path_url) > MAX_ADDRESS:
        # Refused by the server, before it comes to what the description is about.
        assert response.status_code in (400, 431)
        return
    case.validate_response(response, checks=CHECKS)
