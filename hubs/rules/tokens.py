"""Access tokens and connection strings: what is signed, what is believed.

A client token is a JWT signed with HS256 over the UTF-8 text of an access key (the text itself: a
key that looks like base64 is not decoded). Its audience is the address it opens, so a token for one
hub opens no other. Host, port and path have to be the same; how they are written is not compared, since
official SDKs differ in it: scheme, letter case, default port, international names, percent-encoding,
one trailing slash (hubs/addresses.py).

The signature is PyJWT's work. Times are checked here, because this room has no clock.

A server that sends much presents the same token again and again: SDKs sign the address and the second.
What a token says, and whether that is for an address, depends on nothing but the texts compared, keys
among them; so the last answers are remembered. Times are looked at in every request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import jwt
from jwt.algorithms import HMACAlgorithm

from hubs import addresses

Claims = Mapping[str, Any]

MAX_TOKEN_CHARACTERS = 64 * 1024
# A token or an address that is longer than this is looked at each time: what is remembered is bounded in bytes, too.
MAX_REMEMBERED_CHARACTERS = 2048
REMEMBERED_TOKENS = 1024
# Seconds since the epoch; far beyond any calendar, and still a number to reckon with.
MAX_TIME = 2**63

_ALGORITHM = "HS256"


class _HS256(HMACAlgorithm):
    """PyJWT's, but it looks only once whether a key is fit for it, which costs more than the signature does."""

    def __init__(self) -> None:
        super().__init__(HMACAlgorithm.SHA256)

    def prepare_key(self, key: str | bytes) -> bytes:
        """Give a key as bytes. Raises jwt.InvalidKeyError."""
        return _fit_key(key)


@lru_cache(maxsize=256)
def _fit_key(key: str | bytes) -> bytes:
    return HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(key)


# Signatures alone: times and audience are checked below, with the caller's clock.
_signatures = jwt.PyJWS(algorithms=[])
_signatures.register_algorithm(_ALGORITHM, _HS256())


class InvalidToken(ValueError):
    """The token does not open what was asked; the text says why, without quoting the token."""


def sign(claims: Claims, key: str) -> str:
    """Sign `claims` as a compact JWT with HS256."""
    return jwt.encode(dict(claims), key, algorithm=_ALGORITHM)


def verify(token: str, keys: Iterable[str], audiences: Iterable[str], *, now: float, skew: float) -> Claims:
    """Give the claims of a token that one of `keys` signed for one of `audiences`.

    `now` is in seconds since the epoch, `skew` in seconds. `exp` is required, `nbf` is honoured,
    issuer and `iat` are not looked at. Raises InvalidToken.
    """
    claims = _signed_claims(token, keys)
    _check_times(claims, now, skew)
    accepted = set(map(_normal, audiences))
    if accepted.isdisjoint(map(_normal, strings(claims.get("aud")))):
        raise InvalidToken("the token is made out to another address (aud)")
    return claims


def verify_for_request(
    token: str, keys: Iterable[str], endpoints: Iterable[str], path: str, *, now: float, skew: float
) -> Claims:
    """Give the claims of a token that one of `keys` signed for one HTTP request.

    The request is `path`, as it was sent (percent-encoded, below the endpoint); the token's audience is
    that address at one of `endpoints`. Query and fragment of an audience are not compared: SDKs sign
    the query, leave it out, or write it in another way than their HTTP library sends it. Times as in
    `verify`. Raises InvalidToken.
    """
    short = len(token) <= MAX_REMEMBERED_CHARACTERS
    claims = (_remembered_claims if short else _signed_claims)(token, tuple(keys))
    _check_times(claims, now, skew)
    audiences = tuple(strings(claims.get("aud")))
    known_as = tuple(endpoints)
    short = short and len(path) + sum(map(len, known_as)) <= MAX_REMEMBERED_CHARACTERS
    if not (_remembered_address if short else _names_address)(audiences, known_as, path):
        raise InvalidToken("the token is made out to another address (aud)")
    return claims


def _names_address(audiences: tuple[str, ...], endpoints: tuple[str, ...], path: str) -> bool:
    places = filter(None, map(addresses.read, endpoints))
    targets = {(place.authority, _folded(f"{place.rest.rstrip('/')}{path}")) for place in places}
    return any(_is_for(audience, targets) for audience in audiences)


_remembered_address = lru_cache(maxsize=REMEMBERED_TOKENS)(_names_address)


