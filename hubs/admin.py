"""Django admin: hubs with their event handlers, access keys, role grants; users, groups and API tokens.

Keys have a page of their own instead of list and form, because nobody edits a key: it is looked
at, copied and replaced. A key's text is never part of a page. It is fetched by a POST when somebody
asks for it, and each time leaves a line in the log of admin actions (who and what, not the key).

Event handlers and listeners are rows on their hub's page, and who may change the hub may change them.
Their tokens go in and never come out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import forms
from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin.options import IS_POPUP_VAR
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import ImproperlyConfigured, PermissionDenied, SuspiciousOperation
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import Count, Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect, JsonResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.text import Truncator, capfirst
from unfold.admin import ModelAdmin, StackedInline, TabularInline
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget

from hubs import accounts, administration, changelists, conf, portal, resources, sign_in
from hubs.models import AccessKey, EventHandler, EventListener, HandlerCall, Hub, RoleGrant, validate_hub_name
from hubs.rules import event_routing
from hubs.rules.names import canonical_hub
from hubs.upstream import handlers

SCOPES_PER_PAGE = 20

portal.register(admin.site)
changelists.bound(admin.site)
admin.site.index_title = "Overview"


class SecretAdmin(ModelAdmin):
    """An admin whose rows hold a secret that is handed out one at a time, by POST, to those who may change it."""

    # What may be asked for: the word in the request → the words in the log.
    secrets: dict[str, str] = {}

    class Media:
        js = ["hubs/admin/clipboard.js", "hubs/admin/secrets.js"]

    def secret_of(self, obj: Any, what: str) -> str:
        raise NotImplementedError

    def get_urls(self) -> list[URLPattern]:
        return [self.url("<path:object_id>/secret/", self.secret_view, "secret"), *super().get_urls()]

    def url(self, route: str, view: Any, name: str) -> URLPattern:
        return path(
            route, self.admin_site.admin_view(view), name=f"{self.opts.app_label}_{self.opts.model_name}_{name}"
        )

    def object_or_404(self, request: HttpRequest, object_id: str) -> Any:
        obj = self.get_object(request, object_id)
        if obj is None:
            raise Http404(f"There is no such {self.opts.verbose_name} any more.")
        return obj

    def secret_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Answer a POST of `what` (see `secrets`) and `act` (reveal or copy) with the secret as JSON."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        obj = self.get_object(request, object_id)
        if not self.has_change_permission(request, obj):
            raise PermissionDenied
        if obj is None:
            return JsonResponse({"error": "It was deleted meanwhile. Load the page again."}, status=404)
        what, act = request.POST.get("what", ""), request.POST.get("act", "")
        done = {"reveal": "Revealed", "copy": "Copied"}.get(act)
        if what not in self.secrets or done is None:
            problem = f"Ask to reveal or copy one of: {', '.join(self.secrets)}."
            return JsonResponse({"error": problem}, status=400)
        try:
            secret = self.secret_of(obj, what)
        except ImproperlyConfigured as unreadable:
            return JsonResponse({"error": str(unreadable)}, status=409)
        self.log_change(request, obj, f"{done} {self.secrets[what]}.")
        return JsonResponse({"secret": secret})


class RoleGrantInline(TabularInline):
    model = RoleGrant
    extra = 0
    fields = ["who", "user", "group", "role", "group_pattern", "join_at_connect"]
    autocomplete_fields = ["user", "group"]
    verbose_name_plural = "role grants in this hub"

    class Media:
        js = ["hubs/admin/role-grants.js"]

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Give a cell's field the name of its column: who hears the page does not see what it stands below."""
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None:
            field.widget.attrs["aria-label"] = capfirst(db_field.verbose_name)
        return field


class HubPart(StackedInline):
    """Rows that are part of their hub: who may change it may change them, and who may see it may see them."""

    extra = 0
    tab = True
    collapsible = True

    class Media:
        js = ["hubs/admin/event-handlers.js"]

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return _has(request, "add_hub" if obj is None else "change_hub")

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self.has_add_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self.has_add_permission(request, obj)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # Asked without the hub, too, before its rows are fetched.
        return any(_has(request, f"{act}_hub") for act in ("view", "change", "add"))


