"""A reliable client is back: its next socket and its connection find each other.

Wherever the connection is, its new process claims it in the log of the hub (node/ownership.py). If it is here, there is
nothing else to do but to put the two together. If not, it is made again from its snapshot and the entries behind that,
up to the claim (snapshots.py); its old process, if it lives, stops at the claim. Nobody is searched or asked.

Whose handshake began later has the connection, whenever the claims come. From the claim on this runs to its end,
whatever becomes of the socket that has asked: by then the connection is this process's. Two sockets in one process
come one after the other.

The same is done for connections that a dead process has left (`fetch`), which wait here for their clients then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from hubs import close_codes, conf
from hubs.cluster.entries import Ended, hub_log
from hubs.connections import reconnection, snapshots
from hubs.connections.connection import Connection, unfinished
from hubs.errors import NotFound, Refusal, Unavailable
from hubs.node.node import Node, node
from hubs.node.ownership import CHANGING, Arrival, Outrun
from hubs.node.takeovers import Takeovers
from hubs.upstream import dispatch
from hubs.upstream.session import Session

logger = logging.getLogger(__name__)

LEFT = "The client has left."

# How often what is this process's, and cannot be had because Redis is away, is tried again.
AGAIN_SECS = 0.2

# So many connections are written down at once that Redis has forgotten, and the pause behind them.
RECORDED_TOGETHER = 500
RECORD_PAUSE_SECS = 0.1

# How long the process that had a connection may take to say what its client has acknowledged.
PARTED_SECS = 0.5

# Connections that clients are asking for, each kept as long as somebody does.
_wanted: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
_searches: set[asyncio.Task[Any]] = set()


class NotRecovered(Exception):
    """The connection is not to be had: it is over, or this is not its client."""


async def bring_back(
    hub: str, connection_id: str, token: str, *, has_left: Callable[[], bool] = lambda: False
) -> Connection:
    """Give a client's connection, in this process and ready for its new socket.

    `has_left`: whether that is closed again. Then nothing is claimed any more: its client may be elsewhere by now.

    Raises NotRecovered; Unavailable when it cannot be known now, and is worth another try.
    """
    if not reconnection.is_valid(token, hub, connection_id):
        raise NotRecovered
    here = node()
    search = asyncio.create_task(
        _find(here, hub, connection_id, _now(), has_left=has_left), name="bring a connection back"
    )
    _searches.add(search)
    search.add_done_callback(_found)
    try:
        async with asyncio.timeout(conf.settings.ANSWER_SECS):
            connection = await asyncio.shield(search)
    except (TimeoutError, Outrun):
        raise Unavailable("The connection cannot be recovered just now; try again.") from None
    except Unavailable:
        raise
    except Refusal as refusal:
        logger.info("Connection %s was not recovered: %s", connection_id, refusal.message)
        raise NotRecovered from None
    if connection.hub == hub and connection.departed:
        # By now another socket has it; a client that comes again may have it back.
        raise Unavailable("The connection was recovered by another socket; try again.")
    if connection.hub != hub or not connection.recoverable:
        raise NotRecovered
    return connection


def _found(search: asyncio.Task[Any]) -> None:
    _searches.discard(search)
    # Where the socket that waited is gone, nobody else looks.
    if not search.cancelled():
        search.exception()


async def _find(
    here: Node,
    hub: str,
    connection_id: str,
    since: float | None,
    of: str | None = None,
    *,
    has_left: Callable[[], bool] = lambda: False,
) -> Connection:
    """Claim a connection for a socket whose handshake began at a time of this loop, or in the place of a process."""
    # One after the other: the second finds here what the first has fetched.
    lock = _wanted.setdefault((here.process, connection_id), asyncio.Lock())
    async with lock:
        await here.serve(hub)
        member = here.member(connection_id)
        if isinstance(member, Connection):
            if of is not None:
                return member
            if not member.recoverable:
                raise NotFound(f"Connection `{connection_id}` has ended.")
        record = None
        if member is None:
            record = await _record(here, hub, connection_id)
            claimed = here.ownership.claims.get(connection_id)
            if of is not None and of not in (record["owner"], None if claimed is None else claimed.process):
                raise NotFound(f"Connection `{connection_id}` is not known.")
        if has_left():
            raise Unavailable(LEFT)
        if not here.log.reads(hub_log(hub)):
            # This process was taken for dead meanwhile, or has left the log: it would not learn that it has claimed it.
            raise Unavailable(CHANGING)
        arrival = here.ownership.expect(hub, connection_id)
        try:
            if member is None:
                # First, so that it is found if this process dies just behind the claim.
                here.records.own(hub, connection_id, None)
            # Only now the log's clock is known for sure.
            await here.ownership.claim(arrival, 0 if since is None else here.clock_ms(since), of)
            connection: Any = here.member(connection_id)
            if connection is None:
                connection = await _rebuild(here, arrival, record, of)
            if of is None:
                await connection.skip_late()
            return connection
        except NotFound:
            if here.member(connection_id) is None:
                here.records.disown(connection_id)
            raise
        finally:
            here.ownership.settle(arrival)


async def _record(here: Node, hub: str, connection_id: str) -> dict[str, Any]:
    record = await here.records.read(hub, connection_id) if here.keeps else None
    if record is None:
        raise NotFound(f"Connection `{connection_id}` is not known.")
    return record


async def _rebuild(here: Node, arrival: Arrival, record: dict[str, Any] | None, of: str | None) -> Connection:
    """Make a connection again that this process has claimed. Raises NotFound."""
    while True:
        try:
            if record is None:
                # It was here, until another process claimed it just before.
                record = await _record(here, arrival.hub, arrival.id)
            return await _rebuild_once(here, arrival, record, of)
        except Unavailable:
            if here.stopped:
                raise
            # It is this process's; nobody else will.
            await asyncio.sleep(AGAIN_SECS)
        except Outrun:
            raise
        except NotFound as problem:
            if not arrival.lost and record is not None:
                _give_up(here, arrival, record, problem)
            raise


async def _rebuild_once(here: Node, arrival: Arrival, record: dict[str, Any], of: str | None) -> Connection:
    claimed_at = arrival.claimed_at or 0
    rebuilt = snapshots.Rebuilt(record, here.ownership.claims, here.clock_ms())
    entries = here.log.replay(hub_log(arrival.hub), rebuilt.after, claimed_at, including=rebuilt.including)
    async for position, origin, entry in entries:
        rebuilt.take(position, origin, entry)
    former = arrival.former or record["owner"]
    if of is None and former != here.process and here.leases.lives(former):
        # It says at once what the client has acknowledged; nothing but a few repetitions depends on it.
        with suppress(TimeoutError):
            async with asyncio.timeout(PARTED_SECS):
                await arrival.parted.wait()
    # From here on nothing waits: what was read meanwhile was held, and what is read next finds the connection.
    for position, origin, entry in arrival.held:
        rebuilt.take(position, origin, entry)
    connection = rebuilt.done()
    if arrival.lost or connection.owner is None or connection.owner[0] != here.process:
        raise Outrun(arrival.id)
    if rebuilt.problem:
        raise NotFound(f"Connection `{arrival.id}` cannot be recovered. {rebuilt.problem}")
    if isinstance(member := here.member(arrival.id), Connection):
        # Somebody was faster here.
        return member
    connection.wait_for_client()
    here.registry.attach(connection)
    snapshots.keep(here)
    here.records.own(arrival.hub, arrival.id, None)
    snapshots.write(here, connection)
    if record["owner"] != here.process:
        here.records.disown(arrival.id, record["owner"])
    return connection


def _give_up(here: Node, arrival: Arrival, record: dict[str, Any], problem: NotFound) -> None:
    """What is this process's and cannot be made again has ended, unless that was known."""
    logger.warning("Connection %s is lost: %s", arrival.id, problem.message)
    here.append(arrival.hub, Ended(arrival.id))
    here.records.drop(arrival.hub, arrival.id)
    here.records.disown(arrival.id, record["owner"])
    if "has ended" not in problem.message:
        tell = partial(dispatch.disconnected, Session.unpacked(record["session"]), problem.message)
        here.endings.end(arrival.id, tell)


