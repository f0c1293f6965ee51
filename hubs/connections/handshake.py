"""From a handshake request to a connection: hub, token, mode, connect handler, subprotocol.

The checks come in the order in which the protocol description lists them (client protocol §1), for
the first that fails decides the HTTP status. Pure reading is up front; the connect handler is the
only thing waited for besides the settings.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from django.conf import settings as django_settings
from django.contrib.messages.storage.cookie import CookieStorage

from hubs import conf, hub_settings
from hubs.errors import HandshakeRefused
from hubs.protocols.codec import CODECS, Codec, choose
from hubs.protocols.plain import PlainCodec
from hubs.rules import tokens
from hubs.rules.names import canonical_hub, is_group_name, is_hub_name
from hubs.rules.quirks import ack_pause_secs
from hubs.rules.roles import Permissions
from hubs.upstream import ConnectAnswer, ConnectRequest, dispatch
from hubs.upstream.session import Session

ACCESS_TOKEN = "access_token"  # noqa: S105 (the parameter's name)
CONNECTION_ID = "awps_connection_id"
RECONNECTION_TOKEN = "awps_reconnection_token"  # noqa: S105

MAX_QUERY_FIELDS = 1000

# Kept from event handlers: credentials for this service and for proxies in front of it, and headers that only
# proxies of the original service write. Of the cookies only the service's own are kept back, see `_cookies_of_others`.
_PRIVATE_HEADERS = ("authorization", "proxy-authorization")
_PRIVATE_HEADER_PREFIX = "x-asrs-internal-"


@dataclass(frozen=True, slots=True)
class Handshake:
    """A WebSocket request as it came. `hub` is what the path names, None on the legacy path.

    `endpoints`: those that its token may be made out to. `origin`: the host that its connection's events come from.
    """

    hub: str | None
    query_string: str
    headers: Sequence[tuple[str, str]]
    subprotocols: Sequence[str]
    endpoints: Sequence[str]
    origin: str | None = None

    @property
    def query(self) -> list[tuple[str, str]]:
        """The query's fields in order. Raises HandshakeRefused when there are absurdly many."""
        try:
            return parse_qsl(self.query_string, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
        except ValueError:
            raise HandshakeRefused(400, f"More than {MAX_QUERY_FIELDS} query parameters.") from None

    def header(self, name: str) -> str | None:
        """The first header called `name` (lower case)."""
        return next((value for key, value in self.headers if key.lower() == name), None)


@dataclass(frozen=True, slots=True)
class Admission:
    """What a new connection starts with."""

    hub: str
    codec: Codec
    subprotocol: str | None
    user_id: str | None
    permissions: Permissions
    groups: tuple[str, ...]
    session: Session
    ack_pause_secs: float


def hub_of(handshake: Handshake) -> str:
    """The hub that is asked for, in its canonical spelling. Raises HandshakeRefused (400)."""
    name = handshake.hub
    if name is None:
        name = _last(handshake.query, "hub")
    if not name or not is_hub_name(name):
        raise HandshakeRefused(
            400, "Invalid hub name. Use /client/hubs/{hub}; a hub starts with a letter and has letters and digits."
        )
    return canonical_hub(name)


def asks_for_recovery(handshake: Handshake) -> tuple[str, str] | None:
    """The connection that the client wants back, and its token for it; None when it wants a new one."""
    connection_id = _last(handshake.query, CONNECTION_ID)
    return (connection_id, _last(handshake.query, RECONNECTION_TOKEN) or "") if connection_id else None


async def admit(handshake: Handshake, connection_id: str) -> Admission:
    """Decide about a new connection. Raises HandshakeRefused with the status to answer, DatabaseUnavailable."""
    hub = hub_of(handshake)
    query = handshake.query
    snapshot = await hub_settings.acurrent()
    settings = snapshot.hub(hub)
    if conf.settings.REQUIRE_KNOWN_HUBS and not settings.known:
        raise HandshakeRefused(404, f"There is no hub {hub}. Create it first: manage.py webpubsub hub create {hub}")

    claims = _claims(handshake, query, hub, snapshot.keys_of(hub), anonymous=settings.anonymous_connect)
    mode = _simple_mode(query)
    groups = tokens.strings(claims.get("webpubsub.group"))
    _check_groups(groups, status=400)

    session = Session(hub, connection_id, _user_id(claims), origin=handshake.origin)
    answer = await dispatch.connect(
        session,
        ConnectRequest(
            context=session.context,
            claims={name: _texts(value) for name, value in claims.items()},
            query=_lists((name, value) for name, value in query if name.lower() != ACCESS_TOKEN),
            headers=_lists(_public(handshake.headers)),
            subprotocols=list(handshake.subprotocols),
        ),
    )
    if answer.groups:
        groups = tuple(answer.groups)
        _check_groups(groups, status=500)
    roles = tokens.strings(claims.get("role")) if answer.roles is None else answer.roles
    subprotocol, codec = _subprotocol(handshake.subprotocols, answer)
    session.admitted(_user_id(claims) if answer.user_id is None else answer.user_id or None, subprotocol)
    return Admission(
        hub=hub,
        codec=codec if codec.named or mode is None else mode,
        subprotocol=subprotocol,
        user_id=session.user_id,
        permissions=Permissions(roles),
        groups=tuple(dict.fromkeys(groups)),
        session=session,
        ack_pause_secs=ack_pause_secs(handshake.header("user-agent") or ""),
    )


def _claims(
    handshake: Handshake, query: Sequence[tuple[str, str]], hub: str, keys: Sequence[str], *, anonymous: bool
) -> Mapping[str, Any]:
    """The claims of the token; none for a welcome stranger. The query's token wins over the header's."""
    token = _last(query, ACCESS_TOKEN, any_case=True)
    if not token:
        scheme, _, value = (handshake.header("authorization") or "").partition(" ")
        token = value.strip() if scheme.lower() == "bearer" else None
    if not token:
        if anonymous:
            return {}
        raise HandshakeRefused(401, "An access token is needed: ?access_token=… or an Authorization: Bearer header.")
    try:
        return tokens.verify(
            token,
            keys,
            tokens.client_audiences(handshake.endpoints, hub),
            now=time.time(),
            skew=conf.settings.CLOCK_SKEW_SECS,
        )
    except tokens.InvalidToken as problem:
        raise HandshakeRefused(401, f"Invalid access token: {problem}.") from None


def _user_id(claims: Mapping[str, Any]) -> str | None:
    subject = claims.get("sub")
    return subject if isinstance(subject, str) and subject else None


def _simple_mode(query: Sequence[tuple[str, str]]) -> PlainCodec | None:
    """What a simple client asked to have done with its messages; checked even where a subprotocol is used."""
    mode = (_last(query, "webpubsub_mode") or "sendEvent").lower()
    if mode == "sendevent":
        return None
    if mode != "sendtogroup":
        raise HandshakeRefused(400, "Invalid webpubsub_mode: sendEvent or sendToGroup.")
    group = _last(query, "group") or ""
    if not is_group_name(group):
        raise HandshakeRefused(400, "webpubsub_mode=sendToGroup needs group=…, of 1 to 1024 characters.")
    no_echo = (_last(query, "noEcho") or "false").lower()
    if no_echo not in ("true", "false"):
        raise HandshakeRefused(400, "Invalid noEcho: true or false.")
    return PlainCodec(group, no_echo == "true")


def _subprotocol(offered: Sequence[str], answer: ConnectAnswer) -> tuple[str | None, Codec]:
    """The subprotocol in the client's own spelling, and its codec."""
    if not answer.subprotocol:
        return choose(offered)
    chosen = answer.subprotocol.lower()
    spelling = next((name for name in offered if name.lower() == chosen), None)
    if spelling is None:
        raise HandshakeRefused(500, "The event handler chose a subprotocol that was not offered.")
    # One that the service does not speak is the application's own: its messages pass through bare.
    return spelling, CODECS.get(chosen) or PlainCodec()


def _check_groups(groups: Sequence[str], *, status: int) -> None:
    if not all(isinstance(group, str) and is_group_name(group) for group in groups):
        raise HandshakeRefused(status, "Invalid group name: 1 to 1024 characters, not only white space.")
    if len(set(groups)) > conf.settings.MAX_GROUPS_PER_CONNECTION:
        raise HandshakeRefused(status, "Too many groups for one connection.")


def _last(query: Sequence[tuple[str, str]], name: str, *, any_case: bool = False) -> str | None:
    """The last value of a query parameter. An empty one is as none everywhere: some clients write all there are."""
    values = [value for key, value in query if key == name or (any_case and key.lower() == name)]
    return values[-1] if values else None


def _texts(value: Any) -> list[str]:
    return [_as_text(item) for item in (value if isinstance(value, list) else [value])]


def _as_text(value: Any) -> str:
    """A claim's value as the text that JSON has for it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _lists(pairs: Any) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for name, value in pairs:
        lists.setdefault(name, []).append(value)
    return lists


def _public(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers that event handlers may see."""
    public = []
    for name, value in headers:
        lower = name.lower()
        if lower in _PRIVATE_HEADERS or lower.startswith(_PRIVATE_HEADER_PREFIX):
            continue
        if lower == "cookie":
            value = _cookies_of_others(value)
            if not value:
                continue
        public.append((name, value))
    return public


def _cookies_of_others(value: str) -> str:
    """A `Cookie` header without the cookies that sign a browser in to this service; the others as they came.

    Pages and WebSockets share an origin here, so a browser adds the session of whoever is signed in to each
    handshake. The header is cut as Django cuts it, quotation marks or not: what Django would take for a session
    must not pass.
    """
    own = (django_settings.SESSION_COOKIE_NAME, django_settings.CSRF_COOKIE_NAME, CookieStorage.cookie_name)
    pairs = value.split(";")
    kept = [pair for pair in pairs if "=" not in pair or pair.partition("=")[0].strip() not in own]
    # Untouched where nothing was taken out; else without the space that stood behind what was in front.
    return value if len(kept) == len(pairs) else ";".join(kept).strip()
