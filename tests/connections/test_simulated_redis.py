"""The simulated Redis answers what a real one does."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import hiredis
import pytest

from tests.connections.redis_commands import Keyspace, Reading, RedisError, encode
from tests.connections.simulated_redis import NO_ARRAY, SimulatedRedis, Socket
from tests.connections.world import _Loop
from tests.running import PATIENCE, Redis

if TYPE_CHECKING:
    from tests.connections.world import Process, World

# Later than any clock: what `*` gives then does not depend on the time.
LATER = 10**13

Command = list[bytes]


class Real:
    """A connection to a real Redis."""

    def __init__(self, server: Redis) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
        self._reader = hiredis.Reader()

    def say(self, command: Command) -> None:
        self._socket.sendall(encode(command))

    def hear(self) -> Any:
        while (answer := self._reader.gets()) is False:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("closed")
            self._reader.feed(data)
        return answer

    def ask(self, *command: bytes) -> Any:
        self.say(list(command))
        return self.hear()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def real(redis_server: Redis) -> Iterator[Real]:
    connection = Real(redis_server)
    connection.ask(b"FLUSHALL")
    yield connection
    connection.close()


def some_command(dice: random.Random) -> Command:
    """A command about one of a few keys, whatever their kind; sometimes one that is wrong."""
    key, entry_id, value = dice.choice([b"a", b"b", b"c"]), some_id(dice), b"%d" % dice.randrange(4)
    field = dice.choice([b"f", b"g", b"h"])
    count = [b"COUNT", b"%d" % dice.randrange(-1, 4)] if dice.random() < 0.5 else []
    first, last = [dice.choice([b"-", b"+", entry_id, b"(" + some_id(dice), some_id(dice)]) for _ in range(2)]
    trim = dice.choice(
        [
            [],
            [b"MAXLEN", value],
            [b"MAXLEN", b"=", value],
            [b"MINID", entry_id],
            [b"minid", b"=", entry_id],
            [b"MAXLEN", b"~", b"1000"],
            [b"MAXLEN", b"~", b"1000", b"LIMIT", b"5"],
            [b"MINID", b"x"],
            [b"MAXLEN", b"-1"],
        ]
    )
    commands: list[Command] = [
        [b"DEL", key],
        [b"EXISTS", key, b"b"],
        [b"TYPE", key],
        [b"EXPIRE", key, b"1000"],
        [b"PEXPIRE", key, b"1000000"],
        [b"EXPIRE", key, b"-1"],
        [b"EXPIRE", key, b"soon"],
        [b"TTL", key],
        [b"PERSIST", key],
        [b"GET", key],
        [b"MGET", b"a", b"b", b"c"],
        [
            b"SET",
            key,
            value,
            *dice.choice([[], [b"EX", b"1000"], [b"PX", b"1000000"], [b"NX"], [b"xx"], [b"EX", b"0"]]),
        ],
        [b"SET", key, value, *dice.choice([[b"NX", b"XX"], [b"EX"], [b"KEEPTTL"], [b"GET"], [b"NX", b"GET"], [b"Q"]])],
        [b"INCR", key],
        [b"INCRBY", key, value],
        [b"HSET", key, field, value, b"i", value],
        [b"HSET", key, field],
        [b"HSETNX", key, field, value],
        [b"HGET", key, field],
        [b"HMGET", key, field, b"i"],
        [b"HEXISTS", key, field],
        [b"HDEL", key, field, b"i"],
        [b"HGETALL", key],
        [b"HKEYS", key],
        [b"HVALS", key],
        [b"HLEN", key],
        [b"HSCAN", key, b"0", b"COUNT", b"10"],
        [b"HSCAN", key, b"0", b"MATCH", b"[fi]*"],
        [b"SADD", key, field, value],
        [b"SREM", key, field, value],
        [b"SMEMBERS", key],
        [b"SISMEMBER", key, value],
        [b"SCARD", key],
        [b"SCAN", b"0", b"MATCH", b"?"],
        [b"XADD", key, *trim, entry_id, field, value],
        [b"XADD", key, b"%d-%d" % (LATER + dice.randrange(50), dice.randrange(9)), field, value],
        [b"XADD", key, entry_id, field],
        [b"XADD", key, b"NOMKSTREAM", entry_id, field, value],
        [b"XADD", key, b"0-0", field, value],
        [b"XTRIM", key, *(trim or [b"MAXLEN", b"2"])],
        [b"XTRIM", key, b"LIMIT", b"3"],
        [b"XTRIM", key, b"MAXLEN", value, b"LIMIT", b"5"],
        [b"XDEL", key, entry_id],
        [b"XLEN", key],
        [b"XRANGE", key, first, last, *count],
        [b"XREVRANGE", key, first, last, *count],
        [b"XRANGE", key, b"-", b"+", b"COUNT"],
        [b"XREAD", *count, b"STREAMS", key, dice.choice([entry_id, b"0", b"$"])],
        [b"XREAD", *count, b"STREAMS", b"a", b"b", entry_id, b"0-0"],
        [b"XREAD", b"STREAMS", b"a", b"b", entry_id],
        [b"XREAD", b"BLOCK", b"-1", b"STREAMS", key, b"0"],
        [b"XINFO", b"STREAM", key],
    ]
    if dice.random() < 0.4:
        commands = [command for command in commands if command[0] in (b"XADD", b"XRANGE", b"XREVRANGE", b"XREAD")]
    return dice.choice(commands)


def some_id(dice: random.Random) -> bytes:
    return dice.choice(
        [
            b"%d-%d" % (LATER + dice.randrange(20), dice.randrange(5)),
            b"%d" % (LATER + dice.randrange(20)),
            b"%d" % LATER,
            b"x-1",
        ]
    )


def comparable(command: Command, answer: Any) -> Any:
    """An answer without what is Redis' own business: orders, and how it keeps things."""
    if isinstance(answer, Exception):
        return str(answer)
    if command[0] == b"SMEMBERS":
        return sorted(answer)
    if command[0] == b"SCAN":
        return sorted(answer[1])
    if command[0] == b"XINFO":
        facts = dict(zip(answer[::2], answer[1::2], strict=True))
        return {name: fact for name, fact in facts.items() if not name.startswith(b"radix")}
    return answer


