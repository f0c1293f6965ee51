"""The application on uvicorn as it comes, without the classes of hubs/servers: less polite, but at work."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.running import PATIENCE, ROOT, Service, free_port
from tests.service.client import JSON, Target, group_message, ok, opened


async def test_clients_are_served(service: Service, tmp_path: Path) -> None:
    port = free_port()
    endpoint = f"http://localhost:{port}"
    command = [sys.executable, "-m", "uvicorn", "pubsub_site.asgi:application", "--host", "localhost"]
    with (tmp_path / "uvicorn.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=ROOT,
            env=service.env | {"PUBLIC_ENDPOINT": endpoint},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        async with asyncio.timeout(PATIENCE * 2):
            await asyncio.to_thread(_answers, f"{endpoint}/api/health", process)
        target = Target(service.connection_string.replace(service.endpoint, endpoint))
        async with opened(target.url(), JSON) as client:
            await client.join("plain")
            long = "x" * 300_000
            await client.say(type="sendToGroup", group="plain", dataType="text", data=long, ackId=2)
            assert await client.hear() == group_message("plain", long, "text")
            assert await client.hear() == ok(2)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _answers(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except (urllib.error.URLError, OSError):
            continue
        return
    raise AssertionError("uvicorn did not start")
