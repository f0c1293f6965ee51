"""Bad news as HTTP: one place that turns every error into a status, a flat JSON body and headers.

    APIException (DRF)
    └── Problem            carries code and target
        ├── BadRequest         400  Error.BadRequest
        │   └── BadFilter           a document of its own, see below
        ├── NotAllowed         403  Error.Forbidden
        ├── NotExisted         404  the code of the operation's row
        ├── TooLarge           413  Error.RequestEntityTooLarge
        ├── Unsupported        415  Error.UnsupportedMediaType
        └── Unavailable        503  Error.ServiceUnavailable

Views raise these, DRF's own (401, 405, 429 …) or let a Refusal of `hubs.errors` pass; `answer` answers
all of them alike, whether a view met them or the fast path (hubs/rest/fast_path.py). SDKs take the code from the
`x-ms-error-code` header or from the body.

A filter that is refused is the one thing the cloud service answers from another layer: as the problem document of
RFC 9457 that ASP.NET writes for invalid input, without the header of supported versions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.core.signals import got_request_exception
from django.db import DatabaseError
from django.http import Http404, HttpResponse
from rest_framework import exceptions as drf
from rest_framework.views import set_rollback

from hubs import callers, database, errors

logger = logging.getLogger(__name__)


class Problem(drf.APIException):
    """A request this service says no to; `target` names the part of it that is at fault."""

    code = "Error.BadRequest"
    target: str | None = "Request"

    def __init__(self, message: str, *, target: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        if target is not None:
            self.target = target
        if code is not None:
            self.code = code


class BadRequest(Problem):
    """The request cannot be understood, or asks for what cannot be."""

    status_code = HTTPStatus.BAD_REQUEST


class BadFilter(BadRequest):
    """A filter that cannot be used. `target` is what the parameter is called; `advice` says what to write instead."""

    def __init__(self, message: str, advice: str, *, target: str) -> None:
        super().__init__(message, target=target)
        self.advice = advice


class NotAllowed(Problem):
    """The caller is known (or needs not be) and may not have this."""

    status_code = HTTPStatus.FORBIDDEN
    code = "Error.Forbidden"


class NotExisted(Problem):
    """What the request names is not there."""

    status_code = HTTPStatus.NOT_FOUND
    code = "Error.NotFound"


class TooLarge(Problem):
    """The body is larger than this service takes."""

    status_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "Error.RequestEntityTooLarge"
    target = "body"


class Unsupported(Problem):
    """The body is of a type or encoding that this operation does not read."""

    status_code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "Error.UnsupportedMediaType"
    target = "Content-Type"


class Unavailable(Problem):
    """The service cannot do its work at the moment, through no fault of the caller."""

    status_code = HTTPStatus.SERVICE_UNAVAILABLE
    code = "Error.ServiceUnavailable"
    target = None


PROBLEM_DOCUMENT = "application/problem+json"

# Codes of answers that come from elsewhere than `Problem`.
CODES: Mapping[int, str] = {
    HTTPStatus.BAD_REQUEST: "Error.BadRequest",
    HTTPStatus.UNAUTHORIZED: "Error.Unauthorized",
    HTTPStatus.FORBIDDEN: "Error.Forbidden",
    HTTPStatus.NOT_FOUND: "Error.NotFound",
    HTTPStatus.METHOD_NOT_ALLOWED: "Error.MethodNotAllowed",
    HTTPStatus.CONFLICT: "Error.Connection.Conflict",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Error.RequestEntityTooLarge",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "Error.UnsupportedMediaType",
    HTTPStatus.TOO_MANY_REQUESTS: "Error.TooManyRequests",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Error.InternalServerError",
    HTTPStatus.SERVICE_UNAVAILABLE: "Error.ServiceUnavailable",
}


def error(
    status: int,
    message: str,
    *,
    code: str | None = None,
    target: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> HttpResponse:
    """Write an error as this API writes them all."""
    code = code or CODES.get(status, "Error.BadRequest")
    body = {"code": code, "message": message, "target": target, "details": None, "innererror": None}
    return _response(status, code, body, "application/json", headers)


def _bad_filter(problem: BadFilter) -> HttpResponse:
    message = str(problem.detail)
    body = {
        "code": problem.code,
        "message": message,
        "target": problem.target,
        "errors": {problem.target: [message]},
        "type": None,
        "title": "One or more validation errors occurred.",
        "status": problem.status_code,
        "detail": problem.advice,
        "instance": None,
        "extensions": {},
    }
    return _response(problem.status_code, problem.code, body, PROBLEM_DOCUMENT)


def _response(
    status: int, code: str, body: Mapping[str, Any], media_type: str, headers: Mapping[str, str] | None = None
) -> HttpResponse:
    response = HttpResponse(
        json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="replace"),
        status=status,
        content_type=f"{media_type}; charset=utf-8",
        headers=dict(headers or {}),
    )
    response["x-ms-error-code"] = code
    # Django would log every 404 with its path. "No such connection" is an ordinary answer here, asked for
    # often, and the path names users and groups; faults of ours are logged below.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def handler(problem: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """Answer whatever a view raised. The contract is DRF's EXCEPTION_HANDLER."""
    set_rollback()
    view, named = context["view"], context["kwargs"]
    hub = named.get("hub") or named.get("hub_name") or ""
    return answer(problem, context["request"], getattr(view, "row", None), name=type(view).__name__, hub=hub)


