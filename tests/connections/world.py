"""Several processes of the service in one thread: a loop for each, a clock for all, and a Redis between them.

Each process is an event loop of its own with its own node, and what runs in it is the product, from the consumer down
to the socket to Redis; nothing of it is replaced. A test steps the loops one iteration at a time, in an order drawn
from a seed, so that processes overtake each other in every way and a failure can be repeated. Time is the world's: it
moves on to the next timer when no loop has anything to do, so a test of half a minute takes as long as its work does.

Behind the service's own channel layer is a Redis that is slow, stalls and fails as one does (simulated_redis.py).
Processes stall, too: their loops are not stepped for a while, and what comes meanwhile waits.

Sockets are of one of two kinds, as servers offer them: ASGI's, or the direct ones of hubs/servers, with
a transport that soon has enough.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import string
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar, Protocol
from urllib.parse import urlencode

from hubs import conf, hub_settings
from hubs.cluster.entries import CONTROL_LOG, hub_log, process_log
from hubs.cluster.log import LINGER_SECS
from hubs.connections.connection import Connection
from hubs.connections.handshake import Admission
from hubs.consumers import HubConsumer, _Conversation
from hubs.layers.redis import RedisLayer
from hubs.node import node as nodes
from hubs.node.node import Node
from hubs.protocols.codec import CODECS
from hubs.protocols.extension import EXTENSION
from hubs.rules.roles import Permissions
from hubs.servers import endings
from hubs.servers.direct import DirectSocket, Sockets
from hubs.upstream.session import Session
from tests.connections.simulated_redis import SimulatedRedis
from tests.servers.raw import frame
from tests.servers.transports import Transport

RELIABLE = "json.reliable.webpubsub.azure.v1"
ANY_GROUP = ("webpubsub.joinLeaveGroup", "webpubsub.sendToGroup")

# World seconds after which what has to happen has not happened.
LIMIT = 120.0

# When a world begins, as its clocks on the wall show it.
WALL_TIME = 1.8e9

LOST, NORMAL = 1006, 1000


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that lives in the time of its world, one iteration at a time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def time(self) -> float:
        return self._world.now

    @property
    def due(self) -> float | None:
        """When it has something to do: now, or at its next timer; None, if never."""
        if self._ready:
            return self._world.now
        while self._scheduled and self._scheduled[0].cancelled():
            # As the loop itself does it, when it comes to the timer.
            self._timer_cancelled_count -= 1
            asyncio.base_events.heapq.heappop(self._scheduled)._scheduled = False
        return self._scheduled[0].when() if self._scheduled else None

    def step(self) -> None:
        """Run one iteration."""
        self.call_soon(self.stop)
        self.run_forever()


class Moving(Protocol):
    """Something with a loop, which does one thing after the other."""

    @property
    def loop(self) -> _Loop: ...

    @property
    def due(self) -> float | None: ...


class Process:
    """One process: its loop and its node."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.loop = world.new_loop()
        self.loop.set_exception_handler(lambda _, context: world.problems.append(context))
        self.layer = world.new_layer(self)
        self.node = Node(self.layer)
        nodes._nodes[self.loop] = self.node
        self.dead = False
        # Until then it does nothing, and notices nothing of it.
        self.stalled_until = 0.0
        self._sockets: Sockets | None = None

    @property
    def sockets(self) -> Sockets:
        """What its direct sockets share. Of pings nothing is to be seen here."""
        if self._sockets is None:
            self._sockets = Sockets(set(), 1 << 22, 3600)
        return self._sockets

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Have something run here."""
        return self.loop.create_task(work)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Have something run here, and wait for it."""
        task = self.spawn(work)
        self.world.until(task.done)
        return task.result()

    def die(self) -> None:
        """From now on it does nothing, and is told nothing."""
        self.dead = True
        self.world.forget(self)

    @property
    def due(self) -> float | None:
        """When it will do something; None, if never."""
        due = None if self.dead else self.loop.due
        return None if due is None else max(due, self.stalled_until)

    def stall(self, secs: float) -> None:
        """Have it stand still for a while: a long computation, or a machine that has others to care for."""
        self.stalled_until = self.world.now + secs

    def connection(self, client: Client) -> Connection | None:
        """The connection of a client, if it is here."""
        member = self.node.member(client.id)
        assert member is None or isinstance(member, Connection)
        return member


