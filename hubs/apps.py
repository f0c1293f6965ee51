"""Plugging the hubs into Django."""

from django.apps import AppConfig


class HubsConfig(AppConfig):
    """The Web PubSub service."""

    name = "hubs"
    verbose_name = "Web PubSub"

    def ready(self) -> None:
        """Start the checks and the watch over hubs and keys."""
        from hubs import checks, hub_settings

        checks.register()
        hub_settings.watch()
