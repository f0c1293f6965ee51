"""`manage.py serve`: the production server."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import sys
from contextlib import ExitStack
from typing import Any

from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser, OutputWrapper
from django.db import connections

from hubs import conf
from hubs.connections.draining import drain
from hubs.layers.errors import LayerAway
from hubs.layers.redis import RedisLayer
from hubs.management.cli.errors import Error, explained, is_behind, one_line
from hubs.servers import accepting, listening, output, supervising, uvicorn, workers

# Beyond DRAIN_SECS: what a worker needs for its last events, records and words.
ENDING_SECS = 30.0


class Command(BaseCommand):
    """Run the service on uvicorn."""

    help = "Serve HTTP and WebSockets on uvicorn until interrupted. HOST, PORT and WORKERS come from the environment."
    requires_system_checks = "__all__"

    def run_from_argv(self, argv: list[str]) -> None:
        """Run as a process of its own, which does not wait for whoever reads what it says."""
        output.take_streams()
        self.stdout, self.stderr = OutputWrapper(sys.stdout), OutputWrapper(sys.stderr)
        super().run_from_argv(argv)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.HOST, help="address or name to listen on (default: %(default)s)")
        parser.add_argument("--port", type=int, default=settings.PORT, help="port to listen on (default: %(default)s)")
        parser.add_argument(
            "--workers",
            type=int,
            default=getattr(settings, "WORKERS", 1),
            help="processes to serve with; more than one need REDIS_URL (default: %(default)s)",
        )
        parser.add_argument(
            "--set-up",
            action="store_true",
            help="first do what `migrate` and `bootstrap` do: update the database, create what an empty one lacks",
        )

    def handle(self, *args: Any, host: str, port: int, **options: Any) -> None:
        """Check, bind, say so, serve."""
        accepting.raise_limit()
        if (assigned := workers.assignment()) is not None:
            _work(assigned)
            return
        count: int = options["workers"]
        if not 0 < port < 65536:
            raise Error(f"PORT={port} is not a port; use 1 to 65535.")
        if not 1 <= count <= workers.MAX_WORKERS:
            raise Error(f"WORKERS={count} is not possible; use 1 to {workers.MAX_WORKERS}.")
        if count > 1 and isinstance(get_channel_layer(), InMemoryChannelLayer):
            raise Error(
                f"WORKERS={count} needs a Redis, by which the workers reach each other's clients. "
                "Set REDIS_URL=redis://host:6379/0, or WORKERS=1."
            )
        try:
            sockets = listening.bind_each(host, port, count)
        except listening.CannotListen as problem:
            raise Error(str(problem)) from None
        with ExitStack() as on_error:
            on_error.callback(listening.close, [each for place in sockets for each in place])
            # Before anything is written or said: with the port ours, look for what else is needed.
            self._check_layer()
            with explained():
                if options["set_up"]:
                    call_command("migrate", verbosity=0)
                    call_command("bootstrap", stdout=self.stdout, stderr=self.stderr)
                    self.stdout.write("")
                self._check_database()
            on_error.pop_all()
        if count == 1:
            self.stdout.write(self._words(sockets[0]))
            self.stdout.flush()
            self._serve(sockets[0])
        else:
            self._supervise(sockets)

    def _serve(self, sockets: list[socket.socket]) -> None:
        try:
            uvicorn.server(_application(), drain).run(sockets=sockets)
        except KeyboardInterrupt:
            # uvicorn has shut down in good order and passes the signal on.
            self.stdout.write("Stopped.")

    def _supervise(self, sockets: list[list[socket.socket]]) -> None:
        # A worker reads the `.env` file for itself, and finds what has changed in it.
        environment = {name: value for name, value in os.environ.items() if name not in _from_file()}
        supervising.become(
            supervising.Plan(
                sockets=[[bound.fileno() for bound in place] for place in sockets],
                command=[sys.executable, *sys.orig_argv[1:], "--skip-checks"],
                stop_secs=conf.settings.DRAIN_SECS + ENDING_SECS,
                silence_secs=conf.settings.WORKER_SILENCE_SECS,
                words=self._words(sockets[0], f" with {len(sockets)} workers"),
            ),
            environment,
        )

    def _words(self, sockets: list[socket.socket], how: str = "") -> str:
        where = ", ".join(sorted({_shown(bound.getsockname()) for bound in sockets}))
        return f"Serving {conf.settings.PUBLIC_ENDPOINTS[0]} on {where}{how}. Ctrl-C stops."

    def _check_layer(self) -> None:
        """A process that has begun to serve waits for a Redis that went away; at the start the address may be wrong."""
        layer = get_channel_layer()
        if not isinstance(layer, RedisLayer):
            return
        try:
            missing = asyncio.run(layer.requirements())
        except LayerAway as problem:
            said = one_line(problem).removesuffix(".")
            raise Error(f"Redis cannot be used: {said}. Start it if it is down, else check REDIS_URL.") from None
        for sentence in missing:
            self.stderr.write(f"Warning: {sentence}")

    def _check_database(self) -> None:
        try:
            behind = is_behind()
        finally:
            connections.close_all()
        if behind:
            raise Error("The database is not up to date. Run: python manage.py migrate")


def _work(assigned: workers.Assignment) -> None:
    """Serve as one of several workers."""
    try:
        workers.Worker(assigned, uvicorn.server(_application(), drain)).run()
    except KeyboardInterrupt:
        # SIGINT was sent to it alone.
        return


def _application() -> Any:
    module, _, name = settings.ASGI_APPLICATION.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _from_file() -> frozenset[str]:
    """The variables that are set because they stand in a file which is read at the start of each process."""
    return frozenset(getattr(settings, "VARIABLES_FROM_FILE", ()))


def _shown(address: tuple[Any, ...]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