# What becomes of a request of somebody who may not make it, or not so often. The log says so.
_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)


def answer(problem: Exception, request: Any, row: Any = None, *, name: str = "", hub: str = "") -> HttpResponse:
    """Answer whatever was raised while a request was handled: one of `row`, or else of the view `name`.

    `hub` is the hub that the path names, for the log.
    """
    what = f"{row.method} {row.path}" if row else name
    response = _answered(problem, request, row, what)
    if response.status_code in _REFUSALS:
        reason = problem.detail if isinstance(problem, drf.APIException) else problem
        logger.info(
            "A request was refused: %s, hub %s, from %s: %d, %s",
            what,
            callers.legible(hub) or "none",
            callers.of_request(request),
            response.status_code,
            callers.legible(_sentence(reason)),
        )
    return response


def _answered(problem: Exception, request: Any, row: Any, what: str) -> HttpResponse:
    match problem:
        case BadFilter():
            return _bad_filter(problem)
        case Problem():
            return error(problem.status_code, str(problem.detail), code=problem.code, target=problem.target)
        case drf.APIException():
            return error(problem.status_code, _sentence(problem.detail), headers=_headers(problem))
        case errors.NotFound():
            code = getattr(row, "missing", "")
            # The code says what is not there: Warning.User.NotExisted.
            target = code.split(".")[1] if code else "Connection"
            return error(HTTPStatus.NOT_FOUND, problem.message, code=code or None, target=target)
        case errors.TooMany():
            status = getattr(row, "too_many", HTTPStatus.TOO_MANY_REQUESTS)
            headers = {"Retry-After": "1"} if status == HTTPStatus.TOO_MANY_REQUESTS else None
            return error(status, problem.message, target="Connection", headers=headers)
        case errors.Unavailable():
            headers = {"Retry-After": str(problem.retry_after_secs)}
            return error(HTTPStatus.SERVICE_UNAVAILABLE, problem.message, headers=headers)
        case DatabaseError() if database.is_unavailable(problem):
            database.report(what, problem)
            return _answered(errors.DatabaseUnavailable(), request, row, what)
        case Http404():
            return error(HTTPStatus.NOT_FOUND, "There is nothing at this address.")
        case PermissionDenied():
            return error(HTTPStatus.FORBIDDEN, str(problem) or "This is not allowed.")
        case RequestDataTooBig():
            return error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request's body is too large.")
        case SuspiciousOperation():
            # Too many parameters, for instance. Django's texts name its settings, so ours is used.
            return error(HTTPStatus.BAD_REQUEST, "The request is malformed or has too many parameters.")
    return _unexpected(problem, request, what)


def _unexpected(problem: Exception, request: Any, what: str) -> HttpResponse:
    """Log a fault for us and tell the caller nothing of it. The path is left out of the log: it names users."""
    logger.error("%s failed", what, exc_info=problem)
    # What Django sends for views of its own, so that error reporters and the test client notice.
    got_request_exception.send(sender=None, request=request)
    return error(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error")


def _headers(problem: drf.APIException) -> dict[str, str]:
    headers = {}
    challenge = getattr(problem, "auth_header", None)
    if challenge:
        headers["WWW-Authenticate"] = str(challenge)
    wait = getattr(problem, "wait", None)
    if wait is not None:
        headers["Retry-After"] = str(max(1, wait))
    return headers


def _sentence(detail: Any) -> str:
    """DRF allows lists and dictionaries as details; people get one line."""
    if isinstance(detail, dict):
        return " ".join(f"{name}: {_sentence(part)}" for name, part in detail.items())
    if isinstance(detail, list):
        return " ".join(_sentence(part) for part in detail)
    return str(detail)
