"""The event handler that is told of each connection that ended, and counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from contextlib import suppress

from aiohttp import web

from tests.faults.senders import HUB
from tests.running import Service


def have_told(service: Service, port: int) -> None:
    """Have a service that is not running yet tell a webhook on that port of connections that ended."""
    url = f"http://127.0.0.1:{port}/{{event}}"
    handler = ("--event-handler", f"url-template={url}", "system-event=disconnected")
    service.manage("webpubsub", "hub", "update", "--hub-name", HUB, *handler)


class Disconnects:
    """A webhook for `disconnected` on a port of loopback. `told`: how often, by connection id."""

    def __init__(self, port: int) -> None:
        self.told: Counter[str] = Counter()
        self._port = port
        self._heard = asyncio.Condition()

    async def start(self) -> Disconnects:
        """Listen."""
        self._runner = web.ServerRunner(web.Server(self._handle))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def stop(self) -> None:
        """Listen no more."""
        await self._runner.cleanup()

    async def of_all(self, connections: Collection[str], patience_secs: float) -> None:
        """Wait until each of these was told, but no longer than that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_secs), self._heard:
                await self._heard.wait_for(lambda: all(self.told[connection] for connection in connections))

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST":
            await request.read()
            async with self._heard:
                self.told[request.headers["ce-connectionId"]] += 1
                self._heard.notify_all()
        return web.Response(headers={"WebHook-Allowed-Origin": "*"})
