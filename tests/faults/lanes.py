"""One experiment for each thing that can fail around clients that are well: a process, Redis, the line between.

A lane has a stage (stages.py), a failure that is caused again and again with pauses between, and what that
may cost. Each comes in two lengths: `make faults LANE=kill` is the long one, and test_lanes.py has the short.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from tests.faults import stages
from tests.faults.client import Pace
from tests.faults.disconnects import Disconnects
from tests.faults.harness import Experiment, Outcome, Plan, Promise, lasts
from tests.faults.senders import WAYS
from tests.faults.stages import Stage

# The git revision that the lanes with two versions run beside this one: the release before it; while there is none, the
# first version that keeps the log.
BEFORE = "5f20c634a1ac130db32fb34b4531779360bc1542"

# Not to connections one by one: those that end meanwhile have no address.
LANE_WAYS = tuple(way for way in WAYS if "{connection}" not in way)

PLAN = Plan(
    plain=20,
    senders=len(LANE_WAYS),
    ways=LANE_WAYS,
    rate=1,
    pace=Pace(again_secs=0.3),
)
SHORT = replace(
    PLAN,
    clients=16,
    plain=4,
    publishers=4,
    rate=10,
    pace=Pace(retry_secs=0.3, acknowledge_secs=0.3, again_secs=0.1),
    settle_secs=30,
)


@dataclass(frozen=True)
class Timing:
    """How often something fails, how long each time, and the pause before, between and after, in seconds."""

    rounds: int
    secs: float
    pause_secs: float
    # Besides, each client loses its socket so often on average. 0 = never.
    drop_every_secs: float = 0


Failure = Callable[[Stage, float, int, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Lane:
    """What fails, on what, how often, and what it may cost."""

    title: str
    stage: stages.Builder
    fail: Failure
    long: Timing
    short: Timing
    promise: Promise = Promise()  # noqa: RUF009 - it is frozen
    # What its plan has otherwise than others.
    plan: Callable[[Plan], Plan] = lambda plan: plan
    # Whether it takes another version.
    versions: bool = False


async def run(lane: Lane, stage: Stage, plan: Plan, timing: Timing) -> Outcome:
    """Run the experiment on a stage that is up."""
    choice = random.Random(f"{plan.seed} {lane.title}")

    async def inject(experiment: Experiment) -> None:
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            if timing.drop_every_secs:
                tasks.create_task(_drop(experiment, timing.drop_every_secs, over, choice))
            for number in range(timing.rounds):
                await asyncio.sleep(timing.pause_secs)
                await lane.fail(stage, timing.secs, number, choice)
            await asyncio.sleep(timing.pause_secs)
            over.set()

    disconnects = await Disconnects(stage.webhook_port).start()
    try:
        return await Experiment(stage.services, lane.plan(plan), inject, disconnects=disconnects).run()
    finally:
        await disconnects.stop()


async def _drop(experiment: Experiment, every_secs: float, over: asyncio.Event, choice: random.Random) -> None:
    people = [person for person in experiment.people if person.reliable]
    while await lasts(over, choice.expovariate(len(people) / every_secs)):
        choice.choice(people).abandon()


# What fails. Each returns when all is in order again.


async def _kill(stage: Stage, secs: float, number: int, choice: random.Random) -> None:
    ready = stage.said(stages.READY)
    os.kill(choice.choice(stage.workers()), signal.SIGKILL)
    await stage.says(stages.READY, ready)


async def _stand_still(stage: Stage, secs: float, number: int, choice: random.Random) -> None:
    with stages.pausing(choice.choice(stage.workers())):
        await asyncio.sleep(secs)


async def _replace(stage: Stage, secs: float, number: int, choice: random.Random) -> None:
    replaced = stage.said(stages.REPLACED)
    os.kill(stage.supervisor, signal.SIGHUP)
    await stage.says(stages.REPLACED, replaced)


async def _upgrade(stage: Stage, secs: float, number: int, choice: random.Random) -> None:
    stage.upgrade()
    await _replace(stage, secs, number, choice)


async def _start_again(stage: Stage, secs: float, number: int, choice: random.Random) -> None:
    await asyncio.to_thread(stage.services[0].stop)
    await asyncio.sleep(secs)
    await asyncio.to_thread(stage.services[0].start)


async def _refuse_redis(stage: Stage, secs: float, number: int, choice: random.Random) -> None:
    await asyncio.to_thread(stage.route.cut, secs)
    await asyncio.sleep(secs)


async def _freeze_redis(stage: Stage, secs: float, number: int, choice: random.Random) -> None:
    await asyncio.to_thread(stage.route.freeze_route)
    await asyncio.sleep(secs)
    await asyncio.to_thread(stage.route.thaw)


async def _restart_redis(stage: Stage, secs: float, number: int, choice: random.Random) -> None:
    await stage.restart_redis(secs, forget=False)


async def _empty_redis(stage: Stage, secs: float, number: int, choice: random.Random) -> None:
    await stage.restart_redis(secs, forget=True)


async def _fail_over(stage: Stage, secs: float, number: int, choice: random.Random) -> None:
    await stage.fail_over()


async def _kick(stage: Stage, secs: float, number: int, choice: random.Random) -> None:
    """Redis drops clients: by its operator's order, and because one does not read what it is sent."""
    with stage.client() as redis:
        usual = str(redis.config_get("client-output-buffer-limit")["client-output-buffer-limit"])
        redis.config_set("client-output-buffer-limit", "normal 1mb 0 0 pubsub 1mb 0 0")
        for kind in ("normal", "pubsub"):
            redis.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await asyncio.sleep(secs / 2)
        worker = choice.choice(stage.workers())
        with stages.pausing(worker):
            # As Redis does with those that read too slowly; it goes on with the others.
            for port in stages.ports_of(worker, stage.redis.port):
                redis.execute_command("CLIENT", "KILL", "ADDR", f"127.0.0.1:{port}")
            await asyncio.sleep(secs)
        await asyncio.sleep(secs)
        await _stand_still(stage, secs, number, choice)
        # What has been held up is read under the same limit.
        await asyncio.sleep(secs)
        redis.config_set("client-output-buffer-limit", usual)


