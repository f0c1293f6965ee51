"""Client URLs: everything a client needs to open a WebSocket, in one piece.

The staff page, the command line, negotiate and REST all hand out the same thing and call `issue`.
It decides what may be written into a token and signs with the primary key; who may ask, and for
which roles, is decided by its callers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from hubs import conf, hub_settings
from hubs.rules import names, tokens

DEFAULT_MINUTES = 60
MIN_MINUTES = 1
MAX_MINUTES = 2**31 - 1  # as in Azure: the largest 32-bit integer
MAX_USER_ID_CHARACTERS = 1024


class CannotIssue(ValueError):
    """No client URL can be made of this. `field` names the parameter at fault, or is empty."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field


@dataclass(frozen=True, slots=True)
class ClientUrl:
    """A client's way in. `url` is `base_url` with `token` in its query; after `expires` it opens no new connections."""

    url: str = field(repr=False)
    base_url: str
    token: str = field(repr=False)
    expires: datetime
    claims: Mapping[str, Any] = field(repr=False)


def issue(
    hub: str,
    *,
    user_id: str | None = None,
    roles: Sequence[str] = (),
    groups: Sequence[str] = (),
    minutes: float = DEFAULT_MINUTES,
    endpoint: str | None = None,
    now: float | None = None,
) -> ClientUrl:
    """Sign a client token for `hub` with the primary key and give the URL that carries it. Raises CannotIssue.

    `groups` are joined at connect, whatever the roles say. `endpoint` is the http(s) address clients
    use, the first public endpoint unless told; `now` is in seconds since the epoch. Reads the
    database at most once per SETTINGS_MAX_AGE_SECS, so coroutines go through `database_sync_to_async`.
    """
    check_hub(hub)
    check_minutes(minutes)
    check_user_id(user_id)
    check_groups(groups)
    hub = names.canonical_hub(hub)
    endpoint = (endpoint or conf.settings.PUBLIC_ENDPOINTS[0]).rstrip("/")
    claims = tokens.client_claims(
        endpoint,
        hub,
        now=time.time() if now is None else now,
        minutes=minutes,
        user_id=user_id,
        roles=list(dict.fromkeys(roles)),
        groups=list(dict.fromkeys(groups)),
    )
    token = tokens.sign(claims, _signing_key(hub))
    if len(token) > tokens.MAX_TOKEN_CHARACTERS:
        raise CannotIssue(
            f"The token would have {len(token):,} characters; {tokens.MAX_TOKEN_CHARACTERS:,} are accepted. "
            "Name fewer groups, or use a pattern."
        )
    base_url = tokens.client_base_url(endpoint, hub)
    return ClientUrl(
        url=f"{base_url}?access_token={token}",
        base_url=base_url,
        token=token,
        expires=datetime.fromtimestamp(claims["exp"], UTC),
        claims=MappingProxyType(claims),
    )


def check_hub(hub: str) -> None:
    """Refuse a hub that no connection could be opened to. Raises CannotIssue."""
    if not names.is_hub_name(hub):
        raise CannotIssue(
            "Not a hub name: start with a letter, then use at most 127 letters, digits or _ ` , . [ ] characters.",
            "hub",
        )
    if conf.settings.REQUIRE_KNOWN_HUBS and not _snapshot().hub(hub).known:
        raise CannotIssue("There is no such hub, and this service serves only hubs that were created first.", "hub")


def check_minutes(minutes: float) -> None:
    """Refuse a lifetime out of bounds. Raises CannotIssue."""
    number = isinstance(minutes, int | float) and not isinstance(minutes, bool) and math.isfinite(minutes)
    if not number or not MIN_MINUTES <= minutes <= MAX_MINUTES:
        raise CannotIssue(f"A lifetime is {MIN_MINUTES} to {MAX_MINUTES:,} minutes.", "minutes")


def check_user_id(user_id: str | None) -> None:
    """Refuse what cannot be a user id. Raises CannotIssue."""
    if user_id and (user_id.isspace() or len(user_id) > MAX_USER_ID_CHARACTERS or not names.is_text(user_id)):
        raise CannotIssue(
            f"A user id has at most {MAX_USER_ID_CHARACTERS:,} characters of text and is not only white space.",
            "user_id",
        )


def check_groups(groups: Sequence[str]) -> None:
    """Refuse what cannot be joined. Raises CannotIssue."""
    for group in groups:
        if not names.is_group_name(group):
            raise CannotIssue(
                f"Not a group name: {_cut(group)!r}. A name has 1 to {names.MAX_GROUP_CHARACTERS:,} characters "
                "and is not only white space.",
                "groups",
            )


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


def _snapshot() -> hub_settings.Snapshot:
    try:
        return hub_settings.current()
    except ImproperlyConfigured as problem:
        raise CannotIssue(str(problem)) from None


def _signing_key(hub: str) -> str:
    snapshot = _snapshot()
    keys = snapshot.keys_of(hub)
    if not keys and snapshot.unreadable:
        raise CannotIssue(snapshot.unreadable)
    if not keys:
        raise CannotIssue("The service has no access keys yet. Make them on the Keys page, or run: manage.py bootstrap")
    return keys[0]
