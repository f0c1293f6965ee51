"""The ASGI application of the comparison project."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "stock_site.settings")

django_application = get_asgi_application()

from stock_site.consumers import ChatConsumer  # noqa: E402

application = ProtocolTypeRouter(
    {"http": django_application, "websocket": URLRouter([path("chat/", ChatConsumer.as_asgi())])}
)
