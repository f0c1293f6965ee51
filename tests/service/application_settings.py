"""The project's settings for services whose event handlers are tested: nobody waits for a setting to come into force.

Everything else is as in an installation, but for the bounds that a test reaches sooner here.
"""

from __future__ import annotations

import os

from pubsub_site import settings as project
from pubsub_site.settings import *  # noqa: F403

MAX_HANDLER_ANSWER_BYTES = 1 << 20

WEBPUBSUB = {
    **project.WEBPUBSUB,
    "SETTINGS_MAX_AGE_SECS": 0,
    "HANDLER_SECS": float(os.environ.get("TEST_HANDLER_SECS", "100")),
    "MAX_HANDLER_ANSWER_BYTES": MAX_HANDLER_ANSWER_BYTES,
}
