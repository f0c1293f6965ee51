"""The Django project around the `hubs` app: settings, URL table, ASGI entry.

It decides how this installation is wired (database, channel layer, logging) and holds no behaviour
of the service itself. Servers and `manage.py` call it; `hubs` never imports it.
"""
