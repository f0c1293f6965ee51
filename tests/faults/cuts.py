"""Connections of clients are cut all the time: one kind of failure for the experiment of harness.py.

Every client comes through a proxy route of its own, and each route is cut at random: mostly the connection is
reset and nobody gets through for a while; now and then it goes silent instead, neither side learns of it, and
the client lets go of it by itself after a while, so that the service still believes in the old socket when the
client comes back. Half of the silent ones are so in one direction only: the service hears the client and does
what it asks, and the client, which never learns, asks again. Where there are several processes, the client comes
back to any of them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.harness import Experiment, Outcome, Plan, Promise, lasts
from tests.proxy import CuttingProxy, Route
from tests.running import Redis, Service

# The service is well all the time.
PROMISE = Promise(refusals=False)


@dataclass(frozen=True)
class Cuts:
    """How connections are cut, and how long. Means: each time it is between half and one and a half of it."""

    seconds: float = 120.0
    every_secs: float = 10.0
    # No cuts at all with 0.
    secs: float = 2.0
    # How many cuts are of the silent kind.
    silent_share: float = 0.2


@dataclass(frozen=True)
class Weathered:
    """The outcome, and how many cuts it took."""

    outcome: Outcome
    cuts: int
    silent_cuts: int


@contextmanager
def processes(folder: Path, count: int, server: str = "uvicorn") -> Iterator[list[Service]]:
    """So many processes of one service: one database and, if there are several, one Redis."""
    with ExitStack() as stack:
        env: dict[str, str] = {}
        if count > 1:
            redis = Redis(folder)
            stack.callback(redis.stop)
            env["REDIS_URL"] = redis.start().url
        first = Service(folder, server=server, env=env).set_up()
        # Behind one public address: a token opens any of them.
        rest = [Service(folder, server=server, env=env | {"EXTRA_ENDPOINTS": first.endpoint}) for _ in range(count - 1)]
        for service in (first, *rest):
            stack.callback(service.stop)
            service.start()
        yield [first, *rest]


class CutRoute:
    """A client's route through the proxy, and what cuts it."""

    def __init__(self, route: Route, ports: Sequence[int], cuts: Cuts, choice: random.Random) -> None:
        self.cuts = 0
        self.silent_cuts = 0
        self._route, self._ports, self._plan, self._random = route, ports, cuts, choice
        self.leads_to = choice.choice(ports)
        route.to(self.leads_to)
        self._frozen: list[int] = []

    def port(self) -> int:
        return self._route.port

    async def endure(self, abandon: Callable[[], None], over: asyncio.Event) -> None:
        """Be cut again and again until it is over. `abandon`: have the client let go of its socket."""
        while await lasts(over, self._about(self._plan.every_secs)):
            secs = self._about(self._plan.secs)
            silent = self._random.random() < self._plan.silent_share
            one_way = self._random.random() < 0.5
            self.leads_to = self._random.choice(self._ports)
            # In a thread, since the proxy's answer takes its time and many are cut at once.
            if silent:
                hit = await asyncio.to_thread(self._silence, self.leads_to, one_way)
            else:
                hit = await asyncio.to_thread(self._cut, self.leads_to, secs)
            if hit and silent:
                self.silent_cuts += 1
                await lasts(over, secs)
                abandon()
            elif hit:
                self.cuts += 1
                await lasts(over, secs)
        await asyncio.to_thread(self._route.accept)

    def _about(self, mean: float) -> float:
        return mean * self._random.uniform(0.5, 1.5)

    def _bury(self) -> None:
        """Reset what was frozen the last time; by now the service knows that the client is elsewhere."""
        for number in self._frozen:
            self._route.abort(number)
        self._frozen = []

    def _cut(self, port: int, secs: float) -> int:
        self._bury()
        self._route.to(port)
        return self._route.cut(secs)

    def _silence(self, port: int, one_way: bool) -> int:
        self._bury()
        self._route.to(port)
        self._frozen = self._route.connections
        return self._route.freeze(one_way=one_way)


async def run(services: Sequence[Service], plan: Plan, cuts: Cuts) -> Weathered:
    """Run the experiment against the processes of one service."""
    ports = [service.port for service in services]
    routes: list[CutRoute] = []
    with CuttingProxy(services[0].port) as proxy:

        def way(name: str) -> CutRoute:
            # Its own numbers, so that the cuts of one do not depend on when another's were drawn.
            routes.append(CutRoute(proxy.route(name), ports, cuts, random.Random(f"{plan.seed} {name}")))
            return routes[-1]

        async def inject(experiment: Experiment) -> None:
            over = asyncio.Event()
            async with asyncio.TaskGroup() as enduring:
                for person, route in zip(experiment.people, routes, strict=True):
                    if cuts.secs:
                        enduring.create_task(route.endure(person.abandon, over))
                await asyncio.sleep(cuts.seconds)
                over.set()

        outcome = await Experiment(services, plan, inject, way).run()
    return Weathered(outcome, sum(route.cuts for route in routes), sum(route.silent_cuts for route in routes))
