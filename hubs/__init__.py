"""Hubwire: a Web PubSub service as a Django app, wire-compatible with Azure Web PubSub.

This package holds the whole service in rooms; docs/architecture.md draws them and the direction
imports may take. A Django project plugs it in through INSTALLED_APPS, `hubs.urls` and
`hubs.routing`; everything below those doors is called by the doors alone.
"""
