"""Two processes with nothing but a channel layer between them, ours or channels_redis', one publishing to the other.

The two are `bench.layer_ends`; here they are started, heard and accounted for. It is a part of `bench.scale`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from bench.clients import PATIENCE_SECS
from bench.contestants import ROOT
from bench.machine import TICK_SECS, end_tree, on_core
from bench.servers import Server, Wrong

OURS, STOCK = "hubs.layers.redis.RedisLayer", "channels_redis.pubsub.RedisPubSubChannelLayer"


@dataclass(frozen=True)
class Layer:
    """A layer, and how many messages are published in one turn of the loop; 0: each is awaited."""

    title: str
    path: str
    per_turn: int


LAYERS = (
    Layer("Hubwire's layer, 16 published per turn", OURS, 16),
    Layer("Hubwire's layer, one per turn", OURS, 1),
    Layer("Hubwire's layer, each awaited", OURS, 0),
    Layer("channels_redis pub/sub, each awaited", STOCK, 0),
)


@dataclass(frozen=True)
class LayerRun:
    """One layer in one round."""

    layer: str
    round: int
    published: int
    received: int
    # Of both processes, and of Redis.
    cpu_secs: float
    redis_cpu_secs: float
    wall_secs: float
    generator_share: float

    @property
    def per_cpu_sec(self) -> float:
        """Messages for one CPU-second of both processes."""
        return self.received / max(self.cpu_secs, TICK_SECS)

    @property
    def per_cpu_sec_with_redis(self) -> float:
        """Messages for one CPU-second of both processes and Redis together."""
        return self.received / max(self.cpu_secs + self.redis_cpu_secs, TICK_SECS)


def measure(layer: Layer, url: str, redis: Server, core: int | None, number: int, secs: float) -> LayerRun:
    """Have one end publish to the other for so long. Raises Wrong."""
    own, began = time.process_time(), time.perf_counter()
    with Ends(layer, url, core, secs) as ends:
        ends.receive()
        before = redis.own_cpu_secs()
        published, received = ends.publish()
        redis_secs = redis.own_cpu_secs() - before
    run = LayerRun(
        layer=layer.title,
        round=number,
        published=int(published["count"]),
        received=int(received["count"]),
        cpu_secs=published["cpu_secs"] + received["cpu_secs"],
        redis_cpu_secs=redis_secs,
        wall_secs=published["wall_secs"],
        generator_share=(time.process_time() - own) / (time.perf_counter() - began),
    )
    if run.received != run.published:
        raise Wrong(f"{layer.title}: {run.received:,} of {run.published:,} received")
    return run


class Ends:
    """The receiver and the publisher. Used as a context manager; both are gone afterwards."""

    def __init__(self, layer: Layer, url: str, core: int | None, secs: float) -> None:
        self._layer = layer
        self._arguments = (layer.path, url, str(secs))
        self._core = core
        # What the receiver tells the publisher besides the layer.
        self._reading, self._writing = os.pipe()
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._reading, self._writing):
            if pipe >= 0:
                os.close(pipe)
        for process in self._started:
            try:
                process.communicate(timeout=PATIENCE_SECS)
            except BaseException:
                end_tree(process.pid)
                process.communicate()
                raise

    def receive(self) -> None:
        """Start the receiver; it is ready afterwards."""
        pipe, self._writing = self._writing, -1
        self._hear(self._start("receive", pipe))

    def publish(self) -> tuple[dict[str, float], dict[str, float]]:
        """Start the publisher; gives what both say at the end."""
        pipe, self._reading = self._reading, -1
        publisher = self._start("publish", pipe, str(self._layer.per_turn))
        return self._hear(publisher), self._hear(self._started[0])

    def _start(self, end: str, pipe: int, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bench.layer_ends", end, *self._arguments, str(pipe), *more]
        try:
            with on_core(self._core):
                process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    pass_fds=(pipe,),
                    process_group=0,
                )
        finally:
            # Theirs alone, so that each sees when the other is gone.
            os.close(pipe)
        self._started.append(process)
        return process

    def _hear(self, process: subprocess.Popen[str]) -> dict[str, float]:
        assert process.stdout is not None
        if line := process.stdout.readline():
            return dict(json.loads(line))
        # Where the receiver fails, the publisher does too, and the receiver knows why.
        problem = ""
        for end in self._started:
            _, wrote = end.communicate(timeout=PATIENCE_SECS)
            problem = problem or (wrote.strip() if end.returncode else "")
        raise Wrong(f"{self._layer.title}: {(problem.splitlines() or ['it ended'])[-1]}")
