"""The REST data plane, black-box: every method of the official Python SDK, watched through real sockets.

Lines are those of the checklist in the REST specification.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.messaging.webpubsubservice import WebPubSubServiceClient

from tests.running import PATIENCE
from tests.service.client import JSON, Client, Target, b64, group_message, opened
from tests.service.rest import call

GOODBYE = "Application server closed the connection."
STRANGE = "a/b ü%2F?#&+"


class Someone(Client):
    """A client of the JSON subprotocol that knows its connection id."""

    id = ""


class Rest:
    """A hub of the test's own: the SDK's client, awaited, and people who connect."""

    def __init__(self, target: Target, hub: str, stack: AsyncExitStack) -> None:
        self.target = target
        self.hub = hub
        self.sdk: WebPubSubServiceClient = stack.enter_context(target.service_client(hub))
        self._stack = stack

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.sdk, name)

        async def awaited(*arguments: Any, **options: Any) -> Any:
            return await asyncio.to_thread(method, *arguments, **options)

        return awaited

    async def connect(self, user: str | None = None, *groups: str, hub: str = "") -> Someone:
        """A client of the JSON subprotocol."""
        url = self.target.url(hub or self.hub, user=user, groups=groups)
        client = await self._stack.enter_async_context(opened(url, JSON, connected=False))
        someone = Someone(client.socket)
        someone.id = (await someone.hear())["connectionId"]
        return someone

    async def connect_simple(self, user: str | None = None, *groups: str) -> Client:
        """A client without a subprotocol."""
        return await self._stack.enter_async_context(opened(self.target.url(self.hub, user=user, groups=groups)))

    async def post(self, path: str, body: Any = b"", **headers: str) -> Any:
        """Bare HTTP below the hub."""
        return await call(self.target, "POST", f"/api/hubs/{self.hub}{path}", body, **headers)

    async def listed(self, group: str, **options: int) -> list[tuple[str, str | None]]:
        """The SDK's listing of a group, to its end."""
        found = await asyncio.to_thread(lambda: list(self.sdk.list_connections(group=group, **options)))
        return [(member.connection_id, member.user_id) for member in found]


@pytest.fixture
async def rest(target: Target, unique: Callable[[str], str]) -> AsyncIterator[Rest]:
    async with _rest(target, unique) as made:
        yield made


@asynccontextmanager
async def _rest(target: Target, unique: Callable[[str], str]) -> AsyncIterator[Rest]:
    async with AsyncExitStack() as stack:
        yield Rest(target, unique("rest").replace("-", "_"), stack)


def server_message(data: Any, data_type: str = "json") -> dict[str, Any]:
    return {"type": "message", "from": "server", "dataType": data_type, "data": data}


async def nothing_more(*clients: Client) -> None:
    """Nothing is under way to them. What was sent by REST before is before the pong."""
    for client in clients:
        await client.barrier()


# Sending


async def test_send_to_all(rest: Rest) -> None:
    ann, ben = await rest.connect("ann"), await rest.connect()
    stranger = await rest.connect("ann", hub=f"{rest.hub}x")
    await rest.send_to_all({"price": 12.5, "name": "ü"})
    await rest.send_to_all("text ✓", content_type="text/plain")
    await rest.send_to_all(b"\x00\xff", content_type="application/octet-stream")
    for client in (ann, ben):
        assert await client.hear() == server_message({"price": 12.5, "name": "ü"})
        assert await client.hear() == server_message("text ✓", "text")
        assert await client.hear() == server_message(b64(b"\x00\xff"), "binary")
    await nothing_more(ann, ben, stranger)


