"""A Django project of somebody else, which mounts functions and has nothing else of ours.

    python -m tests.upstream.mounted_project asgi|wsgi PORT

No app of ours is installed, there is no database and no channel layer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import defaultdict
from typing import Any

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from hubs.upstream import ConnectAnswer, ConnectRequest, EventContext, Rejected, Reply, UserEventRequest, hub
from hubs.upstream.mount import webhook
from tests.running import PATIENCE
from tests.upstream.mounted_service import CONNECTION_STRING, MAX_BODY_BYTES

chat = hub("Chat")
told: dict[str, list[Any]] = defaultdict(list)
told_more = threading.Condition()


def tell(connection_id: str, what: Any) -> None:
    with told_more:
        told[connection_id].append(what)
        told_more.notify_all()


@chat.on_connect
async def connect(request: ConnectRequest) -> ConnectAnswer | None:
    wish = {name: values[-1] for name, values in request.query.items() if values}
    if "status" in wish:
        raise Rejected(int(wish["status"]), wish.get("words", ""))
    if "crash" in wish:
        raise RuntimeError("a secret of the project")
    if wish.get("want") == "nothing":
        return None
    if wish.get("want") == "everything":
        seen = [request.claims, request.query, request.headers, request.subprotocols, request.context.connection_id]
        return ConnectAnswer(user_id=json.dumps(seen, ensure_ascii=False))
    if wish.get("want") == "half a character":
        return ConnectAnswer(user_id="\ud800")
    return ConnectAnswer(
        user_id=wish.get("become"),
        groups=request.query.get("into", ()),
        roles=request.query.get("roles"),
        subprotocol=wish.get("choose"),
        state=wish.get("state"),
    )


@chat.on_event("echo")
async def echo(request: UserEventRequest) -> Reply:
    return Reply(request.payload, request.metadata)


@chat.on_event("shout")
def shout(request: UserEventRequest) -> str:
    return str(request.data.upper())


@chat.on_event("who")
async def who(request: UserEventRequest) -> list[Any]:
    context = request.context
    return [context.hub, context.connection_id, context.user_id, context.subprotocol, context.state, request.event]


@chat.on_event("remember")
async def remember(request: UserEventRequest) -> Reply:
    return Reply(state=request.data)


@chat.on_event("label")
async def label(request: UserEventRequest) -> Reply:
    return Reply(metadata={"Colour": request.data})


@chat.on_event("crash")
async def crash(request: UserEventRequest) -> None:
    raise RuntimeError("a secret of the project")


@chat.on_event("nothing")
async def nothing(request: UserEventRequest) -> None:
    return None


@chat.on_connected
def connected(context: EventContext) -> None:
    tell(context.connection_id, "connected")


@chat.on_disconnected
async def disconnected(context: EventContext, reason: str) -> None:
    # Its answer must not wait for this: the test releases it afterwards.
    if reason == "slow":
        await released().wait()
    if reason == "crash":
        raise RuntimeError("a secret of the project")
    tell(context.connection_id, [reason, context.state])


@chat.on_event("release")
async def release(request: UserEventRequest) -> None:
    released().set()


_released: list[asyncio.Event] = []


def released() -> asyncio.Event:
    if not _released:
        _released.append(asyncio.Event())
    return _released[0]


def history(request: HttpRequest, connection_id: str, number: int) -> JsonResponse:
    """What was told of a connection, once it is so much."""
    with told_more:
        told_more.wait_for(lambda: len(told[connection_id]) >= number, PATIENCE)
    return JsonResponse({"told": told[connection_id]})


async def loaded(request: HttpRequest) -> JsonResponse:
    """What of the service came along."""
    return JsonResponse({"modules": [name for name in sys.modules if name.startswith(("hubs.", "channels"))]})


urlpatterns = [
    path("events/chat", webhook("chat", connection_string=CONNECTION_STRING, max_body_bytes=MAX_BODY_BYTES)),
    path("events/open", webhook("CHAT", allowed_origins=["*"])),
    path("events/forgotten", webhook("forgotten", allowed_origins=["*"])),
    path("told/<connection_id>/<int:number>", history),
    path("loaded", loaded),
]

if __name__ == "__main__":
    server, port = sys.argv[1:]
    settings.configure(
        SECRET_KEY="of a test",
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
        ],
    )
    if server == "asgi":
        import uvicorn

        uvicorn.run(get_asgi_application(), host="127.0.0.1", port=int(port), lifespan="off", access_log=False)
    else:
        from socketserver import ThreadingMixIn
        from wsgiref.simple_server import WSGIServer, make_server

        class Threads(ThreadingMixIn, WSGIServer):
            daemon_threads = True

        make_server("127.0.0.1", int(port), get_wsgi_application(), Threads).serve_forever()
