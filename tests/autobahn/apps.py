"""A Django app whose event handler says back what a plain WebSocket client has said."""

from __future__ import annotations

from django.apps import AppConfig

HUB = "autobahn"


class EchoConfig(AppConfig):
    """The hub whose clients hear themselves."""

    name = "tests.autobahn"
    label = "test_autobahn"

    def ready(self) -> None:
        from hubs.upstream import Reply, UserEventRequest, hub

        @hub(HUB).on_event("message")
        async def echo(request: UserEventRequest) -> Reply:
            return Reply(request.payload)
