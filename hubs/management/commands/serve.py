"""`manage.py serve`: the production server."""

from __future__ import annotations

import importlib
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from hubs import conf
from hubs.management.cli.trouble import is_behind
from hubs.servers import uvicorn


class Command(BaseCommand):
    """Run the service on uvicorn."""

    help = "Serve HTTP and WebSockets on uvicorn until interrupted. HOST and PORT come from the environment."
    requires_system_checks = "__all__"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.HOST, help="address or name to listen on (default: %(default)s)")
        parser.add_argument("--port", type=int, default=settings.PORT, help="port to listen on (default: %(default)s)")

    def handle(self, *args: Any, host: str, port: int, **options: Any) -> None:
        """Check, bind, say so, serve."""
        if not 0 < port < 65536:
            raise CommandError(f"PORT={port} is not a port; use 1 to 65535.")
        self._check_database()
        try:
            sockets = uvicorn.bind(host, port)
        except uvicorn.CannotListen as problem:
            raise CommandError(str(problem)) from None
        module, _, name = settings.ASGI_APPLICATION.rpartition(".")
        server = uvicorn.server(getattr(importlib.import_module(module), name))
        where = ", ".join(sorted({_shown(listening.getsockname()) for listening in sockets}))
        self.stdout.write(f"Serving {conf.settings.PUBLIC_ENDPOINTS[0]} on {where}. Ctrl-C stops.")
        self.stdout.flush()
        try:
            server.run(sockets=sockets)
        except KeyboardInterrupt:
            # uvicorn has shut down in good order and passes the signal on.
            self.stdout.write("Stopped.")

    def _check_database(self) -> None:
        try:
            behind = is_behind()
        except DatabaseError as problem:
            raise CommandError(f"The database cannot be used: {problem}. Check DATABASE_URL.") from None
        if behind:
            raise CommandError("The database is not up to date. Run: python manage.py migrate")


def _shown(address: tuple[Any, ...]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
