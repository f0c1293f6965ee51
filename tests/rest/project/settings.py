"""The installation's settings, but for the ASGI entry."""

from pubsub_site.settings import *  # noqa: F403

ASGI_APPLICATION = "tests.rest.project.asgi.application"