async def test_frames_are_written_as_documented(rest: Rest) -> None:
    """Key order, no spaces, and the caller's own JSON text."""
    client = await rest.connect("ann", "g")
    await rest.send_to_all("Hi", content_type="text/plain")
    assert await client.hear_raw() == '{"type":"message","from":"server","dataType":"text","data":"Hi"}'
    text = '{"b": 1.50,  "a":12345678901234567890123, "\\u00fc":[1e3]}'
    assert (await rest.post("/:send", text, Content_Type="application/json")).status == 202
    assert await client.hear_raw() == f'{{"type":"message","from":"server","dataType":"json","data":{text}}}'
    assert (await rest.post("/groups/g/:send", text, Content_Type="application/json; charset=utf-8")).status == 202
    assert await client.hear_raw() == f'{{"type":"message","from":"group","group":"g","dataType":"json","data":{text}}}'


async def test_simple_clients_get_bare_payloads(rest: Rest) -> None:
    simple = await rest.connect_simple("ann", "g")
    await rest.send_to_all({"a": [1, "ü"]})
    await rest.send_to_group("g", "x")
    await rest.send_to_user("ann", "text", content_type="text/plain")
    await rest.send_to_all(b"\x00\xff", content_type="application/octet-stream")
    assert json.loads(await simple.hear_raw()) == {"a": [1, "ü"]}
    # A JSON string keeps its quotes.
    assert await simple.hear_raw() == '"x"'
    assert await simple.hear_raw() == "text"
    assert await simple.hear_raw() == b"\x00\xff"


async def test_an_empty_text_is_delivered_and_no_type_is_binary(rest: Rest) -> None:
    client = await rest.connect()
    assert (await rest.post("/:send", b"", Content_Type="text/plain")).status == 202
    assert await client.hear() == server_message("", "text")
    assert (await rest.post("/:send", b"ab")).status == 202
    assert await client.hear() == server_message(b64(b"ab"), "binary")


async def test_send_to_user(rest: Rest) -> None:
    """All connections of the user, in that letter case, and nobody else's."""
    one, two, other, case, nobody = [
        await rest.connect(user) for user in (STRANGE, STRANGE, "other", STRANGE.upper(), None)
    ]
    await rest.send_to_user(STRANGE, {"n": 1})
    assert await one.hear() == await two.hear() == server_message({"n": 1})
    await nothing_more(other, case, nobody)


async def test_send_to_connection(rest: Rest) -> None:
    one, two = await rest.connect("ann"), await rest.connect("ann")
    await rest.send_to_connection(one.id, "hello", content_type="text/plain")
    assert await one.hear() == server_message("hello", "text")
    await nothing_more(one, two)


async def test_send_to_group(rest: Rest) -> None:
    member, other = await rest.connect("ann", STRANGE), await rest.connect("ben", STRANGE.upper())
    await rest.send_to_group(STRANGE, {"n": 1})
    assert await member.hear() == group_message(STRANGE, {"n": 1})
    await nothing_more(member, other)


async def test_sending_to_nobody_is_accepted(rest: Rest) -> None:
    await rest.send_to_all("x")
    await rest.send_to_group("nobody", "x")
    await rest.send_to_user("nobody", "x")
    await rest.send_to_connection("nobody", "x")
    await rest.send_to_connection("0" * 32, "x")
    answer = await rest.post("/users/nobody/:send", b"x")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (202, b"", "0")


async def test_excluded(rest: Rest) -> None:
    ann, ben, cid = [await rest.connect(user, "g") for user in ("ann", "ben", "cid")]
    await rest.send_to_all("all", excluded=[ann.id, ben.id, "nobody"])
    assert await cid.hear() == server_message("all")
    await rest.send_to_group("g", "group", excluded=[cid.id])
    assert await ann.hear() == await ben.hear() == group_message("g", "group")
    # Values are exact: no list within one, no trimming.
    await rest.send_to_all("exact", excluded=[f"{ann.id},{ben.id}", f" {cid.id}"])
    for client in (ann, ben, cid):
        assert await client.hear() == server_message("exact")
    await nothing_more(ann, ben, cid)


