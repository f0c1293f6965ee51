"""What staff does to hubs, keys and role grants, once: admin pages, command line and management API call it.

Who may do what is decided by the callers. Each function does its work in one transaction, together
with a line in the log of staff actions when `by` says who is acting (the command line has nobody to
name). A line says what was done, and to which key, never the key. Changes are in force in every
process within two seconds, because saving and deleting rows steps the settings' version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, Group
from django.core.exceptions import ValidationError
from django.db import models, transaction

from hubs.models import AccessKey, Hub, RoleGrant
from hubs.rules.names import canonical_hub

# As in django.contrib.admin.models, which can be imported only where the admin is installed.
_ADDITION, _CHANGE, _DELETION = 1, 2, 3


# Who is acting. Django calls visitors users too; the doors let none through.
Actor = AbstractBaseUser | AnonymousUser | None


class AlreadyThere(Exception):
    """There is a hub of that name."""


class NoKeys(Exception):
    """The scope has no access keys."""


def record(by: Actor, rows: Iterable[models.Model], flag: int, message: str) -> None:
    """Write lines into the log of staff actions, where there is one and somebody acts."""
    if by is None or by.pk is None or not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import LogEntry

    LogEntry.objects.log_actions(by.pk, list(rows), flag, message)


# Hubs


def find_hub(name: str) -> Hub | None:
    """The hub of that name, in any letter case; None when none was created."""
    return Hub.objects.filter(name=canonical_hub(name)).first()


@transaction.atomic
def create_hub(name: str, fields: Mapping[str, Any], *, by: Actor = None) -> Hub:
    """Make a hub. Raises AlreadyThere."""
    hub, created = Hub.objects.get_or_create(name=canonical_hub(name), defaults=fields)
    if not created:
        raise AlreadyThere
    record(by, [hub], _ADDITION, "Added.")
    return hub


def ensure_hub(name: str, *, by: Actor = None) -> Hub:
    """The hub of that name, made with the defaults if there is none."""
    try:
        return find_hub(name) or create_hub(name, {}, by=by)
    except AlreadyThere:
        # Somebody else made it between the two.
        return Hub.objects.get(name=canonical_hub(name))


@transaction.atomic
def change_hub(name: str, fields: Mapping[str, Any], *, by: Actor = None) -> Hub:
    """Set some fields of a hub and leave the others. Raises Hub.DoesNotExist."""
    hub = Hub.objects.select_for_update().get(name=canonical_hub(name))
    for field, value in fields.items():
        setattr(hub, field, value)
    hub.save()
    record(by, [hub], _CHANGE, f"Changed {', '.join(sorted(fields))}." if fields else "Changed nothing.")
    return hub


@transaction.atomic
def delete_hub(hub: Hub, *, by: Actor = None) -> None:
    """Delete a hub's settings with its own keys and role grants. Open connections live on."""
    record(by, [hub], _DELETION, "Deleted.")
    hub.delete()


# Access keys. A scope is the whole service (None) or one hub.


def show_keys(scope: Hub | None, *, by: Actor = None) -> list[AccessKey]:
    """The keys of a scope, primary first, for a caller that shows them. Raises NoKeys."""
    pair = list(AccessKey.objects.filter(hub=scope).order_by("slot"))
    if not pair:
        raise NoKeys
    record(by, pair, _CHANGE, "Revealed the key.")
    return pair


@transaction.atomic
def make_keys(scope: Hub | None, *, by: Actor = None) -> list[AccessKey]:
    """Make the keys that a scope lacks, and give both."""
    known = set(AccessKey.objects.filter(hub=scope).values_list("pk", flat=True))
    pair = AccessKey.objects.ensure_pair(scope)
    record(by, [key for key in pair if key.pk not in known], _ADDITION, "Made the key.")
    return pair


def has_key(scope: Hub | None, slot: str) -> bool:
    """Whether `regenerate_key` replaces a key rather than making one."""
    return AccessKey.objects.filter(hub=scope, slot=slot).exists()


@transaction.atomic
def regenerate_key(scope: Hub | None, slot: str, *, by: Actor = None) -> list[AccessKey]:
    """Replace one key and give both. A hub that lacks it gets what it lacks of a pair. Raises NoKeys for the service.

    Tokens signed with the old key open no new connections; open ones and the other key live on.
    """
    key = AccessKey.objects.select_for_update().filter(hub=scope, slot=slot).order_by().first()
    if key is None and scope is None:
        raise NoKeys
    if key is not None:
        key.regenerate()
        record(by, [key], _CHANGE, "Regenerated the key.")
    return make_keys(scope, by=by)


@transaction.atomic
def remove_keys(hub: Hub, *, by: Actor = None) -> None:
    """Take away the keys limited to a hub. The service's keys open it as before."""
    pair = list(AccessKey.objects.filter(hub=hub))
    record(by, pair, _DELETION, "Deleted.")
    # One by one, so that each sends the signal that other processes learn from.
    for key in pair:
        key.delete()


# Role grants


@transaction.atomic
def save_role_grant(
    grant: RoleGrant, names: Mapping[str, str | None], fields: Mapping[str, Any], *, by: Actor = None
) -> RoleGrant:
    """Set a new or present grant's fields, and the user, group and hub it names. Raises ValidationError."""
    problems: dict[str, str] = {}
    for field, name in names.items():
        found = None if name is None else _NAMED[field](name)
        if name is not None and found is None:
            problems[field] = _UNKNOWN[field]
        else:
            setattr(grant, field, found)
    if problems:
        raise ValidationError(problems)
    for field, value in fields.items():
        setattr(grant, field, value)
    new = grant.pk is None
    grant.full_clean()
    grant.save()
    changed = ", ".join(sorted([*names, *fields]))
    record(by, [grant], _ADDITION if new else _CHANGE, "Added." if new else f"Changed {changed or 'nothing'}.")
    return grant


@transaction.atomic
def delete_role_grant(grant: RoleGrant, *, by: Actor = None) -> None:
    """Delete a grant. Tokens that were made with it stay good until they expire."""
    record(by, [grant], _DELETION, "Deleted.")
    grant.delete()


def _user(name: str) -> Any:
    accounts: Any = get_user_model()
    return accounts._default_manager.filter(**{accounts.USERNAME_FIELD: name}).first()


_NAMED: Mapping[str, Any] = {
    "user": _user,
    "group": lambda name: Group.objects.filter(name=name).first(),
    "hub": find_hub,
}
_UNKNOWN = {
    "user": "There is no user of that name.",
    "group": "There is no Django group of that name.",
    "hub": "There is no hub of that name with settings of its own. Create it first, or write null for every hub.",
}
