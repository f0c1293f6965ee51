"""Every method of the official JavaScript service SDK, watched by clients on real sockets (tests/node/service.js)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.service.client import Target
from tests.tutorials.programs import Program, node

GROUP = "a/b ü"
VIEW = "YmxvYg=="


def server(data: Any, kind: str = "json") -> dict[str, Any]:
    return {"type": "message", "from": "server", "dataType": kind, "data": data}


def group(data: Any, name: str = GROUP) -> dict[str, Any]:
    return {"type": "message", "from": "group", "group": name, "dataType": "json", "data": data}


def goodbye(reason: str = "") -> list[dict[str, Any]]:
    message = "Application server closed the connection." + (f" Reason: {reason}" if reason else "")
    return [{"type": "system", "event": "disconnected", "message": message}, {"closed": 1000, "reason": ""}]


def everybody(message: dict[str, Any], simple: dict[str, str]) -> dict[str, Any]:
    return {"ann": [message], "ben": [message], "simple": [simple]}


NOBODY: dict[str, Any] = {}
EXPECTED: list[tuple[str, Any, dict[str, Any]]] = [
    (
        "sendToAll json",
        None,
        everybody(server({"price": 12.5, "name": "ü"}), {"text": '{"price":12.5,"name":"ü"}'}),
    ),
    ("sendToAll string", None, everybody(server("quoted"), {"text": '"quoted"'})),
    ("sendToAll text", None, everybody(server("Grüße", "text"), {"text": "Grüße"})),
    ("sendToAll bytes", None, everybody(server("AP8=", "binary"), {"binary": "00ff"})),
    ("sendToAll view", None, everybody(server(VIEW, "binary"), {"binary": b"blob".hex()})),
    ("sendToAll excluded", None, {"ben": [server(1)], "simple": [{"text": "1"}]}),
    ("sendToAll filter", None, {"ann": [server(2)]}),
    ("sendToUser", None, {"ben": [server({"n": 1})]}),
    ("sendToConnection", None, {"ann": [server("hi", "text")]}),
    ("group.addConnection", None, NOBODY),
    ("group.addUser", None, NOBODY),
    ("group.sendToAll", None, {"ann": [group({"to": "group"})], "ben": [group({"to": "group"})]}),
    ("groupExists", [True, False], NOBODY),
    ("userExists", [True, False], NOBODY),
    ("connectionExists", [True, False], NOBODY),
    ("group.listConnections", {"users": [[True, "ann"], [True, "ben"]], "pages": [1, 1]}, NOBODY),
    ("group.removeConnection", None, NOBODY),
    ("group.removeUser", None, NOBODY),
    ("groupExists after", False, NOBODY),
    ("addConnectionsToGroups", None, NOBODY),
    ("removeConnectionsFromGroups", None, NOBODY),
    ("to b", None, {"ben": [group("b", "b")]}),
    ("removeUserFromAllGroups", None, NOBODY),
    ("removeConnectionFromAllGroups", None, NOBODY),
    ("groups after", [False, False], NOBODY),
    ("permissions", [False, True, False], NOBODY),
    (
        "errors",
        [
            [404, "Error.Connection.NotExisted"],
            [404, "Warning.User.NotExisted"],
            [400, "Error.BadRequest"],
            [400, "Error.BadRequest"],
            [400, "Error.BadRequest"],
            [401, "Error.Unauthorized"],
        ],
        NOBODY,
    ),
    ("closeConnection", None, {"ann": goodbye("you")}),
    ("group.closeAllConnections", None, {"ann": goodbye("room")}),
    ("closeUserConnections", None, {"ben": goodbye()}),
]


def test_every_method(target: Target, unique: Callable[[str], str], tmp_path: Path) -> None:
    program = Program(node("service.js", target.connection_string, unique("js").replace("-", "_"), GROUP), cwd=tmp_path)
    try:
        for did, gave, heard in EXPECTED:
            expected = {"did": did} | ({} if gave is None else {"gave": gave}) | {"heard": heard}
            assert program.object() == expected
        last = program.object()
        assert last["did"] == "closeAllConnections"
        # A simple client gets the close frame alone, with the reason in it if that fits.
        assert [message["closed"] for message in last["heard"]["simple"]] == [1000]
        program.end()
    finally:
        program.stop()


def test_the_expectations_name_every_method_of_the_sdk() -> None:
    """A new version of the SDK with a new method is noticed here."""
    declared = _methods("hubClient.d.ts", "export declare class WebPubSubServiceClient")
    declared |= {f"group.{name}" for name in _methods("groupClient.d.ts", "export interface WebPubSubGroup ")}
    tried = {did.split(" ")[0] for did, _, _ in EXPECTED} | {"closeAllConnections", "getClientAccessToken", "group"}
    tried |= {"grantPermission", "revokePermission", "hasPermission"}  # the step "permissions"
    assert declared - tried == set()
    assert len(declared) >= 25


def _methods(file: str, start: str) -> set[str]:
    package = Path(node("service.js")[1]).parent / "node_modules/@azure/web-pubsub/dist/esm"
    text = (package / file).read_text().split(start, 1)[1].split("\n}", 1)[0]
    names = {line.split("(")[0].strip() for line in text.splitlines() if line.startswith("    ") and "(" in line}
    return {name for name in names if name.isidentifier() and name != "constructor"}