def _has(request: HttpRequest, permission: str) -> bool:
    return request.user.has_perm(f"hubs.{permission}")


class AuthorizedForm(forms.ModelForm):
    """A handler or a listener: its secret goes in here and never comes out."""

    # The field of the model with the address that the secret is for.
    address = ""

    new_token = forms.CharField(
        label="Token",
        required=False,
        strip=False,
        max_length=event_routing.MAX_TOKEN_CHARACTERS,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "new_token" not in self.fields:
            return  # the page of somebody who may only look
        field = self.fields["new_token"]
        if self.instance.encrypted_token:
            field.widget.attrs["placeholder"] = "•" * 12
            field.help_text = "There is one. It is not shown again; to keep it, leave this empty."
        else:
            field.help_text = "Stored encrypted, and not shown again."

    def clean(self) -> dict[str, Any]:
        """Put a new secret into the row; have an old one entered again where it would go somewhere else."""
        data: dict[str, Any] = super().clean() or self.cleaned_data
        token = data.get("new_token")
        if token:
            self.instance.token = token
        elif self.instance.encrypted_token and data.get("auth_type") != "none":
            before, now = self.initial.get(self.address, ""), data.get(self.address, "")
            if event_routing.origin_of(before) != event_routing.origin_of(now):
                self.add_error("new_token", "The address is another host's now: enter what that host is to get.")
        return data


class EventHandlerForm(AuthorizedForm):
    address = "url_template"

    position = forms.IntegerField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance.pk:
            self.initial.pop("position", None)

    def clean_position(self) -> int:
        """Where it was dragged to; what is new comes last."""
        position: int | None = self.cleaned_data["position"]
        if position is not None and 0 <= position < _LAST:
            return position
        return self.instance.position if self.instance.pk else _LAST


# Behind every place that dragging gives; those with the same place are in the order they were made.
_LAST = 10_000


class EventHandlerInline(HubPart):
    model = EventHandler
    form = EventHandlerForm
    ordering_field = "position"
    hide_ordering_field = True
    max_num = event_routing.MAX_HANDLERS_PER_HUB
    template_before = "admin/hubs/hub/event_handlers.html"
    fields = [
        "url_template",
        ("on_connect", "on_connected", "on_disconnected"),
        "user_event_pattern",
        ("auth_type", "new_token"),
        "enabled",
        "position",
    ]


class EventListenerForm(AuthorizedForm):
    address = "url"


class EventListenerFormSet(forms.BaseInlineFormSet):
    """The listeners of one hub, which share a limit with those of all others."""

    def clean(self) -> None:
        """Hold the number against the limit."""
        super().clean()
        kept = sum(
            1 for form in self.forms if form not in self.deleted_forms and (form.instance.pk or form.has_changed())
        )
        others = EventListener.objects.exclude(hub=self.instance if self.instance.pk else None).count()
        if kept + others > event_routing.MAX_LISTENERS:
            raise forms.ValidationError(
                f"All hubs together have at most {event_routing.MAX_LISTENERS} event listeners, "
                f"and other hubs have {others}."
            )


class EventListenerInline(HubPart):
    model = EventListener
    form = EventListenerForm
    formset = EventListenerFormSet
    max_num = event_routing.MAX_LISTENERS
    template_before = "admin/hubs/hub/event_listeners.html"
    fields = [
        ("kind", "stream"),
        "url",
        ("on_connected", "on_disconnected"),
        "user_event_pattern",
        ("auth_type", "new_token"),
        "enabled",
    ]


@admin.register(Hub)
class HubAdmin(ModelAdmin):
    list_display = ["name", "anonymous_policy", "handler_count", "key_count", "grant_count", "updated_at"]
    list_filter = ["anonymous_connect"]
    search_fields = ["name", "event_handlers__url_template", "event_listeners__url"]
    search_help_text = "Search for names, and for addresses of event handlers and listeners"
    ordering = ["name"]  # said again: a query that counts forgets the model's own
    inlines = [RoleGrantInline, EventHandlerInline, EventListenerInline]
    fields = ["name", "anonymous_connect", "anonymous_user_ids"]
    actions_detail = ["handler_calls"]
    list_before_template = "admin/hubs/hub/explanation.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Hub]:
        counts = {
            "handlers": Count("event_handlers", distinct=True),
            "keys": Count("access_keys", distinct=True),
            "grants": Count("role_grants", distinct=True),
        }
        return super().get_queryset(request).annotate(**counts)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The hub's page, with the event handlers that it has in code."""
        hub = self.get_object(request, object_id)
        more = {"in_code": handlers.in_code(hub.name) if hub else []}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **more})

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        known = set(Hub.objects.filter(name__in=handlers.hubs_in_code()).values_list("name", flat=True))
        more = {
            "require_known_hubs": conf.settings.REQUIRE_KNOWN_HUBS,
            "only_in_code": [name for name in handlers.hubs_in_code() if name not in known],
        }
        return super().changelist_view(request, {**(extra_context or {}), **more})

    @display(
        description="anonymous connections",
        ordering="anonymous_connect",
        label={"allowed": "warning", "denied": "success"},
    )
    def anonymous_policy(self, hub: Hub) -> str:
        return "allowed" if hub.anonymous_connect else "denied"

    @action(description="Calls to event handlers", url_path="handler-calls", icon="history", permissions=["see_calls"])
    def handler_calls(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """What became of the calls to this hub's event handlers."""
        hub = self.get_object(request, object_id)
        if hub is None:
            raise Http404("There is no such hub any more.")
        address = reverse("admin:hubs_handlercall_changelist", current_app=self.admin_site.name)
        return HttpResponseRedirect(f"{address}?{urlencode({'hub': hub.name})}")

    def has_see_calls_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return _has(request, "view_handlercall")

    @display(description="event handlers", ordering="handlers", empty_value="none")
    def handler_count(self, hub: Any) -> str | None:
        functions = len(handlers.in_code(hub.name))
        counts = [str(hub.handlers)] if hub.handlers else []
        return ", ".join([*counts, f"{functions} in code"] if functions else counts) or None

    @display(description="own keys", ordering="keys", empty_value="none")
    def key_count(self, hub: Any) -> int | None:
        return hub.keys or None

    @display(description="role grants", ordering="grants", empty_value="none")
    def grant_count(self, hub: Any) -> int | None:
        return hub.grants or None


@admin.register(HandlerCall)
class HandlerCallAdmin(ModelAdmin):
    """What became of calls to event handlers. The service writes these rows; here they are read."""

    list_display = [
        "moment",
        "hub",
        "event",
        "outcome_label",
        "status",
        "milliseconds",
        "attempts",
        "handler",
        "problem_text",
    ]
    list_display_links = ["moment"]
    fields = [
        "moment",
        "hub",
        "event",
        "handler",
        "connection_id",
        "outcome",
        "status",
        "attempts",
        "duration_ms",
        "problem",
        "payload",
    ]
    readonly_fields = ["moment"]
    list_filter = ["outcome", "hub", "event"]
    list_per_page = 50
    ordering = ["-when", "-pk"]
    search_fields = ["connection_id", "handler", "problem", "event"]
    search_help_text = "Search for connections, handlers, events and what went wrong"
    list_before_template = "admin/hubs/handlercall/explanation.html"
    list_fullwidth = True

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    @display(description="when", ordering="when")
    def moment(self, call: HandlerCall) -> str:
        return f"{timezone.localtime(call.when):%Y-%m-%d %H:%M:%S}"

    @display(
        description="outcome",
        ordering="outcome",
        label={"succeeded": "success", "failed": "danger", "refused": "warning"},
    )
    def outcome_label(self, call: HandlerCall) -> str:
        return call.outcome

    @display(description="ms", ordering="duration_ms")
    def milliseconds(self, call: HandlerCall) -> int:
        return call.duration_ms

    @display(description="problem", empty_value="")
    def problem_text(self, call: HandlerCall) -> str:
        return Truncator(call.problem).chars(120)


@admin.register(RoleGrant)
class RoleGrantAdmin(ModelAdmin):
    list_display = ["grantee_text", "role", "groups_text", "hub_text", "join_at_connect"]
    list_display_links = ["grantee_text"]
    list_filter = ["who", "role", ("hub", admin.RelatedOnlyFieldListFilter)]
    list_select_related = ["user", "group", "hub"]
    search_fields = ["user__username", "group__name", "group_pattern", "hub__name"]
    search_help_text = "Search for users, Django groups, group patterns and hubs"
    fields = ["who", "user", "group", "hub", "role", "group_pattern", "join_at_connect"]
    autocomplete_fields = ["user", "group", "hub"]

    class Media:
        js = ["hubs/admin/role-grants.js"]

    @display(description="who", ordering="who")
    def grantee_text(self, grant: RoleGrant) -> str:
        text = grant.grantee
        return text[:1].upper() + text[1:]

    @display(description="groups", ordering="group_pattern")
    def groups_text(self, grant: RoleGrant) -> str:
        return grant.group_pattern or "every group"

    @display(description="hub", ordering="hub__name")
    def hub_text(self, grant: RoleGrant) -> str:
        return grant.hub.name if grant.hub else "every hub"


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key as its page shows it. `problem` says why the key cannot be read, if so."""

    key: AccessKey
    masked: str = ""
    masked_connection_string: str = ""
    problem: str = ""

    @classmethod
    def of(cls, key: AccessKey) -> KeyRow:
        try:
            masked = key.masked
        except ImproperlyConfigured as problem:
            return cls(key, problem=str(problem))
        return cls(key, masked, resources.connection_string(masked))


class LimitedKeysForm(forms.Form):
    """Which hub gets keys of its own."""

    hub = forms.CharField(
        max_length=128,
        validators=[validate_hub_name],
        widget=UnfoldAdminTextInputWidget(attrs={"list": "hub-names", "autocomplete": "off", "autofocus": True}),
        help_text="Letter case does not matter.",
    )

    def __init__(self, *args: Any, may_create: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.may_create = may_create

    def clean_hub(self) -> str:
        name = canonical_hub(self.cleaned_data["hub"])
        hub = Hub.objects.filter(name=name).first()
        if hub is None and not self.may_create:
            raise forms.ValidationError("There is no such hub, and your account may not add hubs.")
        if hub is not None and hub.access_keys.count() == len(AccessKey.Slot):
            raise forms.ValidationError(f"Hub {name} has keys of its own already.")
        return name


@admin.register(AccessKey)
class AccessKeyAdmin(SecretAdmin):
    secrets = {"key": "the key", "connection-string": "the connection string"}

    def secret_of(self, obj: AccessKey, what: str) -> str:
        key = obj.text
        return key if what == "key" else resources.connection_string(key)

    def get_urls(self) -> list[URLPattern]:
        return [
            self.url("service/", self.service_view, "service"),
            self.url("<path:object_id>/regenerate/", self.regenerate_view, "regenerate"),
            *super().get_urls(),
        ]

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # Also asked when a hub is deleted with its keys; the service's own keys stay whoever asks.
        if isinstance(obj, AccessKey) and obj.hub_id is None:
            return False
        return bool(super().has_delete_permission(request, obj))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The Keys page: the service's pair, then the hubs that have one of their own."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        query = request.GET.get("q", "").strip()[:128]
        hubs = Hub.objects.filter(access_keys__isnull=False).distinct().prefetch_related("access_keys")
        if query:
            hubs = hubs.filter(name__icontains=canonical_hub(query))
        page = Paginator(hubs.order_by("name"), SCOPES_PER_PAGE).get_page(request.GET.get("p"))
        service = [KeyRow.of(key) for key in AccessKey.objects.of_service().order_by("slot")]
        context = {
            "title": "Keys",
            "endpoint": conf.settings.PUBLIC_ENDPOINTS[0],
            "service": service,
            "service_is_short": len(service) < len(AccessKey.Slot),
            "hubs": [(hub, [KeyRow.of(key) for key in hub.access_keys.all()]) for hub in page],
            "page": page,
            "query": query,
            **(extra_context or {}),
        }
        return self.page(request, "change_list", context)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Keys limited to one hub; the hub is created with them when there is none."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = LimitedKeysForm(request.POST or None, may_create=request.user.has_perm("hubs.add_hub"))
        if request.method == "POST" and form.is_valid():
            with transaction.atomic():
                hub = administration.ensure_hub(form.cleaned_data["hub"], by=request.user)
                administration.make_keys(hub, by=request.user)
            messages.success(request, f"Hub {hub} has two keys of its own now. The service's keys open it as before.")
            return self.back_to_page()
        context = {"title": "Add keys limited to a hub", "form": form, "hub_names": Hub.objects.all()[:500]}
        return self.page(request, "limit", context)

    def change_view(self, request: HttpRequest, object_id: str, *_: Any, **__: Any) -> HttpResponse:
        """There is nothing to edit in a key; links to one (in the log of actions) lead to the Keys page."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        return self.back_to_page()

    def service_view(self, request: HttpRequest) -> HttpResponse:
        """Make the service's keys that are missing."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_add_permission(request):
            raise PermissionDenied
        administration.make_keys(None, by=request.user)
        messages.success(request, "The service has a primary and a secondary key.")
        return self.back_to_page()

    def regenerate_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Say what will happen; on POST, do it."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        key = self.object_or_404(request, object_id)
        if request.method == "POST":
            administration.regenerate_key(key.hub, key.slot, by=request.user)
            messages.success(request, f"There is a new {key}. Give it to the programs that used the old one.")
            return self.back_to_page()
        return self.page(request, "regenerate", {"title": f"Regenerate the {key}?", "key": key})

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Take away both keys of a hub. A hub keeps or loses its pair as a whole."""
        if not super().has_delete_permission(request):
            raise PermissionDenied
        key = self.object_or_404(request, object_id)
        if key.hub is None:
            messages.error(
                request,
                "The service's keys cannot be deleted: without them nobody could reach it. "
                "To make a key worthless, regenerate it.",
            )
            return self.back_to_page()
        if request.method == "POST":
            administration.remove_keys(key.hub, by=request.user)
            messages.success(request, f"Hub {key.hub} has no keys of its own any more; the service's keys open it.")
            return self.back_to_page()
        context = {"title": f"Delete the keys of hub {key.hub}?", "key": key}
        return self.page(request, "delete_pair", context)

    def page(self, request: HttpRequest, template: str, context: dict[str, Any]) -> TemplateResponse:
        request.current_app = self.admin_site.name
        common = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "may_add": self.has_add_permission(request),
            "may_change": self.has_change_permission(request),
            "may_delete": self.has_delete_permission(request),
        }
        return TemplateResponse(request, f"admin/hubs/accesskey/{template}.html", {**common, **context})

    def back_to_page(self) -> HttpResponseRedirect:
        return HttpResponseRedirect(reverse("admin:hubs_accesskey_changelist", current_app=self.admin_site.name))


