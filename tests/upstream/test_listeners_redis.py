"""Listeners that are streams, on a real Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis.asyncio import Redis as Client
from redis.exceptions import ConnectionError

from hubs.hub_settings import EventListenerSettings
from hubs.protocols.frames import BINARY, JSON, PROTOBUF, TEXT, Payload
from hubs.rules.event_routing import stream_address
from hubs.upstream import UserEventRequest, dispatch, listeners, records
from hubs.upstream.listeners import queues, redis_stream
from hubs.upstream.listeners.message import message_of
from hubs.upstream.listeners.redis_stream import RedisStream
from hubs.upstream.listeners.transport import TransportError
from hubs.upstream.session import Session
from tests.running import PATIENCE, Redis, free_port
from tests.upstream.conftest import Rows

DAY = timedelta(days=1)
STREAM = "events of chat/é"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis of the test's own, which it may stop."""
    own = Redis(tmp_path)
    try:
        yield own.start()
    finally:
        own.stop()


@pytest.fixture
async def reader(redis: Redis) -> AsyncIterator[Any]:
    """Whoever reads the stream."""
    client = Client.from_url(redis.url)
    yield client
    await client.aclose()


@pytest.fixture(autouse=True)
async def quick(monkeypatch: pytest.MonkeyPatch, webpubsub: Any) -> AsyncIterator[None]:
    webpubsub(HANDLER_PRIVATE_ADDRESSES=True)
    monkeypatch.setattr(queues, "RETRY_SECS", (0.02,))
    monkeypatch.setattr(queues, "LOOK_SECS", 0.02)
    queues._log._held.clear()
    yield
    await listeners.close(0.1)


@pytest.fixture
def row(redis: Redis, rows: Rows) -> EventListenerSettings:
    own = EventListenerSettings(
        1, "redis_stream", stream_address(redis.url, STREAM), "*", frozenset(["connected", "disconnected"])
    )
    rows.set("chat", listeners=(own,))
    return own


def tell(row: EventListenerSettings, *data: str) -> None:
    session = Session("chat", "c")
    for text in data:
        request = UserEventRequest(session.context, "message", Payload(TEXT, text.encode()))
        listeners.tell(session.event("message", request), (row,))


