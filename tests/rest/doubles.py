"""The verbs of `hubs.operations` as the REST room sees them: what was asked is written down, and answered as told."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from hubs import operations
from hubs.errors import NotFound

GONE = "gone"

VERBS = (
    "send_to_all",
    "send_to_group",
    "send_to_user",
    "send_to_connection",
    "close_all",
    "close_group",
    "close_user",
    "close_connection",
    "connection_exists",
    "group_exists",
    "user_exists",
    "add_connection_to_group",
    "remove_connection_from_group",
    "remove_connection_from_all_groups",
    "add_user_to_group",
    "remove_user_from_group",
    "remove_user_from_all_groups",
    "add_to_groups",
    "remove_from_groups",
    "list_group",
    "grant",
    "revoke",
    "check",
)

# Verbs that look: what is called `gone` is not there. Others that are about one thing raise NotFound for it.
_LOOKING = {"connection_exists", "group_exists", "user_exists"}
_NEVER_MISSING = {
    "send_to_all", "send_to_group", "send_to_user", "send_to_connection", "close_all", "close_group", "close_user",
    "add_to_groups", "remove_from_groups", "list_group", "remove_user_from_group", "remove_user_from_all_groups",
}  # fmt: skip


class Recorder:
    """Stands in for the operations. `fail_with`: what every verb raises instead of doing anything."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.members: list[tuple[str, str | None]] = []
        self.fail_with: Exception | None = None

    def put_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the place of the real verbs, with their signatures: a call they would not take fails here too."""
        for verb in VERBS:
            monkeypatch.setattr(operations, verb, self._double(verb, inspect.signature(getattr(operations, verb))))

    def _double(self, verb: str, signature: inspect.Signature) -> Any:
        async def double(*arguments: Any, **options: Any) -> Any:
            given = signature.bind(*arguments, **options).arguments
            self.calls.append((verb, given))
            if self.fail_with is not None:
                raise self.fail_with
            target = GONE in given.values()
            if verb in _LOOKING:
                return not target
            if verb == "list_group":
                found = [] if target else [m for m in self.members if given["after"] is None or m[0] > given["after"]]
                return sorted(found)[: given["limit"]]
            if target and verb not in _NEVER_MISSING:
                raise NotFound("It is not found.")
            return True if verb == "check" else None

        return double

    @property
    def only(self) -> tuple[str, dict[str, Any]]:
        """The one call that was made."""
        assert len(self.calls) == 1, self.calls
        return self.calls[0]
