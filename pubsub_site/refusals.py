"""The answer to a request that Django refuses before a view sees it (handler400).

Most often that is the first look from another machine, at an address that no setting names. The page and the log then
say which setting that is; the page is plain text, because the sender chose part of it.
"""

import logging

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.http.request import split_domain_port
from django.views.defaults import bad_request

logger = logging.getLogger(__name__)

ADVICE = """\
This service does not answer to the name {host}.

If it is yours, and clients reach it by this name, start it with

    PUBLIC_ENDPOINT={scheme}://{host}

or add that address to EXTRA_ENDPOINTS. A name that only health checks use belongs in ALLOWED_HOSTS.
"""


def refuse(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer 400."""
    host = _named(request)
    if not isinstance(exception, DisallowedHost) or host is None:
        return bad_request(request, exception)
    logger.warning(
        "A request named the host %s, which this service does not answer to. If clients use that name, set "
        "PUBLIC_ENDPOINT=%s://%s, or add that address to EXTRA_ENDPOINTS.",
        host,
        request.scheme,
        host,
    )
    answer = HttpResponseBadRequest(
        ADVICE.format(scheme=request.scheme, host=host), content_type="text/plain; charset=utf-8"
    )
    # Once is enough; Django logs other answers of this status by their path.
    answer._has_been_logged = True  # type: ignore[attr-defined]
    return answer


def _named(request: HttpRequest) -> str | None:
    """The host that a request names, if that can be one."""
    host = str(request.META.get("HTTP_HOST", ""))
    return host if split_domain_port(host)[0] and len(host) <= 260 else None
