"""What goes wrong with event handlers, and what the service makes of it: for the one client, and for no other.

A handler breaks in every way that HTTP can be broken in, is slow, is away and comes back,
is where it may not be. Real servers on both sides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from tests.running import PATIENCE, Service, free_port
from tests.service.application_settings import MAX_HANDLER_ANSWER_BYTES
from tests.service.applications import (
    PROMPT,
    SYSTEM,
    Application,
    ConcurrencyLimit,
    Staff,
    came,
    echo,
    failed,
    handler_at,
    name_of,
    number_of,
    raise_event,
    running_application,
    serving,
)
from tests.service.client import (
    JSON,
    JSON_RELIABLE,
    PROTOBUF_RELIABLE,
    Sdk,
    Target,
    ok,
    opened,
    refused,
    reliable,
    server_message,
)
from tests.upstream.server import RawServer, Say, never

pytestmark = pytest.mark.needs_handlers

Unique = Callable[[str], str]

# Time for an answer, all attempts together: the first, and the second after a second.
HANDLER_SECS = 3


@pytest.fixture(scope="module", params=["uvicorn", "daphne"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp(f"faults-{request.param}")
    with serving(folder, request.param, **PROMPT, TEST_HANDLER_SECS=str(HANDLER_SECS)) as running:
        yield running


@pytest.fixture(scope="module")
def staff(service: Service) -> Staff:
    return Staff(service)


@pytest.fixture(scope="module")
def target(service: Service) -> Target:
    return Target(service.connection_string)


@asynccontextmanager
async def broken(*answers: bytes | None) -> AsyncIterator[RawServer]:
    """An application whose server answers events with these bytes."""
    server = await RawServer(*answers).start()
    try:
        yield server
    finally:
        await server.stop()


# Answers that are none


@dataclass(frozen=True)
class Fault:
    """What comes for an answer; None: the connection is dropped. `refusal`: what a handshake is answered with then."""

    answer: bytes | None
    again: bool = False
    refusal: int = 500


def answer(body: bytes = b"", *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


LARGE = b" " * (MAX_HANDLER_ANSWER_BYTES + 1)

FAULTS: Mapping[str, Fault] = {
    "500": Fault(answer(b"a secret of the application", status="500 Oops"), again=True),
    "503": Fault(answer(status="503 Busy"), again=True),
    "429": Fault(answer(status="429 Too Many"), refusal=429),
    "redirect": Fault(answer(b"", "Location: {elsewhere}", status="302 Found")),
    "permanent redirect": Fault(answer(b"", "Location: {elsewhere}", status="308 Moved")),
    "another protocol": Fault(answer(b"", "Connection: upgrade", "Upgrade: x", status="101 Switching Protocols")),
    "dropped": Fault(None, again=True),
    "dropped in the middle": Fault(answer(b"{}", "Connection: close", length=10), again=True),
    "not HTTP": Fault(b"\0\1\2 this is not HTTP\r\n\r\n"),
    "a header without a colon": Fault(answer(b"", "Broken header")),
    "a header with a control character": Fault(answer(b"", "ce-connectionState: a\0b")),
    "a header that never ends": Fault(answer(b"", "X-Long: " + "x" * 100_000)),
    "two lengths": Fault(answer(b"", "Content-Length: 5")),
    "a length that is none": Fault(answer(b"", "Content-Length: x")),
    "a state of another encoding": Fault(answer(b"", "ce-connectionState: \xff\xfe")),
    "a state that is too long": Fault(answer(b"", f"ce-connectionState: {'x' * 20_000}")),
    "a wrong content type": Fault(answer(b"<p>Hello</p>", "Content-Type: text/html")),
    "not JSON": Fault(answer(b"{", "Content-Type: application/json")),
    "compressed": Fault(answer(b"\x1f\x8b\x08", "Content-Type: application/json", "Content-Encoding: gzip")),
    "huge": Fault(answer(LARGE, "Content-Type: text/plain")),
    "huge, in chunks": Fault(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        + b"%x\r\n%s\r\n" % (len(LARGE), LARGE)
    ),
}


async def test_a_broken_answer_is_the_asking_clients_affair_alone(staff: Staff, target: Target, hub: str) -> None:
    async def broken_by(name: str, hub: str) -> None:
        try:
            await _asked_of_a_broken_server(FAULTS[name], staff, target, hub)
        except BaseException as problem:
            problem.add_note(f"The answer was: {name}.")
            raise

    # At once, since those that are tried again take seconds.
    async with asyncio.TaskGroup() as all_of_them:
        for number, name in enumerate(FAULTS):
            all_of_them.create_task(broken_by(name, f"{hub}{number}x"))


async def _asked_of_a_broken_server(fault: Fault, staff: Staff, target: Target, hub: str) -> None:
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(running_application())
        app.on |= {"fine": echo, "message": echo}
        text = fault.answer and fault.answer.replace(b"{elsewhere}", f"{app.url}/elsewhere".encode())
        server = await stack.enter_async_context(broken(text))
        well = app.handler(*SYSTEM, events="*")
        await staff.set(hub, handler_at(server.url, events="break, message"), well)
        client, _ = await stack.enter_async_context(came(target.url(hub)))
        patient = await stack.enter_async_context(reliable(target.url(hub), PROTOBUF_RELIABLE))
        simple = await stack.enter_async_context(opened(target.url(hub)))
        neighbour, _ = await stack.enter_async_context(came(target.url(hub)))
        # A hub of which the handler that is asked at the handshake breaks.
        closing = f"{hub}closing"
        await staff.set(closing, well)
        inside, _ = await stack.enter_async_context(came(target.url(closing)))

        # Others ask, and are answered, while it breaks.
        async def asks_others() -> None:
            for number in range(20):
                message = server_message(f"n{number}", "text")
                assert await raise_event(neighbour, "fine", f"n{number}", number) == [message, ok(number)]

        async def asks() -> None:
            await client.say(type="event", event="break", data="x")
            await client.say(type="event", event="break", data="x", ackId=1)
            await client.say(type="joinGroup", group="g", ackId=2)
            await client.say(type="event", event="fine", data=1, ackId=3)
            # In the order in which they were sent; without an ackId there is nothing to be told.
            assert failed(await client.hear())
            assert [await client.hear() for _ in range(3)] == [ok(2), server_message(1), ok(3)]

        async def asks_reliably() -> None:
            await patient.say(type="event", event="break", data="x", ackId=1)
            await patient.say(type="event", event="fine", data=1, ackId=2)
            assert failed(await patient.hear())
            assert [await patient.hear() for _ in range(2)] == [server_message(1), ok(2)]

        async def asks_simply() -> None:
            await simple.say_raw("x")
            assert await simple.closed() == (1011, "Internal server error")

        async def asks_to_come_in() -> None:
            await staff.set(closing, handler_at(server.url, "connect"), well)
            assert await refused(target.url(closing), JSON) == fault.refusal
            # Whoever is there already stays.
            assert await raise_event(inside, "fine", "still", 9) == [server_message("still", "text"), ok(9)]

        # At once, since each takes its time.
        await asyncio.gather(asks(), asks_reliably(), asks_simply(), asks_others(), asks_to_come_in())
        # Four events and a handshake: tried again where a moment can mend it.
        assert server.events == 5 * (2 if fault.again else 1)
        ended = {name_of(seen) for seen in app.events}
        assert "elsewhere" not in {seen.path.strip("/") for seen in app.seen}
        assert {"connect", "connected", "fine"} <= ended


async def test_what_is_wrong_is_told_to_staff_and_to_nobody_else(
    service: Service, staff: Staff, target: Target, hub: str, app: Application
) -> None:
    query = "?code=a-secret"
    async with broken(answer(b"<p>my own secret</p>", "Content-Type: text/html")) as server:
        template = f"{server.url}/events"
        await staff.set(hub, handler_at(server.url, events="*") | {"urlTemplate": f"{template}{query}"})
        async with came(target.url(hub)) as (client, _):
            assert failed(await raise_event(client, "message"))
    [call] = await asyncio.to_thread(staff.calls, hub, 1)
    assert call["handler"] == template
    assert (call["event"], call["outcome"], call["status"], call["attempts"]) == ("user.message", "failed", 200, 1)
    assert "text/html" in call["problem"]
    log = service.log.read_text()
    assert f"The event message of hub {hub} failed at {template}: {call['problem']}" in log
    assert "a-secret" not in log + call["problem"]
    assert "my own secret" not in log + call["problem"]


# Slow


async def test_line_31_no_answer_in_time_is_a_failure(staff: Staff, target: Target, hub: str, app: Application) -> None:
    app.on |= {"hang": never, "message": never, "fine": echo}
    await staff.set(hub, app.everything())
    async with came(target.url(hub)) as (client, connected), opened(target.url(hub)) as simple:
        begun = time.monotonic()
        await simple.say_raw("x")
        assert failed(await raise_event(client, "hang"))
        assert time.monotonic() - begun >= HANDLER_SECS - 0.1
        assert await simple.closed() == (1011, "Internal server error")
        # It may be at work on it still: asked once.
        assert [name_of(seen) for seen in app.of(connected["connectionId"])].count("hang") == 1
        assert await raise_event(client, "fine", "x", 2) == [server_message("x", "text"), ok(2)]
    app.on["connect"] = never
    assert await refused(target.url(hub), JSON) == 500


async def test_a_slow_answer_keeps_the_clients_frames_in_order_and_delays_nothing_else(
    staff: Staff, target: Target, hub: str, app: Application
) -> None:
    gates = {name: ConcurrencyLimit(Say(200, b"slow", {"Content-Type": "text/plain"})) for name in ("slow", "message")}
    app.on |= {**gates, "fine": echo}
    await staff.set(hub, app.everything())
    sdk = Sdk(target, hub)
    async with AsyncExitStack() as stack:
        client, _ = await stack.enter_async_context(came(target.url(hub, groups=["g"])))
        patient = await stack.enter_async_context(reliable(target.url(hub, groups=["g"])))
        simple = await stack.enter_async_context(opened(target.url(hub, groups=["g"])))
        neighbour, _ = await stack.enter_async_context(came(target.url(hub)))
        await simple.say_raw("ask")
        await gates["message"].reached()
        for asking in (client, patient):
            await asking.say(type="event", event="slow", data=1, ackId=1)
            await asking.say(type="event", event="fine", data=2, ackId=2)
            await asking.say(type="ping")
        await gates["slow"].reached()
        # Delivered while it waits.
        await sdk.send_to_all("news", content_type="text/plain")
        for asking in (client, patient, neighbour):
            assert await asking.hear() == server_message("news", "text")
        assert await simple.hear_raw() == "news"
        # Others get their answers.
        assert await raise_event(neighbour, "fine", "x", 1) == [server_message("x", "text"), ok(1)]
        for gate in gates.values():
            gate.open()
        for asking in (client, patient):
            heard = [await asking.hear() for _ in range(5)]
            assert heard == [server_message("slow", "text"), ok(1), server_message(2), ok(2), {"type": "pong"}]
        assert await simple.hear_raw() == "slow"


async def test_a_client_that_leaves_has_its_request_given_up(
    staff: Staff, target: Target, hub: str, app: Application
) -> None:
    app.on["message"] = never
    await staff.set(hub, app.everything())
    async with opened(target.url(hub)) as client:
        await client.say_raw("x")
        await app.event(3)
        await client.reset()
        await asyncio.wait_for(app.cancelled.wait(), PATIENCE)
    [connection_id] = {seen.headers["ce-connectionId"] for seen in app.events}
    events = await app.told(connection_id, *SYSTEM, "message")
    assert name_of(events[-1]) == "disconnected"


async def test_a_client_that_leaves_while_its_events_wait_unread_takes_them_back(
    staff: Staff, target: Target, hub: str, app: Application
) -> None:
    app.on["message"] = never
    await staff.set(hub, app.everything())
    async with opened(target.url(hub)) as client:
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(1):
                    await client.say_raw("x" * 1_000_000)
        # Its system keeps the end back, behind what the service does not take.
        await client.drop()
    connection_id = app.events[0].headers["ce-connectionId"]
    async with asyncio.timeout(PATIENCE):
        while await Sdk(target, hub).connection_exists(connection_id):
            pass
    events = app.of(connection_id)
    # The handler gives each up after three seconds; there were a dozen.
    assert len(events) < 3 + 8, [name_of(each) for each in events]
    async with asyncio.timeout(PATIENCE):
        while name_of(app.of(connection_id)[-1]) != "disconnected":
            await asyncio.sleep(0.05)
    assert len(app.of(connection_id)) <= len(events) + 1


@pytest.mark.parametrize("subprotocol", [JSON_RELIABLE, PROTOBUF_RELIABLE])
async def test_a_client_that_comes_back_meanwhile_gets_its_answer(
    staff: Staff, target: Target, hub: str, app: Application, subprotocol: str
) -> None:
    gate = ConcurrencyLimit(Say(200, b"slow", {"Content-Type": "text/plain", "ce-connectionState": "after"}))
    app.on |= {"slow": gate, "fine": echo}
    await staff.set(hub, app.everything())
    async with reliable(target.url(hub), subprotocol) as client:
        await client.say(type="event", event="slow", data=1, ackId=1)
        await gate.reached()
        await client.reset()
        await client.recover()
        gate.open()
        assert await client.hear() == server_message("slow", "text")
        assert await client.hear() == ok(1)
        assert await client.ask(type="event", event="other", data=1, ackId=2) == ok(2)
        assert app.of(client.id)[-1].headers["ce-connectionState"] == "after"
        await client.close(1000)
    events = await app.told(client.id, *SYSTEM, "slow", "other")
    assert [number_of(seen) for seen in events] == list(range(5))


# Away


async def test_a_server_that_is_away_and_comes_back(staff: Staff, target: Target, hub: str, app: Application) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    await staff.set(hub, handler_at(url, events="away, message"), app.everything())
    async with came(target.url(hub)) as (client, _), opened(target.url(hub)) as simple:
        # Its owner has never been asked, and is not there to be asked.
        await simple.say_raw("x")
        assert failed(await raise_event(client, "away"))
        assert (await simple.closed())[0] == 1011
        assert await raise_event(client, "there", ack_id=2) == ok(2)
        server = await RawServer(answer()).start(port=port)
        try:
            async with asyncio.timeout(PATIENCE):
                while failed(await raise_event(client, "away")):
                    await client.barrier()
        finally:
            await server.stop()
        # It has allowed events, and is away again.
        assert failed(await raise_event(client, "away", ack_id=3))
        # It is started anew while an event waits to be tried again.
        await client.say(type="event", event="away", data="x", ackId=4)
        server = await RawServer(answer(b"back", "Content-Type: text/plain")).start(port=port)
        try:
            assert await client.hear() == server_message("back", "text")
            assert await client.hear() == ok(4)
        finally:
            await server.stop()
    await staff.set(hub, handler_at(f"http://127.0.0.1:{free_port()}", "connect"))
    assert await refused(target.url(hub), JSON) == 500


async def test_an_owner_that_takes_no_connections_of_another_origin(
    staff: Staff, target: Target, hub: str, app: Application
) -> None:
    app.permissions[0] = Say(200, headers={"WebHook-Allowed-Origin": "pubsub.example.com"})
    await staff.set(hub, app.handler("connect", "connected"))
    assert await refused(target.url(hub), JSON) == 500
    assert app.events == []
    [call] = await asyncio.to_thread(staff.calls, hub, 1)
    assert call["problem"] == "abuse protection: the header WebHook-Allowed-Origin is neither * nor localhost"


# Where handlers may not be


PUBLIC = "http://pubsub.example.com"


@pytest.fixture(scope="module", params=["uvicorn", "daphne"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has a public name: nothing of it may be sent into its own network."""
    folder = tmp_path_factory.mktemp(f"guarded-{request.param}")
    with serving(folder, request.param, **PROMPT, PUBLIC_ENDPOINT=PUBLIC) as running:
        yield running


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]"])
async def test_handlers_at_private_addresses_are_refused_unless_allowed(
    guarded: Service, hub: str, app: Application, host: str
) -> None:
    staff, target = Staff(guarded), Target(guarded.connection_string.replace(PUBLIC, guarded.endpoint))
    url = f"http://{host}:{app.port}"
    await staff.set(hub, handler_at(url, "connect"))
    assert await refused(target.url(hub), JSON) == 500
    await staff.set(hub, handler_at(url, events="*"))
    async with came(target.url(hub)) as (client, _):
        assert failed(await raise_event(client, "message"))
    # By a redirect of somebody public it would not be reached either: see the faults above.
    assert app.seen == []
    calls = await asyncio.to_thread(staff.calls, hub, 2)
    for call in calls:
        assert (call["outcome"], call["handler"]) == ("failed", f"{url}/{{event}}")
        assert "to public addresses only" in call["problem"]
        assert "HANDLER_PRIVATE_ADDRESSES" in call["problem"]
    assert f"of hub {hub} failed at {url}" in guarded.log.read_text()


async def test_a_number_is_no_way_around_that(guarded: Service, hub: str, app: Application) -> None:
    staff, target = Staff(guarded), Target(guarded.connection_string.replace(PUBLIC, guarded.endpoint))
    await staff.set(hub, handler_at(f"http://2130706433:{app.port}", "connect"))
    assert await refused(target.url(hub), JSON) == 500
    assert app.seen == []