def _is_for(audience: str, targets: set[tuple[str, str]]) -> bool:
    """Tell whether an audience names one of `targets` (authority, folded path).

    SDKs and HTTP libraries escape differently, so both sides are compared percent-decoded; the
    audience also as it stands, because some SDKs sign the decoded address. Decoded once, and only
    after query and fragment were cut off: what decodes to a question mark belongs to a name.
    """
    address = addresses.read(audience.strip())
    if address is None:
        return False
    path = _END_OF_PATH.split(address.rest, maxsplit=1)[0]
    return not targets.isdisjoint({(address.authority, _folded(path)), (address.authority, _without_slash(path))})


def _normal(audience: str) -> tuple[str, str, str] | str:
    """An audience in the one form in which it is compared; what is no address of ours is compared as it is."""
    address = addresses.read(audience.strip())
    if address is None:
        return audience
    path = _END_OF_PATH.split(address.rest, maxsplit=1)[0]
    # Query and fragment are kept, though no audience has one: what differs there must not become the same.
    return address.authority, _folded(path), address.rest[len(path) :]


_END_OF_PATH = re.compile("[?#]")


def _folded(path: str) -> str:
    return _without_slash(unquote(path))


def _without_slash(path: str) -> str:
    return path.lower().removesuffix("/")


def _check_times(claims: Claims, now: float, skew: float) -> None:
    expires = _number(claims, "exp")
    if expires is None:
        raise InvalidToken("the token has no expiry (exp)")
    if expires + skew <= now:
        raise InvalidToken("the token has expired")
    not_before = _number(claims, "nbf")
    if not_before is not None and not_before - skew > now:
        raise InvalidToken("the token is not valid yet (nbf)")


def _signed_claims(token: str, keys: Iterable[str]) -> Claims:
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise InvalidToken("the token is too long")
    for key in keys:
        try:
            claims: Any = json.loads(_signatures.decode(token, key, algorithms=[_ALGORITHM]))
            if not isinstance(claims, dict):
                raise jwt.DecodeError
            # Half a surrogate pair can be written in JSON, and then on no wire that the claims go out by.
            json.dumps(claims, ensure_ascii=False).encode()
            return claims
        except jwt.InvalidSignatureError:
            continue
        # RecursionError: a payload nested so deep that json gives up. ValueError: text that is none.
        except (jwt.PyJWTError, RecursionError, ValueError):
            raise InvalidToken("the token is not a JWT signed with HS256") from None
    raise InvalidToken("the token is not signed with a key of this service")


@lru_cache(maxsize=REMEMBERED_TOKENS)
def _remembered_claims(token: str, keys: tuple[str, ...]) -> Claims:
    # Only what was signed is remembered: what cannot be trusted takes no place from what can.
    return MappingProxyType(_signed_claims(token, keys))


def _number(claims: Claims, name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidToken(f"the token's {name} is not a number")
    # Python's JSON reads NaN and Infinity, against which no clock ever runs out.
    if not -MAX_TIME <= value <= MAX_TIME:
        raise InvalidToken(f"the token's {name} is not a time")
    return value


def strings(value: Any) -> Sequence[str]:
    """Read a claim that libraries write as a string or as an array of strings; others give nothing."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        return tuple(item for item in value if isinstance(item, str))
    return ()


def client_audience(endpoint: str, hub: str) -> str:
    """The audience of tokens that open WebSockets of `hub`: ``{endpoint}/client/hubs/{hub}``."""
    return f"{endpoint.rstrip('/')}/client/hubs/{hub}"


def client_audiences(endpoints: Iterable[str], hub: str) -> set[str]:
    """Every audience accepted at the WebSocket endpoint of `hub`."""
    return {client_audience(endpoint, hub) for endpoint in endpoints}


def client_claims(
    endpoint: str,
    hub: str,
    *,
    now: float,
    minutes: float = 60,
    user_id: str | None = None,
    roles: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> dict[str, Any]:
    """The claims of a client token, as the official SDKs write them: absent things are left out."""
    claims: dict[str, Any] = {
        "aud": client_audience(endpoint, hub),
        "iat": int(now),
        "exp": int(now + minutes * 60),
    }
    if user_id:
        claims["sub"] = user_id
    if roles:
        claims["role"] = list(roles)
    if groups:
        claims["webpubsub.group"] = list(groups)
    return claims


def client_base_url(endpoint: str, hub: str) -> str:
    """``ws(s)://host/client/hubs/{hub}``: the WebSocket address that belongs to an endpoint."""
    return "ws" + client_audience(endpoint, hub).removeprefix("http")


def connection_string(endpoint: str, key: str) -> str:
    """What official SDKs are given: ``Endpoint=…;AccessKey=…;Version=1.0;``."""
    return f"Endpoint={endpoint};AccessKey={key};Version=1.0;"