class _Heirs:
    """What is done with connections that a dead process has left."""

    async def fetch(self, hub: str, connection_id: str, of: str | None) -> None:
        """Claim a reliable connection and have it wait here for its client. Raises Unavailable."""
        # Its client was faster, or it has ended.
        with suppress(NotFound):
            await _find(node(), hub, connection_id, None, of)

    async def have(self, arrival: Arrival, of: str | None) -> None:
        """Have a reliable connection that is claimed wait here for its client."""
        here = node()
        try:
            with suppress(Refusal):
                await _rebuild(here, arrival, None, of)
        finally:
            here.ownership.settle(arrival)

    def tell_of_end(self, session: dict[str, Any]) -> None:
        """Tell the event handlers that a connection ended with its process."""
        dispatch.disconnected(Session.unpacked(session), close_codes.PROCESS_DIED.reason)

    async def record_all(self) -> None:
        """Write down anew which connections are here, and how they are."""
        here = node()
        for number, member in enumerate(here.members()):
            if isinstance(member, Connection) and member in here:
                member.record()
            if number % RECORDED_TOGETHER == RECORDED_TOGETHER - 1:
                # Others are to be served meanwhile, and what Redis is to do is bounded.
                await asyncio.sleep(RECORD_PAUSE_SECS)


Takeovers.heirs = _Heirs()


def under_way() -> int:
    """How much this process has begun that nobody else can finish.

    That is the fetching of connections, and the handling of events whose connections have gone on elsewhere.
    """
    loop = asyncio.get_running_loop()
    return sum(search.get_loop() is loop for search in _searches) + unfinished(loop)


def stop() -> None:
    """The process ends: so do connections whose clients are away, unless others can go on with them."""
    here = node()
    if here.keeps and not here.log.is_away:
        snapshots.write_all()
        return
    for connection in here.members():
        if isinstance(connection, Connection) and connection.outbox is None:
            connection.end(close_codes.STOPPED.reason)


def _now() -> float:
    return asyncio.get_running_loop().time()
