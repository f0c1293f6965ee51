"""`webpubsub hub`: the settings of hubs.

A hub works without being created; creating it is how its settings get a place. The JSON has the names
of Azure's hub resource; `anonymousUserIdPolicy` is ours.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import sys
from typing import Any

import msgspec
from django.db.models import Count, QuerySet

from hubs import administration, resources
from hubs.management.cli import grammar
from hubs.management.cli.output import Output, Record, Rows, yes_or_no
from hubs.management.cli.trouble import Error
from hubs.models import Hub

# Option → field of the model: what `create` sets and `update` changes.
_FLAGS = {
    "allow_anonymous": "anonymous_connect",
    "allow_anonymous_user_ids": "anonymous_user_ids",
}


def add_to(tree: Any) -> None:
    """Add this branch."""
    branch = grammar.Branch(tree, "hub", "Create, change, show and delete the settings of hubs")

    parser = branch.command(
        "create",
        create,
        "Create a hub's settings",
        details="Hubs need not be created to work, unless REQUIRE_KNOWN_HUBS is set.",
        examples=["--hub-name chat", "--hub-name chat --allow-anonymous true --output json"],
    )
    _add_settings(parser)

    parser = branch.command(
        "update",
        update,
        "Change a hub's settings",
        details="What is not named stays as it is. A running service follows within two seconds.",
        examples=["--hub-name chat --allow-anonymous false", "chat --allow-anonymous-user-ids true"],
    )
    _add_settings(parser)

    parser = branch.command("show", show, "Show a hub's settings", examples=["--hub-name chat", "chat --output json"])
    _add_hub(parser)

    parser = branch.command("list", list_hubs, "List the hubs that have settings", examples=["", "--output json"])
    grammar.add_output(parser)
    grammar.add_azure_resource(parser)

    parser = branch.command(
        "delete",
        delete,
        "Delete a hub's settings, with its own keys and role grants",
        details="Open connections live on; the hub goes on with default settings.",
        examples=["--hub-name chat", "--hub-name chat --yes"],
    )
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")
    _add_hub(parser)


def _add_hub(parser: argparse.ArgumentParser) -> None:
    grammar.add_hub(parser)
    grammar.add_output(parser)
    grammar.add_azure_resource(parser, name=False)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    grammar.add_flag(parser, "--allow-anonymous", "clients may connect without a token; they get no roles")
    grammar.add_flag(
        parser,
        "--allow-anonymous-user-ids",
        "negotiate gives visitors who are not signed in the user id they ask for (not in Azure)",
    )
    _add_hub(parser)


def existing(name: str) -> Hub:
    """Give the hub of that (canonical) name, or raise an Error that says what there is."""
    hub = _counted().filter(name=name).first()
    if hub is not None:
        return hub
    near = difflib.get_close_matches(name, Hub.objects.values_list("name", flat=True), n=1)
    hint = f"Did you mean {near[0]}?" if near else f"To create it: manage.py webpubsub hub create --hub-name {name}"
    raise Error(f"There are no settings for a hub {name}. {hint}")


def create(options: argparse.Namespace, out: Output) -> None:
    """Create a hub."""
    name = grammar.chosen_hub(options)
    try:
        administration.create_hub(name, _changes(options))
    except administration.AlreadyThere:
        raise Error(
            f"There is a hub {name} already. To change it: manage.py webpubsub hub update --hub-name {name} …"
        ) from None
    _print(existing(name), out)


def update(options: argparse.Namespace, out: Output) -> None:
    """Change what the options name."""
    changes = _changes(options)
    name = grammar.chosen_hub(options)
    if not changes:
        grammar.fail_usage(options, "nothing to change: give --allow-anonymous or --allow-anonymous-user-ids")
    # Without such a hub the next line says what there is instead.
    with contextlib.suppress(Hub.DoesNotExist):
        administration.change_hub(name, changes)
    _print(existing(name), out)


def show(options: argparse.Namespace, out: Output) -> None:
    """Print one hub."""
    _print(existing(grammar.chosen_hub(options)), out)


def list_hubs(options: argparse.Namespace, out: Output) -> None:
    """Print all hubs."""
    hubs = list(_counted())
    columns = ["Name", "Anonymous connections", "Visitors choose user ids", "Own keys", "Role grants", "Created"]
    rows = [
        [
            hub.name,
            yes_or_no(hub.anonymous_connect),
            yes_or_no(hub.anonymous_user_ids),
            str(hub.key_count),
            str(hub.grant_count),
            f"{hub.created_at:%Y-%m-%d %H:%M}",
        ]
        for hub in hubs
    ]
    nothing = "No hub has settings. Hubs work without; to give one settings: manage.py webpubsub hub create"
    out.result([_as_json(hub) for hub in hubs], Rows(columns, rows, nothing))


def delete(options: argparse.Namespace, out: Output) -> None:
    """Delete one hub, after asking."""
    hub = existing(grammar.chosen_hub(options))
    if not options.yes:
        _ask(hub)
    administration.delete_hub(hub)
    out.done(f"Deleted the settings of hub {hub.name}.")


def _ask(hub: Any) -> None:
    if not sys.stdin.isatty():
        raise Error("Nobody can be asked here. To delete without being asked, add --yes.")
    lost = f"with {hub.key_count} keys and {hub.grant_count} role grants"
    try:
        answer = input(f"Delete the settings of hub {hub.name}, {lost}? (y/N) ")
    except (EOFError, KeyboardInterrupt):
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise Error("Nothing was deleted.")


def _changes(options: argparse.Namespace) -> dict[str, bool]:
    given = {field: getattr(options, option) for option, field in _FLAGS.items()}
    return {field: value for field, value in given.items() if value is not None}


def _counted() -> QuerySet[Any]:
    return Hub.objects.annotate(
        key_count=Count("access_keys", distinct=True), grant_count=Count("role_grants", distinct=True)
    )


def _as_json(hub: Any) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(resources.hub(hub))
    return data


def _print(hub: Any, out: Output) -> None:
    pairs = [
        ("Name", hub.name),
        ("Anonymous connections", yes_or_no(hub.anonymous_connect)),
        ("Visitors choose user ids", yes_or_no(hub.anonymous_user_ids)),
        ("Own keys", str(hub.key_count)),
        ("Role grants", str(hub.grant_count)),
        ("Created", f"{hub.created_at:%Y-%m-%d %H:%M}"),
        ("Changed", f"{hub.updated_at:%Y-%m-%d %H:%M}"),
    ]
    out.result(_as_json(hub), Record(pairs))
