"""Which endpoint of this service an HTTP request came to, and which one to send its client to.

hubs/endpoints.py reads the request; here Django's part is added: hosts have to be allowed, and the
prefix under which a project mounts the service belongs to the address.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from django.conf import settings as django_settings
from django.http import HttpRequest
from django.http.request import split_domain_port, validate_host

from hubs import conf
from hubs import endpoints as hubs_endpoints
from hubs.rest.paths import script_name

_DEFAULT_PORTS = {"http": 80, "https": 443}


def accepted(request: HttpRequest) -> tuple[str, ...]:
    """Every endpoint a token for this request may be made out to: those configured, and the request's own."""
    return hubs_endpoints.configured_and(of_request(request))


def for_clients(request: HttpRequest) -> str:
    """The endpoint that a client URL handed out by this request should have.

    The first configured one, but the one the caller used when that is another accepted endpoint or
    another name of loopback: a page opened on 127.0.0.1 gets a URL it can reach, and cookies
    and content policies see one host rather than two.
    """
    first: str = conf.settings.PUBLIC_ENDPOINTS[0].rstrip("/")
    own = of_request(request)
    if own is None:
        return first
    here = urlsplit(own)
    for endpoint in conf.settings.PUBLIC_ENDPOINTS:
        configured = urlsplit(endpoint)
        if _host_and_port(configured) == _host_and_port(here):
            # The configured text, because only it knows of TLS and path prefixes in front of us.
            return str(endpoint).rstrip("/")
        if (
            _is_loopback(configured.hostname)
            and _is_loopback(here.hostname)
            and _port(configured) == _port(here)
            and configured.scheme == here.scheme
        ):
            return f"{configured.scheme}://{here.netloc}{configured.path.rstrip('/')}"
    return first


def of_request(request: HttpRequest) -> str | None:
    """The endpoint a request was sent to; None when it names no host, or one that is not allowed."""
    requested = hubs_endpoints.requested(request.scheme or "http", request.headers)
    if requested is None:
        return None
    requested = requested.lower()
    domain, _ = split_domain_port(requested.partition("://")[2])
    return f"{requested}{script_name(request)}" if domain and _is_allowed(domain) else None


def _is_allowed(domain: str) -> bool:
    # An empty list means loopback only, as in django.http.HttpRequest.get_host with DEBUG.
    allowed = django_settings.ALLOWED_HOSTS or [".localhost", "127.0.0.1", "[::1]"]
    return validate_host(domain, allowed)


def _port(url: SplitResult) -> int | None:
    return url.port or _DEFAULT_PORTS.get(url.scheme)


def _host_and_port(url: SplitResult) -> tuple[str | None, int | None]:
    return url.hostname, _port(url)


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
