"""The ASGI application behind the servers under test: it does what a client tells it and remembers what it heard.

`ws://…/NAME` is a conversation. Text messages that are JSON objects are orders (`_obey`), everything else is
echoed as a description. `http://…/NAME` waits for the end of that conversation and gives all that was
heard in it; the application goes on listening after the end, so that a second end would be found out.
`?release` lets it go, `?begun` waits for its beginning, `?sent` asks how many messages of a flood were taken. `?read`
reads the request's body and tells of the request, `?late` does so a moment later, `?large` answers with LARGE bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

Event = dict[str, Any]

# More than the buffers between a server and a client hold.
LARGE = 64 << 20
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


def sample_text(size: int) -> str:
    """A text of `size` bytes in UTF-8, with characters of one to four bytes."""
    pattern = "aü€🎈".encode()
    whole = pattern * (size // len(pattern))
    return whole.decode() + "." * (size - len(whole))


def sample_bytes(size: int) -> bytes:
    """So many bytes, in which no stretch of 251 is like its neighbour's in phase with frames."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def description(message: str | bytes) -> Any:
    """A message, short enough to remember."""
    data = message.encode() if isinstance(message, str) else message
    kind = "text" if isinstance(message, str) else type(message).__name__
    return [kind, len(data), hashlib.sha256(data).hexdigest()]


class Conversation:
    """What was heard, and who waits."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.answered = False
        self.sent = 0
        self.begun = asyncio.Event()
        self.over = asyncio.Event()
        self.released = asyncio.Event()


conversations: dict[str, Conversation] = {}


def _conversation(scope: Event) -> Conversation:
    return conversations.setdefault(scope["path"], Conversation())


async def application(scope: Event, receive: Receive, send: Send) -> None:
    """Serve one scope."""
    if scope["type"] == "lifespan":
        for answer in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{answer}.complete"})
    elif scope["type"] == "http":
        await _report(scope, receive, send)
    else:
        conversation = _conversation(scope)
        assert (await receive())["type"] == "websocket.connect"
        conversation.begun.set()
        if scope["query_string"] != b"unanswered":
            conversation.answered = True
            await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
        listening = asyncio.create_task(_listen(conversation, receive, send))
        released = asyncio.create_task(conversation.released.wait())
        await asyncio.wait({listening, released}, return_when=asyncio.FIRST_COMPLETED)
        released.cancel()
        if listening.done():
            listening.result()
        listening.cancel()


async def _report(scope: Event, receive: Receive, send: Send) -> None:
    conversation = _conversation(scope)
    answer: Any = conversation.heard
    match scope["query_string"]:
        case b"begun":
            await conversation.begun.wait()
        case b"sent":
            answer = conversation.sent
        case b"release":
            conversation.released.set()
        case b"read" | b"late":
            if scope["query_string"] == b"late":
                await asyncio.sleep(0.3)
            answer = await _read(scope, receive)
            print("READ", scope["path"], json.dumps(answer), flush=True)
            if answer is None:
                return
        case b"large":
            answer = "x" * LARGE
        case _:
            await conversation.over.wait()
    body = json.dumps(answer).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


async def _read(scope: Event, receive: Receive) -> Any:
    """What there is to tell of a request; None when its client has gone."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    names = [name.decode() for name, _ in scope["headers"]]
    host = dict(scope["headers"]).get(b"host", b"").decode()
    return {"path": scope["path"], "host": host, "headers": names, "size": size}


async def _listen(conversation: Conversation, receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            conversation.heard.append({"code": event["code"], "reason": event["reason"]})
            # For those who ask when the server does not answer any more.
            print("HEARD", json.dumps(conversation.heard), flush=True)
            conversation.over.set()
            if event["code"] == 1001 or not conversation.answered:
                # The server stops, perhaps, and must not have to wait for us.
                return
            continue
        message = event.get("text") if event.get("text") is not None else event["bytes"]
        # Servers tell so those who go on writing when the client has gone.
        with contextlib.suppress(OSError):
            if isinstance(message, str) and message.startswith("{"):
                await _obey(json.loads(message), conversation, send)
            else:
                conversation.heard.append(description(message))
                await send({"type": "websocket.send", "text": json.dumps(description(message))})


async def _obey(order: Event, conversation: Conversation, send: Send) -> None:
    match order["do"]:
        case "send":
            await send({"type": "websocket.send"} | _sample(order))
        case "flood":
            for _ in range(order["count"]):
                await send({"type": "websocket.send"} | _sample(order))
                conversation.sent += 1
        case "two":
            # Two senders at once, as the service's outbox and its closing are.
            await asyncio.gather(*(send({"type": "websocket.send"} | _sample(order)) for _ in range(2)))
        case "close":
            await send({"type": "websocket.close", "code": order["code"], "reason": order["reason"]})
        case "work":
            await asyncio.sleep(order["secs"])
        case "fail":
            raise RuntimeError("the test's own")


def _sample(order: Event) -> Event:
    if order.get("kind") == "binary":
        return {"bytes": sample_bytes(order["size"])}
    return {"text": sample_text(order["size"])}
