"""`manage.py check` for this service: every complaint says what to write instead."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.checks import register as register_check
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from rest_framework.settings import api_settings

from hubs import addresses, conf, sign_in
from hubs.layers.errors import LayerAway
from hubs.layers.redis import RETENTION_SECS, RedisLayer
from hubs.rules.names import is_hub_name


def register() -> None:
    """Make Django run the checks below."""
    register_check(check_settings, "hubs")
    register_check(check_channel_layer, "hubs")
    register_check(check_redis, "hubs", deploy=True)
    register_check(check_caches, "hubs")
    register_check(check_secret_key, "hubs")
    register_check(check_database_file, "hubs")


def check_settings(**_: Any) -> list[CheckMessage]:
    """Hold every entry of WEBPUBSUB against its rule."""
    try:
        chosen = conf.chosen()
    except ImproperlyConfigured as problem:
        return [Error(str(problem), id="hubs.E001")]
    problems: list[CheckMessage] = []
    for name, value in chosen.items():
        complaint = conf.OPTIONS[name].complaint(value)
        if complaint:
            problems.append(
                Error(
                    f"WEBPUBSUB[{name!r}] is {value!r}: {complaint}.", hint=conf.OPTIONS[name].meaning, id="hubs.E002"
                )
            )
    if not problems and not is_hub_name(conf.settings.DEFAULT_HUB):
        problems.append(
            Error(
                f"WEBPUBSUB['DEFAULT_HUB'] is {conf.settings.DEFAULT_HUB!r}, which no hub can be called.",
                hint="Hub names start with a letter and go on with letters, digits or _ ` , . [ ].",
                id="hubs.E004",
            )
        )
    if not problems:
        # What a client missed is put into its outbox at once when it is back.
        for kept, waiting in (("MESSAGES", "MAX_OUTBOX_MESSAGES"), ("BYTES", "MAX_OUTBOX_BYTES")):
            buffer = getattr(conf.settings, f"RELIABLE_BUFFER_{kept}")
            if buffer > getattr(conf.settings, waiting):
                problems.append(
                    Warning(
                        f"WEBPUBSUB['RELIABLE_BUFFER_{kept}'] is {buffer}, more than {waiting}: a client that comes "
                        "back to so much is closed as one that reads too slowly.",
                        hint=f"Set {waiting} to at least {buffer}.",
                        id="hubs.W002",
                    )
                )
        first = urlsplit(conf.settings.PUBLIC_ENDPOINTS[0])
        local = first.hostname in addresses.LOOPBACK_NAMES
        if first.scheme == "http" and not local:
            problems.append(
                Warning(
                    f"Clients reach {first.hostname} over plain http, so tokens travel unencrypted.",
                    hint="Put a TLS proxy in front and set PUBLIC_ENDPOINT=https://…",
                    id="hubs.W001",
                )
            )
        problems += [*_proxies(), *_strict_transport(), *_retention()]
    return problems


def check_channel_layer(**_: Any) -> list[CheckMessage]:
    """There has to be a channel layer, even if only one process uses it."""
    if "default" not in getattr(django_settings, "CHANNEL_LAYERS", {}):
        return [
            Error(
                "CHANNEL_LAYERS has no 'default' entry, so processes cannot talk to each other.",
                hint="Write CHANNEL_LAYERS = {'default': {'BACKEND': 'channels.layers.InMemoryChannelLayer'}} for one "
                "process, or set REDIS_URL for several.",
                id="hubs.E003",
            )
        ]
    backend = django_settings.CHANNEL_LAYERS["default"].get("BACKEND", "")
    if backend == "channels.layers.InMemoryChannelLayer" or "log" in getattr(_layer_class(backend), "extensions", ()):
        return []
    return [
        Warning(
            f"The channel layer {backend} keeps no log: what one process sends reaches the others at most once, and "
            "reliable clients can come back to their own process alone.",
            hint="Use hubs.layers.redis.RedisLayer, which takes the same CONFIG as channels_redis. See "
            "docs/scale-out.md.",
            id="hubs.W011",
        )
    ]


def check_redis(**_: Any) -> list[CheckMessage]:
    """Ask the Redis of the channel layer whether it has what the log needs; only `check --deploy` does."""
    layer = get_channel_layer()
    if not isinstance(layer, RedisLayer):
        return []
    try:
        missing = async_to_sync(layer.requirements)()
    except LayerAway as problem:
        return [Error(f"Redis cannot be used: {problem}", hint="Start it, or correct REDIS_URL.", id="hubs.E005")]
    return [
        Warning(sentence, hint="See 'Redis' in docs/scale-out.md for what the service needs.", id="hubs.W014")
        for sentence in missing
    ]


def _layer_class(path: str) -> Any:
    try:
        return import_string(path)
    except ImportError:
        return None


def check_caches(**_: Any) -> list[CheckMessage]:
    """Calls and failed sign-ins are counted in the cache, and must not fail with it."""
    return [
        Warning(
            f"CACHES[{name!r}] is Django's own Redis cache. While Redis is away, full or read-only, negotiate, the "
            "management API and signing in fail with it.",
            hint="Write 'BACKEND': 'hubs.redis_cache.RedisCache'; all other entries stay as they are.",
            id="hubs.W013",
        )
        for name in ("default", sign_in.COUNTS, sign_in.KNOWN_ADDRESSES)
        if django_settings.CACHES.get(name, {}).get("BACKEND") == "django.core.cache.backends.redis.RedisCache"
    ]


# What a text of random letters and digits has at least: 32 of them are about 160 bits, 32 hexadecimal digits 128.
_MIN_SECRET_CHARACTERS = 32
_MIN_DIFFERENT_CHARACTERS = 10


def check_secret_key(**_: Any) -> list[CheckMessage]:
    """Sessions are signed and access keys encrypted with the secret, so nobody may guess it."""
    secrets = [("SECRET_KEY", django_settings.SECRET_KEY)]
    secrets += [("SECRET_KEY_FALLBACKS", secret) for secret in django_settings.SECRET_KEY_FALLBACKS]
    return [
        Warning(
            f"{name} can be guessed: it has fewer than {_MIN_SECRET_CHARACTERS} characters, too few different ones, or "
            "is an example.",
            hint="Set a random one, such as `openssl rand -base64 48` prints, and put the old one into "
            "SECRET_KEY_FALLBACKS until the access keys have been regenerated.",
            id="hubs.W010",
        )
        for name, secret in secrets
        if len(secret) < _MIN_SECRET_CHARACTERS
        or len(set(secret)) < _MIN_DIFFERENT_CHARACTERS
        or secret.startswith("django-insecure-")
    ]


def _proxies() -> list[CheckMessage]:
    """Behind a proxy whose callers are not told apart, one who fails to sign in keeps out everybody."""
    if conf.settings.TRUST_FORWARDED_HEADERS and not api_settings.NUM_PROXIES:
        return [
            Warning(
                "TRUST_FORWARDED_HEADERS is on, but NUM_PROXIES is 0: all callers count as the proxy, so they share "
                "limits and the log does not tell them apart.",
                hint="Set NUM_PROXIES to the number of proxies in front that append to X-Forwarded-For, usually 1.",
                id="hubs.W015",
            )
        ]
    return []


def _strict_transport() -> list[CheckMessage]:
    """Browsers keep to HSTS for as long as they were told, so it has to be possible to keep to it."""
    if django_settings.SECURE_HSTS_SECONDS and urlsplit(conf.settings.PUBLIC_ENDPOINTS[0]).scheme != "https":
        return [
            Warning(
                "HSTS_SECS is set, but the first endpoint is http, so browsers are never told to use https.",
                hint="Set PUBLIC_ENDPOINT=https://… and, behind a proxy, TRUST_FORWARDED_HEADERS=true; or leave "
                "HSTS_SECS out.",
                id="hubs.W012",
            )
        ]
    return []


def _retention() -> list[CheckMessage]:
    """Who may come back has to find what was missed."""
    layer = getattr(django_settings, "CHANNEL_LAYERS", {}).get("default", {})
    if _layer_class(layer.get("BACKEND", "")) is not RedisLayer:
        return []
    kept, away = layer.get("CONFIG", {}).get("retention_secs", RETENTION_SECS), conf.settings.RECOVERY_SECS
    if kept > away:
        return []
    return [
        Warning(
            f"LOG_RETENTION_SECS is {kept:g} and RECOVERY_SECS is {away:g}: clients may come back when what they "
            "missed is not kept any more, and are then refused.",
            hint=f"Set LOG_RETENTION_SECS to more than {away:g}; its default is {RETENTION_SECS:g}.",
            id="hubs.W021",
        )
    ]


def check_database_file(**_: Any) -> list[CheckMessage]:
    """SQLite's file has password hashes and access keys in it: not everybody on the machine may get at it."""
    database = getattr(django_settings, "DATABASES", {}).get("default", {})
    if database.get("ENGINE") != "django.db.backends.sqlite3":
        return []
    file = Path(database["NAME"])
    try:
        mode, around = file.stat().st_mode, file.parent.stat().st_mode
    except OSError:
        # Not there, or in memory.
        return []
    is_open = around & stat.S_IXOTH and mode & (stat.S_IROTH | stat.S_IWOTH)
    can_be_replaced = around & stat.S_IWOTH and not around & stat.S_ISVTX
    if not is_open and not can_be_replaced:
        return []
    return [
        Warning(
            f"Everybody on this machine can read or replace the database {file}.",
            hint=f"chmod 700 {file.parent}; chmod 600 {file}",
            id="hubs.W020",
        )
    ]
