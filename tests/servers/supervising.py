"""`python -m tests.servers.supervising PORT WORKERS STOP_SECS SILENCE_SECS EAR`: a supervisor, and obedient workers.

Each worker tells of itself at the socket EAR, where a test listens, and asks what to do (see `Child`). The same
command line starts the workers; they serve an application that answers every request with its process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from django.conf import settings


def main() -> int:
    port, count, stop_secs, silence_secs = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    ear = sys.argv[5]
    settings.configure()
    from hubs.servers import listening, logs, workers

    handler = logs.ConsoleHandler()
    handler.setFormatter(logs.LineFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if (assigned := workers.assignment()) is not None:
        return work(assigned, ear)
    if os.environ.pop("LEAN", ""):
        become_lean(listening.bind_each("127.0.0.1", port, count), stop_secs, silence_secs)
    supervisor = workers.Supervisor(
        listening.bind_each("127.0.0.1", port, count),
        [sys.executable, *sys.orig_argv[1:]],
        os.environ,
        stop_secs=stop_secs,
        silence_secs=silence_secs,
        on_ready=lambda: print("ALL READY", flush=True),
    )
    try:
        ended_by = asyncio.run(supervisor.run())
        signal.signal(ended_by, signal.SIG_DFL)
        signal.raise_signal(ended_by)
    except workers.WorkersFailed as failed:
        print(failed, flush=True)
        return 1
    return 0


def become_lean(sockets: list[list[socket.socket]], stop_secs: float, silence_secs: float) -> NoReturn:
    """Go on as `serve` does."""
    # What a server needs, and a supervisor does not.
    import uvloop  # noqa: F401

    from hubs.servers import supervising

    plan = supervising.Plan(
        [[bound.fileno() for bound in place] for place in sockets],
        [sys.executable, *sys.orig_argv[1:]],
        stop_secs,
        silence_secs,
        "ALL READY",
    )
    supervising.become(plan, os.environ | {"DJANGO_SETTINGS_MODULE": "tests.servers.logging_settings"})


def work(assigned: Any, ear: str) -> int:
    from hubs import health
    from hubs.servers import workers
    from hubs.servers.uvicorn import server

    workers.READY_SECS = float(os.environ.get("READY_SECS", workers.READY_SECS))
    with socket.socket(socket.AF_UNIX) as mouth:
        mouth.connect(ear)

        def say(text: str) -> None:
            mouth.sendall(f"{text}\n".encode())

        say(f"born {assigned.number} {os.getpid()}")
        order = mouth.recv(100).decode().split()
        if order[0] == "die":
            return int(order[1])
        if order[0] == "hang":
            time.sleep(1000)

        if order[0] == "unready":
            # Until it is told something else.
            mouth.setblocking(False)
            health.register("test", _unready(mouth))

        async def drain(stopping_too: int) -> None:
            say(f"draining {stopping_too}")
            mouth.setblocking(False)
            await asyncio.get_running_loop().sock_recv(mouth, 100)

        async def application(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                await receive()
                if order[0] == "unready":
                    logging.getLogger("test").error("The application has started")
                await send({"type": "lifespan.startup.complete"})
                await receive()
                say("over")
                await send({"type": "lifespan.shutdown.complete"})
            elif scope["type"] == "http":
                if scope["path"] == "/hang":
                    hang_for_ever()
                if scope["path"] == "/whole":
                    while (await receive()).get("more_body"):
                        logging.getLogger("test").error("Some of a request has come")
                if scope["path"] in ("/long", "/endless"):
                    # More than sockets hold; one piece that is soon handed over, or many that wait for room.
                    await send({"type": "http.response.start", "status": 200})
                    for _ in range(1 if scope["path"] == "/long" else 1000):
                        more = scope["path"] == "/endless"
                        await send({"type": "http.response.body", "body": bytes(16 << 20), "more_body": more})
                    return
                if scope["path"] == "/log":
                    logging.getLogger("test").error("one line", stack_info=True)
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]})
                await send({"type": "http.response.body", "body": f"{os.getpid():7}".encode()})
            else:
                await receive()
                if scope["path"] == "/unanswered":
                    logging.getLogger("test").error("A handshake waits")
                    await asyncio.Event().wait()
                await send({"type": "websocket.accept"})
                while (await receive())["type"] != "websocket.disconnect":
                    pass

        with contextlib.suppress(KeyboardInterrupt):
            workers.Worker(assigned, server(application, drain)).run()
    return 0


def _unready(mouth: socket.socket) -> Callable[[], str | None]:
    """A probe that complains until something is heard."""
    heard = b""

    def probe() -> str | None:
        nonlocal heard
        with contextlib.suppress(BlockingIOError):
            heard = heard or mouth.recv(100)
        return None if heard else "it is away"

    return probe


def hang_for_ever() -> None:
    """What no handler should do on an event loop."""
    while True:
        time.sleep(1000)


if __name__ == "__main__":
    sys.exit(main())
