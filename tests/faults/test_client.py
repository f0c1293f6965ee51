"""The reliable client does what the official ones do, seen from a service that a test plays by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.faults.client import AHEAD, Gone, Pace, ReliableClient
from tests.faults.dialects import DIALECTS, Json
from tests.proxy import CuttingProxy
from tests.running import PATIENCE

QUICK = Pace(retry_secs=0.02, window_secs=PATIENCE, acknowledge_secs=0.02)
# Where nothing may come by the clock.
NEVER = 3600.0


class Visit:
    """One socket of the client, at the service's end."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        assert socket.request is not None
        self.query = {name: values[-1] for name, values in parse_qs(urlsplit(socket.request.path).query).items()}

    async def say(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def data(self, *sequence_ids: int) -> None:
        for number in sequence_ids:
            text = f"text {number}"
            await self.say(
                type="message", **{"from": "group"}, group="g", dataType="text", data=text, sequenceId=number
            )

    async def hear(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            return json.loads(await self.socket.recv())

    async def welcome(self) -> None:
        await self.say(type="system", event="connected", userId="u", connectionId="c", reconnectionToken="t&=")

    async def leave(self, code: int, reason: str = "") -> None:
        await self.socket.close(code, reason)

    async def vanish(self) -> None:
        self.socket.transport.abort()

    async def closed(self) -> int | None:
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(PATIENCE):
                await self.socket.recv()
        return closed.value.rcvd.code if closed.value.rcvd else None


class Stage:
    """A service that does nothing by itself: each socket waits in `visits` for the test."""

    def __init__(self) -> None:
        self.visits: asyncio.Queue[Visit] = asyncio.Queue()
        # HTTP statuses for the next handshakes, instead of an upgrade.
        self.refusals: list[int] = []
        self.port = 0

    async def next(self) -> Visit:
        async with asyncio.timeout(PATIENCE):
            return await self.visits.get()

    async def _take(self, socket: ServerConnection) -> None:
        visit = Visit(socket)
        self.visits.put_nowait(visit)
        await socket.wait_closed()

    def _answer(self, socket: ServerConnection, request: Request) -> Response | None:
        return socket.respond(HTTPStatus(self.refusals.pop(0)), "later\n") if self.refusals else None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Stage]:
        async with serve(
            self._take,
            "127.0.0.1",
            0,
            process_request=self._answer,
            select_subprotocol=lambda _, offered: offered[0] if offered else None,
            compression=None,
        ) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with Stage().open() as stage:
        yield stage


Start = Callable[..., Awaitable[tuple[ReliableClient, Visit, list[str]]]]


@pytest.fixture
async def start(stage: Stage) -> AsyncIterator[Start]:
    """Connect a client; gives it, the service's end of its first socket, and what it was told."""
    clients: list[ReliableClient] = []

    async def connect(pace: Pace = QUICK, port: int = 0) -> tuple[ReliableClient, Visit, list[str]]:
        client = ReliableClient(
            "ws://service.example:8080/client/hubs/chat?access_token=secret&group=a",
            lambda: port or stage.port,
            DIALECTS["json"],
            pace,
        )
        clients.append(client)
        told: list[str] = []
        client.on_text = told.append
        starting = asyncio.create_task(client.start())
        visit = await stage.next()
        await visit.welcome()
        await starting
        return client, visit, told

    yield connect
    for client in clients:
        await client.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)


async def test_the_first_socket_is_an_ordinary_one(start: Start) -> None:
    client, visit, _ = await start()
    assert visit.query == {"access_token": "secret", "group": "a"}
    assert visit.socket.subprotocol == "json.reliable.webpubsub.azure.v1"
    assert visit.socket.request is not None
    assert visit.socket.request.headers["Host"] == "service.example:8080"
    assert client.connection_id == "c"


