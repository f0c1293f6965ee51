"""`manage.py runserver`: daphne for development, complete enough for every client."""

from daphne.management.commands.runserver import Command as DaphneCommand

from hubs.servers.daphne import FullServer


class Command(DaphneCommand):
    """daphne's runserver with our WebSocket protocol."""

    server_cls = FullServer