async def test_filters(rest: Rest) -> None:
    ann, ben, nobody = await rest.connect("ann", "g1"), await rest.connect("ben", "g1", "g2"), await rest.connect()
    everybody = (ann, ben, nobody)

    async def reached(method: Callable[..., Any], *arguments: str, **options: Any) -> list[Client]:
        await method(*arguments, "filtered", **options)
        # Then one for all, to see who had one before it.
        await rest.send_to_all("all")
        found = []
        for client in everybody:
            data = (await client.hear())["data"]
            if data == "filtered":
                found.append(client)
                assert (await client.hear())["data"] == "all"
        return found

    assert await reached(rest.send_to_all, filter="userId eq null") == [nobody]
    assert await reached(rest.send_to_all, filter="'g1' in groups and not('g2' in groups)") == [ann]
    assert await reached(rest.send_to_all, filter=f"connectionId ne '{ben.id}'") == [ann, nobody]
    assert await reached(rest.send_to_all, filter="startswith(userId, 'a') or length(userId) gt 5") == [ann]
    assert await reached(rest.send_to_group, "g1", filter="userId in ('ben', 'cid')") == [ben]
    assert await reached(rest.send_to_user, "ben", filter="'g2' in groups") == [ben]
    assert await reached(rest.send_to_user, "ben", filter="false") == []
    # With `excluded`: both.
    assert await reached(rest.send_to_all, filter="userId ne null", excluded=[ann.id]) == [ben]
    with pytest.raises(HttpResponseError) as refused:
        await rest.send_to_all("nobody gets this", filter="length(userId) eq '3'")
    assert refused.value.status_code == 400
    await nothing_more(*everybody)


async def test_a_refused_message_reaches_nobody(rest: Rest) -> None:
    client = await rest.connect("ann", "g")
    for path in ("/:send", "/groups/g/:send", "/users/ann/:send", f"/connections/{client.id}/:send"):
        for query, body, headers, status in (
            ("?api-version=1999-01-01", "x", {}, 400),
            ("?messageTtlSeconds=301", "x", {}, 400),
            ("", "{", {"Content_Type": "application/json"}, 400),
            ("", "x", {"Content_Type": "text/html"}, 415),
            ("", b"x" * (1024 * 1024 + 1), {}, 413),
            ("", "x", {"X_WebPubSub_Metadata_a": "v" * 1025}, 400),
        ):
            answer = await rest.post(f"{path}{query}", body, **headers)
            assert (answer.status, answer.json["code"]) == (status, answer.code)
    await nothing_more(client)


async def test_ttl_is_taken(rest: Rest) -> None:
    client = await rest.connect()
    for ttl in (0, 300):
        assert (await rest.post(f"/:send?messageTtlSeconds={ttl}", "x", Content_Type="text/plain")).status == 202
        assert await client.hear() == server_message("x", "text")


async def test_metadata(rest: Rest) -> None:
    client, simple = await rest.connect("ann", "g"), await rest.connect_simple("ben", "g")
    headers = {"X_WebPubSub_Metadata_Trace_Id": "1, 7", "Content_Type": "text/plain"}
    for path, message in (
        ("/:send", server_message("x", "text")),
        ("/groups/g/:send", group_message("g", "x", "text")),
    ):
        assert (await rest.post(path, "x", **headers)).status == 202
        assert await client.hear() == message | {"metadata": {"trace-id": "7"}}
        assert await simple.hear_raw() == "x"


async def test_the_largest_message(rest: Rest) -> None:
    simple = await rest.connect_simple()
    await rest.send_to_all(b"x" * (1024 * 1024), content_type="application/octet-stream")
    assert await simple.hear_raw() == b"x" * (1024 * 1024)


# Groups and users


