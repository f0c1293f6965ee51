"""Storms: everything that may happen to processes, sockets and clients, at random and all at once, and what must hold.

A storm is drawn from a seed. Streams of messages flow by every way there is to publish; clients publish too, each
frame under an ackId that is sent again until it is answered. Meanwhile clients lose their sockets and come back
anywhere, processes stall, stop in good order, die and begin, Redis falls silent or is cut off, memberships change.
Then the weather clears, everybody comes back, and the accounts are made:

* Whoever was meant all the time is told each message whose publisher was told success exactly once, and those
  of one stream in their order. One that was refused may arrive or not, but not twice; nor may one that was sent again.
* A frame that has an event handler at work is handled once, and answered once.
* No connection is lost but with its process.
* Whoever asks is told the truth, or that it cannot be known.
* In the end nothing is left over (`World.__exit__`).

`python -m tests.connections` runs as many as you like; test_storm.py has a few.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from hubs import operations
from hubs.connections import recovery
from hubs.connections.draining import drain
from hubs.errors import NotFound, Refusal
from hubs.protocols.frames import Payload
from hubs.upstream import UserEventRequest, dispatch, handlers, hub
from tests.connections.world import Client, Process, Socket, StormyWorld

HUB = "storm"


@dataclass(frozen=True)
class Weather:
    """What happens besides clients that lose their sockets, and how often: of a hundred steps, so many."""

    stalls: int = 0
    drains: int = 0
    deaths: int = 0
    silences: int = 0
    cuts: int = 0
    # One process alone loses one of its connections to Redis. Others cannot know at once, so what is published just
    # then may be missed there.
    partings: int = 0
    # Whether clients try again elsewhere before they know what came of the last attempt.
    impatient: bool = False
    steps: int = 40
    messages: int = 12

    @property
    def may_refuse(self) -> bool:
        """Whether there is a reason to refuse what clients send."""
        return any((self.stalls, self.drains, self.deaths, self.silences, self.cuts, self.partings))


WEATHERS = {
    "fair": Weather(),
    "calm": Weather(stalls=6),
    "draining": Weather(stalls=4, drains=4),
    "deaths": Weather(stalls=4, drains=2, deaths=3),
    "outages": Weather(stalls=3, silences=7, cuts=3),
    "partings": Weather(stalls=3, partings=7),
    "impatient": Weather(stalls=6, drains=2, impatient=True),
    "everything": Weather(stalls=3, drains=2, deaths=1, silences=3, cuts=1, impatient=True),
}

# How long Redis is silent: around the time after which the layer notices, and after which it gives a connection up.
SILENCES = (0.1, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 2.0)

# Before and after a parting: what is published so close to it may be missed.
BLIND_SECS = 4.0


class Broken(AssertionError):
    """Something did not hold."""


@dataclass(eq=False)
class Message:
    """What was published, for whom, and what its publisher was told."""

    text: str
    stream: str
    number: int
    audience: frozenset[str]
    began: float
    ended: float = float("inf")
    claimed: bool = False
    # It failed once, or was said anew: its place among the others is not promised.
    misplaced: bool = False


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
        self.home: Process | None = None

    # Sockets

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
        """Come back to a process, and say what was not answered."""
        self.home = process
        self.come_back(process)
        for ack_id, frame in self.waiting.items():
            self.socket.say(frame)
            if self.storm.weather.may_refuse and ack_id in self.said:
                # It may have been refused, and those behind it not.
                self.said[ack_id].misplaced = True

    def look(self) -> None:
        """Note that the connection is lost, if it is."""
        closed = self.socket.closed
        if closed is not None and closed[0] == 1008 and self.lost is None:
            self.lost = closed[1]

    # Speaking

    def ask(self, frame: dict[str, Any]) -> int:
        """Say something under a new ackId."""
        self.last_ack_id += 1
        self.waiting[self.last_ack_id] = frame = frame | {"ackId": self.last_ack_id}
        self.socket.say(frame)
        return self.last_ack_id

    def publish(self, *, no_echo: bool = False) -> None:
        """Send to the group that all are in."""
        stream = f"client {self.name}"
        audience = {person.name for person in self.storm.persons} - ({self.name} if no_echo else set())
        message = self.storm.new_message(stream, audience)
        frame = {"type": "sendToGroup", "group": "g", "dataType": "text", "data": message.text, "noEcho": no_echo}
        self.said[self.ask(frame)] = message

    def call(self) -> None:
        """Have an event handled."""
        message = self.storm.new_message(f"event {self.name}", {self.name})
        self.said[self.ask({"type": "event", "event": "work", "dataType": "text", "data": message.text})] = message

    # Hearing

    def _take(self, socket: Socket, frame: dict[str, Any]) -> None:
        if socket is not self.socket:
            # It has let go of that one.
            return
        if frame.get("type") == "ack":
            self._answered(frame)
            return
        super()._take(socket, frame)
        if self.last and self.last % self.every == 0 and frame.get("sequenceId") is not None:
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


@dataclass(frozen=True)
class Way:
    """A way to publish: whom it is for, and how."""

    send: Callable[[Storm, Payload], Awaitable[Any]]
    meant: Callable[[Person], bool] = lambda person: True
    # Sent before the last one's fate is known.
    pipelined: bool = False
    ordered: bool = True


async def _post(storm: Storm, payload: Payload, **options: Any) -> None:
    posted = operations.post_to_group(HUB, "g", payload, **options)
    if posted is not None:
        await posted


def _first(storm: Storm) -> str:
    return storm.persons[0].id


WAYS = {
    "group": Way(lambda storm, payload: operations.send_to_group(HUB, "g", payload)),
    "group but one": Way(
        lambda storm, payload: operations.send_to_group(HUB, "g", payload, excluded=(_first(storm),)),
        lambda person: person.name != "p0",
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
    # Passed on from process to process while it moves, and then perhaps overtaken.
    "connection": Way(
        lambda storm, payload: operations.send_to_connection(HUB, _first(storm), payload),
        lambda person: person.name == "p0",
        ordered=False,
    ),
    "posted": Way(_post, pipelined=True),
    "posted but one": Way(
        lambda storm, payload: _post(storm, payload, excluded=(_first(storm),)),
        lambda person: person.name != "p0",
        pipelined=True,
    ),
    "lasting": Way(lambda storm, payload: operations.send_to_group(HUB, "g", payload, ttl_secs=300)),
}


class Storm:
    """One run."""

    def __init__(self, seed: int, weather: Weather, *, processes: int = 3, persons: int = 4) -> None:
        self.seed, self.weather = seed, weather
        self.dice = random.Random(seed)
        self.world = StormyWorld(seed, processes=processes)
        self.log: list[str] = []
        self.messages: dict[str, Message] = {}
        self._numbers: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.blind: list[tuple[float, float]] = []
        self.leaving: set[Process] = set()
        self._tasks: list[asyncio.Task[Any]] = []
        self._streams: dict[Process, list[asyncio.Task[Any]]] = {}
        self._closings: list[asyncio.Task[Any]] = []
        self._is_closed = self._over = False
        self.persons = [Person(self, f"p{number}", "uv"[number % 2]) for number in range(persons)]
        # One that is closed in the middle of it.
        self.victim = Person(self, "victim", "w")
        self.disconnected: Counter[str] = Counter()
        # What was last asked about the groups of a person, and whether that is known to be so.
        self.membership: dict[str, bool | None] = {person.name: False for person in self.persons}

    def note(self, what: str) -> None:
        """For whoever has to find out why."""
        self.log.append(f"{self.world.now:10.4f} {what}")

    def later(self, secs: float, call: Callable[[], None]) -> None:
        """Have something done at another time, whoever dies meanwhile."""
        self.world.redis.loop.call_later(secs, call)

    def new_message(self, stream: str, audience: set[str]) -> Message:
        """The next message of a stream."""
        self._numbers[stream] += 1
        number = self._numbers[stream]
        message = Message(f"{stream} {number}", stream, number, frozenset(audience), self.world.now)
        self.messages[message.text] = message
        return message

    @property
    def open_processes(self) -> list[Process]:
        """Those that let clients in."""
        return [process for process in self.world.processes if not process.dead and process not in self.leaving]

    # The run

    def run(self) -> None:
        """Begin, rage, clear up, and make the accounts."""
        with self.world, _application(self):
            self._begin()
            for _ in range(self.weather.steps):
                self._step()
            self._clear()
            self._judge()

    def _begin(self) -> None:
        redis = self.world.redis
        redis.usual_slow = self.dice.choice((0.0, 0.002, 0.02))
        for process in self.world.processes:
            self._set_delays(process)
        for person in (*self.persons, self.victim):
            home = person.home = self.dice.choice(self.world.processes)
            person.connect(home, "g")
            self.note(f"{person.name} is {person.id}, at {home.name}")
        for process in self.world.processes:
            self._publish_in(process)

    def _set_delays(self, process: Process) -> None:
        slow = self.world.redis.slow
        for kind in ("publishing", "subscribing"):
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
            audience = {person.name for person in self.persons if way.meant(person)}
            message = self.new_message(stream, audience)
            if not way.ordered:
                message.misplaced = True
            sending = asyncio.create_task(self._send(way, message))
            if way.pipelined:
                under_way.add(sending)
                await asyncio.sleep(0)
            else:
                await sending
            await asyncio.sleep(self.dice.choice((0, 0.001, 0.02, 0.1, 0.4)))
        if under_way:
            await asyncio.wait(under_way)

    async def _send(self, way: Way, message: Message) -> None:
        try:
            await way.send(self, Payload("text", message.text.encode()))
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
        if person.lost is None:
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
        self._fault()
        if self.dice.random() < 0.1:
            self._set_delays(self.dice.choice(self.open_processes))
        self.world.pass_time(self.dice.choice((0, 0.001, 0.01, 0.05, 0.2, 0.5)))

    def _move(self, person: Person) -> None:
        if person.lost is not None or (person is self.victim and self._closings and person.socket.closed):
            return
        patient = not self.weather.impatient and person.pending
        if person.open and self.dice.random() < 0.25:
            self.note(f"{person.name} loses its socket")
            person.socket.lose()
        elif not person.open and not patient and self.dice.random() < 0.6:
            if not person.socket.gone:
                person.socket.lose()
            process = self.dice.choice(self.open_processes)
            self.note(f"{person.name} comes back to {process.name}")
            person.try_again(process)

    def _fault(self) -> None:
        weather, redis, number = self.weather, self.world.redis, self.dice.randrange(100)
        for count, fault in (
            (weather.stalls, self._stall),
            (weather.drains, self._drain),
            (weather.deaths, self._kill),
            (weather.silences, self._silence),
            (weather.cuts, self._cut),
            (weather.partings, self._part),
        ):
            if number < count:
                if not redis.frozen and not redis.away:
                    fault()
                return
            number -= count

    def _stall(self) -> None:
        process = self.dice.choice(self.open_processes)
        secs = self.dice.choice((0.05, 0.3, 1.0, 1.5))
        self.note(f"{process.name} stalls for {secs} s")
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
        recovery.stop()
        await dispatch.stop()
        await process.board.stop()
        self.note(f"{process.name} has stopped")
        self.later(0, process.die)

    def _kill(self) -> None:
        processes = self.open_processes
        if len(processes) < 2:
            return
        process = self.dice.choice(processes)
        self.note(f"{process.name} is killed")
        for person in (*self.persons, self.victim):
            # Also those that are on their way to or from it.
            if process.connection(person) is not None or process.board._directory.arrivals.get(person.id) is not None:
                person.lost = person.lost or "its process died"
                self.membership.pop(person.name, None)
        process.die()
        self._newcomer()

    def _newcomer(self) -> None:
        process = self.world.join()
        self.note(f"{process.name} begins")
        self._set_delays(process)

        async def start() -> None:
            while True:
                try:
                    await process.board.start()
                    return
                except Exception:
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

    def _cut(self) -> None:
        secs = self.dice.choice((0.0, 0.3, 2.0))
        self.note(f"Redis is away for {secs} s")
        self.world.redis.die()
        self.later(secs, self.world.redis.come_back)

    def _part(self) -> None:
        process = self.dice.choice(self.open_processes)
        kind = self.dice.choice(("publishing", "subscribing"))
        self.note(f"{process.name} loses its connection for {kind}")
        self.world.redis.cut(self.world.redis.of(process, kind))
        self.blind.append((self.world.now - BLIND_SECS, self.world.now + BLIND_SECS))

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
                if person.lost is None:
                    self.wrong.append(f"{self.world.now:.4f}: {person.name} was not found in {process.name}")
                self.membership[person.name] = None
            except Refusal:
                self.membership[person.name] = None
            else:
                self.membership[person.name] = comes

        # One after the other, or nobody could say what is so in the end.
        task = process.spawn(change())
        while not task.done() and not process.dead:
            self.world.turn()

    def _look_into(self) -> None:
        process = self.dice.choice(self.open_processes)
        person = self.dice.choice(self.persons)
        if person.lost is not None:
            return
        self._tasks.append(process.spawn(self._ask(process, person, self.dice.choice(("exists", "user", "list")))))

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
        if not right and person.lost is None:
            self.wrong.append(f"{began:.4f}–{self.world.now:.4f}: {process.name} does not know {person.name} ({what})")

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
                    if self.victim.lost is None and not self.disconnected[self.victim.id]:
                        self.wrong.append(f"{self.world.now:.4f}: {process.name} does not find the victim")
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
        world.until(lambda: not redis.frozen and not redis.away)
        self._over = True
        redis.slow.clear()
        redis.usual_slow = 0.01
        world.pass_time(6)
        for _ in range(30):
            for person in self.persons:
                person.look()
                if person.lost is None and not person.open and not person.pending:
                    person.try_again(self.dice.choice(self.open_processes))
            world.pass_time(1)
            if all(person.lost is not None or person.open for person in self.persons):
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
        problems = list(self.wrong)
        for person in self.persons:
            person.look()
            if person.lost is not None and person.lost != "its process died":
                problems.append(f"{person.name} lost its connection: {person.lost}")
            problems += self._heard_by(person)
        problems += [f"{text} was handled {count} times" for text, count in self.runs.items() if count > 1]
        problems += self._memberships()
        for client_id, count in self.disconnected.items():
            if count > 1:
                problems.append(f"{client_id} ended {count} times")
        if self._is_closed:
            where = [
                process.name
                for process in self.world.processes
                if not process.dead and process.connection(self.victim) is not None
            ]
            if where:
                problems.append(f"the victim was closed, and is at {where}")
        if problems:
            raise Broken("\n".join(problems))

    def _heard_by(self, person: Person) -> Iterator[str]:
        heard: Counter[str] = Counter()
        last: dict[str, int] = {}
        for text in person.texts:
            text = text.removeprefix("done: ")
            message = self.messages.get(text)
            if message is None or person.name not in message.audience:
                yield f"{person.name} heard what was not for it: {text}"
                continue
            heard[text] += 1
            if heard[text] == 1 and not message.misplaced:
                if message.number < last.get(message.stream, 0):
                    yield f"{person.name} heard {text} behind {last[message.stream]}"
                last[message.stream] = max(message.number, last.get(message.stream, 0))
        for text, count in heard.items():
            if count > 1:
                yield f"{person.name} heard {text} {count} times ({self._about(text)})"
        if person.lost is not None:
            return
        for text, message in self.messages.items():
            if message.claimed and person.name in message.audience and not heard[text] and not self._is_blind(message):
                yield f"{person.name} did not hear {text} ({self._about(text)})"

    def _about(self, text: str) -> str:
        message = self.messages[text]
        said = "success" if message.claimed else "refusal"
        return f"{said}, {message.began:.4f}–{message.ended:.4f}{', again' if message.misplaced else ''}"

    def _is_blind(self, message: Message) -> bool:
        return any(message.began <= end and message.ended >= begin for begin, end in self.blind)

    def _memberships(self) -> Iterator[str]:
        process = self.open_processes[0]
        for name, expected in self.membership.items():
            person = next(person for person in self.persons if person.name == name)
            if expected is None or person.lost is not None:
                continue
            rows = process.run(operations.list_group(HUB, "h", after=None, limit=100))
            if (person.id in [row[0] for row in rows]) != expected:
                yield f"{name} is {'not ' if expected else ''}in h"


@contextmanager
def _application(storm: Storm) -> Iterator[None]:
    """The event handlers of the hub."""
    own = hub(HUB)

    @own.on_event("work")
    async def work(request: UserEventRequest) -> str:
        storm.runs[request.data] += 1
        await asyncio.sleep(storm.dice.choice((0, 0.05, 0.5, 2)))
        return f"done: {request.data}"

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
    """Names of processes and connections are drawn from the seed, too, so that a run can be repeated exactly."""
    dice, original = random.Random(seed), secrets.token_hex
    secrets.token_hex = lambda size=16: dice.randbytes(size).hex()
    try:
        yield
    finally:
        secrets.token_hex = original


def rage(seed: int, weather: Weather, kind: str = "mixed") -> Storm:
    """Run one storm. Raises Broken, or what else went wrong."""
    StormyWorld.KIND = kind
    with _names_from(seed):
        storm = Storm(seed, weather)
        try:
            storm.run()
        except BaseException as problem:
            problem.add_note("\n".join(storm.log))
            raise
    return storm
