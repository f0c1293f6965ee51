"""The supervisor in a process that has not loaded the service.

`manage.py serve` needs Django and all apps to check what it is asked to do, more than 100 MB. The supervisor needs
nothing of that but to know how to log. So the command, when all is checked and the sockets are bound, becomes
this (execve): the process stays the same one, its memory does not.

Its command line says so, and has that of `serve` at its end, for those who look for it there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from typing import NoReturn, TextIO

import msgspec

from hubs.servers import logs, output

# Where this process finds what it is to do.
VARIABLE = "HUBWIRE_SUPERVISOR"

# Modules are found where the command has found them; Python alone would look elsewhere.
_PROGRAM = f"""# Hubwire: the supervisor of the workers
import json, os, sys
sys.path[:] = json.loads(os.environ[{VARIABLE!r}])["path"]
from hubs.servers.supervising import main
sys.exit(main())
"""


class Plan(msgspec.Struct, frozen=True):
    """What the supervisor is to do: file descriptors for each place, how workers are started, and their bounds."""

    sockets: list[list[int]]
    command: list[str]
    stop_secs: float
    silence_secs: float
    # Said when all workers serve.
    words: str
    path: list[str] = msgspec.field(default_factory=lambda: list(sys.path))


def become(plan: Plan, environment: Mapping[str, str]) -> NoReturn:
    """Go on as the supervisor; `environment` is the workers', too."""
    for descriptor in {each for place in plan.sockets for each in place}:
        os.set_inheritable(descriptor, True)
    logs.settle()
    arguments = [sys.executable, "-c", _PROGRAM, *sys.argv]
    os.execve(sys.executable, arguments, {**environment, VARIABLE: msgspec.json.encode(plan).decode()})  # noqa: S606


def main() -> int:
    """Supervise until a signal comes; gives the exit status."""
    plan = msgspec.json.decode(os.environ.pop(VARIABLE), type=Plan)
    # Before the settings are read: what they add from a file, a worker reads for itself.
    environment = dict(os.environ)

    from django.conf import settings
    from django.utils.log import configure_logging

    from hubs.servers import listening, workers

    output.take_streams()
    configure_logging(settings.LOGGING_CONFIG, settings.LOGGING)
    supervisor = workers.Supervisor(
        listening.inherited(plan.sockets),
        plan.command,
        environment,
        stop_secs=plan.stop_secs,
        silence_secs=plan.silence_secs,
        on_ready=lambda: _say(sys.stdout, plan.words),
    )
    try:
        ended_by = asyncio.run(supervisor.run())
    except workers.WorkersFailed as failed:
        _say(sys.stderr, f"Error: {failed}")
        return 1
    if ended_by == signal.SIGINT:
        _say(sys.stdout, "Stopped.")
        return 0
    # What sent it may look at how this process ends. Nothing else is done on that way out.
    logs.settle()
    signal.raise_signal(ended_by)
    return 1


def _say(to: TextIO, words: str) -> None:
    to.write(f"{words}\n")
    to.flush()