class _Replaced:
    """Rows of a table that a test replaces."""

    def __init__(self, table: dict[str, Any]) -> None:
        self._table = table
        self._original = dict(table)

    def __setitem__(self, key: str, value: Any) -> None:
        self._table[key] = value

    def undo(self) -> None:
        """Put the table's own rows back."""
        self._table.update(self._original)


class World:
    """Processes, what is between them, and their time."""

    # Of which kind sockets are: "asgi", "direct" or "mixed".
    KIND: ClassVar[str] = "asgi"

    def __init__(self, seed: int = 0, *, processes: int = 2) -> None:
        self.random = random.Random(seed)
        # The layer draws its pauses from everybody's.
        random.seed(seed)
        self._kinds = random.Random(seed)
        self._now = 1000.0
        self._clocks = self.set_clocks()
        # What went wrong in loops where nobody was there to be told.
        self.problems: list[dict[str, Any]] = []
        # What a test has put in the place of answers of the product; taken back at the end.
        self.answers = _Replaced(nodes.ANSWERS)
        self.clients: list[Client] = []
        # No rows: what happens here is between connections and processes.
        hub_settings._Held.snapshot, hub_settings._Held.checked_at = hub_settings.Snapshot(0), float("inf")
        self.redis = SimulatedRedis(self)
        self.processes: list[Process] = []
        for _ in range(processes):
            self.join()
        for process in self.processes:
            process.run(process.node.start())
        self.until(lambda: all(len(process.node.others()) == processes - 1 for process in self.processes))

    def set_clocks(self) -> ExitStack:
        """Have all clocks show the time of the world."""
        clocks = ExitStack()
        for name in ("time", "monotonic"):
            clocks.callback(setattr, time, name, getattr(time, name))
        time.time, time.monotonic = lambda: self.wall_time, lambda: self.now
        return clocks

    @property
    def wall_time(self) -> float:
        """Seconds since 1970."""
        return WALL_TIME + self.now

    def new_loop(self) -> _Loop:
        """A loop for one more process."""
        return _Loop(self)

    def new_layer(self, process: Process) -> Any:
        """The layer as one more process has it."""
        return self.redis.layer(process)

    def forget(self, process: Process) -> None:
        """A process is gone, with its sockets."""
        self.redis.forget(process)

    def new_socket(self, process: Process) -> Socket:
        """A socket to one of the processes."""
        direct = self.KIND == "direct" or (self.KIND == "mixed" and self._kinds.random() < 0.5)
        return DirectEnd(process) if direct else Socket(process)

    @property
    def now(self) -> float:
        """What the clocks of all processes show."""
        return self._now

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        alive = [process for process in self.processes if not process.dead]
        try:
            if kind is None:
                self.settle()
                for process in alive:
                    self.assert_at_rest(process)
                for client in self.clients:
                    for socket in client.sockets:
                        socket.leave()
                self.settle(conf.settings.RECOVERY_SECS)
                for process in alive:
                    assert process.node.members() == []
                    process.run(process.node.stop())
                    process.run(process.layer.flush())
                    left = [task for task in asyncio.all_tasks(process.loop) if not task.done()]
                    assert left == [], f"{process.name} still runs {[_where(task) for task in left]}"
        finally:
            self._clocks.close()
            hub_settings.drop()
            self.answers.undo()
            for process in self.processes:
                process.loop.set_exception_handler(lambda *_: None)
                for _ in range(5):
                    for task in asyncio.all_tasks(process.loop):
                        task.cancel()
                    process.loop.step()
                # Nothing of it can come to an end any more.
                process.layer._loops.clear()
                process.loop.close()
            self.redis.loop.close()
        if kind is None:
            assert self.problems == []

    def assert_at_rest(self, process: Process) -> None:
        """A process whose work is done has nothing on its way, and reads no more than its members need."""
        node = process.node
        self.until(lambda: not node.questions.open and not node.ownership.arrivals, limit=2)
        members = node.members()
        for member in members:
            assert node.registry.connections[member.id] is member
        # What is posted now and then may just be under way.
        self.until(lambda: not any(node.log._appended.values()), limit=2)
        wanted = {CONTROL_LOG, process_log(node.process)} | {hub_log(member.hub) for member in members}
        reads = set(node.log._positions)
        assert reads == wanted, f"{process.name} reads {sorted(reads)} and not {sorted(wanted)}"

    def join(self) -> Process:
        """One more process, which nobody has heard of."""
        number = len(self.processes)
        letter = string.ascii_uppercase[number % 26]
        self.processes.append(Process(self, letter if number < 26 else f"{letter}{number // 26}"))
        return self.processes[-1]

    @property
    def moving(self) -> Sequence[Moving]:
        """Whatever does things in its own time."""
        return [*self.processes, self.redis]

    def turn(self) -> None:
        """Let one process do one thing; or time goes by, if none has anything to do."""
        dues = [(moving, due) for moving in self.moving if (due := moving.due) is not None]
        ready = [moving for moving, due in dues if due <= self.now]
        if ready:
            self.random.choice(ready).loop.step()
        else:
            # Somebody always has: processes say hello.
            self._now = min(due for _, due in dues)

    def until(self, true: Callable[[], Any], *, limit: float = LIMIT) -> None:
        """Let the processes work until something is so."""
        deadline = self.now + limit
        while not true():
            self.turn()
            assert not self.problems, self.problems
            assert self.now <= deadline, f"not so after {limit} seconds"

    def pass_time(self, secs: float) -> None:
        """Let the processes work for a while."""
        end = self.now + secs
        self.processes[0].loop.call_at(end, lambda: None)
        for process in self.processes:
            if not process.dead:
                process.loop.call_at(end, lambda: None)
        self.until(lambda: self.now >= end)

    def settle(self, secs: float = 0) -> None:
        """Let everything arrive that is on its way, and addresses that nobody needs be left."""
        self.pass_time(secs + 8)


