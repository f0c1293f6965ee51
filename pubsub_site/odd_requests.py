"""Requests that say what no database can be asked: answered 400, where Django would say 500.

The lists of the admin filter by whatever their query says, and a cookie names a session. SQLite takes no number beyond
64 bits, PostgreSQL none beyond a column's and no NUL character; both say so only when they are asked.
"""

from __future__ import annotations

import logging
from typing import Any

from django.core.paginator import InvalidPage
from django.db import DataError
from django.http import HttpRequest, HttpResponse
from django.utils.deprecation import MiddlewareMixin

logger = logging.getLogger("hubs.admin")


class RefuseOddRequests(MiddlewareMixin):
    """Answer 400 to a cookie with a NUL, and to a page of the admin whose query or form the database cannot be asked.

    The APIs look at what they are given themselves; the data plane's names of groups and users reach no database.
    """

    def process_view(self, request: HttpRequest, *view: Any) -> HttpResponse | None:
        """Look at the cookies before the session is read."""
        if any("\x00" in value for value in request.COOKIES.values()):
            return _refusal("A cookie of this request contains a NUL character. Delete the cookies of this site.")
        return None

    def process_exception(self, request: HttpRequest, problem: Exception) -> HttpResponse | None:
        """Look at what a page of the admin failed on."""
        match = request.resolver_match
        asked = bool(request.GET) or request.method == "POST"
        if match is None or "admin" not in match.app_names or not asked:
            return None
        if isinstance(problem, InvalidPage):
            return _refusal("There is no such page. Open the first one.")
        if not isinstance(problem, OverflowError | DataError | ValueError):
            return None
        # Without the query, which may say anything; the traceback, should the fault be ours after all.
        logger.warning("A request for %s could not be read", match.view_name, exc_info=problem)
        return _refusal("The query or the form of this page has a value that no field can have.")


def _refusal(text: str) -> HttpResponse:
    return HttpResponse(f"{text}\n", status=400, content_type="text/plain; charset=utf-8")
