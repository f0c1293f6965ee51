"""`webpubsub key`: show the access keys and replace them.

Without --hub it is about the keys of the whole service, as in Azure. With --hub it is about keys that
open one hub only, which Azure does not have; a hub gets them when one is first regenerated.
"""

from __future__ import annotations

import argparse
from typing import Any

from django.db import transaction

from hubs import conf
from hubs.management.cli import grammar, hub
from hubs.management.cli.output import Output, Record
from hubs.management.cli.trouble import Error
from hubs.models import AccessKey, Hub
from hubs.rules import tokens


def add_to(tree: Any) -> None:
    """Add this branch."""
    branch = grammar.Branch(tree, "key", "Show and replace access keys")
    parser = branch.command(
        "show",
        show,
        "Show both access keys and their connection strings",
        examples=["", "--query primaryConnectionString --output tsv", "--hub chat --output json"],
    )
    _add_options(parser)

    parser = branch.command(
        "regenerate",
        regenerate,
        "Replace one access key by a new one",
        details="Tokens signed with the old key open no new connections; open connections and the other key live on. "
        "A running service knows the new key within two seconds.",
        examples=["--key primary", "--key secondary --hub chat"],
    )
    parser.add_argument(
        "--key-type",
        "--key",
        required=True,
        type=str.lower,
        choices=AccessKey.Slot.values,
        help="which of the two keys to replace",
    )
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hub-name", "--hub", metavar="HUB", help="keys that open this hub only (not in Azure)")
    grammar.add_output(parser)
    grammar.add_azure_resource(parser)


def show(options: argparse.Namespace, out: Output) -> None:
    """Print the keys of the service, or of one hub."""
    scope = _scope(options)
    keys = {key.slot: key for key in AccessKey.objects.filter(hub=scope)}
    if not keys:
        raise Error(_nothing_there(scope))
    _print(keys, out)


@transaction.atomic
def regenerate(options: argparse.Namespace, out: Output) -> None:
    """Replace one key; a hub without keys of its own gets a pair."""
    scope = _scope(options)
    missing = not AccessKey.objects.filter(hub=scope, slot=options.key_type).exists()
    if missing and scope is None:
        raise Error(_nothing_there(scope))
    keys = {key.slot: key for key in AccessKey.objects.ensure_pair(scope)}
    if not missing:
        keys[options.key_type].regenerate()
    _print(keys, out)


def _scope(options: argparse.Namespace) -> Hub | None:
    return None if options.hub_name is None else hub.existing(grammar.hub_name(options.hub_name))


def _nothing_there(scope: Hub | None) -> str:
    if scope is None:
        return "The service has no access keys yet. Run: manage.py bootstrap"
    return (
        f"Hub {scope} has no keys of its own; those of the service open it. "
        f"To make a pair: manage.py webpubsub key regenerate --key primary --hub {scope}"
    )


def _print(keys: dict[str, AccessKey], out: Output) -> None:
    endpoint = conf.settings.PUBLIC_ENDPOINTS[0].rstrip("/")
    data: dict[str, str | None] = {}
    for slot in AccessKey.Slot.values:
        key = keys.get(slot)
        data[f"{slot}ConnectionString"] = tokens.connection_string(endpoint, key.text) if key else None
        data[f"{slot}Key"] = key.text if key else None
    pairs = [
        (f"{slot.capitalize()} {what}", data[f"{slot}{name}"] or "(none)")
        for slot in AccessKey.Slot.values
        for what, name in (("key", "Key"), ("connection string", "ConnectionString"))
    ]
    # Sorted by name, as Azure's tool prints them.
    out.result(dict(sorted(data.items())), Record(pairs))
