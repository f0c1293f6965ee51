"""The proof that lets a client have its connection back: what `reconnectionToken` is.

A token is signed with a key of its own, derived from SECRET_KEY, for one connection of one hub. So
any process of the service can tell a true one, and nothing is asked of others for a false one. It
opens nothing by itself: the connection has to be there still.
"""

from __future__ import annotations

import hashlib
import time

from django.conf import settings

from hubs.rules import tokens

# Longer than any connection may be away, as it is given once for the connection's whole life.
LIFETIME_SECS = 7 * 24 * 3600

_PURPOSE = b"hubwire recovery"


def token_for(hub: str, connection_id: str) -> str:
    """Make the token of a connection."""
    claims = {"aud": _audience(hub, connection_id), "exp": int(time.time()) + LIFETIME_SECS}
    return tokens.sign(claims, _key(settings.SECRET_KEY))


def is_valid(token: str, hub: str, connection_id: str) -> bool:
    """Tell whether a token was made for this connection. An expired one is not valid."""
    secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    try:
        tokens.verify(token, map(_key, secrets), [_audience(hub, connection_id)], now=time.time(), skew=0)
    except tokens.InvalidToken:
        return False
    return True


def _key(secret: str) -> str:
    return hashlib.blake2b(secret.encode(), person=_PURPOSE).hexdigest()


def _audience(hub: str, connection_id: str) -> str:
    return f"recover:{hub}/{connection_id}"
