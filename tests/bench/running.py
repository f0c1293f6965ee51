"""Benches as people start them, and small servers that do what no server should."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from bench.clients import Door
from tests.running import PATIENCE, ROOT

# A bench starts several servers, one after the other.
LONG = PATIENCE * 15


def start_bench(*arguments: str, results: Path) -> subprocess.Popen[str]:
    """Start `python -m …` with raw figures going to `results`, a tmp_path."""
    command = [sys.executable, "-m", *arguments, "--results", str(results)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def figures_in(results: Path) -> dict[str, Any]:
    """The raw figures of the one bench that wrote them there."""
    [written] = results.glob("*.json")
    return dict(json.loads(written.read_text()))


@asynccontextmanager
async def serving(handler: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[Door]:
    """A WebSocket server in this loop that never pings; gives its door."""
    async with serve(handler, "127.0.0.1", 0, ping_interval=None, compression=None) as server:
        yield Door(server.sockets[0].getsockname()[1])
