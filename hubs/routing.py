"""WebSocket addresses of the service, for a project's ASGI application."""

from channels.routing import URLRouter
from django.urls import path, re_path

from hubs.consumers import HubConsumer, NoSuchAddress

hub_consumer = HubConsumer.as_asgi()

websocket_application = URLRouter(
    [
        # <path:…>: whatever a hub is called in the address, the handshake judges it, not the router.
        path("client/hubs/<path:hub>", hub_consumer),
        path("client/", hub_consumer),
        path("client", hub_consumer),
        re_path("", NoSuchAddress.as_asgi()),
    ]
)
