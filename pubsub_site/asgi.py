"""The ASGI application: HTTP to Django, WebSockets to the hubs."""

import os

from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pubsub_site.settings")

# First, because it loads the apps that the next import needs.
django_application = get_asgi_application()

from hubs.lifespan import lifespan_application  # noqa: E402
from hubs.rest.body_limit import BoundedBodies  # noqa: E402
from hubs.rest.concurrency import BoundedRequests  # noqa: E402
from hubs.rest.cors import allow_other_origins  # noqa: E402
from hubs.rest.fast_path import FastPath  # noqa: E402
from hubs.rest.healthz import HealthChecks  # noqa: E402
from hubs.routing import websocket_application  # noqa: E402
from pubsub_site.prefix import BelowPrefix  # noqa: E402

# In front of Django, for the REST calls that come most often.
fast_path = FastPath(
    BoundedBodies(BoundedRequests(django_application)),
    unconcerned=[
        "pubsub_site.static_files.StaticFiles",
        "pubsub_site.content_policy.AdminContentPolicy",
        "pubsub_site.odd_requests.RefuseOddRequests",
    ],
)

application = ProtocolTypeRouter(
    {
        "http": HealthChecks(allow_other_origins(fast_path)),
        "websocket": websocket_application,
        "lifespan": lifespan_application,
    }
)
if settings.PATH_PREFIX:
    application = BelowPrefix(application, settings.PATH_PREFIX)
