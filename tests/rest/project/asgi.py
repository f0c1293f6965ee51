"""HTTP to Django alone, WebSockets to the hubs."""

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from hubs.lifespan import lifespan_application  # noqa: E402
from hubs.rest.body_limit import BoundedBodies  # noqa: E402
from hubs.routing import websocket_application  # noqa: E402

application = ProtocolTypeRouter(
    {"http": BoundedBodies(django_application), "websocket": websocket_application, "lifespan": lifespan_application}
)
