"""What the service remembers in the database: hubs, access keys, event handlers and listeners, role grants.

None of it is read while messages flow; hub_settings.py turns the rows into frozen values that
connections use. Every change to a hub, a key, a handler or a listener steps `SettingsVersion` in the
same transaction, which is how other processes notice. `HandlerCall` alone is written while the
service runs: what became of calls to event handlers, for people to read.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, Group
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.signals import setting_changed
from django.db import models, transaction
from django.db.models import F, Q
from django.utils import timezone

from hubs.rules import event_routing, names, roles


def validate_hub_name(name: str) -> None:
    """Refuse what Azure refuses as a hub name."""
    if not names.is_hub_name(name):
        raise ValidationError(
            "Start with a letter, then use at most 127 letters, digits or _ ` , . [ ] characters.", code="hub_name"
        )


class Hub(models.Model):
    """Settings of one hub. A hub needs no row to work: without one it has the defaults below."""

    name = models.CharField(
        max_length=128,
        unique=True,
        validators=[validate_hub_name],
        help_text="Letter case does not matter; it is stored in lower case.",
    )
    anonymous_connect = models.BooleanField(
        "allow anonymous connections",
        default=False,
        help_text="Clients may open a WebSocket without any token. They get no roles.",
    )
    anonymous_user_ids = models.BooleanField(
        "anonymous visitors may choose a user id",
        default=False,
        help_text="Negotiate gives visitors who are not signed in the user id they ask for, unless an account has it.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save under the canonical spelling of the name."""
        self.name = names.canonical_hub(self.name)
        super().save(*args, **kwargs)

    def clean(self) -> None:
        """Refuse a name that differs from another hub's in letter case alone."""
        self.name = names.canonical_hub(self.name)
        if Hub.objects.filter(name=self.name).exclude(pk=self.pk).exists():
            raise ValidationError({"name": f"There is a hub {self.name} already."})


_ACCESS_KEYS, _TOKENS = b"hubwire access keys", b"hubwire tokens of event handlers"


@lru_cache(maxsize=2)
def _cipher(purpose: bytes) -> MultiFernet:
    def derived(secret: str) -> Fernet:
        # HKDF rather than the secret itself: what this key protects tells nothing about the others
        # that Django derives from SECRET_KEY.
        key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose).derive(secret.encode())
        return Fernet(base64.urlsafe_b64encode(key))

    return MultiFernet([derived(secret) for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)])


def _forget_cipher(*, setting: str, **_: Any) -> None:
    if setting in ("SECRET_KEY", "SECRET_KEY_FALLBACKS"):
        _cipher.cache_clear()


setting_changed.connect(_forget_cipher)


class AccessKeyQuerySet(models.QuerySet["AccessKey"]):
    """Access keys, by the scope they serve."""

    def of_service(self) -> AccessKeyQuerySet:
        """The keys that open every hub."""
        return self.filter(hub=None)

    @transaction.atomic
    def ensure_pair(self, hub: Hub | None = None) -> list[AccessKey]:
        """Give primary and secondary key of a scope, making those that are missing."""
        pair: list[AccessKey] = []
        for slot in AccessKey.Slot.values:
            key: AccessKey | None = AccessKey.objects.filter(hub=hub, slot=slot).first()
            if key is None:
                key = AccessKey(hub=hub, slot=slot)
                key.regenerate()
            pair.append(key)
        return pair


