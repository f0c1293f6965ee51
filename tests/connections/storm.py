"""Storms: everything that may happen to processes, sockets and clients, at random and all at once, and what must hold.

A storm is drawn from a seed. Streams of messages flow by every way there is to publish; clients publish too, each
frame under an ackId that is sent again until it is answered. Meanwhile clients lose their sockets and come back
anywhere, processes stall, stop in good order, die, begin and are cut off, Redis falls silent, restarts, fails over or
forgets, memberships change. Then the weather clears, everybody comes back, and the accounts are made:

* Whoever was meant all the time is told each message whose publisher was told success exactly once, and those
  of one stream in their order. One that was refused may arrive or not, but not twice; nor may one that was sent again.
  One that may wait for a second only may not arrive, and leaves a gap in the numbers.
* A frame that has an event handler at work is handled once, and answered once. A second time only where the process
  that handled it died.
* No reliable connection is lost, whatever dies. Only where Redis has forgotten may it end, and its client is told.
* Of each connection that ended `disconnected` was told once.
* Whoever asks is told the truth, or that it cannot be known.
* In the end nothing is left over (`World.__exit__`).

`python -m tests.connections` runs as many as you like; test_storm.py has a few.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import random
import secrets
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from hubs import operations
from hubs.cluster.entries import CONTROL_LOG, decode, hub_log
from hubs.connections import recovery
from hubs.connections.draining import drain
from hubs.errors import NotFound, Refusal
from hubs.protocols.frames import Payload
from hubs.upstream import UserEventRequest, dispatch, handlers, hub
from tests.connections.redis_commands import Stream, decoded
from tests.connections.simulated_redis import READING, WRITING
from tests.connections.world import WALL_TIME, Client, Process, Socket, World

HUB = "storm"


@dataclass(frozen=True)
class Weather:
    """What happens besides clients that lose their sockets, and how often: of a hundred steps, so many."""

    # A process stands still: shorter, or longer, than it takes to be taken for dead.
    stalls: int = 0
    long_stalls: int = 0
    # A process stops in good order, or is killed; another one begins.
    drains: int = 0
    deaths: int = 0
    # Redis stands still; is killed, and comes back with its data; without them; a replica takes its place.
    silences: int = 0
    restarts: int = 0
    forgets: int = 0
    failovers: int = 0
    # One process alone is cut off from Redis; loses one of its connections; is disconnected, as it reads too slowly.
    partings: int = 0
    resets: int = 0
    kicks: int = 0
    # The logs have entries of a version to come.
    visits: int = 0
    # Whether clients try again elsewhere before they know what came of the last attempt.
    impatient: bool = False
    # And leave the socket of that attempt open for a while.
    forgetful: bool = False
    steps: int = 40
    messages: int = 12
    # How much slower all of this happens: for what lasts longer.
    pace: float = 1.0

    @property
    def may_forget(self) -> bool:
        """Whether Redis may lose what it was told."""
        return bool(self.forgets or self.failovers)

    @property
    def may_refuse(self) -> bool:
        """Whether there is a reason to refuse what clients send."""
        others = self.stalls, self.long_stalls, self.drains, self.deaths, self.silences, self.restarts
        return self.may_forget or any((*others, self.partings, self.resets, self.kicks))

    @property
    def may_kill(self) -> bool:
        """Whether processes die, or are taken for dead."""
        return any((self.deaths, self.long_stalls, self.partings))


WEATHERS = {
    "fair": Weather(),
    "calm": Weather(stalls=6),
    "draining": Weather(stalls=4, drains=4),
    "deaths": Weather(stalls=4, drains=2, deaths=4, pace=2),
    "outages": Weather(stalls=3, silences=7, restarts=3),
    "partings": Weather(stalls=3, partings=5, pace=4, messages=40),
    "standstills": Weather(stalls=4, long_stalls=5, pace=4, messages=40),
    "kicks": Weather(stalls=3, resets=4, kicks=6),
    "forgets": Weather(stalls=3, forgets=3),
    "failovers": Weather(stalls=3, failovers=4),
    "impatient": Weather(stalls=6, drains=2, impatient=True),
    "forgetful": Weather(silences=2, kicks=2, drains=2, impatient=True, forgetful=True),
    "upgrades": Weather(stalls=2, drains=5, visits=10),
    "everything": Weather(
        stalls=3,
        long_stalls=1,
        drains=2,
        deaths=2,
        silences=3,
        restarts=1,
        partings=1,
        resets=1,
        kicks=1,
        visits=1,
        impatient=True,
        forgetful=True,
        pace=3,
        messages=25,
    ),
    "disasters": Weather(
        stalls=3,
        long_stalls=1,
        drains=2,
        deaths=2,
        silences=2,
        restarts=1,
        forgets=1,
        failovers=1,
        partings=1,
        kicks=1,
        impatient=True,
        pace=3,
        messages=25,
    ),
}

# What is counted: messages that were sent, and acknowledged; deliveries; and what went wrong with those.
ACCOUNTS = ("sent", "acked", "delivered", "lost silently", "told", "doubled", "reordered", "broken")

# How long Redis is silent: around the time after which the layer notices, and after which it gives a connection up.
SILENCES = (0.1, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 2.0, 5.0)

# How long a process is cut off: shorter and longer than it takes to be taken for dead.
PARTINGS = (0.2, 0.8, 2.0, 3.0, 5.0, 20.0)

# How long a message may wait that may not wait for long.
SHORT_SECS = 1


class Broken(AssertionError):
    """Something did not hold."""


@dataclass(eq=False)
class Message:
    """What was published, for whom, and what its publisher was told."""

    text: str
    stream: str
    number: int
    # Who has to be told of it, and who may be.
    audience: frozenset[str]
    meant: Callable[[Person | Passer], bool]
    began: float
    ended: float = float("inf")
    claimed: bool = False
    # It failed once, or was said anew: its place among the others is not promised.
    misplaced: bool = False
    # It need not wait for whoever is away.
    brief: bool = False


class Person(Client):
    """A client as SDKs are, in bad weather: publishes under ackIds, and says what was not answered again."""

    def __init__(self, storm: Storm, name: str, user_id: str) -> None:
        super().__init__(storm.world, HUB, user_id=user_id, acks=False)
        self.storm = storm
        self.name = name
        # How it acknowledges: each message, now and then, or never.
        self.every = storm.dice.choice((1, 1, 7, 10_000))
        self.waiting: dict[int, dict[str, Any]] = {}
        self.said: dict[int, Message] = {}
        self.last_ack_id = 0
        # Why it will not come back.
        self.lost: str | None = None
        # Numbers that it was not told.
        self.skipped = 0
        # When it began to try to come back, and how long that took each time.
        self._away_since: float | None = None
        self.recoveries: list[float] = []

    # Sockets

    @property
    def is_there(self) -> bool:
        """Whether it has a connection, as far as it knows."""
        return bool(self.token) and self.lost is None

    @property
    def pending(self) -> bool:
        """Whether the last attempt to come back may still succeed."""
        socket = self.socket
        over = socket.gone or socket.process.dead or socket.refused or socket.done
        return not over and socket.accepted is None

    @property
    def open(self) -> bool:
        """Whether its socket is."""
        socket = self.socket
        return socket.accepted is not None and not (socket.gone or socket.process.dead) and socket.closed is None

    def try_again(self, process: Process) -> None:
        """Come back to a process, and say what was not answered; or begin, where it never had a connection."""
        if not self.token:
            self.start(process, "g")
            return
        if self._away_since is None:
            self._away_since = self.world.now
        self.come_back(process)
        for ack_id, frame in self.waiting.items():
            self.socket.say(frame)
            if self.storm.weather.may_refuse and ack_id in self.said:
                # It may have been refused, and those behind it not.
                self.said[ack_id].misplaced = True

    def look(self) -> None:
        """Note that the connection is lost, if it is."""
        closed = self.socket.closed
        if self.token and closed is not None and closed[0] == 1008 and self.lost is None:
            self.lost = self.told_of_end or closed[1]
        if self._away_since is not None and self.open:
            self.recoveries.append(self.world.now - self._away_since)
            self._away_since = None

    # Speaking

    def ask(self, frame: dict[str, Any]) -> int:
        """Say something under a new ackId."""
        self.last_ack_id += 1
        self.waiting[self.last_ack_id] = frame = frame | {"ackId": self.last_ack_id}
        self.socket.say(frame)
        return self.last_ack_id

    def publish(self, *, no_echo: bool = False) -> None:
        """Send to the group that all are in."""
        message = self.storm.new_message(f"client {self.name}", lambda person: not (no_echo and person is self))
        frame = {"type": "sendToGroup", "group": "g", "dataType": "text", "data": message.text, "noEcho": no_echo}
        self.said[self.ask(frame)] = message

    def call(self) -> None:
        """Have an event handled."""
        message = self.storm.new_message(f"event {self.name}", lambda person: person is self)
        self.said[self.ask({"type": "event", "event": "work", "dataType": "text", "data": message.text})] = message

    # Hearing

    told_of_end = ""

    def _take(self, socket: Socket, frame: dict[str, Any]) -> None:
        if socket is not self.socket:
            # It has let go of that one.
            return
        kind, number = frame.get("type"), frame.get("sequenceId")
        if kind == "ack":
            self._answered(frame)
            return
        if kind == "system" and frame.get("event") == "disconnected":
            self.told_of_end = frame.get("message", "")
        if number is not None and self.last and number > self.last + 1:
            self.skipped += number - self.last - 1
            self.last = number - 1
        super()._take(socket, frame)
        if self.last and self.last % self.every == 0 and number is not None:
            self.acknowledge()

    def _answered(self, frame: dict[str, Any]) -> None:
        ack_id = frame["ackId"]
        if ack_id not in self.waiting:
            return
        message = self.said.get(ack_id)
        if frame["success"] or frame["error"]["name"] == "Duplicate":
            del self.waiting[ack_id]
            if message is not None:
                message.claimed, message.ended = True, self.world.now
            return
        # Not everywhere, perhaps: again, under the same ackId, after a while.
        if message is not None:
            message.misplaced = True
        self.storm.later(0.3, partial(self._say_again, ack_id))

    def _say_again(self, ack_id: int) -> None:
        if ack_id in self.waiting and self.open:
            self.socket.say(self.waiting[ack_id])


class Passer(Client):
    """A simple client: its connection ends with its socket."""

    subprotocol = "json.webpubsub.azure.v1"

    def __init__(self, storm: Storm, number: int) -> None:
        super().__init__(storm.world, HUB, user_id="x", acks=False)
        self.storm = storm
        self.name = f"passer {number}"
        self.here = False

    @property
    def open(self) -> bool:
        """Whether its socket is."""
        socket = self.socket
        return socket.accepted is not None and not (socket.gone or socket.process.dead) and socket.closed is None

    @property
    def is_there(self) -> bool:
        """Whether it has a connection, as far as it knows."""
        return self.here and self.open

    def _take(self, socket: Socket, frame: dict[str, Any]) -> None:
        if frame.get("event") == "connected":
            self.here = True
        elif frame["type"] == "message":
            self.told.append(frame)


@dataclass(frozen=True)
class Way:
    """A way to publish: whom it is for, and how."""

    send: Callable[[Storm, Payload], Awaitable[Any]]
    meant: Callable[[Person | Passer], bool] = lambda person: True
    # Sent before the last one's fate is known.
    pipelined: bool = False
    brief: bool = False


async def _post(storm: Storm, payload: Payload, **options: Any) -> None:
    posted = operations.post_to_group(HUB, "g", payload, **options)
    if posted is not None:
        await posted


def _first(storm: Storm) -> str:
    return storm.persons[0].id


def _is_first(person: Person | Passer) -> bool:
    return person.name.split(".")[0] == "p0"


WAYS = {
    "group": Way(lambda storm, payload: operations.send_to_group(HUB, "g", payload)),
    "group but one": Way(
        lambda storm, payload: operations.send_to_group(HUB, "g", payload, excluded=(_first(storm),)),
        lambda person: not _is_first(person),
    ),
    "group filtered": Way(
        lambda storm, payload: operations.send_to_group(HUB, "g", payload, filter="userId eq 'u'"),
        lambda person: person.user_id == "u",
    ),
    "hub": Way(lambda storm, payload: operations.send_to_all(HUB, payload)),
    "hub filtered": Way(
        lambda storm, payload: operations.send_to_all(HUB, payload, filter="'g' in groups and userId eq 'v'"),
        lambda person: person.user_id == "v",
    ),
    "user": Way(
        lambda storm, payload: operations.send_to_user(HUB, "u", payload), lambda person: person.user_id == "u"
    ),
    "connection": Way(
        lambda storm, payload: operations.send_to_connection(HUB, _first(storm), payload),
        _is_first,
    ),
    "posted": Way(_post, pipelined=True),
    "posted but one": Way(
        lambda storm, payload: _post(storm, payload, excluded=(_first(storm),)),
        lambda person: not _is_first(person),
        pipelined=True,
    ),
    "lasting": Way(lambda storm, payload: operations.send_to_group(HUB, "g", payload, ttl_secs=300)),
    "brief": Way(lambda storm, payload: operations.send_to_group(HUB, "g", payload, ttl_secs=SHORT_SECS), brief=True),
}


class Storm:
    """One run."""

    def __init__(self, seed: int, weather: Weather, *, processes: int = 3, persons: int = 4) -> None:
        self.seed, self.weather = seed, weather
        self.dice = random.Random(seed)
        self._processes, self._persons = processes, persons
        self.world: World
        self.log: list[str] = []
        self.messages: dict[str, Message] = {}
        self._numbers: Counter[str] = Counter()
        self.runs: dict[str, list[Process]] = {}
        # What was seen to be wrong, and of whom; what somebody lost was not there is no fault.
        self.wrong: list[tuple[Person | None, str]] = []
        # What came of it all, in numbers.
        self.accounts: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self.leaving: set[Process] = set()
        # Those that were taken for dead, or may have been.
        self.dead: set[Process] = set()
        self._tasks: list[asyncio.Task[Any]] = []
        self._streams: dict[Process, list[asyncio.Task[Any]]] = {}
        self._closings: list[asyncio.Task[Any]] = []
        self._is_closed = self._over = False
        # Redis has forgotten something.
        self.forgot = False
        self.persons: list[Person] = []
        # Those that were told that their connections are lost, and began anew.
        self.gone: list[Person] = []
        self.passers: list[Passer] = []
        # One that is closed in the middle of it.
        self.victim: Person
        self.connected: set[str] = set()
        self.disconnected: Counter[str] = Counter()
        # What was last asked about the groups of a person, and whether that is known to be so.
        self.membership: dict[str, bool | None] = {}

    def note(self, what: str) -> None:
        """For whoever has to find out why."""
        self.log.append(f"{self.world.now:10.4f} {what}")

    def _entries(self) -> Iterator[str]:
        """What is in the log of the hub."""
        redis = self.world.redis
        names = {process.node.process: process.name for process in self.world.processes}
        for key, stream in redis.master.keyspace.values.items():
            if not isinstance(stream, Stream) or not key.endswith(hub_log(HUB).encode()):
                continue
            for (milliseconds, number), (_, fields) in zip(stream.ids, map(decoded, stream.entries), strict=True):
                when = milliseconds / 1000 - redis.master.skew - WALL_TIME
                if fields[0] != b"m":
                    continue
                message = self.world.processes[0].layer._decode(fields[1])
                with suppress(msgspec.MsgspecError):
                    entry, origin = decode(message["body"]), message["origin"]
                    yield f"{when:10.4f} {number}: {names.get(origin, origin)} appended {entry}"

    def later(self, secs: float, call: Callable[[], None]) -> None:
        """Have something done at another time, whoever dies meanwhile."""
        self.world.redis.loop.call_later(secs, call)

    def new_message(self, stream: str, meant: Callable[[Person | Passer], bool]) -> Message:
        """The next message of a stream."""
        self._numbers[stream] += 1
        number = self._numbers[stream]
        audience = frozenset(
            person.name for person in (*self.persons, *self.passers) if person.is_there and meant(person)
        )
        message = Message(f"{stream} {number}", stream, number, audience, meant, self.world.now)
        self.messages[message.text] = message
        return message

    def running(self) -> Process:
        """The process that does what is being done."""
        loop = asyncio.get_running_loop()
        return next(process for process in self.world.processes if process.loop is loop)

    @property
    def open_processes(self) -> list[Process]:
        """Those that let clients in."""
        return [process for process in self.world.processes if not process.dead and process not in self.leaving]

    # The run

    def rage(self, kind: str = "mixed") -> None:
        """Begin, rage, clear up, and make the accounts. Raises Broken, or what else went wrong."""
        World.KIND = kind
        with _names_from(self.seed), _garbage_kept():
            try:
                self._rage()
            except BaseException as problem:
                problem.add_note("\n".join(sorted(self.log + list(self._entries()))))
                raise

    def _rage(self) -> None:
        self.world = World(self.seed, processes=self._processes)
        with _application(self):
            with self.world:
                self._begin()
                for _ in range(self.weather.steps):
                    self._step()
                self._clear()
                self._judge()
            self._judge_ends()

    def _begin(self) -> None:
        self.persons += [Person(self, f"p{number}", "uv"[number % 2]) for number in range(self._persons)]
        self.membership.update((person.name, False) for person in self.persons)
        self.victim = Person(self, "victim", "w")
        redis = self.world.redis
        redis.usual_slow = self.dice.choice((0.0, 0.002, 0.02))
        for process in self.world.processes:
            self._set_delays(process)
        for person in (*self.persons, self.victim):
            home = self.dice.choice(self.world.processes)
            person.connect(home, "g")
            self.note(f"{person.name} is {person.id}, at {home.name}")
        self._pass_by()
        for process in self.world.processes:
            self._publish_in(process)

    def _set_delays(self, process: Process) -> None:
        slow = self.world.redis.slow
        for kind in (WRITING, READING):
            for inwards in (True, False):
                slow[process, kind, inwards] = self.dice.choice(
                    (0.0, 0.0, 0.003, 0.03, 0.3 if self.weather.may_refuse else 0.1)
                )

    def _publish_in(self, process: Process, starting: asyncio.Task[None] | None = None) -> None:
        ways = self.dice.sample(list(WAYS), 5)
        self._streams[process] = [process.spawn(self._stream(process, name, starting)) for name in ways]

    async def _stream(self, process: Process, name: str, starting: asyncio.Task[None] | None) -> None:
        if starting is not None:
            await asyncio.wait({starting})
        way, stream = WAYS[name], f"{process.name} {name}"
        under_way: set[asyncio.Task[None]] = set()
        for _ in range(self.weather.messages):
            if process in self.leaving or self._over:
                break
            message = self.new_message(stream, way.meant)
            message.brief = way.brief
            sending = asyncio.create_task(self._send(way, message))
            if way.pipelined:
                under_way.add(sending)
                await asyncio.sleep(0)
            else:
                await sending
            await asyncio.sleep(self.dice.choice((0, 0.001, 0.02, 0.1, 0.4)) * self.weather.pace)
        if under_way:
            await asyncio.wait(under_way)

    async def _send(self, way: Way, message: Message) -> None:
        try:
            await way.send(self, Payload("text", message.text.encode()))
        except NotFound as problem:
            message.misplaced = True
            self.wrong.append((self.persons[0], f"{message.text} was answered with: {problem.message}"))
        except Refusal:
            message.misplaced = True
        else:
            message.claimed = True
        message.ended = self.world.now

    def _step(self) -> None:
        for person in (*self.persons, self.victim):
            person.look()
            self._move(person)
        person = self.dice.choice(self.persons)
        if person.is_there:
            if self.dice.random() < 0.5:
                for _ in range(self.dice.choice((1, 2, 5))):
                    person.publish(no_echo=self.dice.random() < 0.3)
            if self.dice.random() < 0.15:
                person.call()
            if self.dice.random() < 0.3:
                person.acknowledge()
            if self.dice.random() < 0.3:
                self._change_membership(person)
        if self.dice.random() < 0.3:
            self._look_into()
        if self.dice.random() < 0.04 and not self._closings:
            self._close_victim()
        self._pass_by()
        self._fault()
        if self.dice.random() < 0.1:
            self._set_delays(self.dice.choice(self.open_processes))
        self.world.pass_time(self.dice.choice((0, 0.001, 0.01, 0.05, 0.2, 0.5)) * self.weather.pace)

    def _move(self, person: Person) -> None:
        if person is self.victim and self._closings and person.socket.closed:
            return
        if person.lost is not None:
            if person in self.persons and self.weather.may_forget and self.dice.random() < 0.3:
                self._replace(person)
            return
        patient = not self.weather.impatient and person.pending
        if person.open and self.dice.random() < 0.25:
            self.note(f"{person.name} loses its socket")
            person.socket.lose()
        elif not person.open and not patient and self.dice.random() < 0.6:
            self._let_go(person.socket)
            process = self.dice.choice(self.open_processes)
            self.note(f"{person.name} comes back to {process.name}")
            person.try_again(process)

    def _let_go(self, socket: Socket) -> None:
        """A client gives an attempt up; perhaps the server hears of it only later."""
        if socket.gone:
            return
        stands = socket.process.stalled_until > self.world.now
        if self.weather.forgetful and not stands and self.dice.random() < 0.5:
            self.later(self.dice.choice((0.5, 2, 10)), socket.lose)
        else:
            socket.lose()

    def _replace(self, person: Person) -> None:
        """Begin anew, as a client that was told that its connection is lost."""
        self.accounts["told"] += 1
        name = f"{person.name.split('.')[0]}.{len(self.world.clients)}"
        newcomer = Person(self, name, person.user_id or "")
        process = self.dice.choice(self.open_processes)
        self.note(f"{person.name} begins anew as {name} at {process.name}")
        newcomer.start(process, "g")
        self.persons[self.persons.index(person)] = newcomer
        self.gone.append(person)

    def _pass_by(self) -> None:
        """Simple clients come and go."""
        if self.dice.random() < 0.3 and len(self.passers) < 20:
            passer = Passer(self, len(self.passers))
            process = self.dice.choice(self.open_processes)
            passer.start(process, "g")
            self.note(f"{passer.name} is {passer.id}, at {process.name}")
            self.passers.append(passer)
        for passer in self.passers:
            if passer.open and self.dice.random() < 0.05:
                self.note(f"{passer.name} goes")
                self.dice.choice((passer.socket.lose, passer.socket.leave))()

    # Faults

    def _fault(self) -> None:
        weather, redis, number = self.weather, self.world.redis, self.dice.randrange(100)
        for count, fault in (
            (weather.stalls, self._stall),
            (weather.long_stalls, self._stall_long),
            (weather.drains, self._drain),
            (weather.deaths, self._kill),
            (weather.silences, self._silence),
            (weather.restarts, self._restart),
            (weather.forgets, self._forget),
            (weather.failovers, self._fail_over),
            (weather.partings, self._part),
            (weather.resets, self._reset),
            (weather.kicks, self._kick),
            (weather.visits, self._visit),
        ):
            if number < count:
                if not redis.frozen and not redis.away:
                    fault()
                return
            number -= count

    def _stall(self) -> None:
        process = self.dice.choice(self.open_processes)
        secs = self.dice.choice((0.05, 0.3, 1.0, 1.5, 2.0))
        self.note(f"{process.name} stalls for {secs} s")
        process.stall(secs)

    def _stall_long(self) -> None:
        process = self.dice.choice(self.open_processes)
        secs = self.dice.choice((2.5, 4.0, 20.0))
        self.note(f"{process.name} stalls for {secs} s")
        self.dead.add(process)
        process.stall(secs)

    def _drain(self) -> None:
        processes = self.open_processes
        if len(processes) < 2:
            return
        process = self.dice.choice(processes)
        self.note(f"{process.name} drains")
        self.leaving.add(process)
        self._tasks.append(process.spawn(self._stop(process)))
        self._newcomer()

    async def _stop(self, process: Process) -> None:
        await asyncio.wait(self._streams[process])
        await drain()
        # As hubs/lifespan.py does.
        recovery.stop()
        await operations.all_told()
        await dispatch.stop()
        await process.node.stop()
        self.note(f"{process.name} has stopped")
        self.later(0, process.die)

    def _kill(self) -> None:
        processes = self.open_processes
        if len(processes) < 2:
            return
        process = self.dice.choice(processes)
        self.note(f"{process.name} is killed")
        self.dead.add(process)
        process.die()
        self._newcomer()

    def _newcomer(self) -> None:
        process = self.world.join()
        self.note(f"{process.name} begins")
        self._set_delays(process)

        async def start() -> None:
            while True:
                try:
                    await process.node.start()
                    return
                except Refusal:
                    await asyncio.sleep(0.1)

        starting = process.spawn(start())
        self._tasks.append(starting)
        self._publish_in(process, starting)

    def _silence(self) -> None:
        secs = self.dice.choice(SILENCES)
        self.note(f"Redis is silent for {secs} s")
        self.world.redis.freeze()
        self.later(secs, self._thaw)

    def _thaw(self) -> None:
        self.note("Redis answers again")
        self.world.redis.thaw()

    def _restart(self) -> None:
        secs, loads = self.dice.choice((0.0, 0.3, 2.0, 8.0)), self.dice.choice((0.0, 0.5))
        self.note(f"Redis is away for {secs} s, and loads for {loads} s")
        self.world.redis.die()
        self.later(secs, partial(self.world.redis.come_back, loads))

    def _forget(self) -> None:
        secs = self.dice.choice((0.0, 0.3, 2.0))
        self.note(f"Redis is away for {secs} s, and has forgotten everything")
        self.forgot = True
        self.world.redis.die(appendonly=False)
        self.later(secs, self.world.redis.come_back)

    def _fail_over(self) -> None:
        lost, lingers = self.dice.choice((0, 1, 3, 20)), self.dice.choice((0.0, 0.1, 1.0))
        self.note(f"a replica becomes master without the last {lost} commands, the former one goes in {lingers} s")
        self.forgot = True
        self.world.redis.fail_over(lost, lingers)

    def _part(self) -> None:
        process = self.dice.choice(self.open_processes)
        if process in self.world.redis.parted:
            return
        secs, refused = self.dice.choice(PARTINGS), self.dice.random() < 0.5
        self.note(f"{process.name} is cut off from Redis for {secs} s{', and refused' if refused else ''}")
        if secs > 1:
            self.dead.add(process)
        self.world.redis.part(process, refused=refused)
        self.later(secs, partial(self._join, process))

    def _join(self, process: Process) -> None:
        self.note(f"{process.name} reaches Redis again")
        self.world.redis.join(process)

    def _reset(self) -> None:
        process = self.dice.choice(self.open_processes)
        kind = self.dice.choice((WRITING, READING))
        self.note(f"{process.name} loses its connection for {kind}")
        self.world.redis.cut(self.world.redis.of(process, kind))

    def _kick(self) -> None:
        process = self.dice.choice(self.open_processes)
        self.note(f"{process.name} is disconnected by Redis")
        self.world.redis.kick(self.world.redis.of(process, READING))

    def _visit(self) -> None:
        """Entries of another version come into the logs."""
        process = self.dice.choice(self.open_processes)
        body = msgspec.msgpack.encode(self.dice.choice((["zz", 1, {"a": b"b"}], ["zz"], [7], {"zz": 1})))
        message = {"type": "hubwire.entry", "v": 99, "origin": "visitor", "n": 1, "body": body, "new": [1]}

        async def visit() -> None:
            with suppress(Exception):
                await process.layer.post(self.dice.choice((CONTROL_LOG, hub_log(HUB))), message)

        self._tasks.append(process.spawn(visit()))

    # Servers' questions and wishes

    def _change_membership(self, person: Person) -> None:
        if person.name not in self.membership:
            return
        comes = self.dice.random() < 0.5
        process = self.dice.choice(self.open_processes)
        if self.dice.random() < 0.5:
            work = operations.add_connection_to_group if comes else operations.remove_connection_from_group
            doing = work(HUB, person.id, "h")
        else:
            doing = (
                operations.add_to_groups(HUB, ["h"], f"connectionId eq '{person.id}'")
                if comes
                else operations.remove_from_groups(HUB, ["h"], f"connectionId eq '{person.id}'")
            )

        async def change() -> None:
            try:
                await doing
            except NotFound:
                self.wrong.append((person, f"{self.world.now:.4f}: {person.name} was not found in {process.name}"))
                self.membership[person.name] = None
            except Refusal:
                self.membership[person.name] = None
            else:
                self.membership[person.name] = comes

        self.membership[person.name] = None
        # One after the other, or nobody could say what is so in the end.
        task = process.spawn(change())
        while not task.done() and not process.dead:
            self.world.turn()

    def _look_into(self) -> None:
        process = self.dice.choice(self.open_processes)
        person = self.dice.choice(self.persons)
        if person.is_there:
            what = self.dice.choice(("exists", "user", "list"))
            self._tasks.append(process.spawn(self._ask(process, person, what)))

    async def _ask(self, process: Process, person: Person, what: str) -> None:
        began = self.world.now
        try:
            if what == "exists":
                right = await operations.connection_exists(HUB, person.id)
            elif what == "user":
                right = await operations.user_exists(HUB, person.user_id or "")
            else:
                rows = await operations.list_group(HUB, "g", after=None, limit=100)
                right = person.id in [row[0] for row in rows]
        except Refusal:
            return
        if not right:
            span = f"{began:.4f}–{self.world.now:.4f}"
            self.wrong.append((person, f"{span}: {process.name} does not know {person.name} ({what})"))

    def _close_victim(self) -> None:
        process = self.dice.choice(self.open_processes)
        by_user = self.dice.random() < 0.5

        async def close() -> None:
            while not self._over:
                try:
                    if by_user:
                        await operations.close_user(HUB, "w")
                    else:
                        await operations.close_connection(HUB, self.victim.id)
                    self._is_closed = True
                    return
                except NotFound:
                    if not self.disconnected[self.victim.id]:
                        self.wrong.append((self.victim, f"{self.world.now:.4f}: {process.name} finds no victim"))
                    return
                except Refusal:
                    await asyncio.sleep(0.5)

        self.note(f"{process.name} closes the victim")
        self._closings.append(process.spawn(close()))

    # The end

    def _clear(self) -> None:
        """Let everything become good."""
        self.note("the weather clears")
        world, redis = self.world, self.world.redis
        world.until(lambda: not redis.frozen and not redis.away and not redis.parted)
        world.until(lambda: all(process.dead or process.stalled_until <= world.now for process in world.processes))
        self._over = True
        redis.slow.clear()
        redis.usual_slow = 0.01
        # At once, for some may have been away for long.
        for rounds in range(36):
            for person in self.persons:
                person.look()
                if person.lost is None and not person.open and not person.pending:
                    person.try_again(self.dice.choice(self.open_processes))
            world.pass_time(1)
            if rounds >= 6 and all(person.lost is not None or person.open for person in self.persons):
                break
        for person in self.persons:
            if person.lost is None and not person.open:
                raise Broken(f"{person.name} does not get its connection back")

        def answered() -> bool:
            for person in self.persons:
                person.look()
            return all(person.lost is not None or not person.waiting for person in self.persons)

        try:
            world.until(answered, limit=60)
        except AssertionError:
            left = {person.name: person.waiting for person in self.persons if person.waiting and not person.lost}
            raise Broken(f"not answered: {left}") from None
        alive = [task for process, tasks in self._streams.items() if not process.dead for task in tasks]
        alive += [task for task in (*self._tasks, *self._closings) if not task.get_loop().is_closed()]
        dead_loops = {process.loop for process in world.processes if process.dead}
        world.until(lambda: all(task.done() or task.get_loop() in dead_loops for task in alive))
        for task in alive:
            if task.done() and not task.cancelled():
                task.result()
        # Late answers of processes that were asked.
        world.settle(2)

    def _judge(self) -> None:
        for person in (*self.persons, *self.gone):
            person.look()
        problems = [text for person, text in self.wrong if person is None or person.lost is None]
        for person in (*self.persons, *self.gone):
            if person.lost is not None and not self.forgot:
                problems.append(f"{person.name} lost its connection: {person.lost}")
            problems += self._heard_by(person)
            self.recoveries += person.recoveries
        for passer in self.passers:
            problems += self._heard_by(passer)
        for text, processes in self.runs.items():
            if sum(process not in self.dead for process in processes) > 1:
                problems.append(f"{text} was handled by {[process.name for process in processes]}")
        problems += self._memberships()
        if self._is_closed:
            where = [
                process.name
                for process in self.world.processes
                if not process.dead and process.connection(self.victim) is not None
            ]
            if where:
                problems.append(f"the victim was closed, and is at {where}")
        self.accounts["sent"] = len(self.messages)
        self.accounts["acked"] = sum(message.claimed for message in self.messages.values())
        if problems:
            raise Broken("\n".join(problems))

    def _judge_ends(self) -> None:
        """Each connection has ended, and `disconnected` was told once."""
        # Who had it may have died when nobody knew any more what it had.
        at_least = 0 if self.forgot and self.weather.may_kill else 1
        problems = [
            f"{connection_id} ended {self.disconnected[connection_id]} times"
            for connection_id in {*self.connected, *self.disconnected}
            if not at_least <= self.disconnected[connection_id] <= 1
        ]
        if problems:
            raise Broken("\n".join(sorted(problems)))

    def _heard_by(self, person: Person | Passer) -> Iterator[str]:
        heard: Counter[str] = Counter()
        last: dict[str, int] = {}
        for text in person.texts:
            text = text.removeprefix("done: ")
            message = self.messages.get(text)
            # Who began anew may be told what was not to be for its former connection.
            if message is None or not (message.meant(person) or "." in person.name):
                yield f"{person.name} heard what was not for it: {text}"
                continue
            heard[text] += 1
            if heard[text] == 1 and not message.misplaced:
                if message.number < last.get(message.stream, 0):
                    self.accounts["reordered"] += 1
                    yield f"{person.name} heard {text} behind {last[message.stream]}"
                last[message.stream] = max(message.number, last.get(message.stream, 0))
        self.accounts["delivered"] += len(heard)
        for text, count in heard.items():
            if count > 1:
                self.accounts["doubled"] += 1
                yield f"{person.name} heard {text} {count} times ({self._about(text)})"
        if not person.is_there or (isinstance(person, Passer) and self.forgot):
            return
        brief = 0
        for text, message in self.messages.items():
            if not heard[text] and message.brief:
                brief += 1
            elif message.claimed and person.name in message.audience and not heard[text]:
                self.accounts["lost silently"] += 1
                yield f"{person.name} did not hear {text} ({self._about(text)})"
        if isinstance(person, Person) and person.skipped > brief:
            yield f"{person.name} was not told {person.skipped} numbers, and {brief} messages may have expired"

    def _about(self, text: str) -> str:
        message = self.messages[text]
        said = "success" if message.claimed else "refusal"
        return f"{said}, {message.began:.4f}–{message.ended:.4f}{', again' if message.misplaced else ''}"

    def _memberships(self) -> Iterator[str]:
        process = self.open_processes[0]
        for person in self.persons:
            expected = self.membership.get(person.name)
            if expected is None or person.lost is not None:
                continue
            rows = process.run(operations.list_group(HUB, "h", after=None, limit=100))
            if (person.id in [row[0] for row in rows]) != expected:
                yield f"{person.name} is {'not ' if expected else ''}in h"


@contextmanager
def _application(storm: Storm) -> Iterator[None]:
    """The event handlers of the hub."""
    own = hub(HUB)

    @own.on_event("work")
    async def work(request: UserEventRequest) -> str:
        storm.runs.setdefault(request.data, []).append(storm.running())
        await asyncio.sleep(storm.dice.choice((0, 0.05, 0.5, 2)))
        return f"done: {request.data}"

    @own.on_connected
    async def connected(context: Any) -> None:
        storm.connected.add(context.connection_id)

    @own.on_disconnected
    async def disconnected(context: Any, reason: str) -> None:
        storm.note(f"{context.connection_id} ended: {reason}")
        storm.disconnected[context.connection_id] += 1

    try:
        yield
    finally:
        del handlers._HUBS[own.hub]


@contextmanager
def _names_from(seed: int) -> Iterator[None]:
    """Whatever has a random name has it from the seed, too, so that a run can be repeated exactly."""
    dice = random.Random(seed)
    originals = secrets.token_hex, secrets.token_urlsafe, uuid.uuid4
    secrets.token_hex = lambda size=16: dice.randbytes(size).hex()
    secrets.token_urlsafe = lambda size=16: base64.urlsafe_b64encode(dice.randbytes(size)).rstrip(b"=").decode()
    uuid.uuid4 = lambda: uuid.UUID(bytes=dice.randbytes(16), version=4)
    try:
        yield
    finally:
        secrets.token_hex, secrets.token_urlsafe, uuid.uuid4 = originals


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """What is left in cycles does things as it goes, which is no matter of chance then."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def rage(seed: int, weather: Weather, kind: str = "mixed") -> Storm:
    """Run one storm. Raises Broken, or what else went wrong."""
    storm = Storm(seed, weather)
    storm.rage(kind)
    return storm
