"""An ASGI application that accepts every WebSocket and echoes what it gets: the least that uvicorn can be asked for.

The bench starts it on plain uvicorn, to see what a connection costs the server before the service on it
does anything: no token is checked, no frame is written to greet the client.
"""

from collections.abc import Awaitable, Callable
from typing import Any

Event = dict[str, Any]


async def application(
    scope: Event, receive: Callable[[], Awaitable[Event]], send: Callable[[Event], Awaitable[None]]
) -> None:
    """One connection, until its end."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})
