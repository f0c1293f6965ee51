"""A Django project that mounts the service as its documentation says, with an ASGI entry of its own and no lane."""
