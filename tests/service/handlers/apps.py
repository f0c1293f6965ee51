from __future__ import annotations

import asyncio
from typing import Any

from django.apps import AppConfig


class HandlersConfig(AppConfig):
    """Event handlers of the hub `handled`; what they do is asked for in the query or by the event's name."""

    name = "tests.service.handlers"
    label = "test_handlers"

    def ready(self) -> None:
        from hubs.upstream import ConnectAnswer, ConnectRequest, EventContext, Rejected, UserEventRequest, hub

        handled = hub("handled")
        ended: list[dict[str, Any]] = []

        @handled.on_connect
        async def connect(request: ConnectRequest) -> ConnectAnswer | None:
            wish = {name: values[-1] for name, values in request.query.items()}
            if "status" in wish:
                raise Rejected(int(wish["status"]), "not today")
            if "crash" in wish:
                raise RuntimeError("a handler's own fault")
            if wish.get("want") == "claims":
                shown = sorted(set(request.claims) - {"aud", "exp"})
                return ConnectAnswer(user_id=" ".join(f"{name}={'+'.join(request.claims[name])}" for name in shown))
            return ConnectAnswer(
                user_id=wish.get("become"),
                subprotocol=wish.get("choose"),
                groups=request.query.get("into", ()),
                roles=request.query.get("roles"),
                state=wish.get("state"),
            )

        @handled.on_event("echo")
        async def echo(request: UserEventRequest) -> Any:
            return request.data

        @handled.on_event("message")
        def shout(request: UserEventRequest) -> Any:
            if request.data == "fail":
                raise RuntimeError("a handler's own fault")
            return request.context.connection_id if request.data == "id" else request.data.upper()

        @handled.on_event("whoami")
        def whoami(request: UserEventRequest) -> Any:
            context = request.context
            return {"user": context.user_id, "subprotocol": context.subprotocol, "state": context.state}

        @handled.on_event("slow")
        async def slow(request: UserEventRequest) -> Any:
            # Until the test's next event arrives on another connection: no clock involved.
            gate.clear()
            await gate.wait()
            return "slow is done"

        @handled.on_event("release")
        async def release(request: UserEventRequest) -> Any:
            gate.set()

        @handled.on_event("ended")
        async def tell_ended(request: UserEventRequest) -> Any:
            return [entry for entry in ended if entry["id"] == request.data]

        @handled.on_disconnected
        async def disconnected(context: EventContext, reason: str) -> None:
            ended.append({"id": context.connection_id, "reason": reason, "state": context.state})

        gate = asyncio.Event()