async def test_a_connection_in_and_out_of_a_group(rest: Rest) -> None:
    client = await rest.connect("ann")
    # Read your writes: each call's effect is there for the next one.
    for _ in range(5):
        await rest.add_connection_to_group(STRANGE, client.id)
        await rest.add_connection_to_group(STRANGE, client.id)
        await rest.send_to_group(STRANGE, "in")
        assert await client.hear() == group_message(STRANGE, "in")
        await rest.remove_connection_from_group(STRANGE, client.id)
        await rest.remove_connection_from_group(STRANGE, client.id)
        await rest.send_to_group(STRANGE, "out")
    await nothing_more(client)
    # Membership by REST gives no permission, nor needs one.
    await rest.remove_connection_from_group(STRANGE, "nobody")
    with pytest.raises(ResourceNotFoundError) as missing:
        await rest.add_connection_to_group(STRANGE, "nobody")
    assert missing.value.response is not None
    assert missing.value.response.headers["x-ms-error-code"] == "Error.Connection.NotExisted"


async def test_a_connection_out_of_all_groups(rest: Rest) -> None:
    client, other = await rest.connect("ann", "g1", "g2"), await rest.connect("ann", "g1")
    await rest.remove_connection_from_all_groups(client.id)
    await rest.remove_connection_from_all_groups(client.id)
    await rest.remove_connection_from_all_groups("nobody")
    await rest.send_to_group("g1", "x")
    await rest.send_to_group("g2", "x")
    assert await other.hear() == group_message("g1", "x")
    assert not await rest.group_exists("g2")
    await nothing_more(client, other)


async def test_a_user_in_and_out_of_groups(rest: Rest) -> None:
    one, two, other = await rest.connect("ann"), await rest.connect("ann"), await rest.connect("Ann")
    await rest.add_user_to_group("g", "ann")
    later = await rest.connect("ann")
    await rest.send_to_group("g", 1)
    assert await one.hear() == await two.hear() == group_message("g", 1)
    await rest.remove_user_from_group("g", "ann")
    await rest.send_to_group("g", 2)
    await nothing_more(one, two, other, later)
    await rest.add_user_to_group("g", "ann")
    await rest.add_user_to_group("h", "ann")
    await rest.remove_user_from_all_groups("ann")
    assert not await rest.group_exists("g")
    assert not await rest.group_exists("h")
    await nothing_more(one, two, other, later)
    await rest.remove_user_from_group("g", "nobody")
    await rest.remove_user_from_all_groups("nobody")
    with pytest.raises(ResourceNotFoundError) as missing:
        await rest.add_user_to_group("g", "nobody")
    assert missing.value.response is not None
    assert missing.value.response.headers["x-ms-error-code"] == "Warning.User.NotExisted"


async def test_many_groups_by_filter(rest: Rest) -> None:
    """`:addToGroups` and `:removeFromGroups`, which the SDK does not have yet."""
    ann, ben, nobody = await rest.connect("ann"), await rest.connect("ben"), await rest.connect()

    async def act(verb: str, groups: list[str], filter: str | None) -> None:
        body = json.dumps({"groups": groups, "filter": filter})
        answer = await rest.post(f"/:{verb}", body, Content_Type="application/json")
        assert (answer.status, answer.body) == (200, b"")

    await act("addToGroups", ["g1", STRANGE, "g1"], "userId ne null")
    assert await rest.listed("g1") == await rest.listed(STRANGE) == sorted([(ann.id, "ann"), (ben.id, "ben")])
    await act("removeFromGroups", ["g1", "unknown"], "'g1' in groups and userId eq 'ann'")
    assert await rest.listed("g1") == [(ben.id, "ben")]
    assert len(await rest.listed(STRANGE)) == 2
    await act("addToGroups", ["all"], None)
    await act("addToGroups", ["all"], "")
    assert len(await rest.listed("all")) == 3
    await rest.send_to_group("all", "x")
    for client in (ann, ben, nobody):
        assert await client.hear() == group_message("all", "x")
    await act("removeFromGroups", ["all", "g1", STRANGE], None)
    assert not await rest.group_exists("all")
    broken = await rest.post("/:addToGroups", '{"groups":["ok",""]}', Content_Type="application/json")
    assert broken.status == 400
    assert not await rest.group_exists("ok")


