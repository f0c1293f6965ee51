"""Pages of other origins: which of them may negotiate, and which may call the data plane from a browser.

Browsers let a page of another origin read an answer only if the answer says so (CORS). Nothing is allowed unless a
setting names the origin: NEGOTIATE_ORIGINS for negotiate, with the browser's session, and REST_ORIGINS for the data
plane, which needs a token and takes no cookies. Everything else, such as the admin and the management API, is for pages
of this service alone.

Starlette's middleware knows the rules. It is ASGI, so it stands in front of both doors to the data plane, Django and
the fast path. Where no origin is named, it does not stand there at all.

To be allowed here is to read answers, not to act. A POST with a session still needs Django's CSRF token, which a page
of another origin cannot have; negotiate by GET changes nothing and is what such pages use
(docs/decisions/other-origins.md).
"""

from __future__ import annotations

import re
from typing import Any

from starlette.middleware.cors import CORSMiddleware

from hubs import conf
from hubs.rest.body_limit import Application, Receive, Send
from hubs.rest.paths import below_root

_NEGOTIATE = re.compile(r"/(?:api/)?negotiate(?:/|\Z)")
_DATA_PLANE = re.compile(r"/api/(?:hubs|health)(?:/|\Z)", re.IGNORECASE)

# What pages may read beside the few headers that they always may.
_EXPOSED_BY_NEGOTIATE = ("Retry-After",)
_EXPOSED_BY_REST = ("Retry-After", "x-ms-error-code", "x-ms-client-request-id", "api-supported-versions")

PREFLIGHT_SECS = 600


def allow_other_origins(application: Application) -> Application:
    """Wrap an HTTP application so that pages of the origins in the settings may call it; itself if there are none."""
    negotiate, rest = conf.settings.NEGOTIATE_ORIGINS, conf.settings.REST_ORIGINS
    if not negotiate and not rest:
        return application
    by_path: list[tuple[re.Pattern[str], Any]] = []
    # The library's types of ASGI are narrower than ours.
    behind: Any = application
    if negotiate:
        allowed = CORSMiddleware(
            behind,
            allow_origins=negotiate,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            allow_credentials=True,
            expose_headers=_EXPOSED_BY_NEGOTIATE,
            max_age=PREFLIGHT_SECS,
        )
        by_path.append((_NEGOTIATE, allowed))
    if rest:
        allowed = CORSMiddleware(
            behind,
            allow_origins=rest,
            allow_methods=("GET", "HEAD", "POST", "PUT", "DELETE"),
            # Metadata headers are called as the caller likes.
            allow_headers=("*",),
            expose_headers=_EXPOSED_BY_REST,
            max_age=PREFLIGHT_SECS,
        )
        by_path.append((_DATA_PLANE, allowed))

    async def by_origin(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        path = below_root(scope)
        chosen = next((allowed for pattern, allowed in by_path if pattern.match(path)), application)
        await chosen(scope, receive, send)

    return by_origin
