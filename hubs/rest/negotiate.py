"""Negotiate: a page asks where to connect, and gets a client URL with the roles its user has.

Callers are Django's: a session, an API token, or nobody. Roles and groups come from the role
grants, never from the request. A user id is the account's name; a visitor has none, unless the
hub lets visitors choose one, and never one that belongs to an account.

All of this is read from the database at each call. While that is away, callers whose last answers are remembered
(remembered.py) get a client URL all the same, others 503.
"""

from __future__ import annotations

import copy
import logging
import re
import unicodedata
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import RequestDataTooBig
from django.db import connections
from django.db.models import Q
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from hubs import client_urls, conf, hub_settings
from hubs.models import RoleGrant
from hubs.rest import endpoints, exceptions, throttling
from hubs.rest.authentication import ActiveSession, ApiTokens
from hubs.rest.exceptions import BadRequest, NotAllowed, NotExisted, Unavailable
from hubs.rest.remembered import Remembered
from hubs.rest.rendering import JSONForEverybody, Utf8JSON
from hubs.rules import names

logger = logging.getLogger(__name__)

# What visitors may call themselves; accounts have Django's own limit.
MAX_VISITOR_ID_CHARACTERS = 128
MAX_BODY_BYTES = 16 * 1024

# Control characters; format characters, with which a name looks like another (direction overrides, joiners of no
# width); half surrogate pairs, which no other program takes for text; separators of lines and paragraphs.
_NOT_IN_IDS = ("Cc", "Cf", "Cs", "Zl", "Zp")


# What is kept for the time when the database is away. Visitors choose hubs and names, so theirs are apart: nobody can
# push the answers about accounts out.
_KEPT = 10_000
_accounts: Remembered[Any] = Remembered("who negotiates", _KEPT)
_grants: Remembered[tuple[list[str], list[str]]] = Remembered("the role grants of an account", _KEPT)
_grants_of_visitors: Remembered[tuple[list[str], list[str]]] = Remembered("the role grants of visitors", _KEPT)
_names: Remembered[bool] = Remembered("whether a visitor's user id is an account's", _KEPT)


