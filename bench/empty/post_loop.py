"""`python post_loop.py URL AT_ONCE SECONDS`: what an HTTP client costs that does nothing else.

Posts an event over and over with aiohttp, `AT_ONCE` requests under way, and reads each answer. Prints, as
JSON, how many there were and the processor time of the process; a tenth of the time goes before, to warm up.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp
import uvloop

BODY = b"sixty-four bytes of text, neither more nor less, in each message"

# As many headers, and about as long, as an event has.
HEADERS = {
    "Content-Type": "text/plain; charset=utf-8",
    "WebHook-Request-Origin": "localhost",
    "ce-specversion": "1.0",
    "ce-awpsversion": "1.0",
    "ce-type": "azure.webpubsub.user.message",
    "ce-source": "/hubs/bench/client/0123456789abcdef0123456789abcdef",
    "ce-id": "1000",
    "ce-time": "2026-11-22T06:00:00Z",
    "ce-signature": ",".join([f"sha256={'0' * 64}"] * 2),
    "ce-connectionId": "0123456789abcdef0123456789abcdef",
    "ce-hub": "bench",
    "ce-eventName": "message",
    "ce-userId": "user-0",
    "ce-subprotocol": "json.webpubsub.azure.v1",
    "x-ms-client-request-id": "00000000-0000-4000-8000-000000000000",
}


async def post(session: aiohttp.ClientSession, url: str, until: float) -> int:
    posts = 0
    while time.monotonic() < until:
        async with session.post(url, data=BODY, headers=HEADERS, allow_redirects=False) as response:
            if await response.read() != BODY:
                raise SystemExit(f"the answer's status is {response.status}, and it is no echo")
        posts += 1
    return posts


async def measure(url: str, at_once: int, seconds: float) -> dict[str, float]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def stretch(secs: float) -> int:
            until = time.monotonic() + secs
            return sum(await asyncio.gather(*(post(session, url, until) for _ in range(at_once))))

        await stretch(seconds / 10)
        spent, begun = time.process_time(), time.monotonic()
        done = await stretch(seconds)
        return {"done": done, "cpu_secs": time.process_time() - spent, "wall_secs": time.monotonic() - begun}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))))