def simulated(keyspace: Keyspace, command: Command) -> Any:
    name, *arguments = command
    try:
        if name == b"XREAD":
            keyspace.now = int(time.time() * 1000)
            reading = Reading(keyspace, arguments)
            answer = reading.ready(keyspace, reading.after) or NO_ARRAY
        else:
            answer = keyspace.do(int(time.time() * 1000), name, arguments)
    except RedisError as problem:
        answer = problem
    reader = hiredis.Reader()
    reader.feed(encode(answer))
    return reader.gets()


@pytest.mark.parametrize("seed", range(8))
def test_the_same_commands_have_the_same_answers(real: Real, seed: int) -> None:
    dice, keyspace = random.Random(seed), Keyspace()
    for number in range(800):
        command = some_command(dice)
        expected, found = comparable(command, real.ask(*command)), comparable(command, simulated(keyspace, command))
        assert found == expected, f"{number}: {command}"


def test_trimming_approximately_keeps_what_must_be_kept(real: Real) -> None:
    keyspace = Keyspace()
    left = []
    for ask in (lambda *command: simulated(keyspace, list(command)), real.ask):
        for number in range(1000):
            ask(b"XADD", b"s", b"MINID", b"~", b"%d" % (LATER + number - 300), b"%d" % (LATER + number), b"f", b"v")
        left.append(ask(b"XLEN", b"s"))
        [[first, _]] = ask(b"XRANGE", b"s", b"-", b"+", b"COUNT", b"1")
        assert int(first.split(b"-")[0]) <= LATER + 699
        assert ask(b"MEMORY", b"USAGE", b"s") > 100
    assert all(301 <= number <= 301 + 100 for number in left)


class Still:
    """A world in which nothing but Redis moves."""

    def __init__(self) -> None:
        self.now, self.random = 0.0, random.Random(1)
        self.wall_time = time.time()

    def new_loop(self) -> _Loop:
        return _Loop(cast("World", self))


class Simulated:
    """Connections to a simulated Redis."""

    def __init__(self) -> None:
        self.world = Still()
        self.redis = SimulatedRedis(cast("World", self.world))
        self.loop = self.redis.loop
        self.dead = False
        self.sockets: dict[str, Socket] = {}
        self.answers: dict[str, list[Any]] = {}

    def say(self, name: str, command: Command) -> None:
        if name not in self.sockets:
            link = self.sockets[name] = Socket(self.redis, cast("Process", self))
            link.set_protocol(_Heard(self.answers.setdefault(name, [])))
        self.sockets[name].write(encode(command))
        self.pass_time(0.1)

    def pass_time(self, secs: float) -> None:
        end = self.world.now + secs
        while (due := self.loop.due) is not None and due <= end:
            self.world.now = max(self.world.now, due)
            self.loop.step()
        self.world.now = end


class _Heard:
    def __init__(self, answers: list[Any]) -> None:
        self._answers, self._reader = answers, hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            self._answers.append(_said(answer))

    def connection_lost(self, problem: Exception | None) -> None:
        self._answers.append("closed")


READS = ["XREAD", "BLOCK", "60000", "STREAMS"]

