"""`manage.py webpubsub …`: hubs, keys, clients and live connections, typed as in `az webpubsub`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from hubs.management.cli import client, grammar, hub, key, service
from hubs.management.cli.errors import explained
from hubs.management.cli.output import Output

BRANCHES = (key, hub, client, service)


class Command(BaseCommand):
    help = (
        "Hubs, keys, clients and live connections of this service, with the commands of `az webpubsub`. Each command "
        "has --help with examples. `key` and `hub` work on the database, whether or not the service is running; a "
        "running one follows within two seconds. `service` needs a running one."
    )
    requires_system_checks = ["hubs"]

    def add_arguments(self, parser: CommandParser) -> None:
        # Django makes this parser itself and asks for no class; only its choice of words for a slip is replaced.
        parser.__class__ = grammar.Grammar
        tree = parser.add_subparsers(title="groups of commands", metavar="GROUP", dest="branch", required=True)
        for branch in BRANCHES:
            branch.add_to(tree)

    def handle(self, *args: Any, **options: Any) -> None:
        typed = argparse.Namespace(**options)
        out = Output(self.stdout, self.stderr, typed.output, getattr(typed, "query", None), self.style.MIGRATE_LABEL)
        try:
            with explained():
                typed.run(typed, out)
            self.stdout.flush()
        except BrokenPipeError:
            # Who read the pipe has seen enough (`… | head`). The rest goes nowhere, or Python would complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
