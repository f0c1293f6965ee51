"""What Django's middleware does to a request that the fast path answers, and what it would have done to the answer.

The fast path (hubs/rest/fast_path.py) goes around Django and so around MIDDLEWARE. That is right only where
it makes no difference. So the fast path answers only if every entry of MIDDLEWARE is one that is known
here: Django's own, which leave a data plane request alone and add the same few headers to each
answer, and those the project names as not concerned with REST calls. With any other the fast path lets
everything pass to Django.

Which headers they add is not written down here but learned: once for http and once for https, the real
middleware is put around an empty answer, and what comes out is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from django.conf import settings as django_settings
from django.core.exceptions import DisallowedHost, MiddlewareNotUsed
from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse
from django.utils.module_loading import import_string

logger = logging.getLogger(__name__)

# Those that look at nothing of a request but its cookies, its host and its scheme.
_KNOWN = frozenset(
    f"django.{name}"
    for name in (
        "middleware.security.SecurityMiddleware",
        "contrib.sessions.middleware.SessionMiddleware",
        "middleware.common.CommonMiddleware",
        "middleware.csrf.CsrfViewMiddleware",
        "contrib.auth.middleware.AuthenticationMiddleware",
        "contrib.messages.middleware.MessageMiddleware",
        "middleware.clickjacking.XFrameOptionsMiddleware",
    )
)

# With these set, CommonMiddleware looks at more.
_LOOK_AT_MORE = ("PREPEND_WWW", "DISALLOWED_USER_AGENTS")

# What Django makes the host of. Few are remembered, and no long ones, since clients choose them.
_HOST_HEADERS = ("HTTP_HOST", "HTTP_X_FORWARDED_HOST")
REMEMBERED_HOSTS = 128
MAX_REMEMBERED_CHARACTERS = 512

_LENGTH = "Content-Length"


class Added(NamedTuple):
    """The headers that the middleware adds to an answer; a value of None is the length of its content."""

    headers: tuple[tuple[str, str | None], ...]

    def to(self, response: HttpResponse) -> HttpResponse:
        """Add them."""
        for name, value in self.headers:
            response.headers.setdefault(name, str(len(response.content)) if value is None else value)
        return response


class Middleware:
    """The project's middleware. `unconcerned`: entries of MIDDLEWARE that do nothing to REST calls."""

    def __init__(self, unconcerned: Iterable[str] = ()) -> None:
        self._unconcerned = frozenset(unconcerned)
        self._learned: dict[bool, Added | None] = {}
        # Those found to be allowed.
        self._hosts: set[tuple[str, ...]] = set()
        setting_changed.connect(self._forget)

    def added(self, request: HttpRequest) -> Added | None:
        """What would be added to the answer of a request; None where the middleware has to see the request itself."""
        if "HTTP_COOKIE" in request.META:
            return None
        if not self._is_host_allowed(request):
            return None
        secure = request.is_secure()
        if django_settings.SECURE_SSL_REDIRECT and not secure:
            # To https, or not, by the path.
            return None
        if secure not in self._learned:
            self._learned[secure] = self._learn(request)
        return self._learned[secure]

    def _is_host_allowed(self, request: HttpRequest) -> bool:
        host = tuple(request.META.get(name, "") for name in _HOST_HEADERS)
        if host in self._hosts:
            return True
        try:
            request.get_host()
        except DisallowedHost:
            return False
        if host[0] and sum(map(len, host)) <= MAX_REMEMBERED_CHARACTERS:
            if len(self._hosts) >= REMEMBERED_HOSTS:
                self._hosts.clear()
            self._hosts.add(host)
        return True

    def _learn(self, request: HttpRequest) -> Added | None:
        paths = [path for path in django_settings.MIDDLEWARE if path not in self._unconcerned]
        unknown = [path for path in paths if path not in _KNOWN]
        unknown += [name for name in _LOOK_AT_MORE if getattr(django_settings, name)]
        if unknown:
            logger.warning("All REST calls go through Django, because of %s in the settings", ", ".join(unknown))
            return None
        empty = HttpResponse(headers={"Content-Type": ""})
        del empty["Content-Type"]
        answer = _chain(paths, lambda request: empty)(request)
        if answer is not empty or answer.cookies:
            return None
        return Added(tuple((name, None if name == _LENGTH else value) for name, value in answer.items()))

    def _forget(self, **_: Any) -> None:
        self._learned.clear()
        self._hosts.clear()


def _chain(paths: Iterable[str], answering: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], Any]:
    """Put middleware around what answers, the first path outermost, as Django does."""
    handler: Callable[[HttpRequest], Any] = answering
    for path in reversed([*paths]):
        try:
            handler = import_string(path)(handler)
        except MiddlewareNotUsed:
            continue
    return handler
