"""The project's settings for Autobahn, some of whose messages are of 16 MiB."""

from __future__ import annotations

from pubsub_site import settings as project
from pubsub_site.settings import *  # noqa: F403

WEBPUBSUB = {**project.WEBPUBSUB, "MAX_MESSAGE_BYTES": 16 << 20, "MAX_OUTBOX_BYTES": 64 << 20}