# Who says what; where it has to wait for an answer, the name has a star. {x} is the id of a client.
SCRIPTS = {
    "an entry wakes who waits": [
        ("a*", [*READS, "s", "$"]),
        ("b", ["XADD", "s", "5-1", "f", "v"]),
        ("b", ["XADD", "s", "5-2", "f", "v"]),
        ("a", ["XREAD", "BLOCK", "60000", "STREAMS", "s", "5-1"]),
    ],
    "of several streams the first that has something": [
        ("a*", [*READS, "s", "t", "$", "$"]),
        ("b*", [*READS, "t", "s", "0", "0"]),
        ("c", ["XADD", "t", "5-1", "f", "v"]),
        ("c", ["XADD", "s", "5-1", "f", "v"]),
        ("a", [*READS, "t", "s", "0", "0"]),
    ],
    "what is said meanwhile waits": [
        ("a*", [*READS, "s", "$"]),
        ("a*", ["PING"]),
        ("b", ["XADD", "s", "5-1", "f", "v"]),
        ("a", ["PING", "again"]),
    ],
    "a client is woken by another": [
        ("a*", [*READS, "s", "$"]),
        ("b", ["CLIENT", "UNBLOCK", "{a}"]),
        ("a*", [*READS, "s", "$"]),
        ("b", ["CLIENT", "UNBLOCK", "{a}", "ERROR"]),
        ("b", ["CLIENT", "UNBLOCK", "{a}"]),
        ("a", ["PING"]),
    ],
    "a client is killed by another": [
        ("a*", [*READS, "s", "$"]),
        ("b", ["CLIENT", "KILL", "ID", "{a}"]),
        ("b", ["CLIENT", "KILL", "ID", "{a}"]),
        ("b", ["CLIENT", "KILL", "ID", "{b}"]),
        ("b", ["XADD", "s", "5-1", "f", "v"]),
    ],
    "nothing comes in time": [("a", ["XREAD", "BLOCK", "50", "STREAMS", "s", "$"]), ("a", ["PING"])],
    "a stream that is another thing": [("a", ["SET", "s", "v"]), ("a", [*READS, "s", "0"]), ("a", ["XLEN", "s"])],
    "in a transaction": [
        ("a*", [*READS, "s", "$"]),
        ("b", ["MULTI"]),
        ("b", ["XADD", "s", "5-1", "f", "v"]),
        ("b", ["XLEN", "s"]),
        ("b", ["GET", "s"]),
        ("b", ["XADD", "s", "5-2", "f", "v"]),
        ("b", [*READS, "s", "5-2"]),
        ("b", ["MULTI"]),
        ("b", ["EXEC"]),
        ("b", ["EXEC"]),
        ("b", ["MULTI"]),
        ("b", ["DEL", "s"]),
        ("b", ["DISCARD"]),
        ("b", ["XLEN", "s"]),
        ("a", ["PING"]),
    ],
    "nobody subscribes": [("a", ["PUBSUB", "NUMSUB", "x", "y"])],
    "names": [("a", ["CLIENT", "GETNAME"]), ("a", ["CLIENT", "SETNAME", "x"]), ("a", ["CLIENT", "GETNAME"])],
}


def _spelled(command: list[str], ids: dict[str, Any]) -> Command:
    return [word.format(**ids).encode() for word in command]


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=list(SCRIPTS))
def test_clients_that_wait(real: Real, redis_server: Redis, script: list[tuple[str, list[str]]]) -> None:
    names = sorted({name.rstrip("*") for name, _ in script})
    # As the simulated one does it.
    simulation, ids = Simulated(), {}
    for name in names:
        simulation.say(name, [b"CLIENT", b"ID"])
        ids[name] = simulation.answers[name].pop()
    for name, command in script:
        simulation.say(name.rstrip("*"), _spelled(command, ids))
        assert bool(simulation.sockets[name.rstrip("*")].reading) == name.endswith("*") or "BLOCK" in command
    simulation.pass_time(1)
    # And the real one.
    clients = {name: Real(redis_server) for name in names}
    ids = {name: client.ask(b"CLIENT", b"ID") for name, client in clients.items()}
    answers: dict[str, list[Any]] = {name: [] for name in names}
    owed = dict.fromkeys(names, 0)
    for name, command in script:
        client = clients[name.rstrip("*")]
        client.say(_spelled(command, ids))
        owed[name.rstrip("*")] += 1
        if name.endswith("*"):
            _wait_for(lambda: b"blocked_clients:0" not in real.ask(b"INFO", b"clients"))
        else:
            while owed[name]:
                answers[name].append(_heard(client))
                owed[name] -= 1
    for name, client in clients.items():
        while owed[name] and (not answers[name] or answers[name][-1] != "closed"):
            answers[name].append(_heard(client))
            owed[name] -= 1
        client.close()
    assert simulation.answers == answers
    simulation.loop.close()


def _heard(client: Real) -> Any:
    try:
        answer = client.hear()
    except ConnectionError:
        return "closed"
    return _said(answer)


def _said(answer: Any) -> Any:
    if isinstance(answer, list):
        return [_said(item) for item in answer]
    return str(answer) if isinstance(answer, Exception) else answer


def _wait_for(true: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)
