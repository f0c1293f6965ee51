"""Who may act for whom: which accounts hold nothing that another account does not hold.

Django lets everybody with `change_user` set any account's password, a superuser's too, and everybody who may see API
tokens see all of them; so one permission would be worth all. Here an account is changed, and its API token shown,
by itself, by superusers, and by those who hold each permission that it has.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.db.models import Q, QuerySet


def within(user: Any) -> QuerySet[Any]:
    """The accounts that `user` may act for."""
    accounts = get_user_model()._default_manager.all()
    if user.is_superuser:
        return accounts
    beyond = _beyond(user)
    return accounts.filter(
        Q(pk=user.pk)
        | Q(is_superuser=False)
        & ~Q(pk__in=beyond.exclude(user=None).values("user"))
        & ~Q(pk__in=Group.objects.filter(permissions__in=beyond).exclude(user=None).values("user"))
    )


def groups_within(user: Any) -> QuerySet[Group]:
    """The groups whose members get nothing that `user` does not hold."""
    return Group.objects.exclude(permissions__in=_beyond(user))


def permissions_of(user: Any) -> QuerySet[Permission]:
    """What `user` holds, by itself and by its groups; everything, as a superuser."""
    if user.is_superuser:
        return Permission.objects.all()
    return Permission.objects.filter(Q(user=user) | Q(group__user=user)).distinct()


def _beyond(user: Any) -> QuerySet[Permission]:
    return Permission.objects.exclude(pk__in=permissions_of(user).order_by().values("pk"))