def _where(task: asyncio.Task[Any]) -> str:
    """What a task waits for."""
    lines, coroutine = [], task.get_coro()
    while hasattr(coroutine, "cr_frame") and coroutine.cr_frame is not None:
        lines.append(f"{coroutine.__qualname__}:{coroutine.cr_frame.f_lineno}")
        coroutine = coroutine.cr_await
    return f"{task.get_name()} ({' > '.join(lines)} > {coroutine!r})"


class RedisWorld(World):
    """Processes that have a real Redis between them, and live in the time of everybody."""

    def __init__(self, url: str, seed: int = 0, *, processes: int = 2) -> None:
        self._url = url
        self._prefix = f"test-{secrets.token_hex(4)}"
        super().__init__(seed, processes=processes)

    def set_clocks(self) -> ExitStack:
        return ExitStack()

    def new_layer(self, process: Process) -> Any:
        return RedisLayer(hosts=[self._url], prefix=self._prefix)

    @property
    def now(self) -> float:
        return time.monotonic()

    def turn(self) -> None:
        # Also those that only wait: something may have come from Redis.
        self.random.choice(self.processes).loop.step()

    def settle(self, secs: float = 0) -> None:
        # Its time is everybody's.
        self.pass_time(0.5)

    def assert_at_rest(self, process: Process) -> None:
        self.until(lambda: not process.node.log._leaving, limit=LINGER_SECS + 1)
        super().assert_at_rest(process)


