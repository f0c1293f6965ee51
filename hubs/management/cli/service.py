"""`webpubsub service`: what a server does with live connections, by hand.

The other branches work on the database. These go through the REST API of the running service, like
any server of yours: with its public endpoint and the primary key, or with a connection string
(`--connection-string`), which may be another service's.
"""

from __future__ import annotations

import argparse
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from hubs import conf, hub_settings
from hubs.management.cli import grammar
from hubs.management.cli.errors import Error, one_line
from hubs.management.cli.output import Line, Output, yes_or_no
from hubs.rules import roles, tokens

API_VERSION = "2024-12-01"
TOKEN_SECS = 60
ANSWER_SECS = 30

_CONTENT_TYPES = {"json": "application/json", "text": "text/plain; charset=utf-8"}
_SEND_DETAILS = "A payload that is JSON is sent as JSON, any other as text; --data-type says which."


def add_to(tree: Any) -> None:
    """Add this branch."""
    branch = grammar.Branch(tree, "service", "Send to live connections, close them, and say what they may do")

    parser = branch.command(
        "broadcast",
        broadcast,
        "Send a message to all connections of a hub",
        details=_SEND_DETAILS,
        examples=[
            "--hub-name chat --payload 'Hello everybody'",
            '--hub-name chat --payload 1 --filter "userId eq null"',
        ],
    )
    _add_payload(parser)
    parser.add_argument("--excluded", nargs="+", action="extend", default=[], metavar="ID", help="connections left out")
    parser.add_argument("--filter", metavar="FILTER", help="only connections that this OData filter is true for")
    _add_common(parser)

    connection = branch.branch("connection", "One connection")
    for name, run, summary in (
        ("exist", connection_exists, "Tell whether a connection is open"),
        ("close", connection_close, "Close a connection"),
        ("send", connection_send, "Send a message to a connection"),
    ):
        parser = connection.command(name, run, summary, examples=[f"--hub-name chat --connection-id ID{_more(name)}"])
        _add_connection(parser)
        if name == "close":
            parser.add_argument("--reason", metavar="TEXT", help="what its client is told")
        if name == "send":
            _add_payload(parser)
        _add_common(parser)

    group = branch.branch("group", "The members of a group")
    for name, run, summary, add_member, example in (
        ("add-connection", group_add_connection, "Make a connection a member", _add_connection, "--connection-id ID"),
        ("remove-connection", group_remove_connection, "End a membership", _add_connection, "--connection-id ID"),
        ("add-user", group_add_user, "Make a user's present connections members", _add_user, "--user-id ada"),
        ("remove-user", group_remove_user, "End the memberships of a user's connections", _add_user, "--user-id ada"),
        ("send", group_send, "Send a message to the members", _add_payload, "--payload Hello"),
    ):
        parser = group.command(name, run, summary, examples=[f"--hub-name chat --group-name news {example}"])
        _add_group(parser)
        add_member(parser)
        _add_common(parser)

    user = branch.branch("user", "All connections of a user")
    for name, run, summary in (
        ("exist", user_exists, "Tell whether a user has a connection"),
        ("send", user_send, "Send a message to a user"),
    ):
        parser = user.command(name, run, summary, examples=[f"--hub-name chat --user-id ada{_more(name)}"])
        _add_user(parser)
        if name == "send":
            _add_payload(parser)
        _add_common(parser)

    permission = branch.branch("permission", "What a connection may do with a group")
    for name, run, summary in (
        ("grant", permission_grant, "Let a connection do it"),
        ("revoke", permission_revoke, "Forbid a connection to do it"),
        ("check", permission_check, "Tell whether a connection may do it"),
    ):
        example = "--hub-name chat --connection-id ID --permission sendToGroup --group-name news"
        parser = permission.command(name, run, summary, examples=[example])
        _add_connection(parser)
        parser.add_argument("--permission", required=True, choices=roles.PERMISSIONS, help="what is permitted")
        _add_group(parser)
        _add_common(parser)