class AccessKey(models.Model):
    """One signing key. A scope (the whole service, or one hub) has two, so that each can be replaced alone.

    The key's text is stored encrypted under SECRET_KEY. After SECRET_KEY changes, name the old one
    in SECRET_KEY_FALLBACKS; `regenerate` or any save writes the text under the new one.
    """

    class Slot(models.TextChoices):
        PRIMARY = "primary"
        SECONDARY = "secondary"

    hub = models.ForeignKey(
        Hub,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="access_keys",
        help_text="Empty: opens every hub. A hub: opens that one only.",
    )
    slot = models.CharField(max_length=9, choices=Slot)
    encrypted = models.TextField(editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    regenerated_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = AccessKeyQuerySet.as_manager()

    class Meta:
        ordering = [F("hub__name").asc(nulls_first=True), "slot"]
        constraints = [
            models.UniqueConstraint(fields=["hub", "slot"], name="one_key_per_hub_and_slot"),
            models.UniqueConstraint(fields=["slot"], condition=Q(hub=None), name="one_service_key_per_slot"),
        ]

    def __str__(self) -> str:
        return f"{self.slot} key of {f'hub {self.hub}' if self.hub_id else 'the service'}"

    @property
    def text(self) -> str:
        """The key itself. Raises ImproperlyConfigured when SECRET_KEY is not the one it was stored under."""
        try:
            return _cipher(_ACCESS_KEYS).decrypt(self.encrypted.encode()).decode()
        except InvalidToken:
            raise ImproperlyConfigured(
                f"The {self} cannot be read with this SECRET_KEY. Put the earlier SECRET_KEY into "
                "SECRET_KEY_FALLBACKS, or regenerate the key."
            ) from None

    @text.setter
    def text(self, text: str) -> None:
        self.encrypted = _cipher(_ACCESS_KEYS).encrypt(text.encode()).decode()

    @property
    def masked(self) -> str:
        """Enough of the key to tell it from another, and no more."""
        return f"{self.text[:4]}{'•' * 12}{self.text[-4:]}"

    def regenerate(self) -> None:
        """Replace the key by a new random one and save. Open connections and the other key are left alone."""
        # 64 characters of A-Z a-z 0-9 - _: safe in connection strings, longer than HMAC-SHA256 asks for.
        self.text = secrets.token_urlsafe(48)
        self.regenerated_at = timezone.now()
        self.save()


_PATTERN_HELP = "* takes every event that clients send; join, room.* takes those; empty takes none."


class Authorized(models.Model):
    """Somewhere that the service calls, with the secret that it shows there.

    The secret is stored encrypted under SECRET_KEY, as access keys are.
    """

    class AuthType(models.TextChoices):
        NONE = "none", "None"
        BEARER = "bearer", "Bearer token"
        PASSWORD = "password", "Password"

    auth_type = models.CharField("authorization", max_length=8, choices=AuthType, default=AuthType.NONE)
    encrypted_token = models.TextField(blank=True, editable=False)
    enabled = models.BooleanField(default=True)

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, and forget a secret that is not used."""
        if self.auth_type == self.AuthType.NONE:
            self.encrypted_token = ""
        super().save(*args, **kwargs)

    @property
    def token(self) -> str:
        """The secret, or "". Raises ImproperlyConfigured when SECRET_KEY is not the one it was stored under."""
        if not self.encrypted_token:
            return ""
        try:
            return _cipher(_TOKENS).decrypt(self.encrypted_token.encode()).decode()
        except InvalidToken:
            raise ImproperlyConfigured(
                f"The secret of the {self} cannot be read with this SECRET_KEY. Put the earlier SECRET_KEY into "
                "SECRET_KEY_FALLBACKS, or enter the secret again."
            ) from None

    @token.setter
    def token(self, token: str) -> None:
        self.encrypted_token = _cipher(_TOKENS).encrypt(token.encode()).decode() if token else ""

    @property
    def authorization(self) -> str | None:
        """What is to be sent; None for nothing. Raises ImproperlyConfigured as `token` does."""
        if self.auth_type == self.AuthType.NONE:
            return None
        return f"Bearer {self.token}" if self.auth_type == self.AuthType.BEARER else self.token

    def get_inline_title(self) -> str:
        """The row in a line, for its hub's page and the command line. (The admin's theme asks by this name.)"""
        row: Any = self
        user_events = [f"user events {row.user_event_pattern}"] if row.user_event_pattern else []
        parts = [
            row.shown_address,
            ", ".join([*row.system_events, *user_events]) or "no events",
            "" if self.auth_type == self.AuthType.NONE else row.get_auth_type_display().lower(),
            "" if self.enabled else "switched off",
        ]
        return "; ".join(filter(None, parts))

    def _token_problem(self) -> str:
        """Say what is wrong with the secret; "" if nothing is."""
        if self.auth_type == self.AuthType.NONE:
            return ""
        bearer = self.auth_type == self.AuthType.BEARER
        if not self.encrypted_token:
            return f"Give the {'token' if bearer else 'password'} too."
        try:
            return (event_routing.token_problem if bearer else event_routing.password_problem)(self.token)
        except ImproperlyConfigured as unreadable:
            return str(unreadable)


class EventHandler(Authorized):
    """A webhook that takes part in a hub's conversation: it may answer, and refuse who connects."""

    auth_type = models.CharField(
        "authorization",
        max_length=8,
        choices=[(kind.value, kind.label) for kind in (Authorized.AuthType.NONE, Authorized.AuthType.BEARER)],
        default=Authorized.AuthType.NONE,
    )
    hub = models.ForeignKey(Hub, on_delete=models.CASCADE, related_name="event_handlers")
    position = models.PositiveIntegerField(default=0, help_text="Handlers are tried in this order.")
    url_template = models.CharField(
        "URL",
        max_length=event_routing.MAX_URL_CHARACTERS,
        help_text="Where events are posted, such as https://example.com/api/{event}. "
        "{hub} and {event} stand for the names of the hub and of the event.",
    )
    user_event_pattern = models.CharField(
        "user events",
        max_length=event_routing.MAX_EVENT_PATTERN_CHARACTERS,
        blank=True,
        help_text=_PATTERN_HELP,
    )
    on_connect = models.BooleanField("connect", default=False)
    on_connected = models.BooleanField("connected", default=False)
    on_disconnected = models.BooleanField("disconnected", default=False)

    class Meta:
        ordering = ["hub_id", "position", "pk"]
        # Part of their hub: who may change it may change these.
        default_permissions = ()
        indexes = [models.Index(fields=["hub", "position"], name="event_handlers_of_hub")]

    def __str__(self) -> str:
        return f"event handler {self.shown_address} of hub {self.hub}"

    @property
    def shown_address(self) -> str:
        """Where it is, without what may be secret."""
        return event_routing.without_query(self.url_template)

    @property
    def system_events(self) -> list[str]:
        """The system events it takes."""
        return [event for event in event_routing.SYSTEM_EVENTS if getattr(self, f"on_{event}")]

    @system_events.setter
    def system_events(self, events: Collection[str]) -> None:
        for event in event_routing.SYSTEM_EVENTS:
            setattr(self, f"on_{event}", event in events)

    def clean(self) -> None:
        """Refuse what could never be called, field by field."""
        _raise_problems(
            url_template=event_routing.template_problem(self.url_template),
            user_event_pattern=event_routing.event_pattern_problem(self.user_event_pattern),
            auth_type=self._token_problem(),
        )


