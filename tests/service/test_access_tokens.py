"""The access tokens' checklist, lines 1 to 24, one test per line, on every server.

Lines 25 to 27 (REST) are in tests/rest/; line 27 also runs here, over the wire.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.running import PATIENCE, Service
from tests.service.applications import Staff
from tests.service.client import JSON, Client, Target, answered, group_message, ok, opened, refused

Unique = Callable[[str], str]


async def _opens(target: Target, token: str, hub: str = "chat") -> bool:
    status = await answered(target.address(hub, access_token=token), JSON)
    assert status in (101, 401)
    return status == 101


async def _may(client: Client, verb: str, group: str, ack_id: int) -> bool:
    frame = {"data": 1, "noEcho": True} if verb == "sendToGroup" else {}
    answer = await client.ask(type=verb, group=group, ackId=ack_id, **frame)
    assert answer["success"] or answer["error"]["name"] == "Forbidden"
    return bool(answer["success"])


async def test_line_01_the_key_is_its_own_utf8_text(target: Target) -> None:
    assert await _opens(target, target.token())
    padded = target.key + "=" * (-len(target.key) % 4)
    decoded = base64.urlsafe_b64decode(padded)
    import jwt

    claims = {"aud": f"{target.endpoint}/client/hubs/chat", "exp": int(time.time()) + 60}
    assert not await _opens(target, jwt.encode(claims, decoded, algorithm="HS256"))


async def test_line_02_secondary_key_and_rotated_out_key(live_service: Service, target: Target) -> None:
    staff = Staff(live_service)
    keys = await staff.call("POST", "/listKeys", {})
    assert await _opens(target, target.token(key=keys["secondaryKey"]))
    async with opened(target.url(user="stays"), JSON) as client:
        fresh = await staff.call("POST", "/regenerateKey", {"keyType": "Secondary"})
        async with asyncio.timeout(PATIENCE):
            while await _opens(target, target.token(key=keys["secondaryKey"])):
                await asyncio.sleep(0.05)
        # The other key and the connections that are open go on as before.
        assert await _opens(target, target.token())
        await client.barrier()
    assert fresh["primaryKey"] == keys["primaryKey"]
    assert await _opens(target, target.token(key=fresh["secondaryKey"]))


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512", "RS256"])
async def test_line_03_only_hs256(target: Target, algorithm: str) -> None:
    key: str | None = None
    if algorithm == "none":
        key = ""
    elif algorithm == "RS256":
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        key = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
    assert not await _opens(target, target.token(key=key, algorithm=algorithm))


async def test_line_04_audience_of_this_hub_and_host_only(target: Target) -> None:
    assert await _opens(target, target.token(aud=f"{target.endpoint}/client/hubs/chat"))
    assert not await _opens(target, target.token(aud=f"{target.endpoint}/client/hubs/other"))
    assert not await _opens(target, target.token(aud="http://example.com/client/hubs/chat"))
    assert not await _opens(target, target.token(aud=None))
    assert not await _opens(target, target.token(aud=f"{target.endpoint}/api/hubs/chat/:send"))


@pytest.mark.parametrize("scheme", ["http", "https", "ws", "wss"])
async def test_line_04_the_scheme_of_the_audience_says_nothing(target: Target, scheme: str) -> None:
    host = target.endpoint.partition("://")[2]
    assert await _opens(target, target.token(aud=f"{scheme}://{host}/client/hubs/chat"))
    assert not await _opens(target, target.token(aud=f"{scheme}://{host}/client/hubs/other"))
    assert not await _opens(target, target.token(aud=f"{scheme}://elsewhere.example/client/hubs/chat"))


async def test_line_05_audience_ignores_case(target: Target) -> None:
    assert await _opens(target, target.token(aud=f"{target.endpoint}/client/hubs/chat".upper()))


async def test_line_06_audience_as_array(target: Target) -> None:
    assert await _opens(target, target.token(aud=["http://other/", f"{target.endpoint}/client/hubs/chat"]))
    assert not await _opens(target, target.token(aud=["http://other/", 5, None]))


async def test_line_07_https_audience_behind_tls_termination(target: Target, live_service: Service) -> None:
    """The configured public endpoint counts, whatever scheme the socket arrives by."""
    public = "https://pubsub.example.com"
    behind = Service(live_service.data_dir, server=live_service.server, env={"PUBLIC_ENDPOINT": public})
    await asyncio.to_thread(behind.start)
    try:
        token = target.token(aud=f"{public}/client/hubs/chat")
        address = f"ws://localhost:{behind.port}/client/hubs/chat?access_token={token}"
        async with opened(address, JSON) as client:
            await client.barrier()
    finally:
        await asyncio.to_thread(behind.stop)


async def test_line_08_expiry_is_needed_and_skew_is_five_minutes(target: Target) -> None:
    now = int(time.time())
    assert not await _opens(target, target.token(exp=None))
    assert not await _opens(target, target.token(exp=now - 330))
    assert await _opens(target, target.token(exp=now - 240))
    assert not await _opens(target, target.token(nbf=now + 360))
    assert await _opens(target, target.token(nbf=now + 240))


async def test_line_09_any_issuer(target: Target) -> None:
    assert await _opens(target, target.token(iss="https://somebody.example"))


async def test_line_10_the_legacy_path_has_the_same_audience(target: Target) -> None:
    async with opened(f"ws://{target.host}/client/?hub=chat&access_token={target.token()}", JSON) as client:
        await client.barrier()


async def test_line_11_subject_is_the_user_id_and_may_be_absent(target: Target) -> None:
    for subject in ("bob", None):
        async with opened(target.address(access_token=target.token(sub=subject)), JSON, connected=False) as client:
            assert (await client.hear())["userId"] == subject


@pytest.mark.parametrize("as_list", [True, False])
async def test_line_12_role_and_group_as_text_or_array(target: Target, unique: Unique, as_list: bool) -> None:
    room = unique("room")
    role = "webpubsub.sendToGroup"
    claims = {"role": [role], "webpubsub.group": [room]} if as_list else {"role": role, "webpubsub.group": room}
    async with opened(target.address(access_token=target.token(**claims)), JSON) as client:
        assert await client.ask(type="sendToGroup", group=room, data=1) == group_message(room, 1)


async def test_line_13_groups_of_the_token_are_joined_before_connected(target: Target, unique: Unique) -> None:
    room = unique("room")
    async with opened(target.url(), JSON) as publisher, opened(target.url(groups=[room]), JSON) as member:
        # The connected frame has been read; from here on nothing may be missed.
        assert await publisher.ask(type="sendToGroup", group=room, data=1, ackId=1) == ok(1)
        assert await member.hear() == group_message(room, 1)


@pytest.mark.needs_handlers
async def test_line_14_custom_claims_reach_the_connect_handler_as_lists(target: Target) -> None:
    token = target.token("handled", tenant="blue", level=[1, 2], sub="ann")
    address = target.address("handled", access_token=token, want="claims")
    async with opened(address, JSON, connected=False) as client:
        claims = (await client.hear())["userId"]
        assert claims == "level=1+2 sub=ann tenant=blue"


async def test_line_15_expiry_does_not_end_an_open_connection(target: Target) -> None:
    # Expired already when the socket opens, but within the skew that is allowed at connect.
    token = target.token(exp=int(time.time()) - 200)
    async with opened(target.address(access_token=token), JSON) as client:
        await client.barrier()


# Roles


async def test_line_16_without_roles_only_events(target: Target) -> None:
    async with opened(target.url(roles=[]), JSON) as client:
        for number, verb in enumerate(("joinGroup", "leaveGroup", "sendToGroup")):
            assert not await _may(client, verb, "g", number)
        answer = await client.ask(type="event", event="e", data=1, ackId=9)
        assert answer["error"]["name"] == "InternalServerError"  # allowed, but nobody takes it


async def test_line_17_join_leave_for_all_groups_or_one(target: Target) -> None:
    async with opened(target.url(roles=["webpubsub.joinLeaveGroup"]), JSON) as client:
        assert await _may(client, "joinGroup", "any", 1)
        assert await _may(client, "leaveGroup", "any", 2)
    async with opened(target.url(roles=["webpubsub.joinLeaveGroup.g1"]), JSON) as client:
        assert await _may(client, "joinGroup", "g1", 1)
        assert not await _may(client, "joinGroup", "G1", 2)
        assert not await _may(client, "joinGroup", "g2", 3)


async def test_line_18_sending_is_a_role_of_its_own(target: Target) -> None:
    async with opened(target.url(roles=["webpubsub.sendToGroup.g1"]), JSON) as client:
        assert await _may(client, "sendToGroup", "g1", 1)
        assert not await _may(client, "sendToGroup", "g2", 2)
        assert not await _may(client, "joinGroup", "g1", 3)
    async with opened(target.url(roles=["webpubsub.joinLeaveGroup"]), JSON) as client:
        assert not await _may(client, "sendToGroup", "g1", 1)


async def test_line_19_literal_groups_with_dots(target: Target) -> None:
    async with opened(target.url(roles=["webpubsub.sendToGroup.a.b.c"]), JSON) as client:
        assert await _may(client, "sendToGroup", "a.b.c", 1)
        assert not await _may(client, "sendToGroup", "a.b", 2)


async def test_line_20_stars_in_literal_roles_are_no_wildcards(target: Target) -> None:
    async with opened(target.url(roles=["webpubsub.sendToGroup.a*"]), JSON) as client:
        assert await _may(client, "sendToGroup", "a*", 1)
        assert not await _may(client, "sendToGroup", "ab", 2)


async def test_line_21_patterns(target: Target) -> None:
    for pattern, matching, other in (("a.*", "a.b", "a.b.c"), ("a?", "ab", "a.")):
        async with opened(target.url(roles=[f"webpubsub.sendToGroups.{pattern}"]), JSON) as client:
            assert await _may(client, "sendToGroup", matching, 1)
            assert not await _may(client, "sendToGroup", other, 2)
    async with opened(target.url(roles=["webpubsub.joinLeaveGroups.a.**"]), JSON) as client:
        assert await _may(client, "joinGroup", "a.b", 1)
        assert await _may(client, "joinGroup", "a.b.c", 2)


async def test_line_22_invalid_patterns_are_ignored(target: Target) -> None:
    roles = ["webpubsub.sendToGroups.a\\b", "webpubsub.sendToGroups.******", "webpubsub.sendToGroup.fine", "nonsense"]
    async with opened(target.url(roles=roles), JSON) as client:
        assert await _may(client, "sendToGroup", "fine", 1)
        assert not await _may(client, "sendToGroup", "a", 2)


async def test_line_23_rest_grants_and_revocations(target: Target) -> None:
    service = target.service_client("chat")
    async with opened(target.url(roles=["webpubsub.joinLeaveGroup"]), JSON, connected=False) as client:
        connection_id = (await client.hear())["connectionId"]

        async def rest(verb: str, permission: str, group: str) -> bool:
            return await asyncio.to_thread(
                getattr(service, f"{verb}_permission"), permission, connection_id, target_name=group
            )

        assert not await _may(client, "sendToGroup", "g", 1)
        await rest("grant", "sendToGroup", "g")
        assert await _may(client, "sendToGroup", "g", 2)
        assert await rest("has", "sendToGroup", "g")
        await rest("revoke", "joinLeaveGroup", "g")
        assert not await _may(client, "joinGroup", "g", 3)
        assert not await rest("has", "joinLeaveGroup", "g")
        assert await _may(client, "joinGroup", "other", 4)
        await rest("grant", "joinLeaveGroup", "g")
        assert await _may(client, "joinGroup", "g", 5)


async def test_line_24_the_connection_string_is_what_the_sdk_reads(target: Target) -> None:
    assert target.connection_string == f"Endpoint={target.endpoint};AccessKey={target.key};Version=1.0;"
    host, _, port = target.endpoint.rpartition(":")
    from azure.messaging.webpubsubservice import WebPubSubServiceClient

    with_port = f"Endpoint={host};AccessKey={target.key};Version=1.0;Port={port};"
    url = WebPubSubServiceClient.from_connection_string(with_port, hub="chat").get_client_access_token()["url"]
    async with opened(url, JSON) as client:
        await client.barrier()


async def test_line_27_a_generated_token_opens_a_connection(target: Target) -> None:
    query = "userId=gen&role=webpubsub.sendToGroup&group=g&api-version=2024-12-01"
    url = f"{target.endpoint}/api/hubs/chat/:generateToken?{query}"
    request = urllib.request.Request(
        url, method="POST", data=b"", headers={"Authorization": f"Bearer {target.token(aud=url)}"}
    )

    def post() -> str:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return str(json.load(response)["token"])

    token = await asyncio.to_thread(post)
    async with opened(target.address(access_token=token), JSON, connected=False) as client:
        assert (await client.hear())["userId"] == "gen"
        assert await client.ask(type="sendToGroup", group="g", data=1) == group_message("g", 1, user="gen")


# Beyond the checklist


async def test_a_key_limited_to_one_hub_opens_that_hub_only(live_service: Service, target: Target) -> None:
    staff = Staff(live_service)
    await staff.set("limited")
    made = await staff.call("POST", "/hubs/limited/regenerateKey", {"keyType": "Primary"})
    key = made["primaryKey"]
    async with asyncio.timeout(PATIENCE):
        while not await _opens(target, target.token("limited", key=key), "limited"):
            await asyncio.sleep(0.05)
    assert not await _opens(target, target.token("chat", key=key))
    assert await _opens(target, target.token("limited"), "limited")


async def test_anonymous_connections_where_the_hub_allows_them(live_service: Service, target: Target) -> None:
    await Staff(live_service).set("open", anonymousConnectPolicy="allow")
    async with asyncio.timeout(PATIENCE):
        while await answered(target.address("open"), JSON) != 101:
            await asyncio.sleep(0.05)
    async with opened(target.address("open"), JSON, connected=False) as client:
        assert (await client.hear())["userId"] is None
        assert not await _may(client, "joinGroup", "g", 1)
    # A bad token is refused all the same.
    assert await refused(target.address("open", access_token="x"), JSON) == 401
