"""A Redis in the time of a world: what stands behind its sockets, and the sockets themselves.

On this side of the socket everything is the product's: the channel layer of hubs/layers with its
pipelines, confirmations and heartbeats. On the other side stands what Redis does with PUBLISH, SUBSCRIBE,
UNSUBSCRIBE and PING: commands are done one after the other, and what one of them sends to subscribers
is in their sockets before the next one begins.

Each process has two sockets, as the layer makes them, and each way of each socket has a delay of its own. So the
reply to a PUBLISH comes before others hear the message or long after, and what waits comes in batches.
Order is kept on one socket, and between two there is none.

It fails as a Redis does:

* Silent (`freeze`): what it has said arrives, nothing is done, and new connections stand but are not answered. At
  the end of it all goes on, and what was said before by sockets that were given up meanwhile is done all the
  same, at a time of its own.
* Killed (`die`): what it has said arrives, then connections are closed. Until `come_back` nobody can connect.
* Cut off (`cut`): the network resets a connection. What was on its way in either direction is lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError

from hubs.layers.redis import RedisLayer

if TYPE_CHECKING:
    from tests.connections.world import Process, World

# A little more than what came before: timers of one moment have no order.
_NEXT = 1e-6

PUBLISHING, SUBSCRIBING = "publishing", "subscribing"


class SimulatedRedis:
    """The server. What it does happens on a loop of its own, whatever becomes of the processes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.loop = world.new_loop()
        # Longest delay in seconds of each way, by process, what the socket is for, and whether it leads here.
        self.slow: dict[tuple[Process, str, bool], float] = {}
        self.usual_slow = 0.01
        self.away = self.frozen = False
        # Whether something of what follows has ever happened to it.
        self.has_failed = False
        self.sockets: list[Socket] = []
        self.hears: dict[bytes, dict[Socket, None]] = {}

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

    def die(self) -> None:
        """Be killed."""
        self.away = self.has_failed = True
        for socket in list(self.sockets):
            socket.end()

    def come_back(self) -> None:
        """Be started."""
        self.away = False

    def freeze(self) -> None:
        """Stand still."""
        self.frozen = self.has_failed = True

    def thaw(self) -> None:
        """Go on, with what came meanwhile, socket by socket."""
        self.frozen = False
        for socket in self.world.random.sample(self.sockets, len(self.sockets)):
            socket.go_on()

    def forget(self, process: Process) -> None:
        """A process is gone; its kernel closes its sockets, behind all that was written."""
        for socket in self.of(process):
            socket.abort()

    # Commands

    def topics(self, process: Process) -> set[bytes]:
        """What a process is subscribed to."""
        return {topic for topic, hearing in self.hears.items() if any(socket.process is process for socket in hearing)}

    def publish(self, topic: bytes, payload: bytes) -> int:
        """Put a message into the sockets of all who hear it; gives how many they are."""
        hearing = self.hears.get(topic, {})
        message = _array(b"message", topic, payload)
        for socket in hearing:
            socket.answer(message)
        return len(hearing)

    def drop(self, socket: Socket) -> None:
        """A connection is closed."""
        if socket in self.sockets:
            self.sockets.remove(socket)
        for topic in socket.topics:
            del self.hears[topic][socket]
            if not self.hears[topic]:
                del self.hears[topic]
        socket.topics.clear()


class _Way:
    """One direction of a socket: what is put in comes out in order, some time later, and together with what is due."""

    def __init__(self, socket: Socket, loop: asyncio.AbstractEventLoop, inwards: bool, out: Callable[[bytes], None]):
        self._socket, self._loop, self._inwards, self._out = socket, loop, inwards, out
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._last = 0.0
        # Nothing more comes.
        self.ends = False

    def put(self, data: bytes) -> None:
        world = self._socket.redis.world
        slow = self._socket.redis.slow.get((self._socket.process, self._socket.kind, self._inwards))
        delay = world.random.uniform(0, self._socket.redis.usual_slow if slow is None else slow)
        self._last = max(self._last, world.now + delay) + _NEXT
        self._waiting.append((self._last, data))
        self._loop.call_at(self._last, self.flush)

    def flush(self) -> None:
        """Hand over what is due."""
        if self._inwards and self._socket.redis.frozen:
            return
        now, data = self._socket.redis.world.now, b""
        while self._waiting and self._waiting[0][0] <= now:
            data += self._waiting.popleft()[1]
        if data:
            self._out(data)
        if self.ends and not self._waiting:
            self.ends = False
            self._loop.call_soon(self._socket.lose, None)

    def again(self) -> None:
        """After a silence: what waits comes soon."""
        if self._waiting:
            self._loop.call_at(max(self._waiting[0][0], self._socket.redis.world.now) + _NEXT, self.flush)

    def clear(self) -> None:
        self._waiting.clear()


