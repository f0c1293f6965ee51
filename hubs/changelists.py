"""What the lists of the admin may be filtered by: what their own pages offer, and nothing else.

Django lets the query of a list name nearly any column of its table, and some of related tables, with any lookup. That
tells secrets to whoever may see a list: whether a row is there or not says whether its password, or the API token of
its user, begins with some characters. And it is expensive: `__regex` on SQLite is Python's `re`, which one pattern
keeps busy for ever. So a lookup has to come from a filter of the list, from its date hierarchy, or from a popup in
which a foreign key is chosen (`limit_choices_to`). Others are answered as Django answers a lookup that it does not
allow: 400.
"""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite, ModelAdmin
from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.views.main import ChangeList
from django.contrib.admin.widgets import url_params_from_lookup_dict
from django.http import HttpRequest
from django.urls import URLPattern, URLResolver


def bound(site: AdminSite) -> None:
    """Bound the lists of all admins of a site: ours, Django's, and those that other apps register."""
    before = site.get_urls

    def get_urls() -> list[URLResolver | URLPattern]:
        # When a site makes its table of addresses, everything is registered; what is registered later has no page.
        for model_admin in site._registry.values():
            _bound(model_admin)
        return before()

    site.get_urls = get_urls  # type: ignore[method-assign]


def _bound(model_admin: ModelAdmin[Any]) -> None:
    before = model_admin.get_changelist

    def get_changelist(request: HttpRequest, **options: Any) -> type[ChangeList]:
        found = before(request, **options)
        # A site may make its table again.
        return found if issubclass(found, _OwnLookups) else type(found.__name__, (_OwnLookups, found), {})

    model_admin.get_changelist = get_changelist  # type: ignore[method-assign]


class _OwnLookups(ChangeList):
    """A list that is filtered only by what its pages offer."""

    def get_filters(self, request: HttpRequest) -> Any:
        """Give what Django does. Raises DisallowedModelAdminLookup."""
        found = super().get_filters(request)
        # Filters have taken theirs out; what is left would go to the database as it came.
        for name in found[2]:
            if name not in (f"{self.date_hierarchy}__gte", f"{self.date_hierarchy}__lt") and not self._of_popup(name):
                raise DisallowedModelAdminLookup(f"Filtering by {name} not allowed")
        return found

    def _of_popup(self, name: str) -> bool:
        choices = [limit() if callable(limit) else limit for limit in self.model._meta.related_fkey_lookups]
        return any(
            set(self.filter_params[name]) == {params[name]}
            for params in map(url_params_from_lookup_dict, choices)
            if name in params
        )
