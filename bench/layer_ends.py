"""The two ends of a channel layer, each a process of its own: one publishes, the other receives.

    python -m bench.layer_ends receive LAYER URL SECS PIPE
    python -m bench.layer_ends publish LAYER URL SECS PIPE PER_TURN

`bench.scale` starts them and reads what they print: JSON with their processor time between the first
message and the last. So that neither buffers nor losses decide the result, at most `WINDOW` messages
are under way: the receiver writes a byte into a pipe for each `STRIDE` messages, which is all that
passes between the two besides the layer. Messages are numbered; one that is missing, doubled or out of
order ends the receiver with an error.

PER_TURN: so many are published in one turn of the event loop, where the layer can do that (`post`), as a
server does that has read frames of several clients. 0: one at a time, each awaited (`group_send`), which
is all that a stock layer offers.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from typing import Any

import uvloop

GROUP = "bench-group"
WINDOW = 1024
STRIDE = 128
# A published message that has not come after so long is lost.
PATIENCE_SECS = 20.0
DATA = b"x" * 64


class Lost(Exception):
    """A message did not come, or not when it should have."""


def _layer(path: str, url: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)(hosts=[url], prefix="bench")


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


class Receiver:
    """Counts what comes, and says so."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self.count = 0
        self.started = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, message: dict[str, Any]) -> None:
        """A message came."""
        number = message["number"]
        if number < 0:
            # The last, which says how many there were.
            if not self.done.done():
                self.done.set_result(None)
            return
        if not self.count:
            self.started = time.process_time()
        if number != self.count:
            if not self.done.done():
                self.done.set_exception(Lost(f"message {number} came where {self.count} was due"))
            return
        self.count += 1
        if not self.count % STRIDE:
            os.write(self._pipe, b".")


async def _receive(layer: Any, secs: float, pipe: int) -> None:
    receiver = Receiver(pipe)
    channel = await layer.new_channel()
    await layer.group_add(GROUP, channel)
    loop = asyncio.get_running_loop()
    reading: asyncio.Task[None] | None = None
    if hasattr(layer, "listen"):
        layer.listen(
            channel, lambda group, position, message: receiver.take(message), lambda up: None, lambda group: None
        )
    else:

        async def read() -> None:
            while True:
                receiver.take(await layer.receive(channel))

        reading = loop.create_task(read())
    _say({"ready": True})
    await asyncio.wait_for(receiver.done, secs + PATIENCE_SECS)
    _say({"count": receiver.count, "cpu_secs": time.process_time() - receiver.started})
    if reading is not None:
        reading.cancel()


async def _publish(layer: Any, secs: float, pipe: int, per_turn: int) -> None:
    loop = asyncio.get_running_loop()
    received = 0
    gone = False
    progress = asyncio.Event()

    def heard() -> None:
        nonlocal received, gone
        came = os.read(pipe, 4096)
        received += len(came) * STRIDE
        if not came:
            gone = True
            loop.remove_reader(pipe)
        progress.set()

    os.set_blocking(pipe, False)
    loop.add_reader(pipe, heard)
    # The connection is made before it is measured.
    await layer.group_send(GROUP + "-other", {"type": "bench.message"})
    number = 0
    cpu, began = time.process_time(), time.perf_counter()
    until = began + secs
    while time.perf_counter() < until:
        while number - received > WINDOW - max(1, per_turn):
            # Before the event is cleared: it is not set a second time.
            if gone:
                raise Lost("the receiver is gone")
            progress.clear()
            await asyncio.wait_for(progress.wait(), PATIENCE_SECS)
        if per_turn:
            for _ in range(per_turn):
                posted = layer.post(GROUP, {"type": "bench.message", "number": number, "data": DATA})
                number += 1
            if not number % (per_turn * 16):
                # Whoever publishes wants to know how it went; of the rest, the receiver tells.
                await posted
            else:
                await asyncio.sleep(0)
        else:
            await layer.group_send(GROUP, {"type": "bench.message", "number": number, "data": DATA})
            number += 1
    cpu, wall = time.process_time() - cpu, time.perf_counter() - began
    await layer.group_send(GROUP, {"type": "bench.message", "number": -1})
    _say({"count": number, "cpu_secs": cpu, "wall_secs": wall})


def main(arguments: list[str]) -> int:
    """Be one of the two ends."""
    end, path, url, secs, pipe, *rest = arguments
    layer = _layer(path, url)
    if end == "receive":
        uvloop.run(_receive(layer, float(secs), int(pipe)))
    else:
        uvloop.run(_publish(layer, float(secs), int(pipe), int(rest[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
