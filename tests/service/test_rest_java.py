"""Java's calls of the data plane, over the JDK's HTTP client (tests/java/Service.java), watched by a client.

Java's service SDK itself is in no registry that these tests use; its requests are replayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from tests.service.client import JSON, Target, group_message, opened
from tests.tutorials.programs import Program, java

GROUP = "a/b ü"


async def test_every_call(target: Target, unique: Callable[[str], str], tmp_path: Path) -> None:
    hub, user = "java" + unique("hub").replace("-", ""), "jörg smith"
    async with opened(target.url(hub, user=user, roles=[]), JSON, connected=False) as client:
        connection_id = (await client.hear())["connectionId"]
        program = Program(java("Service.java", target.endpoint, target.key, hub, connection_id, user), cwd=tmp_path)
        listed = f'{{"value":[{{"connectionId":"{connection_id}","userId":"{user}"}}]}}'
        expected = [
            "sendToAll 202 ",
            "sendToAll filter 202 ",
            "sendToAll excluded 202 ",
            "sendToUser 202 ",
            "sendToConnection 202 ",
            "addConnectionToGroup 200 ",
            "sendToGroup 202 ",
            f"listConnections 200 {listed}",
            "groupExists 200 ",
            "connectionExists 200 ",
            "userExists 200 ",
            "userExists not 404 Warning.User.NotExisted",
            "removeConnectionFromGroup 204 ",
            "addUserToGroup 200 ",
            "removeUserFromGroup 204 ",
            "addConnectionsToGroups 200 ",
            "removeUserFromAllGroups 204 ",
            "removeConnectionFromAllGroups 204 ",
            "removeConnectionsFromGroups 200 ",
            "checkPermission not 404 Info.Connection.NotExisted",
            "grantPermission 200 ",
            "checkPermission 200 ",
            "revokePermission 204 ",
            "closeGroupConnections 204 ",
            "closeUserConnections 204 ",
            "closeAllConnections 204 ",
            "closeConnection 204 ",
            "addConnectionToGroup not 404 Error.Connection.NotExisted",
        ]
        try:
            for line in expected:
                assert await asyncio.to_thread(program.line) == line
            await asyncio.to_thread(program.end)
        finally:
            program.stop()
        server = {"type": "message", "from": "server"}
        assert await client.hear() == server | {"dataType": "json", "data": {"price": 12.5}}
        assert await client.hear() == server | {"dataType": "text", "data": "Grüße"}
        assert await client.hear() == server | {"dataType": "binary", "data": "Ynl0ZXM="}
        assert await client.hear() == group_message(GROUP, [1])
        assert (await client.hear())["message"] == "Application server closed the connection. Reason: bye ü"
        assert await client.closed() == (1000, "")
