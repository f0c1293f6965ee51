"""Staff pages that show no table of the database: the sign-in page, and the Client URL Generator.

They live inside the admin site, with its look. Like the admin they call the service's own functions
and decide nothing about tokens themselves.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from django import forms
from django.contrib.admin import AdminSite
from django.contrib.admin.models import ADDITION, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from unfold.forms import AuthenticationForm
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from hubs import callers, client_urls, conf, sign_in
from hubs.models import AccessKey, Hub
from hubs.rules import roles

logger = logging.getLogger(__name__)

# A client URL is a credential for any user id and any role, as a key is.
PERMISSION = "hubs.change_accesskey"

MAX_LIST_CHARACTERS = 100_000
MAX_HUB_NAMES = 500

# Programs may ask for more; a URL that is pasted somewhere should end some day.
MAX_MINUTES = 525_600  # a year

# Servers and proxies on the way often refuse request lines beyond 8 KB.
LONG_URL_CHARACTERS = 7_500


def register(site: AdminSite) -> None:
    """Add these pages to an admin site of the theme, in place of its own sign-in page."""
    sign_in_page = site.login

    def login(request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = sign_in_page(request, extra_context)
        wait = getattr(request, _WAIT, None)
        if wait is not None:
            response.status_code = HTTPStatus.TOO_MANY_REQUESTS
            response["Retry-After"] = str(wait)
            # Django would log it once more, as any status of 400 and above.
            response._has_been_logged = True  # type: ignore[attr-defined]
        return response

    # As the site's own: with LoginRequiredMiddleware in the settings there would be no way in.
    login.login_required = False  # type: ignore[attr-defined]
    site.login = login  # type: ignore[method-assign]
    site.login_form = SignInForm
    before: Callable[[], list[URLPattern]] = getattr(site, "extra_urls", list)

    def extra_urls() -> list[URLPattern]:
        page = site.admin_view(lambda request: client_url(request, site))
        return [*before(), path("client-url/", page, name="hubs_client_url")]

    site.extra_urls = extra_urls  # type: ignore[attr-defined]  # the theme asks for it when it builds its table


# On the request: the seconds for which the sign-in page sends somebody away.
_WAIT = "_sign_in_wait_secs"


class SignInForm(AuthenticationForm):
    """The theme's form, with as many failures as hubs.sign_in allows. Each leaves a line in the log."""

    def clean(self) -> dict[str, Any]:
        """Look at the password, unless there were too many wrong ones."""
        account, address = self.cleaned_data.get("username"), callers.of_request(self.request)
        if account is None or self.cleaned_data.get("password") is None:
            # Not filled in, which is said at the field.
            return dict(super().clean())
        attempt = sign_in.Attempt(account, address)
        try:
            attempt.begin()
        except sign_in.TooManyFailures as refused:
            setattr(self.request, _WAIT, refused.wait)
            self._log("too many failures", account, address)
            raise forms.ValidationError(
                f"Too many failed sign-ins. Try again in {_minutes(refused.wait)}.", code="throttled"
            ) from None
        try:
            data: dict[str, Any] = super().clean()
        except forms.ValidationError:
            self._log("wrong password, or not a staff account", account, address)
            raise
        attempt.succeeded()
        return data

    @staticmethod
    def _log(reason: str, account: str, address: str) -> None:
        accounts = get_user_model()
        # A password typed into the wrong field is no account, and does not get into the log.
        known = accounts.objects.filter(**{accounts.USERNAME_FIELD: account}).exists()
        logger.warning(
            "A sign-in failed: %s, from %s: %s",
            f"account {callers.legible(account)}" if known else "an unknown account",
            address,
            reason,
        )


def _minutes(secs: int) -> str:
    if secs <= 60:
        return f"{secs} second{'s' if secs > 1 else ''}"
    return f"{-(-secs // 60)} minutes"


