"""The first set-up: keys, a hub, grants for the demos, somebody who may sign in.

It runs at every `make run`, so each part looks first whether it is needed. Keys and an administrator
are made whenever there are none. The hubs and grants of the demos are made once, on an installation
that never had keys: what an operator took away later does not come back.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from hubs.models import AccessKey, Hub, RoleGrant

CHAT_HUB = "chat"
STREAM_HUB = "stream"
MODERATED_HUB = "moderated"


@dataclass(frozen=True, slots=True)
class Administrator:
    """The account made at first set-up. `warning` is set only when needed.

    `password` is the one that was made up; None: it was given, or there is none yet and nobody can sign in.
    """

    username: str
    password: str | None = None
    can_sign_in: bool = True
    created: bool = True
    warning: str = ""


@dataclass(frozen=True, slots=True)
class SetUp:
    """What the set-up found or made."""

    primary_key: str
    first: bool
    administrator: Administrator | None


def set_up(username: str, password: str, *, may_make_up: bool = True) -> SetUp:
    """Make what is missing.

    Where `password` is empty the administrator gets one that is made up, or none if that `may_make_up` none, because
    nobody would be told: then `manage.py changepassword` sets the first.
    """
    try:
        return _set_up(username, password, may_make_up)
    except IntegrityError:
        # Another process did the same at the same moment; now it is all there.
        return _set_up(username, password, may_make_up)


@transaction.atomic
def _set_up(username: str, password: str, may_make_up: bool) -> SetUp:
    first = not AccessKey.objects.of_service().exists()
    primary, _ = AccessKey.objects.ensure_pair()
    if first and not Hub.objects.filter(name=CHAT_HUB).exists():
        _make_demo_hubs()
    return SetUp(primary.text, first, _administrator(username, password, may_make_up))


def _make_demo_hubs() -> None:
    """The demos work for visitors at once; hubs of the operator's own get nothing by itself."""
    anonymous = RoleGrant.Who.ANONYMOUS
    chat = Hub.objects.create(name=CHAT_HUB, anonymous_user_ids=True)
    for role in RoleGrant.Role.values:
        RoleGrant.objects.create(hub=chat, who=anonymous, role=role)
    stream, _ = Hub.objects.get_or_create(name=STREAM_HUB)
    # Nobody has a right in the moderated chat; its moderator sends.
    Hub.objects.get_or_create(name=MODERATED_HUB)
    RoleGrant.objects.get_or_create(hub=stream, who=anonymous, role=RoleGrant.Role.JOIN_LEAVE, group_pattern=STREAM_HUB)


def _administrator(username: str, password: str, may_make_up: bool) -> Administrator | None:
    """Make a superuser when there is none. Gives None when there is one."""
    users: Any = get_user_model()
    if users._default_manager.filter(is_superuser=True).exists():
        return None
    field = users._meta.get_field(users.USERNAME_FIELD)
    field.run_validators(username)
    if users._default_manager.filter(**{field.name: username}).exists():
        return Administrator(
            username,
            created=False,
            warning=f"No superuser was made: there is a user {username} without the right to be one. "
            "Set ADMIN_USERNAME to another name, or run: manage.py createsuperuser",
        )
    made_up = secrets.token_urlsafe(12) if may_make_up and not password else None
    # Without a password Django stores one that nothing matches.
    users._default_manager.create_superuser(**{field.name: username}, password=password or made_up)
    warning = ""
    if password:
        try:
            validate_password(password)
        except ValidationError as problem:
            complaints = " ".join(problem.messages)
            warning = f"ADMIN_PASSWORD is weak: {complaints} Change it: manage.py changepassword {username}"
    return Administrator(username, made_up, can_sign_in=bool(password or made_up), warning=warning)
