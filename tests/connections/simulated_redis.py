"""A Redis in the time of a world: what stands behind its sockets, and the sockets themselves.

On this side of the socket everything is the product's: the channel layer of hubs/layers with its
pipelines, confirmations and heartbeats. On the other side stands what Redis does with commands
(redis_commands.py): they are done one after the other, and whoever waits for entries of a stream has them
in its socket before the next one begins.

Each process has two sockets, as the layer makes them, and each way of each socket has a delay of its own. So the
reply to an XADD comes before others read the entry or long after, what waits comes in batches, and what was written
together may arrive in two parts. Order is kept on one socket, and between two there is none.

It fails as a Redis does:

* Silent (`freeze`): what it has said arrives, nothing is done, and new connections stand but are not answered. At
  the end of it all goes on, and what was said before by sockets that were given up meanwhile is done all the
  same, at a time of its own, unless they are killed first.
* Killed (`die`): what it has said arrives, or a beginning of it, then connections are closed. Until `come_back` nobody
  can connect, then it loads its data for a while. With `appendonly` it knows all that it knew; else nothing.
* Failed over (`fail_over`): a replica takes its place, which may be some commands behind. Clients of the former master
  can read what it has until they are disconnected; it refuses to be written to.
* Cut off (`cut`): the network resets a connection. What was on its way in either direction is lost.
* Kicked (`kick`): Redis closes the connection of a client that reads too slowly; what it had to say ends anywhere.
* Parted (`part`): nothing passes between one process and Redis. At the end of it what was said before arrives, or
  connections were reset and refused from the first moment on.

Its clock is not exactly that of the processes, and that of a replica is another one.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError

from hubs.layers.redis import RedisLayer
from tests.connections.redis_commands import (
    NO_ARRAY,
    OK,
    SYNTAX,
    WRITES,
    Keyspace,
    Reading,
    RedisError,
    Status,
    encode,
)

if TYPE_CHECKING:
    from tests.connections.world import Process, World

# A little more than what came before: timers of one moment have no order.
_NEXT = 1e-6

WRITING, READING = "writing", "reading"

# A replica is at most so many commands behind.
MAX_LAG = 1_000

# How far the clock of a Redis is from that of the processes, in seconds.
CLOCK_SKEW = 2.0

# What is not done while memory is full.
GROWING = {b"XADD", b"SET", b"HSET", b"HSETNX", b"SADD", b"ZADD", b"INCR", b"INCRBY"}


class Node:
    """One Redis process: its keys, and who waits for what."""

    def __init__(self, redis: SimulatedRedis, keyspace: Keyspace) -> None:
        self.redis = redis
        self.keyspace = keyspace
        self.run_id = f"{redis.world.random.getrandbits(160):040x}"
        self.skew = redis.world.random.uniform(-CLOCK_SKEW, CLOCK_SKEW)
        # What the replica has, and the commands that it has not got yet, with their times.
        self.replica = copy.deepcopy(keyspace)
        self.behind: deque[tuple[int, bytes, list[bytes]]] = deque()
        self.is_replica = False
        self.loads_until = 0.0
        self.last_client_id = 0
        # Whose XREAD waits for entries, by stream.
        self.waiting: dict[bytes, dict[Socket, None]] = {}
        # Streams that the present command has changed.
        self._changed: dict[bytes, None] = {}

    @property
    def clock(self) -> float:
        """Seconds since 1970, as this one believes."""
        return self.redis.world.wall_time + self.skew

    def do(self, name: bytes, arguments: list[bytes]) -> Any:
        """Do a command about keys. Raises RedisError."""
        now = int(self.clock * 1000)
        writes = name in WRITES
        if writes and self.is_replica:
            raise RedisError("READONLY You can't write against a read only replica.")
        if self.redis.full and name in GROWING:
            raise RedisError("OOM command not allowed when used memory > 'maxmemory'.")
        try:
            answer = self.keyspace.do(now, name, arguments)
        except KeyError as problem:
            raise AssertionError(f"the layer says {name!r} {arguments!r}") from problem
        if writes:
            self.behind.append((now, name, arguments))
            if len(self.behind) > MAX_LAG:
                self._replicate(MAX_LAG // 2)
            self._changed[arguments[0]] = None
        return answer

    def serve(self) -> None:
        """Answer those who wait for what has been changed. As Redis 6 does, each with one stream alone."""
        changed, self._changed = self._changed, {}
        for key in changed:
            for socket in list(self.waiting.get(key, ())):
                if socket.reading is not None and (found := socket.reading.ready(self.keyspace, [key])):
                    socket.unblock(found)

    def fail_over(self, lost: int) -> Node:
        """The node that takes the place of this one; all but the last commands have reached it."""
        self._replicate(max(0, len(self.behind) - lost))
        self.is_replica = True
        for waiting in [socket for sockets in self.waiting.values() for socket in sockets]:
            waiting.unblock(
                RedisError(
                    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"
                )
            )
        return Node(self.redis, self.replica)

    def _replicate(self, count: int) -> None:
        for _ in range(count):
            now, name, arguments = self.behind.popleft()
            self.replica.do(now, name, arguments)


class SimulatedRedis:
    """The server. What it does happens on a loop of its own, whatever becomes of the processes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.loop = world.new_loop()
        self.loop.set_exception_handler(lambda _, context: world.problems.append(context))
        # Longest delay in seconds of each way, by process, what the socket is for, and whether it leads here.
        self.slow: dict[tuple[Process, str, bool], float] = {}
        self.usual_slow = 0.01
        self.away = self.frozen = self.full = False
        # By process that nothing passes to: whether its connections are refused.
        self.parted: dict[Process, bool] = {}
        # Whether something of what follows has ever happened to it.
        self.has_failed = False
        self.sockets: list[Socket] = []
        self.master = Node(self, Keyspace())

    @property
    def due(self) -> float | None:
        """When it will do something; None, if never."""
        return self.loop.due

    def layer(self, process: Process) -> RedisLayer:
        """The channel layer as a process has it."""
        return RedisLayer(hosts=[{"connection_class": lambda **_: _Connection(self, process)}])

    # Faults

    def of(self, process: Process, kind: str | None = None) -> list[Socket]:
        """The open sockets of a process: all, or those of a kind."""
        return [socket for socket in self.sockets if socket.process is process and kind in (None, socket.kind)]

    def cut(self, sockets: list[Socket]) -> None:
        """Reset some connections."""
        self.has_failed = True
        for socket in sockets:
            socket.cut()

    def kick(self, sockets: list[Socket]) -> None:
        """Close some connections, as Redis does with those who read too slowly."""
        self.has_failed = True
        for socket in sockets:
            socket.end(torn=True)

    def die(self, *, appendonly: bool = True) -> None:
        """Be killed."""
        self.away = self.has_failed = True
        for socket in list(self.sockets):
            socket.end(torn=self.world.random.random() < 0.5)
        self.master = Node(self, self.master.keyspace if appendonly else Keyspace())

    def come_back(self, loads_secs: float = 0.0) -> None:
        """Be started."""
        self.away = False
        self.master.loads_until = self.world.now + loads_secs

    def fail_over(self, lost: int, lingers_secs: float) -> None:
        """Have a replica in the master's place, without its last commands; clients stay a while where they are."""
        self.has_failed = True
        former, self.master = self.master, self.master.fail_over(lost)
        self.loop.call_later(lingers_secs, self._disconnect, former)

    def _disconnect(self, former: Node) -> None:
        for socket in [socket for socket in self.sockets if socket.node is former]:
            socket.end(torn=False)

    def freeze(self) -> None:
        """Stand still."""
        self.frozen = self.has_failed = True

    def thaw(self) -> None:
        """Go on, with what came meanwhile, socket by socket."""
        self.frozen = False
        self._go_on(self.sockets)

    def part(self, process: Process, *, refused: bool) -> None:
        """Have nothing pass between a process and Redis."""
        self.has_failed = True
        self.parted[process] = refused
        if refused:
            self.cut(self.of(process))

    def join(self, process: Process) -> None:
        """Have a process that was parted reach Redis again."""
        del self.parted[process]
        self._go_on(self.of(process))

    def _go_on(self, sockets: list[Socket]) -> None:
        for socket in self.world.random.sample(sockets, len(sockets)):
            socket.go_on()

    def forget(self, process: Process) -> None:
        """A process is gone; its kernel closes its sockets, behind all that was written."""
        for socket in self.of(process):
            socket.abort()

    def drop(self, socket: Socket) -> None:
        """A connection is closed."""
        if socket in self.sockets:
            self.sockets.remove(socket)