class EventListener(Authorized):
    """Somewhere that copies of a hub's events go, to be counted or kept. It cannot answer."""

    class Kind(models.TextChoices):
        REDIS_STREAM = "redis_stream", "Redis stream"
        WEBHOOK = "webhook", "Webhook"

    hub = models.ForeignKey(Hub, on_delete=models.CASCADE, related_name="event_listeners")
    kind = models.CharField(max_length=12, choices=Kind, default=Kind.REDIS_STREAM)
    url = models.CharField(
        "URL",
        max_length=event_routing.MAX_URL_CHARACTERS,
        help_text="A Redis server, such as redis://localhost:6379/0, or the address of a webhook.",
    )
    stream = models.CharField(
        max_length=event_routing.MAX_STREAM_CHARACTERS, blank=True, help_text="The name of the stream in Redis."
    )
    user_event_pattern = models.CharField(
        "user events",
        max_length=event_routing.MAX_EVENT_PATTERN_CHARACTERS,
        blank=True,
        help_text=_PATTERN_HELP,
    )
    on_connected = models.BooleanField("connected", default=False)
    on_disconnected = models.BooleanField("disconnected", default=False)

    class Meta:
        ordering = ["hub_id", "pk"]
        default_permissions = ()

    def __str__(self) -> str:
        return f"event listener {self.shown_address} of hub {self.hub}"

    @property
    def shown_address(self) -> str:
        """Where it is, without what may be secret."""
        return f"{event_routing.without_query(self.url)} {self.stream}".rstrip()

    @property
    def address(self) -> str:
        """The whole address as one text."""
        return event_routing.LISTENER_KINDS[self.kind].address(self.url, self.stream)

    @property
    def system_events(self) -> list[str]:
        """The system events it takes."""
        return [event for event in event_routing.LISTENER_SYSTEM_EVENTS if getattr(self, f"on_{event}")]

    @system_events.setter
    def system_events(self, events: Collection[str]) -> None:
        for event in event_routing.LISTENER_SYSTEM_EVENTS:
            setattr(self, f"on_{event}", event in events)

    def _token_problem(self) -> str:
        refused, why = event_routing.LISTENER_KINDS[self.kind].refused_authorization
        return why if self.auth_type == refused else super()._token_problem()

    def clean(self) -> None:
        """Refuse what nothing could ever be sent to, field by field."""
        kind = event_routing.LISTENER_KINDS.get(self.kind)
        if kind is None:
            # That it is none of the choices is said by its field.
            return
        _raise_problems(
            url=kind.url_problem(self.url),
            stream=kind.stream_problem(self.stream),
            user_event_pattern=event_routing.event_pattern_problem(self.user_event_pattern),
            auth_type=self._token_problem(),
        )


