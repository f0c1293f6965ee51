"""Benches as people start them, and small servers that do what no server should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from bench.holding import Door
from bench.servers import SET_UPS
from tests.running import PATIENCE, ROOT, Redis

# A bench starts several servers, one after the other.
LONG = PATIENCE * 15


def run_bench(name: str, *arguments: str, results: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run `python -m bench.<name>`; gives how it ended, and the raw figures that it wrote to `results`, a tmp_path."""
    # redis-server may come from a Python package, where it is not on the PATH.
    path = os.pathsep.join([str(Path(Redis.executable()).parent), os.environ.get("PATH", "")])
    # Beside those of all tests.
    set_ups = results.parent / "set-ups"
    set_ups.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", *arguments, "--results", str(results)],
        cwd=ROOT,
        env=os.environ | {"PATH": path, SET_UPS: str(set_ups)},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 12,
    )
    written = list(results.glob(f"{name}-*.json"))
    raw = json.loads(written[0].read_text()) if len(written) == 1 else {}
    return done, raw


@asynccontextmanager
async def serving(handler: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[Door]:
    """A WebSocket server in this loop that never pings; gives its door."""
    async with serve(handler, "127.0.0.1", 0, ping_interval=None, compression=None) as server:
        yield Door(server.sockets[0].getsockname()[1], None)
