"""The demo pages, as HTML. What they do, they do in the browser, in static/demos/."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse
from django.views.generic import TemplateView

from hubs.demos import moderation


def content_security_policy(static_url: str) -> str:
    """Give the policy of the demo pages: their own files and WebSockets, and nothing written into the page.

    Messages of strangers are shown on these pages. The scripts write them as text only; the policy is
    the second lock, should one of them ever forget. Sockets may go to any host, because negotiate
    names the service's public address, which need not be the one the page came from.
    """
    parts = urlsplit(static_url)
    files = f"'self' {parts.scheme or 'https'}://{parts.netloc}" if parts.netloc else "'self'"
    return (
        f"default-src 'none'; script-src {files}; style-src {files}; img-src {files}; "
        "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


class DemoPage(TemplateView):
    """One page. Templates get `endpoint`, the service's address as the visitor's browser knows it."""

    http_method_names = ["get", "head", "options"]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer as any view does, with the policy as a header."""
        response = super().dispatch(request, *args, **kwargs)
        response.headers["Content-Security-Policy"] = content_security_policy(settings.STATIC_URL)
        return response

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add the endpoint."""
        # The front page's address rather than "/": the service may be mounted below a prefix.
        endpoint = self.request.build_absolute_uri(reverse("demos:front")).rstrip("/")
        return super().get_context_data(endpoint=endpoint, **kwargs)


class ModeratedChat(DemoPage):
    """The moderated chat. Its page says which words the moderator masks."""

    template_name = "demos/moderated.html"
    extra_context = {"hub": moderation.HUB, "words": moderation.WORDS}