# Django's own pages for users and groups, in the theme's clothes. The imports above registered them already.
admin.site.unregister([User, Group])


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):
    """Accounts. Flags and permissions are for superusers to give; see hubs.accounts for who may change whom."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    actions = ["forget_failed_sign_ins"]

    GIVEN_BY_SUPERUSERS = ("is_staff", "is_superuser", "groups", "user_permissions")

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        fields = super().get_readonly_fields(request, obj)
        return fields if request.user.is_superuser else (*fields, *self.GIVEN_BY_SUPERUSERS)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return super().has_change_permission(request, obj) and _is_within(obj, accounts.within(request.user))

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return super().has_delete_permission(request, obj) and _is_within(obj, accounts.within(request.user))

    @action(description="Forget failed sign-ins", permissions=["change"])
    def forget_failed_sign_ins(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        """Let people sign in again who failed too often, or whom strangers kept out."""
        done = []
        for user in queryset.filter(pk__in=accounts.within(request.user).values("pk")):
            try:
                sign_in.forget(user.get_username())
            except sign_in.CountsAway:
                away = "Redis cannot be used, so only this process has forgotten them. Try again when it is back."
                self.message_user(request, away, messages.ERROR)
                return
            self.log_change(request, user, "Forgot failed sign-ins.")
            done.append(user.get_username())
        if done:
            self.message_user(request, f"Failed sign-ins forgotten for: {', '.join(done)}.")
        if len(done) < queryset.count():
            self.message_user(request, "You may not change some of these accounts.", messages.WARNING)


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):
    """Groups. Nobody gives one a permission that they do not hold themselves."""

    def formfield_for_manytomany(self, db_field: Any, request: Any = None, **kwargs: Any) -> Any:
        field: Any = super().formfield_for_manytomany(db_field, request, **kwargs)
        if db_field.name == "permissions":
            field.queryset = field.queryset.filter(pk__in=accounts.permissions_of(request.user).values("pk"))
        return field

    def has_change_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return super().has_change_permission(request, obj) and _is_within(obj, accounts.groups_within(request.user))

    def has_delete_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return super().has_delete_permission(request, obj) and _is_within(obj, accounts.groups_within(request.user))


def _is_within(obj: Model | None, rows: QuerySet[Any]) -> bool:
    return obj is None or rows.filter(pk=obj.pk).exists()


if apps.is_installed("rest_framework.authtoken"):
    from rest_framework.authtoken.admin import TokenAdmin as RestFrameworkTokenAdmin
    from rest_framework.authtoken.models import Token, TokenProxy

    # A token's text form is the token itself, and the admin writes it into its log, its messages
    # and the page that lists what is deleted with a user.
    def _token_as_text(token: Any) -> str:
        return f"API token of {token.user}"

    Token.__str__ = _token_as_text  # type: ignore[method-assign]

    def _not_in_popup(request: HttpRequest) -> HttpRequest:
        if IS_POPUP_VAR in request.GET or IS_POPUP_VAR in request.POST:
            raise SuspiciousOperation("API tokens cannot be chosen in a popup")
        return request

    admin.site.unregister(TokenProxy)

    @admin.register(TokenProxy)
    class TokenAdmin(RestFrameworkTokenAdmin, SecretAdmin):
        """API tokens of users, for negotiate. As with access keys, a page shows no more than a token's ends."""

        secrets = {"token": "the API token"}
        list_display_links = ["user"]
        list_select_related = ["user"]
        autocomplete_fields = ["user"]

        def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
            # A token is its account: who may not act for that sees and changes none of it.
            return super().get_queryset(request).filter(user__in=accounts.within(request.user))

        def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
            if db_field.name == "user":
                kwargs["queryset"] = accounts.within(request.user)
            return super().formfield_for_foreignkey(db_field, request, **kwargs)

        # A popup tells the page that opened it the primary key of what was chosen: here, the token itself. Nothing
        # refers to tokens, so there is none.

        def changelist_view(self, request: HttpRequest, *args: Any, **more: Any) -> HttpResponse:
            return super().changelist_view(_not_in_popup(request), *args, **more)

        def changeform_view(self, request: HttpRequest, *args: Any, **more: Any) -> HttpResponse:
            return super().changeform_view(_not_in_popup(request), *args, **more)

        def delete_view(self, request: HttpRequest, *args: Any, **more: Any) -> HttpResponse:
            return super().delete_view(_not_in_popup(request), *args, **more)

        def to_field_allowed(self, request: HttpRequest, to_field: str) -> bool:
            return False

        def secret_of(self, obj: Any, what: str) -> str:
            return str(obj.key)

        def get_list_display(self, request: HttpRequest) -> list[Any]:
            return ["user", "token" if self.has_change_permission(request) else "masked", "created"]

        @display(description="token")
        def masked(self, token: Any) -> str:
            return f"{token.key[:4]}{'•' * 12}{token.key[-4:]}"

        @display(description="token")
        def token(self, token: Any) -> SafeString:
            url = reverse("admin:authtoken_tokenproxy_secret", args=(token.user_id,))
            return render_to_string("admin/hubs/tokens/cell.html", {"url": url, "mask": self.masked(token)})
