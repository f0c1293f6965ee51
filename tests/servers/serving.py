"""`python -m tests.servers.serving SERVER PORT OPTIONS`: one of our two servers with the tests' own application."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from typing import Any

from django.conf import settings


def main() -> None:
    server, port, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    logging.basicConfig(level=logging.INFO)
    settings.configure(WEBPUBSUB=options["settings"])
    from hubs.servers import endings, http

    endings.CLOSING_SECS = options["closing_secs"]
    for name, value in options["http"].items():
        assert hasattr(http, name), name
        setattr(http, name, value)
    SERVERS[server](port)


def _uvicorn(port: int) -> None:
    from tests.servers.application import application

    _serve(application, port)


def _direct(port: int) -> None:
    from tests.servers.direct import direct_application

    _serve(direct_application, port)


def _serve(application: Any, port: int) -> None:
    from hubs.servers.listening import bind
    from hubs.servers.uvicorn import server

    # uvicorn passes the signal on that has stopped it.
    with contextlib.suppress(KeyboardInterrupt):
        server(application).run(sockets=bind("127.0.0.1", port))


def _daphne(port: int) -> None:
    from hubs import conf
    from hubs.servers.daphne import FullServer
    from tests.servers.application import application

    limit = conf.settings.MAX_MESSAGE_BYTES * 2
    limits: dict[str, Any] = {"websocket_max_message_size": limit, "websocket_max_frame_size": limit}
    FullServer(
        # daphne calls an application with names, and wants an awaitable.
        application=lambda scope, receive, send: application(scope, receive, send),
        endpoints=[f"tcp:port={port}:interface=127.0.0.1"],
        **limits,
    ).run()


SERVERS = {"uvicorn": _uvicorn, "direct": _direct, "daphne": _daphne}

if __name__ == "__main__":
    main()
