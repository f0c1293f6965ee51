"""Settings of the comparison project: the least that Django and Channels need."""

import os
import secrets

SECRET_KEY = secrets.token_urlsafe(32)
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
INSTALLED_APPS = ["daphne", "channels"]
ASGI_APPLICATION = "stock_site.asgi.application"
USE_TZ = True

if "REDIS_URL" in os.environ:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
        }
    }
else:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels.layers.InMemoryChannelLayer",
            # The layer drops what exceeds this, without a word. The default of 100 is kept from mattering, since
            # a server that loses messages has less to do.
            "CONFIG": {"capacity": 100_000},
        }
    }
