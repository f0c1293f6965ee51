"""Where event handlers may be."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from hubs.errors import HandlerFailed
from hubs.hub_settings import EventHandlerSettings
from hubs.protocols.frames import TEXT, Payload
from hubs.upstream import Reply, UserEventRequest, dispatch, records, ssrf_guard, webhooks
from hubs.upstream.session import Session
from hubs.upstream.ssrf_guard import ForbiddenAddress, GuardedResolver, SystemResolver, open_socket, purpose_of
from tests.running import PATIENCE
from tests.upstream.conftest import Rows, Time
from tests.upstream.server import RawServer


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.15",
        "169.253.255.255",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2001:200::1",
        "2606:4700:4700::1111",
        "2a00::1",
        "64:ff9b::1.1.1.1",
    ],
)
def test_public_addresses(address: str) -> None:
    assert purpose_of(address) == ""


@pytest.mark.parametrize(
    ("address", "purpose"),
    [
        ("0.0.0.0", "this host"),
        ("10.0.0.1", "private"),
        ("100.64.0.1", "shared by a provider"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.255", "loopback"),
        ("168.63.129.16", "Azure's own"),
        ("169.254.169.254", "link-local"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.192", "reserved"),
        ("192.88.99.1", "a 6to4 relay"),
        ("192.168.0.1", "private"),
        ("198.19.255.255", "for benchmarks"),
        ("203.0.113.1", "for documents"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("::", "reserved"),
        ("::1", "loopback"),
        ("::127.0.0.1", "reserved"),
        ("::ffff:127.0.0.1", "an IPv4 address in disguise"),
        ("::ffff:1.1.1.1", "an IPv4 address in disguise"),
        ("64:ff9b::127.0.0.1", "loopback"),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("64:ff9b:1::1", "translated locally"),
        ("100::1", "reserved"),
        ("2001::1", "reserved"),  # Teredo
        ("2001:db8::1", "for documents"),
        ("2002:7f00:1::1", "6to4"),
        ("3fff::1", "for documents"),
        ("5f00::1", "reserved"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fec0::1", "private"),
        ("ff02::1", "multicast"),
        ("localhost", "not an address"),
        ("", "not an address"),
        ("127.1", "not an address"),
    ],
)
def test_addresses_that_are_not_public(address: str, purpose: str) -> None:
    assert purpose_of(address) == purpose


class Names(AbstractResolver):
    """What names mean: one list of addresses after the other, the last for ever."""

    def __init__(self, *meanings: list[str]) -> None:
        self.meanings = deque(meanings)
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        addresses = self.meanings.popleft() if len(self.meanings) > 1 else self.meanings[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in addresses
        ]

    async def close(self) -> None: ...


async def found(resolver: AbstractResolver) -> list[str]:
    return [result["host"] for result in await resolver.resolve("h", 80)]


async def test_only_public_addresses_of_a_name_are_passed_on(webpubsub: Any) -> None:
    webpubsub(HANDLER_PRIVATE_ADDRESSES=False)
    resolver = GuardedResolver(Names(["10.0.0.1", "1.1.1.1", "::1", "2a00::1"], ["1.1.1.1"], ["127.0.0.1", "::1"]))
    assert await found(resolver) == ["1.1.1.1", "2a00::1"]
    assert await found(resolver) == ["1.1.1.1"]
    with pytest.raises(ForbiddenAddress) as refused:
        await found(resolver)
    assert str(refused.value) == (
        "events go to public addresses only, and this is at 127.0.0.1 (loopback), ::1 (loopback); "
        "the setting HANDLER_PRIVATE_ADDRESSES allows it"
    )


async def test_where_private_addresses_are_allowed(webpubsub: Any) -> None:
    webpubsub(HANDLER_PRIVATE_ADDRESSES=True)
    assert await found(GuardedResolver(Names(["127.0.0.1", "1.1.1.1"]))) == ["127.0.0.1", "1.1.1.1"]
    open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80))).close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254"])
def test_no_socket_is_made_for_others(address: str, webpubsub: Any) -> None:
    webpubsub(HANDLER_PRIVATE_ADDRESSES=False)
    with pytest.raises(ForbiddenAddress):
        open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80)))


async def test_the_systems_names() -> None:
    resolver = SystemResolver()
    assert set(await found_of(resolver, "localhost")) <= {"127.0.0.1", "::1"}
    for bad in ("x" * 64 + ".example", "a..b"):
        with pytest.raises(OSError, match="not the name of a host"):
            await found_of(resolver, bad)
    await resolver.close()


async def found_of(resolver: AbstractResolver, name: str) -> list[str]:
    return [result["host"] for result in await resolver.resolve(name, 80, socket.AF_UNSPEC)]


# Over real HTTP

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


async def _send() -> Reply:
    session = Session("chat", "c")
    request = UserEventRequest(session.context, "e", Payload(TEXT, b""))
    return await asyncio.wait_for(dispatch.user_event(session, request), PATIENCE)


def _client(clock: Time, names: Names) -> webhooks.Webhooks:
    own = webhooks.Webhooks(resolver=names, clock=clock.clock, sleep=clock.sleep)
    webhooks._clients[asyncio.get_running_loop()] = own
    return own


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "127.1", "0x7f.1", "0", "0177.0.0.1"],
)
async def test_a_handler_inside_is_never_connected_to(rows: Rows, clock: Time, webpubsub: Any, host: str) -> None:
    webpubsub(HANDLER_PRIVATE_ADDRESSES=False)
    inside = await RawServer(OK).start()
    webhooks._clients[asyncio.get_running_loop()] = webhooks.Webhooks(clock=clock.clock, sleep=clock.sleep)
    try:
        rows.set("chat", EventHandlerSettings(1, f"http://{host}:{inside.port}/?code=secret", "*"))
        with pytest.raises(HandlerFailed):
            await _send()
        record = records.recent("chat")[0]
        assert "secret" not in record.problem
        assert "public addresses" in record.problem or "leads nowhere" in record.problem
        # It is no passing fault.
        assert clock.slept == []
        assert inside.connections == 0
    finally:
        await dispatch.stop()
        await inside.stop()


async def test_a_name_that_changes_its_mind_leads_nowhere(
    rows: Rows, clock: Time, webpubsub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it is checked, inside when it is used."""
    webpubsub(HANDLER_PRIVATE_ADDRESSES=False)
    # Loopback has many addresses: one of them stands for the public Internet here.
    monkeypatch.setattr(ssrf_guard, "purpose_of", lambda address: "" if address == "127.0.0.2" else purpose_of(address))
    outside = await RawServer(OK).start("127.0.0.2")
    inside = await RawServer(OK).start("127.0.0.1", outside.port)
    names = Names(["127.0.0.2"], ["127.0.0.1"])
    own = _client(clock, names)
    try:
        rows.set("chat", EventHandlerSettings(1, f"http://rebound.example:{outside.port}/", "*"))
        await _send()
        assert (outside.events, names.asked) == (1, ["rebound.example"])
        # The answer closed the connection, and what the name meant is forgotten.
        assert own._http is not None
        own._http.connector.clear_dns_cache()  # type: ignore[union-attr]
        with pytest.raises(HandlerFailed):
            await _send()
        assert names.asked == ["rebound.example"] * 2
        assert "127.0.0.1 (loopback)" in records.recent("chat")[0].problem
        assert inside.connections == 0
    finally:
        await dispatch.stop()
        await outside.stop()
        await inside.stop()


async def test_a_name_that_is_unknown_is_a_passing_fault(rows: Rows, clock: Time, webpubsub: Any) -> None:
    class Unknown(Names):
        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
            self.asked.append(host)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    names = Unknown()
    _client(clock, names)
    try:
        rows.set("chat", EventHandlerSettings(1, "http://nowhere.example/", "*"))
        with pytest.raises(HandlerFailed):
            await _send()
        assert len(names.asked) == 4
        assert records.recent("chat")[0].problem.endswith(
            "the name nowhere.example cannot be resolved: Name or service not known"
        )
    finally:
        await dispatch.stop()


async def test_proxies_of_the_environment_are_not_used(
    rows: Rows, clock: Time, webpubsub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    webpubsub(HANDLER_PRIVATE_ADDRESSES=True)
    proxy, handler = await RawServer(OK).start(), await RawServer(OK).start()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    webhooks._clients[asyncio.get_running_loop()] = webhooks.Webhooks(clock=clock.clock, sleep=clock.sleep)
    try:
        rows.set("chat", EventHandlerSettings(1, handler.url, "*"))
        await _send()
        assert (proxy.connections, handler.events) == (0, 1)
    finally:
        await dispatch.stop()
        await proxy.stop()
        await handler.stop()
