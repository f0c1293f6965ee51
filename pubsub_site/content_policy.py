"""What the pages of the admin may load and run.

The demo pages have a tighter policy of their own (hubs/demos/views.py). Pages of other apps get none, for only those
who wrote them know what they need.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse


def content_security_policy(static_url: str) -> str:
    """Give the policy of the admin's pages: their own files, and no scripts in the page itself.

    The theme needs two exceptions. Its Alpine compiles the expressions in `x-…` attributes ('unsafe-eval'); the
    colours stand in a <style> of the page, and scripts set `style` attributes. Sockets may go to any host, because
    the Client URL Generator tries URLs of the service's public address.
    """
    parts = urlsplit(static_url)
    files = f"'self' {parts.scheme or 'https'}://{parts.netloc}" if parts.netloc else "'self'"
    return (
        f"default-src 'none'; script-src {files} 'unsafe-eval'; style-src {files} 'unsafe-inline'; "
        f"img-src {files} data:; font-src {files}; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )


class AdminContentPolicy:
    """Middleware that adds the policy to what the admin answers."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        self._policy = content_security_policy(settings.STATIC_URL)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        if request.resolver_match is not None and "admin" in request.resolver_match.app_names:
            response.headers.setdefault("Content-Security-Policy", self._policy)
        return response