async def _nothing(stage: Stage, secs: float, number: int, choice: random.Random) -> None:
    await asyncio.sleep(secs)


def _long_messages(plan: Plan) -> Plan:
    """So that buffers fill while a process stands still; from fewer clients, who have more to read."""
    return replace(plan, clients=min(plan.clients, 10), plain=2, publishers=10, rate=4, padding=20_000)


# Redis has nothing to give back.
FORGOTTEN = Promise(sessions=True)

LANES: dict[str, Lane] = {
    "kill": Lane("kill -9 of a worker", stages.two_workers, _kill, Timing(8, 0, 15), Timing(1, 0, 1.5)),
    "cut": Lane(
        "one process cut from Redis, refused",
        stages.two_processes,
        _refuse_redis,
        Timing(2, 20, 10, drop_every_secs=20),
        Timing(1, 3, 1, drop_every_secs=5),
    ),
    "frozen": Lane(
        "one process cut from Redis, without an answer",
        stages.two_processes,
        _freeze_redis,
        Timing(2, 20, 10, drop_every_secs=20),
        Timing(1, 3, 1, drop_every_secs=5),
    ),
    "redis": Lane(
        "Redis restarted, with appendonly yes",
        stages.two_workers,
        _restart_redis,
        Timing(4, 3, 12, drop_every_secs=20),
        Timing(1, 1, 1, drop_every_secs=5),
    ),
    "forget": Lane(
        "Redis restarted, without persistence",
        stages.two_workers,
        _empty_redis,
        Timing(4, 3, 12, drop_every_secs=20),
        Timing(1, 1, 1, drop_every_secs=5),
        FORGOTTEN,
    ),
    "failover": Lane(
        "Sentinel failover",
        stages.watched,
        _fail_over,
        Timing(2, 0, 15, drop_every_secs=20),
        Timing(1, 0, 1, drop_every_secs=5),
        FORGOTTEN,
    ),
    "kick": Lane(
        "Redis drops its clients",
        stages.two_workers,
        _kick,
        Timing(4, 2, 10),
        Timing(1, 1.5, 0.5),
        plan=_long_messages,
    ),
    "still": Lane("SIGSTOP for 2 s", stages.two_workers, _stand_still, Timing(6, 2, 8), Timing(1, 1.5, 1)),
    "long-still": Lane("SIGSTOP for 20 s", stages.two_workers, _stand_still, Timing(2, 20, 12), Timing(1, 5, 1)),
    "roll": Lane("rolling SIGHUP", stages.two_workers, _replace, Timing(3, 0, 15), Timing(1, 0, 0.5)),
    "again": Lane(
        "SIGTERM and start again of a single process",
        stages.one_process,
        _start_again,
        Timing(3, 1, 12),
        Timing(1, 0, 1),
    ),
    "beside": Lane(
        "two versions beside each other",
        stages.two_versions,
        _nothing,
        Timing(1, 60, 0, drop_every_secs=10),
        Timing(1, 3, 0, drop_every_secs=2),
        versions=True,
    ),
    "upgrade": Lane(
        "upgrade by SIGHUP, and back", stages.upgraded, _upgrade, Timing(4, 0, 15), Timing(2, 0, 0.5), versions=True
    ),
}
