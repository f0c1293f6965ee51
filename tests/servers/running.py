"""One of the two servers in a process of its own, and what its application has to tell."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.running import PATIENCE, ROOT, free_port
from tests.servers.raw import RawClient


class Running:
    """A server process."""

    def __init__(
        self,
        folder: Path,
        server: str,
        *,
        closing_secs: float = 10,
        http: dict[str, float] | None = None,
        **settings: Any,
    ) -> None:
        """`http`: bounds of `hubs.servers.http`, by their names."""
        self.server = server
        self.port = free_port()
        self.log = folder / f"{server}-{self.port}.log"
        options = {"settings": settings, "closing_secs": closing_secs, "http": http or {}}
        command = [sys.executable, "-m", "tests.servers.serving", server, str(self.port), json.dumps(options)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + PATIENCE * 2
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.stop()
        raise AssertionError(f"The {server} server did not start:\n{self.log.read_text()}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> str:
        """Wait until the process has gone by itself; gives its log."""
        await asyncio.to_thread(self.process.wait, PATIENCE)
        return self.log.read_text()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    # The application

    async def ask(self, conversation: str, question: str = "") -> Any:
        """What the application answers about a conversation."""
        url = f"http://127.0.0.1:{self.port}/{conversation}" + (f"?{question}" if question else "")

        def fetch() -> Any:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return json.load(answer)

        return await asyncio.to_thread(fetch)

    async def heard(self, client: RawClient) -> list[Any]:
        """All that the application heard from a client, once the conversation is over."""
        await self.ask(client.name)
        # Another conversation is begun and ended, so that what the server might add has been added.
        async with self.client() as other:
            await other.close(1000)
            await self.ask(other.name)
            await self.ask(other.name, "release")
        return list(await self.ask(client.name, "release"))

    @asynccontextmanager
    async def client(
        self, subprotocol: str | None = None, *, query: str = "", port: int | None = None
    ) -> AsyncIterator[RawClient]:
        """A raw client with a conversation of its own; `port`: of a proxy in front."""
        client = RawClient(f"conversation{uuid.uuid4().hex}")
        try:
            await client.connect(port or self.port, query)
            if query != "unanswered":
                await client.handshake(subprotocol)
            else:
                client.request(subprotocol)
            yield client
        finally:
            client.abandon()
