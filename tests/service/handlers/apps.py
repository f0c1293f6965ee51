from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

from django.apps import AppConfig


class HandlersConfig(AppConfig):
    """Event handlers of the hub `handled`; what they do is asked for in the query or by the event's name."""

    name = "tests.service.handlers"
    label = "test_handlers"

    def ready(self) -> None:
        from hubs.protocols.frames import PROTOBUF, Payload
        from hubs.upstream import ConnectAnswer, ConnectRequest, EventContext, Rejected, Reply, UserEventRequest, hub

        handled = hub("handled")
        ended: list[dict[str, Any]] = []
        # System events by connection, in the order in which this process was told of them.
        history: dict[str, list[str]] = defaultdict(list)
        told = asyncio.Condition()

        @handled.on_connect
        async def connect(request: ConnectRequest) -> ConnectAnswer | None:
            history[request.context.connection_id].append("connect")
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
            if request.data == "any":
                # A google.protobuf.Any of an empty message.
                return Reply(Payload(PROTOBUF, b"\x0a\x01x"))
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

        @handled.on_connected
        async def connected(context: EventContext) -> None:
            history[context.connection_id].append("connected")

        @handled.on_disconnected
        async def disconnected(context: EventContext, reason: str) -> None:
            ended.append({"id": context.connection_id, "reason": reason, "state": context.state})
            history[context.connection_id].append(f"disconnected: {reason}")
            async with told:
                told.notify_all()

        @handled.on_event("history")
        async def tell_history(request: UserEventRequest) -> Any:
            return history[request.data]

        @handled.on_event("gone")
        async def tell_when_gone(request: UserEventRequest) -> Any:
            # The history of a connection once it has ended.
            async with told:
                await told.wait_for(lambda: history[request.data][-1:] and "disconnected" in history[request.data][-1])
            return history[request.data]

        @handled.on_event("hold")
        async def hold(request: UserEventRequest) -> Any:
            # Until somebody frees it by name: no clock involved.
            begun[request.data] += 1
            begins[request.data].set()
            await gates[request.data].wait()
            return f"{request.data} is free"

        @handled.on_event("held")
        async def tell_when_held(request: UserEventRequest) -> Any:
            await begins[request.data].wait()
            return begun[request.data]

        @handled.on_event("free")
        async def free(request: UserEventRequest) -> Any:
            gates[request.data].set()

        @handled.on_event("wait")
        async def wait(request: UserEventRequest) -> Any:
            # For tests of what the service does as time passes: by its own clock.
            await asyncio.sleep(request.data)
            return "time has passed"

        @handled.on_event("mirror")
        async def mirror(request: UserEventRequest) -> Any:
            return Reply(request.payload, request.metadata)

        gate = asyncio.Event()
        gates: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        begins: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        begun: Counter[str] = Counter()