class Socket:
    """One connection: as a transport to the process, and what Redis has of it."""

    def __init__(self, redis: SimulatedRedis, process: Process) -> None:
        self.redis, self.process = redis, process
        # Until it has subscribed to something.
        self.kind = PUBLISHING
        self.topics: set[bytes] = set()
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
            self._in.put(data)

    def abort(self) -> None:
        """The process gives it up: Redis learns of it behind what it has been told."""
        if self.closed:
            return
        self.closed = True
        if not self.process.dead:
            self.process.loop.call_soon(self._protocol.connection_lost, None)
        self.redis.loop.call_soon(self._perhaps_gone)

    # As Redis has it

    def cut(self) -> None:
        """Reset it."""
        self._in.clear()
        self._out.clear()
        self._leave()
        if not self.process.dead:
            self.process.loop.call_soon(self.lose, ConnectionResetError("reset"))

    def end(self) -> None:
        """Redis is gone, and its kernel sends what it had."""
        self._in.clear()
        self._leave()
        self._out.ends = True
        if not self.process.dead:
            self.process.loop.call_soon(self._out.flush)

    def lose(self, problem: Exception | None) -> None:
        """The process learns that there is nobody at the other end."""
        if not self.closed:
            self.closed = True
            self._protocol.connection_lost(problem)

    def go_on(self) -> None:
        """Redis moves again."""
        self._in.again()
        if self.closed:
            self.redis.loop.call_soon(self._perhaps_gone)

    def answer(self, data: bytes) -> None:
        """Redis has something for the process."""
        if not self.closed:
            self._out.put(data)

    def _perhaps_gone(self) -> None:
        if not self._in._waiting and not self.redis.frozen:
            self._leave()

    def _leave(self) -> None:
        self.gone = True
        self.redis.drop(self)

    def _received(self, data: bytes) -> None:
        if not self.closed:
            self._protocol.data_received(data)

    def _read(self, data: bytes) -> None:
        if self.gone:
            return
        self._commands.feed(data)
        while (command := self._commands.gets()) is not False:
            self._do(command)
        if self.closed:
            self._perhaps_gone()

    def _do(self, command: list[bytes]) -> None:
        name, *arguments = command
        if name == b"PING":
            self.answer(b"+PONG\r\n" if self.kind == PUBLISHING else _array(b"pong", b""))
        elif name == b"PUBLISH":
            self.answer(b":%d\r\n" % self.redis.publish(*arguments))
        elif name in (b"SUBSCRIBE", b"UNSUBSCRIBE"):
            self.kind = SUBSCRIBING
            for topic in arguments:
                self._change(name == b"SUBSCRIBE", topic)
                self.answer(_array(name.lower(), topic, len(self.topics)))
        else:
            raise AssertionError(f"the layer says {name!r}")

    def _change(self, comes: bool, topic: bytes) -> None:
        if comes and topic not in self.topics:
            self.topics.add(topic)
            self.redis.hears.setdefault(topic, {})[self] = None
        elif not comes and topic in self.topics:
            self.topics.discard(topic)
            del self.redis.hears[topic][self]
            if not self.redis.hears[topic]:
                del self.redis.hears[topic]


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
        if self._redis.away:
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


def _array(*items: bytes | int) -> bytes:
    parts = [b":%d\r\n" % item if isinstance(item, int) else b"$%d\r\n%b\r\n" % (len(item), item) for item in items]
    return b"*%d\r\n%b" % (len(items), b"".join(parts))
