"""`manage.py runserver`: daphne for development, complete enough for every client."""

from typing import Any

from daphne.management.commands.runserver import Command as DaphneCommand

from hubs.servers import accepting
from hubs.servers.daphne import FullServer


class Command(DaphneCommand):
    """daphne's runserver with our WebSocket protocol."""

    server_cls = FullServer

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Serve until interrupted."""
        accepting.raise_limit()
        super().inner_run(*args, **options)
