"""The demos as a Django app, because one of them has event handlers to register."""

from django.apps import AppConfig


class DemosConfig(AppConfig):
    """The demo pages."""

    name = "hubs.demos"
    verbose_name = "Demos"

    def ready(self) -> None:
        """Register the moderator's event handlers."""
        from hubs.demos import moderation  # noqa: F401
