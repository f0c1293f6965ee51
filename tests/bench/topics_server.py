"""A server of topics over WebSocket that keeps its word, or breaks it in the way it is told to.

`python topics_server.py PORT HOW`: members connect to `/?group=NAME`, publishers to `/?group=NAME&publish=1`.
"""

import asyncio
import sys
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve

members: dict[str, list[ServerConnection]] = {}
how = sys.argv[2]


async def deliver(group: str, text: str, number: int) -> None:
    for seat, member in enumerate(members[group]):
        if how == "pings":
            await member.ping()
        if number == 5 and seat == 1:
            if how == "loses":
                continue
            if how == "doubles":
                await member.send(text)
            if how == "changes":
                text = text[:-1] + "?"
            if how == "closes":
                await member.close(1008, "enough")
        await member.send(text)


async def talk(connection: ServerConnection) -> None:
    asked = parse_qs(urlsplit(connection.request.path).query)
    [group] = asked["group"]
    if "publish" not in asked:
        members.setdefault(group, []).append(connection)
    number = 0
    async for text in connection:
        await deliver(group, text, number)
        number += 1


async def main() -> None:
    async with serve(talk, "127.0.0.1", int(sys.argv[1]), compression=None) as server:
        await server.serve_forever()


asyncio.run(main())
