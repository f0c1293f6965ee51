"""Pages while the database is away: 503 instead of 500 (handler500), and what staff is told about an outage.

Sessions are in the database, so nobody who is signed in gets past it; a page that needs the database for something else
fails in its view. Django brings both here, whichever middleware or view met it.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template import loader
from django.views.defaults import server_error

from hubs import conf, database, hub_settings
from hubs.errors import DatabaseUnavailable

# How long staff is told of an outage that is over.
TOLD_SECS = 3600

TEXT = "The database is unavailable, and this page needs it. Try again in a few seconds.\n"


def failed(request: HttpRequest) -> HttpResponse:
    """Answer a request on which Django failed: 503 where the database is away, else Django's own 500."""
    problem = sys.exc_info()[1]
    if isinstance(problem, DatabaseUnavailable):
        answer = _unavailable(request)
    elif problem is not None and database.is_unavailable(problem):
        database.report("a page", problem)
        answer = _unavailable(request)
    else:
        return server_error(request)
    # With a line of our own; Django's would have the path, and a traceback.
    answer._has_been_logged = True  # type: ignore[attr-defined]
    return answer


def _unavailable(request: HttpRequest) -> HttpResponse:
    headers = {"Retry-After": str(DatabaseUnavailable.retry_after_secs), "Cache-Control": "no-store"}
    if request.accepts("text/html") and "text/html" in request.headers.get("Accept", ""):
        # Without the context of other pages, which asks who is signed in.
        text, kind = str(loader.render_to_string("503.html", _told())), "text/html"
    else:
        text, kind = TEXT, "text/plain"
    return HttpResponse(
        text, status=HTTPStatus.SERVICE_UNAVAILABLE, content_type=f"{kind}; charset=utf-8", headers=headers
    )


def outage(request: HttpRequest) -> dict[str, Any]:
    """Context of templates: `database_outage`, the outage that staff should know of, if there is one."""
    told = _told()
    return {"database_outage": told} if told else {}


def _told() -> dict[str, Any]:
    """When the outage began and ended, what the driver said, and when settings become too old. Empty without one."""
    last = hub_settings.outage()
    if last is None or (last.ended is not None and time.time() - last.ended > TOLD_SECS):
        return {}
    return {
        "began": datetime.fromtimestamp(last.began, UTC),
        "ended": None if last.ended is None else datetime.fromtimestamp(last.ended, UTC),
        "until": datetime.fromtimestamp(last.began + conf.settings.SETTINGS_STALE_SECS, UTC),
        "problem": last.problem,
        "goes_on": hub_settings.is_usable(),
    }