async def entries(reader: Any, count: int) -> list[dict[str, Any]]:
    """Wait for so many entries; their fields, with texts for names and values where they are text."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                found = await reader.xrange(STREAM)
            except ConnectionError:
                # It is just being started.
                found = []
            if len(found) >= count:
                return [
                    {name.decode(): value if name == b"body" else value.decode() for name, value in fields.items()}
                    for _, fields in found
                ]
            await asyncio.sleep(0.01)


async def problem(text: str) -> None:
    """Wait for a record that says so."""
    async with asyncio.timeout(PATIENCE):
        while not any(text in record.problem for record in records.recent("chat")):
            await asyncio.sleep(0.01)


async def test_a_connections_events_as_entries(row: EventListenerSettings, reader: Any) -> None:
    session = Session("chat", "c0ffee", "Zoë", "json.webpubsub.azure.v1")
    session.event("connect")
    dispatch.connected(session)
    await asyncio.wait(set(dispatch._notifications))
    session.state = ""
    payloads = [
        Payload(TEXT, "héllo".encode()),
        Payload(JSON, b'{"a": 1.0}'),
        Payload(BINARY, b"\x00\r\n\xff"),
        Payload(PROTOBUF, b""),
    ]
    for payload in payloads:
        # Only the listener takes it, and that is a success.
        await dispatch.user_event(session, UserEventRequest(session.context, "Room.message", payload))
    dispatch.disconnected(session, "bye")
    found = await entries(reader, 6)
    for fields in found:
        time = fields.pop("cloudEvents:time")
        assert len(time) == len("2024-01-01T00:00:00Z")
        assert time.endswith("Z")
    common = {
        "cloudEvents:specversion": "1.0",
        "cloudEvents:awpsversion": "1.0",
        "cloudEvents:source": "/hubs/chat/client/c0ffee",
        "cloudEvents:hub": "chat",
        "cloudEvents:connectionid": "c0ffee",
        "cloudEvents:userid": "Zoë",
        "cloudEvents:subprotocol": "json.webpubsub.azure.v1",
    }
    assert found[0] == common | {
        "cloudEvents:type": "azure.webpubsub.sys.connected",
        "cloudEvents:id": "1",
        "cloudEvents:eventname": "connected",
        "message-id": "c0ffee/1",
        "content-type": "application/json",
        "body": b"{}",
    }
    content_types = ["text/plain; charset=utf-8", "application/json", "application/octet-stream"]
    content_types.append("application/x-protobuf")
    for number, (payload, content_type) in enumerate(zip(payloads, content_types, strict=True), 2):
        assert found[number - 1] == common | {
            "cloudEvents:type": "azure.webpubsub.user.Room.message",
            "cloudEvents:id": str(number),
            "cloudEvents:eventname": "Room.message",
            "cloudEvents:connectionstate": "",
            "message-id": f"c0ffee/{number}",
            "content-type": content_type,
            "body": payload.data,
        }
    assert found[5]["cloudEvents:type"] == "azure.webpubsub.sys.disconnected"
    assert found[5]["body"] == b'{"reason":"bye"}'


async def test_connect_is_never_told(row: EventListenerSettings, rows: Rows, reader: Any) -> None:
    session = Session("chat", "c")
    greedy = EventListenerSettings(1, row.kind, row.address, "*", frozenset(["connect", "connected"]))
    rows.set("chat", listeners=(greedy,))
    await dispatch.connect(session, dispatch.ConnectRequest(session.context))
    dispatch.connected(session)
    assert [fields["cloudEvents:eventname"] for fields in await entries(reader, 1)] == ["connected"]


async def test_thousands_in_order(row: EventListenerSettings, reader: Any) -> None:
    told = [str(number) for number in range(3000)]
    tell(row, *told)
    assert [fields["body"].decode() for fields in await entries(reader, 3000)] == told


async def test_the_stream_is_kept_short(row: EventListenerSettings, reader: Any, webpubsub: Any) -> None:
    webpubsub(LISTENER_STREAM_LENGTH=200, MAX_LISTENER_MESSAGES=5000)
    tell(row, *map(str, range(3000)))
    await listeners.close(PATIENCE)
    # Redis drops whole blocks, of a hundred entries by default.
    assert 200 <= await reader.xlen(STREAM) <= 300
    assert (await reader.xrevrange(STREAM, count=1))[0][1][b"body"] == b"2999"


async def test_a_restart_of_redis_loses_nothing_that_waits(
    row: EventListenerSettings, redis: Redis, reader: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tell(row, "before")
    await entries(reader, 1)
    redis.stop()
    tell(row, *map(str, range(250)))
    await problem("cannot be reached: Connection refused")
    redis.start()
    # It keeps nothing over a restart.
    assert [fields["body"].decode() for fields in await entries(reader, 250)] == [str(n) for n in range(250)]
    assert "dropped" not in caplog.text


async def test_a_redis_that_hangs(
    row: EventListenerSettings, redis: Redis, reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_stream, "ANSWER_SECS", 0.2)
    monkeypatch.setattr(redis_stream, "CONNECT_SECS", 0.2)
    tell(row, "1")
    await entries(reader, 1)
    assert redis.process is not None
    os.kill(redis.process.pid, signal.SIGSTOP)
    try:
        tell(row, "2", "3")
        await problem("no answer in time")
    finally:
        os.kill(redis.process.pid, signal.SIGCONT)
    await listeners.close(PATIENCE)
    told = [fields["body"] for fields in await entries(reader, 3)]
    # What Redis got before it could say so, it has twice: at least once is the promise, in order.
    assert told[0] == b"1"
    assert told[-2:] == [b"2", b"3"]
    assert set(zip(told[1::2], told[2::2], strict=True)) == {(b"2", b"3")}


async def test_a_password(
    row: EventListenerSettings, rows: Rows, reader: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await reader.config_set("requirepass", "the secret")
    await reader.execute_command("AUTH", "the secret")
    tell(row, "1")
    await problem("wants a password")
    wrong = EventListenerSettings(1, row.kind, row.address, "*", frozenset(), "not the secret")
    rows.set("chat", listeners=(wrong,))
    await problem("does not accept the password")
    right = EventListenerSettings(1, row.kind, row.address, "*", frozenset(), "the secret")
    rows.set("chat", listeners=(right,))
    assert [fields["body"] for fields in await entries(reader, 1)] == [b"1"]
    assert "secret" not in caplog.text + repr(records.recent("chat"))


@pytest.mark.parametrize(
    ("command", "explanation"),
    [
        (("SET", STREAM, "taken"), "its key is not a stream"),
        (("CONFIG", "SET", "maxmemory", "1"), "its memory is full"),
        (("REPLICAOF", "127.0.0.1", "1"), "a replica, which cannot be written to"),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
async def test_refusals_are_explained_without_quoting(
    row: EventListenerSettings,
    reader: Any,
    command: tuple[str, ...],
    explanation: str,
    count: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await reader.execute_command(*command)
    tell(row, *["private"] * count)
    await problem(explanation)
    assert "private" not in caplog.text + "".join(record.problem for record in records.recent("chat"))
    assert "XADD" not in caplog.text


@pytest.fixture
async def tls_port(redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """The Redis behind TLS; its certificate is for `localhost`, and the process trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + DAY)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate = tmp_path / "certificate.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem) + private)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = await asyncio.open_connection("127.0.0.1", redis.port)
        await asyncio.gather(copied(reader, inner[1]), copied(inner[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield int(server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()


async def test_tls(redis: Redis, rows: Rows, reader: Any, tls_port: int) -> None:
    row = EventListenerSettings(1, "redis_stream", stream_address(f"rediss://localhost:{tls_port}/0", STREAM), "*")
    rows.set("chat", listeners=(row,))
    tell(row, "1")
    assert [fields["body"] for fields in await entries(reader, 1)] == [b"1"]


async def test_tls_of_somebody_else(rows: Rows, tls_port: int) -> None:
    row = EventListenerSettings(1, "redis_stream", stream_address(f"rediss://127.0.0.1:{tls_port}/0", STREAM), "*")
    rows.set("chat", listeners=(row,))
    tell(row, "1")
    await problem("its certificate is not accepted: IP address mismatch")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254"])
async def test_the_guard_of_event_handlers_holds_here_too(redis: Redis, webpubsub: Any, host: str) -> None:
    webpubsub(HANDLER_PRIVATE_ADDRESSES=False)
    transport = RedisStream(EventListenerSettings(1, "redis_stream", f"redis://{host}:{redis.port}/0?stream=s"))
    session = Session("chat", "c")
    try:
        with pytest.raises(TransportError, match="events go to public addresses only"):
            await transport.send([message_of(session.event("connected"))])
    finally:
        await transport.close()


@pytest.mark.parametrize(
    ("url", "explanation"),
    [
        ("redis://127.0.0.1:{free}/0", "127.0.0.1:{free} cannot be reached: Connection refused"),
        ("redis://nowhere.invalid:1/0", "nowhere.invalid:1 cannot be reached: "),
        ("rediss://127.0.0.1:{redis}/0", "127.0.0.1:{redis} cannot be reached: "),
        ("redis://127.0.0.1:{redis}/77777", "it has no database of that number"),
    ],
)
async def test_places_where_no_redis_is(
    redis: Redis, url: str, explanation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_stream, "CONNECT_SECS", 1.0)
    ports = {"free": free_port(), "redis": redis.port}
    transport = RedisStream(EventListenerSettings(1, "redis_stream", url.format(**ports) + "?stream=s"))
    session = Session("chat", "c")
    try:
        with pytest.raises(TransportError) as raised:
            await transport.send([message_of(session.event("connected"))])
    finally:
        await transport.close()
    assert explanation.format(**ports) in str(raised.value)
    assert raised.value.tries is None