def _digest(credential: str) -> bytes:
    return blake2b(credential.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class RememberedTokens(ApiTokens):
    """API tokens, those that were good a while ago also while the database is away."""

    def authenticate_credentials(self, key: str) -> tuple[Any, Any]:
        """Give the user of a token. Raises AuthenticationFailed, DatabaseUnavailable."""
        read = super().authenticate_credentials
        return _accounts.ask(("token", _digest(key)), lambda: read(key))


class RememberedSession(ActiveSession):
    """The browser's session, one that was good a while ago also while the database is away."""

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        """Give the signed-in user, None for a visitor. As above; raises DatabaseUnavailable."""
        asked: Any = request._request
        cookie = asked.COOKIES.get(django_settings.SESSION_COOKIE_NAME)

        def read() -> Any:
            return copy.copy(asked.user) if asked.user.is_authenticated else None

        if cookie and hasattr(asked, "user"):
            asked.user = _accounts.ask(("session", _digest(cookie)), read) or AnonymousUser()
        return super().authenticate(request)


class Negotiate(APIView):
    """`GET` or `POST /api/negotiate/{hub}`: `{"url", "baseUrl", "token", "expires"}`."""

    # Tokens first: their challenge is what a 401 answers with.
    authentication_classes = [RememberedTokens, RememberedSession]
    permission_classes = []
    throttle_classes = [throttling.PerUser, throttling.PerAddress]
    renderer_classes = [Utf8JSON]
    parser_classes = [JSONParser, FormParser, MultiPartParser]
    content_negotiation_class = JSONForEverybody
    http_method_names = ["get", "post", "head"]

    def get(self, request: Request, hub: str | None = None) -> Response:
        """Hand out a client URL."""
        in_hub = _hub(hub or _said(request, "hub") or conf.settings.DEFAULT_HUB)
        user = request.user
        user_id: str | None
        if user.is_authenticated:
            user_id = _account_id(user, _said(request, "userId", "id"))
        else:
            user_id = _visitor_id(in_hub, _said(request, "userId", "id"))
        known, who = (_grants, user.pk) if user.is_authenticated else (_grants_of_visitors, None)
        roles, groups = known.ask((who, in_hub), lambda: _granted(user, in_hub))
        try:
            client_url = client_urls.issue(
                in_hub,
                user_id=user_id,
                roles=roles,
                groups=groups,
                minutes=conf.settings.NEGOTIATE_LIFETIME_MINUTES,
                endpoint=endpoints.for_clients(request._request),
            )
        except client_urls.CannotIssue as problem:
            # The caller's own part was checked above, so it is the installation that needs repair.
            logger.error("Negotiate could not make a token for hub %s: %s", in_hub, problem)
            raise Unavailable("The service cannot make a token; its log says why.") from None
        return Response(
            {
                "url": client_url.url,
                "baseUrl": client_url.base_url,
                "token": client_url.token,
                "expires": client_url.expires.isoformat(timespec="seconds").replace("+00:00", "Z"),
            }
        )

    def post(self, request: Request, hub: str | None = None) -> Response:
        """The same; parameters may also be in the body, as JSON or form."""
        return self.get(request, hub)

    def get_exception_handler(self) -> Any:
        """Errors look as everywhere in this room."""
        return exceptions.handler

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """No cache on the way may keep a token, or an answer about one."""
        response = super().finalize_response(request, response, *args, **kwargs)
        response["Cache-Control"] = "no-store"
        return response


def _said(request: Request, *parameter: str) -> str | None:
    """What a parameter says, in the query or the body; several names may mean the same. None = not said, or empty."""
    said: list[Any] = [value for name in parameter for value in request.query_params.getlist(name)]
    if request.method == "POST":
        body = _body(request)
        if not isinstance(body, Mapping):
            raise BadRequest("The body has to be a JSON object or a form, or empty.")
        said += [body[name] for name in parameter if body.get(name) is not None]
    said = [value for value in said if value != ""]
    if not said:
        return None
    if any(value != said[0] for value in said):
        raise BadRequest(f"{' and '.join(parameter)} were given with different values; give one.", target=parameter[0])
    if not isinstance(said[0], str):
        raise BadRequest(f"{parameter[0]} has to be a text.", target=parameter[0])
    return said[0]


def _body(request: Request) -> Any:
    # DRF's parsers read whatever comes; Django's own limit is not theirs.
    if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_BODY_BYTES:
        raise RequestDataTooBig
    try:
        return request.data
    except RecursionError:
        raise BadRequest("The body is nested too deep.") from None


def _hub(name: str) -> str:
    if not names.is_hub_name(name):
        raise BadRequest(
            "Invalid hub name. Start with a letter, then use at most 127 letters, digits or _ ` , . [ ] characters.",
            target="hub",
        )
    if conf.settings.REQUIRE_KNOWN_HUBS and not hub_settings.current().hub(name).known:
        raise NotExisted(
            "There is no such hub. Create it first, in the admin or with: manage.py webpubsub hub create.", target="hub"
        )
    return names.canonical_hub(name)


def _account_id(user: AbstractBaseUser, said: str | None) -> str:
    name = user.get_username()
    if said is not None and said != name:
        raise NotAllowed(f"You are signed in as {name}. Leave the user id out, or give that one.", target="userId")
    return name


def _visitor_id(hub: str, said: str | None) -> str | None:
    if said is None:
        return None
    if not said.strip() or said != said.strip() or len(said) > MAX_VISITOR_ID_CHARACTERS or not _is_readable(said):
        raise BadRequest(
            f"A user id has 1 to {MAX_VISITOR_ID_CHARACTERS} characters, all of them visible (no control, format or "
            "line separator characters), and neither begins nor ends with white space.",
            target="userId",
        )
    if not hub_settings.current().hub(hub).anonymous_user_ids:
        raise NotAllowed(
            "In this hub only people who are signed in have a user id. Sign in, leave the user id out, or have "
            "“anonymous visitors may choose a user id” switched on for the hub.",
            target="userId",
        )
    if _names.ask(said, lambda: _belongs_to_account(said)):
        raise NotAllowed("This user id belongs to an account; sign in to use it.", target="userId")
    return said


def _is_readable(text: str) -> bool:
    return not any(unicodedata.category(character) in _NOT_IN_IDS for character in text)


def _belongs_to_account(user_id: str) -> bool:
    """Tell whether somebody has this name, in any letter case."""
    accounts = get_user_model()
    # Django stores names in this form, so that look-alike code points are one name.
    name = accounts.normalize_username(user_id)
    field = accounts.USERNAME_FIELD
    same = Q(**{f"{field}__iexact": name})
    if not name.isascii() and connections[accounts.objects.db].vendor == "sqlite":
        # SQLite's own comparison knows the letter case of ASCII alone; its REGEXP is Python's, given by Django.
        same |= Q(**{f"{field}__iregex": rf"\A{re.escape(name)}\Z"})
    return accounts.objects.filter(same).exists()


def _granted(user: AbstractBaseUser | AnonymousUser, hub: str) -> tuple[list[str], list[str]]:
    """The roles and first groups that the role grants give a caller."""
    roles: list[str] = []
    groups: list[str] = []
    for grant in RoleGrant.of(user, hub):
        roles.append(grant.role_string)
        group = grant.literal_group
        if grant.join_at_connect and group is not None:
            groups.append(group)
    return roles, groups
