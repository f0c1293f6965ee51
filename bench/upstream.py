"""`python -m bench.upstream`: what an event costs the server that a webhook answers, beside an HTTP client alone.

The figure is echoes per CPU-second of the server process: a client's event with an ackId comes in, goes
to the event handler as an HTTP request, and its answer and the ack go out. The handler does next to
nothing (bench/empty/echo_handler.py) and runs on the generator's core. In turns with the server, on its
core, a process that has nothing to do but post the same to the same handler with the same library
(bench/empty/post_loop.py): no service on that library could be faster.

Every client sends its next event when it has the last one's ack. An event without its answer and its
ack, or more than there were, ends the bench.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import uvloop
from rich.table import Table

from bench import command, figures
from bench.clients import PATIENCE_SECS, PAYLOAD, Client, connect, disconnect, text_frame
from bench.command import say, seconds, whole
from bench.contestants import CONTESTANTS, EMPTY, MANAGE, Contestant
from bench.machine import TICK_SECS, on_core
from bench.servers import Server, Wrong, beside

CLIENTS = 32

OURS, EMPTY_CLIENT = "Hubwire, event → answer and ack", "aiohttp alone, POST → answer"


@dataclasses.dataclass(frozen=True)
class Run:
    """One stretch of one contestant."""

    what: str
    round: int
    done: int
    cpu_secs: float
    wall_secs: float

    @property
    def per_cpu_sec(self) -> float:
        """How many for one CPU-second."""
        return self.done / max(self.cpu_secs, TICK_SECS)


class Asker:
    """One client that asks again when it has been answered."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ack_id = 0
        self._until = 0.0
        self._done: asyncio.Future[None] | None = None
        self.answered = 0

    def _event(self) -> dict[str, object]:
        self._ack_id += 1
        return {"type": "event", "event": "message", "ackId": self._ack_id, "dataType": "text", "data": PAYLOAD}

    async def rehearse(self) -> None:
        """See once that the answer and the ack are what they have to be."""
        heard: list[dict[str, object]] = []

        def acked(raw: bytes) -> bool:
            heard.append(json.loads(raw))
            return heard[-1]["type"] == "ack"

        await self._client.converse(text_frame(self._event()), acked)
        if heard != [
            {"type": "message", "from": "server", "dataType": "text", "data": PAYLOAD},
            {"type": "ack", "ackId": self._ack_id, "success": True},
        ]:
            raise Wrong(f"the answer to an event was {heard}")

    async def ask_until(self, until: float) -> None:
        """Ask, one event at a time, until the clock says so, and wait for the last answer."""
        self._until = until
        self.answered = 0
        self._done = asyncio.get_running_loop().create_future()
        self._client.count_for(self._arrived)
        self._client.send(text_frame(self._event()))
        seconds = until - time.monotonic() + PATIENCE_SECS
        try:
            await asyncio.wait_for(self._done, seconds)
        except TimeoutError:
            problem = self._client.problem or f"nothing came for {PATIENCE_SECS:g} s"
            raise Wrong(f"after {self.answered} events: {problem}") from None

    def _arrived(self, client: Client, count: int) -> None:
        # Each event is two messages: its answer and its ack.
        if client.received < 2 * (self.answered + 1):
            return
        self.answered += 1
        if time.monotonic() < self._until:
            client.send(text_frame(self._event()))
        elif self._done is not None and not self._done.done():
            self._done.set_result(None)


def _with_handler(url: str) -> Contestant:
    """Hubwire with the event handler written into the hub `bench`."""
    ours = CONTESTANTS["hubwire"]
    pairs = (f"url-template={url}/{{event}}", "user-event-pattern=*")
    create = (*MANAGE, "webpubsub", "hub", "create", "bench", "--event-handler", *pairs)
    return dataclasses.replace(ours, set_up=(*ours.set_up, create))


def _handled(url: str) -> int:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECS) as answer:
        return int(answer.read())


async def _echoes(server: Server, url: str, clients: int, seconds: float, number: int) -> Run:
    """Events answered; a tenth of the time goes before, to warm up."""
    opened = await connect(server.door, server.targets(clients))
    try:
        askers = [Asker(client) for client in opened]
        for asker in askers:
            await asker.rehearse()

        async def stretch(secs: float) -> int:
            until = time.monotonic() + secs
            await asyncio.gather(*(asker.ask_until(until) for asker in askers))
            return sum(asker.answered for asker in askers)

        await stretch(seconds / 10)
        handled = _handled(url)
        spent, begun = server.cpu_secs(), time.monotonic()
        done = await stretch(seconds)
        run = Run(OURS, number, done, server.cpu_secs() - spent, time.monotonic() - begun)
    finally:
        await disconnect(opened)
    handled = _handled(url) - handled
    surplus = sum(client.received for client in opened) - 2 * done
    if handled != done or surplus:
        raise Wrong(f"{done} events were answered and {handled} were handled; {surplus} messages too many")
    return run


def _post_loop(url: str, at_once: int, seconds: float, core: int | None, number: int) -> Run:
    with on_core(core):
        done = subprocess.run(
            [sys.executable, str(EMPTY / "post_loop.py"), f"{url}/message", str(at_once), str(seconds)],
            capture_output=True,
            text=True,
            timeout=seconds * 2 + PATIENCE_SECS,
        )
    if done.returncode:
        raise Wrong(f"{EMPTY_CLIENT}: {done.stderr}")
    return Run(EMPTY_CLIENT, number, **json.loads(done.stdout))


class Upstream(command.Bench):
    """Both in turns."""

    name = "upstream"
    summary = "What an event costs the server that a webhook answers, beside an HTTP client alone."
    usual_rounds = 3
    quick = {"rounds": 1, "seconds": 1.0}

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.runs: list[Run] = []

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--seconds", type=seconds(0.5, 60), default=3.0, help="of each turn (%(default)g)")
        parser.add_argument("--clients", type=whole(1, 1000), default=CLIENTS, help="default: %(default)s")

    def measure(self) -> None:
        core, clients, secs = self.cores.servers, self.options.clients, self.options.seconds
        with ExitStack() as stack:
            handler = (sys.executable, str(EMPTY / "echo_handler.py"))
            url = f"http://127.0.0.1:{stack.enter_context(beside(handler, self.cores.generator))}"
            server = stack.enter_context(Server(_with_handler(url), core))
            for number in self.rounds():
                self._keep(uvloop.run(_echoes(server, url, clients, secs, number)))
                self._keep(_post_loop(url, clients, secs, core, number))

    def _keep(self, run: Run) -> None:
        self.runs.append(run)
        say(f"{run.round}  {run.what}: {run.per_cpu_sec:,.0f} per CPU-s")

    def raw(self) -> list[Run]:
        return self.runs

    def tables(self) -> Iterator[Table]:
        table = figures.table(
            "Events per CPU-second", "what", right=("per CPU-second", "× aiohttp alone", "per second")
        )
        baseline = figures.median(run.per_cpu_sec for run in self.runs if run.what == EMPTY_CLIENT)
        for what in dict.fromkeys(run.what for run in self.runs):
            own = [run for run in self.runs if run.what == what]
            table.add_row(
                what,
                figures.spread((run.per_cpu_sec for run in own), ",.0f"),
                figures.ratio(figures.median(run.per_cpu_sec for run in own), baseline),
                figures.middle((run.done / run.wall_secs for run in own), ",.0f"),
            )
        if self.runs:
            yield table


if __name__ == "__main__":
    sys.exit(command.main(Upstream))
