"""The ASGI application: HTTP to Django, WebSockets to the hubs."""

import os

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pubsub_site.settings")

# First, because it loads the apps that the next import needs.
django_application = get_asgi_application()

from hubs.lifespan import lifespan_application  # noqa: E402
from hubs.rest.intake import BoundedBodies  # noqa: E402
from hubs.routing import websocket_application  # noqa: E402

application = ProtocolTypeRouter(
    {"http": BoundedBodies(django_application), "websocket": websocket_application, "lifespan": lifespan_application}
)
