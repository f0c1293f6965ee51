"""Long listings in pages: how much a caller wants, where a page goes on, and the link to the next one.

The place to go on from is the last id of the page before (a keyset), not a count, so members that
come and go between two pages neither repeat nor hide others. It travels signed and bound to what
is listed; nobody can use it elsewhere or make one up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from django.core.signing import BadSignature, Signer
from django.http import HttpRequest

from hubs.rest import endpoints, versions
from hubs.rest.exceptions import BadRequest
from hubs.rest.parameters import Parameters

MAX_PAGE = 200
MAX_CURSOR_CHARACTERS = 2048
PARAMETERS = ("maxpagesize", "top", "continuationToken")

Item = TypeVar("Item")


class Page(NamedTuple):
    """What a caller asked for: `size` items after `after`, of `top` over all pages (None = all there are)."""

    path: str
    size: int
    asked_size: int | None
    top: int | None
    after: str | None

    @property
    def limit(self) -> int:
        """How many items to fetch: one more than are shown, to know whether there is another page."""
        return self.size + 1

    def shown(self, found: Sequence[Item]) -> Sequence[Item]:
        """The items of this page, of those fetched."""
        return found[: self.size]

    def next_link(
        self, request: HttpRequest, found: Sequence[Item], last_id: str, *, version: str | None = versions.NEWEST
    ) -> str | None:
        """The absolute URL of the page after the one ending with `last_id`; None when this is the last one."""
        rest = None if self.top is None else self.top - self.size
        if len(found) <= self.size or rest == 0:
            return None
        query = {} if version is None else {versions.PARAMETER: version}
        if self.asked_size is not None:
            query["maxpagesize"] = str(self.asked_size)
        if rest is not None:
            query["top"] = str(rest)
        query["continuationToken"] = _signer(self.path).sign_object(last_id)
        return f"{endpoints.for_clients(request)}{self.path}?{urlencode(query)}"


def read(parameters: Parameters, *names: str) -> Page:
    """Read what page of the listing at `names` (the path's segments) is wanted. Raises BadRequest."""
    path = "/" + "/".join(quote(name, safe="") for name in names)
    asked_size = parameters.integer_or_none("maxpagesize", least=1, most=MAX_PAGE)
    top = parameters.integer_or_none("top", least=1)
    size = MAX_PAGE if asked_size is None else asked_size
    token = parameters.one("continuationToken")
    return Page(
        path=path,
        size=size if top is None else min(size, top),
        asked_size=asked_size,
        top=top,
        after=None if token is None else _place(token, path),
    )


def _place(token: str, path: str) -> str:
    try:
        if len(token) > MAX_CURSOR_CHARACTERS:
            raise BadSignature
        return str(_signer(path).unsign_object(token))
    except BadSignature:
        raise BadRequest(
            "This continuationToken is not one of this listing. Follow nextLink as it is, or leave the token out.",
            target="continuationToken",
        ) from None


def _signer(path: str) -> Signer:
    # A dot, because URLs need no escape for it; the path binds a cursor to hub and group.
    return Signer(sep=".", salt=f"hubs.rest.paging:{path}")
