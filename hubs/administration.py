"""What staff does to hubs, keys and role grants, once: admin pages, command line and management API call it.

Event handlers and listeners are part of their hub. Who may do what is decided by the callers. Each
function does its work in one transaction, together with a line in the log of staff actions when `by`
says who is acting (the command line has nobody to name). A line says what was done, and to which key,
never the key. Changes are in force in every process within two seconds, because saving and deleting
rows steps the settings' version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, Group
from django.core.exceptions import ValidationError
from django.db import models, transaction

from hubs.models import AccessKey, EventHandler, EventListener, Hub, RoleGrant, SettingsVersion
from hubs.rules import event_routing
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
    """Make a hub. Its event handlers and listeners are among the fields. Raises AlreadyThere and ValidationError."""
    own = {field: value for field, value in fields.items() if field not in _PARTS}
    hub, created = Hub.objects.get_or_create(name=canonical_hub(name), defaults=own)
    if not created:
        raise AlreadyThere
    _set_parts(hub, fields)
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
    """Set some fields of a hub and leave the others. Raises Hub.DoesNotExist and ValidationError.

    Event handlers and listeners are fields too, and set as a whole.
    """
    hub = Hub.objects.select_for_update().get(name=canonical_hub(name))
    for field, value in fields.items():
        if field not in _PARTS:
            setattr(hub, field, value)
    hub.save()
    _set_parts(hub, fields)
    record(by, [hub], _CHANGE, f"Changed {', '.join(sorted(fields))}." if fields else "Changed nothing.")
    return hub


@transaction.atomic
def delete_hub(hub: Hub, *, by: Actor = None) -> None:
    """Delete a hub's settings with its own keys and role grants. Open connections live on."""
    record(by, [hub], _DELETION, "Deleted.")
    hub.delete()


# Event handlers and listeners: lists that belong to a hub and are set as a whole, with dictionaries of the
# model's fields. `token` is the secret; None keeps the one that was there for the same address.

Part = EventHandler | EventListener

# Field of a hub → the rows' model, and what tells that a row is meant to be the same one.
_PARTS: Mapping[str, tuple[type[Part], tuple[str, ...]]] = {
    "event_handlers": (EventHandler, ("url_template",)),
    "event_listeners": (EventListener, ("kind", "url", "stream")),
}


def _set_parts(hub: Hub, fields: Mapping[str, Any]) -> None:
    problems: dict[str, list[str]] = {}
    for name in _PARTS:
        if name in fields:
            problems |= _set_part(hub, name, fields[name])
    if problems:
        # The transaction of the caller ends with this, so nothing of it stays.
        raise ValidationError(problems)


def _set_part(hub: Hub, name: str, wanted: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Make a hub's list what is wanted; give what is wrong with it, by member: `event_handlers[0].url_template`."""
    # A change takes the version's row first: two changes at once are one after the other, and the count below holds.
    SettingsVersion.step()
    model, identity = _PARTS[name]
    present: list[Any] = list(model._default_manager.filter(hub=hub))
    problem = _too_many(hub, name, len(wanted))
    if problem:
        return {name: [problem]}
    problems: dict[str, list[str]] = {}
    for place, fields in enumerate(wanted):
        values = {"position": place, **fields} if model is EventHandler else dict(fields)
        token = values.pop("token", None)
        # The row stays the same one where the address does: with its token, its id and its history.
        same = [row for row in present if all(getattr(row, field) == values[field] for field in identity)]
        row: Any = same[0] if same else model(hub=hub)
        if same:
            present.remove(row)
        for field, value in values.items():
            setattr(row, field, value)
        if token is not None:
            row.token = token
        try:
            row.full_clean(exclude=["hub"])
        except ValidationError as problem_of_row:
            texts = problem_of_row.message_dict
            problems |= {f"{name}[{place}].{field}": said for field, said in texts.items()}
            continue
        row.save()
    for row in present:
        row.delete()
    return problems


def _too_many(hub: Hub, name: str, wanted: int) -> str:
    if name == "event_handlers" and wanted > event_routing.MAX_HANDLERS_PER_HUB:
        return f"A hub has at most {event_routing.MAX_HANDLERS_PER_HUB} event handlers."
    if name == "event_listeners" and wanted:
        others = EventListener.objects.exclude(hub=hub).count()
        if others + wanted > event_routing.MAX_LISTENERS:
            return (
                f"All hubs together have at most {event_routing.MAX_LISTENERS} event listeners, "
                f"and other hubs have {others}."
            )
    return ""


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