class _Way:
    """One direction of a socket: what is put in comes out in order, some time later, and together with what is due."""

    def __init__(self, socket: Socket, loop: asyncio.AbstractEventLoop, inwards: bool, out: Callable[[bytes], None]):
        self._socket, self._loop, self._inwards, self._out = socket, loop, inwards, out
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._last = 0.0
        # Nothing more comes.
        self.ends = False

    @property
    def empty(self) -> bool:
        """Whether nothing is under way."""
        return not self._waiting

    @property
    def _held(self) -> bool:
        redis = self._socket.redis
        return (self._inwards and redis.frozen) or self._socket.process in redis.parted

    def put(self, data: bytes) -> None:
        random = self._socket.redis.world.random
        # Streams of bytes have no messages.
        cut = random.randrange(len(data)) if data and random.random() < 0.2 else 0
        for part in (data[:cut], data[cut:]) if cut else (data,):
            self._put(part)

    def _put(self, data: bytes) -> None:
        world = self._socket.redis.world
        slow = self._socket.redis.slow.get((self._socket.process, self._socket.kind, self._inwards))
        delay = world.random.uniform(0, self._socket.redis.usual_slow if slow is None else slow)
        self._last = max(self._last, world.now + delay) + _NEXT
        self._waiting.append((self._last, data))
        self._loop.call_at(self._last, self.flush)

    def flush(self) -> None:
        """Hand over what is due."""
        if self._held:
            return
        now, parts = self._socket.redis.world.now, []
        while self._waiting and self._waiting[0][0] <= now:
            parts.append(self._waiting.popleft()[1])
        if parts:
            self._out(b"".join(parts))
        if self.ends and not self._waiting:
            self.ends = False
            self._loop.call_soon(self._socket.lose, None)

    def again(self) -> None:
        """After a silence: what waits comes soon."""
        if self._waiting:
            self._loop.call_at(max(self._waiting[0][0], self._socket.redis.world.now) + _NEXT, self.flush)
        elif self.ends:
            self._loop.call_soon(self.flush)

    def tear(self) -> None:
        """Some of what is under way will not arrive, from a byte on."""
        kept = self._socket.redis.world.random.randrange(len(self._waiting) + 1)
        waiting = list(self._waiting)
        self._waiting = deque(waiting[:kept])
        if kept < len(waiting):
            when, data = waiting[kept]
            self._waiting.append((when, data[: self._socket.redis.world.random.randrange(len(data))]))

    def clear(self) -> None:
        self._waiting.clear()


