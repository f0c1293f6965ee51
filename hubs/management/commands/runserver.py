"""`manage.py runserver`: daphne for development, complete enough for every client."""

import sys
from typing import Any

from daphne.management.commands.runserver import Command as DaphneCommand
from django.core.management.base import OutputWrapper

from hubs.rest import healthz
from hubs.servers import accepting, output
from hubs.servers.daphne import FullServer


class Command(DaphneCommand):
    """daphne's runserver with our WebSocket protocol."""

    server_cls = FullServer

    def run_from_argv(self, argv: list[str]) -> None:
        """Run as a process of its own, which does not wait for whoever reads what it says."""
        output.take_streams()
        self.stdout, self.stderr = OutputWrapper(sys.stdout), OutputWrapper(sys.stderr)
        super().run_from_argv(argv)

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Serve until interrupted."""
        accepting.raise_limit()
        super().inner_run(*args, **options)

    def log_action(self, protocol: str, action: str, details: dict[str, Any]) -> None:
        """Log what a request came to, health checks apart: somebody asks for these every few seconds."""
        if not (protocol == "http" and details["path"].partition("?")[0].endswith(healthz.PATHS)):
            super().log_action(protocol, action, details)
