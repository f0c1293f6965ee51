"""The tutorial that builds a chat: a small web server with the service SDK, which is told what clients do."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from tests.running import PATIENCE, Service
from tests.service.client import Target, answered, opened, refused
from tests.tutorials.programs import Program, python


@pytest.fixture
async def chat(run: Callable[..., Program], service: Service, hub: str) -> str:
    """The address of the running chat server, which its hub knows."""
    program = run(python("chat_server.py", service.connection_string, hub, "0"))
    address = await asyncio.to_thread(program.line)
    await asyncio.to_thread(
        service.manage,
        *("webpubsub", "hub", "create", hub, "--event-handler", f"url-template={address}/eventhandler"),
        *("user-event-pattern=*", "system-event=connect", "system-event=connected", "system-event=disconnected"),
    )
    nobody = Target(service.connection_string).url(hub)
    async with asyncio.timeout(PATIENCE):
        # Before, there is no handler, and who has no name is let in.
        while await answered(nobody) == 101:
            await asyncio.sleep(0.05)
    assert await refused(nobody) == 401
    return address


async def fetch(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    def exchange() -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers or {}), timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as problem:
            with problem:
                return problem.code, problem.read()

    return await asyncio.to_thread(exchange)


async def negotiate(address: str, name: str) -> str:
    status, body = await fetch(f"{address}/negotiate?id={name}")
    assert status == 200
    return str(json.loads(body)["url"])


def said(sender: str, message: str) -> dict[str, Any]:
    return {"from": sender, "message": message}


async def test_people_chat(chat: str) -> None:
    async with opened(await negotiate(chat, "ann")) as ann:
        assert await ann.hear() == said("SYSTEM", "ann joined")
        async with opened(await negotiate(chat, "ben")) as ben:
            for client in (ann, ben):
                assert await client.hear() == said("SYSTEM", "ben joined")
            for speaker, name, text in ((ann, "ann", "hello"), (ben, "ben", "Grüße 🎈"), (ann, "ann", "two\nlines")):
                await speaker.say_raw(text)
                for client in (ann, ben):
                    assert await client.hear() == said(name, text)
            await ben.close(1000)
        assert await ann.hear() == said("SYSTEM", "ben left")


async def test_what_is_not_signed_is_not_said(chat: str) -> None:
    async with opened(await negotiate(chat, "ann")) as ann:
        assert await ann.hear() == said("SYSTEM", "ann joined")
        forged = {"ce-type": "azure.webpubsub.user.message", "ce-connectionId": "c", "ce-userId": "eve"}
        for signature in ("", "sha256=00", "sha256="):
            headers = forged | {"ce-signature": signature}
            assert (await fetch(f"{chat}/eventhandler", b"lies", headers))[0] == 401
        await ann.say_raw("truth")
        assert await ann.hear() == said("ann", "truth")


async def test_who_has_no_name_gets_no_url(chat: str) -> None:
    assert (await fetch(f"{chat}/negotiate"))[0] == 400