async def test_recovery_proves_who_it_is_and_keeps_the_url(start: Start, stage: Stage) -> None:
    client, visit, _ = await start()

    async def returned() -> Visit:
        visit = await stage.next()
        assert visit.query == {
            "access_token": "secret",
            "group": "a",
            "awps_connection_id": "c",
            "awps_reconnection_token": "t&=",
        }
        return visit

    await visit.vanish()
    visit = await returned()
    # A close frame of any code but 1008 is a loss like another.
    await visit.leave(1000)
    await returned()
    await until(lambda: client.recoveries == 2)
    assert client.failure is None


async def test_frames_seen_before_are_dropped_and_acknowledged_again(start: Start, stage: Stage) -> None:
    client, visit, told = await start()
    await visit.data(1, 2, 3)
    while await visit.hear() != {"type": "sequenceAck", "sequenceId": 3}:
        pass
    await visit.vanish()
    visit = await stage.next()
    await visit.data(2, 3, 4)
    while await visit.hear() != {"type": "sequenceAck", "sequenceId": 4}:
        pass
    assert told == ["text 1", "text 2", "text 3", "text 4"]
    assert (client.replayed, client.skipped) == (2, 0)
    # The service must not do this, and it does not go unnoticed.
    await visit.data(7)
    await until(lambda: client.skipped == 2)


async def test_the_last_acknowledgement_is_repeated_after_a_recovery(start: Start, stage: Stage) -> None:
    _, visit, _ = await start()
    await visit.data(1)
    assert await visit.hear() == {"type": "sequenceAck", "sequenceId": 1}
    await visit.vanish()
    visit = await stage.next()
    assert await visit.hear() == {"type": "sequenceAck", "sequenceId": 1}


async def test_acknowledged_at_once_when_far_ahead(start: Start) -> None:
    _, visit, _ = await start(Pace(acknowledge_secs=NEVER))
    await visit.data(*range(1, AHEAD + 2))
    assert await visit.hear() == {"type": "sequenceAck", "sequenceId": AHEAD + 1}


async def test_a_refused_recovery_is_final(start: Start, stage: Stage) -> None:
    client, visit, _ = await start()
    waiting = client.publish("g", "text")
    await visit.vanish()
    visit = await stage.next()
    await visit.leave(1008, "The connection could not be recovered.")
    with pytest.raises(Gone, match="1008 The connection could not be recovered"):
        await waiting
    assert client.failure == "1008 The connection could not be recovered."
    assert client.recoveries == 0
    with pytest.raises(Gone):
        await client.publish("g", "more")
    with pytest.raises(Gone):
        await client.barrier()
    assert stage.visits.empty()


async def test_1008_out_of_the_blue_is_final_too(start: Start, stage: Stage) -> None:
    client, visit, _ = await start()
    await visit.leave(1008, "The reliable message buffer is full.")
    await until(lambda: client.failure is not None)
    assert stage.visits.empty()


async def test_http_errors_while_recovering_are_passing_trouble(start: Start, stage: Stage) -> None:
    client, visit, _ = await start()
    stage.refusals = [502, 401, 503]
    await visit.vanish()
    await stage.next()
    await until(lambda: client.recoveries == 1)
    assert client.attempts == 4
    assert client.failure is None


async def test_the_window_ends(start: Start, stage: Stage) -> None:
    client, visit, _ = await start(Pace(retry_secs=0.02, window_secs=0.2))
    stage.refusals = [502] * 1000
    await visit.vanish()
    await until(lambda: client.failure is not None)
    assert "not recovered within 0.2 s" in (client.failure or "")
    assert client.attempts > 1


