"""`manage.py check` for this service: every complaint says what to write instead."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.checks import register as register_check
from django.core.exceptions import ImproperlyConfigured

from hubs import conf
from hubs.rules.names import is_hub_name


def register() -> None:
    """Make Django run the checks below."""
    register_check(check_settings, "hubs")
    register_check(check_channel_layer, "hubs")


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
        local = first.hostname in ("localhost", "127.0.0.1", "::1")
        if first.scheme == "http" and not local:
            problems.append(
                Warning(
                    f"Clients reach {first.hostname} over plain http, so tokens travel unencrypted.",
                    hint="Put a TLS proxy in front and set PUBLIC_ENDPOINT=https://…",
                    id="hubs.W001",
                )
            )
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
    return []