async def test_what_exists(rest: Rest) -> None:
    assert not await rest.user_exists("ann")
    assert not await rest.group_exists("g")
    client = await rest.connect("ann", "g")
    # Connected: visible from this moment on, not a little later.
    assert await rest.connection_exists(client.id)
    assert await rest.user_exists("ann")
    assert await rest.group_exists("g")
    assert not await rest.user_exists("Ann")
    assert not await rest.group_exists("G")
    assert not await rest.connection_exists(client.id.upper())
    await rest.close_connection(client.id)
    assert not await rest.connection_exists(client.id)
    assert not await rest.user_exists("ann")
    assert not await rest.group_exists("g")


async def test_heads_have_codes_and_no_body(rest: Rest) -> None:
    for path, code in (
        ("connections/x", "Warning.Connection.NotExisted"),
        ("groups/x", "Warning.Group.NotExisted"),
        ("users/x", "Warning.User.NotExisted"),
        ("permissions/sendToGroup/connections/x?targetName=g", "Info.Connection.NotExisted"),
    ):
        answer = await call(rest.target, "HEAD", f"/api/hubs/{rest.hub}/{path}")
        assert (answer.status, answer.code, answer.body) == (404, code, b"")
        assert int(answer.headers["Content-Length"]) > 0


async def test_listing(rest: Rest) -> None:
    members = [await rest.connect(f"user {n}" if n % 3 else None, STRANGE) for n in range(7)]
    everybody = sorted((client.id, f"user {n}" if n % 3 else None) for n, client in enumerate(members))
    assert await rest.listed(STRANGE) == everybody
    assert await rest.listed(STRANGE, maxpagesize=2) == everybody
    assert await rest.listed(STRANGE, maxpagesize=2, top=5) == everybody[:5]
    assert await rest.listed(STRANGE, top=1) == everybody[:1]
    assert await rest.listed("nobody") == []

    def page_sizes() -> list[int]:
        return [len(list(page)) for page in rest.sdk.list_connections(group=STRANGE, maxpagesize=3).by_page()]

    assert await asyncio.to_thread(page_sizes) == [3, 3, 1]

    # Who goes between two pages is not waited for, and nobody is told twice.
    pages = await asyncio.to_thread(lambda: rest.sdk.list_connections(group=STRANGE, maxpagesize=3).by_page())
    first = await asyncio.to_thread(lambda: list(next(pages)))
    await rest.remove_connection_from_group(STRANGE, first[-1].connection_id)
    await rest.remove_connection_from_group(STRANGE, everybody[4][0])
    rest_of_it = await asyncio.to_thread(lambda: [member.connection_id for page in pages for member in page])
    assert rest_of_it == [everybody[3][0], everybody[5][0], everybody[6][0]]


async def test_next_links_are_absolute_and_work_as_they_are(rest: Rest) -> None:
    for _ in range(3):
        await rest.connect(None, "g")
    path = f"/api/hubs/{rest.hub}/groups/g/connections?maxpagesize=1"
    seen = []
    while path:
        page = (await call(rest.target, "GET", path)).json
        seen += [member["connectionId"] for member in page["value"]]
        assert set(page) <= {"value", "nextLink"}
        link = page.get("nextLink", "")
        assert link.startswith(f"{rest.target.endpoint}/api/hubs/" if link else "")
        path = link.removeprefix(rest.target.endpoint)
    assert len(set(seen)) == len(seen) == 3


# Permissions


async def test_permissions(rest: Rest) -> None:
    client = await rest.connect()
    await rest.revoke_permission("joinLeaveGroup", client.id, target_name=STRANGE)
    assert not await rest.has_permission("joinLeaveGroup", client.id, target_name=STRANGE)
    assert (await client.ask(type="joinGroup", group=STRANGE, ackId=1))["error"]["name"] == "Forbidden"
    await rest.grant_permission("joinLeaveGroup", client.id, target_name=STRANGE)
    assert await rest.has_permission("joinLeaveGroup", client.id, target_name=STRANGE)
    await client.join(STRANGE, ack_id=2)


# Closing


