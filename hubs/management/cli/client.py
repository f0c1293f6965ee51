"""`webpubsub client`: make client URLs, and be a client.

`client url` signs with the primary key and needs the database only; `client start` then opens a
WebSocket like any other client, to this service or, with --url, to any that speaks the protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any
from urllib.parse import urlsplit

from hubs import client_urls
from hubs.management.cli import console, grammar
from hubs.management.cli.errors import Error
from hubs.management.cli.output import Line, Output
from hubs.rules import roles as roles_rules

BROAD_ROLES = tuple(f"webpubsub.{permission}" for permission in roles_rules.PERMISSIONS)

_ROLES_HELP = """\
roles:
  webpubsub.joinLeaveGroup            join and leave every group
  webpubsub.joinLeaveGroup.GROUP      that group only
  webpubsub.joinLeaveGroups.PATTERN   groups that match (? * **)
  webpubsub.sendToGroup               send to every group; likewise .GROUP and sendToGroups.PATTERN
"""


def add_to(tree: Any) -> None:
    """Add this branch."""
    branch = grammar.Branch(tree, "client", "Make client URLs; connect as a client")

    parser = branch.command(
        "url",
        url,
        "Print a URL with which a client can connect",
        details="It carries a token signed with the primary key: whoever has the URL is that user. In Azure, the "
        "portal has this as Client URL Generator.",
        examples=[
            "--hub-name chat --user-id ada --role webpubsub.joinLeaveGroup webpubsub.sendToGroup",
            "--hub-name chat --role webpubsub.sendToGroup.news --group news --expires-in 1440",
            "--hub-name chat --output json",
        ],
    )
    _add_client(parser, "none: the client may only send events and receive")
    parser.add_argument(
        "--expires-in",
        type=int,
        default=client_urls.DEFAULT_MINUTES,
        metavar="MINUTES",
        help="how long the URL opens new connections (default: %(default)s minutes)",
    )
    grammar.add_output(parser)
    grammar.add_azure_resource(parser, name=False)

    parser = branch.command(
        "start",
        start,
        "Connect as a client, and type what it should do",
        details="Prints what arrives. Commands come from the terminal, or line by line from a pipe; then the exit code "
        "is 1 if one was refused. Type help to see the commands.",
        examples=[
            "--hub-name chat --user-id ada",
            "--hub-name stream --group stream --role webpubsub.joinLeaveGroup.stream",
            "--url 'ws://localhost:8080/client/hubs/chat?access_token=…'",
            "--hub-name chat <<< 'sendtogroup news Hello'",
        ],
    )
    _add_client(parser, "both broad ones")
    parser.add_argument(
        "--url", help="a client URL to connect to as it is, instead of --hub-name and what a token holds"
    )
    parser.add_argument(
        "--protocol",
        choices=console.PROTOCOLS,
        default=console.PROTOCOLS[0],
        help="the subprotocol (default: %(default)s); with none, every line is sent as it is, as an event",
    )
    parser.add_argument(
        "--output",
        "-o",
        choices=("table", "json"),
        default="table",
        help="table: sentences for people (default); json: every frame as it arrives, one a line",
    )
    grammar.add_azure_resource(parser, name=False)


def _add_client(parser: argparse.ArgumentParser, default_roles: str) -> None:
    grammar.add_hub(parser)
    parser.add_argument("--user-id", metavar="USER", help="who the client is (default: nobody)")
    parser.add_argument(
        "--role",
        "--roles",
        nargs="+",
        action="extend",
        metavar="ROLE",
        help=f"what it may do (default: {default_roles})",
    )
    parser.add_argument(
        "--group", "--groups", nargs="+", action="extend", metavar="GROUP", help="groups it is in from the start"
    )
    parser.epilog = f"{_ROLES_HELP}\n{parser.epilog}"


def url(options: argparse.Namespace, out: Output) -> None:
    """Print a client URL."""
    issued = _issue(options, out, minutes=options.expires_in, default_roles=())
    data = {
        "url": issued.url,
        "baseUrl": issued.base_url,
        "token": issued.token,
        "expires": issued.expires.isoformat().replace("+00:00", "Z"),
    }
    out.result(data, Line(issued.url))


def start(options: argparse.Namespace, out: Output) -> None:
    """Be a client until told to stop."""
    address = _given_url(options) if options.url is not None else _own_url(options, out)
    try:
        asyncio.run(console.converse(address, options.protocol, out))
    except KeyboardInterrupt:
        sys.exit(130)


def _own_url(options: argparse.Namespace, out: Output) -> str:
    return _issue(options, out, minutes=client_urls.DEFAULT_MINUTES, default_roles=BROAD_ROLES).url


def _given_url(options: argparse.Namespace) -> str:
    named = {
        "HUB": options.hub_word,
        "--hub-name": options.hub_name,
        "--user-id": options.user_id,
        "--role": options.role,
        "--group": options.group,
    }
    superfluous = [name for name, value in named.items() if value is not None]
    if superfluous:
        grammar.fail_usage(options, f"a --url has its token already; leave out {', '.join(superfluous)}")
    try:
        parts = urlsplit(options.url)
        good = parts.scheme in ("ws", "wss") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        # Not quoted: it may hold a token.
        raise Error("--url is not a client URL: it has to start with ws://HOST or wss://HOST.")
    return str(options.url)


def _issue(
    options: argparse.Namespace, out: Output, *, minutes: int, default_roles: tuple[str, ...]
) -> client_urls.ClientUrl:
    hub = grammar.chosen_hub(options)
    given = options.role if options.role is not None else default_roles
    for role in given:
        if not role.startswith("webpubsub."):
            out.note(f"Note: role {role!r} grants nothing; roles start with webpubsub., such as {BROAD_ROLES[0]}")
    try:
        return client_urls.issue(hub, user_id=options.user_id, roles=given, groups=options.group or (), minutes=minutes)
    except client_urls.CannotIssue as problem:
        raise Error(problem.message) from None
