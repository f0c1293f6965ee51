"""`webpubsub key`: show the access keys and replace them.

Without --hub it is about the keys of the whole service, as in Azure. With --hub it is about keys that
open one hub only, which Azure does not have; a hub gets them when one is first regenerated.
"""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from hubs import administration, resources
from hubs.management.cli import grammar, hub
from hubs.management.cli.errors import Error
from hubs.management.cli.output import Output, Record
from hubs.models import AccessKey, Hub


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
    try:
        pair = administration.show_keys(scope)
    except administration.NoKeys:
        raise Error(_nothing_there(scope)) from None
    _print(resources.keys(pair), out)


def regenerate(options: argparse.Namespace, out: Output) -> None:
    """Replace one key; a hub without keys of its own gets a pair."""
    scope = _scope(options)
    try:
        pair = administration.regenerate_key(scope, options.key_type)
    except administration.NoKeys:
        raise Error(_nothing_there(scope)) from None
    _print(resources.keys(pair, readable_only=True), out)


def _scope(options: argparse.Namespace) -> Hub | None:
    return None if options.hub_name is None else hub.existing(grammar.hub_name(options.hub_name))


def _nothing_there(scope: Hub | None) -> str:
    if scope is None:
        return "The service has no access keys yet. Run: manage.py bootstrap"
    return (
        f"Hub {scope} has no keys of its own; those of the service open it. "
        f"To make a pair: manage.py webpubsub key regenerate --key primary --hub {scope}"
    )


def _print(keys: resources.Keys, out: Output) -> None:
    data: dict[str, str | None] = msgspec.to_builtins(keys)
    pairs = [
        (f"{slot.capitalize()} {what}", data[f"{slot}{name}"] or "(none)")
        for slot in AccessKey.Slot.values
        for what, name in (("key", "Key"), ("connection string", "ConnectionString"))
    ]
    # Sorted by name, as Azure's tool prints them.
    out.result(dict(sorted(data.items())), Record(pairs))
