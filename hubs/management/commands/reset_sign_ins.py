"""`manage.py reset_sign_ins NAME`: let somebody sign in again who failed too often."""

from __future__ import annotations

from typing import Any

from django.core.cache.backends.locmem import LocMemCache
from django.core.management.base import BaseCommand, CommandError, CommandParser

from hubs import conf, sign_in


class Command(BaseCommand):
    help = "Forget the failed sign-ins to an account, so that it can be signed in to again at once. Needs REDIS_URL."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username", help="the name of the account")

    def handle(self, *args: Any, username: str, **options: Any) -> None:
        if isinstance(sign_in.store_of(sign_in.COUNTS), LocMemCache):
            raise CommandError(
                "Without REDIS_URL failed sign-ins are counted in the memory of the running service. Restart it, wait "
                f"{conf.settings.SIGN_IN_COOL_OFF_SECS} seconds, or use “Forget failed sign-ins” in the admin's list "
                "of users."
            )
        try:
            sign_in.forget(username)
        except sign_in.CountsAway:
            raise CommandError("Redis cannot be used, so nothing is forgotten; why is said above.") from None
        self.stdout.write(f"Failed sign-ins to the account {username} are forgotten.")
