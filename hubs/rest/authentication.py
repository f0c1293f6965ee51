"""Who is asking: holders of access keys on the data plane, people on negotiate.

A server proves that it holds a key by signing a short token for the very address it calls. A key
limited to a hub opens that hub alone, and a client's token, whose audience is a WebSocket address,
opens nothing here.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib.auth import SESSION_KEY
from django.http import HttpRequest
from rest_framework import authentication
from rest_framework.exceptions import APIException, AuthenticationFailed, NotAuthenticated, Throttled
from rest_framework.request import Request

from hubs import callers, conf, hub_settings, sign_in
from hubs.rest import endpoints
from hubs.rest.paths import raw_path
from hubs.rules import tokens


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """A server with an access key; what DRF calls the user of a data plane request."""

    hub: str
    # Which key it was, without saying it; empty where calls are not counted by key.
    key: str = ""
    is_authenticated: bool = True


# The challenge of a 401.
_CHALLENGE = "Bearer"


def key_holder(
    request: HttpRequest, hub: str, snapshot: Callable[[], hub_settings.Snapshot]
) -> tuple[KeyHolder, tokens.Claims]:
    """Give the holder of a key of `hub` who signed a token for this request, and the token's claims.

    `snapshot` gives the keys there are; it is not called for a request without a token. Raises
    NotAuthenticated, AuthenticationFailed.
    """
    scheme, _, token = request.META.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise _refused(
            NotAuthenticated(
                "Send “Authorization: Bearer <token>”: a JWT signed with an access key, its audience the requested URL."
            )
        )
    token, keys = token.strip(), snapshot().keys_of(hub)
    try:
        claims = tokens.verify_for_request(
            token,
            keys,
            endpoints.accepted(request),
            raw_path(request),
            now=time.time(),
            skew=conf.settings.CLOCK_SKEW_SECS,
        )
    except tokens.InvalidToken as problem:
        text = str(problem)
        raise _refused(AuthenticationFailed(f"{text[:1].upper()}{text[1:]}.")) from None
    return KeyHolder(hub, _fingerprint(token, keys) if conf.settings.REST_RATE else ""), claims


def _refused(problem: APIException) -> APIException:
    # Where DRF's views note it, for those who raise it elsewhere.
    problem.auth_header = _CHALLENGE  # type: ignore[attr-defined]
    return problem


class AccessKeyAuthentication(authentication.BaseAuthentication):
    """`Authorization: Bearer` with a JWT that a key of the hub in the path signed for this request."""

    def authenticate(self, request: Request) -> tuple[KeyHolder, tokens.Claims]:
        """Give the key holder and the token's claims. Raises NotAuthenticated, AuthenticationFailed."""
        return key_holder(request._request, str(request.parser_context["kwargs"]["hub"]), hub_settings.current)

    def authenticate_header(self, request: Request) -> str:
        """The challenge of a 401."""
        return _CHALLENGE


def _fingerprint(token: str, keys: Iterable[str]) -> str:
    """Name the one of `keys` that signed a token found to be good."""
    signed, _, signature = token.rpartition(".")
    for key in keys:
        expected = hmac.digest(key.encode(), signed.encode(), "sha256")
        if hmac.compare_digest(expected, urlsafe_b64decode(f"{signature}==")):
            return hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
    return "unknown"


class ApiTokens(authentication.TokenAuthentication):
    """`Authorization: Token …`, a person's API token. A bad one is refused, not taken for no token.

    An address that sent too many bad ones is sent away before the token is looked for.
    """

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        """Give the token's user, None where there is no token. Raises AuthenticationFailed, Throttled."""
        scheme, _, _ = request.META.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
        if scheme.lower() != self.keyword.lower():
            return None
        address = callers.of_request(request)
        try:
            sign_in.check_tokens_of(address)
        except sign_in.TooManyFailures as refused:
            raise Throttled(refused.wait, "Too many wrong API tokens came from this address.") from None
        try:
            return super().authenticate(request)
        except AuthenticationFailed:
            sign_in.count_wrong_token(address)
            raise

    def authenticate_credentials(self, key: str) -> tuple[Any, Any]:
        """Give the user of a token. Raises AuthenticationFailed."""
        if not key.isprintable():
            # PostgreSQL fails on a NUL, and no token has characters that cannot be printed.
            raise AuthenticationFailed("Invalid token.")
        return super().authenticate_credentials(key)


class ActiveSession(authentication.SessionAuthentication):
    """The browser's session. A session whose account was switched off is refused, not taken for a visitor's."""

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        """Give the signed-in user, None for a visitor. Raises AuthenticationFailed, PermissionDenied (CSRF)."""
        found = super().authenticate(request)
        if found is None and self._was_signed_in(request._request):
            raise AuthenticationFailed("This account is not active. Sign in with another one, or sign out.")
        return found

    @staticmethod
    def _was_signed_in(request: HttpRequest) -> bool:
        session = getattr(request, "session", None)
        return session is not None and SESSION_KEY in session
