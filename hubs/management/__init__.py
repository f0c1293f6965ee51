"""The command line: `manage.py bootstrap`, `manage.py webpubsub …`, `manage.py serve`.

It reads what was typed, calls the models and rules below, and prints for people or programs. It holds
no rule of the service and does not talk to a running one, but for the console client, which is an
ordinary WebSocket client. Only `manage.py` calls it; nothing in the service imports it.
"""
