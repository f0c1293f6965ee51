"""A reliable client is back: its next socket and its connection find each other.

The connection may be in this process, with or without a socket; then there is nothing to do but to
put them together. Or it is in another process of the service. Then it moves here, with its backlog:

    here                                        there (where the connection is)
    ──────────────────────────────────────────────────────────────────────────────────────────
    "hand over", for a new claim            ►   the socket it still has is closed; the
                                            ◄   connection waits for its client, and tells of
    collect what is published to its hub        its groups and first frames
    and groups (switchboard: expect)
    "hand over", frames up to n are here    ►   more frames; and when these are all, and no
                                            ◄   group is new: the rest of its state, and the
    what was collected and was not taken        numbers of what it has taken (tally.py). From
    there comes behind its frames               here on it is there no more, and its home
                                                passes on what comes for it

What that process itself has sent to the others and does not know to have arrived, it has not given the
connection yet, and this process may have heard it before it collected. So each further answer waits until
that is settled.

Until the last answer the connection is whole where it was, and stays there if this process gives
up. From the last answer on it is here; should that answer get lost, it is given again for a while.
If it cannot be had in that time either, the connection is lost, and its client is told so: first
that it may try again (HTTP 503), and then by the close code of a recovery that failed.

One winner: a newer claim on the connection, or a socket that comes back to where it is, makes the
older claim void. Two sockets in one process come one after the other, and the last one has it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from hubs import conf
from hubs.connections import reconnection
from hubs.connections.connection import BUFFER_FULL, Connection
from hubs.errors import NotFound, Refusal, Unavailable
from hubs.messaging.moves import Arrival
from hubs.messaging.switchboard import Switchboard, switchboard
from hubs.messaging.tally import Had, Tally
from hubs.operations import answers
from hubs.protocols.codec import CODECS
from hubs.protocols.frames import Ack, Payload
from hubs.rules.roles import Permissions
from hubs.upstream.session import Session

logger = logging.getLogger(__name__)

HAND_OVER = "hand over"
HAND_OVER_AGAIN = "hand over again"

# How long an answer that was lost can be asked for again, and how long after the last try the next one comes.
PATIENCE_SECS = 10.0
AGAIN_SECS = 0.1
STOPPED = "The service is stopping."

# Bytes of frames in one answer: small enough for any channel layer to carry.
PART_BYTES = 512 * 1024

# Connections that clients are asking for, each kept as long as somebody does.
_wanted: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
_searches: set[asyncio.Task[Any]] = set()

# Those that have gone to another process while a frame of theirs was being handled, and the process where it is.
_unfinished: dict[Connection, str] = {}

# The last answers about connections that have gone, by process and their id: the claim, and what was answered.
_parted: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}


class NotRecovered(Exception):
    """The connection is not to be had: it is over, or this is not its client."""


async def bring_back(hub: str, connection_id: str, token: str) -> Connection:
    """Give a client's connection, in this process and ready for its new socket.

    Raises NotRecovered; Unavailable when it cannot be known now, and is worth another try.
    """
    if not reconnection.is_valid(token, hub, connection_id):
        raise NotRecovered
    board = switchboard()
    # Not given up half-way when this socket is: between two processes a connection belongs to nobody.
    search = asyncio.create_task(_find(board, hub, connection_id), name="bring a connection back")
    _searches.add(search)
    search.add_done_callback(_found)
    try:
        connection = await asyncio.shield(search)
    except Unavailable:
        raise
    except Refusal as refusal:
        logger.info("Connection %s was not recovered: %s", connection_id, refusal.message)
        raise NotRecovered from None
    if not isinstance(connection, Connection) or connection.hub != hub or not connection.recoverable:
        raise NotRecovered
    return connection


def _found(search: asyncio.Task[Any]) -> None:
    _searches.discard(search)
    # Where the socket that waited is gone, nobody else looks.
    if not search.cancelled():
        search.exception()


# Here


async def _find(board: Switchboard, hub: str, connection_id: str) -> Any:
    # One after the other: the second finds here what the first has fetched.
    lock = _wanted.setdefault((board.process, connection_id), asyncio.Lock())
    async with lock:
        connection = board.member(connection_id)
        return await _fetch(board, hub, connection_id) if connection is None else connection


async def _fetch(board: Switchboard, hub: str, connection_id: str) -> Connection:
    """Have a connection moved here from the process where it is. Raises Refusal."""
    claim = secrets.token_hex(8)
    asked: dict[str, Any] = {"process": board.process, "claim": claim, "after": 0}
    answer = await board.ask_elsewhere(HAND_OVER, hub, connection_id, asked | {"begins": True})
    arrival = Arrival(
        connection_id,
        hub,
        user_id=answer["user_id"],
        subprotocol=answer["subprotocol"],
        groups=answer["groups"],
        max_messages=conf.settings.RELIABLE_BUFFER_MESSAGES,
        max_bytes=conf.settings.RELIABLE_BUFFER_BYTES,
    )
    frames: list[Any] = answer["frames"]
    try:
        while "state" not in answer:
            arrival.groups.update(answer["groups"])
            await board.expect(arrival)
            answer = await _more(board, hub, connection_id, asked | {"after": answer["upto"]}, answer["process"])
            frames += answer["frames"]
        # What this process published itself may be with the others and not yet be collected here.
        await board.all_sent()
        return _unpack(board, arrival, answer["state"], frames)
    except BaseException:
        board.unexpect(arrival)
        await _give_back(board, arrival)
        raise


async def _more(
    board: Switchboard, hub: str, connection_id: str, asked: dict[str, Any], process: str
) -> dict[str, Any]:
    """Ask on, and if no answer comes ask that process again: it may have given the connection away in it.

    Also if the connection is not found: whoever passed the question on may have stopped before the answer came.
    """
    deadline = _now() + PATIENCE_SECS
    try:
        return dict(await board.ask_elsewhere(HAND_OVER, hub, connection_id, asked))
    except (NotFound, Unavailable):
        while True:
            try:
                return dict(await board.ask_process(process, HAND_OVER_AGAIN, asked | {"connection": connection_id}))
            except Unavailable:
                if _now() > deadline:
                    raise
            await asyncio.sleep(AGAIN_SECS)


async def _give_back(board: Switchboard, arrival: Arrival) -> None:
    """Pass on what came for the connection alone while it was thought to be coming."""
    for outgoing in arrival.addressed():
        try:
            await board.pass_back(arrival.hub, arrival.id, outgoing)
        except Refusal:
            logger.warning("A message for connection %s is lost: it cannot be reached", arrival.id)


def _unpack(board: Switchboard, arrival: Arrival, state: dict[str, Any], frames: list[Any]) -> Connection:
    subprotocol = arrival.subprotocol or ""
    connection = Connection(
        arrival.id,
        arrival.hub,
        CODECS[subprotocol.lower()],
        None,
        user_id=arrival.user_id,
        permissions=Permissions.unpacked(state["permissions"]),
        subprotocol=subprotocol,
        session=Session.unpacked(state["session"]),
        ack_pause_secs=state["ack_pause_secs"],
    )
    connection.groups.update(arrival.groups & set(state["groups"]))
    connection.moves = state["moves"]
    for ack_id in state["acks"]:
        connection.acks.remember(ack_id)
    connection.half_done = {ack_id: (process, number) for ack_id, (process, number) in state["half_done"].items()}
    if connection.backlog is None:
        raise NotFound(f"Connection `{arrival.id}` cannot be recovered.")
    connection.backlog.unpack(frames, sent=state["sent"], last=state["last"], now=_now())
    connection.wait_for_client()
    if state["busy"]:
        connection.wait_for_earlier()
    had = Had(state["had"])
    board.adopt(arrival, connection, connection.moves, had)
    taken = {process: Tally(*packed) for process, packed in state["taken"].items()}
    for outgoing in arrival.not_in(taken, connection.groups, had):
        connection.deliver(outgoing)
    if arrival.overrun:
        connection.close(1008, BUFFER_FULL)
    return connection


# There


@answers(HAND_OVER)
async def _hand_over(connections: Sequence[Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Tell a process that claims a connection more of it, and in the end give it away."""
    [connection] = connections
    begins = asked.get("begins", False)
    board = switchboard()
    if not begins:
        # What the other process heard of these before it collected, it has passed over.
        await board.all_here()
        if connection not in board:
            return _parted_with(connection.id, asked["claim"])
    if not isinstance(connection, Connection) or connection.backlog is None or not connection.recoverable:
        raise NotFound(f"Connection `{connection.id}` cannot be recovered.")
    if not begins and (connection.claim is None or connection.claim[0] != asked["claim"]):
        raise NotFound(f"Connection `{connection.id}` was recovered by another socket.")
    told = frozenset() if connection.claim is None else connection.claim[1]
    # Also for those that are half-way: as long as they ask, the client is there.
    connection.wait_for_client()
    groups = frozenset(connection.groups)
    connection.claim = (asked["claim"], groups)
    # All that counts as taken here has to be in the backlog.
    board.settle()
    backlog, now = connection.backlog, _now()
    frames, upto = backlog.packed(asked["after"], PART_BYTES, now)
    answer: dict[str, Any] = {"groups": sorted(groups), "frames": frames, "upto": upto, "process": board.process}
    if begins:
        return answer | {"user_id": connection.user_id, "subprotocol": connection.subprotocol}
    if upto < backlog.newest or not groups <= told:
        return answer
    answer["state"] = {
        "groups": sorted(groups),
        "permissions": connection.permissions.packed(),
        "session": connection.session.packed(),
        "ack_pause_secs": connection.ack_pause_secs,
        "acks": list(connection.acks),
        "half_done": connection.half_done,
        "moves": connection.moves + 1,
        "sent": backlog.sent,
        "last": backlog.last,
        "busy": connection.lane.busy,
        "had": board.had(connection),
        "taken": {process: tally.packed() for process, tally in board.taken().items()},
    }
    connection.depart()
    if connection.lane.busy:
        _unfinished[connection] = board.process
        connection.lane.close(lambda: _finished(connection))
    board.hand_over(connection, asked["process"], connection.moves + 1)
    parted = (board.process, connection.id)
    _parted[parted] = (asked["claim"], answer)
    asyncio.get_running_loop().call_later(PATIENCE_SECS, _forget_parted, parted, answer)
    return answer