async def ended(client: Client, reason: str | None = None) -> None:
    """Say goodbye as documented: a frame with the reason, then an empty close frame."""
    message = GOODBYE if reason is None else f"{GOODBYE} Reason: {reason}"
    assert await client.hear() == {"type": "system", "event": "disconnected", "message": message}
    assert await client.closed() == (1000, "")


async def test_close_all(rest: Rest) -> None:
    ann, ben, cid = await rest.connect("ann"), await rest.connect(), await rest.connect("cid")
    simple, stranger = await rest.connect_simple(), await rest.connect("ann", hub=f"{rest.hub}x")
    reason = "maintenance, back at 5: ü" + "x" * 300
    await rest.close_all_connections(excluded=[cid.id, "nobody"], reason=reason)
    await ended(ann, reason)
    await ended(ben, reason)
    assert (await simple.closed())[0] == 1000
    await nothing_more(cid, stranger)
    assert not await rest.connection_exists(ann.id)
    assert await rest.connection_exists(cid.id)
    await rest.close_all_connections()
    await ended(cid)
    await rest.close_all_connections()


async def test_close_group(rest: Rest) -> None:
    ann, ben, cid = await rest.connect("ann", STRANGE), await rest.connect("ben", STRANGE), await rest.connect("cid")
    await rest.send_to_group(STRANGE, "last words")
    await rest.close_group_connections(STRANGE, excluded=[ben.id], reason="over")
    # What was queued before comes before.
    assert await ann.hear() == await ben.hear() == group_message(STRANGE, "last words")
    await ended(ann, "over")
    assert await rest.listed(STRANGE) == [(ben.id, "ben")]
    await rest.close_group_connections("nobody")
    await nothing_more(ben, cid)


async def test_close_user(rest: Rest) -> None:
    one, two, other = await rest.connect(STRANGE), await rest.connect(STRANGE), await rest.connect("other")
    await rest.close_user_connections(STRANGE, excluded=[two.id], reason="")
    await ended(one)
    assert await rest.user_exists(STRANGE)
    await rest.close_user_connections(STRANGE, reason="again")
    await ended(two, "again")
    assert not await rest.user_exists(STRANGE)
    await rest.close_user_connections(STRANGE)
    await nothing_more(other)


async def test_close_connection(rest: Rest) -> None:
    one, other = await rest.connect("ann"), await rest.connect("ann")
    await rest.close_connection(one.id, reason="you")
    await ended(one, "you")
    await rest.close_connection(one.id)
    await rest.close_connection("nobody")
    await nothing_more(other)


# HTTP


async def test_verbs_with_an_encoded_colon_and_hubs_in_any_case(rest: Rest) -> None:
    client = await rest.connect()
    answer = await call(rest.target, "POST", f"/api/hubs/{rest.hub.upper()}/%3Asend", b"x")
    assert answer.status == 202
    assert await client.hear() == server_message(b64(b"x"), "binary")


async def test_names_with_an_encoded_slash_are_one_segment(rest: Rest) -> None:
    client = await rest.connect("a/b", "c/d")
    assert (await call(rest.target, "HEAD", f"/api/hubs/{rest.hub}/groups/c%2Fd")).status == 200
    assert (await call(rest.target, "HEAD", f"/api/hubs/{rest.hub}/users/{quote('a/b', safe='')}")).status == 200
    assert (await call(rest.target, "HEAD", f"/api/hubs/{rest.hub}/groups/c%252Fd")).status == 404
    assert client.id


async def test_long_addresses(rest: Rest) -> None:
    """Many excluded connections make long addresses."""
    client, spared = await rest.connect(), await rest.connect()
    many = [f"{n:032x}" for n in range(900)]
    await rest.send_to_all("x", excluded=[*many, spared.id])
    assert await client.hear() == server_message("x")
    await nothing_more(spared)


