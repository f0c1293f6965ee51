"""WebSocket addresses of the service."""

from channels.routing import URLRouter

websocket_application = URLRouter([])