def _finished(connection: Connection) -> None:
    _unfinished.pop(connection, None)


def _parted_with(connection_id: str, claim: str) -> dict[str, Any]:
    """What was answered when the connection was given away. Raises NotFound, unless it was for this claim."""
    parted_for, answer = _parted.get((switchboard().process, connection_id), ("", None))
    if answer is None or parted_for != claim:
        raise NotFound(f"Connection `{connection_id}` is not here any more.")
    return answer


def _forget_parted(parted: tuple[str, str], answer: dict[str, Any]) -> None:
    if _parted.get(parted, ("", None))[1] is answer:
        del _parted[parted]


@answers(HAND_OVER_AGAIN)
async def _hand_over_again(_: Sequence[Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Repeat an answer that may have been lost, the last one included."""
    connection_id = asked["connection"]
    connection = switchboard().member(connection_id)
    if connection is None:
        return _parted_with(connection_id, asked["claim"])
    if isinstance(connection, Connection) and connection.claim is not None:
        # What it was told of the groups may have been lost, too.
        connection.claim = (connection.claim[0], frozenset())
    return await _hand_over([connection], asked)


@answers("finish frame")
async def _finish_frame(connections: Sequence[Any], asked: dict[str, Any]) -> None:
    """A frame that came before the connection moved here has been handled."""
    [connection] = connections
    ack, published, reply = asked["ack"], asked["published"], asked["reply"]
    connection.finished_elsewhere(
        None if ack is None else Ack(*ack),
        asked["state"],
        published=None if published is None else (published[0], published[1]),
        reply=None if reply is None else (Payload(reply[0], reply[1]), reply[2]),
    )


def under_way() -> int:
    """How much this process has begun that nobody else can finish.

    That is the fetching of connections, which belong to nobody in the last step of it, and the handling of frames
    whose connections have gone on elsewhere and wait there to be told.
    """
    process, loop = switchboard().process, asyncio.get_running_loop()
    searches = sum(search.get_loop() is loop for search in _searches)
    return searches + sum(where == process for where in _unfinished.values())


def stop() -> None:
    """The process ends, and with it the connections whose clients are away."""
    for connection in switchboard().members():
        if isinstance(connection, Connection) and connection.outbox is None:
            connection.end(STOPPED)


def _now() -> float:
    return asyncio.get_running_loop().time()