async def test_unacknowledged_frames_are_sent_again_with_their_ack_ids(start: Start, stage: Stage) -> None:
    client, visit, _ = await start()
    sent = [client.join("g"), *(client.publish("g", f"text {number}") for number in range(3))]
    first = [await visit.hear() for _ in range(4)]
    assert [frame["ackId"] for frame in first] == [1, 2, 3, 4]
    assert first[1] == {"type": "sendToGroup", "group": "g", "dataType": "text", "data": "text 0", "ackId": 2}
    await visit.say(type="ack", ackId=2, success=True)
    assert await sent[1] is None
    await visit.vanish()
    await until(lambda: client.attempts == 1)
    # Said while nobody listens.
    sent.append(client.publish("g", "text 3"))
    visit = await stage.next()
    again = [await visit.hear() for _ in range(4)]
    assert again[:3] == [first[0], *first[2:]]
    assert again[3]["ackId"] == 5
    duplicate = {"name": "Duplicate", "message": "Message with ack-id: 1 has been processed"}
    await visit.say(type="ack", ackId=1, success=False, error=duplicate)
    assert await sent[0] is None
    await visit.say(type="ack", ackId=3, success=False, error={"name": "Forbidden", "message": "No."})
    assert await sent[2] == "Forbidden"
    assert client.waiting == 2


async def test_a_refused_frame_is_sent_again_with_its_ack_id(start: Start) -> None:
    client, visit, _ = await start(Pace(acknowledge_secs=NEVER, again_secs=0.02))
    refusals: list[None] = []
    answer = client.publish("g", "text", lambda: refusals.append(None))
    for _ in range(3):
        frame = await visit.hear()
        assert (frame["data"], frame["ackId"]) == ("text", 1)
        assert not answer.done()
        await visit.say(type="ack", ackId=1, success=False, error={"name": "InternalServerError", "message": ""})
    await visit.hear()
    # Taken at the last but one attempt; its ack came late.
    await visit.say(type="ack", ackId=1, success=False, error={"name": "Duplicate", "message": ""})
    assert await answer is None
    assert len(refusals) == 3
    assert client.waiting == 0


async def test_a_refusal_is_the_answer_where_nothing_is_sent_again(start: Start) -> None:
    client, visit, _ = await start()
    answer = client.publish("g", "text")
    await visit.hear()
    await visit.say(type="ack", ackId=1, success=False, error={"name": "Forbidden", "message": ""})
    assert await answer == "Forbidden"


async def test_stop_says_goodbye_and_does_not_come_back(start: Start, stage: Stage) -> None:
    client, visit, _ = await start()
    stopping = asyncio.create_task(client.stop())
    assert await visit.closed() == 1000
    await stopping
    assert stage.visits.empty()


async def test_a_client_that_lets_go_of_a_silent_socket_recovers(start: Start, stage: Stage) -> None:
    with CuttingProxy(stage.port) as proxy:
        client, _, told = await start(port=proxy.port)
        proxy.freeze()
        client.abandon()
        second = await stage.next()
        await second.data(1)
        await until(lambda: told == ["text 1"])
        assert client.recoveries == 1
        # The service does not know of it: the old socket is still there for it.
        assert len(proxy.connections) == 2


async def test_a_barrier_outlives_a_cut(start: Start, stage: Stage) -> None:
    client, visit, told = await start(Pace(retry_secs=0.02, acknowledge_secs=NEVER))
    waiting = asyncio.create_task(client.barrier())
    assert await visit.hear() == {"type": "ping"}
    await visit.vanish()
    visit = await stage.next()
    assert await visit.hear() == {"type": "ping"}
    await visit.data(1)
    await visit.say(type="pong")
    await waiting
    assert told == ["text 1"]


async def test_a_subprotocol_without_recovery_has_none(stage: Stage) -> None:
    client = ReliableClient(
        "ws://localhost/client/hubs/chat", lambda: stage.port, Json("json.webpubsub.azure.v1"), QUICK
    )
    starting = asyncio.create_task(client.start())
    visit = await stage.next()
    await visit.say(type="system", event="connected", userId=None, connectionId="c")
    await starting
    await visit.vanish()
    await until(lambda: client.failure is not None)
    assert "there is no recovery on json.webpubsub.azure.v1" in (client.failure or "")
    await client.stop()


async def test_nonsense_ends_the_socket(start: Start, stage: Stage) -> None:
    _, visit, _ = await start()
    await visit.say(type="surprise")
    assert await visit.closed() is None
    await stage.next()
