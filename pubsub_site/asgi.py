"""The ASGI application: HTTP to Django, WebSockets to the hubs."""

import os

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pubsub_site.settings")

# First, because it loads the apps that the next import needs.
django_application = get_asgi_application()

from hubs.routing import websocket_application  # noqa: E402

application = ProtocolTypeRouter({"http": django_application, "websocket": websocket_application})
