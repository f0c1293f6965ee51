"""Requests made up from our own OpenAPI description: none is answered with a fault, every answer is as described."""

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

from tests.running import PATIENCE, ROOT, Service

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

# Longer ones no HTTP parser takes.
MAX_ADDRESS = 60_000

description = schemathesis.openapi.from_path(ROOT / "docs/openapi/data-plane.json")


class Signing(requests.auth.AuthBase):
    """Signs a token for the URL that is going to be called."""

    def __init__(self, connection_string: str) -> None:
        parts = dict(part.split("=", 1) for part in connection_string.split(";") if part)
        self._key = parts["AccessKey"]

    def __call__(self, request: Any) -> Any:
        claims = {"aud": request.url, "exp": int(time.time()) + 60}
        request.headers["Authorization"] = f"Bearer {jwt.encode(claims, self._key, 'HS256')}"
        return request


@pytest.fixture(scope="module")
def signing(service: Service) -> Signing:
    return Signing(service.connection_string)


@description.parametrize()
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)
def test_whatever_is_asked_is_answered_as_described(case: Case, service: Service, signing: Signing) -> None:
    response = case.call(base_url=service.endpoint, auth=signing, timeout=PATIENCE)
    if len(response.request.path_url) > MAX_ADDRESS:
        # Refused by the server, before it comes to what the description is about.
        assert response.status_code in (400, 414)
        return
    case.validate_response(response, checks=CHECKS)
