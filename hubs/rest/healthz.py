"""Two addresses for whoever looks after this process: load balancers, service managers, containers.

    /healthz/live     200 while the event loop turns
    /healthz/ready    200 while clients who come now can be served, else 503 with the reasons (hubs/health.py)

They are answered in front of Django: without its middleware, so whatever Host header a load balancer sends will do;
without the database; and without a turn among the requests that Django works on (concurrency.py). `HEAD /api/health`
beside them belongs to the data plane, and is what SDKs ask.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec

from hubs import health
from hubs.rest.body_limit import Application, Receive, Send
from hubs.rest.paths import below_root

_METHODS = ("GET", "HEAD")


class Live(msgspec.Struct, forbid_unknown_fields=True):
    """The event loop turns."""

    live: bool


class Ready(msgspec.Struct, forbid_unknown_fields=True):
    """Whether clients who come now can be served. Each reason is "name: text", for operators."""

    ready: bool
    reasons: list[str]


Answer = tuple[HTTPStatus, Live | Ready]


def _live() -> Answer:
    return HTTPStatus.OK, Live(live=True)


def _ready() -> Answer:
    reasons = health.reachability()
    return HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK, Ready(not reasons, reasons)


_ANSWERS: dict[str, Callable[[], Answer]] = {"/healthz/live": _live, "/healthz/ready": _ready}

# Below whichever prefix this installation is; access logs leave these out.
PATHS = tuple(_ANSWERS)


class HealthChecks:
    """An ASGI application that answers health checks, and hands all else to the HTTP application behind it."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Handle one request."""
        answer = _ANSWERS.get(below_root(scope))
        if answer is None:
            await self._application(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        if scope["method"] in _METHODS:
            status, said = answer()
            body = msgspec.json.encode(said)
        else:
            status, body = HTTPStatus.METHOD_NOT_ALLOWED, b'{"message":"Health checks are asked by GET or HEAD."}'
            headers.append((b"allow", ", ".join(_METHODS).encode()))
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status.value, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
