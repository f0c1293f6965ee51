"""Event handlers of a service of two processes: settings that change, and connections that move between calls.

One process runs uvicorn and one daphne, on one Redis.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.running import PATIENCE, Redis, Service
from tests.service.applications import (
    Application,
    ConcurrencyLimit,
    Staff,
    came,
    failed,
    name_of,
    number_of,
    raise_event,
    running_application,
    serving,
)
from tests.service.client import JSON_RELIABLE, PROTOBUF_RELIABLE, Target, ok, reliable, server_message
from tests.upstream.server import Say

pytestmark = pytest.mark.needs_handlers


@dataclass(frozen=True)
class Pair:
    """Two processes of one service, and its staff."""

    services: tuple[Service, Service]
    targets: tuple[Target, Target]
    staff: Staff


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, redis_server: Redis) -> Iterator[Pair]:
    folder: Path = tmp_path_factory.mktemp("pair")
    env = {"REDIS_URL": redis_server.url}
    with serving(folder, "uvicorn", **env) as first:
        # Two machines behind one public address: a token opens either.
        second = Service(folder, env=env | {"EXTRA_ENDPOINTS": first.endpoint}, server="daphne")
        try:
            second.start()
            whole = first.connection_string
            targets = (Target(whole), Target(whole.replace(first.endpoint, second.endpoint)))
            yield Pair((first, second), targets, Staff(first))
            assert "Traceback" not in second.log.read_text(), second.log.read_text()
        finally:
            second.stop()


async def _in_force(hub: str, *targets: Target) -> None:
    """Wait until the processes know the hub's event handlers, which take the event `known`."""
    async with asyncio.timeout(PATIENCE):
        for target in targets:
            async with came(target.url(hub)) as (client, _):
                while failed(await raise_event(client, "known")):
                    pass


async def test_changes_are_soon_in_force_in_both_processes(pair: Pair, hub: str, app: Application) -> None:
    async with (
        running_application() as other,
        came(pair.targets[0].url(hub)) as (one, _),
        came(pair.targets[1].url(hub)) as (two, _),
    ):
        app.on["ask"] = Say(200, b"the one", {"Content-Type": "text/plain"})
        other.on["ask"] = Say(200, b"the other", {"Content-Type": "text/plain"})
        # A success is remembered by its ackId.
        ack_ids = itertools.count(1)

        async def becomes(expected: str | None) -> None:
            changed_at = time.monotonic()
            for client in (one, two):
                while True:
                    heard = await raise_event(client, "ask", ack_id=next(ack_ids))
                    answered = heard[0]["data"] if isinstance(heard, list) else None if failed(heard) else "nothing"
                    if answered == expected:
                        break
                    assert time.monotonic() - changed_at < PATIENCE, (expected, heard)

        # By a third process, and by one of the two.
        pairs = (f"url-template={app.url}/{{event}}", "user-event-pattern=*")
        command = ("webpubsub", "hub", "update", hub, "--event-handler", *pairs)
        await asyncio.to_thread(pair.services[0].manage, *command)
        await becomes("the one")
        for handlers, expected in (
            ([other.handler(events="*")], "the other"),
            ([other.handler(events="no")], None),
            ([app.handler(events="no, a*", path="/x?h={hub}")], "the one"),
            ([], None),
        ):
            await pair.staff.set(hub, *handlers)
            await becomes(expected)


@pytest.mark.parametrize("subprotocol", [JSON_RELIABLE, PROTOBUF_RELIABLE])
@pytest.mark.parametrize("way", [(0, 1), (1, 0)], ids=["to the second", "to the first"])
async def test_a_connection_that_moves_takes_its_session_along(
    pair: Pair, hub: str, app: Application, way: tuple[int, int], subprotocol: str
) -> None:
    home, away = (pair.targets[place] for place in way)
    app.on["connect"] = Say(
        204, headers=[("ce-connectionState", "from connect"), ("Set-Cookie", "route=a; Path=/"), ("Set-Cookie", "b=1")]
    )
    app.on["change"] = Say(204, headers=[("ce-connectionState", "Grüße"), ("Set-Cookie", "route=z; Path=/")])
    await pair.staff.set(hub, app.everything())
    await _in_force(hub, home, away)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(reliable(home.url(hub, user="ann"), subprotocol))
        await app.told(client.id, "connect", "connected")
        assert await client.ask(type="event", event="one", data=1, ackId=1) == ok(1)
        assert await client.ask(type="event", event="change", data=1, ackId=2) == ok(2)
        await client.reset()
        await client.recover(away)
        assert await client.ask(type="event", event="two", data=1, ackId=3) == ok(3)
        # There and back again, this time while its socket is open.
        await client.recover(home)
        assert await client.ask(type="event", event="three", data=1, ackId=4) == ok(4)
        # What succeeded at the first is not done again at the second.
        assert (await client.ask(type="event", event="one", data=1, ackId=1))["error"]["name"] == "Duplicate"
        await client.close(1000, "so long")
    events = await app.told(client.id, "connect", "connected", "one", "change", "two", "three", "disconnected")
    assert [name_of(seen) for seen in events[2:]] == ["one", "change", "two", "three", "disconnected"]
    assert [number_of(seen) for seen in events] == list(range(7))
    assert [seen.headers.get("ce-connectionState") for seen in events] == [None, *["from connect"] * 3, *["Grüße"] * 3]
    assert [seen.headers.get("Cookie") for seen in events] == [None, *["route=a; b=1"] * 3, *["b=1; route=z"] * 3]
    assert {seen.headers["ce-userId"] for seen in events} == {"ann"}
    assert {seen.headers["ce-signature"] for seen in events} == {events[0].headers["ce-signature"]}
    assert json.loads(events[-1].body) == {"reason": "so long"}


async def test_an_answer_finds_the_connection_that_has_moved_meanwhile(pair: Pair, hub: str, app: Application) -> None:
    home, away = pair.targets
    gate = ConcurrencyLimit(Say(200, b"slow", {"Content-Type": "text/plain", "ce-connectionState": "after"}))
    app.on["slow"] = gate
    await pair.staff.set(hub, app.handler(events="*"))
    await _in_force(hub, home, away)
    async with reliable(home.url(hub)) as client:
        await client.say(type="event", event="slow", data=1, ackId=2)
        await gate.reached()
        await client.reset()
        await client.recover(away)
        gate.open()
        assert await client.hear() == server_message("slow", "text")
        assert await client.hear() == ok(2)
        assert await client.ask(type="event", event="next", data=1, ackId=3) == ok(3)
        slow, after = app.of(client.id)
        assert number_of(after) == number_of(slow) + 1
        assert after.headers["ce-connectionState"] == "after"
        await client.close(1000)