def _raise_problems(**problems: str) -> None:
    found = {field: problem for field, problem in problems.items() if problem}
    if found:
        raise ValidationError(found)


class HandlerCall(models.Model):
    """What became of one call to an event handler or listener, for people to read.

    It names its hub rather than referring to it: what happened stays when settings go. The secrets of
    handlers are never in it.
    """

    class Outcome(models.TextChoices):
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"
        REFUSED = "refused", "Refused"

    hub = models.CharField(max_length=128)
    when = models.DateTimeField(default=timezone.now, db_index=True)
    event = models.CharField(
        max_length=140, help_text="connect, connected, disconnected; or user. and the name of what a client sent"
    )
    handler = models.CharField(
        max_length=event_routing.MAX_URL_CHARACTERS,
        help_text="Its URL without the query, or module.function.",
    )
    connection_id = models.CharField("connection", max_length=64)
    status = models.PositiveSmallIntegerField(null=True, blank=True, help_text="Of the HTTP answer, if there was one.")
    outcome = models.CharField(max_length=9, choices=Outcome)
    duration_ms = models.PositiveIntegerField("milliseconds")
    attempts = models.PositiveSmallIntegerField(default=1)
    problem = models.TextField(blank=True, help_text="Why it failed.")
    payload = models.TextField(blank=True, help_text="Kept only where the setting RECORD_PAYLOADS asks for it.")

    class Meta:
        ordering = ["-when", "-pk"]
        default_permissions = ("view",)
        indexes = [models.Index(fields=["hub", "-when"], name="handler_calls_of_hub")]

    def __str__(self) -> str:
        return f"{self.event} in hub {self.hub}: {self.outcome}"