class Socket:
    """One connection: as a transport to the process, and what Redis has of it."""

    def __init__(self, redis: SimulatedRedis, process: Process) -> None:
        self.redis, self.process = redis, process
        self.node = redis.master
        self.node.last_client_id += 1
        self.client_id = self.node.last_client_id
        self.name = b""
        # Until it has waited for a stream.
        self.kind = WRITING
        # What it waits for now.
        self.reading: Reading | None = None
        self._times_out: asyncio.TimerHandle | None = None
        # Since MULTI.
        self._queued: list[tuple[bytes, list[bytes]]] | None = None
        # Given up by the process, and by Redis.
        self.closed = self.gone = False
        self._protocol: Any = None
        self._commands = hiredis.Reader()
        self._in = _Way(self, redis.loop, True, self._read)
        self._out = _Way(self, process.loop, False, self._received)
        redis.sockets.append(self)

    # As a transport

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> Any:
        return _NoDescriptor()

    def write(self, data: bytes) -> None:
        if not self.closed:
            self._in.put(bytes(data))

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        """The process gives it up: Redis learns of it behind what it has been told."""
        if self.closed:
            return
        self.closed = True
        if not self.process.dead:
            self.process.loop.call_soon(self._protocol.connection_lost, None)
        self.redis.loop.call_soon(self._perhaps_gone)

    close = abort

    # As the network and Redis have it

    def cut(self) -> None:
        """Reset it."""
        self._in.clear()
        self._out.clear()
        self._leave()
        if not self.process.dead:
            self.process.loop.call_soon(self.lose, ConnectionResetError("reset"))

    def end(self, *, torn: bool) -> None:
        """Redis closes it, and its kernel sends what it had; or, where that is torn, some of it."""
        self._in.clear()
        self._leave()
        if torn:
            self._out.tear()
        self._out.ends = True
        if not self.process.dead:
            self.process.loop.call_soon(self._out.flush)

    def lose(self, problem: Exception | None) -> None:
        """The process learns that there is nobody at the other end."""
        if not self.closed:
            self.closed = True
            self._protocol.connection_lost(problem)

    def go_on(self) -> None:
        """Redis moves again, or the network."""
        self._in.again()
        if not self.process.dead:
            self._out.again()
        if self.closed:
            self.redis.loop.call_soon(self._perhaps_gone)
        if (
            self.reading is not None
            and self._times_out is not None
            and self._times_out.when() <= self.redis.loop.time()
        ):
            self.redis.loop.call_soon(self._time_out)

    def answer(self, answer: Any) -> None:
        """Redis has something for the process."""
        if not self.closed:
            self._out.put(encode(answer))

    def _perhaps_gone(self) -> None:
        if self._in.empty and not self.redis.frozen and self.process not in self.redis.parted:
            self._leave()

    def _leave(self) -> None:
        self.gone = True
        self._stop_waiting()
        self.redis.drop(self)

    def _received(self, data: bytes) -> None:
        if not self.closed:
            self._protocol.data_received(data)

    # What it says

    def _read(self, data: bytes) -> None:
        if self.gone:
            return
        self._commands.feed(data)
        self._do_all()

    def _do_all(self) -> None:
        while not self.gone and self.reading is None and (command := self._commands.gets()) is not False:
            name, *arguments = command
            answer = self._queue(name.upper(), arguments)
            if answer is not NOTHING:
                self.answer(answer)
            self.node.serve()
        if self.closed:
            self._perhaps_gone()

    def _queue(self, name: bytes, arguments: list[bytes]) -> Any:
        queued = self._queued
        if name == b"MULTI":
            if queued is not None:
                return RedisError("ERR MULTI calls can not be nested")
            self._queued = []
            return OK
        if name in (b"EXEC", b"DISCARD"):
            if queued is None:
                return RedisError(f"ERR {name.decode()} without MULTI")
            answers = [self._do(*command) for command in queued] if name == b"EXEC" else OK
            self._queued = None
            return answers
        if queued is not None:
            queued.append((name, arguments))
            return Status("QUEUED")
        return self._do(name, arguments)

    def _do(self, name: bytes, arguments: list[bytes]) -> Any:
        try:
            if self.node.loads_until > self.redis.world.now:
                raise RedisError("LOADING Redis is loading the dataset in memory")
            own = _OWN.get(name)
            return self.node.do(name, arguments) if own is None else own(self, arguments)
        except RedisError as problem:
            return problem

    def _ping(self, arguments: list[bytes]) -> Any:
        return arguments[0] if arguments else Status("PONG")

    def _time(self, arguments: list[bytes]) -> Any:
        seconds, microseconds = divmod(int(self.node.clock * 1_000_000), 1_000_000)
        return [b"%d" % seconds, b"%d" % microseconds]

    def _select(self, arguments: list[bytes]) -> Any:
        return OK

    def _info(self, arguments: list[bytes]) -> Any:
        role = "slave" if self.node.is_replica else "master"
        facts = {
            "redis_version": "6.2.14",
            "run_id": self.node.run_id,
            "maxmemory": 0,
            "maxmemory_policy": "noeviction",
            "loading": 0,
            "aof_enabled": 1,
            "role": role,
        }
        return "".join(f"{name}:{value}\r\n" for name, value in facts.items()).encode()

    def _config(self, arguments: list[bytes]) -> Any:
        values = {b"maxmemory": b"0", b"maxmemory-policy": b"noeviction", b"appendonly": b"yes"}
        if arguments[0].upper() != b"GET":
            raise AssertionError(f"the layer says CONFIG {arguments!r}")
        return [item for name in arguments[1:] if name in values for item in (name, values[name])]

    def _pubsub(self, arguments: list[bytes]) -> Any:
        # Nobody subscribes to anything.
        if arguments[0].upper() != b"NUMSUB":
            raise AssertionError(f"the layer says PUBSUB {arguments!r}")
        return [item for name in arguments[1:] for item in (name, 0)]

    def _client(self, arguments: list[bytes]) -> Any:
        match [arguments[0].upper(), *arguments[1:]]:
            case [b"ID"]:
                return self.client_id
            case [b"SETNAME", name]:
                self.name = name
                return OK
            case [b"GETNAME"]:
                return self.name or None
            case [b"KILL", *filters]:
                return self._kill(filters)
            case [b"UNBLOCK", number]:
                return self._unblock(number, None)
            case [b"UNBLOCK", number, how] if how.upper() in (b"TIMEOUT", b"ERROR"):
                problem = RedisError("UNBLOCKED client unblocked via CLIENT UNBLOCK")
                return self._unblock(number, problem if how.upper() == b"ERROR" else None)
        raise AssertionError(f"the layer says CLIENT {arguments!r}")

    def _others(self, number: bytes) -> list[Socket]:
        return [
            socket for socket in self.redis.sockets if socket.node is self.node and b"%d" % socket.client_id == number
        ]

    def _kill(self, filters: list[bytes]) -> int:
        wanted = dict(zip((name.upper() for name in filters[::2]), filters[1::2], strict=True))
        if set(wanted) - {b"ID", b"SKIPME"} or b"ID" not in wanted:
            raise RedisError(SYNTAX)
        skips = wanted.get(b"SKIPME", b"yes").lower() == b"yes"
        killed = [socket for socket in self._others(wanted[b"ID"]) if not (skips and socket is self)]
        for socket in killed:
            socket.end(torn=False)
        return len(killed)

    def _unblock(self, number: bytes, problem: RedisError | None) -> int:
        waiting = [socket for socket in self._others(number) if socket.reading is not None]
        for socket in waiting:
            socket.unblock(NO_ARRAY if problem is None else problem)
        return len(waiting)

    # Waiting for entries

    def _xread(self, arguments: list[bytes]) -> Any:
        keyspace = self.node.keyspace
        keyspace.now = int(self.node.clock * 1000)
        if len(arguments) < 3:
            raise RedisError("ERR wrong number of arguments for 'xread' command")
        reading = Reading(keyspace, arguments)
        self.kind = READING
        if found := reading.ready(keyspace, reading.after):
            return found
        if reading.block is None or self._queued is not None:
            # In a transaction nothing waits.
            return NO_ARRAY
        self.reading = reading
        for key in reading.after:
            self.node.waiting.setdefault(key, {})[self] = None
        if reading.block:
            self._times_out = self.redis.loop.call_later(reading.block / 1000, self._time_out)
        return NOTHING

    def _time_out(self) -> None:
        # While it stands still no time passes for Redis.
        if self.reading is not None and not self.redis.frozen:
            self.unblock(NO_ARRAY)

    def unblock(self, answer: Any) -> None:
        """Answer what it waits for. What it said meanwhile is done a little later."""
        self._stop_waiting()
        self.answer(answer)
        self.redis.loop.call_soon(self._do_all)

    def _stop_waiting(self) -> None:
        if self._times_out is not None:
            self._times_out.cancel()
            self._times_out = None
        reading, self.reading = self.reading, None
        for key in () if reading is None else reading.after:
            waiting = self.node.waiting.get(key, {})
            waiting.pop(self, None)
            if not waiting:
                self.node.waiting.pop(key, None)