def _more(command: str) -> str:
    return {"send": " --payload Hello", "close": " --reason 'See you tomorrow'"}.get(command, "")


def _add_connection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connection-id", required=True, metavar="ID", help="the connection")


def _add_user(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user-id", required=True, metavar="USER", help="the user")


def _add_group(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--group-name", "--group", required=True, metavar="GROUP", help="the group")


def _add_payload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--payload", required=True, metavar="TEXT", help="the message")
    parser.add_argument("--data-type", choices=_CONTENT_TYPES, help="what the payload is (default: JSON if it can be)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connection-string", metavar="TEXT", help="another service than this installation's own")
    grammar.add_hub(parser)
    grammar.add_output(parser)
    grammar.add_azure_resource(parser, name=False)


# The commands


def broadcast(options: argparse.Namespace, out: Output) -> None:
    """Send to all."""
    query = [("excluded", connection) for connection in options.excluded]
    if options.filter is not None:
        query.append(("filter", options.filter))
    _send(options, out, [], "everybody", query)


def connection_exists(options: argparse.Namespace, out: Output) -> None:
    """Tell whether a connection is open."""
    _tell(options, out, ["connections", options.connection_id], "exist")


def connection_close(options: argparse.Namespace, out: Output) -> None:
    """Close a connection."""
    query = [("reason", options.reason)] if options.reason else []
    _service(options).call("DELETE", ["connections", options.connection_id], query)
    out.done(f"Closed connection {options.connection_id}, if it was open.")


def connection_send(options: argparse.Namespace, out: Output) -> None:
    """Send to a connection."""
    _send(options, out, ["connections", options.connection_id], f"connection {options.connection_id}")


def group_add_connection(options: argparse.Namespace, out: Output) -> None:
    """Make a connection a member."""
    _service(options).call("PUT", ["groups", options.group_name, "connections", options.connection_id])
    out.done(f"Connection {options.connection_id} is in group {options.group_name}.")


def group_remove_connection(options: argparse.Namespace, out: Output) -> None:
    """End a connection's membership."""
    _service(options).call("DELETE", ["groups", options.group_name, "connections", options.connection_id])
    out.done(f"Connection {options.connection_id} is not in group {options.group_name}.")


def group_add_user(options: argparse.Namespace, out: Output) -> None:
    """Make a user's connections members."""
    _service(options).call("PUT", ["users", options.user_id, "groups", options.group_name])
    out.done(f"The present connections of {options.user_id} are in group {options.group_name}.")


def group_remove_user(options: argparse.Namespace, out: Output) -> None:
    """End the memberships of a user's connections."""
    _service(options).call("DELETE", ["users", options.user_id, "groups", options.group_name])
    out.done(f"No connection of {options.user_id} is in group {options.group_name}.")


def group_send(options: argparse.Namespace, out: Output) -> None:
    """Send to a group."""
    _send(options, out, ["groups", options.group_name], f"group {options.group_name}")


def user_exists(options: argparse.Namespace, out: Output) -> None:
    """Tell whether a user has a connection."""
    _tell(options, out, ["users", options.user_id], "exist")


def user_send(options: argparse.Namespace, out: Output) -> None:
    """Send to a user."""
    _send(options, out, ["users", options.user_id], f"user {options.user_id}")


def permission_grant(options: argparse.Namespace, out: Output) -> None:
    """Grant a permission."""
    _service(options).call("PUT", *_permission(options))
    out.done(f"Connection {options.connection_id} may {options.permission} {options.group_name}.")


def permission_revoke(options: argparse.Namespace, out: Output) -> None:
    """Revoke a permission."""
    _service(options).call("DELETE", *_permission(options))
    out.done(f"Connection {options.connection_id} may not {options.permission} {options.group_name}.")


def permission_check(options: argparse.Namespace, out: Output) -> None:
    """Tell whether a connection has a permission."""
    path, query = _permission(options)
    _tell(options, out, path, "permission", query)


def _permission(options: argparse.Namespace) -> tuple[list[str], list[tuple[str, str]]]:
    path = ["permissions", options.permission, "connections", options.connection_id]
    return path, [("targetName", options.group_name)]


def _tell(
    options: argparse.Namespace, out: Output, path: list[str], what: str, query: Sequence[tuple[str, str]] = ()
) -> None:
    found = _service(options).call("HEAD", path, query) != HTTPStatus.NOT_FOUND
    out.result({what: found}, Line(yes_or_no(found)))


def _send(
    options: argparse.Namespace, out: Output, path: list[str], to: str, query: Sequence[tuple[str, str]] = ()
) -> None:
    kind = options.data_type or ("json" if _is_json(options.payload) else "text")
    _service(options).call(
        "POST", [*path, ":send"], query, options.payload.encode(errors="replace"), _CONTENT_TYPES[kind]
    )
    out.done(f"Sent to {to}, as {kind}.")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


# HTTP


class _Service(NamedTuple):
    """A running service, and the hub that the commands are about."""

    endpoint: str
    key: str
    hub: str

    def call(
        self,
        method: str,
        path: Sequence[str],
        query: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        content_type: str = "",
    ) -> int:
        """Make one call and give its status. 404 is an answer of HEAD; what else is refused raises Error."""
        where = "/".join(quote(part, safe=":", errors="replace") for part in ("api", "hubs", self.hub, *path))
        url = f"{self.endpoint}/{where}?{urlencode([('api-version', API_VERSION), *query], errors='replace')}"
        token = tokens.sign({"aud": url, "exp": int(time.time()) + TOKEN_SECS}, self.key)
        headers = {"Authorization": f"Bearer {token}"} | ({"Content-Type": content_type} if content_type else {})
        request = urllib.request.Request(url, body, headers, method=method)  # noqa: S310 - http(s) only, see _service
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECS) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            with refused:
                code = refused.headers["x-ms-error-code"] or ""
                if method == "HEAD" and refused.code == HTTPStatus.NOT_FOUND and not code.startswith("Error."):
                    return refused.code
                raise Error(_refusal(refused)) from None
        except (OSError, http.client.HTTPException) as problem:
            reason = getattr(problem, "reason", problem)
            raise Error(
                f"No service answers at {self.endpoint} ({one_line(reason)}). Start it with make run, or name another "
                "one with --connection-string."
            ) from None


def _refusal(refused: urllib.error.HTTPError) -> str:
    try:
        return one_line(json.loads(refused.read(65536))["message"])
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        code = refused.headers["x-ms-error-code"] or refused.reason
        return f"The service answered {refused.code} ({one_line(code)})."


def _service(options: argparse.Namespace) -> _Service:
    hub = grammar.chosen_hub(options)
    if options.connection_string is not None:
        return _Service(*_parsed(options.connection_string), hub)
    keys = hub_settings.current().keys_of(hub)
    if not keys:
        raise Error("There are no access keys yet. Run: manage.py bootstrap")
    return _Service(conf.settings.PUBLIC_ENDPOINTS[0], keys[0], hub)


def _parsed(connection_string: str) -> tuple[str, str]:
    parts = {
        name.strip().lower(): value.strip()
        for name, separator, value in (part.partition("=") for part in connection_string.split(";"))
        if separator
    }
    endpoint, key, port = parts.get("endpoint", "").rstrip("/"), parts.get("accesskey", ""), parts.get("port")
    try:
        good = urlsplit(endpoint).scheme in ("http", "https") and bool(urlsplit(endpoint).hostname) and bool(key)
    except ValueError:
        good = False
    if not good:
        # Not quoted: it may hold a key.
        raise Error("--connection-string has to read Endpoint=https://HOST;AccessKey=KEY;Version=1.0;")
    return (f"{endpoint}:{port}" if port else endpoint), key