class Socket:
    """A client's WebSocket: what it was sent, and how it ended."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.accepted: str | None = None
        self.frames: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.refused = 0
        self.on_frame: Callable[[dict[str, Any]], None] = lambda frame: None
        # What each `send` waits for: a client that does not read.
        self.gate: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        # What the client will say when it is open: none can say anything before.
        self._unsaid: list[dict[str, Any]] = []
        self._gone = False
        self.task: asyncio.Task[Any] | None = None

    # What the server offers.
    extensions: ClassVar[dict[str, Any]] = {"websocket.http.response": {}}

    async def receive(self) -> dict[str, Any]:
        return await self._incoming.get()

    async def send(self, event: dict[str, Any]) -> None:
        if self.gate is not None:
            await self.gate()
        if self._gone:
            raise ConnectionResetError
        if event["type"] == "websocket.accept":
            self.accepted = event.get("subprotocol") or ""
            for said in self._unsaid:
                self._incoming.put_nowait(said)
            self._unsaid.clear()
        elif event["type"] == "websocket.send":
            frame = json.loads(event["text"])
            self.frames.append(frame)
            self.on_frame(frame)
        elif event["type"] == "websocket.close":
            self.closed = (event["code"], event["reason"])
            # As a client does: it answers the close frame.
            self._leave(event["code"])
        else:
            self.refused = event.get("status", self.refused)

    def say(self, frame: Mapping[str, Any]) -> None:
        """A message of the client."""
        if not self._gone:
            event = {"type": "websocket.receive", "text": json.dumps(frame)}
            if self.accepted is None:
                self._unsaid.append(event)
            else:
                self._incoming.put_nowait(event)

    def lose(self, silent_secs: float = 0) -> None:
        """The network fails; the server notices it by a silence of so many seconds."""
        self._leave(LOST, silent_secs)

    def _leave(self, code: int, silent_secs: float = 0) -> None:
        if not self._gone:
            self._gone = True
            self._incoming.put_nowait(endings.disconnected(code, "", silent_secs))

    def leave(self, code: int = NORMAL) -> None:
        """The client says goodbye."""
        self._leave(code)

    @property
    def gone(self) -> bool:
        """Whether it is closed or lost."""
        return self._gone

    @property
    def done(self) -> bool:
        """Whether the service has nothing to do with it any more."""
        return self.task is not None and self.task.done()


class DirectEnd(Socket):
    """The same, to a server that hands it over: what stands between it and the connection is the product's."""

    extensions: ClassVar[dict[str, Any]] = Socket.extensions | {EXTENSION: {}}

    # Little enough for the server to find it full now and then.
    HIGH, LOW = 400, 100

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self._transport: Transport | None = None
        self._early = b""
        self._read = 0
        self._reading: asyncio.Task[None] | None = None

    async def send(self, event: dict[str, Any]) -> None:
        if EXTENSION not in event:
            await super().send(event)
            return
        if self._gone:
            raise ConnectionResetError
        self.accepted = event.get("subprotocol") or ""
        self._transport = transport = _Watched(self)
        DirectSocket(self.process.sockets, transport.as_transport(), event[EXTENSION], self.accepted, self._early)

    def written(self) -> None:
        """Something is there to be read."""
        if self._reading is None:
            self._reading = self.process.loop.create_task(self._read_all())

    async def _read_all(self) -> None:
        transport = self._transport
        assert transport is not None
        while transport.buffer and not self._gone:
            if self.gate is not None:
                await self.gate()
            await asyncio.sleep(0)
            if self._gone:
                break
            transport.take(self.HIGH // 2)
            self._hear()
        self._reading = None

    def _hear(self) -> None:
        assert self._transport is not None
        frames = self._transport.frames
        for opcode, payload in frames[self._read :]:
            self._read += 1
            if opcode == 0x8:
                self.closed = (int.from_bytes(payload[:2], "big"), payload[2:].decode())
                self._gone = True
                self._transport.say(frame(0x8, payload))
                self._transport.take()
                return
            told = json.loads(payload)
            self.frames.append(told)
            self.on_frame(told)

    def say(self, frame_: Mapping[str, Any]) -> None:
        self._say(frame(0x1, json.dumps(frame_).encode()))

    def _say(self, data: bytes) -> None:
        if self._gone:
            return
        if self._transport is None:
            self._early += data
        else:
            self.process.loop.call_soon(self._transport.say, data)

    def _leave(self, code: int, silent_secs: float = 0) -> None:
        if self._transport is None:
            super()._leave(code, silent_secs)
        elif not self._gone:
            if code != LOST:
                self._say(frame(0x8, code.to_bytes(2, "big")))
                self.process.loop.call_soon(self._transport.take)
            else:
                self._transport.protocol.silent_secs = silent_secs
                self.process.loop.call_soon(self._transport.cut)
            self._gone = True

    @property
    def done(self) -> bool:
        return super().done and (self._transport is None or self._transport.lost)


class _Watched(Transport):
    """A transport that tells its client of what is written."""

    def __init__(self, end: DirectEnd) -> None:
        super().__init__(end.process.loop, high=end.HIGH, low=end.LOW)
        self._end = end

    def write(self, data: bytes) -> None:
        super().write(data)
        self._end.written()


class Client:
    """A client as SDKs are. A reliable one counts what it is told, acknowledges, and comes back."""

    subprotocol = RELIABLE

    def __init__(
        self, world: World, hub: str, *, user_id: str | None = "u", roles: Sequence[str] = ANY_GROUP, acks: bool = True
    ) -> None:
        self.world = world
        self.hub = hub
        self.user_id = user_id
        self.permissions = Permissions(roles)
        self.acks = acks
        self.id = ""
        self.token = ""
        self.told: list[dict[str, Any]] = []
        self.last = 0
        self.sockets: list[Socket] = []
        world.clients.append(self)

    @property
    def socket(self) -> Socket:
        """The newest one."""
        return self.sockets[-1]

    @property
    def texts(self) -> list[str]:
        """The data of all that it was told, each once, in the order in which it came."""
        return [frame["data"] for frame in self.told]

    def connect(self, process: Process, *groups: str) -> Socket:
        """Open a connection, and wait until it is open."""
        socket = self.start(process, *groups)
        self.world.until(lambda: self.token)
        return socket

    def start(self, process: Process, *groups: str) -> Socket:
        """Open a connection; does not wait."""
        self.id = process.node.new_connection_id()
        kind = self.subprotocol
        session = Session(self.hub, self.id, self.user_id, kind)
        admission = Admission(
            self.hub, CODECS[kind], kind, self.user_id, self.permissions, groups, session, ack_pause_secs=0
        )
        socket = self._socket(process)

        async def serve() -> None:
            await socket.receive()
            scope = {"extensions": socket.extensions}
            await _Conversation(scope, socket.receive, socket.send).begin(scope, self.id, admission)

        socket.task = process.spawn(serve())
        return socket

    def come_back(self, process: Process, *, token: str | None = None) -> Socket:
        """Ask for the connection with a new socket; does not wait."""
        socket = self._socket(process)
        query = {"awps_connection_id": self.id, "awps_reconnection_token": self.token if token is None else token}
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "url_route": {"kwargs": {"hub": self.hub}},
            "query_string": urlencode(query).encode(),
            "headers": [(b"host", b"testserver")],
            "subprotocols": [RELIABLE],
            "extensions": socket.extensions,
        }
        socket.task = process.spawn(HubConsumer()(scope, socket.receive, socket.send))
        return socket

    def recover(self, process: Process) -> Socket:
        """Ask for the connection, and wait until it is there or lost."""
        socket = self.come_back(process)
        self.world.until(lambda: socket.done or socket.closed or (socket.accepted is not None and self.at(process)))
        return socket

    def at(self, process: Process) -> bool:
        """Whether the connection is there, with this client's newest socket."""
        connection = process.connection(self)
        return connection is not None and connection.outbox is not None

    def hears(self, text: str) -> None:
        """Wait for a message."""
        self.world.until(lambda: text in self.texts)

    def acknowledge(self) -> None:
        """Say what arrived."""
        self.socket.say({"type": "sequenceAck", "sequenceId": self.last})

    def _socket(self, process: Process) -> Socket:
        socket = self.world.new_socket(process)
        socket.on_frame = lambda frame: self._take(socket, frame)
        self.sockets.append(socket)
        return socket

    def _take(self, socket: Socket, frame: dict[str, Any]) -> None:
        if frame.get("event") == "connected":
            self.token = frame["reconnectionToken"]
        number = frame.get("sequenceId")
        if number is None:
            return
        if number > self.last:
            # What it was not told is sent again, from the first on.
            assert number == self.last + 1, f"{number} came after {self.last}"
            self.last = number
            self.told.append(frame)
        if self.acks:
            socket.say({"type": "sequenceAck", "sequenceId": self.last})
