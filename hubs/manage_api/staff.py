"""Who may use the management API, and how often: staff accounts, by Django's own permissions."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from hubs.rest import throttling
from hubs.rest.exceptions import NotAllowed


class Staff(BasePermission):
    """An account that may sign in to the admin, with a permission that the operation's row asks for."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Tell who is known and allowed; who is not known is answered with 401. Raises NotAllowed."""
        user = request.user
        if not user.is_authenticated:
            return False
        if not user.is_staff:
            raise NotAllowed("Only staff accounts manage the service. Have this account made staff in the admin.")
        row = getattr(view, "row", None)
        if row is not None:
            require_any(user, *row.needs)
        return True


def require_any(user: AbstractBaseUser | AnonymousUser, *permissions: str) -> None:
    """Raise NotAllowed unless the account has one of these permissions of the app `hubs`."""
    account: Any = user
    if not any(account.has_perm(f"hubs.{permission}") for permission in permissions):
        wanted = " or ".join(f"hubs.{permission}" for permission in permissions)
        raise NotAllowed(f"This needs the permission {wanted}, which this account does not have.")


class PerStaff(throttling.PerUser):
    """Calls of one staff account."""

    setting = "MANAGE_RATE"