class Names(forms.CharField):
    """Texts separated by commas or lines."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("widget", UnfoldAdminTextareaWidget(attrs={"rows": 2, "spellcheck": "false"}))
        super().__init__(required=False, max_length=MAX_LIST_CHARACTERS, **kwargs)

    def clean(self, value: Any) -> Any:
        """Give the texts in their order, each once."""
        texts = (text.strip() for text in re.split(r"[,\r\n]", super().clean(value)))
        return list(dict.fromkeys(text for text in texts if text))


class GroupPatterns(Names):
    """Groups that a role is given on."""

    def clean(self, value: Any) -> list[str]:
        """Refuse what the service would not honour in a token."""
        texts: list[str] = super().clean(value)
        for text in texts:
            if not roles.is_group_text(text):
                raise forms.ValidationError(
                    f"Not a group name or pattern: {_cut(text)}. It has at most {roles.MAX_PATTERN_CHARACTERS:,} "
                    f"characters and {roles.MAX_PATTERN_STARS} stars, and a backslash only before ? * or \\."
                )
        names = sum(roles.named_group(text) is not None for text in texts)
        if names > roles.MAX_LITERALS:
            raise forms.ValidationError(f"At most {roles.MAX_LITERALS:,} groups can be named. Use a pattern instead.")
        if len(texts) - names > roles.MAX_PATTERNS:
            raise forms.ValidationError(
                f"At most {roles.MAX_PATTERNS} patterns with ? or * count in one token; these are {len(texts) - names}."
            )
        return texts


class ClientUrlForm(forms.Form):
    """What the client may do, and for how long."""

    PATTERNS_HELP = (
        "Empty: every group. Otherwise group names or patterns (? and * stop at dots, ** does not), "
        "separated by commas or lines."
    )

    hub = forms.CharField(
        max_length=128,
        widget=UnfoldAdminTextInputWidget(attrs={"list": "hub-names", "autocomplete": "off", "spellcheck": "false"}),
        help_text="Any hub; it need not be created first.",
    )
    user_id = forms.CharField(
        label="User id",
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="Who the client is. Empty: a connection without a user.",
    )
    send = forms.BooleanField(label="Send To Groups", required=False, widget=UnfoldBooleanSwitchWidget())
    send_groups = GroupPatterns(label="Which groups it may send to", help_text=PATTERNS_HELP)
    join = forms.BooleanField(label="Join/Leave Groups", required=False, widget=UnfoldBooleanSwitchWidget())
    join_groups = GroupPatterns(label="Which groups it may join and leave", help_text=PATTERNS_HELP)
    groups = Names(
        label="Initial groups",
        help_text="The client is a member of these from the start, without needing a role. "
        "Names only, separated by commas or lines.",
    )
    minutes = forms.IntegerField(
        label="Lifetime in minutes",
        initial=client_urls.DEFAULT_MINUTES,
        min_value=client_urls.MIN_MINUTES,
        max_value=MAX_MINUTES,
        widget=UnfoldAdminIntegerFieldWidget(),
        help_text="How long the URL opens new connections (a year at most). Connections that are open stay open.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["hub"].initial = conf.settings.DEFAULT_HUB
        if conf.settings.REQUIRE_KNOWN_HUBS:
            self.fields["hub"].help_text = "One of the hubs that were created."
        self.result: client_urls.ClientUrl | None = None

    def clean(self) -> dict[str, Any]:
        """Make the URL. What the service refuses is said at the field it is about."""
        data: dict[str, Any] = self.cleaned_data
        for role, label in (("send", "Send To Groups"), ("join", "Join/Leave Groups")):
            if data.get(f"{role}_groups") and not data.get(role):
                self.add_error(f"{role}_groups", f"Switch on “{label}” as well, or empty this.")
        if not self.errors:
            try:
                self.result = client_urls.issue(
                    data["hub"],
                    user_id=data["user_id"] or None,
                    roles=self.roles(),
                    groups=data["groups"],
                    minutes=data["minutes"],
                )
            except client_urls.CannotIssue as refusal:
                self.add_error(refusal.field if refusal.field in self.fields else None, refusal.message)
        return data

    def roles(self) -> list[str]:
        """The roles in the token's words."""
        return [
            roles.role_string(permission, text)
            for field, permission in (("send", roles.SEND), ("join", roles.JOIN_LEAVE))
            if self.cleaned_data[field]
            for text in self.cleaned_data[f"{field}_groups"] or [""]
        ]


def client_url(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """The Client URL Generator: a form, and above it the URL that was asked for."""
    if not request.user.is_authenticated or not request.user.has_perm(PERMISSION):
        raise PermissionDenied
    request.current_app = site.name
    form = ClientUrlForm(request.POST) if request.method == "POST" else ClientUrlForm()
    context = {
        **site.each_context(request),
        "title": "Client URL Generator",
        "form": form,
        "hub_names": Hub.objects.values_list("name", flat=True)[:MAX_HUB_NAMES],
    }
    if form.is_bound and form.is_valid() and form.result:
        _log(request.user.pk, form)
        context |= {
            "result": form.result,
            "claims": json.dumps(dict(form.result.claims), indent=2, ensure_ascii=False),
            "is_long": len(form.result.url) > LONG_URL_CHARACTERS,
        }
    return TemplateResponse(request, "hubs/portal/client_url.html", context)


def _log(user_pk: Any, form: ClientUrlForm) -> None:
    """Leave a line in the log of admin actions: who made a URL for whom, not the URL."""
    data = form.cleaned_data
    who = f"user {data['user_id']}" if data["user_id"] else "no user"
    LogEntry.objects.create(
        user_id=user_pk,
        content_type=ContentType.objects.get_for_model(AccessKey),
        object_repr=f"client URL of hub {data['hub']} for {who}"[:200],
        action_flag=ADDITION,
        change_message=f"Roles: {', '.join(form.roles()) or 'none'}. Minutes: {data['minutes']}."[:2000],
    )


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