def _talk(target: Target, head: str, body: bytes = b"") -> bytes:
    """Say something by HTTP that no library would, and hear the answer to its end or to a pause of the server."""
    host, port = target.host.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        heard = b""
        if body and b"100-continue" in head.encode():
            heard = connection.recv(65536)
            assert heard.startswith(b"HTTP/1.1 100 "), heard
            heard = b""
        connection.sendall(body)
        while True:
            try:
                piece = connection.recv(65536)
            except ConnectionResetError:
                piece = b""
            if not piece:
                return heard
            heard += piece


def _head(rest: Rest, path: str, *lines: str) -> str:
    target = f"/api/hubs/{rest.hub}{path}"
    claims = {"aud": f"{rest.target.endpoint}{target}", "exp": int(time.time()) + 60}
    token = jwt.encode(claims, rest.target.key, "HS256")
    head = [f"POST {target} HTTP/1.1", f"Host: {rest.target.host}", f"Authorization: Bearer {token}", *lines]
    return "\n".join([*head, "Connection: close"])


async def test_expect_100_continue(rest: Rest) -> None:
    """.NET sends the body only when asked to."""
    client = await rest.connect()
    head = _head(rest, "/:send", "Content-Type: text/plain", "Content-Length: 2", "Expect: 100-continue")
    answer = await asyncio.to_thread(_talk, rest.target, head, b"hi")
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert await client.hear() == server_message("hi", "text")


async def test_upgrade_to_h2c_is_not_taken_up(rest: Rest) -> None:
    """Java's client offers HTTP/2 on plain connections; it is answered in HTTP/1.1."""
    client = await rest.connect()
    head = _head(
        rest, "/:send", "Content-Type: text/plain", "Content-Length: 2", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAA"
    )
    head = head.replace("Connection: close", "Connection: Upgrade, HTTP2-Settings, close")
    answer = await asyncio.to_thread(_talk, rest.target, head, b"hi")
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert await client.hear() == server_message("hi", "text")


def _piecemeal(target: Target, said: bytes, answers: int) -> bytes:
    """Say something a few bytes at a time on one connection; hear that many answers."""
    host, port = target.host.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(said), 7):
            connection.sendall(said[at : at + 7])
        heard = b""
        while heard.count(b"HTTP/1.1 ") < answers or not heard.endswith(b"\r\n\r\n"):
            piece = connection.recv(65536)
            assert piece, heard
            heard += piece
        return heard


async def test_an_offer_of_h2c_in_pieces_and_requests_behind_it(rest: Rest) -> None:
    client = await rest.connect()
    said = b""
    for number, offer in enumerate((True, False, True)):
        head = _head(rest, "/:send", "Content-Type: text/plain", "Content-Length: 3")
        if offer:
            head = head.replace(
                "Connection: close", "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AA"
            )
        else:
            head = head.replace("Connection: close", "Connection: keep-alive")
        said += head.replace("\n", "\r\n").encode() + f"\r\n\r\nno{number}".encode()
    heard = await asyncio.to_thread(_piecemeal, rest.target, said, 3)
    assert heard.count(b"HTTP/1.1 202 ") == 3
    for number in range(3):
        assert await client.hear() == server_message(f"no{number}", "text")