class RoleGrant(models.Model):
    """Who gets which role in which hub, when they negotiate."""

    class Who(models.TextChoices):
        USER = "user", "One user"
        GROUP = "group", "A Django group"
        AUTHENTICATED = "authenticated", "Everyone signed in"
        ANONYMOUS = "anonymous", "Visitors who are not signed in"

    class Role(models.TextChoices):
        JOIN_LEAVE = roles.JOIN_LEAVE, "Join and leave groups"
        SEND = roles.SEND, "Send to groups"

    hub = models.ForeignKey(
        Hub, null=True, blank=True, on_delete=models.CASCADE, related_name="role_grants", help_text="Empty: every hub."
    )
    who = models.CharField(max_length=13, choices=Who)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE)
    group = models.ForeignKey(Group, null=True, blank=True, on_delete=models.CASCADE, verbose_name="Django group")
    role = models.CharField(max_length=14, choices=Role)
    group_pattern = models.CharField(
        "group pattern",
        max_length=roles.MAX_PATTERN_CHARACTERS,
        blank=True,
        help_text="Empty: every group. A name: that group. With ? * or **: every group that matches "
        "(? and * stop at dots); put a backslash before a ? * or \\ that is meant literally.",
    )
    join_at_connect = models.BooleanField(
        default=False,
        help_text="Make every new connection a member of this group. Needs a plain group name and the joining role.",
    )

    class Meta:
        ordering = [F("hub__name").asc(nulls_first=True), "who", "role", "group_pattern"]
        constraints = [
            models.CheckConstraint(
                name="grantee_matches_who",
                condition=(
                    Q(who="user", user__isnull=False, group__isnull=True)
                    | Q(who="group", user__isnull=True, group__isnull=False)
                    | Q(who__in=["authenticated", "anonymous"], user__isnull=True, group__isnull=True)
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.grantee} may {self.get_role_display().lower()}: {self.group_pattern or 'all'}"

    @property
    def grantee(self) -> str:
        """Who is meant, in words."""
        if self.who == self.Who.USER:
            return f"user {self.user}"
        if self.who == self.Who.GROUP:
            return f"group {self.group}"
        return self.get_who_display().lower()

    def clean(self) -> None:
        """Refuse grants that would mean nothing, field by field."""
        problems: dict[str, str] = {}
        for who, field in ((self.Who.USER, "user"), (self.Who.GROUP, "group")):
            value = getattr(self, f"{field}_id")
            if self.who == who and not value:
                problems[field] = f"Choose the {field} who gets this role."
            elif self.who != who and value:
                problems[field] = f"Leave this empty, or set “who” to “{who.label}”."
        if self.group_pattern and not roles.is_group_text(self.group_pattern):
            problems["group_pattern"] = (
                f"Not a pattern: at most {roles.MAX_PATTERN_STARS} stars; a backslash only before ? * or \\."
            )
        if self.join_at_connect and (not self.literal_group or self.role != self.Role.JOIN_LEAVE):
            problems["join_at_connect"] = (
                "Give the name of one group (no ? or *) and the role “Join and leave groups”, or untick this."
            )
        if problems:
            raise ValidationError(problems)

    @property
    def literal_group(self) -> str | None:
        """The one group this grant names; None when it is a pattern or means every group."""
        return roles.named_group(self.group_pattern)

    @property
    def role_string(self) -> str:
        """The grant as a role in a token."""
        return roles.role_string(self.role, self.group_pattern)

    @classmethod
    def of(cls, user: AbstractBaseUser | AnonymousUser, hub: str) -> models.QuerySet[RoleGrant]:
        """The grants that apply to a caller in a hub. What anonymous visitors get, signed-in users get too."""
        who = Q(who=cls.Who.ANONYMOUS)
        if user.is_authenticated:
            who |= Q(who=cls.Who.AUTHENTICATED) | Q(user=user) | Q(group__user=user)
        in_hub = Q(hub=None) | Q(hub__name=names.canonical_hub(hub))
        return cls.objects.filter(who, in_hub).distinct()


class SettingsVersion(models.Model):
    """A counter that steps with every change to what hub_settings holds (one row, made at the first)."""

    version = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return str(self.version)

    @classmethod
    def step(cls) -> None:
        """Tell every process that what it holds is out of date. Call it inside the change's transaction."""
        if not cls.objects.filter(pk=1).update(version=F("version") + 1):
            _, made = cls.objects.get_or_create(pk=1, defaults={"version": 1})
            if not made:
                # Another process made it a moment ago, for a change of its own.
                cls.objects.filter(pk=1).update(version=F("version") + 1)

    @classmethod
    def read(cls) -> int:
        """The counter now; 0 before the first change."""
        return cls.objects.filter(pk=1).values_list("version", flat=True).first() or 0
