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
import os
import platform
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version

import uvloop
from rich.console import Console
from rich.table import Table

from bench.clients import PATIENCE_SECS, PAYLOAD, Client, connect, disconnect, text_frame
from bench.report import RESULTS
from bench.servers import CONTESTANTS, EMPTY, ROOT, CannotStart, Contestant, Server, cores
from bench.wire import Unexpected

CLIENTS = 32
MAX_CLIENTS = 1000
MAX_SECONDS = 60.0
MAX_ROUNDS = 20
PACKAGES = ("Django", "channels", "uvicorn", "uvloop", "websockets", "msgspec", "aiohttp")

OURS, EMPTY_CLIENT = "Hubwire, event → answer and ack", "aiohttp alone, POST → answer"


class Wrong(Exception):
    """Something was lost, or came twice."""


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
        return self.done / self.cpu_secs


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

        def all_heard(message: dict[str, object]) -> bool:
            heard.append(message)
            return message["type"] == "ack"

        await self._client.ask(self._event(), all_heard)
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


@contextmanager
def _on(core: int | None) -> Iterator[None]:
    own = os.sched_getaffinity(0) if core is not None else set()
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        if own:
            os.sched_setaffinity(0, own)


@contextmanager
def _handler(core: int | None) -> Iterator[str]:
    """The event handler in a process of its own; gives its URL."""
    with _on(core):
        process = subprocess.Popen([sys.executable, str(EMPTY / "echo_handler.py")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise CannotStart("The event handler did not start.")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _with_handler(url: str) -> Contestant:
    """Hubwire with the event handler written into the hub `bench`."""
    ours = CONTESTANTS["hubwire"]
    manage = ours.set_up[-1][:-1]
    pairs = (f"url-template={url}/{{event}}", "user-event-pattern=*")
    command = (*manage, "webpubsub", "hub", "create", "bench", "--event-handler", *pairs)
    return dataclasses.replace(ours, set_up=(*ours.set_up, command))


def _handled(url: str) -> int:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECS) as answer:
        return int(answer.read())


async def _measure(server: Server, url: str, clients: int, seconds: float, number: int) -> Run:
    """Events answered; a tenth of the time goes before, to warm up."""
    opened = await connect(server, server.targets(clients))
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
    with _on(core):
        done = subprocess.run(
            [sys.executable, str(EMPTY / "post_loop.py"), f"{url}/message", str(at_once), str(seconds)],
            capture_output=True,
            text=True,
            timeout=seconds * 2 + PATIENCE_SECS,
        )
    if done.returncode:
        raise Wrong(f"{EMPTY_CLIENT}: {done.stderr}")
    return Run(EMPTY_CLIENT, number, **json.loads(done.stdout))


def _report(runs: list[Run]) -> Table:
    table = Table(title="Events per CPU-second", title_justify="left")
    for heading in ("what", "median", "lowest", "highest", "× aiohttp alone", "per second"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    baseline = statistics.median(run.per_cpu_sec for run in runs if run.what == EMPTY_CLIENT)
    for what in dict.fromkeys(run.what for run in runs):
        own = [run for run in runs if run.what == what]
        figures = [run.per_cpu_sec for run in own]
        median = statistics.median(figures)
        wall = statistics.median(run.done / run.wall_secs for run in own)
        table.add_row(
            what,
            *(f"{figure:,.0f}" for figure in (median, min(figures), max(figures))),
            f"{median / baseline:.2f}",
            f"{wall:,.0f}",
        )
    return table


def _write(runs: list[Run], options: dict[str, object], pinned: bool) -> str:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"upstream-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    whole = {
        "options": options,
        "pinned": pinned,
        "runs": [dataclasses.asdict(run) | {"per_cpu_sec": run.per_cpu_sec} for run in runs],
        "machine": {"system": platform.system(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in PACKAGES},
    }
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return str(path.relative_to(ROOT))


def main() -> int:
    """Run the rounds, print the table and write what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.upstream", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help=f"1 to {MAX_ROUNDS} (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4, help=f"of each, up to {MAX_SECONDS:g} (%(default)s)")
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"1 to {MAX_CLIENTS} (default: %(default)s)")
    options = parser.parse_args()
    for name, least, most in (("rounds", 1, MAX_ROUNDS), ("seconds", 0.5, MAX_SECONDS), ("clients", 1, MAX_CLIENTS)):
        if not least <= getattr(options, name) <= most:
            parser.error(f"--{name} has to be from {least:g} to {most:g}")
    console = Console()
    both = cores()
    if both:
        os.sched_setaffinity(0, {both[0]})
    runs: list[Run] = []
    try:
        with ExitStack() as stack:
            url = stack.enter_context(_handler(both and both[0]))
            server = stack.enter_context(Server(_with_handler(url), both and both[1]))
            for number in range(1, options.rounds + 1):
                runs.append(uvloop.run(_measure(server, url, options.clients, options.seconds, number)))
                runs.append(_post_loop(url, options.clients, options.seconds, both and both[1], number))
    except (CannotStart, Unexpected, Wrong) as problem:
        console.print(str(problem), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(_report(runs))
    console.print(f"Written to {_write(runs, vars(options), bool(both))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
