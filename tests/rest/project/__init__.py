"""A Django project that mounts the service as its documentation says, with an own ASGI entry and no fast path."""