async def test_bodies_whose_length_is_not_told(rest: Rest) -> None:
    """Chunked, as SDKs send streams, and proxies what came to them by HTTP/2."""
    client = await rest.connect("ann")
    await rest.add_connection_to_group("g", client.id)
    options = {"content_type": "application/octet-stream"}
    await rest.send_to_all((part for part in (b"to ", b"", b"all")), **options)
    assert await client.hear() == server_message("dG8gYWxs", "binary")
    await rest.send_to_group("g", (part for part in (b"g",)), **options)
    assert await client.hear() == group_message("g", "Zw==", "binary")
    await rest.send_to_user("ann", iter([b"u"]), **options)
    assert await client.hear() == server_message("dQ==", "binary")
    await rest.send_to_connection(client.id, iter([b"c"]), **options)
    assert await client.hear() == server_message("Yw==", "binary")
    chunked = ("Transfer-Encoding: chunked", "Content-Type: ")
    # With a cookie, so that it takes the way through Django.
    for more in ("Accept: */*", "Cookie: a=b"):
        head = _head(rest, "/:send", chunked[0], chunked[1] + "text/plain", more)
        answer = await asyncio.to_thread(_talk, rest.target, head, b"2;ext=1\r\nhi\r\n0\r\nX-Trailer: 1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 202 ")
        assert await client.hear() == server_message("hi", "text")
        answer = await asyncio.to_thread(_talk, rest.target, head, b"0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 202 ")
        assert await client.hear() == server_message("", "text")
    head = _head(rest, "/:addToGroups", chunked[0], chunked[1] + "application/json")
    answer = await asyncio.to_thread(_talk, rest.target, head, b'10\r\n{"groups":["h"]}\r\n0\r\n\r\n')
    assert answer.startswith(b"HTTP/1.1 200 ")
    await rest.send_to_group("h", "in")
    assert await client.hear() == group_message("h", "in")


@pytest.mark.parametrize("more", ["Accept: */*", "Cookie: a=b"])
async def test_a_chunked_body_that_is_too_large(rest: Rest, more: str) -> None:
    client = await rest.connect()
    exact = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    head = _head(rest, "/:send", "Content-Type: text/plain", "Transfer-Encoding: chunked", more)
    # Its end does not have to come.
    answer = await asyncio.to_thread(_talk, rest.target, head, exact + b"1\r\nx\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"Error.RequestEntityTooLarge" in answer
    await nothing_more(client)


async def test_requests_without_bodies_need_no_length(rest: Rest) -> None:
    client = await rest.connect()
    answer = await asyncio.to_thread(_talk, rest.target, _head(rest, "/:closeConnections"))
    assert answer.startswith(b"HTTP/1.1 204 ")
    # RFC 9110, 8.6: what cannot have a body says nothing of its length.
    assert b"content-length" not in answer.lower()
    assert b"transfer-encoding" not in answer.lower()
    await ended(client)


INVALID_GROUP = "Invalid group name. Valid group name should be in between 1 and 1024 characters long."
INVALID_FILTER = (
    "Invalid syntax for 'invalid filter': Syntax error at position 14 in 'invalid filter'. (Parameter 'filter')"
)


async def test_refusals_on_the_wire(rest: Rest) -> None:
    """As they were recorded from the cloud service, by the lane and by Django."""
    hub = f"/api/hubs/{rest.hub}"
    text = {"Content-Type": "text/plain"}
    by_query = await call(rest.target, "POST", f"{hub}/:send?filter=invalid%20filter", b"x", **text)
    body = json.dumps({"groups": ["g"], "filter": "invalid filter"}).encode()
    by_body = await call(rest.target, "POST", f"{hub}/:addToGroups", body, **{"Content-Type": "application/json"})
    for answer, target in ((by_query, "filter"), (by_body, "Filter")):
        assert (answer.status, answer.code) == (400, "Error.BadRequest")
        assert answer.headers["Content-Type"] == "application/problem+json; charset=utf-8"
        assert "api-supported-versions" not in answer.headers
        said = json.loads(answer.body)
        assert (said["target"], said["message"], said["errors"]) == (target, INVALID_FILTER, {target: [INVALID_FILTER]})
        assert list(said)[4:] == ["type", "title", "status", "detail", "instance", "extensions"]
    no_group = await call(rest.target, "DELETE", f"{hub}/permissions/joinLeaveGroup/connections/x")
    assert json.loads(no_group.body) == {
        "code": "Error.BadRequest",
        "message": INVALID_GROUP,
        "target": "Request",
        "details": None,
        "innererror": None,
    }
    assert "api-supported-versions" in no_group.headers
    blank = await call(rest.target, "POST", f"{hub}/connections/%20/:send", b"x", **text)
    assert (blank.status, json.loads(blank.body)["target"]) == (400, "connectionId")
