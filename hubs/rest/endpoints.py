"""Which endpoint of this service an HTTP request came to, and which one to send its client to.

hubs/endpoints.py reads the request; here Django's part is added: hosts have to be allowed, and the
prefix under which a project mounts the service belongs to the address.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from django.conf import settings as django_settings
from django.http import HttpRequest
from django.http.request import split_domain_port, validate_host

from hubs import addresses, conf
from hubs import endpoints as hubs_endpoints
from hubs.rest.paths import script_name

# Host headers are what a client likes to send, so few are remembered, and no long ones.
REMEMBERED_ENDPOINTS = 128
MAX_REMEMBERED_CHARACTERS = 512

_HEADERS = (
    ("host", "HTTP_HOST"),
    ("x-forwarded-host", "HTTP_X_FORWARDED_HOST"),
    ("x-forwarded-proto", "HTTP_X_FORWARDED_PROTO"),
)


def accepted(request: HttpRequest) -> tuple[str, ...]:
    """Every endpoint a token for this request may be made out to: those configured, and the request's own."""
    return hubs_endpoints.configured_and(of_request(request))


def for_clients(request: HttpRequest) -> str:
    """The endpoint that a client URL handed out by this request should have.

    The first configured one, but the one the caller used when that is another accepted endpoint or
    another name of loopback: a page opened on 127.0.0.1 gets a URL it can reach, and cookies
    and content policies see one host rather than two.
    """
    first: str = conf.settings.PUBLIC_ENDPOINTS[0]
    own = of_request(request)
    if own is None:
        return first
    # The configured text, because only it knows of TLS and path prefixes in front of us.
    configured = hubs_endpoints.configured(own)
    return configured or next(filter(None, (_by_loopback(own, name) for name in conf.settings.PUBLIC_ENDPOINTS)), first)


def _by_loopback(own: str, configured: str) -> str | None:
    """A configured endpoint under the name of loopback that a request used; None where it is not the same."""
    here, there = addresses.read(own), addresses.read(configured)
    scheme = configured.partition(":")[0]
    if here is None or there is None or not own.startswith(f"{scheme}:") or here.port != there.port:
        return None
    return f"{scheme}://{here.authority}{there.rest}" if _is_loopback(here.host) and _is_loopback(there.host) else None


def of_request(request: HttpRequest) -> str | None:
    """The endpoint a request was sent to; None when it names no host, or one that is not allowed."""
    # The three that count; Django's own mapping reads all there are, and that costs more than all that is done here.
    headers = tuple((name, request.META[key]) for name, key in _HEADERS if key in request.META)
    # An empty list means loopback only, as in django.http.HttpRequest.get_host with DEBUG.
    allowed = tuple(django_settings.ALLOWED_HOSTS or [".localhost", "127.0.0.1", "[::1]"])
    short = sum(len(value) for _, value in headers) <= MAX_REMEMBERED_CHARACTERS
    own = (_remembered if short else _allowed_endpoint)(
        request.scheme or "http", headers, conf.settings.TRUST_FORWARDED_HEADERS, allowed
    )
    return None if own is None else f"{own}{script_name(request)}"


def _allowed_endpoint(
    scheme: str, headers: tuple[tuple[str, str], ...], trusted: bool, allowed: tuple[str, ...]
) -> str | None:
    # `trusted` is what hubs/endpoints.py reads for itself: it is here so that a remembered answer depends on it.
    requested = hubs_endpoints.requested(scheme, dict(headers))
    if requested is None:
        return None
    requested = requested.lower()
    domain, _ = split_domain_port(requested.partition("://")[2])
    return requested if domain and validate_host(domain, allowed) else None


# Callers come by few names, and each of them comes often.
_remembered = lru_cache(maxsize=REMEMBERED_ENDPOINTS)(_allowed_endpoint)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