# In the place of an answer that comes later.
NOTHING = object()

_OWN: dict[bytes, Callable[[Socket, list[bytes]], Any]] = {
    b"PING": Socket._ping,
    b"TIME": Socket._time,
    b"SELECT": Socket._select,
    b"INFO": Socket._info,
    b"CONFIG": Socket._config,
    b"CLIENT": Socket._client,
    b"PUBSUB": Socket._pubsub,
    b"XREAD": Socket._xread,
}


class _NoDescriptor:
    """A socket of which the kernel knows nothing."""

    def fileno(self) -> NoReturn:
        raise OSError("not a socket")


class _Connection:
    """In the place of redis-py's connection: all that the layer uses of that."""

    def __init__(self, redis: SimulatedRedis, process: Process) -> None:
        self._redis, self._process = redis, process
        self._writer: _Writer | None = None

    async def connect(self) -> None:
        await asyncio.sleep(self._redis.world.random.uniform(0, self._redis.usual_slow))
        while (refused := self._redis.parted.get(self._process)) is False:
            # Its kernel tries again, and more seldom each time.
            await asyncio.sleep(1)
        if refused or self._redis.away:
            raise RedisConnectionError("connection refused")
        self._writer = _Writer(Socket(self._redis, self._process))

    def _close(self) -> None:
        pass


class _Writer:
    """In the place of asyncio's StreamWriter."""

    def __init__(self, transport: Socket) -> None:
        self.transport = transport

    async def wait_closed(self) -> None:
        pass
