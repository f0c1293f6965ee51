"""`webpubsub hub`: the settings of hubs.

A hub works without being created; creating it, or changing it, is how its settings get a place. The JSON
has the names of Azure's hub resource; `anonymousUserIdPolicy`, `enabled` and the endpoints of listeners
are ours. Event handlers are typed as for Azure's tool, as pairs; those of listeners are in the same way.
Handlers in code are those of the apps that the command loads: the service's, if EXTRA_APPS is the same.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from typing import Any

import msgspec
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count, QuerySet

from hubs import administration, resources
from hubs.management.cli import grammar, key_values
from hubs.management.cli.errors import Error
from hubs.management.cli.output import Output, Record, Rows, yes_or_no
from hubs.models import Hub
from hubs.upstream import handlers

# Option → field of the model: what `create` sets and `update` changes.
_FLAGS = {
    "allow_anonymous": "anonymous_connect",
    "allow_anonymous_user_ids": "anonymous_user_ids",
}
# Option, and field of the hub → how its pairs are read.
_LISTS = {"event_handlers": key_values.HANDLER, "event_listeners": key_values.LISTENER}
_HANDLER_EXAMPLE = "--event-handler url-template=https://example.com/{event} system-event=connect"


def add_to(tree: Any) -> None:
    """Add this branch."""
    branch = grammar.Branch(tree, "hub", "Create, change, show and delete the settings of hubs")

    parser = branch.command(
        "create",
        create,
        "Create a hub's settings",
        details="Hubs need not be created to work, unless REQUIRE_KNOWN_HUBS is set.",
        examples=[
            "--hub-name chat",
            "--hub-name chat --allow-anonymous true --output json",
            f"--hub-name chat {_HANDLER_EXAMPLE}",
        ],
    )
    _add_settings(parser)

    parser = branch.command(
        "update",
        update,
        "Change a hub's settings",
        details="What is not named stays as it is; event handlers and listeners are set as a whole. A hub without "
        "settings gets them. A running service follows within two seconds.",
        examples=[
            "--hub-name chat --allow-anonymous false",
            f"--hub-name chat {_HANDLER_EXAMPLE}",
            "chat --event-listener type=RedisStream url=redis://localhost stream=chat user-event-pattern='*'",
            "chat --event-handler ''",
        ],
    )
    _add_settings(parser)

    parser = branch.command(
        "show",
        show,
        "Show a hub's settings, and its event handlers in code",
        examples=["--hub-name chat", "chat --output json"],
    )
    _add_hub(parser)

    parser = branch.command("list", list_hubs, "List the hubs that have settings", examples=["", "--output json"])
    grammar.add_output(parser)
    grammar.add_azure_resource(parser)

    parser = branch.command(
        "delete",
        delete,
        "Delete a hub's settings, with its event handlers, own keys and role grants",
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
    for option, table in _LISTS.items():
        parser.add_argument(
            f"--{option.replace('_', '-').removesuffix('s')}",
            nargs="*",
            action="append",
            dest=option,
            metavar="KEY=VALUE",
            help=table.help_text(),
        )
    _add_hub(parser)


def existing(name: str) -> Hub:
    """Give the hub of that (canonical) name, or raise an Error that says what there is."""
    hub = _counted().filter(name=name).first()
    if hub is not None:
        return hub
    near = difflib.get_close_matches(name, Hub.objects.values_list("name", flat=True), n=1)
    hint = f"Did you mean {near[0]}?" if near else f"To create it: manage.py webpubsub hub create --hub-name {name}"
    functions = _functions(name)
    has = f" It has event handlers in code: {functions}." if functions else ""
    raise Error(f"There are no settings for a hub {name}.{has} {hint}")


def create(options: argparse.Namespace, out: Output) -> None:
    """Create a hub."""
    name = grammar.chosen_hub(options)
    try:
        _said(administration.create_hub, name, _changes(options))
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
        grammar.fail_usage(
            options,
            "nothing to change: give --allow-anonymous, --allow-anonymous-user-ids, --event-handler or "
            "--event-listener",
        )
    known = list(Hub.objects.values_list("name", flat=True))
    with transaction.atomic():
        administration.ensure_hub(name)
        _said(administration.change_hub, name, changes)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        out.note(f"Hub {name} had no settings yet; it has now.{f' There is a hub {near[0]}, too.' if near else ''}")
    _print(existing(name), out)


def _said(change: Callable[..., Hub], name: str, changes: dict[str, Any]) -> None:
    """Make a change; what the rules say against it is told with the words that were typed."""
    try:
        change(name, changes)
    except ValidationError as problem:
        raise Error(" ".join(key_values.complaints(problem, _LISTS))) from None


def show(options: argparse.Namespace, out: Output) -> None:
    """Print one hub."""
    _print(existing(grammar.chosen_hub(options)), out)


def list_hubs(options: argparse.Namespace, out: Output) -> None:
    """Print all hubs."""
    hubs = list(_counted().prefetch_related("event_handlers", "event_listeners"))
    columns = [
        "Name",
        "Anonymous connections",
        "Visitors choose user ids",
        "Event handlers",
        "Handlers in code",
        "Own keys",
        "Role grants",
        "Created",
    ]
    rows = [
        [
            hub.name,
            yes_or_no(hub.anonymous_connect),
            yes_or_no(hub.anonymous_user_ids),
            str(len(hub.event_handlers.all())),
            str(len(handlers.in_code(hub.name))),
            str(hub.key_count),
            str(hub.grant_count),
            f"{hub.created_at:%Y-%m-%d %H:%M}",
        ]
        for hub in hubs
    ]
    nothing = "No hub has settings. Hubs work without; to give one settings: manage.py webpubsub hub create"
    known = {hub.name for hub in hubs}
    for name in handlers.hubs_in_code():
        if name not in known:
            out.note(f"Hub {name} has no settings, but event handlers in code: {_functions(name)}")
    out.result([_as_json(hub) for hub in hubs], Rows(columns, rows, nothing))


def _functions(name: str) -> str:
    return ", ".join(handler.function for handler in handlers.in_code(name))


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
    routes = hub.event_handlers.count() + hub.event_listeners.count()
    lost = f"with {hub.key_count} keys, {hub.grant_count} role grants and {routes} event handlers and listeners"
    try:
        answer = input(f"Delete the settings of hub {hub.name}, {lost}? (y/N) ")
    except (EOFError, KeyboardInterrupt):
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise Error("Nothing was deleted.")


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    given = {field: getattr(options, option) for option, field in _FLAGS.items()}
    for option, table in _LISTS.items():
        words = getattr(options, option)
        given[option] = None if words is None else table.read(words)
    return {field: value for field, value in given.items() if value is not None}


def _counted() -> QuerySet[Any]:
    return Hub.objects.annotate(
        key_count=Count("access_keys", distinct=True), grant_count=Count("role_grants", distinct=True)
    )


def _as_json(hub: Any) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(resources.hub(hub, handlers.in_code(hub.name)))
    return data


def _print(hub: Any, out: Output) -> None:
    functions = [
        (f"Handler in code {number}", str(function)) for number, function in enumerate(handlers.in_code(hub.name), 1)
    ]
    webhooks = [
        (f"Event handler {number}", handler.get_inline_title())
        for number, handler in enumerate(hub.event_handlers.all(), 1)
    ]
    listeners = [
        (f"Event listener {number}", listener.get_inline_title())
        for number, listener in enumerate(hub.event_listeners.all(), 1)
    ]
    lines = [
        ("Name", hub.name),
        ("Anonymous connections", yes_or_no(hub.anonymous_connect)),
        ("Visitors choose user ids", yes_or_no(hub.anonymous_user_ids)),
        *functions,
        *webhooks,
        *listeners,
        ("Own keys", str(hub.key_count)),
        ("Role grants", str(hub.grant_count)),
        ("Created", f"{hub.created_at:%Y-%m-%d %H:%M}"),
        ("Changed", f"{hub.updated_at:%Y-%m-%d %H:%M}"),
    ]
    out.result(_as_json(hub), Record(lines))
